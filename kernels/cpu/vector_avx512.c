/* Sixteen floats in one register. */
#include "../scalar.h"
#include "cpu.h"

#ifdef __x86_64__
#include <immintrin.h>

#define TARGET __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")))
#define NAME   "avx512"
#define OP     static inline __attribute__((always_inline)) TARGET

typedef __m512 v16;

OP v16 v16_zero(void) { return _mm512_setzero_ps(); }
OP v16 v16_set(float x) { return _mm512_set1_ps(x); }
OP v16 v16_load(const float *p) { return _mm512_loadu_ps(p); }
OP void v16_store(float *p, v16 x) { _mm512_storeu_ps(p, x); }
OP v16 v16_add(v16 x, v16 y) { return _mm512_add_ps(x, y); }
OP v16 v16_sub(v16 x, v16 y) { return _mm512_sub_ps(x, y); }
OP v16 v16_mul(v16 x, v16 y) { return _mm512_mul_ps(x, y); }
OP v16 v16_div(v16 x, v16 y) { return _mm512_div_ps(x, y); }
OP v16 v16_fma(v16 x, v16 y, v16 z) { return _mm512_fmadd_ps(x, y, z); }
OP v16 v16_abs(v16 x) { return _mm512_abs_ps(x); }
OP v16 v16_max(v16 x, v16 y) { return _mm512_max_ps(x, y); } /* x > y ? x : y */
OP v16 v16_min(v16 x, v16 y) { return _mm512_min_ps(x, y); } /* x < y ? x : y */

OP v16 v16_from_bf16(const uint16_t *p)
{
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

OP v16 v16_from_int8(const int8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

OP v16 v16_load_part(const float *p, int n)
{
    return _mm512_maskz_loadu_ps((__mmask16)((1 << n) - 1), p);
}

OP void v16_store_part(float *p, v16 x, int n)
{
    _mm512_mask_storeu_ps(p, (__mmask16)((1 << n) - 1), x);
}

OP v16 v16_if_negative(v16 x, v16 y, v16 z)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ), z, y);
}

/* p 2^n for the n in the low bits of `shifted`: see scalar_exp. */
OP v16 v16_times_power(v16 p, v16 shifted)
{
    const __m512i round = _mm512_castps_si512(_mm512_set1_ps(EXP_ROUND));
    const __m512i n = _mm512_sub_epi32(_mm512_castps_si512(shifted), round);
    const __m512i half = _mm512_srai_epi32(n, 1), bias = _mm512_set1_epi32(127);
    const __m512i a = _mm512_slli_epi32(_mm512_add_epi32(half, bias), 23);
    const __m512i b = _mm512_slli_epi32(_mm512_add_epi32(_mm512_sub_epi32(n, half), bias), 23);
    return _mm512_mul_ps(_mm512_mul_ps(p, _mm512_castsi512_ps(a)), _mm512_castsi512_ps(b));
}

/* Thirty-two registers: up to 24 accumulators, two panels' rows and a broadcast. Four to eight rows
 * wait for memory, and one panel at a time is what it gives fastest. */
#define TILES(block, tile)              \
    block(1, 1) block(1, 4) tile(1, 4)  \
    block(2, 1) block(2, 4) tile(2, 4)  \
    block(4, 1) tile(4, 1)              \
    block(6, 1) tile(6, 1)              \
    block(8, 1) tile(8, 1)  \
    block(12, 1) block(12, 2) tile(12, 2)
#define N_TILES 6
#include "vector.inc"

const struct vectors *vectors_avx512(void)
{
    __builtin_cpu_init();
    const bool all = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
                     && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
                     && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return all ? &vectors : NULL;
}
#else
const struct vectors *vectors_avx512(void)
{
    return NULL;
}
#endif
