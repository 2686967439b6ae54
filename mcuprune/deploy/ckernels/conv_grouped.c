/* A convolution in groups, or dilated along rows: tap by tap. */
KERNEL void conv_grouped(const int8_t *x, int8_t *restrict y, const window_t *p, int oy, int until, int ring) {
  EFFECT;
  const int offset = OFFSET(p);
  const int c = p->channels, ins = c / p->groups, outs = p->out_channels / p->groups;
  for (; oy < until; oy++) {
    for (int ox = 0; ox < p->out_width; ox++) {
      const int8_t *w = p->weights;
      for (int o = 0; o < p->out_channels; o++) {
        int32_t sum = p->bias_number[2 * o];
        for (int ky = 0; ky < p->kernel_h; ky++) {
          int iy = oy * p->stride_h - p->pad_h + ky * p->dilation_h;
          for (int kx = 0; kx < p->kernel_w; kx++, w += ins) {
            int ix = ox * p->stride_w - p->pad_w + kx * p->dilation_w;
            if (iy < 0 || iy >= p->height || ix < 0 || ix >= p->width) continue;
            sum = dot(sum, x + (iy % ring * p->width + ix) * c + o / outs * ins, w, ins, p->zero_in);
          }
        }
        *y++ = finished(sum, p->bias_number[2 * o + 1], p->shift[o], offset, p);
      }
    }
  }
}
