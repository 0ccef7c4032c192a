/* One request, from the last byte of its body to the last byte of its reply.
 *
 * The connection's thread creates the job and is the only one to free it. From queue_push until
 * the outbox's state is final (done, failed, cancelled), everything but `outbox` belongs to the
 * engine thread.
 */
#pragma once
#include <pthread.h>
#include "../protocol/plan.h"

enum job_state { JOB_queued, JOB_running, JOB_done, JOB_failed, JOB_cancelled };

struct outbox {         /* the only part that two threads touch; lock guards all of it */
    pthread_mutex_t lock;
    pthread_cond_t moved; /* on CLOCK_MONOTONIC */
    enum job_state state;
    int n_ready;        /* saved values that have arrived in `results`, in the order of the plan */
    int n_steps_done;   /* passes finished, for progress */
    bool cancel;        /* set by the connection, obeyed between passes */
};

struct job {
    uint64_t id;
    char request_id[40]; /* for people and logs: the client's X-Request-Id, or ours */
    struct arena arena;  /* holds the graph, the plan, the results */
    struct graph graph;
    struct plan plan;
    char *results;       /* plan.result_bytes, filled by the engine, read by the connection */
    int32_t *generated;  /* (n_sequences, n_new_tokens), filled by the engine */

    /* The engine's own, from admission to retirement. */
    char *slab;          /* plan.slab_bytes on the device */
    int32_t *pages;      /* the cache's pages, plan.n_pages of them, by sequence */
    int step, next_stop; /* its place in the plan */
    int row_first;       /* its first row in this pass */
    int logits_first;    /* its first row among this pass's logits */
    int span_first;      /* its first span in this pass */

    double queued_at, admitted_at, finished_at; /* seconds_now */
    struct err err;
    struct outbox outbox;
    struct job *next;    /* in the queue */
};
