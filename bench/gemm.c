/* The products of GPT-2 small: this backend in AVX2 and AVX-512 beside OpenBLAS, in one run.
 *
 *     build/bench/gemm [libopenblas.so]
 *
 * The library may also be the one inside a numpy wheel (numpy.libs/libscipy_openblas64_*.so); without
 * one only our columns are printed. It is held to AVX2 (OPENBLAS_CORETYPE=Haswell) unless that
 * variable says otherwise; SkylakeX is its AVX-512. THREADS is 2 unless set. A call's time is the
 * median over rounds in which the three take turns; each call takes the next of several copies of
 * the weights, so that none is in a cache. OpenBLAS's threads spin for a while after a call, which
 * would slow what comes next: each of its turns ends with a pause.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../kernels/backend.h"

enum { ROUNDS = 7, CALLS_MAX = 16, COPIES_MAX = 32, M_MAX = 512, SIDES = 3 };
enum { ROW_MAJOR = 101, NO_TRANSPOSE = 111, TRANSPOSE = 112 };

typedef void sgemm_32(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a,
                      int lda, const float *b, int ldb, float beta, float *c, int ldc);
typedef void sgemm_64(int order, int ta, int tb, int64_t m, int64_t n, int64_t k, float alpha,
                      const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                      int64_t ldc);

static struct {
    sgemm_32 *narrow;
    sgemm_64 *wide;
    const char *core;
} blas;

struct shape {
    const char *name;
    int K, N;
    enum layout layout;
};

static const struct shape shapes[] = {
    {"qkv", 768, 2304, LAYOUT_kn},      {"proj", 768, 768, LAYOUT_kn},
    {"fc", 768, 3072, LAYOUT_kn},       {"mlp_proj", 3072, 768, LAYOUT_kn},
    {"lm_head", 768, 50257, LAYOUT_nk},
};
static const int rows[] = {1, 2, 4, 8, 16, 32, 128, 512};

struct product {
    const struct shape *shape;
    int M, n_copies;
    float *x, *out;
    float *plain[COPIES_MAX];
    struct weight *packed[COPIES_MAX];
};

static const struct backend *const be = &backend_cpu;
static struct device *devices[2]; /* AVX2, AVX-512 or NULL */

/* Symbols differ by build: the plain library, one with 64-bit integers, one inside a wheel. */
static bool blas_open(const char *path, int threads)
{
    setenv("OPENBLAS_CORETYPE", "Haswell", 0);
    void *library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!library)
        return false;
    void *narrow = dlsym(library, "cblas_sgemm"), *wide = dlsym(library, "scipy_cblas_sgemm64_");
    wide = wide ? wide : dlsym(library, "cblas_sgemm64_");
    narrow = narrow ? narrow : dlsym(library, "scipy_cblas_sgemm");
    memcpy(&blas.narrow, &narrow, sizeof narrow);
    memcpy(&blas.wide, &wide, sizeof wide);
    const char *const ends[][2] = {{"", ""}, {"scipy_", "64_"}, {"", "64_"}, {"scipy_", ""}};
    for (int i = 0; i < 4; i++) {
        char name[64];
        snprintf(name, sizeof name, "%sopenblas_set_num_threads%s", ends[i][0], ends[i][1]);
        void (*set_threads)(int), *symbol = dlsym(library, name);
        memcpy(&set_threads, &symbol, sizeof symbol);
        snprintf(name, sizeof name, "%sopenblas_get_corename%s", ends[i][0], ends[i][1]);
        char *(*corename)(void);
        void *symbol2 = dlsym(library, name);
        memcpy(&corename, &symbol2, sizeof symbol2);
        if (symbol)
            set_threads(threads);
        if (symbol2)
            blas.core = corename();
    }
    return narrow || wide;
}

static void blas_run(const struct product *p, const float *matrix)
{
    const bool turned = p->shape->layout == LAYOUT_nk;
    const int K = p->shape->K, N = p->shape->N, tb = turned ? TRANSPOSE : NO_TRANSPOSE;
    const int ldb = turned ? K : N;
    if (blas.wide)
        blas.wide(ROW_MAJOR, NO_TRANSPOSE, tb, p->M, N, K, 1, p->x, K, matrix, ldb, 0, p->out, N);
    else
        blas.narrow(ROW_MAJOR, NO_TRANSPOSE, tb, p->M, N, K, 1, p->x, K, matrix, ldb, 0, p->out, N);
}

/* Seconds of one call of a side: 0 AVX2, 1 AVX-512, 2 OpenBLAS. */
static double call(const struct product *p, int side, int turn)
{
    const int copy = turn % p->n_copies;
    const double start = seconds_now();
    if (side == 2)
        blas_run(p, p->plain[copy]);
    else
        be->linear(devices[side], p->out, p->x, p->packed[copy], NULL, p->M, EPILOGUE_none, NULL);
    return seconds_now() - start;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median seconds of each side, 0 where there is none. */
static void measure(double median[SIDES], const struct product *p)
{
    static double times[SIDES][ROUNDS * CALLS_MAX];
    const double work = 2.0 * p->M * p->shape->K * p->shape->N;
    const int wanted = (int)(1.5e9 / work), calls = wanted < 2 ? 2 : wanted > CALLS_MAX ? CALLS_MAX : wanted;
    const struct timespec pause = {0, 40000000};
    int turn = 0;
    for (int round = 0; round < ROUNDS; round++)
        for (int side = 0; side < SIDES; side++) {
            const bool absent = side == 2 ? !blas.narrow && !blas.wide : !devices[side];
            if (absent)
                continue;
            call(p, side, turn++); /* wakes its threads */
            for (int i = 0; i < calls; i++)
                times[side][round * calls + i] = call(p, side, turn++);
            if (side == 2)
                nanosleep(&pause, NULL);
        }
    for (int side = 0; side < SIDES; side++) {
        qsort(times[side], (size_t)(ROUNDS * calls), sizeof(double), compare);
        median[side] = times[side][ROUNDS * calls / 2];
    }
}

static void print_line(const struct product *p, const double median[SIDES])
{
    const double work = 2.0 * p->M * p->shape->K * p->shape->N;
    const double bytes = 4.0 * p->shape->K * p->shape->N;
    printf("%-9s %4d", p->shape->name, p->M);
    for (int side = 0; side < SIDES; side++) {
        if (median[side] > 0)
            printf("  %8.3f %6.1f %5.1f", median[side] * 1e3, work / median[side] * 1e-9,
                   bytes / median[side] * 1e-9);
        else
            printf("  %8s %6s %5s", "-", "-", "-");
    }
    for (int side = 0; side < 2 && median[2] > 0 && median[side] > 0; side++)
        printf("  %5.2f", median[2] / median[side]);
    printf("\n");
    fflush(stdout);
}

static float *numbers(size_t count)
{
    float *x = memory_map(count * sizeof *x);
    assert(x);
    for (size_t i = 0; i < count; i++)
        x[i] = (float)(i * 2654435761u >> 8 & 0xffff) / 65536.0f - 0.5f;
    return x;
}

static void bench_shape(const struct shape *s)
{
    struct product p = {.shape = s};
    const size_t count = (size_t)s->K * (size_t)s->N;
    const int wanted = (int)((size_t)(160 << 20) / (count * sizeof(float))) + 1;
    p.n_copies = wanted < COPIES_MAX ? wanted : COPIES_MAX;
    p.x = numbers((size_t)M_MAX * (size_t)s->K);
    p.out = numbers((size_t)M_MAX * (size_t)s->N);
    struct err e = {0};
    for (int i = 0; i < p.n_copies; i++) {
        p.plain[i] = numbers(count);
        struct device *d = devices[0] ? devices[0] : devices[1];
        if (!be->weight_pack(d, &p.packed[i], p.plain[i], s->layout, s->K, s->N, &e))
            assert(!"memory");
    }
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        double median[SIDES] = {0};
        p.M = rows[i];
        measure(median, &p);
        print_line(&p, median);
    }
    for (int i = 0; i < p.n_copies; i++) {
        be->weight_free(devices[0], p.packed[i]);
        memory_unmap(p.plain[i], count * sizeof(float));
    }
    memory_unmap(p.x, (size_t)M_MAX * (size_t)s->K * sizeof(float));
    memory_unmap(p.out, (size_t)M_MAX * (size_t)s->N * sizeof(float));
}

int main(int argc, char **argv)
{
    const char *asked = getenv("THREADS");
    const int threads = asked ? (int)strtol(asked, NULL, 10) : 2;
    const char *const isas[] = {"avx2", "avx512"};
    for (int i = 0; i < 2; i++) {
        struct err e = {0};
        const struct device_options o = {threads, isas[i], "f32", M_MAX, 3072, 64, 12, 0, NULL};
        if (!be->open(&devices[i], &o, &e))
            devices[i] = NULL;
    }
    if (!devices[0] && !devices[1]) {
        fprintf(stderr, "this machine has neither AVX2 nor AVX-512\n");
        return 1;
    }
    if (!blas_open(argc > 1 ? argv[1] : getenv("OPENBLAS"), threads))
        fprintf(stderr, "no OpenBLAS: name its file, build/bench/gemm libopenblas.so.0\n");
    printf("%d threads; OpenBLAS on %s; each side: ms, GFLOP/s, GB/s of weights; then how many times "
           "OpenBLAS's speed we have\n", threads, blas.core ? blas.core : "-");
    printf("%-9s %4s  %21s  %21s  %21s  %5s  %5s\n", "", "M", "AVX2", "AVX-512", "OpenBLAS", "AVX2",
           "512");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        bench_shape(&shapes[i]);
    return 0;
}
