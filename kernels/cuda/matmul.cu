/* Products in the canonical order: `linear` over packed weights, `matmul` over any strides.
 * Whatever the kernel, one thread makes an element: a chain over the 64 k of a chunk from +0, then
 * the chunks' sums in order. So all kernels give the same bits, and the number of rows chooses
 * among them. */
#include "device.h"

/* The sum of the chunks so far and one more; the first as it is, since +0 plus -0 is +0. */
__device__ __forceinline__ float add_chunk(float sum, float partial, int k)
{
    return k == 0 ? partial : sum + partial;
}

/* Few rows: a warp takes 32 columns by one chunk of k for all rows, so that each weight is read
 * once, and WARPS chunks of a group are multiplied side by side. Then warp r sums row r's in
 * order. */
constexpr int COLUMNS = 32, WARPS = 16, FEW_ROWS = 8;

/* out (n_rows, N) = finish(x (n_rows, K) @ w), n_rows <= ROWS. Grid: N by COLUMNS. */
template <int ROWS, enum epilogue E>
__global__ void __launch_bounds__(WARPS * 32)
    linear_few_kernel(float *out, const float *x, const float *bias, const float *residual,
                      const float *weights, int stride, int K, int N, int n_rows)
{
    SHARED(float, partials, [WARPS][ROWS][COLUMNS]);
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int n = (int)blockIdx.x * COLUMNS + lane, n_read = n < N ? n : N - 1;
    float sum = 0;
    for (int group = 0; group < K; group += WARPS * CHUNK) {
        const int first = group + warp * CHUNK, end = first + CHUNK < K ? first + CHUNK : K;
        float p[ROWS] = {};
        UNROLL(16)
        for (int k = first; k < end; k++) {
            const float w = weights[(size_t)k * (size_t)stride + (size_t)n_read];
            UNROLL(8)
            for (int r = 0; r < ROWS; r++)
                p[r] = fmaf(x[(size_t)(r < n_rows ? r : 0) * (size_t)K + (size_t)k], w, p[r]);
        }
        UNROLL(8)
        for (int r = 0; r < ROWS; r++)
            partials[warp][r][lane] = p[r];
        __syncthreads();
        for (int c = 0; c < WARPS && group + c * CHUNK < K && warp < ROWS; c++)
            sum = add_chunk(sum, partials[c][warp][lane], group + c * CHUNK);
        __syncthreads();
    }
    const size_t at = (size_t)warp * (size_t)N + (size_t)n;
    if (warp < n_rows && n < N)
        out[at] = finish<E>(sum, bias, residual, n, at);
}

/* Many rows: a block makes a tile of 16 R rows by 64 columns, each thread R rows by 4 columns of
 * it, from slices of SLICE k that all threads stage in shared memory. R = 8 loads less for each
 * product; more sums than 2 x 8 x 4 would not stay in registers. */
constexpr int SLICE = 16, SIDE = 16, WIDE = 4, TILE_COLUMNS = SIDE * WIDE;

template <int R>
__device__ __forceinline__ void multiply_slice(float (&p)[R][WIDE], const float (*a)[SIDE * R + 4],
                                               const float (*b)[TILE_COLUMNS], int row, int column,
                                               int n_k)
{
    UNROLL(16)
    for (int k = 0; k < n_k; k++) {
        float w[WIDE];
        UNROLL(4)
        for (int j = 0; j < WIDE; j++)
            w[j] = b[k][column + j];
        UNROLL(8)
        for (int i = 0; i < R; i++) {
            const float x = a[k][row + i];
            UNROLL(4)
            for (int j = 0; j < WIDE; j++)
                p[i][j] = fmaf(x, w[j], p[i][j]);
        }
    }
}

/* out (n_rows, N) = finish(x (n_rows, K) @ w). Grid: N by TILE_COLUMNS, n_rows by 16 R. */
template <int R, enum epilogue E>
__global__ void __launch_bounds__(SIDE *SIDE)
    linear_tile_kernel(float *out, const float *x, const float *bias, const float *residual,
                       const float *weights, int stride, int K, int N, int n_rows)
{
    constexpr int ROWS = SIDE * R, THREADS = SIDE * SIDE;
    SHARED(float, a, [SLICE][ROWS + 4]); /* x, turned; four more against bank conflicts */
    SHARED(float, b, [SLICE][TILE_COLUMNS]);
    const int t = (int)threadIdx.x, row = t / SIDE * R, column = t % SIDE * WIDE;
    const int row_first = (int)blockIdx.y * ROWS, column_first = (int)blockIdx.x * TILE_COLUMNS;
    float sum[R][WIDE] = {}, p[R][WIDE] = {};
    for (int k = 0; k < K; k += SLICE) {
        for (int i = t; i < ROWS * SLICE; i += THREADS) {
            const int r = row_first + i / SLICE, x_k = k + i % SLICE;
            a[i % SLICE][i / SLICE]
                = r < n_rows && x_k < K ? x[(size_t)r * (size_t)K + (size_t)x_k] : 0.0f;
        }
        for (int i = t; i < TILE_COLUMNS * SLICE; i += THREADS) {
            const int n = column_first + i % TILE_COLUMNS, w_k = k + i / TILE_COLUMNS;
            b[i / TILE_COLUMNS][i % TILE_COLUMNS]
                = n < N && w_k < K ? weights[(size_t)w_k * (size_t)stride + (size_t)n] : 0.0f;
        }
        __syncthreads();
        if (K - k >= SLICE)
            multiply_slice<R>(p, a, b, row, column, SLICE);
        else
            multiply_slice<R>(p, a, b, row, column, K - k);
        __syncthreads();
        if ((k + SLICE) % CHUNK != 0 && k + SLICE < K)
            continue;
        UNROLL(8)
        for (int i = 0; i < R; i++)
            UNROLL(4)
            for (int j = 0; j < WIDE; j++) {
                sum[i][j] = add_chunk(sum[i][j], p[i][j], k / CHUNK);
                p[i][j] = 0;
            }
    }
    UNROLL(8)
    for (int i = 0; i < R; i++)
        UNROLL(4)
        for (int j = 0; j < WIDE; j++) {
            const int r = row_first + row + i, n = column_first + column + j;
            const size_t at = (size_t)r * (size_t)N + (size_t)n;
            if (r < n_rows && n < N)
                out[at] = finish<E>(sum[i][j], bias, residual, n, at);
        }
}

struct linear {
    struct device *d;
    float *out;
    const float *x, *bias, *residual;
    const struct weight *w;
    int n_rows;
};

template <int ROWS, enum epilogue E> static void linear_few(const struct linear &l)
{
    LAUNCH((linear_few_kernel<ROWS, E>), blocks_for(l.w->N, COLUMNS), WARPS * 32, 0, l.d->stream,
           l.out, l.x, l.bias, l.residual, l.w->data, l.w->stride, l.w->K, l.w->N, l.n_rows);
    CHECK_LAUNCH(l.d);
}

template <int R, enum epilogue E> static void linear_tile(const struct linear &l)
{
    const dim3 grid(blocks_for(l.w->N, TILE_COLUMNS), blocks_for(l.n_rows, SIDE * R));
    LAUNCH((linear_tile_kernel<R, E>), grid, SIDE * SIDE, 0, l.d->stream, l.out, l.x, l.bias,
           l.residual, l.w->data, l.w->stride, l.w->K, l.w->N, l.n_rows);
    CHECK_LAUNCH(l.d);
}

template <enum epilogue E> static void linear_rows(const struct linear &l)
{
    if (l.n_rows == 1)
        linear_few<1, E>(l);
    else if (l.n_rows <= FEW_ROWS)
        linear_few<FEW_ROWS, E>(l);
    else if (l.n_rows <= 128)
        linear_tile<4, E>(l);
    else
        linear_tile<8, E>(l);
}

void cuda_linear(struct device *d, float *out, const float *x, const struct weight *w,
                 const float *bias, int n_rows, enum epilogue epilogue, const float *residual)
{
    const struct linear l = {d, out, x, bias, residual, w, n_rows};
    if (n_rows == 0)
        return;
    if (d->precision != PRECISION_exact) {
        cuda_linear_fast(d, out, x, w, bias, n_rows, epilogue, residual, NULL, w->N);
        return;
    }
    switch (epilogue) {
    case EPILOGUE_none: linear_rows<EPILOGUE_none>(l); break;
    case EPILOGUE_gelu: linear_rows<EPILOGUE_gelu>(l); break;
    case EPILOGUE_residual: linear_rows<EPILOGUE_residual>(l); break;
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

/* The matrix goes up as it is and is laid out by a copy between views. */
static bool weight_fill(struct device *d, struct weight *w, const float *matrix, enum layout l,
                        struct err *e)
{
    const size_t size = sizeof *matrix * (size_t)w->K * (size_t)w->N;
    void *raw;
    if (!backend_cuda.alloc(d, &raw, size, e))
        return false;
    backend_cuda.upload(d, raw, matrix, size);
    const int64_t shape[] = {w->K, w->N};
    struct tensor from = {raw, DT_f32, view_of(2, shape)}, to = {w->data, DT_f32, from.view};
    if (l == LAYOUT_nk) {
        from.view.stride[0] = 1;
        from.view.stride[1] = w->K;
    }
    to.view.stride[0] = w->stride;
    cuda_copy(d, &to, &from);
    backend_cuda.release(d, raw, size);
    return true;
}

bool cuda_weight_pack(struct device *d, struct weight **out, const float *matrix, enum layout l,
                      int K, int N, struct err *e)
{
    struct weight *w = static_cast<struct weight *>(memory_map(sizeof *w));
    if (!w)
        return err_set(e, ERR_device, "no memory for a weight of %d x %d", K, N);
    w->K = K;
    w->N = N;
    w->stride = (N + 3) / 4 * 4;
    void *data = NULL;
    const size_t size = sizeof *matrix * (size_t)K * (size_t)w->stride;
    if (!backend_cuda.alloc(d, &data, size, e) || (w->data = static_cast<float *>(data), false)
        || !weight_fill(d, w, matrix, l, e)) {
        cuda_weight_free(d, w);
        return false;
    }
    *out = w;
    return true;
}

void cuda_weight_free(struct device *d, struct weight *w)
{
    if (!w)
        return;
    backend_cuda.release(d, w->data, 0);
    memory_unmap(w, sizeof *w);
}

/* A place of the row-major (K, N) is another one of the rows that lie apart. Grid: the elements. */
__global__ void __launch_bounds__(BLOCK)
    weight_read_kernel(float *out, const float *w, int64_t offset, int N, int stride,
                       const __grid_constant__ walk places)
{
    const uint32_t i = blockIdx.x * BLOCK + threadIdx.x;
    if (i >= places.count)
        return;
    int64_t at[2];
    walk_places(at, places, i);
    const int64_t place = offset + at[1];
    out[at[0]] = w[place / N * stride + place % N];
}

void cuda_weight_read(struct device *d, const struct tensor *out, const struct weight *w,
                      const struct view *view)
{
    const struct tensor from = {w->data, DT_f32, *view};
    const struct tensor *const all[] = {out, &from};
    if (view_count(view) == 0)
        return;
    const struct walk places = walk_of(all, 2, view->rank);
    LAUNCH(weight_read_kernel, blocks_for(places.count, BLOCK), BLOCK, 0, d->stream,
           cuda_data<float>(out), w->data, view->offset, w->N, w->stride, places);
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
