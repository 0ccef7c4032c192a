/* copy, unary, binary, where: any strides, one stretch of the last dimension at a time. */
#include "../scalar.h"
#include "cpu.h"

enum { STRETCH = 16384 }; /* elements that are worth a task */

struct walk {
    row_fn *row;
    int n; /* tensors */
    int rank;
    int64_t shape[RANK_MAX];
    int64_t stride[4][RANK_MAX];
    char *data[4];
    int64_t size[4];   /* of an element */
    int64_t n_rows;    /* all but the last dimension */
    int64_t pieces;    /* of a row, each a stretch, or 1 */
    int64_t task_rows; /* rows of a task, where rows are not cut into pieces */
};

/* Drops dimensions of one element and joins those that all tensors step through evenly. */
static void walk_init(struct walk *w, const struct tensor *const *tensors, int n_tensors)
{
    w->n = n_tensors;
    w->rank = 0;
    for (int i = 0; i < n_tensors; i++) {
        w->size[i] = (int64_t)dtype_size(tensors[i]->dtype);
        w->data[i] = (char *)tensors[i]->data + tensors[i]->view.offset * w->size[i];
    }
    const struct view *shape = &tensors[0]->view;
    for (int j = 0; j < shape->rank; j++) {
        if (shape->shape[j] == 1)
            continue;
        bool joins = w->rank > 0;
        for (int i = 0; i < n_tensors && joins; i++)
            joins = w->stride[i][w->rank - 1] == tensors[i]->view.stride[j] * shape->shape[j];
        if (!joins)
            w->shape[w->rank++] = 1;
        w->shape[w->rank - 1] *= shape->shape[j];
        for (int i = 0; i < n_tensors; i++)
            w->stride[i][w->rank - 1] = tensors[i]->view.stride[j];
    }
    if (w->rank == 0) {
        w->shape[w->rank++] = 1;
        for (int i = 0; i < n_tensors; i++)
            w->stride[i][0] = 1;
    }
}

/* The rows first .. first + n_rows - 1, of each the elements from `from` on. */
static void walk_rows(const struct walk *w, int64_t first, int64_t n_rows, int64_t from,
                      int64_t count)
{
    const int last = w->rank - 1;
    int64_t index[RANK_MAX] = {0}, at[4] = {0}, stride[4];
    for (int j = last - 1; j >= 0; j--) {
        index[j] = first % w->shape[j];
        first /= w->shape[j];
    }
    for (int i = 0; i < w->n; i++) {
        stride[i] = w->stride[i][last];
        at[i] = from * stride[i];
        for (int j = 0; j < last; j++)
            at[i] += index[j] * w->stride[i][j];
    }
    for (;;) {
        void *p[4];
        for (int i = 0; i < w->n; i++)
            p[i] = w->data[i] + at[i] * w->size[i];
        w->row(p, stride, count);
        if (--n_rows == 0)
            return;
        for (int j = last - 1; j >= 0; j--) {
            const bool carries = ++index[j] == w->shape[j];
            for (int i = 0; i < w->n; i++)
                at[i] += w->stride[i][j] * (carries ? 1 - w->shape[j] : 1);
            if (!carries)
                break;
            index[j] = 0;
        }
    }
}

static void walk_task(void *context, int task, int thread)
{
    (void)thread;
    const struct walk *w = context;
    const int64_t length = w->shape[w->rank - 1];
    if (w->pieces > 1) {
        const int64_t from = task % w->pieces * STRETCH;
        const int64_t left = length - from;
        walk_rows(w, task / w->pieces, 1, from, left < STRETCH ? left : STRETCH);
    } else {
        const int64_t first = task * w->task_rows;
        const int64_t left = w->n_rows - first;
        walk_rows(w, first, left < w->task_rows ? left : w->task_rows, 0, length);
    }
}

void walk(struct device *d, row_fn *row, const struct tensor *const *tensors, int n_tensors)
{
    if (view_count(&tensors[0]->view) == 0)
        return;
    struct walk w;
    walk_init(&w, tensors, n_tensors);
    w.row = row;
    w.n_rows = 1;
    for (int j = 0; j < w.rank - 1; j++)
        w.n_rows *= w.shape[j];
    const int64_t length = w.shape[w.rank - 1];
    w.pieces = length >= 2 * STRETCH ? (length + STRETCH - 1) / STRETCH : 1;
    w.task_rows = length < STRETCH ? STRETCH / length : 1;
    const int64_t n_tasks = w.pieces > 1 ? w.n_rows * w.pieces
                                         : (w.n_rows + w.task_rows - 1) / w.task_rows;
    pool_run(d->pool, (int)n_tasks, walk_task, &w);
}

/* One output from one input, x. */
#define UNARY_ROW(name, to, from, expression)                                                     \
    static void name(void *const *p, const int64_t *stride, int64_t n)                            \
    {                                                                                             \
        to *out = p[0];                                                                           \
        const from *in = p[1];                                                                    \
        for (int64_t i = 0; i < n; i++) {                                                         \
            const from x = in[i * stride[1]];                                                     \
            (void)x;                                                                              \
            out[i * stride[0]] = (expression);                                                    \
        }                                                                                         \
    }

/* Conversions, as torch's `to`: towards zero from a float, != 0 to a bool. */
UNARY_ROW(f32_to_i64, int64_t, float, whole_from_float(x))
UNARY_ROW(f32_to_bool, uint8_t, float, x != 0)
UNARY_ROW(i64_to_f32, float, int64_t, (float)x)
UNARY_ROW(i64_to_bool, uint8_t, int64_t, x != 0)
UNARY_ROW(bool_to_f32, float, uint8_t, x)
UNARY_ROW(bool_to_i64, int64_t, uint8_t, x)

/* The same dtype: bytes, a whole stretch at once where it is one. */
#define COPY(name, type)                                                                          \
    static void name(void *const *p, const int64_t *stride, int64_t n)                            \
    {                                                                                             \
        type *out = p[0];                                                                         \
        const type *in = p[1];                                                                    \
        if (stride[0] == 1 && stride[1] == 1)                                                     \
            memcpy(out, in, sizeof *out * (size_t)n);                                             \
        else                                                                                      \
            for (int64_t i = 0; i < n; i++)                                                       \
                out[i * stride[0]] = in[i * stride[1]];                                           \
    }
COPY(f32_to_f32, float)
COPY(i64_to_i64, int64_t)
COPY(bool_to_bool, uint8_t)

row_fn *copy_row(enum dtype to, enum dtype from)
{
    static row_fn *const rows[DT_COUNT][DT_COUNT] = {
        [DT_f32] = {f32_to_f32, i64_to_f32, bool_to_f32},
        [DT_i64] = {f32_to_i64, i64_to_i64, bool_to_i64},
        [DT_bool] = {f32_to_bool, i64_to_bool, bool_to_bool},
    };
    return rows[to][from];
}

void cpu_copy(struct device *d, const struct tensor *out, const struct tensor *x)
{
    walk(d, copy_row(out->dtype, x->dtype), (const struct tensor *const[]){out, x}, 2);
}

/* The ops of int64 and bool. Those of float32 are in vector.inc. */
typedef int64_t i64_same, i64_number, i64_real, i64_bits, i64_whole;
typedef uint8_t i64_compare, bool_same, bool_number, bool_real, bool_bits, bool_whole,
    bool_compare;

#define VIEW(id, ...)
#define CALL(id, ...)
#define EFFECT(id, ...)

#define BINARY_ROW(name, to, from, expression)                                                    \
    static void name(void *const *p, const int64_t *stride, int64_t n)                            \
    {                                                                                             \
        to *out = p[0];                                                                           \
        const from *in = p[1], *in2 = p[2];                                                       \
        for (int64_t i = 0; i < n; i++) {                                                         \
            const from x = in[i * stride[1]], y = in2[i * stride[2]];                             \
            (void)x, (void)y;                                                                     \
            out[i * stride[0]] = (expression);                                                    \
        }                                                                                         \
    }
#define UNARY(id, types, f, i, b)            \
    UNARY_ROW(i64_##id, i64_##types, int64_t, i) \
    UNARY_ROW(bool_##id, bool_##types, uint8_t, (b) != 0)
#define BINARY(id, types, f, i, b)            \
    BINARY_ROW(i64_##id, i64_##types, int64_t, i) \
    BINARY_ROW(bool_##id, bool_##types, uint8_t, (b) != 0)
#include "../../protocol/ops.def"
#undef UNARY
#undef BINARY

static row_fn *const i64_rows[OP_COUNT] = {
#define UNARY(id, types, f, i, b)  [OP_##id] = i64_##id,
#define BINARY(id, types, f, i, b) [OP_##id] = i64_##id,
#include "../../protocol/ops.def"
#undef UNARY
#undef BINARY
};

static row_fn *const bool_rows[OP_COUNT] = {
#define UNARY(id, types, f, i, b)  [OP_##id] = bool_##id,
#define BINARY(id, types, f, i, b) [OP_##id] = bool_##id,
#include "../../protocol/ops.def"
#undef UNARY
#undef BINARY
};
#undef VIEW
#undef CALL
#undef EFFECT

void cpu_unary(struct device *d, enum op op, const struct tensor *out, const struct tensor *x)
{
    row_fn *row = x->dtype == DT_f32   ? d->v->unary[op]
                  : x->dtype == DT_i64 ? i64_rows[op]
                                       : bool_rows[op];
    walk(d, row, (const struct tensor *const[]){out, x}, 2);
}

void cpu_binary(struct device *d, enum op op, const struct tensor *out, const struct tensor *x,
                const struct tensor *y)
{
    row_fn *row = x->dtype == DT_f32   ? d->v->binary[op]
                  : x->dtype == DT_i64 ? i64_rows[op]
                                       : bool_rows[op];
    walk(d, row, (const struct tensor *const[]){out, x, y}, 3);
}

#define WHERE(name, type)                                                                         \
    static void name(void *const *p, const int64_t *stride, int64_t n)                            \
    {                                                                                             \
        type *out = p[0];                                                                         \
        const uint8_t *mask = p[1];                                                               \
        const type *x = p[2], *y = p[3];                                                          \
        for (int64_t i = 0; i < n; i++)                                                           \
            out[i * stride[0]] = mask[i * stride[1]] ? x[i * stride[2]] : y[i * stride[3]];       \
    }
WHERE(where_f32, float)
WHERE(where_i64, int64_t)
WHERE(where_bool, uint8_t)

void cpu_where(struct device *d, const struct tensor *out, const struct tensor *mask,
               const struct tensor *x, const struct tensor *y)
{
    row_fn *const rows[DT_COUNT] = {where_f32, where_i64, where_bool};
    walk(d, rows[out->dtype], (const struct tensor *const[]){out, mask, x, y}, 4);
}
