/* What the products share: copies of rows and columns to shared memory, a slice of k each, and the
 * inner loop of the exact ones, in which R rows by W columns are a thread's. */
#pragma once
#include "device.h"

/* The sum of the chunks so far and one more; the first as it is, since +0 plus -0 is +0. */
__device__ __forceinline__ float add_chunk(float sum, float partial, int k)
{
    return k == 0 ? partial : sum + partial;
}

/* All stage slices of k in shared memory, by copies that run while earlier slices are multiplied.
 * Rows of x are PITCH apart there: four more than a slice against bank conflicts. */
constexpr int SLICE = 16, PITCH = SLICE + 4, SLICES = CHUNK / SLICE;

struct rows {
    const float *data; /* [n][K] */
    int n, K;
    bool is_aligned; /* each row lies at 16 bytes */
};

static inline struct rows rows_of(const float *x, int n, int K)
{
    return {x, n, K, K % 4 == 0 && reinterpret_cast<uintptr_t>(x) % 16 == 0};
}

/* What stands behind the last k of the last slice. */
enum behind { BEHIND_unused, BEHIND_zeros };

/* Begins to copy `ROWS` rows of x from `row` on, a slice of k each, by THREADS threads of which
 * this is `t`. Past the last row it is the last again: nobody uses those. */
template <int ROWS, int THREADS, enum behind B, int FLOATS>
__device__ __forceinline__ void fetch_pieces(float *to, int pitch, const struct rows &x, int row,
                                             int k, int t)
{
    UNROLL(1)
    for (int i = t; i < ROWS * SLICE / FLOATS; i += THREADS) {
        const int r = i / (SLICE / FLOATS), j = i % (SLICE / FLOATS) * FLOATS;
        const size_t from = row + r < x.n ? (size_t)(row + r) : (size_t)(x.n - 1);
        if (k + j < x.K)
            COPY_ASYNC(to + r * pitch + j, x.data + from * (size_t)x.K + (size_t)(k + j),
                       FLOATS * sizeof(float));
        else if (B == BEHIND_zeros)
            for (int f = 0; f < FLOATS; f++)
                to[r * pitch + j + f] = 0;
    }
}

template <int ROWS, int THREADS, enum behind B>
__device__ __forceinline__ void fetch_rows(float *to, int pitch, const struct rows &x, int row,
                                           int k, int t)
{
    if (x.is_aligned)
        fetch_pieces<ROWS, THREADS, B, 4>(to, pitch, x, row, k, t);
    else
        fetch_pieces<ROWS, THREADS, B, 1>(to, pitch, x, row, k, t);
}

/* The same for four columns at a time of a row-major matrix, its rows `stride` apart: N_K rows from
 * `k` on, of K in all, and COLUMNS columns, of which `place` says where in a row four begin. */
template <int N_K, int COLUMNS, int THREADS, enum behind B, class T, class P>
__device__ __forceinline__ void fetch_columns(T *to, int pitch, const T *w, int stride, int k,
                                              int K, const P &place, int t)
{
    static_assert(sizeof(T) == 4, "a word an element");
    for (int i = t; i < N_K * COLUMNS / 4; i += THREADS) {
        const int j = i / (COLUMNS / 4), n = i % (COLUMNS / 4) * 4;
        if (k + j < K)
            COPY_ASYNC(to + j * pitch + n, w + (size_t)(k + j) * (size_t)stride + place(n),
                       4 * sizeof *to);
        else if (B == BEHIND_zeros)
            for (int f = 0; f < 4; f++)
                to[j * pitch + n + f] = 0;
    }
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

/* The same one by one, for what is left. */
template <int R, int W>
__device__ __forceinline__ void multiply_ones(float (&p)[R][W], const float *x, int X,
                                              const float *w, int Y, int n_k, int apart = 4)
{
    UNROLL(1)
    for (int k = 0; k < n_k; k++) {
        float b[W];
        load_columns(b, w + k * Y, apart);
        UNROLL(8)
        for (int i = 0; i < R; i++)
            UNROLL(8)
            for (int c = 0; c < W; c++)
                p[i][c] = fmaf(x[i * X + k], b[c], p[i][c]);
    }
}
