/* The bytes of y in another order, where they lie: what move copies to y from a copy of it, which fills it. Along each cycle of bytes that
   follow each other bytes are swapped, from the cycle's lowest place on. p: as of move. */
static inline int32_t origin(int32_t to, const int32_t *p, int axes) { /* where the bytes lay that come to a place */
  int32_t from = 0;
  for (int a = 3 * axes - 3; a >= 0; to /= p[a], a -= 3) from += to % p[a] * p[a + 1];
  return from;
}
KERNEL void turn(int8_t *y, const int32_t *p) {
  EFFECT;
  const int axes = p[13] == 1 && p[14] == 1 ? 4 : 5, size = axes == 4 ? p[12] : 1;
  int32_t n = 1;
  for (int a = 0; a < axes; a++) n *= p[3 * a];
  for (int32_t start = 0; start < n; start++) {
    int32_t from = origin(start, p, axes) / size;
    while (from > start) from = origin(from, p, axes) / size;
    if (from < start) continue;
    for (int32_t to = start; (from = origin(to, p, axes) / size) != start; to = from) {
      for (int i = 0; i < size; i++) {
        int8_t other = y[from * size + i];
        y[from * size + i] = y[to * size + i];
        y[to * size + i] = other;
      }
    }
  }
}
