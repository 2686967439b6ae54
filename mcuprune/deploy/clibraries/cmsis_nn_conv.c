/* A convolution. */
KERNEL void cmsis_nn_conv(const int8_t *x, int8_t *y, const window_t *p, int8_t *scratch, int bytes) {
  CMSIS_NN_DIMS(p);
  const cmsis_nn_conv_params params = {-p->zero_in, p->zero_out, CMSIS_NN_TILES(p)};
  const cmsis_nn_dims filter = {p->out_channels, p->kernel_h, p->kernel_w, p->channels / p->groups};
  const cmsis_nn_context context = {scratch, bytes};
  REQUIRED(arm_convolve_wrapper_s8_get_buffer_size(&params, &in, &filter, &out) <= bytes);
  arm_cmsis_nn_status status = arm_convolve_wrapper_s8(&context, &params, &factors, &in, x, &filter, p->weights, &biases, b, &out, y);
  REQUIRED(status == ARM_CMSIS_NN_SUCCESS);
}
