/* Keys and values in pages of 64 positions, and causal attention over them.
 *
 * A page of a block holds for each head its keys as four panels [dh][16 positions] and its values
 * as panels [64 positions][16 elements], the last one padded: both are what a tile multiplies by.
 * So scores are the product of a query with a page, and z sums the products of its weights with
 * page after page: the canonical order of products, and a page is its chunk.
 */
#include "../scalar.h"
#include "cpu.h"

struct cache {
    int n_pages, n_blocks, H, dh;
    size_t keys, values, page; /* elements of a head's keys, of its values, of a page of a block */
    size_t size;
    float data[] __attribute__((aligned(64)));
};

static float *head_keys(struct cache *c, int block, int32_t page, int head)
{
    return c->data + ((size_t)block * (size_t)c->n_pages + (size_t)page) * c->page
           + (size_t)head * (c->keys + c->values);
}

/* Where element `i` of the key of position `p` of a page stands, and of the value. */
static size_t key_at(const struct cache *c, int p, int i)
{
    return ((size_t)(p / LANES) * (size_t)c->dh + (size_t)i) * LANES + (size_t)(p % LANES);
}

static size_t value_at(const struct cache *c, int p, int i)
{
    return c->keys + ((size_t)(i / LANES) * CHUNK + (size_t)p) * LANES + (size_t)(i % LANES);
}

bool cpu_cache_open(struct device *d, struct cache **out, int n_pages, int n_blocks, int n_heads,
                    int head_dim, struct err *e)
{
    (void)d;
    const size_t keys = (size_t)CHUNK * (size_t)head_dim;
    const size_t values = (size_t)CHUNK * (size_t)((head_dim + LANES - 1) / LANES * LANES);
    const size_t page = (size_t)n_heads * (keys + values);
    const size_t size = sizeof(struct cache)
                        + sizeof(float) * page * (size_t)n_pages * (size_t)n_blocks;
    struct cache *c = memory_map(size);
    if (!c)
        return err_set(e, ERR_device, "no memory for a cache of %d pages: lower --cache-tokens",
                       n_pages);
    c->n_pages = n_pages;
    c->n_blocks = n_blocks;
    c->H = n_heads;
    c->dh = head_dim;
    c->keys = keys;
    c->values = values;
    c->page = page;
    c->size = size;
    *out = c;
    return true;
}

void cpu_cache_close(struct device *d, struct cache *c)
{
    (void)d;
    if (c)
        memory_unmap(c, c->size);
}

struct attend {
    struct device *d;
    struct cache *c;
    float *z;
    const float *qkv;
    const struct span *spans;
    const struct tile *tile; /* of rows taken together */
    int block, n_spans;
};

/* The number of steps of `height` rows in all spans. */
static int count_steps(const struct span *spans, int n_spans, int height)
{
    int n = 0;
    for (int i = 0; i < n_spans; i++)
        n += (spans[i].n_rows + height - 1) / height;
    return n;
}

/* The span of step `step`, which becomes the step's number inside it. */
static const struct span *find_span(const struct attend *a, int *step, int height)
{
    for (const struct span *s = a->spans;; s++) {
        const int steps = (s->n_rows + height - 1) / height;
        if (*step < steps)
            return s;
        *step -= steps;
    }
}

static void append_row(const struct attend *a, const struct span *s, int row)
{
    struct cache *c = a->c;
    const int position = s->past + row, width = c->H * c->dh;
    const float *k = a->qkv + (size_t)(s->row + row) * 3 * (size_t)width + width;
    for (int h = 0; h < c->H; h++) {
        float *head = head_keys(c, a->block, s->pages[position / CHUNK], h);
        for (int i = 0; i < c->dh; i++) {
            head[key_at(c, position % CHUNK, i)] = k[h * c->dh + i];
            head[value_at(c, position % CHUNK, i)] = k[width + h * c->dh + i];
        }
    }
}

enum { APPEND_ROWS = 16 };

static void append_task(void *context, int task, int thread)
{
    (void)thread;
    const struct attend *a = context;
    const struct span *s = find_span(a, &task, APPEND_ROWS);
    for (int i = 0; i < APPEND_ROWS && task * APPEND_ROWS + i < s->n_rows; i++)
        append_row(a, s, task * APPEND_ROWS + i);
}

void cpu_cache_append(struct device *d, struct cache *c, int block, const float *qkv,
                      const struct span *spans, int n_spans)
{
    struct attend a = {.d = d, .c = c, .qkv = qkv, .spans = spans, .block = block,
                       .n_spans = n_spans};
    pool_run(d->pool, count_steps(spans, n_spans, APPEND_ROWS), append_task, &a);
}

/* scores[r][key] = q_r . key / sqrt(dh) over whole pages: what lies behind a row's own position is
 * computed and never read. */
static void score_rows(const struct attend *a, const struct span *s, int head, float *scores,
                       const float *q, const struct tile *tile, int n_rows, int n_keys)
{
    struct cache *c = a->c;
    const float factor = 1.0f / sqrtf((float)c->dh);
    float t[ATTEND_ROWS * GROUP] __attribute__((aligned(64)));
    for (int key = 0; key < n_keys; key += CHUNK) {
        const float *keys = head_keys(c, a->block, s->pages[key / CHUNK], head);
        tile->run[STORED_f32](t, q, keys, (size_t)c->dh * LANES, NULL, 4, c->dh, false);
        for (int r = 0; r < n_rows; r++)
            a->d->v->scale(scores + r * a->d->context_max + key, t + r * GROUP, factor, CHUNK);
    }
}

/* Adds weights[r][key] times value of the keys first .. first + n_keys - 1, all of one page, to the
 * rows of t: elements `from` to `from` + 63 of a head. */
static void add_page(const struct attend *a, const struct span *s, int head, float *t,
                     const float *weights, const struct tile *tile, int n_rows, int key, int n_keys,
                     int from)
{
    struct cache *c = a->c;
    const int left = (c->dh - from + LANES - 1) / LANES;
    const float *values = head_keys(c, a->block, s->pages[key / CHUNK], head) + c->keys
                          + (size_t)(from / LANES) * CHUNK * LANES;
    float packed[CHUNK * ATTEND_ROWS] __attribute__((aligned(64)));
    const float *p = weights + key;
    if (tile->height > 1) {
        for (int r = 0; r < tile->height; r++)
            for (int k = 0; k < n_keys; k++)
                packed[k * tile->height + r]
                    = r < n_rows ? weights[r * a->d->context_max + key + k] : 0;
        p = packed;
    }
    tile->run[STORED_f32](t, p, values, CHUNK * LANES, NULL, left < 4 ? left : 4, n_keys, key > 0);
}

/* z of rows that share `shared` whole pages; each goes on alone over the rest of its own keys. */
static void sum_values(const struct attend *a, const struct span *s, int head, float *z,
                       const float *weights, const struct tile *tile, int n_rows, int position)
{
    const struct cache *c = a->c;
    const int width = c->H * c->dh, context = a->d->context_max;
    const struct tile *one = tile_for(a->d->v, 1);
    float t[ATTEND_ROWS * GROUP] __attribute__((aligned(64)));
    for (int from = 0; from < c->dh; from += GROUP) {
        const int shared = (position + 1) / CHUNK * CHUNK;
        for (int key = 0; key < shared; key += CHUNK)
            add_page(a, s, head, t, weights, tile, n_rows, key, CHUNK, from);
        const int n_elements = c->dh - from < GROUP ? c->dh - from : GROUP;
        for (int r = 0; r < n_rows; r++) {
            const int n_keys = position + r + 1;
            for (int key = shared; key < n_keys; key += CHUNK)
                add_page(a, s, head, t + r * GROUP, weights + r * context, one, 1, key,
                         n_keys - key < CHUNK ? n_keys - key : CHUNK, from);
            memcpy(z + (size_t)r * (size_t)width + from, t + r * GROUP,
                   sizeof(float) * (size_t)n_elements);
        }
    }
}

/* One head of a few rows of one sequence. */
static void attend_task(void *context, int task, int thread)
{
    const struct attend *a = context;
    const struct cache *c = a->c;
    const int head = task % c->H, width = c->H * c->dh;
    int step = task / c->H;
    const struct span *s = find_span(a, &step, a->tile->height);
    const int row = step * a->tile->height;
    const int left = s->n_rows - row;
    const int n_rows = left < a->tile->height ? left : a->tile->height;
    const struct tile *tile = tile_for(a->d->v, n_rows);
    const int position = s->past + row, height = tile->height;
    const float *q = a->qkv + (size_t)(s->row + row) * 3 * (size_t)width + head * c->dh;
    float *packed = a->d->scratch[thread].a;
    for (int i = 0; i < c->dh; i++)
        for (int r = 0; r < height; r++)
            packed[i * height + r] = r < n_rows ? q[(size_t)r * 3 * (size_t)width + i] : 0;
    float *scores = a->d->scratch[thread].scores;
    score_rows(a, s, head, scores, packed, tile, n_rows, position + n_rows);
    for (int r = 0; r < n_rows; r++)
        a->d->v->softmax(scores + r * a->d->context_max, scores + r * a->d->context_max,
                         position + r + 1);
    sum_values(a, s, head, a->z + (size_t)(s->row + row) * (size_t)width + head * c->dh, scores,
               tile, n_rows, position);
}

void cpu_attend(struct device *d, float *z, struct cache *c, int block, const float *qkv,
                const struct span *spans, int n_spans)
{
    struct attend a = {.d = d, .c = c, .z = z, .qkv = qkv, .spans = spans, .block = block,
                       .n_spans = n_spans};
    assert(c->dh <= BLOCK_K * BLOCK_ROWS / ATTEND_ROWS);
    a.tile = tile_for(d->v, ATTEND_ROWS);
    assert(a.tile->height <= ATTEND_ROWS);
    pool_run(d->pool, count_steps(spans, n_spans, a.tile->height) * c->H, attend_task, &a);
}

void cpu_cache_read(struct device *d, const struct tensor *out, struct cache *c, int block,
                    int which, const int32_t *pages, int n_positions)
{
    (void)d;
    const struct view *v = &out->view;
    for (int h = 0; h < c->H; h++)
        for (int p = 0; p < n_positions; p++) {
            const float *head = head_keys(c, block, pages[p / CHUNK], h);
            float *to = (float *)out->data + v->offset + h * v->stride[0] + p * v->stride[1];
            for (int i = 0; i < c->dh; i++)
                to[i * v->stride[2]] = head[which == 0 ? key_at(c, p % CHUNK, i)
                                                       : value_at(c, p % CHUNK, i)];
        }
}
