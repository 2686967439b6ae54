/* a + b of n numbers each. p: zero points of a, b, output; three factors; low, high. */
KERNEL void cmsis_nn_add(const int8_t *a, const int8_t *b, int8_t *y, int n, const int32_t *p) {
  arm_cmsis_nn_status status =
      arm_elementwise_add_s8(a, b, -p[0], p[3], p[4], -p[1], p[5], p[6], 20, y, p[2], p[7], p[8], p[9], p[10], n);
  REQUIRED(status == ARM_CMSIS_NN_SUCCESS);
}
