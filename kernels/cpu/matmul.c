/* Products in the canonical order: `linear` over packed weights, `matmul` over any strides. */
#include "cpu.h"
#include <string.h>

const struct tile *tile_for(const struct vectors *v, int n_rows)
{
    for (int i = 0; i < v->n_tiles; i++)
        if (v->tiles[i].height >= n_rows)
            return &v->tiles[i];
    return &v->tiles[v->n_tiles - 1];
}

/* The tile that wastes the fewest rows, the taller of equals: its height divides the rows best. */
static const struct tile *tile_choose(const struct vectors *v, int n_rows)
{
    const struct tile *best = tile_for(v, n_rows);
    if (n_rows <= best->height)
        return best;
    int best_rows = (n_rows + best->height - 1) / best->height * best->height;
    for (int i = v->n_tiles - 2; i >= 0 && v->tiles[i].height >= 4; i--) {
        const int height = v->tiles[i].height;
        const int rows = (n_rows + height - 1) / height * height;
        if (rows * 9 < best_rows * 8) {
            best = &v->tiles[i];
            best_rows = rows;
        }
    }
    return best;
}

/* Where rows are missing, it goes chunk by chunk: what is written stays in the first cache. */
void strip_pack(float *packed, const struct tile *tile, const float *x, int64_t row_stride,
                int64_t k_stride, int n_rows, int n_k)
{
    const int height = tile->height;
    if (n_rows == height) {
        tile->pack(packed, x, row_stride, k_stride, n_k);
        return;
    }
    for (int chunk = 0; chunk < n_k; chunk += CHUNK) {
        const int end = chunk + CHUNK < n_k ? chunk + CHUNK : n_k;
        for (int r = 0; r < n_rows; r++)
            for (int k = chunk; k < end; k++)
                packed[k * height + r] = x[r * row_stride + k * k_stride];
        for (int r = n_rows; r < height; r++)
            for (int k = chunk; k < end; k++)
                packed[k * height + r] = 0;
    }
}

struct linear {
    const struct vectors *v;
    const struct tile *tile, *tail; /* of all strips, of the last one */
    const struct weight *w;
    float *out;
    const float *x, *bias, *residual;
    float *packed;     /* where rows are packed: BLOCK_K of all strips, then the next BLOCK_K */
    const float *rows; /* the packed rows, or x itself where strips are single rows */
    int n_rows, n_strips, padded_rows; /* the strips' heights together */
    int wide; /* panels that a sweep multiplies at once */
    int block_strips, n_blocks;
    enum epilogue epilogue;
};

static size_t packed_at(const struct linear *l, int strip, int k)
{
    const int left = l->w->K - k;
    return (size_t)k * (size_t)l->padded_rows
           + (size_t)(strip * l->tile->height) * (size_t)(left < BLOCK_K ? left : BLOCK_K);
}

static void linear_pack_task(void *context, int task, int thread)
{
    (void)thread;
    const struct linear *l = context;
    const int first = task * l->tile->height, left = l->n_rows - first, K = l->w->K;
    const struct tile *tile = task == l->n_strips - 1 ? l->tail : l->tile;
    for (int k = 0; k < K; k += BLOCK_K)
        strip_pack(l->packed + packed_at(l, task, k), tile,
                   l->x + (size_t)first * (size_t)K + k, K, 1,
                   left < tile->height ? left : tile->height,
                   K - k < BLOCK_K ? K - k : BLOCK_K);
}

/* `wide` panels by all strips of a block: BLOCK_K of a panel stays in the first cache while the
 * strips pass over it, one behind the other in memory. */
static void sweep(const struct linear *l, float *t, int panel, int strip_first, int n_strips)
{
    const struct weight *w = l->w;
    const int height = l->tile->height, K = w->K;
    for (int k = 0; k < K; k += BLOCK_K)
        for (int s = 0; s < n_strips; s++) {
            const int strip = strip_first + s;
            const struct tile *tile = strip == l->n_strips - 1 ? l->tail : l->tile;
            tile->run[w->stored](t + s * height * GROUP, l->rows + packed_at(l, strip, k),
                                 weight_row(w, panel, k), (size_t)K * LANES,
                                 w->scales + panel * LANES, l->wide,
                                 K - k < BLOCK_K ? K - k : BLOCK_K, k > 0);
        }
}

/* A block of rows by a group of columns. */
static void linear_task(void *context, int task, int thread)
{
    (void)thread;
    const struct linear *l = context;
    const int height = l->tile->height;
    const int group = task / l->n_blocks;
    const int strip_first = task % l->n_blocks * l->block_strips;
    const int strips_left = l->n_strips - strip_first;
    const int n_strips = strips_left < l->block_strips ? strips_left : l->block_strips;
    const int row_first = strip_first * height;
    float t[BLOCK_ROWS * GROUP] __attribute__((aligned(64)));
    for (int p = 0; p < 4; p += l->wide)
        sweep(l, t + p * LANES, group * 4 + p, strip_first, n_strips);
    const int column = group * GROUP, N = l->w->N;
    const int n_columns = N - column < GROUP ? N - column : GROUP;
    for (int r = 0; r < n_strips * height && row_first + r < l->n_rows; r++) {
        const size_t at = (size_t)(row_first + r) * (size_t)N + (size_t)column;
        l->v->finish[l->epilogue](l->out + at, t + r * GROUP, l->bias ? l->bias + column : NULL,
                                  l->residual ? l->residual + at : NULL, n_columns);
    }
}

/* At most packed_rows rows. */
static void linear_rows(struct device *d, struct linear *l)
{
    l->tile = tile_choose(d->v, l->n_rows);
    const int height = l->tile->height;
    l->n_strips = (l->n_rows + height - 1) / height;
    l->tail = tile_for(d->v, l->n_rows - (l->n_strips - 1) * height);
    l->padded_rows = (l->n_strips - 1) * height + l->tail->height;
    l->packed = d->packed;
    l->rows = height == 1 ? l->x : l->packed;
    if (height > 1)
        pool_run(d->pool, l->n_strips, linear_pack_task, l);
    l->block_strips = BLOCK_ROWS / height;
    /* One panel at a time comes from memory fastest; several feed many rows with fewer loads. */
    l->wide = height < 4 || l->n_rows > BLOCK_ROWS ? l->tile->wide : 1;
    l->n_blocks = (l->n_strips + l->block_strips - 1) / l->block_strips;
    pool_run(d->pool, l->w->n_groups * l->n_blocks, linear_task, l);
}

void cpu_linear(struct device *d, float *out, const float *x, const struct weight *w,
                const float *bias, int n_rows, enum epilogue epilogue, const float *residual)
{
    assert(w->K <= d->width_max);
    const size_t K = (size_t)w->K, N = (size_t)w->N;
    for (int row = 0; row < n_rows; row += d->packed_rows) {
        struct linear l = {.v = d->v, .w = w, .bias = bias, .epilogue = epilogue};
        l.out = out + (size_t)row * N;
        l.x = x + (size_t)row * K;
        l.residual = residual ? residual + (size_t)row * N : NULL;
        l.n_rows = n_rows - row < d->packed_rows ? n_rows - row : d->packed_rows;
        linear_rows(d, &l);
    }
}

/* matmul: a task is a block of rows by a group of columns of one matrix of the batch. It packs both
 * sides by BLOCK_K into its thread's scratch. */
struct product {
    struct device *d;
    const struct tensor *out, *x, *y;
    int64_t M, K, N, n_blocks, n_groups;
    int64_t block_rows;
};

static int64_t matrix_at(const struct view *v, int64_t batch)
{
    return element_at(v, v->rank - 2, batch);
}

/* Panels without a column are left as they are: nobody looks at what they give. */
static void panels_pack(float *packed, const float *y, int64_t k_stride, int64_t n_stride, int n_k,
                        int n_columns)
{
    for (int p = 0; p * LANES < n_columns; p++)
        for (int k = 0; k < n_k; k++) {
            float *row = packed + (p * BLOCK_K + k) * LANES;
            for (int column = 0; column < LANES; column++) {
                const int n = p * LANES + column;
                row[column] = n < n_columns ? y[k * k_stride + n * n_stride] : 0;
            }
        }
}

static void product_store(const struct product *p, float *out, const float *t, int n_rows,
                          int n_columns)
{
    const struct view *v = &p->out->view;
    const int64_t row_stride = v->stride[v->rank - 2], column_stride = v->stride[v->rank - 1];
    for (int r = 0; r < n_rows; r++)
        for (int column = 0; column < n_columns; column++)
            out[r * row_stride + column * column_stride] = t[r * GROUP + column];
}

static void product_task(void *context, int task, int thread)
{
    const struct product *p = context;
    const struct view *xv = &p->x->view, *yv = &p->y->view, *ov = &p->out->view;
    const int64_t block = task % p->n_blocks, group = task / p->n_blocks % p->n_groups;
    const int64_t batch = task / p->n_blocks / p->n_groups;
    const int64_t row = block * p->block_rows, column = group * GROUP;
    const int n_rows = (int)(p->M - row < p->block_rows ? p->M - row : p->block_rows);
    const int n_columns = (int)(p->N - column < GROUP ? p->N - column : GROUP);
    const int64_t x_row = xv->stride[xv->rank - 2], x_k = xv->stride[xv->rank - 1];
    const int64_t y_k = yv->stride[yv->rank - 2], y_n = yv->stride[yv->rank - 1];
    const float *x = (const float *)p->x->data + matrix_at(xv, batch) + row * x_row;
    const float *y = (const float *)p->y->data + matrix_at(yv, batch) + column * y_n;
    float *a = p->d->scratch[thread].a, *b = p->d->scratch[thread].b;
    const struct tile *tile = tile_choose(p->d->v, n_rows);
    float t[BLOCK_ROWS * GROUP] __attribute__((aligned(64)));
    if (p->K == 0)
        memset(t, 0, sizeof t);
    for (int64_t k = 0; k < p->K; k += BLOCK_K) {
        const int n_k = (int)(p->K - k < BLOCK_K ? p->K - k : BLOCK_K);
        panels_pack(b, y + k * y_k, y_k, y_n, n_k, n_columns);
        for (int r = 0; r < n_rows; r += tile->height) {
            const int left = n_rows - r < tile->height ? n_rows - r : tile->height;
            strip_pack(a, tile, x + r * x_row + k * x_k, x_row, x_k, left, n_k);
            tile->run[STORED_f32](t + r * GROUP, a, b, BLOCK_K * LANES, NULL, 4, n_k, k > 0);
        }
    }
    float *out = (float *)p->out->data + matrix_at(ov, batch) + row * ov->stride[ov->rank - 2]
                 + column * ov->stride[ov->rank - 1];
    product_store(p, out, t, n_rows, n_columns);
}

void cpu_matmul(struct device *d, const struct tensor *out, const struct tensor *x,
                const struct tensor *y)
{
    const struct view *v = &out->view;
    struct product p = {.d = d, .out = out, .x = x, .y = y};
    p.M = v->shape[v->rank - 2];
    p.N = v->shape[v->rank - 1];
    p.K = x->view.shape[x->view.rank - 1];
    if (view_count(v) == 0)
        return;
    p.block_rows = p.M < BLOCK_ROWS ? p.M : BLOCK_ROWS;
    p.n_blocks = (p.M + p.block_rows - 1) / p.block_rows;
    p.n_groups = (p.N + GROUP - 1) / GROUP;
    const int64_t n_batch = view_count(v) / (p.M * p.N);
    pool_run(d->pool, (int)(n_batch * p.n_blocks * p.n_groups), product_task, &p);
}
