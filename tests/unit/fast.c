/* The CUDA backend's faster precisions, on the emulated device or a real one: how far their products
 * are from true ones, and that an element's bits do not depend on how many rows or columns are asked
 * for.
 *
 *     fast [few]      few: the rounds that have a kernel each, for tools that are slow
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "../../kernels/accuracy.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

enum { ROWS = 100, K_MAX = 600, N_MAX = 100, N_WIDE = 512 }; /* more k than chunks side by side */

static struct precision {
    const char *name;
    double least, most; /* relative error of a product: what rounds shows that it does */
    struct device *device;
} precisions[] = {
    {"exact", 1e-8, 1e-6, NULL},
    {"tf32x3", 1e-8, 1e-6, NULL},
    {"tf32", 1e-4, 1e-3, NULL},
    {"bf16", 1e-3, 1e-2, NULL},
};

static const struct backend *const be = &backend_cuda;
static struct arena arena;
static struct err error;
static uint32_t state = 1;
static bool is_few;

static int chance(int n)
{
    state = state * 1664525u + 1013904223u;
    return (int)((state >> 8) % (uint32_t)n);
}

static float *numbers(int count)
{
    float *x = ARENA_ARRAY(&arena, float, (size_t)count);
    for (int i = 0; i < count; i++)
        x[i] = (float)(chance(20001) - 10000) / 4096.0f;
    return x;
}

/* A copy on the device, or room. */
static float *on_device(struct device *d, const float *x, int count)
{
    void *p;
    assert_true(be->alloc(d, &p, sizeof *x * (size_t)count, &error));
    if (x)
        be->upload(d, p, x, sizeof *x * (size_t)count);
    return p;
}

static const float *from_device(struct device *d, float *p, int count)
{
    float *x = ARENA_ARRAY(&arena, float, (size_t)count);
    const struct tensor t = {p, DT_f32, view_of(1, (int64_t[]){count})};
    be->download(d, x, &t);
    assert_true(be->fence(d, &error));
    return x;
}

static int open_devices(void **unused)
{
    (void)unused;
    for (int i = 0; i < COUNT(precisions); i++) {
        const struct device_options o = {.rows_max = ROWS, .width_max = K_MAX, .context_max = 64,
                                         .heads_max = 1, .precision = precisions[i].name};
        if (!be->open(&precisions[i].device, &o, &error))
            fail_msg("%s", error.text);
    }
    return 0;
}

static int close_devices(void **unused)
{
    (void)unused;
    for (int i = 0; i < COUNT(precisions); i++)
        be->close(precisions[i].device);
    return 0;
}

static void products_are_as_near_as_their_precision_says(void **unused)
{
    (void)unused;
    for (int i = 0; i < COUNT(precisions); i++) {
        const struct precision *p = &precisions[i];
        double apart;
        assert_true(product_error(&apart, be, p->device, K_MAX, &error));
        if (!(apart >= p->least && apart <= p->most))
            fail_msg("%s: relative error %.2e", p->name, apart);
    }
}

struct product {
    struct device *d;
    int M, K, N;
    float *x, *bias, *residual, *out;
    struct weight *w;
};

/* Rows `first` to the last alone have the bits of all of them together. */
static void check_rows(const struct product *p, const float *all, int first, int n)
{
    be->linear(p->d, p->out, p->x + first * p->K, p->w, p->bias, n, EPILOGUE_residual,
               p->residual + first * p->N);
    assert_memory_equal(from_device(p->d, p->out, n * p->N), all + first * p->N,
                        sizeof *all * (size_t)(n * p->N));
}

/* A panel has the bits of its columns, and zeros past the last, whatever is multiplied. */
static void check_panels(const struct product *p)
{
    const int n_panels = (p->N + 15) / 16, wide = 16;
    const float infinite = INFINITY;
    be->upload(p->d, p->x, &infinite, sizeof infinite);
    be->linear(p->d, p->out, p->x, p->w, NULL, p->M, EPILOGUE_none, NULL);
    const float *all = from_device(p->d, p->out, p->M * p->N);
    const int32_t panel = chance(n_panels);
    be->linear_panels(p->d, p->out, p->x, p->w, &panel, 1, p->M);
    const float *few = from_device(p->d, p->out, p->M * wide);
    for (int m = 0; m < p->M; m++)
        for (int n = 0; n < wide; n++) {
            const int column = panel * wide + n;
            const float expected = column < p->N ? all[m * p->N + column] : 0;
            assert_memory_equal(&few[m * wide + n], &expected, sizeof expected);
        }
}

static void bits_depend_on_neither_rows_nor_columns(void **unused)
{
    (void)unused;
    for (int round = 0; round < (is_few ? 4 : 6) * COUNT(precisions); round++) {
        struct product p = {.d = precisions[round % COUNT(precisions)].device};
        /* First a shape for each kernel of more than a few rows: bf16's widest wants columns. */
        static const int all_M[] = {64, ROWS, 20};
        const int turn = round / COUNT(precisions);
        const bool is_wide = turn == 1 && round % COUNT(precisions) == COUNT(precisions) - 1;
        p.M = turn < COUNT(all_M) ? all_M[turn] : 1 + chance(round % 3 ? ROWS : 20);
        p.K = 1 + chance(turn < 2 ? 64 : K_MAX);
        p.N = is_wide ? N_WIDE : turn < COUNT(all_M) ? N_MAX : 1 + chance(N_MAX);
        p.x = on_device(p.d, numbers(p.M * p.K), p.M * p.K);
        p.bias = on_device(p.d, numbers(p.N), p.N);
        p.residual = on_device(p.d, numbers(p.M * p.N), p.M * p.N);
        p.out = on_device(p.d, NULL, p.M * (p.N + 16));
        assert_true(
            be->weight_pack(p.d, &p.w, numbers(p.K * p.N), LAYOUT_kn, p.K, p.N, &error));
        be->linear(p.d, p.out, p.x, p.w, p.bias, p.M, EPILOGUE_residual, p.residual);
        const float *all = from_device(p.d, p.out, p.M * p.N);
        const int first = chance(p.M), n = 1 + chance(p.M - first);
        check_rows(&p, all, first, n);
        check_rows(&p, all, first, 1);
        check_panels(&p);
        be->weight_free(p.d, p.w);
        be->release(p.d, p.x, 0);
        be->release(p.d, p.bias, 0);
        be->release(p.d, p.residual, 0);
        be->release(p.d, p.out, 0);
        arena_free(&arena);
    }
}

/* Eight bits behind which ties go to even. */
static float nearest_bf16(float x)
{
    int e;
    frexpf(x, &e);
    return ldexpf(rintf(ldexpf(x, 8 - e)), e - 8);
}

static void a_weight_that_bf16_multiplies_by_is_stored_as_bf16(void **unused)
{
    (void)unused;
    enum { K = 7, N = 21 };
    const float *matrix = numbers(K * N);
    for (int i = 0; i < COUNT(precisions); i++) {
        struct device *d = precisions[i].device;
        const struct tensor out = {on_device(d, NULL, K * N), DT_f32,
                                   view_of(2, (int64_t[]){K, N})};
        struct weight *w;
        assert_true(be->weight_pack(d, &w, matrix, LAYOUT_nk, K, N, &error));
        be->weight_read(d, &out, w, &out.view);
        const float *read = from_device(d, out.data, K * N);
        for (int j = 0; j < K * N; j++) {
            const float x = matrix[j % N * K + j / N];
            const float expected = strcmp(precisions[i].name, "bf16") == 0 ? nearest_bf16(x) : x;
            assert_memory_equal(&read[j], &expected, sizeof expected);
        }
        be->weight_free(d, w);
        be->release(d, out.data, 0);
    }
    arena_free(&arena);
}

static void an_unknown_precision_is_refused(void **unused)
{
    (void)unused;
    struct device *d;
    struct err e = {0};
    struct device_options o = {.rows_max = 1, .context_max = 1, .precision = "fp8"};
    assert_false(be->open(&d, &o, &e));
    assert_string_equal(e.text, "precision is fp8: it can be exact, tf32x3, tf32 or bf16");
}

int main(int n_arguments, char **arguments)
{
    is_few = n_arguments > 1 && strcmp(arguments[1], "few") == 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_as_near_as_their_precision_says),
        cmocka_unit_test(bits_depend_on_neither_rows_nor_columns),
        cmocka_unit_test(a_weight_that_bf16_multiplies_by_is_stored_as_bf16),
        cmocka_unit_test(an_unknown_precision_is_refused),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
