/* Keys and values in pages of 64 positions, and causal attention over them. A page is a chunk of
 * the canonical product. A page of a block holds for each head its keys and then its values, both
 * [64 positions][pitch]: the head's elements, and so many more that each position's lie at 16
 * bytes. Those are zero. */
#include "attention.h"

struct cache {
    int n_pages, n_blocks, H, dh;
    float *data; /* [n_blocks][n_pages][H][2][CHUNK][pitch] */
};

static struct pages pages_of(const struct cache *c, int block)
{
    const int pitch = whole_fours(c->dh);
    const size_t page = (size_t)c->H * 2 * CHUNK * (size_t)pitch;
    return {c->data + (size_t)block * (size_t)c->n_pages * page, c->H, c->dh, pitch};
}

/* Whether attention finds room for a sequence as long as the context: below. */
static bool has_room(const struct device *d, int head_dim, struct err *e);

bool cuda_cache_open(struct device *d, struct cache **out, int n_pages, int n_blocks, int n_heads,
                     int head_dim, struct err *e)
{
    if (!has_room(d, head_dim, e))
        return false;
    struct cache *c = static_cast<struct cache *>(memory_map(sizeof *c));
    if (!c)
        return err_set(e, ERR_device, "no memory for a cache");
    const size_t page = (size_t)n_heads * 2 * CHUNK * (size_t)whole_fours(head_dim);
    const size_t size = sizeof(float) * page * (size_t)n_pages * (size_t)n_blocks;
    void *data = NULL;
    if (cudaMalloc(&data, size) != cudaSuccess || cuda_steps_reserve(d, n_pages) != cudaSuccess) {
        cudaFree(data);
        memory_unmap(c, sizeof *c);
        cudaGetLastError(); /* or the next launch would be told of it */
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
        for (int r = 0; r < spans[i].n_rows; r++) {
            const int32_t position = spans[i].past + r;
            *rows++ = {spans[i].row + r, position, spans[i].pages[position / CHUNK], pages_at};
        }
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

constexpr int APPEND_WARPS = 16;

/* A head's keys or values of one position by a warp. */
template <class T> __device__ __forceinline__ void append_head(float *to, const float *from, int n)
{
    T *const there = reinterpret_cast<T *>(to);
    const T *const here = reinterpret_cast<const T *>(from);
    for (int i = (int)threadIdx.x % 32; i < n; i += 32)
        there[i] = here[i];
}

/* Keys and values of qkv's row to the places of its position: a block a row, a warp a head. */
__global__ void append_kernel(const __grid_constant__ pages c, const float *qkv,
                              const struct row *rows)
{
    LET_NEXT_START();
    AWAIT_LAST();
    const struct row r = rows[blockIdx.x];
    const int width = c.H * c.dh, n_warps = (int)blockDim.x / 32;
    const bool by_fours = c.dh % 4 == 0 && reinterpret_cast<uintptr_t>(qkv) % 16 == 0;
    for (int head = (int)threadIdx.x / 32; head < c.H; head += n_warps) {
        const float *k = qkv + (size_t)r.row * 3 * (size_t)width + (size_t)(width + head * c.dh);
        float *keys = head_keys(c, r.page, head) + r.position % CHUNK * c.pitch;
        float *values = head_values(c, r.page, head) + r.position % CHUNK * c.pitch;
        if (by_fours) {
            append_head<float4>(keys, k, c.dh / 4);
            append_head<float4>(values, k + width, c.dh / 4);
        } else {
            append_head<float>(keys, k, c.dh);
            append_head<float>(values, k + width, c.dh);
        }
    }
}

void cuda_cache_append(struct device *d, struct cache *c, int block, const float *qkv,
                       const struct span *spans, int n_spans)
{
    const struct staged s = stage_rows(d, spans, n_spans);
    const int n_warps = c->H < APPEND_WARPS ? c->H : APPEND_WARPS;
    if (s.n_rows == 0)
        return;
    LAUNCH_EARLY(d, append_kernel, (unsigned)s.n_rows, n_warps * 32, 0, pages_of(c, block), qkv,
                 s.rows);
    CHECK_LAUNCH(d);
}

/* Attention of a row that comes alone, as in decoding: a block for each head. Its warps share out
 * the keys, and then the values, in pieces: 64 elements of half a page. Each warp copies its own
 * pieces to SLOTS places in shared memory, so none waits for another, and the next as soon as there
 * is room, also before the softmax. (One place for each of many warps is as fast as two for half as
 * many, and faster where blocks share a processor.) */
constexpr int SLOTS = 1, SLOT_PITCH = CHUNK + 4, SLOT = HALF * SLOT_PITCH;
constexpr int ALONE_WARPS = 16;
static_assert(HALF == 32, "a lane a key");

/* Where a warp's way leads. A unit of keys is half a page, and its pieces are parts of 64 elements;
 * one of values is a page, and its pieces are the halves of parts. */
struct piece {
    bool is_value;
    int unit, number;
};

struct alone {
    struct pages c;
    const int32_t *pages; /* shared, of all its keys */
    int head, n_keys, parts;
    int warp, n_warps;
    float *slots; /* the warp's: [SLOTS][HALF][SLOT_PITCH] */
    struct piece ahead; /* the next to be copied */
    int n_used;
};

__device__ __forceinline__ int key_units(const struct alone &a)
{
    return (a.n_keys + HALF - 1) / HALF;
}

__device__ __forceinline__ int value_units(const struct alone &a)
{
    return (a.n_keys + CHUNK - 1) / CHUNK;
}

/* Who has no keys has the first values. */
__device__ __forceinline__ int first_value_unit(const struct alone &a)
{
    return a.n_warps - 1 - a.warp;
}

/* Begins to copy the next piece to where the oldest stood. Behind the last there is nothing. */
__device__ __forceinline__ void fetch_piece(struct alone &a, int slot)
{
    struct piece &p = a.ahead;
    if (!p.is_value && p.unit >= key_units(a))
        p = {true, first_value_unit(a), 0};
    const int half = p.is_value ? 2 * p.unit + p.number % 2 : p.unit;
    const int part = p.is_value ? p.number / 2 : p.number;
    const int lane = (int)threadIdx.x % 32, n = keys_within(a.n_keys, half * HALF, HALF);
    const int column = lane % LANES * 4, element = part * CHUNK + column;
    if (n > 0 && element < a.c.pitch) {
        const int32_t page = a.pages[half / 2];
        const float *from = (p.is_value ? head_values(a.c, page, a.head)
                                        : head_keys(a.c, page, a.head))
                            + half % 2 * HALF * a.c.pitch + element;
        float *to = a.slots + slot * SLOT + column;
        UNROLL(4)
        for (int key = lane / LANES; key < n; key += 2)
            COPY_ASYNC(to + key * SLOT_PITCH, from + key * a.c.pitch, 4 * sizeof *to);
    }
    COPY_COMMIT();
    if (++p.number == (p.is_value ? 2 * a.parts : a.parts))
        p = {p.is_value, p.unit + a.n_warps, 0};
}

/* The warp's next piece, when it has come. */
__device__ __forceinline__ const float *await_piece(const struct alone &a)
{
    COPY_WAIT(SLOTS - 1);
    __syncwarp(ALL_LANES);
    return a.slots + a.n_used % SLOTS * SLOT;
}

__device__ __forceinline__ void replace_piece(struct alone &a)
{
    __syncwarp(ALL_LANES);
    fetch_piece(a, a.n_used % SLOTS);
    a.n_used++;
}

/* One chunk of a query with a key. */
__device__ __forceinline__ float multiply_key(const float *q, const float *key, int n)
{
    float partial = 0;
    UNROLL(16)
    for (int i = 0; i < n / 4 * 4; i += 4) {
        float x[4], y[4];
        load_columns(x, q + i);
        load_columns(y, key + i);
        UNROLL(4)
        for (int j = 0; j < 4; j++)
            partial = fmaf(x[j], y[j], partial);
    }
    for (int i = n / 4 * 4; i < n; i++)
        partial = fmaf(q[i], key[i], partial);
    return partial;
}

/* scores[key] = q . key / sqrt(dh), a lane a key. Returns the most of the lane's. */
__device__ __forceinline__ float score_alone(float *scores, struct alone &a, const float *q)
{
    const float factor = 1.0f / sqrtf((float)a.c.dh);
    const int lane = (int)threadIdx.x % 32;
    float most = -INFINITY;
    for (int unit = a.warp; unit < key_units(a); unit += a.n_warps) {
        const int key = unit * HALF + lane;
        float sum = 0;
        for (int first = 0; first < a.c.dh; first += CHUNK) {
            const float *keys = await_piece(a) + lane * SLOT_PITCH;
            const int n = a.c.dh - first < CHUNK ? a.c.dh - first : CHUNK;
            if (key < a.n_keys)
                sum = add_chunk(sum, multiply_key(q + first, keys, n), first);
            replace_piece(a);
        }
        if (key < a.n_keys) {
            scores[key] = sum * factor;
            most = fmaxf(most, scores[key]);
        }
    }
    return most;
}

/* scores become exp(score - maximum), each by the thread that made it; returns their sum. */
__device__ __forceinline__ float softmax_alone(float *scores, const struct alone &a, float most)
{
    SHARED(float, warps, [ALONE_WARPS]); /* the most of each */
    const int lane = (int)threadIdx.x % 32;
    most = lanes_most(most, 31);
    if (lane == 0)
        warps[a.warp] = most;
    __syncthreads();
    for (int w = 0; w < a.n_warps; w++)
        most = fmaxf(most, warps[w]);
    for (int key = a.warp * HALF + lane; key < a.n_keys; key += a.n_warps * HALF)
        scores[key] = scalar_exp_falling(scores[key] - most);
    __syncthreads();
    float sum = 0;
    UNROLL(8)
    for (int key = lane % LANES; key < a.n_keys; key += LANES)
        sum += scores[key];
    return lane_zero(lanes_sum(sum));
}

/* p += n weights times two elements of the values of as many keys. */
__device__ __forceinline__ void multiply_values(float (&p)[2], const float *weights,
                                                const float *values, int n)
{
    const auto multiply_one = [&](float weight, int key) {
        const float2 two = *reinterpret_cast<const float2 *>(values + key * SLOT_PITCH);
        p[0] = fmaf(weight, two.x, p[0]);
        p[1] = fmaf(weight, two.y, p[1]);
    };
    UNROLL(8)
    for (int key = 0; key < n / 4 * 4; key += 4) {
        float four[4];
        load_columns(four, weights + key);
        UNROLL(4)
        for (int j = 0; j < 4; j++)
            multiply_one(four[j], key + j);
    }
    for (int key = n / 4 * 4; key < n; key++)
        multiply_one(weights[key], key);
}

/* partials[page][i] = the weights of a page's keys times element i of their values, two elements a
 * lane. */
__device__ __forceinline__ void weigh_alone(float *partials, struct alone &a, const float *scores,
                                            float sum, float *weights)
{
    const int lane = (int)threadIdx.x % 32;
    for (int page = first_value_unit(a); page < value_units(a); page += a.n_warps)
        for (int element = 2 * lane; element - 2 * lane < a.c.dh; element += CHUNK) {
            float p[2] = {};
            for (int first = page * CHUNK; first < (page + 1) * CHUNK; first += HALF) {
                const float *values = await_piece(a) + 2 * lane;
                const int n = keys_within(a.n_keys, first, HALF);
                if (lane < n)
                    weights[lane] = scores[first + lane] / sum;
                __syncwarp(ALL_LANES);
                if (element < a.c.dh)
                    multiply_values(p, weights, values, n);
                replace_piece(a);
            }
            for (int i = 0; i < 2; i++)
                if (element + i < a.c.dh)
                    partials[page * a.c.dh + element + i] = p[i];
        }
}

/* Its own page is known at once, which is all that a short sequence has. */
__device__ __forceinline__ int32_t page_of(const struct row &r, const int32_t *pages, int i)
{
    return i == r.position / CHUNK ? r.page : pages[r.pages_at + i];
}

/* Shared memory: each warp's slots, q, each warp's weights, scores, partial products, pages. */
static size_t alone_shared(int dh, int n_pages, int n_warps)
{
    return sizeof(float) * (size_t)(n_warps * (SLOTS * SLOT + HALF) + whole_fours(dh)
                                    + n_pages * (CHUNK + dh + 1));
}

/* z (rows, H dh). Grid: heads, rows. Where other rows are another kernel's, of those alone. */
__global__ void __launch_bounds__(ALONE_WARPS * 32)
    attend_kernel(float *z, const __grid_constant__ pages c, const float *qkv,
                  const struct row *rows, const int32_t *pages, int n_rows, int n_pages_most,
                  bool alone)
{
    DYNAMIC_SHARED(float, slots);
    LET_NEXT_START();
    AWAIT_LAST();
    const int t = (int)threadIdx.x, n_threads = (int)blockDim.x, n_warps = n_threads / 32;
    const int head = (int)blockIdx.x, width = c.H * c.dh;
    if (alone && !is_alone(rows, (int)blockIdx.y, n_rows))
        return;
    const struct row r = rows[blockIdx.y];
    const int n_keys = r.position + 1, n_pages = r.position / CHUNK + 1;
    float *q = slots + n_warps * SLOTS * SLOT, *weights = q + c.pitch;
    float *scores = weights + n_warps * HALF, *partials = scores + n_pages_most * CHUNK;
    int32_t *own = reinterpret_cast<int32_t *>(partials + n_pages_most * c.dh);
    const size_t at = (size_t)r.row * (size_t)width + (size_t)(head * c.dh);
    for (int i = t; i < c.dh; i += n_threads)
        COPY_ASYNC(q + i, qkv + at + (size_t)r.row * 2 * (size_t)width + i, sizeof *q);
    COPY_COMMIT();
    for (int i = t; i < n_pages; i += n_threads)
        own[i] = page_of(r, pages, i);
    __syncthreads();
    struct alone a = {c, own, head, n_keys, (c.dh + CHUNK - 1) / CHUNK, t / 32, n_warps,
                      slots + t / 32 * SLOTS * SLOT, {false, t / 32, 0}, 0};
    for (int slot = 0; slot < SLOTS; slot++)
        fetch_piece(a, slot);
    COPY_WAIT(SLOTS);
    __syncthreads(); /* q is there */
    const float most = score_alone(scores, a, q);
    const float sum = softmax_alone(scores, a, most);
    weigh_alone(partials, a, scores, sum, weights + a.warp * HALF);
    __syncthreads();
    for (int i = t; i < c.dh; i += n_threads) {
        float y = partials[i];
        UNROLL(8)
        for (int page = 1; page < n_pages; page++)
            y += partials[page * c.dh + i];
        z[at + i] = y;
    }
}

/* More than what the kernel has besides. */
static int alone_shared_max(const struct device *d)
{
    return d->shared_max - 1024;
}

static bool has_room(const struct device *d, int head_dim, struct err *e)
{
    const size_t size = alone_shared(head_dim, d->context_max / CHUNK, 1);
    return size <= (size_t)alone_shared_max(d)
           || err_set(e, ERR_device,
                      "attention over %d positions by heads of %d takes %zu bytes that a block of "
                      "threads shares, and this GPU has %d: say --device cpu",
                      d->context_max, head_dim, size, alone_shared_max(d));
}

static void attend_alone(struct device *d, float *z, const struct pages &c, const float *qkv,
                         const struct staged &s, bool alone)
{
    const int n_pages = (s.n_keys + CHUNK - 1) / CHUNK;
    int n_warps = 2 * n_pages < ALONE_WARPS ? 2 * n_pages : ALONE_WARPS;
    while (n_warps > 1 && alone_shared(c.dh, n_pages, n_warps) > (size_t)alone_shared_max(d))
        n_warps /= 2;
    LAUNCH_EARLY(d, attend_kernel, dim3((unsigned)c.H, (unsigned)s.n_rows), n_warps * 32,
                 alone_shared(c.dh, n_pages, n_warps), z, c, qkv, s.rows, s.pages, s.n_rows,
                 n_pages, alone);
    CHECK_LAUNCH(d);
}

/* Where scores of several rows find no room, all rows are alone. */
void cuda_attend(struct device *d, float *z, struct cache *c, int block, const float *qkv,
                 const struct span *spans, int n_spans)
{
    const struct staged s = stage_rows(d, spans, n_spans);
    const struct pages pages = pages_of(c, block);
    struct staged together = s; /* without the keys of rows that come alone */
    together.n_keys = 0;
    int n_alone = 0, rows_most = 0;
    for (int i = 0; i < n_spans; i++) {
        const int n_keys = spans[i].past + spans[i].n_rows;
        n_alone += spans[i].n_rows == 1;
        if (spans[i].n_rows > 1 && n_keys > together.n_keys)
            together.n_keys = n_keys;
        rows_most = spans[i].n_rows > rows_most ? spans[i].n_rows : rows_most;
    }
    const bool shares = rows_most > 1 && cuda_attend_rows(d, z, pages, qkv, together, rows_most);
    if (s.n_rows > 0 && (n_alone > 0 || !shares))
        attend_alone(d, z, pages, qkv, s, shares);
}

cudaError_t cuda_attend_open(const struct device *d)
{
    const cudaError_t error = ALLOW_SHARED(attend_kernel, alone_shared_max(d));
    return error == cudaSuccess ? cuda_attend_rows_open(d) : error;
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
    const float *from = values ? head_values(c, page, head) : head_keys(c, page, head);
    out[at[0]] = from[slot * c.pitch + element];
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
