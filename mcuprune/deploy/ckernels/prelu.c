/* a where it is positive, else a * b. p: zero points of a, b, output; a factor for each case. */
KERNEL void prelu(const int8_t *a, const int8_t *b, int8_t *y, int n, int step_a, int step_b, const int32_t *p) {
  EFFECT;
  for (; n--; a += step_a, b += step_b) {
    int32_t x = *a - p[0];
    *y++ = clamped((x >= 0 ? scaled(x, p[3], p[4]) : scaled(x * (*b - p[1]), p[5], p[6])) + p[2], -128, 127);
  }
}
