/* An operator of one tensor: for each stored number what it becomes. */
KERNEL void table(const int8_t *x, int8_t *y, int n, const int8_t *t) {
  EFFECT;
  while (n--) *y++ = t[*x++ + 128];
}
