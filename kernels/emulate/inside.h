/* What the files of the emulator share. */
#pragma once
#include "emulate.h"
#include "fiber.h"

namespace emulate {
/* The last access of a word by one side, or none (block 0). */
struct access {
    uint32_t block; /* a number that no other block of any launch has */
    uint32_t epoch; /* the block's barriers before it */
    uint32_t clock; /* the warp's meetings before it, see struct thread */
    uint16_t thread;
    uint8_t bytes; /* of the word, a bit each */
    uint8_t atomic : 1;
    uint8_t others : 2; /* of reads: has any other thread read too? 1: of this warp, 2: of any */
};

/* What is known of four bytes of shared or device memory. */
struct cell {
    struct access written, read;
    uint8_t exist;  /* the bytes that belong to an allocation, a bit each */
    uint8_t known;  /* those that were ever written */
    bool in_flight; /* the target of a copy_async not yet waited for */
};

enum class state { runs, at_barrier, at_meeting, at_grid, ended };

struct thread {
    struct fiber fiber;
    struct block_run *block;
    int index; /* in the block */
    uint3 place;
    enum state state;
    struct place at; /* of the call that it waits in */
    /* Threads that meet at __syncwarp leave with one clock, higher than each had: an access with a
     * lower clock than one's own came before a meeting. */
    uint32_t clock;
    enum warp kind; /* of the meeting */
    unsigned mask;
    int source;
    uint64_t value;
    enum block barrier_kind;
    bool predicate;
    int result;
    struct copies *copies; /* that have not arrived */
    bool awaited;          /* the kernels before its own */
};

/* A block that runs. */
struct block_run {
    const struct launch *launch;
    uint3 place;
    uint32_t number, epoch;
    int n_threads;
    struct thread *threads;
    int window; /* its part of shared memory */
};

extern __thread struct thread *running; /* NULL: this thread is the host's */
extern uint32_t first_block_of_launch; /* blocks from this number on are not ordered */
extern uint32_t first_block_unseen;    /* the host has not waited for those from this number on */

uint32_t chance(uint32_t n); /* 0 .. n - 1 */

/* Ends the process with one line: what happened, and in which kernel, block and thread. */
[[noreturn]] void report(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* memory.cpp: device memory, and shared memory (a block's, the least that devices from sm_80 on
 * have) with a window for each block that runs at once. */
enum { WINDOWS_MAX = 64, SHARED_MAX = 99 << 10, SHARED_STATIC_MAX = 48 << 10 };
void *device_alloc(size_t size); /* not yet written, or NULL */
void device_free(void *p);
void device_check(const void *p, size_t size, const char *what); /* is all of it allocated? */
void device_written(void *p, size_t size);                       /* by the host or a copy */
void shared_begin(int window, size_t dynamic_size);
void copies_end(struct thread *t); /* none may be on its way when a thread ends */

/* stream.cpp */
bool arguments_hold(const void *p);

/* launch.cpp */
cudaError_t launch_admit(const void *kernel, struct launch *l); /* is it possible? */
void launch_run(const struct launch *l);
uint32_t launch_number(void);  /* for a copy: as if it were a block */
void launches_are_seen(void); /* the host has waited for all */
/* Before anything is asked of the device: the thread has chosen it, the last launch is checked. */
void call_begins(void);
void device_chosen(void); /* by this thread */
void error_set(cudaError_t error); /* for cudaGetLastError */
}
