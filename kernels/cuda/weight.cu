/* Matrices of weight_pack: row-major float32, or, where `linear` computes in bf16, what it would
 * round them to each time: half the bytes to read, and the same products. */
#include "fragment.h"

/* pairs [(K + 1) / 2][stride] of matrix (K, N) with any strides: an element a thread. */
__global__ void __launch_bounds__(BLOCK)
    weight_round_kernel(const __grid_constant__ weight w, const float *matrix, int64_t k_step,
                        int64_t n_step)
{
    const int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x, k = i / w.N * 2, n = i % w.N;
    if (k >= w.K)
        return;
    const float *even = matrix + k * k_step + n * n_step;
    w.pairs[i / w.N * w.stride + n] = bf16_pair(*even, k + 1 < w.K ? even[k_step] : 0.0f);
}

/* The matrix goes up as it is and is laid out there. */
static bool weight_fill(struct device *d, const struct weight *w, const float *matrix,
                        enum layout l, struct err *e)
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
    if (w->data) {
        const int rows = (int)blocks_for(w->K, CHUNK) * CHUNK - w->K;
        const int64_t left[] = {rows, w->stride};
        const struct tensor behind = {w->data + (size_t)w->K * (size_t)w->stride, DT_f32,
                                      view_of(2, left)};
        cuda_copy(d, &to, &from);
        cuda_unary(d, OP_neg, &behind, &behind); /* -0: all of it is zero */
    } else {
        LAUNCH(weight_round_kernel, blocks_for((int64_t)(w->K + 1) / 2 * w->N, BLOCK), BLOCK, 0,
               d->stream, *w, static_cast<const float *>(raw), from.view.stride[0],
               from.view.stride[1]);
        CHECK_LAUNCH(d);
    }
    backend_cuda.release(d, raw, size);
    return true;
}

bool cuda_weight_pack(struct device *d, struct weight **out, const float *matrix, enum layout l,
                      int K, int N, struct err *e)
{
    const bool is_rounded = d->precision == PRECISION_bf16;
    const int stride = (N + 3) / 4 * 4;
    struct weight *w = static_cast<struct weight *>(memory_map(sizeof *w));
    if (!w)
        return err_set(e, ERR_device, "no memory for a weight of %d x %d", K, N);
    const int rows = is_rounded ? (K + 1) / 2 : (int)blocks_for(K, CHUNK) * CHUNK;
    void *room = NULL;
    if (!backend_cuda.alloc(d, &room, sizeof(float) * (size_t)rows * (size_t)stride, e)) {
        memory_unmap(w, sizeof *w);
        return false;
    }
    *w = {K, N, stride, is_rounded ? NULL : static_cast<float *>(room),
          is_rounded ? static_cast<uint32_t *>(room) : NULL};
    if (!weight_fill(d, w, matrix, l, e)) {
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
    backend_cuda.release(d, w->data ? static_cast<void *>(w->data) : w->pairs, 0);
    memory_unmap(w, sizeof *w);
}

/* Grid: the elements. */
__global__ void __launch_bounds__(BLOCK)
    weight_read_kernel(float *out, const __grid_constant__ weight w, int64_t offset,
                       const __grid_constant__ walk places)
{
    const uint32_t i = blockIdx.x * BLOCK + threadIdx.x;
    if (i >= places.count)
        return;
    int64_t at[2];
    walk_places(at, places, i);
    out[at[0]] = weight_at(w, offset + at[1]);
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
           cuda_data<float>(out), *w, view->offset, places);
    CHECK_LAUNCH(d);
}
