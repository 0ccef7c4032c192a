/* The runtime's calls: streams and events as queues, memory of both sides. Nothing given to a
 * stream runs before somebody waits; then the heads of all that may go on are taken by chance. */
#include "counts.h"
#include "inside.h"
#include <assert.h>
#include <deque>
#include <functional>
#include <map>
#include <set>
#include <sys/mman.h>
#include <vector>

struct emulate_event {
    uint64_t recorded, done; /* numbers of its last record, and of the last that was reached */
};

struct operation {
    std::function<void()> run;
    struct emulate_event *awaited; /* NULL, or the event that must have reached `number` */
    uint64_t number;
};

struct emulate_graph {
    std::vector<operation> operations;
};

struct emulate_stream {
    std::deque<operation> queue;
    struct emulate_graph *captured; /* NULL, or what is being captured */
};

namespace emulate {
static std::set<emulate_stream *> streams;
static std::map<char *, size_t> pinned; /* memory of cudaMallocHost */
static struct emulate_counts counts;

/* Arguments of launches that wait. Kernels may read them, so they lie apart from the host's. Those
 * of graphs stay, at the other end. */
static const size_t ARGUMENTS_SIZE = (size_t)256 << 20;
static char *arguments;
static size_t arguments_used, arguments_kept, arguments_last;

bool arguments_hold(const void *p)
{
    return arguments && (uintptr_t)p - (uintptr_t)arguments < ARGUMENTS_SIZE;
}

static bool may_go_on(const emulate_stream *s)
{
    return !s->queue.empty()
           && (!s->queue.front().awaited
               || s->queue.front().awaited->done >= s->queue.front().number);
}

/* One operation at the head of some stream; false where no stream can go on. */
static bool run_one(void)
{
    uint32_t n = 0;
    for (const emulate_stream *s : streams)
        n += may_go_on(s);
    if (n == 0)
        return false;
    uint32_t which = chance(n);
    for (emulate_stream *s : streams)
        if (may_go_on(s) && which-- == 0) {
            const operation head = s->queue.front();
            s->queue.pop_front();
            head.run();
            return true;
        }
    return false;
}

static bool all_idle(void)
{
    for (const emulate_stream *s : streams)
        if (!s->queue.empty())
            return false;
    return true;
}

static void run_until(const std::function<bool()> &done)
{
    call_begins();
    for (const emulate_stream *s : streams)
        if (s->captured)
            report("the host waits while a stream is captured");
    while (!done())
        if (!run_one())
            report("deadlock: streams wait for events that nobody records");
    if (all_idle())
        launches_are_seen();
}

static void push(cudaStream_t s, std::function<void()> run, cudaEvent_t awaited = nullptr)
{
    if (!streams.count(s))
        report("the default stream, or one that was destroyed: work names a stream of its own");
    call_begins();
    if (s->captured)
        report("not emulated: something else than a launch while a stream is captured");
    s->queue.push_back({run, awaited, awaited ? awaited->recorded : 0});
}

void *launch_arguments(size_t size)
{
    if (!arguments)
        arguments = static_cast<char *>(mmap(nullptr, ARGUMENTS_SIZE, PROT_READ | PROT_WRITE,
                                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    assert(arguments != MAP_FAILED);
    if (all_idle())
        arguments_used = 0;
    void *p = arguments + arguments_used;
    arguments_last = (size + 63) / 64 * 64;
    arguments_used += arguments_last;
    assert(arguments_used + arguments_kept <= ARGUMENTS_SIZE);
    return p;
}

/* Of the last launch, for a graph. */
static const void *arguments_keep(const void *from)
{
    arguments_kept += arguments_last;
    assert(arguments_used + arguments_kept <= ARGUMENTS_SIZE);
    return memcpy(arguments + ARGUMENTS_SIZE - arguments_kept, from, arguments_last);
}

cudaError_t launch_kernel(const void *kernel, const struct launch *l, cudaStream_t s)
{
    if (!streams.count(s))
        report("the default stream, or one that was destroyed: %s names no other", l->name);
    struct launch copy = *l;
    const cudaError_t error = launch_admit(kernel, &copy);
    counts.launches++;
    if (error != cudaSuccess)
        return error;
    if (s->captured)
        copy.arguments = arguments_keep(l->arguments);
    const operation o = {[copy] { launch_run(&copy); }, nullptr, 0};
    if (s->captured)
        s->captured->operations.push_back(o);
    else
        s->queue.push_back(o);
    return cudaSuccess;
}

static bool is_pinned(const void *p, size_t size)
{
    char *at = static_cast<char *>(const_cast<void *>(p));
    auto after = pinned.upper_bound(at);
    if (after == pinned.begin())
        return false;
    --after;
    return (size_t)(at - after->first) + size <= after->second;
}
}

using namespace emulate;

struct emulate_counts emulate_counted(void)
{
    counts.left = 0;
    for (const emulate_stream *s : streams)
        counts.left += (int)s->queue.size();
    return counts;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int)
{
    *p = {"an emulated device", 2, 9, SHARED_MAX};
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    if (device != 0)
        return cudaErrorInvalidValue;
    device_chosen();
    return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInsufficientDriver:
        return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorNotReady: return "device not ready";
    }
    return "unrecognized error code";
}

cudaError_t cudaMalloc(void **p, size_t size)
{
    call_begins();
    *p = device_alloc(size);
    if (*p)
        return cudaSuccess;
    error_set(cudaErrorMemoryAllocation);
    return cudaErrorMemoryAllocation;
}

cudaError_t cudaFree(void *p)
{
    cudaDeviceSynchronize();
    if (p)
        device_free(p);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **p, size_t size)
{
    char *bytes = new char[size];
    pinned[bytes] = size;
    *p = bytes;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p)
{
    cudaDeviceSynchronize();
    if (p && pinned.erase(static_cast<char *>(p)) == 0)
        report("double free of pinned memory");
    delete[] static_cast<char *>(p);
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned)
{
    *s = new emulate_stream{};
    streams.insert(*s);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    cudaStreamSynchronize(s);
    streams.erase(s);
    delete s;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    counts.waits++;
    run_until([s] { return s->queue.empty(); });
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
    counts.waits++;
    run_until(all_idle);
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned)
{
    push(s, [] {}, e);
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
    *e = new emulate_event{};
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    cudaEventSynchronize(e);
    delete e;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    const uint64_t number = ++e->recorded;
    push(s, [e, number] { e->done = number; });
    return cudaSuccess;
}

/* Whoever asks again and again sees it happen. That it has not is also told by cudaGetLastError. */
cudaError_t cudaEventQuery(cudaEvent_t e)
{
    call_begins();
    if (e->done < e->recorded)
        run_one();
    if (e->done >= e->recorded)
        return cudaSuccess;
    error_set(cudaErrorNotReady);
    return cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    counts.waits++;
    run_until([e] { return e->done >= e->recorded; });
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, cudaMemcpyKind kind,
                            cudaStream_t s)
{
    const bool reads = kind != cudaMemcpyHostToDevice, writes = kind != cudaMemcpyDeviceToHost;
    counts.uploads += !reads;
    counts.downloads += !writes;
    push(s, [=] {
        if (reads)
            device_check(from, size, "a copy from the device");
        if (writes) {
            device_check(to, size, "a copy to the device");
            device_written(to, size);
        }
        memcpy(to, from, size);
    });
    if ((reads || is_pinned(from, size)) && (writes || is_pinned(to, size)))
        return cudaSuccess;
    return cudaStreamSynchronize(s);
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t size, cudaStream_t s)
{
    push(s, [=] {
        device_check(p, size, "a memset");
        device_written(p, size);
        memset(p, value, size);
    });
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode)
{
    call_begins();
    if (s->captured)
        report("a stream is captured that is captured already");
    s->captured = new emulate_graph;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph)
{
    call_begins();
    if (!s->captured)
        report("the end of a capture that has not begun");
    *graph = s->captured;
    s->captured = nullptr;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *runs, cudaGraph_t graph,
                                          unsigned long long)
{
    *runs = new emulate_graph(*graph);
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t runs, cudaStream_t s)
{
    call_begins();
    counts.graphs++;
    for (const operation &o : runs->operations)
        s->queue.push_back(o);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t runs)
{
    delete runs;
    return cudaSuccess;
}
