/* What the files of the CUDA backend share. Each .cu compiles three ways: by nvcc for a GPU, by the
 * host's C++ compiler for kernels/emulate, and not at all where neither is wanted.
 *
 * The exact tier: the orders of kernels/backend.h, multiply and add fused only where fmaf is
 * written (-fmad=false), every element's arithmetic from scalar.h. So an order of summation is a
 * matter of which thread adds what: sixteen lanes are half a warp, a chunk of 64 k is one thread's
 * chain.
 *
 * A backend call only queues work on the device's one stream. What fails is kept and told by the
 * next fence. Launches go through LAUNCH and are followed by CHECK_LAUNCH.
 *
 * A kernel launched by LAUNCH_EARLY may start once all blocks of the one before it have come to
 * LET_NEXT_START, to do what depends on nobody, such as to fetch weights. Each of its threads comes
 * to AWAIT_LAST before it touches what an earlier kernel or copy wrote, or writes itself: there all
 * of them have ended. Launched by LAUNCH, or where the GPU cannot, it starts behind them anyway.
 * Kernels that fill all processors come to LET_NEXT_START when they are almost done, or not at all:
 * the next one's blocks take what room there is at that moment, and stay.
 */
#pragma once
#include <math.h>
#include <string.h>
#ifdef __CUDACC__
#include <cuda_pipeline_primitives.h>
#include <cuda_runtime.h>
#else
#include "../emulate/emulate.h"
#endif
/* C headers: what they include for C++ stands above. */
extern "C" {
#include "../backend.h"
#include "../scalar.h"
}

#ifdef __CUDACC__
#define SHARED(type, name, dimensions) __shared__ type name dimensions
#define LAUNCH(kernel, grid, block, shared, stream, ...)                                          \
    cuda_launch(kernel, grid, block, shared, stream, false, __VA_ARGS__)
#define LAUNCH_EARLY(d, kernel, grid, block, shared, ...)                                         \
    cuda_launch(kernel, grid, block, shared, (d)->stream, (d)->starts_early, __VA_ARGS__)
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define LET_NEXT_START() cudaTriggerProgrammaticLaunchCompletion()
#define AWAIT_LAST()     cudaGridDependencySynchronize()
#else
#define LET_NEXT_START()
#define AWAIT_LAST()
#endif
#define ALLOW_SHARED(kernel, size)                                                                \
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, size)
#define COPY_ASYNC(to, from, size) __pipeline_memcpy_async(to, from, size)
#define COPY_COMMIT()              __pipeline_commit()
#define COPY_WAIT(groups_left)     __pipeline_wait_prior(groups_left)
#define DYNAMIC_SHARED(type, name)                                                                \
    extern __shared__ __align__(16) unsigned char cuda_dynamic_shared[];                          \
    type *name = reinterpret_cast<type *>(cuda_dynamic_shared)

template <class... P, class... A>
void cuda_launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                 bool early, A... arguments)
{
    cudaLaunchAttribute attribute;
    cudaLaunchConfig_t c = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    c.attrs = &attribute;
    c.numAttrs = early;
    c.gridDim = grid;
    c.blockDim = block;
    c.dynamicSmemBytes = shared;
    c.stream = stream;
    cudaLaunchKernelEx(&c, kernel, static_cast<P>(arguments)...);
}
#endif

#ifdef __CUDACC__
#define UNROLL_TEXT(text) _Pragma(#text)
#define UNROLL(n)         UNROLL_TEXT(unroll n)
#else
#define UNROLL_TEXT(text) _Pragma(#text)
#define UNROLL(n)         UNROLL_TEXT(GCC unroll n)
#endif

#define CHECK_LAUNCH(d) cuda_note(d, cudaGetLastError(), __func__)

constexpr int CHUNK = 64;  /* the k of one partial product; also the positions of a page */
constexpr int LANES = 16;  /* of a sum: half a warp */
constexpr int BLOCK = 256; /* threads of a block where nothing else decides */
constexpr int STEP_ARRAYS = 6; /* of struct step */
constexpr int GRAPHS_MAX = 128; /* each of a number of sequences, at most 64, and of their longest's
                                   pages: two of these at once */
constexpr int PARCELS_MAX = 4096;          /* on their way at once: all saves of a request */
constexpr size_t SHIPMENT_BYTES = 1 << 20; /* with so many it does not wait for company */
constexpr int SHIPMENTS_MAX = 64; /* at once: more than the ring of GPT-2's 2,048 rows, 50 MB */
constexpr unsigned ALL_LANES = 0xffffffffu;

enum precision { PRECISION_exact, PRECISION_tf32x3, PRECISION_tf32, PRECISION_bf16 };

/* Pinned memory of the host, and as much of the device. */
struct both {
    char *here, *there;
    size_t size, used;
};

/* An array of the host, and where the device has what it needs of it. */
struct told {
    const char *host, *there;
    size_t size; /* on the host */
};

struct sent_step { /* a lane's */
    struct both memory;
    struct told told[STEP_ARRAYS];
    int n_told;
};

/* A tensor, or a piece of one, on its way to the host: where in the ring. */
struct parcel {
    char *to;
    size_t at, size;
};

struct ring_place { /* counted since ever */
    size_t byte;
    int64_t parcel;
};

struct shipment { /* parcels that are copied at once, as far as `end` */
    struct ring_place end;
    cudaEvent_t arrived;
};

struct downloads { /* downloads.cu */
    cudaStream_t stream; /* beside the device's, which computes */
    cudaEvent_t packed;
    struct both ring;
    struct ring_place end, shipped, arrived;
    int64_t n_shipped, n_arrived; /* shipments */
    struct parcel parcels[PARCELS_MAX];
    struct shipment shipments[SHIPMENTS_MAX];
};

/* All that the arguments of a pass's launches depend on, where nobody hooks it. */
struct graph_key {
    const struct cache *cache;
    int lane, n_rows, n_logits, n_logits_spans, n_pages, n_logits_pages;
};

struct graph {
    struct graph_key key;
    cudaGraphExec_t runs; /* or NULL: there is none here */
    int64_t used_at;
};

struct graphs { /* graphs.cu */
    struct graph all[GRAPHS_MAX];
    struct graph *captured; /* by the calls from here to keep, or NULL, and */
    cudaError_t before;     /* the device's error when they began */
    int64_t n_launched;
    bool are_refused;
};

struct device {
    int number; /* of the machine's */
    enum precision precision; /* of linear and linear_panels */
    cudaStream_t stream;
    cudaError_t error;  /* the first that a call met since the last fence, and in which call */
    const char *failed;
    bool is_busy;       /* something was queued since then */
    struct both staging; /* small arrays */
    struct sent_step steps[LANE_COUNT];
    enum lane lane; /* that began last */
    struct downloads downloads;
    struct graphs graphs;
    uint32_t *faulty; /* of a gather: its first element with an index outside; UINT32_MAX: none,
                         and so between calls */
    int rows_max, context_max; /* the latter rounded up to whole pages */
    int processors;  /* of the device, each with its own blocks */
    int shared_max;  /* bytes that a block may have */
    bool starts_early; /* see LAUNCH_EARLY */
    float *prepared;   /* fast.cu: the rows of a product */
    char text[300];
};

struct weight {
    int K, N, stride; /* of rows: 16-byte aligned */
    float *data;      /* [K rounded up to chunks][stride], or NULL and: behind the last k stands
                         -0, which times the zeros of an x adds nothing, not even to a -0 */
    uint32_t *words;  /* see fragment.h, */
    int each;         /* of so many k each */
};

/* Keeps the first error for the next fence. */
void cuda_note(struct device *d, cudaError_t error, const char *where);

/* Where the device has a small array of the host, or the table that it makes of spans and of others
 * before them: told of by the pass, else sent now and good for what is queued before the next
 * fence. */
const void *cuda_stage(struct device *d, const void *from, size_t size);
const void *cuda_stage_spans(int *n_rows_before, struct device *d, const struct span *spans,
                             int n_spans);
cudaError_t cuda_both_open(struct both *b, size_t size);
void cuda_both_close(struct both *b);
cudaError_t cuda_steps_reserve(struct device *d, int n_pages); /* of a cache */
cudaError_t cuda_downloads_open(struct downloads *r, const struct device_options *o);
void cuda_downloads_close(struct downloads *r);

/* What kernels read of spans: first a row for each of theirs, in order. */
size_t cuda_spans_size(const struct device *d, const struct span *spans, int n_spans);
void cuda_spans_write(const struct device *d, char *to, const struct span *spans, int n_spans);
/* Pages of the longest: all that launches depend on beside the numbers of rows and spans. */
int cuda_spans_pages(const struct span *spans, int n_spans);

void cuda_graphs_drop(struct device *d); /* whose arguments are no longer true */
bool cuda_repeat(struct device *d, const struct step *s, const struct cache *c);
bool cuda_keep(struct device *d);

/* How to find element `i`, in row-major order, of up to four tensors of one shape. */
struct walk {
    int rank;
    uint32_t count; /* of elements: VALUE_BYTES_MAX allows less than 2^32 */
    uint32_t shape[RANK_MAX];
    int64_t stride[4][RANK_MAX]; /* in elements */
};

/* Of the tensors' first `n_dims` dimensions. Those of one element are dropped, and those that all
 * tensors step through evenly are joined. */
struct walk walk_of(const struct tensor *const *tensors, int n_tensors, int n_dims);

template <int N>
__device__ __forceinline__ void walk_places(int64_t (&at)[N], const struct walk &w, uint32_t i)
{
    for (int t = 0; t < N; t++)
        at[t] = 0;
    for (int j = w.rank - 1; j >= 0; j--) {
        const uint32_t index = i % w.shape[j];
        i /= w.shape[j];
        for (int t = 0; t < N; t++)
            at[t] += index * w.stride[t][j];
    }
}

/* The tensor's first element. */
template <class T> T *cuda_data(const struct tensor *t)
{
    return static_cast<T *>(t->data) + t->view.offset;
}

__device__ __forceinline__ float plus(float x, float y)
{
    return x + y;
}

__device__ __forceinline__ int64_t plus(int64_t x, int64_t y)
{
    return wrap_add(x, y);
}

/* Lane l's number becomes the sum of the sixteen in the canonical tree: right in lane 0. */
__device__ __forceinline__ float lanes_sum(float lane)
{
    for (int by = LANES / 2; by > 0; by /= 2)
        lane = lane + __shfl_down_sync(ALL_LANES, lane, by, LANES);
    return lane;
}

__device__ __forceinline__ float lane_zero(float x)
{
    return __shfl_sync(ALL_LANES, x, 0, LANES);
}

/* Element (.., n) of a product, at `at` of the residual, by its epilogue. */
template <enum epilogue E>
__device__ __forceinline__ float finish(float y, const float *bias, const float *residual, int n,
                                        size_t at)
{
    if (bias)
        y += bias[n];
    return E == EPILOGUE_gelu ? scalar_gelu_new(y) : E == EPILOGUE_residual ? residual[at] + y : y;
}

static inline unsigned blocks_for(int64_t count, int per_block)
{
    return (unsigned)((count + per_block - 1) / per_block);
}

void cuda_begin(struct device *d, enum lane lane, const struct step *s);
void cuda_upload(struct device *d, void *to, const void *from, size_t size);
void cuda_download(struct device *d, void *to, const struct tensor *from);
int64_t cuda_mark(struct device *d);
bool cuda_reached(struct device *d, int64_t mark);
bool cuda_fence(struct device *d, struct err *e);
void cuda_copy(struct device *d, const struct tensor *out, const struct tensor *x);
void cuda_pack(struct device *d, void *out, const struct tensor *x, int64_t first, int64_t count);
void cuda_unary(struct device *d, enum op op, const struct tensor *out, const struct tensor *x);
void cuda_binary(struct device *d, enum op op, const struct tensor *out, const struct tensor *x,
                 const struct tensor *y);
void cuda_where(struct device *d, const struct tensor *out, const struct tensor *mask,
                const struct tensor *x, const struct tensor *y);
void cuda_reduce(struct device *d, enum op op, const struct tensor *out, const struct tensor *x,
                 int n_reduced, const struct part *part);
void cuda_softmax(struct device *d, enum op op, const struct tensor *out, const struct tensor *x,
                  const struct part *part);
void cuda_scan(struct device *d, enum op op, const struct tensor *out, const struct tensor *x,
               const struct part *part);
void cuda_topk(struct device *d, const struct tensor *out, const struct tensor *x, bool largest);
void cuda_gather(struct device *d, const struct tensor *out, const struct tensor *x,
                 const struct tensor *index, int64_t *fault, int64_t tag);
void cuda_scatter(struct device *d, enum op op, const struct tensor *out,
                  const struct tensor *index, const struct tensor *x, int64_t *fault,
                  int64_t tag);
void cuda_matmul(struct device *d, const struct tensor *out, const struct tensor *x,
                 const struct tensor *y);

bool cuda_weight_pack(struct device *d, struct weight **w, const float *matrix, enum layout l,
                      int K, int N, struct err *e);
void cuda_weight_free(struct device *d, struct weight *w);
void cuda_weight_read(struct device *d, const struct tensor *out, const struct weight *w,
                      const struct view *view);
void cuda_weight_gather(struct device *d, const struct tensor *out, const struct weight *w,
                        const struct view *view, const struct tensor *index, int64_t *fault,
                        int64_t tag);
/* Allow these kernels the shared memory that they may ask for. */
cudaError_t cuda_linear_open(const struct device *d);
cudaError_t cuda_fast_open(struct device *d, const struct device_options *o);
void cuda_fast_close(struct device *d);
cudaError_t cuda_attend_open(const struct device *d);
void cuda_linear(struct device *d, float *out, const float *x, const struct weight *w,
                 const float *bias, int n_rows, enum epilogue epilogue, const float *residual);
void cuda_linear_panels(struct device *d, float *out, const float *x, const struct weight *w,
                        const int32_t *panels, int n_panels, int n_rows);
/* Both in another precision than the exact one: with `panels` (on the device) only their n_out
 * columns, without the weight's N. */
void cuda_linear_fast(struct device *d, float *out, const float *x, const struct weight *w,
                      const float *bias, int n_rows, enum epilogue epilogue, const float *residual,
                      const int32_t *panels, int n_out);
void cuda_embed(struct device *d, float *out, const float *table, const int32_t *ids, int n_rows,
                int width);
void cuda_add(struct device *d, float *out, const float *x, const float *y, int64_t count);
void cuda_layernorm(struct device *d, float *out, const float *x, const float *weight,
                    const float *bias, int n_rows, int width, float epsilon);
void cuda_layernorm_scale(struct device *d, float *scale, const float *x, int n_rows, int width,
                          float epsilon);
void cuda_layernorm_normalize(struct device *d, float *out, const float *x, const float *scale,
                              int n_rows, int width);
void cuda_layernorm_gain(struct device *d, float *out, const float *x, const float *weight,
                         const float *bias, int n_rows, int width);
void cuda_gelu(struct device *d, float *out, const float *x, int64_t count);
void cuda_rows_gather(struct device *d, float *out, const float *x, const int32_t *rows, int n_rows,
                      int width);

bool cuda_cache_open(struct device *d, struct cache **c, int n_pages, int n_blocks, int n_heads,
                     int head_dim, struct err *e);
void cuda_cache_close(struct device *d, struct cache *c);
void cuda_cache_append(struct device *d, struct cache *c, int block, const float *qkv,
                       const struct span *spans, int n_spans);
void cuda_attend(struct device *d, float *z, struct cache *c, int block, const float *qkv,
                 const struct span *spans, int n_spans);
void cuda_cache_read(struct device *d, const struct tensor *out, struct cache *c, int block,
                     int which, const int32_t *pages, int n_positions);
