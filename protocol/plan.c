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
    const int copies = trace_copies(&s->g->traces[v->trace]);
    for (int i = 0; i < q->n_tokens; i++) {
        if (q->tokens[i] >= 0 && q->tokens[i] < s->m->vocab)
            continue;
        err_set(s->e, ERR_index, "token %d does not exist: this model has tokens 0 to %d",
                q->tokens[i], s->m->vocab - 1);
        if (v->n_prompts > copies)
            return err_at(s->e, -1, "%s.prompt[%d][%d]", v->place, prompt / copies, i);
        return err_at(s->e, -1, "%s.prompt[%d]", v->place, i);
    }
    return true;
}

static bool check_prompts(const struct planner *s, int invoke)
{
    const struct invoke *v = &s->g->invokes[invoke];
    if (v->n_prompts < 1) {
        err_set(s->e, ERR_value, "an invoke needs at least one prompt");
        return err_at(s->e, -1, "%s.prompt", v->place);
    }
    const int n_new = s->g->traces[v->trace].n_new_tokens;
    const int copies = trace_copies(&s->g->traces[v->trace]);
    for (int i = 0; i < v->n_prompts; i++) {
        const int n = v->prompts[i].n_tokens;
        if (n < 1)
            err_set(s->e, ERR_value, "a prompt needs at least one token: this one has none");
        else if (n > s->m->context - n_new)
            err_set(s->e, ERR_context,
                    "%d tokens and %d new ones are %d: this model's context is %d", n, n_new,
                    n + n_new, s->m->context);
        else if (check_tokens(s, invoke, i))
            continue;
        if (v->n_prompts > copies)
            return err_at(s->e, -1, "%s.prompt[%d]", v->place, i / copies);
        return err_at(s->e, -1, "%s.prompt", v->place);
    }
    return true;
}

/* Checks an invoke's prompts and gives it its sequences. */
static bool place_invoke(struct planner *s, int i)
{
    struct plan *p = s->p;
    if (!check_prompts(s, i))
        return false;
    struct plan_invoke *v = &p->invokes[i];
    v->trace = s->g->invokes[i].trace;
    struct plan_trace *t = &p->traces[v->trace];
    v->n_sequences = s->g->invokes[i].n_prompts;
    v->sequence_first = t->n_sequences;
    v->outcome_first = p->n_sequences;
    v->generated_first = p->n_generated;
    p->n_sequences += v->n_sequences;
    if (p->n_sequences > SEQUENCES_MAX) {
        err_set(s->e, ERR_limit, "%d prompts in one request: the limit is %d", p->n_sequences,
                SEQUENCES_MAX);
        return err_at(s->e, -1, "%sinvokes", s->g->traces[v->trace].place);
    }
    v->sequences = ARENA_ARRAY(s->a, struct plan_sequence, (size_t)v->n_sequences);
    for (int k = 0; k < v->n_sequences; k++) {
        const int n = s->g->invokes[i].prompts[k].n_tokens;
        v->sequences[k].n_tokens = n;
        v->is_ragged |= n != v->sequences[0].n_tokens;
        v->n_tokens = n > v->n_tokens ? n : v->n_tokens;
    }
    v->logits_from = t->samples ? v->n_tokens - 1 : v->n_tokens;
    t->n_sequences += v->n_sequences;
    p->n_generated += v->n_sequences * s->g->traces[v->trace].n_new_tokens;
    return true;
}

static bool place_trace(struct planner *s, int i)
{
    const struct trace *g = &s->g->traces[i];
    struct plan_trace *t = &s->p->traces[i];
    assert(g->n_new_tokens >= 0 && g->n_new_tokens <= NEW_TOKENS_MAX);
    if (g->n_invokes < 1) {
        err_set(s->e, ERR_value, "a request needs at least one prompt");
        return err_at(s->e, -1, "%sinvokes", g->place);
    }
    t->invoke_first = g->invoke_first;
    t->n_invokes = g->n_invokes;
    t->samples = g->n_new_tokens > 0;
    t->n_steps = t->samples ? g->n_new_tokens : 1;
    t->pass_first = s->p->n_passes;
    s->p->n_passes += t->n_steps;
    for (int k = 0; k < g->n_invokes; k++) {
        if (!place_invoke(s, g->invoke_first + k))
            return false;
    }
    return true;
}

static bool place_traces(struct planner *s)
{
    struct plan *p = s->p;
    p->n_traces = s->g->n_traces;
    p->n_invokes = s->g->n_invokes;
    p->traces = ARENA_ARRAY(s->a, struct plan_trace, (size_t)p->n_traces);
    p->invokes = ARENA_ARRAY(s->a, struct plan_invoke, (size_t)p->n_invokes);
    for (int i = 0; i < p->n_traces; i++) {
        if (!place_trace(s, i))
            return false;
    }
    p->passes = ARENA_ARRAY(s->a, struct plan_pass, (size_t)p->n_passes);
    for (int i = 0; i < p->n_traces; i++) {
        const struct plan_trace *t = &p->traces[i];
        for (int k = 0; k < t->n_steps; k++)
            p->passes[t->pass_first + k].trace = i;
    }
    return true;
}

/* Inference: one node after the other, in program order. */

static bool refuse_at(struct planner *s, const struct node *n, const char *field)
{
    return n->wire < 0 ? err_at(s->e, -1, "%s", n->place)
                       : err_at(s->e, n->wire, "%s.%s", n->place, field);
}

static bool is_inside(enum point p)
{
    return p == PT_scores || p == PT_pattern || p == PT_result;
}

static bool check_hook(struct planner *s, const struct node *n)
{
    if (n->invoke < 0 || n->invoke >= s->p->n_invokes) {
        err_set(s->e, ERR_index, "invoke %d does not exist: the request has invokes 0 to %d",
                n->invoke, s->p->n_invokes - 1);
        return refuse_at(s, n, "invoke");
    }
    const int n_steps = s->p->traces[s->p->invokes[n->invoke].trace].n_steps;
    if (n->hook.step < 0 || n->hook.step >= n_steps) {
        err_set(s->e, ERR_index, "step %d does not exist: the %s makes %d pass%s, steps 0 to %d",
                n->hook.step, s->p->n_traces > 1 ? "trace" : "request", n_steps,
                n_steps == 1 ? "" : "es", n_steps - 1);
        return refuse_at(s, n, "step");
    }
    if (n->hook.name->point == PT_next && !s->p->traces[s->p->invokes[n->invoke].trace].samples) {
        err_set(s->e, ERR_value, "%s is the token that a step samples: ask for max_new_tokens",
                n->hook.name->path);
        return n->wire < 0 ? err_at(s->e, -1, "%s", n->place)
                           : err_at(s->e, n->wire, "%s.args[0]", n->place);
    }
    return true;
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
    const struct plan_trace *t = &s->p->traces[v->trace];
    const enum point pt = n->hook.name->point;
    const int step = pt == PT_generated ? t->n_steps - 1 : n->hook.step;
    const int turn =
        (t->pass_first + step) * s->n_sites + site_of(pt, n->hook.block, s->m->n_blocks);
    const bool prompts = step == 0 || pt == PT_generated;
    out->dtype = point_dtype(pt);
    out->view = point_view(n->hook.name, s->m, v->n_sequences, prompts ? v->n_tokens : 1,
                           step ? v->n_tokens + step - 1 : 0,
                           s->g->traces[v->trace].n_new_tokens);
    if (!shape_allowed(n, out->dtype, out->view.rank, out->view.shape, s->e))
        return false;
    int *made = table_find(&s->hooks, (int64_t)n->invoke << 32 | turn);
    if (!*made && point_info[pt].row == ROW_none) {
        *made = 1 + slab_root(s, i, turn, out->dtype, &out->view);
        struct root *r = &s->roots[*made - 1];
        r->invoke = n->invoke;
        r->point = pt;
        r->readonly = !point_info[pt].writable;
        r->is_inside = is_inside(pt);
        s->is_new[i] = !r->is_inside;
    }
    s->value_roots[i] = hook_root(s, n->invoke, turn, i, pt);
    s->turns[i] = turn;
    return true;
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

static bool infer_parameter(struct planner *s, int i, struct value *out)
{
    const struct parameter_at *at = &s->g->nodes[i].parameter;
    s->value_roots[i] = parameter_root(s, at->name->parameter, at->block, i);
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

/* A moment of a pass, and whose rows brought it. */
struct moment {
    int turn, invoke;
};

/* When all operands are what the program says they are at this node. */
static struct moment operands_known(struct planner *s)
{
    struct moment known = {0, 0};
    for (int i = 0; i < s->n_in; i++) {
        const struct root *r = root_of(s, s->in[i]);
        if (r->set_turn > known.turn)
            known = (struct moment){r->set_turn, r->invoke};
    }
    return known;
}

static void operands_read(struct planner *s, struct moment at)
{
    for (int i = 0; i < s->n_in; i++) {
        struct root *r = root_of(s, s->in[i]);
        if (at.turn <= r->read_turn)
            continue;
        r->read_turn = at.turn;
        r->read_invoke = at.invoke;
    }
}

/* "transformer.h.2.output[0] of step 3 of invoke 1": what there are several of. */
enum { MOMENT_TEXT_SIZE = SITE_TEXT_SIZE + 48 };
static const char *moment_text(char *buffer, size_t size, const struct planner *s, struct moment m)
{
    const struct plan *p = s->p;
    const int pass = m.turn / s->n_sites;
    char site[SITE_TEXT_SIZE], step[32] = "", invoke[32] = "";
    site_text(site, m.turn % s->n_sites, s->m->n_blocks);
    if (p->traces[p->passes[pass].trace].n_steps > 1)
        snprintf(step, sizeof step, " of step %d", plan_step(p, pass));
    if (p->n_invokes > 1)
        snprintf(invoke, sizeof invoke, " of invoke %d", m.invoke);
    snprintf(buffer, size, "%s%s%s", site, step, invoke);
    return buffer;
}

static const char *readonly_text(char *buffer, const struct planner *s, const struct root *r)
{
    if (r->home == HOME_parameter)
        return parameter_text(buffer, (enum parameter)(r->base % PARAMETER_COUNT),
                              (int)(r->base / PARAMETER_COUNT));
    return site_text(buffer, r->turn % s->n_sites, s->m->n_blocks);
}

/* torch's set converts, its in-place ops do so only to a wider dtype. */
static bool check_in_place(struct planner *s, const struct node *n)
{
    const enum dtype own = s->p->values[s->in[0]].dtype, given = s->p->values[s->in[1]].dtype;
    const bool asks = n->args[2].kind == ARG_bool && n->args[2].boolean;
    if (!asks || dtype_promote(own, given) == own)
        return true;
    return node_refuse(s->e, n, 1, ERR_type,
                       "an in-place op gives %s, which cannot be put into %s: convert one of them, "
                       "or set it as x[...] = value, which converts",
                       dtype_name(given), dtype_name(own));
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
                           "set of %s, in which elements share their place, as expand and unfold "
                           "make it: clone it first",
                           SHAPE_TEXT(to));
    struct view wide, value = view_without_ones(from, to->rank);
    if (!view_expand(&wide, &value, to->rank, to->shape))
        return node_refuse(s->e, n, 1, ERR_shape,
                           "set: the value, %s, does not fit the target, %s", SHAPE_TEXT(from),
                           SHAPE_TEXT(to));
    return check_in_place(s, n);
}

/* The elements that are no padding. */
static int64_t count_touched(struct planner *s, const struct root *r, const struct view *to)
{
    if (r->is_inside && s->p->invokes[r->invoke].is_ragged)
        return inside_count_outside(s, r, to);
    return is_padded(s, r) ? padding_count_outside(s, r, to) : view_count(to);
}

static bool infer_set(struct planner *s, int i, struct value *out)
{
    const struct node *n = &s->g->nodes[i];
    if (!check_target(s, n))
        return false;
    struct root *r = root_of(s, s->in[0]);
    const struct view *to = &s->p->values[s->in[0]].view;
    s->p->touched[i] = count_touched(s, r, to);
    if (s->p->touched[i] == 0)
        return node_refuse(s->e, n, 0, ERR_shape,
                           "set of %s, which is padding alone: the prompts there are shorter",
                           SHAPE_TEXT(to));
    struct moment at = operands_known(s);
    if (is_passing(r) && at.turn > r->turn) {
        char site[MOMENT_TEXT_SIZE], known[MOMENT_TEXT_SIZE];
        return node_refuse(
            s->e, n, 1, ERR_order, "%s has passed when the new value is known, at %s",
            moment_text(site, sizeof site, s, (struct moment){r->turn, r->invoke}),
            moment_text(known, sizeof known, s, at));
    }
    if (!is_passing(r) && r->read_turn > at.turn)
        at = (struct moment){r->read_turn, r->read_invoke};
    operands_read(s, at);
    if (at.turn > r->set_turn)
        r->invoke = at.invoke;
    r->set_turn = at.turn;
    r->is_set = true;
    *out = s->p->values[s->in[0]];
    s->value_roots[i] = s->value_roots[s->in[0]];
    s->turns[i] = at.turn;
    return true;
}

static bool infer_save(struct planner *s, int i, struct value *out)
{
    const struct node *n = &s->g->nodes[i];
    *out = s->p->values[s->in[0]];
    s->value_roots[i] = s->value_roots[s->in[0]];
    const struct moment at = operands_known(s);
    s->turns[i] = at.turn;
    operands_read(s, at);
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
static bool find_outside(struct planner *s, int64_t *outside, int64_t at[RANK_MAX],
                         const int64_t *constant, const struct view *v, int64_t low, int64_t high)
{
    const struct view once = view_once(v);
    const int64_t count = view_count(&once);
    s->n_indices += count;
    for (int64_t i = 0; i < count; i++) {
        *outside = constant[element_at(&once, once.rank, i)];
        if (*outside >= low && *outside < high)
            continue;
        for (int k = once.rank - 1; k >= 0; k--) {
            at[k] = i % once.shape[k];
            i /= once.shape[k];
        }
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
    if (!find_outside(s, &outside, at, r->constant, index, wraps ? -size : 0, size))
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
    const struct moment at = operands_known(s);
    s->turns[i] = at.turn;
    if (s->is_new[i]) {
        operands_read(s, at);
        s->value_roots[i] = slab_root(s, i, at.turn, out->dtype, &out->view);
        root_of(s, i)->invoke = at.invoke;
    } else {
        s->value_roots[i] = s->value_roots[s->in[0]];
    }
    return true;
}

/* Before the graph's cost is known: planning itself would take too long. */
static bool check_indices(struct planner *s, const struct node *n)
{
    return s->n_indices <= INDICES_MAX ||
           node_refuse(s->e, n, -1, ERR_limit,
                       "up to here %lld constant indices have to be looked at before the graph "
                       "runs: the limit is %d",
                       (long long)s->n_indices, INDICES_MAX);
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
        if (!known || !check_indices(s, n))
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

static int trace_of(const struct planner *s, int turn)
{
    return s->p->passes[turn / s->n_sites].trace;
}

/* Somebody needs what there is at this moment. */
static void need_until(struct planner *s, int turn)
{
    int *last = &s->last_turns[trace_of(s, turn)];
    *last = turn > *last ? turn : *last;
}

static void begin_marking(struct planner *s)
{
    const struct plan *p = s->p;
    for (int i = 0; i < p->n_traces; i++) {
        const struct plan_trace *t = &p->traces[i];
        s->last_turns[i] = t->samples ? (t->pass_first + t->n_steps) * s->n_sites : -1;
    }
    for (int i = 0; i < s->g->n_nodes; i++) {
        if (s->g->nodes[i].op == OP_save)
            need_until(s, s->turns[i]);
    }
}

static bool is_needed(const struct planner *s, int i)
{
    const struct node *n = &s->g->nodes[i];
    const struct root *r = &s->roots[s->value_roots[i]];
    if (n->op != OP_set)
        return n->op == OP_save || (s->is_new[i] && r->needed_by);
    return is_passing(r) ? r->turn <= s->last_turns[trace_of(s, r->turn)] : r->needed_by > i + 1;
}

/* As many walks as there are traces: what a later trace needs of an earlier one makes that one's
 * changes of the model seen. Within a trace no change needs anything of a later moment. */
static void mark(struct planner *s)
{
    begin_marking(s);
    for (int walk = 0; walk < s->p->n_traces; walk++) {
        for (int i = s->g->n_nodes - 1; i >= 0; i--) {
            if (s->is_alive[i] || !is_needed(s, i))
                continue;
            s->is_alive[i] = true;
            need_until(s, s->turns[i]);
            operands_take(s, &s->g->nodes[i]);
            for (int k = 0; k < s->n_in; k++) {
                struct root *r = root_of(s, s->in[k]);
                r->needed_by = i + 1 > r->needed_by ? i + 1 : r->needed_by;
                need_until(s, r->turn);
            }
        }
    }
}

/* Rows on demand. */

static bool same_tokens(const struct prompt *a, const struct prompt *b)
{
    return a->n_tokens == b->n_tokens &&
           memcmp(a->tokens, b->tokens, (size_t)a->n_tokens * sizeof *a->tokens) == 0;
}

/* The first of an invoke's prompts that is the same as this one. */
static int first_equal(const struct planner *s, int invoke, int prompt)
{
    const struct prompt *prompts = s->g->invokes[invoke].prompts;
    int i = 0;
    while (i < prompt && !same_tokens(&prompts[i], &prompts[prompt]))
        i++;
    return i;
}

/* Gives the sequences of an invoke their rows and pages; returns how many rows. */
static int place_sequences(struct planner *s, int invoke, int n_steps)
{
    struct plan_invoke *v = &s->p->invokes[invoke];
    const bool may_copy = v->read_from == v->n_tokens;
    int n_rows = 0;
    for (int i = 0; i < v->n_sequences; i++) {
        struct plan_sequence *q = &v->sequences[i];
        q->source = may_copy ? first_equal(s, invoke, i) : i;
        q->row = q->source == i ? n_rows : v->sequences[q->source].row;
        q->page_first = s->p->n_listed;
        q->n_pages = (q->n_tokens + n_steps - 1 + PAGE_TOKENS - 1) / PAGE_TOKENS;
        s->p->n_listed += q->n_pages;
        s->p->n_pages += q->n_pages - plan_pages_copied(v->sequences, i);
        n_rows += q->source == i ? q->n_tokens : 0;
    }
    return n_rows;
}

static bool settle_rows(struct planner *s)
{
    struct plan *p = s->p;
    for (int i = 0; i < p->n_invokes; i++) {
        struct plan_trace *t = &p->traces[p->invokes[i].trace];
        p->invokes[i].row_first = t->n_rows;
        t->n_rows += place_sequences(s, i, t->n_steps);
        if (t->n_rows <= ROWS_MAX)
            continue;
        err_set(s->e, ERR_limit, "the prompts have %d tokens together: the limit is %d",
                t->n_rows, ROWS_MAX);
        return err_at(s->e, -1, "%sinvokes", s->g->traces[p->invokes[i].trace].place);
    }
    for (int i = 0; i < p->n_passes; i++) {
        const struct plan_trace *t = &p->traces[p->passes[i].trace];
        p->passes[i].n_rows = plan_step(p, i) == 0 ? t->n_rows : t->n_sequences;
        p->n_rows = p->passes[i].n_rows > p->n_rows ? p->passes[i].n_rows : p->n_rows;
    }
    return true;
}

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
    return r->home == HOME_activation && r->point == PT_logits && is_first(s, r->turn);
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
    if ((r->home != HOME_activation && !r->is_inside) || !is_first(s, r->turn))
        return;
    struct plan_invoke *v = &s->p->invokes[r->invoke];
    const struct view *view = &s->p->values[s->in[k]].view;
    /* What is inside of attention is made of all rows. */
    const int64_t from =
        r->is_inside ? 0 : first_position(view, v->n_tokens, point_row_stride(r->point, s->m));
    if (r->point == PT_logits) { /* one row at least, for a pass has no empty tensors */
        lower_to(&v->logits_from, from < v->n_tokens ? from : v->n_tokens - 1);
        v->touches_logits = true;
    } else {
        lower_to(&v->read_from, from);
    }
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
    for (int i = 0; i < p->n_invokes; i++) {
        struct plan_invoke *v = &p->invokes[i];
        struct plan_trace *t = &p->traces[v->trace];
        v->logits_first = t->n_logits;
        for (int k = 0; k < v->n_sequences; k++) {
            struct plan_sequence *q = &v->sequences[k];
            const int most = v->n_tokens - v->logits_from;
            q->logits_row = t->n_logits - v->logits_first;
            if (q->source == k || v->touches_logits)
                q->n_logits = q->n_tokens < most ? q->n_tokens : most;
            t->n_logits += q->n_logits;
        }
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
    for (int i = 0; i < p->n_passes; i++) { /* several where tokens are sampled */
        const struct plan_trace *t = &p->traces[p->passes[i].trace];
        const int n_logits = plan_step(p, i) == 0 ? t->n_logits : t->n_sequences;
        p->passes[i].n_logits = n_logits;
        p->n_logits = n_logits > p->n_logits ? n_logits : p->n_logits;
    }
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
                (struct stop){.pass = turn / s->n_sites, .site = turn % s->n_sites, .first = i};
        struct stop *stop = &p->stops[p->n_stops - 1];
        stop->n_actions++;
        stop->cost += a->cost;
        stop->n_saves += a->op == OP_save;
        stop->writes |= a->op != OP_save && p->values[a->out].home == HOME_activation;
        stop->gathers |= action_may_fault(a->op);
    }
}

static void find_last_sites(struct planner *s)
{
    const struct plan *p = s->p;
    const int logits = site_of(PT_logits, 0, s->m->n_blocks);
    for (int i = 0; i < p->n_stops; i++) {
        const struct stop *stop = &p->stops[i];
        struct plan_trace *t = &p->traces[p->passes[stop->pass].trace];
        if (stop->site <= logits && stop->site > t->last_site)
            t->last_site = stop->site;
    }
    for (int i = 0; i < p->n_traces; i++) {
        if (p->traces[i].samples)
            p->traces[i].last_site = logits;
    }
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
                              .step = plan_step(p, p->stops[i].pass),
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
static int count_blocks(const struct planner *s, int last_site)
{
    enum point last;
    int block;
    site_split(&last, &block, last_site, s->m->n_blocks);
    return last < PT_EACH_FIRST ? 0 : last > PT_EACH_LAST ? s->m->n_blocks : block + 1;
}

/* Of the tokens that a pass chooses. */
static double draws_cost(const struct planner *s, int trace)
{
    const struct sampling *how = &s->g->traces[trace].sampling;
    const struct plan_trace *t = &s->p->traces[trace];
    const int V = s->m->vocab;
    const bool sorts = (how->top_k > 0 && how->top_k < V) || how->top_p < 1;
    const int id = how->temperature == 0 ? GREEDY_COST : sorts ? SORTED_DRAW_COST : DRAW_COST;
    return t->samples ? (double)t->n_sequences * V * id : 0;
}

/* Multiply-adds of a pass to its last site, without the graph's own. */
static double pass_cost(const struct planner *s, int pass)
{
    const struct model_shape *m = s->m;
    const struct plan_pass *p = &s->p->passes[pass];
    const struct plan_trace *t = &s->p->traces[p->trace];
    const double D = m->width, row = 4 * D * D + 2 * D * m->inner, head = D * m->vocab;
    const double blocks = count_blocks(s, t->last_site);
    const int step = plan_step(s->p, pass);
    double cost = 0;
    for (int i = t->invoke_first; i < t->invoke_first + t->n_invokes; i++) {
        const struct plan_invoke *v = &s->p->invokes[i];
        for (int k = 0; k < v->n_sequences; k++) {
            const double T = v->sequences[k].n_tokens, rows = step == 0 ? T : 1;
            const double keys = step == 0 ? T * (T + 1) / 2 : T + step;
            if (step > 0 || v->sequences[k].source == k)
                cost += blocks * (rows * row + 2 * D * keys);
        }
    }
    return cost + p->n_logits * head + draws_cost(s, p->trace);
}

static void add_up_costs(struct planner *s)
{
    struct plan *p = s->p;
    for (int i = 0; i < p->n_stops; i++)
        p->passes[p->stops[i].pass].graph_cost += p->stops[i].cost;
    for (int i = 0; i < p->n_passes; i++) {
        p->passes[i].cost = pass_cost(s, i) + p->passes[i].graph_cost;
        p->cost += p->passes[i].cost;
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
    bool may_end_early = false;
    for (int i = 0; i < s->g->n_traces; i++)
        may_end_early |= trace_may_end_early(&s->g->traces[i]);
    if (may_end_early)
        s->p->needs = s->needs =
            ARENA_ARRAY(s->a, int16_t, (size_t)n * (size_t)s->p->n_invokes);
    s->n_sites = n_sites(s->m->n_blocks);
    s->hooks = table_new(n + s->p->n_invokes, s->a);
    s->parameters = table_new(2 * n, s->a); /* those of the graph, and of results */
    for (int i = 0; i < DT_COUNT; i++)
        s->numbers[i] = table_new(2 * n_numbers + 2, s->a); /* their own dtype and the op's; and
                                                               attention.c's */
    s->in = ARENA_ARRAY(s->a, int, n_in_max);
    s->in_values = ARENA_ARRAY(s->a, const struct value *, n_in_max);
    s->turns = ARENA_ARRAY(s->a, int, n + 1);
    s->p->touched = ARENA_ARRAY(s->a, int64_t, n + 1);
    s->last_turns = ARENA_ARRAY(s->a, int, (size_t)s->g->n_traces);
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
    if (!place_traces(s))
        return false;
    planner_open(s);
    if (!infer(s) || !skips_check(s))
        return false;
    mark(s);
    heads_choose(s);
    find_positions(s);
    if (!settle_rows(s))
        return false;
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
    skips_make(&s);
    find_last_sites(&s);
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
