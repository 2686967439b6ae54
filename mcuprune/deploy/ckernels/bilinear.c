/* Linear interpolation between four pixels in steps of 1/1024. rows, columns: for each output index the lower input index, the upper one,
   and the place between them. */
KERNEL void bilinear(const int8_t *x, int8_t *y, int channels, int width, const int16_t *rows, int n_rows, const int16_t *columns, int n_columns) {
  EFFECT;
  for (int i = 0; i < n_rows; i++) {
    const int8_t *top = x + rows[3 * i] * width * channels, *bottom = x + rows[3 * i + 1] * width * channels;
    int64_t v = rows[3 * i + 2];
    for (int j = 0; j < n_columns; j++) {
      int left = columns[3 * j] * channels, right = columns[3 * j + 1] * channels;
      int64_t h = columns[3 * j + 2];
      for (int c = 0; c < channels; c++) {
        int64_t sum = top[left + c] * (1024 - v) * (1024 - h) + bottom[left + c] * v * (1024 - h);
        sum += top[right + c] * (1024 - v) * h + bottom[right + c] * v * h;
        *y++ = (int8_t)((sum + (sum > 0 ? 1 << 19 : -(1 << 19))) / (1 << 20));
      }
    }
  }
}
