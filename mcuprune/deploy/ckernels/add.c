/* a + b; operands step by 0 where they are the same for all. p: zero points of a, b, output; three factors; low, high. */
KERNEL void add(const int8_t *a, const int8_t *b, int8_t *y, int n, int step_a, int step_b, const int32_t *p) {
  EFFECT;
  for (; n--; a += step_a, b += step_b) {
    int32_t u = scaled((*a - p[0]) * (1 << 20), p[3], p[4]), v = scaled((*b - p[1]) * (1 << 20), p[5], p[6]);
    *y++ = clamped(scaled(u + v * p[11], p[7], p[8]) + p[2], p[9], p[10]);
  }
}
