/* Products of small matrices by a whole warp, on the tensor cores of a GPU: d (16, 8) +=
 * a (16, K) @ b (K, 8), sums in float32. The one file with assembly; beside each instruction
 * stands what it means, which the emulator runs. Of a tf32 operand only the upper 19 bits count.
 *
 * Where the elements lie, with g = lane / 4 and t = lane % 4 (PTX ISA, mma.m16n8k8 and m16n8k16):
 *   d[0], d[1]      row g, columns 2t and 2t + 1;  d[2], d[3]  the same of row g + 8
 *   tf32, K = 8     a[0] (g, t)   a[1] (g + 8, t)   a[2] (g, t + 4)   a[3] (g + 8, t + 4)
 *                   b[0] (t, g)   b[1] (t + 4, g)
 *   bf16, K = 16    the same with pairs: k = 2t and 2t + 1 for t, 8 more for t + 4; the lower half
 *                   of a register has the even k
 */
#pragma once
#include "device.h"

__device__ __forceinline__ uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

__device__ __forceinline__ float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The nearest bfloat16, ties to even, in the lower 16 bits. */
__device__ __forceinline__ uint32_t to_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x != x)
        return bits >> 16 | 0x40u;
    return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

__device__ __forceinline__ uint32_t bf16_pair(float even, float odd)
{
    return to_bf16(even) | to_bf16(odd) << 16;
}

/* One of a pair: the even one's half is 0. */
__device__ __forceinline__ float bf16_of(uint32_t pair, int half)
{
    const uint32_t bits = half ? pair & 0xffff0000u : pair << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The nearest number with 10 bits behind the point, ties away from zero, as cvt.rna.tf32 finds it,
 * in the bits of a tf32 operand that count. An infinity stays one. */
constexpr uint32_t TF32_HALF = 0x1000, TF32_BITS = 0xffffe000;

__device__ __forceinline__ uint32_t nearest_tf32(float x)
{
    return bits_of(x) + (x == x ? TF32_HALF : 0);
}

/* The tf32 nearest to x, and what that leaves: nothing of an infinity. */
__device__ __forceinline__ void split_tf32(uint32_t *high, uint32_t *low, float x)
{
    const bool is_finite = fabsf(x) < INFINITY;
    *high = (bits_of(x) + (is_finite ? TF32_HALF : 0)) & TF32_BITS;
    *low = is_finite ? bits_of(x - float_of(*high)) : 0;
}

/* A weight that tensor cores multiply by lies in words. Each is the bf16 of an even k and above it
 * that of the next, or the nearest tf32 of an element, with the bits below it such that the element
 * can be had back. Words lie by slices of WORDS, in each one column behind the other. Behind the
 * last k are zeros, up to a whole chunk. */
constexpr int WORDS = 16;

__device__ __forceinline__ uint32_t tf32_word(float x)
{
    return x == x ? nearest_tf32(x) : 0x7fffffffu;
}

__device__ __forceinline__ float tf32_whole(uint32_t word)
{
    return float_of(word - TF32_HALF);
}

/* The number at a place of the row-major (K, N), which is another one of what is stored. */
__device__ __forceinline__ float weight_at(const struct weight &w, int64_t place)
{
    const int64_t k = place / w.N, n = place % w.N;
    if (w.data)
        return w.data[k * w.stride + n];
    const int64_t i = k / w.each;
    const uint32_t word = w.words[(i / WORDS * w.N + n) * WORDS + i % WORDS];
    return w.each == 2 ? bf16_of(word, (int)(k % 2)) : tf32_whole(word);
}

#ifdef __CUDACC__
__device__ __forceinline__ uint32_t nearest_bf16(float even, float odd)
{
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(odd), "f"(even));
    return pair;
}

/* a as mma wants it, from shared memory: lane l says where row l % 16 begins, for the upper half
 * of the lanes 4 words further, at 16 bytes each. */
__device__ __forceinline__ void load_matrix(uint32_t (&a)[4], const float *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                 : "r"((unsigned)__cvta_generic_to_shared(row)));
}

__device__ __forceinline__ void mma_tf32(float (&d)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[2])
{
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[2])
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#else
static inline uint32_t nearest_bf16(float even, float odd)
{
    return bf16_pair(even, odd);
}

static inline void load_matrix(uint32_t (&a)[4], const float *row)
{
    const int lane = (int)threadIdx.x % 32;
    for (int i = 0; i < 4; i++)
        a[i] = bits_of(__shfl_sync(ALL_LANES, row, 8 * i + lane / 4, 32)[lane % 4]);
}

/* The registers' elements as float32: one of tf32, two of bf16. */
static inline float element(uint32_t bits, int half, bool is_pair)
{
    if (is_pair)
        return bf16_of(bits, half);
    float x;
    bits &= 0xffffe000u;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* What each thread of the block multiplies now. */
static struct operands {
    const uint32_t *a, *b;
} all_operands[1024];

/* Lanes meet, as a shuffle lets them. */
static inline void meet(void)
{
    (void)__shfl_sync(ALL_LANES, 0, 0, 32);
}

/* Sums in ascending k: a GPU's own order within an instruction is not documented. Once, and not in
 * each place that calls it, or the host's compiler would take minutes. Not traced: what it reads
 * are registers. */
__attribute__((noinline, no_sanitize("thread"))) static void mma(float (&d)[4],
                                                                 const uint32_t (&a)[4],
                                                                 const uint32_t (&b)[2],
                                                                 bool is_pair)
{
    const int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    struct operands *const warp = all_operands + (threadIdx.x - (unsigned)lane);
    warp[lane] = {a, b};
    meet();
    for (int half = 0; half < 2; half++)
        for (int k = 0; k < 4; k++)
            for (int i = 0; i < 1 + is_pair; i++)
                for (int j = 0; j < 4; j++)
                    d[j] = fmaf(element(warp[g * 4 + k].a[2 * half + j / 2], i, is_pair),
                                element(warp[8 * t + j % 2 * 4 + k].b[half], i, is_pair), d[j]);
    meet();
}

static inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    mma(d, a, b, false);
}

static inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    mma(d, a, b, true);
}
#endif
