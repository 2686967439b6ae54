/* Products of computed matrices (n, rows, inner) x (n, inner, columns). p: zero points of a, b, output; the factor. */
KERNEL void matmul(const int8_t *a, const int8_t *b, int8_t *y, int n, int rows, int inner, int columns, const int32_t *p) {
  EFFECT;
  for (; n--; a += rows * inner, b += inner * columns)
    for (int i = 0; i < rows; i++)
      for (int j = 0; j < columns; j++) {
        int32_t sum = 0;
        for (int k = 0; k < inner; k++) sum += (a[i * inner + k] - p[0]) * (b[k * columns + j] - p[1]);
        *y++ = clamped(scaled(sum, p[3], p[4]) + p[2], -128, 127);
      }
}
