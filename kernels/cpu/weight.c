/* Weights: panels of 16 columns, padded with zero columns to whole groups of four panels, their
 * elements as float32, bf16 or int8. backend.h says what they are rounded to. */
#include "../scalar.h"
#include "cpu.h"
#include <string.h>

/* The element at this place of the panels, of column n. */
typedef float load_fn(const struct weight *w, size_t at, int n);

static float load_f32(const struct weight *w, size_t at, int n)
{
    (void)n;
    return ((const float *)w->panels)[at];
}

static float load_bf16(const struct weight *w, size_t at, int n)
{
    (void)n;
    return scalar_from_bits((uint32_t)((const uint16_t *)w->panels)[at] << 16);
}

static float load_int8(const struct weight *w, size_t at, int n)
{
    return (float)((const int8_t *)w->panels)[at] * w->scales[n];
}

/* Column n of a matrix, its elements `step` apart, goes into its place in the panels. */
typedef void pack_fn(struct weight *w, int n, const float *column, size_t step);

static size_t column_at(const struct weight *w, int n)
{
    return (size_t)(n / LANES) * (size_t)w->K * LANES + (size_t)(n % LANES);
}

static void pack_f32(struct weight *w, int n, const float *column, size_t step)
{
    float *to = (float *)w->panels + column_at(w, n);
    for (int k = 0; k < w->K; k++)
        to[k * LANES] = column[(size_t)k * step];
}

static void pack_bf16(struct weight *w, int n, const float *column, size_t step)
{
    uint16_t *to = (uint16_t *)w->panels + column_at(w, n);
    for (int k = 0; k < w->K; k++) {
        const uint32_t bits = scalar_bits(column[(size_t)k * step]);
        to[k * LANES] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
}

static void pack_int8(struct weight *w, int n, const float *column, size_t step)
{
    int8_t *to = (int8_t *)w->panels + column_at(w, n);
    float most = 0;
    for (int k = 0; k < w->K; k++)
        most = fmaxf(most, fabsf(column[(size_t)k * step]));
    const float scale = w->scales[n] = most / 127.0f;
    for (int k = 0; k < w->K && scale > 0; k++) {
        /* A scale below the normal numbers is so coarse that a quotient may pass 127. */
        const float q = rintf(column[(size_t)k * step] / scale);
        to[k * LANES] = (int8_t)fminf(fmaxf(q, -127.0f), 127.0f);
    }
}

static const struct {
    const char *name;
    size_t element; /* bytes */
    pack_fn *pack;
    load_fn *load;
} types[] = {
    [STORED_f32] = {"f32", sizeof(float), pack_f32, load_f32},
    [STORED_bf16] = {"bf16", sizeof(uint16_t), pack_bf16, load_bf16},
    [STORED_int8] = {"int8", sizeof(int8_t), pack_int8, load_int8},
};

bool stored_find(enum stored *s, const char *name, struct err *e)
{
    for (int i = 0; i < STORED_COUNT; i++)
        if (strcmp(name, types[i].name) == 0) {
            *s = (enum stored)i;
            return true;
        }
    return err_set(e, ERR_value, "weights is %s: it can be f32, bf16 or int8", name);
}

const void *weight_row(const struct weight *w, int panel, int k)
{
    const size_t row = (size_t)panel * (size_t)w->K + (size_t)k;
    return w->panels + row * LANES * types[w->stored].element;
}

struct packing {
    struct weight *w;
    const float *matrix;
    enum layout layout;
};

static void pack_task(void *context, int task, int thread)
{
    (void)thread;
    const struct packing *p = context;
    const size_t K = (size_t)p->w->K, N = (size_t)p->w->N;
    const bool is_kn = p->layout == LAYOUT_kn;
    for (int n = task * LANES; n < (task + 1) * LANES && n < p->w->N; n++)
        types[p->w->stored].pack(p->w, n, p->matrix + (size_t)n * (is_kn ? 1 : K), is_kn ? N : 1);
}

bool cpu_weight_pack(struct device *d, struct weight **out, const float *matrix, enum layout l,
                     int K, int N, struct err *e)
{
    const int n_groups = (N + GROUP - 1) / GROUP;
    const size_t n_columns = (size_t)n_groups * GROUP;
    const size_t panels = n_columns * (size_t)K * types[d->stored].element;
    const size_t size = sizeof(struct weight) + panels + n_columns * sizeof(float);
    struct weight *w = memory_map(size);
    if (!w)
        return err_set(e, ERR_device, "no memory for a weight of %d x %d", K, N);
    w->K = K;
    w->N = N;
    w->n_groups = n_groups;
    w->stored = d->stored;
    w->size = size;
    w->scales = (float *)(w->panels + panels);
    struct packing p = {w, matrix, l};
    pool_run(d->pool, (N + LANES - 1) / LANES, pack_task, &p);
    *out = w;
    return true;
}

void cpu_weight_free(struct device *d, struct weight *w)
{
    (void)d;
    if (w)
        memory_unmap(w, w->size);
}

struct reading {
    const struct weight *w;
    const struct tensor *out;
    const struct view *view; /* of rank 1 or more */
    int64_t n_rows, task_rows;
};

/* One stretch of the last dimension: its elements are `step` apart in the row-major matrix. */
static void read_row(float *out, int64_t out_step, const struct weight *w, int64_t at, int64_t step,
                     int64_t count)
{
    load_fn *const load = types[w->stored].load;
    const int64_t N = w->N, rows = step / N, columns = step % N;
    int64_t k = at / N, n = at % N;
    for (int64_t i = 0; i < count; i++) {
        out[i * out_step] = load(w, column_at(w, (int)n) + (size_t)k * LANES, (int)n);
        k += rows;
        n += columns;
        if (n >= N) {
            n -= N;
            k++;
        }
    }
}

/* The element at this place of the row-major matrix. */
static float read_one(const struct weight *w, int64_t at)
{
    const int n = (int)(at % w->N);
    return types[w->stored].load(w, column_at(w, n) + (size_t)(at / w->N) * LANES, n);
}

static void read_task(void *context, int task, int thread)
{
    (void)thread;
    const struct reading *r = context;
    const int last = r->view->rank - 1;
    const int64_t first = task * r->task_rows, left = r->n_rows - first;
    for (int64_t i = first; i < first + (left < r->task_rows ? left : r->task_rows); i++)
        read_row((float *)r->out->data + element_at(&r->out->view, last, i),
                 r->out->view.stride[last], r->w, element_at(r->view, last, i),
                 r->view->stride[last], r->view->shape[last]);
}

void cpu_weight_read(struct device *d, const struct tensor *out, const struct weight *w,
                     const struct view *view)
{
    if (view_count(view) == 0)
        return;
    if (view->rank == 0) {
        read_row((float *)out->data + out->view.offset, 1, w, view->offset, 1, 1);
        return;
    }
    const int64_t count = view->shape[view->rank - 1];
    struct reading r = {.w = w, .out = out, .view = view, .n_rows = view_count(view) / count};
    r.task_rows = rows_of_a_task(count);
    pool_run(d->pool, (int)((r.n_rows + r.task_rows - 1) / r.task_rows), read_task, &r);
}

struct gathering {
    const struct weight *w;
    const struct tensor *out, *index;
    const struct view *view;
    int64_t n_rows, task_rows;
};

static void gather_task(void *context, int task, int thread)
{
    (void)thread;
    const struct gathering *g = context;
    const struct view *out = &g->out->view, *index = &g->index->view, *view = g->view;
    const int last = out->rank - 1;
    const int64_t first = task * g->task_rows, left = g->n_rows - first;
    for (int64_t i = first; i < first + (left < g->task_rows ? left : g->task_rows); i++) {
        float *to = (float *)g->out->data + element_at(out, last, i);
        const int64_t *at = (const int64_t *)g->index->data + element_at(index, last, i);
        const int64_t from = element_at(view, last, i);
        for (int64_t j = 0; j < out->shape[last]; j++) {
            const int64_t place = at[j * index->stride[last]];
            const bool is_there = place >= 0 && place < view->shape[last];
            to[j * out->stride[last]] =
                is_there ? read_one(g->w, from + place * view->stride[last]) : 0.0f;
        }
    }
}

void cpu_weight_gather(struct device *d, const struct tensor *out, const struct weight *w,
                       const struct view *view, const struct tensor *index, int64_t *fault,
                       int64_t tag)
{
    const int64_t k = out->view.shape[out->view.rank - 1], count = view_count(&out->view);
    if (count == 0)
        return;
    index_check(index, view->shape[view->rank - 1], fault, tag);
    struct gathering g = {
        .w = w, .out = out, .index = index, .view = view, .n_rows = count / k};
    g.task_rows = rows_of_a_task(k);
    pool_run(d->pool, (int)((g.n_rows + g.task_rows - 1) / g.task_rows), gather_task, &g);
}
