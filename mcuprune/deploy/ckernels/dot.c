/* The sum of n products of inputs less their zero point and weights. */
static inline int32_t dot(int32_t sum, const int8_t *x, const int8_t *w, int n, int zero) {
  const int8_t *end = x + n;
#ifdef NAME_DSP
  const uint32_t less = (uint16_t)-zero * 0x10001u;
  for (const int8_t *words = x + (n & ~3); x < words; x += 4, w += 4) {
    uint32_t u = word(x), v = word(w);
    MAC2(sum, even_plus(less, u), even(v));
    MAC2(sum, odd_plus(less, u), odd(v));
  }
#endif
  while (x < end) sum += (*x++ - zero) * *w++;
  return sum;
}
