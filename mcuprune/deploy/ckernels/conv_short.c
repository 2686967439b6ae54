/* A convolution whose rows are short (few input channels): two windows are copied to the stack, padding included, so that all their
   taps lie one after another. */
KERNEL void conv_short(const int8_t *x, int8_t *restrict y, const window_t *p, int oy, int until, int ring) {
  EFFECT;
  const int offset = OFFSET(p);
  const int c = p->channels, row = p->width * c, full = p->kernel_w * c, taps = p->kernel_h * full, zero = p->zero_in;
  const int outs = p->out_channels, next = outs > 1;
  int8_t windows[2 * NAME_WINDOW];
  for (; oy < until; oy++) {
    int top = oy * p->stride_h - p->pad_h;
    for (int ox = 0; ox < p->out_width;) {
      const int two = ox + 1 < p->out_width, y_step = two * outs;
      for (int pixel = 0; pixel <= two; pixel++) {
        int start = (ox + pixel) * p->stride_w - p->pad_w, left = start < 0 ? -start : 0;
        int right = p->width - start < p->kernel_w ? p->width - start : p->kernel_w;
        if (left > p->kernel_w) left = p->kernel_w; /* all of it is padding */
        int8_t *to = windows + pixel * NAME_WINDOW;
        for (int k = 0, iy = top; k < p->kernel_h; k++, iy += p->dilation_h, to += full) {
          int inside = iy >= 0 && iy < p->height, from = inside ? left * c : full, after = inside ? right * c : full, i = 0;
          const int8_t *source = x + (inside ? iy % ring : 0) * row + start * c;
          for (; i < from; i++) to[i] = (int8_t)zero;
          for (; i < after; i++) to[i] = source[i];
          for (; i < full; i++) to[i] = (int8_t)zero;
        }
      }
      const int8_t *w = p->weights, *shift = p->shift;
      const int32_t *b = p->bias_number;
      for (int o = outs; o > 0; o -= 2, b += 4, shift += 2, w += 2 * taps, y += 2) {
        if (o == 1 && next) w -= taps, b -= 2, shift--, y--;
        int32_t sum[4] = {b[0], b[2 * next], b[0], b[2 * next]};
        dot4(sum, windows, two * NAME_WINDOW, w, next * taps, taps);
        finished4(y, y_step, next, sum, b, shift, offset, p);
      }
      ox += 1 + two;
      y += y_step - !next;
    }
  }
}
