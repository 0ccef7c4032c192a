/* kernels/safetensors.c on files that are written here. What whole models look like, and every
 * malformed header with its sentence, is in tests/test_loading.py. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "../../kernels/safetensors.h"

static struct arena arena;
static struct err error;
static char path[32];

static int set_up(void **state)
{
    (void)state;
    error = (struct err){0};
    snprintf(path, sizeof path, "/tmp/safetensors.XXXXXX");
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    unlink(path);
    arena_free(&arena);
    return 0;
}

static void write_file(const char *header, const void *data, size_t size)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    const uint64_t length = strlen(header);
    fwrite(&length, sizeof length, 1, f);
    fputs(header, f);
    fwrite(data, 1, size, f);
    fclose(f);
}

/* The error's text without the path. */
static const char *refusal(void)
{
    assert_int_equal(error.code, ERR_file);
    assert_memory_equal(error.text, path, strlen(path));
    return error.text + strlen(path);
}

static struct safetensors opened(void)
{
    struct safetensors s;
    if (!safetensors_open(&s, path, &arena, &error))
        fail_msg("%s", error.text);
    return s;
}

static void tensors_are_found_by_name(void **state)
{
    (void)state;
    const float data[] = {1, 2, 3, 4, 5, 6, 7};
    write_file("{\"z\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[4,28]},"
               "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
               "\"empty\":{\"dtype\":\"F32\",\"shape\":[0,9],\"data_offsets\":[4,4]}}   ",
               data, sizeof data);
    struct safetensors s = opened();
    assert_int_equal(s.n_tensors, 3);
    assert_null(safetensors_find(&s, "b"));
    const struct safetensor *z = safetensors_find(&s, "z");
    assert_non_null(z);
    assert_int_equal(z->rank, 2);
    assert_int_equal(z->shape[1], 3);
    float out[6];
    assert_true(safetensors_read(out, &s, z, &error));
    assert_memory_equal(out, data + 1, sizeof out);
    assert_true(safetensors_read(out, &s, safetensors_find(&s, "a"), &error));
    assert_true(out[0] == 1);
    assert_true(safetensors_read(out, &s, safetensors_find(&s, "empty"), &error));
    safetensors_close(&s);
}

static void halves_are_widened_in_place(void **state)
{
    (void)state;
    const uint16_t data[] = {0x3c00, 0xc000, 0x0001, 0x8000, 0x7bff, 0x3f80, 0xc040, 0x0001};
    const float expected[] = {1, -2, 0x1p-24f, -0.0f, 65504, 1, -3, 0x1p-133f};
    write_file("{\"half\":{\"dtype\":\"F16\",\"shape\":[5],\"data_offsets\":[0,10]},"
               "\"brain\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[10,16]}}",
               data, sizeof data);
    struct safetensors s = opened();
    float out[8];
    assert_true(safetensors_read(out, &s, safetensors_find(&s, "half"), &error));
    assert_true(safetensors_read(out + 5, &s, safetensors_find(&s, "brain"), &error));
    assert_memory_equal(out, expected, sizeof out);
    safetensors_close(&s);
}

static const char two_floats[] = "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}";

static void a_file_that_shrinks_while_it_is_read_is_refused(void **state)
{
    (void)state;
    write_file(two_floats, (float[]){1, 2}, 8);
    struct safetensors s = opened();
    const off_t end = (off_t)(8 + strlen(two_floats) + 4);
    assert_int_equal(truncate(path, end), 0);
    float out[2];
    assert_false(safetensors_read(out, &s, safetensors_find(&s, "x"), &error));
    char expected[64];
    snprintf(expected, sizeof expected, ": ended at byte %d while it was read", (int)end);
    assert_string_equal(refusal(), expected);
    safetensors_close(&s);
}

static void what_is_not_finite_is_refused(void **state)
{
    (void)state;
    write_file(two_floats, (uint32_t[]){0, 0xff800000}, 8);
    struct safetensors s = opened();
    float out[2];
    assert_false(safetensors_read(out, &s, safetensors_find(&s, "x"), &error));
    assert_string_equal(refusal(), ": element 1 of x is infinite: the weights are damaged");
    safetensors_close(&s);
}

static void a_refusal_is_one_line_whatever_names_are(void **state)
{
    (void)state;
    char header[600], name[501];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    snprintf(header, sizeof header, "{\"a\\nb\\u001b\\u007f%s\":0}", name);
    write_file(header, "", 0);
    struct safetensors s;
    assert_false(safetensors_open(&s, path, &arena, &error));
    safetensors_close(&s);
    char expected[SHOWN_SIZE + 64];
    snprintf(expected, sizeof expected, ": the entry of a?b??%.74s is not an object", name);
    assert_string_equal(refusal(), expected);
}

static void a_name_is_cut_between_characters(void **state)
{
    (void)state;
    char name[2 * SHOWN_SIZE + 1], shown[SHOWN_SIZE];
    for (int i = 0; i < SHOWN_SIZE; i++)
        memcpy(name + 2 * i, "\xc3\xa9", 2);
    name[2 * SHOWN_SIZE] = '\0';
    assert_int_equal(strlen(safetensors_shown(shown, name)), SHOWN_SIZE - 2);
    assert_int_equal(strlen(safetensors_shown(shown, name + 1)), SHOWN_SIZE - 1);
}

static void a_closed_file_may_be_closed_again(void **state)
{
    (void)state;
    struct safetensors s;
    assert_false(safetensors_open(&s, "/nowhere/x", &arena, &error));
    assert_string_equal(error.text, "/nowhere/x: No such file or directory");
    safetensors_close(&s);
    safetensors_close(&s);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(tensors_are_found_by_name),
        TEST(halves_are_widened_in_place),
        TEST(a_file_that_shrinks_while_it_is_read_is_refused),
        TEST(what_is_not_finite_is_refused),
        TEST(a_refusal_is_one_line_whatever_names_are),
        TEST(a_name_is_cut_between_characters),
        TEST(a_closed_file_may_be_closed_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
