/* A convolution of one tap without padding or strides: rows that lie one after another are one long row. Two pixels and two output channels
   at a time; the last one of an odd number is computed again with the one before it, and where there is but one, twice. */
KERNEL void pointwise(const int8_t *x, int8_t *restrict y, const window_t *p, int oy, int until, int ring) {
  EFFECT;
  const int offset = OFFSET(p);
  const int c = p->channels, outs = p->out_channels, next = outs > 1;
  for (int rows; oy < until; oy += rows) {
    const int8_t *from = x + oy % ring * p->width * c;
    rows = ring - oy % ring < until - oy ? ring - oy % ring : until - oy;
    const int pixels = rows * p->width, two = pixels > 1, x_step = two * c, y_step = two * outs;
    for (int left = pixels; left > 0; left -= 2, from += 2 * c) {
      const int8_t *w = p->weights, *shift = p->shift;
      const int32_t *b = p->bias_number;
      if (left == 1 && two) from -= c, y -= outs;
      for (int o = outs; o > 0; o -= 2, w += 2 * c, b += 4, shift += 2, y += 2) {
        if (o == 1 && next) w -= c, b -= 2, shift--, y--;
        int32_t sum[4] = {b[0], b[2 * next], b[0], b[2 * next]};
        dot4(sum, from, x_step, w, next * c, c);
        finished4(y, y_step, next, sum, b, shift, offset, p);
      }
      y += y_step - !next;
    }
  }
}
