#include "batch.h"
#include "../kernels/sample.h"
#include "dispatch.h"
#include <string.h>

struct batch {
    struct gpt2 *model;
    int n_sites, generated_site;
    struct capacity capacity;

    struct job *jobs[RUNNING_MAX]; /* in the order of admission, and of their rows */
    int n_jobs;

    char *slab;          /* on the device; each job has a part of it */
    int32_t *free_pages; /* a stack: what was used last is used next, while it is warm */
    int n_free_pages;

    struct pass pass; /* of the next run; its arrays are these */
    int32_t *tokens, *positions, *logits_rows;
    struct span *spans;
    uint64_t *wanted, *written;
    struct err err; /* a fence inside the pass that failed */

    float *row, *sample_scratch; /* (V): a row of logits on the host, and what the sampler needs */
    int32_t *sample_order;       /* (V) */
};

static void allocate_arrays(struct batch *b, struct arena *a)
{
    const size_t rows = (size_t)b->model->rows_max, V = (size_t)b->model->shape.vocab;
    const size_t words = (size_t)(b->n_sites + 63) / 64;
    b->free_pages = ARENA_ARRAY(a, int32_t, (size_t)b->model->n_pages);
    b->tokens = ARENA_ARRAY(a, int32_t, rows);
    b->positions = ARENA_ARRAY(a, int32_t, rows);
    b->spans = ARENA_ARRAY(a, struct span, rows);
    b->logits_rows = ARENA_ARRAY(a, int32_t, (size_t)b->model->logits_max);
    b->wanted = ARENA_ARRAY(a, uint64_t, words);
    b->written = ARENA_ARRAY(a, uint64_t, words);
    b->row = ARENA_ARRAY(a, float, V);
    b->sample_scratch = ARENA_ARRAY(a, float, V);
    b->sample_order = ARENA_ARRAY(a, int32_t, V);
}

bool batch_open(struct batch **out, struct gpt2 *m, size_t slab_bytes, struct arena *a,
                struct err *e)
{
    struct batch *b = ARENA_NEW(a, struct batch);
    b->model = m;
    b->n_sites = n_sites(m->shape.n_blocks);
    b->generated_site = site_of(PT_generated, 0, m->shape.n_blocks);
    b->capacity = (struct capacity){m->rows_max, m->logits_max, m->n_pages, slab_bytes};
    void *slab;
    if (!m->be->alloc(m->device, &slab, slab_bytes, e))
        return false;
    b->slab = slab;
    allocate_arrays(b, a);
    for (int page = m->n_pages; page > 0; page--)
        b->free_pages[b->n_free_pages++] = page - 1;
    *out = b;
    return true;
}

void batch_close(struct batch *b)
{
    assert(b->n_jobs == 0);
    assert(b->n_free_pages == b->capacity.pages);
    b->model->be->release(b->model->device, b->slab, b->capacity.slab_bytes);
}

struct capacity batch_capacity(const struct batch *b)
{
    return b->capacity;
}

int batch_count(const struct batch *b)
{
    return b->n_jobs;
}

/* Admission. */

static int rows_of(const struct job *j)
{
    return j->step == 0 ? j->plan.n_rows : j->plan.n_sequences;
}

static int logits_of(const struct job *j)
{
    return !j->plan.logits_wanted[j->step] ? 0
           : j->step == 0                  ? j->plan.n_logits
                                           : j->plan.n_sequences;
}

static bool rows_fit(const struct batch *b, const struct job *j)
{
    int rows = rows_of(j), logits = logits_of(j);
    for (int i = 0; i < b->n_jobs; i++) {
        rows += rows_of(b->jobs[i]);
        logits += logits_of(b->jobs[i]);
    }
    return rows <= b->capacity.rows && logits <= b->capacity.logits;
}

static bool slab_is_free(const struct batch *b, const char *at, size_t size)
{
    if (size > b->capacity.slab_bytes - (size_t)(at - b->slab))
        return false;
    for (int i = 0; i < b->n_jobs; i++) {
        const struct job *j = b->jobs[i];
        if (at < j->slab + j->plan.slab_bytes && j->slab < at + size)
            return false;
    }
    return true;
}

/* The lowest place that is free: the start, or where another job's part ends. */
static char *find_slab(const struct batch *b, size_t size)
{
    char *best = slab_is_free(b, b->slab, size) ? b->slab : NULL;
    for (int i = 0; i < b->n_jobs && best != b->slab; i++) {
        char *behind = b->jobs[i]->slab + b->jobs[i]->plan.slab_bytes;
        if ((!best || behind < best) && slab_is_free(b, behind, size))
            best = behind;
    }
    return best;
}

bool batch_admit(struct batch *b, struct job *j)
{
    const struct plan *p = &j->plan;
    assert(p->slab_bytes % 64 == 0);
    if (b->n_jobs == RUNNING_MAX || p->n_pages > b->n_free_pages || !rows_fit(b, j))
        return false;
    j->slab = find_slab(b, p->slab_bytes);
    if (!j->slab)
        return false;
    for (int i = 0; i < p->n_pages; i++)
        j->pages[i] = b->free_pages[--b->n_free_pages];
    if (p->constant_bytes)
        b->model->be->upload(b->model->device, j->slab, p->constants, p->constant_bytes);
    b->jobs[b->n_jobs++] = j;
    job_start(j);
    return true;
}

/* Takes back what batch_admit gave. The caller lets go of the job and closes the gap. */
static void take_back(struct batch *b, struct job *j)
{
    for (int i = j->plan.n_pages; i > 0; i--)
        b->free_pages[b->n_free_pages++] = j->pages[i - 1];
    j->slab = NULL;
}

/* The rows of the next pass. */

static const struct stop *stop_of_step(const struct job *j)
{
    const struct plan *p = &j->plan;
    if (j->next_stop == p->n_stops || p->stops[j->next_stop].step != j->step)
        return NULL;
    return &p->stops[j->next_stop];
}

static void set_bit(uint64_t *bits, int site)
{
    bits[site / 64] |= UINT64_C(1) << (site % 64);
}

static void want_sites(struct batch *b, const struct job *j)
{
    const struct plan *p = &j->plan;
    for (int i = j->next_stop; i < p->n_stops && p->stops[i].step == j->step; i++) {
        const struct stop *stop = &p->stops[i];
        if (stop->site == b->generated_site)
            continue;
        set_bit(b->wanted, stop->site);
        if (stop->writes)
            set_bit(b->written, stop->site);
    }
    if (p->last_site > b->pass.last_site)
        b->pass.last_site = p->last_site;
}

static int row_add(struct batch *b, int32_t token, int position)
{
    const int row = b->pass.n_rows++;
    b->tokens[row] = token;
    b->positions[row] = position;
    return row;
}

/* A sequence's whole prompt. */
static void span_add_prompt(struct batch *b, const struct job *j, int invoke, int sequence)
{
    const struct plan_invoke *v = &j->plan.invokes[invoke];
    const struct prompt *prompt = &j->graph.invokes[invoke].prompts[sequence];
    assert(prompt->n_tokens == v->n_tokens);
    b->spans[b->pass.n_spans++] = (struct span){
        .row = b->pass.n_rows, .n_rows = v->n_tokens, .pages = job_pages(j, invoke, sequence)};
    for (int i = 0; i < v->n_tokens; i++) {
        const int row = row_add(b, prompt->tokens[i], i);
        if (i >= v->logits_from)
            b->logits_rows[b->pass.n_logits++] = row;
    }
}

/* The token that was sampled last. */
static void span_add_token(struct batch *b, const struct job *j, int invoke, int sequence)
{
    const struct plan_invoke *v = &j->plan.invokes[invoke];
    const int past = v->n_tokens + j->step - 1;
    const int index = v->sequence_first + sequence;
    const int32_t token = j->generated[(int64_t)index * j->graph.n_new_tokens + j->step - 1];
    const int row = row_add(b, token, past);
    b->spans[b->pass.n_spans++] = (struct span){
        .row = row, .n_rows = 1, .past = past, .pages = job_pages(j, invoke, sequence)};
    if (j->plan.logits_wanted[j->step])
        b->logits_rows[b->pass.n_logits++] = row;
}

static void pass_add(struct batch *b, struct job *j)
{
    j->row_first = b->pass.n_rows;
    j->logits_first = b->pass.n_logits;
    for (int i = 0; i < j->plan.n_invokes; i++) {
        for (int k = 0; k < j->plan.invokes[i].n_sequences; k++) {
            if (j->step == 0)
                span_add_prompt(b, j, i, k);
            else
                span_add_token(b, j, i, k);
        }
    }
    want_sites(b, j);
    assert(b->pass.n_rows == j->row_first + rows_of(j));
    assert(b->pass.n_logits == j->logits_first + logits_of(j));
}

/* Stops. */

static void run_stop(struct batch *b, struct job *j, const struct stop *stop,
                     const struct tensor *activation)
{
    dispatch_stop(j, stop, b->model, activation);
    j->next_stop++;
    j->n_saved += stop->n_saves;
}

/* Tells the connections what has arrived, once the device has really delivered it. */
static void publish(struct batch *b)
{
    bool waiting = false;
    for (int i = 0; i < b->n_jobs; i++)
        waiting |= b->jobs[i]->n_saved > b->jobs[i]->n_published;
    if (!waiting || !b->model->be->fence(b->model->device, &b->err))
        return;
    for (int i = 0; i < b->n_jobs; i++) {
        struct job *j = b->jobs[i];
        struct err e = {0};
        if (j->n_saved > j->n_published && dispatch_check(j, &e))
            job_publish(j);
    }
}

static void on_site(void *context, enum point p, int block, const struct tensor *activation)
{
    struct batch *b = context;
    const int site = site_of(p, block, b->model->shape.n_blocks);
    for (int i = 0; i < b->n_jobs; i++) {
        const struct stop *stop = stop_of_step(b->jobs[i]);
        if (stop && stop->site == site)
            run_stop(b, b->jobs[i], stop, activation);
    }
    publish(b);
}

/* Sampling. */

/* The row of a sequence's last position among the pass's logits. */
static int last_logits_row(const struct job *j, const struct plan_invoke *v, int sequence)
{
    if (j->step > 0)
        return j->logits_first + v->sequence_first + sequence;
    const int each = v->n_tokens - v->logits_from;
    return j->logits_first + v->logits_first + (sequence + 1) * each - 1;
}

static bool sample_row(struct batch *b, int32_t *token, const struct job *j, int row, int sequence,
                       struct err *e)
{
    const struct gpt2 *m = b->model;
    const int64_t V = m->shape.vocab;
    const struct tensor logits = {
        .data = (void *)(gpt2_logits(m) + row * V), .dtype = DT_f32, .view = view_of(1, &V)};
    m->be->download(m->device, b->row, &logits);
    if (!m->be->fence(m->device, e))
        return false;
    const struct sampling *s = &j->graph.sampling;
    const struct sampler sampler = {s->temperature, s->top_k, s->top_p, s->seed};
    *token = sample_token(b->row, (int)V, &sampler, (uint32_t)sequence, (uint32_t)j->step,
                          b->sample_scratch, b->sample_order);
    return true;
}

static bool sample(struct batch *b, struct job *j, struct err *e)
{
    for (int i = 0; i < j->plan.n_invokes; i++) {
        const struct plan_invoke *v = &j->plan.invokes[i];
        for (int k = 0; k < v->n_sequences; k++) {
            const int index = v->sequence_first + k;
            int32_t *token = &j->generated[(int64_t)index * j->graph.n_new_tokens + j->step];
            if (!sample_row(b, token, j, last_logits_row(j, v, k), index, e))
                return false;
        }
    }
    return true;
}

/* After the pass. */

/* Samples, and runs the stop that waits for the last token. */
static bool complete_step(struct batch *b, struct job *j, struct err *e)
{
    if (j->plan.samples && !sample(b, j, e))
        return false;
    const struct stop *stop = stop_of_step(j);
    if (stop) {
        assert(stop->site == b->generated_site);
        run_stop(b, j, stop, &(struct tensor){0});
    }
    assert(!stop_of_step(j));
    return true;
}

static void let_go(struct batch *b, struct job *j, enum job_state state)
{
    take_back(b, j);
    job_finish(j, state);
}

static void fail(struct batch *b, struct job *j, const struct err *why)
{
    take_back(b, j);
    job_fail(j, why);
}

static void advance_all(struct batch *b)
{
    int n_left = 0;
    for (int i = 0; i < b->n_jobs; i++) {
        struct job *j = b->jobs[i];
        struct err e = {0};
        if (!dispatch_check(j, &e))
            fail(b, j, &e);
        else if (++j->step < j->plan.n_steps)
            b->jobs[n_left++] = j;
        else
            let_go(b, j, job_cancelled(j) ? JOB_cancelled : JOB_done);
    }
    b->n_jobs = n_left;
}

static void pass_clear(struct batch *b)
{
    const size_t words = (size_t)(b->n_sites + 63) / 64;
    memset(b->wanted, 0, words * sizeof *b->wanted);
    memset(b->written, 0, words * sizeof *b->written);
    b->pass = (struct pass){.tokens = b->tokens,
                            .positions = b->positions,
                            .spans = b->spans,
                            .logits_rows = b->logits_rows,
                            .wanted = b->wanted,
                            .written = b->written,
                            .hook = on_site,
                            .context = b};
}

bool batch_run(struct batch *b, struct err *e)
{
    assert(b->n_jobs > 0);
    pass_clear(b);
    for (int i = 0; i < b->n_jobs; i++)
        pass_add(b, b->jobs[i]);
    if (!gpt2_run(b->model, &b->pass, e))
        return false;
    for (int i = 0; i < b->n_jobs; i++) {
        if (!complete_step(b, b->jobs[i], e))
            return false;
    }
    publish(b);
    if (b->err.code != ERR_none) {
        *e = b->err;
        return false;
    }
    advance_all(b);
    return true;
}

void batch_drop_cancelled(struct batch *b)
{
    int n_left = 0;
    for (int i = 0; i < b->n_jobs; i++) {
        struct job *j = b->jobs[i];
        if (job_cancelled(j))
            let_go(b, j, JOB_cancelled);
        else
            b->jobs[n_left++] = j;
    }
    b->n_jobs = n_left;
}

void batch_fail(struct batch *b, const struct err *why)
{
    for (int i = 0; i < b->n_jobs; i++)
        fail(b, b->jobs[i], why);
    b->n_jobs = 0;
}
