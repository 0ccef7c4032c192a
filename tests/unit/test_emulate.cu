/* The emulator: what CUDA promises holds in every order that chance takes, and each classic bug of
 * a kernel, planted here, ends the run with its name, while the same kernel without the bug passes.
 * A kernel's parameter `right` is what makes the twin. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../kernels/emulate/emulate.h"

extern "C" {
#include <cmocka.h>
}

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

enum { N = 64, SEEDS = 20, ALL = -1 };

static cudaStream_t stream;
static float *in, *out; /* [N] on the device: 0, 1, 2, ... and zeros */
static float host[N];

static void must(cudaError_t error)
{
    if (error != cudaSuccess)
        fail_msg("%s", cudaGetErrorString(error));
}

#define RUN(kernel, grid, block, shared, ...)                                                     \
    do {                                                                                          \
        LAUNCH(kernel, grid, block, shared, stream, __VA_ARGS__);                                 \
        must(cudaGetLastError());                                                                 \
        must(cudaStreamSynchronize(stream));                                                      \
    } while (0)

static float *device_floats(int n)
{
    void *p;
    must(cudaMalloc(&p, sizeof(float) * (size_t)n));
    return static_cast<float *>(p);
}

static int open_device(void **)
{
    must(cudaSetDevice(0));
    must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    in = device_floats(N);
    out = device_floats(N);
    for (int i = 0; i < N; i++)
        host[i] = (float)i;
    must(cudaMemcpyAsync(in, host, sizeof host, cudaMemcpyHostToDevice, stream));
    must(cudaMemsetAsync(out, 0, sizeof host, stream));
    return 0;
}

static int close_device(void **)
{
    must(cudaFree(in));
    must(cudaFree(out));
    must(cudaStreamDestroy(stream));
    assert_int_equal(emulate_live_allocations(), 0);
    return 0;
}

static const float *result(void)
{
    must(cudaMemcpyAsync(host, out, sizeof host, cudaMemcpyDeviceToHost, stream));
    return host;
}

/* The planted bugs. */
template <bool right> __global__ void reverse(float *to, const float *from)
{
    SHARED(float, tile, [N]);
    const unsigned i = threadIdx.x;
    tile[i] = 0;
    __syncthreads();
    tile[i] = from[i];
    if (right)
        __syncthreads();
    to[i] = tile[N - 1 - i];
}
template <bool right> static void missing_barrier(void)
{
    RUN(reverse<right>, 1, N, 0, out, in);
}

template <bool right> __global__ void both_halves(float *to)
{
    if (right || threadIdx.x < 40)
        __syncthreads();
    else
        __syncthreads();
    to[threadIdx.x] = 1;
}
template <bool right> static void divergent_barrier(void)
{
    RUN(both_halves<right>, 1, N, 0, out);
}

template <bool right> __global__ void early_end(float *to)
{
    if (!right && threadIdx.x >= 32)
        return;
    __syncthreads();
    to[threadIdx.x] = 1;
}
template <bool right> static void an_early_end(void)
{
    RUN(early_end<right>, 1, N, 0, out);
}

template <bool right> __global__ void half_mask(float *to)
{
    to[threadIdx.x] = __shfl_xor_sync(right ? 0xffffffffu : 0xffffu, 1.0f, 1, 32);
}
template <bool right> static void wrong_mask(void)
{
    RUN(half_mask<right>, 1, N, 0, out);
}

template <bool right> __global__ void reads_outside(float *to)
{
    if (threadIdx.x < 16)
        to[threadIdx.x] = __shfl_xor_sync(0xffffu, 1.0f, right ? 8 : 16, 32);
}
template <bool right> static void a_lane_outside_the_mask(void)
{
    RUN(reads_outside<right>, 1, 32, 0, out);
}

template <bool right> __global__ void half_shuffles(float *to)
{
    float x = 1;
    if (right || threadIdx.x < 16)
        x = __shfl_xor_sync(0xffffffffu, x, 1, 32);
    __syncthreads();
    to[threadIdx.x] = x;
}
template <bool right> static void divergent_shuffle(void)
{
    RUN(half_shuffles<right>, 1, N, 0, out);
}

template <bool right> __global__ void one_too_far(float *to)
{
    to[threadIdx.x + !right] = 1;
}
template <bool right> static void out_of_bounds(void)
{
    RUN(one_too_far<right>, 1, N, 0, out);
}

template <bool right> __global__ void shared_too_far(float *to)
{
    SHARED(float, tile, [N]);
    float *p = tile;
    p[threadIdx.x + !right] = 1;
    to[threadIdx.x] = 1;
}
template <bool right> static void out_of_shared_bounds(void)
{
    RUN(shared_too_far<right>, 1, N, 0, out);
}

template <bool right> __global__ void dynamic_too_far(float *to)
{
    DYNAMIC_SHARED(float, tile);
    tile[threadIdx.x] = 1;
    to[threadIdx.x] = tile[threadIdx.x];
}
template <bool right> static void out_of_dynamic_bounds(void)
{
    RUN(dynamic_too_far<right>, 1, N, right ? N * 4 : N * 4 - 1, out);
}

template <bool right> __global__ void reads_first(float *to)
{
    SHARED(float, tile, [N]);
    if (right)
        tile[threadIdx.x] = 1;
    to[threadIdx.x] = tile[threadIdx.x];
}
template <bool right> static void uninitialised_shared(void)
{
    RUN(reads_first<right>, 1, N, 0, out);
}

__global__ void copies(float *to, const float *from)
{
    to[blockIdx.x * blockDim.x + threadIdx.x] = from[blockIdx.x * blockDim.x + threadIdx.x];
}
template <bool right> static void uninitialised_device(void)
{
    float *fresh = device_floats(N);
    if (right)
        must(cudaMemsetAsync(fresh, 0, N * 4, stream));
    RUN(copies, 1, N, 0, out, fresh);
    must(cudaFree(fresh));
}

template <bool waits, bool meets> __global__ void fetches(float *to, const float *from)
{
    SHARED(float, tile, [N]);
    const unsigned i = threadIdx.x;
    COPY_ASYNC(&tile[i], &from[i], 4);
    COPY_COMMIT();
    if (waits)
        COPY_WAIT(0);
    if (meets)
        __syncthreads();
    to[i] = tile[N - 1 - i];
}
template <bool right> static void missing_wait(void)
{
    RUN((fetches<right, true>), 1, N, 0, out, in);
}
template <bool right> static void a_wait_without_a_barrier(void)
{
    RUN((fetches<true, right>), 1, N, 0, out, in);
}

/* The kernel's stream does not wait for the upload's. */
template <bool right> static void read_before_the_copy_arrives(void)
{
    cudaStream_t upload;
    cudaEvent_t arrived;
    void *pinned;
    must(cudaStreamCreateWithFlags(&upload, cudaStreamNonBlocking));
    must(cudaEventCreateWithFlags(&arrived, cudaEventDisableTiming));
    must(cudaMallocHost(&pinned, N * 4));
    memset(pinned, 0, N * 4);
    for (int seed = 0; seed < SEEDS; seed++) {
        emulate_seed((uint64_t)seed);
        float *fresh = device_floats(N);
        must(cudaMemcpyAsync(fresh, pinned, N * 4, cudaMemcpyHostToDevice, upload));
        must(cudaEventRecord(arrived, upload));
        if (right)
            must(cudaStreamWaitEvent(stream, arrived));
        RUN(copies, 1, N, 0, out, fresh);
        must(cudaFree(fresh));
    }
    must(cudaFreeHost(pinned));
    must(cudaEventDestroy(arrived));
    must(cudaStreamDestroy(upload));
}

template <bool right> __global__ void one_word(float *to)
{
    SHARED(float, most, [2]);
    if (right ? threadIdx.x % 32 == 0 : threadIdx.x % 16 == 0)
        most[threadIdx.x / 32] = 1;
    __syncthreads();
    to[threadIdx.x] = most[threadIdx.x / 32];
}
template <bool right> static void race_on_shared(void)
{
    RUN(one_word<right>, 1, N, 0, out);
}

template <bool right> __global__ void one_sum(float *to)
{
    if (right)
        atomicAdd(to, 1.0f);
    else
        *to = *to + 1.0f;
}
template <bool right> static void race_between_blocks(void)
{
    RUN(one_sum<right>, N, 1, 0, out);
}

template <bool right> __global__ void passes_on(float *to)
{
    SHARED(float, tile, [N]);
    const unsigned i = threadIdx.x;
    tile[i] = 0;
    __syncwarp(0xffffffffu);
    tile[i] = (float)i;
    if (right)
        __syncwarp(0xffffffffu);
    to[i] = tile[i ^ 1];
}
template <bool right> static void missing_syncwarp(void)
{
    RUN(passes_on<right>, 1, N, 0, out);
}

template <bool right> static void double_free(void)
{
    float *p = device_floats(N);
    must(cudaFree(p));
    if (!right)
        must(cudaFree(p));
}

template <bool right> static void use_after_free(void)
{
    float *p = device_floats(N);
    must(cudaMemsetAsync(p, 0, N * 4, stream));
    if (!right)
        must(cudaFree(p));
    RUN(copies, 1, N, 0, out, p);
    if (right)
        must(cudaFree(p));
}

template <bool right> static void missing_launch_check(void)
{
    LAUNCH(copies, 1, N, 0, stream, out, in);
    if (right)
        must(cudaGetLastError());
    must(cudaStreamSynchronize(stream));
}

template <bool right> static void memory_of_the_host(void)
{
    float *p = static_cast<float *>(malloc(N * 4));
    RUN(copies, 1, N, 0, out, right ? in : p);
    free(p);
}

__global__ void meets_the_grid(float *to)
{
    to[blockIdx.x * blockDim.x + threadIdx.x] = 1;
    GRID_BARRIER();
    to[((blockIdx.x + 1) % gridDim.x) * blockDim.x + threadIdx.x] += 1;
}
template <bool right> static void a_grid_barrier_in_a_plain_launch(void)
{
    if (right)
        LAUNCH_COOPERATIVE(meets_the_grid, 4, 16, 0, stream, out);
    else
        LAUNCH(meets_the_grid, 4, 16, 0, stream, out);
    must(cudaGetLastError());
    must(cudaStreamSynchronize(stream));
}

template <bool right> static void the_default_stream(void)
{
    LAUNCH(copies, 1, N, 0, right ? stream : nullptr, out, in);
    must(cudaGetLastError());
    must(cudaStreamSynchronize(stream));
}

template <bool right> static void copy_out_of_bounds(void)
{
    must(cudaMemcpyAsync(out + !right, host, N * 4, cudaMemcpyHostToDevice, stream));
    must(cudaStreamSynchronize(stream));
}

template <bool right> static void *run_elsewhere(void *)
{
    if (right)
        must(cudaSetDevice(0));
    RUN(copies, 1, N, 0, out, in);
    return nullptr;
}
template <bool right> static void another_thread(void)
{
    pthread_t other;
    assert_int_equal(pthread_create(&other, nullptr, run_elsewhere<right>, nullptr), 0);
    assert_int_equal(pthread_join(other, nullptr), 0);
}

struct starter { /* as far as LAUNCH_EARLY knows a device */
    bool starts_early;
    cudaStream_t stream;
};

static void run_behind_a_write(void (*kernel)(float *to, const float *from))
{
    float *p = device_floats(N);
    const struct starter d = {true, stream};
    RUN(copies, 1, N, 0, p, in);
    must(cudaMemsetAsync(p, 0, N * 4, stream));
    LAUNCH_EARLY(&d, kernel, 1, N, 0, out, p);
    must(cudaGetLastError());
    must(cudaStreamSynchronize(stream));
}

/* `right`: behind the wait for the kernel that wrote what it reads. */
template <bool right> __global__ void reads_what_came_before(float *to, const float *from)
{
    LET_NEXT_START();
    if (right)
        AWAIT_LAST();
    const float x = from[threadIdx.x];
    AWAIT_LAST();
    to[threadIdx.x] = x;
}
template <bool right> static void read_before_the_last_kernel_ended(void)
{
    run_behind_a_write(reads_what_came_before<right>);
}

template <bool right> __global__ void copies_what_came_before(float *to, const float *from)
{
    SHARED(float, tile, [N]);
    LET_NEXT_START();
    if (right)
        AWAIT_LAST();
    COPY_ASYNC(tile + threadIdx.x, from + threadIdx.x, 4);
    COPY_COMMIT();
    AWAIT_LAST();
    COPY_WAIT(0);
    to[threadIdx.x] = tile[threadIdx.x];
}
template <bool right> static void copy_before_the_last_kernel_ended(void)
{
    run_behind_a_write(copies_what_came_before<right>);
}

/* Without ALLOW_SHARED the limit holds for all that a kernel has. */
__global__ void has_two_kinds(float *to)
{
    SHARED(float, tile, [N]);
    DYNAMIC_SHARED(float, more);
    more[threadIdx.x] = tile[threadIdx.x] = 1;
    to[threadIdx.x] = more[threadIdx.x];
}
template <bool right> static void too_much_of_both(void)
{
    RUN(has_two_kinds, 1, N, (48 << 10) - (right ? N * 4 : 0), out);
}

template <bool right> __global__ void writes_early(float *to)
{
    LET_NEXT_START();
    if (right)
        AWAIT_LAST();
    to[threadIdx.x] = 1;
    AWAIT_LAST();
}
template <bool right> static void write_before_the_last_kernel_ended(void)
{
    const struct starter d = {true, stream};
    LAUNCH_EARLY(&d, writes_early<right>, 1, N, 0, out);
    must(cudaGetLastError());
    must(cudaStreamSynchronize(stream));
}

template <bool right> __global__ void awaits_nobody(int but)
{
    if (right || (int)threadIdx.x != but)
        AWAIT_LAST();
}
template <bool right> static void an_end_before_the_last_kernel_s(void)
{
    const struct starter d = {true, stream};
    LAUNCH_EARLY(&d, awaits_nobody<right>, 1, N, 0, 3);
    must(cudaGetLastError());
    must(cudaStreamSynchronize(stream));
}

#define BUG(name, text) {#name, name<false>, name<true>, text}
static const struct bug {
    const char *name;
    void (*planted)(void), (*twin)(void);
    const char *report;
} bugs[] = {
    BUG(missing_barrier, ": race on shared memory: "),
    BUG(divergent_barrier, ": divergent barrier: "),
    BUG(an_early_end, ": divergent barrier: "),
    BUG(wrong_mask, ": wrong mask 0000ffff "),
    BUG(a_lane_outside_the_mask, ": wrong mask 0000ffff "),
    BUG(divergent_shuffle, ": divergent warp operation, or a wrong mask: "),
    BUG(out_of_bounds, ": out of bounds: it writes byte 256 of an allocation of 256 bytes"),
    BUG(out_of_shared_bounds, ": out of bounds: it writes byte 256 of tile of 256 bytes"),
    BUG(out_of_dynamic_bounds, ": out of bounds: it writes byte 252 of dynamic shared memory"),
    BUG(uninitialised_shared, ": uninitialised memory: it reads byte "),
    BUG(uninitialised_device, ": uninitialised memory: it reads byte "),
    BUG(missing_wait, ": missing wait: it touches byte "),
    BUG(a_wait_without_a_barrier, " of tile of 256 bytes"), /* a race or a wait, by chance */
    BUG(read_before_the_copy_arrives, ": uninitialised memory: it reads byte "),
    BUG(race_on_shared, ": race on shared memory: it writes byte "),
    BUG(race_between_blocks, ": race on device memory: "),
    BUG(missing_syncwarp, ": race on shared memory: "),
    BUG(double_free, "double free of device memory"),
    BUG(use_after_free, ": out of bounds: it reads byte "),
    BUG(missing_launch_check, "missing launch check: nobody asked whether copies could be"),
    BUG(memory_of_the_host, ": memory of the host: it reads "),
    BUG(a_grid_barrier_in_a_plain_launch, ": a grid's barrier at "),
    BUG(the_default_stream, "the default stream"),
    BUG(another_thread, "a thread that has not chosen its device"),
    BUG(read_before_the_last_kernel_ended, ": missing wait: it reads byte "),
    BUG(copy_before_the_last_kernel_ended, ": missing wait: it reads byte "),
    BUG(too_much_of_both, ": too much shared memory: "),
    BUG(write_before_the_last_kernel_ended, ": missing wait: it writes byte "),
    BUG(an_end_before_the_last_kernel_s, ": missing wait: it ends and has not awaited the kernels"),
    BUG(copy_out_of_bounds, "a copy to the device out of bounds: byte 256 of an allocation of 256"),
};

/* What a process of its own said before it ended, and whether it was stopped. */
static bool is_stopped(void (*run)(void), uint64_t seed, char *said, size_t size)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], 2);
        emulate_seed(seed);
        run();
        _exit(0);
    }
    close(ends[1]);
    size_t n = 0;
    for (ssize_t got; (got = read(ends[0], said + n, size - 1 - n)) > 0;)
        n += (size_t)got;
    said[n] = 0;
    close(ends[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

static void every_planted_bug_is_named_and_its_twin_passes(void **)
{
    char said[8192];
    for (int i = 0; i < COUNT(bugs); i++)
        for (uint64_t seed = 0; seed < 5; seed++) {
            if (!is_stopped(bugs[i].planted, seed, said, sizeof said))
                fail_msg("%s was not caught", bugs[i].name);
            if (!strstr(said, "emulated CUDA: ") || !strstr(said, bugs[i].report))
                fail_msg("%s was called: %s", bugs[i].name, said);
            if (is_stopped(bugs[i].twin, seed, said, sizeof said))
                fail_msg("the twin of %s was called: %s", bugs[i].name, said);
        }
}

static void a_report_names_kernel_block_and_thread(void **)
{
    char said[8192];
    assert_true(is_stopped(out_of_bounds<false>, 1, said, sizeof said));
    assert_non_null(strstr(said, "kernel one_too_far<right>, block (0,0,0), thread (63,0,0): "));
}

static void impossible_launches_are_refused(void **)
{
    const struct {
        dim3 grid, block;
        size_t shared;
        cudaError_t error;
    } launches[] = {
        {1, 0, 0, cudaErrorInvalidConfiguration},
        {0, 1, 0, cudaErrorInvalidConfiguration},
        {1, 1025, 0, cudaErrorInvalidConfiguration},
        {1, dim3(1, 1, 65), 0, cudaErrorInvalidConfiguration},
        {dim3(1, 65536), 1, 0, cudaErrorInvalidConfiguration},
        {1, N, (48 << 10) + 1, cudaErrorInvalidValue},
        {1, N, 48 << 10, cudaSuccess},
        {dim3(1, 1, 1), 1, 0, cudaSuccess},
    };
    for (int i = 0; i < COUNT(launches); i++) {
        LAUNCH(copies, launches[i].grid, launches[i].block, launches[i].shared, stream, out, in);
        assert_int_equal(cudaGetLastError(), launches[i].error);
    }
    assert_int_equal(ALLOW_SHARED(copies, (99 << 10) + 1), cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidValue);
    must(ALLOW_SHARED(copies, 99 << 10));
    LAUNCH(copies, 1, N, 99 << 10, stream, out, in);
    must(cudaGetLastError());
    must(cudaStreamSynchronize(stream));
}

__global__ void warp_operations(float *to)
{
    const int i = (int)threadIdx.x, lane = i % 32;
    const unsigned all = 0xffffffffu;
    bool good = __shfl_sync(all, i, 3, 32) == (i & 32) + 3;
    good &= __shfl_sync(all, i, 3, 16) == (i & 48) + 3;
    good &= __shfl_down_sync(all, i, 8, 16) == (i % 16 < 8 ? i + 8 : i);
    good &= __shfl_xor_sync(all, (int64_t)i << 32, 5, 32) == (int64_t)(i ^ 5) << 32;
    good &= __ballot_sync(all, lane < 3) == 7;
    good &= __any_sync(all, lane == 9) && !__any_sync(all, false);
    good &= !__all_sync(all, lane != 9) && __all_sync(all, true);
    good &= __syncthreads_count(i < 40) == 40;
    good &= __syncthreads_or(i == 5) && !__syncthreads_or(false);
    good &= __syncthreads_and(true) && !__syncthreads_and(i != 5);
    to[i] = good;
}

static void warp_operations_and_barriers_count(void **)
{
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        emulate_seed(seed);
        RUN(warp_operations, 1, N, 0, out);
        for (int i = 0; i < N; i++)
            assert_true(result()[i] == 1);
    }
}

__global__ void atomics(int *to)
{
    atomicAdd(&to[0], 1);
    atomicMax(&to[1], (int)blockIdx.x);
    atomicMin(&to[2], -(int)threadIdx.x);
    if (atomicCAS(&to[3], 0, 7) == 0)
        atomicExch(&to[4], 9);
}

static void atomics_lose_nothing(void **)
{
    int *counts = reinterpret_cast<int *>(out), got[5];
    must(cudaMemsetAsync(out, 0, N * 4, stream));
    RUN(atomics, 5, N, 0, counts);
    must(cudaMemcpyAsync(got, counts, sizeof got, cudaMemcpyDeviceToHost, stream));
    const int expected[] = {5 * N, 4, -(N - 1), 7, 9};
    assert_memory_equal(got, expected, sizeof got);
}

static void blocks_of_a_cooperative_launch_meet(void **)
{
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        emulate_seed(seed);
        LAUNCH_COOPERATIVE(meets_the_grid, 4, 16, 0, stream, out);
        must(cudaGetLastError());
        for (int i = 0; i < N; i++)
            assert_true(result()[i] == 2);
    }
}

__global__ void notes_order(int *count, float *to)
{
    to[blockIdx.x] = (float)atomicAdd(count, 1);
}

static void blocks_run_in_many_orders(void **)
{
    int n_orders = 0;
    float last[8] = {0};
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        emulate_seed(seed);
        must(cudaMemsetAsync(in, 0, 4, stream));
        RUN(notes_order, 8, 1, 0, reinterpret_cast<int *>(in), out);
        n_orders += memcmp(result(), last, sizeof last) != 0;
        memcpy(last, host, sizeof last);
    }
    assert_true(n_orders > SEEDS / 2);
}

static void pinned_memory_is_read_when_the_copy_runs(void **)
{
    void *p;
    must(cudaMallocHost(&p, N * 4));
    float *pinned = static_cast<float *>(p);
    memset(pinned, 0, N * 4);
    must(cudaMemcpyAsync(out, pinned, N * 4, cudaMemcpyHostToDevice, stream));
    pinned[3] = 5;
    assert_true(result()[3] == 5);
    host[3] = 6;
    must(cudaMemcpyAsync(out, host, N * 4, cudaMemcpyHostToDevice, stream));
    host[3] = 7;
    assert_true(result()[3] == 6);
    must(cudaFreeHost(p));
}

static void an_event_is_ready_once_its_stream_came_to_it(void **)
{
    cudaEvent_t e;
    must(cudaEventCreateWithFlags(&e, cudaEventDisableTiming));
    must(cudaEventQuery(e));
    must(cudaStreamSynchronize(stream));
    LAUNCH(copies, 1, N, 0, stream, out, in);
    must(cudaGetLastError());
    must(cudaEventRecord(e, stream));
    int n_asked = 1;
    while (cudaEventQuery(e) == cudaErrorNotReady)
        n_asked++;
    assert_int_equal(n_asked, 2);
    must(cudaEventDestroy(e));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_device, close_device)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_planted_bug_is_named_and_its_twin_passes),
        TEST(a_report_names_kernel_block_and_thread),
        TEST(impossible_launches_are_refused),
        TEST(warp_operations_and_barriers_count),
        TEST(atomics_lose_nothing),
        TEST(blocks_of_a_cooperative_launch_meet),
        TEST(blocks_run_in_many_orders),
        TEST(pinned_memory_is_read_when_the_copy_runs),
        TEST(an_event_is_ready_once_its_stream_came_to_it),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
