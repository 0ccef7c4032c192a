/* What runs a plan's stops: actions to calls of the backend. Nothing is allocated and no shape is
 * computed: the planner settled all that. */
#pragma once
#include "../kernels/gpt2.h"
#include "job.h"

/* Lets others run while a long graph works: called behind each piece of at most `most` (where an
 * action can be cut so far), with the multiply-adds that it took. */
struct breath {
    double most;
    void (*take)(void *context, double cost);
    void *context;
    void *state; /* PART_BYTES of the backend's, for rows in parts */
};

/* All actions of one of the job's stops, in order, until it is cancelled. `activation` is what the
 * model has at the stop's site, all rows of the pass (of the logits: the rows asked for), data NULL
 * for points that are gathered. The job's are those from its row_of on, of the logits from its
 * logits_of on. Stops at `next` and `generated` run when the step's token, or the last one, is
 * sampled. What is made of a step that its invoke did not reach is left out, and a save of it
 * marked in j->absent. Saved values have arrived in j->results behind the next fence. Without
 * `breath` it runs in one go. */
void dispatch_stop(struct job *j, const struct stop *stop, struct gpt2 *m,
                   const struct tensor *activation, const struct breath *breath);

/* Whether every index that the job's stops computed was in range; else what it is refused for,
 * with its node. To be asked behind the next fence, and before what was saved is believed. */
bool dispatch_check(const struct job *j, struct err *e);
