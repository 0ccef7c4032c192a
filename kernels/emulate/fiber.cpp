#include "fiber.h"
#include <assert.h>
#include <stdint.h>
#include <sys/mman.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#else
static void __sanitizer_start_switch_fiber(void **, const void *, size_t)
{
}
static void __sanitizer_finish_switch_fiber(void *, const void **, size_t *)
{
}
#endif

/* Saves the registers that a call keeps, and goes on where `to` was saved. */
extern "C" void fiber_jump(void **from, void *to);
#ifdef __x86_64__
enum { KEPT = 6 };
asm(R"(
.text
.globl fiber_jump
.hidden fiber_jump
.type fiber_jump, @function
fiber_jump:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
)");
#else
#error "the emulator knows how to change stacks on x86-64 only: add fiber_jump for this machine"
#endif

static char *stacks;             /* [FIBERS_MAX][FIBER_STACK] */
static void *host_sp, *host_fake; /* who entered the fiber that runs */
static const void *host_stack;
static size_t host_size;
static void (*first_function)(void);

static void begin(void)
{
    __sanitizer_finish_switch_fiber(nullptr, &host_stack, &host_size);
    first_function();
}

void fiber_start(struct fiber *f, int i, void (*run)(void))
{
    assert(i < FIBERS_MAX);
    if (!stacks) {
        stacks = static_cast<char *>(mmap(nullptr, (size_t)FIBERS_MAX * FIBER_STACK,
                                          PROT_READ | PROT_WRITE,
                                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        assert(stacks != MAP_FAILED);
    }
    if (!f->stack) {
        f->stack = stacks + (size_t)i * FIBER_STACK;
        assert(mprotect(f->stack, 4096, PROT_NONE) == 0);
    }
    first_function = run;
    void **sp = reinterpret_cast<void **>(f->stack + FIBER_STACK - 64);
    *--sp = nullptr; /* what `begin` would return to */
    *--sp = reinterpret_cast<void *>(begin);
    for (int k = 0; k < KEPT; k++)
        *--sp = nullptr;
    f->sp = sp;
}

void fiber_enter(struct fiber *f)
{
    __sanitizer_start_switch_fiber(&host_fake, f->stack, FIBER_STACK);
    fiber_jump(&host_sp, f->sp);
    __sanitizer_finish_switch_fiber(host_fake, nullptr, nullptr);
}

void fiber_leave(struct fiber *f)
{
    __sanitizer_start_switch_fiber(&f->fake, host_stack, host_size);
    fiber_jump(&f->sp, host_sp);
    __sanitizer_finish_switch_fiber(f->fake, &host_stack, &host_size);
}

void fiber_end(struct fiber *f)
{
    __sanitizer_start_switch_fiber(nullptr, host_stack, host_size);
    fiber_jump(&f->sp, host_sp);
    __builtin_unreachable();
}

bool fiber_holds(const void *p)
{
    return stacks
           && (uintptr_t)p - (uintptr_t)stacks < (uintptr_t)FIBERS_MAX * FIBER_STACK;
}
