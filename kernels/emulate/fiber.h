/* Fibers: functions with stacks of their own, between which one thread jumps. One fiber at a time
 * runs; whoever entered it goes on when it leaves. */
#pragma once
#include <stddef.h>

struct fiber {
    void *sp;    /* where it left */
    char *stack; /* FIBER_STACK bytes, the lowest page unreadable */
    void *fake;  /* the address sanitizer's own */
};

enum { FIBER_STACK = 128 << 10, FIBERS_MAX = 8192 };

/* Readies fiber number `i` to begin at `run` when it is next entered. */
void fiber_start(struct fiber *f, int i, void (*run)(void));
void fiber_enter(struct fiber *f);
void fiber_leave(struct fiber *f); /* inside it; returns when it is entered again */
[[noreturn]] void fiber_end(struct fiber *f);

/* Whether an address lies in any fiber's stack. */
bool fiber_holds(const void *p);
