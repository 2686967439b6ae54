/* Slices of the middle of (outer, size, inner), by a list of n indices. */
KERNEL void pick(const int8_t *x, int8_t *y, int outer, int size, int inner, const int16_t *indices, int n) {
  EFFECT;
  for (; outer--; x += size * inner)
    for (int i = 0; i < n; i++, y += inner) memcpy(y, x + indices[i] * inner, (size_t)inner);
}
