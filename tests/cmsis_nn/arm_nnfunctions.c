/* The same functions by the definition of what they compute, tap by tap. They refuse what the library has no fast code for, and use all
   of their scratch, so that what is kept in it by mistake is lost. */
#include "arm_nnfunctions.h"
#include <string.h>

int32_t calls; /* how often any of them computed something */

static int32_t requantised(int64_t sum, int32_t number, int32_t shift) { /* rounded twice, halves away from zero the second time */
  int64_t product = ((shift > 0 ? sum * ((int64_t)1 << shift) : sum) * number + ((int64_t)1 << 30)) >> 31;
  if (shift >= 0) return (int32_t)product;
  int64_t half = (int64_t)1 << (-shift - 1);
  return (int32_t)(product >= 0 ? (product + half) >> -shift : -((-product + half) >> -shift));
}
static int8_t held(int32_t value, int32_t low, int32_t high) { return (int8_t)(value < low ? low : value > high ? high : value); }

static void convolved(const cmsis_nn_dims *in, const int8_t *x, const cmsis_nn_dims *out, int8_t *y, int kernel_h, int kernel_w, int ins,
                      int groups, int step, int first_step, const int8_t *weights, const int32_t *bias,
                      const cmsis_nn_per_channel_quant_params *factors, const cmsis_nn_conv_params *p) {
  calls++;
  for (int oy = 0; oy < out->h; oy++)
    for (int ox = 0; ox < out->w; ox++)
      for (int o = 0; o < out->c; o++) {
        int64_t sum = bias[o];
        for (int ky = 0; ky < kernel_h; ky++)
          for (int kx = 0; kx < kernel_w; kx++)
            for (int i = 0; i < ins; i++) {
              int iy = oy * p->stride.h - p->padding.h + ky * p->dilation.h, ix = ox * p->stride.w - p->padding.w + kx * p->dilation.w;
              if (iy < 0 || iy >= in->h || ix < 0 || ix >= in->w) continue;
              int tap = (ky * kernel_w + kx) * ins + i;
              sum += (x[(iy * in->w + ix) * in->c + o / (out->c / groups) * ins + i] + p->input_offset) * weights[tap * step + o * first_step];
            }
        int32_t value = requantised(sum, factors->multiplier[o], factors->shift[o]) + p->output_offset;
        *y++ = held(value, p->activation.min, p->activation.max);
      }
}

static int without_columns(const cmsis_nn_conv_params *p, const cmsis_nn_dims *in, const cmsis_nn_dims *filter) {
  return filter->h == 1 && filter->w == 1 && !p->padding.h && !p->padding.w && p->dilation.h == 1 && p->dilation.w == 1 && filter->c == in->c;
}
int32_t arm_convolve_wrapper_s8_get_buffer_size(const cmsis_nn_conv_params *params, const cmsis_nn_dims *in, const cmsis_nn_dims *filter,
                                                const cmsis_nn_dims *out) {
  (void)out;
  return without_columns(params, in, filter) ? 0 : 4 * ((filter->h * filter->w * in->c + 15) / 16 * 16);
}
arm_cmsis_nn_status arm_convolve_wrapper_s8(const cmsis_nn_context *context, const cmsis_nn_conv_params *params,
                                            const cmsis_nn_per_channel_quant_params *factors, const cmsis_nn_dims *in, const int8_t *x,
                                            const cmsis_nn_dims *filter, const int8_t *weights, const cmsis_nn_dims *biases,
                                            const int32_t *bias, const cmsis_nn_dims *out, int8_t *y) {
  int32_t size = arm_convolve_wrapper_s8_get_buffer_size(params, in, filter, out);
  int groups = in->c / filter->c, taps = filter->h * filter->w * filter->c;
  if (in->n != 1 || biases->n != out->c || filter->n != out->c || out->n != 1 || in->c % filter->c || out->c % groups) return ARM_CMSIS_NN_ARG_ERROR;
  if (size == 0 && ((out->h - 1) * params->stride.h >= in->h || (out->w - 1) * params->stride.w >= in->w)) return ARM_CMSIS_NN_ARG_ERROR;
  if (in->h == 1 && filter->h == 1 && size && filter->w > 1) return ARM_CMSIS_NN_ARG_ERROR; /* a signal that lies is a kernel of its own */
  if (size > context->size || (size && (uintptr_t)context->buf % 4)) return ARM_CMSIS_NN_ARG_ERROR;
  if (size) memset(context->buf, 0x55, (size_t)size);
  convolved(in, x, out, y, filter->h, filter->w, filter->c, groups, 1, taps, weights, bias, factors, params);
  return ARM_CMSIS_NN_SUCCESS;
}
int32_t arm_depthwise_conv_wrapper_s8_get_buffer_size(const cmsis_nn_dw_conv_params *params, const cmsis_nn_dims *in,
                                                      const cmsis_nn_dims *filter, const cmsis_nn_dims *out) {
  (void)params, (void)out;
  int32_t taps = filter->h * filter->w, column = 2 * in->c * taps, blocks = 4 * 124 * taps;
  return column > blocks ? column : blocks;
}
arm_cmsis_nn_status arm_depthwise_conv_wrapper_s8(const cmsis_nn_context *context, const cmsis_nn_dw_conv_params *params,
                                                  const cmsis_nn_per_channel_quant_params *factors, const cmsis_nn_dims *in,
                                                  const int8_t *x, const cmsis_nn_dims *filter, const int8_t *weights,
                                                  const cmsis_nn_dims *biases, const int32_t *bias, const cmsis_nn_dims *out, int8_t *y) {
  const cmsis_nn_dw_conv_params *p = params;
  int32_t size = arm_depthwise_conv_wrapper_s8_get_buffer_size(params, in, filter, out);
  const cmsis_nn_conv_params same = {p->input_offset, p->output_offset, p->stride, p->padding, p->dilation, p->activation};
  if (in->n != 1 || filter->n != 1 || biases->n != out->c || filter->c != out->c || in->c != out->c || p->ch_mult != 1) return ARM_CMSIS_NN_ARG_ERROR;
  if (p->dilation.h != 1 || p->dilation.w != 1) return ARM_CMSIS_NN_ARG_ERROR;
  if (filter->h == 3 && filter->w == 3 && (out->w - 1) * p->stride.w - p->padding.w + 1 >= in->w) return ARM_CMSIS_NN_ARG_ERROR;
  if (size > context->size || (uintptr_t)context->buf % 4) return ARM_CMSIS_NN_ARG_ERROR;
  memset(context->buf, 0x55, (size_t)size);
  convolved(in, x, out, y, filter->h, filter->w, 1, in->c, out->c, 1, weights, bias, factors, &same);
  return ARM_CMSIS_NN_SUCCESS;
}
arm_cmsis_nn_status arm_elementwise_add_s8(const int8_t *a, const int8_t *b, int32_t offset_a, int32_t number_a, int32_t shift_a,
                                           int32_t offset_b, int32_t number_b, int32_t shift_b, int32_t left, int8_t *y, int32_t offset,
                                           int32_t number, int32_t shift, int32_t low, int32_t high, int32_t n) {
  if (shift_a > 0 || shift_b > 0 || shift > 0) return ARM_CMSIS_NN_ARG_ERROR;
  calls++;
  for (; n--; a++, b++) {
    int64_t sum = requantised((int64_t)(*a + offset_a) * ((int64_t)1 << left), number_a, shift_a);
    sum += requantised((int64_t)(*b + offset_b) * ((int64_t)1 << left), number_b, shift_b);
    *y++ = held(requantised(sum, number, shift) + offset, low, high);
  }
  return ARM_CMSIS_NN_SUCCESS;
}
