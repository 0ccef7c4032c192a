/* Reductions over the last dimensions, read as one row-major sequence, the softmaxes and scans. */
#include "../scalar.h"
#include "cpu.h"

enum { TASK_ELEMENTS = 16384 };

/* One output's elements: a sequence over at most RANK_MAX dimensions. */
struct sequence {
    int rank;
    int64_t shape[RANK_MAX], stride[RANK_MAX];
    int64_t count;
    bool flat; /* contiguous */
};

struct reduction {
    const struct vectors *v;
    enum op op;
    const struct tensor *out, *x;
    struct sequence s;
    int64_t n_outputs, task_outputs;
};

/* Calls `visit(value)` for each element in order; `type` is the element's. */
#define EACH_ELEMENT(s, data, type, visit)                                                        \
    do {                                                                                          \
        int64_t index[RANK_MAX] = {0}, at = 0;                                                    \
        for (int64_t i = 0; i < (s)->count; i++) {                                                \
            const type value = ((const type *)(data))[at];                                        \
            visit;                                                                                \
            for (int j = (s)->rank - 1; j >= 0; j--) {                                            \
                at += (s)->stride[j];                                                             \
                if (++index[j] < (s)->shape[j])                                                   \
                    break;                                                                        \
                at -= (s)->stride[j] * (s)->shape[j];                                             \
                index[j] = 0;                                                                     \
            }                                                                                     \
        }                                                                                         \
    } while (0)

static float lanes_tree(float *lanes)
{
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int l = 0; l < width; l++)
            lanes[l] += lanes[l + width];
    return lanes[0];
}

static float sum_f32(const struct reduction *r, const float *x)
{
    if (r->s.flat)
        return r->v->sum(x, r->s.count);
    float lanes[LANES] = {0};
    EACH_ELEMENT(&r->s, x, float, lanes[i % LANES] += value);
    return lanes_tree(lanes);
}

static float squares_f32(const struct reduction *r, const float *x)
{
    if (r->s.flat)
        return r->v->sum_squares(x, r->s.count);
    float lanes[LANES] = {0};
    EACH_ELEMENT(&r->s, x, float, lanes[i % LANES] = fmaf(value, value, lanes[i % LANES]));
    return lanes_tree(lanes);
}

static float logsumexp_f32(const struct reduction *r, const float *x)
{
    if (r->s.flat)
        return r->v->logsumexp(x, r->s.count);
    float most = -INFINITY, lanes[LANES] = {0};
    EACH_ELEMENT(&r->s, x, float, most = most > value ? most : value);
    const float shift = fabsf(most) == INFINITY ? 0.0f : most;
    EACH_ELEMENT(&r->s, x, float, lanes[i % LANES] += scalar_exp(value - shift));
    return scalar_log(lanes_tree(lanes)) + shift;
}

static int64_t sum_i64(const struct reduction *r, const int64_t *x)
{
    int64_t sum = 0;
    EACH_ELEMENT(&r->s, x, int64_t, sum = wrap_add(sum, value));
    return sum;
}

static int64_t sum_bool(const struct reduction *r, const uint8_t *x)
{
    int64_t sum = 0;
    EACH_ELEMENT(&r->s, x, uint8_t, sum += value);
    return sum;
}

static float prod_f32(const struct reduction *r, const float *x)
{
    float lanes[LANES];
    for (int l = 0; l < LANES; l++)
        lanes[l] = 1;
    EACH_ELEMENT(&r->s, x, float, lanes[i % LANES] *= value);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int l = 0; l < width; l++)
            lanes[l] *= lanes[l + width];
    return lanes[0];
}

static int64_t prod_i64(const struct reduction *r, const int64_t *x)
{
    int64_t product = 1;
    EACH_ELEMENT(&r->s, x, int64_t, product = wrap_mul(product, value));
    return product;
}

/* The place of the winner: the first NaN, else the first of the best. */
#define PLACE(name, type, beats)                                                                  \
    static int64_t name(const struct reduction *r, const type *x, type *won)                      \
    {                                                                                             \
        int64_t at_best = 0;                                                                      \
        type best = 0;                                                                            \
        EACH_ELEMENT(&r->s, x, type,                                                              \
                     if (i == 0 || (best == best && (value beats best || value != value))) {      \
                         best = value;                                                            \
                         at_best = i;                                                             \
                     });                                                                          \
        *won = best;                                                                              \
        return at_best;                                                                           \
    }
PLACE(most_f32, float, >)
PLACE(least_f32, float, <)
PLACE(most_i64, int64_t, >)
PLACE(least_i64, int64_t, <)
PLACE(most_bool, uint8_t, >)
PLACE(least_bool, uint8_t, <)

static void extreme(const struct reduction *r, char *out, const void *x)
{
    const bool most = r->op == OP_max || r->op == OP_argmax;
    float f = 0;
    int64_t whole = 0, place = 0;
    uint8_t b = 0;
    switch (r->x->dtype) {
    case DT_f32: place = most ? most_f32(r, x, &f) : least_f32(r, x, &f); break;
    case DT_i64: place = most ? most_i64(r, x, &whole) : least_i64(r, x, &whole); break;
    default: place = most ? most_bool(r, x, &b) : least_bool(r, x, &b); break;
    }
    if (r->op == OP_argmax || r->op == OP_argmin)
        *(int64_t *)out = place;
    else if (r->x->dtype == DT_f32)
        *(float *)out = f;
    else if (r->x->dtype == DT_i64)
        *(int64_t *)out = whole;
    else
        *(uint8_t *)out = b;
}

static void reduce_one(const struct reduction *r, char *out, const void *x)
{
    switch (r->op) {
    case OP_sum:
        if (r->x->dtype == DT_f32)
            *(float *)out = sum_f32(r, x);
        else
            *(int64_t *)out = r->x->dtype == DT_i64 ? sum_i64(r, x) : sum_bool(r, x);
        break;
    case OP_prod:
        if (r->x->dtype == DT_f32)
            *(float *)out = prod_f32(r, x);
        else
            *(int64_t *)out = prod_i64(r, x);
        break;
    case OP_mean: *(float *)out = sum_f32(r, x) / (float)r->s.count; break;
    case OP_norm: *(float *)out = sqrtf(squares_f32(r, x)); break;
    case OP_logsumexp: *(float *)out = logsumexp_f32(r, x); break;
    default: extreme(r, out, x); break;
    }
}

static void reduce_task(void *context, int task, int thread)
{
    (void)thread;
    const struct reduction *r = context;
    const int64_t first = task * r->task_outputs;
    const int64_t end = first + r->task_outputs < r->n_outputs ? first + r->task_outputs
                                                               : r->n_outputs;
    const int64_t out_size = (int64_t)dtype_size(r->out->dtype);
    const int64_t x_size = (int64_t)dtype_size(r->x->dtype);
    for (int64_t i = first; i < end; i++) {
        const int64_t from = element_at(&r->x->view, r->out->view.rank, i);
        const int64_t to = element_at(&r->out->view, r->out->view.rank, i);
        reduce_one(r, (char *)r->out->data + to * out_size,
                   (const char *)r->x->data + from * x_size);
    }
}

/* Joins the dimensions that one stride walks. */
static struct sequence sequence_of(const struct view *v, int n_reduced)
{
    struct sequence s = {.count = 1};
    for (int j = v->rank - n_reduced; j < v->rank; j++) {
        s.count *= v->shape[j];
        if (v->shape[j] == 1)
            continue;
        if (s.rank == 0 || s.stride[s.rank - 1] != v->stride[j] * v->shape[j])
            s.shape[s.rank++] = 1;
        s.shape[s.rank - 1] *= v->shape[j];
        s.stride[s.rank - 1] = v->stride[j];
    }
    s.flat = s.rank == 0 || (s.rank == 1 && s.stride[0] == 1);
    return s;
}

int64_t rows_of_a_task(int64_t count)
{
    return count >= TASK_ELEMENTS ? 1 : TASK_ELEMENTS / (count > 0 ? count : 1);
}

void cpu_reduce(struct device *d, enum op op, const struct tensor *out, const struct tensor *x,
                int n_reduced)
{
    struct reduction r = {.v = d->v, .op = op, .out = out, .x = x};
    r.s = sequence_of(&x->view, n_reduced);
    r.n_outputs = view_count(&out->view);
    r.task_outputs = rows_of_a_task(r.s.count);
    const int64_t n_tasks = (r.n_outputs + r.task_outputs - 1) / r.task_outputs;
    pool_run(d->pool, (int)n_tasks, reduce_task, &r);
}

struct softmax {
    const struct vectors *v;
    enum op op;
    const struct tensor *out, *x;
    int64_t n, n_rows, task_rows;
};

/* The same in plain steps, for rows that are not contiguous. */
static void softmax_strided(float *out, int64_t out_stride, const float *x, int64_t x_stride,
                            int64_t n, enum op op)
{
    float most = -INFINITY, lanes[LANES] = {0};
    for (int64_t i = 0; i < n; i++)
        most = most > x[i * x_stride] ? most : x[i * x_stride];
    for (int64_t i = 0; i < n; i++)
        lanes[i % LANES] += scalar_exp(x[i * x_stride] - most);
    const float sum = lanes_tree(lanes);
    const float log_sum = scalar_log(sum);
    for (int64_t i = 0; i < n; i++) {
        const float shifted = x[i * x_stride] - most;
        out[i * out_stride] = op == OP_softmax ? scalar_exp(shifted) / sum : shifted - log_sum;
    }
}

static void softmax_task(void *context, int task, int thread)
{
    (void)thread;
    const struct softmax *s = context;
    const int last = s->x->view.rank - 1;
    const int64_t x_stride = s->x->view.stride[last], out_stride = s->out->view.stride[last];
    const int64_t first = task * s->task_rows;
    const int64_t end = first + s->task_rows < s->n_rows ? first + s->task_rows : s->n_rows;
    for (int64_t i = first; i < end; i++) {
        const float *x = (const float *)s->x->data + element_at(&s->x->view, last, i);
        float *out = (float *)s->out->data + element_at(&s->out->view, last, i);
        if (x_stride != 1 || out_stride != 1)
            softmax_strided(out, out_stride, x, x_stride, s->n, s->op);
        else if (s->op == OP_softmax)
            s->v->softmax(out, x, s->n);
        else
            s->v->log_softmax(out, x, s->n);
    }
}

void cpu_softmax(struct device *d, enum op op, const struct tensor *out, const struct tensor *x)
{
    const int64_t n = x->view.shape[x->view.rank - 1];
    if (view_count(&x->view) == 0)
        return;
    struct softmax s = {.v = d->v, .op = op, .out = out, .x = x, .n = n};
    s.n_rows = view_count(&x->view) / n;
    s.task_rows = rows_of_a_task(n * 8);
    const int64_t n_tasks = (s.n_rows + s.task_rows - 1) / s.task_rows;
    pool_run(d->pool, (int)n_tasks, softmax_task, &s);
}

struct scan {
    enum op op;
    const struct tensor *out, *x;
    int64_t n, n_rows, task_rows;
};

#define SCAN_ROW(type, sum_type, first, step)                                                     \
    do {                                                                                          \
        const type *from = (const type *)s->x->data + element_at(&s->x->view, last, row);         \
        type *to = (type *)s->out->data + element_at(&s->out->view, last, row);                   \
        sum_type sum = (first);                                                                   \
        for (int64_t i = 0; i < s->n; i++) {                                                      \
            const sum_type value = from[i * x_stride];                                            \
            sum = (step);                                                                         \
            to[i * out_stride] = (type)sum;                                                       \
        }                                                                                         \
    } while (0)

static void scan_task(void *context, int task, int thread)
{
    (void)thread;
    const struct scan *s = context;
    const int last = s->x->view.rank - 1;
    const int64_t x_stride = s->x->view.stride[last], out_stride = s->out->view.stride[last];
    const int64_t first = task * s->task_rows;
    const int64_t end = first + s->task_rows < s->n_rows ? first + s->task_rows : s->n_rows;
    for (int64_t row = first; row < end; row++) {
        if (s->x->dtype == DT_f32 && s->op == OP_cumsum)
            SCAN_ROW(float, double, 0, sum + value);
        else if (s->x->dtype == DT_f32)
            SCAN_ROW(float, double, 1, sum * value);
        else if (s->op == OP_cumsum)
            SCAN_ROW(int64_t, int64_t, 0, wrap_add(sum, value));
        else
            SCAN_ROW(int64_t, int64_t, 1, wrap_mul(sum, value));
    }
}

void cpu_scan(struct device *d, enum op op, const struct tensor *out, const struct tensor *x)
{
    if (view_count(&x->view) == 0)
        return;
    struct scan s = {.op = op, .out = out, .x = x, .n = x->view.shape[x->view.rank - 1]};
    s.n_rows = view_count(&x->view) / s.n;
    s.task_rows = rows_of_a_task(s.n);
    pool_run(d->pool, (int)((s.n_rows + s.task_rows - 1) / s.task_rows), scan_task, &s);
}
