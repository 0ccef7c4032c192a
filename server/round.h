/* One pass and the jobs that are in it: their rows, their stops at the hook points, the tokens that
 * are sampled behind it. A round is reused pass after pass, one for each lane of the model. Belongs
 * to the engine thread; nothing is allocated behind round_new. */
#pragma once
#include "../kernels/gpt2.h"
#include "job.h"

struct round;

struct round_hooks {
    /* The job is through with this step, or was cancelled in it, and no longer in the round. Comes
     * as soon as the last of what it wants has arrived, which can be long before the pass ends. */
    void (*left)(void *context, struct job *j);
    /* The pass pauses, between blocks and within long graphs, after work of this many
     * multiply-adds; NULL for a pass that nobody should interrupt. */
    void (*pause)(void *context, double cost);
    void *context;
    double pause_cost; /* how much a graph does between two pauses, and */
    void *part_state;  /* what it leaves for after one: PART_BYTES on the device */
};

struct round *round_new(struct gpt2 *m, enum lane lane, const struct round_hooks *hooks,
                        struct arena *a);

/* Runs one step of these jobs, all of them admitted. If the device fails, those that have not left
 * are still the caller's. */
bool round_run(struct round *r, struct turn *const *turns, int n_turns, struct err *e);
