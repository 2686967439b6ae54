/* A sliding operator: a window of kernel_h x kernel_w taps over an image (height, width, channels), rows of channels last. */
typedef struct {
  const int8_t *weights;      /* (out, kernel_h, kernel_w, in), of a depthwise layer (kernel_h, kernel_w, out) */
  const int32_t *bias_number; /* for each output channel its bias and the number of its factor */
  const int8_t *shift;        /* for each output channel the shift of its factor */
  int16_t height, width, channels, out_height, out_width, out_channels;
  int16_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups;
  int16_t zero_in, zero_out, low, high;
} window_t;
/* Every sliding kernel makes the output rows oy to until - 1 and writes them one after another from y on. x holds the input's rows, or
   of late ones as many as the window needs at a time: row i lies in place i % ring. */
/* A sum requantised. It stays below 2^30, which is proven from weights and biases, unless NAME_WIDE is set: then no sum here can
   overflow, and where there is an instruction for the product's upper half it may be used. */
static inline int8_t finished(int32_t sum, int32_t number, int shift, const window_t *p) {
#ifndef NAME_WIDE
  if (shift < 0) {
#ifdef NAME_DSP
    int32_t product;
    __asm__("smmulr %0, %1, %2" : "=r"(product) : "r"(sum * 2), "r"(number));
#else
    int32_t product = high_product(sum, number);
#endif
    return clamped(((product + (1 << (-shift - 1)) - (product < 0)) >> -shift) + p->zero_out, p->low, p->high);
  }
#endif
  return clamped(scaled(sum, number, shift) + p->zero_out, p->low, p->high);
}
