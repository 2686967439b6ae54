/* Cores with DSP instructions take two bytes of every word at a time, widened to halfwords; SXTAB16 subtracts the input's zero point on
   the way. NAME_PORTABLE leaves that out: the same bytes come from plain C. */
#if defined(__ARM_FEATURE_DSP) && !defined(__ARM_BIG_ENDIAN) && !defined(NAME_PORTABLE)
#include <arm_acle.h>
#define NAME_DSP 1
static inline uint32_t word(const int8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; }
#if defined(__GNUC__) && defined(__arm__) /* the rotation is a part of the instruction, and SMMULR has no intrinsic */
static inline uint32_t even(uint32_t v) { uint32_t r; __asm__("sxtb16 %0, %1" : "=r"(r) : "r"(v)); return r; }
static inline uint32_t odd(uint32_t v) { uint32_t r; __asm__("sxtb16 %0, %1, ror #8" : "=r"(r) : "r"(v)); return r; }
static inline uint32_t even_plus(uint32_t a, uint32_t v) { uint32_t r; __asm__("sxtab16 %0, %1, %2" : "=r"(r) : "r"(a), "r"(v)); return r; }
static inline uint32_t odd_plus(uint32_t a, uint32_t v) { uint32_t r; __asm__("sxtab16 %0, %1, %2, ror #8" : "=r"(r) : "r"(a), "r"(v)); return r; }
static inline int32_t upper_half(int32_t a, int32_t b) { int32_t r; __asm__("smmulr %0, %1, %2" : "=r"(r) : "r"(a), "r"(b)); return r; }
#else
static inline uint32_t even(uint32_t v) { return (uint32_t)__sxtb16((int8x4_t)v); }
static inline uint32_t odd(uint32_t v) { return (uint32_t)__sxtb16((int8x4_t)__ror(v, 8)); }
static inline uint32_t even_plus(uint32_t a, uint32_t v) { return (uint32_t)__sxtab16((int16x2_t)a, (int8x4_t)v); }
static inline uint32_t odd_plus(uint32_t a, uint32_t v) { return (uint32_t)__sxtab16((int16x2_t)a, (int8x4_t)__ror(v, 8)); }
#endif
#define MAC2(sum, a, b) sum = __smlad((int16x2_t)(a), (int16x2_t)(b), sum)
#endif
