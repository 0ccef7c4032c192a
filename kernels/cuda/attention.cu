/* Keys and values in pages of 64 positions, and causal attention over them. A page is a chunk of
 * the canonical product. A page of a block holds for each head its keys [dh][64 positions], so
 * that neighbouring threads read neighbouring keys, and its values [64 positions][dh]. */
#include "tile.h"

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
    struct cache *c = static_cast<struct cache *>(memory_map(sizeof *c));
    if (!c)
        return err_set(e, ERR_device, "no memory for a cache");
    const size_t page = (size_t)n_heads * 2 * CHUNK * (size_t)head_dim;
    const size_t size = sizeof(float) * page * (size_t)n_pages * (size_t)n_blocks;
    void *data = NULL;
    if (cudaMalloc(&data, size) != cudaSuccess || cuda_steps_reserve(d, n_pages) != cudaSuccess) {
        cudaFree(data);
        memory_unmap(c, sizeof *c);
        return err_set(e, ERR_device, "no memory for a cache of %d pages: lower --cache-tokens",
                       n_pages);
    }
    /* Attention reads whole pages, also positions that nobody has written yet. */
    cuda_note(d, cudaMemsetAsync(data, 0, size, d->stream), __func__);
    *c = {n_pages, n_blocks, n_heads, head_dim, static_cast<float *>(data)};
    *out = c;
    return true;
}

void cuda_cache_close(struct device *d, struct cache *c)
{
    if (!c)
        return;
    cuda_graphs_drop(d);
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

/* The table: all rows, then the pages of each span, with room for a whole context: so where things
 * are depends on the numbers of rows and spans alone. A row's `pages_at` counts from the start. */
size_t cuda_spans_size(const struct device *d, const struct span *spans, int n_spans)
{
    const size_t pages = sizeof(int32_t) * (size_t)(d->context_max / CHUNK);
    return rows_size(spans, n_spans) + pages * (size_t)n_spans;
}

void cuda_spans_write(const struct device *d, char *to, const struct span *spans, int n_spans)
{
    struct row *rows = reinterpret_cast<struct row *>(to);
    int32_t *const table = reinterpret_cast<int32_t *>(to);
    int32_t pages_at = (int32_t)(rows_size(spans, n_spans) / sizeof *table);
    for (int i = 0; i < n_spans; i++) {
        for (int r = 0; r < spans[i].n_rows; r++)
            *rows++ = {spans[i].row + r, spans[i].past + r, pages_at};
        memcpy(table + pages_at, spans[i].pages, sizeof *table * (size_t)count_pages(&spans[i]));
        pages_at += d->context_max / CHUNK;
    }
}

int cuda_spans_pages(const struct span *spans, int n_spans)
{
    int most = 0;
    for (int i = 0; i < n_spans; i++) {
        const int n = count_pages(&spans[i]);
        most = n > most ? n : most;
    }
    return most;
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
    if (s.n_rows == 0)
        return s;
    int n_rows_before;
    const void *table = cuda_stage_spans(&n_rows_before, d, spans, n_spans);
    s.rows = static_cast<const struct row *>(table) + n_rows_before;
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

/* Attention of a row that comes alone, as in decoding: its keys are shared out over as many threads
 * as there are keys, if it can be. */
constexpr int ALONE_MIN = 128, ALONE_MAX = 1024;

/* Is row i the only one of its sequence in the table? */
__device__ __forceinline__ bool is_alone(const struct row *rows, int i, int n_rows)
{
    return (i == 0 || rows[i - 1].pages_at != rows[i].pages_at)
           && (i == n_rows - 1 || rows[i + 1].pages_at != rows[i].pages_at);
}

/* scores[key] = q . key / sqrt(dh), a thread a key. */
__device__ __forceinline__ void score_keys(float *scores, const float *q, const struct pages &c,
                                           const int32_t *pages, int head, int n_keys)
{
    const float factor = 1.0f / sqrtf((float)c.dh);
    for (int key = (int)threadIdx.x; key < n_keys; key += (int)blockDim.x) {
        const float *k = head_keys(c, pages[key / CHUNK], head) + key % CHUNK;
        float sum = 0;
        for (int chunk = 0; chunk < c.dh; chunk += CHUNK) {
            const int end = chunk + CHUNK < c.dh ? chunk + CHUNK : c.dh;
            float partial = 0;
            UNROLL(16)
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
    SHARED(float, warps, [ALONE_MAX / 32]); /* the most of each */
    SHARED(float, sum, [1]);
    const int t = (int)threadIdx.x, n_threads = (int)blockDim.x;
    float most = -INFINITY;
    for (int key = t; key < n_keys; key += n_threads)
        most = most > scores[key] ? most : scores[key];
    for (int by = 16; by > 0; by /= 2) {
        const float other = __shfl_xor_sync(ALL_LANES, most, by, 32);
        most = most > other ? most : other;
    }
    if (t % 32 == 0)
        warps[t / 32] = most;
    __syncthreads();
    for (int w = 0; w < n_threads / 32; w++)
        most = most > warps[w] ? most : warps[w];
    for (int key = t; key < n_keys; key += n_threads)
        scores[key] = scalar_exp(scores[key] - most);
    __syncthreads();
    if (t < 32) {
        float lane = 0;
        for (int key = t % LANES; key < n_keys; key += LANES)
            lane += scores[key];
        lane = lanes_sum(lane);
        if (t == 0)
            sum[0] = lane;
    }
    __syncthreads();
    for (int key = t; key < n_keys; key += n_threads)
        scores[key] = scores[key] / sum[0];
}

/* partials[chunk][i] = the weights of a page's keys times element i of their values. */
__device__ __forceinline__ void sum_pages(float *partials, const float *weights,
                                          const struct pages &c, const int32_t *pages, int head,
                                          int n_keys)
{
    const int n_chunks = (n_keys + CHUNK - 1) / CHUNK;
    for (int j = (int)threadIdx.x; j < n_chunks * c.dh; j += (int)blockDim.x) {
        const int chunk = j / c.dh, first = chunk * CHUNK;
        const int n = n_keys - first < CHUNK ? n_keys - first : CHUNK;
        const float *v = head_values(c, pages[chunk], head) + j % c.dh;
        float partial = 0;
        UNROLL(16)
        for (int key = 0; key < n; key++)
            partial = fmaf(weights[first + key], v[key * c.dh], partial);
        partials[j] = partial;
    }
}

/* A block: one head of one row; where other rows are another kernel's, of those alone. Dynamic
 * shared memory: scores, then q, then partial products. */
__global__ void __launch_bounds__(ALONE_MAX)
    attend_kernel(float *z, const __grid_constant__ pages c, const float *qkv,
                  const struct row *rows, const int32_t *all_pages, int n_rows, int context,
                  bool alone)
{
    DYNAMIC_SHARED(float, scores);
    float *q = scores + context, *partials = q + c.dh;
    const int head = (int)blockIdx.x % c.H, width = c.H * c.dh, at = (int)blockIdx.x / c.H;
    if (alone && !is_alone(rows, at, n_rows))
        return;
    const struct row r = rows[at];
    const int32_t *pages = all_pages + r.pages_at;
    const int n_keys = r.position + 1, n_chunks = (n_keys + CHUNK - 1) / CHUNK;
    for (int i = (int)threadIdx.x; i < c.dh; i += (int)blockDim.x)
        q[i] = qkv[(size_t)r.row * 3 * (size_t)width + (size_t)(head * c.dh + i)];
    __syncthreads();
    score_keys(scores, q, c, pages, head, n_keys);
    softmax_keys(scores, n_keys);
    __syncthreads();
    sum_pages(partials, scores, c, pages, head, n_keys);
    __syncthreads();
    for (int i = (int)threadIdx.x; i < c.dh; i += (int)blockDim.x) {
        float sum = partials[i];
        for (int chunk = 1; chunk < n_chunks; chunk++)
            sum += partials[chunk * c.dh + i];
        z[(size_t)r.row * (size_t)width + (size_t)(head * c.dh + i)] = sum;
    }
}

static void attend_alone(struct device *d, float *z, const struct pages &c, const float *qkv,
                         const struct staged &s, bool alone)
{
    const int n_chunks = (s.n_keys + CHUNK - 1) / CHUNK, context = n_chunks * CHUNK;
    const size_t shared = sizeof *z * (size_t)(context + c.dh + n_chunks * c.dh);
    const int n_threads = context < ALONE_MIN   ? ALONE_MIN
                          : context < ALONE_MAX ? context
                                                : ALONE_MAX;
    LAUNCH(attend_kernel, (unsigned)(s.n_rows * c.H), n_threads, shared, d->stream, z, c, qkv,
           s.rows, s.pages, s.n_rows, context, alone);
    CHECK_LAUNCH(d);
}

/* Attention of neighbours of one sequence, as in a prompt: QUERIES of them share each page. Both
 * products are of a page's block of CHUNK x CHUNK, which is copied to shared memory while the block
 * before it is multiplied: part `p` (elements 64 p ..) of a page's keys by the queries, then part p
 * of the values by the weights. A thread makes QUERY_R rows by QUERY_W columns; half a warp makes
 * the same rows of both products, and their softmax. */
constexpr int ATTEND = 128, QUERY_R = 2, QUERY_W = 4, QUERIES = ATTEND / LANES * QUERY_R;
static_assert(LANES * QUERY_W == CHUNK, "half a warp makes a row of a block");

struct run {
    struct pages c;
    const int32_t *pages;
    int head, n_rows, position; /* of its first row */
    int n_pages, parts;
    float *blocks; /* [2][CHUNK][CHUNK] */
    float *q;      /* [QUERIES][q_pitch] */
    float *scores; /* [QUERIES][score_pitch] */
    int q_pitch, score_pitch;
};

__device__ __forceinline__ int query_of(int i)
{
    return (int)threadIdx.x / 32 * 2 * QUERY_R + (int)threadIdx.x % 32 / LANES + 2 * i;
}

/* The keys that a query sees of those from `first` on, at most CHUNK. */
__device__ __forceinline__ int keys_from(const struct run &r, int query, int first)
{
    const int n = query < r.n_rows ? r.position + query + 1 - first : 0;
    return n < 0 ? 0 : n < CHUNK ? n : CHUNK;
}

/* Block s: keys by pages and their parts, then values by parts and their pages. */
__device__ __forceinline__ void fetch_block(const struct run &r, int s)
{
    float *to = r.blocks + s % 2 * CHUNK * CHUNK;
    const int n_blocks = r.n_pages * r.parts, is_value = s >= n_blocks;
    const int page = is_value ? (s - n_blocks) % r.n_pages : s / r.parts;
    const int first = CHUNK * (is_value ? (s - n_blocks) / r.n_pages : s % r.parts);
    const int n = r.c.dh - first < CHUNK ? r.c.dh - first : CHUNK;
    const int n_keys = keys_from(r, r.n_rows - 1, page * CHUNK);
    if (s < 2 * n_blocks && !is_value) {
        const float *from = head_keys(r.c, r.pages[page], r.head) + first * CHUNK;
        for (int i = 4 * (int)threadIdx.x; i < n * CHUNK; i += 4 * ATTEND)
            COPY_ASYNC(to + i, from + i, 4 * sizeof(float));
    } else if (s < 2 * n_blocks && r.c.dh % 4 == 0) {
        const float *from = head_values(r.c, r.pages[page], r.head) + first;
        for (int i = 4 * (int)threadIdx.x; i < n_keys * CHUNK; i += 4 * ATTEND)
            if (i % CHUNK < n)
                COPY_ASYNC(to + i, from + i / CHUNK * r.c.dh + i % CHUNK, 4 * sizeof(float));
    } else if (s < 2 * n_blocks) {
        const float *from = head_values(r.c, r.pages[page], r.head) + first;
        for (int i = (int)threadIdx.x; i < n_keys * CHUNK; i += ATTEND) {
            const int column = i % CHUNK < n ? i % CHUNK : n - 1;
            COPY_ASYNC(to + i, from + i / CHUNK * r.c.dh + column, sizeof(float));
        }
    }
    COPY_COMMIT();
}

/* The block that all threads may read now; the next one is on its way. */
__device__ __forceinline__ const float *next_block(const struct run &r, int s)
{
    COPY_WAIT(0);
    __syncthreads(); /* it has come for all, and all are done with the one before it */
    fetch_block(r, s + 1);
    return r.blocks + s % 2 * CHUNK * CHUNK;
}

/* scores = q @ keys / sqrt(dh), also of keys that a query does not see: nobody reads those. */
__device__ __forceinline__ void score_pages(const struct run &r)
{
    const float factor = 1.0f / sqrtf((float)r.c.dh);
    const int column = (int)threadIdx.x % LANES * QUERY_W;
    float sum[QUERY_R][QUERY_W] = {};
    for (int s = 0; s < r.n_pages * r.parts; s++) {
        const float *keys = next_block(r, s) + column;
        const int page = s / r.parts, first = s % r.parts * CHUNK;
        const int n = r.c.dh - first < CHUNK ? r.c.dh - first : CHUNK;
        const float *q = r.q + query_of(0) * r.q_pitch + first;
        float p[QUERY_R][QUERY_W] = {};
        multiply_fours(p, q, 2 * r.q_pitch, keys, CHUNK, n / 4 * 4);
        multiply_ones(p, q + n / 4 * 4, 2 * r.q_pitch, keys + n / 4 * 4 * CHUNK, CHUNK, n % 4);
        UNROLL(2)
        for (int i = 0; i < QUERY_R; i++)
            UNROLL(4)
            for (int c = 0; c < QUERY_W; c++) {
                sum[i][c] = add_chunk(sum[i][c], p[i][c], first);
                r.scores[query_of(i) * r.score_pitch + page * CHUNK + column + c]
                    = sum[i][c] * factor;
            }
    }
}

/* Scores become weights: a row is half a warp's, which made its scores. */
__device__ __forceinline__ void softmax_rows(const struct run &r)
{
    __syncwarp(ALL_LANES);
    for (int i = 0; i < QUERY_R; i++) {
        float *scores = r.scores + query_of(i) * r.score_pitch;
        const int n_keys = query_of(i) < r.n_rows ? r.position + query_of(i) + 1 : 0;
        const int l = (int)threadIdx.x % LANES;
        float most = -INFINITY, lane = 0;
        for (int key = l; key < n_keys; key += LANES)
            most = most > scores[key] ? most : scores[key];
        for (int by = LANES / 2; by > 0; by /= 2) {
            const float other = __shfl_xor_sync(ALL_LANES, most, by, LANES);
            most = most > other ? most : other;
        }
        for (int key = l; key < n_keys; key += LANES) {
            scores[key] = scalar_exp(scores[key] - most);
            lane += scores[key];
        }
        const float sum = lane_zero(lanes_sum(lane));
        for (int key = l; key < n_keys; key += LANES)
            scores[key] = scores[key] / sum;
    }
}

/* sum += weights @ values of a page, each row by the keys that it sees. */
__device__ __forceinline__ void add_page(float (&sum)[QUERY_R][QUERY_W], const struct run &r,
                                         const float *values, int page)
{
    const float *weights = r.scores + query_of(0) * r.score_pitch + page * CHUNK;
    float p[QUERY_R][QUERY_W] = {};
    const bool is_full = keys_from(r, query_of(0), page * CHUNK) == CHUNK
                         && keys_from(r, query_of(QUERY_R - 1), page * CHUNK) == CHUNK;
    if (is_full)
        multiply_fours(p, weights, 2 * r.score_pitch, values, CHUNK, CHUNK);
    UNROLL(2)
    for (int i = 0; i < QUERY_R; i++) {
        const int n = keys_from(r, query_of(i), page * CHUNK), fours = n / 4 * 4;
        const float *row = weights + 2 * i * r.score_pitch;
        float one[1][QUERY_W] = {};
        if (!is_full) {
            multiply_fours(one, row, 0, values, CHUNK, fours);
            multiply_ones(one, row + fours, 0, values + fours * CHUNK, CHUNK, n % 4);
        }
        UNROLL(4)
        for (int c = 0; c < QUERY_W; c++) {
            const float partial = is_full ? p[i][c] : one[0][c];
            sum[i][c] = n > 0 ? add_chunk(sum[i][c], partial, page) : sum[i][c];
        }
    }
}

/* z[row] of the run's rows, `z` from its first one on. */
__device__ __forceinline__ void weigh_pages(float *z, const struct run &r)
{
    const int column = (int)threadIdx.x % LANES * QUERY_W, width = r.c.H * r.c.dh;
    for (int part = 0; part < r.parts; part++) {
        float sum[QUERY_R][QUERY_W] = {};
        const int first = part * CHUNK + column;
        for (int page = 0; page < r.n_pages; page++) {
            const float *values = next_block(r, (r.parts + part) * r.n_pages + page) + column;
            if (first < r.c.dh)
                add_page(sum, r, values, page);
        }
        UNROLL(2)
        for (int i = 0; i < QUERY_R; i++)
            for (int c = 0; c < QUERY_W; c++)
                if (query_of(i) < r.n_rows && first + c < r.c.dh)
                    z[query_of(i) * width + r.head * r.c.dh + first + c] = sum[i][c];
    }
}

__device__ __forceinline__ int pitch_of(int n)
{
    return (n + 3) / 4 * 4 + 4; /* four more against bank conflicts */
}

/* A block: one head of QUERIES rows of the table, run by run; the last rows first, since a prompt's
 * have the most keys. Dynamic shared memory: two blocks, q, scores. */
__global__ void __launch_bounds__(ATTEND, 2)
    attend_rows_kernel(float *z, const __grid_constant__ pages c, const float *qkv,
                       const struct row *rows, const int32_t *all_pages, int n_rows, int context)
{
    DYNAMIC_SHARED(float, blocks);
    const int head = (int)blockIdx.x % c.H, width = c.H * c.dh;
    const int first = (int)(gridDim.x - 1 - blockIdx.x) / c.H * QUERIES;
    const int end = first + QUERIES < n_rows ? first + QUERIES : n_rows;
    struct run r = {c, NULL, head, 0, 0, 0, (c.dh + CHUNK - 1) / CHUNK, blocks, NULL, NULL,
                    pitch_of(c.dh), pitch_of(context)};
    r.q = blocks + 2 * CHUNK * CHUNK;
    r.scores = r.q + QUERIES * r.q_pitch;
    for (int from = first; from < end; from += r.n_rows) {
        r.n_rows = 1;
        while (from + r.n_rows < end && rows[from + r.n_rows].pages_at == rows[from].pages_at)
            r.n_rows++;
        if (is_alone(rows, from, n_rows))
            continue;
        const struct row row = rows[from];
        r.pages = all_pages + row.pages_at;
        r.position = row.position;
        r.n_pages = (row.position + r.n_rows + CHUNK - 1) / CHUNK;
        fetch_block(r, 0); /* all left it, and q, a barrier ago in the run before */
        for (int i = (int)threadIdx.x; i < QUERIES * c.dh; i += ATTEND) {
            const int query = i / c.dh < r.n_rows ? i / c.dh : r.n_rows - 1;
            r.q[i / c.dh * r.q_pitch + i % c.dh]
                = qkv[(size_t)(row.row + query) * 3 * (size_t)width
                      + (size_t)(head * c.dh + i % c.dh)];
        }
        score_pages(r);
        softmax_rows(r);
        weigh_pages(z + (size_t)row.row * (size_t)width, r);
    }
    COPY_WAIT(0);
}

static size_t rows_shared(int dh, int context)
{
    const int q_pitch = (dh + 3) / 4 * 4 + 4, score_pitch = context + 4;
    return sizeof(float) * (size_t)(2 * CHUNK * CHUNK + QUERIES * (q_pitch + score_pitch));
}

static void attend_rows(struct device *d, float *z, const struct pages &c, const float *qkv,
                        const struct staged &s)
{
    const int context = (s.n_keys + CHUNK - 1) / CHUNK * CHUNK;
    LAUNCH(attend_rows_kernel, blocks_for(s.n_rows, QUERIES) * (unsigned)c.H, ATTEND,
           rows_shared(c.dh, context), d->stream, z, c, qkv, s.rows, s.pages, s.n_rows, context);
    CHECK_LAUNCH(d);
}

/* Where scores of QUERIES rows find no room, all rows are alone. */
void cuda_attend(struct device *d, float *z, struct cache *c, int block, const float *qkv,
                 const struct span *spans, int n_spans)
{
    const struct staged s = stage_rows(d, spans, n_spans);
    const struct pages pages = pages_of(c, block);
    const bool has_room
        = rows_shared(c->dh, (s.n_keys + CHUNK - 1) / CHUNK * CHUNK) <= (size_t)d->shared_max;
    int n_alone = 0;
    for (int i = 0; i < n_spans; i++)
        n_alone += spans[i].n_rows == 1;
    if (s.n_rows > n_alone && has_room)
        attend_rows(d, z, pages, qkv, s);
    if (n_alone > 0 || (s.n_rows > 0 && !has_room))
        attend_alone(d, z, pages, qkv, s, has_room);
}

cudaError_t cuda_attend_open(const struct device *d)
{
    const int fixed = 1024; /* more than what a kernel has besides */
    const cudaError_t error = ALLOW_SHARED(attend_kernel, d->shared_max - fixed);
    return error == cudaSuccess ? ALLOW_SHARED(attend_rows_kernel, d->shared_max) : error;
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
