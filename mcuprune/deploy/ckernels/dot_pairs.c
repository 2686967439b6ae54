/* Two pixels, x and x + x_step, times two output channels, w and w + w_step: n products each are added to the first pixel's two sums and
   to the second's. The input's zero point times the weights is a part of the bias already. */
static inline void dot4(int32_t sum[4], const int8_t *x, int x_step, const int8_t *w, int w_step, int n) {
  int32_t s0 = sum[0], s1 = sum[1], s2 = sum[2], s3 = sum[3];
  const int8_t *end = x + n;
#ifdef NAME_DSP
  for (const int8_t *words = x + (n & ~3); x < words; x += 4, w += 4) {
    uint32_t u = word(x + x_step), ye = even(u), yo = odd(u), v = word(w + w_step), we = even(v), wo = odd(v);
    u = word(x);
    uint32_t xe = even(u), xo = odd(u);
    MAC2(s1, xe, we); MAC2(s1, xo, wo); MAC2(s3, ye, we); MAC2(s3, yo, wo);
    v = word(w); we = even(v); wo = odd(v);
    MAC2(s0, xe, we); MAC2(s0, xo, wo); MAC2(s2, ye, we); MAC2(s2, yo, wo);
  }
#endif
  for (; x < end; x++, w++) {
    int a = *x, b = x[x_step], u = *w, v = w[w_step];
    s0 += a * u; s1 += a * v; s2 += b * u; s3 += b * v;
  }
  sum[0] = s0; sum[1] = s1; sum[2] = s2; sum[3] = s3;
}
