/* A depthwise convolution of one output a channel. */
KERNEL void esp_nn_depthwise(const int8_t *x, int8_t *y, const window_t *p, int8_t *scratch, int bytes) {
  ESP_NN_DIMS(p);
  const dw_conv_params_t params = {-p->zero_in, p->zero_out, 1, ESP_NN_TILES(p)};
  const data_dims_t filter = {p->kernel_w, p->kernel_h, p->channels, 0};
  if (esp_nn_get_depthwise_conv_scratch_size(&in, &filter, &out, &params) > bytes) __builtin_trap();
  esp_nn_set_depthwise_conv_scratch_buf(scratch);
  esp_nn_depthwise_conv_s8(&in, x, &filter, p->weights, b, &out, y, &params, &factors);
}
