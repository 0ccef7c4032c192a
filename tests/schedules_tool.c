/* Random schedules: every request that is not taken back gives the bits that it gives alone,
 * whoever comes and goes beside it, and however the engine is set up.
 *
 *     schedules_tool make FOLDER                             a small random model
 *     schedules_tool run MODEL REQUESTS FIRST_SEED COUNT     COUNT schedules of up to 24 jobs
 *     schedules_tool soak MODEL REQUESTS SEED JOBS           one schedule of so many jobs
 *
 * REQUESTS has a JSON request on each line (tests/random_requests.py). Each runs alone first: plain
 * C, one thread, one pass, nothing shared. A seed chooses an engine (instruction set, threads,
 * sizes of passes, of the cache and of the slab) and the requests, users, arrivals and cancels;
 * arrivals and cancels also fall inside passes. What goes wrong is printed with its seed and
 * settings, and `run` of that seed repeats it, but for which thread does what.
 *
 * Buffers of the device are guarded (guarded.h), and a job's memory goes as soon as its
 * state is final, as it does when its connection is fast.
 *
 * Where the CUDA backend is linked (build/emulated/tests/schedules_tool) the schedules run on it,
 * what is alone still on the CPU, and the model is smaller.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../protocol/decode.h"
#include "../server/batch.h"
#include "../server/device.h"
#include "../server/metrics.h"
#include "guarded.h"
#include "reference.h"
#include "tiny_gpt2.h"

enum {
    JOBS_MAX = 24, /* of a schedule of `run`, and at once in `soak` */
    FAMILY = 8, /* requests that begin alike, one behind the other */
    REQUEST_FILE_MAX = 64 << 20
};

#define SHORT_COST 1e6
#define ENDLESS 1e15 /* a pass cost that nothing reaches */

static struct model_shape made = {.n_blocks = 3,
                                  .n_heads = 3,
                                  .width = 24,
                                  .inner = 96,
                                  .vocab = 53,
                                  .context = 1024,
                                  .epsilon = 1e-5f};
enum { CONTEXT_EMULATED = 200 };

struct request { /* and what it gives alone */
    struct graph graph;
    struct plan plan;
    const char *results;
    const bool *absent;
    const int32_t *generated;
    const struct outcome *outcomes;
};

struct settings {
    uint64_t seed;
    const char *isa;
    int threads, rows, logits, shared_rows, cache_pages;
    size_t slab_bytes;
    double pass_cost;
    bool shares_prefixes;
    int n_users, n_jobs;
    /* Chances, one in so many: of an arrival when the engine looks around, of a cancel and of an
     * abort there and at each call of the backend. 0: never. */
    int arrives, cancels, aborts;
    int n_kinds, kinds[JOBS_MAX]; /* requests to choose from; 0: all */
};

struct slot { /* a job that the engine has */
    struct arena arena;
    struct job *job; /* or NULL */
    int request, number;
    int n_goodbyes; /* how often the engine said that it waits no more */
    bool cancelled;
};

struct counts {
    int64_t jobs, done, cancelled, aborted, differences;
    int64_t pauses, came_in_pause, cancels_in_pass, shared_positions, copies, saves, nan_saves,
        absent, stopped;
    int64_t followers, forks, late_starts; /* invokes that had another's rows at first; that had
                                              their own then; of these, not of all positions */
};

static struct tool {
    struct arena arena;
    const char *folder;
    const char *isas[4];
    int n_isas, n_requests;
    struct request *requests;
    struct counts counts;

    /* The schedule that runs. */
    struct settings set;
    uint64_t random;
    struct device *device;
    struct gpt2 *model;
    struct batch *batch;
    struct arena engine; /* the batch's */
    struct slot slots[JOBS_MAX];
    int n_come, n_to_come, n_live;
    bool is_in_pass, aborted;
} tool;

static _Noreturn void refuse(const char *what, const char *text)
{
    fprintf(stderr, "%s: %s\n", what, text);
    exit(2);
}

static uint64_t random_next(void)
{
    tool.random ^= tool.random << 13;
    tool.random ^= tool.random >> 7;
    tool.random ^= tool.random << 17;
    return tool.random * UINT64_C(0x2545f4914f6cdd1d);
}

static int below(int n)
{
    return (int)((random_next() >> 33) % (uint64_t)n);
}

static bool one_in(int n)
{
    return n > 0 && below(n) == 0;
}

/* What connections do, at any moment of a pass. */

static void say_settings(void)
{
    const struct settings *s = &tool.set;
    printf("    --isa %s --threads %d --rows %d --logits-rows %d --pass-rows %d, "
           "cache of %d pages%s, slab of %zu bytes, pass cost %.3g, %d users, %d jobs\n",
           s->isa, s->threads, s->rows, s->logits, s->shared_rows, s->cache_pages,
           s->shares_prefixes ? "" : " without sharing", s->slab_bytes, s->pass_cost, s->n_users,
           s->n_jobs);
}

static void differ(const struct slot *s, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void differ(const struct slot *s, const char *format, ...)
{
    va_list args;
    printf("seed %" PRIu64 ", job %d, line %d of the requests, user %" PRIu64 ": ", tool.set.seed,
           s->number, s->request + 1, s->job->turn.user);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
    say_settings();
    tool.counts.differences++;
}

/* The payload of a NaN is no part of the promise. */
static bool same_but_nan(const struct save *s, const char *x, const char *y)
{
    return s->dtype == DT_f32 &&
           reference_same((const float *)x, (const float *)y, view_count(&s->view));
}

static void check_saves(const struct slot *s)
{
    const struct request *r = &tool.requests[s->request];
    for (int i = 0; i < r->plan.n_saves; i++) {
        const struct save *save = &r->plan.saves[i];
        const char *x = s->job->results + save->offset, *y = r->results + save->offset;
        tool.counts.saves++;
        tool.counts.absent += r->absent[i];
        if (s->job->absent[i] != r->absent[i])
            differ(s, "%s of step %d is %sthere", save->name, save->step,
                   r->absent[i] ? "" : "not ");
        if (r->absent[i] || memcmp(x, y, save->bytes) == 0)
            continue;
        if (same_but_nan(save, x, y)) {
            tool.counts.nan_saves++;
            continue;
        }
        size_t at = 0;
        while (x[at] == y[at])
            at++;
        differ(s, "%s of step %d differs from byte %zu of %zu", save->name, save->step, at,
               save->bytes);
    }
}

static void count_forks(const struct job *j)
{
    const struct plan *p = &j->plan;
    for (int i = 0; i < p->n_invokes; i++) {
        const struct plan_invoke *v = &p->invokes[i];
        const int last_site = p->traces[v->trace].last_site;
        if (v->leader == i || j->n_shared[i] < j->n_shared[v->leader])
            continue;
        const bool forks = v->fork < made.n_blocks &&
                           site_of(PT_block_in, v->fork, made.n_blocks) <= last_site;
        tool.counts.followers++;
        tool.counts.forks += forks;
        tool.counts.late_starts += forks && v->start > j->n_shared[i];
    }
}

static void check_done(const struct slot *s, int n_ready)
{
    const struct request *r = &tool.requests[s->request];
    const size_t n_tokens = (size_t)r->plan.n_generated;
    tool.counts.done++;
    for (int i = 0; i < r->plan.n_invokes; i++) {
        const struct plan_invoke *v = &r->plan.invokes[i];
        tool.counts.shared_positions += s->job->n_shared[i];
        for (int k = 0; k < v->n_sequences; k++)
            tool.counts.copies += v->sequences[k].source != k;
    }
    count_forks(s->job);
    if (n_ready != r->plan.n_saves)
        differ(s, "done with %d of %d saves", n_ready, r->plan.n_saves);
    if (n_tokens > 0 && memcmp(s->job->generated, r->generated, n_tokens * sizeof *r->generated))
        differ(s, "the generated ids differ");
    for (int i = 0; i < r->plan.n_sequences; i++) {
        const struct outcome *x = &s->job->outcomes[i], *y = &r->outcomes[i];
        tool.counts.stopped += y->stopped;
        if (x->n_new != y->n_new || x->stopped != y->stopped)
            differ(s, "sequence %d ended after %d tokens, alone after %d", i, x->n_new, y->n_new);
    }
    check_saves(s);
}

static void check_end(const struct slot *s, enum job_state state, int n_ready)
{
    if (s->n_goodbyes != 1)
        differ(s, "it stopped to wait %d times", s->n_goodbyes);
    if (state == JOB_done) {
        check_done(s, n_ready);
    } else if (state == JOB_cancelled && s->cancelled) {
        tool.counts.cancelled++;
    } else if (state == JOB_failed && tool.aborted && s->job->err.code == ERR_draining) {
        tool.counts.aborted++;
    } else {
        differ(s, "its state is %d: %s", state, s->job->err.text);
    }
}

static long rss_kb(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    long size = 0, resident = 0;
    const int got = f ? fscanf(f, "%ld %ld", &size, &resident) : 0;
    assert(got == 2);
    fclose(f);
    return resident * (GUARD_PAGE / 1024);
}

/* A connection takes its reply as soon as it is there, and then nothing is left of the job. */
static void collect(void)
{
    for (struct slot *s = tool.slots; s < tool.slots + JOBS_MAX; s++) {
        int n_ready;
        const enum job_state state = s->job ? job_wait(s->job, &n_ready, -1, 0) : JOB_queued;
        if (!job_state_is_final(state))
            continue;
        check_end(s, state, n_ready);
        job_free(s->job);
        arena_free(&s->arena);
        s->job = NULL;
        tool.n_live--;
        tool.counts.jobs++;
    }
}

/* One of those that the engine has, or NULL. */
static struct slot *random_slot(void)
{
    struct slot *s = &tool.slots[below(JOBS_MAX)];
    return s->job ? s : NULL;
}

static void cancel(struct slot *s)
{
    job_cancel(s->job);
    s->cancelled = true;
    tool.counts.cancels_in_pass += tool.is_in_pass;
}

static void meddle(void)
{
    if (one_in(8))
        collect();
    struct slot *s = one_in(tool.set.cancels) ? random_slot() : NULL;
    if (s)
        cancel(s);
}

static const struct backend *real; /* what `backend` hands calls on to */
static struct backend backend;

static void meddling_linear(struct device *d, float *out, const float *x, const struct weight *w,
                            const float *bias, int n_rows, enum epilogue epilogue,
                            const float *residual)
{
    meddle();
    real->linear(d, out, x, w, bias, n_rows, epilogue, residual);
}

static void meddling_copy(struct device *d, const struct tensor *out, const struct tensor *x)
{
    meddle();
    real->copy(d, out, x);
}

static void meddling_download(struct device *d, void *to, const struct tensor *from)
{
    meddle();
    real->download(d, to, from);
}

/* The emulated device guards its memory itself. */
static void make_backend(const struct backend *be)
{
    backend = *(real = be);
    if (be == &backend_cpu) {
        backend.alloc = guarded_alloc;
        backend.release = guarded_release;
    }
    backend.linear = meddling_linear;
    backend.copy = meddling_copy;
    backend.download = meddling_download;
}

/* What the engine's owner does between passes. */

static void come(void)
{
    const struct settings *set = &tool.set;
    struct slot *s = tool.slots;
    while (s->job)
        s++;
    struct err e = {0};
    *s = (struct slot){.number = tool.n_come++};
    s->request = set->n_kinds ? set->kinds[below(set->n_kinds)] : below(tool.n_requests);
    const struct request *r = &tool.requests[s->request];
    s->job = job_new("schedule", &s->arena);
    s->job->graph = r->graph;
    s->job->plan = r->plan;
    s->job->turn.user = (uint64_t)below(set->n_users);
    if (!job_reserve(s->job, &e))
        refuse("job", e.text);
    tool.n_live++;
    tool.counts.came_in_pause += tool.is_in_pass;
    batch_add(tool.batch, s->job);
}

static void look_around(void)
{
    const struct settings *set = &tool.set;
    for (int i = tool.is_in_pass ? 0 : 20; i >= 0; i--)
        meddle();
    while (!tool.aborted && tool.n_come < tool.n_to_come && tool.n_live < JOBS_MAX &&
           (batch_count(tool.batch) == 0 || one_in(set->arrives)))
        come();
    batch_drop_cancelled(tool.batch);
    if (!tool.aborted && !one_in(set->aborts))
        return;
    struct err why = {0};
    err_set(&why, ERR_draining, "going home");
    batch_abort(tool.batch, &why);
    tool.aborted = true;
}

static void between(void *context)
{
    (void)context;
    tool.counts.pauses++;
    look_around();
}

static void do_nothing(void *context)
{
    (void)context;
}

static void do_nothing_with(void *context, struct job *j)
{
    (void)context;
    (void)j;
}

static void waits_no_more(void *context, struct job *j)
{
    (void)context;
    struct slot *s = tool.slots;
    while (s->job != j)
        s++;
    s->n_goodbyes++;
    int n_ready;
    if (job_wait(j, &n_ready, -1, 0) != JOB_queued)
        differ(s, "it did not wait");
}

static void open_engine(void)
{
    const struct settings *s = &tool.set;
    tool.n_come = 0;
    tool.aborted = false;
    struct err e = {0};
    const struct device_options d = {.threads = s->threads,
                                     .isa = s->isa,
                                     .rows_max = s->rows,
                                     .width_max = made.inner,
                                     .context_max = made.context,
                                     .heads_max = made.n_heads};
    const struct gpt2_options g = {.rows_max = s->rows,
                                   .logits_max = s->logits,
                                   .shared_rows = s->shared_rows,
                                   .cache_tokens = s->cache_pages * PAGE_TOKENS};
    const struct batch_options b = {.slab_bytes = s->slab_bytes,
                                    .jobs_max = JOBS_MAX,
                                    .shares_prefixes = s->shares_prefixes,
                                    .pass_cost = s->pass_cost};
    if (!backend.open(&tool.device, &d, &e) ||
        !gpt2_load(&tool.model, &backend, tool.device, tool.folder, &g, &e) ||
        !batch_open(&tool.batch, tool.model, &b, &tool.engine, &e))
        refuse("engine", e.text);
    batch_set_hooks(tool.batch, &(struct batch_hooks){between, waits_no_more, NULL});
}

static void close_engine(void)
{
    batch_close(tool.batch);
    gpt2_free(tool.model);
    backend.close(tool.device);
    arena_free(&tool.engine);
}

/* Until so many jobs have come, and all are gone. */
static void run_until(int n_come)
{
    struct err e = {0};
    tool.n_to_come = n_come;
    while (batch_count(tool.batch) > 0 || (!tool.aborted && tool.n_come < n_come)) {
        look_around();
        tool.is_in_pass = true;
        if (batch_count(tool.batch) > 0 && !batch_run(tool.batch, &e))
            refuse("pass", e.text);
        tool.is_in_pass = false;
    }
    collect();
    assert(tool.n_live == 0);
}

/* Requests, and what each gives alone. */

static struct settings alone(void)
{
    return (struct settings){.isa = "plain",
                             .threads = 1,
                             .rows = ROWS_MAX,
                             .cache_pages = 256,
                             .slab_bytes = SLAB_BYTES_MAX,
                             .pass_cost = ENDLESS,
                             .n_users = 1,
                             .n_jobs = 1};
}

/* A plan in which what is skipped is computed all the same, and each invoke has all its rows. */
static struct plan plan_in_full(const struct plan *p)
{
    struct plan whole = *p;
    whole.stops = ARENA_ARRAY(&tool.arena, struct stop, p->n_stops);
    for (int i = 0; i < p->n_stops; i++) {
        whole.stops[i] = p->stops[i];
        whole.stops[i].n_skips = 0;
    }
    whole.invokes = ARENA_ARRAY(&tool.arena, struct plan_invoke, p->n_invokes);
    for (int i = 0; i < p->n_invokes; i++) {
        whole.invokes[i] = p->invokes[i];
        whole.invokes[i].leader = i;
    }
    return whole;
}

static void run_alone(struct request *r)
{
    struct err e = {0};
    struct job *j = job_new("alone", &tool.arena);
    j->graph = r->graph;
    j->plan = plan_in_full(&r->plan);
    const struct capacity c = batch_capacity(tool.batch);
    if (!job_fits(j, &c, &e) || !job_reserve(j, &e))
        refuse("request", e.text);
    batch_add(tool.batch, j);
    while (batch_count(tool.batch) > 0)
        if (!batch_run(tool.batch, &e))
            refuse("pass", e.text);
    int n_ready;
    if (job_wait(j, &n_ready, -1, 0) != JOB_done)
        refuse("alone", j->err.text);
    r->results = j->results;
    r->absent = j->absent;
    r->generated = j->generated;
    r->outcomes = j->outcomes;
    job_free(j);
}

static void read_requests(const char *path)
{
    struct err e = {0};
    char *text;
    size_t size;
    int capacity = 0;
    if (!read_file(&text, &size, path, REQUEST_FILE_MAX, &tool.arena, &e))
        refuse(path, e.text);
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
        struct request *r = arena_push(&tool.arena, &tool.requests, &tool.n_requests, &capacity,
                                       sizeof *r);
        *r = (struct request){0};
        if (!decode_request(&r->graph, line, (size_t)(end - line), MEDIA_json, &made, &tool.arena,
                            &e) ||
            !plan_build(&r->plan, &r->graph, &made, &tool.arena, &e)) {
            fprintf(stderr, "line %d: %s: %s\n", tool.n_requests, e.where, e.text);
            exit(2);
        }
    }
}

static void run_all_alone(void)
{
    tool.set = alone();
    open_engine();
    batch_set_hooks(tool.batch, &(struct batch_hooks){do_nothing, do_nothing_with, NULL});
    for (int i = 0; i < tool.n_requests; i++)
        run_alone(&tool.requests[i]);
    close_engine();
}

/* A schedule by its seed. */

static void find_isas(void)
{
    static const char *const names[] = {"plain", "neon", "avx2", "avx512"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct err e = {0};
        struct device *d;
        const struct device_options o = {
            1, names[i], "f32", 1, made.inner, made.context, made.n_heads, 0, NULL};
        if (!backend_cpu.open(&d, &o, &e))
            continue;
        backend_cpu.close(d);
        tool.isas[tool.n_isas++] = names[i];
    }
}

static int largest(int a, int b)
{
    return a > b ? a : b;
}

/* What the requests need at least, and then some, or plenty. */
static void choose_sizes(struct settings *s)
{
    static const int more[] = {0, 0, 1, 7, 100, 1000}, shared[] = {1, 2, 16, 64, 100, 192, 256};
    int rows = 1, logits = 1, pages = 1;
    size_t slab = 64;
    for (int i = 0; i < (s->n_kinds ? s->n_kinds : tool.n_requests); i++) {
        const struct plan *p = &tool.requests[s->n_kinds ? s->kinds[i] : i].plan;
        logits = largest(logits, p->n_logits);
        rows = largest(rows, largest(p->n_rows, logits)); /* a pass has no more logits than rows */
        pages = largest(pages, p->n_pages);
        slab = p->slab_bytes > slab ? p->slab_bytes : slab;
    }
    s->rows = rows + more[below(6)];
    s->rows = s->rows < ROWS_MAX ? s->rows : ROWS_MAX;
    s->logits = logits + more[below(6)];
    s->cache_pages = pages + more[below(6)];
    s->slab_bytes = slab * (size_t)(1 + below(2) * below(20)) + 64 * (size_t)more[below(6)];
    s->shared_rows = below(2) ? shared[below(7)] : 1 + below(256);
}

/* Any requests, or some of a family, which have pages of the cache to share. Plain C takes some
 * twenty times as long as the others, an emulated device more: mostly they get what is short, if
 * that is soon found. */
static void choose_kinds(struct settings *s)
{
    const bool is_slow = !strcmp(s->isa, "plain") || !strcmp(s->isa, "cuda");
    const bool is_short = is_slow && !one_in(20), alike = one_in(2);
    const int first = alike ? below(tool.n_requests) / FAMILY * FAMILY : 0;
    const int n = alike && tool.n_requests - first > FAMILY ? FAMILY : tool.n_requests - first;
    for (int i = 0; i < s->n_kinds; i++) {
        int tries = is_short ? 8 : 1;
        do
            s->kinds[i] = first + below(n);
        while (--tries > 0 && tool.requests[s->kinds[i]].plan.cost > SHORT_COST);
    }
}

static void choose_settings(uint64_t seed, int n_jobs)
{
    static const int chances[] = {0, 0, 20000, 2000, 200, 30}, arrivals[] = {1, 2, 5, 30};
    struct settings *s = &tool.set;
    tool.random = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15);
    for (int i = 0; i < 8; i++)
        random_next();
    *s = (struct settings){.seed = seed, .n_jobs = n_jobs};
    if (n_jobs == 0) {
        s->n_jobs = 1 + below(JOBS_MAX);
        s->n_kinds = 1 + below(s->n_jobs);
        s->aborts = one_in(20) ? 50 : 0;
    }
    s->isa = tool.isas[one_in(6) ? 0 : largest(tool.n_isas - 1 - below(2), 0)];
    choose_kinds(s);
    s->threads = 1 + below(3);
    s->shares_prefixes = below(4) > 0;
    s->n_users = 1 + below(below(2) ? 3 : JOBS_MAX);
    s->arrives = arrivals[below(4)];
    s->cancels = chances[below(6)];
    s->pass_cost = pow(10, 3 + 6 * (double)below(1000) / 1000);
    choose_sizes(s);
}

/* What GET /metrics would say agrees with what was seen here, the requests alone included. */
static void check_metrics(void)
{
    const struct counts *c = &tool.counts;
    const struct {
        enum metric metric;
        int64_t value;
    } expected[] = {{METRIC_requests_running, 0},
                    {METRIC_cache_used, 0},
                    {METRIC_slab_used, 0},
                    {METRIC_request_bytes, 0},
                    {METRIC_requests_done, tool.n_requests + c->done},
                    {METRIC_requests_cancelled, c->cancelled},
                    {METRIC_requests_failed, c->aborted}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        const int64_t value = metric_value(expected[i].metric);
        if (value == expected[i].value)
            continue;
        printf("metric %d is %" PRId64 ", not %" PRId64 "\n", (int)expected[i].metric, value,
               expected[i].value);
        tool.counts.differences++;
    }
}

static void say_counts(void)
{
    const struct counts *c = &tool.counts;
    const struct {
        int64_t count;
        const char *of;
    } lines[] = {{c->jobs, "jobs"},
                 {c->done, "done"},
                 {c->cancelled, "cancelled"},
                 {c->aborted, "aborted"},
                 {c->pauses, "pauses"},
                 {c->came_in_pause, "came in one"},
                 {c->cancels_in_pass, "cancels inside a pass"},
                 {c->shared_positions, "positions shared"},
                 {c->copies, "copies"},
                 {c->followers, "followers"},
                 {c->forks, "forks"},
                 {c->late_starts, "of later positions"},
                 {c->saves, "saves"},
                 {c->nan_saves, "with another NaN"},
                 {c->absent, "absent"},
                 {c->stopped, "ended early"},
                 {c->differences, "differences"}};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        printf(", %" PRId64 " %s", lines[i].count, lines[i].of);
    printf("\n");
}

static void run(uint64_t seed, uint64_t count)
{
    const double start = seconds_now();
    for (uint64_t i = 0; i < count; i++) {
        choose_settings(seed + i, 0);
        open_engine();
        run_until(tool.set.n_jobs);
        close_engine();
    }
    printf("%" PRIu64 " schedules in %.1f s", count, seconds_now() - start);
}

static bool touched_alloc(struct device *d, void **p, size_t size, struct err *e)
{
    if (!real->alloc(d, p, size, e))
        return false;
    if (real == &backend_cpu)
        memset(*p, 0, size);
    return true;
}

/* The memory is measured while nobody is there, so that what is left is what stays; and the device's
 * is touched beforehand, since some of the slab is for the rare large jobs. */
static void soak(uint64_t seed, int n_jobs)
{
    backend.alloc = touched_alloc;
    backend.release = real->release;
    choose_settings(seed, n_jobs);
    open_engine();
    run_until(n_jobs / 10);
    const long warm_kb = rss_kb();
    run_until(n_jobs);
    printf("%ld kB of memory, %ld kB more than when a tenth was through", rss_kb(),
           rss_kb() - warm_kb);
    close_engine();
}

static void open_tool(const char *folder, const char *requests)
{
    make_backend(&backend_cpu);
    tool.folder = folder;
    read_requests(requests);
    run_all_alone();
    if (device_cuda) {
        make_backend(device_cuda);
        tool.isas[tool.n_isas++] = "cuda";
    } else {
        find_isas();
    }
}

static int make(const char *folder)
{
    tiny_config(folder, &made);
    tiny_weights(folder, &made, 11);
    return 0;
}

int main(int n, char **arguments)
{
    if (device_cuda)
        made.context = CONTEXT_EMULATED;
    if (n == 3 && !strcmp(arguments[1], "make"))
        return make(arguments[2]);
    const bool runs = n == 6 && !strcmp(arguments[1], "run");
    if (!runs && (n != 6 || strcmp(arguments[1], "soak")))
        refuse("usage", "schedules_tool make FOLDER | run MODEL REQUESTS FIRST_SEED COUNT | soak "
                        "MODEL REQUESTS SEED JOBS");
    open_tool(arguments[2], arguments[3]);
    const uint64_t seed = strtoull(arguments[4], NULL, 10);
    const uint64_t count = strtoull(arguments[5], NULL, 10);
    if (runs)
        run(seed, count);
    else
        soak(seed, (int)count);
    check_metrics();
    say_counts();
    arena_free(&tool.arena);
    return tool.counts.differences > 0;
}
