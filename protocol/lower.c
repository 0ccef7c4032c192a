/* Living nodes to actions: operands of the right dtype and shape, copies for late readers, all in
 * the order of running. Nothing here can be wrong with a request, but for the work it asks for. */
#include "planner.h"
#include <math.h>
#include <string.h>

struct lowering {
    struct planner *s;
    int node;
    struct parking *parking;
};

/* What late readers need of activations, and readers of packed parameters. A version is the node
 * behind which an activation is as it is: its hook or a set. */
struct parking {
    int *seen;       /* of each node: the version for which it was last counted, or -1 */
    int64_t *wanted; /* of each version: the elements that its late readers look at */
    int *whole;      /* of each version: the copy of all its rows, or 0 */
    int *of_version; /* of each node: the version of its last copy, or -1, and */
    int *copy;       /* that copy */
    int *turn;       /* of each node and version: when the first of its readers is due */
};

static int *ints_new(int n, int value, struct arena *a)
{
    int *ints = ARENA_ARRAY(a, int, n + 1);
    for (int i = 0; i < n; i++)
        ints[i] = value;
    return ints;
}

/* Actions. */

static double up_to(double n, int multiple)
{
    return ceil(n / multiple) * multiple;
}

/* A product's multiply-adds are done many at once, so that one of few rows, columns or terms takes
 * as long as a larger one: most of its time goes into what it is made from. */
static double product_cost(const struct view *out, const struct view *x)
{
    const double rows = (double)out->shape[out->rank - 2], terms = (double)x->shape[x->rank - 1];
    const double columns = (double)out->shape[out->rank - 1];
    const double n = (rows + PRODUCT_MARGIN) * up_to(columns, PRODUCT_COLUMNS);
    return (double)view_count(out) / (rows * columns) * (terms + PRODUCT_MARGIN) *
           (n + PRODUCT_PACKED * rows);
}

/* How many times as long as ELEMENT_COST an element of an op takes. */
static int slowness(enum op op)
{
    switch (op) {
    case OP_erf: case OP_sin: case OP_cos: case OP_tan: case OP_pow: case OP_fmod:
    case OP_remainder: case OP_floor_divide:
        return VERY_SLOW;
    case OP_log: case OP_log2: case OP_log10: case OP_log1p: case OP_exp2: case OP_expm1:
    case OP_asin: case OP_acos: case OP_atan: case OP_atan2: case OP_gather: case OP_scatter:
    case OP_scatter_add:
        return SLOW;
    default: return 1;
    }
}

/* Whether neighbours along the last dimension lie apart, so that each is read from a line of its
 * own. */
static bool is_strided(const struct view *v)
{
    const int last = v->rank - 1;
    return last >= 0 && v->shape[last] > 1 && v->stride[last] != 0 && v->stride[last] != 1;
}

static bool has_strided(const struct planner *s, const struct action *a)
{
    const struct value *values = s->p->values;
    bool strided = a->op != OP_save && is_strided(&values[a->out].view);
    for (int i = 0; i < action_n_in(a->op); i++)
        strided |= is_strided(&values[a->in[i]].view);
    return strided;
}

/* In multiply-adds. What an op that is no product does with one element takes as long as some
 * dozens of them. */
static double action_cost(const struct planner *s, const struct action *a)
{
    const struct value *values = s->p->values;
    const double n_in = (double)view_count(&values[a->in[0]].view);
    const double n_out = a->op == OP_save ? n_in : (double)view_count(&values[a->out].view);
    const struct view *x = &values[a->in[0]].view;
    if (a->op == OP_matmul)
        return n_out > 0 ? product_cost(&values[a->out].view, x) : 0;
    if (a->op == OP_apply && !a->module.is->is_layernorm) {
        const double K = (double)module_in(a->module.is, s->m), rows = n_in / K;
        return fmax(rows, APPLY_ROWS) * K * n_out / rows;
    }
    const bool by_result = a->op == OP_hook || a->op == OP_gather || n_out > n_in;
    const double cost = ELEMENT_COST * slowness(a->op) * (by_result ? n_out : n_in);
    const struct view *out = &values[a->out].view;
    if (a->op == OP_topk_indices)
        return cost * log2(1.0 + (double)out->shape[out->rank - 1]);
    return has_strided(s, a) ? STRIDED * cost : cost;
}

/* What is done at a stretch, in which nobody else is served, since it cannot be cut: a row that is
 * sorted, and the few columns of a product that are packed at once. */
static double stretch_of(const struct planner *s, const struct action *a)
{
    const struct value *values = s->p->values;
    const struct view *out = &values[a->out].view;
    if (a->op == OP_topk_indices)
        return a->cost / (double)view_count(out) * (double)out->shape[out->rank - 1];
    if (a->op != OP_matmul)
        return 0;
    const int64_t columns = out->shape[out->rank - 1];
    const int64_t few = columns < 2 * PRODUCT_COLUMNS ? columns : 2 * PRODUCT_COLUMNS - 1;
    const struct view one = view_of(2, (int64_t[]){1, few});
    return product_cost(&one, &values[a->in[0]].view);
}

double action_push(struct planner *s, int turn, int behind, struct action a)
{
    struct draft *d = arena_push(s->a, &s->drafts, &s->n_drafts, &s->draft_capacity, sizeof *d);
    d->key = (int64_t)turn << 32 | (behind + 1);
    d->action = a;
    d->action.cost = action_cost(s, &a);
    s->stretch = fmax(s->stretch, stretch_of(s, &d->action));
    return d->action.cost;
}

/* A node's own work, behind what was emitted for the same node and turn before. */
static void emit_at(struct planner *s, int turn, struct action a)
{
    if (a.op == OP_save || view_count(&s->p->values[a.out].view) > 0)
        s->cost += action_push(s, turn, a.node, a);
}

static void emit(struct planner *s, struct action a)
{
    emit_at(s, s->turns[a.node], a);
}

/* Parked copies. */

static void version_reset(struct planner *s)
{
    for (int i = 0; i < s->n_roots; i++)
        s->roots[i].version = s->roots[i].node;
}

static void version_advance(struct planner *s, int node)
{
    if (s->g->nodes[node].op == OP_set)
        root_of(s, node)->version = node;
}

/* Whether a node chooses elements of a packed parameter, no more than are there: these alone are
 * unpacked. */
static bool picks(struct planner *s, int node)
{
    const enum op op = s->g->nodes[node].op;
    return (op == OP_index_select || op == OP_gather) && root_of(s, s->in[0])->is_packed &&
           view_count(&s->p->values[node].view) <= view_count(&s->p->values[s->in[0]].view);
}

static void note_turn(int *turn, int due)
{
    *turn = *turn < 0 || due < *turn ? due : *turn;
}

/* Adds up what late readers look at, so that what is parked is never more than all rows. */
static void count_parked(struct planner *s, struct parking *k)
{
    version_reset(s);
    for (int i = 0; i < s->g->n_nodes; i++) {
        if (!s->is_alive[i])
            continue;
        operands_take(s, &s->g->nodes[i]);
        for (int j = 0; j < s->n_in; j++) {
            const int value = s->in[j], version = root_of(s, value)->version;
            if (!is_late(s, i, value) || (j == 0 && picks(s, i)))
                continue;
            note_turn(&k->turn[value], s->turns[i]);
            note_turn(&k->turn[version], s->turns[i]);
            if (k->seen[value] == version)
                continue;
            k->seen[value] = version;
            k->wanted[version] += view_count(&s->p->values[value].view);
        }
        version_advance(s, i);
    }
    version_reset(s);
}

/* A copy of a value to the slab, right behind the node that made it what it is. What a parameter is
 * depends on nothing, and it is unpacked before the first of the `readers`. */
static int park(struct planner *s, const struct parking *k, int value, int readers)
{
    const struct root *r = root_of(s, value);
    const int turn = r->is_packed ? k->turn[readers] : r->turn, version = r->version;
    const enum op op = r->is_packed ? OP_parameter : OP_clone;
    const struct view view = s->p->values[value].view;
    const int copy = tensor_add(s, -1, turn, s->p->values[value].dtype, &view);
    emit_at(s, turn, (struct action){.op = op, .node = version, .out = copy, .in = {value}});
    return copy;
}

/* The same elements in a copy of the rows without what lies between them. */
static struct view view_packed(const struct view *v, const struct view *rows)
{
    const int64_t row = rows->stride[0], width = rows->shape[1];
    struct view packed = *v;
    packed.offset = v->offset / row * width + v->offset % row;
    for (int i = 0; i < v->rank; i++) {
        if (v->stride[i] >= row)
            packed.stride[i] = v->stride[i] / row * width + v->stride[i] % row;
    }
    return packed;
}

static int park_whole(struct planner *s, struct parking *k, int value)
{
    const int version = root_of(s, value)->version;
    const struct view rows = root_rows(s, root_of(s, value));
    if (root_of(s, value)->home == HOME_activation && root_of(s, value)->point != PT_logits)
        s->p->invokes[root_of(s, value)->invoke].read_from = 0;
    if (!k->whole[version]) {
        int all = value_add(s, s->value_roots[value], s->p->values[value].dtype, rows);
        k->whole[version] = park(s, k, all, version);
    }
    const int whole = k->whole[version];
    const struct view view = s->p->values[value].view;
    return value_add(s, s->value_roots[whole], s->p->values[whole].dtype,
                     view_packed(&view, &rows));
}

static int parked(struct planner *s, struct parking *k, int value)
{
    const int version = root_of(s, value)->version;
    if (k->of_version[value] == version)
        return k->copy[value];
    const struct view rows = root_rows(s, root_of(s, value));
    k->of_version[value] = version;
    k->copy[value] = k->wanted[version] < view_count(&rows) ? park(s, k, value, value)
                                                            : park_whole(s, k, value);
    return k->copy[value];
}

/* Operands. */

/* A row-major copy of a value, of this dtype, made as part of the node's work. */
static int copied(struct planner *s, int node, int value, enum dtype dtype)
{
    const struct view view = s->p->values[value].view;
    const int copy = tensor_add(s, -1, s->turns[node], dtype, &view);
    emit(s, (struct action){.op = OP_clone, .node = node, .out = copy, .in = {value}});
    return copy;
}

static enum dtype dtype_of(const struct planner *s, int value)
{
    return s->p->values[value].dtype;
}

static struct view view_at(const struct planner *s, int value)
{
    return s->p->values[value].view;
}

/* Operand k as this node may read it. */
static int operand(struct lowering *l, int k)
{
    struct planner *s = l->s;
    return is_late(s, l->node, s->in[k]) ? parked(s, l->parking, s->in[k]) : s->in[k];
}

static int operand_as(struct lowering *l, int k, enum dtype dtype)
{
    struct planner *s = l->s;
    const struct root *r = root_of(s, s->in[k]);
    if (r->number && view_at(s, s->in[k]).rank == 0)
        return number_value(s, r->number, dtype);
    const int value = operand(l, k);
    return dtype_of(s, value) == dtype ? value : copied(s, l->node, value, dtype);
}

static int reshaped(struct planner *s, int value, struct view view)
{
    return value_add(s, s->value_roots[value], dtype_of(s, value), view);
}

static int broadcast(struct planner *s, int value, int rank, const int64_t *shape)
{
    struct view from = view_at(s, value), to;
    const bool fits = view_expand(&to, &from, rank, shape);
    assert(fits);
    return view_same_shape(&from, &to) ? value : reshaped(s, value, to);
}

/* Ops. */

static void lower_elementwise(struct lowering *l)
{
    struct planner *s = l->s;
    const struct node *n = &s->g->nodes[l->node];
    const struct shape_query q = operands_query(s, n);
    const enum dtype dtype = shape_compute_dtype(&q);
    const struct view out = view_at(s, l->node);
    struct action a = {.op = n->op, .node = l->node, .out = l->node};
    const int n_in = s->n_in;
    for (int k = 0; k < n_in; k++) {
        const bool mask = n->op == OP_where && k == 0;
        a.in[k] = broadcast(s, operand_as(l, k, mask ? DT_bool : dtype), out.rank, out.shape);
    }
    emit(s, a);
}

/* A view whose chosen dimensions come last, in their order. */
static struct view view_chosen_last(const struct view *v, const bool chosen[RANK_MAX])
{
    struct view out = {.offset = v->offset};
    for (int last = 0; last < 2; last++) {
        for (int i = 0; i < v->rank; i++) {
            if (chosen[i] != (last == 1))
                continue;
            out.shape[out.rank] = v->shape[i];
            out.stride[out.rank++] = v->stride[i];
        }
    }
    return out;
}

static void add_one(struct view *v)
{
    v->shape[v->rank] = 1;
    v->stride[v->rank++] = 1;
}

/* bool is reduced as int64: a sum counts, a maximum is turned back. */
static void lower_reduction(struct lowering *l)
{
    struct planner *s = l->s;
    const struct node *n = &s->g->nodes[l->node];
    const struct shape_query q = operands_query(s, n);
    bool chosen[RANK_MAX];
    const bool known = shape_dims(chosen, &q, s->e);
    assert(known);
    const enum dtype own = dtype_of(s, s->in[0]);
    const enum dtype from = n->op == OP_logsumexp ? DT_f32 : own == DT_bool ? DT_i64 : own;
    const int x = operand_as(l, 0, from);
    const struct view view = view_at(s, x);
    struct view in = view_chosen_last(&view, chosen);
    int n_reduced = 0;
    for (int i = 0; i < view.rank; i++)
        n_reduced += chosen[i];
    if (view.rank == 0) {
        add_one(&in);
        n_reduced = 1;
    }
    struct view out = view_of(in.rank - n_reduced, in.shape);
    const bool narrows = dtype_of(s, l->node) == DT_bool;
    const int result =
        narrows ? tensor_add(s, -1, s->turns[l->node], DT_i64, &out) : reshaped(s, l->node, out);
    emit(s, (struct action){.op = n->op,
                            .node = l->node,
                            .out = result,
                            .in = {reshaped(s, x, in)},
                            .n_reduced = n_reduced});
    if (narrows)
        emit(s, (struct action){.op = OP_clone,
                                .node = l->node,
                                .out = reshaped(s, l->node, out),
                                .in = {result}});
}

/* The dimension that the node's parameter `arg` names, of its first operand. */
static int dim_at(struct lowering *l, int arg)
{
    struct planner *s = l->s;
    const struct node *n = &s->g->nodes[l->node];
    const struct shape_query q = operands_query(s, n);
    const int rank = view_at(s, s->in[0]).rank;
    if (n->args[arg].kind == ARG_absent)
        return rank ? rank - 1 : 0;
    int dim = 0;
    const bool known = shape_dim(&dim, &q, arg, rank, s->e);
    assert(known);
    return dim;
}

/* A view with one dimension last; rank 0 has one of size 1. */
static struct view view_dim_last(const struct view *v, int dim)
{
    bool chosen[RANK_MAX] = {false};
    chosen[dim] = true;
    struct view last = view_chosen_last(v, chosen);
    if (v->rank == 0)
        add_one(&last);
    return last;
}

/* softmax, cumsum and their like: along one dimension, to a result of the same shape. */
static void lower_along(struct lowering *l)
{
    struct planner *s = l->s;
    const struct node *n = &s->g->nodes[l->node];
    const int dim = dim_at(l, 1), x = operand_as(l, 0, dtype_of(s, l->node));
    const struct view in = view_at(s, x), out = view_at(s, l->node);
    const struct view in_last = view_dim_last(&in, dim), out_last = view_dim_last(&out, dim);
    emit(s, (struct action){.op = n->op,
                            .node = l->node,
                            .out = reshaped(s, l->node, out_last),
                            .in = {reshaped(s, x, in_last)}});
}

/* The value in which gathers report an index out of range, one for all of them. */
static int faults(struct planner *s)
{
    static const int64_t none[2];
    if (!s->p->faults) {
        const struct view two = view_of(1, (int64_t[]){2});
        s->p->faults = tensor_add(s, -1, 0, DT_i64, &two);
        root_of(s, s->p->faults)->constant = none;
    }
    return s->p->faults;
}

/* out, x and index with the dimension last, and but for it of one shape. */
static void emit_gather(struct planner *s, int node, int out, int x, int index)
{
    emit(s, (struct action){
                .op = OP_gather, .node = node, .out = out, .in = {x, index, faults(s)}});
}

/* The index of a selection, and what of x it counts in, the dimension last: all there is of it
 * where columns of logits are few. */
static int selection(struct lowering *l, struct view *in, int x, int dim)
{
    struct planner *s = l->s;
    const struct view from = view_at(s, x), given = view_at(s, s->in[1]);
    const int moved = s->moved_index[l->node];
    *in = view_dim_last(&from, dim);
    if (!moved)
        return operand(l, 1);
    in->shape[in->rank - 1] = (int64_t)root_of(s, x)->n_panels * PANEL_COLUMNS;
    in->stride[in->rank - 1] = 1;
    return broadcast(s, moved, given.rank, given.shape);
}

/* gather's index may be smaller than x; index_select's is the same for all rows. */
static void lower_select(struct lowering *l)
{
    struct planner *s = l->s;
    const int dim = dim_at(l, 1), x = picks(s, l->node) ? s->in[0] : operand(l, 0);
    struct view in;
    const int index = selection(l, &in, x, dim);
    const struct view to = view_at(s, l->node), given = view_at(s, index);
    const struct view out = view_dim_last(&to, dim);
    struct view at = out;
    memcpy(in.shape, out.shape, sizeof in.shape[0] * (size_t)(out.rank - 1));
    if (s->g->nodes[l->node].op == OP_gather) {
        at = view_dim_last(&given, dim);
    } else {
        memset(at.stride, 0, sizeof at.stride);
        at.offset = given.offset;
        at.stride[at.rank - 1] = given.rank ? given.stride[0] : 0;
    }
    emit_gather(s, l->node, reshaped(s, l->node, out), reshaped(s, x, in),
                reshaped(s, index, at));
}

/* x's elements are copied, then those at the index are written: of a row in the index's order. */
static void lower_scatter(struct lowering *l)
{
    struct planner *s = l->s;
    const int dim = dim_at(l, 1);
    const enum dtype dtype = dtype_of(s, l->node);
    const int x = operand_as(l, 0, dtype), index = operand(l, 1), src = operand_as(l, 2, dtype);
    const struct view given = view_at(s, index), to = view_at(s, l->node);
    const struct view at = view_dim_last(&given, dim);
    struct view from = view_at(s, src), out = view_dim_last(&to, dim);
    if (from.rank == 0)
        from = view_at(s, broadcast(s, src, given.rank, given.shape));
    from = view_dim_last(&from, dim);
    memcpy(from.shape, at.shape, sizeof at.shape);
    memcpy(out.shape, at.shape, sizeof at.shape[0] * (size_t)(at.rank - 1));
    emit(s, (struct action){.op = OP_clone, .node = l->node, .out = l->node, .in = {x}});
    if (view_count(&at) > 0)
        emit(s, (struct action){
                    .op = s->g->nodes[l->node].op,
                    .node = l->node,
                    .out = reshaped(s, l->node, out),
                    .in = {reshaped(s, index, at), reshaped(s, src, from), faults(s)}});
}

/* index + size says whether it is in range, by a gather from as many elements that are one: its
 * remainder is the place. */
static void lower_wrap_index(struct lowering *l)
{
    static const struct arg zero = {.kind = ARG_int};
    struct planner *s = l->s;
    const struct arg *asked = &s->g->nodes[l->node].args[1];
    const struct view to = view_at(s, l->node);
    const int index = operand(l, 0), turn = s->turns[l->node];
    const int size = broadcast(s, number_value(s, asked, DT_i64), to.rank, to.shape);
    const int moved = tensor_add(s, -1, turn, DT_i64, &to);
    const int unread = tensor_add(s, -1, turn, DT_i64, &to);
    emit(s, (struct action){.op = OP_add, .node = l->node, .out = moved, .in = {index, size}});
    struct view at = view_at(s, moved);
    if (at.rank == 0)
        add_one(&at);
    struct view in = {.rank = at.rank};
    memcpy(in.shape, at.shape, sizeof at.shape);
    in.shape[in.rank - 1] = 2 * asked->integer;
    emit_gather(s, l->node, reshaped(s, unread, at),
                reshaped(s, number_value(s, &zero, DT_i64), in), reshaped(s, moved, at));
    emit(s,
         (struct action){.op = OP_remainder, .node = l->node, .out = l->node, .in = {index, size}});
}

static bool topk_largest(const struct node *n)
{
    return n->args[3].kind == ARG_absent || n->args[3].boolean;
}

static bool args_equal(const struct arg *a, const struct arg *b)
{
    return a->kind == b->kind && (a->kind == ARG_absent || a->integer == b->integer);
}

/* Whether the last values were chosen of the same elements, as they are now, by the same rule. */
static bool is_chosen(struct planner *s, const struct node *n)
{
    const struct node *of = s->chosen.of;
    bool equal = of && s->chosen.version == root_of(s, s->in[0])->version &&
                 of->args[0].kind == ARG_node && n->args[0].kind == ARG_node &&
                 of->args[0].node == n->args[0].node;
    for (int i = 1; i < 3 && equal; i++)
        equal = args_equal(&of->args[i], &n->args[i]);
    return equal && topk_largest(of) == topk_largest(n);
}

/* The values are gathered from the places, which the graph cannot change: where it asks for these
 * next, it gets a copy. */
static void lower_topk(struct lowering *l)
{
    struct planner *s = l->s;
    const struct node *n = &s->g->nodes[l->node];
    const int dim = dim_at(l, 2), given = operand(l, 0);
    const struct view from = view_at(s, given), to = view_at(s, l->node);
    const struct view in = view_dim_last(&from, dim), out_last = view_dim_last(&to, dim);
    const int x = reshaped(s, given, in), out = reshaped(s, l->node, out_last);
    const bool values = n->op == OP_topk_values, known = is_chosen(s, n);
    const int places = known    ? s->chosen.places
                       : values ? tensor_add(s, -1, s->turns[l->node], DT_i64, &out_last)
                                : out;
    if (!known)
        emit(s, (struct action){.op = OP_topk_indices,
                                .node = l->node,
                                .out = places,
                                .in = {x},
                                .largest = topk_largest(n)});
    if (values) {
        s->chosen = (struct chosen){n, root_of(s, s->in[0])->version, places};
        emit_gather(s, l->node, out, x, places);
    } else if (known) {
        emit(s, (struct action){.op = OP_clone, .node = l->node, .out = out, .in = {places}});
    }
}

/* Each part is copied to its place in the result: a slice for cat, an index for stack. */
static void lower_join(struct lowering *l)
{
    struct planner *s = l->s;
    const struct node *n = &s->g->nodes[l->node];
    const struct view out = view_at(s, l->node);
    const int64_t asked = n->args[1].kind == ARG_absent ? 0 : n->args[1].integer;
    const int dim = (int)(asked < 0 ? asked + out.rank : asked), n_in = s->n_in;
    int64_t at = 0;
    for (int k = 0; k < n_in; k++) {
        const int part = operand(l, k);
        struct view place = view_at(s, part);
        const int64_t size = n->op == OP_cat ? place.shape[dim] : 1;
        place.offset = at * out.stride[dim];
        for (int i = 0; i < place.rank; i++)
            place.stride[i] = out.stride[n->op == OP_stack && i >= dim ? i + 1 : i];
        emit(s, (struct action){.op = OP_clone,
                                .node = l->node,
                                .out = reshaped(s, l->node, place),
                                .in = {part}});
        at += size;
    }
}

/* The leading dimensions of `to`, then the last two of `v`, which is broadcast over them. */
static struct view view_batched(const struct view *v, const struct view *to)
{
    int64_t shape[RANK_MAX];
    memcpy(shape, to->shape, sizeof shape);
    shape[to->rank - 2] = v->shape[v->rank - 2];
    shape[to->rank - 1] = v->shape[v->rank - 1];
    struct view out;
    const bool fits = view_expand(&out, v, to->rank, shape);
    assert(fits);
    return out;
}

static void insert_one(struct view *v, int dim)
{
    memmove(&v->shape[dim + 1], &v->shape[dim], sizeof v->shape[0] * (size_t)(v->rank - dim));
    memmove(&v->stride[dim + 1], &v->stride[dim], sizeof v->stride[0] * (size_t)(v->rank - dim));
    v->rank++;
    v->shape[dim] = 1;
    v->stride[dim] = 0;
}

static void lower_matmul(struct lowering *l)
{
    struct planner *s = l->s;
    const int a = operand(l, 0), b = operand(l, 1);
    struct view x = view_at(s, a), y = view_at(s, b), out = view_at(s, l->node);
    const bool row = x.rank == 1, column = y.rank == 1;
    if (row)
        insert_one(&x, 0);
    if (column)
        insert_one(&y, 1);
    if (row)
        insert_one(&out, out.rank - !column);
    if (column)
        insert_one(&out, out.rank);
    emit(s, (struct action){.op = OP_matmul,
                            .node = l->node,
                            .out = reshaped(s, l->node, out),
                            .in = {reshaped(s, a, view_batched(&x, &out)),
                                   reshaped(s, b, view_batched(&y, &out))}});
}

/* Where the columns of logits that are looked at are few, those are all there is. */
static struct action apply_of(struct planner *s, struct module_at module, int node, int out, int x)
{
    const struct root *r = root_of(s, out);
    struct action a = {.op = OP_apply, .node = node, .out = out, .in = {x}, .module = module};
    if (r->n_panels == 0)
        return a;
    a.panels = r->panels;
    a.n_panels = r->n_panels;
    const int64_t width = (int64_t)PANEL_COLUMNS * r->n_panels;
    const int64_t n_rows = r->bytes / (int64_t)sizeof(float) / width;
    a.out = reshaped(s, out, view_of(2, (int64_t[]){n_rows, width}));
    a.in[0] = reshaped(s, x, view_of(2, (int64_t[]){n_rows, s->m->width}));
    return a;
}

static void lower_apply(struct lowering *l)
{
    struct planner *s = l->s;
    int x = operand(l, 0);
    const struct view view = view_at(s, x);
    if (!view_is_contiguous(&view))
        x = copied(s, l->node, x, DT_f32);
    emit(s, apply_of(s, s->g->nodes[l->node].module, l->node, l->node, x));
}

/* The rows are copied behind all that changes them, the product comes where the hook is. The pass
 * would have done that work, so it is not counted as the graph's. */
static void lower_heads(struct planner *s)
{
    struct module_at lm_head;
    size_t used;
    const bool known = module_find(&lm_head, &used, "lm_head", strlen("lm_head"), 1, s->e);
    assert(known);
    for (int i = 0; i < s->n_heads; i++) {
        const struct head h = s->heads[i];
        const struct root r = s->roots[h.root];
        const int turn = root_of(s, h.input)->turn, D = s->m->width;
        const struct view rows = view_at(s, h.input);
        const int copy = tensor_add(s, r.node, turn, DT_f32, &rows);
        action_push(s, turn, s->g->n_nodes,
             (struct action){.op = OP_clone, .node = r.node, .out = copy, .in = {h.input}});
        const int64_t width = r.bytes / (int64_t)sizeof(float) / h.n_rows;
        const int x = reshaped(s, copy, view_of(2, (int64_t[]){h.n_rows, D}));
        const struct view product = view_of(2, (int64_t[]){h.n_rows, width});
        const int out = value_add(s, h.root, DT_f32, product);
        action_push(s, r.turn, r.node, apply_of(s, lm_head, r.node, out, x));
    }
}

/* What a reshape copies has another shape than its copy, and the same order. */
static void lower_clone(struct lowering *l)
{
    struct planner *s = l->s;
    const int x = operand(l, 0);
    const struct view from = view_at(s, x), to = view_at(s, l->node);
    const int out = view_same_shape(&from, &to)
                        ? l->node
                        : reshaped(s, l->node, view_of(from.rank, from.shape));
    emit(s, (struct action){.op = OP_clone, .node = l->node, .out = out, .in = {x}});
}

static bool views_equal(const struct view *a, const struct view *b)
{
    bool equal = view_same_shape(a, b) && a->offset == b->offset;
    for (int i = 0; i < a->rank && equal; i++)
        equal = a->shape[i] == 1 || a->stride[i] == b->stride[i];
    return equal;
}

static bool views_may_meet(const struct view *a, const struct view *b)
{
    int64_t a_low, a_high, b_low, b_high;
    view_extent(&a_low, &a_high, a);
    view_extent(&b_low, &b_high, b);
    return a_low <= b_high && b_low <= a_high;
}

/* A value that shares elements with its target is copied first: the copy of one element must not
 * change another before that is read. */
static void lower_set(struct lowering *l)
{
    struct planner *s = l->s;
    const int target = s->in[0];
    int value = operand(l, 1);
    const struct view to = view_at(s, target), given = view_at(s, value);
    const struct view from = view_without_ones(&given, to.rank);
    if (s->value_roots[value] == s->value_roots[target]) {
        if (views_equal(&from, &to))
            return;
        if (views_may_meet(&from, &to))
            value = copied(s, l->node, reshaped(s, value, from), dtype_of(s, value));
        else
            value = reshaped(s, value, from);
    } else if (from.rank != given.rank) {
        value = reshaped(s, value, from);
    }
    emit(s, (struct action){.op = OP_set,
                            .node = l->node,
                            .out = target,
                            .in = {broadcast(s, value, to.rank, to.shape)}});
    if (root_of(s, target)->is_inside)
        inside_clear(s, s->value_roots[target], l->node);
    else if (is_padded(s, root_of(s, target)))
        padding_clear(s, s->value_roots[target], l->node);
}

static void lower_save(struct lowering *l)
{
    emit(l->s, (struct action){.op = OP_save, .node = l->node, .in = {operand(l, 0)}});
}

static void lower_hook(struct lowering *l)
{
    const struct node *n = &l->s->g->nodes[l->node];
    const enum point p = n->hook.name->point;
    if (l->s->p->invokes[n->invoke].is_ragged && p != PT_next)
        padding_clear_gathered(l->s, l->node, p == PT_generated ? 1 : 2);
    emit(l->s, (struct action){.op = OP_hook, .node = l->node, .out = l->node, .point = p});
}

/* One case for each op of ops.def, so that the compiler names the one that is missing. */
/* clang-format off */
static void lower_node(struct lowering *l)
{
    switch (l->s->g->nodes[l->node].op) {
#define UNARY(id, types, f, i, b)  case OP_##id: lower_elementwise(l); break;
#define BINARY(id, types, f, i, b) case OP_##id: lower_elementwise(l); break;
#define VIEW(id, params)           case OP_##id: lower_clone(l); break; /* strides cannot say it */
#define CALL(id, params)
#define EFFECT(id, params)
#include "ops.def"
#undef UNARY
#undef BINARY
#undef VIEW
#undef CALL
#undef EFFECT
    case OP_clone: case OP_to: lower_clone(l); break;
    case OP_where: lower_elementwise(l); break;
    case OP_cat: case OP_stack: lower_join(l); break;
    case OP_sum: case OP_prod: case OP_mean: case OP_norm: case OP_logsumexp:
        lower_reduction(l); break;
    case OP_max: case OP_min: case OP_argmax: case OP_argmin: lower_reduction(l); break;
    case OP_gather: case OP_index_select: lower_select(l); break;
    case OP_scatter: case OP_scatter_add: lower_scatter(l); break;
    case OP_wrap_index: lower_wrap_index(l); break;
    case OP_topk_values: case OP_topk_indices: lower_topk(l); break;
    case OP_softmax: case OP_log_softmax: case OP_cumsum: case OP_cumprod: lower_along(l); break;
    case OP_matmul: lower_matmul(l); break;
    case OP_apply: lower_apply(l); break;
    case OP_hook: lower_hook(l); break;
    case OP_set: lower_set(l); break;
    case OP_save: lower_save(l); break;
    case OP_constant: case OP_parameter: case OP_COUNT: assert(!"a constant is no work");
    }
}
/* clang-format on */

/* Merges from the bottom up: stable, so that actions of one node keep their order. */
static void sort_drafts(struct planner *s)
{
    const int n = s->n_drafts;
    struct draft *from = s->drafts, *to = ARENA_ARRAY(s->a, struct draft, n);
    for (int width = 1; width < n; width *= 2) {
        for (int low = 0; low < n; low += 2 * width) {
            const int middle = low + width < n ? low + width : n;
            const int high = middle + width < n ? middle + width : n;
            int i = low, j = middle;
            for (int k = low; k < high; k++)
                to[k] =
                    j >= high || (i < middle && from[i].key <= from[j].key) ? from[i++] : from[j++];
        }
        struct draft *sorted = to;
        to = from;
        from = sorted;
    }
    s->drafts = from;
}

bool cost_check(struct planner *s, int node)
{
    if (s->n_drafts > ACTIONS_MAX)
        return node_refuse(s->e, &s->g->nodes[node], -1, ERR_limit,
                           "up to here the graph's work has more than %d parts: send it as several "
                           "requests",
                           ACTIONS_MAX);
    if (s->stretch > (double)STRETCH_MAX)
        return node_refuse(s->e, &s->g->nodes[node], -1, ERR_limit,
                           "this asks for %.3g multiply-adds that cannot be cut: the limit is %.3g",
                           s->stretch, (double)STRETCH_MAX);
    return s->cost <= (double)COMPUTE_MAX ||
           node_refuse(s->e, &s->g->nodes[node], -1, ERR_limit,
                       "up to here the graph itself asks for %.3g multiply-adds: the limit is %.3g",
                       s->cost, (double)COMPUTE_MAX);
}

static bool lower_nodes(struct planner *s, struct parking *k)
{
    for (int i = 0; i < s->g->n_nodes; i++) {
        if (!s->is_alive[i])
            continue;
        operands_take(s, &s->g->nodes[i]);
        lower_node(&(struct lowering){s, i, k});
        version_advance(s, i);
        if (!cost_check(s, i))
            return false;
    }
    return true;
}

bool lower(struct planner *s)
{
    const int n = s->g->n_nodes;
    struct parking k = {.seen = ints_new(n, -1, s->a),
                        .wanted = ARENA_ARRAY(s->a, int64_t, n + 1),
                        .whole = ints_new(n, 0, s->a),
                        .of_version = ints_new(n, -1, s->a),
                        .copy = ints_new(n, 0, s->a),
                        .turn = ints_new(n, -1, s->a)};
    count_parked(s, &k);
    padding_open(s);
    if (!lower_nodes(s, &k) || !insides_lower(s))
        return false;
    lower_heads(s);
    padding_close(s);
    sort_drafts(s);
    return true;
}
