#include "round.h"
#include "../kernels/sample.h"
#include "dispatch.h"
#include <string.h>

/* How long a saved value may wait for others before its reader hears of it. */
#define PUBLISH_SECONDS 0.01

struct round {
    struct gpt2 *model;
    enum lane lane;
    struct round_hooks hooks;
    int n_sites, next_site, generated_site; /* the last two belong to no pass */

    struct job *jobs[RUNNING_MAX]; /* in the order of their rows; NULL where one has left */
    int n_jobs;
    double block_cost; /* multiply-adds of one row in one block, about */

    struct pass pass; /* of the next run; its arrays are these */
    int32_t *tokens, *positions, *logits_rows;
    struct span *spans, *copies, *logits_spans;
    int *last_sites;
    uint64_t *wanted, *written;
    struct err err; /* a fence inside the pass that failed */

    float *row, *sample_scratch; /* (V): a row of logits on the host, and what the sampler needs */
    uint64_t *sample_order;      /* (2, V) */
};

static void on_site(void *context, enum point p, int block, const struct tensor *activation);
static void on_pause(void *context, int n_rows);

struct round *round_new(struct gpt2 *m, enum lane lane, const struct round_hooks *hooks,
                        struct arena *a)
{
    struct round *r = ARENA_NEW(a, struct round);
    const size_t rows = (size_t)m->rows_max[lane], V = (size_t)m->shape.vocab;
    const double D = m->shape.width, F = m->shape.inner;
    r->model = m;
    r->lane = lane;
    r->hooks = *hooks;
    r->n_sites = n_sites(m->shape.n_blocks);
    r->next_site = site_of(PT_next, 0, m->shape.n_blocks);
    r->generated_site = site_of(PT_generated, 0, m->shape.n_blocks);
    r->block_cost = 4 * D * D + 2 * D * F;
    const size_t words = (size_t)(r->n_sites + 63) / 64;
    r->tokens = ARENA_ARRAY(a, int32_t, rows);
    r->positions = ARENA_ARRAY(a, int32_t, rows);
    r->spans = ARENA_ARRAY(a, struct span, rows);
    r->copies = ARENA_ARRAY(a, struct span, (size_t)m->n_pages); /* each has one of its own */
    r->last_sites = ARENA_ARRAY(a, int, rows);
    r->logits_rows = ARENA_ARRAY(a, int32_t, (size_t)m->logits_max[lane]);
    r->logits_spans = ARENA_ARRAY(a, struct span, (size_t)m->logits_max[lane]);
    r->wanted = ARENA_ARRAY(a, uint64_t, words);
    r->written = ARENA_ARRAY(a, uint64_t, words);
    r->row = ARENA_ARRAY(a, float, V);
    r->sample_scratch = ARENA_ARRAY(a, float, V);
    r->sample_order = ARENA_ARRAY(a, uint64_t, 2 * V);
    return r;
}

/* The rows of the next pass. */

static void pass_clear(struct round *r)
{
    const size_t words = (size_t)(r->n_sites + 63) / 64;
    memset(r->wanted, 0, words * sizeof *r->wanted);
    memset(r->written, 0, words * sizeof *r->written);
    r->pass = (struct pass){.lane = r->lane,
                            .tokens = r->tokens,
                            .positions = r->positions,
                            .spans = r->spans,
                            .copies = r->copies,
                            .last_sites = r->last_sites,
                            .logits_rows = r->logits_rows,
                            .logits_spans = r->logits_spans,
                            .wanted = r->wanted,
                            .written = r->written,
                            .hook = on_site,
                            .pause = r->hooks.pause ? on_pause : NULL,
                            .context = r};
}

static const struct stop *stop_of_pass(const struct job *j)
{
    const struct plan *p = &j->plan;
    if (j->next_stop == p->n_stops || p->stops[j->next_stop].pass != j->pass)
        return NULL;
    return &p->stops[j->next_stop];
}

static void set_bit(uint64_t *bits, int site)
{
    bits[site / 64] |= UINT64_C(1) << (site % 64);
}

static void want_sites(struct round *r, const struct job *j)
{
    const struct plan *p = &j->plan;
    for (int i = j->next_stop; i < p->n_stops && p->stops[i].pass == j->pass; i++) {
        const struct stop *stop = &p->stops[i];
        if (stop->site >= r->next_site)
            continue;
        set_bit(r->wanted, stop->site);
        if (stop->writes)
            set_bit(r->written, stop->site);
    }
}

static void row_add(struct round *r, int32_t token, int position)
{
    r->tokens[r->pass.n_rows] = token;
    r->positions[r->pass.n_rows] = position;
    r->pass.n_rows++;
}

/* A sequence's rows of positions past .. past + n_rows - 1. */
static void span_add(struct round *r, const struct job *j, const struct span *s,
                     const int32_t *tokens)
{
    struct pass *p = &r->pass;
    assert(s->row == p->n_rows);
    r->last_sites[p->n_spans] = job_trace(j)->last_site;
    r->spans[p->n_spans++] = *s;
    for (int i = 0; i < s->n_rows; i++)
        row_add(r, tokens[i], s->past + i);
}

/* The rows of a sequence's source leave their keys and values in its own pages too. */
static void copy_add(struct round *r, struct span s, int n_pages_shared)
{
    const int n_there = n_pages_shared * PAGE_TOKENS - s.past;
    s.row += n_there;
    s.past += n_there;
    s.n_rows -= n_there;
    if (s.n_rows > 0)
        r->copies[r->pass.n_copies++] = s;
}

/* The last n of these rows have logits. */
static void logits_add(struct round *r, const struct span *s, int n)
{
    struct pass *p = &r->pass;
    if (n == 0)
        return;
    r->logits_spans[p->n_logits_spans++] = (struct span){.row = p->n_logits,
                                                         .n_rows = n,
                                                         .past = s->past + s->n_rows - n,
                                                         .pages = s->pages};
    for (int i = s->n_rows - n; i < s->n_rows; i++)
        r->logits_rows[p->n_logits++] = s->row + i;
}

/* An invoke's prompts, whole or from where nothing is shared. */
static void prompts_add(struct round *r, struct job *j, int invoke)
{
    const struct plan_invoke *v = &j->plan.invokes[invoke];
    const int from = j->n_shared[invoke];
    assert(from == 0 || (from <= v->read_from && from <= v->logits_from));
    j->row_of[invoke] = r->pass.n_rows - from;
    j->logits_of[invoke] = r->pass.n_logits;
    for (int k = 0; k < v->n_sequences; k++) {
        const struct plan_sequence *q = &v->sequences[k];
        const struct span s = {.row = j->row_of[invoke] + q->row + from,
                               .n_rows = q->n_tokens - from,
                               .past = from,
                               .pages = job_pages(j, invoke, k)};
        if (q->source == k)
            span_add(r, j, &s, j->graph.invokes[invoke].prompts[k].tokens + from);
        else
            copy_add(r, s, plan_pages_copied(v->sequences, k));
        logits_add(r, &s, q->n_logits);
    }
}

/* The tokens that were sampled last. */
static void tokens_add(struct round *r, struct job *j, int invoke)
{
    const struct plan_invoke *v = &j->plan.invokes[invoke];
    j->row_of[invoke] = r->pass.n_rows;
    j->logits_of[invoke] = r->pass.n_logits;
    for (int k = 0; k < v->n_sequences; k++) {
        const struct span s = {.row = r->pass.n_rows,
                               .n_rows = 1,
                               .past = v->sequences[k].n_tokens + job_step(j) - 1,
                               .pages = job_pages(j, invoke, k)};
        span_add(r, j, &s, job_generated(j, invoke, k) + job_step(j) - 1);
        logits_add(r, &s, 1);
    }
}

static void job_add(struct round *r, struct job *j)
{
    const struct plan_trace *t = job_trace(j);
    for (int i = t->invoke_first; i < t->invoke_first + t->n_invokes; i++) {
        if (job_step(j) == 0)
            prompts_add(r, j, i);
        else if (job_has_rows(j, i))
            tokens_add(r, j, i);
    }
    want_sites(r, j);
}

/* Who stays longest comes first, so that leaving the pass is shortening it; else as picked. */
static void insert(struct round *r, struct job *j)
{
    int at = r->n_jobs++;
    for (; at > 0 && job_trace(r->jobs[at - 1])->last_site < job_trace(j)->last_site; at--)
        r->jobs[at] = r->jobs[at - 1];
    r->jobs[at] = j;
}

/* Inside the pass. */

/* A connection that wakes takes a core from the pass: once for a few saves is enough. */
static bool is_due(const struct job *j, double now)
{
    if (j->is_followed && j->n_sampled > j->n_told)
        return true;
    return j->n_saved > j->n_published &&
           (!stop_of_pass(j) || now >= j->published_at + PUBLISH_SECONDS);
}

/* Tells the connections what has arrived, once the device has really delivered it. */
static void publish(struct round *r)
{
    const double now = seconds_now();
    bool waiting = false;
    for (int i = 0; i < r->n_jobs; i++)
        waiting |= r->jobs[i] && is_due(r->jobs[i], now);
    if (!waiting || !r->model->be->fence(r->model->device, &r->err))
        return;
    for (int i = 0; i < r->n_jobs; i++) {
        struct job *j = r->jobs[i];
        struct err e = {0};
        if (j && is_due(j, now) && dispatch_check(j, &e)) {
            job_publish(j);
            j->published_at = now;
        }
    }
}

static void leave(struct round *r, int i)
{
    struct job *j = r->jobs[i];
    r->jobs[i] = NULL;
    dispatch_check(j, &j->err);
    r->hooks.left(r->hooks.context, j);
}

static void run_stop(struct round *r, struct job *j, const struct stop *stop,
                     const struct tensor *activation)
{
    const struct breath breath = {r->hooks.pause_cost, r->hooks.pause, r->hooks.context};
    dispatch_stop(j, stop, r->model, activation, r->hooks.pause ? &breath : NULL);
    j->next_stop++;
    j->n_saved += stop->n_saves;
}

/* Nothing is left to do for it in this step. */
static bool is_through(const struct job *j)
{
    return !job_trace(j)->samples && !stop_of_pass(j);
}

static void on_site(void *context, enum point p, int block, const struct tensor *activation)
{
    struct round *r = context;
    const int site = site_of(p, block, r->model->shape.n_blocks);
    for (int i = 0; i < r->n_jobs; i++) {
        const struct stop *stop = r->jobs[i] ? stop_of_pass(r->jobs[i]) : NULL;
        if (stop && stop->site == site)
            run_stop(r, r->jobs[i], stop, activation);
    }
    publish(r);
    for (int i = 0; i < r->n_jobs && r->err.code == ERR_none; i++) {
        if (r->jobs[i] && is_through(r->jobs[i]))
            leave(r, i);
    }
}

/* Before each block: what the rows took in the one before. */
static void on_pause(void *context, int n_rows)
{
    const struct round *r = context;
    r->hooks.pause(r->hooks.context, r->block_cost * n_rows);
}

/* Behind the pass. */

/* The row of a sequence's last position among the pass's logits. */
static int last_logits_row(const struct job *j, int invoke, int sequence)
{
    const struct plan_sequence *all = j->plan.invokes[invoke].sequences, *q = &all[sequence];
    if (job_step(j) > 0)
        return j->logits_of[invoke] + sequence;
    q = q->n_logits > 0 ? q : &all[q->source];
    return j->logits_of[invoke] + q->logits_row + q->n_logits - 1;
}

/* What Hugging Face's processors do with a row before a token is chosen of it. */
static void process_row(struct round *r, const struct job *j, int invoke, int sequence)
{
    const struct trace *t = job_asked(j);
    const struct prompt *p = &j->graph.invokes[invoke].prompts[sequence];
    const struct token_ids seen[] = {{p->tokens, p->n_tokens},
                                     {job_generated(j, invoke, sequence), job_step(j)}};
    if (t->sampling.repetition_penalty > 0 && t->sampling.repetition_penalty != 1)
        sample_penalize(r->row, t->sampling.repetition_penalty, seen, 2, r->sample_scratch);
    if (job_step(j) < t->ending.n_min)
        sample_forbid(r->row, (struct token_ids){t->ending.ids, t->ending.n_ids});
}

static bool sample_row(struct round *r, int32_t *token, const struct job *j, int invoke,
                       int sequence, struct err *e)
{
    const struct gpt2 *m = r->model;
    const int64_t V = m->shape.vocab;
    const int row = last_logits_row(j, invoke, sequence);
    const struct tensor logits = {.data = (void *)(gpt2_logits(m, r->lane) + row * V),
                                  .dtype = DT_f32,
                                  .view = view_of(1, &V)};
    m->be->download(m->device, r->row, &logits);
    if (!m->be->fence(m->device, e))
        return false;
    process_row(r, j, invoke, sequence);
    const struct sampling *s = &job_asked(j)->sampling;
    const struct sampler sampler = {s->temperature, (int)s->top_k, s->top_p, s->min_p,
                                    (uint64_t)s->seed};
    const int index = j->plan.invokes[invoke].sequence_first + sequence;
    *token = sample_token(r->row, (int)V, &sampler, (uint32_t)index, (uint32_t)job_step(j),
                          r->sample_scratch, r->sample_order);
    return true;
}

/* A sequence that has ended keeps its rows while others of its invoke go on, as tensors have all of
 * them: its tokens are the padding that stands in `generated`. */
static bool sample_invoke(struct round *r, struct job *j, int invoke, struct err *e)
{
    const struct plan_invoke *v = &j->plan.invokes[invoke];
    const int step = job_step(j);
    bool all_stopped = true;
    for (int k = 0; k < v->n_sequences; k++) {
        struct outcome *o = &j->outcomes[v->outcome_first + k];
        int32_t *ids = job_generated(j, invoke, k);
        if (o->stopped)
            continue;
        if (!sample_row(r, &ids[step], j, invoke, k, e))
            return false;
        o->n_new = step + 1;
        o->stopped = ending_reached(&job_asked(j)->ending, j->bpe, ids, o->n_new);
        all_stopped &= o->stopped;
    }
    if (all_stopped)
        j->last_step[invoke] = step;
    return true;
}

static bool sample(struct round *r, struct job *j, struct err *e)
{
    const struct plan_trace *t = job_trace(j);
    for (int i = t->invoke_first; i < t->invoke_first + t->n_invokes; i++) {
        if (job_has_rows(j, i) && !sample_invoke(r, j, i, e))
            return false;
    }
    return true;
}

/* Of the steps that do not come: what needs none of them, and the rest is absent. */
static void end_trace(struct round *r, struct job *j)
{
    const struct plan *p = &j->plan;
    const int end = job_trace(j)->pass_first + job_trace(j)->n_steps;
    while (j->next_stop < p->n_stops && p->stops[j->next_stop].pass < end)
        run_stop(r, j, &p->stops[j->next_stop], &(struct tensor){0});
}

/* Samples, and runs the stops that wait for tokens. */
static bool complete_step(struct round *r, struct job *j, struct err *e)
{
    if (job_trace(j)->samples && !sample(r, j, e))
        return false;
    for (const struct stop *stop; (stop = stop_of_pass(j));) {
        assert(stop->site >= r->next_site);
        run_stop(r, j, stop, &(struct tensor){0});
    }
    if (job_step(j) == job_last_step(j))
        end_trace(r, j);
    j->n_sampled++;
    return true;
}

static bool complete(struct round *r, struct err *e)
{
    for (int i = 0; i < r->n_jobs; i++) {
        if (r->jobs[i] && !complete_step(r, r->jobs[i], e))
            return false;
    }
    publish(r);
    if (r->err.code != ERR_none) {
        *e = r->err;
        return false;
    }
    for (int i = 0; i < r->n_jobs; i++) {
        if (r->jobs[i])
            leave(r, i);
    }
    return true;
}

bool round_run(struct round *r, struct turn *const *turns, int n_turns, struct err *e)
{
    assert(n_turns > 0 && n_turns <= RUNNING_MAX);
    r->n_jobs = 0;
    for (int i = 0; i < n_turns; i++)
        insert(r, job_of_turn(turns[i]));
    pass_clear(r);
    for (int i = 0; i < n_turns; i++)
        job_add(r, r->jobs[i]);
    return gpt2_run(r->model, &r->pass, e) && complete(r, e);
}
