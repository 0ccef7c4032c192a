#include "schedule.h"
#include <math.h>

enum {
    BUCKETS = 1024,
    REFUSALS_MAX = 64 /* rounds of a pick in which memory alone stops who has room */
};

struct list {
    struct turn *first, *last;
};

struct account {
    uint64_t user;
    double credit;   /* passes that it may still take; below zero it owes */
    double saved;    /* of that, from the passes before this one */
    double lane_tag; /* where its next large step begins in the order of them, in passes */
    int n_turns;
    struct list lists[2][2]; /* turns that are in no pass: [large][admitted], oldest first */
    struct holding holds;
    bool is_new; /* nothing of it has run yet */
    /* In this pick: */
    bool is_served;        /* a turn of its is in the pass */
    bool is_full;          /* its next turn does not fit into the pass any more */
    bool is_blocked;       /* its next turn finds no memory */
    struct account *chain; /* in its bucket, or of the unused ones */
    struct account *next, *previous; /* in the ring */
};

struct schedule {
    struct schedule_limits limits;
    admit_fn *admit;
    void *context;
    struct account *buckets[BUCKETS], *unused;
    struct account *ring; /* who is first in the next pick, or NULL */
    int n_accounts, n_turns;
    struct holding left;
    struct turn *starving; /* nobody is admitted before it */
    int64_t n_passes;
    struct turn *large; /* in a pass of its own, or NULL */
    double lane_clock;  /* where the large step that was picked last ends in the order of them */
    double lane_owes;   /* passes that large steps have taken and not let others have; below zero
                           they may still take some */
    /* What is left of the pass that is being picked. */
    int rows, logits;
    double cost;
    double spent; /* the prices of what is in it */
    struct turn **picked;
    int n_picked;
    struct account **active; /* who may still get more of it; or who has a large step, a heap */
    int n_active;
};

struct schedule *schedule_new(const struct schedule_limits *l, admit_fn *admit, void *context,
                              struct arena *a)
{
    struct schedule *s = ARENA_NEW(a, struct schedule);
    s->limits = *l;
    s->admit = admit;
    s->context = context;
    s->left = l->all;
    s->active = ARENA_ARRAY(a, struct account *, (size_t)l->turns);
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
    return &s->buckets[user % BUCKETS]; /* a hash already */
}

/* Behind all others. */
static void ring_enter(struct schedule *s, struct account *a)
{
    a->next = s->ring ? s->ring : a;
    a->previous = s->ring ? s->ring->previous : a;
    a->next->previous = a;
    a->previous->next = a;
    if (!s->ring)
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
    *a = (struct account){.user = user, .is_new = true, .chain = *bucket};
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

static bool has_large(const struct schedule *s, const struct account *a)
{
    return a->lists[true][false].first || a->lists[true][true].first ||
           (s->large && s->large->account == a);
}

/* The part of a pass that a step takes, of what it takes most of. */
static double price_of(const struct schedule *s, const struct turn *t)
{
    const struct schedule_limits *l = &s->limits;
    return t->is_large ? t->cost / l->cost
                       : fmax(t->cost / l->cost,
                              fmax((double)t->rows / l->rows, (double)t->logits / l->logits));
}

void schedule_add(struct schedule *s, struct turn *t)
{
    assert(t->cost >= 0 && t->rows > 0);
    assert(t->is_large || (t->rows <= s->limits.rows && t->logits <= s->limits.logits &&
                           t->cost <= s->limits.cost));
    if (!t->account) {
        assert(s->n_turns < s->limits.turns);
        t->account = account_of(s, t->user);
        t->account->n_turns++;
        t->since = s->n_passes;
        s->n_turns++;
    }
    assert(!is_listed(t));
    /* Who had no large step begins where the others are: nobody saves up for one. */
    if (t->is_large && !has_large(s, t->account))
        t->account->lane_tag = fmax(t->account->lane_tag, s->lane_clock);
    if (s->large == t)
        s->large = NULL;
    t->price = price_of(s, t);
    append(list_of(t), t);
}

static void move(struct holding *from, struct holding *to, const struct holding *x)
{
    from->places -= x->places;
    from->pages -= x->pages;
    from->slab_bytes -= x->slab_bytes;
    to->places += x->places;
    to->pages += x->pages;
    to->slab_bytes += x->slab_bytes;
}

void schedule_remove(struct schedule *s, struct turn *t)
{
    struct account *a = t->account;
    if (is_listed(t))
        unlink_turn(list_of(t), t);
    if (s->large == t)
        s->large = NULL;
    if (s->starving == t)
        s->starving = NULL;
    if (t->is_admitted)
        move(&a->holds, &s->left, &t->holds);
    t->account = NULL;
    t->is_admitted = false;
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
        if (a->holds.places == 0 && s->n_passes - t->since >= SCHEDULE_PATIENCE)
            s->starving = t;
        return false;
    }
    assert(t->holds.places == 1 && t->holds.pages <= most.pages);
    assert(t->holds.slab_bytes <= most.slab_bytes);
    move(&s->left, &a->holds, &t->holds);
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
    t->account->is_new = false;
    return true;
}

/* The shared pass. */

/* The user's next turn that nothing but room could stop, or NULL. What has begun goes on before
 * something new begins. */
static struct turn *next_small(const struct account *a)
{
    struct turn *t = a->lists[false][true].first;
    return t || a->is_blocked ? t : a->lists[false][false].first;
}

/* The same where there is room for it in the pass. */
static struct turn *next_that_fits(const struct schedule *s, struct account *a)
{
    struct turn *t = next_small(a);
    a->is_full |= t && (t->rows > s->rows || t->logits > s->logits || t->cost > s->cost);
    return a->is_full ? NULL : t;
}

static bool put_into_pass(struct schedule *s, struct turn *t)
{
    struct account *a = t->account;
    if (!take(s, t)) {
        a->is_blocked = true;
        return false;
    }
    a->is_served = true;
    s->rows -= t->rows;
    s->logits -= t->logits;
    s->cost -= t->cost;
    s->spent += t->price;
    s->picked[s->n_picked++] = t;
    return true;
}

static bool put_and_charge(struct schedule *s, struct turn *t)
{
    struct account *a = t->account;
    if (!put_into_pass(s, t))
        return false;
    a->credit -= t->price;
    return true;
}

/* In every second pass who is new goes before all others, with a turn that is no more than their
 * part of it: together they fit. */
static void serve_new(struct schedule *s, double part)
{
    struct account *a = s->ring;
    for (int i = 0; i < s->n_accounts; i++, a = a->next) {
        struct turn *t = a->is_new ? next_that_fits(s, a) : NULL;
        if (t && t->price <= part)
            put_and_charge(s, t);
    }
}

/* Who is owed most may begin with what it has saved, in the passes between with the whole pass. */
static void serve_first(struct schedule *s, double part)
{
    struct account *a = s->ring;
    struct turn *t = next_that_fits(s, a);
    if (t && t->price <= a->credit && (t->price > part || t->price <= a->saved) &&
        put_and_charge(s, t))
        a->saved = fmax(a->saved - t->price, 0);
}

static void serve(struct schedule *s, struct account *a, double keeps)
{
    for (struct turn *t; (t = next_that_fits(s, a)) && t->price <= a->credit - keeps;)
        put_and_charge(s, t);
}

/* Each gets its part, and each may use that before anyone uses what it has saved. */
static void serve_parts(struct schedule *s, double part)
{
    struct account *a = s->ring;
    for (int i = 0; i < s->n_accounts; i++, a = a->next) {
        a->saved = fmax(a->credit, 0);
        a->credit += part;
    }
    if (s->n_passes % 2)
        serve_new(s, part);
    serve_first(s, part);
    for (int i = 0; i < s->n_accounts; i++, a = a->next) {
        serve(s, a, a->saved);
        s->active[s->n_active++] = a;
    }
}

/* Keeps those active for whose next turn there is room. Returns the least that anyone of them lacks
 * for it who is not in debt, or INFINITY; below zero, somebody has saved enough. */
static double least_lacking(struct schedule *s)
{
    double least = INFINITY;
    const int n = s->n_active;
    s->n_active = 0;
    for (int i = 0; i < n; i++) {
        struct account *a = s->active[i];
        const struct turn *t = next_that_fits(s, a);
        if (!t)
            continue;
        s->active[s->n_active++] = a;
        if (a->credit >= 0)
            least = fmin(least, t->price - a->credit);
    }
    return least;
}

/* What is left of the pass goes to savings, then in equal parts to those who can still use it: as
 * little at once as lets somebody go on, or more where memory refuses one after the other. Who is
 * in debt, for large steps, comes last and has for nothing what nobody else wants. */
static void serve_rest(struct schedule *s)
{
    double grant_min = 0;
    for (double lacks; isfinite(lacks = least_lacking(s));) {
        const int n_before = s->n_picked;
        for (int i = 0; i < s->n_active; i++) {
            struct account *a = s->active[i];
            if (a->credit < 0)
                continue;
            a->credit += fmax(lacks, grant_min);
            serve(s, a, 0);
        }
        grant_min = s->n_picked == n_before ? 1.0 / REFUSALS_MAX : 0;
    }
    for (int i = 0; i < s->n_active; i++) {
        for (struct turn *t; (t = next_that_fits(s, s->active[i]));)
            put_into_pass(s, t);
    }
}

/* Nobody saves up much, and who has nothing that could run saves nothing. Room in which nobody's
 * next turn fits is put down to those who were served last. */
static void settle(struct schedule *s)
{
    int n = 0;
    struct account *a = s->ring;
    for (int i = 0; i < s->n_accounts; i++, a = a->next)
        n += a->is_served && a->is_full;
    const double waste = n ? fmax(1 - s->spent, 0) / n : 0;
    for (int i = 0; i < s->n_accounts; i++, a = a->next) {
        if (a->is_served && a->is_full)
            a->credit = fmax(a->credit - waste, fmin(a->credit, 0));
        a->credit = fmin(a->credit, next_small(a) ? SCHEDULE_CREDIT_MAX : 0);
    }
}

/* The next pick begins with who is owed most of those who found the pass full and can pay then;
 * among equals, with who comes first in the ring, behind who was first in this one. */
static void turn_ring(struct schedule *s, double part)
{
    struct account *a = s->ring->is_served ? s->ring->next : s->ring, *best = NULL;
    for (int i = 0; i < s->n_accounts; i++, a = a->next) {
        if (a->is_full && next_small(a)->price <= a->credit + part &&
            (!best || a->credit > best->credit))
            best = a;
    }
    if (best)
        s->ring = best;
}

/* Large steps have had what this pass pays for, their users' part beside the others': no more than
 * a pass of it, so that nobody waits longer for the next. */
static void pay_lane(struct schedule *s)
{
    int n_large = 0;
    struct account *a = s->ring;
    for (int i = 0; i < s->n_accounts; i++, a = a->next)
        n_large += has_large(s, a);
    const int n_others = s->n_accounts - n_large;
    const double paid = n_large >= n_others ? 1 : fmax(n_large, 1) / n_others;
    s->lane_owes = fmax(s->lane_owes - paid, n_large ? -1 : 0);
}

/* Nobody else could have used what was taken. */
static void forgive(struct schedule *s)
{
    struct account *a = s->ring;
    for (int i = 0; i < s->n_accounts; i++, a = a->next)
        a->credit = fmax(a->credit, 0);
    s->lane_owes = fmin(s->lane_owes, 0);
}

static void begin_pick(struct schedule *s)
{
    s->rows = s->limits.rows;
    s->logits = s->limits.logits;
    s->cost = s->limits.cost;
    s->n_picked = s->n_active = 0;
    s->spent = 0;
    s->n_passes++;
    struct account *a = s->ring;
    for (int i = 0; i < s->n_accounts; i++, a = a->next)
        a->is_served = a->is_full = a->is_blocked = false;
}

int schedule_pick(struct schedule *s, struct turn **picked)
{
    s->picked = picked;
    begin_pick(s);
    if (s->n_accounts == 0)
        return 0;
    const double part = 1.0 / s->n_accounts;
    serve_parts(s, part);
    serve_rest(s);
    settle(s);
    turn_ring(s, part);
    if (s->n_picked == 0)
        forgive(s);
    else
        pay_lane(s);
    return s->n_picked;
}

/* Large steps. */

/* What has begun goes on before something new begins. */
static struct turn *next_large(const struct account *a)
{
    struct turn *t = a->lists[true][true].first;
    return t ? t : a->lists[true][false].first;
}

/* Where its next large step would end in the order of them. */
static double end_of(const struct account *a)
{
    return a->lane_tag + next_large(a)->price;
}

/* The active accounts are a heap: none ends before the one at half its index. */
static void sift(struct schedule *s, int at)
{
    struct account **heap = s->active, *a = heap[at];
    for (int below; (below = 2 * at + 1) < s->n_active; at = below) {
        if (below + 1 < s->n_active && end_of(heap[below + 1]) < end_of(heap[below]))
            below++;
        if (end_of(a) <= end_of(heap[below]))
            break;
        heap[at] = heap[below];
    }
    heap[at] = a;
}

static void heap_large(struct schedule *s)
{
    s->n_active = 0;
    struct account *a = s->ring;
    for (int i = 0; i < s->n_accounts; i++, a = a->next) {
        a->is_blocked = false;
        if (next_large(a))
            s->active[s->n_active++] = a;
    }
    for (int i = s->n_active / 2; i > 0; i--)
        sift(s, i - 1);
}

/* Nobody saves up while memory is what stops them. */
static void pass_over_blocked(struct schedule *s)
{
    struct account *a = s->ring;
    for (int i = 0; i < s->n_accounts; i++, a = a->next) {
        if (a->is_blocked)
            a->lane_tag = fmax(a->lane_tag, s->lane_clock);
    }
}

/* Who would end first goes first. */
struct turn *schedule_pick_large(struct schedule *s)
{
    assert(!s->large);
    heap_large(s);
    while (s->n_active > 0 && !s->large) {
        struct account *a = s->active[0];
        struct turn *t = next_large(a);
        const double end = end_of(a);
        s->active[0] = s->active[--s->n_active];
        if (s->n_active > 0)
            sift(s, 0);
        if (take(s, t)) {
            s->large = t;
            s->lane_clock = fmax(s->lane_clock, end);
        } else {
            a->is_blocked = true;
        }
    }
    pass_over_blocked(s);
    return s->large;
}

/* Its user's credit goes down by what the others did not get of it. */
void schedule_charge(struct schedule *s, struct turn *t, double cost)
{
    assert(s->large == t);
    const double passes = cost / s->limits.cost;
    t->account->credit -= passes * (1 - 1.0 / s->n_accounts);
    t->account->lane_tag += passes;
    s->lane_owes += passes;
}

bool schedule_owes(const struct schedule *s, const struct turn *t)
{
    assert(s->large == t);
    return s->lane_owes > 0;
}

void schedule_check(const struct schedule *s)
{
    int n_turns = 0, n_accounts = 0;
    struct holding held = {0};
    const struct account *a = s->ring;
    for (int i = 0; i < s->n_accounts; i++, a = a->next) {
        assert(a->n_turns > 0 && a->next->previous == a);
        assert(isfinite(a->credit) && a->credit <= SCHEDULE_CREDIT_MAX);
        int n_listed = 0;
        for (int k = 0; k < 4; k++)
            for (const struct turn *t = a->lists[k / 2][k % 2].first; t; t = t->next) {
                assert(t->account == a && t->is_large == k / 2 && t->is_admitted == k % 2);
                n_listed++;
            }
        assert(n_listed + (s->large && s->large->account == a) <= a->n_turns);
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
