/* Sets that stand for a module which is left out: what they give is the module's whole output, and
 * the same step of the same invoke looks at nothing inside it. The pass computes the module all the
 * same: its rows lie between those of others. */
#include "planner.h"

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

bool skips_check(struct planner *s)
{
    for (int i = 0; i < s->g->n_nodes; i++) {
        const struct node *n = &s->g->nodes[i];
        if (n->op == OP_set && n->args[3].kind == ARG_bool && n->args[3].boolean &&
            !check_skip(s, i))
            return false;
    }
    return true;
}
