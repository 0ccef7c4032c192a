/* server/memory.c: what a process may have of a machine, by the files of cgroups. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "../../server/memory.h"

static char root[] = "/tmp/test_memory.XXXXXX";
static const char *const groups[] = {"", "user.slice", "user.slice/shell.scope"};

enum { N_GROUPS = sizeof groups / sizeof *groups };

static int make_groups(void **state)
{
    (void)state;
    char path[128];
    assert_non_null(mkdtemp(root));
    for (int i = 1; i < N_GROUPS; i++) {
        snprintf(path, sizeof path, "%s/%s", root, groups[i]);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    return 0;
}

static const char *file_of(int group)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s/memory.max", root, groups[group]);
    return path;
}

static int remove_groups(void **state)
{
    (void)state;
    char path[128];
    for (int i = N_GROUPS - 1; i >= 0; i--) {
        unlink(file_of(i));
        snprintf(path, sizeof path, "%s/%s", root, groups[i]);
        rmdir(path);
    }
    return 0;
}

static void a_group_has_what_those_around_it_have_at_most(void **state)
{
    (void)state;
    static const struct {
        const char *limits[N_GROUPS]; /* from the root on */
        int64_t most;
    } rows[] = {
        {{NULL, NULL, NULL}, 1000},       {{NULL, "max", "max"}, 1000}, {{NULL, "max", "300"}, 300},
        {{NULL, "300", "max"}, 300},      {{NULL, "300", "400"}, 300},  {{"200", "300", NULL}, 200},
        {{NULL, NULL, "2000000"}, 1000},  {{"", "x", "300 "}, 300},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        for (int k = 0; k < N_GROUPS; k++) {
            unlink(file_of(k));
            FILE *f = rows[i].limits[k] ? fopen(file_of(k), "w") : NULL;
            if (f) {
                fprintf(f, "%s\n", rows[i].limits[k]);
                fclose(f);
            }
        }
        assert_int_equal(memory_limit_of(root, groups[N_GROUPS - 1], 1000), rows[i].most);
    }
}

static void who_is_in_no_group_has_the_machine(void **state)
{
    (void)state;
    assert_int_equal(memory_limit_of("/nowhere", "", 1000), 1000);
    assert_in_range(memory_limit(), 1 << 20, INT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_group_has_what_those_around_it_have_at_most),
        cmocka_unit_test(who_is_in_no_group_has_the_machine),
    };
    return cmocka_run_group_tests(tests, make_groups, remove_groups);
}
