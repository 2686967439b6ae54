/* e: e^(-d * scale) for d = 0 ... 255 steps below the largest, with 31 fractional bits; 0 where it no longer counts. n: at most 8191. */
KERNEL void softmax(const int8_t *x, int8_t *y, int rows, int n, const int32_t *e) {
  EFFECT;
  for (; rows--; x += n, y += n) {
    int most = -128, zeros = 0;
    uint32_t sum = 0; /* 13 integer bits */
    for (int i = 0; i < n; i++) most = x[i] > most ? x[i] : most;
    for (int i = 0; i < n; i++) sum += (uint32_t)shift_right(e[most - x[i]], 12);
    while (!(sum << zeros & 0x80000000u)) zeros++;
    int32_t share = inverse((int32_t)((sum << zeros) - 0x80000000u));
    for (int i = 0; i < n; i++) /* where the sum is 512 or more, each has at most half a step */
      y[i] = zeros < 4 ? -128 : clamped(shift_right(high_product(share, e[most - x[i]]), 35 - zeros) - 128, -128, 127);
  }
}
