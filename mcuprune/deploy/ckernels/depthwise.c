/* Each channel by itself; of several outputs a channel the weights stand side by side (multiplier = outputs / channels). */
KERNEL void depthwise(const int8_t *x, int8_t *restrict y, const window_t *p, int oy, int until, int ring) {
  const int c = p->channels, outs = p->out_channels, multiplier = outs / c, zero = p->zero_in;
  const int row = p->width * c, across = p->dilation_w * c, down = p->dilation_h * row, wrap = ring * row;
  const int8_t *const end = x + wrap;
  for (; oy < until; oy++) {
    int top = oy * p->stride_h - p->pad_h, first = 0, last = p->kernel_h;
    while (top + first * p->dilation_h < 0) first++;
    while (last > first && top + (last - 1) * p->dilation_h >= p->height) last--;
    for (int ox = 0; ox < p->out_width; ox++) {
      int start = ox * p->stride_w - p->pad_w, o = 0;
      int left = start < 0 ? (p->dilation_w - 1 - start) / p->dilation_w : 0;
      int right = (p->width - start + p->dilation_w - 1) / p->dilation_w;
      if (right > p->kernel_w) right = p->kernel_w;
      const int8_t *from = x + (top + first * p->dilation_h) % ring * row + (start + left * p->dilation_w) * c;
      const int8_t *w = p->weights + (first * p->kernel_w + left) * outs, *shift = p->shift;
      const int32_t *b = p->bias_number;
#ifdef NAME_DSP
      const uint32_t less = (uint16_t)-zero * 0x10001u;
      for (; multiplier == 1 && o + 3 < outs; o += 4, b += 8, shift += 4) {
        int32_t s0 = b[0], s1 = b[2], s2 = b[4], s3 = b[6];
        const int8_t *line = from + o, *taps = w + o;
        for (int ky = first; ky < last; ky++, taps += p->kernel_w * outs) {
          const int8_t *u = line, *v = taps;
#define TAP { \
  uint32_t a = word(u), f = word(v), xe = even_plus(less, a), xo = odd_plus(less, a), we = even(f), wo = odd(f); \
  s0 = __smlabb((int32_t)xe, (int32_t)we, s0); s1 = __smlabb((int32_t)xo, (int32_t)wo, s1); \
  s2 = __smlatt((int32_t)xe, (int32_t)we, s2); s3 = __smlatt((int32_t)xo, (int32_t)wo, s3); \
  u += across; v += outs; }
          if (right - left == 3) { TAP TAP TAP }
          else for (int kx = right - left; kx > 0; kx--) TAP
          if ((line += down) >= end) line -= wrap;
#undef TAP
        }
        *y++ = finished(s0, b[1], shift[0], p); *y++ = finished(s1, b[3], shift[1], p);
        *y++ = finished(s2, b[5], shift[2], p); *y++ = finished(s3, b[7], shift[3], p);
      }
#endif
      for (; o < outs; o++, b += 2, shift++) {
        int32_t sum = b[0];
        const int8_t *line = from + o / multiplier, *taps = w + o;
        for (int ky = first; ky < last; ky++, taps += p->kernel_w * outs) {
          const int8_t *u = line, *v = taps;
          for (int kx = right - left; kx > 0; kx--, u += across, v += outs) sum += (*u - zero) * *v;
          if ((line += down) >= end) line -= wrap;
        }
        *y++ = finished(sum, b[1], *shift, p);
      }
    }
  }
}
