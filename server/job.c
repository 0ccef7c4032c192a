#include "job.h"
#include "metrics.h"
#include <stdio.h>
#include <time.h>

struct job *job_new(const char *request_id, struct arena *a)
{
    struct job *j = ARENA_NEW(a, struct job);
    j->arena = a;
    snprintf(j->request_id, sizeof j->request_id, "%s", request_id);
    pthread_mutex_init(&j->outbox.lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&j->outbox.moved, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return j;
}

/* Equal prompts have the rows of one, and go on as several. */
static bool rows_fit(const struct plan_trace *t, const struct capacity *c, struct err *e)
{
    if (t->n_rows > c->rows && t->n_invokes == 1)
        return err_set(e, ERR_limit,
                       "the prompts of one invoke have %d tokens together, and a pass of this "
                       "server takes %d (--rows): several invokes may go in several passes",
                       t->n_rows, c->rows);
    if (t->n_rows > c->rows)
        return err_set(e, ERR_limit,
                       "the prompts have %d tokens together, and a pass of this "
                       "server takes %d (--rows)",
                       t->n_rows, c->rows);
    if (t->n_steps > 1 && t->n_sequences > c->rows)
        return err_set(e, ERR_limit,
                       "%d sequences are generated at once (prompts, each n times), and a pass of "
                       "this server takes a token each of %d (--rows)",
                       t->n_sequences, c->rows);
    return true;
}

bool job_fits(const struct job *j, const struct capacity *c, struct err *e)
{
    const struct plan *p = &j->plan;
    for (int i = 0; i < p->n_traces; i++) {
        if (!rows_fit(&p->traces[i], c, e))
            return false;
    }
    if (p->n_logits > c->logits)
        return err_set(e, ERR_limit,
                       "logits are read at %d positions, and a pass of this server "
                       "computes %d (--logits-rows)",
                       p->n_logits, c->logits);
    if (p->n_pages > c->pages)
        return err_set(e, ERR_limit,
                       "the sequences need %d pages of %d positions of the key/value "
                       "cache, and this server has %d (--cache-tokens)%s",
                       p->n_pages, PAGE_TOKENS, c->pages,
                       p->n_invokes > 1 ? ": several requests of fewer invokes need fewer" : "");
    if (p->slab_bytes > c->slab_bytes)
        return err_set(e, ERR_limit,
                       "the graph's values take %zu bytes at once, and this server "
                       "has %zu (--slab-mb)",
                       p->slab_bytes, c->slab_bytes);
    return true;
}

bool job_expect(struct job *j, size_t body_bytes, struct err *e)
{
    return held_take(&j->held, j->turn.user, BODY_COPIES * (int64_t)body_bytes, e);
}

bool job_reserve(struct job *j, struct err *e)
{
    const struct plan *p = &j->plan;
    const int64_t bytes = (int64_t)p->result_bytes + (int64_t)j->arena->used;
    if (!held_take(&j->held, j->turn.user, bytes, e))
        return false;
    j->results = arena_alloc(j->arena, p->result_bytes);
    j->pages = ARENA_ARRAY(j->arena, int32_t, (size_t)p->n_listed);
    j->row_of = ARENA_ARRAY(j->arena, int, (size_t)p->n_invokes);
    j->logits_of = ARENA_ARRAY(j->arena, int, (size_t)p->n_invokes);
    j->n_shared = ARENA_ARRAY(j->arena, int, (size_t)p->n_invokes);
    j->absent = ARENA_ARRAY(j->arena, bool, (size_t)p->n_saves);
    j->outcomes = ARENA_ARRAY(j->arena, struct outcome, (size_t)p->n_sequences);
    if (p->n_generated > 0)
        j->generated = ARENA_ARRAY(j->arena, int32_t, (size_t)p->n_generated);
    j->last_step = ARENA_ARRAY(j->arena, int, (size_t)p->n_invokes);
    for (int i = 0; i < p->n_invokes; i++) {
        const struct plan_invoke *v = &p->invokes[i];
        const struct trace *t = &j->graph.traces[v->trace];
        j->last_step[i] = p->traces[v->trace].n_steps - 1;
        for (int k = 0; k < v->n_sequences * t->n_new_tokens; k++)
            j->generated[v->generated_first + k] = t->ending.pad;
    }
    return true;
}

void job_free(struct job *j)
{
    held_let_go(&j->held);
    pthread_cond_destroy(&j->outbox.moved);
    pthread_mutex_destroy(&j->outbox.lock);
}

static void tell_first_result(const struct job *j)
{
    if (j->told.n_saves == 0 && j->told.n_steps == 0)
        metric_observe(METRIC_result_seconds, seconds_now() - j->queued_at);
}

void job_publish(struct job *j)
{
    tell_first_result(j);
    j->told = j->sent;
    pthread_mutex_lock(&j->outbox.lock);
    j->outbox.n_ready = j->told.n_saves;
    j->outbox.n_steps = j->told.n_steps;
    pthread_cond_signal(&j->outbox.moved);
    pthread_mutex_unlock(&j->outbox.lock);
}

/* The connection frees the job as soon as it sees a final state, so the unlock is the last touch:
 * POSIX lets a mutex be destroyed once it is unlocked. */
static void set_state(struct job *j, enum job_state state)
{
    pthread_mutex_lock(&j->outbox.lock);
    j->outbox.state = state;
    pthread_cond_signal(&j->outbox.moved);
    pthread_mutex_unlock(&j->outbox.lock);
}

void job_start(struct job *j)
{
    j->admitted_at = seconds_now();
    metric_add(METRIC_requests_running, 1);
    metric_observe(METRIC_queue_seconds, j->admitted_at - j->queued_at);
    set_state(j, JOB_running);
}

void job_finish(struct job *j, enum job_state state)
{
    assert(job_state_is_final(state));
    j->finished_at = seconds_now();
    if (j->admitted_at > 0)
        metric_add(METRIC_requests_running, -1);
    metric_add((enum metric)(METRIC_requests_done + (int)state - (int)JOB_done), 1);
    if (state == JOB_done) {
        tell_first_result(j);
        metric_observe(METRIC_request_seconds, j->finished_at - j->queued_at);
    }
    set_state(j, state);
}

void job_fail(struct job *j, const struct err *why)
{
    j->err = *why;
    job_finish(j, JOB_failed);
}

bool job_cancelled(struct job *j)
{
    pthread_mutex_lock(&j->outbox.lock);
    bool cancel = j->outbox.cancel;
    pthread_mutex_unlock(&j->outbox.lock);
    return cancel;
}

void job_cancel(struct job *j)
{
    pthread_mutex_lock(&j->outbox.lock);
    j->outbox.cancel = true;
    pthread_mutex_unlock(&j->outbox.lock);
}

static struct timespec moment_of(double seconds)
{
    time_t whole = (time_t)seconds;
    return (struct timespec){.tv_sec = whole, .tv_nsec = (long)((seconds - (double)whole) * 1e9)};
}

/* `count` is one of the outbox's. */
static enum job_state wait_for(struct job *j, int *ready, const int *count, int n_seen,
                               double wait_seconds)
{
    const struct timespec until = moment_of(seconds_now() + wait_seconds);
    struct outbox *o = &j->outbox;
    pthread_mutex_lock(&o->lock);
    int timed_out = 0;
    while (!timed_out && !job_state_is_final(o->state) && *count <= n_seen)
        timed_out = pthread_cond_timedwait(&o->moved, &o->lock, &until);
    *ready = *count;
    enum job_state state = o->state;
    pthread_mutex_unlock(&o->lock);
    return state;
}

enum job_state job_wait(struct job *j, int *n_ready, int n_seen, double wait_seconds)
{
    return wait_for(j, n_ready, &j->outbox.n_ready, n_seen, wait_seconds);
}

enum job_state job_wait_step(struct job *j, int *n_steps, int n_seen, double wait_seconds)
{
    return wait_for(j, n_steps, &j->outbox.n_steps, n_seen, wait_seconds);
}
