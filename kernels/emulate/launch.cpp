/* Launches: a grid's blocks one after the other in random order, or all at once where they share a
 * barrier; a block's threads as fibers, of which each runs until it waits. */
#include "inside.h"
#include <assert.h>
#include <map>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <vector>

namespace emulate {
__thread struct thread *running;
uint32_t first_block_of_launch = 2; /* 1 stands for the host */
uint32_t first_block_unseen = 2;

static uint32_t next_block = 2;
static uint64_t chance_state = 1;
static struct thread threads[FIBERS_MAX];
static const char *unchecked; /* the kernel that was launched and not checked */
static cudaError_t last_error;
static thread_local bool has_device;
static std::map<const void *, size_t> allowed_shared; /* by kernel, over SHARED_STATIC_MAX */

uint32_t chance(uint32_t n)
{
    chance_state = chance_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(chance_state >> 33) % n;
}

void report(const char *format, ...)
{
    va_list arguments;
    fflush(stdout);
    fprintf(stderr, "emulated CUDA: ");
    if (running) {
        const struct block_run *b = running->block;
        fprintf(stderr, "kernel %s, block (%u,%u,%u), thread (%u,%u,%u): ", b->launch->name,
                b->place.x, b->place.y, b->place.z, running->place.x, running->place.y,
                running->place.z);
    }
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\n");
    abort();
}

uint3 thread_index(void)
{
    return running->place;
}

uint3 block_index(void)
{
    return running->block->place;
}

dim3 block_size(void)
{
    return running->block->launch->block;
}

dim3 grid_size(void)
{
    return running->block->launch->grid;
}

int lane(void)
{
    return running->index % 32;
}

void await_last(void)
{
    running->awaited = true;
}

uint32_t launch_number(void)
{
    return next_block++;
}

void launches_are_seen(void)
{
    first_block_unseen = next_block;
}

/* Waiting, as the thread sees it. */
static void wait_in(enum state state, struct place at)
{
    running->state = state;
    running->at = at;
    fiber_leave(&running->fiber);
}

int barrier(enum block kind, bool predicate, struct place at)
{
    running->barrier_kind = kind;
    running->predicate = predicate;
    wait_in(state::at_barrier, at);
    return running->result;
}

void barrier_grid(struct place at)
{
    if (!running->block->launch->cooperative)
        report("a grid's barrier at %s:%d in a kernel whose launch was not cooperative", at.file,
               at.line);
    wait_in(state::at_grid, at);
}

uint64_t meet(enum warp kind, unsigned mask, uint64_t value, int source, struct place at)
{
    if (!(mask >> lane() & 1))
        report("wrong mask %08x at %s:%d: it lacks the lane itself", mask, at.file, at.line);
    if (kind == warp::shuffle && !(mask >> source & 1))
        report("wrong mask %08x at %s:%d: the lane reads lane %d, which is outside", mask, at.file,
               at.line, source);
    running->kind = kind;
    running->mask = mask;
    running->value = value;
    running->source = source;
    wait_in(state::at_meeting, at);
    return running->value;
}

static const char *name_of(const struct thread *t)
{
    static const char *const names[] = {"has not come", "waits at __syncthreads",
                                        "waits at a warp operation", "waits at a grid's barrier",
                                        "has ended"};
    return names[(int)t->state];
}

[[noreturn]] static void report_two(struct thread *t, const char *what, const struct thread *other)
{
    running = t;
    if (other->state == state::ended)
        report("%s: it waits at %s:%d and thread %d has ended", what, t->at.file, t->at.line,
               other->index);
    report("%s: it waits at %s:%d and thread %d %s at %s:%d", what, t->at.file, t->at.line,
           other->index, name_of(other), other->at.file, other->at.line);
}

static bool same_place(const struct thread *t, const struct thread *other)
{
    return t->at.line == other->at.line && t->at.file == other->at.file;
}

/* Lets the lanes of one mask go, if all are there. `warp` is the first of its warp. */
static bool release_mask(struct thread *warp, int n_lanes, struct thread *first)
{
    const unsigned mask = first->mask;
    uint32_t clock = 0;
    uint64_t votes = 0, given[32] = {0};
    for (int l = 0; l < 32; l++) {
        if (!(mask >> l & 1))
            continue;
        struct thread *t = &warp[l];
        if (l >= n_lanes || t->state == state::ended || t->state == state::at_barrier)
            report_two(first, "divergent warp operation, or a wrong mask", t);
        if (t->state != state::at_meeting)
            return false;
        if (t->mask != mask || t->kind != first->kind || !same_place(t, first))
            report_two(first, "divergent warp operation, or a wrong mask", t);
        clock = t->clock > clock ? t->clock : clock;
        votes |= (uint64_t)(t->value != 0) << l;
        given[l] = t->value;
    }
    for (int l = 0; l < 32; l++) {
        if (!(mask >> l & 1))
            continue;
        struct thread *t = &warp[l];
        t->state = state::runs;
        t->value = t->kind == warp::vote ? votes : given[t->source];
        if (t->kind == warp::sync)
            t->clock = clock + 1; /* only __syncwarp orders memory */
    }
    return true;
}

static bool release_warps(struct block_run *b)
{
    bool any = false;
    for (int w = 0; w < b->n_threads; w += 32)
        for (int l = w; l < w + 32 && l < b->n_threads; l++)
            if (b->threads[l].state == state::at_meeting)
                any |= release_mask(&b->threads[w], b->n_threads - w, &b->threads[l]);
    return any;
}

static bool release_barrier(struct block_run *b)
{
    struct thread *first = nullptr, *ended = nullptr, *elsewhere = nullptr;
    int count = 0;
    for (int i = 0; i < b->n_threads; i++) {
        struct thread *t = &b->threads[i];
        if (t->state == state::runs || t->state == state::at_meeting)
            return false;
        if (t->state == state::at_grid)
            elsewhere = t;
        if (t->state == state::ended)
            ended = t;
        if (t->state != state::at_barrier)
            continue;
        first = first ? first : t;
        elsewhere = same_place(t, first) ? elsewhere : t;
        count += t->predicate;
    }
    if (!first)
        return false;
    if (elsewhere || ended)
        report_two(first, "divergent barrier", elsewhere ? elsewhere : ended);
    for (int i = 0; i < b->n_threads; i++) {
        struct thread *t = &b->threads[i];
        t->result = t->barrier_kind == block::all   ? count == b->n_threads
                    : t->barrier_kind == block::any ? count > 0
                                                    : count;
        t->state = state::runs;
    }
    b->epoch++;
    return true;
}

static void thread_main(void)
{
    struct thread *t = running;
    t->block->launch->call(t->block->launch->arguments);
    copies_end(t);
    if (t->block->launch->early && !t->awaited)
        report("missing wait: it ends and has not awaited the kernels before");
    t->state = state::ended;
    fiber_end(&t->fiber);
}

static void block_start(struct block_run *b, const struct launch *l, uint32_t i, int window)
{
    const dim3 size = l->block;
    b->launch = l;
    b->place = {i % l->grid.x, i / l->grid.x % l->grid.y, i / l->grid.x / l->grid.y};
    b->number = first_block_of_launch + i;
    b->epoch = 0;
    b->n_threads = (int)(size.x * size.y * size.z);
    b->window = window;
    b->threads = &threads[window * b->n_threads];
    for (unsigned k = 0; k < (unsigned)b->n_threads; k++) {
        struct thread *t = &b->threads[k];
        const struct fiber fiber = t->fiber; /* its stack stays */
        *t = {};
        t->fiber = fiber;
        t->block = b;
        t->index = (int)k;
        t->place = {k % size.x, k / size.x % size.y, k / size.x / size.y};
        fiber_start(&t->fiber, window * b->n_threads + (int)k, thread_main);
    }
    shared_begin(window, l->shared);
}

/* Each thread that can run does, in random order. */
static void run_threads(struct block_run *b)
{
    const uint32_t n = (uint32_t)b->n_threads, start = chance(n);
    const uint32_t step = chance(2) ? 1 : n - 1;
    for (uint32_t k = 0; k < n; k++) {
        struct thread *t = &b->threads[(start + k * step) % n];
        if (t->state != state::runs)
            continue;
        running = t;
        fiber_enter(&t->fiber);
        running = nullptr;
    }
}

static bool any_in(const struct block_run *b, enum state state, struct thread **which)
{
    for (int i = 0; i < b->n_threads; i++)
        if (b->threads[i].state == state) {
            *which = &b->threads[i];
            return true;
        }
    return false;
}

/* Until all threads have ended or wait for the grid. */
static void block_run_on(struct block_run *b)
{
    for (;;) {
        run_threads(b);
        const bool warps = release_warps(b), barrier = release_barrier(b);
        struct thread *stuck = nullptr, *grid = nullptr;
        if (warps || barrier || any_in(b, state::runs, &stuck))
            continue;
        if (any_in(b, state::at_meeting, &stuck)) {
            running = stuck;
            report("deadlock: it waits at %s:%d for lanes that do not come", stuck->at.file,
                   stuck->at.line);
        }
        if (any_in(b, state::at_grid, &grid) && any_in(b, state::ended, &stuck))
            report_two(grid, "divergent barrier of a grid", stuck);
        return;
    }
}

/* A random order of 0 .. n - 1 without a table: a stride without a common factor. */
static uint32_t coprime(uint32_t n)
{
    for (;;) {
        const uint32_t step = 1 + chance(n);
        uint32_t a = n, b = step;
        while (b) {
            const uint32_t rest = a % b;
            a = b;
            b = rest;
        }
        if (a == 1)
            return step;
    }
}

static void run_cooperative(const struct launch *l, uint32_t n_blocks)
{
    std::vector<block_run> blocks(n_blocks);
    for (uint32_t i = 0; i < n_blocks; i++)
        block_start(&blocks[i], l, i, (int)i);
    struct thread *waits = nullptr, *ended = nullptr;
    do {
        const uint32_t start = chance(n_blocks), step = coprime(n_blocks);
        for (uint32_t k = 0; k < n_blocks; k++)
            block_run_on(&blocks[(start + (uint64_t)k * step) % n_blocks]);
        waits = nullptr, ended = nullptr;
        first_block_of_launch += n_blocks;
        for (block_run &b : blocks) {
            b.number += n_blocks;
            any_in(&b, state::ended, &ended);
            any_in(&b, state::at_grid, &waits);
        }
        if (waits && ended)
            report_two(waits, "divergent barrier of a grid", ended);
        for (block_run &b : blocks)
            for (int i = 0; waits && i < b.n_threads; i++)
                b.threads[i].state = state::runs;
    } while (waits);
    next_block = first_block_of_launch + n_blocks;
}

void launch_run(const struct launch *l)
{
    const uint32_t n_blocks = l->grid.x * l->grid.y * l->grid.z;
    first_block_of_launch = next_block;
    next_block += n_blocks;
    if (l->cooperative) {
        run_cooperative(l, n_blocks);
        return;
    }
    const uint32_t start = chance(n_blocks), step = coprime(n_blocks);
    for (uint32_t k = 0; k < n_blocks; k++) {
        struct block_run b;
        block_start(&b, l, (uint32_t)((start + (uint64_t)k * step) % n_blocks), 0);
        block_run_on(&b);
    }
}

/* What the driver would refuse. */
static cudaError_t launch_error(const void *kernel, struct launch *l)
{
    const uint64_t n_threads = (uint64_t)l->block.x * l->block.y * l->block.z;
    const uint64_t n_blocks = (uint64_t)l->grid.x * l->grid.y * l->grid.z;
    if (n_threads == 0 || n_threads > 1024 || l->block.z > 64 || n_blocks == 0
        || l->grid.x > 0x7fffffffu || l->grid.y > 65535 || l->grid.z > 65535)
        return cudaErrorInvalidConfiguration;
    const auto allowed = allowed_shared.find(kernel);
    const size_t most = allowed == allowed_shared.end() ? (size_t)SHARED_STATIC_MAX
                                                        : allowed->second;
    l->shared_max = allowed == allowed_shared.end() ? (size_t)SHARED_STATIC_MAX
                                                    : (size_t)SHARED_MAX;
    if (l->shared > most)
        return cudaErrorInvalidValue;
    if (l->cooperative && (n_blocks > WINDOWS_MAX || n_blocks * n_threads > FIBERS_MAX))
        return cudaErrorInvalidConfiguration; /* they cannot all run at once */
    return cudaSuccess;
}

/* Whether the stream takes it; an error waits for cudaGetLastError. */
cudaError_t launch_admit(const void *kernel, struct launch *l)
{
    call_begins();
    unchecked = l->name;
    const cudaError_t error = launch_error(kernel, l);
    if (error != cudaSuccess)
        last_error = error;
    return error;
}

void error_set(cudaError_t error)
{
    last_error = error;
}

void device_chosen(void)
{
    has_device = true;
}

void call_begins(void)
{
    if (!has_device)
        report("a thread that has not chosen its device: it would be the machine's first");
    if (unchecked)
        report("missing launch check: nobody asked whether %s could be launched", unchecked);
}

cudaError_t allow_shared(const void *kernel, int size)
{
    if (size > SHARED_MAX)
        return last_error = cudaErrorInvalidValue;
    allowed_shared[kernel] = (size_t)size;
    return cudaSuccess;
}
}

cudaError_t cudaGetLastError(void)
{
    const cudaError_t error = emulate::last_error;
    emulate::last_error = cudaSuccess;
    emulate::unchecked = nullptr;
    return error;
}

void emulate_seed(uint64_t seed)
{
    emulate::chance_state = seed * 2 + 1;
}
