/* The larger of two where p[0] is 1, else the smaller. */
KERNEL void extremum(const int8_t *a, const int8_t *b, int8_t *y, int n, int step_a, int step_b, const int32_t *p) {
  EFFECT;
  for (; n--; a += step_a, b += step_b) *y++ = (p[0] ? *a > *b : *a < *b) ? *a : *b;
}
