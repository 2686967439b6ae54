/* The largest value of a window, or the mean of those that lie inside the image, rounded to nearest. */
KERNEL void pool(const int8_t *x, int8_t *y, const window_t *p, int oy, int until, int ring, int largest) {
  for (; oy < until; oy++) {
    for (int ox = 0; ox < p->out_width; ox++) {
      for (int c = 0; c < p->channels; c++) {
        int32_t sum = 0, count = 0;
        int most = -128;
        for (int ky = 0; ky < p->kernel_h; ky++) {
          int iy = oy * p->stride_h - p->pad_h + ky;
          for (int kx = 0; kx < p->kernel_w; kx++) {
            int ix = ox * p->stride_w - p->pad_w + kx;
            if (iy < 0 || iy >= p->height || ix < 0 || ix >= p->width) continue;
            int value = x[(iy % ring * p->width + ix) * p->channels + c];
            if (value > most) most = value;
            sum += value;
            count++;
          }
        }
        if (!largest) most = sum > 0 ? (sum + count / 2) / count : (sum - count / 2) / count;
        *y++ = clamped(most, p->low, p->high);
      }
    }
  }
}
