/* Sixteen floats in plain C, for machines without the others: any processor, no haste. */
#include "../scalar.h"
#include "cpu.h"

#define TARGET
#define NAME "plain"
#define OP   static inline

typedef struct {
    float f[16];
} v16;

#define EACH(expression)          \
    v16 out;                      \
    for (int i = 0; i < 16; i++)  \
        out.f[i] = (expression);  \
    return out;

/* Not inlined: sixteen calls of fmaf in each place would only make the program long. */
static __attribute__((noinline)) v16 v16_fma(v16 x, v16 y, v16 z)
{
    EACH(fmaf(x.f[i], y.f[i], z.f[i]))
}

OP v16 v16_set(float x) { EACH(x) }
OP v16 v16_zero(void) { return v16_set(0.0f); }
OP v16 v16_load(const float *p) { EACH(p[i]) }
OP v16 v16_load_part(const float *p, int n) { EACH(i < n ? p[i] : 0.0f) }
OP v16 v16_from_bf16(const uint16_t *p) { EACH(scalar_from_bits((uint32_t)p[i] << 16)) }
OP v16 v16_from_int8(const int8_t *p) { EACH((float)p[i]) }
OP v16 v16_add(v16 x, v16 y) { EACH(x.f[i] + y.f[i]) }
OP v16 v16_sub(v16 x, v16 y) { EACH(x.f[i] - y.f[i]) }
OP v16 v16_mul(v16 x, v16 y) { EACH(x.f[i] * y.f[i]) }
OP v16 v16_div(v16 x, v16 y) { EACH(x.f[i] / y.f[i]) }
OP v16 v16_abs(v16 x) { EACH(fabsf(x.f[i])) }
OP v16 v16_max(v16 x, v16 y) { EACH(x.f[i] > y.f[i] ? x.f[i] : y.f[i]) }
OP v16 v16_min(v16 x, v16 y) { EACH(x.f[i] < y.f[i] ? x.f[i] : y.f[i]) }
OP v16 v16_if_negative(v16 x, v16 y, v16 z) { EACH(x.f[i] < 0 ? y.f[i] : z.f[i]) }

OP void v16_store(float *p, v16 x)
{
    memcpy(p, x.f, sizeof x.f);
}

OP void v16_store_part(float *p, v16 x, int n)
{
    memcpy(p, x.f, sizeof *p * (size_t)n);
}

/* p 2^n for the n in the low bits of `shifted`: see scalar_exp. */
OP v16 v16_times_power(v16 p, v16 shifted)
{
    EACH(scalar_times_power(p.f[i], shifted.f[i]))
}

#define TILES(block, tile) block(1, 1) tile(1, 1) block(4, 1) tile(4, 1)
#define N_TILES 2
#include "vector.inc"

const struct vectors *vectors_plain(void)
{
    return &vectors;
}
