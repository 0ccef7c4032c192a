/* Roots, the values that are views of them, and the operands of nodes: what all phases of the
 * planner make and look up. */
#include "planner.h"
#include <math.h>
#include <string.h>

struct table table_new(int n_max, struct arena *a)
{
    int size = 16;
    while (size < 2 * n_max)
        size *= 2;
    return (struct table){.keys = ARENA_ARRAY(a, int64_t, size),
                          .items = ARENA_ARRAY(a, int, size),
                          .mask = size - 1};
}

int *table_find(struct table *t, int64_t key)
{
    uint64_t hash = (uint64_t)key * UINT64_C(0x9e3779b97f4a7c15);
    int i = (int)(hash >> 33) & t->mask;
    while (t->items[i] && t->keys[i] != key)
        i = (i + 1) & t->mask;
    t->keys[i] = key;
    return &t->items[i];
}

/* Roots and values. */

int root_add(struct planner *s, struct root root)
{
    struct root *r = arena_push(s->a, &s->roots, &s->n_roots, &s->root_capacity, sizeof *r);
    *r = root;
    r->set_turn = r->turn;
    r->version = r->node;
    r->first = 0;
    r->last = -1;
    return s->n_roots - 1;
}

int value_add(struct planner *s, int root, enum dtype dtype, struct view view)
{
    struct value *v =
        arena_push(s->a, &s->p->values, &s->p->n_values, &s->value_capacity, sizeof *v);
    int *r =
        arena_push(s->a, &s->value_roots, &s->n_value_roots, &s->value_root_capacity, sizeof *r);
    *v = (struct value){.home = s->roots[root].home,
                        .invoke = s->roots[root].invoke,
                        .dtype = dtype,
                        .view = view};
    *r = root;
    return s->p->n_values - 1;
}

int slab_root(struct planner *s, int node, int turn, enum dtype dtype, const struct view *shape)
{
    return root_add(s, (struct root){.home = HOME_slab,
                                     .node = node,
                                     .turn = turn,
                                     .bytes = view_count(shape) * (int64_t)dtype_size(dtype)});
}

int tensor_add(struct planner *s, int node, int turn, enum dtype dtype, const struct view *shape)
{
    int root = slab_root(s, node, turn, dtype, shape);
    return value_add(s, root, dtype, view_of(shape->rank, shape->shape));
}

static double number_real(const struct arg *n)
{
    return n->kind == ARG_float ? n->real : n->kind == ARG_int ? (double)n->integer : n->boolean;
}

/* Numbers are only ever promoted: a float never becomes an integer here. */
static void number_bytes(void *to, const struct arg *n, enum dtype dtype)
{
    const float real = (float)number_real(n);
    const bool boolean = n->kind == ARG_bool && n->boolean;
    const int64_t integer = n->kind == ARG_int ? n->integer : boolean;
    const void *from[DT_COUNT] = {[DT_f32] = &real, [DT_i64] = &integer, [DT_bool] = &boolean};
    memcpy(to, from[dtype], dtype_size(dtype));
}

static enum dtype number_dtype(const struct arg *n)
{
    return n->kind == ARG_float ? DT_f32 : n->kind == ARG_int ? DT_i64 : DT_bool;
}

int number_value(struct planner *s, const struct arg *number, enum dtype dtype)
{
    int64_t bits = 0;
    number_bytes(&bits, number, dtype);
    int *found = table_find(&s->numbers[dtype], bits);
    if (!*found) {
        int64_t *bytes = ARENA_NEW(s->a, int64_t);
        *bytes = bits;
        int value = tensor_add(s, -1, 0, dtype, &(struct view){.rank = 0});
        struct root *r = root_of(s, value);
        r->number = number;
        r->constant = bytes;
        r->readonly = true;
        *found = value + 1;
    }
    return *found - 1;
}

/* Operands. */

static int operand_of(struct planner *s, const struct arg *a)
{
    return a->kind == ARG_node ? a->node : number_value(s, a, number_dtype(a));
}

void operands_take(struct planner *s, const struct node *n)
{
    const struct op_info *op = &op_info[n->op];
    s->n_in = 0;
    for (int i = 0; i < op->n_params; i++) {
        const struct arg *a = &n->args[i];
        if (op->params[i].kind == PARAM_tensor)
            s->in[s->n_in++] = operand_of(s, a);
        else if (op->params[i].kind == PARAM_tensors)
            for (int k = 0; k < a->count; k++)
                s->in[s->n_in++] = a->nodes[k];
    }
}

struct shape_query operands_query(struct planner *s, const struct node *n)
{
    for (int i = 0; i < s->n_in; i++)
        s->in_values[i] = &s->p->values[s->in[i]];
    return (struct shape_query){n, s->in_values, s->n_in, s->m};
}

int hook_find(struct planner *s, int invoke, int turn)
{
    return *table_find(&s->hooks, (int64_t)invoke << 32 | turn) - 1;
}

int hook_root(struct planner *s, int invoke, int turn, int node, enum point point)
{
    int *root = table_find(&s->hooks, (int64_t)invoke << 32 | turn);
    if (!*root) {
        *root = 1 + root_add(s, (struct root){.home = HOME_activation, .node = node, .turn = turn});
        s->roots[*root - 1].invoke = invoke;
        s->roots[*root - 1].point = point;
        s->roots[*root - 1].readonly = !point_info[point].writable;
    }
    return *root - 1;
}

/* All names of a parameter are views of one root. */
int parameter_root(struct planner *s, enum parameter p, int block, int node)
{
    const int64_t number = (int64_t)block * PARAMETER_COUNT + p;
    int *root = table_find(&s->parameters, number);
    if (!*root)
        *root = 1 + root_add(s, (struct root){.home = HOME_parameter,
                                              .node = node,
                                              .base = (size_t)number,
                                              .is_packed = parameter_info[p].is_packed,
                                              .readonly = true});
    return *root - 1;
}

struct view root_rows(const struct planner *s, const struct root *r)
{
    if (r->home == HOME_parameter)
        return parameter_matrix((enum parameter)(r->base % PARAMETER_COUNT), s->m);
    const struct plan_invoke *v = &s->p->invokes[r->invoke];
    if (r->is_inside) {
        const int64_t S = v->n_tokens + plan_step(s->p, r->turn / s->n_sites);
        return view_of(2, (int64_t[]){r->bytes / (int64_t)sizeof(float) / S, S});
    }
    const bool first = is_first(s, r->turn), part = r->point >= PT_query && r->point <= PT_value;
    const int64_t T = !first                  ? 1
                      : r->point == PT_logits ? v->n_tokens - v->logits_from
                                              : v->n_tokens;
    const int64_t row = point_row_stride(r->point, s->m);
    return (struct view){
        .rank = 2, .shape = {v->n_sequences * T, part ? s->m->width : row}, .stride = {row, 1}};
}
