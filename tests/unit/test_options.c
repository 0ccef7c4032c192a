/* server/options.c: what wins, and what each mistake is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../../server/options.h"

#define TEST(name) cmocka_unit_test_setup(name, clear_environment)
#define READ(...) read_all((char *[]){"interposed", __VA_ARGS__, NULL})

static struct options options;
static enum options_wish wish;
static struct err error;

static int clear_environment(void **state)
{
    (void)state;
    unsetenv("INTERPOSED_PORT");
    unsetenv("INTERPOSED_MODEL_NAME");
    unsetenv("INTERPOSED_MODEL");
    return 0;
}

/* The refusal, or NULL. */
static const char *read_all(char **argv)
{
    int argc = 0;
    while (argv[argc])
        argc++;
    error = (struct err){0};
    return options_read(&options, &wish, argc, argv, &error) ? NULL : error.text;
}

static void defaults_come_from_the_table(void **state)
{
    (void)state;
    assert_null(read_all((char *[]){"interposed", NULL}));
    assert_int_equal(wish, WISH_serve);
    assert_string_equal(options.host, "127.0.0.1");
    assert_int_equal(options.port, 8000);
    assert_int_equal(options.rows, ROWS_DEFAULT);
    assert_string_equal(options.isa, "auto");
    assert_string_equal(options.weights, "f32");
}

static void a_value_stands_behind_its_flag_or_an_equals_sign(void **state)
{
    (void)state;
    assert_null(READ("--port", "1", "--model-name=a=b", "--log-format", "json"));
    assert_int_equal(options.port, 1);
    assert_string_equal(options.model_name, "a=b");
    assert_string_equal(options.log_format, "json");
}

static void the_command_line_wins_over_the_environment(void **state)
{
    (void)state;
    setenv("INTERPOSED_PORT", "7", 1);
    setenv("INTERPOSED_MODEL_NAME", "", 1); /* empty is as if not set */
    assert_null(READ("--threads", "2"));
    assert_int_equal(options.port, 7);
    assert_string_equal(options.model_name, "");
    assert_null(READ("--port", "9"));
    assert_int_equal(options.port, 9);
}

static void a_number_out_of_range_is_refused_with_the_range(void **state)
{
    (void)state;
    const char *range = "--port is \"65536\", and must be a whole number from 0 to 65535";
    assert_string_equal(READ("--port", "65536"), range);
    assert_int_equal(error.code, ERR_value);
    assert_non_null(READ("--port", "-1"));
    assert_non_null(READ("--port", ""));
    assert_non_null(READ("--port", "80x"));
    assert_non_null(READ("--port", "8.5"));
    assert_non_null(READ("--port", "99999999999999999999"));
    assert_non_null(READ("--rows", "4097"));
    assert_non_null(READ("--rows=0"));
}

static void a_bad_variable_is_called_by_its_own_name(void **state)
{
    (void)state;
    setenv("INTERPOSED_PORT", "none", 1);
    assert_string_equal(READ("--threads", "2"), "INTERPOSED_PORT is \"none\", and must be a whole "
                                                "number from 0 to 65535");
}

static void a_services_address_is_not_our_port(void **state)
{
    (void)state;
    setenv("INTERPOSED_PORT", "tcp://10.0.0.1:7", 1);
    assert_null(READ("--threads", "2"));
    assert_int_equal(options.port, 8000);
    assert_non_null(READ("--port", "tcp://10.0.0.1:7"));
}

static void a_choice_is_refused_with_the_choices(void **state)
{
    (void)state;
    assert_string_equal(READ("--isa", "sse"),
                        "--isa is \"sse\", and must be one of auto|avx512|avx2|neon|plain");
    assert_string_equal(READ("--weights", "int4"),
                        "--weights is \"int4\", and must be one of f32|bf16|int8");
    assert_non_null(READ("--isa", "avx"));
    assert_non_null(READ("--isa", "auto|avx512"));
    assert_non_null(READ("--isa="));
    assert_null(READ("--isa", "plain"));
}

static void an_unknown_option_is_told_the_nearest(void **state)
{
    (void)state;
    assert_string_equal(READ("--prot", "1"),
                        "there is no option --prot; the nearest is --port, and --help lists all");
    assert_int_equal(error.code, ERR_unknown);
    assert_non_null(READ("model"));
    assert_non_null(READ("--model_name", "x"));
    assert_non_null(READ(""));
    assert_non_null(READ("--"));
}

static void unknown_variables_are_told_the_nearest(void **state)
{
    (void)state;
    struct arena arena = {0};
    static const char *const services[][2] = {{"INTERPOSED_PORT", "tcp://10.0.0.1:8000"},
                                              {"INTERPOSED_SERVICE_HOST", "10.0.0.1"},
                                              {"INTERPOSED_SERVICE_PORT_HTTP", "8000"},
                                              {"INTERPOSED_PORT_8000_TCP", "tcp://10.0.0.1:8000"},
                                              {"INTERPOSED_PORT_8000_TCP_PROTO", "tcp"},
                                              {"INTERPOSED_GPU_PORT", "udp://10.0.0.1:8000"},
                                              {"INTERPOSED_GPU_SERVICE_PORT", "8000"},
                                              {"INTERPOSED_ENV_PATH", "/bin"},
                                              {"INTERPOSED_MODEL_NAME", "x"},
                                              {"INTERPOSED_EMPTY", ""},
                                              {"INTERPOSE_HOST", "http://10.0.0.1"}};
    const int n = sizeof services / sizeof *services;
    for (int i = 0; i < n; i++)
        setenv(services[i][0], services[i][1], 1);
    const char *before = options_unknown_variables(&arena);
    setenv("INTERPOSED_PROT", "5", 1);
    const char *one = options_unknown_variables(&arena);
    setenv("INTERPOSED_model", "x", 1);
    const char *two = options_unknown_variables(&arena);
    for (int i = 0; i < n; i++)
        unsetenv(services[i][0]);
    unsetenv("INTERPOSED_PROT");
    unsetenv("INTERPOSED_model");
    assert_null(before);
    assert_string_equal(one, "INTERPOSED_PROT (the nearest is INTERPOSED_PORT)");
    assert_string_equal(two, "INTERPOSED_PROT (the nearest is INTERPOSED_PORT), INTERPOSED_model "
                             "(the nearest is INTERPOSED_MODEL)");
    arena_free(&arena);
}

static void an_option_without_its_value_is_refused(void **state)
{
    (void)state;
    assert_string_equal(READ("--port"), "--port needs a value: N");
}

static void help_lists_every_option(void **state)
{
    (void)state;
    struct arena arena = {0};
    assert_null(READ("--help"));
    assert_int_equal(wish, WISH_help);
    const char *help = options_help(&arena);
    assert_non_null(strstr(help, "  --model-name NAME"));
    assert_non_null(strstr(help, "(INTERPOSED_PORT, 0 to 65535, default 8000)"));
    assert_non_null(strstr(help, "auto|avx512|avx2|neon|plain"));
    assert_null(READ("--version"));
    assert_int_equal(wish, WISH_version);
    arena_free(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(defaults_come_from_the_table),
        TEST(a_value_stands_behind_its_flag_or_an_equals_sign),
        TEST(the_command_line_wins_over_the_environment),
        TEST(a_number_out_of_range_is_refused_with_the_range),
        TEST(a_bad_variable_is_called_by_its_own_name),
        TEST(a_services_address_is_not_our_port),
        TEST(a_choice_is_refused_with_the_choices),
        TEST(an_unknown_option_is_told_the_nearest),
        TEST(unknown_variables_are_told_the_nearest),
        TEST(an_option_without_its_value_is_refused),
        TEST(help_lists_every_option),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
