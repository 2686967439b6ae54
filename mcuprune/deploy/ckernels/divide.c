/* a / b. p: zero points of a, b, output; the factor; low, high. What is divided by 0 is at the end on its side, 0 / 0 is 0. */
KERNEL void divide(const int8_t *a, const int8_t *b, int8_t *y, int n, int step_a, int step_b, const int32_t *p) {
  EFFECT;
  for (; n--; a += step_a, b += step_b) {
    int32_t over = *a - p[0], under = *b - p[1], quotient = 0;
    if (under < 0) over = -over, under = -under;
    if (!under) {
      quotient = over > 0 ? 255 : over < 0 ? -255 : 0;
    } else {
      int whole = 0, room = 31;
      while (under >> whole > 1) whole++;
      for (int32_t size = over < 0 ? ~over : over; size; size >>= 1) room--;
      int bits = whole + room - p[4];
      int32_t share = high_product((int32_t)((uint32_t)over << room), inverse((int32_t)(((uint32_t)under << (31 - whole)) - 0x80000000u)));
      if (bits < 32) quotient = shift_right(high_product(share, p[3]), bits); /* of more bits less than half a step is left */
    }
    *y++ = clamped(quotient + p[2], p[5], p[6]);
  }
}
