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

/* Of a row of x a lane has the same k, four of STEP: which is the i-th. */
template <enum precision P> __device__ __forceinline__ int k_of(int i)
{
    constexpr int EACH = stored<P>::EACH;
    return ((int)threadIdx.x % 4 + i / EACH * 4) * EACH + i % EACH;
}

/* p (16, 8) += x (16, STEP) @ w (STEP, 8), of which a lane has two rows and a column: lane / 4 and
 * 8 more, and lane / 4. */
__device__ __forceinline__ void multiply_bf16(float (&p)[4], const float (&x)[2][4],
                                              const uint32_t (&w)[2])
{
    const uint32_t pairs[4] = {bf16_pair(x[0][0], x[0][1]), bf16_pair(x[1][0], x[1][1]),
                               bf16_pair(x[0][2], x[0][3]), bf16_pair(x[1][2], x[1][3])};
    mma_bf16(p, pairs, w);
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

template <bool THREE>
__device__ __forceinline__ void multiply_tf32(float (&p)[4], const float (&x)[2][4],
                                              const float (&w)[4])
{
    UNROLL(2)
    for (int i = 0; i < 4; i += 2) {
        const float a[4] = {x[0][i], x[1][i], x[0][i + 1], x[1][i + 1]};
        const float b[2] = {w[i], w[i + 1]};
        uint32_t a_high[4], a_low[4], b_high[2], b_low[2];
        split(a_high, a_low, a);
        split(b_high, b_low, b);
        if (THREE) {
            mma_tf32(p, a_low, b_high);
            mma_tf32(p, a_high, b_low);
        }
        mma_tf32(p, a_high, b_high);
    }
}

template <enum precision P>
__device__ __forceinline__ void multiply(float (&p)[4], const float (&x)[2][4],
                                         const typename stored<P>::type (&w)[stored<P>::PARTS])
{
    if constexpr (P == PRECISION_bf16)
        multiply_bf16(p, x, w);
    else
        multiply_tf32<P == PRECISION_tf32x3>(p, x, w);
}

struct fast {
    float *out;
    const float *bias, *residual;
    struct rows x;
    struct weight w;
    struct columns columns;
};

/* Begins to copy a slice of the weight's columns from `column` on, with zeros behind the last k.
 * Four columns that nobody has are the first ones again. */
template <enum precision P, int COLUMNS, int THREADS>
__device__ __forceinline__ void fetch_weight(typename stored<P>::type *to, int pitch,
                                             const struct fast &f, int column, int k, int t)
{
    constexpr int EACH = stored<P>::EACH;
    const auto place = [&](int n) {
        const int from = source_of(f.columns, column + n);
        return from < 0 ? 0 : (size_t)from;
    };
    const typename stored<P>::type *w;
    if constexpr (P == PRECISION_bf16)
        w = f.w.pairs;
    else
        w = f.w.data;
    fetch_columns<STEP / EACH, COLUMNS, THREADS, BEHIND_zeros>(to, pitch, w, f.w.stride, k / EACH,
                                                               (f.w.K + EACH - 1) / EACH, place, t);
}

/* The lane's part of a slice's columns. */
template <enum precision P>
__device__ __forceinline__ void load_weight(typename stored<P>::type (&to)[stored<P>::PARTS],
                                            const typename stored<P>::type *from, int pitch)
{
    const int lane = (int)threadIdx.x % 32;
    UNROLL(4)
    for (int i = 0; i < stored<P>::PARTS; i++)
        to[i] = from[(lane % 4 + 4 * i) * pitch + lane / 4];
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

/* Few rows: a warp takes 16 of them and 16 columns by one chunk of k at a time, and FAST_WARPS
 * chunks are multiplied side by side. A warp stages the weight's slices for itself, FEW_AHEAD of
 * pairs or half of that of floats ahead. Grid: rows by 16, columns by 16. */
constexpr int FAST_WARPS = 8, FAST_COLUMNS = 2 * MMA_COLUMNS, FEW_AHEAD = 6;
constexpr int FEW_PITCH = FAST_COLUMNS + 8; /* of columns, against bank conflicts */

/* The lane's part of x, all slices of a chunk; zero past the last row and k. */
template <enum precision P>
__device__ __forceinline__ void load_rows(float (&to)[SLICES][2][4], const struct rows &x, int row,
                                          int first)
{
    UNROLL(4)
    for (int s = 0; s < SLICES; s++)
        UNROLL(2)
        for (int h = 0; h < 2; h++)
            UNROLL(4)
            for (int i = 0; i < 4; i++) {
                const int r = row + (int)threadIdx.x % 32 / 4 + 8 * h;
                const int k = first + s * STEP + k_of<P>(i);
                to[s][h][i]
                    = r < x.n && k < x.K ? x.data[(size_t)r * (size_t)x.K + (size_t)k] : 0.0f;
            }
}

template <enum precision P, enum epilogue E>
__global__ void __launch_bounds__(FAST_WARPS * 32, 1)
    fast_few_kernel(const __grid_constant__ fast f)
{
    using S = stored<P>;
    constexpr int STAGES = FEW_AHEAD * S::EACH / 2, STAGE = STEP / S::EACH * FEW_PITCH;
    SHARED(typename S::type, stages, [FAST_WARPS][STAGES][STAGE]);
    SHARED(float, partials, [FAST_WARPS][MMA_ROWS][FAST_COLUMNS]);
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, K = f.w.K;
    const int row_first = (int)blockIdx.x * MMA_ROWS, column_first = (int)blockIdx.y * FAST_COLUMNS;
    const int row = (int)threadIdx.x / FAST_COLUMNS, column = (int)threadIdx.x % FAST_COLUMNS;
    const auto fetch = [&](int s) {
        const int k = (s / SLICES * FAST_WARPS + warp) * CHUNK + s % SLICES * STEP;
        if (k < K)
            fetch_weight<P, FAST_COLUMNS, 32>(stages[warp][s % STAGES], FEW_PITCH, f, column_first,
                                              k, lane);
        COPY_COMMIT();
    };
    for (int s = 0; s < STAGES; s++)
        fetch(s);
    float sum = 0;
    for (int group = 0, at = 0; group < K; group += FAST_WARPS * CHUNK) {
        const int first = group + warp * CHUNK;
        float p[2][4] = {}, x[SLICES][2][4];
        load_rows<P>(x, f.x, row_first, first);
        UNROLL(4)
        for (int s = 0; s < SLICES; s++, at++) {
            COPY_WAIT(STAGES - 1);
            __syncwarp(ALL_LANES);
            UNROLL(2)
            for (int j = 0; j < 2; j++) {
                typename S::type w[S::PARTS];
                if (first + s * STEP >= K)
                    continue;
                load_weight<P>(w, stages[warp][at % STAGES] + j * MMA_COLUMNS, FEW_PITCH);
                multiply<P>(p[j], x[s], w);
            }
            __syncwarp(ALL_LANES);
            fetch(at + STAGES);
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
    put<E>(f, row_first + row, column_first + column, sum);
}

/* Many rows: a block makes 64 rows by 64 columns, each of four warps 32 by 32, from slices of
 * STEP k whose copies are FAST_STAGES - 1 ahead. Grid: rows by 64, columns by 64. */
constexpr int FAST_TILE = 64, FAST_THREADS = 128, FAST_STAGES = 4;
constexpr int FAST_PITCH = FAST_TILE + 8; /* of columns, against bank conflicts */

template <enum precision P>
__device__ __forceinline__ void fetch_tile(float *a, typename stored<P>::type *b,
                                           const struct fast &f, int s)
{
    const int t = (int)threadIdx.x, row = (int)blockIdx.x * FAST_TILE;
    const int column = (int)blockIdx.y * FAST_TILE;
    if (s * STEP < f.w.K) {
        fetch_rows<FAST_TILE, FAST_THREADS, BEHIND_zeros>(a, PITCH, f.x, row, s * STEP, t);
        fetch_weight<P, FAST_TILE, FAST_THREADS>(b, FAST_PITCH, f, column, s * STEP, t);
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
        const float *a = all_a[s % FAST_STAGES] + (warp_row + lane / 4) * PITCH;
        const typename S::type *b = all_b[s % FAST_STAGES] + warp_column;
        UNROLL(2)
        for (int i = 0; i < 2; i++) {
            float x[2][4];
            UNROLL(2)
            for (int h = 0; h < 2; h++)
                UNROLL(4)
                for (int part = 0; part < 4; part++)
                    x[h][part] = a[(i * MMA_ROWS + 8 * h) * PITCH + k_of<P>(part)];
            UNROLL(4)
            for (int j = 0; j < 4; j++) {
                typename S::type w[S::PARTS];
                load_weight<P>(w, b + j * MMA_COLUMNS, FAST_PITCH);
                multiply<P>(p[i][j], x, w);
            }
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

/* Small tiles while no processor has more than two: larger ones read less. */
template <enum precision P, enum epilogue E> static void fast_rows(struct device *d, const fast &f)
{
    const dim3 few(blocks_for(f.x.n, MMA_ROWS), blocks_for(f.columns.n_out, FAST_COLUMNS));
    if (f.x.n <= MMA_ROWS || few.x * few.y <= 2 * (unsigned)d->processors)
        LAUNCH((fast_few_kernel<P, E>), few, FAST_WARPS * 32, 0, d->stream, f);
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
