/* Who runs next, of all requests that wait or run: deficit round robin over users, so that each
 * user who has work gets the same share of the machine, whatever the others ask for.
 *
 * Small steps of many requests share a pass: schedule_pick. A step that would fill a pass alone, or
 * whose graph takes longer than others should wait, is large: it has a pass of its own
 * (schedule_pick_large), in which it lets shared passes go first while its user owes them
 * (schedule_charge, schedule_owes). Costs are multiply-adds, predicted by the plan.
 *
 * Nobody starves: among users by the round, inside a user by the order of arrival, and for memory
 * because who has waited long enough is admitted before anyone else. No user can take everything:
 * beside what its first request needs, a user holds no more of places, pages and slab than it
 * leaves free, so that somebody new always finds room.
 *
 * Belongs to the engine thread. It knows neither time nor model, so that a test can run a million of
 * its passes. Nothing is allocated behind schedule_new.
 */
#pragma once
#include "../protocol/base.h"

struct account; /* a user's, for as long as there is a request of theirs */

struct holding { /* what a request takes from its start to its end */
    int places, pages;
    size_t slab_bytes;
};

struct turn { /* a request's place in the schedule; the request embeds it */
    uint64_t user;
    /* Of its next step, settled by the owner before schedule_add. */
    double cost;
    int rows, logits; /* that it takes of a shared pass */
    bool is_large;

    bool is_admitted;
    struct holding holds; /* set by admit_fn */
    /* The schedule's own. */
    int64_t since; /* the pass in which it came */
    bool is_in_large_pass;
    struct account *account;
    struct turn *next, *previous;
};

struct schedule_limits {
    int turns;          /* requests at once, waiting or running */
    int rows, logits;   /* of a shared pass; a step that is not large stays within them, */
    double cost;        /* and within this */
    struct holding all; /* of the machine */
};

/* Takes what the turn's request needs, at most `most`, and says in t->holds what it took. False, and
 * nothing changes, where it does not fit now. */
typedef bool admit_fn(void *context, struct turn *t, const struct holding *most);

struct schedule;

struct schedule *schedule_new(const struct schedule_limits *l, admit_fn *admit, void *context,
                              struct arena *a);

/* A new request, or one that comes back from a pass for its next step. */
void schedule_add(struct schedule *s, struct turn *t);

/* It is over, wherever it is: waiting, running or in a pass. Its holding is free again. */
void schedule_remove(struct schedule *s, struct turn *t);

/* The next shared pass: fills picked[0 .. n) with turns that are now in it, at most the limits'
 * rows. 0 where nobody has a small step that could run. Each comes back by schedule_add or leaves by
 * schedule_remove. */
int schedule_pick(struct schedule *s, struct turn **picked);

/* The next large step, or NULL. */
struct turn *schedule_pick_large(struct schedule *s);

/* What a large step has taken so far goes on its user's account; while that is in debt, shared
 * passes go first. */
void schedule_charge(struct schedule *s, struct turn *t, double cost);
bool schedule_owes(const struct schedule *s, const struct turn *t);

/* Asserts what must hold between calls. O(turns); for tests. */
void schedule_check(const struct schedule *s);
