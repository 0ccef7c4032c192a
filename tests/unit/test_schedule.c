/* server/schedule.c: who is in the next pass. The numbers are of a pass of 100 rows, 100 rows of
 * logits and a cost of 100, unless a test says otherwise. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "../schedule_sim.h"

#define TEST(name) cmocka_unit_test_teardown(name, tear_down)
#define LENGTH(a) ((int)(sizeof(a) / sizeof(*a)))

enum {
    TURNS = 2100,
    WHOLE = 100 /* a pass */
};

static const struct schedule_limits usual = {
    TURNS, WHOLE, WHOLE, WHOLE, {.places = TURNS, .pages = 1000, .slab_bytes = 1 << 20}};

static struct arena arena;
static struct schedule *schedule;
static struct turn turns[TURNS], *picked[WHOLE];
static struct holding needs[TURNS]; /* one place, and these pages and bytes */
static int n_turns, n_picked;

static bool admit(void *context, struct turn *t, const struct holding *most)
{
    (void)context;
    const struct holding *h = &needs[t - turns];
    if (h->pages > most->pages || h->slab_bytes > most->slab_bytes)
        return false;
    t->holds = *h;
    return true;
}

static void open_schedule(const struct schedule_limits *l)
{
    arena_free(&arena);
    schedule = schedule_new(l, admit, NULL, &arena);
    n_turns = 0;
}

static int tear_down(void **state)
{
    (void)state;
    schedule_check(schedule);
    arena_free(&arena);
    return 0;
}

/* A new request that takes so many rows and so much cost, and holds so many pages. */
static struct turn *add(int user, int size, int pages)
{
    struct turn *t = &turns[n_turns];
    *t = (struct turn){.user = (uint64_t)user, .rows = size, .cost = size};
    needs[n_turns++] = (struct holding){.places = 1, .pages = pages};
    schedule_add(schedule, t);
    schedule_check(schedule);
    return t;
}

static struct turn *add_large(int user, double cost)
{
    struct turn *t = &turns[n_turns];
    *t = (struct turn){.user = (uint64_t)user, .rows = 1, .cost = cost, .is_large = true};
    needs[n_turns++] = (struct holding){.places = 1};
    schedule_add(schedule, t);
    return t;
}

static int pick(void)
{
    n_picked = schedule_pick(schedule, picked);
    schedule_check(schedule);
    return n_picked;
}

static bool is_picked(const struct turn *t)
{
    bool is = false;
    for (int i = 0; i < n_picked; i++)
        is |= picked[i] == t;
    return is;
}

static int cost_of(int user)
{
    double cost = 0;
    for (int i = 0; i < n_picked; i++)
        cost += picked[i]->user == (uint64_t)user ? picked[i]->cost : 0;
    return (int)cost;
}

/* All of the pass come back for another step of the same size. */
static void come_back(void)
{
    for (int i = 0; i < n_picked; i++)
        schedule_add(schedule, picked[i]);
}

static void leave(void)
{
    for (int i = 0; i < n_picked; i++)
        schedule_remove(schedule, picked[i]);
}

static void after_pass(bool comes_back)
{
    if (comes_back)
        come_back();
    else
        leave();
}

/* Shares. */

static void a_single_job_beside_a_flood_is_in_one_of_the_next_two_passes(void **state)
{
    (void)state;
    static const struct {
        int size, flood_size, flood_pages;
        bool flood_decodes;
    } cases[] = {
        {1, 1, 0, false},   {1, 1, 0, true},   {1, 100, 0, false},  {50, 1, 0, false},
        {50, 30, 0, true},  {99, 1, 0, false}, {99, 1, 0, true},    {99, 100, 0, false},
        {100, 1, 0, false}, {100, 1, 0, true}, {100, 60, 0, false}, {100, 100, 0, true},
        {1, 1, 10, true},   {99, 1, 10, true}, {100, 1, 10, true},  {100, 30, 500, true},
    };
    for (int c = 0; c < LENGTH(cases); c++) {
        for (int n_before = 0; n_before < 8; n_before++) {
            open_schedule(&usual);
            for (int i = 0; i < 1000; i++)
                add(1, cases[c].flood_size, cases[c].flood_pages);
            for (int i = 0; i < n_before; i++) {
                assert_true(pick() > 0);
                after_pass(cases[c].flood_decodes);
            }
            struct turn *t = add(2, cases[c].size, 500);
            pick();
            const bool is_in_first = is_picked(t);
            if (!is_in_first) {
                after_pass(cases[c].flood_decodes);
                pick();
            }
            assert_true(is_picked(t));
        }
    }
}

static void many_new_users_with_ordinary_steps_are_all_in_one_of_the_next_two_passes(void **state)
{
    (void)state;
    for (int n_before = 0; n_before < 2; n_before++) {
        open_schedule(&usual);
        for (int i = 0; i < 1000; i++)
            add(1, 100, 0);
        for (int i = 0; i < n_before; i++) {
            pick();
            leave();
        }
        struct turn *first = &turns[n_turns];
        for (int user = 2; user < 50; user++)
            add(user, 2, 0);
        int n_found = 0;
        for (int i = 0; i < 2; i++) {
            pick();
            for (int k = 0; k < n_picked; k++)
                n_found += picked[k] >= first;
            leave();
        }
        assert_int_equal(n_found, 48);
    }
}

static void users_with_steps_of_any_size_get_equal_parts(void **state)
{
    (void)state;
    static const int sizes[][4] = {{1, 1, 1, 1},    {1, 2, 5, 20},   {7, 11, 13, 17},
                                   {1, 100, 50, 3}, {60, 1, 60, 1}, {100, 100, 1, 1}};
    for (int c = 0; c < LENGTH(sizes); c++) {
        open_schedule(&usual);
        int served[4] = {0}, all = 0;
        for (int user = 0; user < 4; user++) {
            for (int i = 0; i < 250; i++)
                add(user, sizes[c][user], 0);
        }
        for (int pass = 0; pass < 400; pass++) {
            pick();
            for (int user = 0; user < 4; user++) {
                served[user] += cost_of(user);
                all += cost_of(user);
            }
            come_back();
        }
        for (int user = 0; user < 4; user++)
            assert_true(abs(4 * served[user] - all) <= 4 * WHOLE * SCHEDULE_CREDIT_MAX);
    }
}

static void who_takes_all_logits_shares_like_who_takes_all_rows(void **state)
{
    (void)state;
    open_schedule(&usual);
    for (int i = 0; i < 800; i++) {
        const int user = i % 2;
        turns[i] = (struct turn){
            .user = (uint64_t)user, .rows = 1, .cost = user, .logits = user ? 1 : 10};
        needs[i] = (struct holding){.places = 1};
        schedule_add(schedule, &turns[i]);
    }
    for (int pass = 0; pass < 100; pass++) {
        pick();
        assert_in_range(cost_of(1), 40, 60);
        come_back();
    }
}

static void nobody_saves_up_while_away(void **state)
{
    (void)state;
    open_schedule(&usual);
    struct turn *often = add(1, 1, 0);
    for (int pass = 0; pass < 500; pass++) {
        pick();
        assert_true(is_picked(often));
        come_back();
    }
    for (int i = 0; i < 500; i++) {
        add(1, 1, 0);
        add(2, 1, 0);
    }
    int ahead = 0;
    for (int pass = 0; pass < 50; pass++) {
        pick();
        ahead += cost_of(1) - cost_of(2);
        come_back();
        assert_true(abs(ahead) <= 2);
    }
}

static void steps_that_come_back_are_served_each_pass_while_there_is_room(void **state)
{
    (void)state;
    open_schedule(&usual);
    for (int user = 1; user <= 20; user++)
        add(user, 1, 0);
    for (int i = 0; i < 500; i++)
        add(30, 3, 0);
    for (int pass = 0; pass < 100; pass++) {
        pick();
        for (int user = 1; user <= 20; user++)
            assert_int_equal(cost_of(user), 1);
        come_back();
    }
}

/* Two who were kept out by steps of whole passes catch up only where nobody's part suffers. */
static void savings_of_one_user_do_not_keep_out_another(void **state)
{
    (void)state;
    open_schedule(&usual);
    for (int i = 0; i < 600; i++)
        add(i % 2, 1, 0);
    for (int user = 2; user < 10; user++)
        add(user, 100, 0);
    struct turn *light = add(10, 1, 0);
    int n_shared = 0;
    for (int pass = 0; pass < 200; pass++) {
        if (pick() > 1) {
            assert_true(is_picked(light));
            n_shared++;
        }
        come_back();
    }
    assert_true(n_shared > 20);
}

static void more_steps_than_fit_take_turns(void **state)
{
    (void)state;
    open_schedule(&usual);
    int n_served[150] = {0};
    for (int user = 0; user < 150; user++)
        add(user, 1, 0);
    for (int pass = 0; pass < 300; pass++) {
        assert_int_equal(pick(), 100);
        for (int i = 0; i < n_picked; i++)
            n_served[picked[i] - turns]++;
        come_back();
    }
    for (int user = 0; user < 150; user++)
        assert_in_range(n_served[user], 198, 202);
}

/* Small steps that always leave a little too little do not keep out one that needs it all. */
static void a_whole_pass_is_found_among_ever_new_users(void **state)
{
    (void)state;
    open_schedule(&usual);
    struct turn *t = add(1, 100, 0);
    int n_passes = 0;
    for (int user = 2; n_passes < 50; n_passes++, user += 20) {
        for (int i = 0; i < 20; i++)
            add(user + i, 4, 0);
        pick();
        if (is_picked(t))
            break;
        leave();
    }
    assert_true(n_passes < SCHEDULE_WAIT_MAX(41));
    assert_true(is_picked(t));
}

/* Passes. */

static void a_pass_stays_within_each_limit(void **state)
{
    (void)state;
    static const struct {
        struct schedule_limits limits;
        int n;
    } cases[] = {
        {{TURNS, 7, 100, 100, {.places = TURNS}}, 7},
        {{TURNS, 100, 9, 100, {.places = TURNS}}, 9},
        {{TURNS, 100, 100, 11, {.places = TURNS}}, 11},
        {{TURNS, 100, 100, 100, {.places = 5}}, 2}, /* of one user: it leaves as many as it holds */
    };
    for (int c = 0; c < LENGTH(cases); c++) {
        open_schedule(&cases[c].limits);
        for (int i = 0; i < 50; i++) {
            turns[i] = (struct turn){.rows = 1, .logits = 1, .cost = 1};
            needs[i] = (struct holding){.places = 1};
            schedule_add(schedule, &turns[i]);
        }
        assert_int_equal(pick(), cases[c].n);
        come_back();
        assert_int_equal(pick(), cases[c].n);
    }
}

static void room_goes_to_whoever_can_use_it(void **state)
{
    (void)state;
    open_schedule(&usual);
    struct turn *big = add(1, 70, 0), *too_big = add(1, 60, 0), *middle = add(2, 25, 0);
    struct turn *tiny[8];
    for (int i = 0; i < 8; i++)
        tiny[i] = add(3, 1, 0);
    int n_tiny = 0;
    pick();
    for (int i = 0; i < 8; i++)
        n_tiny += is_picked(tiny[i]);
    assert_true(is_picked(big) || is_picked(middle));
    assert_false(is_picked(big) && is_picked(too_big));
    assert_true(n_tiny == 8 || cost_of(1) + cost_of(2) + n_tiny == WHOLE);
}

static void nothing_to_do_is_an_empty_pass(void **state)
{
    (void)state;
    open_schedule(&usual);
    assert_int_equal(pick(), 0);
    assert_null(schedule_pick_large(schedule));
    add_large(1, 500);
    assert_int_equal(pick(), 0);
}

static void one_user_is_served_in_the_order_of_arrival_and_begun_before_new(void **state)
{
    (void)state;
    open_schedule(&usual);
    struct turn *a = add(1, 60, 0), *b = add(1, 60, 0), *c = add(1, 60, 0);
    struct turn *const order[] = {a, a, b, c};
    for (int i = 0; i < LENGTH(order); i++) {
        assert_int_equal(pick(), 1);
        assert_ptr_equal(picked[0], order[i]);
        if (i == 0)
            come_back();
        else
            leave();
    }
}

/* Large steps. */

static void a_large_step_owes_as_much_as_it_has_taken(void **state)
{
    (void)state;
    open_schedule(&usual);
    struct turn *large = add_large(1, 1000);
    add(2, 1, 0);
    assert_ptr_equal(schedule_pick_large(schedule), large);
    int n_passes = 0;
    for (int block = 0; block < 10; block++) {
        schedule_charge(schedule, large, 100);
        for (; schedule_owes(schedule, large); n_passes++) {
            assert_int_equal(pick(), 1);
            come_back();
        }
    }
    assert_int_equal(n_passes, 10);
    schedule_add(schedule, large);
}

/* Two of three users are small: of three passes' worth, each gets one. */
static void large_steps_get_no_more_than_their_users_part(void **state)
{
    (void)state;
    open_schedule(&usual);
    struct turn *large = add_large(1, 1e6);
    for (int i = 0; i < 300; i++) {
        add(2, 1, 0);
        add(3, 5, 0);
    }
    int n_passes = 0, served[4] = {0};
    schedule_pick_large(schedule);
    for (int block = 0; block < 100; block++) {
        schedule_charge(schedule, large, 10);
        for (; schedule_owes(schedule, large); n_passes++) {
            pick();
            served[2] += cost_of(2);
            served[3] += cost_of(3);
            come_back();
        }
    }
    assert_in_range(n_passes, 19, 21);
    assert_in_range(served[2], 900, 1100);
    assert_in_range(served[3], 900, 1100);
    schedule_remove(schedule, large);
}

static void many_users_with_large_steps_let_every_second_pass_be_shared(void **state)
{
    (void)state;
    open_schedule(&usual);
    for (int user = 1; user <= 20; user++)
        add_large(user, 1e6);
    add(30, 1, 0);
    struct turn *large = schedule_pick_large(schedule);
    int n_passes = 0;
    for (int block = 0; block < 100; block++) {
        schedule_charge(schedule, large, 25);
        for (; schedule_owes(schedule, large); n_passes++) {
            assert_int_equal(pick(), 1);
            come_back();
        }
    }
    assert_in_range(n_passes, 24, 26);
}

static void what_a_large_step_took_alone_is_forgiven(void **state)
{
    (void)state;
    open_schedule(&usual);
    struct turn *large = add_large(1, 1e6);
    schedule_pick_large(schedule);
    schedule_charge(schedule, large, 1e6);
    assert_true(schedule_owes(schedule, large));
    assert_int_equal(pick(), 0);
    assert_false(schedule_owes(schedule, large));
    add(2, 1, 0);
    schedule_charge(schedule, large, 50);
    int n_passes = 0;
    for (; schedule_owes(schedule, large); n_passes++) {
        pick();
        come_back();
    }
    assert_int_equal(n_passes, 1);
}

/* Nor does a user with a large step hold up others with small ones of its own. */
static void small_steps_of_who_pays_for_a_large_one_come_last(void **state)
{
    (void)state;
    open_schedule(&usual);
    struct turn *large = add_large(1, 1000);
    schedule_pick_large(schedule);
    for (int i = 0; i < 200; i++) {
        add(1, 1, 0);
        add(2, 1, 0);
    }
    schedule_charge(schedule, large, 1000);
    pick();
    assert_int_equal(cost_of(2), 100);
    leave();
    pick();
    assert_int_equal(cost_of(2), 100);
    leave();
    pick(); /* nobody else wants it */
    assert_int_equal(cost_of(1), 100);
}

/* Of 1,000, 500 are its part. The other user leaves 20 of each pass; they are for nothing. */
static void a_debt_is_paid_by_the_users_part_of_each_pass(void **state)
{
    (void)state;
    open_schedule(&usual);
    struct turn *large = add_large(1, 1000);
    schedule_pick_large(schedule);
    for (int i = 0; i < 100; i++)
        add(1, 1, 0);
    for (int i = 0; i < 80; i++)
        add(2, 1, 0);
    schedule_charge(schedule, large, 1000);
    int n_passes = 0;
    while (pick() && cost_of(1) == 20 && n_passes++ < 100)
        come_back();
    assert_in_range(n_passes, 9, 11);
    come_back();
    pick();
    assert_in_range(cost_of(1), 48, 52);
}

static void who_comes_late_to_large_steps_does_not_catch_up(void **state)
{
    (void)state;
    open_schedule(&usual);
    add(2, 1, 0);
    add_large(1, 100);
    int n[3] = {0};
    for (int i = 0; i < 200; i++) {
        if (i == 100)
            add_large(2, 100);
        struct turn *large = schedule_pick_large(schedule);
        schedule_charge(schedule, large, large->cost);
        n[large->user]++;
        schedule_add(schedule, large);
    }
    assert_in_range(n[2], 49, 51);
}

static void large_steps_are_shared_by_cost(void **state)
{
    (void)state;
    open_schedule(&usual);
    struct turn *t[] = {add_large(1, 1000), add_large(2, 100), add_large(2, 100)};
    double cost[3] = {0};
    bool is_first = true;
    for (int i = 0; i < 1100; i++) {
        struct turn *large = schedule_pick_large(schedule);
        assert_true(!is_first || large == t[1]); /* it ends first */
        is_first = false;
        schedule_charge(schedule, large, large->cost);
        cost[large->user] += large->cost;
        schedule_add(schedule, large);
        schedule_check(schedule);
        assert_true(fabs(cost[1] - cost[2]) <= 1100);
    }
    assert_true(cost[1] > 90000);
}

static void new_large_steps_are_not_kept_out_by_those_that_have_begun(void **state)
{
    (void)state;
    open_schedule(&usual);
    add_large(1, 200);
    schedule_add(schedule, schedule_pick_large(schedule));
    struct turn *late = add_large(2, 200);
    int n = 0;
    struct turn *t;
    while ((t = schedule_pick_large(schedule)) != late && n++ < 10) {
        schedule_charge(schedule, t, 200);
        schedule_add(schedule, t);
    }
    assert_in_range(n, 0, 2);
}

/* Memory. */

static void a_user_holds_no_more_than_it_leaves_free(void **state)
{
    (void)state;
    open_schedule(&usual);
    for (int i = 0; i < 100; i++)
        add(1, 1, 60);
    assert_int_equal(pick(), 8); /* 480 of 1,000; with another 60, 540 and only 460 free */
    come_back();
    for (int i = 0; i < 100; i++)
        add(2, 1, 60);
    pick();
    assert_int_equal(cost_of(1), 8);
    assert_int_equal(cost_of(2), 4); /* 240, and 280 free */
    come_back();
    add(3, 1, 280);
    pick();
    assert_int_equal(cost_of(3), 1); /* the first may take all that is left */
}

static void places_and_slab_are_shared_in_the_same_way(void **state)
{
    (void)state;
    struct schedule_limits l = usual;
    l.all.places = 9;
    open_schedule(&l);
    for (int i = 0; i < 20; i++)
        add(1, 1, 0);
    assert_int_equal(pick(), 4);
    open_schedule(&usual);
    for (int i = 0; i < 20; i++) {
        add(1, 1, 0);
        needs[i].slab_bytes = 300 << 10;
    }
    assert_int_equal(pick(), 1); /* 300 of 1,024; 600 would leave 424 */
}

/* Requests that need all memory, beside a stream of small ones. */
static void who_has_waited_long_is_admitted_before_anyone_else(void **state)
{
    (void)state;
    open_schedule(&usual);
    add(1, 1, 300);
    pick();
    come_back();
    struct turn *patient = add(2, 1, 1000);
    int n_passes = 0;
    for (int user = 3; n_passes < SCHEDULE_PATIENCE - 1; n_passes++, user++) {
        struct turn *other = add(user, 1, 100);
        pick();
        assert_true(is_picked(other)); /* it fits: nobody waits for nothing */
        assert_false(is_picked(patient));
        for (int i = 0; i < n_picked; i++) {
            if (picked[i] == other)
                schedule_remove(schedule, other);
            else
                schedule_add(schedule, picked[i]);
        }
    }
    pick();
    come_back();
    struct turn *late = add(1000, 1, 100);
    pick();
    assert_false(is_picked(late));
    assert_int_equal(n_picked, 1);
    leave();
    pick(); /* all is free again */
    assert_true(is_picked(patient));
    assert_false(is_picked(late));
    leave();
    pick();
    assert_true(is_picked(late));
}

static void who_starves_may_give_up(void **state)
{
    (void)state;
    open_schedule(&usual);
    add(1, 1, 300);
    struct turn *patient = add(2, 1, 1000);
    for (int i = 0; i < SCHEDULE_PATIENCE + 2; i++) {
        pick();
        come_back();
    }
    struct turn *late = add(3, 1, 100);
    pick();
    assert_false(is_picked(late));
    come_back();
    schedule_remove(schedule, patient);
    pick();
    assert_true(is_picked(late));
}

/* Leaving. */

static void a_turn_can_leave_from_everywhere(void **state)
{
    (void)state;
    open_schedule(&usual);
    struct turn *waiting = add(1, 1, 1001), *running = add(2, 1, 10), *in_pass = add(3, 1, 10);
    struct turn *large_waiting = add_large(4, 1000), *in_large_pass = add_large(5, 900);
    assert_int_equal(pick(), 2);
    schedule_add(schedule, running);
    assert_ptr_equal(schedule_pick_large(schedule), in_large_pass);
    struct turn *all[] = {waiting, running, in_pass, large_waiting, in_large_pass};
    for (int i = 0; i < LENGTH(all); i++) {
        schedule_remove(schedule, all[i]);
        assert_false(all[i]->is_admitted);
        schedule_check(schedule);
    }
    assert_int_equal(pick(), 0);
    assert_null(schedule_pick_large(schedule));
    struct turn *whole = add(6, 1, 1000); /* nothing is held any more */
    assert_int_equal(pick(), 1);
    assert_ptr_equal(picked[0], whole);
}

static void from_the_middle_of_a_list_too(void **state)
{
    (void)state;
    for (int leaves = 0; leaves < 3; leaves++) {
        open_schedule(&usual);
        struct turn *t[3] = {add(1, 1, 0), add(1, 1, 0), add(1, 1, 0)};
        schedule_remove(schedule, t[leaves]);
        schedule_check(schedule);
        assert_int_equal(pick(), 2);
        assert_false(is_picked(t[leaves]));
    }
}

/* There are as many accounts as turns; each is used again, and remembers nothing. */
static void accounts_and_turns_are_used_again(void **state)
{
    (void)state;
    struct schedule_limits l = usual;
    l.turns = 3;
    open_schedule(&l);
    memset(turns, 0, 3 * sizeof *turns);
    for (int user = 0; user < 3000; user++) {
        struct turn *t = &turns[user % 3];
        if (user >= 3)
            schedule_remove(schedule, t);
        t->user = (uint64_t)user * 1024; /* buckets with several */
        t->rows = 1;
        needs[user % 3] = (struct holding){.places = 1, .pages = 300};
        schedule_add(schedule, t);
        schedule_check(schedule);
        assert_int_equal(pick(), user < 3 ? user + 1 : 3);
        come_back();
    }
}

static void what_a_user_owes_goes_with_its_last_request(void **state)
{
    (void)state;
    open_schedule(&usual);
    struct turn *large = add_large(1, 1e6);
    add(2, 1, 0);
    schedule_pick_large(schedule);
    schedule_charge(schedule, large, 1e6);
    schedule_remove(schedule, large);
    struct turn *back = add(1, 50, 0);
    pick();
    assert_true(is_picked(back));
}

/* All together. */

static void a_thousand_random_services_keep_all_promises(void **state)
{
    (void)state;
    static struct sim sim;
    for (uint64_t seed = 1; seed <= 1000; seed++) {
        if (!sim_run(&sim, seed))
            fail_msg("seed %llu: %s", (unsigned long long)seed, sim.what);
    }
    open_schedule(&usual);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_single_job_beside_a_flood_is_in_one_of_the_next_two_passes),
        TEST(many_new_users_with_ordinary_steps_are_all_in_one_of_the_next_two_passes),
        TEST(users_with_steps_of_any_size_get_equal_parts),
        TEST(who_takes_all_logits_shares_like_who_takes_all_rows),
        TEST(nobody_saves_up_while_away),
        TEST(steps_that_come_back_are_served_each_pass_while_there_is_room),
        TEST(savings_of_one_user_do_not_keep_out_another),
        TEST(more_steps_than_fit_take_turns),
        TEST(a_whole_pass_is_found_among_ever_new_users),
        TEST(a_pass_stays_within_each_limit),
        TEST(room_goes_to_whoever_can_use_it),
        TEST(nothing_to_do_is_an_empty_pass),
        TEST(one_user_is_served_in_the_order_of_arrival_and_begun_before_new),
        TEST(a_large_step_owes_as_much_as_it_has_taken),
        TEST(large_steps_get_no_more_than_their_users_part),
        TEST(many_users_with_large_steps_let_every_second_pass_be_shared),
        TEST(what_a_large_step_took_alone_is_forgiven),
        TEST(small_steps_of_who_pays_for_a_large_one_come_last),
        TEST(a_debt_is_paid_by_the_users_part_of_each_pass),
        TEST(who_comes_late_to_large_steps_does_not_catch_up),
        TEST(large_steps_are_shared_by_cost),
        TEST(new_large_steps_are_not_kept_out_by_those_that_have_begun),
        TEST(a_user_holds_no_more_than_it_leaves_free),
        TEST(places_and_slab_are_shared_in_the_same_way),
        TEST(who_has_waited_long_is_admitted_before_anyone_else),
        TEST(who_starves_may_give_up),
        TEST(a_turn_can_leave_from_everywhere),
        TEST(from_the_middle_of_a_list_too),
        TEST(accounts_and_turns_are_used_again),
        TEST(what_a_user_owes_goes_with_its_last_request),
        TEST(a_thousand_random_services_keep_all_promises),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
