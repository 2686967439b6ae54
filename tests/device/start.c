/* Just enough of a Cortex-M board for the emulator: vectors, memory set-up, files on the host (semihosting), an instruction clock. */
#include <stdint.h>
#include <string.h>

extern uint32_t stack_top, data_start, data_end, data_source, zero_start, zero_end;
int main(void);
void reset(void);
uint64_t ticks(void);

static int host(int call, void *argument) {
  register int r0 __asm__("r0") = call;
  register void *r1 __asm__("r1") = argument;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}
int host_open(const char *path, int mode) {
  uint32_t argument[3] = {(uint32_t)path, (uint32_t)mode, strlen(path)};
  return host(1, argument);
}
int host_read(int file, void *to, uint32_t n) { /* bytes read */
  uint32_t argument[3] = {(uint32_t)file, (uint32_t)to, n};
  return (int)n - host(6, argument);
}
void host_write(int file, const void *from, uint32_t n) {
  uint32_t argument[3] = {(uint32_t)file, (uint32_t)from, n};
  host(5, argument);
}
void host_close(int file) { host(2, &file); }
static void leave(uint32_t code) {
  uint32_t argument[2] = {0x20026, code};
  host(0x20, argument);
  for (;;) {}
}

static volatile uint32_t wraps;
static void on_tick(void) { wraps++; }
static void on_fault(void) { leave(99); }

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    &stack_top, reset, on_fault, on_fault, on_fault, on_fault, on_fault, 0, 0, 0, 0, on_fault, on_fault, 0, on_fault, on_tick};

void reset(void) {
  *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* coprocessor access: the FPU, where there is one */
  __asm__ volatile("dsb\nisb");
  memcpy(&data_start, &data_source, (size_t)((uint8_t *)&data_end - (uint8_t *)&data_start));
  memset(&zero_start, 0, (size_t)((uint8_t *)&zero_end - (uint8_t *)&zero_start));
  *(volatile uint32_t *)0xE000E014 = 0xFFFFFF; /* SysTick counts 24 bits down, 25 million times a second */
  *(volatile uint32_t *)0xE000E018 = 0;
  *(volatile uint32_t *)0xE000E010 = 7;
  leave((uint32_t)main());
}
uint64_t ticks(void) {
  uint32_t before, now;
  do {
    before = wraps;
    now = *(volatile uint32_t *)0xE000E018;
  } while (before != wraps);
  return ((uint64_t)before << 24) + (0xFFFFFF - now);
}
