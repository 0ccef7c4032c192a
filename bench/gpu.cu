/* Times of the CUDA backend without HTTP, for bench/gpu.py to put into a table:
 *
 *   gpu PRECISION [tiny]      exact (the machine and its limits too), tf32x3, tf32 or bf16
 *   gpu cublas [tiny]         its products, where its library is found
 *   gpu profile decode exact 1          for a profiler: one pass alone, behind others
 *
 * Lines, each as soon as it is known:
 *
 *   device TEXT
 *   limit read_gb N           read from memory, GB/s
 *   limit fma_gflop N         multiply-adds from registers, GFLOP/s
 *   limit link_gb N           from the device to pinned memory, GB/s
 *   limit launch_us N         a small kernel behind others, and the same in a graph
 *   limit graph_us N
 *   decode PRECISION N MS     a step of N sequences
 *   prefill PRECISION N MS    a prompt of N tokens with all logits
 *   saves PRECISION N MS      the same with every block's output on the host
 *   PRECISION NAME M MS       a product of M rows
 *   cublas NAME M MS          the same, in fp32
 *   cublas_tf32 NAME M MS     and in TF32
 *
 * The model is made (tests/made_model.h) with GPT-2 small's sizes; `tiny` is for a dry run on the
 * emulated device. Medians. What goes wrong ends the program with a line that says what.
 */
#include "../kernels/cuda/device.h"

#include <dlfcn.h>
#include <initializer_list>
#include <stdio.h>
#include <stdlib.h>

extern "C" {
#include "../kernels/gpt2.h"
#include "../tests/made_model.h"
}

#ifdef __CUDACC__
#include <cuda_profiler_api.h>
#define PROFILE(what) cudaProfiler##what()
#else
#define PROFILE(what)
#endif

enum { ROUNDS_MAX = 9, ROWS = 1024, PAGES_EACH = 16, PAST = 20, CHAINS = 8, NOT_TURNED = 0 };

static const struct backend *const be = &backend_cuda;
static struct device *device;
static struct err error;
static int n_rounds = ROUNDS_MAX, n_before = 2;

static void must(bool went_well)
{
    if (went_well)
        return;
    fprintf(stderr, "%s\n", error.text);
    exit(1);
}

static int compare(const void *a, const void *b)
{
    const double x = *static_cast<const double *>(a), y = *static_cast<const double *>(b);
    return (x > y) - (x < y);
}

/* Median seconds of `run`, of which `calls` are queued before one fence. */
template <class F> static double time_of(int calls, F run)
{
    double seconds[ROUNDS_MAX];
    for (int i = -n_before; i < n_rounds; i++) {
        const double start = seconds_now();
        for (int c = 0; c < calls; c++)
            run();
        must(be->fence(device, &error));
        if (i >= 0)
            seconds[i] = (seconds_now() - start) / calls;
    }
    qsort(seconds, (size_t)n_rounds, sizeof *seconds, compare);
    return seconds[n_rounds / 2];
}

/* The same of each of `calls` different calls, without what the host takes to queue them. */
template <class F> static double time_queued(int calls, F run)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t runs = NULL;
    cuda_note(device, cudaStreamBeginCapture(device->stream, cudaStreamCaptureModeThreadLocal),
              __func__);
    for (int c = 0; c < calls; c++)
        run(c);
    cuda_note(device, cudaStreamEndCapture(device->stream, &graph), __func__);
    cuda_note(device, cudaGraphInstantiateWithFlags(&runs, graph, 0), __func__);
    const double seconds = time_of(1, [&] {
        cuda_note(device, cudaGraphLaunch(runs, device->stream), __func__);
    });
    cudaGraphExecDestroy(runs);
    cudaGraphDestroy(graph);
    return seconds / calls;
}

static float *floats(size_t count)
{
    void *p;
    must(be->alloc(device, &p, sizeof(float) * count, &error));
    return static_cast<float *>(p);
}

/* Limits. */

__global__ void read_kernel(float *out, const float4 *x, int64_t count)
{
    float sum = 0;
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < count; i += step) {
        const float4 four = x[i];
        sum += (four.x + four.y) + (four.z + four.w);
    }
    out[blockIdx.x * BLOCK + threadIdx.x] = sum;
}

__global__ void fma_kernel(float *out, int rounds)
{
    float chain[CHAINS];
    for (int c = 0; c < CHAINS; c++)
        chain[c] = (float)(threadIdx.x + (unsigned)c);
    UNROLL(16)
    for (int i = 0; i < rounds; i++)
        UNROLL(8)
        for (int c = 0; c < CHAINS; c++)
            chain[c] = fmaf(chain[c], 0.9999f, 1e-6f);
    float sum = 0;
    for (int c = 0; c < CHAINS; c++)
        sum += chain[c];
    out[blockIdx.x * BLOCK + threadIdx.x] = sum;
}

static void say_limits(bool tiny)
{
    const unsigned grid = tiny ? 2 : 4096;
    const int64_t count = tiny ? 4096 : (int64_t)1 << 28; /* floats: larger than any cache */
    const int steps = tiny ? 4 : 4096;
    float *out = floats((size_t)grid * BLOCK), *x = floats((size_t)count);
    const double read = time_of(tiny ? 1 : 4, [&] {
        LAUNCH(read_kernel, grid, BLOCK, 0, device->stream, out,
               reinterpret_cast<const float4 *>(x), count / 4);
        CHECK_LAUNCH(device);
    });
    const double fma = time_of(tiny ? 1 : 4, [&] {
        LAUNCH(fma_kernel, grid, BLOCK, 0, device->stream, out, steps);
        CHECK_LAUNCH(device);
    });
    printf("limit read_gb %.3f\n", 4e-9 * (double)count / read);
    printf("limit fma_gflop %.3f\n", 2e-9 * (double)CHAINS * grid * BLOCK * (double)steps / fma);
    be->release(device, x, 0);
    be->release(device, out, 0);
}

static void say_link(bool tiny)
{
    struct both b;
    const size_t size = tiny ? 4096 : (size_t)64 << 20;
    if (cuda_both_open(&b, size) != cudaSuccess)
        return;
    const double down = time_of(tiny ? 1 : 4, [&] {
        cuda_note(device, cudaMemcpyAsync(b.here, b.there, size, cudaMemcpyDeviceToHost,
                                          device->stream), "say_link");
    });
    printf("limit link_gb %.3f\n", 1e-9 * (double)size / down);
    cuda_both_close(&b);
}

static void say_launches(bool tiny)
{
    const int count = tiny ? 2 : 200;
    float *const x = floats(64);
    const auto add = [&](int) { be->add(device, x, x, x, 64); };
    printf("limit launch_us %.3f\n", 1e6 * time_of(count, [&] { add(0); }));
    printf("limit graph_us %.3f\n", 1e6 * time_queued(count, add));
    be->release(device, x, 0);
}

/* cuBLAS, whose library is looked for at run time. */
static struct {
    void *handle;
    int (*create)(void **handle);
    int (*set_stream)(void *handle, cudaStream_t stream);
    int (*set_math)(void *handle, int mode);
    int (*gemm)(void *handle, int ta, int tb, int m, int n, int k, const float *alpha,
                const float *a, int lda, const float *b, int ldb, const float *beta, float *c,
                int ldc);
} blas;
enum { MATH_DEFAULT = 0, MATH_TF32 = 3 };

template <class F> static void find(F &to, void *library, const char *name)
{
    to = reinterpret_cast<F>(dlsym(library, name));
}

static void blas_open(void)
{
    static const char *const names[] = {"libcublas.so", "libcublas.so.13", "libcublas.so.12"};
    void *library = NULL;
    for (const char *name : names)
        library = library ? library : dlopen(name, RTLD_NOW);
    if (!library) {
        fprintf(stderr, "libcublas.so, .13 or .12 is not found\n");
        exit(1);
    }
    find(blas.create, library, "cublasCreate_v2");
    find(blas.set_stream, library, "cublasSetStream_v2");
    find(blas.set_math, library, "cublasSetMathMode");
    find(blas.gemm, library, "cublasSgemm_v2");
    if (!blas.create || !blas.set_stream || !blas.set_math || !blas.gemm
        || blas.create(&blas.handle) != 0 || blas.set_stream(blas.handle, device->stream) != 0) {
        fprintf(stderr, "cuBLAS does not start\n");
        exit(1);
    }
}

struct product {
    const char *name;
    int K, columns, copies;
};

/* A product's weights are others each time, as in a pass: together they are larger than any cache. */
enum { COPIES = 48 };

struct operands {
    float *out, *x, *plain[COPIES];
    struct weight *packed[COPIES];
};

static void say_our_time(const char *precision, const struct product *p, int M,
                         const struct operands *o)
{
    const double time = time_queued(COPIES, [&](int c) {
        be->linear(device, o->out, o->x, o->packed[c % p->copies], NULL, M, EPILOGUE_none, NULL);
    });
    printf("%s %s %d %.5f\n", precision, p->name, M, 1e3 * time);
}

/* Row-major x (M, K) @ w (K, columns) is column-major w^T x^T. */
static void say_blas_time(const char *name, int mode, const struct product *p, int M,
                          const struct operands *o)
{
    const float one = 1, zero = 0;
    int status = blas.set_math(blas.handle, mode);
    const double time = time_queued(COPIES, [&](int c) {
        status |= blas.gemm(blas.handle, NOT_TURNED, NOT_TURNED, p->columns, M, p->K, &one,
                            o->plain[c % p->copies], p->columns, o->x, p->K, &zero, o->out, p->columns);
    });
    if (status != 0)
        fprintf(stderr, "%s refuses %s of %d rows: %d\n", name, p->name, M, status);
    else
        printf("%s %s %d %.5f\n", name, p->name, M, 1e3 * time);
}

static float *noise(size_t count)
{
    float *x = static_cast<float *>(malloc(sizeof *x * count));
    uint32_t state = 1;
    for (size_t i = 0; x && i < count; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)(int32_t)state * 0x1p-31f;
    }
    return x;
}

/* Ours, or cuBLAS's where that was opened. */
static void say_product(const char *precision, const struct product *p, int rows_max)
{
    const size_t size = (size_t)p->K * (size_t)p->columns;
    float *const matrix = noise(size);
    struct operands o = {floats((size_t)rows_max * (size_t)p->columns),
                         floats((size_t)rows_max * (size_t)p->K), {}, {}};
    be->upload(device, o.x, matrix, sizeof *matrix * (size_t)rows_max * (size_t)p->K);
    for (int c = 0; c < p->copies; c++) {
        if (!blas.handle) {
            must(be->weight_pack(device, &o.packed[c], matrix, LAYOUT_kn, p->K, p->columns, &error));
            continue;
        }
        o.plain[c] = floats(size);
        be->upload(device, o.plain[c], matrix, sizeof *matrix * size);
    }
    for (int M : {1, 8, 64, 512}) {
        if (M > rows_max)
            continue;
        if (!blas.handle) {
            say_our_time(precision, p, M, &o);
            continue;
        }
        say_blas_time("cublas", MATH_DEFAULT, p, M, &o);
        say_blas_time("cublas_tf32", MATH_TF32, p, M, &o);
    }
    for (int c = 0; c < p->copies; c++) {
        be->weight_free(device, o.packed[c]);
        be->release(device, o.plain[c], 0);
    }
    be->release(device, o.out, 0);
    be->release(device, o.x, 0);
    free(matrix);
}

/* Passes. */

static void no_hook(void *context, enum point p, int block, const struct tensor *x)
{
    (void)context, (void)p, (void)block, (void)x;
}

static void save(void *context, enum point p, int block, const struct tensor *x)
{
    (void)p;
    const size_t size = sizeof(float) * (size_t)view_count(&x->view);
    be->download(device, static_cast<char *>(context) + (size_t)block * size, x);
}

static struct rows {
    int32_t tokens[ROWS], positions[ROWS], wanted[ROWS], pages[ROWS][PAGES_EACH];
    struct span spans[ROWS];
    int last_sites[ROWS];
    uint64_t none[64], blocks[64]; /* sites: every block's output */
} rows;

/* A pass of `n` rows in so many equal sequences, all with logits, behind `past` positions. */
static struct pass pass_of(const struct gpt2 *m, int n, int n_sequences, int past)
{
    const int each = n / n_sequences;
    for (int i = 0; i < n; i++) {
        rows.tokens[i] = i % m->shape.vocab;
        rows.positions[i] = past + i % each;
        rows.wanted[i] = i;
    }
    for (int i = 0; i < n_sequences; i++) {
        rows.spans[i] = {i * each, each, past, rows.pages[i]};
        rows.last_sites[i] = n_sites(m->shape.n_blocks) - 1;
        for (int p = 0; p < PAGES_EACH; p++)
            rows.pages[i][p] = (n_sequences > 1 ? i : p) % m->n_pages;
    }
    struct pass p = {};
    p.n_rows = n, p.n_spans = n_sequences, p.n_logits = n;
    p.tokens = rows.tokens, p.positions = rows.positions, p.spans = rows.spans;
    p.last_sites = rows.last_sites, p.logits_rows = rows.wanted;
    p.wanted = rows.none, p.written = rows.none, p.hook = no_hook;
    return p;
}

/* A profiler that waits to be told sees one more. */
static double time_of_pass(struct gpt2 *m, const struct pass &p)
{
    const auto run = [&] { must(gpt2_run(m, &p, &error)); };
    const double seconds = time_of(1, run);
    PROFILE(Start);
    run();
    PROFILE(Stop);
    return seconds;
}

static double prefill_time(struct gpt2 *m, int n)
{
    return time_of_pass(m, pass_of(m, n, 1, 0));
}

static double saves_time(struct gpt2 *m, int n)
{
    const int n_blocks = m->shape.n_blocks;
    const size_t size = sizeof(float) * (size_t)(n * n_blocks * m->shape.width);
    struct pass p = pass_of(m, n, 1, 0);
    for (int block = 0; block < n_blocks; block++) {
        const int site = site_of(PT_block_out, block, n_blocks);
        rows.blocks[site / 64] |= UINT64_C(1) << site % 64;
    }
    p.wanted = rows.blocks, p.hook = save, p.context = malloc(size);
    const double time = time_of_pass(m, p);
    free(p.context);
    return time;
}

/* Behind the first PAST positions, which must be there. */
static double decode_time(struct gpt2 *m, int n)
{
    for (int past = 0; past < PAST; past++) {
        const struct pass p = pass_of(m, n, n, past);
        must(gpt2_run(m, &p, &error));
    }
    return time_of_pass(m, pass_of(m, n, n, PAST));
}

/* A kind of pass, a precision and a number; for a profiler the only ones of interest. */
struct asked {
    const char *kind, *precision;
    int n;
};

static bool is_asked(const struct asked *a, const char *kind, const char *precision, int n)
{
    return !a->kind || (strcmp(a->kind, kind) == 0 && strcmp(a->precision, precision) == 0
                        && a->n == n);
}

static void say_passes(const char *precision, const struct model_shape *shape, int rows_max,
                       const struct asked *asked)
{
    static const struct {
        const char *kind;
        double (*time)(struct gpt2 *m, int n);
        int counts[4];
    } all[] = {{"decode", decode_time, {1, 8, 32, 128}},
               {"prefill", prefill_time, {16, 128, 512, 1024}},
               {"saves", saves_time, {16, 512}}};
    char text[MADE_TEXT_SIZE];
    struct gpt2 *m;
    struct gpt2_options o = {};
    o.rows_max = rows_max;
    o.cache_tokens = 256 * 64;
    must(gpt2_load(&m, be, device, made_model(text, shape, 1), &o, &error));
    for (const auto &row : all)
        for (int n : row.counts)
            if (n > 0 && n <= o.rows_max && is_asked(asked, row.kind, precision, n))
                printf("%s %s %d %.5f\n", row.kind, precision, n, 1e3 * row.time(m, n));
    gpt2_free(m);
}

static void say_products(const char *precision, const struct model_shape *shape, bool tiny)
{
    const int D = shape->width, F = shape->inner;
    const struct product products[] = {{"qkv", D, 3 * D, 16}, {"proj", D, D, COPIES},
                                       {"fc", D, F, 16}, {"mlp_proj", F, D, 16},
                                       {"lm_head", D, shape->vocab, 1}};
    for (const struct product &p : products)
        say_product(precision, &p, tiny ? 8 : 512);
}

static void say_machine(bool tiny)
{
    printf("device %s\n", be->describe(device));
    say_limits(tiny);
    say_link(tiny);
    say_launches(tiny);
}

/* What is worth most comes first, should there be no second. */
static void say_all(const char *what, const struct asked *asked, bool tiny)
{
    const struct model_shape small = {12, 12, 768, 3072, 50257, 1024, 1e-5f, 0, {}};
    const struct model_shape shape = tiny ? model_shape{2, 4, 64, 256, 101, 200, 1e-5f, 0, {}}
                                          : small;
    const bool is_blas = strcmp(what, "cublas") == 0;
    struct device_options o = {};
    o.rows_max = ROWS, o.width_max = shape.inner, o.context_max = shape.context;
    o.heads_max = shape.n_heads, o.precision = is_blas ? "exact" : what;
    must(be->open(&device, &o, &error));
    if (is_blas)
        blas_open();
    else if (!asked->kind && strcmp(what, "exact") == 0)
        say_machine(tiny);
    if (!is_blas)
        say_passes(what, &shape, tiny ? 32 : ROWS, asked);
    if (!asked->kind)
        say_products(what, &shape, tiny);
    be->close(device);
}

int main(int n_arguments, char **arguments)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (n_arguments == 5 && strcmp(arguments[1], "profile") == 0) {
        const struct asked one = {arguments[2], arguments[3], atoi(arguments[4])};
        say_all(one.precision, &one, false);
        return 0;
    }
    if (n_arguments < 2) {
        fprintf(stderr, "gpu exact|tf32x3|tf32|bf16|cublas [tiny]\n");
        return 2;
    }
    const struct asked all = {};
    const bool tiny = n_arguments > 2 && strcmp(arguments[2], "tiny") == 0;
    if (tiny)
        n_rounds = 1, n_before = 0;
    say_all(arguments[1], &all, tiny);
    return 0;
}
