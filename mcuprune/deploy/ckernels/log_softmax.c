/* The natural logarithm of x >= 1 with 19 fractional bits; the result has 26. x = 2^k * (2^(1/4) * r), where k is an integer and a quarter,
   or one less a quarter, so that r lies in [2^(-1/2), 1]: what stands in brackets is near 1, where a quotient of polynomials is the logarithm. */
static inline int32_t logarithm(int32_t x) {
  const int32_t root = 1518500250, middle = 1805811301; /* 2^(-1/2), 2^(-1/4): as all that follows with 31 fractional bits */
  int32_t less = high_product(x, root);
  int a = 0, b = 0;
  while (!(x << a & 1 << 30)) a++;
  while (!(less << b & 1 << 30)) b++;
  int32_t by_root = high_product(x << a, root), r = by_root >= 1 << 30 ? INT32_MAX : by_root * 2;
  if ((int64_t)x << b < r) r = x << b;
  int32_t k_a = (11 - a) * (1 << 25) + (1 << 23), k_b = (12 - b) * (1 << 25) - (1 << 23); /* 25 fractional bits */
  int32_t mean = (int32_t)(((int64_t)r + middle + 1) / 2), q = (r - middle) * 2, square = high_product(q, q);
  int32_t above = high_product(q, r) + high_product(high_product(q, square), 117049297);
  int32_t below = high_product(mean, 1057819769 + q + high_product(127690142, square)) + high_product(638450708, q);
  return (high_product(k_a > k_b ? k_a : k_b, 1488522236) + high_product(shift_right(above, 6), inverse(below))) * 2;
}
/* e: as for softmax. n: at most 4095. p: the factor of a step, to 26 fractional bits, and its inverse, and one step more below the
   largest than what counts. Outputs are in steps of 1/16 below 127. */
KERNEL void log_softmax(const int8_t *x, int8_t *y, int rows, int n, const int32_t *e, const int32_t *p) {
  EFFECT;
  for (; rows--; x += n, y += n) {
    int most = -128;
    int32_t sum = 0; /* 12 integer bits */
    for (int i = 0; i < n; i++) most = x[i] > most ? x[i] : most;
    for (int i = 0; i < n; i++) sum += shift_right(e[most - x[i]], 12);
    int32_t whole = logarithm(sum), fits = scaled(whole + INT32_MIN, p[2], p[3]), least = fits > p[4] ? fits : p[4];
    for (int i = 0; i < n; i++) {
      int below = x[i] - most;
      y[i] = below > least ? clamped(shift_right(scaled(below, p[0], p[1]) - whole, 22) + 127, -128, 127) : -128;
    }
  }
}
