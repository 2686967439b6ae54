/* What dot4 has summed, for two output channels (the second in the next place, or the same again) of two pixels that are y_step apart. */
static inline void finished4(int8_t *y, int y_step, int next, const int32_t sum[4], const int32_t *b, const int8_t *shift, int offset,
                             const window_t *p) {
  int32_t number = b[1], other = b[2 * next + 1];
  int bits = shift[0], others = shift[next];
  y[0] = finished(sum[0], number, bits, offset, p);
  y[y_step] = finished(sum[2], number, bits, offset, p);
  y[next] = finished(sum[1], other, others, offset, p);
  y[y_step + next] = finished(sum[3], other, others, offset, p);
}
