/* server/pages.c: a page is shared with those whose prompt begins with its very tokens and with
 * nobody else, what is needed goes in order, and nothing is lost. At the end at random beside a
 * list of what is kept, searched from one end to the other. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "../../server/pages.h"

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

enum {
    PAGES = 6,
    DEPTH = 12,
    PROMPT_PAGES = 5,
    PROMPT_TOKENS = PROMPT_PAGES * PAGE_TOKENS
};

static struct arena arena;
static struct pages *pages;
static int32_t scratch[PAGES];

static int set_up(void **state)
{
    (void)state;
    pages = pages_new(PAGES, &arena);
    pages_check(pages);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    pages_check(pages);
    arena_free(&arena);
    return 0;
}

/* A page's tokens are named by a letter: the same but for one place, which differs with the letter,
 * so that first and last tokens decide as well as those between. */
static void spell_page(int32_t *tokens, char letter)
{
    static const int places[] = {0, PAGE_TOKENS - 1, 17};
    for (int i = 0; i < PAGE_TOKENS; i++)
        tokens[i] = 1000 + i;
    tokens[places[letter % 3]] = letter;
}

/* A prompt's tokens, one letter a page. They stay until the next call. */
static const int32_t *spell(const char *letters)
{
    static int32_t tokens[PROMPT_TOKENS];
    for (int i = 0; letters[i]; i++)
        spell_page(tokens + i * PAGE_TOKENS, letters[i]);
    return tokens;
}

static int length(const char *letters)
{
    return (int)strlen(letters);
}

static void take(int32_t *taken, int n)
{
    assert_true(pages_take(pages, taken, n));
    pages_check(pages);
}

static void keep(const int32_t *held, const char *letters, int depth)
{
    pages_keep(pages, held, spell(letters), length(letters), depth);
    pages_check(pages);
}

static void let_go(const int32_t *held, int n)
{
    pages_release(pages, held, n);
    pages_check(pages);
}

static int share(int32_t *found, const char *letters, int depth)
{
    const int n = pages_share(pages, found, spell(letters), length(letters), depth);
    pages_check(pages);
    return n;
}

/* How many pages would be shared. Whatever is found becomes the youngest. */
static int shared(const char *letters, int depth)
{
    int32_t found[PROMPT_PAGES];
    const int n = share(found, letters, depth);
    let_go(found, n);
    return n;
}

/* A prompt is run, kept and let go of: its pages are written to `held`. */
static void run(int32_t *held, const char *letters, int depth)
{
    take(held, length(letters));
    keep(held, letters, depth);
    let_go(held, length(letters));
}

static void what_is_kept_is_shared_while_it_is_held_and_after(void **state)
{
    (void)state;
    int32_t held[3], found[3];
    take(held, 3);
    keep(held, "abc", DEPTH);
    assert_int_equal(share(found, "abc", DEPTH), 3);
    assert_memory_equal(found, held, sizeof held);
    let_go(held, 3);
    assert_int_equal(pages_left(pages), PAGES - 3);
    let_go(found, 3);
    assert_int_equal(pages_left(pages), PAGES);
    assert_int_equal(share(found, "abc", DEPTH), 3);
    assert_memory_equal(found, held, sizeof held);
    assert_int_equal(pages_left(pages), PAGES - 3);
    let_go(found, 3);
}

static void no_more_than_asked_for_is_shared(void **state)
{
    (void)state;
    int32_t held[3], found[3];
    run(held, "abc", DEPTH);
    for (int n_max = 0; n_max <= 3; n_max++) {
        assert_int_equal(pages_share(pages, found, spell("abc"), n_max, DEPTH), n_max);
        assert_int_equal(pages_left(pages), PAGES - n_max);
        let_go(found, n_max);
    }
    assert_int_equal(shared("abcd", DEPTH), 3);
}

static void what_is_not_kept_is_not_shared(void **state)
{
    (void)state;
    int32_t held[3];
    take(held, 3);
    assert_int_equal(shared("abc", DEPTH), 0);
    keep(held, "ab", DEPTH);
    assert_int_equal(shared("abc", DEPTH), 2);
    let_go(held, 3);
    assert_int_equal(shared("abc", DEPTH), 2);
}

/* A single page has a single slot, where all prompts meet. */
static void every_token_of_a_page_is_compared(void **state)
{
    (void)state;
    int32_t held, found, tokens[PAGE_TOKENS];
    pages = pages_new(1, &arena);
    run(&held, "a", DEPTH);
    memcpy(tokens, spell("a"), sizeof tokens);
    for (int i = 0; i < PAGE_TOKENS; i++) {
        tokens[i]++;
        assert_int_equal(pages_share(pages, &found, tokens, 1, DEPTH), 0);
        tokens[i]--;
    }
    assert_int_equal(shared("a", DEPTH), 1);
}

static void one_other_token_anywhere_is_another_prompt(void **state)
{
    (void)state;
    int32_t held[2], found[2], tokens[2 * PAGE_TOKENS];
    run(held, "ab", DEPTH);
    memcpy(tokens, spell("ab"), sizeof tokens);
    for (int i = 0; i < 2 * PAGE_TOKENS; i++) {
        tokens[i] ^= 1 << i % 31;
        assert_int_equal(pages_share(pages, found, tokens, 2, DEPTH), i / PAGE_TOKENS);
        let_go(found, i / PAGE_TOKENS);
        tokens[i] ^= 1 << i % 31;
    }
    assert_int_equal(shared("ab", DEPTH), 2);
}

static void the_same_page_behind_another_beginning_is_another_page(void **state)
{
    (void)state;
    int32_t ax[2], bx[2], found[2];
    run(ax, "ax", DEPTH);
    assert_int_equal(shared("bx", DEPTH), 0);
    assert_int_equal(shared("x", DEPTH), 0);
    take(bx, 2);
    keep(bx, "bx", DEPTH);
    assert_int_equal(share(found, "bx", DEPTH), 2);
    assert_memory_equal(found, bx, sizeof bx);
    let_go(found, 2);
    assert_int_equal(share(found, "ax", DEPTH), 2);
    assert_memory_equal(found, ax, sizeof ax);
    let_go(found, 2);
    let_go(bx, 2);
}

/* More pages than slots, so that some must stand in one. */
static void pages_in_one_slot_are_told_apart(void **state)
{
    (void)state;
    enum {
        N = 1023
    };
    static int32_t tokens[N][PAGE_TOKENS], held[N];
    struct arena large = {0};
    struct pages *p = pages_new(N, &large);
    assert_true(pages_take(p, held, N));
    for (int i = 0; i < N; i++) {
        tokens[i][i % PAGE_TOKENS] = i;
        pages_keep(p, &held[i], tokens[i], 1, DEPTH);
    }
    pages_check(p);
    for (int gone = 0; gone <= N; gone++) { /* each from wherever it stands in its slot */
        for (int i = 0; i < N; i += 31) {
            int32_t found;
            const int n = pages_share(p, &found, tokens[i], 1, DEPTH);
            assert_int_equal(n, i >= gone);
            if (n == 1)
                assert_int_equal(found, held[i]);
            pages_release(p, &found, n);
        }
        if (gone < N) {
            int32_t other[PAGE_TOKENS];
            memset(other, -1, sizeof other);
            other[0] = gone;
            pages_release(p, &held[gone], 1);
            assert_true(pages_take(p, &held[gone], 1));
            pages_keep(p, &held[gone], other, 1, DEPTH);
        }
    }
    pages_check(p);
    arena_free(&large);
}

static void too_few_blocks_are_not_shared(void **state)
{
    (void)state;
    int32_t held[3];
    take(held, 3);
    keep(held, "abc", 4);
    assert_int_equal(shared("abc", 4), 3);
    assert_int_equal(shared("abc", 1), 3);
    assert_int_equal(shared("abc", 5), 0);
    keep(held, "a", 5); /* the same page, later: it has more by now */
    assert_int_equal(shared("abc", 5), 1);
    assert_int_equal(shared("abc", 4), 3);
    keep(held, "a", 2); /* and what is known is not forgotten */
    assert_int_equal(shared("abc", 5), 1);
    let_go(held, 3);
}

static void more_blocks_take_the_place_of_fewer_and_what_is_behind_stays(void **state)
{
    (void)state;
    int32_t few[3], more[2], found[3], next;
    take(few, 3);
    keep(few, "abc", 4);
    take(more, 2);
    keep(more, "ab", DEPTH);
    assert_int_equal(share(found, "abc", 4), 3);
    assert_int_equal(found[0], more[0]);
    assert_int_equal(found[1], more[1]);
    assert_int_equal(found[2], few[2]);
    let_go(found, 3);
    assert_int_equal(shared("abc", DEPTH), 2);

    /* The old ones are nobody's but their holder's, and free behind it. */
    assert_int_equal(pages_left(pages), 1);
    let_go(few, 2);
    assert_int_equal(pages_left(pages), 3);
    take(&next, 1);
    assert_int_equal(next, few[0]);
    assert_int_equal(shared("abc", 4), 3);
    let_go(&next, 1);
    let_go(more, 2);
    let_go(&few[2], 1);
}

static void fewer_blocks_that_nobody_holds_are_free_at_once(void **state)
{
    (void)state;
    int32_t few, more, next[PAGES - 1];
    take(&more, 1);
    run(&few, "a", 4);
    keep(&more, "a", DEPTH);
    assert_int_equal(pages_left(pages), PAGES - 1);
    take(next, 1);
    assert_int_equal(next[0], few);
    let_go(next, 1);
    let_go(&more, 1);
    take(next, PAGES - 1);
    assert_int_equal(shared("a", DEPTH), 1);
    let_go(next, PAGES - 1);
}

static void of_equal_pages_the_first_is_kept(void **state)
{
    (void)state;
    int32_t first[2], second[3], found[3];
    take(first, 2);
    take(second, 3);
    keep(first, "ab", DEPTH);
    keep(second, "abc", DEPTH);
    assert_int_equal(share(found, "abc", DEPTH), 3);
    assert_int_equal(found[0], first[0]);
    assert_int_equal(found[1], first[1]);
    assert_int_equal(found[2], second[2]);
    let_go(found, 3);
    let_go(second, 3);
    take(found, 3); /* its two are free, and the one that nobody had is left */
    assert_int_equal(found[0], second[0]);
    assert_int_equal(found[1], second[1]);
    assert_int_equal(shared("abc", DEPTH), 3);
    let_go(found, 3);
    let_go(first, 2);
}

static void free_pages_go_first_then_the_oldest_and_ends_before_beginnings(void **state)
{
    (void)state;
    int32_t abc[3], de[2], taken[PAGES];
    run(abc, "abc", DEPTH);
    run(de, "de", DEPTH);
    take(taken, PAGES);
    const int32_t left = 15 - abc[0] - abc[1] - abc[2] - de[0] - de[1];
    const int32_t order[PAGES] = {left, abc[2], abc[1], abc[0], de[1], de[0]};
    assert_memory_equal(taken, order, sizeof order);
    let_go(taken, PAGES);
    take(taken, PAGES); /* now all are free: the beginning of what was let go of last is first */
    assert_memory_equal(taken, order, sizeof order);
    assert_int_equal(shared("abc", DEPTH) + shared("de", DEPTH), 0);
    let_go(taken, PAGES);
}

static void what_is_shared_again_stays_longer(void **state)
{
    (void)state;
    int32_t abc[3], de[2], taken[4];
    run(abc, "abc", DEPTH);
    run(de, "de", DEPTH);
    assert_int_equal(shared("ab", DEPTH), 2);
    take(taken, 4); /* the one left, then abc's last and both of de */
    assert_int_equal(taken[1], abc[2]);
    assert_int_equal(taken[2], de[1]);
    assert_int_equal(taken[3], de[0]);
    assert_int_equal(shared("abc", DEPTH), 2);
    let_go(taken, 4);
}

static void what_is_held_never_goes(void **state)
{
    (void)state;
    int32_t ab[2], found[2], taken[PAGES - 2];
    run(ab, "ab", DEPTH);
    assert_int_equal(share(found, "ab", DEPTH), 2);
    assert_int_equal(pages_left(pages), PAGES - 2);
    take(taken, PAGES - 2);
    for (int i = 0; i < PAGES - 2; i++)
        assert_true(taken[i] != ab[0] && taken[i] != ab[1]);
    let_go(taken, PAGES - 2);
    let_go(found, 2);
}

static void more_pages_than_are_left_are_refused_and_nothing_changes(void **state)
{
    (void)state;
    int32_t ab[2], held[3], taken[PAGES];
    run(ab, "ab", DEPTH);
    take(held, 3);
    memset(taken, -1, sizeof taken);
    assert_false(pages_take(pages, taken, 4));
    for (int i = 0; i < PAGES; i++)
        assert_int_equal(taken[i], -1);
    assert_int_equal(pages_left(pages), 3);
    assert_int_equal(shared("ab", DEPTH), 2);
    take(taken, 3);
    assert_int_equal(pages_left(pages), 0);
    assert_false(pages_take(pages, taken, 1));
    assert_true(pages_take(pages, taken, 0));
    let_go(held, 3);
    let_go(taken, 3);
    assert_int_equal(pages_left(pages), PAGES);
}

/* Two prompts with the same first page were run at once: the longer one's second is kept behind
 * the other's first, which then goes. The longer one still holds both of its own. */
static void lose_the_beginning(int32_t *first, int32_t *second)
{
    take(first, 1);
    take(second, 2);
    keep(first, "a", DEPTH);
    keep(second, "ab", DEPTH);
    assert_int_equal(shared("ab", DEPTH), 2);
    let_go(first, 1);
    take(scratch, PAGES - 2);
    assert_int_equal(scratch[PAGES - 3], *first);
    assert_int_equal(shared("ab", DEPTH), 0);
}

static void a_page_is_not_found_behind_what_took_the_place_of_its_beginning(void **state)
{
    (void)state;
    int32_t first, second[2];
    lose_the_beginning(&first, second);
    keep(&scratch[PAGES - 3], "x", DEPTH);
    assert_int_equal(shared("xb", DEPTH), 1);
    let_go(scratch, PAGES - 2);
    let_go(second, 2);
    assert_int_equal(shared("xb", DEPTH), 1);
    take(scratch, PAGES); /* and nothing is lost */
    let_go(scratch, PAGES);
}

static void a_page_without_its_beginning_is_found_when_both_are_kept_again(void **state)
{
    (void)state;
    int32_t first, second[2], found[2];
    lose_the_beginning(&first, second);
    keep(second, "ab", DEPTH);
    assert_int_equal(share(found, "ab", DEPTH), 2);
    assert_memory_equal(found, second, sizeof second);
    let_go(found, 2);
    let_go(second, 2);
    let_go(scratch, PAGES - 2);
}

static void a_page_without_its_beginning_is_free_where_an_equal_one_is_kept(void **state)
{
    (void)state;
    int32_t first, second[2], found[2];
    lose_the_beginning(&first, second);
    keep(scratch, "ab", DEPTH);
    keep(second, "ab", DEPTH);
    assert_int_equal(share(found, "ab", DEPTH), 2);
    assert_memory_equal(found, scratch, sizeof found);
    let_go(found, 2);
    let_go(second, 2);
    take(found, 2);
    assert_memory_equal(found, second, sizeof second);
    let_go(found, 2);
    let_go(scratch, PAGES - 2);
}

/* The obvious way: a list of what is kept, each with its whole prompt, and rows of pages. */

enum {
    OPERATIONS = 200000,
    N = 16,
    REQUESTS = 6,
    LETTERS = 3,
    DEPTHS = 3
};

struct kept {
    int32_t page;
    int n, depth;                  /* pages of the beginning that it ends */
    int32_t tokens[PROMPT_TOKENS]; /* n pages of them */
    bool lost;                     /* a page before it went */
};

struct row {
    int32_t pages[N];
    int n;
};

static struct {
    struct kept kept[N];
    int n_kept;
    int holders[N];
    struct row free, idle; /* the oldest first */
} slow;

static void row_add(struct row *r, int32_t page)
{
    assert_true(r->n < N);
    r->pages[r->n++] = page;
}

static void row_remove(struct row *r, int32_t page)
{
    int at = 0;
    while (at < r->n && r->pages[at] != page)
        at++;
    assert_true(at < r->n);
    r->n--;
    memmove(&r->pages[at], &r->pages[at + 1], sizeof r->pages[0] * (size_t)(r->n - at));
}

static bool begins_with(const int32_t *tokens, const int32_t *beginning, int n)
{
    for (int i = 0; i < n * PAGE_TOKENS; i++) {
        if (tokens[i] != beginning[i])
            return false;
    }
    return true;
}

static struct kept *slow_find(const int32_t *tokens, int n)
{
    for (int i = 0; i < slow.n_kept; i++) {
        struct kept *k = &slow.kept[i];
        if (!k->lost && k->n == n && begins_with(tokens, k->tokens, n))
            return k;
    }
    return NULL;
}

static struct kept *slow_kept(int32_t page)
{
    for (int i = 0; i < slow.n_kept; i++) {
        if (slow.kept[i].page == page)
            return &slow.kept[i];
    }
    return NULL;
}

static void slow_drop(struct kept *k)
{
    if (slow.holders[k->page] == 0) {
        row_remove(&slow.idle, k->page);
        row_add(&slow.free, k->page);
    }
    *k = slow.kept[--slow.n_kept];
}

static void slow_evict(void)
{
    struct kept *gone = slow_kept(slow.idle.pages[0]);
    for (int i = 0; i < slow.n_kept && !gone->lost; i++) {
        struct kept *k = &slow.kept[i];
        if (k->n > gone->n && begins_with(k->tokens, gone->tokens, gone->n))
            k->lost = true;
    }
    slow_drop(gone);
}

static bool slow_take(int32_t *taken, int n)
{
    if (n > slow.free.n + slow.idle.n)
        return false;
    for (int i = 0; i < n; i++) {
        if (slow.free.n == 0)
            slow_evict();
        taken[i] = slow.free.pages[slow.free.n - 1];
        row_remove(&slow.free, taken[i]);
        slow.holders[taken[i]] = 1;
    }
    return true;
}

static int slow_share(int32_t *found, const int32_t *tokens, int n_max, int depth)
{
    for (int i = 0; i < n_max; i++) {
        const struct kept *k = slow_find(tokens, i + 1);
        if (!k || k->depth < depth)
            return i;
        found[i] = k->page;
        if (slow.holders[k->page]++ == 0)
            row_remove(&slow.idle, k->page);
    }
    return n_max;
}

static void slow_keep(const int32_t *held, const int32_t *tokens, int n, int depth)
{
    for (int i = 0; i < n; i++) {
        struct kept *mine = slow_kept(held[i]);
        if (mine && mine->lost)
            slow_drop(mine);
        struct kept *k = slow_find(tokens, i + 1);
        if (k && k->depth >= depth)
            continue;
        if (k)
            slow_drop(k);
        k = &slow.kept[slow.n_kept++];
        *k = (struct kept){.page = held[i], .n = i + 1, .depth = depth};
        memcpy(k->tokens, tokens, sizeof k->tokens[0] * (size_t)(PAGE_TOKENS * (i + 1)));
    }
}

static void slow_release(const int32_t *held, int n)
{
    for (int i = n; i > 0; i--) {
        const int32_t page = held[i - 1];
        if (--slow.holders[page] == 0)
            row_add(slow_kept(page) ? &slow.idle : &slow.free, page);
    }
}

/* Requests as the engine has them. What a page would hold is noted when it is run, so that a wrong
 * page shows whatever the lists say. */

struct request {
    int32_t tokens[PROMPT_TOKENS];
    int n, n_shared, n_held, depth; /* n pages of a prompt, then some for what is generated */
    int32_t held[PROMPT_PAGES + 2];
};

struct content {
    int32_t tokens[PROMPT_TOKENS];
    int n, depth;
};

static struct request requests[REQUESTS];
static int n_requests;
static struct content contents[N];
static struct {
    int refused, shared, partly_shared, evicted, lost, replaced;
} seen;

static uint64_t seed;

static int chance(int n)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (int)(seed >> 33) % n;
}

static void run_prompt(const struct request *r)
{
    for (int i = r->n_shared; i < r->n_held; i++) {
        struct content *c = &contents[r->held[i]];
        *c = (struct content){.n = i < r->n ? i + 1 : 0, .depth = r->depth};
        memcpy(c->tokens, r->tokens, sizeof c->tokens[0] * (size_t)(PAGE_TOKENS * c->n));
    }
}

static void check_contents(const struct request *r)
{
    for (int i = 0; i < r->n; i++) {
        const struct content *c = &contents[r->held[i]];
        assert_int_equal(c->n, i + 1);
        assert_true(c->depth >= r->depth);
        assert_true(begins_with(r->tokens, c->tokens, i + 1));
    }
}

static void request_begins(void)
{
    if (n_requests == REQUESTS)
        return;
    struct request *r = &requests[n_requests];
    r->n = 1 + chance(PROMPT_PAGES);
    r->depth = 1 + chance(DEPTHS);
    for (int i = 0; i < r->n; i++)
        spell_page(r->tokens + i * PAGE_TOKENS, (char)('a' + (chance(3) ? 0 : chance(LETTERS))));
    const int n_max = chance(r->n + 1);
    int32_t expected[PROMPT_PAGES + 2];
    r->n_shared = pages_share(pages, r->held, r->tokens, n_max, r->depth);
    assert_int_equal(r->n_shared, slow_share(expected, r->tokens, n_max, r->depth));
    r->n_held = r->n + chance(3);

    const int n = r->n_held - r->n_shared, n_kept = slow.n_kept;
    const bool taken = pages_take(pages, r->held + r->n_shared, n);
    assert_int_equal(taken, slow_take(expected + r->n_shared, n));
    const int n_known = taken ? r->n_held : r->n_shared;
    assert_memory_equal(r->held, expected, sizeof expected[0] * (size_t)n_known);
    seen.refused += !taken;
    seen.shared += r->n_shared > 0;
    seen.partly_shared += r->n_shared > 0 && r->n_shared < n_max;
    seen.evicted += n_kept - slow.n_kept;
    if (!taken) {
        pages_release(pages, r->held, r->n_shared);
        slow_release(r->held, r->n_shared);
        return;
    }
    n_requests++;
    run_prompt(r);
    check_contents(r);
}

static void request_keeps(void)
{
    if (n_requests == 0)
        return;
    const struct request *r = &requests[chance(n_requests)];
    const int n = chance(r->n + 1), depth = 1 + chance(r->depth);
    for (int i = 0; i < n; i++) {
        const struct kept *mine = slow_kept(r->held[i]), *k = slow_find(r->tokens, i + 1);
        seen.lost += mine && mine->lost;
        seen.replaced += k && k->page != r->held[i] && k->depth < depth;
    }
    pages_keep(pages, r->held, r->tokens, n, depth);
    slow_keep(r->held, r->tokens, n, depth);
}

static void request_ends(void)
{
    if (n_requests == 0)
        return;
    struct request *r = &requests[chance(n_requests)];
    check_contents(r); /* nobody wrote there */
    pages_release(pages, r->held, r->n_held);
    slow_release(r->held, r->n_held);
    *r = requests[--n_requests];
}

static void at_random_it_does_what_the_obvious_way_does(void **state)
{
    (void)state;
    static void (*const operations[])(void) = {request_begins, request_begins, request_keeps,
                                               request_keeps, request_ends};
    pages = pages_new(N, &arena);
    for (int i = N; i > 0; i--)
        row_add(&slow.free, i - 1);
    for (int i = 0; i < OPERATIONS; i++) {
        operations[chance(5)]();
        pages_check(pages);
        assert_int_equal(pages_left(pages), slow.free.n + slow.idle.n);
    }
    const int rarest = OPERATIONS / 1000; /* of all that can happen, enough did */
    assert_true(seen.refused > rarest && seen.shared > rarest && seen.partly_shared > rarest);
    assert_true(seen.evicted > rarest && seen.lost > rarest && seen.replaced > rarest);
    while (n_requests > 0)
        request_ends();
    assert_int_equal(pages_left(pages), N);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_kept_is_shared_while_it_is_held_and_after),
        TEST(no_more_than_asked_for_is_shared),
        TEST(what_is_not_kept_is_not_shared),
        TEST(every_token_of_a_page_is_compared),
        TEST(one_other_token_anywhere_is_another_prompt),
        TEST(the_same_page_behind_another_beginning_is_another_page),
        TEST(pages_in_one_slot_are_told_apart),
        TEST(too_few_blocks_are_not_shared),
        TEST(more_blocks_take_the_place_of_fewer_and_what_is_behind_stays),
        TEST(fewer_blocks_that_nobody_holds_are_free_at_once),
        TEST(of_equal_pages_the_first_is_kept),
        TEST(free_pages_go_first_then_the_oldest_and_ends_before_beginnings),
        TEST(what_is_shared_again_stays_longer),
        TEST(what_is_held_never_goes),
        TEST(more_pages_than_are_left_are_refused_and_nothing_changes),
        TEST(a_page_is_not_found_behind_what_took_the_place_of_its_beginning),
        TEST(a_page_without_its_beginning_is_found_when_both_are_kept_again),
        TEST(a_page_without_its_beginning_is_free_where_an_equal_one_is_kept),
        TEST(at_random_it_does_what_the_obvious_way_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
