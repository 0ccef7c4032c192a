/* A deterministic simulation of server/schedule.c and of the engine's loop around it, with a
 * virtual clock: random users, requests, limits and cancels from a seed, and what must hold after
 * each call. Used by schedule_tool.c and unit/test_schedule.c.
 *
 * A pass is the unit of prices: 1 is the whole of its rows, its logits or its cost. */
#pragma once
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../server/schedule.h"

enum {
    SIM_USERS = 40,
    SIM_JOBS = 256, /* at once */
    SIM_BLOCKS = 6  /* of a large step, at most */
};

/* Over any time in which users always have steps waiting, of which each is at most SIM_FINE of a
 * pass so that they pack: how many passes one may fall behind its equal part of each, and behind
 * another. All save up from none to SCHEDULE_CREDIT_MAX. The second holds only where rows, logits
 * and cost say the same: who needs what is scarce gets less than who needs what is left. */
#define SIM_BEHIND_MAX SCHEDULE_CREDIT_MAX
#define SIM_APART_MAX (2 * SCHEDULE_CREDIT_MAX)
#define SIM_FINE 0.125

enum sim_state {
    SIM_unused,
    SIM_listed,
    SIM_in_pass
};

enum sim_kind {
    SIM_flooding, /* many requests at once, always */
    SIM_single,   /* the next as soon as the last is over */
    SIM_seldom,
    SIM_heavy, /* like the first, and most of its steps are large */
    SIM_KINDS
};

struct sim_job {
    struct turn turn;
    enum sim_state state;
    int64_t order; /* of its coming into its list */
    int steps_left;
    double step_cost; /* of its later steps */
    int step_rows;
    bool is_heavy;
    struct holding needs;
};

struct sim_user {
    enum sim_kind kind;
    int crowd;   /* requests at once */
    double size; /* of a pass, that its small steps take at most */
    int n_jobs;
    struct holding holds;
    /* Of the pick that was made last: */
    struct sim_job *next, *next_large; /* its next steps, or NULL */
    double served;
    bool is_ready; /* memory does not stop its next small step */
    /* Since it came: */
    bool is_new, new_is_excused; /* nothing of it has run, and that may be */
    int new_picks, new_users_max;
    bool had_large;
    double largest, large_max; /* of its small and of its large steps */
    int n_waited;              /* passes in which its next step found no room */
    double behind;             /* its part, by the most over any window that ends now; */
    double ahead_of[SIM_USERS], lane_ahead_of[SIM_USERS]; /* others in the same way */
    double lane_served;                                   /* in this large pass */
    bool lane_was_ready; /* it had a large step when this one was picked */
};

struct sim {
    uint64_t random;
    struct schedule_limits limits;
    bool has_plenty;      /* of memory */
    bool has_one_measure; /* rows, logits and cost say the same of each step */
    int cancel_percent, steps_max;
    struct schedule *schedule;
    struct arena arena;
    struct sim_job jobs[SIM_JOBS];
    struct sim_user users[SIM_USERS];
    int n_users, n_active, n_active_max, n_jobs; /* active: with requests */
    struct holding left;
    struct turn *starving;
    bool may_starve;   /* somebody else, whom sim_admit was not asked for as no place was free */
    bool was_starving; /* anybody, at some time in this pick */
    int64_t n_picks, n_events, n_ticks_left;
    int64_t n_added, n_done, n_cancelled;
    double lane_since; /* what large steps took since the last shared pass and were waited for */
    double behind_most, ahead_most, lane_ahead_most; /* how close the bounds were reached */
    int waited_most;
    char what[160]; /* the first thing that did not hold */
};

/* Random numbers: splitmix64. */
static inline uint64_t sim_bits(struct sim *m)
{
    uint64_t z = m->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static inline int sim_below(struct sim *m, int n)
{
    return (int)(sim_bits(m) % (uint64_t)n);
}

static inline int sim_between(struct sim *m, int least, int most)
{
    return least + sim_below(m, most - least + 1);
}

/* Small ones as often as large ones. */
static inline int sim_scale(struct sim *m, int most)
{
    return sim_between(m, 1, sim_between(m, 1, sim_between(m, 1, most)));
}

static inline void sim_expect(struct sim *m, bool holds, const char *what, double number)
{
    if (!holds && !m->what[0])
        snprintf(m->what, sizeof m->what, "%s (%g) at pick %lld", what, number,
                 (long long)m->n_picks);
}

static inline struct sim_user *sim_user_of(struct sim *m, const struct turn *t)
{
    return &m->users[t->user];
}

/* Memory, as the schedule's header states it. */

static inline int64_t sim_share(int64_t left, int64_t holds)
{
    return left > holds ? (left - holds) / 2 : 0;
}

static inline struct holding sim_most(const struct sim *m, const struct sim_user *u)
{
    if (u->holds.places == 0)
        return m->left;
    return (struct holding){
        (int)sim_share(m->left.places, u->holds.places),
        (int)sim_share(m->left.pages, u->holds.pages),
        (size_t)sim_share((int64_t)m->left.slab_bytes, (int64_t)u->holds.slab_bytes)};
}

static inline bool sim_is_admissible(struct sim *m, const struct sim_job *j)
{
    if (j->turn.is_admitted)
        return true;
    const struct holding most = sim_most(m, sim_user_of(m, &j->turn));
    return !m->may_starve && (!m->starving || m->starving == &j->turn) && most.places >= 1 &&
           j->needs.pages <= most.pages && j->needs.slab_bytes <= most.slab_bytes;
}

static inline void sim_hold(struct holding *to, struct holding *from, const struct holding *h)
{
    to->places += h->places;
    to->pages += h->pages;
    to->slab_bytes += h->slab_bytes;
    from->places -= h->places;
    from->pages -= h->pages;
    from->slab_bytes -= h->slab_bytes;
}

static inline bool sim_admit(void *context, struct turn *t, const struct holding *most)
{
    struct sim *m = context;
    struct sim_job *j = (struct sim_job *)t;
    struct sim_user *u = sim_user_of(m, t);
    const struct holding spec = sim_most(m, u);
    sim_expect(m, !m->starving || m->starving == t, "somebody overtakes who starves", 0);
    sim_expect(m,
               most->places == spec.places && most->pages == spec.pages &&
                   most->slab_bytes == spec.slab_bytes,
               "what it may take is wrong", most->pages);
    if (j->needs.pages > most->pages || j->needs.slab_bytes > most->slab_bytes) {
        if (u->holds.places == 0 && m->n_picks - t->since >= SCHEDULE_PATIENCE) {
            m->starving = t;
            m->was_starving = true;
        }
        return false;
    }
    if (m->starving == t)
        m->starving = NULL;
    t->holds = j->needs;
    sim_hold(&u->holds, &m->left, &t->holds);
    return true;
}

/* Requests. */

static inline double sim_price(const struct sim *m, const struct turn *t)
{
    const double cost = t->cost / m->limits.cost;
    const double rows = (double)t->rows / m->limits.rows;
    const double logits = (double)t->logits / m->limits.logits;
    return t->is_large ? cost : fmax(cost, fmax(rows, logits));
}

static inline bool sim_has_large(const struct sim *m, const struct sim_user *u)
{
    bool has = false;
    for (int i = 0; i < SIM_JOBS; i++)
        has |= m->jobs[i].state != SIM_unused && &m->users[m->jobs[i].turn.user] == u &&
               m->jobs[i].turn.is_large;
    return has;
}

/* Nobody is ahead of it or behind it any more. */
static inline void sim_forget_lane(struct sim *m, struct sim_user *u)
{
    for (int i = 0; i < m->n_users; i++)
        u->lane_ahead_of[i] = m->users[i].lane_ahead_of[u - m->users] = 0;
    u->lane_was_ready = false;
}

/* Into its list, with what its next step takes. */
static inline void sim_list(struct sim *m, struct sim_job *j)
{
    struct sim_user *u = sim_user_of(m, &j->turn);
    struct turn *t = &j->turn;
    if (!sim_has_large(m, u))
        sim_forget_lane(m, u);
    t->is_large = t->cost > m->limits.cost || t->rows > m->limits.rows ||
                  t->logits > m->limits.logits || j->is_heavy;
    u->had_large |= t->is_large;
    const double price = sim_price(m, t);
    if (t->is_large)
        u->large_max = fmax(u->large_max, price);
    else
        u->largest = fmax(u->largest, price);
    j->state = SIM_listed;
    j->order = m->n_events++;
    schedule_add(m->schedule, t);
    schedule_check(m->schedule);
}

static inline void sim_arrive(struct sim *m, int user)
{
    struct sim_user *u = &m->users[user];
    struct sim_job *j = m->jobs;
    if (m->n_jobs == m->limits.turns)
        return;
    while (j->state != SIM_unused)
        j++;
    *j = (struct sim_job){.turn.user = (uint64_t)user};
    const int rows_most = (int)fmax(1, u->size * m->limits.rows);
    j->turn.rows = sim_scale(m, rows_most);
    j->turn.logits = sim_below(m, 3) ? 1 : sim_between(m, 0, (int)(u->size * m->limits.logits));
    const double each = m->limits.cost / m->limits.rows;
    const int percent = m->has_one_measure ? 100 : sim_between(m, 20, 100);
    j->turn.cost = floor(each * j->turn.rows * percent / 100);
    if (m->has_one_measure)
        j->turn.logits = j->turn.rows;
    j->is_heavy = u->kind == SIM_heavy && sim_below(m, 4) > 0;
    if (j->is_heavy)
        j->turn.cost = floor(m->limits.cost * sim_scale(m, 500) / 100);
    j->steps_left = sim_below(m, 2) ? 1 : sim_scale(m, m->steps_max);
    j->step_rows = sim_below(m, 4) ? 1 : sim_scale(m, rows_most);
    j->step_cost = j->is_heavy ? j->turn.cost : floor(each * j->step_rows);
    j->needs = (struct holding){.places = 1};
    if (!m->has_plenty) {
        j->needs.pages = sim_below(m, sim_scale(m, m->limits.all.pages));
        j->needs.slab_bytes = (size_t)sim_below(m, sim_scale(m, (int)m->limits.all.slab_bytes));
    }
    if (u->n_jobs == 0) {
        u->is_new = true;
        u->new_picks = u->new_users_max = 0;
        u->new_is_excused = u->had_large = false;
        u->largest = u->large_max = u->behind = u->n_waited = 0;
        m->n_active++;
        m->n_active_max = m->n_active > m->n_active_max ? m->n_active : m->n_active_max;
    }
    u->n_jobs++;
    m->n_jobs++;
    m->n_added++;
    sim_list(m, j);
}

static inline void sim_leave(struct sim *m, struct sim_job *j)
{
    struct sim_user *u = sim_user_of(m, &j->turn);
    sim_expect(m, j->state != SIM_unused, "it ends twice", 0);
    if (j->turn.is_admitted)
        sim_hold(&m->left, &u->holds, &j->turn.holds);
    if (m->starving == &j->turn)
        m->starving = NULL;
    schedule_remove(m->schedule, &j->turn);
    schedule_check(m->schedule);
    j->state = SIM_unused;
    m->n_jobs--;
    if (--u->n_jobs == 0)
        m->n_active--;
}

/* Behind a pass: the next step, or the end. */
static inline void sim_step(struct sim *m, struct sim_job *j)
{
    sim_expect(m, j->state == SIM_in_pass, "it comes back from no pass", 0);
    if (sim_below(m, 100) < m->cancel_percent) {
        m->n_cancelled++;
        sim_leave(m, j);
    } else if (--j->steps_left == 0) {
        m->n_done++;
        sim_leave(m, j);
    } else {
        j->turn.rows = j->step_rows;
        j->turn.logits = 1;
        j->turn.cost = j->step_cost;
        sim_list(m, j);
    }
}

/* Time goes on: requests come and go. */
static inline void sim_tick(struct sim *m)
{
    if (m->n_ticks_left == 0)
        return;
    m->n_ticks_left--;
    for (int i = 0; i < m->n_users; i++) {
        struct sim_user *u = &m->users[i];
        if (u->kind == SIM_seldom && sim_below(m, 10) == 0)
            sim_arrive(m, i);
        while (u->kind != SIM_seldom && u->n_jobs < u->crowd && m->n_jobs < m->limits.turns)
            sim_arrive(m, i);
    }
    for (int i = 0; i < SIM_JOBS; i++) {
        if (m->jobs[i].state == SIM_listed && sim_below(m, 1000) < m->cancel_percent) {
            m->n_cancelled++;
            sim_leave(m, &m->jobs[i]);
        }
    }
}

/* What must hold after a pick. */

static inline bool sim_is_before(const struct sim_job *a, const struct sim_job *b)
{
    if (!b || a->turn.is_admitted != b->turn.is_admitted)
        return !b || a->turn.is_admitted;
    return a->order < b->order;
}

static inline bool sim_is_patient(const struct sim *m, const struct sim_job *j)
{
    return j && !j->turn.is_admitted && m->n_picks - j->turn.since >= SCHEDULE_PATIENCE;
}

static inline void sim_look_for_starving(struct sim *m)
{
    bool is_any = false;
    for (int i = 0; i < m->n_users; i++) {
        const struct sim_user *u = &m->users[i];
        is_any |= u->holds.places == 0 &&
                  (sim_is_patient(m, u->next) || sim_is_patient(m, u->next_large));
    }
    m->may_starve = is_any && (m->may_starve || m->left.places == 0);
}

static inline void sim_look(struct sim *m)
{
    for (int i = 0; i < m->n_users; i++)
        m->users[i].next = m->users[i].next_large = NULL;
    for (int i = 0; i < SIM_JOBS; i++) {
        struct sim_job *j = &m->jobs[i];
        if (j->state != SIM_listed)
            continue;
        struct sim_user *u = sim_user_of(m, &j->turn);
        struct sim_job **next = j->turn.is_large ? &u->next_large : &u->next;
        if (sim_is_before(j, *next))
            *next = j;
    }
    sim_look_for_starving(m);
    for (int i = 0; i < m->n_users; i++) {
        struct sim_user *u = &m->users[i];
        u->is_ready = u->next && sim_is_admissible(m, u->next);
    }
}

static inline void sim_check_new(struct sim *m, struct sim_user *u)
{
    const struct sim_job *j = u->next;
    if (!u->is_new || !j)
        return;
    u->new_picks++;
    u->new_users_max = m->n_active > u->new_users_max ? m->n_active : u->new_users_max;
    u->new_is_excused |= !u->is_ready || m->was_starving || u->n_jobs > 1;
    const bool is_ordinary = sim_price(m, &j->turn) * u->new_users_max <= 1;
    sim_expect(m, u->new_picks < 2 || u->new_is_excused || !is_ordinary,
               "a new user waits for more than two passes", u->new_picks);
}

/* The most that a sum may grow over any window that ends now. */
static inline void sim_window(double *sum, double more, double *most)
{
    *sum = fmax(0, *sum + more);
    *most = fmax(*most, *sum);
}

static inline bool sim_is_fine(const struct sim_user *u)
{
    return u->is_ready && !u->had_large && u->largest <= SIM_FINE;
}

static inline void sim_check_share(struct sim *m, struct sim_user *u)
{
    if (sim_is_fine(u))
        sim_window(&u->behind, 1.0 / m->n_active - u->served, &m->behind_most);
    else
        u->behind = 0;
    sim_expect(m, u->behind <= SIM_BEHIND_MAX, "a user falls behind its part", u->behind);
    for (int i = 0; i < m->n_users && m->has_one_measure; i++) {
        if (sim_is_fine(u) && sim_is_fine(&m->users[i]))
            sim_window(&u->ahead_of[i], u->served - m->users[i].served, &m->ahead_most);
        else
            u->ahead_of[i] = 0;
        sim_expect(m, u->ahead_of[i] <= SIM_APART_MAX, "a user gets ahead of another",
                   u->ahead_of[i]);
    }
}

static inline void sim_check_pick(struct sim *m, struct turn **picked, int n)
{
    int rows = 0, logits = 0;
    double cost = 0;
    for (int i = 0; i < m->n_users; i++)
        m->users[i].served = 0;
    for (int i = 0; i < n; i++) {
        struct sim_job *j = (struct sim_job *)picked[i];
        sim_expect(m, j->state == SIM_listed && !j->turn.is_large && j->turn.is_admitted,
                   "what is picked was not waiting", i);
        j->state = SIM_in_pass;
        rows += j->turn.rows;
        logits += j->turn.logits;
        cost += j->turn.cost;
        struct sim_user *u = sim_user_of(m, &j->turn);
        u->served += sim_price(m, &j->turn);
        u->is_new = false;
    }
    sim_expect(m, rows <= m->limits.rows, "too many rows", rows);
    sim_expect(m, logits <= m->limits.logits, "too many rows of logits", logits);
    sim_expect(m, cost <= m->limits.cost, "too much cost", cost);
    sim_look(m);
    for (int i = 0; i < m->n_users; i++) {
        struct sim_user *u = &m->users[i];
        const struct turn *t = u->next ? &u->next->turn : NULL;
        const bool fits = t && rows + t->rows <= m->limits.rows &&
                          logits + t->logits <= m->limits.logits &&
                          cost + t->cost <= m->limits.cost;
        sim_expect(m, !fits || !u->is_ready || m->was_starving, "room is left for a step", i);
        u->n_waited = u->is_ready && !u->had_large && u->served == 0 ? u->n_waited + 1 : 0;
        m->waited_most = u->n_waited > m->waited_most ? u->n_waited : m->waited_most;
        sim_expect(m, u->n_waited <= SCHEDULE_WAIT_MAX(m->n_active_max), "a user starves",
                   u->n_waited);
        sim_check_new(m, u);
        sim_check_share(m, u);
    }
}

/* The engine's loop. */

/* True where a pass ran. */
static inline bool sim_shared_pass(struct sim *m)
{
    struct turn *picked[SIM_JOBS];
    m->n_picks++;
    m->was_starving = m->starving || m->may_starve;
    const int n = schedule_pick(m->schedule, picked);
    schedule_check(m->schedule);
    sim_check_pick(m, picked, n);
    sim_tick(m);
    m->lane_since = 0;
    for (int i = 0; i < n; i++)
        sim_step(m, (struct sim_job *)picked[i]);
    return n > 0;
}

/* Of users who always have a large step, none gets ahead of another by more than a step of each. */
static inline void sim_check_lane(struct sim *m)
{
    for (int i = 0; i < m->n_users; i++) {
        struct sim_user *a = &m->users[i];
        for (int k = 0; k < m->n_users; k++) {
            const struct sim_user *b = &m->users[k];
            if (a->lane_was_ready && b->lane_was_ready)
                sim_window(&a->lane_ahead_of[k], a->lane_served - b->lane_served,
                           &m->lane_ahead_most);
            else
                a->lane_ahead_of[k] = 0;
            sim_expect(m, a->lane_ahead_of[k] <= a->large_max + b->large_max + 1e-9,
                       "large steps are not shared by cost", a->lane_ahead_of[k]);
        }
    }
}

static inline void sim_begin_large(struct sim *m, struct sim_job *j)
{
    sim_expect(m, j->state == SIM_listed && j->turn.is_large && j->turn.is_admitted,
               "the large step was not waiting", 0);
    j->state = SIM_in_pass;
    sim_look(m);
    for (int i = 0; i < m->n_users; i++) {
        struct sim_user *u = &m->users[i];
        u->lane_served = 0;
        u->lane_was_ready =
            !m->was_starving && u->next_large && sim_is_admissible(m, u->next_large);
    }
    struct sim_user *u = sim_user_of(m, &j->turn);
    u->is_new = false;
    u->lane_was_ready = !m->was_starving;
}

/* Between two shared passes, large steps take no more than a pass and a block. */
static inline void sim_block(struct sim *m, struct turn *t, double cost)
{
    bool is_ready = false;
    sim_look(m);
    for (int i = 0; i < m->n_users; i++)
        is_ready |= m->users[i].is_ready;
    const double passes = cost / m->limits.cost;
    m->lane_since = is_ready ? m->lane_since + passes : 0;
    sim_expect(m, m->lane_since <= 1 + passes + 1e-9, "large steps stop small ones", m->lane_since);
    sim_user_of(m, t)->lane_served += passes;
    schedule_charge(m->schedule, t, cost);
    schedule_check(m->schedule);
}

static inline void sim_large_pass(struct sim *m, struct turn *t)
{
    struct sim_job *j = (struct sim_job *)t;
    const int n_blocks = sim_between(m, 1, SIM_BLOCKS);
    sim_begin_large(m, j);
    for (int i = 0; i < n_blocks; i++) {
        sim_block(m, t, t->cost / n_blocks);
        sim_tick(m);
        while (schedule_owes(m->schedule, t) && sim_shared_pass(m))
            continue;
        if (sim_below(m, 500) < m->cancel_percent) {
            sim_check_lane(m);
            m->n_cancelled++;
            sim_leave(m, j);
            return;
        }
    }
    sim_check_lane(m);
    sim_step(m, j);
}

static inline void sim_open_users(struct sim *m)
{
    const bool all_are_fine = sim_below(m, 2), all_flood = sim_below(m, 3) == 0;
    const enum sim_kind last = sim_below(m, 2) ? SIM_heavy : SIM_seldom;
    m->n_users = sim_below(m, 2) ? sim_scale(m, SIM_USERS) : sim_between(m, 1, SIM_USERS);
    for (int i = 0; i < m->n_users; i++) {
        struct sim_user *u = &m->users[i];
        u->kind = all_flood ? SIM_flooding : (enum sim_kind)sim_between(m, 0, last);
        u->crowd = u->kind == SIM_single ? 1 : sim_between(m, 1, all_flood ? 20 : 60);
        const double size_max = all_are_fine || sim_below(m, 2) ? SIM_FINE : 1.2;
        u->size = size_max * sim_between(m, 1, 100) / 100;
    }
}

static inline void sim_open(struct sim *m, uint64_t seed)
{
    memset(m, 0, sizeof *m);
    m->random = seed;
    struct schedule_limits *l = &m->limits;
    m->has_plenty = sim_below(m, 2);
    l->turns = m->has_plenty ? SIM_JOBS : sim_scale(m, SIM_JOBS);
    l->rows = sim_between(m, 1, sim_below(m, 2) ? 64 : 2048);
    l->logits = sim_between(m, 1, l->rows);
    l->cost = sim_between(m, 100, 1000000);
    m->has_one_measure = sim_below(m, 2);
    if (m->has_one_measure) {
        l->logits = l->rows;
        l->cost = 100.0 * l->rows;
    }
    l->all.places = m->has_plenty ? SIM_JOBS : sim_scale(m, SIM_JOBS);
    l->all.pages = sim_between(m, 1, 500);
    l->all.slab_bytes = (size_t)sim_between(m, 1, 1 << 20);
    m->left = l->all;
    m->n_ticks_left = sim_scale(m, 400);
    m->cancel_percent = sim_below(m, 2) ? 0 : sim_below(m, 20);
    m->steps_max = sim_scale(m, 40);
    sim_open_users(m);
    m->schedule = schedule_new(l, sim_admit, m, &m->arena);
}

/* Memory stops every large step there is, and nobody saves up meanwhile. */
static inline void sim_no_large(struct sim *m)
{
    for (int i = 0; i < m->n_users; i++)
        sim_forget_lane(m, &m->users[i]);
}

/* Whether all held; else m->what says what did not. */
static inline bool sim_run(struct sim *m, uint64_t seed)
{
    sim_open(m, seed);
    while ((m->n_ticks_left > 0 || m->n_jobs > 0) && !m->what[0]) {
        sim_tick(m);
        const int n_jobs = m->n_jobs;
        m->was_starving = m->starving || m->may_starve;
        struct turn *large = schedule_pick_large(m->schedule);
        schedule_check(m->schedule);
        if (large) {
            sim_large_pass(m, large);
            continue;
        }
        sim_no_large(m);
        if (!sim_shared_pass(m))
            sim_expect(m, n_jobs == 0, "there is work and none of it runs", n_jobs);
    }
    sim_expect(m, m->n_added == m->n_done + m->n_cancelled, "not each ends once",
               (double)m->n_added);
    sim_expect(m,
               m->left.places == m->limits.all.places && m->left.pages == m->limits.all.pages &&
                   m->left.slab_bytes == m->limits.all.slab_bytes,
               "memory leaks", m->left.pages);
    arena_free(&m->arena);
    return !m->what[0];
}
