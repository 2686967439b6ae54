/* A transposed convolution, gathered: each output sums the taps that some input reaches it through. */
KERNEL void conv_transpose(const int8_t *x, int8_t *restrict y, const window_t *p, int oy, int until, int ring) {
  EFFECT;
  const int offset = OFFSET(p);
  const int c = p->channels;
  for (; oy < until; oy++) {
    for (int ox = 0; ox < p->out_width; ox++) {
      const int8_t *w = p->weights;
      for (int o = 0; o < p->out_channels; o++) {
        int32_t sum = p->bias_number[2 * o];
        for (int ky = 0; ky < p->kernel_h; ky++) {
          int ty = oy + p->pad_h - ky, iy = ty / p->stride_h;
          for (int kx = 0; kx < p->kernel_w; kx++, w += c) {
            int tx = ox + p->pad_w - kx, ix = tx / p->stride_w;
            if (ty < 0 || tx < 0 || ty % p->stride_h || tx % p->stride_w || iy >= p->height || ix >= p->width) continue;
            sum = dot(sum, x + (iy % ring * p->width + ix) * c, w, c, p->zero_in);
          }
        }
        *y++ = finished(sum, p->bias_number[2 * o + 1], p->shift[o], offset, p);
      }
    }
  }
}
