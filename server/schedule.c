#include "schedule.h"
#include <math.h>

enum {
    BUCKETS = 1024,
    PATIENCE = 64 /* passes that a request waits for memory before nobody else is admitted */
};

struct list {
    struct turn *first, *last;
};

struct account {
    uint64_t user;
    double deficit; /* what it may still spend; below zero it owes */
    int n_turns;
    int n_large_passes;      /* of its turns that are in a pass of their own now */
    struct list lists[2][2]; /* turns that are in no pass: [large][admitted], oldest first */
    struct holding holds;
    bool is_full;          /* in this pick: its next turn does not fit into the pass any more */
    bool is_blocked;       /* in this pick: its next turn finds no memory */
    struct account *chain; /* in its bucket, or of the unused ones */
    struct account *next, *previous; /* in the ring */
};

struct schedule {
    struct schedule_limits limits;
    admit_fn *admit;
    void *context;
    struct account *buckets[BUCKETS], *unused;
    struct account *ring; /* whose turn it is first in the next pick, or NULL */
    int n_accounts, n_turns;
    struct holding left;
    struct turn *starving; /* nobody is admitted before it */
    int64_t n_passes;
    /* What is left of the pass that is being picked. */
    int rows, logits;
    double cost;
    struct turn **picked;
    int n_picked;
};

struct schedule *schedule_new(const struct schedule_limits *l, admit_fn *admit, void *context,
                              struct arena *a)
{
    struct schedule *s = ARENA_NEW(a, struct schedule);
    s->limits = *l;
    s->admit = admit;
    s->context = context;
    s->left = l->all;
    struct account *accounts = ARENA_ARRAY(a, struct account, (size_t)l->turns);
    for (int i = l->turns; i > 0; i--) {
        accounts[i - 1].chain = s->unused;
        s->unused = &accounts[i - 1];
    }
    return s;
}

/* Lists. */

static void append(struct list *l, struct turn *t)
{
    t->next = NULL;
    t->previous = l->last;
    if (l->last)
        l->last->next = t;
    else
        l->first = t;
    l->last = t;
}

static void unlink_turn(struct list *l, struct turn *t)
{
    if (t->previous)
        t->previous->next = t->next;
    else
        l->first = t->next;
    if (t->next)
        t->next->previous = t->previous;
    else
        l->last = t->previous;
    t->next = t->previous = NULL;
}

static struct list *list_of(const struct turn *t)
{
    return &t->account->lists[t->is_large][t->is_admitted];
}

static bool is_listed(const struct turn *t)
{
    return t->previous || list_of(t)->first == t;
}

/* Accounts. */

static struct account **bucket_of(struct schedule *s, uint64_t user)
{
    return &s->buckets[(user * UINT64_C(0x9e3779b97f4a7c15)) >> 54];
}

/* Who is new goes first in the next pick. */
static void ring_enter(struct schedule *s, struct account *a)
{
    a->next = s->ring ? s->ring : a;
    a->previous = s->ring ? s->ring->previous : a;
    a->next->previous = a;
    a->previous->next = a;
    s->ring = a;
    s->n_accounts++;
}

static void ring_leave(struct schedule *s, struct account *a)
{
    a->next->previous = a->previous;
    a->previous->next = a->next;
    if (s->ring == a)
        s->ring = a->next == a ? NULL : a->next;
    s->n_accounts--;
}

static struct account *account_of(struct schedule *s, uint64_t user)
{
    struct account **bucket = bucket_of(s, user);
    for (struct account *a = *bucket; a; a = a->chain)
        if (a->user == user)
            return a;
    struct account *a = s->unused;
    assert(a);
    s->unused = a->chain;
    *a = (struct account){.user = user, .chain = *bucket};
    *bucket = a;
    ring_enter(s, a);
    return a;
}

static void account_close(struct schedule *s, struct account *a)
{
    struct account **at = bucket_of(s, a->user);
    while (*at != a)
        at = &(*at)->chain;
    *at = a->chain;
    ring_leave(s, a);
    a->chain = s->unused;
    s->unused = a;
}

static void leave_large_pass(struct turn *t)
{
    t->account->n_large_passes -= t->is_in_large_pass;
    t->is_in_large_pass = false;
}

void schedule_add(struct schedule *s, struct turn *t)
{
    if (t->account) {
        leave_large_pass(t);
    } else {
        assert(s->n_turns < s->limits.turns);
        t->account = account_of(s, t->user);
        t->account->n_turns++;
        t->since = s->n_passes;
        s->n_turns++;
    }
    assert(t->cost >= 0 && t->rows > 0);
    assert(t->is_large || (t->rows <= s->limits.rows && t->logits <= s->limits.logits &&
                           t->cost <= s->limits.cost));
    append(list_of(t), t);
}

void schedule_remove(struct schedule *s, struct turn *t)
{
    struct account *a = t->account;
    if (is_listed(t))
        unlink_turn(list_of(t), t);
    leave_large_pass(t);
    if (s->starving == t)
        s->starving = NULL;
    if (t->is_admitted) {
        s->left.places += t->holds.places;
        s->left.pages += t->holds.pages;
        s->left.slab_bytes += t->holds.slab_bytes;
        a->holds.places -= t->holds.places;
        a->holds.pages -= t->holds.pages;
        a->holds.slab_bytes -= t->holds.slab_bytes;
    }
    t->account = NULL;
    s->n_turns--;
    if (--a->n_turns == 0)
        account_close(s, a);
}

/* Memory. */

/* A user may hold no more than it leaves free: holds + x <= left - x. */
static int64_t share(int64_t left, int64_t holds)
{
    return left > holds ? (left - holds) / 2 : 0;
}

static struct holding most_for(const struct schedule *s, const struct account *a)
{
    if (a->holds.places == 0)
        return s->left;
    return (struct holding){
        .places = (int)share(s->left.places, a->holds.places),
        .pages = (int)share(s->left.pages, a->holds.pages),
        .slab_bytes =
            (size_t)share((int64_t)s->left.slab_bytes, (int64_t)a->holds.slab_bytes)};
}

static bool admit(struct schedule *s, struct turn *t)
{
    struct account *a = t->account;
    if (s->starving && s->starving != t)
        return false;
    const struct holding most = most_for(s, a);
    if (most.places < 1 || !s->admit(s->context, t, &most)) {
        if (a->holds.places == 0 && s->n_passes - t->since >= PATIENCE)
            s->starving = t;
        return false;
    }
    assert(t->holds.places == 1 && t->holds.pages <= most.pages);
    assert(t->holds.slab_bytes <= most.slab_bytes);
    s->left.places -= t->holds.places;
    s->left.pages -= t->holds.pages;
    s->left.slab_bytes -= t->holds.slab_bytes;
    a->holds.places += t->holds.places;
    a->holds.pages += t->holds.pages;
    a->holds.slab_bytes += t->holds.slab_bytes;
    if (s->starving == t)
        s->starving = NULL;
    return true;
}

/* Out of its list, admitted if it was not: what remains is to run it. */
static bool take(struct schedule *s, struct turn *t)
{
    struct list *l = list_of(t);
    if (!t->is_admitted && !admit(s, t))
        return false;
    unlink_turn(l, t);
    t->is_admitted = true;
    return true;
}

/* The shared pass. */

/* What has begun goes on before something new begins. */
static struct turn *next_small(const struct account *a)
{
    if (a->is_full)
        return NULL;
    struct turn *t = a->lists[false][true].first;
    return t || a->is_blocked ? t : a->lists[false][false].first;
}

static bool fits(const struct schedule *s, const struct turn *t)
{
    return t->rows <= s->rows && t->logits <= s->logits && t->cost <= s->cost;
}

static void serve(struct schedule *s, struct account *a)
{
    for (struct turn *t; (t = next_small(a)) && t->cost <= a->deficit;) {
        if (!fits(s, t)) {
            a->is_full = true;
        } else if (!take(s, t)) {
            a->is_blocked = true;
        } else {
            a->deficit -= t->cost;
            s->rows -= t->rows;
            s->logits -= t->logits;
            s->cost -= t->cost;
            s->picked[s->n_picked++] = t;
        }
    }
}

static bool has_large(const struct account *a)
{
    return a->n_large_passes > 0 || a->lists[true][false].first || a->lists[true][true].first;
}

/* One round: each gets `grant` more to spend. Returns the least that anyone lacks for a turn that
 * might still fit, or INFINITY. */
static double serve_round(struct schedule *s, double grant)
{
    double least = INFINITY;
    struct account *a = s->ring;
    for (int i = 0; i < s->n_accounts; i++, a = a->next) {
        a->deficit = fmin(a->deficit + grant, s->limits.cost);
        serve(s, a);
        const struct turn *t = next_small(a);
        if (t)
            least = fmin(least, t->cost - a->deficit);
    }
    return least;
}

/* The next pick begins with the first who found the pass full, else where this one began. */
static void settle_round(struct schedule *s)
{
    struct account *a = s->ring, *first_full = NULL;
    for (int i = 0; i < s->n_accounts; i++, a = a->next) {
        if (a->is_full && !first_full)
            first_full = a;
        /* Nobody saves up for later, but for what could not run now. */
        if (!a->is_full && !a->is_blocked && !a->lists[false][false].first &&
            !a->lists[false][true].first && !has_large(a))
            a->deficit = fmin(a->deficit, 0);
    }
    if (first_full)
        s->ring = first_full;
}

/* Where nothing small could run, debts matter only beside one another. */
static void forgive(struct schedule *s)
{
    double most = -INFINITY;
    struct account *a = s->ring;
    for (int i = 0; i < s->n_accounts; i++, a = a->next)
        most = fmax(most, a->deficit);
    for (int i = 0; i < s->n_accounts && most < 0; i++, a = a->next)
        a->deficit -= most;
}

static void forget_obstacles(struct schedule *s)
{
    struct account *a = s->ring;
    for (int i = 0; i < s->n_accounts; i++, a = a->next)
        a->is_full = a->is_blocked = false;
}

int schedule_pick(struct schedule *s, struct turn **picked)
{
    s->rows = s->limits.rows;
    s->logits = s->limits.logits;
    s->cost = s->limits.cost;
    s->picked = picked;
    s->n_picked = 0;
    s->n_passes++;
    forget_obstacles(s);
    if (s->n_accounts == 0)
        return 0;
    const double quantum = s->limits.cost / s->n_accounts;
    for (double grant = quantum; isfinite(grant);) {
        const double lacks = serve_round(s, grant);
        grant = quantum * fmax(1, ceil(lacks / quantum));
    }
    settle_round(s);
    if (s->n_picked == 0)
        forgive(s);
    return s->n_picked;
}

/* Large steps. */

/* The least indebted user who has one, has not been refused, and what has begun before what is
 * new. */
static struct account *best_large(const struct schedule *s, bool admitted)
{
    struct account *best = NULL, *a = s->ring;
    for (int i = 0; i < s->n_accounts; i++, a = a->next) {
        if (!a->is_blocked && a->lists[true][admitted].first &&
            (!best || a->deficit > best->deficit))
            best = a;
    }
    return best;
}

struct turn *schedule_pick_large(struct schedule *s)
{
    forget_obstacles(s);
    struct account *a = best_large(s, true);
    bool admitted = a != NULL;
    while (a || (a = best_large(s, false))) {
        struct turn *t = a->lists[true][admitted].first;
        if (take(s, t)) {
            t->is_in_large_pass = true;
            a->n_large_passes++;
            return t;
        }
        a->is_blocked = true;
        a = NULL;
    }
    return NULL;
}

void schedule_charge(struct schedule *s, struct turn *t, double cost)
{
    (void)s;
    t->account->deficit -= cost;
}

bool schedule_owes(const struct schedule *s, const struct turn *t)
{
    (void)s;
    return t->account->deficit < 0;
}

void schedule_check(const struct schedule *s)
{
    int n_turns = 0, n_accounts = 0;
    struct holding held = {0};
    const struct account *a = s->ring;
    for (int i = 0; i < s->n_accounts; i++, a = a->next) {
        assert(a->n_turns > 0 && a->next->previous == a);
        assert(isfinite(a->deficit) && a->deficit <= s->limits.cost);
        int n_listed = 0;
        for (int k = 0; k < 4; k++)
            for (const struct turn *t = a->lists[k / 2][k % 2].first; t; t = t->next) {
                assert(t->account == a && t->is_large == k / 2 && t->is_admitted == k % 2);
                n_listed++;
            }
        assert(n_listed + a->n_large_passes <= a->n_turns);
        n_turns += a->n_turns;
        n_accounts++;
        held.places += a->holds.places;
        held.pages += a->holds.pages;
        held.slab_bytes += a->holds.slab_bytes;
    }
    assert(n_turns == s->n_turns && (n_accounts > 0) == (s->ring != NULL));
    assert(held.places + s->left.places == s->limits.all.places);
    assert(held.pages + s->left.pages == s->limits.all.pages);
    assert(held.slab_bytes + s->left.slab_bytes == s->limits.all.slab_bytes);
}
