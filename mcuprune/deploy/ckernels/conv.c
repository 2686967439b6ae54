/* A convolution without groups or dilation along rows: the taps of a row lie one after another in memory. Where a window hangs over
   the image's edge the taps outside count nothing. Two pixels and two output channels at a time, as far as these are whole. */
KERNEL void conv(const int8_t *x, int8_t *restrict y, const window_t *p, int oy, int until, int ring) {
  EFFECT;
  const int offset = OFFSET(p);
  const int c = p->channels, row = p->width * c, full = p->kernel_w * c, taps = p->kernel_h * full, zero = p->zero_in;
  const int outs = p->out_channels, next = outs > 1, down = p->dilation_h * row, wrap = ring * row;
  const int8_t *const end = x + wrap;
  for (; oy < until; oy++) {
    int top = oy * p->stride_h - p->pad_h, first = 0, rows = p->kernel_h;
    while (top + first * p->dilation_h < 0) first++;
    while (rows > first && top + (rows - 1) * p->dilation_h >= p->height) rows--;
    const int8_t *line = x + (top + first * p->dilation_h) % ring * row;
    rows -= first;
    for (int ox = 0; ox < p->out_width;) {
      int start = ox * p->stride_w - p->pad_w, left = start < 0 ? -start : 0;
      int right = p->width - start < p->kernel_w ? p->width - start : p->kernel_w, n = (right - left) * c;
      const int two = !left && ox + 1 < p->out_width && start + p->stride_w + p->kernel_w <= p->width;
      const int x_step = two * p->stride_w * c, y_step = two * outs;
      const int8_t *from = line + (start + left) * c, *w = p->weights + first * full + left * c, *shift = p->shift;
      const int32_t *b = p->bias_number;
      for (int o = outs; o > 0; o -= 2, b += 4, shift += 2, w += 2 * taps, y += 2) {
        if (o == 1 && next) w -= taps, b -= 2, shift--, y--;
        int32_t sum[4] = {b[0], b[2 * next], b[0], b[2 * next]};
        const int8_t *u = from, *v = w;
        for (int k = rows; k > 0; k--, v += full) {
          dot4_less(sum, u, x_step, v, next * taps, n, zero);
          if ((u += down) >= end) u -= wrap;
        }
        finished4(y, y_step, next, sum, b, shift, offset, p);
      }
      ox += 1 + two;
      y += y_step - !next;
    }
  }
}
