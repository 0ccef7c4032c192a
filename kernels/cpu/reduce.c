/* Reductions over the last dimensions, read as one row-major sequence, the softmaxes and scans.
 * Rows of floats that are not contiguous are copied a block at a time, so that one way computes
 * all; some neighbours go together, whose elements share lines of memory. */
#include "../scalar.h"
#include "cpu.h"

enum {
    TASK_ELEMENTS = 16384,
    BLOCK = 256,    /* elements, a multiple of LANES, of */
    NEIGHBOURS = 16 /* rows: their lines stay in the cache */
};

/* One output's elements: a sequence over at most RANK_MAX dimensions, and at least one. */
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

/* What is known of a row behind its first elements. */
struct row {
    float lanes[LANES];
    float most, best;      /* of logsumexp and the softmaxes; of max, min, argmax, argmin */
    int64_t whole, place;  /* integers: the sum, the product or the best; where the best is */
    double sum;            /* of a scan */
};
static_assert(sizeof(struct row) <= PART_BYTES, "a row's state has its place");

/* Elements of a sequence from the i-th on that lie evenly spaced, up to before `end`. */
struct line {
    int64_t index[RANK_MAX];
    int64_t first; /* where its dimension's first element is */
    int64_t at, i, end;
};

static struct line line_at(const struct sequence *s, int64_t i, int64_t to)
{
    struct line l = {.i = i};
    for (int j = s->rank - 1; j >= 0 && i < to; j--) {
        l.index[j] = i % s->shape[j];
        i /= s->shape[j];
        l.first += j < s->rank - 1 ? l.index[j] * s->stride[j] : 0;
    }
    const int last = s->rank - 1;
    const int64_t left = s->shape[last] - l.index[last];
    l.at = l.first + l.index[last] * s->stride[last];
    l.end = left < to - l.i ? l.i + left : to;
    return l;
}

static void line_next(struct line *l, const struct sequence *s, int64_t to)
{
    const int last = s->rank - 1;
    for (int j = last - 1; j >= 0; j--) {
        l->first += s->stride[j];
        if (++l->index[j] < s->shape[j])
            break;
        l->first -= s->stride[j] * s->shape[j];
        l->index[j] = 0;
    }
    l->at = l->first;
    l->i = l->end;
    l->end = s->shape[last] < to - l->i ? l->i + s->shape[last] : to;
}

/* Calls `visit(i, value)` for each element from .. to - 1 in order; `type` is the element's. */
#define EACH_ELEMENT(s, data, type, from, to, visit)                                              \
    for (struct line line = line_at(s, from, to); line.i < (to); line_next(&line, s, to)) {       \
        const type *element = (const type *)(data) + line.at;                                     \
        const int64_t step = (s)->stride[(s)->rank - 1];                                          \
        for (int64_t i = line.i; i < line.end; i++, element += step) {                            \
            const type value = *element;                                                          \
            visit;                                                                                \
        }                                                                                         \
    }

static float lanes_tree(const float *from)
{
    float lanes[LANES];
    memcpy(lanes, from, sizeof lanes);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int l = 0; l < width; l++)
            lanes[l] += lanes[l + width];
    return lanes[0];
}

static float lanes_product(const float *from)
{
    float lanes[LANES];
    memcpy(lanes, from, sizeof lanes);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int l = 0; l < width; l++)
            lanes[l] *= lanes[l + width];
    return lanes[0];
}

static void lanes_multiply(float *lanes, const float *x, int64_t n)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++)
            lanes[l] *= x[i + l];
    for (int l = 0; i < n; i++, l++)
        lanes[l] *= x[i];
}

static float greater(float x, float y)
{
    return x > y ? x : y;
}

/* What exp of a logsumexp is taken from: infinite ones would leave no number. */
static float shift_of(const struct row *row)
{
    return fabsf(row->most) == INFINITY ? 0.0f : row->most;
}

/* n elements, the first of them the first lane's. */
static void add_block(const struct reduction *r, struct row *row, const float *x, int64_t n,
                      int sweep)
{
    float terms[BLOCK];
    switch (r->op) {
    case OP_norm: r->v->add_squares(row->lanes, x, n); break;
    case OP_prod: lanes_multiply(row->lanes, x, n); break;
    case OP_logsumexp:
        if (sweep == 0) {
            row->most = greater(row->most, r->v->most(x, n));
            break;
        }
        r->v->exp_from(terms, x, shift_of(row), n);
        r->v->add_sum(row->lanes, terms, n);
        break;
    default: r->v->add_sum(row->lanes, x, n); break;
    }
}

static void add_floats(const struct reduction *r, struct row *row, const float *x,
                       const struct part *p)
{
    float block[BLOCK];
    for (int64_t from = p->from, to; from < p->to; from = to) {
        to = p->to - from < BLOCK ? p->to : from + BLOCK;
        if (!r->s.flat)
            EACH_ELEMENT(&r->s, x, float, from, to, block[i - from] = value);
        add_block(r, row, r->s.flat ? x + from : block, to - from, p->sweep);
    }
}

static void add_wholes(const struct reduction *r, struct row *row, const void *x,
                       const struct part *p)
{
    int64_t so_far = row->whole;
    if (r->x->dtype == DT_bool)
        EACH_ELEMENT(&r->s, x, uint8_t, p->from, p->to, so_far += value)
    else if (r->op == OP_prod)
        EACH_ELEMENT(&r->s, x, int64_t, p->from, p->to, so_far = wrap_mul(so_far, value))
    else
        EACH_ELEMENT(&r->s, x, int64_t, p->from, p->to, so_far = wrap_add(so_far, value))
    row->whole = so_far;
}

/* The winner and its place: the first NaN, else the first of the best. */
#define BEST(name, type, field, beats)                                                            \
    static void name(const struct reduction *r, struct row *row, const type *x,                   \
                     const struct part *p)                                                        \
    {                                                                                             \
        int64_t place = row->place;                                                               \
        type best = (type)row->field;                                                             \
        EACH_ELEMENT(&r->s, x, type, p->from, p->to,                                              \
                     if (i == 0 || (best == best && (value beats best || value != value))) {      \
                         best = value;                                                            \
                         place = i;                                                               \
                     });                                                                          \
        row->field = best;                                                                        \
        row->place = place;                                                                       \
    }
BEST(most_f32, float, best, >)
BEST(least_f32, float, best, <)
BEST(most_i64, int64_t, whole, >)
BEST(least_i64, int64_t, whole, <)
BEST(most_bool, uint8_t, whole, >)
BEST(least_bool, uint8_t, whole, <)

static void find_best(const struct reduction *r, struct row *row, const void *x,
                      const struct part *p)
{
    const bool most = r->op == OP_max || r->op == OP_argmax;
    switch (r->x->dtype) {
    case DT_f32: (most ? most_f32 : least_f32)(r, row, x, p); break;
    case DT_i64: (most ? most_i64 : least_i64)(r, row, x, p); break;
    default: (most ? most_bool : least_bool)(r, row, x, p); break;
    }
}

static bool is_place(enum op op)
{
    return op == OP_argmax || op == OP_argmin;
}

static bool is_extreme(enum op op)
{
    return op == OP_max || op == OP_min || is_place(op);
}

/* Before the first element of a sweep. */
static void row_begin(struct row *row, enum op op)
{
    for (int l = 0; l < LANES; l++)
        row->lanes[l] = op == OP_prod ? 1.0f : 0.0f;
    row->whole = op == OP_prod || op == OP_cumprod;
    row->sum = op == OP_cumprod;
}

static void reduce_part(const struct reduction *r, struct row *row, const void *x,
                        const struct part *p)
{
    if (p->from == 0)
        row_begin(row, r->op);
    if (p->from == 0 && p->sweep == 0)
        row->most = -INFINITY;
    if (is_extreme(r->op))
        find_best(r, row, x, p);
    else if (r->x->dtype == DT_f32)
        add_floats(r, row, x, p);
    else
        add_wholes(r, row, x, p);
}

/* What the float of a row is behind its last element. */
static float end_floats(const struct reduction *r, const struct row *row)
{
    switch (r->op) {
    case OP_sum: return lanes_tree(row->lanes);
    case OP_mean: return lanes_tree(row->lanes) / (float)r->s.count;
    case OP_prod: return lanes_product(row->lanes);
    case OP_norm: return sqrtf(lanes_tree(row->lanes));
    case OP_logsumexp: return scalar_log(lanes_tree(row->lanes)) + shift_of(row);
    default: return row->best;
    }
}

static void reduce_end(const struct reduction *r, const struct row *row, void *out)
{
    if (is_place(r->op))
        *(int64_t *)out = row->place;
    else if (r->x->dtype == DT_f32)
        *(float *)out = end_floats(r, row);
    else if (r->x->dtype == DT_bool && is_extreme(r->op))
        *(uint8_t *)out = (uint8_t)row->whole;
    else
        *(int64_t *)out = row->whole;
}

/* Of the first `rank` dimensions. */
static void *row_at(const struct tensor *t, int rank, int64_t i)
{
    return (char *)t->data + element_at(&t->view, rank, i) * (int64_t)dtype_size(t->dtype);
}

/* n outputs from `first` on. */
static void reduce_rows(const struct reduction *r, int64_t first, int n)
{
    struct row rows[NEIGHBOURS];
    const void *x[NEIGHBOURS];
    const int rank = r->out->view.rank;
    const int64_t count = r->s.count, block = r->s.flat ? count : BLOCK;
    for (int k = 0; k < n; k++)
        x[k] = row_at(r->x, rank, first + k);
    for (int sweep = 0; sweep < part_sweeps(r->op); sweep++) {
        int64_t from = 0, to;
        do {
            to = count - from < block ? count : from + block;
            for (int k = 0; k < n; k++)
                reduce_part(r, &rows[k], x[k], &(struct part){sweep, from, to, NULL});
        } while ((from = to) < count);
    }
    for (int k = 0; k < n; k++)
        reduce_end(r, &rows[k], row_at(r->out, rank, first + k));
}

static void reduce_task(void *context, int task, int thread)
{
    (void)thread;
    const struct reduction *r = context;
    const int64_t first = task * r->task_outputs;
    const int64_t end = first + r->task_outputs < r->n_outputs ? first + r->task_outputs
                                                               : r->n_outputs;
    const int64_t n_together = r->s.flat ? 1 : NEIGHBOURS;
    for (int64_t i = first; i < end; i += n_together)
        reduce_rows(r, i, (int)(end - i < n_together ? end - i : n_together));
}

static bool part_is_last(const struct part *p, enum op op, int64_t count)
{
    return p->to == count && p->sweep == part_sweeps(op) - 1;
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
    if (s.rank == 0)
        s.shape[s.rank++] = 1;
    s.flat = s.rank == 1 && (s.stride[0] == 1 || s.shape[0] == 1);
    return s;
}

int64_t rows_of_a_task(int64_t count)
{
    return count >= TASK_ELEMENTS ? 1 : TASK_ELEMENTS / (count > 0 ? count : 1);
}

void cpu_reduce(struct device *d, enum op op, const struct tensor *out, const struct tensor *x,
                int n_reduced, const struct part *part)
{
    struct reduction r = {.v = d->v, .op = op, .out = out, .x = x};
    r.s = sequence_of(&x->view, n_reduced);
    if (part) {
        reduce_part(&r, part->state, row_at(x, 0, 0), part);
        if (part_is_last(part, op, r.s.count))
            reduce_end(&r, part->state, row_at(out, 0, 0));
        return;
    }
    r.n_outputs = view_count(&out->view);
    r.task_outputs = rows_of_a_task(r.s.flat ? r.s.count : r.s.count / NEIGHBOURS);
    const int64_t n_tasks = (r.n_outputs + r.task_outputs - 1) / r.task_outputs;
    pool_run(d->pool, (int)n_tasks, reduce_task, &r);
}

struct softmax {
    const struct vectors *v;
    enum op op;
    const struct tensor *out, *x;
    int64_t n, n_rows, task_rows;
    int64_t out_stride, x_stride;
};

/* The greatest; exp of what each is less, which is summed, and kept where the softmax will be; and
 * what becomes of each then. */
static void softmax_block(const struct softmax *s, struct row *row, float *out, const float *x,
                          int64_t n, int sweep)
{
    float terms[BLOCK];
    if (sweep == 0) {
        row->most = greater(row->most, s->v->most(x, n));
    } else if (sweep == 1) {
        s->v->exp_from(terms, x, row->most, n);
        s->v->add_sum(row->lanes, terms, n);
        for (int64_t i = 0; i < n && s->op == OP_softmax; i++)
            out[i * s->out_stride] = terms[i];
    } else if (s->op == OP_softmax) {
        const float sum = lanes_tree(row->lanes);
        for (int64_t i = 0; i < n; i++)
            out[i * s->out_stride] /= sum;
    } else {
        const float most = row->most, log_sum = scalar_log(lanes_tree(row->lanes));
        for (int64_t i = 0; i < n; i++)
            out[i * s->out_stride] = x[i] - most - log_sum;
    }
}

static void softmax_part(const struct softmax *s, struct row *row, float *out, const float *x,
                         const struct part *p)
{
    float block[BLOCK];
    if (p->from == 0 && p->sweep == 0) {
        row_begin(row, s->op);
        row->most = -INFINITY;
    }
    for (int64_t from = p->from, n; from < p->to; from += n) {
        const float *part = x + from * s->x_stride;
        n = p->to - from < BLOCK ? p->to - from : BLOCK;
        for (int64_t i = 0; i < n && s->x_stride != 1; i++)
            block[i] = part[i * s->x_stride];
        softmax_block(s, row, out + from * s->out_stride, s->x_stride == 1 ? part : block, n,
                      p->sweep);
    }
}

static void softmax_rows(const struct softmax *s, int64_t first, int n)
{
    struct row rows[NEIGHBOURS];
    const int last = s->x->view.rank - 1;
    for (int sweep = 0; sweep < part_sweeps(s->op); sweep++) {
        for (int64_t from = 0, to; from < s->n; from = to) {
            to = s->n - from < BLOCK ? s->n : from + BLOCK;
            for (int k = 0; k < n; k++)
                softmax_part(s, &rows[k], row_at(s->out, last, first + k),
                             row_at(s->x, last, first + k),
                             &(struct part){sweep, from, to, NULL});
        }
    }
}

static void softmax_task(void *context, int task, int thread)
{
    (void)thread;
    const struct softmax *s = context;
    const int last = s->x->view.rank - 1;
    const int64_t first = task * s->task_rows;
    const int64_t end = first + s->task_rows < s->n_rows ? first + s->task_rows : s->n_rows;
    const bool flat = s->op == OP_softmax && s->x_stride == 1 && s->out_stride == 1;
    for (int64_t i = first; i < end && flat; i++)
        s->v->softmax(row_at(s->out, last, i), row_at(s->x, last, i), s->n);
    for (int64_t i = first; i < end && !flat; i += NEIGHBOURS)
        softmax_rows(s, i, (int)(end - i < NEIGHBOURS ? end - i : NEIGHBOURS));
}

void cpu_softmax(struct device *d, enum op op, const struct tensor *out, const struct tensor *x,
                 const struct part *part)
{
    const int last = x->view.rank - 1;
    if (view_count(&x->view) == 0)
        return;
    struct softmax s = {.v = d->v, .op = op, .out = out, .x = x, .n = x->view.shape[last]};
    s.out_stride = out->view.stride[last];
    s.x_stride = x->view.stride[last];
    if (part) {
        softmax_part(&s, part->state, row_at(out, 0, 0), row_at(x, 0, 0), part);
        return;
    }
    s.n_rows = view_count(&x->view) / s.n;
    s.task_rows = rows_of_a_task(s.x_stride == 1 ? s.n * 8 : s.n / NEIGHBOURS);
    const int64_t n_tasks = (s.n_rows + s.task_rows - 1) / s.task_rows;
    pool_run(d->pool, (int)n_tasks, softmax_task, &s);
}

struct scan {
    enum op op;
    const struct tensor *out, *x;
    int64_t n, n_rows, task_rows;
};

#define SCAN(type, field, step)                                                                   \
    do {                                                                                          \
        const type *from = x;                                                                     \
        type *to = out;                                                                           \
        for (int64_t i = p->from; i < p->to; i++) {                                               \
            row->field = (step);                                                                  \
            to[i * out_stride] = (type)row->field;                                                \
        }                                                                                         \
    } while (0)

static void scan_part(const struct scan *s, struct row *row, void *out, const void *x,
                      const struct part *p)
{
    const int last = s->x->view.rank - 1;
    const int64_t x_stride = s->x->view.stride[last], out_stride = s->out->view.stride[last];
    if (p->from == 0)
        row_begin(row, s->op);
    if (s->x->dtype == DT_f32 && s->op == OP_cumsum)
        SCAN(float, sum, row->sum + (double)from[i * x_stride]);
    else if (s->x->dtype == DT_f32)
        SCAN(float, sum, row->sum * (double)from[i * x_stride]);
    else if (s->op == OP_cumsum)
        SCAN(int64_t, whole, wrap_add(row->whole, from[i * x_stride]));
    else
        SCAN(int64_t, whole, wrap_mul(row->whole, from[i * x_stride]));
}

static void scan_task(void *context, int task, int thread)
{
    (void)thread;
    const struct scan *s = context;
    const int last = s->x->view.rank - 1;
    const int64_t first = task * s->task_rows;
    const int64_t end = first + s->task_rows < s->n_rows ? first + s->task_rows : s->n_rows;
    for (int64_t i = first; i < end; i++) {
        struct row row;
        scan_part(s, &row, row_at(s->out, last, i), row_at(s->x, last, i),
                  &(struct part){0, 0, s->n, NULL});
    }
}

void cpu_scan(struct device *d, enum op op, const struct tensor *out, const struct tensor *x,
              const struct part *part)
{
    if (view_count(&x->view) == 0)
        return;
    struct scan s = {.op = op, .out = out, .x = x, .n = x->view.shape[x->view.rank - 1]};
    if (part) {
        scan_part(&s, part->state, row_at(out, 0, 0), row_at(x, 0, 0), part);
        return;
    }
    s.n_rows = view_count(&x->view) / s.n;
    s.task_rows = rows_of_a_task(s.n);
    pool_run(d->pool, (int)((s.n_rows + s.task_rows - 1) / s.task_rows), scan_task, &s);
}
