/* The same functions by the definition of what they compute, over an image that is padded as ESP-NN pads it: on both sides alike, or at the
   end alone. They stop where something isn't aligned, and use all of their scratch, so that what is kept in it by mistake is lost. */
#include "esp_nn.h"
#include <stdlib.h>
#include <string.h>

int32_t calls; /* how often any of them computed something */
static int8_t *scratch_of_conv, *scratch_of_depthwise;

static int32_t requantised(int64_t sum, int32_t number, int32_t shift) { /* rounded twice, halves away from zero the second time */
  int64_t product = ((shift > 0 ? sum * ((int64_t)1 << shift) : sum) * number + ((int64_t)1 << 30)) >> 31;
  if (shift >= 0) return (int32_t)product;
  int64_t half = (int64_t)1 << (-shift - 1);
  return (int32_t)(product >= 0 ? (product + half) >> -shift : -((-product + half) >> -shift));
}
static int8_t held(int32_t value, int32_t low, int32_t high) { return (int8_t)(value < low ? low : value > high ? high : value); }
static int up(int size, int multiple) { return (size + multiple - 1) / multiple * multiple; }
static int most(int a, int b) { return a > b ? a : b; }
static int behind(int size, int out, int stride, int kernel) { return most(0, out * stride + kernel - 1 - size); }

static void convolved(const data_dims_t *in, const int8_t *x, const data_dims_t *out, int8_t *y, const data_dims_t *filter, int depthwise,
                      const int8_t *weights, const int32_t *bias, const quant_data_t *factors, const conv_params_t *p) {
  uintptr_t places = (uintptr_t)x | (uintptr_t)y | (uintptr_t)weights | (uintptr_t)bias | (uintptr_t)factors->mult | (uintptr_t)factors->shift;
  if (places % 16 || p->dilation.width != 1 || p->dilation.height != 1 || filter->channels != in->channels) abort();
  int c = in->channels, ins = depthwise ? 1 : c, taps = filter->width * filter->height * ins;
  int both = p->padding.width || p->padding.height, window = filter->width * c < 16 && taps >= 16 && !depthwise;
  int right = both ? p->padding.width : behind(in->width, out->width, p->stride.width, filter->width);
  int below = both ? p->padding.height : behind(in->height, out->height, p->stride.height, filter->height);
  calls++;
  for (int oy = 0; oy < out->height; oy++)
    for (int ox = 0; ox < out->width; ox++)
      for (int o = 0; o < out->channels; o++) {
        int64_t sum = bias[o];
        for (int tap = 0; tap < taps; tap++) {
          int ky = tap / ins / filter->width, kx = tap / ins % filter->width, i = depthwise ? o : tap % ins;
          int iy = oy * p->stride.height - p->padding.height + ky, ix = ox * p->stride.width - p->padding.width + kx;
          if (!window && (iy >= in->height + below || ix >= in->width + right)) abort(); /* it would read beside its copy of the image */
          if (iy < 0 || iy >= in->height || ix < 0 || ix >= in->width) continue;
          sum += (x[(iy * in->width + ix) * c + i] + p->in_offset) * weights[depthwise ? tap * c + o : o * taps + tap];
        }
        *y++ = held(requantised(sum, factors->mult[o], factors->shift[o]) + p->out_offset, p->activation.min, p->activation.max);
      }
}

int esp_nn_get_conv_scratch_size(const data_dims_t *in, const data_dims_t *filter, const data_dims_t *out, const conv_params_t *params) {
  const conv_params_t *p = params;
  int c = in->channels, outs = out->channels, row = filter->width * c, taps = row * filter->height;
  int padded = p->padding.width || p->padding.height;
  if (taps == c && !padded && p->stride.width == 1 && p->stride.height == 1) return outs * c + 16 * c + 64;
  if (row < 16 && taps >= 16) return 4 * outs + 16 + outs * up(taps, 16) + 16 + up(taps, 16) + 64;
  int right = behind(in->width, out->width, p->stride.width, filter->width);
  int below = behind(in->height, out->height, p->stride.height, filter->height);
  int copies = padded ? (in->width + 2 * p->padding.width) * (in->height + 2 * p->padding.height) * c : 0;
  copies += right || below ? (in->width + right) * (in->height + below) * c : 0;
  return copies + outs * filter->height * (filter->width * up(c, 16) + up(row, 16)) + 4 * outs + 64;
}
void esp_nn_set_conv_scratch_buf(const void *scratch) { scratch_of_conv = (int8_t *)(uintptr_t)scratch; }
void esp_nn_conv_s8(const data_dims_t *in, const int8_t *x, const data_dims_t *filter, const int8_t *weights, const int32_t *bias,
                    const data_dims_t *out, int8_t *y, const conv_params_t *params, const quant_data_t *factors) {
  if ((uintptr_t)scratch_of_conv % 16) abort();
  memset(scratch_of_conv, 0x55, (size_t)esp_nn_get_conv_scratch_size(in, filter, out, params));
  convolved(in, x, out, y, filter, 0, weights, bias, factors, params);
}
int esp_nn_get_depthwise_conv_scratch_size(const data_dims_t *in, const data_dims_t *filter, const data_dims_t *out,
                                           const dw_conv_params_t *params) {
  const dw_conv_params_t *p = params;
  int right = p->padding.width ? 2 : behind(in->width, out->width, p->stride.width, 3);
  int below = p->padding.height ? 2 : behind(in->height, out->height, p->stride.height, 3);
  if (p->ch_mult != 1 || in->channels % 16 || filter->width != 3 || filter->height != 3) abort();
  return 9 * in->channels + (in->width + right) * (in->height + below) * in->channels + 16;
}
void esp_nn_set_depthwise_conv_scratch_buf(const void *scratch) { scratch_of_depthwise = (int8_t *)(uintptr_t)scratch; }
void esp_nn_depthwise_conv_s8(const data_dims_t *in, const int8_t *x, const data_dims_t *filter, const int8_t *weights,
                              const int32_t *bias, const data_dims_t *out, int8_t *y, const dw_conv_params_t *params,
                              const quant_data_t *factors) {
  const dw_conv_params_t *p = params;
  const conv_params_t same = {p->in_offset, p->out_offset, p->stride, p->padding, p->dilation, p->activation};
  if ((uintptr_t)scratch_of_depthwise % 16) abort();
  memset(scratch_of_depthwise, 0x55, (size_t)esp_nn_get_depthwise_conv_scratch_size(in, filter, out, params));
  convolved(in, x, out, y, filter, 1, weights, bias, factors, &same);
}
