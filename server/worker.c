#include "worker.h"
#include <stdatomic.h>

/* How long an idle engine waits before it looks around. */
#define IDLE_WAIT_SECONDS 0.5

struct worker {
    struct batch *batch;
    struct queue *queue;
    struct job *waiting; /* out of the queue, but it does not fit yet: nobody overtakes it */
    pthread_t thread;
    atomic_bool aborted, over, failed;
};

static void admit(struct worker *w)
{
    for (;;) {
        const bool idle = batch_count(w->batch) == 0;
        if (!w->waiting)
            w->waiting = queue_pop(w->queue, idle ? IDLE_WAIT_SECONDS : 0);
        if (!w->waiting)
            return;
        if (job_cancelled(w->waiting))
            job_finish(w->waiting, JOB_cancelled);
        else if (!batch_admit(w->batch, w->waiting))
            break;
        w->waiting = NULL;
    }
    /* What cannot run alone was refused before it was queued. */
    assert(batch_count(w->batch) > 0);
}

static void fail_all(struct worker *w, const struct err *why)
{
    batch_fail(w->batch, why);
    if (w->waiting)
        job_fail(w->waiting, why);
    w->waiting = NULL;
    for (struct job *j; (j = queue_pop(w->queue, 0));)
        job_fail(j, why);
}

/* Leaves nothing behind that could still use the device. */
static void give_up(struct worker *w, const struct err *why)
{
    log_line("fatal", "the device failed: %s", why->text);
    atomic_store(&w->failed, true);
    queue_close(w->queue, why);
    fail_all(w, why);
}

static bool work(struct worker *w)
{
    struct err e = {0};
    if (atomic_load(&w->aborted)) {
        err_set(&e, ERR_draining, "the server stopped before this request was done");
        fail_all(w, &e);
    }
    admit(w);
    batch_drop_cancelled(w->batch);
    if (batch_count(w->batch) == 0)
        return w->waiting || !queue_is_over(w->queue);
    if (batch_run(w->batch, &e))
        return true;
    give_up(w, &e);
    return false;
}

static void *run(void *context)
{
    struct worker *w = context;
    while (work(w))
        continue;
    atomic_store(&w->over, true);
    return NULL;
}

bool worker_start(struct worker **out, struct batch *b, struct queue *q, struct arena *a,
                  struct err *e)
{
    struct worker *w = ARENA_NEW(a, struct worker);
    w->batch = b;
    w->queue = q;
    if (pthread_create(&w->thread, NULL, run, w) != 0)
        return err_set(e, ERR_device, "the engine's thread could not be started");
    *out = w;
    return true;
}

void worker_abort(struct worker *w)
{
    atomic_store(&w->aborted, true);
}

bool worker_is_over(struct worker *w)
{
    return atomic_load(&w->over);
}

bool worker_has_failed(struct worker *w)
{
    return atomic_load(&w->failed);
}

void worker_join(struct worker *w)
{
    pthread_join(w->thread, NULL);
}
