#include "worker.h"
#include <stdatomic.h>

/* How long an idle engine waits before it looks around. */
#define IDLE_WAIT_SECONDS 0.5

struct worker {
    struct batch *batch;
    struct queue *queue;
    pthread_t thread;
    atomic_bool aborted, over, failed;
};

/* Who came, who left, and whether it is time to go. Also inside a large pass. */
static void look_around(void *context)
{
    struct worker *w = context;
    for (struct job *j; (j = queue_pop(w->queue, 0));)
        batch_add(w->batch, j);
    batch_drop_cancelled(w->batch);
    if (!atomic_load(&w->aborted))
        return;
    struct err why = {0};
    err_set(&why, ERR_draining, "the server stopped before this request was done");
    batch_abort(w->batch, &why);
}

static void waits_no_more(void *context, struct job *j)
{
    const struct worker *w = context;
    queue_forget(w->queue, j);
}

/* Leaves nothing behind that could still use the device. */
static void give_up(struct worker *w, const struct err *why)
{
    log_line("fatal", "the device failed: %s", why->text);
    atomic_store(&w->failed, true);
    queue_close(w->queue, why);
    look_around(w);
    batch_fail(w->batch, why);
}

static bool work(struct worker *w)
{
    struct err e = {0};
    if (batch_count(w->batch) == 0) {
        struct job *j = queue_pop(w->queue, IDLE_WAIT_SECONDS);
        if (j)
            batch_add(w->batch, j);
    }
    look_around(w);
    if (batch_count(w->batch) == 0)
        return !queue_is_over(w->queue);
    if (batch_run(w->batch, &e))
        return true;
    give_up(w, &e);
    return false;
}

static void *run(void *context)
{
    struct worker *w = context;
    pthread_setname_np(pthread_self(), "engine");
    batch_enter(w->batch);
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
    batch_set_hooks(b, &(struct batch_hooks){look_around, waits_no_more, w});
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
