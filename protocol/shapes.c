#include "shapes.h"
#include <stdio.h>
#include <string.h>

typedef bool shape_fn(struct value *out, bool *is_new, const struct shape_query *q, struct err *e);

/* Declared from the table, so that the compiler names a rule that is missing. */
#define UNARY(id, types, f, i, b)
#define BINARY(id, types, f, i, b)
#define VIEW(id, params) static shape_fn shape_##id;
#define CALL(id, params) static shape_fn shape_##id;
#define EFFECT(id, params)
#include "ops.def"
#undef UNARY
#undef BINARY
#undef VIEW
#undef CALL

static shape_fn shape_elementwise;

#define UNARY(id, types, f, i, b) [OP_##id] = shape_elementwise,
#define BINARY(id, types, f, i, b) [OP_##id] = shape_elementwise,
#define VIEW(id, params) [OP_##id] = shape_##id,
#define CALL(id, params) [OP_##id] = shape_##id,
static shape_fn *const rules[OP_COUNT] = {
#include "ops.def"
};
#undef UNARY
#undef BINARY
#undef VIEW
#undef CALL
#undef EFFECT

bool node_refuse(struct err *e, const struct node *node, int arg, enum err_code code,
                 const char *format, ...)
{
    char text[sizeof e->text];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    err_set(e, code, "%s", text);
    if (arg < 0 || node->wire < 0) /* a shorthand has no arguments that a user could look up */
        err_at(e, node->wire, "%s", node->place);
    else
        err_at(e, node->wire, "%s.args[%d]", node->place, arg);
    return false;
}

static const char *op_name(const struct shape_query *q)
{
    return op_info[q->node->op].name;
}

bool shape_allowed(const struct node *node, enum dtype dtype, int rank, const int64_t *shape,
                   struct err *e)
{
    const char *op = op_info[node->op].name;
    if (rank > RANK_MAX)
        return node_refuse(e, node, -1, ERR_limit,
                           "%s makes a tensor of %d dimensions: the limit is %d", op, rank,
                           RANK_MAX);
    struct view v = {.rank = rank};
    int64_t sizes[RANK_MAX]; /* zeros count as ones: strides must not overflow either */
    for (int i = 0; i < rank; i++) {
        v.shape[i] = shape[i];
        sizes[i] = shape[i] ? shape[i] : 1;
    }
    int64_t count;
    if (!view_count_checked(&count, rank, sizes))
        return node_refuse(e, node, -1, ERR_limit,
                           "%s makes a tensor of shape %s, more elements than can be counted", op,
                           SHAPE_TEXT(&v));
    if (count > VALUE_BYTES_MAX / (int64_t)dtype_size(dtype))
        return node_refuse(e, node, -1, ERR_limit,
                           "%s makes a %s tensor of shape %s, %.3g bytes%s: the limit is %lld", op,
                           dtype_name(dtype), SHAPE_TEXT(&v),
                           (double)count * (double)dtype_size(dtype),
                           view_count(&v) ? "" : " with its zeros as ones",
                           (long long)VALUE_BYTES_MAX);
    return true;
}

static bool new_tensor(struct value *out, bool *is_new, const struct shape_query *q,
                       enum dtype dtype, int rank, const int64_t *shape, struct err *e)
{
    if (!shape_allowed(q->node, dtype, rank, shape, e))
        return false;
    *out = (struct value){.dtype = dtype, .view = view_of(rank, shape)};
    *is_new = true;
    return true;
}

bool shape_infer(struct value *out, bool *is_new, const struct shape_query *q, struct err *e)
{
    assert(rules[q->node->op]);
    *is_new = false;
    return rules[q->node->op](out, is_new, q, e);
}

/* Dimensions. */

static bool dim_in_range(int *dim, const struct shape_query *q, int arg, int64_t asked, int rank,
                         struct err *e)
{
    int n = rank ? rank : 1;
    if (asked < -n || asked >= n)
        return node_refuse(e, q->node, arg, ERR_index,
                           "%s: dimension %lld is out of range for %s, whose dimensions are %d to "
                           "%d",
                           op_name(q), (long long)asked, SHAPE_TEXT(&q->in[0]->view), -n, n - 1);
    *dim = (int)(asked < 0 ? asked + n : asked);
    return true;
}

bool shape_dim(int *dim, const struct shape_query *q, int arg, int rank, struct err *e)
{
    return dim_in_range(dim, q, arg, q->node->args[arg].integer, rank, e);
}

/* A parameter of kind `ints`, which may be one integer. */
static const int64_t *ints_of(int *count, const struct arg *a)
{
    *count = a->kind == ARG_ints ? a->count : a->kind == ARG_int;
    return a->kind == ARG_ints ? a->ints : &a->integer;
}

bool shape_dims(bool chosen[RANK_MAX], const struct shape_query *q, struct err *e)
{
    const int rank = q->in[0]->view.rank;
    int count;
    const int64_t *dims = ints_of(&count, &q->node->args[1]);
    for (int i = 0; i < RANK_MAX; i++)
        chosen[i] = count == 0 && i < rank;
    for (int i = 0; i < count; i++) {
        int dim = 0;
        if (!dim_in_range(&dim, q, 1, dims[i], rank, e))
            return false;
        if (chosen[dim])
            return node_refuse(e, q->node, 1, ERR_value, "%s: dimension %d appears twice in dim",
                               op_name(q), dim);
        chosen[dim] = true;
    }
    return true;
}

/* Elementwise ops. */

enum dtype shape_compute_dtype(const struct shape_query *q)
{
    const int first = q->node->op == OP_where; /* where's mask has no say */
    enum dtype dtype = q->in[first]->dtype;
    for (int i = first + 1; i < q->n_in; i++)
        dtype = dtype_promote(dtype, q->in[i]->dtype);
    const struct op_info *op = &op_info[q->node->op];
    bool real = (op->kind == OPK_unary || op->kind == OPK_binary) && op->types == TYPES_real;
    return real ? DT_f32 : dtype;
}

static bool broadcast_pair(int *rank, int64_t *shape, const struct shape_query *q,
                           const struct value *x, const struct value *y, struct err *e)
{
    if (shape_broadcast(rank, shape, &x->view, &y->view))
        return true;
    return node_refuse(e, q->node, q->n_in - 1, ERR_shape, "%s of %s and %s", op_name(q),
                       SHAPE_TEXT(&x->view), SHAPE_TEXT(&y->view));
}

/* What torch refuses of whole numbers, where the second is a number of the request. */
static bool number_fits(const struct shape_query *q, struct err *e)
{
    const struct arg *y = &q->node->args[1];
    const enum op op = q->node->op;
    if (y->kind != ARG_int)
        return true;
    if (op == OP_pow && y->integer < 0)
        return node_refuse(e, q->node, 1, ERR_value,
                           "pow of int64 to %lld: a negative power of an integer is none, convert "
                           "it with to(float32)",
                           (long long)y->integer);
    if ((op == OP_floor_divide || op == OP_remainder || op == OP_fmod) && y->integer == 0)
        return node_refuse(e, q->node, 1, ERR_value, "%s of int64 by 0", op_name(q));
    return true;
}

static bool shape_elementwise(struct value *out, bool *is_new, const struct shape_query *q,
                              struct err *e)
{
    const enum op_types types = op_info[q->node->op].types;
    const enum dtype dtype = shape_compute_dtype(q);
    const bool whole = types == TYPES_whole;
    if ((types == TYPES_number || whole) && dtype == DT_bool)
        return node_refuse(e, q->node, 0, ERR_type,
                           "%s of bool is not defined: convert it with to(int64), or use the "
                           "logical_ and bitwise_ ops",
                           op_name(q));
    if ((types == TYPES_bits || whole) && dtype == DT_f32) {
        int arg = q->in[0]->dtype == DT_f32 ? 0 : 1;
        return node_refuse(e, q->node, arg, ERR_type,
                           "%s of float32 is not defined: it takes int64%s", op_name(q),
                           whole ? "" : " and bool");
    }
    if (dtype == DT_i64 && !number_fits(q, e))
        return false;
    int rank = q->in[0]->view.rank;
    int64_t shape[RANK_MAX];
    memcpy(shape, q->in[0]->view.shape, sizeof shape);
    if (q->n_in == 2 && !broadcast_pair(&rank, shape, q, q->in[0], q->in[1], e))
        return false;
    return new_tensor(out, is_new, q, types == TYPES_compare ? DT_bool : dtype, rank, shape, e);
}

/* Views. */

static bool index_int(struct view *out, const struct view *v, int dim, const struct index *x,
                      const struct shape_query *q, struct err *e)
{
    const int64_t size = v->shape[dim];
    if (x->start < -size || x->start >= size)
        return node_refuse(e, q->node, 1, ERR_index,
                           "index %lld is out of range for dimension %d of size %lld",
                           (long long)x->start, dim, (long long)size);
    out->offset += (x->start < 0 ? x->start + size : x->start) * v->stride[dim];
    return true;
}

/* A slice's bound as Python clamps it. */
static int64_t clamp_bound(int64_t bound, int64_t size)
{
    if (bound < 0)
        bound += size;
    return bound < 0 ? 0 : bound > size ? size : bound;
}

static bool index_slice(struct view *out, const struct view *v, int dim, const struct index *x,
                        const struct shape_query *q, struct err *e)
{
    if (x->step < 1)
        return node_refuse(e, q->node, 1, ERR_value,
                           "a slice's step must be at least 1, as in torch: it is %lld",
                           (long long)x->step);
    const int64_t size = v->shape[dim];
    const int64_t start = x->has_start ? clamp_bound(x->start, size) : 0;
    const int64_t stop = x->has_stop ? clamp_bound(x->stop, size) : size;
    const int64_t count = stop > start ? (stop - start - 1) / x->step + 1 : 0;
    out->shape[out->rank] = count;
    /* A step past the end has no second element to reach, and must not overflow. */
    out->stride[out->rank++] = count > 1 ? v->stride[dim] * x->step : v->stride[dim];
    if (count > 0)
        out->offset += start * v->stride[dim];
    return true;
}

static void keep_dims(struct view *out, const struct view *v, int first, int count)
{
    for (int i = 0; i < count; i++) {
        out->shape[out->rank] = v->shape[first + i];
        out->stride[out->rank++] = v->stride[first + i];
    }
}

/* How many dimensions the index speaks of, and that the result has a rank that can be. */
static bool index_check(int *n_named, const struct shape_query *q, struct err *e)
{
    const struct arg *a = &q->node->args[1];
    const struct view *v = &q->in[0]->view;
    int of_kind[4] = {0};
    for (int i = 0; i < a->count; i++)
        of_kind[a->index[i].kind]++;
    if (of_kind[INDEX_ellipsis] > 1)
        return node_refuse(e, q->node, 1, ERR_index, "an index can have only one ellipsis (...)");
    *n_named = of_kind[INDEX_int] + of_kind[INDEX_slice];
    if (*n_named > v->rank)
        return node_refuse(e, q->node, 1, ERR_index,
                           "too many indices for %s: %d for %d dimensions", SHAPE_TEXT(v), *n_named,
                           v->rank);
    int rank = v->rank - of_kind[INDEX_int] + of_kind[INDEX_new_axis];
    if (rank > RANK_MAX)
        return node_refuse(e, q->node, 1, ERR_limit,
                           "getitem makes a tensor of %d dimensions: the limit is %d", rank,
                           RANK_MAX);
    return true;
}

static bool shape_getitem(struct value *out, bool *is_new, const struct shape_query *q,
                          struct err *e)
{
    (void)is_new;
    const struct arg *a = &q->node->args[1];
    const struct view *v = &q->in[0]->view;
    int n_named = 0;
    if (!index_check(&n_named, q, e))
        return false;
    *out = (struct value){.dtype = q->in[0]->dtype, .view.offset = v->offset};
    int dim = 0;
    for (int i = 0; i < a->count; i++) {
        const struct index *x = &a->index[i];
        switch (x->kind) {
        case INDEX_int:
            if (!index_int(&out->view, v, dim++, x, q, e))
                return false;
            break;
        case INDEX_slice:
            if (!index_slice(&out->view, v, dim++, x, q, e))
                return false;
            break;
        case INDEX_ellipsis:
            keep_dims(&out->view, v, dim, v->rank - n_named);
            dim += v->rank - n_named;
            break;
        case INDEX_new_axis:
            out->view.stride[out->view.rank] = 0;
            out->view.shape[out->view.rank++] = 1;
            break;
        }
    }
    keep_dims(&out->view, v, dim, v->rank - dim);
    return true;
}

static bool shape_transpose(struct value *out, bool *is_new, const struct shape_query *q,
                            struct err *e)
{
    (void)is_new;
    const struct view *v = &q->in[0]->view;
    int a = 0, b = 0;
    if (!shape_dim(&a, q, 1, v->rank, e) || !shape_dim(&b, q, 2, v->rank, e))
        return false;
    *out = *q->in[0];
    if (v->rank == 0)
        return true;
    out->view.shape[a] = v->shape[b];
    out->view.stride[a] = v->stride[b];
    out->view.shape[b] = v->shape[a];
    out->view.stride[b] = v->stride[a];
    return true;
}

static bool shape_permute(struct value *out, bool *is_new, const struct shape_query *q,
                          struct err *e)
{
    (void)is_new;
    const struct view *v = &q->in[0]->view;
    int count;
    const int64_t *dims = ints_of(&count, &q->node->args[1]);
    if (count != v->rank)
        return node_refuse(e, q->node, 1, ERR_shape,
                           "permute of %s needs each of its %d dimensions once: %d are given",
                           SHAPE_TEXT(v), v->rank, count);
    *out = (struct value){.dtype = q->in[0]->dtype, .view.offset = v->offset};
    bool taken[RANK_MAX] = {false};
    for (int i = 0; i < count; i++) {
        int dim = 0;
        if (!dim_in_range(&dim, q, 1, dims[i], v->rank, e))
            return false;
        if (taken[dim])
            return node_refuse(e, q->node, 1, ERR_value,
                               "permute: dimension %d appears twice in dims", dim);
        taken[dim] = true;
        keep_dims(&out->view, v, dim, 1);
    }
    return true;
}

/* Gives `out`, whose shape is set, strides that walk v in row-major order; false where none can. */
static bool reshape_strides(struct view *out, const struct view *v)
{
    int64_t size[RANK_MAX], stride[RANK_MAX]; /* v as few runs of evenly spaced elements */
    int n_runs = 0;
    for (int i = 0; i < v->rank; i++) {
        if (v->shape[i] == 1)
            continue;
        if (n_runs && stride[n_runs - 1] == v->stride[i] * v->shape[i])
            size[n_runs - 1] *= v->shape[i];
        else
            size[n_runs++] = v->shape[i];
        stride[n_runs - 1] = v->stride[i];
    }
    int64_t taken = 1;
    for (int i = out->rank - 1, run = n_runs - 1; i >= 0; i--) {
        if (out->shape[i] == 1) {
            out->stride[i] = i + 1 < out->rank ? out->stride[i + 1] * out->shape[i + 1] : 1;
            continue;
        }
        if (taken == size[run]) {
            run--;
            taken = 1;
        }
        out->stride[i] = taken * stride[run];
        taken *= out->shape[i];
        if (size[run] % taken != 0)
            return false;
    }
    return true;
}

/* A view where strides can say it, else a copy: as torch's reshape. The counts are equal. */
static bool reshape_to(struct value *out, bool *is_new, const struct shape_query *q, int rank,
                       const int64_t *shape, struct err *e)
{
    const struct value *x = q->in[0];
    if (!shape_allowed(q->node, x->dtype, rank, shape, e))
        return false;
    *out = (struct value){.dtype = x->dtype, .view = view_of(rank, shape)};
    out->view.offset = x->view.offset;
    if (view_count(&x->view) == 0 || reshape_strides(&out->view, &x->view))
        return true;
    return new_tensor(out, is_new, q, x->dtype, rank, shape, e);
}

static bool reshape_refuse(const struct shape_query *q, const struct view *shape, struct err *e)
{
    return node_refuse(e, q->node, 1, ERR_shape, "%s of %s, %lld elements, to %s", op_name(q),
                       SHAPE_TEXT(&q->in[0]->view), (long long)view_count(&q->in[0]->view),
                       SHAPE_TEXT(shape));
}

static bool shape_reshape(struct value *out, bool *is_new, const struct shape_query *q,
                          struct err *e)
{
    int rank, open = -1;
    const int64_t *asked = ints_of(&rank, &q->node->args[1]);
    if (rank > RANK_MAX)
        return shape_allowed(q->node, q->in[0]->dtype, rank, asked, e);
    struct view to = {.rank = rank};
    int64_t count = view_count(&q->in[0]->view), product = 1;
    bool known = true;
    for (int i = 0; i < rank; i++) {
        to.shape[i] = asked[i];
        if (asked[i] == -1 && open < 0)
            open = i;
        else if (asked[i] < 0)
            return node_refuse(e, q->node, 1, ERR_value,
                               "%s: %lld is not a size; one size may be -1, the others are 0 or "
                               "more",
                               op_name(q), (long long)asked[i]);
        else
            known = known && !__builtin_mul_overflow(product, asked[i], &product);
    }
    if (open >= 0 && product == 0)
        return node_refuse(e, q->node, 1, ERR_value,
                           "%s to %s: beside a size of 0, -1 could be anything", op_name(q),
                           SHAPE_TEXT(&to));
    if (!known || (open >= 0 ? count % product != 0 : count != product))
        return reshape_refuse(q, &to, e);
    if (open >= 0)
        to.shape[open] = count / product;
    return reshape_to(out, is_new, q, rank, to.shape, e);
}

static bool shape_view(struct value *out, bool *is_new, const struct shape_query *q, struct err *e)
{
    if (!shape_reshape(out, is_new, q, e))
        return false;
    if (!*is_new)
        return true;
    return node_refuse(e, q->node, 1, ERR_shape,
                       "view of %s as %s: no strides walk its elements in that order, use reshape, "
                       "which copies",
                       SHAPE_TEXT(&q->in[0]->view), SHAPE_TEXT(&out->view));
}

static bool shape_flatten(struct value *out, bool *is_new, const struct shape_query *q,
                          struct err *e)
{
    const struct view *v = &q->in[0]->view;
    int first = 0, last = v->rank ? v->rank - 1 : 0;
    if (q->node->args[1].kind != ARG_absent && !shape_dim(&first, q, 1, v->rank, e))
        return false;
    if (q->node->args[2].kind != ARG_absent && !shape_dim(&last, q, 2, v->rank, e))
        return false;
    if (first > last)
        return node_refuse(e, q->node, 2, ERR_value,
                           "flatten of %s: start_dim %d is behind end_dim %d", SHAPE_TEXT(v), first,
                           last);
    int64_t shape[RANK_MAX] = {1};
    int rank = 0;
    for (int i = 0; i < v->rank; i++) {
        if (i > first && i <= last)
            shape[rank - 1] *= v->shape[i];
        else
            shape[rank++] = v->shape[i];
    }
    return reshape_to(out, is_new, q, rank ? rank : 1, shape, e);
}

static bool shape_unsqueeze(struct value *out, bool *is_new, const struct shape_query *q,
                            struct err *e)
{
    (void)is_new;
    const struct view *v = &q->in[0]->view;
    int dim = 0;
    if (!shape_dim(&dim, q, 1, v->rank + 1, e))
        return false;
    if (v->rank == RANK_MAX)
        return node_refuse(e, q->node, -1, ERR_limit,
                           "unsqueeze makes a tensor of %d dimensions: the limit is %d",
                           RANK_MAX + 1, RANK_MAX);
    *out = (struct value){.dtype = q->in[0]->dtype, .view.offset = v->offset};
    keep_dims(&out->view, v, 0, dim);
    out->view.shape[out->view.rank++] = 1;
    keep_dims(&out->view, v, dim, v->rank - dim);
    return true;
}

static bool shape_squeeze(struct value *out, bool *is_new, const struct shape_query *q,
                          struct err *e)
{
    (void)is_new;
    const struct view *v = &q->in[0]->view;
    bool chosen[RANK_MAX];
    if (!shape_dims(chosen, q, e))
        return false;
    *out = (struct value){.dtype = q->in[0]->dtype, .view.offset = v->offset};
    for (int i = 0; i < v->rank; i++) {
        if (v->shape[i] != 1 || !chosen[i])
            keep_dims(&out->view, v, i, 1);
    }
    return true;
}

/* The parameter `arg`, a dimension that is `other` where it is absent. */
static bool dim_or(int *dim, const struct shape_query *q, int arg, int64_t other, struct err *e)
{
    const struct arg *a = &q->node->args[arg];
    const int64_t asked = a->kind == ARG_absent ? other : a->integer;
    return dim_in_range(dim, q, arg, asked, q->in[0]->view.rank, e);
}

/* One step along the diagonal is one along both dimensions. */
static bool shape_diagonal(struct value *out, bool *is_new, const struct shape_query *q,
                           struct err *e)
{
    (void)is_new;
    const struct view *v = &q->in[0]->view;
    const struct arg *given = &q->node->args[1];
    const int64_t offset = given->kind == ARG_absent ? 0 : given->integer;
    int a = 0, b = 0;
    if (!dim_or(&a, q, 2, 0, e) || !dim_or(&b, q, 3, 1, e))
        return false;
    if (a == b)
        return node_refuse(e, q->node, 3, ERR_value, "diagonal: dim1 and dim2 are both %d", a);
    const int64_t rows = v->shape[a], columns = v->shape[b]; /* less what lies before it */
    const int64_t high = offset < 0 ? (offset > -rows ? rows + offset : 0) : rows;
    const int64_t wide = offset > 0 ? (offset < columns ? columns - offset : 0) : columns;
    const int64_t count = high < wide ? high : wide;
    *out = (struct value){.dtype = q->in[0]->dtype, .view.offset = v->offset};
    for (int i = 0; i < v->rank; i++) {
        if (i != a && i != b)
            keep_dims(&out->view, v, i, 1);
    }
    out->view.shape[out->view.rank] = count;
    out->view.stride[out->view.rank++] = v->stride[a] + v->stride[b];
    if (count > 0)
        out->view.offset += offset < 0 ? -offset * v->stride[a] : offset * v->stride[b];
    return true;
}

/* Windows of `size` elements, `step` apart: they may overlap. */
static bool shape_unfold(struct value *out, bool *is_new, const struct shape_query *q,
                         struct err *e)
{
    (void)is_new;
    const struct view *v = &q->in[0]->view;
    const int64_t size = q->node->args[2].integer, step = q->node->args[3].integer;
    int dim = 0;
    if (!shape_dim(&dim, q, 1, v->rank, e))
        return false;
    const int64_t most = v->rank ? v->shape[dim] : 1;
    if (size < 0 || size > most)
        return node_refuse(e, q->node, 2, ERR_value,
                           "unfold: windows of %lld do not fit into dimension %d of %s",
                           (long long)size, dim, SHAPE_TEXT(v));
    if (step < 1)
        return node_refuse(e, q->node, 3, ERR_value, "unfold: step must be at least 1: it is %lld",
                           (long long)step);
    if (v->rank == RANK_MAX)
        return node_refuse(e, q->node, -1, ERR_limit,
                           "unfold makes a tensor of %d dimensions: the limit is %d", RANK_MAX + 1,
                           RANK_MAX);
    *out = *q->in[0];
    struct view *to = &out->view;
    to->shape[to->rank] = size;
    to->stride[to->rank++] = v->rank ? v->stride[dim] : 1;
    if (v->rank == 0)
        return true;
    to->shape[dim] = (most - size) / step + 1;
    to->stride[dim] *= to->shape[dim] > 1 ? step : 1; /* where there is no second, it may be far */
    return shape_allowed(q->node, out->dtype, to->rank, to->shape, e);
}

static bool shape_expand(struct value *out, bool *is_new, const struct shape_query *q,
                         struct err *e)
{
    (void)is_new;
    const struct view *v = &q->in[0]->view;
    int rank;
    const int64_t *asked = ints_of(&rank, &q->node->args[1]);
    if (rank > RANK_MAX)
        return shape_allowed(q->node, q->in[0]->dtype, rank, asked, e);
    struct view to = {.rank = rank};
    memcpy(to.shape, asked, sizeof *asked * (size_t)rank);
    const struct view shown = to;
    bool fits = rank >= v->rank;
    for (int i = 0; i < rank && fits; i++) {
        int own = i - (rank - v->rank);
        if (to.shape[i] == -1 && own >= 0)
            to.shape[i] = v->shape[own];
        fits = to.shape[i] >= 0;
    }
    *out = *q->in[0];
    if (!fits || !view_expand(&out->view, v, rank, to.shape))
        return node_refuse(e, q->node, 1, ERR_shape,
                           "expand of %s to %s: only dimensions of size 1 can grow, and new ones "
                           "come first",
                           SHAPE_TEXT(v), SHAPE_TEXT(&shown));
    return shape_allowed(q->node, out->dtype, rank, to.shape, e);
}

/* Calls. */

static bool shape_clone(struct value *out, bool *is_new, const struct shape_query *q, struct err *e)
{
    const struct value *x = q->in[0];
    return new_tensor(out, is_new, q, x->dtype, x->view.rank, x->view.shape, e);
}

/* As in torch, the dtype that a tensor has already gives the tensor itself. */
static bool shape_to(struct value *out, bool *is_new, const struct shape_query *q, struct err *e)
{
    const struct value *x = q->in[0];
    const enum dtype dtype = q->node->args[1].dtype;
    if (dtype != x->dtype)
        return new_tensor(out, is_new, q, dtype, x->view.rank, x->view.shape, e);
    *out = *x;
    return true;
}

static bool shape_where(struct value *out, bool *is_new, const struct shape_query *q, struct err *e)
{
    const struct value *mask = q->in[0];
    if (mask->dtype != DT_bool)
        return node_refuse(e, q->node, 0, ERR_type, "where needs a mask of bool: this is %s",
                           dtype_name(mask->dtype));
    struct value both = {.dtype = DT_f32};
    int rank;
    int64_t shape[RANK_MAX];
    if (!broadcast_pair(&both.view.rank, both.view.shape, q, q->in[1], q->in[2], e))
        return false;
    if (!shape_broadcast(&rank, shape, &mask->view, &both.view))
        return node_refuse(e, q->node, 0, ERR_shape, "where with a mask of %s over %s",
                           SHAPE_TEXT(&mask->view), SHAPE_TEXT(&both.view));
    return new_tensor(out, is_new, q, shape_compute_dtype(q), rank, shape, e);
}

/* Errors in a list name its element: the place is made here, as node_refuse has no room for it. */
static bool refuse_part(const struct shape_query *q, int part, const struct view *first,
                        const struct view *v, struct err *e)
{
    err_set(e, ERR_shape, "%s of %s and, at %d, %s", op_name(q), SHAPE_TEXT(first), part,
            SHAPE_TEXT(v));
    if (q->node->wire < 0)
        return err_at(e, -1, "%s", q->node->place);
    return err_at(e, q->node->wire, "%s.args[0][%d]", q->node->place, part);
}

static bool parts_exist(const struct shape_query *q, struct err *e)
{
    if (q->n_in > 0)
        return true;
    return node_refuse(e, q->node, 0, ERR_value, "%s of an empty list", op_name(q));
}

static bool shape_cat(struct value *out, bool *is_new, const struct shape_query *q, struct err *e)
{
    if (!parts_exist(q, e))
        return false;
    const struct view *first = &q->in[0]->view;
    if (first->rank == 0)
        return node_refuse(e, q->node, 0, ERR_shape, "cat of (): use stack to join scalars");
    int dim = 0;
    if (q->node->args[1].kind != ARG_absent && !shape_dim(&dim, q, 1, first->rank, e))
        return false;
    struct view to = *first;
    for (int i = 1; i < q->n_in; i++) {
        const struct view *v = &q->in[i]->view;
        struct view same = *v;
        same.shape[dim] = first->shape[dim];
        if (!view_same_shape(&same, first))
            return refuse_part(q, i, first, v, e);
        to.shape[dim] += v->shape[dim];
    }
    return new_tensor(out, is_new, q, shape_compute_dtype(q), to.rank, to.shape, e);
}

static bool shape_stack(struct value *out, bool *is_new, const struct shape_query *q, struct err *e)
{
    if (!parts_exist(q, e))
        return false;
    const struct view *first = &q->in[0]->view;
    int dim = 0;
    if (q->node->args[1].kind != ARG_absent && !shape_dim(&dim, q, 1, first->rank + 1, e))
        return false;
    for (int i = 1; i < q->n_in; i++) {
        if (!view_same_shape(&q->in[i]->view, first))
            return refuse_part(q, i, first, &q->in[i]->view, e);
    }
    int64_t shape[RANK_MAX + 1];
    for (int i = 0; i <= first->rank; i++)
        shape[i] = i < dim ? first->shape[i] : i == dim ? q->n_in : first->shape[i - 1];
    return new_tensor(out, is_new, q, shape_compute_dtype(q), first->rank + 1, shape, e);
}

static bool needs_float(const struct shape_query *q, int arg, struct err *e)
{
    if (q->in[arg]->dtype == DT_f32)
        return true;
    return node_refuse(e, q->node, arg, ERR_type,
                       "%s of %s is not defined: convert it with to(float32)", op_name(q),
                       dtype_name(q->in[arg]->dtype));
}

static bool reduce(struct value *out, bool *is_new, const struct shape_query *q, enum dtype dtype,
                   struct err *e)
{
    bool chosen[RANK_MAX];
    if (!shape_dims(chosen, q, e))
        return false;
    const struct view *v = &q->in[0]->view;
    const bool keep = q->node->args[2].kind == ARG_bool && q->node->args[2].boolean;
    int64_t shape[RANK_MAX];
    int rank = 0;
    for (int i = 0; i < v->rank; i++) {
        if (!chosen[i])
            shape[rank++] = v->shape[i];
        else if (keep)
            shape[rank++] = 1;
    }
    return new_tensor(out, is_new, q, dtype, rank, shape, e);
}

/* The reductions that have no answer for nothing. */
static bool reduce_some(struct value *out, bool *is_new, const struct shape_query *q,
                        enum dtype dtype, struct err *e)
{
    bool chosen[RANK_MAX];
    if (!shape_dims(chosen, q, e))
        return false;
    const struct view *v = &q->in[0]->view;
    for (int i = 0; i < v->rank; i++) {
        if (chosen[i] && v->shape[i] == 0)
            return node_refuse(e, q->node, 0, ERR_shape,
                               "%s of %s over dimension %d, which has no elements", op_name(q),
                               SHAPE_TEXT(v), i);
    }
    return reduce(out, is_new, q, dtype, e);
}

static bool shape_sum(struct value *out, bool *is_new, const struct shape_query *q, struct err *e)
{
    return reduce(out, is_new, q, dtype_promote(q->in[0]->dtype, DT_i64), e);
}

static bool shape_prod(struct value *out, bool *is_new, const struct shape_query *q, struct err *e)
{
    return shape_sum(out, is_new, q, e);
}

static bool shape_mean(struct value *out, bool *is_new, const struct shape_query *q, struct err *e)
{
    return needs_float(q, 0, e) && reduce(out, is_new, q, DT_f32, e);
}

static bool shape_norm(struct value *out, bool *is_new, const struct shape_query *q, struct err *e)
{
    return needs_float(q, 0, e) && reduce(out, is_new, q, DT_f32, e);
}

static bool shape_max(struct value *out, bool *is_new, const struct shape_query *q, struct err *e)
{
    return reduce_some(out, is_new, q, q->in[0]->dtype, e);
}

static bool shape_min(struct value *out, bool *is_new, const struct shape_query *q, struct err *e)
{
    return reduce_some(out, is_new, q, q->in[0]->dtype, e);
}

static bool shape_argmax(struct value *out, bool *is_new, const struct shape_query *q,
                         struct err *e)
{
    return reduce_some(out, is_new, q, DT_i64, e);
}

static bool shape_argmin(struct value *out, bool *is_new, const struct shape_query *q,
                         struct err *e)
{
    return reduce_some(out, is_new, q, DT_i64, e);
}

static bool shape_logsumexp(struct value *out, bool *is_new, const struct shape_query *q,
                            struct err *e)
{
    return reduce(out, is_new, q, DT_f32, e);
}

static bool shape_cumsum(struct value *out, bool *is_new, const struct shape_query *q,
                         struct err *e)
{
    const struct view *v = &q->in[0]->view;
    int dim = 0;
    return shape_dim(&dim, q, 1, v->rank, e) &&
           new_tensor(out, is_new, q, dtype_promote(q->in[0]->dtype, DT_i64), v->rank, v->shape, e);
}

static bool shape_cumprod(struct value *out, bool *is_new, const struct shape_query *q,
                          struct err *e)
{
    return shape_cumsum(out, is_new, q, e);
}

/* The k first of a dimension in order, of which an op gives the values or the places. */
static bool topk(struct value *out, bool *is_new, const struct shape_query *q, enum dtype dtype,
                 struct err *e)
{
    const struct view *v = &q->in[0]->view;
    const int64_t k = q->node->args[1].integer;
    int dim = v->rank ? v->rank - 1 : 0;
    if (q->in[0]->dtype == DT_bool)
        return node_refuse(e, q->node, 0, ERR_type,
                           "%s of bool is not defined: convert it with to(int64)", op_name(q));
    if (q->node->args[2].kind != ARG_absent && !shape_dim(&dim, q, 2, v->rank, e))
        return false;
    const int64_t least = v->rank == 0, most = v->rank ? v->shape[dim] : 1;
    if (k < least || k > most)
        return node_refuse(e, q->node, 1, ERR_value,
                           "%s: k is %lld, and dimension %d of %s gives %lld to %lld", op_name(q),
                           (long long)k, dim, SHAPE_TEXT(v), (long long)least, (long long)most);
    int64_t shape[RANK_MAX];
    memcpy(shape, v->shape, sizeof shape);
    shape[dim] = k;
    return new_tensor(out, is_new, q, dtype, v->rank, shape, e);
}

static bool shape_topk_values(struct value *out, bool *is_new, const struct shape_query *q,
                              struct err *e)
{
    return topk(out, is_new, q, q->in[0]->dtype, e);
}

static bool shape_topk_indices(struct value *out, bool *is_new, const struct shape_query *q,
                               struct err *e)
{
    return topk(out, is_new, q, DT_i64, e);
}

/* Operand k, the argument `arg`. */
static bool needs_index(const struct shape_query *q, int k, int arg, struct err *e)
{
    if (q->in[k]->dtype == DT_i64)
        return true;
    return node_refuse(e, q->node, arg, ERR_type, "%s needs an index of int64: this is %s",
                       op_name(q), dtype_name(q->in[k]->dtype));
}

static bool shape_wrap_index(struct value *out, bool *is_new, const struct shape_query *q,
                             struct err *e)
{
    const struct value *index = q->in[0];
    const int64_t size = q->node->args[1].integer;
    if (!needs_index(q, 0, 0, e))
        return false;
    if (size < 0 || size > VALUE_BYTES_MAX)
        return node_refuse(e, q->node, 1, ERR_value, "wrap_index: a dimension has no size %lld",
                           (long long)size);
    return new_tensor(out, is_new, q, DT_i64, index->view.rank, index->view.shape, e);
}

static bool shape_gather(struct value *out, bool *is_new, const struct shape_query *q,
                         struct err *e)
{
    const struct view *x = &q->in[0]->view, *index = &q->in[1]->view;
    int dim = 0;
    if (!needs_index(q, 1, 2, e) || !shape_dim(&dim, q, 1, x->rank, e))
        return false;
    bool fits = x->rank == index->rank;
    for (int i = 0; i < x->rank && fits; i++)
        fits = i == dim || index->shape[i] <= x->shape[i];
    if (!fits)
        return node_refuse(e, q->node, 2, ERR_shape,
                           "gather of %s with an index of %s: both have as many dimensions, and "
                           "the index is no larger but in dimension %d",
                           SHAPE_TEXT(x), SHAPE_TEXT(index), dim);
    return new_tensor(out, is_new, q, q->in[0]->dtype, index->rank, index->shape, e);
}

/* A source of one element without dimensions goes to all places. */
static bool shape_scatter(struct value *out, bool *is_new, const struct shape_query *q,
                          struct err *e)
{
    const struct value *src = q->in[2];
    const struct view *x = &q->in[0]->view, *index = &q->in[1]->view;
    int dim = 0;
    if (!needs_index(q, 1, 2, e) || !shape_dim(&dim, q, 1, x->rank, e))
        return false;
    if (src->view.rank ? src->dtype != q->in[0]->dtype
                       : dtype_promote(src->dtype, q->in[0]->dtype) != q->in[0]->dtype)
        return node_refuse(e, q->node, 3, ERR_type, "%s of %s into %s: convert it with to()",
                           op_name(q), dtype_name(src->dtype), dtype_name(q->in[0]->dtype));
    bool fits = x->rank == index->rank && (x->rank == src->view.rank || src->view.rank == 0);
    for (int i = 0; i < x->rank && fits; i++)
        fits = (i == dim || index->shape[i] <= x->shape[i]) &&
               (src->view.rank == 0 || index->shape[i] <= src->view.shape[i]);
    if (!fits)
        return node_refuse(e, q->node, 2, ERR_shape,
                           "%s of %s into %s with an index of %s: all have as many dimensions, and "
                           "the index is no larger but in dimension %d of the target",
                           op_name(q), SHAPE_TEXT(&src->view), SHAPE_TEXT(x), SHAPE_TEXT(index),
                           dim);
    return new_tensor(out, is_new, q, q->in[0]->dtype, x->rank, x->shape, e);
}

static bool shape_scatter_add(struct value *out, bool *is_new, const struct shape_query *q,
                              struct err *e)
{
    return shape_scatter(out, is_new, q, e);
}

static bool shape_index_select(struct value *out, bool *is_new, const struct shape_query *q,
                               struct err *e)
{
    const struct view *x = &q->in[0]->view, *index = &q->in[1]->view;
    int dim = 0;
    if (!needs_index(q, 1, 2, e) || !shape_dim(&dim, q, 1, x->rank, e))
        return false;
    if (index->rank > 1 || (x->rank == 0 && view_count(index) != 1))
        return node_refuse(e, q->node, 2, ERR_shape,
                           "index_select of %s with an index of %s: it takes one dimension%s",
                           SHAPE_TEXT(x), SHAPE_TEXT(index), x->rank ? "" : ", of one element");
    int64_t shape[RANK_MAX];
    memcpy(shape, x->shape, sizeof shape);
    shape[dim] = view_count(index);
    return new_tensor(out, is_new, q, q->in[0]->dtype, x->rank, shape, e);
}

static bool shape_softmax(struct value *out, bool *is_new, const struct shape_query *q,
                          struct err *e)
{
    const struct view *v = &q->in[0]->view;
    int dim = 0;
    return needs_float(q, 0, e) && shape_dim(&dim, q, 1, v->rank, e) &&
           new_tensor(out, is_new, q, DT_f32, v->rank, v->shape, e);
}

static bool shape_log_softmax(struct value *out, bool *is_new, const struct shape_query *q,
                              struct err *e)
{
    return shape_softmax(out, is_new, q, e);
}

static bool shape_matmul(struct value *out, bool *is_new, const struct shape_query *q,
                         struct err *e)
{
    if (!needs_float(q, 0, e) || !needs_float(q, 1, e))
        return false;
    const struct view x = q->in[0]->view, y = q->in[1]->view;
    const int row = x.rank - 1;                     /* of x, where K is */
    const int column = y.rank > 1 ? y.rank - 2 : 0; /* of y, where K is */
    struct view x_batch = x, y_batch = y;
    x_batch.rank = x.rank > 2 ? x.rank - 2 : 0;
    y_batch.rank = y.rank > 2 ? y.rank - 2 : 0;
    int rank;
    int64_t shape[RANK_MAX + 2];
    if (x.rank == 0 || y.rank == 0 || x.shape[row] != y.shape[column] ||
        !shape_broadcast(&rank, shape, &x_batch, &y_batch))
        return node_refuse(e, q->node, 1, ERR_shape, "matmul of %s and %s", SHAPE_TEXT(&x),
                           SHAPE_TEXT(&y));
    if (x.rank > 1)
        shape[rank++] = x.shape[x.rank - 2];
    if (y.rank > 1)
        shape[rank++] = y.shape[y.rank - 1];
    return new_tensor(out, is_new, q, DT_f32, rank, shape, e);
}

static bool shape_apply(struct value *out, bool *is_new, const struct shape_query *q, struct err *e)
{
    const struct module_at *at = &q->node->module;
    const struct view *v = &q->in[0]->view;
    const int64_t n_in = module_in(at->is, q->model);
    char path[SITE_TEXT_SIZE];
    path_text(path, at->is->path, at->block);
    if (q->in[0]->dtype != DT_f32)
        return node_refuse(e, q->node, 0, ERR_type,
                           "%s of %s is not defined: convert it with to(float32)", path,
                           dtype_name(q->in[0]->dtype));
    if (v->rank == 0 || v->shape[v->rank - 1] != n_in)
        return node_refuse(e, q->node, 0, ERR_shape,
                           "%s of %s: the last dimension must be %lld", path, SHAPE_TEXT(v),
                           (long long)n_in);
    int64_t shape[RANK_MAX];
    memcpy(shape, v->shape, sizeof shape);
    shape[v->rank - 1] = module_out(at->is, q->model);
    return new_tensor(out, is_new, q, DT_f32, v->rank, shape, e);
}
