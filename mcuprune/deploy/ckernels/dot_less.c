/* The same of inputs less their zero point, where some taps may lie outside the image. */
static inline void dot4_less(int32_t sum[4], const int8_t *x, int x_step, const int8_t *w, int w_step, int n, int zero) {
  int32_t s0 = sum[0], s1 = sum[1], s2 = sum[2], s3 = sum[3];
  const int8_t *end = x + n;
#ifdef NAME_DSP
  const uint32_t less = (uint16_t)-zero * 0x10001u;
  for (const int8_t *words = x + (n & ~3); x < words; x += 4, w += 4) {
    uint32_t u = word(x + x_step), ye = even_plus(less, u), yo = odd_plus(less, u), v = word(w + w_step), we = even(v), wo = odd(v);
    u = word(x);
    uint32_t xe = even_plus(less, u), xo = odd_plus(less, u);
    MAC2(s1, xe, we); MAC2(s1, xo, wo); MAC2(s3, ye, we); MAC2(s3, yo, wo);
    v = word(w); we = even(v); wo = odd(v);
    MAC2(s0, xe, we); MAC2(s0, xo, wo); MAC2(s2, ye, we); MAC2(s2, yo, wo);
  }
#endif
  for (; x < end; x++, w++) {
    int a = *x - zero, b = x[x_step] - zero, u = *w, v = w[w_step];
    s0 += a * u; s1 += a * v; s2 += b * u; s3 += b * v;
  }
  sum[0] = s0; sum[1] = s1; sum[2] = s2; sum[3] = s3;
}
