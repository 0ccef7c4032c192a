/* The engine on the emulated device: how often a pass goes between the host and the device, and
 * that a pass of several users, their hooks and their saves waits for the device once. */
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "../../kernels/emulate/counts.h"
#include "../tiny_engine.h"
#include "../tiny_gpt2.h"

enum {
    ROWS = 96,
    PAGES = 16
};

static const struct model_shape shape = {4, 2, 16, 64, 61, 128, 1e-5f, 0, {0}};

static char folder[] = "/tmp/test_engine.XXXXXX";
static struct arena arena;
static struct device *device;
static struct gpt2 *model;
static struct batch *batch;
static uint64_t users;

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

static void open_on(const struct backend *be)
{
    const struct device_options d = {.rows_max = ROWS,
                                     .width_max = shape.inner,
                                     .context_max = shape.context,
                                     .heads_max = shape.n_heads};
    const struct gpt2_options o = {.rows_max = ROWS, .cache_tokens = PAGES * PAGE_TOKENS};
    const struct batch_options b = {.slab_bytes = 1 << 20, .jobs_max = 16};
    tiny_engine_open(&device, &model, &batch, be, folder, &d, &o, &b, &arena);
}

static int set_up(void **state)
{
    (void)state;
    open_on(&backend_cuda);
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
    struct job *j = tiny_engine_job(request, &shape, ++users, &arena);
    batch_add(batch, j);
    return j;
}

/* What one pass asks of the device. */
static struct emulate_counts count_pass(void)
{
    const struct emulate_counts before = emulate_counted();
    struct err e = {0};
    assert_true(batch_run(batch, &e));
    const struct emulate_counts now = emulate_counted();
    return (struct emulate_counts){now.launches - before.launches, now.graphs - before.graphs,
                                   now.uploads - before.uploads, now.downloads - before.downloads,
                                   now.waits - before.waits, now.left};
}

static const char *const requests[] = {
    /* Plain decoding, greedy and not. */
    "{\"prompt\": [1, 2, 3], \"max_new_tokens\": 4}",
    "{\"prompt\": [4, 5], \"max_new_tokens\": 4, \"sampling\": {\"temperature\": 0.5}}",
    /* Saves of every block in every step, whole and through strides; edits without constants. */
    "{\"prompt\": [1, 2, 3, 4], \"max_new_tokens\": 4, \"nodes\": ["
    "{\"op\": \"mul\", \"args\": [\"transformer.h.1.mlp.output\", 2]},"
    "{\"op\": \"set\", \"args\": [\"transformer.h.1.mlp.output\", {\"node\": 0}]},"
    "{\"op\": \"save\", \"args\": [\"transformer.h.0.output[0]\"]},"
    "{\"op\": \"save\", \"args\": [\"transformer.h.1.output[0]\"]},"
    "{\"op\": \"save\", \"args\": [\"transformer.h.2.output[0][:, :, ::2]\"]},"
    "{\"op\": \"save\", \"args\": [\"transformer.h.3.output[0]\"]},"
    "{\"op\": \"save\", \"args\": [\"transformer.h.0.output[0]\"], \"step\": 1, \"name\": \"a\"},"
    "{\"op\": \"save\", \"args\": [\"transformer.h.3.output[0]\"], \"step\": 1, \"name\": \"b\"},"
    "{\"op\": \"save\", \"args\": [\"lm_head.output\"], \"step\": 1}]}",
    /* Leaves the pass early. */
    "{\"prompt\": [7, 8, 9], \"nodes\": ["
    "{\"op\": \"save\", \"args\": [\"transformer.h.1.output[0]\"]}]}",
    /* An index that the device computes, and that it could find out of range. */
    "{\"prompt\": [9, 8, 7], \"max_new_tokens\": 4, \"nodes\": ["
    "{\"op\": \"hook\", \"args\": [\"lm_head.output\"], \"step\": 1},"
    "{\"op\": \"argmax\", \"args\": [{\"node\": 0}, -1]},"
    "{\"op\": \"getitem\", \"args\": [{\"node\": 1}, \"[0]\"]},"
    "{\"op\": \"index_select\", \"args\": [{\"node\": 0}, 2, {\"node\": 2}]},"
    "{\"op\": \"save\", \"args\": [{\"node\": 3}]}]}",
};
enum {
    REQUESTS = sizeof requests / sizeof *requests,
    CONSTANTS = 2 /* that have any, and send them when they begin */
};

static void a_pass_of_several_users_goes_to_the_device_once(void **state)
{
    (void)state;
    struct job *jobs[REQUESTS];
    for (int i = 0; i < REQUESTS; i++)
        jobs[i] = job_of(requests[i]);
    for (int step = 0; step < 4; step++) {
        const struct emulate_counts n = count_pass();
        const bool first = step == 0;
        assert_int_equal(n.uploads, first ? 1 + CONSTANTS : 1);
        /* Who leaves or has waited does not wait for others: a hooked site each, at most. */
        assert_in_range(n.downloads, 1, step < 2 ? 6 : 1);
        assert_in_range(n.waits, 1, n.downloads); /* all at the fence */
        assert_int_equal(n.left, 0);
    }
    assert_int_equal(batch_count(batch), 0);
    for (int i = 0; i < REQUESTS; i++)
        job_free(jobs[i]);
}

enum {
    DECODED = 4, /* requests that only decode, and read logits, */
    STEPS = 70   /* onto a second page */
};

/* Runs them on a backend. Returns how many passes were queued at once, and the logits. */
static int decode_on(const struct backend *be, char **logits, size_t *size)
{
    struct job *jobs[DECODED];
    open_on(be);
    for (int i = 0; i < DECODED; i++)
        jobs[i] = job_of(arena_format(
            &arena, "{\"prompt\": [%d, 2, 3], \"max_new_tokens\": %d, \"nodes\": ["
            "{\"op\": \"save\", \"args\": [\"lm_head.output\"], \"step\": %d}]}",
            i, STEPS - i, STEPS / 2 + i));
    int n_graphs = 0;
    for (int step = 0; step < STEPS; step++) {
        const struct emulate_counts n = count_pass();
        assert_true(n.graphs <= 1);
        n_graphs += n.graphs;
    }
    *size = jobs[0]->plan.result_bytes;
    *logits = memory_map(*size * DECODED);
    for (int i = 0; i < DECODED; i++) {
        assert_int_equal(jobs[i]->outbox.state, JOB_done);
        memcpy(*logits + *size * (size_t)i, jobs[i]->results, *size);
        job_free(jobs[i]);
    }
    tiny_engine_close(device, model, batch, &arena);
    return n_graphs;
}

/* Whoever comes and goes, and with new pages: but for the first, which has prompts. */
static void passes_without_hooks_are_queued_at_once_and_have_the_bits_of_the_others(void **state)
{
    (void)state;
    char *of_cuda, *of_cpu;
    size_t size;
    assert_int_equal(decode_on(&backend_cpu, &of_cpu, &size), 0);
    assert_int_equal(decode_on(&backend_cuda, &of_cuda, &size), STEPS - 1);
    assert_memory_equal(of_cuda, of_cpu, size * DECODED);
    memory_unmap(of_cuda, size * DECODED);
    memory_unmap(of_cpu, size * DECODED);
}

/* The same prompt with an edit in each block, at different positions. Runs it on a backend; `n`: what
 * its first pass asks of the device. */
static char *sweep_on(const struct backend *be, struct emulate_counts *n, size_t *size)
{
    open_on(be);
    const char *invokes = "", *nodes = "";
    for (int i = 0; i < shape.n_blocks; i++) {
        const char *comma = i > 0 ? ", " : "";
        invokes = arena_format(&arena, "%s%s{\"prompt\": [1, 2, 3, 4]}", invokes, comma);
        nodes = arena_format(&arena, "%s%s{\"op\": \"set\", \"args\": "
                                     "[\"transformer.h.%d.mid.output[:, %d]\", 0.5], \"invoke\": %d}, "
                                     "{\"op\": \"save\", \"args\": [\"lm_head.output[:, -1]\"], "
                                     "\"invoke\": %d, \"name\": \"at %d\"}, "
                                     "{\"op\": \"save\", \"args\": [\"lm_head.output\"], "
                                     "\"invoke\": %d, \"name\": \"behind %d\", \"step\": 1}",
                             nodes, comma, i, i, i, i, i, i, i);
    }
    struct job *j = job_of(arena_format(&arena, "{\"invokes\": [%s], \"max_new_tokens\": 2, "
                                                "\"nodes\": [%s]}", invokes, nodes));
    *n = count_pass();
    count_pass();
    assert_int_equal(j->outbox.state, JOB_done);
    *size = j->plan.result_bytes;
    char *results = memory_map(*size);
    memcpy(results, j->results, *size);
    job_free(j);
    tiny_engine_close(device, model, batch, &arena);
    return results;
}

/* In front of the second block and the third: then the device is told of all rows anew, when what it
 * was told of before has arrived there, and which one each was. */
static void rows_that_join_a_pass_have_the_bits_of_the_cpu(void **state)
{
    (void)state;
    struct emulate_counts on_cpu, on_cuda;
    size_t size;
    char *of_cpu = sweep_on(&backend_cpu, &on_cpu, &size);
    char *of_cuda = sweep_on(&backend_cuda, &on_cuda, &size);
    assert_memory_equal(of_cuda, of_cpu, size);
    assert_int_equal(on_cuda.uploads, 1 + 1 + 2 * 2); /* with the constant */
    assert_int_equal(on_cuda.waits, 1 + 2);
    memory_unmap(of_cuda, size);
    memory_unmap(of_cpu, size);
}

static void no_hook(void *context, enum point p, int block, const struct tensor *x)
{
    (void)context, (void)p, (void)block, (void)x;
}

/* What bench/gpu.py predicts the time of a pass with: six kernels and eight a block, launched one by
 * one for a prompt and at once for a single token. */
static void a_pass_has_as_many_kernels_as_the_benchmark_counts(void **state)
{
    (void)state;
    const int32_t tokens[] = {1, 2, 3}, positions[] = {0, 1, 2}, page = 0;
    const int last_site = n_sites(shape.n_blocks) - 1, lengths[] = {3, 1};
    const uint64_t none[4] = {0};
    struct err e = {0};
    for (int i = 0; i < 2; i++) {
        const int n = lengths[i];
        const struct span span = {0, n, 0, &page};
        const struct pass p = {.n_rows = n, .n_spans = 1, .n_logits = n, .tokens = tokens,
                               .positions = positions, .spans = &span, .last_sites = &last_site,
                               .logits_rows = positions, .wanted = none, .written = none,
                               .hook = no_hook};
        const struct emulate_counts before = emulate_counted();
        assert_true(gpt2_run(model, &p, &e));
        const struct emulate_counts now = emulate_counted();
        assert_int_equal(now.launches - before.launches, 6 + 8 * shape.n_blocks);
        assert_int_equal(now.graphs - before.graphs, n == 1);
    }
}

/* Also of what was queued behind the last download, while that is still on its way. */
static void behind_a_fence_nothing_is_left_to_do(void **state)
{
    (void)state;
    float numbers[4], here[4];
    void *there;
    struct err e = {0};
    const int64_t n = 4;
    assert_true(backend_cuda.alloc(device, &there, sizeof numbers, &e));
    const struct tensor x = {there, DT_f32, view_of(1, &n)};
    for (int i = 0; i < 50; i++) {
        for (int k = 0; k < n; k++)
            numbers[k] = (float)(i + k);
        backend_cuda.upload(device, there, numbers, sizeof numbers);
        backend_cuda.download(device, here, &x);
        backend_cuda.reached(device, backend_cuda.mark(device));
        backend_cuda.unary(device, OP_neg, &x, &x);
        assert_true(backend_cuda.fence(device, &e));
        assert_memory_equal(here, numbers, sizeof here);
        assert_int_equal(emulate_counted().left, 0);
    }
    backend_cuda.release(device, there, sizeof numbers);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_pass_of_several_users_goes_to_the_device_once, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(behind_a_fence_nothing_is_left_to_do, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_pass_has_as_many_kernels_as_the_benchmark_counts, set_up,
                                        tear_down),
        cmocka_unit_test(rows_that_join_a_pass_have_the_bits_of_the_cpu),
        cmocka_unit_test(passes_without_hooks_are_queued_at_once_and_have_the_bits_of_the_others),
    };
    return cmocka_run_group_tests(tests, make_model, remove_model);
}
