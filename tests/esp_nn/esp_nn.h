/* As much of ESP-NN's interface as generated C uses. */
#ifndef ESP_NN_H
#define ESP_NN_H
#include "esp_nn_defs.h"
int esp_nn_get_conv_scratch_size(const data_dims_t *in, const data_dims_t *filter, const data_dims_t *out, const conv_params_t *params);
void esp_nn_set_conv_scratch_buf(const void *scratch);
void esp_nn_conv_s8(const data_dims_t *in, const int8_t *x, const data_dims_t *filter, const int8_t *weights, const int32_t *bias,
                    const data_dims_t *out, int8_t *y, const conv_params_t *params, const quant_data_t *factors);
int esp_nn_get_depthwise_conv_scratch_size(const data_dims_t *in, const data_dims_t *filter, const data_dims_t *out,
                                           const dw_conv_params_t *params);
void esp_nn_set_depthwise_conv_scratch_buf(const void *scratch);
void esp_nn_depthwise_conv_s8(const data_dims_t *in, const int8_t *x, const data_dims_t *filter, const int8_t *weights,
                              const int32_t *bias, const data_dims_t *out, int8_t *y, const dw_conv_params_t *params,
                              const quant_data_t *factors);
#endif
