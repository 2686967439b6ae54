KERNEL void fill(int8_t *y, int n, int value) {
  EFFECT;
  memset(y, value, (size_t)n);
}
