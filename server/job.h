/* One request, from the last byte of its body to the last byte of its reply.
 *
 * The connection's thread creates the job and is the only one to free it. From queue_push until
 * the outbox's state is final (done, failed, cancelled), everything but `outbox` belongs to the
 * engine thread. What the engine wrote before it made the state final may be read after seeing
 * that, and results and absent [0 .. n_ready) after seeing n_ready, and n_steps columns of
 * `generated` after seeing n_steps.
 */
#pragma once
#include <pthread.h>
#include "../protocol/ending.h"
#include "../protocol/plan.h"
#include "held.h"
#include "schedule.h"

enum job_state {
    JOB_queued,
    JOB_running,
    JOB_done,
    JOB_failed,
    JOB_cancelled
};

struct outbox { /* the only part that two threads touch; lock guards all of it */
    pthread_mutex_t lock;
    pthread_cond_t moved; /* on CLOCK_MONOTONIC */
    enum job_state state;
    int n_ready; /* saves that have been made, or are absent, in the order of the plan */
    int n_steps; /* whose tokens stand in `generated` */
    bool cancel; /* set by the connection, obeyed between passes */
};

enum {
    REQUEST_ID_SIZE = 40
};

struct progress { /* of a job */
    int n_saves, n_steps; /* in the order of the plan; whose tokens have been chosen */
    int64_t mark;         /* the backend's, behind all downloads of that */
};

struct capacity {            /* what a request can have, at most */
    int rows, logits, pages; /* of a pass, of its logits, of the key/value cache */
    size_t slab_bytes;
};

struct job {
    char request_id[REQUEST_ID_SIZE]; /* for people and logs: the client's X-Request-Id, or ours */
    struct arena *arena; /* borrowed: the request's, which outlives the job and holds it */
    struct graph graph;
    struct plan plan;
    struct held held;   /* what job_expect or job_reserve took for it */
    char *results;      /* plan.result_bytes, filled by the engine, read by the connection */
    bool *absent;       /* [plan.n_saves] what is made of a step that its invoke did not reach */
    int32_t *generated; /* plan.n_generated: by sequence, its new tokens; filled by the engine.
                           Behind the end of a sequence stands its trace's ending.pad */
    struct outcome *outcomes; /* [plan.n_sequences] to be read when the state is final */
    const struct bpe *bpe;    /* borrowed, for texts that end a generation; or NULL */
    bool is_followed;         /* the connection waits for tokens, not only for saves */
    int32_t *pages;     /* the cache's pages, plan.n_listed of them, by sequence: job_pages */

    /* The engine's own, from admission to retirement. */
    char *slab;          /* plan.slab_bytes on the device */
    int pass, next_stop; /* its place in the plan */
    struct progress made, sent, told; /* what has been asked of the device so far; what of that goes
                            to the connection as soon as it has arrived; what that knows of, */
    double published_at; /* since when */
    int64_t fault[2];    /* plan.faults as the device left it behind the last stop that gathers,
                            when that has arrived */
    struct turn turn;    /* its place in the schedule; turn.user is set before job_reserve */
    int *row_of;         /* [n_invokes], for those of this trace: the row of the pass where an
                            invoke's first position is, or would be if it were computed (while its
                            rows are its leader's, that one's), and */
    int *logits_of;      /* [n_invokes] its first row among this pass's logits */
    int *last_step;      /* [n_invokes] the last step of each: until its sequences have ended, the
                            plan's */
    int *n_shared;       /* [n_invokes] positions whose keys and values were there already */
    struct job *before, *behind; /* among all that the engine has */

    double queued_at, admitted_at, finished_at; /* seconds_now */
    struct err err;                             /* why it failed */
    struct outbox outbox;
    struct job *next; /* in the queue */
};

/* A job without graph and plan, in the request's arena. */
struct job *job_new(const char *request_id, struct arena *a);

/* Before its body is decoded: the memory that it may take until the plan says how much. Refused as
 * by held_take. */
bool job_expect(struct job *j, size_t body_bytes, struct err *e);

/* Whether the request could ever run here, by itself; else refused (limit) with both numbers. */
bool job_fits(const struct job *j, const struct capacity *c, struct err *e);

/* Behind plan_build: the memory that the plan asks for on the host. Refused as by held_take. */
bool job_reserve(struct job *j, struct err *e);

/* After its state is final, or if it never was in the queue. Its arena stays. */
void job_free(struct job *j);

/* The cache's pages of one sequence of an invoke. */
static inline const int32_t *job_pages(const struct job *j, int invoke, int sequence)
{
    return j->pages + j->plan.invokes[invoke].sequences[sequence].page_first;
}

/* The trace whose pass comes next, or runs, and which step of it that is. */
static inline const struct plan_trace *job_trace(const struct job *j)
{
    return &j->plan.traces[j->plan.passes[j->pass].trace];
}

/* The same as it was asked for. */
static inline const struct trace *job_asked(const struct job *j)
{
    return &j->graph.traces[j->plan.passes[j->pass].trace];
}

static inline int job_step(const struct job *j)
{
    return plan_step(&j->plan, j->pass);
}

/* The new tokens of one sequence of an invoke. */
static inline int32_t *job_generated(const struct job *j, int invoke, int sequence)
{
    const int n_new = j->graph.traces[j->plan.invokes[invoke].trace].n_new_tokens;
    return j->generated + j->plan.invokes[invoke].generated_first + sequence * n_new;
}

/* Whether this pass has rows of an invoke of its trace: not all of its sequences have ended. */
static inline bool job_has_rows(const struct job *j, int invoke)
{
    return job_step(j) <= j->last_step[invoke];
}

/* The last step that any invoke of its trace has. */
static inline int job_last_step(const struct job *j)
{
    const struct plan_trace *t = job_trace(j);
    int last = 0;
    for (int i = t->invoke_first; i < t->invoke_first + t->n_invokes; i++)
        last = j->last_step[i] > last ? j->last_step[i] : last;
    return last;
}

/* On to the next pass, of the next trace where this one has ended; false where none is left. */
static inline bool job_advance(struct job *j)
{
    const struct plan_trace *t = job_trace(j);
    j->pass = job_step(j) == job_last_step(j) ? t->pass_first + t->n_steps : j->pass + 1;
    return j->pass < j->plan.n_passes;
}

static inline struct job *job_of_turn(struct turn *t)
{
    return (struct job *)((char *)t - offsetof(struct job, turn));
}

/* From the engine to the connection. */
void job_start(struct job *j);                        /* it runs now */
void job_publish(struct job *j); /* what is `sent` has arrived */
void job_finish(struct job *j, enum job_state state); /* the engine lets go of it */
void job_fail(struct job *j, const struct err *why);  /* the same, with an error */

/* From the connection to the engine. */
bool job_cancelled(struct job *j); /* somebody asked for it */
void job_cancel(struct job *j);

static inline bool job_state_is_final(enum job_state s)
{
    return s >= JOB_done;
}

/* Waits until more than n_seen saves have arrived or the state is final, at most wait_seconds.
 * Returns the state, and how many saves have arrived. */
enum job_state job_wait(struct job *j, int *n_ready, int n_seen, double wait_seconds);

/* The same of steps, for a job that is followed: with a step's tokens its saves have arrived. */
enum job_state job_wait_step(struct job *j, int *n_steps, int n_seen, double wait_seconds);
