/* Elements by their places along the last dimension: where the first k are, and what is there. */
#include "fragment.h"

constexpr int TOPK_THREADS = 1024; /* at most, for a row */
constexpr uint32_t SORT_ALONE = 4096; /* places that a block sorts by itself, at most */
constexpr int DIGITS = 256;

/* An element and its place as one number: the smaller comes first. Equal floats are equal, a NaN is
 * greater than all. */
template <bool largest>
__device__ __forceinline__ uint64_t order_of(float x, uint32_t place)
{
    const uint32_t sign = 1u << 31, bits = scalar_bits(x);
    const uint32_t key = x != x ? UINT32_MAX : bits & sign ? sign - (bits ^ sign) : sign + bits;
    return (uint64_t)(largest ? ~key : key) << 32 | place;
}

template <bool largest>
__device__ __forceinline__ unsigned __int128 order_of(int64_t x, uint32_t place)
{
    const uint64_t key = (uint64_t)x ^ UINT64_C(1) << 63;
    return (unsigned __int128)(largest ? ~key : key) << 32 | place;
}

/* A row, whoever's places are asked for. */
template <bool largest, class T> struct choice {
    typedef decltype(order_of<largest>(T(), 0u)) order;
    const T *x;
    int64_t stride;
    uint32_t n;

    __device__ __forceinline__ order at(uint32_t i) const
    {
        return order_of<largest>(x[i * stride], i);
    }
    static constexpr int bits = 8 * (int)sizeof(T) + 32; /* of an order */
};

/* A number not below the first k orders and below all others: digit by digit, from the highest. All
 * threads count who has which digit; behind the counting of those in front, the k-th is the
 * `left`-th. */
template <class Choice>
__device__ __forceinline__ typename Choice::order last_of(const Choice &c, uint32_t k)
{
    SHARED(uint32_t, counts, [DIGITS]);
    SHARED(uint32_t, found, [2]); /* the digit, and how many of those with it are among the first */
    typename Choice::order digits = 0;
    uint32_t left = k;
    for (int shift = Choice::bits - 8; shift >= 0; shift -= 8) {
        for (uint32_t i = threadIdx.x; i < DIGITS; i += blockDim.x)
            counts[i] = 0;
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < c.n; i += blockDim.x) {
            const typename Choice::order own = c.at(i) >> shift;
            if (own >> 8 == digits)
                atomicAdd(&counts[(uint32_t)own % DIGITS], 1u);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            uint32_t digit = 0;
            for (; counts[digit] < left; digit++)
                left -= counts[digit];
            found[0] = digit;
            found[1] = left;
        }
        __syncthreads();
        digits = digits << 8 | found[0];
        left = found[1];
        if (counts[found[0]] == left)
            return ((digits + 1) << shift) - 1;
        __syncthreads();
    }
    return digits;
}

/* Sorted runs become runs of twice the length, by comparisons that all put the smaller in front: so
 * what is missing behind the k-th may be thought of as greatest. Of each, the steps by which pairs
 * lie apart follow one another. */
#define EACH_STEP(k, by)                                                                          \
    for (uint32_t run = 1; run < (k); run *= 2)                                                   \
        for (uint32_t by = 2 * run - 1, next = run / 2; by > 0; by = next, next /= 2)

template <class Choice>
__device__ __forceinline__ void sort_pair(int64_t *places, int64_t stride, const Choice &c,
                                          uint32_t k, uint32_t i, uint32_t by)
{
    const uint32_t j = i ^ by;
    if (j < i || j >= k)
        return;
    const int64_t front = places[i * stride], behind = places[j * stride];
    if (c.at((uint32_t)front) < c.at((uint32_t)behind))
        return;
    places[i * stride] = behind;
    places[j * stride] = front;
}

template <class Choice>
__device__ __forceinline__ void sort(int64_t *places, int64_t stride, const Choice &c, uint32_t k)
{
    EACH_STEP (k, by) {
        for (uint32_t i = threadIdx.x; i < k; i += blockDim.x)
            sort_pair(places, stride, c, k, i, by);
        __syncthreads();
    }
}

/* One step of rows out (.., k) that are too long for a block: a thread a pair, blockIdx.y the row.
 * */
template <bool largest, class T>
__global__ void sort_kernel(int64_t *out, const T *x, const __grid_constant__ walk w, uint32_t n,
                            uint32_t k, int64_t out_stride, int64_t x_stride, uint32_t by)
{
    const uint32_t i = blockIdx.x * BLOCK + threadIdx.x, row = blockIdx.y;
    if (i >= k)
        return;
    int64_t at[2];
    walk_places(at, w, row);
    const choice<largest, T> c = {x + at[1], x_stride, n};
    sort_pair(out + at[0], out_stride, c, k, i, by);
}

template <bool largest, class T>
static void sort_apart(struct device *d, int64_t *out, const T *x, const struct walk &w, uint32_t n,
                       uint32_t k, int64_t out_stride, int64_t x_stride)
{
    const dim3 grid(blocks_for(k, BLOCK), w.count); /* fewer rows than 65,536: of VALUE_BYTES_MAX */
    EACH_STEP (k, by) {
        LAUNCH((sort_kernel<largest, T>), grid, BLOCK, 0, d->stream, out, x, w, n, k, out_stride,
               x_stride, by);
        CHECK_LAUNCH(d);
    }
}

/* out (.., k) = places in x (.., n): a block a row. The first k are put down as they come, then
 * sorted if they are few. */
template <bool largest, class T>
__global__ void __launch_bounds__(TOPK_THREADS)
    topk_kernel(int64_t *out, const T *x, const __grid_constant__ walk w, uint32_t n, uint32_t k,
                int64_t out_stride, int64_t x_stride)
{
    SHARED(uint32_t, n_taken, [1]);
    int64_t at[2];
    walk_places(at, w, blockIdx.x);
    const choice<largest, T> c = {x + at[1], x_stride, n};
    int64_t *const places = out + at[0];
    if (threadIdx.x == 0)
        n_taken[0] = 0;
    const auto last = last_of(c, k);
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x)
        if (c.at(i) <= last)
            places[atomicAdd(&n_taken[0], 1u) * out_stride] = i;
    __syncthreads();
    if (k <= SORT_ALONE)
        sort(places, out_stride, c, k);
}

template <bool largest, class T>
static void run_topk(struct device *d, const struct tensor *out, const struct tensor *x)
{
    const struct tensor *const both[] = {out, x};
    const int last = x->view.rank - 1;
    const struct walk w = walk_of(both, 2, last);
    const uint32_t n = (uint32_t)x->view.shape[last], k = (uint32_t)out->view.shape[last];
    if (w.count == 0 || k == 0)
        return;
    const uint32_t warps = (n + 31) / 32, threads = warps * 32;
    LAUNCH((topk_kernel<largest, T>), w.count, threads < TOPK_THREADS ? threads : TOPK_THREADS, 0,
           d->stream, cuda_data<int64_t>(out), cuda_data<T>(x), w, n, k, out->view.stride[last],
           x->view.stride[last]);
    CHECK_LAUNCH(d);
    if (k <= SORT_ALONE)
        return;
    sort_apart<largest>(d, cuda_data<int64_t>(out), cuda_data<T>(x), w, n, k,
                        out->view.stride[last], x->view.stride[last]);
}

void cuda_topk(struct device *d, const struct tensor *out, const struct tensor *x, bool largest)
{
    if (x->dtype == DT_f32)
        (largest ? run_topk<true, float> : run_topk<false, float>)(d, out, x);
    else
        (largest ? run_topk<true, int64_t> : run_topk<false, int64_t>)(d, out, x);
}

/* One thread: reports the first element whose index was outside, which the kernel before has kept
 * in `faulty`, and makes that ready for the next call. */
__global__ void fault_kernel(int64_t *fault, int64_t tag, const int64_t *index,
                             const __grid_constant__ walk w, uint32_t *faulty)
{
    const uint32_t i = *faulty;
    *faulty = UINT32_MAX;
    if (i == UINT32_MAX || fault[0] != 0)
        return;
    int64_t at[3];
    walk_places(at, w, i);
    fault[0] = tag;
    fault[1] = index[at[2]];
}

static void report_fault(struct device *d, int64_t *fault, int64_t tag, const struct tensor *index,
                         const struct walk &w)
{
    LAUNCH(fault_kernel, 1, 1, 0, d->stream, fault, tag, cuda_data<int64_t>(index), w, d->faulty);
    CHECK_LAUNCH(d);
}

/* out (.., k) = x (.., n) at index (.., k): an element a thread, all of whose rows the walk knows.
 * */
template <class T>
__global__ void gather_kernel(T *out, const T *x, const int64_t *index,
                              const __grid_constant__ walk w, int64_t n, int64_t x_stride,
                              uint32_t *faulty)
{
    const uint32_t i = blockIdx.x * BLOCK + threadIdx.x;
    if (i >= w.count)
        return;
    int64_t at[3];
    walk_places(at, w, i);
    const int64_t place = index[at[2]];
    const bool is_there = place >= 0 && place < n;
    out[at[0]] = is_there ? x[at[1] + place * x_stride] : (T)0;
    if (!is_there)
        atomicMin(faulty, i);
}

template <class T>
static void run_gather(struct device *d, const struct tensor *out, const struct tensor *x,
                       const struct tensor *index, const struct walk &w)
{
    const int last = x->view.rank - 1;
    LAUNCH(gather_kernel<T>, blocks_for(w.count, BLOCK), BLOCK, 0, d->stream, cuda_data<T>(out),
           cuda_data<T>(x), cuda_data<int64_t>(index), w, x->view.shape[last],
           x->view.stride[last], d->faulty);
    CHECK_LAUNCH(d);
}

void cuda_gather(struct device *d, const struct tensor *out, const struct tensor *x,
                 const struct tensor *index, int64_t *fault, int64_t tag)
{
    struct tensor rows = *x; /* where each element's row begins */
    rows.view.stride[x->view.rank - 1] = 0;
    const struct tensor *const all[] = {out, &rows, index};
    const struct walk w = walk_of(all, 3, out->view.rank);
    if (w.count == 0)
        return;
    switch (x->dtype) {
    case DT_f32: run_gather<float>(d, out, x, index, w); break;
    case DT_i64: run_gather<int64_t>(d, out, x, index, w); break;
    default: run_gather<uint8_t>(d, out, x, index, w); break;
    }
    report_fault(d, fault, tag, index, w);
}

/* The same from places of a weight's row-major (K, N). */
__global__ void weight_gather_kernel(float *out, const __grid_constant__ weight w,
                                     const int64_t *index, const __grid_constant__ walk all,
                                     int64_t offset, int64_t n, int64_t step, uint32_t *faulty)
{
    const uint32_t i = blockIdx.x * BLOCK + threadIdx.x;
    if (i >= all.count)
        return;
    int64_t at[3];
    walk_places(at, all, i);
    const int64_t chosen = index[at[2]], place = offset + at[1] + chosen * step;
    const bool is_there = chosen >= 0 && chosen < n;
    out[at[0]] = is_there ? weight_at(w, place) : 0.0f;
    if (!is_there)
        atomicMin(faulty, i);
}

void cuda_weight_gather(struct device *d, const struct tensor *out, const struct weight *w,
                        const struct view *view, const struct tensor *index, int64_t *fault,
                        int64_t tag)
{
    const int last = view->rank - 1;
    struct tensor rows = {w->data, DT_f32, *view}; /* where each element's row begins */
    rows.view.stride[last] = 0;
    const struct tensor *const all[] = {out, &rows, index};
    const struct walk places = walk_of(all, 3, out->view.rank);
    if (places.count == 0)
        return;
    LAUNCH(weight_gather_kernel, blocks_for(places.count, BLOCK), BLOCK, 0, d->stream,
           cuda_data<float>(out), *w, cuda_data<int64_t>(index), places, view->offset,
           view->shape[last], view->stride[last], d->faulty);
    CHECK_LAUNCH(d);
    report_fault(d, fault, tag, index, places);
}

template <class T> __device__ __forceinline__ void add_to(T *sum, T x)
{
    *sum = plus(*sum, x);
}

/* Without reading a byte whose neighbours are other threads'. */
__device__ __forceinline__ void add_to(uint8_t *sum, uint8_t x)
{
    if (x)
        *sum = x;
}

struct line { /* along the last dimension */
    int64_t n, k, out_stride, index_stride, x_stride;
};

/* out (.., n) at index (.., k) = x (.., k), or += it: a thread a row, whose elements go one after
 * the other. */
template <bool adds, class T>
__global__ void scatter_kernel(T *out, const int64_t *index, const T *x,
                               const __grid_constant__ walk w, const __grid_constant__ line l,
                               uint32_t *faulty)
{
    const uint32_t row = blockIdx.x * BLOCK + threadIdx.x;
    if (row >= w.count)
        return;
    int64_t at[3];
    walk_places(at, w, row);
    for (int64_t j = 0; j < l.k; j++) {
        const int64_t place = index[at[1] + j * l.index_stride];
        const T y = x[at[2] + j * l.x_stride];
        if (place < 0 || place >= l.n) {
            atomicMin(faulty, (uint32_t)(row * l.k + j));
            continue;
        }
        T *const to = out + at[0] + place * l.out_stride;
        if (adds)
            add_to(to, y);
        else
            *to = y;
    }
}

template <bool adds, class T>
static void run_scatter(struct device *d, const struct tensor *out, const struct tensor *index,
                        const struct tensor *x)
{
    const int last = out->view.rank - 1;
    const struct tensor *const all[] = {out, index, x};
    const struct walk w = walk_of(all, 3, last);
    const struct line l = {out->view.shape[last], index->view.shape[last], out->view.stride[last],
                           index->view.stride[last], x->view.stride[last]};
    LAUNCH((scatter_kernel<adds, T>), blocks_for(w.count, BLOCK), BLOCK, 0, d->stream,
           cuda_data<T>(out), cuda_data<int64_t>(index), cuda_data<T>(x), w, l, d->faulty);
    CHECK_LAUNCH(d);
}

void cuda_scatter(struct device *d, enum op op, const struct tensor *out,
                  const struct tensor *index, const struct tensor *x, int64_t *fault, int64_t tag)
{
    const struct tensor *const all[] = {index, index, index};
    const struct walk w = walk_of(all, 3, index->view.rank);
    const bool adds = op == OP_scatter_add;
    if (w.count == 0)
        return;
    switch (x->dtype) {
    case DT_f32: (adds ? run_scatter<true, float> : run_scatter<false, float>)(d, out, index, x);
        break;
    case DT_i64:
        (adds ? run_scatter<true, int64_t> : run_scatter<false, int64_t>)(d, out, index, x);
        break;
    default:
        (adds ? run_scatter<true, uint8_t> : run_scatter<false, uint8_t>)(d, out, index, x);
        break;
    }
    report_fault(d, fault, tag, index, w);
}
