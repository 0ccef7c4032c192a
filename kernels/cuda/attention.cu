/* Keys and values in pages of 64 positions, and causal attention over them. A page is a chunk of
 * the canonical product. A page of a block holds for each head its keys [dh][64 positions], so
 * that neighbouring threads read neighbouring keys, and its values [64 positions][dh]. */
#include "device.h"

struct cache {
    int n_pages, n_blocks, H, dh;
    float *data; /* [n_blocks][n_pages][H][2][dh * CHUNK] */
};

/* What kernels know of a cache, one block of the model. */
struct pages {
    float *data;
    int H, dh;
};

/* A row of a pass, with its sequence's pages. */
struct row {
    int32_t row, position, pages_at;
};

__device__ __forceinline__ float *head_keys(const struct pages &c, int32_t page, int head)
{
    return c.data + ((size_t)page * (size_t)c.H + (size_t)head) * 2 * CHUNK * (size_t)c.dh;
}

__device__ __forceinline__ float *head_values(const struct pages &c, int32_t page, int head)
{
    return head_keys(c, page, head) + (size_t)CHUNK * (size_t)c.dh;
}

static struct pages pages_of(const struct cache *c, int block)
{
    const size_t page = (size_t)c->H * 2 * CHUNK * (size_t)c->dh;
    return {c->data + (size_t)block * (size_t)c->n_pages * page, c->H, c->dh};
}

bool cuda_cache_open(struct device *d, struct cache **out, int n_pages, int n_blocks, int n_heads,
                     int head_dim, struct err *e)
{
    (void)d;
    struct cache *c = static_cast<struct cache *>(memory_map(sizeof *c));
    if (!c)
        return err_set(e, ERR_device, "no memory for a cache");
    const size_t page = (size_t)n_heads * 2 * CHUNK * (size_t)head_dim;
    void *data;
    if (cudaMalloc(&data, sizeof(float) * page * (size_t)n_pages * (size_t)n_blocks)
        != cudaSuccess) {
        memory_unmap(c, sizeof *c);
        return err_set(e, ERR_device, "no memory for a cache of %d pages: lower --cache-tokens",
                       n_pages);
    }
    *c = {n_pages, n_blocks, n_heads, head_dim, static_cast<float *>(data)};
    *out = c;
    return true;
}

void cuda_cache_close(struct device *d, struct cache *c)
{
    if (!c)
        return;
    cuda_note(d, cudaFree(c->data), __func__);
    memory_unmap(c, sizeof *c);
}

static int count_pages(const struct span *s)
{
    return (s->past + s->n_rows + CHUNK - 1) / CHUNK;
}

static size_t rows_size(const struct span *spans, int n_spans)
{
    size_t n = 0;
    for (int i = 0; i < n_spans; i++)
        n += (size_t)spans[i].n_rows;
    return n * sizeof(struct row);
}

/* The table: all rows, then the pages of each span. A row's `pages_at` counts from its start. */
size_t cuda_spans_size(const struct span *spans, int n_spans)
{
    size_t n_pages = 0;
    for (int i = 0; i < n_spans; i++)
        n_pages += (size_t)count_pages(&spans[i]);
    return rows_size(spans, n_spans) + n_pages * sizeof(int32_t);
}

void cuda_spans_write(char *to, const struct span *spans, int n_spans)
{
    struct row *rows = reinterpret_cast<struct row *>(to);
    int32_t *const table = reinterpret_cast<int32_t *>(to);
    int32_t pages_at = (int32_t)(rows_size(spans, n_spans) / sizeof *table);
    for (int i = 0; i < n_spans; i++) {
        const int n_pages = count_pages(&spans[i]);
        for (int r = 0; r < spans[i].n_rows; r++)
            *rows++ = {spans[i].row + r, spans[i].past + r, pages_at};
        memcpy(table + pages_at, spans[i].pages, sizeof *table * (size_t)n_pages);
        pages_at += n_pages;
    }
}

/* Of a call's spans. */
struct staged {
    int n_rows, n_keys; /* of all rows; the most of any row */
    const struct row *rows;
    const int32_t *pages;
};

static struct staged stage_rows(struct device *d, const struct span *spans, int n_spans)
{
    struct staged s = {};
    for (int i = 0; i < n_spans; i++) {
        const int n_keys = spans[i].past + spans[i].n_rows;
        s.n_rows += spans[i].n_rows;
        s.n_keys = n_keys > s.n_keys ? n_keys : s.n_keys;
    }
    const void *table = s.n_rows > 0 ? cuda_stage_spans(d, spans, n_spans) : NULL;
    s.rows = static_cast<const struct row *>(table);
    s.pages = static_cast<const int32_t *>(table);
    return s;
}

/* A block a row. */
__global__ void append_kernel(const __grid_constant__ pages c, const float *qkv,
                              const struct row *rows, const int32_t *pages)
{
    const struct row r = rows[blockIdx.x];
    const int width = c.H * c.dh, slot = r.position % CHUNK;
    const int32_t page = pages[r.pages_at + r.position / CHUNK];
    const float *k = qkv + (size_t)r.row * 3 * (size_t)width + width;
    for (int i = (int)threadIdx.x; i < width; i += BLOCK) {
        head_keys(c, page, i / c.dh)[i % c.dh * CHUNK + slot] = k[i];
        head_values(c, page, i / c.dh)[slot * c.dh + i % c.dh] = k[width + i];
    }
}

void cuda_cache_append(struct device *d, struct cache *c, int block, const float *qkv,
                       const struct span *spans, int n_spans)
{
    const struct staged s = stage_rows(d, spans, n_spans);
    if (s.n_rows == 0)
        return;
    LAUNCH(append_kernel, (unsigned)s.n_rows, BLOCK, 0, d->stream, pages_of(c, block), qkv, s.rows,
           s.pages);
    CHECK_LAUNCH(d);
}

constexpr int ATTEND = 128, ATTEND_WARPS = ATTEND / 32;

/* scores[key] = q . key / sqrt(dh), a thread a key. */
__device__ __forceinline__ void score_keys(float *scores, const float *q, const struct pages &c,
                                           const int32_t *pages, int head, int n_keys)
{
    const float factor = 1.0f / sqrtf((float)c.dh);
    for (int key = (int)threadIdx.x; key < n_keys; key += ATTEND) {
        const float *k = head_keys(c, pages[key / CHUNK], head) + key % CHUNK;
        float sum = 0;
        for (int chunk = 0; chunk < c.dh; chunk += CHUNK) {
            const int end = chunk + CHUNK < c.dh ? chunk + CHUNK : c.dh;
            float partial = 0;
            for (int i = chunk; i < end; i++)
                partial = fmaf(q[i], k[i * CHUNK], partial);
            sum = chunk == 0 ? partial : sum + partial;
        }
        scores[key] = sum * factor;
    }
}

/* Scores become weights. A thread goes over the keys that it scored; the sum is half a warp's. */
__device__ __forceinline__ void softmax_keys(float *scores, int n_keys)
{
    SHARED(float, warps, [ATTEND_WARPS + 1]); /* the most of each, and the sum */
    const int t = (int)threadIdx.x;
    float most = -INFINITY;
    for (int key = t; key < n_keys; key += ATTEND)
        most = most > scores[key] ? most : scores[key];
    for (int by = 16; by > 0; by /= 2) {
        const float other = __shfl_xor_sync(ALL_LANES, most, by, 32);
        most = most > other ? most : other;
    }
    if (t % 32 == 0)
        warps[t / 32] = most;
    __syncthreads();
    for (int w = 0; w < ATTEND_WARPS; w++)
        most = most > warps[w] ? most : warps[w];
    for (int key = t; key < n_keys; key += ATTEND)
        scores[key] = scalar_exp(scores[key] - most);
    __syncthreads();
    if (t < 32) {
        float lane = 0;
        for (int key = t % LANES; key < n_keys; key += LANES)
            lane += scores[key];
        const float sum = lanes_sum(lane);
        if (t == 0)
            warps[ATTEND_WARPS] = sum;
    }
    __syncthreads();
    for (int key = t; key < n_keys; key += ATTEND)
        scores[key] = scores[key] / warps[ATTEND_WARPS];
}

/* partials[chunk][i] = the weights of a page's keys times element i of their values. */
__device__ __forceinline__ void sum_pages(float *partials, const float *weights,
                                          const struct pages &c, const int32_t *pages, int head,
                                          int n_keys)
{
    const int n_chunks = (n_keys + CHUNK - 1) / CHUNK;
    for (int j = (int)threadIdx.x; j < n_chunks * c.dh; j += ATTEND) {
        const int chunk = j / c.dh, first = chunk * CHUNK;
        const int n = n_keys - first < CHUNK ? n_keys - first : CHUNK;
        const float *v = head_values(c, pages[chunk], head) + j % c.dh;
        float partial = 0;
        for (int key = 0; key < n; key++)
            partial = fmaf(weights[first + key], v[key * c.dh], partial);
        partials[j] = partial;
    }
}

/* A block: one head of one row. Dynamic shared memory: scores, then q, then partial products. */
__global__ void __launch_bounds__(ATTEND)
    attend_kernel(float *z, const __grid_constant__ pages c, const float *qkv,
                  const struct row *rows, const int32_t *all_pages, int context)
{
    DYNAMIC_SHARED(float, scores);
    float *q = scores + context, *partials = q + c.dh;
    const int head = (int)blockIdx.x % c.H, width = c.H * c.dh;
    const struct row r = rows[blockIdx.x / (unsigned)c.H];
    const int32_t *pages = all_pages + r.pages_at;
    const int n_keys = r.position + 1, n_chunks = (n_keys + CHUNK - 1) / CHUNK;
    for (int i = (int)threadIdx.x; i < c.dh; i += ATTEND)
        q[i] = qkv[(size_t)r.row * 3 * (size_t)width + (size_t)(head * c.dh + i)];
    __syncthreads();
    score_keys(scores, q, c, pages, head, n_keys);
    softmax_keys(scores, n_keys);
    __syncthreads();
    sum_pages(partials, scores, c, pages, head, n_keys);
    __syncthreads();
    for (int i = (int)threadIdx.x; i < c.dh; i += ATTEND) {
        float sum = partials[i];
        for (int chunk = 1; chunk < n_chunks; chunk++)
            sum += partials[chunk * c.dh + i];
        z[(size_t)r.row * (size_t)width + (size_t)(head * c.dh + i)] = sum;
    }
}

void cuda_attend(struct device *d, float *z, struct cache *c, int block, const float *qkv,
                 const struct span *spans, int n_spans)
{
    const struct staged s = stage_rows(d, spans, n_spans);
    if (s.n_rows == 0)
        return;
    const int n_chunks = (s.n_keys + CHUNK - 1) / CHUNK, context = n_chunks * CHUNK;
    const size_t shared = sizeof *z * (size_t)(context + c->dh + n_chunks * c->dh);
    LAUNCH(attend_kernel, (unsigned)(s.n_rows * c->H), ATTEND, shared, d->stream, z,
           pages_of(c, block), qkv, s.rows, s.pages, context);
    CHECK_LAUNCH(d);
}

/* out (H, n_positions, dh): an element a thread. */
__global__ void read_kernel(float *out, const __grid_constant__ pages c, const int32_t *pages,
                            int values, int n_positions, const __grid_constant__ walk w)
{
    const uint32_t i = blockIdx.x * BLOCK + threadIdx.x;
    if (i >= w.count)
        return;
    const int element = (int)i % c.dh, position = (int)i / c.dh % n_positions;
    const int head = (int)i / c.dh / n_positions, slot = position % CHUNK;
    const int32_t page = pages[position / CHUNK];
    int64_t at[1];
    walk_places(at, w, i);
    out[at[0]] = values ? head_values(c, page, head)[slot * c.dh + element]
                        : head_keys(c, page, head)[element * CHUNK + slot];
}

void cuda_cache_read(struct device *d, const struct tensor *out, struct cache *c, int block,
                     int which, const int32_t *pages, int n_positions)
{
    const struct walk w = walk_of(&out, 1, 3);
    if (w.count == 0)
        return;
    const void *staged
        = cuda_stage(d, pages, sizeof *pages * (size_t)((n_positions + CHUNK - 1) / CHUNK));
    LAUNCH(read_kernel, blocks_for(w.count, BLOCK), BLOCK, 0, d->stream, cuda_data<float>(out),
           pages_of(c, block), static_cast<const int32_t *>(staged), which, n_positions, w);
    CHECK_LAUNCH(d);
}
