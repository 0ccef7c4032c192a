/* The inner loop of `linear` and of attention: R rows by W columns of a product are a thread's,
 * from rows of x and a matrix w that lie in shared memory. */
#pragma once
#include "device.h"

/* The sum of the chunks so far and one more; the first as it is, since +0 plus -0 is +0. */
__device__ __forceinline__ float add_chunk(float sum, float partial, int k)
{
    return k == 0 ? partial : sum + partial;
}

template <int W> __device__ __forceinline__ void load_columns(float (&to)[W], const float *from)
{
    static_assert(W == 1 || W == 4, "by one load");
    if constexpr (W == 1) {
        to[0] = *from;
    } else {
        const float4 four = *reinterpret_cast<const float4 *>(from);
        to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
    }
}

/* p (R, W) += R rows of x, X floats apart, by W columns of w, whose k are Y floats apart; n_k of
 * them by fours. Rows of x lie at 16 bytes, so do those of w if W is 4. */
template <int R, int W>
__device__ __forceinline__ void multiply_fours(float (&p)[R][W], const float *x, int X,
                                               const float *w, int Y, int n_k)
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
            load_columns(b, w + (k + j) * Y);
            UNROLL(8)
            for (int i = 0; i < R; i++)
                UNROLL(4)
                for (int c = 0; c < W; c++)
                    p[i][c] = fmaf(a[i][j], b[c], p[i][c]);
        }
    }
}

/* The same one by one, for what is left. */
template <int R, int W>
__device__ __forceinline__ void multiply_ones(float (&p)[R][W], const float *x, int X,
                                              const float *w, int Y, int n_k)
{
    for (int k = 0; k < n_k; k++) {
        float b[W];
        load_columns(b, w + k * Y);
        UNROLL(8)
        for (int i = 0; i < R; i++)
            UNROLL(4)
            for (int c = 0; c < W; c++)
                p[i][c] = fmaf(x[i * X + k], b[c], p[i][c]);
    }
}
