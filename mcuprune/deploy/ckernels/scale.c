/* Each channel by its own factor and bias: a depthwise convolution of a single tap. y may be x. */
KERNEL void scale(const int8_t *x, int8_t *y, const window_t *p, int oy, int until, int ring) {
  EFFECT;
  const int offset = OFFSET(p), c = p->channels, zero = p->zero_in;
  for (; oy < until; oy++) {
    const int8_t *u = x + oy % ring * p->width * c;
    for (int n = p->width; n > 0; n--) {
      const int32_t *b = p->bias_number;
      for (int o = 0; o < c; o++, b += 2) *y++ = finished(b[0] + (*u++ - zero) * p->weights[o], b[1], p->shift[o], offset, p);
    }
  }
}
