/* server/queue.c under many threads: nothing is lost, doubled or overtaken, and what leaves early is
 * never handed out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../../server/queue.h"

#define TEST(name) cmocka_unit_test_teardown(name, tear_down)

enum {
    WRITERS = 8,
    JOBS = 2000,
    ROOM = 32
};

static struct arena arena;

static int tear_down(void **state)
{
    (void)state;
    arena_free(&arena);
    return 0;
}

static struct job *job_of(uint64_t user)
{
    struct job *j = job_new("id", &arena);
    j->turn.user = user;
    return j;
}

/* What the engine does with a job at once. */
static struct job *take_out(struct queue *q, double wait_seconds)
{
    struct job *j = queue_pop(q, wait_seconds);
    if (j)
        queue_forget(q, j);
    return j;
}

static void jobs_come_out_in_the_order_in_which_they_went_in(void **state)
{
    (void)state;
    struct queue *q = queue_new(ROOM, &arena);
    struct job *jobs[ROOM];
    struct err e = {0};
    for (int i = 0; i < ROOM; i++) {
        jobs[i] = job_of((uint64_t)i);
        assert_true(queue_push(q, jobs[i], &e));
    }
    for (int i = 0; i < ROOM; i++)
        assert_ptr_equal(take_out(q, 0), jobs[i]);
    assert_null(take_out(q, 0));
    for (int i = 0; i < ROOM; i++)
        job_free(jobs[i]);
    queue_free(q);
}

static void a_full_queue_refuses_with_its_numbers(void **state)
{
    (void)state;
    struct queue *q = queue_new(1, &arena);
    struct job *first = job_new("a", &arena), *second = job_new("b", &arena);
    struct err e = {0};
    assert_true(queue_takes(q, &e));
    assert_true(queue_push(q, first, &e));
    assert_false(queue_push(q, second, &e));
    assert_int_equal(e.code, ERR_busy);
    assert_string_equal(e.text, "1 requests are waiting already, and no more than 1 may");
    assert_true(queue_remove(q, first));
    e = (struct err){0};
    assert_true(queue_push(q, second, &e));
    assert_true(queue_remove(q, second));
    job_free(first);
    job_free(second);
    queue_free(q);
}

static void a_user_leaves_as_much_room_for_others_as_it_takes(void **state)
{
    (void)state;
    struct queue *q = queue_new(8, &arena);
    struct job *jobs[9];
    struct err e = {0};
    for (int i = 0; i < 9; i++)
        jobs[i] = job_of(i < 5 ? 1 : 2 + (uint64_t)(i - 5) / 2);
    for (int i = 0; i < 4; i++)
        assert_true(queue_push(q, jobs[i], &e));
    assert_false(queue_push(q, jobs[4], &e));
    assert_int_equal(e.code, ERR_busy);
    assert_string_equal(e.text, "4 of your requests are waiting already, and the other 4 places are "
                                "kept for others");
    e = (struct err){0};
    assert_true(queue_push(q, jobs[5], &e));
    assert_true(queue_push(q, jobs[6], &e));
    assert_true(queue_push(q, jobs[7], &e)); /* the first of another */
    assert_true(queue_remove(q, jobs[0]));
    assert_false(queue_push(q, jobs[4], &e)); /* three wait, and two places are left */
    for (int i = 1; i < 8; i++) {
        if (i != 4)
            assert_ptr_equal(take_out(q, 0), jobs[i]);
    }
    e = (struct err){0};
    assert_true(queue_push(q, jobs[4], &e));
    assert_ptr_equal(take_out(q, 0), jobs[4]);
    for (int i = 0; i < 9; i++)
        job_free(jobs[i]);
    queue_free(q);
}

/* The engine takes everybody out and chooses: until it has chosen them, they wait. */
static void who_waits_in_the_engine_counts(void **state)
{
    (void)state;
    struct queue *q = queue_new(1, &arena);
    struct job *first = job_of(1), *second = job_of(2);
    struct err e = {0};
    assert_true(queue_push(q, first, &e));
    assert_ptr_equal(queue_pop(q, 0), first);
    assert_false(queue_takes(q, &e));
    e = (struct err){0};
    assert_false(queue_push(q, second, &e));
    queue_forget(q, first);
    e = (struct err){0};
    assert_true(queue_push(q, second, &e));
    assert_ptr_equal(take_out(q, 0), second);
    job_free(first);
    job_free(second);
    queue_free(q);
}

static void a_closed_queue_says_why_and_keeps_what_it_has(void **state)
{
    (void)state;
    struct queue *q = queue_new(ROOM, &arena);
    struct job *before = job_new("a", &arena), *behind = job_new("b", &arena);
    struct err e = {0}, why = {0}, other = {0};
    assert_true(queue_push(q, before, &e));
    err_set(&why, ERR_draining, "going home");
    err_set(&other, ERR_device, "too late to matter");
    assert_true(queue_is_open(q, &e));
    queue_close(q, &why);
    queue_close(q, &other);
    assert_false(queue_is_over(q));
    assert_false(queue_push(q, behind, &e));
    assert_int_equal(e.code, ERR_draining);
    assert_string_equal(e.text, "going home");
    e = (struct err){0};
    assert_false(queue_is_open(q, &e));
    assert_string_equal(e.text, "going home");
    assert_ptr_equal(take_out(q, 10), before);
    assert_null(take_out(q, 1000)); /* at once */
    assert_true(queue_is_over(q));
    job_free(before);
    job_free(behind);
    queue_free(q);
}

static void any_place_can_be_left(void **state)
{
    (void)state;
    for (int leaves = 0; leaves < 3; leaves++) {
        struct queue *q = queue_new(ROOM, &arena);
        struct job *jobs[3];
        struct err e = {0};
        for (int i = 0; i < 3; i++)
            assert_true(queue_push(q, jobs[i] = job_new("id", &arena), &e));
        assert_true(queue_remove(q, jobs[leaves]));
        assert_false(queue_remove(q, jobs[leaves]));
        for (int i = 0; i < 3; i++) {
            if (i != leaves)
                assert_ptr_equal(take_out(q, 0), jobs[i]);
        }
        assert_true(queue_push(q, jobs[leaves], &e)); /* the end is still an end */
        assert_ptr_equal(take_out(q, 0), jobs[leaves]);
        for (int i = 0; i < 3; i++)
            job_free(jobs[i]);
        queue_free(q);
    }
}

struct crowd {
    struct queue *queue;
    atomic_int n_popped, n_removed, n_writing;
};

struct writer {
    struct crowd *crowd;
    struct arena arena;
    pthread_t thread;
};

/* Pushes jobs, takes back every third, and waits for each to be final as a connection would. */
static void *write_jobs(void *context)
{
    struct writer *w = context;
    for (int i = 0; i < JOBS; i++) {
        struct job *j = job_new("id", &w->arena);
        j->turn.user = (uint64_t)(uintptr_t)w;
        struct err e = {0};
        while (!queue_push(w->crowd->queue, j, &e)) {
            assert_int_equal(e.code, ERR_busy);
            e = (struct err){0};
        }
        int n_ready;
        if (i % 3 == 0 && queue_remove(w->crowd->queue, j))
            atomic_fetch_add(&w->crowd->n_removed, 1);
        else
            while (!job_state_is_final(job_wait(j, &n_ready, 0, 10)))
                continue;
        job_free(j);
    }
    atomic_fetch_sub(&w->crowd->n_writing, 1);
    return NULL;
}

static void every_job_is_run_once_or_taken_back(void **state)
{
    (void)state;
    struct crowd crowd = {.queue = queue_new(4, &arena), .n_writing = WRITERS};
    struct writer writers[WRITERS] = {0};
    for (int i = 0; i < WRITERS; i++) {
        writers[i].crowd = &crowd;
        assert_int_equal(pthread_create(&writers[i].thread, NULL, write_jobs, &writers[i]), 0);
    }
    while (atomic_load(&crowd.n_writing) > 0) {
        struct job *j = take_out(crowd.queue, 0.001);
        if (!j)
            continue;
        job_start(j);
        atomic_fetch_add(&crowd.n_popped, 1);
        job_finish(j, JOB_done);
    }
    for (int i = 0; i < WRITERS; i++) {
        pthread_join(writers[i].thread, NULL);
        arena_free(&writers[i].arena);
    }
    assert_int_equal(crowd.n_popped + crowd.n_removed, WRITERS * JOBS);
    queue_free(crowd.queue);
}

static void *close_soon(void *context)
{
    struct err why = {0};
    err_set(&why, ERR_draining, "going home");
    queue_close(context, &why);
    return NULL;
}

static void closing_wakes_a_waiting_engine(void **state)
{
    (void)state;
    struct queue *q = queue_new(ROOM, &arena);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, close_soon, q), 0);
    const double start = seconds_now();
    assert_null(queue_pop(q, 60));
    assert_true(seconds_now() - start < 30);
    pthread_join(thread, NULL);
    queue_free(q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(jobs_come_out_in_the_order_in_which_they_went_in),
        TEST(a_full_queue_refuses_with_its_numbers),
        TEST(a_user_leaves_as_much_room_for_others_as_it_takes),
        TEST(who_waits_in_the_engine_counts),
        TEST(a_closed_queue_says_why_and_keeps_what_it_has),
        TEST(any_place_can_be_left),
        TEST(every_job_is_run_once_or_taken_back),
        TEST(closing_wakes_a_waiting_engine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
