/* server/device.c: what --device means, and what each mistake is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "../../server/device.h"

static const struct backend *be;
static int number;
static struct err error;

/* The refusal, or NULL. */
static const char *choose(const char *name)
{
    error = (struct err){0};
    return device_choose(&be, &number, name, &error) ? NULL : error.text;
}

static void the_cpu_is_in_every_build(void **state)
{
    (void)state;
    assert_null(choose("cpu"));
    assert_ptr_equal(be, &backend_cpu);
    assert_null(choose("auto"));
    assert_ptr_equal(be, device_cuda ? device_cuda : &backend_cpu);
}

static void a_gpu_is_chosen_by_its_number_or_refused_by_name(void **state)
{
    (void)state;
    const char *refusal = choose("cuda:3");
    if (device_cuda) {
        assert_null(refusal);
        assert_ptr_equal(be, device_cuda);
        assert_int_equal(number, 3);
    } else {
        assert_string_equal(refusal, "--device is \"cuda:3\", and this build has no CUDA: build with "
                                     "make CUDA=1, or say --device cpu");
    }
}

static void anything_else_is_refused(void **state)
{
    (void)state;
    static const char *const names[] = {"", "gpu", "cuda", "cuda:", "cuda:-1", "cuda:1x", "cuda:1024",
                                        "cuda:99999999999999999999", "CPU", "cpu:0"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_non_null(choose(names[i]));
    assert_string_equal(choose("gpu"), "--device is \"gpu\", and must be auto, cpu or cuda:N");
}

static bool is_missing(struct device **d, const struct device_options *o, struct err *e)
{
    (void)d;
    return err_set(e, o->number ? ERR_value : ERR_device, "no CUDA device 0: this machine has 0");
}

static void auto_falls_back_on_the_cpu_and_nothing_else_does(void **state)
{
    (void)state;
    const struct backend missing = {.name = "cuda", .open = is_missing};
    const struct device_options o = {.threads = 1, .rows_max = 1, .width_max = 1,
                                     .context_max = 1, .heads_max = 1};
    struct device_options wrong = o;
    wrong.number = 1;
    struct device *d;
    struct err e = {0};
    log_open(LOG_quiet);
    be = &missing;
    assert_false(device_open(&d, &be, "cuda:0", &o, &e));
    assert_string_equal(e.text, "no CUDA device 0: this machine has 0");
    e = (struct err){0};
    assert_false(device_open(&d, &be, "auto", &wrong, &e));
    assert_ptr_equal(be, &missing);
    e = (struct err){0};
    assert_true(device_open(&d, &be, "auto", &o, &e));
    assert_ptr_equal(be, &backend_cpu);
    backend_cpu.close(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_cpu_is_in_every_build),
        cmocka_unit_test(a_gpu_is_chosen_by_its_number_or_refused_by_name),
        cmocka_unit_test(anything_else_is_refused),
        cmocka_unit_test(auto_falls_back_on_the_cpu_and_nothing_else_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
