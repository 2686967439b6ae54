/* Kernels of ESP-NN. Of a layer that one computes, bias_number has the biases of all output channels, then the numbers of their factors,
   then the shifts. Where the library asks for more scratch than was planned, the program stops rather than overwrite what is kept. */
#include "esp_nn.h"
#include "esp_nn_defs.h"
#if defined(CONFIG_NN_SKIP_NUDGE) || defined(SKIP_NUDGE)
#error "CONFIG_NN_SKIP_NUDGE changes results: these are rounded as TensorFlow Lite's are"
#endif
#define ESP_NN_DIMS(p) \
  const data_dims_t in = {p->width, p->height, p->channels, 1}, out = {p->out_width, p->out_height, p->out_channels, 1}; \
  const int32_t *const b = p->bias_number; \
  const quant_data_t factors = {(int32_t *)b + 2 * p->out_channels, (int32_t *)b + p->out_channels}
#define ESP_NN_TILES(p) \
  {p->stride_w, p->stride_h}, {p->pad_w, p->pad_h}, {p->dilation_w, p->dilation_h}, {p->low, p->high}
