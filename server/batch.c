#include "batch.h"
#include "metrics.h"
#include "pages.h"
#include "round.h"

/* A step whose graph takes more than this part of a shared pass is large; how often it pauses. */
#define GRAPH_PART 0.25
#define PAUSE_PART 0.125

/* A small model's pass is over before anybody could care. */
#define PASS_COST_LEAST 2e8

struct batch {
    struct gpt2 *model;
    struct batch_hooks hooks;
    struct capacity capacity;
    bool shares_prefixes;

    struct job *first, *last; /* all that it has, in the order of their coming */
    int n_jobs;
    struct schedule *schedule;
    struct turn *picked[RUNNING_MAX];
    double pass_cost;

    struct pages *pages;
    char *slab;                        /* on the device; each admitted job has a part of it, and
                                          behind it is the PART_BYTES of rows in parts */
    struct job *admitted[RUNNING_MAX]; /* who has one */
    int n_admitted;

    struct round *shared, *large;
    struct job *in_large; /* whose pass it is, or NULL */
    struct err err;       /* of a shared pass inside a large one */
};

static bool admit(void *context, struct turn *t, const struct holding *most);
static void left(void *context, struct job *j);
static void pause(void *context, double cost);

/* Life. */

static void do_nothing(void *context)
{
    (void)context;
}

static void do_nothing_with(void *context, struct job *j)
{
    (void)context;
    (void)j;
}

static void tell_memory(const struct batch *b)
{
    const int64_t page_bytes = gpt2_cache_bytes(&b->model->shape, PAGE_TOKENS);
    const int n_left = pages_left(b->pages);
    size_t used = 0;
    for (int i = 0; i < b->n_admitted; i++)
        used += b->admitted[i]->plan.slab_bytes;
    metric_set(METRIC_slab_used, (int64_t)used);
    metric_set(METRIC_slab_free, (int64_t)(b->capacity.slab_bytes - used));
    metric_set(METRIC_cache_used, page_bytes * (b->capacity.pages - n_left));
    metric_set(METRIC_cache_free, page_bytes * n_left);
}

static double cost_of_rows(const struct gpt2 *m, int n_rows)
{
    const double D = m->shape.width, F = m->shape.inner, V = m->shape.vocab;
    const double cost = n_rows * (m->shape.n_blocks * (4 * D * D + 2 * D * F) + D * V);
    return cost > PASS_COST_LEAST ? cost : PASS_COST_LEAST;
}

static void open_rounds(struct batch *b, struct arena *a)
{
    struct round_hooks hooks = {left, NULL, b, 0, NULL};
    b->shared = round_new(b->model, LANE_shared, &hooks, a);
    hooks.pause = pause;
    hooks.pause_cost = PAUSE_PART * b->pass_cost;
    hooks.part_state = b->slab + b->capacity.slab_bytes;
    b->large = round_new(b->model, LANE_large, &hooks, a);
}

bool batch_open(struct batch **out, struct gpt2 *m, const struct batch_options *o, struct arena *a,
                struct err *e)
{
    struct batch *b = ARENA_NEW(a, struct batch);
    b->model = m;
    b->hooks = (struct batch_hooks){do_nothing, do_nothing_with, NULL};
    b->capacity = (struct capacity){m->rows_max[LANE_large], m->logits_max[LANE_large], m->n_pages,
                                    o->slab_bytes};
    b->shares_prefixes = o->shares_prefixes;
    void *slab;
    struct err why = {0};
    if (!m->be->alloc(m->device, &slab, o->slab_bytes + PART_BYTES, &why))
        return err_set(e, why.code, "%s that requests compute in: lower --slab-mb", why.text);
    b->slab = slab;
    b->pages = pages_new(m->n_pages, a);
    b->pass_cost = o->pass_cost > 0 ? o->pass_cost : cost_of_rows(m, m->rows_max[LANE_shared]);
    const struct schedule_limits limits = {
        .turns = o->jobs_max,
        .rows = m->rows_max[LANE_shared],
        .logits = m->logits_max[LANE_shared],
        .cost = b->pass_cost,
        .all = {.places = RUNNING_MAX, .pages = m->n_pages, .slab_bytes = o->slab_bytes}};
    b->schedule = schedule_new(&limits, admit, b, a);
    open_rounds(b, a);
    tell_memory(b);
    *out = b;
    return true;
}

void batch_close(struct batch *b)
{
    assert(b->n_jobs == 0 && b->n_admitted == 0);
    assert(pages_left(b->pages) == b->capacity.pages);
    pages_check(b->pages);
    schedule_check(b->schedule);
    b->model->be->release(b->model->device, b->slab,
                          b->capacity.slab_bytes + PART_BYTES);
}

void batch_enter(struct batch *b)
{
    b->model->be->enter(b->model->device);
}

void batch_set_hooks(struct batch *b, const struct batch_hooks *hooks)
{
    b->hooks = *hooks;
}

struct capacity batch_capacity(const struct batch *b)
{
    return b->capacity;
}

int batch_count(const struct batch *b)
{
    return b->n_jobs;
}

/* Those of its trace with rows in its next pass. */
static int count_sequences(const struct job *j)
{
    const struct plan_trace *t = job_trace(j);
    int n = 0;
    for (int i = t->invoke_first; i < t->invoke_first + t->n_invokes; i++)
        n += job_has_rows(j, i) ? j->plan.invokes[i].n_sequences : 0;
    return n;
}

/* Its turn is about the next pass. */
static void turn_settle(const struct batch *b, struct job *j)
{
    const struct plan_pass *p = &j->plan.passes[j->pass];
    const struct gpt2 *m = b->model;
    struct turn *t = &j->turn;
    const int n = count_sequences(j), n_all = job_trace(j)->n_sequences;
    const bool first = job_step(j) == 0;
    t->rows = first ? p->n_rows : n;
    t->logits = first ? p->n_logits : n;
    t->cost = p->cost * n / n_all;
    t->is_large = t->rows > m->rows_max[LANE_shared] || t->logits > m->logits_max[LANE_shared] ||
                  t->cost > b->pass_cost || p->graph_cost > GRAPH_PART * b->pass_cost;
}

void batch_add(struct batch *b, struct job *j)
{
    assert(j->plan.slab_bytes % 64 == 0);
    j->before = b->last;
    j->behind = NULL;
    if (b->last)
        b->last->behind = j;
    else
        b->first = j;
    b->last = j;
    b->n_jobs++;
    turn_settle(b, j);
    schedule_add(b->schedule, &j->turn);
}

/* Memory. */

static bool slab_is_free(const struct batch *b, const char *at, size_t size)
{
    if (size > b->capacity.slab_bytes - (size_t)(at - b->slab))
        return false;
    for (int i = 0; i < b->n_admitted; i++) {
        const struct job *j = b->admitted[i];
        if (at < j->slab + j->plan.slab_bytes && j->slab < at + size)
            return false;
    }
    return true;
}

/* The lowest place that is free: the start, or where another job's part ends. */
static char *find_slab(const struct batch *b, size_t size)
{
    char *best = slab_is_free(b, b->slab, size) ? b->slab : NULL;
    for (int i = 0; i < b->n_admitted && best != b->slab; i++) {
        char *behind = b->admitted[i]->slab + b->admitted[i]->plan.slab_bytes;
        if ((!best || behind < best) && slab_is_free(b, behind, size))
            best = behind;
    }
    return best;
}

/* The blocks in which an invoke's rows leave keys and values. */
static int count_cached_blocks(const struct batch *b, const struct job *j, int invoke)
{
    const int n_blocks = b->model->shape.n_blocks;
    const int last_site = j->plan.traces[j->plan.invokes[invoke].trace].last_site;
    int n = 0;
    while (n < n_blocks && site_of(PT_value, n, n_blocks) < last_site)
        n++;
    return n;
}

/* Others may share the pages that hold nothing but the beginnings of prompts. What an invoke's
 * graph touches lies nearer to the beginning of a shorter sequence. */
static void keep_pages(struct batch *b, const struct job *j, int invoke)
{
    const struct plan_invoke *v = &j->plan.invokes[invoke];
    const int depth = count_cached_blocks(b, j, invoke);
    for (int k = 0; k < v->n_sequences && b->shares_prefixes && depth > 0; k++) {
        const int from = v->set_from - (v->n_tokens - v->sequences[k].n_tokens);
        pages_keep(b->pages, job_pages(j, invoke, k), j->graph.invokes[invoke].prompts[k].tokens,
                   from > 0 ? from / PAGE_TOKENS : 0, depth);
    }
}

/* Of a sequence's pages those that are there: of its source, or of anybody's prompt. */
static int share_pages(struct batch *b, struct job *j, int invoke, int sequence)
{
    const struct plan_sequence *sequences = j->plan.invokes[invoke].sequences;
    int32_t *const pages = j->pages + sequences[sequence].page_first;
    const int source = sequences[sequence].source, n = plan_pages_copied(sequences, sequence);
    pages_hold(b->pages, pages, job_pages(j, invoke, source), n);
    if (source != sequence)
        return n;
    const int n_most = j->plan.invokes[invoke].cached_most / PAGE_TOKENS;
    const int n_shared =
        pages_share(b->pages, pages, j->graph.invokes[invoke].prompts[sequence].tokens,
                    b->shares_prefixes ? n_most : 0, count_cached_blocks(b, j, invoke));
    j->n_shared[invoke] = n_shared * PAGE_TOKENS;
    return n_shared;
}

/* Shares what it can and takes the rest of its pages: -1 and nothing where they are not there, else
 * how many it took. Where that cannot fail, and all who are admitted behind it until its first step
 * are in the same pass, they share these pages already: a block's keys are all there before anybody
 * reads one. */
static int take_pages(struct batch *b, struct job *j, int most)
{
    const struct plan *p = &j->plan;
    const bool promises =
        !j->turn.is_large && p->n_pages <= most && p->n_pages <= pages_left(b->pages);
    int n_held = 0, n_taken = 0;
    for (int i = 0; i < p->n_invokes; i++) {
        const struct plan_invoke *v = &p->invokes[i];
        for (int k = 0; k < v->n_sequences; k++) {
            assert(v->sequences[k].page_first == n_held);
            const int n_shared = share_pages(b, j, i, k), n = v->sequences[k].n_pages - n_shared;
            n_held += n_shared;
            n_taken += n;
            if (n_taken > most || !pages_take(b->pages, j->pages + n_held, n)) {
                pages_release(b->pages, j->pages, n_held);
                return -1;
            }
            n_held += n;
        }
        if (promises && v->trace == 0)
            keep_pages(b, j, i);
    }
    return n_taken;
}

static bool admit(void *context, struct turn *t, const struct holding *most)
{
    struct batch *b = context;
    struct job *j = job_of_turn(t);
    const struct plan *p = &j->plan;
    if (p->slab_bytes > most->slab_bytes)
        return false;
    char *slab = find_slab(b, p->slab_bytes);
    const int n_pages = slab ? take_pages(b, j, most->pages) : -1;
    if (n_pages < 0)
        return false;
    t->holds = (struct holding){1, n_pages, p->slab_bytes};
    j->slab = slab;
    b->admitted[b->n_admitted++] = j;
    for (int i = 0; i < p->n_constants; i++) {
        const struct plan_constants *c = &p->constants[i];
        b->model->be->upload(b->model->device, j->slab + c->base, c->from, c->bytes);
    }
    b->hooks.waits_no_more(b->hooks.context, j);
    tell_memory(b);
    job_start(j);
    return true;
}

static void take_back(struct batch *b, struct job *j)
{
    int i = 0;
    while (b->admitted[i] != j)
        i++;
    b->admitted[i] = b->admitted[--b->n_admitted];
    pages_release(b->pages, j->pages, j->plan.n_listed);
    j->slab = NULL;
    tell_memory(b);
}

/* The end of a job, wherever it is. Its state is the last thing that changes: then it is gone. */
static void let_go(struct batch *b, struct job *j, const struct err *why)
{
    if (j->turn.is_admitted)
        take_back(b, j);
    else
        b->hooks.waits_no_more(b->hooks.context, j);
    schedule_remove(b->schedule, &j->turn);
    *(j->before ? &j->before->behind : &b->first) = j->behind;
    *(j->behind ? &j->behind->before : &b->last) = j->before;
    b->n_jobs--;
    if (why)
        job_fail(j, why);
    else
        job_finish(j, job_cancelled(j) ? JOB_cancelled : JOB_done);
}

/* Passes. */

static void left(void *context, struct job *j)
{
    struct batch *b = context;
    if (j->err.code != ERR_none) {
        let_go(b, j, &j->err);
        return;
    }
    const struct plan_trace *t = job_trace(j);
    for (int i = 0; i < t->n_invokes && job_step(j) == 0 && !job_cancelled(j); i++)
        keep_pages(b, j, t->invoke_first + i);
    if (!job_advance(j) || job_cancelled(j)) {
        let_go(b, j, NULL);
        return;
    }
    turn_settle(b, j);
    schedule_add(b->schedule, &j->turn);
}

/* A large pass lets the others go first for as long as its user owes them. */
static void pause(void *context, double cost)
{
    struct batch *b = context;
    struct turn *t = &b->in_large->turn;
    schedule_charge(b->schedule, t, cost);
    b->hooks.between(b->hooks.context);
    while (b->err.code == ERR_none && schedule_owes(b->schedule, t)) {
        const int n = schedule_pick(b->schedule, b->picked);
        if (n == 0 || !round_run(b->shared, b->picked, n, &b->err))
            return;
        b->hooks.between(b->hooks.context);
    }
}

static bool run_large(struct batch *b, struct turn *t, struct err *e)
{
    b->in_large = job_of_turn(t);
    const bool ran = round_run(b->large, &t, 1, e);
    b->in_large = NULL;
    if (ran && b->err.code == ERR_none)
        return true;
    if (ran)
        *e = b->err;
    return false;
}

bool batch_run(struct batch *b, struct err *e)
{
    assert(b->n_jobs > 0);
    struct turn *large = schedule_pick_large(b->schedule);
    if (large)
        return run_large(b, large, e);
    const int n = schedule_pick(b->schedule, b->picked);
    assert(n > 0); /* what cannot run alone was refused before it was queued */
    return round_run(b->shared, b->picked, n, e);
}

void batch_drop_cancelled(struct batch *b)
{
    for (struct job *j = b->first, *behind; j; j = behind) {
        behind = j->behind;
        if (j != b->in_large && job_cancelled(j))
            let_go(b, j, NULL);
    }
}

void batch_abort(struct batch *b, const struct err *why)
{
    for (struct job *j = b->first, *behind; j; j = behind) {
        behind = j->behind;
        if (j != b->in_large) {
            let_go(b, j, why);
        } else if (j->err.code == ERR_none) {
            j->err = *why;
            job_cancel(j);
        }
    }
}

void batch_fail(struct batch *b, const struct err *why)
{
    while (b->first)
        let_go(b, b->first, why);
}
