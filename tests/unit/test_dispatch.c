/* Plans run by server/dispatch.c beside the same graphs run as Python would run them: one node
 * after the other, every activation there from the start. Thousands of random graphs. */
#include <setjmp.h>
#include <stdio.h>
#include <cmocka.h>

#include "../../protocol/shapes.h"
#include "../../server/dispatch.h"
#include "../tiny_graph.h"

enum {
    ROOTS_MAX = 64,
    EAGER_MAX = 64,
    COUNT_MAX = 1500,
    BEFORE = 3,
    BEHIND = 2
};

static uint64_t seed, current; /* SEED=<current> runs that one alone */
static struct tiny_graph t;
static struct gpt2 model;

static int64_t pick(int64_t n)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (int64_t)((seed >> 33) % (uint64_t)n);
}

/* A parameter as a row-major matrix on the host. */
static float *parameter_of(struct arena *a, enum parameter p, int block)
{
    const struct view v = parameter_matrix(p, &tiny_model);
    const int64_t n = view_count(&v);
    float *matrix = ARENA_ARRAY(a, float, n);
    for (int64_t i = 0; i < n; i++)
        matrix[i] = (float)((i * 7 + p * 31 + block * 17) % 29 - 14) / 16;
    return matrix;
}

static struct weight *packed_new(enum parameter p, int block)
{
    const struct view v = parameter_matrix(p, &tiny_model);
    struct weight *w;
    struct err e = {0};
    assert_true(model.be->weight_pack(model.device, &w, parameter_of(&model.arena, p, block),
                                      LAYOUT_kn, (int)v.shape[0], (int)v.shape[1], &e));
    return w;
}

static void *array_new(enum parameter p, int block)
{
    const struct view v = parameter_matrix(p, &tiny_model);
    const size_t size = sizeof(float) * (size_t)view_count(&v);
    void *array;
    struct err e = {0};
    assert_true(model.be->alloc(model.device, &array, size, &e));
    model.be->upload(model.device, array, parameter_of(&model.arena, p, block), size);
    return array;
}

static void make_parameters(void)
{
    model.blocks = ARENA_ARRAY(&model.arena, struct gpt2_block, tiny_model.n_blocks);
#define ONCE(id, memory, rows, columns) model.id = memory##_new(PARAMETER_##id, 0);
#define EACH(id, memory, rows, columns)          \
    for (int i = 0; i < tiny_model.n_blocks; i++) \
        model.blocks[i].id = memory##_new(PARAMETER_##id, i);
#define NAME(id, path, shape)
#include "../../protocol/parameters.def"
#undef ONCE
#undef EACH
#undef NAME
}

static void free_parameters(void)
{
    for (int p = 0; p < PARAMETER_COUNT; p++) {
        const struct view v = parameter_matrix((enum parameter)p, &tiny_model);
        for (int i = 0; i < (parameter_info[p].each ? tiny_model.n_blocks : 1); i++) {
            void *there = gpt2_parameter(&model, (enum parameter)p, i);
            if (parameter_info[p].is_packed)
                model.be->weight_free(model.device, there);
            else
                model.be->release(model.device, there, sizeof(float) * (size_t)view_count(&v));
        }
    }
}

static int set_up(void **state)
{
    (void)state;
    const struct backend *be = &backend_cpu;
    struct err e = {0};
    const int D = tiny_model.width;
    model = (struct gpt2){.be = be, .shape = tiny_model, .rows_max = {4, 4}};
    const struct device_options o = {
        1, "auto", "f32", 4, tiny_model.inner, tiny_model.context, 2, 0, NULL};
    assert_true(be->open(&model.device, &o, &e));
    make_parameters();
    assert_true(be->cache_open(model.device, &model.cache, 8, tiny_model.n_blocks,
                               tiny_model.n_heads, D / tiny_model.n_heads, &e));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    model.be->cache_close(model.device, model.cache);
    free_parameters();
    model.be->close(model.device);
    arena_free(&model.arena);
    return 0;
}

/* What the model would have at a place: a small number that no other place has. */
static void cell(void *to, enum dtype dtype, int site, int step, int invoke, int64_t row,
                 int64_t column)
{
    const int64_t hash = (site * 131 + step * 37 + invoke * 17 + row * 29 + column * 7) % 1009;
    if (dtype == DT_i64)
        *(int64_t *)to = hash % 11;
    else
        *(float *)to = (float)(hash - 500) / 64;
}

/* Tensors, element by element. */

static void *element(const struct tensor *x, int64_t i)
{
    int64_t offset = x->view.offset;
    for (int d = x->view.rank - 1; d >= 0; d--) {
        offset += i % x->view.shape[d] * x->view.stride[d];
        i /= x->view.shape[d];
    }
    return (char *)x->data + offset * (int64_t)dtype_size(x->dtype);
}

static struct tensor tensor_new(enum dtype dtype, int rank, const int64_t *shape)
{
    struct tensor x = {.dtype = dtype, .view = view_of(rank, shape)};
    x.data = arena_alloc(&t.arena, (size_t)view_count(&x.view) * dtype_size(dtype) + 1);
    return x;
}

static struct tensor converted(const struct tensor *x, enum dtype dtype)
{
    struct tensor same = tensor_new(x->dtype, x->view.rank, x->view.shape);
    for (int64_t i = 0; i < view_count(&x->view); i++)
        memcpy(element(&same, i), element(x, i), dtype_size(x->dtype));
    struct tensor out = tensor_new(dtype, x->view.rank, x->view.shape);
    if (view_count(&x->view) > 0)
        model.be->copy(model.device, &out, &same);
    return out;
}

static struct tensor widened(const struct tensor *x, const struct view *to)
{
    struct tensor wide = *x;
    assert_true(view_expand(&wide.view, &x->view, to->rank, to->shape));
    return converted(&wide, x->dtype);
}

static bool is_equal(const struct tensor *x, const void *packed)
{
    const size_t size = dtype_size(x->dtype);
    for (int64_t i = 0; i < view_count(&x->view); i++) {
        const char *other = (const char *)packed + (size_t)i * size;
        const bool both_nan = x->dtype == DT_f32 &&
                              *(float *)element(x, i) != *(float *)element(x, i) &&
                              *(const float *)other != *(const float *)other;
        if (!both_nan && memcmp(element(x, i), other, size) != 0)
            return false;
    }
    return true;
}

/* The graph as Python would run it. */

struct eager_root {
    int invoke, site, pass;
    struct tensor rows; /* (rows, width) */
    bool changed, seen;
};

static struct eager {
    struct eager_root roots[ROOTS_MAX];
    int n_roots, n_outside; /* indices out of range */
    struct tensor values[EAGER_MAX];
} eager;

static int64_t width_of(enum point p)
{
    const bool part = p >= PT_query && p <= PT_value;
    return part ? tiny_model.width : point_row_stride(p, &tiny_model);
}

/* The pass over the prompts of a trace. */
static int first_pass(int trace)
{
    int n = 0;
    for (int i = 0; i < trace; i++)
        n += t.graph.traces[i].n_new_tokens ? t.graph.traces[i].n_new_tokens : 1;
    return n;
}

static int64_t longest(const struct invoke *v)
{
    int n = 0;
    for (int i = 0; i < v->n_prompts; i++)
        n = v->prompts[i].n_tokens > n ? v->prompts[i].n_tokens : n;
    return n;
}

/* Whether a row of (B * T) is left of a shorter prompt. */
static bool is_padding(const struct invoke *v, int64_t row)
{
    const int64_t T = longest(v);
    return row % T < T - v->prompts[row / T].n_tokens;
}

/* What is written to padding is dropped. */
static void clear_padding(struct eager_root *r)
{
    const struct invoke *v = &t.graph.invokes[r->invoke];
    const int64_t n_rows = r->rows.view.shape[0], W = r->rows.view.shape[1];
    for (int64_t row = 0; n_rows == v->n_prompts * longest(v) && row < n_rows; row++)
        for (int64_t k = 0; is_padding(v, row) && k < W; k++)
            memset(element(&r->rows, row * W + k), 0, dtype_size(r->rows.dtype));
}

static struct eager_root *eager_root(int invoke, int site, int pass)
{
    for (int i = 0; i < eager.n_roots; i++) {
        struct eager_root *r = &eager.roots[i];
        if (r->invoke == invoke && r->site == site && r->pass == pass)
            return r;
    }
    assert_true(eager.n_roots < ROOTS_MAX);
    struct eager_root *r = &eager.roots[eager.n_roots++];
    enum point p;
    int block;
    site_split(&p, &block, site, tiny_model.n_blocks);
    const struct invoke *v = &t.graph.invokes[invoke];
    const bool first = pass == first_pass(v->trace);
    const int64_t n_rows = v->n_prompts * (first ? longest(v) : 1);
    const int64_t stride = point_row_stride(p, &tiny_model);
    *r = (struct eager_root){.invoke = invoke, .site = site, .pass = pass};
    r->rows = tensor_new(point_dtype(p), 2, (int64_t[]){n_rows, stride});
    r->rows.view.shape[1] = width_of(p);
    for (int64_t row = 0; row < n_rows; row++)
        for (int64_t k = 0; k < width_of(p); k++)
            cell(element(&r->rows, row * width_of(p) + k), r->rows.dtype, site, pass, invoke, row,
                 k);
    if (first)
        clear_padding(r);
    return r;
}

static int32_t generated[64];

static struct tensor eager_generated(int invoke)
{
    const struct invoke *v = &t.graph.invokes[invoke];
    const int n_old = (int)longest(v), n_new = t.graph.traces[v->trace].n_new_tokens;
    const int32_t *new = generated;
    for (int i = 0; i < invoke; i++)
        new += t.graph.invokes[i].n_prompts *
               t.graph.traces[t.graph.invokes[i].trace].n_new_tokens;
    struct tensor x = tensor_new(DT_i64, 2, (int64_t[]){v->n_prompts, n_old + n_new});
    for (int i = 0; i < v->n_prompts; i++)
        for (int k = 0; k < n_old + n_new; k++)
            *(int64_t *)element(&x, i * (n_old + n_new) + k) =
                k < n_old - v->prompts[i].n_tokens ? 0
                : k < n_old ? v->prompts[i].tokens[k - n_old + v->prompts[i].n_tokens]
                          : new[i * n_new + k - n_old];
    return x;
}

static struct tensor eager_hook(const struct node *n)
{
    const struct invoke *v = &t.graph.invokes[n->invoke];
    if (n->hook.name->point == PT_generated)
        return eager_generated(n->invoke);
    const int site = site_of(n->hook.name->point, n->hook.block, tiny_model.n_blocks);
    struct tensor x = eager_root(n->invoke, site, first_pass(v->trace) + n->hook.step)->rows;
    x.view = point_view(n->hook.name, &tiny_model, v->n_prompts,
                        n->hook.step ? 1 : longest(v), 0, 0);
    return x;
}

static struct tensor eager_parameter(const struct parameter_at *at)
{
    return (struct tensor){parameter_of(&t.arena, at->name->parameter, at->block), DT_f32,
                           parameter_view(at->name, &tiny_model)};
}

static struct tensor eager_operand(const struct arg *a)
{
    if (a->kind == ARG_node)
        return eager.values[a->node];
    const enum dtype dtype = a->kind == ARG_float ? DT_f32 : a->kind == ARG_int ? DT_i64 : DT_bool;
    struct tensor x = tensor_new(dtype, 0, NULL);
    if (dtype == DT_f32)
        *(float *)x.data = (float)a->real;
    else if (dtype == DT_i64)
        *(int64_t *)x.data = a->integer;
    else
        *(bool *)x.data = a->boolean;
    return x;
}

static struct tensor line_of(const struct tensor *x, int64_t count)
{
    struct tensor line = tensor_new(x->dtype, 1, &count);
    return line;
}

/* For each element of out, the elements of x that it is made from, in order, as one line. */
static void eager_reduce(struct tensor *out, const struct tensor *given, const struct node *n,
                         const struct shape_query *q)
{
    bool chosen[RANK_MAX];
    assert_true(shape_dims(chosen, q, &t.error));
    const bool real = n->op == OP_logsumexp;
    const struct tensor x = converted(given, real                      ? DT_f32
                                             : given->dtype == DT_bool ? DT_i64
                                                                       : given->dtype);
    const size_t size = dtype_size(x.dtype);
    for (int64_t o = 0; o < view_count(&out->view); o++) {
        struct tensor line = line_of(&x, view_count(&x.view));
        int64_t count = 0;
        for (int64_t i = 0; i < view_count(&x.view); i++) {
            int64_t place = 0, unit = 1, rest = i;
            for (int d = x.view.rank - 1; d >= 0; d--) {
                if (!chosen[d]) {
                    place += rest % x.view.shape[d] * unit;
                    unit *= x.view.shape[d];
                }
                rest /= x.view.shape[d];
            }
            if (place == o)
                memcpy((char *)line.data + (size_t)count++ * size, element(&x, i), size);
        }
        line.view = view_of(1, &count);
        const enum dtype dtype = out->dtype == DT_bool ? DT_i64 : out->dtype;
        struct tensor one = tensor_new(dtype, 0, NULL);
        model.be->reduce(model.device, n->op, &one, &line, 1, NULL);
        one = converted(&one, out->dtype);
        memcpy(element(out, o), one.data, dtype_size(out->dtype));
    }
}

/* softmax and the scans, line by line. */
static void eager_along(struct tensor *out, const struct tensor *given, const struct node *n)
{
    const struct tensor whole = converted(given, out->dtype), *x = &whole;
    const size_t size_of_one = dtype_size(x->dtype);
    const int rank = x->view.rank;
    const int64_t asked = n->args[1].integer;
    const int dim = rank ? (int)(asked < 0 ? asked + rank : asked) : 0;
    const int64_t size = rank ? x->view.shape[dim] : 1;
    int64_t inner = 1;
    for (int d = dim + 1; d < rank; d++)
        inner *= x->view.shape[d];
    for (int64_t i = 0; i < view_count(&x->view); i++) {
        if (i / inner % size != 0)
            continue;
        struct tensor line = line_of(x, size), result = line_of(x, size);
        for (int64_t k = 0; k < size; k++)
            memcpy(element(&line, k), element(x, i + k * inner), size_of_one);
        const bool scans = n->op == OP_cumsum || n->op == OP_cumprod;
        (scans ? model.be->scan : model.be->softmax)(model.device, n->op, &result, &line, NULL);
        for (int64_t k = 0; k < size; k++)
            memcpy(element(out, i + k * inner), element(&result, k), size_of_one);
    }
}

/* The coordinates of element i, and the element there. */
static void coordinates(int64_t at[RANK_MAX], const struct view *v, int64_t i)
{
    for (int d = v->rank - 1; d >= 0; d--) {
        at[d] = i % v->shape[d];
        i /= v->shape[d];
    }
}

static int64_t place_of(const struct view *v, const int64_t at[RANK_MAX])
{
    int64_t i = 0;
    for (int d = 0; d < v->rank; d++)
        i = i * v->shape[d] + at[d];
    return i;
}

/* Element by element; an index out of range gives 0. */
static void eager_select(struct tensor *out, const struct tensor *x, const struct tensor *index,
                         const struct node *n)
{
    const int rank = x->view.rank;
    const int64_t asked = n->args[1].integer;
    const int dim = rank ? (int)(asked < 0 ? asked + rank : asked) : 0;
    for (int64_t i = 0; i < view_count(&out->view); i++) {
        int64_t at[RANK_MAX] = {0};
        coordinates(at, &out->view, i);
        const int64_t from = *(int64_t *)element(index, n->op == OP_gather ? i : at[dim]);
        at[dim] = from;
        if (from >= 0 && from < (rank ? x->view.shape[dim] : 1))
            memcpy(element(out, i), element(x, rank ? place_of(&x->view, at) : 0),
                   dtype_size(x->dtype));
        else
            memset(element(out, i), 0, dtype_size(x->dtype));
        eager.n_outside += from < 0 || from >= (rank ? x->view.shape[dim] : 1);
    }
}

/* Element by element, in row-major order of the index. */
static void eager_scatter(struct tensor *out, const struct tensor *in, const struct node *n)
{
    const struct tensor *index = &in[1];
    const int rank = out->view.rank;
    const int64_t asked = n->args[1].integer;
    const int dim = rank ? (int)(asked < 0 ? asked + rank : asked) : 0;
    const struct tensor x = converted(&in[0], out->dtype), src = converted(&in[2], out->dtype);
    for (int64_t i = 0; i < view_count(&out->view); i++)
        memcpy(element(out, i), element(&x, i), dtype_size(out->dtype));
    for (int64_t i = 0; i < view_count(&index->view); i++) {
        int64_t at[RANK_MAX] = {0};
        coordinates(at, &index->view, i);
        const void *from = element(&src, src.view.rank ? place_of(&src.view, at) : 0);
        at[dim] = *(int64_t *)element(index, i);
        const bool outside = at[dim] < 0 || at[dim] >= (rank ? out->view.shape[dim] : 1);
        eager.n_outside += outside;
        if (outside)
            continue;
        void *to = element(out, rank ? place_of(&out->view, at) : 0);
        if (n->op == OP_scatter)
            memcpy(to, from, dtype_size(out->dtype));
        else if (out->dtype == DT_f32)
            *(float *)to += *(const float *)from;
        else if (out->dtype == DT_i64)
            *(int64_t *)to += *(const int64_t *)from;
        else
            *(uint8_t *)to |= *(const uint8_t *)from;
    }
}

static void eager_wrap(struct tensor *out, const struct tensor *index, int64_t size)
{
    for (int64_t i = 0; i < view_count(&index->view); i++) {
        const int64_t at = *(int64_t *)element(index, i);
        *(int64_t *)element(out, i) = (at % size + size) % size;
        eager.n_outside += at < -size || at >= size;
    }
}

/* Line by line, by backend.topk. */
static void eager_topk(struct tensor *out, const struct tensor *x, const struct node *n)
{
    const int rank = x->view.rank;
    const int64_t asked = n->args[2].kind == ARG_absent ? -1 : n->args[2].integer;
    const int dim = rank ? (int)(asked < 0 ? asked + rank : asked) : 0;
    const int64_t size = rank ? x->view.shape[dim] : 1, k = rank ? out->view.shape[dim] : 1;
    const bool largest = n->args[3].kind == ARG_absent || n->args[3].boolean;
    for (int64_t i = 0; i < view_count(&out->view); i++) {
        int64_t at[RANK_MAX] = {0};
        coordinates(at, &out->view, i);
        const int64_t which = at[dim];
        struct tensor line = line_of(x, size), places = tensor_new(DT_i64, 1, &k);
        for (int64_t j = 0; j < size; j++) {
            at[dim] = j;
            memcpy(element(&line, j), element(x, rank ? place_of(&x->view, at) : 0),
                   dtype_size(x->dtype));
        }
        model.be->topk(model.device, &places, &line, largest);
        const int64_t *place = element(&places, which);
        if (n->op == OP_topk_indices)
            *(int64_t *)element(out, i) = *place;
        else
            memcpy(element(out, i), element(&line, *place), dtype_size(x->dtype));
    }
}

/* By rows and columns of one batch after the other. */
static void eager_matmul(struct tensor *out, const struct tensor *x, const struct tensor *y)
{
    const int64_t K = x->view.shape[x->view.rank - 1];
    const bool row = x->view.rank == 1, column = y->view.rank == 1;
    for (int64_t o = 0; o < view_count(&out->view); o++) {
        int64_t at[RANK_MAX], rest = o;
        for (int d = out->view.rank - 1; d >= 0; d--) {
            at[d] = rest % out->view.shape[d];
            rest /= out->view.shape[d];
        }
        const int n_batch = out->view.rank - !row - !column;
        struct tensor a = tensor_new(DT_f32, 2, (int64_t[]){1, K});
        struct tensor b = tensor_new(DT_f32, 2, (int64_t[]){K, 1});
        const int64_t m = row ? 0 : at[n_batch], n = column ? 0 : at[out->view.rank - 1];
        int64_t x_at = x->view.offset, y_at = y->view.offset;
        for (int d = 0; d < n_batch; d++) {
            const int dx = x->view.rank - 2 - n_batch + d, dy = y->view.rank - 2 - n_batch + d;
            if (dx >= 0 && !row && x->view.shape[dx] > 1)
                x_at += at[d] * x->view.stride[dx];
            if (dy >= 0 && !column && y->view.shape[dy] > 1)
                y_at += at[d] * y->view.stride[dy];
        }
        x_at += row ? 0 : m * x->view.stride[x->view.rank - 2];
        y_at += column ? 0 : n * y->view.stride[y->view.rank - 1];
        for (int64_t k = 0; k < K; k++) {
            ((float *)a.data)[k] = ((float *)x->data)[x_at + k * x->view.stride[x->view.rank - 1]];
            ((float *)b.data)[k] =
                ((float *)y->data)[y_at + k * y->view.stride[column ? 0 : y->view.rank - 2]];
        }
        struct tensor one = tensor_new(DT_f32, 2, (int64_t[]){1, 1});
        model.be->matmul(model.device, &one, &a, &b);
        memcpy(element(out, o), one.data, sizeof(float));
    }
}

static void eager_join(struct tensor *out, const struct tensor *in, int n_in, const struct node *n)
{
    const int rank = out->view.rank;
    const int64_t asked = n->args[1].kind == ARG_absent ? 0 : n->args[1].integer;
    const int dim = (int)(asked < 0 ? asked + rank : asked);
    int64_t at = 0;
    for (int k = 0; k < n_in; k++) {
        const struct tensor part = converted(&in[k], out->dtype);
        struct tensor place = *out;
        const int64_t size = n->op == OP_cat ? part.view.shape[dim] : 1;
        place.view.shape[dim] = size;
        place.view.offset += at * place.view.stride[dim];
        for (int64_t i = 0; i < view_count(&part.view); i++)
            memcpy(element(&place, i), element(&part, i), dtype_size(out->dtype));
        at += size;
    }
}

static void eager_compute(struct tensor *out, struct tensor *in, int n_in, const struct node *n,
                          const struct shape_query *q)
{
    const enum op_kind kind = op_info[n->op].kind;
    if (kind == OPK_unary || kind == OPK_binary || n->op == OP_where) {
        for (int k = 0; k < n_in; k++) {
            const bool mask = n->op == OP_where && k == 0;
            const struct tensor wide = widened(&in[k], &out->view);
            in[k] = converted(&wide, mask ? DT_bool : shape_compute_dtype(q));
        }
    }
    if (kind == OPK_unary)
        model.be->unary(model.device, n->op, out, &in[0]);
    else if (kind == OPK_binary)
        model.be->binary(model.device, n->op, out, &in[0], &in[1]);
    else if (n->op == OP_where)
        model.be->where(model.device, out, &in[0], &in[1], &in[2]);
    else if (n->op == OP_matmul)
        eager_matmul(out, &in[0], &in[1]);
    else if (n->op == OP_softmax || n->op == OP_log_softmax || n->op == OP_cumsum ||
             n->op == OP_cumprod)
        eager_along(out, &in[0], n);
    else if (n->op == OP_gather || n->op == OP_index_select)
        eager_select(out, &in[0], &in[1], n);
    else if (n->op == OP_scatter || n->op == OP_scatter_add)
        eager_scatter(out, in, n);
    else if (n->op == OP_wrap_index)
        eager_wrap(out, &in[0], n->args[1].integer);
    else if (n->op == OP_topk_values || n->op == OP_topk_indices)
        eager_topk(out, &in[0], n);
    else if (n->op == OP_cat || n->op == OP_stack)
        eager_join(out, in, n_in, n);
    else if (n->op == OP_clone || n->op == OP_to || kind == OPK_view)
        memcpy(out->data, converted(&in[0], out->dtype).data,
               (size_t)view_count(&out->view) * dtype_size(out->dtype));
    else if (n->op == OP_apply) {
        const struct tensor x = converted(&in[0], DT_f32);
        const int n_rows = (int)(view_count(&x.view) / x.view.shape[x.view.rank - 1]);
        gpt2_apply(&model, &n->module, out->data, x.data, n_rows);
    } else {
        eager_reduce(out, &in[0], n, q);
    }
}

static struct tensor eager_op(const struct node *n)
{
    struct tensor in[8];
    struct value values[8];
    const struct value *pointers[8];
    int n_in = 0;
    for (int i = 0; i < op_info[n->op].n_params; i++) {
        const enum param_kind kind = op_info[n->op].params[i].kind;
        if (kind == PARAM_tensor)
            in[n_in++] = eager_operand(&n->args[i]);
        for (int k = 0; kind == PARAM_tensors && k < n->args[i].count; k++)
            in[n_in++] = eager.values[n->args[i].nodes[k]];
    }
    for (int i = 0; i < n_in; i++) {
        values[i] = (struct value){.dtype = in[i].dtype, .view = in[i].view};
        pointers[i] = &values[i];
    }
    const struct shape_query q = {n, pointers, n_in, &tiny_model};
    struct value out;
    bool is_new;
    assert_true(shape_infer(&out, &is_new, &q, &t.error));
    if (!is_new)
        return (struct tensor){in[0].data, out.dtype, out.view};
    struct tensor x = tensor_new(out.dtype, out.view.rank, out.view.shape);
    if (view_count(&x.view) > 0)
        eager_compute(&x, in, n_in, n, &q);
    return x;
}

static struct tensor eager_set(const struct node *n)
{
    struct tensor target = eager.values[n->args[0].node], value = eager_operand(&n->args[1]);
    while (value.view.rank > target.view.rank && value.view.shape[0] == 1) {
        value.view.rank--;
        memmove(value.view.shape, value.view.shape + 1, sizeof(int64_t) * (RANK_MAX - 1));
        memmove(value.view.stride, value.view.stride + 1, sizeof(int64_t) * (RANK_MAX - 1));
    }
    value = converted(&value, target.dtype);
    value = widened(&value, &target.view);
    bool changes = false;
    for (int64_t i = 0; i < view_count(&target.view); i++) {
        changes |= memcmp(element(&target, i), element(&value, i), dtype_size(target.dtype)) != 0;
        memcpy(element(&target, i), element(&value, i), dtype_size(target.dtype));
    }
    for (int i = 0; i < eager.n_roots; i++) {
        eager.roots[i].changed |= changes && eager.roots[i].rows.data == target.data;
        clear_padding(&eager.roots[i]);
    }
    return target;
}

static void eager_run(void)
{
    eager.n_roots = eager.n_outside = 0;
    for (int i = 0; i < t.graph.n_nodes; i++) {
        const struct node *n = &t.graph.nodes[i];
        struct tensor x;
        if (n->op == OP_hook)
            x = eager_hook(n);
        else if (n->op == OP_parameter)
            x = eager_parameter(&n->parameter);
        else if (n->op == OP_constant)
            x = converted(n->constant, n->constant->dtype);
        else if (n->op == OP_set)
            x = eager_set(n);
        else if (n->op == OP_save)
            x = converted(&eager.values[n->args[0].node], eager.values[n->args[0].node].dtype);
        else
            x = eager_op(n);
        eager.values[i] = x;
    }
}

/* The plan, stop by stop, with other jobs' rows around ours. */

static const unsigned char junk = 0xa5;

static int64_t row_of(const struct plan_invoke *v, int step, bool logits, int64_t row)
{
    if (step)
        return v->sequence_first + row;
    const struct plan_sequence *q = &v->sequences[row / v->n_tokens];
    const int64_t left = v->n_tokens - row % v->n_tokens; /* to the end of its sequence */
    if (left > (logits ? q->n_logits : q->n_tokens))
        return -1;
    return logits ? v->logits_first + q->logits_row + q->n_logits - left
                  : v->row_first + q->row + q->n_tokens - left;
}

/* Fills our rows from what the model would have, or compares them with what Python would have. */
static void rows_visit(const struct tensor *activation, const struct stop *s, bool compare)
{
    const bool logits = s->site == site_of(PT_logits, 0, tiny_model.n_blocks);
    const size_t size = dtype_size(activation->dtype);
    const struct plan_trace *trace = &t.plan.traces[t.plan.passes[s->pass].trace];
    for (int i = trace->invoke_first; i < trace->invoke_first + trace->n_invokes; i++) {
        struct eager_root *r = eager_root(i, s->site, s->pass);
        r->seen = true;
        const int64_t W = r->rows.view.shape[1];
        for (int64_t row = 0; row < r->rows.view.shape[0]; row++) {
            const int64_t at = row_of(&t.plan.invokes[i], plan_step(&t.plan, s->pass), logits, row);
            for (int64_t k = 0; at >= 0 && k < W; k++) {
                void *ours = (char *)activation->data +
                             ((BEFORE + at) * activation->view.stride[0] + k) * (int64_t)size;
                if (!compare)
                    cell(ours, activation->dtype, s->site, s->pass, i, row, k);
                else
                    assert_memory_equal(ours, element(&r->rows, row * W + k), size);
            }
        }
    }
}

static void check_neighbours(const unsigned char *bytes, size_t size, const struct tensor *x,
                             int64_t n_rows)
{
    const size_t row = (size_t)x->view.stride[0] * dtype_size(x->dtype);
    const size_t width = (size_t)x->view.shape[1] * dtype_size(x->dtype);
    for (size_t i = 0; i < size; i++) {
        const bool other = i / row < BEFORE || i / row >= (size_t)(BEFORE + n_rows);
        if (other || i % row >= width)
            assert_int_equal(bytes[i], junk);
    }
}

static void rows_place(struct job *j, int step)
{
    for (int i = 0; i < t.plan.n_invokes; i++) {
        const struct plan_invoke *v = &t.plan.invokes[i];
        j->row_of[i] = BEFORE + (step ? v->sequence_first : v->row_first);
        j->logits_of[i] = BEFORE + (step ? v->sequence_first : v->logits_first);
    }
}

/* Every other graph runs in the smallest pieces. */
static void count_pause(void *context, double cost)
{
    int *n = context;
    assert_true(cost >= 0);
    ++*n;
}

static int n_pauses;
static char part_state[PART_BYTES] __attribute__((aligned(64)));
static const struct breath small_pieces = {1.0, count_pause, &n_pauses, part_state};

static void run_stop(struct job *j, const struct stop *s)
{
    const struct breath *breath = seed % 2 ? &small_pieces : NULL;
    enum point p;
    int block;
    site_split(&p, &block, s->site, tiny_model.n_blocks);
    struct tensor x = {.dtype = point_dtype(p)};
    if (point_info[p].row == ROW_none) {
        dispatch_stop(j, s, &model, &x, NULL);
        return;
    }
    const struct plan_pass *pass = &t.plan.passes[s->pass];
    const int64_t n_rows = p == PT_logits ? pass->n_logits : pass->n_rows;
    x.view = view_of(2, (int64_t[]){BEFORE + n_rows + BEHIND, point_row_stride(p, &tiny_model)});
    x.view.shape[1] = width_of(p);
    const size_t size = (size_t)(x.view.shape[0] * x.view.stride[0]) * dtype_size(x.dtype);
    unsigned char *bytes = arena_alloc(&t.arena, size);
    memset(bytes, junk, size);
    x.data = bytes;
    rows_visit(&x, s, false);
    rows_place(j, plan_step(&t.plan, s->pass));
    dispatch_stop(j, s, &model, &x, breath);
    rows_visit(&x, s, true);
    check_neighbours(bytes, size, &x, n_rows);
}

static int n_gathered, n_scattered, n_faults, n_scatter_faults, n_wrap_faults;

/* Nothing is reported without a reason; a node that nobody needs is none. */
static void check_faults(const struct job *j)
{
    struct err e = {0};
    if (dispatch_check(j, &e))
        return;
    const enum op op = t.graph.nodes[e.node].op;
    assert_true(op == OP_gather || op == OP_index_select || op == OP_scatter ||
                op == OP_scatter_add || op == OP_wrap_index);
    assert_int_equal(e.code, ERR_index);
    assert_non_null(strstr(e.text, "which the graph computed, is out of range for "));
    n_scatter_faults += op == OP_scatter || op == OP_scatter_add;
    n_wrap_faults += op == OP_wrap_index;
    assert_true(eager.n_outside > 0);
    n_faults++;
}

static void plan_run(void)
{
    const struct plan *p = &t.plan;
    struct job *j = ARENA_NEW(&t.arena, struct job);
    j->graph = t.graph;
    j->plan = *p;
    j->generated = generated;
    j->row_of = ARENA_ARRAY(&t.arena, int, (size_t)p->n_invokes);
    j->logits_of = ARENA_ARRAY(&t.arena, int, (size_t)p->n_invokes);
    pthread_mutex_init(&j->outbox.lock, NULL);
    j->results = arena_alloc(&t.arena, p->result_bytes + 1);
    j->slab = arena_alloc(&t.arena, p->slab_bytes + 64);
    memset(j->slab, junk, p->slab_bytes + 64);
    tiny_constants(j->slab, p);
    int n_saves = 0;
    for (int i = 0; i < p->n_stops; i++) {
        const struct stop *s = &p->stops[i], *last = s - 1;
        assert_true(i == 0 || last->pass < s->pass ||
                    (last->pass == s->pass && last->site < s->site));
        j->pass = s->pass;
        run_stop(j, s);
        for (int k = 0; k < s->n_saves; k++, n_saves++) {
            const struct save *save = &p->saves[n_saves];
            assert_int_equal(save->step, plan_step(p, s->pass));
            assert_true(view_same_shape(&save->view, &eager.values[save->node].view));
            assert_true(is_equal(&eager.values[save->node], j->results + save->offset));
        }
    }
    assert_int_equal(n_saves, p->n_saves);
    check_faults(j);
    for (int i = 0; i < 64; i++)
        assert_int_equal((unsigned char)j->slab[p->slab_bytes + (size_t)i], junk);
}

/* What changes the model where someone still looks has a stop. */
static void check_changes(void)
{
    const int n = n_sites(tiny_model.n_blocks);
    const struct plan *p = &t.plan;
    for (int i = 0; i < eager.n_roots; i++) {
        const struct eager_root *r = &eager.roots[i];
        const int trace = p->passes[r->pass].trace;
        int last = -1;
        for (int k = 0; k < p->n_stops; k++) {
            if (p->passes[p->stops[k].pass].trace == trace)
                last = p->stops[k].pass * n + p->stops[k].site;
        }
        if (r->changed && (p->traces[trace].samples || r->pass * n + r->site <= last))
            assert_true(r->seen);
    }
}

/* Random graphs. */

static const char *const paths[] = {
    "transformer.wte.input",
    "transformer.wte.output",
    "transformer.wte.output",
    "transformer.h.0.mlp.output",
    "transformer.h.0.output[0]",
    "transformer.h.0.attn.c_attn.output",
    "transformer.h.0.attn.query.output",
    "blocks.0.attn.hook_q",
    "blocks.1.attn.hook_k",
    "transformer.h.1.attn.value.output",
    "transformer.h.1.attn.z.output",
    "transformer.h.1.attn.c_proj.input",
    "transformer.h.1.mlp.act.output",
    "transformer.h.2.output[0]",
    "transformer.h.2.output[0]",
    "lm_head.output",
    "lm_head.output",
    "generator.output",
};

static const char *const parameters[] = {
    "transformer.wte.weight", "lm_head.weight", "blocks.0.attn.W_K", "blocks.1.attn.W_O",
    "transformer.h.1.mlp.c_fc.weight", "blocks.2.attn.b_V", "transformer.ln_f.bias",
};

static const char *const layers[] = {"transformer.ln_f", "lm_head", "transformer.h.1.ln_1",
                                     "transformer.h.0.mlp.c_fc", "transformer.h.2.mlp.c_proj",
                                     "transformer.h.1.attn.c_attn"};

static int random_node(void)
{
    const int n = t.graph.n_nodes;
    int i = (int)(pick(3) ? n - 1 - pick(n < 6 ? n : 6) : pick(n < 6 ? n : 6));
    while (t.graph.nodes[i].op == OP_save)
        i--;
    return i < 0 ? 0 : i;
}

static struct arg random_operand(void)
{
    const int kind = (int)pick(8);
    return kind == 0   ? (struct arg)FLOAT((double)pick(9) / 4 - 1)
           : kind == 1 ? (struct arg)INT(pick(5) - 2)
           : kind == 2 ? (struct arg)BOOL(pick(2))
                       : (struct arg)NODE(random_node());
}

static struct arg random_dim(void)
{
    return (struct arg)INT(pick(4) - 2);
}

static struct arg random_dims(void)
{
    int64_t *dims = ARENA_ARRAY(&t.arena, int64_t, 3);
    const int n = (int)pick(3);
    for (int i = 0; i < n; i++)
        dims[i] = pick(4) - 2;
    return n == 0 && pick(2) ? (struct arg)ABSENT
                             : (struct arg){.kind = ARG_ints, .count = n, .ints = dims};
}

static struct arg random_index(void)
{
    static const char *const texts[] = {
        "[:, -1]",   "[0]",      "[..., 0]", "[:, :, 1]",  "[..., 1:3]",
        "[:, ::2]",  "[None]",   "[1:]",     "[:, 1:]",    "[..., None, :]",
        "[-1, ...]", "[:, 2:2]", "[...]",    "[..., ::3]", "[:, 0, :2]"};
    return tiny_index(&t, texts[pick(sizeof texts / sizeof *texts)]);
}

/* Some shape with as many elements as the operand has. */
static struct arg random_shape(int node)
{
    int64_t *shape = ARENA_ARRAY(&t.arena, int64_t, 8);
    int64_t rest = view_count(&plan_value(&t.plan, node)->view);
    int rank = 0;
    while (rest > 1 && rank < 3) {
        int64_t size = 1 + pick(rest < 9 ? rest : 9);
        while (rest % size)
            size--;
        shape[rank++] = size;
        rest /= size;
    }
    shape[rank++] = rest;
    return (struct arg){.kind = ARG_ints, .count = rank, .ints = shape};
}

static struct arg random_wider(int node)
{
    int64_t *shape = ARENA_ARRAY(&t.arena, int64_t, RANK_MAX + 1);
    const struct view *v = &plan_value(&t.plan, node)->view;
    const int extra = v->rank < 4 ? (int)pick(2) : 0;
    for (int i = 0; i < v->rank + extra; i++)
        shape[i] = i < extra || v->shape[i - extra] == 1 ? 1 + pick(2) : -1;
    return (struct arg){.kind = ARG_ints, .count = v->rank + extra, .ints = shape};
}

static struct arg random_list(void)
{
    int *nodes = ARENA_ARRAY(&t.arena, int, 3);
    nodes[0] = random_node();
    nodes[1] = pick(2) ? nodes[0] : random_node();
    nodes[2] = pick(2) ? nodes[0] : random_node();
    return (struct arg){.kind = ARG_nodes, .count = 1 + (int)pick(3), .nodes = nodes};
}

/* One element of x with another tensor: any two moments meet. */
static void add_meeting(int x)
{
    static const char *const firsts[] = {"[...]", "[0]", "[0, 0]", "[0, 0, 0]", "[0, 0, 0, -1]"};
    const int rank = plan_value(&t.plan, x)->view.rank;
    const int scalar = tiny_getitem(&t, x, firsts[rank < 4 ? rank : 4]);
    int y = (int)pick(scalar < 6 ? scalar : 6);
    while (t.graph.nodes[y].op == OP_save)
        y--; /* the first is a hook */
    tiny_op(&t, add, NODE(scalar), NODE(y));
}

/* With an index that the graph computes, at times one too high. */
static void add_random_selection(int x)
{
    const struct arg dim = random_dim();
    if (pick(4) == 0) {
        const int64_t places[3] = {2, 0, pick(4)};
        const int index = tiny_constant(&t, DT_i64, 1, (int64_t[]){1 + pick(3)}, places);
        tiny_op(&t, index_select, NODE(x), dim, NODE(index));
    } else if (pick(2)) {
        const int most = tiny_op(&t, argmax, NODE(x), dim, BOOL(true));
        const int places = tiny_op(&t, add, NODE(most), INT(pick(4) == 0));
        tiny_add(&t, OP_gather, (struct arg[PARAMS_MAX]){NODE(x), dim, NODE(places)});
    } else if (pick(2)) {
        const int places = tiny_op(&t, topk_indices, NODE(x), INT(pick(3)), dim, BOOL(pick(2)));
        tiny_add(&t, OP_gather, (struct arg[PARAMS_MAX]){NODE(x), dim, NODE(places)});
    } else {
        const int whole = tiny_op(&t, to, NODE(random_node()), DTYPE(DT_i64));
        const int flat = tiny_op(&t, flatten, NODE(whole), ABSENT);
        const int places = tiny_op(&t, remainder, NODE(flat), INT(1 + pick(4)));
        tiny_op(&t, index_select, NODE(x), dim, NODE(places));
    }
}

/* With the index that another op of this kind would read at, or one of x's own numbers. */
static void add_random_scatter(int x)
{
    const struct arg dim = random_dim();
    const enum op op = pick(2) ? OP_scatter : OP_scatter_add;
    int places;
    if (pick(2)) {
        const int whole = tiny_op(&t, to, NODE(x), DTYPE(DT_i64));
        places = tiny_op(&t, wrap_index, NODE(whole), INT(1 + pick(3)));
    } else {
        places = tiny_op(&t, topk_indices, NODE(x), INT(1 + pick(3)), dim, BOOL(pick(2)));
        places = tiny_op(&t, sub, NODE(places), INT(pick(6) == 0));
    }
    const struct arg src = pick(2) ? (struct arg)NODE(x) : random_operand();
    tiny_add(&t, op, (struct arg[PARAMS_MAX]){NODE(x), dim, NODE(places), src});
}

static void add_random_op(void)
{
    static const enum op elementwise[] = {OP_add, OP_mul, OP_sub,  OP_maximum, OP_lt,
                                          OP_neg, OP_abs, OP_relu, OP_div,     OP_logical_or};
    static const enum op reductions[] = {OP_sum, OP_prod, OP_mean,     OP_max,
                                         OP_min, OP_norm, OP_logsumexp};
    static const enum op along[] = {OP_softmax, OP_log_softmax, OP_cumsum, OP_cumprod};
    static const enum op orders[] = {OP_topk_values, OP_topk_indices};
    const int x = random_node();
    /* clang-format off */
    switch (pick(36)) {
    case 0: case 1: case 2:
        tiny_add(&t, elementwise[pick(10)], (struct arg[PARAMS_MAX]){random_operand(), random_operand()});
        break;
    case 3: case 4: case 5: case 6:
        tiny_op(&t, getitem, NODE(x), random_index());
        break;
    case 7: tiny_op(&t, transpose, NODE(x), random_dim(), random_dim()); break;
    case 8: tiny_op(&t, reshape, NODE(x), random_shape(x)); break;
    case 9: tiny_op(&t, expand, NODE(x), random_wider(x)); break;
    case 10: tiny_op(&t, clone, NODE(x)); break;
    case 11: tiny_op(&t, to, NODE(x), DTYPE((enum dtype)pick(DT_COUNT))); break;
    case 12: tiny_op(&t, where, random_operand(), random_operand(), random_operand()); break;
    case 13: tiny_add(&t, pick(2) ? OP_cat : OP_stack, (struct arg[PARAMS_MAX]){random_list(), random_dim()}); break;
    case 14: tiny_add(&t, reductions[pick(7)], (struct arg[PARAMS_MAX]){NODE(x), random_dims(), BOOL(pick(2))}); break;
    case 15: tiny_add(&t, pick(2) ? OP_argmax : OP_argmin, (struct arg[PARAMS_MAX]){NODE(x), random_dim(), BOOL(pick(2))}); break;
    case 16: tiny_add(&t, along[pick(4)], (struct arg[PARAMS_MAX]){NODE(x), random_dim()}); break;
    case 17: tiny_op(&t, matmul, NODE(x), NODE(random_node())); break;
    case 18: tiny_apply(&t, layers[pick(sizeof layers / sizeof *layers)], x); break;
    case 19: tiny_op(&t, flatten, NODE(x), ABSENT, ABSENT); break;
    case 20: tiny_add(&t, orders[pick(2)], (struct arg[PARAMS_MAX]){NODE(x), INT(pick(5)), random_dim(), BOOL(pick(2))}); break;
    case 30: tiny_op(&t, diagonal, NODE(x), INT(pick(5) - 2), random_dim(), random_dim()); break;
    case 31: tiny_op(&t, unfold, NODE(x), random_dim(), INT(1 + pick(3)), INT(1 + pick(2))); break;
    case 32: tiny_op(&t, view, NODE(x), random_shape(x)); break;
    case 33: case 34: case 35: add_random_scatter(x); break;
    case 21: case 22: case 23: case 24: case 25: add_random_selection(x); break;
    default: add_meeting(x);
    }
    /* clang-format on */
}

/* A part of x from another part of x, which may overlap. */
static void add_overlapping_set(int x)
{
    static const char *const parts[] = {"[..., 1:]", "[..., :-1]", "[:, 1:]", "[:, :-1]",
                                        "[:, 0]",    "[..., ::2]", "[:, -1]", "[..., 1::2]"};
    const int k = (int)pick(4) * 2;
    const int a = tiny_getitem(&t, x, parts[k]), b = tiny_getitem(&t, x, parts[k + 1]);
    if (pick(2))
        tiny_op(&t, set, NODE(a), NODE(b));
    else
        tiny_op(&t, set, NODE(b), NODE(a));
}

static void add_random_node(void)
{
    const int kind = (int)pick(15);
    if (t.graph.n_nodes < 5 || kind == 0) {
        const int invoke = (int)pick(t.graph.n_invokes);
        const int n_new = t.graph.traces[t.graph.invokes[invoke].trace].n_new_tokens;
        tiny_hook(&t, paths[pick(sizeof paths / sizeof *paths)], invoke,
                  (int)pick(n_new ? n_new : 1));
    } else if (kind == 1) {
        float data[6] = {1, -2, 3, 0.5f, 7, -1};
        tiny_constant(&t, DT_f32, pick(2) ? 1 : 2, (int64_t[]){1 + pick(2), 3}, data);
    } else if (kind == 2) {
        add_overlapping_set(random_node());
    } else if (kind <= 4) {
        tiny_op(&t, set, NODE(random_node()), random_operand());
    } else if (kind == 5) {
        tiny_save(&t, random_node());
    } else if (kind == 6) {
        tiny_parameter(&t, parameters[pick(sizeof parameters / sizeof *parameters)]);
    } else {
        add_random_op();
    }
}

static int n_refused[ERR_COUNT], n_set, n_parked, n_saved, n_unpacked;
static size_t folded, unfolded;

/* A node that is refused is taken back; every prefix of the graph is planned. */
static void random_graph(int n_nodes)
{
    for (int tries = 0; t.graph.n_nodes < n_nodes && tries < 20 * n_nodes; tries++) {
        const int n = t.graph.n_nodes;
        add_random_node();
        const bool planned = tiny_plan(&t);
        const int last = t.graph.n_nodes - 1;
        const bool large = planned && view_count(&plan_value(&t.plan, last)->view) > COUNT_MAX;
        if (!planned)
            n_refused[t.error.code]++;
        if (!planned || large) {
            t.graph.n_nodes = n;
            if (n > 0)
                assert_true(tiny_plan(&t));
        }
    }
    assert_true(tiny_plan(&t));
}

static void count_plan(void)
{
    folded += t.plan.slab_bytes - t.plan.constant_bytes;
    for (int i = 0; i < t.plan.n_actions; i++) {
        const struct action *a = &t.plan.actions[i];
        const enum op op = t.graph.nodes[a->node].op;
        n_set += a->op == OP_set;
        n_saved += a->op == OP_save;
        n_gathered += a->op == OP_gather;
        n_unpacked += a->op == OP_parameter;
        n_scattered += a->op == OP_scatter || a->op == OP_scatter_add;
        n_parked += a->op == OP_clone && (op == OP_hook || op == OP_set);
        if (a->op != OP_save && a->op != OP_set)
            unfolded += ((size_t)view_count(&t.plan.values[a->out].view) *
                             dtype_size(t.plan.values[a->out].dtype) +
                         63) /
                        64 * 64;
    }
}

static void random_invoke(void)
{
    const int T = 1 + (int)pick(4);
    const struct invoke *v = &t.graph.invokes[tiny_invoke(&t, 1 + (int)pick(2), T)];
    for (int i = 0; i < v->n_prompts && pick(2); i++)
        v->prompts[i].n_tokens = 1 + (int)pick(T);
}

static void one_random_graph(uint64_t number)
{
    seed = number;
    tiny_open(&t);
    const int n_traces = pick(3) ? 1 : 2 + (int)pick(2);
    t.graph.traces[0].n_new_tokens = (int)pick(4);
    for (int trace = 0; trace < n_traces; trace++) {
        if (trace > 0)
            tiny_trace(&t, (int)pick(3));
        const int n_invokes = 1 + (int)pick(n_traces > 1 ? 2 : 3);
        for (int i = 0; i < n_invokes; i++)
            random_invoke();
    }
    for (int i = 0; i < 64; i++)
        generated[i] = (int32_t)pick(11);
    random_graph(12 + (int)pick(40));
    eager_run();
    plan_run();
    check_changes();
    count_plan();
    arena_free(&t.arena);
}

static void plans_mean_what_their_programs_mean(void **state)
{
    (void)state;
    const char *only = getenv("SEED");
    if (only) {
        one_random_graph(strtoull(only, NULL, 10));
        return;
    }
    for (uint64_t i = 1; i <= 3000; i++) {
        current = i;
        one_random_graph(i);
    }
    print_message("%d gathered, %d scattered, %d unpacked, %d faults (%d, %d), ", n_gathered, n_scattered,
                  n_unpacked, n_faults, n_scatter_faults, n_wrap_faults);
    print_message("%d sets, %d parked, %d saved, slab %zu of %zu bytes, refused: order %d shape %d "
                  "type %d\n",
                  n_set, n_parked, n_saved, folded, unfolded, n_refused[ERR_order],
                  n_refused[ERR_shape], n_refused[ERR_type]);
    assert_true(n_set > 1000 && n_parked > 500 && n_saved > 1000);
    assert_true(n_refused[ERR_order] > 100);
    assert_true(n_gathered > 300 && n_faults > 30);
    assert_true(n_scattered > 100 && n_scatter_faults > 5 && n_wrap_faults > 5);
    assert_true(n_unpacked > 150);
    assert_true(folded < unfolded);
}

/* Keys and values are read from the cache's pages, each sequence from its own. */
static void keys_and_values_come_from_the_cache(void **state)
{
    (void)state;
    enum {
        T = 5,
        D = 8,
        H = 2
    };
    static float qkv[2 * T * 3 * D];
    static int32_t pages[2] = {3, 1};
    tiny_open(&t);
    tiny_invoke(&t, 2, T);
    tiny_save(&t, tiny_hook(&t, "transformer.h.1.output[1][0]", 0, 0));
    tiny_save(&t, tiny_hook(&t, "transformer.h.1.output[1][1]", 0, 0));
    assert_true(tiny_plan(&t));
    for (int i = 0; i < 2 * T * 3 * D; i++)
        qkv[i] = (float)i;
    const struct span spans[] = {{0, T, 0, &pages[0]}, {T, T, 0, &pages[1]}};
    model.be->cache_append(model.device, model.cache, 1, qkv, spans, 2);
    struct job *j = ARENA_NEW(&t.arena, struct job);
    j->graph = t.graph;
    j->plan = t.plan;
    j->pages = pages;
    j->slab = arena_alloc(&t.arena, t.plan.slab_bytes);
    j->results = arena_alloc(&t.arena, t.plan.result_bytes);
    assert_int_equal(t.plan.n_stops, 2);
    for (int which = 0; which < 2; which++) {
        dispatch_stop(j, &t.plan.stops[which], &model, &(struct tensor){0}, NULL);
        const void *saved = j->results + t.plan.saves[which].offset;
        const float *x = saved; /* (2, H, T, D / H) */
        for (int i = 0; i < 2 * D * T; i++) {
            const int b = i / (D * T), h = i / (4 * T) % H, at = i / 4 % T, d = i % 4;
            assert_true(x[i] == qkv[((b * T + at) * 3 + 1 + which) * D + h * 4 + d]);
        }
    }
    arena_free(&t.arena);
}

/* Long rows, in one piece and in pieces of 100 elements. */

struct pieces {
    int n, n_long;
};

static const double most_of_a_piece = 100 * ELEMENT_COST;

static void count_piece(void *context, double cost)
{
    struct pieces *p = context;
    p->n++;
    p->n_long += cost > most_of_a_piece;
}

/* What is done along one row; two rows of 1,500 for what needs them, and three whole ones that are
 * matrices of one row. */
static void plan_long_rows(void)
{
    const int ones = tiny_op(&t, expand, INT(1), INTS(3000));
    const int chance = tiny_op(&t, random, NODE(tiny_op(&t, cumsum, NODE(ones), INT(0))), INT(7));
    const int x = tiny_op(&t, sub, NODE(tiny_op(&t, div, NODE(chance), FLOAT(1e18))), FLOAT(4));
    const int rows = tiny_op(&t, reshape, NODE(x), INTS(2, 1500));
    const int columns = tiny_op(&t, transpose, NODE(rows), INT(0), INT(1));
    const int order = tiny_op(&t, topk_indices, NODE(columns), INT(1500), INT(0));
    const int saved[] = {
        tiny_op(&t, sum, NODE(x)),
        tiny_op(&t, norm, NODE(rows)),
        tiny_op(&t, mean, NODE(columns)),
        tiny_op(&t, prod, NODE(chance)),
        tiny_op(&t, argmax, NODE(columns), INT(0)),
        tiny_op(&t, logsumexp, NODE(x), INT(0)),
        tiny_op(&t, logsumexp, NODE(rows), INT(1)),
        tiny_op(&t, softmax, NODE(x), INT(0)),
        tiny_op(&t, log_softmax, NODE(columns), INT(0)),
        tiny_op(&t, cumsum, NODE(rows), INT(1)),
        tiny_op(&t, cumprod, NODE(x), INT(0)),
        tiny_op(&t, gather, NODE(columns), INT(0), NODE(order)),
        tiny_op(&t, scatter_add, NODE(columns), INT(0), NODE(order), NODE(columns)),
        tiny_op(&t, matmul, NODE(tiny_op(&t, expand, FLOAT(2), INTS(10))),
                NODE(tiny_op(&t, view, NODE(x), INTS(10, 300)))),
    };
    for (size_t i = 0; i < sizeof saved / sizeof *saved; i++)
        tiny_save(&t, saved[i]);
    assert_true(tiny_plan(&t)); /* while there are its lists of integers */
}

/* The two rows that are sorted are no smaller pieces, nor are 16 columns of a product. */
static void a_long_row_is_cut_to_the_same_bits(void **state)
{
    (void)state;
    struct pieces pieces = {0, 0};
    const struct breath breath = {most_of_a_piece, count_piece, &pieces, part_state};
    tiny_open(&t);
    tiny_invoke(&t, 1, 4);
    plan_long_rows();
    assert_int_equal(t.plan.n_stops, 1);
    char *results[2];
    for (int cut = 0; cut < 2; cut++) {
        struct job *j = ARENA_NEW(&t.arena, struct job);
        j->graph = t.graph;
        j->plan = t.plan;
        j->slab = arena_alloc(&t.arena, t.plan.slab_bytes);
        tiny_constants(j->slab, &t.plan);
        j->results = results[cut] = arena_alloc(&t.arena, t.plan.result_bytes);
        dispatch_stop(j, t.plan.stops, &model, &(struct tensor){0}, cut ? &breath : NULL);
    }
    for (int i = 0; i < t.plan.n_saves; i++) {
        const struct save *save = &t.plan.saves[i];
        assert_memory_equal(results[0] + save->offset, results[1] + save->offset, save->bytes);
    }
    assert_int_equal(pieces.n_long, 2 + 300 / 16);
    assert_true(pieces.n > 14 * 30);
    arena_free(&t.arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_long_row_is_cut_to_the_same_bits, set_up, tear_down),
        cmocka_unit_test_setup_teardown(keys_and_values_come_from_the_cache, set_up, tear_down),
        cmocka_unit_test_setup_teardown(plans_mean_what_their_programs_mean, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
