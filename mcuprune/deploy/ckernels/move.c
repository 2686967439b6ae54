/* A copy between places that both advance by regular steps. p: size, step of x and step of y of five nested axes. */
KERNEL void move(const int8_t *x, int8_t *y, const int32_t *p) {
  EFFECT;
  for (int a = 0; a < p[0]; a++)
    for (int b = 0; b < p[3]; b++)
      for (int c = 0; c < p[6]; c++)
        for (int d = 0; d < p[9]; d++) {
          const int8_t *from = x + a * p[1] + b * p[4] + c * p[7] + d * p[10];
          int8_t *to = y + a * p[2] + b * p[5] + c * p[8] + d * p[11];
          if (p[13] == 1 && p[14] == 1) memcpy(to, from, (size_t)p[12]);
          else for (int e = 0; e < p[12]; e++) to[e * p[14]] = from[e * p[13]];
        }
}
