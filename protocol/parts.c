#include "parts.h"
#include <string.h>

static int count_rows(const struct plan *p, int invoke)
{
    const struct plan_invoke *v = &p->invokes[invoke];
    const struct plan_trace *t = &p->traces[v->trace];
    const bool is_last = invoke == t->invoke_first + t->n_invokes - 1;
    return (is_last ? t->n_rows : v[1].row_first) - v->row_first;
}

static int count_logits(const struct plan *p, int invoke)
{
    const struct plan_invoke *v = &p->invokes[invoke];
    int n = 0;
    for (int k = 0; k < v->n_sequences; k++)
        n += v->sequences[k].n_logits;
    return n;
}

static void begin_part(struct graph *out, const struct trace *whole, const struct plan_invoke *v,
                       int invoke)
{
    struct trace *part = &out->traces[out->n_traces++];
    *part = *whole;
    part->invoke_first = invoke;
    part->n_invokes = 0;
    part->sequences_before = v->sequence_first;
}

void parts_cut(struct graph *out, const struct graph *g, const struct plan *p, int rows_max,
               int logits_max, struct arena *a)
{
    const size_t n = (size_t)g->n_invokes;
    *out = *g;
    out->n_traces = 0;
    out->traces = ARENA_ARRAY(a, struct trace, n); /* each has an invoke */
    out->invokes = ARENA_ARRAY(a, struct invoke, n);
    memcpy(out->invokes, g->invokes, n * sizeof *out->invokes);
    for (int i = 0, n_rows = 0, n_logits = 0; i < g->n_invokes; i++) {
        const struct trace *whole = &g->traces[g->invokes[i].trace];
        n_rows += count_rows(p, i);
        n_logits += count_logits(p, i);
        if (i == whole->invoke_first || n_rows > rows_max || n_logits > logits_max) {
            begin_part(out, whole, &p->invokes[i], i);
            n_rows = count_rows(p, i);
            n_logits = count_logits(p, i);
        }
        out->traces[out->n_traces - 1].n_invokes++;
        out->invokes[i].trace = out->n_traces - 1;
    }
}
