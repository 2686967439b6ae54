/* Kernels of CMSIS-NN. Of a layer that one computes, bias_number has the biases of all output channels, then the numbers of their factors,
   then the shifts. Where the library refuses a layer, or asks for more scratch than was planned, the program stops rather than go on with
   wrong numbers. */
#include "arm_nnfunctions.h"
#ifdef CMSIS_NN_USE_SINGLE_ROUNDING
#error "CMSIS_NN_USE_SINGLE_ROUNDING changes results: these are rounded twice, as TensorFlow Lite's are"
#endif
#ifdef __GNUC__
#define REQUIRED(condition) do { if (!(condition)) __builtin_trap(); } while (0)
#else
#define REQUIRED(condition) while (!(condition)) {}
#endif
#define CMSIS_NN_DIMS(p) \
  const cmsis_nn_dims in = {1, p->height, p->width, p->channels}, out = {1, p->out_height, p->out_width, p->out_channels}; \
  const cmsis_nn_dims biases = {p->out_channels, 1, 1, 1}; \
  const int32_t *const b = p->bias_number; \
  const cmsis_nn_per_channel_quant_params factors = {(int32_t *)b + p->out_channels, (int32_t *)b + 2 * p->out_channels}
#define CMSIS_NN_TILES(p) \
  {p->stride_w, p->stride_h}, {p->pad_w, p->pad_h}, {p->dilation_w, p->dilation_h}, {p->low, p->high}
