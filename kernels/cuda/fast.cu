/* `linear` on tensor cores, for who asks for a faster precision than the exact one. Operands are
 * rounded, sums are float32:
 *
 *   tf32x3   each operand is a tf32 and the tf32 of what is left: three products, as accurate as
 *            float32's
 *   tf32     each operand is a tf32
 *   bf16     each operand is a bfloat16
 *
 * The order is again a function of the weight's shape alone: a chunk of 64 k is a row of mma
 * instructions by ascending k from +0, then the chunks' sums in order. So an element's bits do not
 * depend on the number of rows, as in the exact tier; but they are this GPU's, since within an
 * instruction the order is the hardware's.
 */
#include "fragment.h"

constexpr int MMA_ROWS = 16, MMA_COLUMNS = 8, STEP = 16;

/* Which column of the weight makes column n of the product: the same, or that of a panel. Columns
 * past the last are nobody's: -1. */
struct columns {
    const int32_t *panels; /* or NULL */
    int N, n_out;
};

__device__ __forceinline__ int source_of(const struct columns &c, int n)
{
    const int from = n >= c.n_out ? -1 : c.panels ? c.panels[n / LANES] * LANES + n % LANES : n;
    return from < c.N ? from : -1;
}

/* p (16, 8) += a (16, STEP) @ b (STEP, 8): `a` and `b` give the element at (row or k, k or
 * column). */
template <class A, class B>
__device__ __forceinline__ void multiply_bf16(float (&p)[4], const A &a, const B &b)
{
    const int g = (int)threadIdx.x % 32 / 4, k = (int)threadIdx.x % 4 * 2;
    const uint32_t x[4] = {bf16_pair(a(g, k), a(g, k + 1)), bf16_pair(a(g + 8, k), a(g + 8, k + 1)),
                           bf16_pair(a(g, k + 8), a(g, k + 9)),
                           bf16_pair(a(g + 8, k + 8), a(g + 8, k + 9))};
    const uint32_t y[2] = {bf16_pair(b(k, g), b(k + 1, g)), bf16_pair(b(k + 8, g), b(k + 9, g))};
    mma_bf16(p, x, y);
}

/* The tf32 of each number, and of what that leaves: nothing of an infinity. */
template <int N>
__device__ __forceinline__ void split(uint32_t (&high)[N], uint32_t (&low)[N], const float (&x)[N])
{
    UNROLL(4)
    for (int i = 0; i < N; i++) {
        const float near = to_tf32(x[i]), left = x[i] - near;
        high[i] = bits_of(near);
        low[i] = left == left ? bits_of(to_tf32(left)) : 0;
    }
}

template <bool THREE, class A, class B>
__device__ __forceinline__ void multiply_tf32(float (&p)[4], const A &a, const B &b)
{
    const int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
    UNROLL(2)
    for (int first = 0; first < STEP; first += 8) {
        const int k = first + t;
        const float x[4] = {a(g, k), a(g + 8, k), a(g, k + 4), a(g + 8, k + 4)};
        const float y[2] = {b(k, g), b(k + 4, g)};
        uint32_t x_high[4], x_low[4], y_high[2], y_low[2];
        split(x_high, x_low, x);
        split(y_high, y_low, y);
        if (THREE) {
            mma_tf32(p, x_low, y_high);
            mma_tf32(p, x_high, y_low);
        }
        mma_tf32(p, x_high, y_high);
    }
}

template <enum precision P, class A, class B>
__device__ __forceinline__ void multiply(float (&p)[4], const A &a, const B &b)
{
    if constexpr (P == PRECISION_bf16)
        multiply_bf16(p, a, b);
    else
        multiply_tf32<P == PRECISION_tf32x3>(p, a, b);
}

struct fast {
    float *out;
    const float *x, *bias, *residual, *weights;
    struct columns columns;
    int stride, K, n_rows;
};

/* At most 16 rows: a warp takes 16 columns by one chunk of k, so that each weight is read once, and
 * FAST_WARPS chunks are multiplied side by side. Grid: columns by 16. */
constexpr int FAST_WARPS = 8, FAST_COLUMNS = 2 * MMA_COLUMNS;

template <enum precision P, enum epilogue E>
__global__ void __launch_bounds__(FAST_WARPS * 32, 1) fast_few_kernel(struct fast f)
{
    SHARED(float, partials, [FAST_WARPS][MMA_ROWS][FAST_COLUMNS]);
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int column_first = (int)blockIdx.x * FAST_COLUMNS;
    const int source[2] = {source_of(f.columns, column_first + lane / 4),
                           source_of(f.columns, column_first + MMA_COLUMNS + lane / 4)};
    const int row = (int)threadIdx.x / FAST_COLUMNS, column = (int)threadIdx.x % FAST_COLUMNS;
    float sum = 0;
    for (int group = 0; group < f.K; group += FAST_WARPS * CHUNK) {
        const int first = group + warp * CHUNK, end = first + CHUNK < f.K ? first + CHUNK : f.K;
        float p[2][4] = {};
        for (int k = first; k < end; k += STEP)
            UNROLL(2)
            for (int j = 0; j < 2; j++) {
                const int n = source[j];
                multiply<P>(
                    p[j],
                    [&](int r, int i) {
                        return r < f.n_rows && k + i < end
                                   ? f.x[(size_t)r * (size_t)f.K + (size_t)(k + i)] : 0.0f;
                    },
                    [&](int i, int) {
                        const size_t at = (size_t)(k + i) * (size_t)f.stride + (size_t)n;
                        return n >= 0 && k + i < end ? f.weights[at] : 0.0f;
                    });
            }
        UNROLL(2)
        for (int j = 0; j < 2; j++)
            UNROLL(4)
            for (int i = 0; i < 4; i++)
                partials[warp][lane / 4 + i / 2 * 8][j * MMA_COLUMNS + lane % 4 * 2 + i % 2]
                    = p[j][i];
        __syncthreads();
        for (int c = 0; c < FAST_WARPS && group + c * CHUNK < f.K; c++)
            sum = group + c == 0 ? partials[c][row][column] : sum + partials[c][row][column];
        __syncthreads();
    }
    const int n = column_first + column;
    const size_t at = (size_t)row * (size_t)f.columns.n_out + (size_t)n;
    if (row < f.n_rows && n < f.columns.n_out)
        f.out[at] = finish<E>(sum, f.bias, f.residual, n, at);
}

/* Many rows: a block makes 64 rows by 64 columns, each of four warps 32 by 32, from slices of
 * STEP k in shared memory. Grid: columns by 64, rows by 64. */
constexpr int FAST_TILE = 64, FAST_THREADS = 128;

template <enum precision P, enum epilogue E>
__global__ void __launch_bounds__(FAST_THREADS) fast_tile_kernel(struct fast f)
{
    SHARED(float, a, [FAST_TILE][STEP + 4]); /* four and eight more against bank conflicts */
    SHARED(float, b, [STEP][FAST_TILE + 8]);
    const int t = (int)threadIdx.x, lane = t % 32;
    const int row_first = (int)blockIdx.y * FAST_TILE, column_first = (int)blockIdx.x * FAST_TILE;
    const int warp_row = t / 64 * 32, warp_column = t / 32 % 2 * 32;
    const int source = source_of(f.columns, column_first + t % FAST_TILE);
    float sum[2][4][4] = {}, p[2][4][4] = {};
    for (int k = 0; k < f.K; k += STEP) {
        for (int i = t; i < FAST_TILE * STEP; i += FAST_THREADS) {
            const int r = row_first + i / STEP, x_k = k + i % STEP;
            a[i / STEP][i % STEP] = r < f.n_rows && x_k < f.K
                                        ? f.x[(size_t)r * (size_t)f.K + (size_t)x_k] : 0.0f;
        }
        for (int i = t / FAST_TILE; i < STEP; i += FAST_THREADS / FAST_TILE)
            b[i][t % FAST_TILE]
                = source >= 0 && k + i < f.K
                      ? f.weights[(size_t)(k + i) * (size_t)f.stride + (size_t)source] : 0.0f;
        __syncthreads();
        UNROLL(2)
        for (int i = 0; i < 2; i++)
            UNROLL(4)
            for (int j = 0; j < 4; j++)
                multiply<P>(
                    p[i][j],
                    [&](int r, int x_k) { return a[warp_row + i * MMA_ROWS + r][x_k]; },
                    [&](int w_k, int n) { return b[w_k][warp_column + j * MMA_COLUMNS + n]; });
        __syncthreads();
        if ((k + STEP) % CHUNK != 0 && k + STEP < f.K)
            continue;
        UNROLL(2)
        for (int i = 0; i < 2; i++)
            UNROLL(4)
            for (int j = 0; j < 4; j++)
                UNROLL(4)
                for (int e = 0; e < 4; e++) {
                    sum[i][j][e] = k < CHUNK ? p[i][j][e] : sum[i][j][e] + p[i][j][e];
                    p[i][j][e] = 0;
                }
    }
    UNROLL(2)
    for (int i = 0; i < 2; i++)
        UNROLL(4)
        for (int j = 0; j < 4; j++)
            UNROLL(4)
            for (int e = 0; e < 4; e++) {
                const int r = row_first + warp_row + i * MMA_ROWS + lane / 4 + e / 2 * 8;
                const int n = column_first + warp_column + j * MMA_COLUMNS + lane % 4 * 2 + e % 2;
                const size_t at = (size_t)r * (size_t)f.columns.n_out + (size_t)n;
                if (r < f.n_rows && n < f.columns.n_out)
                    f.out[at] = finish<E>(sum[i][j][e], f.bias, f.residual, n, at);
            }
}

template <enum precision P, enum epilogue E> static void fast_rows(struct device *d, const fast &f)
{
    if (f.n_rows <= MMA_ROWS)
        LAUNCH((fast_few_kernel<P, E>), blocks_for(f.columns.n_out, FAST_COLUMNS), FAST_WARPS * 32,
               0, d->stream, f);
    else
        LAUNCH((fast_tile_kernel<P, E>),
               dim3(blocks_for(f.columns.n_out, FAST_TILE), blocks_for(f.n_rows, FAST_TILE)),
               FAST_THREADS, 0, d->stream, f);
    CHECK_LAUNCH(d);
}

template <enum precision P>
static void fast_epilogue(struct device *d, const fast &f, enum epilogue epilogue)
{
    switch (epilogue) {
    case EPILOGUE_none: fast_rows<P, EPILOGUE_none>(d, f); break;
    case EPILOGUE_gelu: fast_rows<P, EPILOGUE_gelu>(d, f); break;
    case EPILOGUE_residual: fast_rows<P, EPILOGUE_residual>(d, f); break;
    }
}

void cuda_linear_fast(struct device *d, float *out, const float *x, const struct weight *w,
                      const float *bias, int n_rows, enum epilogue epilogue, const float *residual,
                      const int32_t *panels, int n_out)
{
    const struct fast f = {out, x, bias, residual, w->data, {panels, w->N, n_out},
                           w->stride, w->K, n_rows};
    switch (d->precision) {
    case PRECISION_tf32x3: fast_epilogue<PRECISION_tf32x3>(d, f, epilogue); break;
    case PRECISION_tf32: fast_epilogue<PRECISION_tf32>(d, f, epilogue); break;
    case PRECISION_bf16: fast_epilogue<PRECISION_bf16>(d, f, epilogue); break;
    default: assert(false);
    }
}
