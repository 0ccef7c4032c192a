#include "planner.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Tables from keys to small numbers. */

static struct table table_new(int n_max, struct arena *a)
{
    int size = 16;
    while (size < 2 * n_max)
        size *= 2;
    return (struct table){.keys = ARENA_ARRAY(a, int64_t, size),
                          .items = ARENA_ARRAY(a, int, size),
                          .mask = size - 1};
}

/* The place of this key's item: 0 where it is new. */
static int *table_find(struct table *t, int64_t key)
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

static int slab_root(struct planner *s, int node, int turn, enum dtype dtype,
                     const struct view *shape)
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

/* The request's prompts. */

static bool check_tokens(const struct planner *s, int invoke, int prompt)
{
    const struct invoke *v = &s->g->invokes[invoke];
    const struct prompt *q = &v->prompts[prompt];
    for (int i = 0; i < q->n_tokens; i++) {
        if (q->tokens[i] >= 0 && q->tokens[i] < s->m->vocab)
            continue;
        err_set(s->e, ERR_index, "token %d does not exist: this model has tokens 0 to %d",
                q->tokens[i], s->m->vocab - 1);
        if (v->n_prompts > graph_copies(s->g))
            return err_at(s->e, -1, "invokes[%d].prompt[%d][%d]", invoke,
                          prompt / graph_copies(s->g), i);
        return err_at(s->e, -1, "invokes[%d].prompt[%d]", invoke, i);
    }
    return true;
}

static bool check_prompts(const struct planner *s, int invoke)
{
    const struct invoke *v = &s->g->invokes[invoke];
    if (v->n_prompts < 1) {
        err_set(s->e, ERR_value, "an invoke needs at least one prompt");
        return err_at(s->e, -1, "invokes[%d].prompt", invoke);
    }
    const int T = v->prompts[0].n_tokens, n_new = s->g->n_new_tokens;
    for (int i = 0; i < v->n_prompts; i++) {
        const int n = v->prompts[i].n_tokens;
        if (n < 1)
            err_set(s->e, ERR_value, "a prompt needs at least one token: this one has none");
        else if (n > s->m->context - n_new)
            err_set(s->e, ERR_context,
                    "%d tokens and %d new ones are %d: this model's context is %d", n, n_new,
                    n + n_new, s->m->context);
        else if (n != T)
            err_set(s->e, ERR_shape,
                    "the prompts of one invoke must have the same number of tokens: %d and %d; "
                    "give each its own invoke",
                    T, n);
        else if (check_tokens(s, invoke, i))
            continue;
        if (v->n_prompts > graph_copies(s->g))
            return err_at(s->e, -1, "invokes[%d].prompt[%d]", invoke, i / graph_copies(s->g));
        return err_at(s->e, -1, "invokes[%d].prompt", invoke);
    }
    return true;
}

static bool check_counts(const struct planner *s, int64_t n_sequences, int64_t n_rows)
{
    if (n_sequences > SEQUENCES_MAX) {
        err_set(s->e, ERR_limit, "%lld prompts in one request: the limit is %d",
                (long long)n_sequences, SEQUENCES_MAX);
        return err_at(s->e, -1, "invokes");
    }
    if (n_rows > ROWS_MAX) {
        err_set(s->e, ERR_limit, "the prompts have %lld tokens together: the limit is %d",
                (long long)n_rows, ROWS_MAX);
        return err_at(s->e, -1, "invokes");
    }
    return true;
}

/* Checks the prompts and gives every invoke its rows, sequences and pages. */
static bool place_invokes(struct planner *s)
{
    struct plan *p = s->p;
    assert(s->g->n_new_tokens >= 0 && s->g->n_new_tokens <= NEW_TOKENS_MAX);
    p->samples = s->g->n_new_tokens > 0;
    p->n_steps = p->samples ? s->g->n_new_tokens : 1;
    p->n_invokes = s->g->n_invokes;
    p->invokes = ARENA_ARRAY(s->a, struct plan_invoke, p->n_invokes);
    if (p->n_invokes < 1) {
        err_set(s->e, ERR_value, "a request needs at least one prompt");
        return err_at(s->e, -1, "invokes");
    }
    for (int i = 0; i < p->n_invokes; i++) {
        if (!check_prompts(s, i))
            return false;
        struct plan_invoke *v = &p->invokes[i];
        v->n_sequences = s->g->invokes[i].n_prompts;
        v->n_tokens = s->g->invokes[i].prompts[0].n_tokens;
        v->row_first = p->n_rows;
        v->sequence_first = p->n_sequences;
        v->page_first = p->n_pages;
        v->n_pages = (v->n_tokens + p->n_steps - 1 + PAGE_TOKENS - 1) / PAGE_TOKENS;
        v->logits_from = p->samples ? v->n_tokens - 1 : v->n_tokens;
        const int64_t n_rows = p->n_rows + (int64_t)v->n_sequences * v->n_tokens;
        if (!check_counts(s, p->n_sequences + (int64_t)v->n_sequences, n_rows))
            return false;
        p->n_rows = (int)n_rows;
        p->n_sequences += v->n_sequences;
        p->n_pages += v->n_sequences * v->n_pages;
    }
    return true;
}

/* Inference: one node after the other, in program order. */

static bool refuse_at(struct planner *s, const struct node *n, const char *field)
{
    return n->wire < 0 ? err_at(s->e, -1, "%s", n->place)
                       : err_at(s->e, n->wire, "%s.%s", n->place, field);
}

static bool check_hook(struct planner *s, const struct node *n)
{
    if (n->invoke < 0 || n->invoke >= s->p->n_invokes) {
        err_set(s->e, ERR_index, "invoke %d does not exist: the request has invokes 0 to %d",
                n->invoke, s->p->n_invokes - 1);
        return refuse_at(s, n, "invoke");
    }
    if (n->hook.step < 0 || n->hook.step >= s->p->n_steps) {
        err_set(s->e, ERR_index,
                "step %d does not exist: the request makes %d pass%s, steps 0 to %d", n->hook.step,
                s->p->n_steps, s->p->n_steps == 1 ? "" : "es", s->p->n_steps - 1);
        return refuse_at(s, n, "step");
    }
    if (n->hook.name->point == PT_next && !s->p->samples) {
        err_set(s->e, ERR_value, "%s is the token that a step samples: ask for max_new_tokens",
                n->hook.name->path);
        return n->wire < 0 ? err_at(s->e, -1, "%s", n->place)
                           : err_at(s->e, n->wire, "%s.args[0]", n->place);
    }
    return true;
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

/* Early ends: what is made of a step of an invoke is there only if that invoke came so far. */

/* What a root is made of so far, as the node that makes or sets it leaves it. */
static void needs_pass_on(struct planner *s, int i)
{
    const int n = s->p->n_invokes;
    int16_t *needs = s->needs + (int64_t)i * n;
    for (int k = 0; k < n; k++)
        needs[k] = -1;
    for (int k = 0; k < s->n_in; k++) {
        const int16_t *from = root_of(s, s->in[k])->needs;
        for (int v = 0; v < n && from; v++)
            needs[v] = from[v] > needs[v] ? from[v] : needs[v];
    }
    const struct node *node = &s->g->nodes[i];
    struct root *r = &s->roots[s->value_roots[i]];
    for (int v = 0; v < n && node->op == OP_hook && r->needs; v++)
        needs[v] = r->needs[v];
    if (node->op == OP_hook && node->hook.name->point != PT_generated &&
        needs[node->invoke] < node->hook.step)
        needs[node->invoke] = (int16_t)node->hook.step;
    if (s->is_new[i] || node->op == OP_hook || node->op == OP_set)
        r->needs = needs;
}

/* All hooks of the same rows at the same site and step are views of one root. */
static bool infer_hook(struct planner *s, int i, struct value *out)
{
    const struct node *n = &s->g->nodes[i];
    if (!check_hook(s, n))
        return false;
    const struct plan_invoke *v = &s->p->invokes[n->invoke];
    const enum point pt = n->hook.name->point;
    const int step = pt == PT_generated ? s->p->n_steps - 1 : n->hook.step;
    const int turn = step * s->n_sites + site_of(pt, n->hook.block, s->m->n_blocks);
    const bool prompts = step == 0 || pt == PT_generated;
    out->dtype = point_dtype(pt);
    out->view = point_view(n->hook.name, s->m, v->n_sequences, prompts ? v->n_tokens : 1,
                           step ? v->n_tokens + step - 1 : 0, s->g->n_new_tokens);
    if (!shape_allowed(n, out->dtype, out->view.rank, out->view.shape, s->e))
        return false;
    int *gathered = table_find(&s->hooks, (int64_t)n->invoke << 32 | turn);
    if (!*gathered && point_info[pt].row == ROW_none) {
        *gathered = 1 + slab_root(s, i, turn, out->dtype, &out->view);
        s->roots[*gathered - 1].invoke = n->invoke;
        s->roots[*gathered - 1].point = pt;
        s->roots[*gathered - 1].readonly = true;
        s->is_new[i] = true;
    }
    s->value_roots[i] = hook_root(s, n->invoke, turn, i, pt);
    s->turns[i] = turn;
    return true;
}

/* All names of a parameter are views of one root. */
static bool infer_parameter(struct planner *s, int i, struct value *out)
{
    const struct parameter_at *at = &s->g->nodes[i].parameter;
    const enum parameter parameter = at->name->parameter;
    const int64_t number = (int64_t)at->block * PARAMETER_COUNT + parameter;
    int *root = table_find(&s->parameters, number);
    if (!*root)
        *root = 1 + root_add(s, (struct root){.home = HOME_parameter,
                                              .node = i,
                                              .base = (size_t)number,
                                              .is_packed = parameter_info[parameter].is_packed,
                                              .readonly = true});
    s->value_roots[i] = *root - 1;
    out->dtype = DT_f32;
    out->view = parameter_view(at->name, s->m);
    return shape_allowed(&s->g->nodes[i], out->dtype, out->view.rank, out->view.shape, s->e);
}

static bool infer_constant(struct planner *s, int i, struct value *out)
{
    const struct tensor *t = s->g->nodes[i].constant;
    if (!shape_allowed(&s->g->nodes[i], t->dtype, t->view.rank, t->view.shape, s->e))
        return false;
    out->dtype = t->dtype;
    out->view = view_of(t->view.rank, t->view.shape);
    s->value_roots[i] = slab_root(s, i, 0, t->dtype, &t->view);
    s->roots[s->value_roots[i]].constant =
        (const char *)t->data + (size_t)t->view.offset * dtype_size(t->dtype);
    return true;
}

/* The moment when all operands are what the program says they are at this node. */
static int operands_turn(struct planner *s)
{
    int turn = 0;
    for (int i = 0; i < s->n_in; i++) {
        const struct root *r = root_of(s, s->in[i]);
        turn = r->set_turn > turn ? r->set_turn : turn;
    }
    return turn;
}

static void operands_read(struct planner *s, int turn)
{
    for (int i = 0; i < s->n_in; i++) {
        struct root *r = root_of(s, s->in[i]);
        r->read_turn = turn > r->read_turn ? turn : r->read_turn;
    }
}

/* "transformer.h.2.output[0]", with its step where there are several. */
static const char *turn_text(char *buffer, size_t size, const struct planner *s, int turn)
{
    char site[SITE_TEXT_SIZE];
    site_text(site, turn % s->n_sites, s->m->n_blocks);
    if (s->p->n_steps > 1)
        snprintf(buffer, size, "%s of step %d", site, turn / s->n_sites);
    else
        snprintf(buffer, size, "%s", site);
    return buffer;
}

static const char *readonly_text(char *buffer, const struct planner *s, const struct root *r)
{
    if (r->home == HOME_parameter)
        return parameter_text(buffer, (enum parameter)(r->base % PARAMETER_COUNT),
                              (int)(r->base / PARAMETER_COUNT));
    return site_text(buffer, r->turn % s->n_sites, s->m->n_blocks);
}

static bool check_target(struct planner *s, const struct node *n)
{
    const struct root *r = root_of(s, s->in[0]);
    char site[SITE_TEXT_SIZE];
    if (r->number)
        return node_refuse(s->e, n, 0, ERR_type, "a number cannot be set, only a tensor");
    if (r->readonly)
        return node_refuse(s->e, n, 0, ERR_type, "%s can be read, but not set",
                           readonly_text(site, s, r));
    const struct view *to = &s->p->values[s->in[0]].view, *from = &s->p->values[s->in[1]].view;
    if (view_count(to) == 0)
        return node_refuse(s->e, n, 0, ERR_shape, "set of %s, which has no elements to change",
                           SHAPE_TEXT(to));
    if (view_shares(to))
        return node_refuse(s->e, n, 0, ERR_shape,
                           "set of %s, an expanded tensor in which elements share their place: "
                           "clone it first",
                           SHAPE_TEXT(to));
    struct view wide, value = view_without_ones(from, to->rank);
    if (!view_expand(&wide, &value, to->rank, to->shape))
        return node_refuse(s->e, n, 1, ERR_shape, "set of %s to %s", SHAPE_TEXT(to),
                           SHAPE_TEXT(from));
    return true;
}

static bool infer_set(struct planner *s, int i, struct value *out)
{
    const struct node *n = &s->g->nodes[i];
    if (!check_target(s, n))
        return false;
    struct root *r = root_of(s, s->in[0]);
    int turn = operands_turn(s);
    if (r->home == HOME_activation && turn > r->turn) {
        char site[SITE_TEXT_SIZE + 24], known[SITE_TEXT_SIZE + 24];
        return node_refuse(
            s->e, n, 1, ERR_order, "%s has passed when the new value is known, at %s",
            turn_text(site, sizeof site, s, r->turn), turn_text(known, sizeof known, s, turn));
    }
    if (r->home == HOME_slab && r->read_turn > turn)
        turn = r->read_turn;
    operands_read(s, turn);
    r->set_turn = turn;
    r->is_set = true;
    *out = s->p->values[s->in[0]];
    s->value_roots[i] = s->value_roots[s->in[0]];
    s->turns[i] = turn;
    return true;
}

static bool infer_save(struct planner *s, int i, struct value *out)
{
    const struct node *n = &s->g->nodes[i];
    *out = s->p->values[s->in[0]];
    s->value_roots[i] = s->value_roots[s->in[0]];
    s->turns[i] = operands_turn(s);
    operands_read(s, s->turns[i]);
    if (++s->p->n_saves > SAVES_MAX)
        return node_refuse(s->e, n, -1, ERR_limit, "more than %d saves in one request", SAVES_MAX);
    s->result_bytes += (view_count(&out->view) * (int64_t)dtype_size(out->dtype) + 63) / 64 * 64;
    if (s->result_bytes > RESULT_BYTES_MAX)
        return node_refuse(s->e, n, -1, ERR_limit,
                           "with this one the saves take %lld bytes: the limit is %lld",
                           (long long)s->result_bytes, (long long)RESULT_BYTES_MAX);
    return true;
}

/* The first element of a constant's view that lies outside low .. high - 1, in row-major order.
 * What is repeated is looked at once. */
static bool find_outside(int64_t *outside, int64_t at[RANK_MAX], const int64_t *constant,
                         const struct view *v, int64_t low, int64_t high)
{
    const struct view once = view_once(v);
    const int64_t count = view_count(&once);
    for (int64_t i = 0; i < count; i++) {
        int64_t place = v->offset, rest = i;
        for (int k = v->rank - 1; k >= 0; k--) {
            at[k] = rest % once.shape[k];
            place += at[k] * v->stride[k];
            rest /= once.shape[k];
        }
        *outside = constant[place];
        if (*outside < low || *outside >= high)
            return true;
    }
    return false;
}

const char *plan_indexed(char *buffer, const struct plan *p, const struct node *n)
{
    const struct arg *x = &n->args[0];
    const int64_t asked = n->args[1].integer;
    if (n->op == OP_wrap_index) {
        snprintf(buffer, INDEXED_TEXT_SIZE, "a dimension of size %lld", (long long)asked);
        return buffer;
    }
    const struct view *v = x->kind == ARG_node ? &p->values[x->node].view : NULL;
    const bool is_scalar = !v || v->rank == 0;
    const int dim = (int)(is_scalar ? 0 : asked < 0 ? asked + v->rank : asked);
    snprintf(buffer, INDEXED_TEXT_SIZE, "dimension %d of size %lld", dim,
             (long long)(is_scalar ? 1 : v->shape[dim]));
    return buffer;
}

static bool has_index(enum op op)
{
    return op == OP_gather || op == OP_index_select || op == OP_wrap_index || op == OP_scatter ||
           op == OP_scatter_add;
}

/* A constant index is checked here, another one when it is known. */
static bool check_index(struct planner *s, const struct node *n)
{
    const bool wraps = n->op == OP_wrap_index;
    const int value = s->in[wraps ? 0 : 1];
    const struct root *r = root_of(s, value);
    if (!r->constant || r->is_set)
        return true;
    const struct view *x = &s->p->values[s->in[0]].view, *index = &s->p->values[value].view;
    const int64_t asked = n->args[1].integer;
    const int64_t size = wraps          ? asked
                         : x->rank == 0 ? 1
                                        : x->shape[asked < 0 ? asked + x->rank : asked];
    int64_t outside, at[RANK_MAX];
    if (!find_outside(&outside, at, r->constant, index, wraps ? -size : 0, size))
        return true;
    struct view place = {.rank = index->rank};
    memcpy(place.shape, at, sizeof at);
    char indexed[INDEXED_TEXT_SIZE];
    return node_refuse(s->e, n, wraps ? 0 : 2, ERR_index,
                       "%s: the index at %s is %lld, which is out of range for %s",
                       op_info[n->op].name, SHAPE_TEXT(&place), (long long)outside,
                       plan_indexed(indexed, s->p, n));
}

static bool infer_op(struct planner *s, int i, struct value *out)
{
    const struct node *n = &s->g->nodes[i];
    const struct shape_query q = operands_query(s, n);
    if (!shape_infer(out, &s->is_new[i], &q, s->e))
        return false;
    if (has_index(n->op) && !check_index(s, n))
        return false;
    s->turns[i] = operands_turn(s);
    if (s->is_new[i]) {
        operands_read(s, s->turns[i]);
        s->value_roots[i] = slab_root(s, i, s->turns[i], out->dtype, &out->view);
    } else {
        s->value_roots[i] = s->value_roots[s->in[0]];
    }
    return true;
}

static bool infer(struct planner *s)
{
    for (int i = 0; i < s->g->n_nodes; i++) {
        const struct node *n = &s->g->nodes[i];
        struct value out = {.home = HOME_slab};
        operands_take(s, n);
        bool known = n->op == OP_hook        ? infer_hook(s, i, &out)
                     : n->op == OP_parameter ? infer_parameter(s, i, &out)
                     : n->op == OP_constant  ? infer_constant(s, i, &out)
                     : n->op == OP_set       ? infer_set(s, i, &out)
                     : n->op == OP_save      ? infer_save(s, i, &out)
                                             : infer_op(s, i, &out);
        if (!known)
            return false;
        if (s->needs)
            needs_pass_on(s, i);
        const struct root *r = root_of(s, i);
        out.home = r->home;
        out.invoke = r->invoke;
        s->p->values[i] = out;
    }
    return true;
}

/* What is needed. */

/* The last moment whose changes of the model anyone will see. */
static int last_turn(const struct planner *s)
{
    int turn = -1;
    for (int i = 0; i < s->g->n_nodes; i++) {
        if (s->g->nodes[i].op == OP_save && s->turns[i] > turn)
            turn = s->turns[i];
    }
    return s->p->samples ? s->p->n_steps * s->n_sites : turn;
}

static void mark(struct planner *s)
{
    const int last = last_turn(s);
    for (int i = s->g->n_nodes - 1; i >= 0; i--) {
        const struct node *n = &s->g->nodes[i];
        const struct root *r = root_of(s, i);
        if (n->op == OP_set)
            s->is_alive[i] = r->home == HOME_activation ? r->turn <= last : r->needed;
        else
            s->is_alive[i] = n->op == OP_save || (s->is_new[i] && r->needed);
        if (!s->is_alive[i])
            continue;
        operands_take(s, n);
        for (int k = 0; k < s->n_in; k++)
            root_of(s, s->in[k])->needed = true;
    }
}

/* Rows on demand. */

/* The first position of any sequence that a view of rows for all T positions touches; 0 where one
 * of its dimensions walks from one sequence into the next. */
static int64_t first_position(const struct view *v, int64_t T, int64_t row)
{
    if (view_count(v) == 0)
        return T;
    const int64_t sequence = T * row, inside = v->offset % sequence;
    int64_t end = inside;
    for (int i = 0; i < v->rank; i++) {
        if (v->shape[i] > 1 && v->stride[i] % sequence != 0)
            end += (v->shape[i] - 1) * v->stride[i];
    }
    return end < sequence ? inside / row : 0;
}

/* The same elements where only the positions from `from` on exist. */
static void drop_positions(struct view *v, int64_t T, int64_t V, int64_t from)
{
    const int64_t sequence = T * V, kept = (T - from) * V;
    v->offset = v->offset / sequence * kept + v->offset % sequence - from * V;
    for (int i = 0; i < v->rank; i++) {
        if (v->stride[i] % sequence == 0)
            v->stride[i] = v->stride[i] / sequence * kept;
    }
}

static bool is_first_logits(struct planner *s, int value)
{
    const struct root *r = root_of(s, value);
    return r->home == HOME_activation && r->point == PT_logits && r->turn < s->n_sites;
}

static void lower_to(int *from, int64_t position)
{
    if (position < *from)
        *from = (int)position;
}

/* An operand of a node in step 0: whose rows of which positions it needs. */
static void find_position(struct planner *s, const struct node *n, int k)
{
    const struct root *r = root_of(s, s->in[k]);
    if (r->home != HOME_activation || r->turn >= s->n_sites)
        return;
    struct plan_invoke *v = &s->p->invokes[r->invoke];
    const struct view *view = &s->p->values[s->in[k]].view;
    const int64_t from = first_position(view, v->n_tokens, point_row_stride(r->point, s->m));
    if (r->point == PT_logits) /* one row at least, for a pass has no empty tensors */
        lower_to(&v->logits_from, from < v->n_tokens ? from : v->n_tokens - 1);
    lower_to(&v->read_from, from);
    if (n->op == OP_set && k == 0)
        lower_to(&v->set_from, from);
}

static void find_positions(struct planner *s)
{
    for (int i = 0; i < s->p->n_invokes; i++)
        s->p->invokes[i].read_from = s->p->invokes[i].set_from = s->p->invokes[i].n_tokens;
    for (int i = 0; i < s->g->n_nodes; i++) {
        if (!s->is_alive[i])
            continue;
        operands_take(s, &s->g->nodes[i]);
        for (int k = 0; k < s->n_in; k++)
            find_position(s, &s->g->nodes[i], k);
    }
    for (int i = 0; i < s->n_heads; i++) {
        struct plan_invoke *v = &s->p->invokes[s->roots[s->heads[i].root].invoke];
        const struct view *view = &s->p->values[s->heads[i].input].view;
        lower_to(&v->read_from, first_position(view, v->n_tokens, s->m->width));
    }
}

static void settle_logits(struct planner *s)
{
    struct plan *p = s->p;
    find_positions(s);
    for (int i = 0; i < p->n_invokes; i++) {
        struct plan_invoke *v = &p->invokes[i];
        v->logits_first = p->n_logits;
        p->n_logits += v->n_sequences * (v->n_tokens - v->logits_from);
    }
    for (int i = 0; i < s->g->n_nodes; i++) {
        if (!is_first_logits(s, i) || view_count(&p->values[i].view) == 0)
            continue;
        const struct plan_invoke *v = &p->invokes[root_of(s, i)->invoke];
        struct view *view = &p->values[i].view;
        /* Views that reach further back are read by nobody, or all positions are kept. */
        if (v->logits_from > 0 && first_position(view, v->n_tokens, s->m->vocab) >= v->logits_from)
            drop_positions(view, v->n_tokens, s->m->vocab, v->logits_from);
    }
    p->logits_wanted = ARENA_ARRAY(s->a, bool, p->n_steps);
    for (int i = 0; i < p->n_steps; i++)
        p->logits_wanted[i] = p->samples || p->n_logits > 0;
}

struct view root_rows(const struct planner *s, const struct root *r)
{
    if (r->home == HOME_parameter)
        return parameter_matrix((enum parameter)(r->base % PARAMETER_COUNT), s->m);
    const struct plan_invoke *v = &s->p->invokes[r->invoke];
    const bool first = r->turn < s->n_sites, part = r->point >= PT_query && r->point <= PT_value;
    const int64_t T = !first                  ? 1
                      : r->point == PT_logits ? v->n_tokens - v->logits_from
                                              : v->n_tokens;
    const int64_t row = point_row_stride(r->point, s->m);
    return (struct view){
        .rank = 2, .shape = {v->n_sequences * T, part ? s->m->width : row}, .stride = {row, 1}};
}

/* The results of all phases. */

static int count_stops(const struct planner *s)
{
    int count = 0;
    for (int i = 0; i < s->p->n_actions; i++)
        count += i == 0 || s->drafts[i].key >> 32 != s->drafts[i - 1].key >> 32;
    return count;
}

static void make_stops(struct planner *s)
{
    struct plan *p = s->p;
    p->stops = ARENA_ARRAY(s->a, struct stop, count_stops(s));
    for (int i = 0; i < p->n_actions; i++) {
        const int turn = (int)(s->drafts[i].key >> 32);
        const struct action *a = &p->actions[i];
        if (i == 0 || turn != s->drafts[i - 1].key >> 32)
            p->stops[p->n_stops++] =
                (struct stop){.step = turn / s->n_sites, .site = turn % s->n_sites, .first = i};
        struct stop *stop = &p->stops[p->n_stops - 1];
        stop->n_actions++;
        stop->cost += a->cost;
        stop->n_saves += a->op == OP_save;
        stop->writes |= a->op == OP_set && p->values[a->out].home == HOME_activation;
        stop->gathers |= action_may_fault(a->op);
    }
    const int logits = site_of(PT_logits, 0, s->m->n_blocks);
    for (int i = 0; i < p->n_stops; i++) {
        if (p->stops[i].site <= logits && p->stops[i].site > p->last_site)
            p->last_site = p->stops[i].site;
    }
    if (p->samples)
        p->last_site = logits;
}

static const char *save_name(const struct planner *s, const struct node *n)
{
    if (n->name)
        return n->name;
    if (n->args[0].kind == ARG_node && s->g->nodes[n->args[0].node].name)
        return s->g->nodes[n->args[0].node].name;
    return arena_format(s->a, "node %d", n->wire);
}

static void make_saves(struct planner *s)
{
    struct plan *p = s->p;
    p->saves = ARENA_ARRAY(s->a, struct save, p->n_saves);
    int n = 0;
    for (int i = 0; i < p->n_stops; i++) {
        for (int k = 0; k < p->stops[i].n_actions; k++) {
            struct action *a = &p->actions[p->stops[i].first + k];
            if (a->op != OP_save)
                continue;
            const struct value *v = &p->values[a->in[0]];
            p->saves[n] =
                (struct save){.node = a->node,
                              .name = save_name(s, &s->g->nodes[a->node]),
                              .step = p->stops[i].step,
                              .dtype = v->dtype,
                              .view = view_of(v->view.rank, v->view.shape),
                              .offset = p->result_bytes,
                              .bytes = (size_t)view_count(&v->view) * dtype_size(v->dtype)};
            p->result_bytes += (p->saves[n].bytes + 63) / 64 * 64;
            a->out = n++;
        }
    }
    assert(n == p->n_saves);
}

static void use_root(struct planner *s, int value, int action)
{
    struct root *r = root_of(s, value);
    if (r->first > r->last)
        r->first = r->constant ? 0 : action;
    r->last = action;
}

bool action_may_fault(enum op op)
{
    return op == OP_gather || op == OP_scatter || op == OP_scatter_add;
}

int action_n_in(enum op op)
{
    const bool three = op == OP_where || action_may_fault(op);
    const bool two = op == OP_matmul || op_info[op].kind == OPK_binary;
    return op == OP_hook ? 0 : three ? 3 : two ? 2 : 1;
}

static void use_action(struct planner *s, const struct action *a, int at)
{
    for (int k = 0; k < action_n_in(a->op); k++)
        use_root(s, a->in[k], at);
    if (a->op != OP_save)
        use_root(s, a->out, at);
}

/* What is not written anew in each round of a loop has to last for all of them. */
static void use_loop(struct planner *s, const struct loop *l, int at)
{
    for (int i = l->first; i < l->first + l->n_actions; i++) {
        const struct action *a = &s->p->actions[i];
        for (int k = 0; k < action_n_in(a->op); k++) {
            if (!root_of(s, a->in[k])->is_tile)
                use_root(s, a->in[k], at);
        }
        if (!root_of(s, a->out)->is_tile)
            use_root(s, a->out, at);
    }
}

static void use_roots(struct planner *s)
{
    const struct plan *p = s->p;
    for (int i = 0; i < p->n_actions; i++) {
        const struct action *a = &p->actions[i];
        const struct loop *l = a->loop ? &p->loops[a->loop - 1] : NULL;
        if (l && i == l->first)
            use_loop(s, l, i);
        use_action(s, a, i);
        if (l && i == l->first + l->n_actions - 1)
            use_loop(s, l, i);
    }
}

static bool make_slab(struct planner *s)
{
    struct plan *p = s->p;
    use_roots(s);
    if (p->faults) /* looked at behind each stop that gathers */
        root_of(s, p->faults)->last = p->n_actions - 1;
    p->slab_bytes = lifetimes_fold(s->roots, s->n_roots, p->n_actions, s->a);
    if (p->slab_bytes > (size_t)SLAB_BYTES_MAX)
        return err_set(s->e, ERR_limit,
                       "the graph keeps values of %zu bytes at the same time: the limit is %lld",
                       p->slab_bytes, (long long)SLAB_BYTES_MAX);
    for (int i = 0; i < p->n_values; i++)
        p->values[i].base = root_of(s, i)->base;
    return true;
}

static void make_constants(struct planner *s)
{
    for (int i = 0; i < s->n_roots; i++) {
        const struct root *r = &s->roots[i];
        if (r->constant && r->first <= r->last && r->base + (size_t)r->bytes > s->p->constant_bytes)
            s->p->constant_bytes = r->base + (size_t)r->bytes;
    }
    char *bytes = arena_alloc(s->a, s->p->constant_bytes);
    for (int i = 0; i < s->n_roots; i++) {
        const struct root *r = &s->roots[i];
        if (r->constant && r->first <= r->last)
            memcpy(bytes + r->base, r->constant, (size_t)r->bytes);
    }
    s->p->constants = bytes;
}

/* Blocks whose work a pass does, wholly or in part. */
static int count_blocks(const struct planner *s)
{
    enum point last;
    int block;
    site_split(&last, &block, s->p->last_site, s->m->n_blocks);
    return last < PT_EACH_FIRST ? 0 : last > PT_EACH_LAST ? s->m->n_blocks : block + 1;
}

/* Multiply-adds of a pass to its last site, without the graph's own. */
static double pass_cost(const struct planner *s, int step)
{
    const struct model_shape *m = s->m;
    const double D = m->width, row = 4 * D * D + 2 * D * m->inner, head = D * m->vocab;
    const double blocks = count_blocks(s);
    double cost = 0;
    for (int i = 0; i < s->p->n_invokes; i++) {
        const double B = s->p->invokes[i].n_sequences, T = s->p->invokes[i].n_tokens;
        const double rows = step == 0 ? T : 1, keys = step == 0 ? T * (T + 1) / 2 : T + step;
        cost += B * blocks * (rows * row + 2 * D * keys);
    }
    const double n_logits = step == 0 ? s->p->n_logits : s->p->n_sequences;
    return cost + (s->p->logits_wanted[step] ? n_logits * head : 0);
}

static void add_up_costs(struct planner *s)
{
    struct plan *p = s->p;
    p->graph_costs = ARENA_ARRAY(s->a, double, (size_t)p->n_steps);
    p->step_costs = ARENA_ARRAY(s->a, double, (size_t)p->n_steps);
    for (int i = 0; i < p->n_stops; i++)
        p->graph_costs[p->stops[i].step] += p->stops[i].cost;
    for (int i = 0; i < p->n_steps; i++) {
        p->step_costs[i] = pass_cost(s, i) + p->graph_costs[i];
        p->cost += p->step_costs[i];
    }
}

static void planner_open(struct planner *s)
{
    const int n = s->g->n_nodes;
    int n_numbers = 0, n_listed = 0, n_in_max = PARAMS_MAX;
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < PARAMS_MAX; k++) {
            const struct arg *a = &s->g->nodes[i].args[k];
            n_numbers += a->kind == ARG_int || a->kind == ARG_float || a->kind == ARG_bool;
            const int n_list = a->kind == ARG_nodes ? a->count : 0;
            n_listed += n_list;
            n_in_max = n_list + PARAMS_MAX > n_in_max ? n_list + PARAMS_MAX : n_in_max;
        }
    }
    if (graph_may_end_early(s->g) && s->p->n_steps > 1)
        s->p->needs = s->needs =
            ARENA_ARRAY(s->a, int16_t, (size_t)n * (size_t)s->p->n_invokes);
    s->n_sites = n_sites(s->m->n_blocks);
    s->hooks = table_new(n + s->p->n_invokes, s->a);
    s->parameters = table_new(n, s->a);
    for (int i = 0; i < DT_COUNT; i++)
        s->numbers[i] = table_new(2 * n_numbers, s->a); /* their own dtype and the op's */
    s->in = ARENA_ARRAY(s->a, int, n_in_max);
    s->in_values = ARENA_ARRAY(s->a, const struct value *, n_in_max);
    s->turns = ARENA_ARRAY(s->a, int, n + 1);
    s->is_new = ARENA_ARRAY(s->a, bool, n + 1);
    s->is_alive = ARENA_ARRAY(s->a, bool, n + 1);
    /* Enough for most graphs; the arrays grow where it is not. */
    s->draft_capacity = n + n_listed + 64;
    s->drafts = ARENA_ARRAY(s->a, struct draft, s->draft_capacity);
    s->value_capacity = s->value_root_capacity = 2 * n + n_numbers + n_listed + 64;
    s->p->values = ARENA_ARRAY(s->a, struct value, s->value_capacity);
    s->value_roots = ARENA_ARRAY(s->a, int, s->value_root_capacity);
    s->p->n_values = s->n_value_roots = n;
}

static void make_actions(struct planner *s)
{
    struct plan *p = s->p;
    p->n_actions = s->n_drafts;
    p->actions = ARENA_ARRAY(s->a, struct action, (size_t)s->n_drafts);
    for (int i = s->n_drafts - 1; i >= 0; i--) {
        p->actions[i] = s->drafts[i].action;
        p->actions[i].loop = s->drafts[i].loop;
        if (s->drafts[i].loop)
            p->loops[s->drafts[i].loop - 1].first = i;
    }
}

/* To the actions in their order. `*again`: not, but with the model's own logits it may succeed. */
static bool make_order(struct planner *s, bool *again)
{
    *again = false;
    if (!place_invokes(s))
        return false;
    planner_open(s);
    if (!infer(s))
        return false;
    mark(s);
    heads_choose(s);
    settle_logits(s);
    if (!lower(s))
        return false;
    *again = !tiles_make(s);
    if (!*again)
        make_actions(s);
    return !*again;
}

bool plan_build(struct plan *p, const struct graph *g, const struct model_shape *m, struct arena *a,
                struct err *e)
{
    *p = (struct plan){0};
    struct planner s = {.p = p, .g = g, .m = m, .a = a, .e = e};
    bool again;
    if (!make_order(&s, &again)) {
        if (!again)
            return false;
        *p = (struct plan){0};
        s = (struct planner){.p = p, .g = g, .m = m, .a = a, .e = e, .whole_logits = true};
        if (!make_order(&s, &again))
            return false;
    }
    make_stops(&s);
    make_saves(&s);
    if (!make_slab(&s))
        return false;
    make_constants(&s);
    add_up_costs(&s);
    return true;
}

const struct value *plan_value(const struct plan *p, int node)
{
    return &p->values[node];
}
