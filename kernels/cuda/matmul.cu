/* Products in the canonical order: `linear` over weights, `matmul` over any strides.
 * Whatever the kernel, one thread makes an element: a chain over the 64 k of a chunk from +0, then
 * the chunks' sums in order. So all kernels give the same bits, and the number of rows chooses
 * among them. */
#include "tile.h"

/* What the kernels of `linear` compute: out (n_rows, N) = finish(x (n_rows, K) @ weights). */
struct linear {
    float *out;
    const float *bias, *residual, *weights;
    int stride, K, N, n_rows;
    struct rows x;
};

/* Begins to copy a slice of COLUMNS columns of the weight; past the last ones the first again. */
template <int COLUMNS, int THREADS>
__device__ __forceinline__ void fetch_weights(float *to, int pitch, const struct linear &l,
                                              int column, int k, int t)
{
    fetch_columns<SLICE, COLUMNS, THREADS, BEHIND_unused>(
        to, pitch, l.weights, l.stride, k, l.K,
        [&](int n) { return column + n < l.stride ? (size_t)(column + n) : 0; }, t);
}

/* Over a slice, of which only the first n_k are there. */
template <int R, int W>
__device__ __forceinline__ void multiply_slice(float (&p)[R][W], const float *x, int X,
                                               const float *w, int Y, int n_k)
{
    if (n_k >= SLICE)
        multiply_fours(p, x, X, w, Y, SLICE);
    else
        multiply_ones(p, x, X, w, Y, n_k);
}

/* Up to some hundred rows: there are too few large tiles for all processors, so the chunks of k are
 * multiplied side by side. A team of lanes takes a tile by one chunk at a time and stages its
 * slices for itself; then the threads sum the teams' chunks in order. Of a team TALL lanes stand
 * above one another, each with R rows and W columns of the tile. */
template <int R_, int W_, int TALL_, int TEAM_, int STAGES_> struct split {
    static constexpr int R = R_, W = W_, TALL = TALL_, TEAM = TEAM_, STAGES = STAGES_;
    static constexpr int ROWS = R * TALL, COLUMNS = W * (TEAM / TALL), TILE = ROWS * COLUMNS;
    static constexpr int TEAMS = 32 / TEAM; /* of a warp: their slices lie side by side */
    static constexpr int X_STEP = TEAMS * PITCH, W_STEP = TEAMS * COLUMNS;
    static constexpr int STAGE = ROWS * X_STEP + SLICE * W_STEP; /* floats */
};
/* One row and eight wait for the weights: a whole chunk is on its way before the first slice is
 * multiplied, and tiles are narrow, for more blocks. More rows wait for arithmetic. */
using split_one = split<1, 1, 1, 16, 4>;
using split_eight = split<8, 1, 1, 16, 4>;
using split_many = split<8, 4, 4, 32, 2>;
constexpr int SPLIT_WARPS = 8, SPLIT_WARPS_MIN = 4;

template <class S>
__device__ __forceinline__ void fetch_stage(float *stage, const struct linear &l, int row,
                                            int column, int k)
{
    const int lane = (int)threadIdx.x % S::TEAM, team = (int)threadIdx.x % 32 / S::TEAM;
    fetch_rows<S::ROWS, S::TEAM, BEHIND_unused>(stage + team * PITCH, S::X_STEP, l.x, row, k,
                                                lane);
    fetch_weights<S::COLUMNS, S::TEAM>(stage + S::ROWS * S::X_STEP + team * S::COLUMNS, S::W_STEP,
                                       l, column, k, lane);
    COPY_COMMIT();
}

/* Grid: n_rows by ROWS, N by COLUMNS. Dynamic shared memory: the teams' products, then each warp's
 * stages. */
template <class S, enum epilogue E>
__global__ void __launch_bounds__(SPLIT_WARPS * 32, 1)
    linear_split_kernel(const __grid_constant__ linear l)
{
    constexpr int EACH = (S::TILE + SPLIT_WARPS_MIN * 32 - 1) / (SPLIT_WARPS_MIN * 32);
    DYNAMIC_SHARED(float, partials); /* [n_teams][TILE] */
    const int t = (int)threadIdx.x, n_threads = (int)blockDim.x, n_teams = n_threads / S::TEAM;
    const int team = t / S::TEAM, lane = t % S::TEAM, warp_team = t % 32 / S::TEAM;
    const int row = (int)blockIdx.x * S::ROWS, column = (int)blockIdx.y * S::COLUMNS;
    const int lane_row = lane % S::TALL, lane_column = lane / S::TALL * S::W;
    float *stages = partials + n_teams * S::TILE + t / 32 * S::STAGES * S::STAGE;
    const float *x = stages + lane_row * S::X_STEP + warp_team * PITCH;
    const float *w = stages + S::ROWS * S::X_STEP + warp_team * S::COLUMNS + lane_column;
    const int round_k = n_teams * CHUNK; /* the team's slices: SLICES of each round's chunk */
    const auto k_of = [&](int s) {
        return s / SLICES * round_k + team * CHUNK + s % SLICES * SLICE;
    };
    for (int s = 0; s < S::STAGES; s++)
        fetch_stage<S>(stages + s * S::STAGE, l, row, column, k_of(s));
    float sum[EACH] = {};
    for (int first = 0, s = 0; first < l.K; first += round_k) {
        float p[S::R][S::W] = {};
        UNROLL(1)
        for (int end = s + SLICES; s < end; s++) {
            const int at = s % S::STAGES * S::STAGE;
            COPY_WAIT(S::STAGES - 1);
            __syncwarp(ALL_LANES);
            multiply_slice(p, x + at, S::TALL * S::X_STEP, w + at, S::W_STEP, l.K - k_of(s));
            __syncwarp(ALL_LANES);
            fetch_stage<S>(stages + at, l, row, column, k_of(s + S::STAGES));
        }
        UNROLL(8)
        for (int i = 0; i < S::R; i++)
            UNROLL(4)
            for (int c = 0; c < S::W; c++)
                partials[team * S::TILE + (lane_row + i * S::TALL) * S::COLUMNS + lane_column + c]
                    = p[i][c];
        __syncthreads();
        UNROLL(8)
        for (int e = 0; e < EACH; e++)
            for (int c = 0, i = t + e * n_threads; i < S::TILE && c < n_teams
                                                   && first + c * CHUNK < l.K; c++)
                sum[e] = add_chunk(sum[e], partials[c * S::TILE + i], first + c);
        __syncthreads();
    }
    UNROLL(8)
    for (int e = 0; e < EACH; e++) {
        const int i = t + e * n_threads, r = row + i / S::COLUMNS, n = column + i % S::COLUMNS;
        const size_t at = (size_t)r * (size_t)l.N + (size_t)n;
        if (i < S::TILE && r < l.n_rows && n < l.N)
            l.out[at] = finish<E>(sum[e], l.bias, l.residual, n, at);
    }
}

template <class S> static int split_size(int n_warps)
{
    return (int)sizeof(float) * n_warps * (S::TEAMS * S::TILE + S::STAGES * S::STAGE);
}

/* SPLIT_WARPS, or fewer where a block may have less shared memory. */
template <class S> static int split_warps_max(const struct device *d)
{
    const int most = d->shared_max / split_size<S>(1);
    return most < SPLIT_WARPS ? most : SPLIT_WARPS;
}

/* As many warps as there are chunks for, in as many rounds as it takes. */
template <class S, enum epilogue E>
static void linear_split(struct device *d, const struct linear &l)
{
    const int n_warps = (int)blocks_for(l.K, S::TEAMS * CHUNK);
    const int rounds = (int)blocks_for(n_warps, split_warps_max<S>(d));
    const int each = (int)blocks_for(n_warps, rounds);
    const int warps = each < SPLIT_WARPS_MIN ? SPLIT_WARPS_MIN : each;
    LAUNCH((linear_split_kernel<S, E>),
           dim3(blocks_for(l.n_rows, S::ROWS), blocks_for(l.N, S::COLUMNS)), warps * 32,
           (size_t)split_size<S>(warps), d->stream, l);
    CHECK_LAUNCH(d);
}

/* More rows: a block makes a tile of LARGE_ROWS by LARGE_COLUMNS, each thread LARGE_R rows, SIDE
 * apart, by LARGE_W columns. The slices' copies are LARGE_STAGES - 1 ahead. */
constexpr int SIDE = 16, LARGE_R = 8, LARGE_W = 4, LARGE_STAGES = 3;
constexpr int LARGE_ROWS = SIDE * LARGE_R, LARGE_COLUMNS = SIDE * LARGE_W;
constexpr int LARGE_THREADS = SIDE * SIDE;

/* Grid: n_rows by LARGE_ROWS, N by LARGE_COLUMNS. */
template <enum epilogue E>
__global__ void __launch_bounds__(LARGE_THREADS, 2)
    linear_large_kernel(const __grid_constant__ linear l)
{
    SHARED(float, x, [LARGE_STAGES][LARGE_ROWS * PITCH]);
    SHARED(float, w, [LARGE_STAGES][SLICE * LARGE_COLUMNS]);
    const int t = (int)threadIdx.x, lane_row = t / SIDE, lane_column = t % SIDE * LARGE_W;
    const int row = (int)blockIdx.x * LARGE_ROWS, column = (int)blockIdx.y * LARGE_COLUMNS;
    const auto fetch = [&](int s) {
        const int at = s % LARGE_STAGES;
        fetch_rows<LARGE_ROWS, LARGE_THREADS, BEHIND_unused>(x[at], PITCH, l.x, row, s * SLICE, t);
        fetch_weights<LARGE_COLUMNS, LARGE_THREADS>(w[at], LARGE_COLUMNS, l, column, s * SLICE, t);
        COPY_COMMIT();
    };
    for (int s = 0; s < LARGE_STAGES - 1; s++)
        fetch(s);
    float sum[LARGE_R][LARGE_W] = {}, p[LARGE_R][LARGE_W] = {};
    for (int s = 0; s * SLICE < l.K; s++) {
        COPY_WAIT(LARGE_STAGES - 2);
        __syncthreads(); /* slice s has come for all, and all are done with slice s - 1 */
        fetch(s + LARGE_STAGES - 1);
        multiply_slice(p, x[s % LARGE_STAGES] + lane_row * PITCH, SIDE * PITCH,
                       w[s % LARGE_STAGES] + lane_column, LARGE_COLUMNS, l.K - s * SLICE);
        if ((s + 1) % SLICES != 0 && (s + 1) * SLICE < l.K)
            continue;
        UNROLL(8)
        for (int i = 0; i < LARGE_R; i++)
            UNROLL(4)
            for (int c = 0; c < LARGE_W; c++) {
                sum[i][c] = add_chunk(sum[i][c], p[i][c], s / SLICES);
                p[i][c] = 0;
            }
    }
    UNROLL(8)
    for (int i = 0; i < LARGE_R; i++)
        UNROLL(4)
        for (int c = 0; c < LARGE_W; c++) {
            const int r = row + lane_row + i * SIDE, n = column + lane_column + c;
            const size_t at = (size_t)r * (size_t)l.N + (size_t)n;
            if (r < l.n_rows && n < l.N)
                l.out[at] = finish<E>(sum[i][c], l.bias, l.residual, n, at);
        }
}

template <enum epilogue E> static void linear_large(struct device *d, const struct linear &l)
{
    const dim3 grid(blocks_for(l.n_rows, LARGE_ROWS), blocks_for(l.N, LARGE_COLUMNS));
    LAUNCH(linear_large_kernel<E>, grid, LARGE_THREADS, 0, d->stream, l);
    CHECK_LAUNCH(d);
}

/* Larger tiles read less and multiply faster, where there are enough of them for all processors:
 * small ones are better while no processor has more than two, and the largest need to be full
 * and as many. bench/gpu.py reasons with the same numbers. */
template <enum epilogue E> static void linear_rows(struct device *d, const struct linear &l)
{
    const unsigned processors = (unsigned)d->processors;
    const unsigned large = blocks_for(l.n_rows, LARGE_ROWS) * blocks_for(l.N, LARGE_COLUMNS);
    const unsigned eights
        = blocks_for(l.n_rows, split_eight::ROWS) * blocks_for(l.N, split_eight::COLUMNS);
    if (l.n_rows == 1)
        linear_split<split_one, E>(d, l);
    else if (l.n_rows <= split_eight::ROWS || eights <= 2 * processors)
        linear_split<split_eight, E>(d, l);
    else if (l.n_rows < LARGE_ROWS * 3 / 4 || large < 2 * processors)
        linear_split<split_many, E>(d, l);
    else
        linear_large<E>(d, l);
}

template <class S> static cudaError_t split_allow(const struct device *d)
{
    const int size = split_size<S>(split_warps_max<S>(d));
    cudaError_t error = ALLOW_SHARED((linear_split_kernel<S, EPILOGUE_none>), size);
    if (error == cudaSuccess)
        error = ALLOW_SHARED((linear_split_kernel<S, EPILOGUE_gelu>), size);
    if (error == cudaSuccess)
        error = ALLOW_SHARED((linear_split_kernel<S, EPILOGUE_residual>), size);
    return error;
}

cudaError_t cuda_linear_open(const struct device *d)
{
    cudaError_t error = split_allow<split_one>(d);
    if (error == cudaSuccess)
        error = split_allow<split_eight>(d);
    if (error == cudaSuccess)
        error = split_allow<split_many>(d);
    return error;
}

void cuda_linear(struct device *d, float *out, const float *x, const struct weight *w,
                 const float *bias, int n_rows, enum epilogue epilogue, const float *residual)
{
    const struct linear l = {out, bias, residual, w->data, w->stride, w->K, w->N, n_rows,
                             rows_of(x, n_rows, w->K)};
    if (n_rows == 0)
        return;
    if (d->precision != PRECISION_exact) {
        cuda_linear_fast(d, out, x, w, bias, n_rows, epilogue, residual, NULL, w->N);
        return;
    }
    switch (epilogue) {
    case EPILOGUE_none: linear_rows<EPILOGUE_none>(d, l); break;
    case EPILOGUE_gelu: linear_rows<EPILOGUE_gelu>(d, l); break;
    case EPILOGUE_residual: linear_rows<EPILOGUE_residual>(d, l); break;
    }
}

/* out (n_rows, 16 n_panels) = x (n_rows, K) @ the columns 16 panels[p] .. 16 panels[p] + 15 of w, a
 * thread an element; columns from N on are zero. */
__global__ void linear_panels_kernel(float *out, const float *x, const float *weights,
                                     const int32_t *panels, int stride, int K, int N, int n_panels,
                                     int n_rows)
{
    const int width = n_panels * LANES;
    const int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i >= (int64_t)n_rows * width)
        return;
    const int column = (int)(i % width), n = panels[column / LANES] * LANES + column % LANES;
    const float *row = x + i / width * K;
    float sum = 0;
    for (int k = 0; k < K && n < N; k += CHUNK) {
        float partial = 0;
        for (int j = k; j < k + CHUNK && j < K; j++)
            partial = fmaf(row[j], weights[(size_t)j * (size_t)stride + (size_t)n], partial);
        sum = add_chunk(sum, partial, k);
    }
    out[i] = sum;
}

void cuda_linear_panels(struct device *d, float *out, const float *x, const struct weight *w,
                        const int32_t *panels, int n_panels, int n_rows)
{
    if (n_rows == 0 || n_panels == 0)
        return;
    const void *staged = cuda_stage(d, panels, sizeof *panels * (size_t)n_panels);
    if (d->precision != PRECISION_exact) {
        cuda_linear_fast(d, out, x, w, NULL, n_rows, EPILOGUE_none, NULL,
                         static_cast<const int32_t *>(staged), n_panels * LANES);
        return;
    }
    LAUNCH(linear_panels_kernel, blocks_for((int64_t)n_rows * n_panels * LANES, BLOCK), BLOCK, 0,
           d->stream, out, x, w->data, static_cast<const int32_t *>(staged), w->stride, w->K, w->N,
           n_panels, n_rows);
    CHECK_LAUNCH(d);
}

/* matmul: a block makes PRODUCT_TILE x PRODUCT_TILE elements of one matrix of the batch, a thread
 * those of one column at every PRODUCT_STEP rows. Both sides are staged by chunks. */
constexpr int PRODUCT_TILE = 32, PRODUCT_STEP = BLOCK / PRODUCT_TILE;
constexpr int EACH = PRODUCT_TILE / PRODUCT_STEP;

struct product {
    struct walk batch; /* of out, x and y, without the matrices' dimensions */
    int M, K, N;
    unsigned row_tiles, column_tiles;
    int64_t out_row, out_column, x_row, x_k, y_k, y_column; /* strides */
};

__global__ void __launch_bounds__(BLOCK)
    product_kernel(float *out, const float *x, const float *y, const __grid_constant__ product p)
{
    SHARED(float, a, [PRODUCT_TILE][CHUNK + 1]);
    SHARED(float, b, [CHUNK][PRODUCT_TILE + 1]);
    const int t = (int)threadIdx.x, column = t % PRODUCT_TILE, row = t / PRODUCT_TILE;
    const unsigned tile = blockIdx.x / p.column_tiles;
    const int row_first = (int)(tile % p.row_tiles) * PRODUCT_TILE;
    const int column_first = (int)(blockIdx.x % p.column_tiles) * PRODUCT_TILE;
    int64_t at[3];
    walk_places(at, p.batch, tile / p.row_tiles);
    float sum[EACH] = {};
    for (int k = 0; k < p.K; k += CHUNK) {
        const int n_k = p.K - k < CHUNK ? p.K - k : CHUNK;
        for (int i = t; i < PRODUCT_TILE * CHUNK; i += BLOCK) {
            const int r = i / CHUNK, x_k = i % CHUNK, n = i % PRODUCT_TILE, y_k = i / PRODUCT_TILE;
            if (row_first + r < p.M && x_k < n_k)
                a[r][x_k] = x[at[1] + (row_first + r) * p.x_row + (k + x_k) * p.x_k];
            if (column_first + n < p.N && y_k < n_k)
                b[y_k][n] = y[at[2] + (k + y_k) * p.y_k + (column_first + n) * p.y_column];
        }
        __syncthreads();
        for (int e = 0; e < EACH; e++) {
            const int r = row + e * PRODUCT_STEP;
            float partial = 0;
            if (row_first + r < p.M && column_first + column < p.N)
                for (int i = 0; i < n_k; i++)
                    partial = fmaf(a[r][i], b[i][column], partial);
            sum[e] = add_chunk(sum[e], partial, k);
        }
        __syncthreads();
    }
    for (int e = 0; e < EACH; e++) {
        const int r = row_first + row + e * PRODUCT_STEP, n = column_first + column;
        if (r < p.M && n < p.N)
            out[at[0] + r * p.out_row + n * p.out_column] = sum[e];
    }
}

void cuda_matmul(struct device *d, const struct tensor *out, const struct tensor *x,
                 const struct tensor *y)
{
    const struct tensor *const all[] = {out, x, y};
    const struct view *ov = &out->view, *xv = &x->view, *yv = &y->view;
    const int last = ov->rank - 1;
    if (view_count(ov) == 0)
        return;
    struct product p = {};
    p.batch = walk_of(all, 3, last - 1);
    p.M = (int)ov->shape[last - 1];
    p.N = (int)ov->shape[last];
    p.K = (int)xv->shape[last];
    p.row_tiles = blocks_for(p.M, PRODUCT_TILE);
    p.column_tiles = blocks_for(p.N, PRODUCT_TILE);
    p.out_row = ov->stride[last - 1], p.out_column = ov->stride[last];
    p.x_row = xv->stride[last - 1], p.x_k = xv->stride[last];
    p.y_k = yv->stride[last - 1], p.y_column = yv->stride[last];
    LAUNCH(product_kernel, p.batch.count * p.row_tiles * p.column_tiles, BLOCK, 0, d->stream,
           cuda_data<float>(out), cuda_data<float>(x), cuda_data<float>(y), p);
    CHECK_LAUNCH(d);
}
