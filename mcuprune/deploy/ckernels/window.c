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
/* A sum requantised. NAME_PROVEN says that no sum reaches 2^30 and that all shifts are from -22 to -1, which the generator has proven
   from weights and biases: then nothing here overflows, also where the output's zero point is added before the shift. NAME_CLAMPED says
   that some layer's range is narrower than a byte's. */
#ifdef NAME_PROVEN
#define OFFSET(p) (2 * (p)->zero_out + 1)
#else
#define OFFSET(p) (p)->zero_out
#endif
static inline int8_t finished(int32_t sum, int32_t number, int shift, int offset, const window_t *p) {
#ifdef NAME_PROVEN
  int32_t product = upper_half(sum * 2, number);
  int32_t value = (product + offset * (1 << ~shift) - (product < 0)) >> -shift;
#else
  int32_t value = scaled(sum, number, shift) + offset;
#endif
#ifdef NAME_CLAMPED
  return clamped(value, p->low, p->high);
#else
  (void)p;
  return saturated(value);
#endif
}
