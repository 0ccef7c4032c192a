/* A trace whose prompts are too many for one pass goes in parts: traces that follow one another,
 * each of as many of its invokes, in their order, as a pass takes. What a user gets is the same. */
#pragma once
#include "plan.h"

/* `out` is `g`, of which `p` is the plan, with the traces cut that have more than rows_max rows, or
 * more than logits_max of logits. It borrows the rest from `g`. An invoke that is too large by
 * itself is a part of its own, and too large still; one that reads an invoke of a later part cannot
 * be planned (order). */
void parts_cut(struct graph *out, const struct graph *g, const struct plan *p, int rows_max,
               int logits_max, struct arena *a);
