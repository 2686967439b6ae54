/* a + b as add gives it, where all three factors shift right and the last by at most 22 bits, so that nothing overflows. p: zero points
   of a and b; for each its left shift, the number and the right shift of its factor; the sum's number and right shift; twice the
   output's zero point and one more; low, high; 1 or -1 for b's sign. */
KERNEL void add_proven(const int8_t *a, const int8_t *b, int8_t *y, int n, int step_a, int step_b, const int32_t *p) {
  EFFECT;
  for (; n--; a += step_a, b += step_b) {
    int32_t u = upper_half((*a - p[0]) * (1 << p[2]), p[3]), v = upper_half((*b - p[1]) * (1 << p[5]), p[6]);
    u = (u + (1 << (p[4] - 1)) - (u < 0)) >> p[4];
    v = (v + (1 << (p[7] - 1)) - (v < 0)) >> p[7];
    u = upper_half((u + v * p[13]) * 2, p[8]);
    *y++ = clamped((u + p[10] * (1 << (p[9] - 1)) - (u < 0)) >> p[9], p[11], p[12]);
  }
}
