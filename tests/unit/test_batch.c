/* server/batch.c on a small random model: who is admitted, that nothing leaks, and that a request's
 * bits do not depend on who shares its passes. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../../server/metrics.h"
#include "../../server/worker.h"
#include "../tiny_engine.h"
#include "../tiny_gpt2.h"

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

enum {
    ROWS = 200,
    SHARED_ROWS = 150,
    LOGITS = 16,
    JOBS = 256,
    PAGES = 8,
    SLAB_BYTES = 4096
};

static const struct model_shape shape = {2, 2, 16, 64, 61, 256, 1e-5f, 0, {0}};

static char folder[] = "/tmp/test_batch.XXXXXX";
static struct arena arena;
static struct device *device;
static struct gpt2 *model;
static struct batch *batch;
static uint64_t users; /* each job has its own, unless a test says otherwise */

static int make_model(void **state)
{
    (void)state;
    tiny_model(folder, &shape, 5);
    return 0;
}

static int remove_model(void **state)
{
    (void)state;
    tiny_remove(folder);
    return 0;
}

static int set_up(void **state)
{
    (void)state;
    const struct device_options d = {
        1, "auto", "f32", ROWS, shape.inner, shape.context, shape.n_heads, 0, NULL};
    const struct gpt2_options o = {.rows_max = ROWS,
                                   .logits_max = LOGITS,
                                   .shared_rows = SHARED_ROWS,
                                   .cache_tokens = PAGES * PAGE_TOKENS};
    const struct batch_options b = {
        .slab_bytes = SLAB_BYTES, .jobs_max = JOBS, .shares_prefixes = true};
    tiny_engine_open(&device, &model, &batch, &backend_cpu, folder, &d, &o, &b, &arena);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    tiny_engine_close(device, model, batch, &arena);
    return 0;
}

static struct job *job_of(const char *request)
{
    return tiny_engine_job(request, &shape, ++users, &arena);
}

static void run_once(void)
{
    struct err e = {0};
    assert_true(batch_run(batch, &e));
}

static enum job_state state_of(struct job *j)
{
    int n_ready;
    return job_wait(j, &n_ready, 0, 0);
}

static void run_to_the_end(void)
{
    while (batch_count(batch) > 0)
        run_once();
}

static const char *const plain = "{\"prompt\": [1, 2, 3]}";

static void a_job_alone_is_done_after_its_steps(void **state)
{
    (void)state;
    struct job *j = job_of("{\"prompt\": [1, 2, 3], \"max_new_tokens\": 3}");
    batch_add(batch, j);
    assert_int_equal(state_of(j), JOB_queued);
    for (int step = 0; step < 3; step++) {
        run_once();
        assert_int_equal(state_of(j), step < 2 ? JOB_running : JOB_done);
    }
    assert_int_equal(state_of(j), JOB_done);
    assert_int_equal(batch_count(batch), 0);
    job_free(j);
}

static void saves_are_published_as_steps_end(void **state)
{
    (void)state;
    struct job *j = job_of("{\"prompt\": [1, 2, 3], \"max_new_tokens\": 2, \"nodes\": ["
                           "{\"op\": \"save\", \"args\": [\"transformer.h.0.output[0]\"]},"
                           "{\"op\": \"save\", \"args\": [\"lm_head.output\"], \"step\": 1},"
                           "{\"op\": \"save\", \"args\": [\"generator.output\"], \"step\": 1}]}");
    int n_ready;
    batch_add(batch, j);
    run_once();
    job_wait(j, &n_ready, 0, 0);
    assert_int_equal(n_ready, 1);
    run_once();
    job_wait(j, &n_ready, 3, 0);
    assert_int_equal(n_ready, 3);
    const int64_t *ids = (const int64_t *)(j->results + j->plan.saves[2].offset);
    assert_int_equal(ids[0], 1);
    assert_int_equal(ids[2], 3);
    assert_int_equal(ids[3], j->generated[0]);
    assert_int_equal(ids[4], j->generated[1]);
    job_free(j);
}

/* Else a graph of many ops keeps everybody waiting for somebody who has left. */
static void a_job_that_is_taken_back_ends_within_its_pass(void **state)
{
    (void)state;
    struct job *j = job_of("{\"prompt\": [1, 2, 3], \"save\": {\"x\": \"lm_head.output[0, -1]\"}}");
    batch_add(batch, j);
    job_cancel(j);
    run_once();
    assert_int_equal(state_of(j), JOB_cancelled);
    for (size_t i = 0; i < j->plan.result_bytes; i++)
        assert_int_equal(j->results[i], 0);
    job_free(j);
}

/* 256 that wait, each with a graph of 60 MB behind a body of 400 KB, would take 15 GB. */
static void graphs_count_as_much_as_replies(void **state)
{
    (void)state;
    struct arena a = {0};
    struct err e = {0};
    struct job *small = job_of(plain), *large = job_new("id", &a);
    arena_alloc(&a, (size_t)16 * RESULT_BYTES_MAX); /* never touched */
    assert_false(job_reserve(large, &e));
    assert_int_equal(e.code, ERR_busy);
    job_free(large);
    job_free(small);
    arena_free(&a);
    small = job_of(plain);
    job_free(small);
}

/* One user with large replies, read slowly, and another who comes then. */
static void replies_leave_room_for_other_users(void **state)
{
    (void)state;
    struct arena arenas[10] = {0}; /* whose memory is never touched */
    struct job *jobs[10];
    struct err e = {0};
    int n = 0;
    for (bool taken = true; taken; n++) {
        jobs[n] = job_new("id", &arenas[n]);
        jobs[n]->turn.user = 1;
        jobs[n]->plan.result_bytes = RESULT_BYTES_MAX - jobs[n]->arena->used;
        taken = job_reserve(jobs[n], &e);
    }
    assert_int_equal(n, 9);
    assert_int_equal(e.code, ERR_busy);
    assert_string_equal(e.text, "your requests that are being answered take 2147483648 bytes, this "
                                "one would take 268435456, and the other 1879048192 are kept for "
                                "others");
    jobs[9] = job_new("id", &arenas[9]);
    jobs[9]->turn.user = 2;
    jobs[9]->plan.result_bytes = RESULT_BYTES_MAX;
    e = (struct err){0};
    assert_true(job_reserve(jobs[9], &e));
    for (int i = 0; i < 10; i++) {
        job_free(jobs[i]);
        arena_free(&arenas[i]);
    }
}

/* Bodies of 1 GB while they are planned, and then one whose plan takes next to nothing. */
static void bodies_are_held_until_their_plan_says_more(void **state)
{
    (void)state;
    struct arena arenas[2] = {0};
    struct job *first = job_new("id", &arenas[0]), *second = job_new("id", &arenas[1]);
    struct err e = {0};
    assert_true(job_expect(first, (size_t)1 << 30, &e));
    assert_false(job_expect(second, (size_t)1 << 30, &e));
    assert_int_equal(e.code, ERR_busy);
    assert_string_equal(e.text, "requests that are being answered take 3221225472 of 4294967296 "
                                "bytes, this one would take 3221225472");
    e = (struct err){0};
    assert_true(job_reserve(first, &e));
    assert_true(job_expect(second, (size_t)1 << 29, &e));
    job_free(first);
    job_free(second);
    arena_free(&arenas[0]);
    arena_free(&arenas[1]);
}

static void a_small_machine_holds_less(void **state)
{
    (void)state;
    struct held h = {0};
    struct err e = {0};
    held_open((int64_t)1 << 30, 1 << 20);
    assert_false(held_take(&h, 1, (int64_t)1 << 29, &e));
    assert_string_equal(e.text, "requests that are being answered take 0 of 268435456 bytes, this "
                                "one would take 536870912");
    held_open((int64_t)1 << 30, (int64_t)1 << 29); /* one of the largest fits anywhere */
    assert_true(held_take(&h, 1, (int64_t)1 << 29, &e));
    held_let_go(&h);
    held_open(INT64_MAX, 0);
}

/* Two thousand requests that wait all the time wait a century in 18 days. */
static void a_sum_of_centuries_is_a_sum(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++)
        metric_observe(METRIC_pass_large_seconds, 4e9);
    const struct bytes all = metrics_text(&arena);
    assert_non_null(strstr(arena_copy_text(&arena, all.at, all.size),
                           "interpose_forward_pass_seconds_sum{kind=\"large\"} 12000000000."));
}

static const char *prompt_of(int n_sequences, int n_tokens, const char *more)
{
    const char *prompts = "";
    for (int i = 0; i < n_sequences; i++) {
        prompts = arena_format(&arena, "%s%s[", prompts, i ? ", " : "");
        for (int k = 0; k < n_tokens; k++)
            prompts = arena_format(&arena, "%s%s%d", prompts, k ? ", " : "", (7 * i + k) % 61);
        prompts = arena_format(&arena, "%s]", prompts);
    }
    return arena_format(&arena, "{\"prompt\": [%s]%s}", prompts, more);
}

/* A prompt that fills its pages: its copies need none of their own for one token, and so there may
 * be more of them in a pass than pages. */
static void copies_may_be_more_than_pages(void **state)
{
    (void)state;
    const char *more = ", \"max_new_tokens\": 1, \"sampling\": {\"n\": 256}";
    struct job *jobs[2];
    for (int i = 0; i < 2; i++) {
        jobs[i] = job_of(prompt_of(1, PAGE_TOKENS, more));
        assert_int_equal(jobs[i]->plan.n_pages, 1);
        batch_add(batch, jobs[i]);
    }
    assert_true(2 * 256 > PAGES);
    run_to_the_end();
    for (int i = 0; i < 2; i++) {
        assert_int_equal(state_of(jobs[i]), JOB_done);
        for (int k = 0; k < 256; k++) {
            assert_int_equal(jobs[i]->outcomes[k].n_new, 1);
            assert_int_equal(jobs[i]->generated[k], jobs[0]->generated[0]);
        }
        job_free(jobs[i]);
    }
}

/* One of them runs, and the other has not begun to. */
static void expect_two_passes(const char *first, const char *second)
{
    struct job *a = job_of(first), *b = job_of(second);
    batch_add(batch, a);
    batch_add(batch, b);
    run_once();
    assert_true((state_of(a) == JOB_done) != (state_of(b) == JOB_done));
    assert_true((state_of(a) == JOB_queued) != (state_of(b) == JOB_queued));
    run_once();
    assert_int_equal(state_of(a), JOB_done);
    assert_int_equal(state_of(b), JOB_done);
    job_free(a);
    job_free(b);
}

static void rows_bound_a_pass(void **state)
{
    (void)state;
    expect_two_passes(prompt_of(1, SHARED_ROWS - 3, ""), prompt_of(1, 4, ""));
}

static void logits_rows_bound_a_pass(void **state)
{
    (void)state;
    const char *all = ", \"save\": {\"x\": \"lm_head.output\"}";
    expect_two_passes(prompt_of(1, LOGITS - 3, all), prompt_of(1, 4, all));
}

static void pages_bound_the_sequences(void **state)
{
    (void)state;
    struct job *a = job_of(prompt_of(PAGES, 1, ", \"max_new_tokens\": 3")), *b = job_of(plain);
    batch_add(batch, a);
    run_once();
    batch_add(batch, b);
    for (int step = 1; step < 3; step++) {
        assert_int_equal(state_of(a), JOB_running);
        assert_int_equal(state_of(b), JOB_queued);
        run_once();
    }
    assert_int_equal(state_of(a), JOB_done);
    run_to_the_end();
    assert_int_equal(state_of(b), JOB_done);
    job_free(a);
    job_free(b);
}

/* The planner's own sizes are small here: what counts is what the plan says. */
static struct job *job_with_slab(size_t bytes)
{
    struct job *j = job_of("{\"prompt\": [1, 2, 3], \"max_new_tokens\": 9}");
    j->plan.slab_bytes = bytes;
    batch_add(batch, j);
    run_once();
    return j;
}

static void the_slab_is_filled_from_the_lowest_gap(void **state)
{
    (void)state;
    struct job *a = job_with_slab(1024), *b = job_with_slab(2048), *c = job_with_slab(1024);
    assert_int_equal(b->slab - a->slab, 1024);
    assert_int_equal(c->slab - b->slab, 2048);
    struct job *late = job_with_slab(1088), *small = job_with_slab(960);
    assert_int_equal(state_of(small), JOB_queued);
    const char *gap = a->slab;
    job_cancel(a);
    batch_drop_cancelled(batch);
    assert_int_equal(state_of(a), JOB_cancelled);
    run_once();
    assert_int_equal(state_of(late), JOB_queued);
    assert_int_equal(state_of(small), JOB_running);
    assert_ptr_equal(small->slab, gap);
    run_to_the_end();
    struct job *const jobs[] = {a, b, c, late, small};
    for (size_t i = 0; i < sizeof jobs / sizeof *jobs; i++)
        job_free(jobs[i]);
}

static void what_can_never_fit_is_refused_with_both_numbers(void **state)
{
    (void)state;
    struct job *j = job_of(prompt_of(PAGES + 1, 1, ""));
    const struct capacity c = batch_capacity(batch);
    struct err e = {0};
    assert_false(job_fits(j, &c, &e));
    assert_int_equal(e.code, ERR_limit);
    assert_non_null(strstr(e.text, "need 9 pages"));
    assert_non_null(strstr(e.text, "has 8"));
    job_free(j);
}

static void a_failure_lets_go_of_everybody(void **state)
{
    (void)state;
    struct job *a = job_of(plain), *b = job_of(plain);
    struct err why = {0};
    batch_add(batch, a);
    batch_add(batch, b);
    err_set(&why, ERR_device, "the card is gone");
    batch_fail(batch, &why);
    assert_int_equal(state_of(a), JOB_failed);
    assert_string_equal(b->err.text, "the card is gone");
    assert_int_equal(batch_count(batch), 0);
    job_free(a);
    job_free(b);
}

static bool break_fence(struct device *d, struct err *e)
{
    (void)d;
    return err_set(e, ERR_device, "the card is gone");
}

static void a_device_that_fails_ends_the_engine_and_tells_everybody(void **state)
{
    (void)state;
    struct backend broken = backend_cpu;
    broken.fence = break_fence;
    model->be = &broken;
    struct queue *q = queue_new(8, &arena);
    struct worker *w;
    struct err e = {0};
    struct job *jobs[8];
    for (int i = 0; i < 8; i++)
        assert_true(queue_push(q, jobs[i] = job_of(prompt_of(PAGES / 2, 1, "")), &e));
    assert_true(worker_start(&w, batch, q, &arena, &e));
    worker_join(w);
    assert_true(worker_is_over(w));
    assert_true(worker_has_failed(w));
    for (int i = 0; i < 8; i++) {
        assert_int_equal(state_of(jobs[i]), JOB_failed);
        assert_string_equal(jobs[i]->err.text, "the card is gone");
        job_free(jobs[i]);
    }
    assert_false(queue_takes(q, &e));
    assert_int_equal(e.code, ERR_device);
    queue_free(q);
    model->be = &backend_cpu;
}

static void an_engine_that_is_told_to_hurry_fails_what_is_left(void **state)
{
    (void)state;
    struct queue *q = queue_new(8, &arena);
    struct worker *w;
    struct err e = {0}, why = {0};
    struct job *j = job_of("{\"prompt\": [1], \"max_new_tokens\": 127}");
    assert_true(queue_push(q, j, &e));
    err_set(&why, ERR_draining, "going home");
    queue_close(q, &why);
    assert_true(worker_start(&w, batch, q, &arena, &e));
    worker_abort(w);
    worker_join(w);
    assert_false(worker_has_failed(w));
    assert_true(job_state_is_final(state_of(j)));
    if (state_of(j) == JOB_failed)
        assert_int_equal(j->err.code, ERR_draining);
    job_free(j);
    queue_free(q);
}

/* Its neighbour has the bits that it has alone, and what was saved before is kept. */
static void must_fail_alone(const char *indexing, int n_saved, const char *text)
{
    const char *request = "{\"prompt\": [1, 2, 60], \"max_new_tokens\": 2, \"nodes\": ["
        "{\"op\": \"save\", \"args\": [\"transformer.wte.output\"], \"name\": \"early\"},"
        "{\"op\": \"add\", \"args\": [\"transformer.wte.input\", %d]},"
        "{\"op\": \"unsqueeze\", \"args\": [{\"node\": 1}, -1]},"
        "{%s}, {\"op\": \"save\", \"args\": [{\"node\": 3}], \"name\": \"x\"}]}";
    struct job *alone = job_of(arena_format(&arena, request, 0, indexing));
    batch_add(batch, alone);
    run_to_the_end();
    struct job *ill = job_of(arena_format(&arena, request, 1, indexing));
    struct job *well = job_of(arena_format(&arena, request, 0, indexing));
    batch_add(batch, ill);
    batch_add(batch, well);
    run_to_the_end();
    int n_ready;
    assert_int_equal(job_wait(ill, &n_ready, 9, 0), JOB_failed);
    assert_int_equal(n_ready, n_saved);
    assert_int_equal(ill->err.code, ERR_index);
    assert_int_equal(ill->err.node, 3);
    assert_string_equal(ill->err.where, "nodes[3]");
    assert_string_equal(ill->err.text, text);
    assert_int_equal(state_of(well), JOB_done);
    assert_memory_equal(well->results, alone->results, well->plan.result_bytes);
    job_free(alone);
    job_free(ill);
    job_free(well);
}

static void an_index_that_turns_out_wrong_fails_its_job_alone(void **state)
{
    (void)state;
#define IS_OUT(what) what ": the index 61, which the graph computed, is out of range for "
    must_fail_alone("\"op\": \"gather\", \"args\": [\"lm_head.output\", -1, {\"node\": 2}]", 1,
                    IS_OUT("gather") "dimension 2 of size 61");
    must_fail_alone("\"op\": \"scatter_add\", "
                    "\"args\": [\"lm_head.output\", 2, {\"node\": 2}, 1.5]", 1,
                    IS_OUT("scatter_add") "dimension 2 of size 61");
    must_fail_alone("\"op\": \"gather\", \"args\": [\"W_U[None, :3]\", -1, {\"node\": 2}]", 0,
                    IS_OUT("gather") "dimension 2 of size 61"); /* of a packed parameter */
    must_fail_alone("\"op\": \"wrap_index\", \"args\": [{\"node\": 2}, 61]", 0,
                    IS_OUT("wrap_index") "a dimension of size 61");
#undef IS_OUT
}

static const char *const requests[] = {
    "{\"prompt\": [4, 5, 6, 7, 8], \"max_new_tokens\": 6,"
    " \"sampling\": {\"temperature\": 1.0, \"seed\": 3},"
    " \"nodes\": [{\"op\": \"save\", \"args\": [\"lm_head.output[:, -1]\"], \"step\": 5}]}",
    "{\"invokes\": [{\"prompt\": [[1, 2, 3], [4, 5, 6]]}, {\"prompt\": [9]}],"
    " \"set\": {\"transformer.h.1.input[0]\": 0.5},"
    " \"save\": {\"x\": \"transformer.h.1.output[0]\"}}",
    "{\"prompt\": [60, 0, 60], \"max_new_tokens\": 4,"
    " \"set\": {\"transformer.h.0.mlp.output\": \"NaN\"}}",
    "{\"prompt\": [3], \"save\": {\"k\": \"transformer.h.1.output[1][0]\"}}",
};

enum {
    N_REQUESTS = sizeof requests / sizeof requests[0]
};

static bool same_bits(const struct job *a, const struct job *b)
{
    const size_t n_tokens = (size_t)a->plan.n_generated;
    return memcmp(a->results, b->results, a->plan.result_bytes) == 0 &&
           (n_tokens == 0 ||
            memcmp(a->generated, b->generated, n_tokens * sizeof *a->generated) == 0);
}

static void jobs_that_come_and_go_keep_their_bits(void **state)
{
    (void)state;
    struct job *alone[N_REQUESTS];
    for (int i = 0; i < N_REQUESTS; i++) {
        alone[i] = job_of(requests[i]);
        batch_add(batch, alone[i]);
        run_to_the_end();
    }
    enum {
        N = 200
    };
    struct job *jobs[N];
    int n = 0;
    for (int pass = 0; n < N || batch_count(batch) > 0; pass++) {
        for (int k = pass % 4; n < N && k >= 0; k--, n++)
            batch_add(batch, jobs[n] = job_of(requests[(n * 7 + n / 5) % N_REQUESTS]));
        run_once();
    }
    for (int i = 0; i < N; i++) {
        assert_int_equal(state_of(jobs[i]), JOB_done);
        assert_true(same_bits(jobs[i], alone[(i * 7 + i / 5) % N_REQUESTS]));
        job_free(jobs[i]);
    }
    for (int i = 0; i < N_REQUESTS; i++)
        job_free(alone[i]);
}

/* What the model computes, seen from the backend: the rows of each product with K inputs. */
static struct backend watched;
static int n_products, product_rows[1000];

static void watch_linear(struct device *d, float *out, const float *x, const struct weight *w,
                         const float *bias, int n_rows, enum epilogue epilogue,
                         const float *residual)
{
    assert_true(n_products < 1000);
    product_rows[n_products++] = n_rows;
    backend_cpu.linear(d, out, x, w, bias, n_rows, epilogue, residual);
}

static void watch(void)
{
    watched = backend_cpu;
    watched.linear = watch_linear;
    model->be = &watched;
    n_products = 0;
}

/* Four products a block, one for the logits. */
static void expect_rows(const int *rows, int n)
{
    assert_int_equal(n_products, n);
    for (int i = 0; i < n; i++)
        assert_int_equal(product_rows[i], rows[i]);
    model->be = &backend_cpu;
}

static void rows_leave_a_pass_behind_the_last_value_that_anyone_wants(void **state)
{
    (void)state;
    struct job *early = job_of("{\"prompt\": [1, 2, 3, 4], \"save\": {\"x\": "
                               "\"transformer.h.0.attn.z.output\"}}");
    struct job *late = job_of("{\"prompt\": [5, 6], \"save\": {\"x\": "
                              "\"transformer.h.1.mlp.c_fc.output\"}}");
    watch();
    batch_add(batch, early);
    batch_add(batch, late);
    run_once();
    expect_rows((int[]){6, 2, 2, 2, 2, 2, 2}, 7);
    assert_int_equal(state_of(early), JOB_done);
    assert_int_equal(state_of(late), JOB_done);
    job_free(early);
    job_free(late);
}

static void the_last_block_is_computed_for_the_rows_of_the_logits(void **state)
{
    (void)state;
    struct job *j = job_of("{\"prompt\": [1, 2, 3, 4], \"save\": {\"x\": "
                           "\"lm_head.output[:, -1]\"}}");
    watch();
    batch_add(batch, j);
    run_once();
    expect_rows((int[]){4, 4, 4, 4, 4, 1, 1, 1, 1}, 9);
    job_free(j);
}

/* Logits of the last position after `n` tokens that begin alike; `edit` changes the model. */
static struct job *job_with_prompt(int n, const char *edit)
{
    const char *tokens = "1";
    for (int i = 1; i < n; i++)
        tokens = arena_format(&arena, "%s, %d", tokens, (7 * i) % 61);
    return job_of(arena_format(&arena,
                               "{\"prompt\": [%s]%s, \"save\": {\"x\": "
                               "\"lm_head.output[:, -1]\"}}",
                               tokens, edit));
}

static void a_prompts_beginning_is_computed_once(void **state)
{
    (void)state;
    struct job *first = job_with_prompt(70, ""), *second = job_with_prompt(70, "");
    batch_add(batch, first);
    run_to_the_end();
    watch();
    batch_add(batch, second);
    run_to_the_end();
    expect_rows((int[]){6, 6, 6, 6, 6, 1, 1, 1, 1}, 9);
    assert_int_equal(second->n_shared[0], PAGE_TOKENS);
    assert_memory_equal(first->results, second->results, first->plan.result_bytes);
    job_free(first);
    job_free(second);
}

/* An edit at a position shapes the keys and values from there on, in all later blocks. */
static void what_an_edit_shaped_is_shared_with_nobody(void **state)
{
    (void)state;
    const struct {
        const char *edit;
        int n_shared;
    } cases[] = {
        {", \"set\": {\"transformer.h.0.mlp.output[:, 64]\": 3.0}", PAGE_TOKENS},
        {", \"set\": {\"transformer.h.0.mlp.output[:, 63]\": 3.0}", 0},
        {", \"set\": {\"transformer.h.0.attn.value.output[:, 0]\": 3.0}", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tear_down(state);
        set_up(state);
        struct job *edited = job_with_prompt(70, cases[i].edit), *plain_one = job_with_prompt(70, "");
        batch_add(batch, edited);
        run_to_the_end();
        batch_add(batch, plain_one);
        run_to_the_end();
        assert_int_equal(plain_one->n_shared[0], cases[i].n_shared);
        struct job *again = job_with_prompt(70, cases[i].edit);
        batch_add(batch, again);
        run_to_the_end();
        assert_int_equal(again->n_shared[0], cases[i].n_shared);
        assert_memory_equal(again->results, edited->results, edited->plan.result_bytes);
        assert_true(memcmp(plain_one->results, edited->results, edited->plan.result_bytes) != 0);
        job_free(edited);
        job_free(plain_one);
        job_free(again);
    }
}

/* Keys and values exist only as deep as the pass that left them went. */
static void a_shallow_pass_leaves_nothing_for_a_deeper_one(void **state)
{
    (void)state;
    struct job *shallow = job_of(prompt_of(1, 70, ", \"save\": {\"x\": "
                                                  "\"transformer.h.0.mlp.output[:, -1]\"}"));
    struct job *deep = job_of(prompt_of(1, 70, ", \"save\": {\"x\": "
                                               "\"lm_head.output[:, -1]\"}"));
    struct job *again = job_of(prompt_of(1, 70, ", \"save\": {\"x\": "
                                                "\"transformer.h.0.mlp.output[:, -1]\"}"));
    struct job *const jobs[] = {shallow, deep, again};
    const int shared[] = {0, 0, PAGE_TOKENS};
    for (int i = 0; i < 3; i++) {
        batch_add(batch, jobs[i]);
        run_to_the_end();
        assert_int_equal(jobs[i]->n_shared[0], shared[i]);
    }
    assert_memory_equal(shallow->results, again->results, again->plan.result_bytes);
    for (int i = 0; i < 3; i++)
        job_free(jobs[i]);
}

static void open_without_sharing(void)
{
    const struct batch_options o = {.slab_bytes = SLAB_BYTES, .jobs_max = JOBS};
    struct err e = {0};
    batch_close(batch);
    assert_true(batch_open(&batch, model, &o, &arena, &e));
}

/* Of the second only the last row is computed. */
static void who_comes_in_one_pass_shares_what_it_computes(void **state)
{
    (void)state;
    const char *const edits[] = {
        "", ", \"set\": {\"transformer.h.0.mlp.output[:, 64]\": 3.0}"};
    struct job *shared[2], *alone[2];
    watch();
    for (int i = 0; i < 2; i++)
        batch_add(batch, shared[i] = job_with_prompt(65, edits[i]));
    run_once();
    expect_rows((int[]){66, 66, 66, 66, 66, 2, 2, 2, 2}, 9);
    assert_int_equal(shared[0]->n_shared[0] + shared[1]->n_shared[0], PAGE_TOKENS);
    open_without_sharing();
    for (int i = 0; i < 2; i++) {
        batch_add(batch, alone[i] = job_with_prompt(65, edits[i]));
        run_to_the_end();
        assert_int_equal(alone[i]->n_shared[0], 0);
        assert_memory_equal(shared[i]->results, alone[i]->results, alone[i]->plan.result_bytes);
        job_free(shared[i]);
        job_free(alone[i]);
    }
}

static void invokes_share_what_they_begin_with(void **state)
{
    (void)state;
    struct job *j = job_of(arena_format(
        &arena, "{\"invokes\": [%s, %s], \"save\": {\"x\": \"lm_head.output[:, -1]\"}}",
        prompt_of(1, 66, ""), prompt_of(1, 67, "")));
    watch();
    batch_add(batch, j);
    run_to_the_end();
    expect_rows((int[]){69, 69, 69, 69, 69, 1, 1, 1, 1}, 9);
    assert_int_equal(j->n_shared[1], PAGE_TOKENS);
    job_free(j);
}

/* Beside a prompt that fills two pages. */
static void a_short_prompt_leaves_no_more_than_it_has(void **state)
{
    (void)state;
    const char *one = prompt_of(1, 129, "");
    const char *last = ", \"save\": {\"x\": \"lm_head.output[:, -1]\"}";
    struct job *ragged = job_of(arena_format(&arena, "{\"prompt\": [[5, 6, 7], %.*s%s}",
                                             (int)strlen(one) - 13, one + 12, last));
    struct job *alone = job_of(prompt_of(1, 129, last));
    batch_add(batch, ragged);
    run_to_the_end();
    batch_add(batch, alone);
    run_to_the_end();
    assert_int_equal(alone->n_shared[0], 2 * PAGE_TOKENS);
    assert_memory_equal(alone->results, ragged->results + 61 * sizeof(float), 61 * sizeof(float));
    job_free(ragged);
    job_free(alone);
}

/* Two copies, with and without somebody who looks at their rows. The longest prompt begins as the
 * one before it. */
static void copies_have_the_bits_of_sequences_with_rows_of_their_own(void **state)
{
    (void)state;
    static const int lengths[] = {1, 63, 64, 65};
    for (int i = 0; i < 4; i++) {
        const int T = lengths[i];
        const char *format = ", \"max_new_tokens\": 4, \"sampling\": {\"n\": 2, \"seed\": 3, "
                             "\"temperature\": 1.0}, \"nodes\": [{\"op\": \"save\", \"args\": "
                             "[\"%s\"]}, {\"op\": \"save\", \"args\": [\"lm_head.output\"], "
                             "\"step\": 3}]";
        struct job *copies = job_of(prompt_of(1, T, arena_format(
            &arena, format, "generator.streamer.output")));
        struct job *apart = job_of(prompt_of(1, T, arena_format(
            &arena, format, "transformer.h.1.output[0]")));
        watch();
        batch_add(batch, copies);
        run_once();
        const int rows = T > PAGE_TOKENS ? T - PAGE_TOKENS : T;
        expect_rows((int[]){rows, rows, rows, rows, rows, 1, 1, 1, 1}, 9);
        run_to_the_end();
        batch_add(batch, apart);
        run_to_the_end();
        assert_memory_equal(copies->generated, apart->generated, 8 * sizeof *apart->generated);
        assert_true(memcmp(copies->generated, copies->generated + 4, 4 * sizeof(int32_t)) != 0);
        const struct save *a = &copies->plan.saves[1], *b = &apart->plan.saves[1];
        assert_memory_equal(copies->results + a->offset, apart->results + b->offset, a->bytes);
        job_free(copies);
        job_free(apart);
    }
}

/* Invokes of the same prompt: one edit each, or none, and what is saved in front of it, behind it and
 * of a later step. */
static struct job *job_that_sweeps(int T, const char *const *edits, int n)
{
    static const char *const saved[] = {"transformer.h.0.mlp.output[:, -1]",
                                        "lm_head.output[:, -1]", "lm_head.output"};
    const char *tokens = "1", *invokes = "", *nodes = "";
    for (int i = 1; i < T; i++)
        tokens = arena_format(&arena, "%s, %d", tokens, (7 * i) % 61);
    for (int i = 0; i < n; i++) {
        invokes = arena_format(&arena, "%s%s{\"prompt\": [%s]}", invokes, i ? ", " : "", tokens);
        if (edits[i][0])
            nodes = arena_format(&arena, "%s{\"op\": \"set\", \"args\": [\"transformer.h.%s\", "
                                         "0.5], \"kwargs\": {\"skip\": %s}, \"invoke\": %d}, ",
                                 nodes, edits[i], strstr(edits[i], "mlp") ? "true" : "false", i);
        for (int k = 0; k < 3; k++)
            nodes = arena_format(&arena, "%s{\"op\": \"save\", \"args\": [\"%s\"], \"name\": "
                                         "\"%d of %d\", \"invoke\": %d, \"step\": %d}%s",
                                 nodes, saved[k], k, i, i, k == 2,
                                 i == n - 1 && k == 2 ? "" : ", ");
    }
    return job_of(arena_format(&arena, "{\"invokes\": [%s], \"max_new_tokens\": 2, "
                                       "\"nodes\": [%s]}", invokes, nodes));
}

/* Each of a sweep's invokes has the bits that it has alone. All save the same, in the same order. */
static void expect_as_alone(const struct job *sweep, struct job *const *alone, int n)
{
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < 3; k++) {
            const struct save *x = &sweep->plan.saves[k * n + i], *y = &alone[i]->plan.saves[k];
            assert_int_equal(x->bytes, y->bytes);
            assert_memory_equal(sweep->results + x->offset, alone[i]->results + y->offset,
                                y->bytes);
        }
        assert_memory_equal(sweep->generated + 2 * i, alone[i]->generated, 2 * sizeof(int32_t));
    }
}

/* Where the first of the sweep leads, the others come to the pass where they are changed, with the
 * rows from there on. Beside them somebody leaves it behind the first block, or in the second; the
 * longest prompt has a pass of its own, with pauses. */
static void what_invokes_have_in_common_is_computed_once(void **state)
{
    (void)state;
    static const char *const all[] = {"", "0.output[0][:, -3]", "1.attn.value.output[:, :, -2]",
                                      "1.input", "0.attn.z.output[:, 1, -1]", "", "1.mlp.output",
                                      "0.output[0][:, -3]", "1.attn.query.output[:, :, 1]"};
    static const struct {
        int T, first, n;
        const char *beside;
        int rows[9];
    } cases[] = {
        {6, 0, 5, NULL, {10, 10, 10, 10, 18, 5, 5, 5, 5}},
        {6, 0, 5, "transformer.h.0.output[0]", {13, 13, 13, 13, 18, 5, 5, 5, 5}},
        {6, 0, 4, "transformer.h.1.attn.z.output", {12, 12, 12, 12, 20, 17, 17, 17, 4}},
        {66, 0, 3, NULL, {69, 69, 69, 69, 71, 3, 3, 3, 3}},
        {6, 5, 2, NULL, {6, 6, 6, 6, 12, 12, 6, 6, 2}},
        {6, 7, 2, NULL, {11, 11, 11, 11, 11, 2, 2, 2, 2}},
    };
    open_without_sharing();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *const *edits = all + cases[i].first;
        struct job *alone[5], *sweep = job_that_sweeps(cases[i].T, edits, cases[i].n);
        for (int k = 0; k < cases[i].n; k++) {
            batch_add(batch, alone[k] = job_that_sweeps(cases[i].T, edits + k, 1));
            run_to_the_end();
        }
        struct job *beside = cases[i].beside ? job_of(arena_format(
            &arena, "{\"prompt\": [1, 2, 3], \"save\": {\"x\": \"%s\"}}", cases[i].beside)) : NULL;
        if (beside)
            batch_add(batch, beside);
        batch_add(batch, sweep);
        watch();
        run_once();
        expect_rows(cases[i].rows, 9);
        run_to_the_end();
        expect_as_alone(sweep, alone, cases[i].n);
        for (int k = 0; k < cases[i].n; k++)
            job_free(alone[k]);
        if (beside)
            job_free(beside);
        job_free(sweep);
    }
}

/* Alone they leave the prompt's first page, which those that come later take from there, but not who
 * leads others that need rows from there. Nobody follows who has not all of these. */
static void who_leads_has_the_rows_that_others_need(void **state)
{
    (void)state;
    static const char *const edits[] = {"1.attn.value.output[:, :, -2]",
                                        "1.attn.value.output[:, :, 3]",
                                        "1.attn.value.output[:, :, 5]"};
    static const int rows[][9] = {{68, 68, 68, 68, 68, 2, 2, 2, 2},
                                  {66, 66, 66, 66, 66 + 63 + 61, 3, 3, 3, 3}};
    struct job *alone[3];
    for (int i = 0; i < 3; i++) {
        batch_add(batch, alone[i] = job_that_sweeps(66, edits + i, 1));
        run_to_the_end();
    }
    for (int n = 2; n <= 3; n++) {
        struct job *sweep = job_that_sweeps(66, edits, n);
        batch_add(batch, sweep);
        watch();
        run_once();
        expect_rows(rows[n - 2], 9);
        run_to_the_end();
        assert_int_equal(sweep->n_shared[0], n == 2 ? PAGE_TOKENS : 0);
        expect_as_alone(sweep, alone, n);
        job_free(sweep);
    }
    for (int i = 0; i < 3; i++)
        job_free(alone[i]);
}

/* Sets of 0.5 that say they skip, or do not; then the last logits are saved. */
static struct job *job_that_sets(const char *const *paths, const char *more, const char *skip)
{
    const char *nodes = "";
    for (int i = 0; paths[i]; i++)
        nodes = arena_format(&arena, "%s{\"op\": \"set\", \"args\": [\"%s\", 0.5]%s}, ", nodes,
                             paths[i], skip);
    return job_of(arena_format(&arena,
                               "{\"prompt\": [1, 2, 3, 4]%s, \"nodes\": [%s{\"op\": \"save\", "
                               "\"args\": [\"lm_head.output[:, -1]\"]}]}",
                               more, nodes));
}

/* Rows of products: qkv, proj, fc and out of both blocks, then the head; what has none is no call.
 * Neighbours of 3 and 2 rows are picked before and behind. */
static void a_module_that_is_skipped_is_not_computed(void **state)
{
    (void)state;
    const struct {
        const char *paths[4], *more;
        bool before, behind;
        int n, rows[9];
    } cases[] = {
        {{"transformer.h.0.mlp.output"}, "", false, false, 7, {4, 4, 4, 1, 1, 1, 1}},
        {{"transformer.h.0.attn.output[0]"}, "", false, false, 7, {4, 4, 4, 1, 1, 1, 1}},
        {{"transformer.h.0.output[0]"}, "", false, false, 5, {4, 1, 1, 1, 1}},
        {{"transformer.h.0.output[0]", "transformer.h.1.output[0]"}, "", false, false, 1, {1}},
        {{"transformer.h.0.output[0]"}, ", \"max_new_tokens\": 2", false, false, 6,
         {4, 4, 1, 1, 1, 1}},
        {{"transformer.h.0.mlp.output"}, "", true, false, 9, {7, 7, 3, 3, 7, 2, 2, 2, 2}},
        {{"transformer.h.0.output[0]"}, "", true, false, 9, {3, 3, 3, 3, 7, 2, 2, 2, 2}},
        {{"transformer.h.0.output[0]"}, "", false, true, 9, {2, 2, 2, 2, 6, 2, 2, 2, 2}},
        {{"transformer.h.0.output[0]"}, "", true, true, 9, {9, 9, 9, 9, 9, 3, 3, 3, 3}},
        {{"transformer.h.0.ln_2.output"}, "", false, false, 9, {4, 4, 4, 4, 4, 1, 1, 1, 1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *last = ", \"save\": {\"x\": \"lm_head.output[:, -1]\"}";
        struct job *sets = job_that_sets(cases[i].paths, cases[i].more, "");
        struct job *skips = job_that_sets(cases[i].paths, cases[i].more,
                                          ", \"kwargs\": {\"skip\": true}");
        struct job *beside[] = {job_of(prompt_of(1, 3, last)), job_of(prompt_of(1, 2, last))};
        batch_add(batch, sets);
        run_to_the_end();
        watch();
        if (cases[i].before)
            batch_add(batch, beside[0]);
        batch_add(batch, skips);
        if (cases[i].behind)
            batch_add(batch, beside[1]);
        run_once();
        expect_rows(cases[i].rows, cases[i].n);
        run_to_the_end();
        assert_true(same_bits(skips, sets));
        job_free(sets);
        job_free(skips);
        job_free(beside[0]);
        job_free(beside[1]);
    }
}

static struct job *late_comer;

static void come_late(void *context)
{
    (void)context;
    if (state_of(late_comer) == JOB_queued && batch_count(batch) == 1)
        batch_add(batch, late_comer);
}

static void nobody_waits_no_more(void *context, struct job *j)
{
    (void)context;
    (void)j;
}

static void check_order(const struct job *first, const struct job *second)
{
    assert_true(first->finished_at > 0 && second->finished_at > 0);
    assert_true(first->finished_at < second->finished_at);
}

static void a_large_pass_lets_small_ones_through(void **state)
{
    (void)state;
    const char *const large[] = {
        prompt_of(1, ROWS, ", \"save\": {\"x\": \"lm_head.output[:, -1]\"}"),
        "{\"prompt\": [1, 2, 3], \"nodes\": [{\"op\": \"expand\", \"args\": "
        "[\"transformer.h.0.mlp.output\", [3000, 3, 16]]}, {\"op\": \"exp\", \"args\": "
        "[{\"node\": 0}]}, {\"op\": \"sum\", \"args\": [{\"node\": 1}]}, "
        "{\"op\": \"save\", \"args\": [{\"node\": 2}]}]}"};
    const struct batch_options small_passes = {.slab_bytes = 1 << 20, .jobs_max = JOBS,
                                               .pass_cost = 1e6};
    struct err e = {0};
    for (int i = 0; i < 2; i++) {
        batch_close(batch);
        assert_true(batch_open(&batch, model, &small_passes, &arena, &e));
        batch_set_hooks(batch, &(struct batch_hooks){come_late, nobody_waits_no_more, NULL});
        struct job *big = job_of(large[i]);
        late_comer = job_of("{\"prompt\": [7], \"save\": {\"x\": \"lm_head.output\"}}");
        batch_add(batch, big);
        run_once();
        assert_int_equal(state_of(big), JOB_done);
        assert_int_equal(state_of(late_comer), JOB_done);
        check_order(late_comer, big);
        job_free(big);
        job_free(late_comer);
    }
}

static void abort_now(void *context)
{
    (void)context;
    struct err why = {0};
    err_set(&why, ERR_draining, "going home");
    batch_abort(batch, &why);
}

static void an_abort_fails_who_waits_and_who_runs(void **state)
{
    (void)state;
    const char *last = ", \"save\": {\"x\": \"lm_head.output[:, -1]\"}";
    struct job *large = job_of(prompt_of(1, ROWS, last)), *waits = job_of(plain);
    batch_set_hooks(batch, &(struct batch_hooks){abort_now, nobody_waits_no_more, NULL});
    batch_add(batch, large);
    batch_add(batch, waits);
    run_once();
    assert_int_equal(state_of(large), JOB_failed);
    assert_int_equal(state_of(waits), JOB_failed);
    assert_string_equal(large->err.text, "going home");
    assert_int_equal(batch_count(batch), 0);
    job_free(large);
    job_free(waits);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_job_alone_is_done_after_its_steps),
        TEST(saves_are_published_as_steps_end),
        TEST(a_job_that_is_taken_back_ends_within_its_pass),
        TEST(graphs_count_as_much_as_replies),
        TEST(replies_leave_room_for_other_users),
        TEST(bodies_are_held_until_their_plan_says_more),
        TEST(a_small_machine_holds_less),
        TEST(a_sum_of_centuries_is_a_sum),
        TEST(copies_may_be_more_than_pages),
        TEST(rows_bound_a_pass),
        TEST(logits_rows_bound_a_pass),
        TEST(pages_bound_the_sequences),
        TEST(the_slab_is_filled_from_the_lowest_gap),
        TEST(what_can_never_fit_is_refused_with_both_numbers),
        TEST(a_failure_lets_go_of_everybody),
        TEST(a_device_that_fails_ends_the_engine_and_tells_everybody),
        TEST(an_engine_that_is_told_to_hurry_fails_what_is_left),
        TEST(an_index_that_turns_out_wrong_fails_its_job_alone),
        TEST(jobs_that_come_and_go_keep_their_bits),
        TEST(rows_leave_a_pass_behind_the_last_value_that_anyone_wants),
        TEST(the_last_block_is_computed_for_the_rows_of_the_logits),
        TEST(a_prompts_beginning_is_computed_once),
        TEST(what_an_edit_shaped_is_shared_with_nobody),
        TEST(a_shallow_pass_leaves_nothing_for_a_deeper_one),
        TEST(who_comes_in_one_pass_shares_what_it_computes),
        TEST(invokes_share_what_they_begin_with),
        TEST(a_short_prompt_leaves_no_more_than_it_has),
        TEST(copies_have_the_bits_of_sequences_with_rows_of_their_own),
        TEST(what_invokes_have_in_common_is_computed_once),
        TEST(who_leads_has_the_rows_that_others_need),
        TEST(a_module_that_is_skipped_is_not_computed),
        TEST(a_large_pass_lets_small_ones_through),
        TEST(an_abort_fails_who_waits_and_who_runs),
    };
    return cmocka_run_group_tests(tests, make_model, remove_model);
}
