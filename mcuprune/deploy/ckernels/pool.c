/* The largest value of a window, or the mean of those that lie inside the image, rounded to nearest. */
KERNEL void pool(const int8_t *x, int8_t *restrict y, const window_t *p, int oy, int until, int ring, int largest) {
  EFFECT;
  const int c = p->channels, row = p->width * c;
  for (; oy < until; oy++) {
    const int top = oy * p->stride_h - p->pad_h, first = top < 0 ? -top : 0;
    const int last = p->height - top < p->kernel_h ? p->height - top : p->kernel_h;
    for (int ox = 0; ox < p->out_width; ox++, y += c) {
      const int start = ox * p->stride_w - p->pad_w, left = start < 0 ? -start : 0;
      const int right = p->width - start < p->kernel_w ? p->width - start : p->kernel_w;
      const int count = (last - first) * (right - left), half = count / 2;
      const int8_t *from = x + (start + left) * c;
      int channel = 0;
#ifdef NAME_DSP
      if (c > 3 && count < 256) { /* four channels at a time; those that are left again with some before them */
        for (; channel < c; channel += 4) {
          if (channel > c - 4) channel = c - 4;
          uint32_t most = 0x80808080u, sums = 0, others = 0;
          for (int ky = first; ky < last; ky++) {
            const int8_t *u = from + (top + ky) % ring * row + channel;
            for (int kx = right - left; kx > 0; kx--, u += c) {
              uint32_t a = word(u);
              if (largest) {
                (void)__ssub8((int8x4_t)a, (int8x4_t)most);
                most = (uint32_t)__sel((uint8x4_t)a, (uint8x4_t)most);
              } else {
                sums = even_plus(sums, a), others = odd_plus(others, a);
              }
            }
          }
          for (int i = 0; i < 4; i++) {
            int sum = (int16_t)((i & 1 ? others : sums) >> (i & 2) * 8);
            int value = largest ? (int8_t)(most >> 8 * i) : sum > 0 ? (sum + half) / count : (sum - half) / count;
            y[channel + i] = clamped(value, p->low, p->high);
          }
        }
        continue;
      }
#endif
      for (; channel < c; channel++) {
        int32_t sum = 0;
        int most = -128;
        for (int ky = first; ky < last; ky++) {
          const int8_t *u = from + (top + ky) % ring * row + channel;
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
