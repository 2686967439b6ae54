/* Each channel by itself; of several outputs a channel the weights stand side by side (multiplier = outputs / channels). */
KERNEL void depthwise(const int8_t *x, int8_t *restrict y, const window_t *p, int oy, int until, int ring) {
  EFFECT;
  const int offset = OFFSET(p);
  const int c = p->channels, outs = p->out_channels, multiplier = outs / c, zero = p->zero_in;
  const int row = p->width * c, across = p->dilation_w * c, down = p->dilation_h * row, wrap = ring * row;
  const int8_t *const end = x + wrap;
  for (; oy < until; oy++) {
    int top = oy * p->stride_h - p->pad_h, first = 0, last = p->kernel_h;
    while (top + first * p->dilation_h < 0) first++;
    while (last > first && top + (last - 1) * p->dilation_h >= p->height) last--;
    for (int ox = 0; ox < p->out_width; ox++) {
      int start = ox * p->stride_w - p->pad_w;
      int left = start < 0 ? (p->dilation_w - 1 - start) / p->dilation_w : 0;
      int right = (p->width - start + p->dilation_w - 1) / p->dilation_w;
      if (right > p->kernel_w) right = p->kernel_w;
      const int8_t *from = x + (top + first * p->dilation_h) % ring * row + (start + left * p->dilation_w) * c;
      const int8_t *w = p->weights + (first * p->kernel_w + left) * outs, *shift = p->shift;
      const int32_t *b = p->bias_number;
#ifdef NAME_DSP
      if (multiplier == 1 && outs > 3) { /* four channels at a time; those that are left again with some before them */
        const uint32_t less = (uint16_t)-zero * 0x10001u;
        for (int n = outs; n > 0; n -= 4, from += 4, w += 4, b += 8, shift += 4, y += 4) {
          if (n < 4) from -= 4 - n, w -= 4 - n, b -= 2 * (4 - n), shift -= 4 - n, y -= 4 - n;
          int32_t s0 = b[0], s1 = b[2], s2 = b[4], s3 = b[6];
          const int8_t *u = from, *v = w;
          for (int k = last - first; k > 0; k--, v += p->kernel_w * c) {
#define TAP(i) { \
  uint32_t a = word(u + (i) * across), f = word(v + (i) * c), xe = even_plus(less, a), xo = odd_plus(less, a), we = even(f), wo = odd(f); \
  s0 = __smlabb((int32_t)xe, (int32_t)we, s0); s1 = __smlabb((int32_t)xo, (int32_t)wo, s1); \
  s2 = __smlatt((int32_t)xe, (int32_t)we, s2); s3 = __smlatt((int32_t)xo, (int32_t)wo, s3); }
            if (right - left == 3) { TAP(0) TAP(1) TAP(2) }
            else for (int i = 0; i < right - left; i++) TAP(i)
#undef TAP
            if ((u += down) >= end) u -= wrap;
          }
          y[0] = finished(s0, b[1], shift[0], offset, p); y[1] = finished(s1, b[3], shift[1], offset, p);
          y[2] = finished(s2, b[5], shift[2], offset, p); y[3] = finished(s3, b[7], shift[3], offset, p);
        }
        continue;
      }
#endif
      for (int o = 0; o < outs; o++, b += 2, shift++) {
        int32_t sum = b[0];
        const int8_t *line = from + o / multiplier, *taps = w + o;
        for (int ky = first; ky < last; ky++, taps += p->kernel_w * outs) {
          const int8_t *u = line, *v = taps;
          for (int kx = right - left; kx > 0; kx--, u += across, v += outs) sum += (*u - zero) * *v;
          if ((line += down) >= end) line -= wrap;
        }
        *y++ = finished(sum, b[1], *shift, offset, p);
      }
    }
  }
}
