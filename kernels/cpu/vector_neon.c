/* Sixteen floats in four registers. */
#include "../scalar.h"
#include "cpu.h"

#ifdef __aarch64__
#include <arm_neon.h>

#define TARGET
#define NAME "neon"
#define OP   static inline __attribute__((always_inline))

typedef struct {
    float32x4_t a, b, c, d;
} v16;

#define EACH(f, ...) \
    return (v16) { f(a, __VA_ARGS__), f(b, __VA_ARGS__), f(c, __VA_ARGS__), f(d, __VA_ARGS__) }

OP v16 v16_set(float x)
{
    const float32x4_t y = vdupq_n_f32(x);
    return (v16){y, y, y, y};
}

OP v16 v16_zero(void) { return v16_set(0.0f); }

OP v16 v16_load(const float *p)
{
    return (v16){vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
}

OP void v16_store(float *p, v16 x)
{
    vst1q_f32(p, x.a);
    vst1q_f32(p + 4, x.b);
    vst1q_f32(p + 8, x.c);
    vst1q_f32(p + 12, x.d);
}

#define OF_ONE(q, f, x)         f(x.q)
#define OF_TWO(q, f, x, y)      f(x.q, y.q)
#define OF_THREE(q, f, x, y, z) f(x.q, y.q, z.q)

OP v16 v16_add(v16 x, v16 y) { EACH(OF_TWO, vaddq_f32, x, y); }
OP v16 v16_sub(v16 x, v16 y) { EACH(OF_TWO, vsubq_f32, x, y); }
OP v16 v16_mul(v16 x, v16 y) { EACH(OF_TWO, vmulq_f32, x, y); }
OP v16 v16_div(v16 x, v16 y) { EACH(OF_TWO, vdivq_f32, x, y); }
OP v16 v16_fma(v16 x, v16 y, v16 z) { EACH(OF_THREE, vfmaq_f32, z, x, y); }
OP v16 v16_abs(v16 x) { EACH(OF_ONE, vabsq_f32, x); }

/* Not vmaxq_f32 and vminq_f32, which prefer a NaN and +0. */
OP float32x4_t greater(float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }
OP float32x4_t less(float32x4_t x, float32x4_t y) { return vbslq_f32(vcltq_f32(x, y), x, y); }

OP v16 v16_max(v16 x, v16 y) { EACH(OF_TWO, greater, x, y); } /* x > y ? x : y */
OP v16 v16_min(v16 x, v16 y) { EACH(OF_TWO, less, x, y); }    /* x < y ? x : y */

OP float32x4_t if_negative(float32x4_t x, float32x4_t y, float32x4_t z)
{
    return vbslq_f32(vcltzq_f32(x), y, z);
}

OP v16 v16_if_negative(v16 x, v16 y, v16 z) { EACH(OF_THREE, if_negative, x, y, z); }

OP float32x4_t from_bf16(uint16x4_t x) { return vreinterpretq_f32_u32(vshll_n_u16(x, 16)); }

OP v16 v16_from_bf16(const uint16_t *p)
{
    return (v16){from_bf16(vld1_u16(p)), from_bf16(vld1_u16(p + 4)), from_bf16(vld1_u16(p + 8)),
                 from_bf16(vld1_u16(p + 12))};
}

OP float32x4_t from_int16(int16x4_t x) { return vcvtq_f32_s32(vmovl_s16(x)); }

OP v16 v16_from_int8(const int8_t *p)
{
    const int8x16_t x = vld1q_s8(p);
    const int16x8_t low = vmovl_s8(vget_low_s8(x)), high = vmovl_s8(vget_high_s8(x));
    return (v16){from_int16(vget_low_s16(low)), from_int16(vget_high_s16(low)),
                 from_int16(vget_low_s16(high)), from_int16(vget_high_s16(high))};
}

OP v16 v16_load_part(const float *p, int n)
{
    float all[16] = {0};
    memcpy(all, p, sizeof *p * (size_t)n);
    return v16_load(all);
}

OP void v16_store_part(float *p, v16 x, int n)
{
    float all[16];
    v16_store(all, x);
    memcpy(p, all, sizeof *p * (size_t)n);
}

/* p 2^n for the n in the low bits of `shifted`: see scalar_exp. */
OP float32x4_t times_power(float32x4_t p, float32x4_t shifted)
{
    const int32x4_t round = vreinterpretq_s32_f32(vdupq_n_f32(EXP_ROUND));
    const int32x4_t n = vsubq_s32(vreinterpretq_s32_f32(shifted), round);
    const int32x4_t half = vshrq_n_s32(n, 1), bias = vdupq_n_s32(127);
    const int32x4_t a = vshlq_n_s32(vaddq_s32(half, bias), 23);
    const int32x4_t b = vshlq_n_s32(vaddq_s32(vsubq_s32(n, half), bias), 23);
    return vmulq_f32(vmulq_f32(p, vreinterpretq_f32_s32(a)), vreinterpretq_f32_s32(b));
}

OP v16 v16_times_power(v16 p, v16 shifted) { EACH(OF_TWO, times_power, p, shifted); }
#undef EACH

/* Thirty-two registers: at most 24 with accumulators, four with a panel's row and a broadcast. */
#define TILES(block, tile)                                                                        \
    block(1, 1) block(1, 4) tile(1, 4)                                                            \
    block(2, 1) block(2, 2) tile(2, 2)                                                            \
    block(4, 1) tile(4, 1)                                                                        \
    block(6, 1) tile(6, 1)
#define N_TILES 4
#include "vector.inc"

const struct vectors *vectors_neon(void)
{
    return &vectors;
}
#else
const struct vectors *vectors_neon(void)
{
    return NULL;
}
#endif
