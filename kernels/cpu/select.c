/* Elements by their places along the last dimension: where the first k are, and what is there. */
#include "../scalar.h"
#include "cpu.h"

enum {
    DIGITS = 256,
    SHORT_RUN = 24,   /* so few entries are sorted by putting each where it belongs */
    HEAP_PART = 32,   /* a heap is worth it for up to this part of a row, */
    SINKS_PART = 8,   /* and while no more than this part of the row goes through it */
};

/* The row being chosen from, and the places chosen so far. */
struct choice {
    const void *x;
    int64_t x_stride;
    int64_t *places;
    int64_t stride, count;
    bool largest, is_float;
};

/* Who has the smaller one comes first. Equal floats are equal, and a NaN is greater than all. */
static inline uint64_t order_at(const struct choice *c, int64_t i)
{
    if (!c->is_float) {
        const uint64_t whole = (uint64_t)((const int64_t *)c->x)[i * c->x_stride];
        const uint64_t order = whole ^ UINT64_C(1) << 63;
        return c->largest ? ~order : order;
    }
    const float x = ((const float *)c->x)[i * c->x_stride];
    const uint32_t bits = scalar_bits(x), sign = UINT32_C(1) << 31;
    const uint32_t size = bits & ~sign, negative = -(bits >> 31); /* all bits, or none */
    const uint32_t order = x != x ? UINT32_MAX : sign + (size ^ negative) - negative;
    return c->largest ? ~order : order;
}

static inline bool is_behind(const struct choice *c, int64_t i, int64_t j)
{
    const uint64_t a = order_at(c, i), b = order_at(c, j);
    return a == b ? i > j : a > b;
}

/* In a heap each place is behind its children, so that the root is the one to go next. */
static void sink(struct choice *c, int64_t place)
{
    int64_t hole = 0;
    for (int64_t child; (child = 2 * hole + 1) < c->count; hole = child) {
        const int64_t right = child + 1;
        if (right < c->count &&
            is_behind(c, c->places[right * c->stride], c->places[child * c->stride]))
            child = right;
        if (is_behind(c, place, c->places[child * c->stride]))
            break;
        c->places[hole * c->stride] = c->places[child * c->stride];
    }
    c->places[hole * c->stride] = place;
}

static void rise(struct choice *c, int64_t place)
{
    int64_t hole = c->count++;
    for (int64_t parent; hole > 0; hole = parent) {
        parent = (hole - 1) / 2;
        if (is_behind(c, c->places[parent * c->stride], place))
            break;
        c->places[hole * c->stride] = c->places[parent * c->stride];
    }
    c->places[hole * c->stride] = place;
}

/* Later places lose against equals, so that one comparison settles almost every element. False
 * where so many come in front of the last that it would take long. */
static bool choose_by_heap(struct choice *c, int64_t n, int64_t k)
{
    const struct choice row = *c; /* which does not change with the heap */
    int64_t n_sinks = n / SINKS_PART;
    for (int64_t i = 0; i < k; i++)
        rise(c, i);
    uint64_t last = order_at(c, c->places[0]);
    for (int64_t i = k; i < n; i++) {
        if (order_at(&row, i) >= last)
            continue;
        if (n_sinks-- == 0)
            return false;
        sink(c, i);
        last = order_at(c, c->places[0]);
    }
    return true;
}

/* The order of the k-th, digit by digit from the highest, and how many of that order are among the
 * first k: those in front, of equals. */
static uint64_t last_order(const struct choice *c, int64_t n, int64_t k, int64_t *n_equal)
{
    uint64_t digits = 0;
    for (int shift = c->is_float ? 24 : 56; shift >= 0; shift -= 8) {
        int64_t counts[DIGITS] = {0};
        for (int64_t i = 0; i < n; i++) {
            const uint64_t own = order_at(c, i) >> shift;
            counts[own % DIGITS] += own / DIGITS == digits;
        }
        uint64_t digit = 0;
        for (; counts[digit] < k; digit++)
            k -= counts[digit];
        digits = digits * DIGITS + digit;
    }
    *n_equal = k;
    return digits;
}

static void choose_by_digits(struct choice *c, int64_t n, int64_t k)
{
    int64_t n_equal;
    const uint64_t last = last_order(c, n, k, &n_equal);
    c->count = 0;
    for (int64_t i = 0; c->count < k; i++) {
        const uint64_t order = order_at(c, i);
        if (order < last || (order == last && n_equal-- > 0))
            c->places[c->count++ * c->stride] = i;
    }
}

/* What is sorted: a half of the order above the place, as one number of which no two are equal. */
static void entries_make(const struct choice *c, int64_t first, int64_t end, int shift)
{
    for (int64_t i = first; i < end; i++) {
        int64_t *const at = &c->places[i * c->stride], place = *at & UINT32_MAX;
        *at = (int64_t)(order_at(c, place) >> shift << 32 | (uint64_t)place);
    }
}

static inline uint64_t entry_at(const struct choice *c, int64_t i)
{
    return (uint64_t)c->places[i * c->stride];
}

static void sort_short(const struct choice *c, int64_t first, int64_t end)
{
    for (int64_t i = first + 1; i < end; i++) {
        const uint64_t entry = entry_at(c, i);
        int64_t hole = i;
        for (; hole > first && entry_at(c, hole - 1) > entry; hole--)
            c->places[hole * c->stride] = c->places[(hole - 1) * c->stride];
        c->places[hole * c->stride] = (int64_t)entry;
    }
}

/* Moves each entry to where those of its digit are, in cycles. Those of digit i lie from next[i],
 * which moves there, to ends[i]. */
static void deal(const struct choice *c, int64_t *next, const int64_t *ends, int shift)
{
    for (int i = 0; i < DIGITS; i++) {
        while (next[i] < ends[i]) {
            uint64_t entry = entry_at(c, next[i]);
            for (int digit; (digit = (int)(entry >> shift & (DIGITS - 1))) != i;) {
                const int64_t to = next[digit]++;
                const uint64_t there = entry_at(c, to);
                c->places[to * c->stride] = (int64_t)entry;
                entry = there;
            }
            c->places[next[i]++ * c->stride] = (int64_t)entry;
        }
    }
}

/* In place, by the digit at `shift` and those below. */
static void sort_entries(const struct choice *c, int64_t first, int64_t end, int shift)
{
    if (end - first <= SHORT_RUN) {
        sort_short(c, first, end);
        return;
    }
    int64_t next[DIGITS], ends[DIGITS] = {0};
    for (int64_t i = first; i < end; i++)
        ends[entry_at(c, i) >> shift & (DIGITS - 1)]++;
    for (int i = 0; i < DIGITS; i++) {
        next[i] = i > 0 ? ends[i - 1] : first;
        ends[i] += next[i];
    }
    deal(c, next, ends, shift);
    for (int i = 0; i < DIGITS; i++) {
        const int64_t from = i > 0 ? ends[i - 1] : first;
        if (ends[i] - from > 1)
            sort_entries(c, from, ends[i], shift - 8);
    }
}

/* Whose upper halves are equal, by the lower ones. */
static void sort_lower_halves(const struct choice *c, int64_t k)
{
    for (int64_t first = 0, end; first < k; first = end) {
        const uint64_t half = entry_at(c, first) >> 32;
        for (end = first + 1; end < k && entry_at(c, end) >> 32 == half; end++)
            continue;
        if (end - first == 1)
            continue;
        entries_make(c, first, end, 0);
        sort_entries(c, first, end, 56);
    }
}

static void choose(struct choice *c, int64_t n, int64_t k)
{
    if (k == n) {
        for (; c->count < n; c->count++)
            c->places[c->count * c->stride] = c->count;
    } else if (k > n / HEAP_PART || !choose_by_heap(c, n, k)) {
        choose_by_digits(c, n, k);
    }
    entries_make(c, 0, k, c->is_float ? 0 : 32);
    sort_entries(c, 0, k, 56);
    if (!c->is_float)
        sort_lower_halves(c, k);
    for (int64_t i = 0; i < k; i++)
        c->places[i * c->stride] &= UINT32_MAX;
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
        const int64_t at = element_at(&t->x->view, last, i);
        struct choice c = {.x = (const char *)t->x->data + at * (int64_t)dtype_size(t->x->dtype),
                           .x_stride = t->x->view.stride[last],
                           .places = (int64_t *)t->out->data + element_at(&t->out->view, last, i),
                           .stride = t->out->view.stride[last],
                           .largest = t->largest,
                           .is_float = t->x->dtype == DT_f32};
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
