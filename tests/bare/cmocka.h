/* As much of cmocka as tests/unit/test_backend.c and passes.c use, for machines that have a compiler
 * and nothing else: make gpu-check. What it prints is read like cmocka's. */
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct CMUnitTest {
    const char *name;
    void (*run)(void **state);
    int (*after)(void **state);
};
#define cmocka_unit_test(run)                 {#run, run, NULL}
#define cmocka_unit_test_teardown(run, after) {#run, run, after}

static jmp_buf bare_failed;

static inline _Noreturn void bare_fail(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static inline _Noreturn void bare_fail(const char *file, int line, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    printf("%s:%d: ", file, line);
    vprintf(format, args);
    printf("\n");
    va_end(args);
    longjmp(bare_failed, 1);
}

#define bare_check(is, ...)                        \
    do {                                           \
        if (!(is))                                 \
            bare_fail(__FILE__, __LINE__, __VA_ARGS__); \
    } while (0)

#define fail_msg(...)       bare_fail(__FILE__, __LINE__, __VA_ARGS__)
#define assert_true(x)      bare_check(x, "not so: %s", #x)
#define assert_false(x)     bare_check(!(x), "so: %s", #x)
#define assert_non_null(x)  bare_check((x) != NULL, "NULL: %s", #x)
#define assert_int_equal(x, y) \
    bare_check((long long)(x) == (long long)(y), "%lld is not %lld", (long long)(x), (long long)(y))
#define assert_string_equal(x, y) bare_check(!strcmp(x, y), "\"%s\" is not \"%s\"", x, y)
#define assert_memory_equal(x, y, size) \
    bare_check(!memcmp(x, y, size), "%s and %s differ", #x, #y)

static inline bool bare_passes(void (*run)(void **state))
{
    void *state = NULL;
    if (setjmp(bare_failed))
        return false;
    run(&state);
    return true;
}

static inline bool bare_opens(int (*open)(void **state))
{
    void *state = NULL;
    return setjmp(bare_failed) == 0 && open(&state) == 0;
}

static inline int bare_run(const struct CMUnitTest *tests, size_t n, int (*open)(void **state),
                           int (*close)(void **state))
{
    void *state = NULL;
    int n_failed = 0;
    setvbuf(stdout, NULL, _IOLBF, 0); /* should it be killed, how far it came is known */
    if (open && !bare_opens(open)) {
        printf("[  FAILED  ] before the first test\n");
        return 1;
    }
    for (size_t i = 0; i < n; i++) {
        printf("[ RUN      ] %s\n", tests[i].name);
        const bool passes = bare_passes(tests[i].run);
        if (tests[i].after)
            tests[i].after(&state);
        printf("%s %s\n", passes ? "[       OK ]" : "[  FAILED  ]", tests[i].name);
        n_failed += !passes;
    }
    if (close)
        close(&state);
    return n_failed;
}
#define cmocka_run_group_tests(tests, open, close) \
    bare_run(tests, sizeof(tests) / sizeof *(tests), open, close)
