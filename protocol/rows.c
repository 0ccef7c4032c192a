/* Rows on demand: from which position on anybody looks, how many rows the sequences of a pass have,
 * and of which of them there are logits. */
#include "planner.h"
#include <string.h>

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

void rows_settle(struct planner *s)
{
    struct plan *p = s->p;
    for (int i = 0; i < p->n_invokes; i++) {
        struct plan_trace *t = &p->traces[p->invokes[i].trace];
        p->invokes[i].row_first = t->n_rows;
        t->n_rows += place_sequences(s, i, t->n_steps);
    }
    for (int i = 0; i < p->n_passes; i++) {
        const struct plan_trace *t = &p->traces[p->passes[i].trace];
        p->passes[i].n_rows = plan_step(p, i) == 0 ? t->n_rows : t->n_sequences;
        p->n_rows = p->passes[i].n_rows > p->n_rows ? p->passes[i].n_rows : p->n_rows;
    }
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

void rows_find_positions(struct planner *s)
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

void rows_settle_logits(struct planner *s)
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
