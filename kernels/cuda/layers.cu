/* The layers that work row by row. */
#include "device.h"

/* out (n_rows, width): out[i] = x[rows[i]], a block a row. */
__global__ void gather_kernel(float *out, const float *x, const int32_t *rows, int width)
{
    LET_NEXT_START();
    AWAIT_LAST();
    const size_t from = (size_t)rows[blockIdx.x] * (size_t)width;
    const size_t to = (size_t)blockIdx.x * (size_t)width;
    for (int i = (int)threadIdx.x; i < width; i += BLOCK)
        out[to + i] = x[from + i];
}

void cuda_rows_gather(struct device *d, float *out, const float *x, const int32_t *rows, int n_rows,
                      int width)
{
    if (n_rows == 0)
        return;
    const void *staged = cuda_stage(d, rows, sizeof *rows * (size_t)n_rows);
    LAUNCH_EARLY(d, gather_kernel, (unsigned)n_rows, BLOCK, 0, out, x,
                 static_cast<const int32_t *>(staged), width);
    CHECK_LAUNCH(d);
}

void cuda_embed(struct device *d, float *out, const float *table, const int32_t *ids, int n_rows,
                int width)
{
    cuda_rows_gather(d, out, table, ids, n_rows, width);
}

/* Of half a warp's row from x, n elements of it: thread l is lane l of both sums. */
__device__ __forceinline__ float row_mean(const float *x, int n, int width)
{
    float sum = 0;
    UNROLL(16)
    for (int i = (int)threadIdx.x % LANES; i < n; i += LANES)
        sum += x[i];
    return lane_zero(lanes_sum(sum)) / (float)width;
}

__device__ __forceinline__ float row_scale(const float *x, float mean, int n, int width,
                                           float epsilon)
{
    float squares = 0;
    UNROLL(16)
    for (int i = (int)threadIdx.x % LANES; i < n; i += LANES) {
        const float apart = x[i] - mean;
        squares = fmaf(apart, apart, squares);
    }
    return sqrtf(lane_zero(lanes_sum(squares)) / (float)width + epsilon);
}

/* out (n_rows, width), both sums in lanes: a block a row, which the first warp sums up. STAGED: all
 * threads fetch it, and weight and bias, to dynamic shared memory, [3][width]. */
constexpr int NORM = 128;
constexpr size_t NORM_STAGED_MAX = (48 << 10) - 64; /* nobody has to ask for; and `found` */

template <bool STAGED> __device__ __forceinline__ const float *norm_fetch(int which, const float *x,
                                                                         int width)
{
    if (!STAGED)
        return x;
    DYNAMIC_SHARED(float, staged);
    float *const to = staged + which * width;
    UNROLL(8)
    for (int i = (int)threadIdx.x; i < width; i += NORM)
        to[i] = x[i];
    return to;
}

template <bool STAGED>
__global__ void __launch_bounds__(NORM)
    layernorm_kernel(float *out, const float *x, const float *weight, const float *bias, int width,
                     float epsilon)
{
    SHARED(float, found, [2]);
    const int t = (int)threadIdx.x;
    const size_t at = (size_t)blockIdx.x * (size_t)width;
    LET_NEXT_START();
    weight = norm_fetch<STAGED>(1, weight, width);
    bias = norm_fetch<STAGED>(2, bias, width);
    AWAIT_LAST();
    x = norm_fetch<STAGED>(0, x + at, width);
    __syncthreads();
    if (t < 32) {
        const float mean = row_mean(x, width, width);
        const float scale = 1.0f / row_scale(x, mean, width, width, epsilon);
        if (t == 0)
            found[0] = mean, found[1] = scale;
    }
    __syncthreads();
    const float mean = found[0], scale = found[1];
    UNROLL(8)
    for (int i = t; i < width; i += NORM)
        out[at + i] = fmaf((x[i] - mean) * scale, weight[i], bias[i]);
}

void cuda_layernorm(struct device *d, float *out, const float *x, const float *weight,
                    const float *bias, int n_rows, int width, float epsilon)
{
    const size_t shared = 3 * sizeof *x * (size_t)width;
    if (n_rows == 0)
        return;
    if (shared <= NORM_STAGED_MAX)
        LAUNCH_EARLY(d, layernorm_kernel<true>, (unsigned)n_rows, NORM, shared, out, x, weight,
                     bias, width, epsilon);
    else
        LAUNCH_EARLY(d, layernorm_kernel<false>, (unsigned)n_rows, NORM, 0, out, x, weight, bias,
                     width, epsilon);
    CHECK_LAUNCH(d);
}

/* scale (n_rows) of x (n_rows, width), both sums in lanes: half a warp a row. */
__global__ void layernorm_scale_kernel(float *scale, const float *x, int n_rows, int width,
                                       float epsilon)
{
    const int row = (int)(blockIdx.x * (BLOCK / LANES) + threadIdx.x / LANES);
    const int n = row < n_rows ? width : 0;
    const size_t at = (size_t)row * (size_t)width;
    const float mean = row_mean(x + at, n, width);
    const float found = row_scale(x + at, mean, n, width, epsilon);
    if (n > 0 && threadIdx.x % LANES == 0)
        scale[row] = found;
}

void cuda_layernorm_scale(struct device *d, float *scale, const float *x, int n_rows, int width,
                          float epsilon)
{
    if (n_rows == 0)
        return;
    LAUNCH(layernorm_scale_kernel, blocks_for(n_rows, BLOCK / LANES), BLOCK, 0, d->stream, scale, x,
           n_rows, width, epsilon);
    CHECK_LAUNCH(d);
}

/* out (n_rows, width), the mean in lanes: half a warp a row. */
__global__ void layernorm_normalize_kernel(float *out, const float *x, const float *scale,
                                           int n_rows, int width)
{
    const int row = (int)(blockIdx.x * (BLOCK / LANES) + threadIdx.x / LANES);
    const int n = row < n_rows ? width : 0;
    const size_t at = (size_t)row * (size_t)width;
    const float mean = row_mean(x + at, n, width);
    const float factor = n > 0 ? 1.0f / scale[row] : 0;
    for (int i = (int)threadIdx.x % LANES; i < n; i += LANES)
        out[at + i] = (x[at + i] - mean) * factor;
}

void cuda_layernorm_normalize(struct device *d, float *out, const float *x, const float *scale,
                              int n_rows, int width)
{
    if (n_rows == 0)
        return;
    LAUNCH(layernorm_normalize_kernel, blocks_for(n_rows, BLOCK / LANES), BLOCK, 0, d->stream, out,
           x, scale, n_rows, width);
    CHECK_LAUNCH(d);
}

/* out (n_rows, width): a block a row. */
__global__ void layernorm_gain_kernel(float *out, const float *x, const float *weight,
                                      const float *bias, int width)
{
    const size_t at = (size_t)blockIdx.x * (size_t)width;
    for (int i = (int)threadIdx.x; i < width; i += BLOCK)
        out[at + i] = fmaf(x[at + i], weight[i], bias[i]);
}

void cuda_layernorm_gain(struct device *d, float *out, const float *x, const float *weight,
                         const float *bias, int n_rows, int width)
{
    if (n_rows == 0)
        return;
    LAUNCH(layernorm_gain_kernel, (unsigned)n_rows, BLOCK, 0, d->stream, out, x, weight, bias,
           width);
    CHECK_LAUNCH(d);
}

/* out (count): a thread an element, as in the next. */
__global__ void add_kernel(float *out, const float *x, const float *y, int64_t count)
{
    const int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    LET_NEXT_START();
    AWAIT_LAST();
    if (i < count)
        out[i] = x[i] + y[i];
}

void cuda_add(struct device *d, float *out, const float *x, const float *y, int64_t count)
{
    if (count == 0)
        return;
    LAUNCH_EARLY(d, add_kernel, blocks_for(count, BLOCK), BLOCK, 0, out, x, y, count);
    CHECK_LAUNCH(d);
}

__global__ void gelu_kernel(float *out, const float *x, int64_t count)
{
    const int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i < count)
        out[i] = scalar_gelu_new(x[i]);
}

void cuda_gelu(struct device *d, float *out, const float *x, int64_t count)
{
    if (count == 0)
        return;
    LAUNCH(gelu_kernel, blocks_for(count, BLOCK), BLOCK, 0, d->stream, out, x, count);
    CHECK_LAUNCH(d);
}
