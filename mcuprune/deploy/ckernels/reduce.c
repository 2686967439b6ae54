/* Over the middle of (outer, n, inner): the sum times a factor, the largest (kind 1) or the least (kind 2). */
KERNEL void reduce(const int8_t *x, int8_t *y, int outer, int n, int inner, const int32_t *p, int kind) {
  EFFECT;
  for (; outer--; x += n * inner) {
    for (int i = 0; i < inner; i++) {
      int32_t sum = 0;
      int most = x[i];
      for (int k = 0; k < n; k++) {
        int value = x[k * inner + i];
        sum += value - p[0];
        if (kind == 1 ? value > most : value < most) most = value;
      }
      *y++ = kind ? (int8_t)most : clamped(scaled(sum, p[2], p[3]) + p[1], -128, 127);
    }
  }
}
