/* Tasks are claimed by counting down one word that also holds the number of the job, so that a
 * thread that comes late finds nothing to do, and nobody waits for a thread that has no task. */
#include "pool.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

/* How long a thread looks before it sleeps. Waking one takes longer than most calls of a pass, so
 * this is more than what lies between two of them; a pass of 32 rows took twice as long with 20
 * microseconds. */
static const double spin_seconds = 200e-6;

struct seat {
    struct pool *pool;
    int thread;
};

struct pool {
    _Atomic uint64_t claim; /* the job's number, then in the low half its tasks not yet claimed */
    atomic_int done;        /* tasks of this job that are finished */
    atomic_int sleepers;    /* workers that wait for `work` */
    atomic_bool waiting;    /* the caller waits for `finished` */
    atomic_bool quit;
    /* The job: written by the caller before `claim`, read only by who holds one of its tasks. */
    task_fn *run;
    void *context;
    int n_tasks;
    atomic_int caller_core; /* where the caller was when the job began */
    cpu_set_t cores;        /* that the process may use */
    pthread_mutex_t mutex;  /* guards sleeping, no data */
    pthread_cond_t work, finished;
    int n_threads;
    size_t size;
    pthread_t *threads;
    struct seat seats[]; /* [n_threads] */
};

static inline void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Runs one task if one is left. */
static bool run_one(struct pool *p, int thread)
{
    uint64_t seen = atomic_load(&p->claim);
    do {
        if ((uint32_t)seen == 0)
            return false;
    } while (!atomic_compare_exchange_weak(&p->claim, &seen, seen - 1));
    const int n_tasks = p->n_tasks;
    p->run(p->context, n_tasks - (int)(uint32_t)seen, thread);
    if (atomic_fetch_add(&p->done, 1) + 1 == n_tasks && atomic_load(&p->waiting)) {
        pthread_mutex_lock(&p->mutex);
        pthread_cond_signal(&p->finished);
        pthread_mutex_unlock(&p->mutex);
    }
    return true;
}

static bool is_called(struct pool *p)
{
    return (uint32_t)atomic_load(&p->claim) != 0 || atomic_load(&p->quit);
}

static bool is_finished(struct pool *p)
{
    return atomic_load(&p->done) == p->n_tasks;
}

/* False where it did not come true in time. */
static bool spin_until(struct pool *p, bool (*is_true)(struct pool *p))
{
    enum { LOOKS = 64 }; /* for each look at the clock */
    const double end = seconds_now() + spin_seconds;
    do {
        for (int i = 0; i < LOOKS; i++) {
            if (is_true(p))
                return true;
            pause_briefly();
        }
    } while (seconds_now() < end);
    return false;
}

static void sleep_until_called(struct pool *p)
{
    pthread_mutex_lock(&p->mutex);
    atomic_fetch_add(&p->sleepers, 1);
    while (!is_called(p))
        pthread_cond_wait(&p->work, &p->mutex);
    atomic_fetch_sub(&p->sleepers, 1);
    pthread_mutex_unlock(&p->mutex);
}

/* The system likes to wake a thread on the core of who wakes it, and may take many passes to see
 * that the two share one while another is idle. */
static void leave_callers_core(const struct pool *p)
{
    const int core = sched_getcpu();
    if (core < 0 || core != atomic_load(&p->caller_core) || CPU_COUNT(&p->cores) < p->n_threads)
        return;
    cpu_set_t others = p->cores;
    CPU_CLR((size_t)core, &others);
    if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0)
        return;
    sched_setaffinity(0, sizeof p->cores, &p->cores);
}

static void *worker(void *argument)
{
    const struct seat *seat = argument;
    struct pool *p = seat->pool;
    pthread_setname_np(pthread_self(), "arithmetic");
    while (!atomic_load(&p->quit)) {
        if (!spin_until(p, is_called))
            sleep_until_called(p);
        leave_callers_core(p);
        while (run_one(p, seat->thread))
            ;
    }
    return NULL;
}

static void call_sleepers(struct pool *p)
{
    if (atomic_load(&p->sleepers) == 0)
        return;
    pthread_mutex_lock(&p->mutex);
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->mutex);
}

static void wait_until_finished(struct pool *p)
{
    if (spin_until(p, is_finished))
        return;
    pthread_mutex_lock(&p->mutex);
    atomic_store(&p->waiting, true);
    while (!is_finished(p))
        pthread_cond_wait(&p->finished, &p->mutex);
    atomic_store(&p->waiting, false);
    pthread_mutex_unlock(&p->mutex);
}

void pool_run(struct pool *p, int n_tasks, task_fn *run, void *context)
{
    if (p->n_threads == 1 || n_tasks <= 1) {
        for (int i = 0; i < n_tasks; i++)
            run(context, i, 0);
        return;
    }
    p->run = run;
    p->context = context;
    p->n_tasks = n_tasks;
    atomic_store(&p->done, 0);
    atomic_store(&p->caller_core, sched_getcpu());
    const uint64_t job = (atomic_load(&p->claim) >> 32) + 1;
    atomic_store(&p->claim, job << 32 | (uint32_t)n_tasks);
    call_sleepers(p);
    while (run_one(p, 0))
        ;
    wait_until_finished(p);
}

bool pool_open(struct pool **out, int n_threads, struct err *e)
{
    const size_t seats = sizeof(struct seat) * (size_t)n_threads;
    const size_t size = sizeof(struct pool) + seats + sizeof(pthread_t) * (size_t)n_threads;
    struct pool *p = memory_map(size);
    if (!p)
        return err_set(e, ERR_device, "no memory for %d threads", n_threads);
    p->size = size;
    p->threads = (pthread_t *)((char *)(p + 1) + seats);
    p->n_threads = 1;
    if (sched_getaffinity(0, sizeof p->cores, &p->cores) != 0)
        CPU_ZERO(&p->cores); /* then threads stay where the system puts them */
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->finished, NULL);
    for (int i = 1; i < n_threads; i++) {
        p->seats[i] = (struct seat){p, i};
        if (pthread_create(&p->threads[i], NULL, worker, &p->seats[i]) != 0) {
            pool_close(p);
            return err_set(e, ERR_device, "the system refuses thread %d of %d", i, n_threads);
        }
        p->n_threads++;
    }
    *out = p;
    return true;
}

void pool_close(struct pool *p)
{
    atomic_store(&p->quit, true);
    call_sleepers(p);
    for (int i = 1; i < p->n_threads; i++)
        pthread_join(p->threads[i], NULL);
    pthread_cond_destroy(&p->finished);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->mutex);
    memory_unmap(p, p->size);
}
