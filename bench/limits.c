/* What this machine can do at most, for the benchmarks to stand beside: `limits THREADS` prints
 * gigabytes a second read from memory and fused multiply-adds from registers, in GFLOP/s, by the
 * widest instruction set and, held to it, by AVX2. The best of several tries: a limit.
 */
#include "../protocol/base.h"
#include <immintrin.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { THREADS_MAX = 64, TRIES = 7, CHAINS = 12 };

static const size_t read_bytes = (size_t)256 << 20; /* of each thread: more than any cache */
static const int64_t rounds = 20 * 1000 * 1000;

struct work {
    double (*run)(struct work *); /* returns what was done */
    float *memory;
    double done;
    float sink;
};

/* Chains that are independent and not in an array, or gcc would spill them. Each says that it may
 * have changed in between, or the compiler would see twelve times the same numbers and keep one. */
#define FMA_LOOP(type, set1, fma, lanes)                                                          \
    type a = set1(0.9999f), b = set1(1e-6f);                                                       \
    type c0 = a, c1 = a, c2 = a, c3 = a, c4 = a, c5 = a, c6 = a, c7 = a, c8 = a, c9 = a, d0 = a,   \
         d1 = a;                                                                                   \
    for (int64_t i = 0; i < rounds; i++) {                                                         \
        c0 = fma(c0, a, b), c1 = fma(c1, a, b), c2 = fma(c2, a, b), c3 = fma(c3, a, b);            \
        c4 = fma(c4, a, b), c5 = fma(c5, a, b), c6 = fma(c6, a, b), c7 = fma(c7, a, b);            \
        c8 = fma(c8, a, b), c9 = fma(c9, a, b), d0 = fma(d0, a, b), d1 = fma(d1, a, b);            \
        __asm__ volatile("" : "+v"(c0), "+v"(c1), "+v"(c2), "+v"(c3), "+v"(c4), "+v"(c5));         \
        __asm__ volatile("" : "+v"(c6), "+v"(c7), "+v"(c8), "+v"(c9), "+v"(d0), "+v"(d1));         \
    }                                                                                              \
    float out[lanes];                                                                              \
    type sum = fma(c0, c1, fma(c2, c3, fma(c4, c5, fma(c6, c7, fma(c8, c9, fma(d0, d1, b))))));    \
    __builtin_memcpy(out, &sum, sizeof out);                                                       \
    w->sink = out[0];                                                                              \
    return 2.0 * lanes * CHAINS * (double)rounds

__attribute__((target("avx2,fma"))) static double run_avx2(struct work *w)
{
    FMA_LOOP(__m256, _mm256_set1_ps, _mm256_fmadd_ps, 8);
}

__attribute__((target("avx512f"))) static double run_avx512(struct work *w)
{
    FMA_LOOP(__m512, _mm512_set1_ps, _mm512_fmadd_ps, 16);
}

/* Four streams and prefetches well ahead: what a product's panels get too. */
__attribute__((target("avx2"))) static double run_read(struct work *w)
{
    enum { AHEAD = 512, QUARTERS = 4 };
    const size_t quarter = read_bytes / sizeof(float) / QUARTERS;
    __m256 s0 = _mm256_setzero_ps(), s1 = s0, s2 = s0, s3 = s0;
    for (size_t i = 0; i < quarter; i += 16) {
        const float *at = w->memory + i;
        for (int q = 0; q < QUARTERS; q++)
            _mm_prefetch((const char *)(at + (size_t)q * quarter + AHEAD), _MM_HINT_T0);
        s0 = _mm256_add_ps(_mm256_add_ps(s0, _mm256_load_ps(at)), _mm256_load_ps(at + 8));
        at += quarter;
        s1 = _mm256_add_ps(_mm256_add_ps(s1, _mm256_load_ps(at)), _mm256_load_ps(at + 8));
        at += quarter;
        s2 = _mm256_add_ps(_mm256_add_ps(s2, _mm256_load_ps(at)), _mm256_load_ps(at + 8));
        at += quarter;
        s3 = _mm256_add_ps(_mm256_add_ps(s3, _mm256_load_ps(at)), _mm256_load_ps(at + 8));
    }
    float out[8];
    _mm256_storeu_ps(out, _mm256_add_ps(_mm256_add_ps(s0, s1), _mm256_add_ps(s2, s3)));
    w->sink = out[0];
    return (double)read_bytes;
}

static void *thread_main(void *argument)
{
    struct work *w = argument;
    w->done = w->run(w);
    return NULL;
}

/* Units a second, all threads together, in billions. */
static double measure(double (*run)(struct work *), struct work *work, int n_threads)
{
    double best = 0.0;
    for (int try = 0; try < TRIES; try++) {
        pthread_t threads[THREADS_MAX];
        double done = 0.0;
        const double start = seconds_now();
        for (int i = 0; i < n_threads; i++) {
            work[i].run = run;
            if (pthread_create(&threads[i], NULL, thread_main, &work[i]) != 0)
                abort();
        }
        for (int i = 0; i < n_threads; i++) {
            pthread_join(threads[i], NULL);
            done += work[i].done;
        }
        const double rate = done / (seconds_now() - start) * 1e-9;
        best = rate > best ? rate : best;
    }
    return best;
}

int main(int argc, char **argv)
{
    const int n_threads = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 2;
    struct work work[THREADS_MAX] = {{0}};
    if (n_threads < 1 || n_threads > THREADS_MAX || !__builtin_cpu_supports("avx2")) {
        fprintf(stderr, "usage: limits THREADS (1 to %d), on a machine with AVX2\n", THREADS_MAX);
        return 2;
    }
    for (int i = 0; i < n_threads; i++) {
        work[i].memory = memory_map(read_bytes);
        if (!work[i].memory)
            return 1;
        for (size_t k = 0; k < read_bytes / sizeof(float); k++)
            work[i].memory[k] = 1.0f;
    }
    printf("read_gb %.1f\n", measure(run_read, work, n_threads));
    printf("avx2_gflop %.0f\n", measure(run_avx2, work, n_threads));
    if (__builtin_cpu_supports("avx512f"))
        printf("avx512_gflop %.0f\n", measure(run_avx512, work, n_threads));
    return 0;
}
