/* server/batch.c on a small random model: who is admitted, that nothing leaks, and that a request's
 * bits do not depend on who shares its passes. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../../protocol/decode.h"
#include "../../server/worker.h"
#include "../tiny_gpt2.h"

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

enum {
    ROWS = 64,
    LOGITS = 16,
    PAGES = 8,
    SLAB_BYTES = 4096
};

static const struct model_shape shape = {2, 2, 16, 32, 61, 128, 1e-5f};

static char folder[] = "/tmp/test_batch.XXXXXX";
static struct arena arena;
static struct device *device;
static struct gpt2 *model;
static struct batch *batch;

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
    struct err e = {0};
    const struct device_options d = {1, "auto", ROWS, shape.inner, shape.context, shape.n_heads};
    const struct gpt2_options o = {ROWS, LOGITS, PAGES * PAGE_TOKENS};
    assert_true(backend_cpu.open(&device, &d, &e));
    assert_true(gpt2_load(&model, &backend_cpu, device, folder, &o, &e));
    assert_true(batch_open(&batch, model, SLAB_BYTES, &arena, &e));
    return 0;
}

/* batch_close asserts that every page has come back. */
static int tear_down(void **state)
{
    (void)state;
    batch_close(batch);
    gpt2_free(model);
    backend_cpu.close(device);
    arena_free(&arena);
    return 0;
}

static struct job *job_of(const char *request)
{
    struct job *j = job_new("id", &arena);
    struct err e = {0};
    if (!decode_request(&j->graph, request, strlen(request), MEDIA_json, &shape, &arena, &e) ||
        !plan_build(&j->plan, &j->graph, &shape, &arena, &e) || !job_reserve(j, &e))
        fail_msg("%s: %s", e.where, e.text);
    return j;
}

static enum job_state state_of(struct job *j)
{
    int n_ready;
    return job_wait(j, &n_ready, 0, 0);
}

static void run_to_the_end(void)
{
    struct err e = {0};
    while (batch_count(batch) > 0)
        assert_true(batch_run(batch, &e));
}

static const char *const plain = "{\"prompt\": [1, 2, 3]}";

static void a_job_alone_is_done_after_its_steps(void **state)
{
    (void)state;
    struct job *j = job_of("{\"prompt\": [1, 2, 3], \"max_new_tokens\": 3}");
    struct err e = {0};
    assert_true(batch_admit(batch, j));
    for (int step = 0; step < 3; step++) {
        assert_int_equal(state_of(j), JOB_running);
        assert_true(batch_run(batch, &e));
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
    struct err e = {0};
    int n_ready;
    assert_true(batch_admit(batch, j));
    assert_true(batch_run(batch, &e));
    job_wait(j, &n_ready, 0, 0);
    assert_int_equal(n_ready, 1);
    assert_true(batch_run(batch, &e));
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
    struct err e = {0};
    assert_true(batch_admit(batch, j));
    job_cancel(j);
    assert_true(batch_run(batch, &e));
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

static void expect_no_room_beside(const char *first, const char *second)
{
    struct job *a = job_of(first), *b = job_of(second);
    assert_true(batch_admit(batch, a));
    assert_false(batch_admit(batch, b));
    assert_int_equal(state_of(b), JOB_queued);
    run_to_the_end();
    assert_true(batch_admit(batch, b));
    run_to_the_end();
    assert_int_equal(state_of(b), JOB_done);
    job_free(a);
    job_free(b);
}

static void rows_bound_a_pass(void **state)
{
    (void)state;
    expect_no_room_beside(prompt_of(1, ROWS - 3, ""), prompt_of(1, 4, ""));
}

static void logits_rows_bound_a_pass(void **state)
{
    (void)state;
    const char *all = ", \"save\": {\"x\": \"lm_head.output\"}";
    expect_no_room_beside(prompt_of(1, LOGITS - 3, all), prompt_of(1, 4, all));
}

static void pages_bound_the_sequences(void **state)
{
    (void)state;
    expect_no_room_beside(prompt_of(PAGES, 1, ""), plain);
}

/* The planner's own sizes are small here: what counts is what the plan says. */
static struct job *job_with_slab(size_t bytes)
{
    struct job *j = job_of(plain);
    j->plan.slab_bytes = bytes;
    return j;
}

static void the_slab_is_filled_from_the_lowest_gap(void **state)
{
    (void)state;
    struct job *a = job_with_slab(1024), *b = job_with_slab(2048), *c = job_with_slab(1024);
    struct job *late = job_with_slab(1088), *small = job_with_slab(960);
    assert_true(batch_admit(batch, a));
    assert_true(batch_admit(batch, b));
    assert_true(batch_admit(batch, c));
    assert_false(batch_admit(batch, small));
    assert_int_equal(b->slab - a->slab, 1024);
    assert_int_equal(c->slab - b->slab, 2048);
    const char *gap = a->slab;
    job_cancel(a);
    batch_drop_cancelled(batch);
    assert_int_equal(state_of(a), JOB_cancelled);
    assert_false(batch_admit(batch, late));
    assert_true(batch_admit(batch, small));
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
    assert_true(batch_admit(batch, a));
    assert_true(batch_admit(batch, b));
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
static void an_index_that_turns_out_wrong_fails_its_job_alone(void **state)
{
    (void)state;
    const char *request = "{\"prompt\": [1, 2, 60], \"max_new_tokens\": 2, \"nodes\": ["
        "{\"op\": \"save\", \"args\": [\"transformer.wte.output\"], \"name\": \"early\"},"
        "{\"op\": \"add\", \"args\": [\"transformer.wte.input\", %d]},"
        "{\"op\": \"unsqueeze\", \"args\": [{\"node\": 1}, -1]},"
        "{\"op\": \"gather\", \"args\": [\"lm_head.output\", -1, {\"node\": 2}]},"
        "{\"op\": \"save\", \"args\": [{\"node\": 3}], \"name\": \"x\"}]}";
    struct job *alone = job_of(arena_format(&arena, request, 0));
    assert_true(batch_admit(batch, alone));
    run_to_the_end();
    struct job *ill = job_of(arena_format(&arena, request, 1));
    struct job *well = job_of(arena_format(&arena, request, 0));
    assert_true(batch_admit(batch, ill));
    assert_true(batch_admit(batch, well));
    run_to_the_end();
    int n_ready;
    assert_int_equal(job_wait(ill, &n_ready, 9, 0), JOB_failed);
    assert_int_equal(n_ready, 1);
    assert_int_equal(ill->err.code, ERR_index);
    assert_int_equal(ill->err.node, 3);
    assert_string_equal(ill->err.where, "nodes[3]");
    assert_string_equal(ill->err.text, "gather: the index 61, which the graph computed, is out of "
                                       "range for dimension 2 of size 61");
    assert_int_equal(state_of(well), JOB_done);
    assert_memory_equal(well->results, alone->results, well->plan.result_bytes);
    job_free(alone);
    job_free(ill);
    job_free(well);
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
    const size_t n_tokens = (size_t)(a->plan.n_sequences * a->graph.n_new_tokens);
    return memcmp(a->results, b->results, a->plan.result_bytes) == 0 &&
           (n_tokens == 0 ||
            memcmp(a->generated, b->generated, n_tokens * sizeof *a->generated) == 0);
}

static void jobs_that_come_and_go_keep_their_bits(void **state)
{
    (void)state;
    struct job *alone[N_REQUESTS], *waiting = NULL;
    for (int i = 0; i < N_REQUESTS; i++) {
        alone[i] = job_of(requests[i]);
        assert_true(batch_admit(batch, alone[i]));
        run_to_the_end();
    }
    enum {
        N = 200
    };
    struct job *jobs[N];
    struct err e = {0};
    int n = 0, n_together_max = 0;
    while (n < N || batch_count(batch) > 0) {
        while (n < N || waiting) {
            if (!waiting)
                waiting = jobs[n] = job_of(requests[(n * 7 + n / 5) % N_REQUESTS]), n++;
            if (!batch_admit(batch, waiting))
                break;
            waiting = NULL;
        }
        if (batch_count(batch) > n_together_max)
            n_together_max = batch_count(batch);
        assert_true(batch_run(batch, &e));
    }
    assert_true(n_together_max >= 3);
    for (int i = 0; i < N; i++) {
        assert_int_equal(state_of(jobs[i]), JOB_done);
        assert_true(same_bits(jobs[i], alone[(i * 7 + i / 5) % N_REQUESTS]));
        job_free(jobs[i]);
    }
    for (int i = 0; i < N_REQUESTS; i++)
        job_free(alone[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_job_alone_is_done_after_its_steps),
        TEST(saves_are_published_as_steps_end),
        TEST(a_job_that_is_taken_back_ends_within_its_pass),
        TEST(graphs_count_as_much_as_replies),
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
    };
    return cmocka_run_group_tests(tests, make_model, remove_model);
}
