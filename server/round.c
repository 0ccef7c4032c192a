#include "round.h"
#include "../kernels/sample.h"
#include "dispatch.h"
#include "metrics.h"
#include <string.h>

/* How long a saved value may wait for others before its reader hears of it. */
#define PUBLISH_SECONDS 0.01

enum {
    DRAWS_AT_ONCE = 32, /* rows of logits that are fetched at once: GPT-2's take 6 MB, and choosing
                           tokens of them takes longer than a fetch's start */
    DRAWS_MAX = RUNNING_MAX * SEQUENCES_MAX /* copies of a prompt may have neither rows nor pages */
};

struct draw { /* a token that is chosen behind the pass */
    struct job *job;
    int invoke, sequence;
};

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
    struct spared *spared;
    int32_t *rows_before; /* [rows] where each row was before rows joined */

    struct draw *draws;
    int n_draws;
    float *logits;          /* (DRAWS_AT_ONCE, V) on the host, of the next draws */
    float *sample_scratch;  /* (V) what the sampler needs, */
    uint64_t *sample_order; /* (2, V) */
};

static void on_site(void *context, enum point p, int block, const struct tensor *activation);
static void on_pause(void *context, int n_rows);
static const int32_t *on_join(void *context, int block);

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
    r->spared = ARENA_ARRAY(a, struct spared, (size_t)m->shape.n_blocks * STAGE_COUNT);
    r->rows_before = ARENA_ARRAY(a, int32_t, rows);
    r->draws = ARENA_ARRAY(a, struct draw, DRAWS_MAX);
    r->logits = ARENA_ARRAY(a, float, DRAWS_AT_ONCE * V);
    r->sample_scratch = ARENA_ARRAY(a, float, V);
    r->sample_order = ARENA_ARRAY(a, uint64_t, 2 * V);
    return r;
}

/* The rows of the next pass. */

static void rows_clear(struct round *r)
{
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
                            .join = on_join,
                            .context = r};
}

static void pass_clear(struct round *r)
{
    const size_t words = (size_t)(r->n_sites + 63) / 64;
    memset(r->wanted, 0, words * sizeof *r->wanted);
    memset(r->written, 0, words * sizeof *r->written);
    r->n_draws = 0;
    rows_clear(r);
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

static int count_rows(const struct job *j, int invoke)
{
    const struct plan_invoke *v = &j->plan.invokes[invoke];
    const struct plan_sequence *last = &v->sequences[v->n_sequences - 1];
    return job_step(j) > 0 ? v->n_sequences : last->row + last->n_tokens;
}

/* Rows without a part of a block matter where they are the first or the last of all. */
static void spare(struct round *r, const struct job *j, const struct plan_skip *skip)
{
    const int n_blocks = r->model->shape.n_blocks;
    const int first = j->row_of[skip->invoke], end = first + count_rows(j, skip->invoke);
    if (!r->pass.spared)
        memset(r->spared, 0, (size_t)n_blocks * STAGE_COUNT * sizeof *r->spared);
    r->pass.spared = r->spared;
    for (int i = 0; i < STAGE_COUNT; i++) {
        struct spared *s = &r->spared[skip->block * STAGE_COUNT + i];
        if (!skip->stages[i])
            continue;
        s->head = s->head == first ? end : s->head;
        s->tail = s->end == first ? s->tail : first;
        s->end = end;
    }
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
        for (int k = 0; k < stop->n_skips; k++)
            if (job_has_rows(j, p->skips[stop->first_skip + k].invoke))
                spare(r, j, &p->skips[stop->first_skip + k]);
    }
}

static void row_add(struct round *r, int32_t token, int position)
{
    r->tokens[r->pass.n_rows] = token;
    r->positions[r->pass.n_rows] = position;
    r->pass.n_rows++;
}

/* A sequence's rows of positions past .. past + n_rows - 1, which were those from `before` on. */
static void span_add(struct round *r, const struct job *j, const struct span *s, int before,
                     const int32_t *tokens)
{
    struct pass *p = &r->pass;
    assert(s->row == p->n_rows);
    r->last_sites[p->n_spans] = job_trace(j)->last_site;
    r->spans[p->n_spans++] = *s;
    for (int i = 0; i < s->n_rows; i++) {
        r->rows_before[s->row + i] = before + i;
        row_add(r, tokens[i], s->past + i);
    }
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

static void join_before(struct round *r, int block)
{
    struct pass *p = &r->pass;
    if (block < r->model->shape.n_blocks && (p->joins_at == 0 || block < p->joins_at))
        p->joins_at = block;
}

/* Whose rows an invoke has in a pass over prompts before it has its own. Where fewer are computed
 * of its leader's, because of what the cache has, it does not follow. */
static int leader_of(const struct job *j, int invoke)
{
    const int leader = j->plan.invokes[invoke].leader;
    return j->n_shared[invoke] >= j->n_shared[leader] ? leader : invoke;
}

/* The first position that has a row of its own from this block on: n_tokens if none has. */
static int first_own(const struct job *j, int invoke, int block)
{
    const struct plan_invoke *v = &j->plan.invokes[invoke];
    const int shared = j->n_shared[invoke];
    if (leader_of(j, invoke) == invoke)
        return shared;
    if (block < v->fork)
        return v->n_tokens;
    return v->start > shared ? v->start : shared;
}

/* A sequence's rows at positions from .. to - 1, or as far as it goes; `row`: where its invoke's
 * first position is, or would be. */
static struct span span_of(const struct job *j, int invoke, int sequence, int row, int from, int to)
{
    const struct plan_sequence *q = &j->plan.invokes[invoke].sequences[sequence];
    return (struct span){.row = row + q->row + from,
                         .n_rows = (to < q->n_tokens ? to : q->n_tokens) - from,
                         .past = from,
                         .pages = job_pages(j, invoke, sequence)};
}

/* An invoke's prompts, from the first position on that it has a row of. */
static void prompts_add(struct round *r, struct job *j, int invoke, int block)
{
    const struct plan_invoke *v = &j->plan.invokes[invoke];
    const int from = first_own(j, invoke, block), before = j->row_of[invoke];
    if (from == v->n_tokens)
        return;
    const int row = j->row_of[invoke] = r->pass.n_rows - from;
    for (int k = 0; k < v->n_sequences; k++) {
        if (v->sequences[k].source != k)
            continue;
        const struct span s = span_of(j, invoke, k, row, from, v->n_tokens);
        span_add(r, j, &s, before + s.row - row,
                 j->graph.invokes[invoke].prompts[k].tokens + from);
    }
}

/* What an invoke has of rows that are all there by now: its pages that those of others fill, which
 * are its leader's or of equal sequences, and its logits. */
static void prompts_end(struct round *r, struct job *j, int invoke, int block)
{
    const struct plan_invoke *v = &j->plan.invokes[invoke];
    const int T = v->n_tokens, own = first_own(j, invoke, block), leader = leader_of(j, invoke);
    assert(own == T || (own <= v->read_from && own <= v->logits_from));
    if (own == T)
        j->row_of[invoke] = j->row_of[leader];
    if (leader != invoke && block < v->fork)
        join_before(r, v->fork);
    j->logits_of[invoke] = r->pass.n_logits;
    for (int k = 0; k < v->n_sequences; k++) {
        const bool is_copy = v->sequences[k].source != k;
        const int copied = plan_pages_copied(v->sequences, k) * PAGE_TOKENS;
        const int there = j->n_shared[invoke] > copied ? j->n_shared[invoke] : copied;
        const int row = j->row_of[is_copy ? invoke : leader];
        const struct span others = span_of(j, invoke, k, row, there, is_copy ? T : own);
        if (others.n_rows > 0)
            r->copies[r->pass.n_copies++] = others;
        const struct span all = span_of(j, invoke, k, j->row_of[invoke], 0, T);
        logits_add(r, &all, v->sequences[k].n_logits);
    }
}

/* The tokens that were sampled last. */
static void tokens_add(struct round *r, struct job *j, int invoke)
{
    const struct plan_invoke *v = &j->plan.invokes[invoke];
    const int before = j->row_of[invoke], row = j->row_of[invoke] = r->pass.n_rows;
    j->logits_of[invoke] = r->pass.n_logits;
    for (int k = 0; k < v->n_sequences; k++) {
        const struct span s = {.row = row + k,
                               .n_rows = 1,
                               .past = v->sequences[k].n_tokens + job_step(j) - 1,
                               .pages = job_pages(j, invoke, k)};
        span_add(r, j, &s, before + k, job_generated(j, invoke, k) + job_step(j) - 1);
        logits_add(r, &s, 1);
    }
}

/* What it has in the pass from a block on. */
static void rows_add(struct round *r, struct job *j, int block)
{
    const struct plan_trace *t = job_trace(j);
    const int first = t->invoke_first, end = first + t->n_invokes;
    for (int i = first; i < end; i++) {
        if (job_step(j) == 0)
            prompts_add(r, j, i, block);
        else if (job_has_rows(j, i))
            tokens_add(r, j, i);
    }
    for (int i = first; i < end && job_step(j) == 0; i++)
        prompts_end(r, j, i, block);
    want_sites(r, j);
}

/* A sequence that has ended keeps its rows while others of its invoke go on, as tensors have all of
 * them: its tokens are the padding that stands in `generated`. */
static void draws_add(struct round *r, struct job *j, int invoke)
{
    const struct plan_invoke *v = &j->plan.invokes[invoke];
    assert(r->n_draws + v->n_sequences <= DRAWS_MAX);
    for (int k = 0; k < v->n_sequences; k++) {
        if (!j->outcomes[v->outcome_first + k].stopped)
            r->draws[r->n_draws++] = (struct draw){j, invoke, k};
    }
    set_bit(r->wanted, site_of(PT_logits, 0, r->model->shape.n_blocks));
}

/* Of prompts that have rows of their own by the last block. */
static void count_tokens(const struct round *r, const struct job *j, int invoke)
{
    const struct plan_invoke *v = &j->plan.invokes[invoke];
    const bool is_computed = first_own(j, invoke, r->model->shape.n_blocks - 1) < v->n_tokens;
    for (int k = 0; k < v->n_sequences && is_computed; k++) {
        if (v->sequences[k].source != k)
            continue;
        metric_add(METRIC_prompt_tokens, v->sequences[k].n_tokens);
        metric_add(METRIC_cached_tokens, j->n_shared[invoke]);
    }
}

static void job_add(struct round *r, struct job *j)
{
    const struct plan_trace *t = job_trace(j);
    rows_add(r, j, 0);
    for (int i = t->invoke_first; i < t->invoke_first + t->n_invokes; i++) {
        if (job_step(j) == 0)
            count_tokens(r, j, i);
        if (t->samples && job_has_rows(j, i))
            draws_add(r, j, i);
    }
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

static bool is_ahead(const struct progress *x, const struct progress *y)
{
    return x->n_saves > y->n_saves || x->n_steps > y->n_steps;
}

static bool has_arrived(const struct round *r, const struct progress *p)
{
    return r->model->be->reached(r->model->device, p->mark);
}

/* A connection that wakes takes a core from the pass: once for a few saves is enough. */
static bool is_due(const struct job *j, double now)
{
    if (j->is_followed && j->made.n_steps > j->told.n_steps)
        return true;
    return j->made.n_saves > j->told.n_saves &&
           (!stop_of_pass(j) || now >= j->published_at + PUBLISH_SECONDS);
}

/* Tells the connection what has arrived. What is on its way is told of before more is sent. */
static void publish(const struct round *r, struct job *j, double now)
{
    for (;;) {
        struct err e = {0};
        if (!is_ahead(&j->sent, &j->told) && is_due(j, now))
            j->sent = j->made;
        if (!is_ahead(&j->sent, &j->told) || !has_arrived(r, &j->sent) || !dispatch_check(j, &e))
            return;
        job_publish(j);
        j->published_at = now;
    }
}

/* All that it made has arrived. */
static void leave(struct round *r, int i)
{
    struct job *j = r->jobs[i];
    publish(r, j, seconds_now());
    r->jobs[i] = NULL;
    dispatch_check(j, &j->err);
    r->hooks.left(r->hooks.context, j);
}

static void run_stop(struct round *r, struct job *j, const struct stop *stop,
                     const struct tensor *activation)
{
    const struct breath breath = {r->hooks.pause_cost, r->hooks.pause, r->hooks.context,
                                  r->hooks.part_state};
    dispatch_stop(j, stop, r->model, activation, r->hooks.pause ? &breath : NULL);
    j->next_stop++;
    j->made.n_saves += stop->n_saves;
    j->made.mark = r->model->be->mark(r->model->device);
}

/* Nothing is left to do for it in this step. */
static bool is_through(const struct job *j)
{
    return !job_trace(j)->samples && !stop_of_pass(j);
}

/* The row of a sequence's last position among the pass's logits. */
static int row_of_draw(const struct draw *d)
{
    const struct job *j = d->job;
    const struct plan_sequence *all = j->plan.invokes[d->invoke].sequences, *q = &all[d->sequence];
    if (job_step(j) > 0)
        return j->logits_of[d->invoke] + d->sequence;
    q = q->n_logits > 0 ? q : &all[q->source];
    return j->logits_of[d->invoke] + q->logits_row + q->n_logits - 1;
}

/* Of the next draws, DRAWS_AT_ONCE at most: in one piece where the rows are neighbours, as they are
 * in passes without prompts. They arrive behind the next fence. */
static void fetch_logits(struct round *r, int first)
{
    const struct gpt2 *m = r->model;
    const int64_t V = m->shape.vocab;
    const int last = first + DRAWS_AT_ONCE, end = last < r->n_draws ? last : r->n_draws;
    for (int i = first, n; i < end; i += n) {
        const int row = row_of_draw(&r->draws[i]);
        for (n = 1; i + n < end && row_of_draw(&r->draws[i + n]) == row + n; n++)
            continue;
        const struct tensor logits = {.data = (void *)(gpt2_logits(m, r->lane) + row * V),
                                      .dtype = DT_f32,
                                      .view = view_of(2, (int64_t[]){n, V})};
        m->be->download(m->device, r->logits + (i - first) * V, &logits);
    }
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
    if (p == PT_logits)
        fetch_logits(r, 0);
    const double now = seconds_now();
    for (int i = 0; i < r->n_jobs; i++) {
        struct job *j = r->jobs[i];
        if (j)
            publish(r, j, now);
        if (j && is_through(j) && has_arrived(r, &j->made))
            leave(r, i);
    }
}

/* All rows, with those that were their leaders' until here. */
static const int32_t *on_join(void *context, int block)
{
    struct round *r = context;
    rows_clear(r);
    for (int i = 0; i < r->n_jobs; i++) {
        if (r->jobs[i])
            rows_add(r, r->jobs[i], block);
    }
    return r->rows_before;
}

/* Before each block: what the rows took in the one before. */
static void on_pause(void *context, int n_rows)
{
    const struct round *r = context;
    r->hooks.pause(r->hooks.context, r->block_cost * n_rows);
}

/* Behind the pass. */

/* What Hugging Face's processors do with a row before a token is chosen of it. */
static void process_row(const struct round *r, float *row, const struct draw *d)
{
    const struct job *j = d->job;
    const struct trace *t = job_asked(j);
    const struct prompt *p = &j->graph.invokes[d->invoke].prompts[d->sequence];
    const struct token_ids seen[] = {{p->tokens, p->n_tokens},
                                     {job_generated(j, d->invoke, d->sequence), job_step(j)}};
    if (t->sampling.repetition_penalty > 0 && t->sampling.repetition_penalty != 1)
        sample_penalize(row, t->sampling.repetition_penalty, seen, 2, r->sample_scratch);
    if (job_step(j) < t->ending.n_min)
        sample_forbid(row, (struct token_ids){t->ending.ids, t->ending.n_ids});
}

static void sample_row(const struct round *r, float *row, const struct draw *d)
{
    struct job *j = d->job;
    const struct plan_invoke *v = &j->plan.invokes[d->invoke];
    process_row(r, row, d);
    const struct sampling *s = &job_asked(j)->sampling;
    const struct sampler sampler = {s->temperature, (int)s->top_k, s->top_p, s->min_p,
                                    (uint64_t)s->seed};
    struct outcome *o = &j->outcomes[v->outcome_first + d->sequence];
    int32_t *ids = job_generated(j, d->invoke, d->sequence);
    o->n_new = job_step(j) + 1;
    metric_add(METRIC_generated_tokens, 1);
    ids[o->n_new - 1] = sample_token(row, r->model->shape.vocab, &sampler,
                                     (uint32_t)(v->sequence_first + d->sequence),
                                     (uint32_t)job_step(j), r->sample_scratch, r->sample_order);
    o->stopped = ending_reached(&job_asked(j)->ending, j->bpe, ids, o->n_new);
}

/* The first rows came with the pass. */
static bool sample(struct round *r, struct err *e)
{
    const struct gpt2 *m = r->model;
    for (int i = 0; i < r->n_draws; i++) {
        const int at = i % DRAWS_AT_ONCE;
        if (i > 0 && at == 0) {
            fetch_logits(r, i);
            if (!m->be->fence(m->device, e))
                return false;
        }
        sample_row(r, r->logits + (int64_t)at * m->shape.vocab, &r->draws[i]);
    }
    return true;
}

/* An invoke whose sequences have all ended has no more steps. */
static void end_invokes(struct job *j)
{
    const struct plan_trace *t = job_trace(j);
    for (int i = t->invoke_first; i < t->invoke_first + t->n_invokes; i++) {
        const struct plan_invoke *v = &j->plan.invokes[i];
        int n_stopped = 0;
        for (int k = 0; k < v->n_sequences; k++)
            n_stopped += j->outcomes[v->outcome_first + k].stopped;
        if (n_stopped == v->n_sequences && job_has_rows(j, i))
            j->last_step[i] = job_step(j);
    }
}

/* Of the steps that do not come: what needs none of them, and the rest is absent. */
static void end_trace(struct round *r, struct job *j)
{
    const struct plan *p = &j->plan;
    const int end = job_trace(j)->pass_first + job_trace(j)->n_steps;
    while (j->next_stop < p->n_stops && p->stops[j->next_stop].pass < end)
        run_stop(r, j, &p->stops[j->next_stop], &(struct tensor){0});
}

/* The stops that wait for tokens. */
static void complete_step(struct round *r, struct job *j)
{
    end_invokes(j);
    for (const struct stop *stop; (stop = stop_of_pass(j));) {
        assert(stop->site >= r->next_site);
        run_stop(r, j, stop, &(struct tensor){0});
    }
    if (job_step(j) == job_last_step(j))
        end_trace(r, j);
    j->made.n_steps++;
}

static bool complete(struct round *r, struct err *e)
{
    if (!sample(r, e))
        return false;
    for (int i = 0; i < r->n_jobs; i++) {
        if (r->jobs[i])
            complete_step(r, r->jobs[i]);
    }
    if (!r->model->be->fence(r->model->device, e))
        return false;
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
    const double started_at = seconds_now();
    metric_add((enum metric)(METRIC_passes_shared + (int)r->lane), 1);
    metric_add((enum metric)(METRIC_rows_shared + (int)r->lane), r->pass.n_rows);
    if (!gpt2_run(r->model, &r->pass, e) || !complete(r, e))
        return false;
    metric_observe((enum metric)(METRIC_pass_shared_seconds + (int)r->lane),
                   seconds_now() - started_at);
    return true;
}
