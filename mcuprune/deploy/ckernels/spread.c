/* Pixels of ``size`` numbers each, which stand side by side at the end of y, moved apart: every pixel gets the first ``before`` of the
   numbers ``around`` in front of it and the other ``behind`` of them at its end. No pixel is written over one that is still to be moved. */
KERNEL void spread(int8_t *y, int pixels, int size, const int8_t *around, int before, int behind) {
  EFFECT;
  const int8_t *from = y + pixels * (before + behind);
  for (; pixels > 0; pixels--, from += size) {
    memmove(y + before, from, (size_t)size);
    memcpy(y, around, (size_t)before);
    memcpy(y + before + size, around + before, (size_t)behind);
    y += before + size + behind;
  }
}
