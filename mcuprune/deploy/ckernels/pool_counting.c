/* The largest value of a window, or the mean, where so many zeros around the image count as well, and padding beyond them doesn't. Rare,
   so plain C is all there is. */
static inline int overlap(int start, int size, int low, int high) {
  int first = start > low ? start : low, end = start + size < high ? start + size : high;
  return end > first ? end - first : 0;
}
KERNEL void pool_counting(const int8_t *x, int8_t *restrict y, const window_t *p, int oy, int until, int ring, int largest, int above,
                          int below, int before, int after) {
  EFFECT;
  const int c = p->channels, row = p->width * c;
  for (; oy < until; oy++) {
    const int top = oy * p->stride_h - p->pad_h, first = top < 0 ? -top : 0;
    const int last = p->height - top < p->kernel_h ? p->height - top : p->kernel_h;
    for (int ox = 0; ox < p->out_width; ox++, y += c) {
      const int start = ox * p->stride_w - p->pad_w, left = start < 0 ? -start : 0;
      const int right = p->width - start < p->kernel_w ? p->width - start : p->kernel_w;
      const int count = overlap(top, p->kernel_h, -above, p->height + below) * overlap(start, p->kernel_w, -before, p->width + after);
      const int half = count / 2;
      const int inside = first < last && left < right ? (last - first) * (right - left) : 0;
      for (int channel = 0; channel < c; channel++) {
        int32_t sum = (count - inside) * p->zero_in;
        int most = inside < count ? p->zero_in : -128;
        for (int ky = first; ky < last; ky++) {
          const int8_t *u = x + (top + ky) % ring * row + (start + left) * c + channel;
          for (int kx = right - left; kx > 0; kx--, u += c) {
            if (*u > most) most = *u;
            sum += *u;
          }
        }
        if (!largest) most = sum > 0 ? (sum + half) / count : (sum - half) / count;
        y[channel] = clamped(most, p->low, p->high);
      }
    }
  }
}
