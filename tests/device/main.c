/* Runs every example of in.bin through the network, writes out.bin, and reports instructions and stack in report.bin. */
#include <stdint.h>
#include "net.h"

int host_open(const char *path, int mode), host_read(int file, void *to, uint32_t n);
void host_write(int file, const void *from, uint32_t n), host_close(int file);
uint64_t ticks(void);

static int8_t inputs[IN_BYTES], outputs[OUT_BYTES];
static const int8_t *ins[NET_INPUTS];
static int8_t *outs[NET_OUTPUTS];
static const uint32_t in_sizes[] = {IN_SIZES}, out_sizes[] = {OUT_SIZES};

#define PAINTED 8192
int main(void) {
  uint32_t report[3] = {0, 0, 0};
  uint64_t total = 0;
  int from = host_open("in.bin", 1), to = host_open("out.bin", 5), told;
  const int8_t *in = inputs;
  int8_t *out = outputs;
  for (int i = 0; i < NET_INPUTS; in += in_sizes[i++]) ins[i] = in;
  for (int i = 0; i < NET_OUTPUTS; out += out_sizes[i++]) outs[i] = out;
  while (host_read(from, inputs, IN_BYTES) == IN_BYTES) {
    volatile uint8_t *top, *bottom;
    __asm__ volatile("mov %0, sp" : "=r"(top));
    bottom = top - PAINTED;
    for (volatile uint8_t *p = bottom; p < top; p++) *p = 0xA5;
    uint64_t start = ticks();
    net_invoke(ins, outs);
    uint64_t stop = ticks();
    total += stop - start;
    volatile uint8_t *deepest = bottom;
    while (deepest < top && *deepest == 0xA5) deepest++;
    if (start >> 24 == stop >> 24 && (uint32_t)(top - deepest) > report[1]) /* else the clock's interrupt stood on it, too */
      report[1] = (uint32_t)(top - deepest);
    host_write(to, outputs, OUT_BYTES);
    report[0]++;
  }
  report[2] = (uint32_t)(total / (report[0] ? report[0] : 1)); /* 40 instructions a tick */
  host_close(to);
  told = host_open("report.bin", 5);
  host_write(told, report, sizeof report);
  host_close(told);
  return 0;
}
