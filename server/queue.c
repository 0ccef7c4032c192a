#include "queue.h"
#include "metrics.h"
#include <time.h>

struct queue {
    int n_max;
    pthread_mutex_t lock; /* guards everything below, and `next` of the jobs inside */
    pthread_cond_t moved; /* on CLOCK_MONOTONIC: a job came, or the queue was closed */
    struct job *first, *last;
    int n_waiting; /* here and with the engine, and */
    int of_user[USERS_COUNTED];
    bool closed;
    struct err why; /* it was closed */
};

struct queue *queue_new(int n_max, struct arena *a)
{
    struct queue *q = ARENA_NEW(a, struct queue);
    q->n_max = n_max;
    pthread_mutex_init(&q->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&q->moved, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return q;
}

void queue_free(struct queue *q)
{
    assert(!q->first && q->n_waiting == 0);
    pthread_cond_destroy(&q->moved);
    pthread_mutex_destroy(&q->lock);
}

static bool is_open(const struct queue *q, struct err *e)
{
    if (q->closed)
        *e = q->why;
    return !q->closed;
}

static bool has_room(const struct queue *q, struct err *e)
{
    if (!is_open(q, e))
        return false;
    if (q->n_waiting == q->n_max)
        return err_set(e, ERR_busy, "%d requests are waiting already, and no more than %d may",
                       q->n_waiting, q->n_max);
    return true;
}

static int *count_of(struct queue *q, const struct job *j)
{
    return &q->of_user[j->turn.user % USERS_COUNTED];
}

/* Nobody takes the last places from the others; a first request is always taken. */
static bool has_share(struct queue *q, const struct job *j, struct err *e)
{
    const int n = *count_of(q, j), n_left = q->n_max - q->n_waiting;
    if (n == 0 || n < n_left)
        return true;
    return err_set(e, ERR_busy,
                   "%d of your requests are waiting already, and the other %d places are "
                   "kept for others",
                   n, n_left);
}

static void append(struct queue *q, struct job *j)
{
    j->next = NULL;
    if (q->last)
        q->last->next = j;
    else
        q->first = j;
    q->last = j;
    q->n_waiting++;
    metric_add(METRIC_requests_waiting, 1);
    ++*count_of(q, j);
}

bool queue_push(struct queue *q, struct job *j, struct err *e)
{
    j->queued_at = seconds_now();
    pthread_mutex_lock(&q->lock);
    bool taken = has_room(q, e) && has_share(q, j, e);
    if (taken) {
        append(q, j);
        pthread_cond_signal(&q->moved);
    }
    pthread_mutex_unlock(&q->lock);
    return taken;
}

/* Unlinks `j`, which stands behind `before` (NULL: at the front). */
static void unlink_job(struct queue *q, struct job *before, struct job *j)
{
    if (before)
        before->next = j->next;
    else
        q->first = j->next;
    if (q->last == j)
        q->last = before;
    j->next = NULL;
}

struct job *queue_pop(struct queue *q, double wait_seconds)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    long nanoseconds = until.tv_nsec + (long)(wait_seconds * 1e9);
    until.tv_sec += nanoseconds / 1000000000;
    until.tv_nsec = nanoseconds % 1000000000;

    pthread_mutex_lock(&q->lock);
    int timed_out = wait_seconds <= 0;
    while (!q->first && !q->closed && !timed_out)
        timed_out = pthread_cond_timedwait(&q->moved, &q->lock, &until);
    struct job *j = q->first;
    if (j)
        unlink_job(q, NULL, j);
    pthread_mutex_unlock(&q->lock);
    return j;
}

static void forget(struct queue *q, const struct job *j)
{
    q->n_waiting--;
    metric_add(METRIC_requests_waiting, -1);
    --*count_of(q, j);
}

void queue_forget(struct queue *q, const struct job *j)
{
    pthread_mutex_lock(&q->lock);
    forget(q, j);
    pthread_mutex_unlock(&q->lock);
}

bool queue_remove(struct queue *q, struct job *j)
{
    pthread_mutex_lock(&q->lock);
    struct job *before = NULL, *at = q->first;
    while (at && at != j) {
        before = at;
        at = at->next;
    }
    if (at) {
        unlink_job(q, before, at);
        forget(q, at);
    }
    pthread_mutex_unlock(&q->lock);
    return at != NULL;
}

bool queue_is_open(struct queue *q, struct err *e)
{
    pthread_mutex_lock(&q->lock);
    bool open = is_open(q, e);
    pthread_mutex_unlock(&q->lock);
    return open;
}

bool queue_takes(struct queue *q, struct err *e)
{
    pthread_mutex_lock(&q->lock);
    bool takes = has_room(q, e);
    pthread_mutex_unlock(&q->lock);
    return takes;
}

void queue_close(struct queue *q, const struct err *why)
{
    pthread_mutex_lock(&q->lock);
    if (!q->closed)
        q->why = *why;
    q->closed = true;
    pthread_cond_broadcast(&q->moved);
    pthread_mutex_unlock(&q->lock);
}

bool queue_is_over(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    bool over = q->closed && !q->first;
    pthread_mutex_unlock(&q->lock);
    return over;
}
