/* a * b. p: zero points of a, b, output; the factor; low, high. */
KERNEL void mul(const int8_t *a, const int8_t *b, int8_t *y, int n, int step_a, int step_b, const int32_t *p) {
  EFFECT;
  for (; n--; a += step_a, b += step_b)
    *y++ = clamped(scaled((*a - p[0]) * (*b - p[1]), p[3], p[4]) + p[2], p[5], p[6]);
}
