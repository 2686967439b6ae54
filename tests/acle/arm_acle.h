/* Arm's C language extensions, as far as generated C uses them, in plain C: so that a host without these instructions runs the code that
   is written for cores with them. Halfwords and bytes are counted from the lowest. */
#ifndef ARM_ACLE_H
#define ARM_ACLE_H
#include <stdint.h>
typedef int32_t int16x2_t, int8x4_t, uint8x4_t;

static inline int32_t acle_half(int32_t x, int place) { return (int16_t)((uint32_t)x >> 16 * place); }
static inline int32_t acle_byte(int32_t x, int place) { return (int8_t)((uint32_t)x >> 8 * place); }
static inline int32_t acle_sum(int32_t a, int32_t b) { return (int32_t)((uint32_t)a + (uint32_t)b); } /* wraps, as registers do */
static inline int32_t acle_pair(int32_t low, int32_t high) { return (int32_t)((uint32_t)(uint16_t)low | (uint32_t)high << 16); }

static inline uint32_t __ror(uint32_t x, uint32_t bits) { return bits % 32 ? x >> bits % 32 | x << (32 - bits % 32) : x; }
static inline int32_t __ssat(int32_t x, unsigned bits) {
  int32_t most = (int32_t)((1u << (bits - 1)) - 1);
  return x > most ? most : x < -most - 1 ? -most - 1 : x;
}
static inline int16x2_t __sxtb16(int8x4_t x) { return acle_pair(acle_byte(x, 0), acle_byte(x, 2)); }
static inline int16x2_t __sxtab16(int16x2_t a, int8x4_t x) {
  return acle_pair(acle_half(a, 0) + acle_byte(x, 0), acle_half(a, 1) + acle_byte(x, 2));
}
static inline int32_t __smlad(int16x2_t a, int16x2_t b, int32_t sum) {
  return acle_sum(acle_sum(sum, acle_half(a, 0) * acle_half(b, 0)), acle_half(a, 1) * acle_half(b, 1));
}
static inline int32_t __smlabb(int32_t a, int32_t b, int32_t sum) { return acle_sum(sum, acle_half(a, 0) * acle_half(b, 0)); }
static inline int32_t __smlatt(int32_t a, int32_t b, int32_t sum) { return acle_sum(sum, acle_half(a, 1) * acle_half(b, 1)); }
/* A flag of the processor for each byte, not below 0, says which of two bytes is selected next. */
static uint32_t acle_at_least_0;
static inline int8x4_t __ssub8(int8x4_t a, int8x4_t b) {
  uint32_t differences = 0;
  acle_at_least_0 = 0;
  for (int i = 0; i < 4; i++) {
    int32_t difference = acle_byte(a, i) - acle_byte(b, i);
    differences |= (uint32_t)(uint8_t)difference << 8 * i;
    acle_at_least_0 |= (difference >= 0 ? 0xffu : 0u) << 8 * i;
  }
  return (int32_t)differences;
}
static inline uint8x4_t __sel(uint8x4_t a, uint8x4_t b) {
  return (int32_t)(((uint32_t)a & acle_at_least_0) | ((uint32_t)b & ~acle_at_least_0));
}
#endif
