/* What products and attention share: the inner loop; R rows by W columns are a thread's. */
#pragma once
#include "device.h"

/* The sum of the chunks so far and one more; the first as it is, since +0 plus -0 is +0. */
__device__ __forceinline__ float add_chunk(float sum, float partial, int k)
{
    return k == 0 ? partial : sum + partial;
}

/* W columns: fours that are APART. */
template <int W>
__device__ __forceinline__ void load_columns(float (&to)[W], const float *from, int apart = 4)
{
    static_assert(W == 1 || W % 4 == 0, "by loads of one or four");
    if constexpr (W == 1) {
        to[0] = *from;
    } else {
        UNROLL(4)
        for (int i = 0; i < W; i += 4) {
            const float4 four = *reinterpret_cast<const float4 *>(from + i / 4 * apart);
            to[i] = four.x, to[i + 1] = four.y, to[i + 2] = four.z, to[i + 3] = four.w;
        }
    }
}

/* p (R, W) += R rows of x, X floats apart, by W columns of w, whose k are Y floats apart and whose
 * fours `apart`; n_k of them by fours. Rows of x lie at 16 bytes, those of w too if W is not 1. */
template <int R, int W>
__device__ __forceinline__ void multiply_fours(float (&p)[R][W], const float *x, int X,
                                               const float *w, int Y, int n_k, int apart = 4)
{
    UNROLL(4)
    for (int k = 0; k < n_k; k += 4) {
        float a[R][4];
        UNROLL(8)
        for (int i = 0; i < R; i++)
            load_columns(a[i], x + i * X + k);
        UNROLL(4)
        for (int j = 0; j < 4; j++) {
            float b[W];
            load_columns(b, w + (k + j) * Y, apart);
            UNROLL(8)
            for (int i = 0; i < R; i++)
                UNROLL(8)
                for (int c = 0; c < W; c++)
                    p[i][c] = fmaf(a[i][j], b[c], p[i][c]);
        }
    }
}
