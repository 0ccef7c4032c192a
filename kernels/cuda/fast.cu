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
#include "tile.h"

constexpr int MMA_ROWS = 16, MMA_COLUMNS = 8, STEP = SLICE;

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

/* What a weight's elements are stored as: bf16 by pairs of k. Of STEP k of a column a lane has
 * PARTS such, the k of part i from (lane % 4 + 4 i) * EACH on: as both instructions ask for. */
template <enum precision P> struct stored {
    using type = float;
    static constexpr int EACH = 1, PARTS = 4;
};
template <> struct stored<PRECISION_bf16> {
    using type = uint32_t;
    static constexpr int EACH = 2, PARTS = 2;
};

/* p (16, 8) += a (16, STEP) @ b (STEP, 8): `a` gives the element at (row, k), b is the lane's part
 * of it. */
template <class A>
__device__ __forceinline__ void multiply_bf16(float (&p)[4], const A &a, const uint32_t (&b)[2])
{
    const int g = (int)threadIdx.x % 32 / 4, k = (int)threadIdx.x % 4 * 2;
    const uint32_t x[4] = {bf16_pair(a(g, k), a(g, k + 1)), bf16_pair(a(g + 8, k), a(g + 8, k + 1)),
                           bf16_pair(a(g, k + 8), a(g, k + 9)),
                           bf16_pair(a(g + 8, k + 8), a(g + 8, k + 9))};
    mma_bf16(p, x, b);
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

template <bool THREE, class A>
__device__ __forceinline__ void multiply_tf32(float (&p)[4], const A &a, const float (&b)[4])
{
    const int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
    UNROLL(2)
    for (int first = 0; first < STEP; first += 8) {
        const int k = first + t;
        const float x[4] = {a(g, k), a(g + 8, k), a(g, k + 4), a(g + 8, k + 4)};
        const float y[2] = {b[first / 4], b[first / 4 + 1]};
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

template <enum precision P, class A>
__device__ __forceinline__ void multiply(float (&p)[4], const A &a,
                                         const typename stored<P>::type (&b)[stored<P>::PARTS])
{
    if constexpr (P == PRECISION_bf16)
        multiply_bf16(p, a, b);
    else
        multiply_tf32<P == PRECISION_tf32x3>(p, a, b);
}

struct fast {
    float *out;
    const float *bias, *residual;
    struct rows x;
    struct weight w;
    struct columns columns;
};

/* The weight's element or pair at k of column n, or zero. */
template <enum precision P>
__device__ __forceinline__ typename stored<P>::type stored_at(const struct fast &f, int k, int n)
{
    if (n < 0 || k >= f.w.K)
        return 0;
    if constexpr (P == PRECISION_bf16)
        return f.w.pairs[(size_t)(k / 2) * (size_t)f.w.stride + (size_t)n];
    else
        return f.w.data[(size_t)k * (size_t)f.w.stride + (size_t)n];
}

/* Columns that nobody has are zero, whatever x is. */
template <enum epilogue E>
__device__ __forceinline__ void put(const struct fast &f, int row, int n, float sum)
{
    if (row >= f.x.n || n >= f.columns.n_out)
        return;
    const size_t at = (size_t)row * (size_t)f.columns.n_out + (size_t)n;
    const float y = source_of(f.columns, n) < 0 ? 0 : sum;
    f.out[at] = finish<E>(y, f.bias, f.residual, n, at);
}

/* At most 16 rows: a warp takes 16 columns by one chunk of k, so that each weight is read once, all
 * of a chunk's before the first is multiplied, and FAST_WARPS chunks are multiplied side by side.
 * Grid: columns by 16. */
constexpr int FAST_WARPS = 8, FAST_COLUMNS = 2 * MMA_COLUMNS;

template <enum precision P, enum epilogue E>
__global__ void __launch_bounds__(FAST_WARPS * 32, 1)
    fast_few_kernel(const __grid_constant__ fast f)
{
    using S = stored<P>;
    SHARED(float, partials, [FAST_WARPS][MMA_ROWS][FAST_COLUMNS]);
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, K = f.w.K;
    const int column_first = (int)blockIdx.x * FAST_COLUMNS;
    const int source[2] = {source_of(f.columns, column_first + lane / 4),
                           source_of(f.columns, column_first + MMA_COLUMNS + lane / 4)};
    const int row = (int)threadIdx.x / FAST_COLUMNS, column = (int)threadIdx.x % FAST_COLUMNS;
    float sum = 0;
    for (int group = 0; group < K; group += FAST_WARPS * CHUNK) {
        const int first = group + warp * CHUNK;
        typename S::type w[CHUNK / STEP][2][S::PARTS];
        UNROLL(4)
        for (int s = 0; s < CHUNK / STEP; s++)
            UNROLL(2)
            for (int j = 0; j < 2; j++)
                UNROLL(4)
                for (int i = 0; i < S::PARTS; i++)
                    w[s][j][i] = stored_at<P>(f, first + s * STEP + (lane % 4 + 4 * i) * S::EACH,
                                              source[j]);
        float p[2][4] = {};
        UNROLL(4)
        for (int s = 0; s < CHUNK / STEP; s++) {
            const auto x = [&](int r, int i) {
                const int k = first + s * STEP + i;
                return r < f.x.n && k < K ? f.x.data[(size_t)r * (size_t)K + (size_t)k] : 0.0f;
            };
            if (first + s * STEP >= K)
                continue;
            multiply<P>(p[0], x, w[s][0]);
            multiply<P>(p[1], x, w[s][1]);
        }
        UNROLL(2)
        for (int j = 0; j < 2; j++)
            UNROLL(4)
            for (int i = 0; i < 4; i++)
                partials[warp][lane / 4 + i / 2 * 8][j * MMA_COLUMNS + lane % 4 * 2 + i % 2]
                    = p[j][i];
        __syncthreads();
        for (int c = 0; c < FAST_WARPS && group + c * CHUNK < K; c++)
            sum = add_chunk(sum, partials[c][row][column], group + c);
        __syncthreads();
    }
    put<E>(f, row, column_first + column, sum);
}

/* Many rows: a block makes 64 rows by 64 columns, each of four warps 32 by 32, from slices of
 * STEP k whose copies are FAST_STAGES - 1 ahead. Grid: rows by 64, columns by 64. */
constexpr int FAST_TILE = 64, FAST_THREADS = 128, FAST_STAGES = 4;
constexpr int FAST_PITCH = FAST_TILE + 8; /* of columns, against bank conflicts */

/* Begins to copy slice s of a block's rows and columns, with zeros behind the last k. Four columns
 * that nobody has are the first ones again. */
template <enum precision P>
__device__ __forceinline__ void fetch_tile(float *a, typename stored<P>::type *b,
                                           const struct fast &f, int s)
{
    constexpr int EACH = stored<P>::EACH;
    const typename stored<P>::type *w;
    if constexpr (P == PRECISION_bf16)
        w = f.w.pairs;
    else
        w = f.w.data;
    const auto place = [&](int n) {
        const int from = source_of(f.columns, (int)blockIdx.y * FAST_TILE + n);
        return from < 0 ? 0 : (size_t)from;
    };
    if (s * STEP < f.w.K) {
        fetch_rows<FAST_TILE, FAST_THREADS, BEHIND_zeros>(
            a, PITCH, f.x, (int)blockIdx.x * FAST_TILE, s * STEP, (int)threadIdx.x);
        fetch_columns<STEP / EACH, FAST_TILE, FAST_THREADS, BEHIND_zeros>(
            b, FAST_PITCH, w, f.w.stride, s * STEP / EACH, (f.w.K + EACH - 1) / EACH, place,
            (int)threadIdx.x);
    }
    COPY_COMMIT();
}

template <enum precision P, enum epilogue E>
__global__ void __launch_bounds__(FAST_THREADS, 1)
    fast_tile_kernel(const __grid_constant__ fast f)
{
    using S = stored<P>;
    SHARED(float, all_a, [FAST_STAGES][FAST_TILE * PITCH]);
    SHARED(typename S::type, all_b, [FAST_STAGES][STEP / S::EACH * FAST_PITCH]);
    const int t = (int)threadIdx.x, lane = t % 32, K = f.w.K;
    const int warp_row = t / 64 * 32, warp_column = t / 32 % 2 * 32;
    for (int s = 0; s < FAST_STAGES - 1; s++)
        fetch_tile<P>(all_a[s], all_b[s], f, s);
    float sum[2][4][4] = {}, p[2][4][4] = {};
    for (int s = 0; s * STEP < K; s++) {
        const int next = s + FAST_STAGES - 1;
        COPY_WAIT(FAST_STAGES - 2);
        __syncthreads(); /* slice s has come for all, and all are done with slice s - 1 */
        fetch_tile<P>(all_a[next % FAST_STAGES], all_b[next % FAST_STAGES], f, next);
        const float *a = all_a[s % FAST_STAGES] + warp_row * PITCH;
        const typename S::type *b = all_b[s % FAST_STAGES] + warp_column + lane / 4;
        UNROLL(2)
        for (int i = 0; i < 2; i++)
            UNROLL(4)
            for (int j = 0; j < 4; j++) {
                typename S::type w[S::PARTS];
                UNROLL(4)
                for (int part = 0; part < S::PARTS; part++)
                    w[part] = b[(lane % 4 + 4 * part) * FAST_PITCH + j * MMA_COLUMNS];
                multiply<P>(p[i][j], [&](int r, int k) {
                    return a[(i * MMA_ROWS + r) * PITCH + k];
                }, w);
            }
        if ((s + 1) % SLICES != 0 && (s + 1) * STEP < K)
            continue;
        UNROLL(2)
        for (int i = 0; i < 2; i++)
            UNROLL(4)
            for (int j = 0; j < 4; j++)
                UNROLL(4)
                for (int e = 0; e < 4; e++) {
                    sum[i][j][e] = add_chunk(sum[i][j][e], p[i][j][e], s / SLICES);
                    p[i][j][e] = 0;
                }
    }
    UNROLL(2)
    for (int i = 0; i < 2; i++)
        UNROLL(4)
        for (int j = 0; j < 4; j++)
            UNROLL(4)
            for (int e = 0; e < 4; e++) {
                const int r = warp_row + i * MMA_ROWS + lane / 4 + e / 2 * 8;
                const int n = warp_column + j * MMA_COLUMNS + lane % 4 * 2 + e % 2;
                put<E>(f, (int)blockIdx.x * FAST_TILE + r, (int)blockIdx.y * FAST_TILE + n,
                       sum[i][j][e]);
            }
}

template <enum precision P, enum epilogue E> static void fast_rows(struct device *d, const fast &f)
{
    if (f.x.n <= MMA_ROWS)
        LAUNCH((fast_few_kernel<P, E>), blocks_for(f.columns.n_out, FAST_COLUMNS), FAST_WARPS * 32,
               0, d->stream, f);
    else
        LAUNCH((fast_tile_kernel<P, E>),
               dim3(blocks_for(f.x.n, FAST_TILE), blocks_for(f.columns.n_out, FAST_TILE)),
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
    const struct fast f = {out, bias, residual, rows_of(x, n_rows, w->K), *w,
                           {panels, w->N, n_out}};
    switch (d->precision) {
    case PRECISION_tf32x3: fast_epilogue<PRECISION_tf32x3>(d, f, epilogue); break;
    case PRECISION_tf32: fast_epilogue<PRECISION_tf32>(d, f, epilogue); break;
    case PRECISION_bf16: fast_epilogue<PRECISION_bf16>(d, f, epilogue); break;
    default: assert(false);
    }
}
