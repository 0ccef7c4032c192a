/* Reductions over the last dimensions, read as one row-major sequence, and the softmaxes. Half a
 * warp makes one output: its sixteen threads are the lanes of the canonical sum, so no thread
 * waits for another but in the tree at the end. */
#include "device.h"

constexpr int OUTPUTS = BLOCK / LANES; /* of a block */

/* An output's elements. */
struct sequence {
    int rank;
    uint32_t count;
    uint32_t shape[RANK_MAX];
    int64_t stride[RANK_MAX];
};

static struct sequence sequence_of(const struct view *v, int n_dims)
{
    struct tensor last = {NULL, DT_f32, {n_dims, {}, {}, 0}};
    for (int j = 0; j < n_dims; j++) {
        last.view.shape[j] = v->shape[v->rank - n_dims + j];
        last.view.stride[j] = v->stride[v->rank - n_dims + j];
    }
    const struct tensor *const one = &last;
    const struct walk w = walk_of(&one, 1, n_dims);
    struct sequence s = {w.rank, w.count, {}, {}};
    memcpy(s.shape, w.shape, sizeof s.shape);
    memcpy(s.stride, w.stride[0], sizeof s.stride);
    return s;
}

__device__ __forceinline__ int64_t sequence_place(const struct sequence &s, uint32_t i)
{
    if (s.rank == 1)
        return i * s.stride[0];
    int64_t at = 0;
    for (int j = s.rank - 1; j >= 0; j--) {
        at += i % s.shape[j] * s.stride[j];
        i /= s.shape[j];
    }
    return at;
}

/* All of each row where nobody asks for a part of one: it has no state then. */
static struct part part_or_all(const struct part *p, int64_t count)
{
    const struct part all = {0, 0, count, NULL};
    return p ? *p : all;
}

/* The output that this thread works for. Half a warp may have none: it goes through the same steps,
 * since a shuffle needs all lanes, but over no elements, and stores nothing. */
__device__ __forceinline__ uint32_t output_number(void)
{
    return blockIdx.x * OUTPUTS + threadIdx.x / LANES;
}

/* What a lane begins with and adds, how two are joined, and what becomes of the sum of n. */
struct sum_f32 {
    static constexpr float first = 0;
    static __device__ float join(float lane, float other)
    {
        return lane + other;
    }
    static __device__ float add(float lane, float x)
    {
        return lane + x;
    }
    static __device__ float end(float sum, uint32_t)
    {
        return sum;
    }
};
struct mean_f32 : sum_f32 {
    static __device__ float end(float sum, uint32_t n)
    {
        return sum / (float)n;
    }
};
struct norm_f32 : sum_f32 {
    static __device__ float add(float lane, float x)
    {
        return fmaf(x, x, lane);
    }
    static __device__ float end(float sum, uint32_t)
    {
        return sqrtf(sum);
    }
};
struct sum_whole {
    static constexpr int64_t first = 0;
    static __device__ int64_t join(int64_t lane, int64_t other)
    {
        return wrap_add(lane, other);
    }
    template <class T> static __device__ int64_t add(int64_t lane, T x)
    {
        return wrap_add(lane, x);
    }
    static __device__ int64_t end(int64_t sum, uint32_t)
    {
        return sum;
    }
};
struct prod_f32 : sum_f32 {
    static constexpr float first = 1;
    static __device__ float join(float lane, float other)
    {
        return lane * other;
    }
    static __device__ float add(float lane, float x)
    {
        return lane * x;
    }
};
struct prod_i64 : sum_whole {
    static constexpr int64_t first = 1;
    static __device__ int64_t join(int64_t lane, int64_t other)
    {
        return wrap_mul(lane, other);
    }
    static __device__ int64_t add(int64_t lane, int64_t x)
    {
        return wrap_mul(lane, x);
    }
};

/* out[i] = Op over the sequence s that starts where the walk says: lane l takes its elements l, l +
 * 16, ..., then the tree. */
template <class Op, class Sum, class T>
__global__ void sum_kernel(Sum *out, const T *x, const __grid_constant__ walk w,
                           const __grid_constant__ sequence s, const __grid_constant__ part p)
{
    const uint32_t number = output_number(), end = number < w.count ? (uint32_t)p.to : 0;
    const uint32_t first = threadIdx.x % LANES;
    int64_t at[2];
    walk_places(at, w, number);
    Sum *const kept = (Sum *)p.state + first;
    Sum lane = p.from > 0 && number < w.count ? *kept : Op::first;
    for (uint32_t i = (uint32_t)p.from + first; i < end; i += LANES)
        lane = Op::add(lane, x[at[1] + sequence_place(s, i)]);
    if (p.to < s.count) {
        if (number < w.count)
            *kept = lane;
        return;
    }
    for (int by = LANES / 2; by > 0; by /= 2)
        lane = Op::join(lane, __shfl_down_sync(ALL_LANES, lane, by, LANES));
    if (number < w.count && first == 0)
        out[at[0]] = Op::end(lane, s.count);
}

template <class Op, class Sum, class T>
static void run_sum(struct device *d, const struct tensor *out, const struct tensor *x,
                    const struct walk &w, const struct sequence &s, const struct part &p)
{
    LAUNCH((sum_kernel<Op, Sum, T>), blocks_for(w.count, OUTPUTS), BLOCK, 0, d->stream,
           cuda_data<Sum>(out), cuda_data<T>(x), w, s, p);
    CHECK_LAUNCH(d);
}

/* The greatest of the sixteen, for all of them. */
__device__ __forceinline__ float lanes_max(float lane)
{
    for (int by = LANES / 2; by > 0; by /= 2) {
        const float other = __shfl_xor_sync(ALL_LANES, lane, by, LANES);
        lane = lane > other ? lane : other;
    }
    return lane;
}

/* out[i] = log of the sum of exp(x) over the sequence that starts where the walk says, in lanes.
 * Where the maximum is infinite the differences from it would be NaN: the sum itself is 0 or
 * infinity then, and its log is the answer. The state of a part: each lane's maximum, and its
 * sum. */
__global__ void logsumexp_kernel(float *out, const float *x, const __grid_constant__ walk w,
                                 const __grid_constant__ sequence s,
                                 const __grid_constant__ part p)
{
    const uint32_t number = output_number(), end = number < w.count ? (uint32_t)p.to : 0;
    const uint32_t first = threadIdx.x % LANES;
    int64_t at[2];
    walk_places(at, w, number);
    float *const kept = (float *)p.state + first;
    const bool has_row = number < w.count; /* who has none touches no state either */
    float most = has_row && (p.sweep > 0 || p.from > 0) ? kept[0] : -INFINITY;
    for (uint32_t i = (uint32_t)p.from + first; p.sweep == 0 && i < end; i += LANES) {
        const float value = x[at[1] + sequence_place(s, i)];
        most = most > value ? most : value;
    }
    if (p.state && p.sweep == 0) {
        if (has_row)
            kept[0] = most;
        return;
    }
    most = lanes_max(most);
    const float shift = fabsf(most) == INFINITY ? 0.0f : most;
    float lane = has_row && p.from > 0 ? kept[LANES] : 0.0f;
    for (uint32_t i = (uint32_t)p.from + first; i < end; i += LANES)
        lane += scalar_exp(x[at[1] + sequence_place(s, i)] - shift);
    if (p.to < s.count) {
        if (has_row)
            kept[LANES] = lane;
        return;
    }
    const float sum = lanes_sum(lane);
    if (has_row && first == 0)
        out[at[0]] = scalar_log(sum) + shift;
}

static void run_logsumexp(struct device *d, const struct tensor *out, const struct tensor *x,
                          const struct walk &w, const struct sequence &s, const struct part &p)
{
    LAUNCH(logsumexp_kernel, blocks_for(w.count, OUTPUTS), BLOCK, 0, d->stream,
           cuda_data<float>(out), cuda_data<float>(x), w, s, p);
    CHECK_LAUNCH(d);
}

/* Whether (x, i) wins over (y, j): the first NaN, else the first of the best. Place UINT32_MAX: no
 * element. */
template <bool most, class T>
__device__ __forceinline__ bool beats(T x, uint32_t i, T y, uint32_t j)
{
    if (i == UINT32_MAX || j == UINT32_MAX)
        return j == UINT32_MAX && i != UINT32_MAX;
    if (x != x || y != y)
        return x != x && (y == y || i < j);
    if (x == y)
        return i < j;
    return most ? x > y : x < y;
}

template <class T> struct best_of_lane {
    T best;
    uint32_t place;
};

/* Of the sequence that starts where the walk says, the winner's value to `values`, or its place to
 * `places`: one of them is NULL. Which lane met it first makes no difference (beats). */
template <bool most, class T>
__global__ void extreme_kernel(T *values, int64_t *places, const T *x,
                               const __grid_constant__ walk w,
                               const __grid_constant__ sequence s, const __grid_constant__ part p)
{
    const uint32_t number = output_number(), end = number < w.count ? (uint32_t)p.to : 0;
    const uint32_t first = threadIdx.x % LANES;
    int64_t at[2];
    walk_places(at, w, number);
    best_of_lane<T> *const kept = (best_of_lane<T> *)p.state + first;
    const bool goes_on = p.from > 0 && number < w.count;
    T best = goes_on ? kept->best : 0;
    uint32_t place = goes_on ? kept->place : UINT32_MAX;
    for (uint32_t i = (uint32_t)p.from + first; i < end; i += LANES) {
        const T value = x[at[1] + sequence_place(s, i)];
        if (beats<most, T>(value, i, best, place)) {
            best = value;
            place = i;
        }
    }
    if (p.to < s.count) {
        if (number < w.count) {
            kept->best = best;
            kept->place = place;
        }
        return;
    }
    for (int by = LANES / 2; by > 0; by /= 2) {
        const T other = __shfl_down_sync(ALL_LANES, best, by, LANES);
        const uint32_t there = __shfl_down_sync(ALL_LANES, place, by, LANES);
        if (beats<most, T>(other, there, best, place)) {
            best = other;
            place = there;
        }
    }
    if (number >= w.count || first != 0)
        return;
    if (values)
        values[at[0]] = best;
    else
        places[at[0]] = place;
}

template <bool most, class T>
static void run_extreme(struct device *d, enum op op, const struct tensor *out,
                        const struct tensor *x, const struct walk &w, const struct sequence &s,
                        const struct part &p)
{
    const bool wants_place = op == OP_argmax || op == OP_argmin;
    LAUNCH((extreme_kernel<most, T>), blocks_for(w.count, OUTPUTS), BLOCK, 0, d->stream,
           wants_place ? NULL : cuda_data<T>(out), wants_place ? cuda_data<int64_t>(out) : NULL,
           cuda_data<T>(x), w, s, p);
    CHECK_LAUNCH(d);
}

template <class T>
static void extreme_of(struct device *d, enum op op, const struct tensor *out,
                       const struct tensor *x, const struct walk &w, const struct sequence &s,
                       const struct part &p)
{
    if (op == OP_max || op == OP_argmax)
        run_extreme<true, T>(d, op, out, x, w, s, p);
    else
        run_extreme<false, T>(d, op, out, x, w, s, p);
}

void cuda_reduce(struct device *d, enum op op, const struct tensor *out, const struct tensor *x,
                 int n_reduced, const struct part *part)
{
    const struct tensor *const both[] = {out, x};
    const struct walk w = walk_of(both, 2, out->view.rank);
    const struct sequence s = sequence_of(&x->view, n_reduced);
    const struct part p = part_or_all(part, s.count);
    if (w.count == 0)
        return;
    switch (op) {
    case OP_sum:
        if (x->dtype == DT_f32)
            run_sum<sum_f32, float, float>(d, out, x, w, s, p);
        else if (x->dtype == DT_i64)
            run_sum<sum_whole, int64_t, int64_t>(d, out, x, w, s, p);
        else
            run_sum<sum_whole, int64_t, uint8_t>(d, out, x, w, s, p);
        break;
    case OP_prod:
        if (x->dtype == DT_f32)
            run_sum<prod_f32, float, float>(d, out, x, w, s, p);
        else
            run_sum<prod_i64, int64_t, int64_t>(d, out, x, w, s, p);
        break;
    case OP_mean: run_sum<mean_f32, float, float>(d, out, x, w, s, p); break;
    case OP_norm: run_sum<norm_f32, float, float>(d, out, x, w, s, p); break;
    case OP_logsumexp: run_logsumexp(d, out, x, w, s, p); break;
    default:
        if (x->dtype == DT_f32)
            extreme_of<float>(d, op, out, x, w, s, p);
        else if (x->dtype == DT_i64)
            extreme_of<int64_t>(d, op, out, x, w, s, p);
        else
            extreme_of<uint8_t>(d, op, out, x, w, s, p);
    }
}

/* out (.., n) = softmax of x (.., n), its sum in lanes: half a warp a row. A lane reads and writes
 * elements of its own only, so out may be x. The state of a part: each lane's maximum, and its sum.
 * */
template <enum op op>
__global__ void softmax_kernel(float *out, const float *x, const __grid_constant__ walk w,
                               int64_t out_stride, int64_t x_stride, const __grid_constant__ part p)
{
    const uint32_t number = output_number(), end = number < w.count ? (uint32_t)p.to : 0;
    const uint32_t first = threadIdx.x % LANES, from = (uint32_t)p.from + first;
    int64_t at[2];
    walk_places(at, w, number);
    x += at[1];
    out += at[0];
    float *const kept = (float *)p.state + first;
    const bool has_row = number < w.count; /* who has none touches no state either */
    float most = has_row && (p.sweep > 0 || p.from > 0) ? kept[0] : -INFINITY;
    for (uint32_t i = from; p.sweep == 0 && i < end; i += LANES)
        most = most > x[i * x_stride] ? most : x[i * x_stride];
    if (p.state && p.sweep == 0) {
        if (has_row)
            kept[0] = most;
        return;
    }
    most = lanes_max(most);
    float lane = has_row && (p.sweep > 1 || p.from > 0) ? kept[LANES] : 0.0f;
    for (uint32_t i = from; p.sweep < 2 && i < end; i += LANES)
        lane += scalar_exp(x[i * x_stride] - most);
    if (p.state && p.sweep == 1) {
        if (has_row)
            kept[LANES] = lane;
        return;
    }
    const float sum = lane_zero(lanes_sum(lane));
    const float log_sum = scalar_log(sum);
    for (uint32_t i = from; i < end; i += LANES) {
        const float shifted = x[i * x_stride] - most;
        out[i * out_stride] = op == OP_softmax ? scalar_exp(shifted) / sum : shifted - log_sum;
    }
}

void cuda_softmax(struct device *d, enum op op, const struct tensor *out, const struct tensor *x,
                  const struct part *part)
{
    const struct tensor *const both[] = {out, x};
    const int last = x->view.rank - 1;
    const struct walk w = walk_of(both, 2, last);
    const struct part p = part_or_all(part, x->view.shape[last]);
    if (w.count == 0 || p.to == 0)
        return;
    const unsigned n_blocks = blocks_for(w.count, OUTPUTS);
    if (op == OP_softmax)
        LAUNCH(softmax_kernel<OP_softmax>, n_blocks, BLOCK, 0, d->stream, cuda_data<float>(out),
               cuda_data<float>(x), w, out->view.stride[last], x->view.stride[last], p);
    else
        LAUNCH(softmax_kernel<OP_log_softmax>, n_blocks, BLOCK, 0, d->stream,
               cuda_data<float>(out), cuda_data<float>(x), w, out->view.stride[last],
               x->view.stride[last], p);
    CHECK_LAUNCH(d);
}

struct cumsum_f32 {
    static constexpr double first = 0;
    static __device__ double join(double sum, double x)
    {
        return sum + x;
    }
};
struct cumprod_f32 {
    static constexpr double first = 1;
    static __device__ double join(double product, double x)
    {
        return product * x;
    }
};

/* out (.., n) = x (.., n) summed or multiplied up: a thread a row, a chain in which each step waits
 * for the one before. */
template <class Op, class Sum, class T>
__global__ void scan_kernel(T *out, const T *x, const __grid_constant__ walk w,
                            int64_t out_stride, int64_t x_stride, const __grid_constant__ part p)
{
    const uint32_t row = blockIdx.x * BLOCK + threadIdx.x;
    if (row >= w.count)
        return;
    int64_t at[2];
    walk_places(at, w, row);
    Sum sum = p.from > 0 ? *(Sum *)p.state : Op::first;
    for (int64_t i = p.from; i < p.to; i++) {
        sum = Op::join(sum, (Sum)x[at[1] + i * x_stride]);
        out[at[0] + i * out_stride] = (T)sum;
    }
    if (p.state)
        *(Sum *)p.state = sum;
}

template <class Op, class Sum, class T>
static void run_scan(struct device *d, const struct tensor *out, const struct tensor *x,
                     const struct part *part)
{
    const struct tensor *const both[] = {out, x};
    const int last = x->view.rank - 1;
    const struct walk w = walk_of(both, 2, last);
    const struct part p = part_or_all(part, x->view.shape[last]);
    if (w.count == 0 || p.to == 0)
        return;
    LAUNCH((scan_kernel<Op, Sum, T>), blocks_for(w.count, BLOCK), BLOCK, 0, d->stream,
           cuda_data<T>(out), cuda_data<T>(x), w, out->view.stride[last], x->view.stride[last], p);
    CHECK_LAUNCH(d);
}

void cuda_scan(struct device *d, enum op op, const struct tensor *out, const struct tensor *x,
               const struct part *part)
{
    if (x->dtype == DT_f32 && op == OP_cumsum)
        run_scan<cumsum_f32, double, float>(d, out, x, part);
    else if (x->dtype == DT_f32)
        run_scan<cumprod_f32, double, float>(d, out, x, part);
    else if (op == OP_cumsum)
        run_scan<sum_whole, int64_t, int64_t>(d, out, x, part);
    else
        run_scan<prod_i64, int64_t, int64_t>(d, out, x, part);
}
