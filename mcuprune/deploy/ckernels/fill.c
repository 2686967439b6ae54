KERNEL void fill(int8_t *y, int n, int value) {
  memset(y, value, (size_t)n);
}
