/* Matrices of weight_pack: row-major float32, or in words for tensor cores. Where `linear` computes
 * in bf16 they are what it would round them to each time: half the bytes to read, and the same
 * products. */
#include "fragment.h"

/* The words of matrix (K, N) with any strides: one a thread. */
__global__ void __launch_bounds__(BLOCK)
    weight_words_kernel(const __grid_constant__ weight w, const float *matrix, int64_t k_step,
                        int64_t n_step, int64_t count)
{
    const int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x, n = i / WORDS % w.N;
    const int64_t word = i / WORDS / w.N * WORDS + i % WORDS, k = word * w.each;
    const auto element = [&](int64_t at) {
        return at < w.K ? matrix[at * k_step + n * n_step] : 0.0f;
    };
    if (i < count)
        w.words[i] = w.each == 2 ? bf16_pair(element(k), element(k + 1)) : tf32_word(element(k));
}

/* Of four bytes each: numbers or words. */
static int64_t weight_size(const struct weight *w)
{
    const int64_t K = (int64_t)blocks_for(w->K, CHUNK) * CHUNK;
    return w->each == 0 ? K * w->stride : K / w->each * w->N;
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
        LAUNCH(weight_words_kernel, blocks_for(weight_size(w), BLOCK), BLOCK, 0, d->stream, *w,
               static_cast<const float *>(raw), from.view.stride[0], from.view.stride[1],
               weight_size(w));
        CHECK_LAUNCH(d);
    }
    /* Kernels fetch weights before they await the one before them. */
    cuda_note(d, cudaStreamSynchronize(d->stream), __func__);
    backend_cuda.release(d, raw, size);
    return true;
}

bool cuda_weight_pack(struct device *d, struct weight **out, const float *matrix, enum layout l,
                      int K, int N, struct err *e)
{
    static const int each[] = {0, 1, 1, 2}; /* k of a word, where there are words: by precision */
    if ((int64_t)K * N > UINT32_MAX) /* struct walk */
        return err_set(e, ERR_device, "a matrix of %d x %d has more elements than a GPU's may", K,
                       N);
    struct weight *w = static_cast<struct weight *>(memory_map(sizeof *w));
    if (!w)
        return err_set(e, ERR_device, "no memory for a weight of %d x %d", K, N);
    *w = {K, N, (N + 3) / 4 * 4, NULL, NULL, each[d->precision]};
    void *room = NULL;
    if (!backend_cuda.alloc(d, &room, sizeof(float) * (size_t)weight_size(w), e)) {
        memory_unmap(w, sizeof *w);
        return false;
    }
    if (w->each == 0)
        w->data = static_cast<float *>(room);
    else
        w->words = static_cast<uint32_t *>(room);
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
    backend_cuda.release(d, w->data ? static_cast<void *>(w->data) : w->words, 0);
    memory_unmap(w, sizeof *w);
}

/* out[i] = element offset + place of i of w as if it were row-major (K, N): a thread an element. */
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
