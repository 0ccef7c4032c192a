/* Elements by their places along the last dimension: where the first k are, and what is there. */
#include "../scalar.h"
#include "cpu.h"

/* Integers in the order of floats: equal floats are equal, and a NaN is greater than all. */
static inline int64_t key_of_float(float x)
{
    const int32_t bits = (int32_t)scalar_bits(x);
    if (x != x)
        return INT64_MAX;
    return bits < 0 ? -(int64_t)(bits & INT32_MAX) : bits;
}

/* The row being chosen from. Its output holds the places chosen so far as a heap: each comes behind
 * its children in the order that is asked for, so that the root is the one to go next. */
struct choice {
    const struct tensor *x;
    int64_t x_at, x_stride; /* elements */
    int64_t *heap;
    int64_t stride, count;
    bool largest;
};

static inline int64_t key_at(const struct choice *c, int64_t i)
{
    const int64_t at = c->x_at + i * c->x_stride;
    return c->x->dtype == DT_f32 ? key_of_float(((const float *)c->x->data)[at])
                                 : ((const int64_t *)c->x->data)[at];
}

static inline bool comes_first(const struct choice *c, int64_t a, int64_t b)
{
    return c->largest ? a > b : a < b;
}

static bool is_behind(const struct choice *c, int64_t i, int64_t j)
{
    const int64_t a = key_at(c, i), b = key_at(c, j);
    return a == b ? i > j : comes_first(c, b, a);
}

/* Puts `place` where the root was and lets it sink. */
static void sink(struct choice *c, int64_t place)
{
    int64_t hole = 0;
    for (int64_t child; (child = 2 * hole + 1) < c->count; hole = child) {
        const int64_t right = child + 1;
        if (right < c->count &&
            is_behind(c, c->heap[right * c->stride], c->heap[child * c->stride]))
            child = right;
        if (is_behind(c, place, c->heap[child * c->stride]))
            break;
        c->heap[hole * c->stride] = c->heap[child * c->stride];
    }
    c->heap[hole * c->stride] = place;
}

static void rise(struct choice *c, int64_t place)
{
    int64_t hole = c->count++;
    for (int64_t parent; hole > 0; hole = parent) {
        parent = (hole - 1) / 2;
        if (is_behind(c, c->heap[parent * c->stride], place))
            break;
        c->heap[hole * c->stride] = c->heap[parent * c->stride];
    }
    c->heap[hole * c->stride] = place;
}

/* Later places lose against equals, so that one comparison settles almost every element. */
static void choose(struct choice *c, int64_t n, int64_t k)
{
    for (int64_t i = 0; i < k; i++)
        rise(c, i);
    int64_t last = key_at(c, c->heap[0]);
    for (int64_t i = k; i < n; i++) {
        if (!comes_first(c, key_at(c, i), last))
            continue;
        sink(c, i);
        last = key_at(c, c->heap[0]);
    }
    while (c->count > 1) {
        const int64_t behind = c->heap[0], place = c->heap[--c->count * c->stride];
        sink(c, place);
        c->heap[c->count * c->stride] = behind;
    }
}

struct selection { /* out (n_rows, k) from x (n_rows, n) */
    const struct tensor *out, *x;
    const struct tensor *index; /* of gather */
    bool largest;               /* of topk */
    int64_t n, k, n_rows, task_rows;
};

static int64_t rows_end(const struct selection *s, int64_t first)
{
    return first + s->task_rows < s->n_rows ? first + s->task_rows : s->n_rows;
}

static void topk_task(void *context, int task, int thread)
{
    (void)thread;
    const struct selection *t = context;
    const int last = t->x->view.rank - 1;
    const int64_t first = task * t->task_rows;
    for (int64_t i = first; i < rows_end(t, first); i++) {
        struct choice c = {.x = t->x,
                           .x_at = element_at(&t->x->view, last, i),
                           .x_stride = t->x->view.stride[last],
                           .heap = (int64_t *)t->out->data + element_at(&t->out->view, last, i),
                           .stride = t->out->view.stride[last],
                           .largest = t->largest};
        choose(&c, t->n, t->k);
    }
}

static int64_t count_rows(const struct view *v)
{
    struct view rows = *v;
    rows.rank--;
    return view_count(&rows);
}

/* `row_elements`: how many elements of work a row is. */
static void select_rows(struct device *d, task_fn *run, struct selection *s, int64_t row_elements)
{
    s->n_rows = count_rows(&s->out->view);
    s->task_rows = rows_of_a_task(row_elements);
    if (s->k > 0)
        pool_run(d->pool, (int)((s->n_rows + s->task_rows - 1) / s->task_rows), run, s);
}

void cpu_topk(struct device *d, const struct tensor *out, const struct tensor *x, bool largest)
{
    const int last = x->view.rank - 1;
    struct selection s = {.out = out, .x = x, .largest = largest};
    s.n = x->view.shape[last];
    s.k = out->view.shape[last];
    select_rows(d, topk_task, &s, s.n);
}

#define GATHER_ROW(type)                                                                          \
    do {                                                                                          \
        const type *from = (const type *)g->x->data + element_at(&g->x->view, last, row);         \
        type *to = (type *)g->out->data + element_at(&g->out->view, last, row);                   \
        for (int64_t j = 0; j < g->k; j++) {                                                      \
            const int64_t i = index[j * index_stride];                                            \
            to[j * out_stride] = i >= 0 && i < g->n ? from[i * x_stride] : (type)0;               \
        }                                                                                         \
    } while (0)

static void gather_task(void *context, int task, int thread)
{
    (void)thread;
    const struct selection *g = context;
    const int last = g->x->view.rank - 1;
    const int64_t x_stride = g->x->view.stride[last], out_stride = g->out->view.stride[last];
    const int64_t index_stride = g->index->view.stride[last];
    const int64_t first = task * g->task_rows;
    for (int64_t row = first; row < rows_end(g, first); row++) {
        const int64_t *index =
            (const int64_t *)g->index->data + element_at(&g->index->view, last, row);
        switch (g->x->dtype) {
        case DT_f32: GATHER_ROW(float); break;
        case DT_i64: GATHER_ROW(int64_t); break;
        default: GATHER_ROW(uint8_t); break;
        }
    }
}

/* What is repeated is looked at once. */
void index_check(const struct tensor *index, int64_t n, int64_t *fault, int64_t tag)
{
    const struct view once = view_once(&index->view);
    const int last = once.rank - 1;
    const int64_t n_rows = count_rows(&once), stride = once.stride[last];
    for (int64_t row = 0; row < n_rows && !fault[0]; row++) {
        const int64_t *at = (const int64_t *)index->data + element_at(&once, last, row);
        for (int64_t j = 0; j < once.shape[last] && !fault[0]; j++) {
            if (at[j * stride] >= 0 && at[j * stride] < n)
                continue;
            fault[0] = tag;
            fault[1] = at[j * stride];
        }
    }
}

void cpu_gather(struct device *d, const struct tensor *out, const struct tensor *x,
                const struct tensor *index, int64_t *fault, int64_t tag)
{
    const int last = x->view.rank - 1;
    struct selection s = {.out = out, .x = x, .index = index};
    s.n = x->view.shape[last];
    s.k = out->view.shape[last];
    index_check(index, s.n, fault, tag);
    select_rows(d, gather_task, &s, s.k);
}

struct scattering { /* x (n_rows, k) to out (n_rows, n) */
    const struct tensor *out, *index, *x;
    int64_t n, k, n_rows, task_rows;
    bool adds;
};

#define SCATTER_ROW(type, sum)                                                                    \
    do {                                                                                          \
        const type *from = (const type *)s->x->data + element_at(&s->x->view, last, row);         \
        type *to = (type *)s->out->data + element_at(&s->out->view, last, row);                   \
        for (int64_t j = 0; j < s->k; j++) {                                                      \
            const int64_t i = index[j * index_stride];                                            \
            if (i < 0 || i >= s->n)                                                               \
                continue;                                                                         \
            const type x = to[i * out_stride], y = from[j * x_stride];                            \
            to[i * out_stride] = s->adds ? (type)(sum) : y;                                       \
        }                                                                                         \
    } while (0)

static void scatter_task(void *context, int task, int thread)
{
    (void)thread;
    const struct scattering *s = context;
    const int last = s->x->view.rank - 1;
    const int64_t x_stride = s->x->view.stride[last], out_stride = s->out->view.stride[last];
    const int64_t index_stride = s->index->view.stride[last];
    const int64_t first = task * s->task_rows, end = first + s->task_rows;
    for (int64_t row = first; row < end && row < s->n_rows; row++) {
        const int64_t *index =
            (const int64_t *)s->index->data + element_at(&s->index->view, last, row);
        switch (s->x->dtype) {
        case DT_f32: SCATTER_ROW(float, x + y); break;
        case DT_i64: SCATTER_ROW(int64_t, wrap_add(x, y)); break;
        default: SCATTER_ROW(uint8_t, x | y); break;
        }
    }
}

void cpu_scatter(struct device *d, enum op op, const struct tensor *out,
                 const struct tensor *index, const struct tensor *x, int64_t *fault, int64_t tag)
{
    const int last = out->view.rank - 1;
    struct scattering s = {.out = out, .index = index, .x = x, .adds = op == OP_scatter_add};
    s.n = out->view.shape[last];
    s.k = index->view.shape[last];
    s.n_rows = count_rows(&index->view);
    s.task_rows = rows_of_a_task(s.k);
    index_check(index, s.n, fault, tag);
    pool_run(d->pool, (int)((s.n_rows + s.task_rows - 1) / s.task_rows), scatter_task, &s);
}
