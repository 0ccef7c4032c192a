/* Who runs next, of all requests that wait or run: deficit round robin over users (Shreedhar and
 * Varghese), so that each user who has work gets an equal part of the machine, whatever the others
 * ask for.
 *
 * Small steps of many requests share a pass: schedule_pick. A step that would fill a pass alone, or
 * whose graph takes longer than others should wait, is large: it has a pass of its own
 * (schedule_pick_large), one at a time, in which it lets shared passes go first while large steps
 * owe them (schedule_charge, schedule_owes). Costs are multiply-adds, predicted by the plan. A
 * step's price is the part of a pass that it takes, of its rows, its logits or its cost, whichever
 * is most: who asks for all logits and little else takes the pass from the others just as well.
 *
 * With n users who have requests,
 *  - who always has steps waiting gets 1/n of every pass, and equal parts of what others leave; it
 *    is never more than SCHEDULE_CREDIT_MAX passes behind, unless its steps do not pack;
 *  - the first step of a new user that takes at most 1/n of a pass is in one of the next two;
 *  - a step waits for room in at most SCHEDULE_WAIT_MAX(n) passes while it is its user's next,
 *    unless that user has large steps to pay for;
 *  - users with large steps get as much of the machine as the others, but together no more than
 *    every second pass while there are small steps: these wait for a pass's worth of large steps
 *    and one block, not for more. Among users with large steps, who would end first by cost goes
 *    first (self-clocked fair queueing, Golestani), so that nobody gains by making them larger.
 *
 * Memory: who has waited SCHEDULE_PATIENCE passes for its user's only request is admitted before
 * anyone else. Beside what its first request needs, a user holds no more of places, pages and slab
 * than it leaves free, so that somebody new finds room.
 *
 * Belongs to the engine thread. It knows neither time nor model, so that a test can run millions of
 * its passes. Nothing is allocated behind schedule_new.
 */
#pragma once
#include "../protocol/base.h"

enum {
    SCHEDULE_PATIENCE = 64,  /* passes: as long as a request with a reply of some length runs */
    SCHEDULE_CREDIT_MAX = 2, /* passes that a user saves up: one for the largest step, and one for
                                the wait until it is first */
};

/* Credit comes by 1/n a pass; then the n - 1 others who may be owed as much go first, each in the
 * second pass at the latest. */
#define SCHEDULE_WAIT_MAX(n) ((SCHEDULE_CREDIT_MAX + 2) * (n))

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
    double price;  /* of the next step, in passes */
    int64_t since; /* the pass in which it came */
    struct account *account;
    struct turn *next, *previous;
};

struct schedule_limits {
    int turns;          /* requests at once, waiting or running */
    int rows, logits;   /* of a shared pass; a step that is not large stays within them, */
    double cost;        /* and within this */
    struct holding all; /* of the machine */
};

/* Takes what the turn's request needs, at most `most`, and says in t->holds what it took: one
 * place, and what else. False, and nothing changes, where it does not fit now. It must fit where
 * nobody else holds anything. */
typedef bool admit_fn(void *context, struct turn *t, const struct holding *most);

struct schedule;

struct schedule *schedule_new(const struct schedule_limits *l, admit_fn *admit, void *context,
                              struct arena *a);

/* A new request, or one that comes back from a pass for its next step. */
void schedule_add(struct schedule *s, struct turn *t);

/* It is over, wherever it is: waiting, running or in a pass. Its holding is free again. */
void schedule_remove(struct schedule *s, struct turn *t);

/* The next shared pass: fills picked[0 .. n) with turns that are now in it, at most the limits'
 * rows. 0 where nobody has a small step that could run. Each comes back by schedule_add or leaves
 * by schedule_remove. */
int schedule_pick(struct schedule *s, struct turn **picked);

/* The next large step, or NULL. It is in its pass until schedule_add or schedule_remove; until then
 * there is no other. */
struct turn *schedule_pick_large(struct schedule *s);

/* What the large step has taken since the last call; and whether shared passes go first now. */
void schedule_charge(struct schedule *s, struct turn *t, double cost);
bool schedule_owes(const struct schedule *s, const struct turn *t);

/* Asserts what must hold between calls. O(turns); for tests. */
void schedule_check(const struct schedule *s);
