/* Fixed-point arithmetic: a factor is number / 2^31 * 2^shift, rounded once to the upper half of the product and once more when that is
   shifted right. */
static inline int32_t high_product(int32_t a, int32_t b) {
  return (int32_t)(((int64_t)a * b + (1 << 30)) >> 31);
}
static inline int32_t shift_right(int32_t x, int bits) { /* 0 to 31, to nearest, halves away from zero; no sum can overflow */
  int32_t mask = (int32_t)((1u << bits) - 1);
  return (x >> bits) + ((x & mask) > (mask >> 1) + (x < 0));
}
static inline int32_t scaled(int32_t x, int32_t number, int shift) { /* -31 to 31; of a shift to the left bits that don't fit are lost */
  return shift > 0 ? high_product((int32_t)((uint32_t)x << shift), number) : shift_right(high_product(x, number), -shift);
}
static inline int8_t clamped(int32_t x, int low, int high) {
  return (int8_t)(x < low ? low : x > high ? high : x);
}
#ifdef NAME_DSP
#ifdef __GNUC__ /* whose own macro converts signs */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion"
#endif
static inline int8_t saturated(int32_t x) { return (int8_t)__ssat(x, 8); }
#ifdef __GNUC__
#pragma GCC diagnostic pop
#endif
#else
static inline int8_t saturated(int32_t x) { return clamped(x, -128, 127); }
#endif
#if !defined(NAME_DSP) || !defined(__GNUC__) || !defined(__arm__)
static inline int32_t upper_half(int32_t a, int32_t b) { /* of the product, rounded: high_product of a / 2 */
  return (int32_t)(((int64_t)a * b + 0x80000000) >> 32);
}
#endif
