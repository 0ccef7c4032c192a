/* What every node is, one after the other in program order: its shape, its dtype, its root and the
 * moment at which it is known. Everything that is wrong with the graph is found here. */
#include "planner.h"
#include <stdio.h>
#include <string.h>

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

bool infer(struct planner *s)
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
