/* Products of small matrices by a whole warp, on the tensor cores of a GPU: d (16, 8) +=
 * a (16, K) @ b (K, 8), sums in float32. The one file with assembly; beside each instruction
 * stands what it means, which the emulator runs.
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

/* The nearest number with 10 bits behind the point, ties away from zero, as cvt.rna.tf32 does. */
__device__ __forceinline__ float to_tf32(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7f800000u) != 0x7f800000u)
        bits = (bits + 0x1000u) & 0xffffe000u;
    memcpy(&x, &bits, sizeof bits);
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

/* The number at a place of the row-major (K, N), which is another one of what is stored. */
__device__ __forceinline__ float weight_at(const struct weight &w, int64_t place)
{
    const int64_t k = place / w.N, n = place % w.N;
    return w.data ? w.data[k * w.stride + n]
                  : bf16_of(w.pairs[k / 2 * w.stride + n], (int)(k % 2));
}

__device__ __forceinline__ uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

#ifdef __CUDACC__
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

/* Sums in ascending k: a GPU's own order within an instruction is not documented. */
static inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bool is_pair)
{
    const int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    for (int half = 0; half < 2; half++)
        for (int k = 0; k < 4; k++) {
            const uint32_t row = __shfl_sync(ALL_LANES, a[2 * half], g * 4 + k, 32);
            const uint32_t low = __shfl_sync(ALL_LANES, a[2 * half + 1], g * 4 + k, 32);
            const uint32_t left = __shfl_sync(ALL_LANES, b[half], 8 * t + k, 32);
            const uint32_t right = __shfl_sync(ALL_LANES, b[half], 8 * t + 4 + k, 32);
            for (int i = 0; i < 1 + is_pair; i++) {
                const float x[2] = {element(row, i, is_pair), element(low, i, is_pair)};
                const float y[2] = {element(left, i, is_pair), element(right, i, is_pair)};
                for (int j = 0; j < 4; j++)
                    d[j] = fmaf(x[j / 2], y[j % 2], d[j]);
            }
        }
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
