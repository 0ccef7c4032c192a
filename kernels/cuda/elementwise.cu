/* copy, unary, binary, where: any strides, one element a thread. */
#include "device.h"

struct walk walk_of(const struct tensor *const *tensors, int n_tensors, int n_dims)
{
    struct walk w = {};
    w.count = 1;
    for (int j = 0; j < n_dims; j++) {
        const int64_t size = tensors[0]->view.shape[j];
        w.count *= (uint32_t)size;
        if (size == 1)
            continue;
        bool joins = w.rank > 0;
        for (int i = 0; i < n_tensors && joins; i++)
            joins = w.stride[i][w.rank - 1] == tensors[i]->view.stride[j] * size;
        if (!joins)
            w.shape[w.rank++] = 1;
        w.shape[w.rank - 1] *= (uint32_t)size;
        for (int i = 0; i < n_tensors; i++)
            w.stride[i][w.rank - 1] = tensors[i]->view.stride[j];
    }
    return w;
}

/* out[i] = Op::of(x[i]), i in row-major order: a thread an element, as in all of these. */
template <class Op, class To, class From>
__global__ void unary_kernel(To *out, const From *x, const __grid_constant__ walk w)
{
    const uint32_t i = blockIdx.x * BLOCK + threadIdx.x;
    if (i >= w.count)
        return;
    int64_t at[2];
    walk_places(at, w, i);
    out[at[0]] = Op::of(x[at[1]]);
}

template <class Op, class From>
static void run_unary(struct device *d, const struct tensor *out, const struct tensor *x)
{
    typedef decltype(Op::of(From())) To;
    const struct tensor *const both[] = {out, x};
    const struct walk w = walk_of(both, 2, out->view.rank);
    if (w.count == 0)
        return;
    LAUNCH((unary_kernel<Op, To, From>), blocks_for(w.count, BLOCK), BLOCK, 0, d->stream,
           cuda_data<To>(out), cuda_data<From>(x), w);
    CHECK_LAUNCH(d);
}

/* out[i] = Op::of(x[i], y[i]) */
template <class Op, class To, class From>
__global__ void binary_kernel(To *out, const From *x, const From *y, const __grid_constant__ walk w)
{
    const uint32_t i = blockIdx.x * BLOCK + threadIdx.x;
    if (i >= w.count)
        return;
    int64_t at[3];
    walk_places(at, w, i);
    out[at[0]] = Op::of(x[at[1]], y[at[2]]);
}

template <class Op, class From>
static void run_binary(struct device *d, const struct tensor *out, const struct tensor *x,
                       const struct tensor *y)
{
    typedef decltype(Op::of(From(), From())) To;
    const struct tensor *const all[] = {out, x, y};
    const struct walk w = walk_of(all, 3, out->view.rank);
    if (w.count == 0)
        return;
    LAUNCH((binary_kernel<Op, To, From>), blocks_for(w.count, BLOCK), BLOCK, 0, d->stream,
           cuda_data<To>(out), cuda_data<From>(x), cuda_data<From>(y), w);
    CHECK_LAUNCH(d);
}

/* Conversions, as torch's `to`: towards zero from a float, != 0 to a bool. */
struct convert_f32 {
    template <class T> static __device__ float of(T x)
    {
        return (float)x;
    }
};
struct convert_i64 {
    static __device__ int64_t of(float x)
    {
        return whole_from_float(x);
    }
    static __device__ int64_t of(int64_t x)
    {
        return x;
    }
    static __device__ int64_t of(uint8_t x)
    {
        return x;
    }
};
struct convert_bool {
    template <class T> static __device__ uint8_t of(T x)
    {
        return x != 0;
    }
};

template <class Op>
static void copy_to(struct device *d, const struct tensor *out, const struct tensor *x)
{
    switch (x->dtype) {
    case DT_f32: run_unary<Op, float>(d, out, x); break;
    case DT_i64: run_unary<Op, int64_t>(d, out, x); break;
    default: run_unary<Op, uint8_t>(d, out, x); break;
    }
}

void cuda_copy(struct device *d, const struct tensor *out, const struct tensor *x)
{
    switch (out->dtype) {
    case DT_f32: copy_to<convert_f32>(d, out, x); break;
    case DT_i64: copy_to<convert_i64>(d, out, x); break;
    default: copy_to<convert_bool>(d, out, x); break;
    }
}

/* The elements first .. first + count - 1 of x, one behind the other. */
template <class T>
__global__ void pack_kernel(T *out, const T *x, uint32_t first, uint32_t count,
                            const __grid_constant__ walk w)
{
    const uint32_t i = blockIdx.x * BLOCK + threadIdx.x;
    if (i >= count)
        return;
    int64_t at[1];
    walk_places(at, w, first + i);
    out[i] = x[at[0]];
}

template <class T>
static void run_pack(struct device *d, void *out, const struct tensor *x, int64_t first,
                     int64_t count)
{
    LAUNCH(pack_kernel<T>, blocks_for(count, BLOCK), BLOCK, 0, d->stream, static_cast<T *>(out),
           cuda_data<T>(x), (uint32_t)first, (uint32_t)count, walk_of(&x, 1, x->view.rank));
    CHECK_LAUNCH(d);
}

void cuda_pack(struct device *d, void *out, const struct tensor *x, int64_t first, int64_t count)
{
    switch (x->dtype) {
    case DT_f32: run_pack<float>(d, out, x, first, count); break;
    case DT_i64: run_pack<int64_t>(d, out, x, first, count); break;
    default: run_pack<uint8_t>(d, out, x, first, count); break;
    }
}

/* The types of results, by the row's `types`. */
typedef float f32_same, f32_number, f32_real, f32_bits, f32_whole;
typedef int64_t i64_same, i64_number, i64_real, i64_bits, i64_whole;
typedef uint8_t f32_compare, i64_compare, bool_same, bool_number, bool_real, bool_bits,
    bool_whole, bool_compare;

#define VIEW(id, ...)
#define CALL(id, ...)
#define EFFECT(id, ...)

/* Each expression of a row as a type, OP_add over floats being f32_op_add. */
#define UNARY_OP(name, to, from, expression)                                                      \
    struct name {                                                                                 \
        static __device__ __forceinline__ to of(from x)                                           \
        {                                                                                         \
            (void)x;                                                                              \
            return (to)(expression);                                                              \
        }                                                                                         \
    };
#define BINARY_OP(name, to, from, expression)                                                     \
    struct name {                                                                                 \
        static __device__ __forceinline__ to of(from x, from y)                                   \
        {                                                                                         \
            (void)x, (void)y;                                                                     \
            return (to)(expression);                                                              \
        }                                                                                         \
    };
#define UNARY(id, types, f, i, b)                                                                 \
    UNARY_OP(f32_op_##id, f32_##types, float, f)                                                  \
    UNARY_OP(i64_op_##id, i64_##types, int64_t, i)                                                \
    UNARY_OP(bool_op_##id, bool_##types, uint8_t, (b) != 0)
#define BINARY(id, types, f, i, b)                                                                \
    BINARY_OP(f32_op_##id, f32_##types, float, f)                                                 \
    BINARY_OP(i64_op_##id, i64_##types, int64_t, i)                                               \
    BINARY_OP(bool_op_##id, bool_##types, uint8_t, (b) != 0)
#include "../../protocol/ops.def"
#undef UNARY
#undef BINARY

/* The op of a row that computes in the dtype of its operands. */
template <class F32, class I64, class Bool>
static void unary_of(struct device *d, const struct tensor *out, const struct tensor *x)
{
    switch (x->dtype) {
    case DT_f32: run_unary<F32, float>(d, out, x); break;
    case DT_i64: run_unary<I64, int64_t>(d, out, x); break;
    default: run_unary<Bool, uint8_t>(d, out, x); break;
    }
}

template <class F32, class I64, class Bool>
static void binary_of(struct device *d, const struct tensor *out, const struct tensor *x,
                      const struct tensor *y)
{
    switch (x->dtype) {
    case DT_f32: run_binary<F32, float>(d, out, x, y); break;
    case DT_i64: run_binary<I64, int64_t>(d, out, x, y); break;
    default: run_binary<Bool, uint8_t>(d, out, x, y); break;
    }
}

#define UNARY(id, types, f, i, b)                                                                 \
    case OP_##id: unary_of<f32_op_##id, i64_op_##id, bool_op_##id>(d, out, x); break;
#define BINARY(id, types, f, i, b)
void cuda_unary(struct device *d, enum op op, const struct tensor *out, const struct tensor *x)
{
    switch (op) {
#include "../../protocol/ops.def"
    default: break;
    }
}
#undef UNARY
#undef BINARY

#define UNARY(id, types, f, i, b)
#define BINARY(id, types, f, i, b)                                                                \
    case OP_##id: binary_of<f32_op_##id, i64_op_##id, bool_op_##id>(d, out, x, y); break;
void cuda_binary(struct device *d, enum op op, const struct tensor *out, const struct tensor *x,
                 const struct tensor *y)
{
    switch (op) {
#include "../../protocol/ops.def"
    default: break;
    }
}
#undef UNARY
#undef BINARY
#undef VIEW
#undef CALL
#undef EFFECT

/* out[i] = mask[i] ? x[i] : y[i] */
template <class T>
__global__ void where_kernel(T *out, const uint8_t *mask, const T *x, const T *y,
                             const __grid_constant__ walk w)
{
    const uint32_t i = blockIdx.x * BLOCK + threadIdx.x;
    if (i >= w.count)
        return;
    int64_t at[4];
    walk_places(at, w, i);
    out[at[0]] = mask[at[1]] ? x[at[2]] : y[at[3]];
}

template <class T>
static void run_where(struct device *d, const struct tensor *out, const struct tensor *mask,
                      const struct tensor *x, const struct tensor *y)
{
    const struct tensor *const all[] = {out, mask, x, y};
    const struct walk w = walk_of(all, 4, out->view.rank);
    if (w.count == 0)
        return;
    LAUNCH(where_kernel<T>, blocks_for(w.count, BLOCK), BLOCK, 0, d->stream, cuda_data<T>(out),
           cuda_data<uint8_t>(mask), cuda_data<T>(x), cuda_data<T>(y), w);
    CHECK_LAUNCH(d);
}

void cuda_where(struct device *d, const struct tensor *out, const struct tensor *mask,
                const struct tensor *x, const struct tensor *y)
{
    switch (out->dtype) {
    case DT_f32: run_where<float>(d, out, mask, x, y); break;
    case DT_i64: run_where<int64_t>(d, out, mask, x, y); break;
    default: run_where<uint8_t>(d, out, mask, x, y); break;
    }
}
