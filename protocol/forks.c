/* Invokes of one trace with the same prompts, as a sweep has them with one edit each. They have the
 * same rows in all blocks in front of the first that one of them changes, and at all positions
 * before it. One of them leads; the others have its rows as long as these are the same, as struct
 * plan_invoke says. */
#include "planner.h"
#include <string.h>

/* The block in front of which an invoke needs rows of its own for what a stop changes. Logits are
 * its own anyway. */
static int block_of_stop(const struct planner *s, const struct stop *stop)
{
    const int n_blocks = s->m->n_blocks;
    enum point p;
    int block;
    site_split(&p, &block, stop->site, n_blocks);
    if (p == PT_logits)
        return n_blocks;
    return p > PT_EACH_LAST ? n_blocks - 1 : block;
}

/* In front of which block each invoke is changed first in step 0; the number of blocks: of none. */
static void find_changes(struct planner *s)
{
    const struct plan *p = s->p;
    for (int i = 0; i < p->n_invokes; i++)
        p->invokes[i].fork = s->m->n_blocks;
    for (int i = 0; i < p->n_stops; i++) {
        const struct stop *stop = &p->stops[i];
        const int block = block_of_stop(s, stop);
        if (!stop->writes || plan_step(p, stop->pass) > 0)
            continue;
        for (int k = stop->first; k < stop->first + stop->n_actions; k++) {
            const struct action *a = &p->actions[k];
            if (a->op == OP_save || p->values[a->out].home != HOME_activation)
                continue;
            struct plan_invoke *v = &p->invokes[p->values[a->out].invoke];
            v->fork = block < v->fork ? block : v->fork;
        }
    }
}

/* Whether two invokes have the same rows in the same order. */
static bool same_rows(const struct planner *s, int a, int b)
{
    const struct plan_invoke *x = &s->p->invokes[a], *y = &s->p->invokes[b];
    if (x->n_sequences != y->n_sequences)
        return false;
    for (int k = 0; k < x->n_sequences; k++) {
        const struct plan_sequence *q = &x->sequences[k];
        if (q->n_tokens != y->sequences[k].n_tokens || q->source != y->sequences[k].source)
            return false;
    }
    for (int k = 0; k < x->n_sequences; k++) {
        const int32_t *tokens = s->g->invokes[a].prompts[k].tokens;
        if (memcmp(tokens, s->g->invokes[b].prompts[k].tokens,
                   (size_t)x->sequences[k].n_tokens * sizeof *tokens) != 0)
            return false;
    }
    return true;
}

/* Whether one invoke stays unchanged longer, or in more positions, than another. */
static bool leads_better(const struct plan_invoke *x, const struct plan_invoke *y)
{
    return x->fork > y->fork || (x->fork == y->fork && x->set_from > y->set_from);
}

/* Finds for each invoke of a trace the first with the same rows, and leaves with that one who leads
 * them all. */
static void find_leaders(struct planner *s, const struct plan_trace *t, int *first)
{
    struct plan_invoke *all = s->p->invokes;
    for (int i = t->invoke_first; i < t->invoke_first + t->n_invokes; i++) {
        int k = t->invoke_first;
        while (k < i && (first[k] != k || !same_rows(s, k, i)))
            k++;
        first[i] = k;
        if (k == i || leads_better(&all[i], &all[all[k].leader]))
            all[k].leader = i;
    }
}

/* From which position on a follower has rows: nothing looks at one before it, and neither it nor
 * its leader is changed there. Of several sequences it has all. */
static int start_of(const struct plan_invoke *v, const struct plan_invoke *leader)
{
    if (v->n_sequences > 1)
        return 0;
    const int touched = v->read_from < v->logits_from ? v->read_from : v->logits_from;
    return touched < leader->set_from ? touched : leader->set_from;
}

static void follow(struct planner *s, const struct plan_trace *t, const int *first)
{
    struct plan_invoke *all = s->p->invokes;
    for (int i = t->invoke_first + t->n_invokes - 1; i >= t->invoke_first; i--) {
        struct plan_invoke *v = &all[i];
        v->leader = all[first[i]].leader;
        v->start = v->leader == i ? 0 : start_of(v, &all[v->leader]);
        if (v->fork == 0 && v->start == 0)
            v->leader = i;
    }
    for (int i = t->invoke_first; i < t->invoke_first + t->n_invokes; i++) {
        if (all[i].leader == i)
            all[i].fork = 0;
    }
}

/* How many positions of an invoke's prompt nobody looks at, in whole pages, and never the whole
 * prompt; none where it has several. */
static int untouched(const struct plan_invoke *v)
{
    for (int k = 0; k < v->n_sequences; k++) {
        if (v->sequences[k].source != 0)
            return 0;
    }
    int n = v->n_tokens - 1;
    n = v->read_from < n ? v->read_from : n;
    n = v->logits_from < n ? v->logits_from : n;
    return n / PAGE_TOKENS * PAGE_TOKENS;
}

/* Rows, counted once for each block, that a follower does not compute. */
static int64_t rows_saved(const struct plan_invoke *v, int n_blocks)
{
    return (int64_t)n_blocks * v->n_tokens -
           (int64_t)(n_blocks - v->fork) * (v->n_tokens - v->start);
}

/* Who needs rows that its leader would leave to the cache could not follow it: so the leader has
 * those too, where that saves more of them than it takes. */
static void settle_cached(struct planner *s, const struct plan_trace *t, int leader)
{
    const int n_blocks = s->m->n_blocks;
    struct plan_invoke *all = s->p->invokes, *v = &all[leader];
    int least = v->cached_most;
    int64_t saved = 0;
    for (int i = t->invoke_first; i < t->invoke_first + t->n_invokes; i++) {
        if (all[i].leader != leader || all[i].cached_most >= v->cached_most)
            continue;
        least = all[i].cached_most < least ? all[i].cached_most : least;
        saved += rows_saved(&all[i], n_blocks);
    }
    if (saved > (int64_t)n_blocks * (v->cached_most - least))
        v->cached_most = least;
}

void forks_find(struct planner *s)
{
    const struct plan *p = s->p;
    int *first = ARENA_ARRAY(s->a, int, (size_t)p->n_invokes);
    find_changes(s);
    for (int i = 0; i < p->n_traces; i++) {
        find_leaders(s, &p->traces[i], first);
        follow(s, &p->traces[i], first);
    }
    for (int i = 0; i < p->n_invokes; i++)
        p->invokes[i].cached_most = untouched(&p->invokes[i]);
    for (int i = 0; i < p->n_invokes; i++) {
        if (p->invokes[i].leader == i)
            settle_cached(s, &p->traces[p->invokes[i].trace], i);
    }
}
