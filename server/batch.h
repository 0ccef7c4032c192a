/* The requests that run now, and the pass that they share: whose rows stand where, who gets which
 * pages of the cache and which part of the slab. Belongs to the engine thread. Nothing is allocated
 * behind batch_open. */
#pragma once
#include "../kernels/gpt2.h"
#include "job.h"

struct batch;

/* Borrows the model; takes `slab_bytes` of its device for what graphs compute. */
bool batch_open(struct batch **b, struct gpt2 *m, size_t slab_bytes, struct arena *a,
                struct err *e);
void batch_close(struct batch *b); /* empty by then */

struct capacity batch_capacity(const struct batch *b); /* of the whole, empty batch */
int batch_count(const struct batch *b);

/* Makes a place for the job in the next pass. False, and nothing changed, where its rows, logits,
 * pages or slab do not fit beside the others now. */
bool batch_admit(struct batch *b, struct job *j);

/* One pass for all: their stops are run, tokens sampled, finished jobs let go. If the device fails,
 * all jobs are still there. */
bool batch_run(struct batch *b, struct err *e);

void batch_drop_cancelled(struct batch *b);
void batch_fail(struct batch *b, const struct err *why); /* lets go of all jobs */
