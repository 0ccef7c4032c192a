/* Sixteen floats in two registers. */
#include "../scalar.h"
#include "cpu.h"

#ifdef __x86_64__
#include <immintrin.h>

#define TARGET __attribute__((target("avx2,fma")))
#define NAME   "avx2"
#define OP     static inline __attribute__((always_inline)) TARGET

typedef struct {
    __m256 a, b;
} v16;

OP v16 v16_of(__m256 a, __m256 b)
{
    const v16 x = {a, b};
    return x;
}

OP v16 v16_zero(void) { return v16_of(_mm256_setzero_ps(), _mm256_setzero_ps()); }
OP v16 v16_load(const float *p) { return v16_of(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)); }
OP v16 v16_add(v16 x, v16 y) { return v16_of(_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)); }
OP v16 v16_sub(v16 x, v16 y) { return v16_of(_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)); }
OP v16 v16_mul(v16 x, v16 y) { return v16_of(_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)); }
OP v16 v16_div(v16 x, v16 y) { return v16_of(_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)); }
/* x > y ? x : y, and x < y ? x : y */
OP v16 v16_max(v16 x, v16 y) { return v16_of(_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)); }
OP v16 v16_min(v16 x, v16 y) { return v16_of(_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)); }

OP v16 v16_set(float x)
{
    const __m256 y = _mm256_set1_ps(x);
    return v16_of(y, y);
}

OP void v16_store(float *p, v16 x)
{
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}

OP v16 v16_fma(v16 x, v16 y, v16 z)
{
    return v16_of(_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b));
}

OP v16 v16_abs(v16 x)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return v16_of(_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b));
}

OP __m256 from_bf16(const uint16_t *p)
{
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

OP __m256 from_int8(const int8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

OP v16 v16_from_bf16(const uint16_t *p) { return v16_of(from_bf16(p), from_bf16(p + 8)); }
OP v16 v16_from_int8(const int8_t *p) { return v16_of(from_int8(p), from_int8(p + 8)); }

OP __m256i first_of_8(int n)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane);
}

OP v16 v16_load_part(const float *p, int n)
{
    return v16_of(_mm256_maskload_ps(p, first_of_8(n)),
                  _mm256_maskload_ps(p + 8, first_of_8(n - 8)));
}

OP void v16_store_part(float *p, v16 x, int n)
{
    _mm256_maskstore_ps(p, first_of_8(n), x.a);
    _mm256_maskstore_ps(p + 8, first_of_8(n - 8), x.b);
}

OP __m256 if_negative(__m256 x, __m256 y, __m256 z)
{
    return _mm256_blendv_ps(z, y, _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_LT_OQ));
}

OP v16 v16_if_negative(v16 x, v16 y, v16 z)
{
    return v16_of(if_negative(x.a, y.a, z.a), if_negative(x.b, y.b, z.b));
}

/* p 2^n for the n in the low bits of `shifted`: see scalar_exp. */
OP __m256 times_power(__m256 p, __m256 shifted)
{
    const __m256i round = _mm256_castps_si256(_mm256_set1_ps(EXP_ROUND));
    const __m256i n = _mm256_sub_epi32(_mm256_castps_si256(shifted), round);
    const __m256i half = _mm256_srai_epi32(n, 1), bias = _mm256_set1_epi32(127);
    const __m256i a = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    const __m256i b = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(n, half), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(a)), _mm256_castsi256_ps(b));
}

OP v16 v16_times_power(v16 p, v16 shifted)
{
    return v16_of(times_power(p.a, shifted.a), times_power(p.b, shifted.b));
}

/* Sixteen registers: at most 12 accumulators, a panel's row and a broadcast. */
#define TILES(block, tile)                                                                        \
    block(1, 1) block(1, 4) tile(1, 4)                                                            \
    block(2, 1) block(2, 2) tile(2, 2)                                                            \
    block(4, 1) tile(4, 1)                                                                        \
    block(6, 1) tile(6, 1)
#define N_TILES 4
#include "vector.inc"

const struct vectors *vectors_avx2(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &vectors : NULL;
}
#else
const struct vectors *vectors_avx2(void)
{
    return NULL;
}
#endif
