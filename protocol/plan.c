#include "planner.h"
#include <math.h>
#include <string.h>

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
    v->sequence_first = s->g->traces[v->trace].sequences_before + t->n_sequences;
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

/* More bytes than this are borrowed of the request; fewer are copied, so that all between two of
 * those go to the device at once. */
enum { GATHERED_BYTES_MAX = 1 << 16 };

static bool is_constant(const struct root *r)
{
    return r->constant && r->first <= r->last && r->bytes > 0;
}

/* A constant's part of the slab. */
static size_t room_of(const struct root *r)
{
    return ((size_t)r->bytes + 63) / 64 * 64;
}

static void open_constants(struct planner *s, char **bytes)
{
    size_t n_borrowed = 0, gathered = 0;
    for (int i = 0; i < s->n_roots; i++) {
        const struct root *r = &s->roots[i];
        if (!is_constant(r))
            continue;
        if (r->bytes > GATHERED_BYTES_MAX)
            n_borrowed++;
        else
            gathered += room_of(r);
    }
    s->p->constants = ARENA_ARRAY(s->a, struct plan_constants, 2 * n_borrowed + 1);
    *bytes = arena_alloc(s->a, gathered);
}

/* They lie on the slab as the roots do, one behind the other. */
static void make_constants(struct planner *s)
{
    struct plan *p = s->p;
    char *bytes;
    open_constants(s, &bytes);
    struct plan_constants *gathered = NULL;
    for (int i = 0; i < s->n_roots; i++) {
        const struct root *r = &s->roots[i];
        if (!is_constant(r))
            continue;
        const size_t size = (size_t)r->bytes;
        assert(r->base == (p->constant_bytes + 63) / 64 * 64);
        p->constant_bytes = r->base + size;
        if (r->bytes > GATHERED_BYTES_MAX) {
            p->constants[p->n_constants++] = (struct plan_constants){r->constant, r->base, size};
            gathered = NULL;
            continue;
        }
        if (!gathered) {
            gathered = &p->constants[p->n_constants++];
            *gathered = (struct plan_constants){bytes, r->base, 0};
        }
        memcpy(bytes, r->constant, size);
        bytes += room_of(r);
        gathered->bytes = p->constant_bytes - gathered->base;
    }
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
    const int n_blocks = count_blocks(s, t->last_site), step = plan_step(s->p, pass);
    double cost = 0;
    for (int i = t->invoke_first; i < t->invoke_first + t->n_invokes; i++) {
        const struct plan_invoke *v = &s->p->invokes[i];
        const int fork = step > 0 ? 0 : v->fork < n_blocks ? v->fork : n_blocks;
        const double blocks = n_blocks - fork, start = v->start;
        for (int k = 0; k < v->n_sequences; k++) {
            const double T = v->sequences[k].n_tokens, rows = step == 0 ? T - start : 1;
            const double keys = step == 0 ? rows * (start + T + 1) / 2 : T + step;
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
    rows_find_positions(s);
    rows_settle(s);
    rows_settle_logits(s);
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
    forks_find(&s);
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
