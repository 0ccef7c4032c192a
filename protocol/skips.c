/* Sets that stand for a module which is left out: what they give is the module's whole output, and
 * the same step of the same invoke looks at nothing inside it. The rows go without it where the
 * pass can arrange that, unless somebody looks at the output before it is replaced. */
#include "planner.h"
#include <string.h>

static const struct skippable {
    enum point output, first; /* of the points inside: those up to the output */
} skippables[] = {
    {PT_ln1_out, PT_ln1_in + 1},
    {PT_attn_out, PT_ln1_out + 1},
    {PT_ln2_out, PT_ln2_in + 1},
    {PT_mlp_out, PT_ln2_out + 1},
    {PT_block_out, PT_block_in + 1},
    {PT_lnf_out, PT_lnf_in + 1},
};

static bool check_inside(struct planner *s, int set, const struct root *r,
                         const struct skippable *module, int block)
{
    const int n_blocks = s->m->n_blocks;
    const int pass = r->turn / s->n_sites * s->n_sites;
    char site[SITE_TEXT_SIZE], output[SITE_TEXT_SIZE];
    for (int p = (int)module->first; p < (int)module->output; p++) {
        const int at = site_of((enum point)p, block, n_blocks);
        const int root = hook_find(s, r->invoke, pass + at);
        if (root >= 0)
            return node_refuse(s->e, &s->g->nodes[s->roots[root].node], -1, ERR_order,
                               "%s is inside the module that %s skips by setting %s",
                               site_text(site, at, n_blocks), s->g->nodes[set].place,
                               site_text(output, r->turn % s->n_sites, n_blocks));
    }
    return true;
}

static bool check_skip(struct planner *s, int set)
{
    const struct node *n = &s->g->nodes[set];
    const struct root *r = root_of(s, set);
    const bool is_whole = s->g->nodes[n->args[0].node].op == OP_hook;
    enum point p;
    int block;
    site_split(&p, &block, r->turn % s->n_sites, s->m->n_blocks);
    for (size_t i = 0; i < sizeof skippables / sizeof *skippables; i++) {
        if (is_whole && skippables[i].output == p)
            return check_inside(s, set, r, &skippables[i], block);
    }
    return node_refuse(s->e, n, 0, ERR_value,
                       "what can be skipped is a block, attn, mlp or a layernorm, by a set of its "
                       "whole output");
}

static bool asks_to_skip(const struct node *n)
{
    return n->op == OP_set && n->args[3].kind == ARG_bool && n->args[3].boolean;
}

bool skips_check(struct planner *s)
{
    for (int i = 0; i < s->g->n_nodes; i++) {
        if (asks_to_skip(&s->g->nodes[i]) && !check_skip(s, i))
            return false;
    }
    return true;
}

/* What rows go without. */

struct making {
    struct planner *s;
    int *seen_by;    /* of each root: the first node alive that reads it, or n_nodes */
    int *n_without;  /* [n_invokes][n_blocks] in how many steps there is no attention, and */
    int *last_pass;  /* [n_invokes][n_blocks] in which pass last */
    int skip_capacity;
};

static void find_readers(struct making *k)
{
    struct planner *s = k->s;
    const int n = s->g->n_nodes;
    for (int i = 0; i < s->n_roots; i++)
        k->seen_by[i] = n;
    for (int i = n - 1; i >= 0; i--) {
        if (!s->is_alive[i])
            continue;
        operands_take(s, &s->g->nodes[i]);
        for (int j = s->g->nodes[i].op == OP_set; j < s->n_in; j++)
            k->seen_by[s->value_roots[s->in[j]]] = i;
    }
}

/* Where the replacement is made of steps that may not come, the model's own output stays. */
static bool may_be_absent(struct planner *s, int set)
{
    const int n = s->p->n_invokes, own = root_of(s, set)->invoke;
    const int16_t *needs = s->needs ? s->needs + (int64_t)set * n : NULL;
    for (int i = 0; i < n && needs; i++) {
        if (i != own && needs[i] > 0)
            return true;
    }
    return false;
}

static int block_of(const struct making *k, const struct plan_skip *skip)
{
    return skip->invoke * k->s->m->n_blocks + skip->block;
}

static void skip_add(struct making *k, struct stop *stop, int set)
{
    struct planner *s = k->s;
    const struct root *r = root_of(s, set);
    struct plan_skip skip = {.invoke = r->invoke};
    enum point p;
    site_split(&p, &skip.block, stop->site, s->m->n_blocks);
    skip.stages[STAGE_attention] = p == PT_attn_out || p == PT_block_out;
    skip.stages[STAGE_mlp] = p == PT_mlp_out || p == PT_block_out;
    if (skip.stages[STAGE_attention] && k->last_pass[block_of(k, &skip)] != stop->pass) {
        k->last_pass[block_of(k, &skip)] = stop->pass;
        k->n_without[block_of(k, &skip)]++;
    }
    if (!skip.stages[STAGE_attention] && !skip.stages[STAGE_mlp])
        return; /* a layernorm is computed all the same */
    *(struct plan_skip *)arena_push(s->a, &s->p->skips, &s->p->n_skips, &k->skip_capacity,
                                    sizeof skip) = skip;
    stop->n_skips++;
}

/* By later steps, unless their attention is left out too, and by who hooks keys or values. Few
 * blocks are left out in all steps, since each step takes a node. */
static bool keys_are_needed(const struct making *k, int invoke, int block)
{
    struct planner *s = k->s;
    const struct plan_trace *t = &s->p->traces[s->p->invokes[invoke].trace];
    if (k->n_without[invoke * s->m->n_blocks + block] < t->n_steps)
        return true;
    for (int step = 0; step < t->n_steps; step++) {
        for (int p = PT_block_keys; p <= PT_block_values; p++) {
            const int site = site_of((enum point)p, block, s->m->n_blocks);
            if (hook_find(s, invoke, (t->pass_first + step) * s->n_sites + site) >= 0)
                return true;
        }
    }
    return false;
}

void skips_make(struct planner *s)
{
    bool any = false;
    for (int i = 0; i < s->g->n_nodes; i++)
        any |= s->is_alive[i] && asks_to_skip(&s->g->nodes[i]);
    if (!any)
        return;
    const int n = s->p->n_invokes * s->m->n_blocks;
    struct making k = {.s = s,
                       .seen_by = ARENA_ARRAY(s->a, int, (size_t)s->n_roots),
                       .n_without = ARENA_ARRAY(s->a, int, (size_t)n),
                       .last_pass = ARENA_ARRAY(s->a, int, (size_t)n)};
    memset(k.last_pass, -1, (size_t)n * sizeof *k.last_pass);
    find_readers(&k);
    for (int i = 0; i < s->p->n_stops; i++) {
        struct stop *stop = &s->p->stops[i];
        stop->first_skip = s->p->n_skips;
        for (int j = stop->first; j < stop->first + stop->n_actions; j++) {
            const int node = s->p->actions[j].node;
            if (s->p->actions[j].op == OP_set && asks_to_skip(&s->g->nodes[node]) &&
                k.seen_by[s->value_roots[node]] > node && !may_be_absent(s, node))
                skip_add(&k, stop, node);
        }
    }
    bool *needed = ARENA_ARRAY(s->a, bool, (size_t)n);
    for (int i = 0; i < n; i++)
        needed[i] = keys_are_needed(&k, i / s->m->n_blocks, i % s->m->n_blocks);
    for (int i = 0; i < s->p->n_skips; i++) {
        struct plan_skip *skip = &s->p->skips[i];
        skip->stages[STAGE_keys] = skip->stages[STAGE_attention] && !needed[block_of(&k, skip)];
    }
}
