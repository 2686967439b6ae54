/* A convolution without groups or dilation along rows: the taps of a row lie one after another in memory. Where a window hangs over
   the image's edge the taps outside count nothing. */
KERNEL void conv(const int8_t *x, int8_t *restrict y, const window_t *p, int oy, int until, int ring) {
  const int c = p->channels, row = p->width * c, full = p->kernel_w * c, taps = p->kernel_h * full, zero = p->zero_in;
  const int outs = p->out_channels, step = p->stride_w * c, down = p->dilation_h * row, wrap = ring * row;
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
      int two = !left && ox + 1 < p->out_width && start + p->stride_w + p->kernel_w <= p->width, o = 0;
      const int8_t *from = line + (start + left) * c, *w = p->weights + first * full + left * c, *shift = p->shift;
      const int32_t *b = p->bias_number;
      for (; two && o + 1 < outs; o += 2, b += 4, shift += 2, w += 2 * taps) {
        int32_t sum[4] = {b[0], b[2], b[0], b[2]};
        const int8_t *u = from, *v = w;
        for (int k = rows; k > 0; k--, v += full) {
          dot4(sum, u, u + step, v, v + taps, n, zero);
          if ((u += down) >= end) u -= wrap;
        }
        y[o] = finished(sum[0], b[1], shift[0], p);
        y[o + 1] = finished(sum[1], b[3], shift[1], p);
        y[outs + o] = finished(sum[2], b[1], shift[0], p);
        y[outs + o + 1] = finished(sum[3], b[3], shift[1], p);
      }
      for (; o < outs; o++, b += 2, shift++, w += taps) {
        for (int pixel = 0; pixel <= two; pixel++) {
          int32_t sum = b[0];
          const int8_t *u = from + pixel * step, *v = w;
          for (int k = rows; k > 0; k--, v += full) {
            sum = dot(sum, u, v, n, zero);
            if ((u += down) >= end) u -= wrap;
          }
          y[pixel * outs + o] = finished(sum, b[1], *shift, p);
        }
      }
      ox += 1 + two;
      y += outs * (1 + two);
    }
  }
}
