static inline int32_t inverse(int32_t x) { /* 1 / (1 + x) for x in [0, 1], both with 31 fractional bits, by three of Newton's steps */
  int32_t half = (int32_t)(((int64_t)x + INT32_MAX + 1) / 2);
  int32_t found = 1515870810 + high_product(half, -1010580540);
  for (int k = 0; k < 3; k++) found += high_product(found, (1 << 29) - high_product(half, found)) * 4;
  return found >= 1 << 30 ? INT32_MAX : found * 2;
}
