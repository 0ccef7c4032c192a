/* CUDA C++ on a machine without a GPU, for tests: the same .cu files, compiled by the host's C++
 * compiler, run here block by block, and every step that the language leaves open is taken by
 * chance. What it is for is not speed but saying which thread of which kernel did what wrong.
 *
 * Each thread of a block is a fiber. It runs until it waits (barrier, warp operation, end), then
 * another is taken by chance; so are blocks, and the heads of streams. emulate_seed chooses.
 *
 * Kernels are compiled with -fsanitize=thread, whose calls before each load and store are answered
 * by memory.cpp instead of the sanitizer's library. It knows for every word of shared and device
 * memory whether it was ever written, by whom last and since which barrier. A run ends at the
 * first of these, with the kernel, block and thread:
 *   memory   a byte outside its allocation or after its end; memory of the host; a word never
 *            written; two threads at one word, one writing, and no barrier, __syncwarp or
 *            end of kernel between (of other blocks also); a copy_async not yet waited for
 *   threads  __syncthreads at two places at once or missed by a thread that ended; a warp
 *            operation without all lanes of its mask, by a lane not in it, or that reads a lane
 *            outside it; a grid's barrier in a kernel launched without one; a deadlock; of a kernel
 *            that was launched early, memory touched before AWAIT_LAST, or no AWAIT_LAST
 *   host     a launch not checked, or of an impossible size (the launch's own error); memory
 *            freed twice; a copy outside its allocation; the default stream; a thread that has not
 *            chosen its device, where a machine of several has another one for it
 * Under the address sanitizer kernels may be compiled with it instead: then it checks the memory,
 * and what only the tracing sees is not seen.
 *
 * Not emulated: time, caches and weak memory (__threadfence does nothing), more than one device,
 * registers. Stricter than the hardware: a mask may not name a lane that has ended. Laxer: a race
 * is seen only with the last write of a word of four bytes and with its last reads; lanes that met
 * others at a partial mask count as having met each other.
 * Float arithmetic is the host's: equal where IEEE 754 fixes it, built with -ffp-contract=off.
 */
#pragma once
#include <math.h>
#include <new>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <tuple>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
static inline float4 make_float4(float x, float y, float z, float w)
{
    return {x, y, z, w};
}

/* For tests: how chance goes on, and what the backend must leave behind. */
void emulate_seed(uint64_t seed);
int emulate_live_allocations(void);

/* The runtime's calls, as far as they are used: their meaning is CUDA's. Work given to a stream
 * runs only when somebody waits, in a random order that streams and events allow. Host memory of
 * cudaMallocHost is read and written when the copy runs, other host memory at once. */
enum cudaError_t {
    cudaSuccess,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorNotReady = 600,
};
enum cudaMemcpyKind {
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2 };
typedef struct emulate_stream *cudaStream_t;
typedef struct emulate_event *cudaEvent_t;
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
typedef struct emulate_graph *cudaGraph_t;
typedef struct emulate_graph *cudaGraphExec_t;

struct cudaDeviceProp {
    char name[256];
    int multiProcessorCount, major;
    size_t sharedMemPerBlockOptin;
};

cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetLastError(void);
const char *cudaGetErrorString(cudaError_t error);
cudaError_t cudaMalloc(void **p, size_t size);
cudaError_t cudaFree(void *p);
cudaError_t cudaMallocHost(void **p, size_t size);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags = 0);
cudaError_t cudaDeviceSynchronize(void);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaEventQuery(cudaEvent_t e);
cudaError_t cudaEventSynchronize(cudaEvent_t e);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, cudaMemcpyKind kind,
                            cudaStream_t s);
cudaError_t cudaMemsetAsync(void *p, int value, size_t size, cudaStream_t s);
cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph);
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *runs, cudaGraph_t graph,
                                          unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t runs, cudaStream_t s);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t runs);

namespace emulate {
/* Where a call stands in the source, for reports: filled in by the compiler. */
struct place {
    const char *file;
    int line;
};

/* A launch waits in its stream with its arguments, as a device's launch does. */
struct launch {
    const char *name;
    dim3 grid, block;
    size_t shared;
    bool cooperative;
    bool early; /* its threads await what came before */
    size_t shared_max; /* with what the kernel declares; launch_admit knows it */
    void (*call)(const void *arguments); /* runs one thread */
    const void *arguments;
};
void *launch_arguments(size_t size);
cudaError_t launch_kernel(const void *kernel, const struct launch *l, cudaStream_t s);
cudaError_t allow_shared(const void *kernel, int size);

template <class Kernel, class Arguments> struct bound {
    Kernel kernel;
    Arguments arguments;
    static void call(const void *p)
    {
        const bound *b = static_cast<const bound *>(p);
        std::apply(b->kernel, b->arguments);
    }
};

/* The arguments are converted to the parameters' types here, at the launch. */
template <class... P, class... A>
cudaError_t launch_on(const char *name, bool cooperative, bool early, void (*kernel)(P...),
                      dim3 grid, dim3 block, size_t shared, cudaStream_t s, A... arguments)
{
    using all = bound<void (*)(P...), std::tuple<P...>>;
    static_assert((std::is_trivially_copyable<P>::value && ...), "parameters are copied as bytes");
    all *b = new (launch_arguments(sizeof(all))) all{kernel, std::tuple<P...>(arguments...)};
    const struct launch l = {name, grid, block, shared, cooperative, early, 0, all::call, b};
    return launch_kernel(reinterpret_cast<const void *>(kernel), &l, s);
}

uint3 thread_index(void);
uint3 block_index(void);
dim3 block_size(void);
dim3 grid_size(void);

void *shared_variable(const void *key, const char *name, size_t size, size_t align);
void *shared_dynamic(void);

enum class warp { shuffle, vote, sync };
enum class block { sync, count, all, any };

int barrier(enum block kind, bool predicate, struct place at);
void barrier_grid(struct place at);
/* Waits for the lanes of the mask. The result is the value of lane `source`, or the votes. */
uint64_t meet(enum warp kind, unsigned mask, uint64_t value, int source, struct place at);
int lane(void);
void await_last(void);

uint64_t atomic_load(const void *p, size_t size);
void atomic_store(void *p, uint64_t value, size_t size);

/* Shuffles of up to eight bytes among `width` lanes; `source` is the lane read. */
template <class T> T shuffle(unsigned mask, T value, int source, struct place at)
{
    static_assert(sizeof(T) <= 8, "a shuffle moves at most eight bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = meet(warp::shuffle, mask, bits, source, at);
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* In kernels that are not traced nobody knows what was written. */
#ifdef __SANITIZE_THREAD__
constexpr bool is_traced = true;
#else
constexpr bool is_traced = false;
#endif

template <class T, class F> T atomic_change(T *p, F change)
{
    if constexpr (!is_traced) { /* threads change only where they wait */
        const T old = *p;
        *p = change(old);
        return old;
    }
    uint64_t bits = atomic_load(p, sizeof *p);
    T old;
    memcpy(&old, &bits, sizeof old);
    const T changed = change(old);
    bits = 0;
    memcpy(&bits, &changed, sizeof changed);
    atomic_store(p, bits, sizeof *p);
    return old;
}

/* copy_async: the bytes arrive when this thread waits for their group. */
void copy_async(void *to, const void *from, size_t size, bool traced);
void copy_async_commit(void);
void copy_async_wait(int groups_left);
}

#define threadIdx emulate::thread_index()
#define blockIdx  emulate::block_index()
#define blockDim  emulate::block_size()
#define gridDim   emulate::grid_size()

#define EMULATE_HERE (emulate::place{__FILE__, __LINE__})
#define __syncthreads()        ((void)emulate::barrier(emulate::block::sync, true, EMULATE_HERE))
#define __syncthreads_count(p) emulate::barrier(emulate::block::count, p, EMULATE_HERE)
#define __syncthreads_and(p)   emulate::barrier(emulate::block::all, p, EMULATE_HERE)
#define __syncthreads_or(p)    emulate::barrier(emulate::block::any, p, EMULATE_HERE)
#define __syncwarp(mask)       ((void)emulate::meet(emulate::warp::sync, mask, 0, 0, EMULATE_HERE))
#define __ballot_sync(mask, p)                                                                    \
    ((unsigned)emulate::meet(emulate::warp::vote, mask, (p) != 0, 0, EMULATE_HERE))
#define __any_sync(mask, p) (__ballot_sync(mask, p) != 0)
#define __all_sync(mask, p) (__ballot_sync(mask, !(p)) == 0)

/* The lanes of a warp fall into segments of `width`; a lane that would read past its segment reads
 * itself. */
#define EMULATE_SEGMENT(width) (emulate::lane() & ~((width) - 1))
#define __shfl_sync(mask, value, from, width)                                                     \
    emulate::shuffle(mask, value, EMULATE_SEGMENT(width) + ((from) & ((width) - 1)), EMULATE_HERE)
#define __shfl_down_sync(mask, value, by, width)                                                  \
    emulate::shuffle(mask, value,                                                                 \
                     (emulate::lane() & ((width) - 1)) + (by) < (width) ? emulate::lane() + (by)  \
                                                                        : emulate::lane(),        \
                     EMULATE_HERE)
#define __shfl_xor_sync(mask, value, by, width)                                                   \
    emulate::shuffle(mask, value,                                                                 \
                     ((emulate::lane() ^ (by)) < EMULATE_SEGMENT(width) + (width))                \
                         ? emulate::lane() ^ (by)                                                 \
                         : emulate::lane(),                                                       \
                     EMULATE_HERE)
#define __threadfence() ((void)0)
#define __popc(x) __builtin_popcount(x)

template <class T> T atomicAdd(T *p, T value)
{
    return emulate::atomic_change(p, [=](T old) { return (T)(old + value); });
}
template <class T> T atomicMax(T *p, T value)
{
    return emulate::atomic_change(p, [=](T old) { return old > value ? old : value; });
}
template <class T> T atomicMin(T *p, T value)
{
    return emulate::atomic_change(p, [=](T old) { return old < value ? old : value; });
}
template <class T> T atomicExch(T *p, T value)
{
    return emulate::atomic_change(p, [=](T) { return value; });
}
template <class T> T atomicCAS(T *p, T expected, T value)
{
    return emulate::atomic_change(p, [=](T old) { return old == expected ? value : old; });
}

/* What kernels use in the place of `__shared__` and of the launch's brackets; kernels/cuda/device.h
 * has them for a GPU. SHARED(float, tile, [8][32]) declares `tile`. */
#define SHARED(type, name, dimensions)                                                            \
    typedef type name##_type dimensions;                                                          \
    static const char name##_key = 0;                                                             \
    name##_type &name = *static_cast<name##_type *>(                                              \
        emulate::shared_variable(&name##_key, #name, sizeof(name##_type), alignof(name##_type)))
#define DYNAMIC_SHARED(type, name) type *name = static_cast<type *>(emulate::shared_dynamic())
#define LAUNCH(kernel, grid, block, shared, stream, ...)                                          \
    emulate::launch_on(#kernel, false, false, kernel, grid, block, shared, stream, __VA_ARGS__)
#define LAUNCH_EARLY(d, kernel, grid, block, shared, ...)                                         \
    emulate::launch_on(#kernel, false, (d)->starts_early, kernel, grid, block, shared,            \
                       (d)->stream, __VA_ARGS__)
#define LAUNCH_COOPERATIVE(kernel, grid, block, shared, stream, ...)                              \
    emulate::launch_on(#kernel, true, false, kernel, grid, block, shared, stream, __VA_ARGS__)
#define ALLOW_SHARED(kernel, size)                                                                \
    emulate::allow_shared(reinterpret_cast<const void *>(kernel), size)
/* Bytes on their way from device to shared memory: 4, 8 or 16 at once, both sides aligned to them.
 * A thread's copies up to each COPY_COMMIT are a group; COPY_WAIT leaves so many under way. */
#define COPY_ASYNC(to, from, size) emulate::copy_async(to, from, size, emulate::is_traced)
#define COPY_COMMIT()              emulate::copy_async_commit()
#define COPY_WAIT(groups_left)     emulate::copy_async_wait(groups_left)
#define GRID_BARRIER() emulate::barrier_grid(EMULATE_HERE)
/* Of a kernel launched early (cudaGridDependencySynchronize and its kin): what others wrote, since
 * the host last waited for the device, is touched behind AWAIT_LAST alone. */
#define LET_NEXT_START() ((void)0)
#define AWAIT_LAST()     emulate::await_last()
