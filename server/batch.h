/* All requests that the engine has: who waits, who runs, which pages of the cache and which part of
 * the slab each one holds. One batch_run is one pass of the model: a shared one, or a large one
 * that lets shared ones through (schedule.h). Belongs to the engine thread. Nothing is allocated
 * behind batch_open. */
#pragma once
#include "../kernels/gpt2.h"
#include "job.h"

struct batch;

struct batch_options {
    size_t slab_bytes;     /* of the device, for what graphs compute */
    int jobs_max;          /* at once, waiting or running */
    bool shares_prefixes;  /* a prompt's beginning that is in the cache is not computed again */
    double pass_cost;      /* multiply-adds of a shared pass; 0: what its rows take */
};

/* What the engine's owner hears of. */
struct batch_hooks {
    /* Between two passes, also inside a large one: the time for batch_add, batch_drop_cancelled and
     * batch_abort. */
    void (*between)(void *context);
    /* The job waits no more: it runs, or it is over. Before its state changes. */
    void (*waits_no_more)(void *context, struct job *j);
    void *context;
};

/* Borrows the model. */
bool batch_open(struct batch **b, struct gpt2 *m, const struct batch_options *o, struct arena *a,
                struct err *e);
void batch_close(struct batch *b); /* empty by then */
void batch_enter(struct batch *b); /* this thread is the engine's: before it runs there */
void batch_set_hooks(struct batch *b, const struct batch_hooks *hooks); /* before it runs */

struct capacity batch_capacity(const struct batch *b); /* of what one request can have */
int batch_count(const struct batch *b);

/* Takes the job until its state is final: it waits for its turn. */
void batch_add(struct batch *b, struct job *j);

/* One pass; there must be a job. If the device fails, all jobs are still there. */
bool batch_run(struct batch *b, struct err *e);

void batch_drop_cancelled(struct batch *b);                /* but for who is in a pass now */
void batch_abort(struct batch *b, const struct err *why);  /* fails all jobs, as soon as possible */
void batch_fail(struct batch *b, const struct err *why);   /* at once; the device is gone */
