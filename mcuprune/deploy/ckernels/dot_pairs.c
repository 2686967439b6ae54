/* The same for two pixels and two output channels, which read each input and weight once: sum[0], sum[1] of the first pixel. */
static inline void dot4(int32_t sum[4], const int8_t *x0, const int8_t *x1, const int8_t *w0, const int8_t *w1, int n, int zero) {
  int32_t s0 = sum[0], s1 = sum[1], s2 = sum[2], s3 = sum[3];
  const int8_t *end = x0 + n;
#ifdef NAME_DSP
  const uint32_t less = (uint16_t)-zero * 0x10001u;
  for (const int8_t *words = x0 + (n & ~3); x0 < words; x0 += 4, x1 += 4, w0 += 4, w1 += 4) {
    uint32_t u = word(x0), v = word(w0), xe = even_plus(less, u), xo = odd_plus(less, u), we = even(v), wo = odd(v);
    MAC2(s0, xe, we); MAC2(s0, xo, wo);
    uint32_t t = word(x1), ye = even_plus(less, t), yo = odd_plus(less, t);
    MAC2(s2, ye, we); MAC2(s2, yo, wo);
    v = word(w1); we = even(v); wo = odd(v);
    MAC2(s1, xe, we); MAC2(s1, xo, wo); MAC2(s3, ye, we); MAC2(s3, yo, wo);
  }
#endif
  while (x0 < end) {
    int a = *x0++ - zero, b = *x1++ - zero, u = *w0++, v = *w1++;
    s0 += a * u; s1 += a * v; s2 += b * u; s3 += b * v;
  }
  sum[0] = s0; sum[1] = s1; sum[2] = s2; sum[3] = s3;
}
