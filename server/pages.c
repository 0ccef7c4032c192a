#include "pages.h"
#include <string.h>

/* A page is held; or it rests, in one of two lists: `idle` if it is kept, `free` if not. */
struct page {
    int n_holders;
    uint64_t serial; /* names the tokens up to this page's end while it is kept, else 0 */
    struct page *older, *newer; /* in a list; both NULL while it is held */

    /* Of a kept page. */
    uint64_t parent; /* the serial of the page before it, 0 for a prompt's first */
    int depth;       /* blocks whose keys and values are there */
    int32_t tokens[PAGE_TOKENS];
    struct page *next; /* in its slot of the table */
};

struct pages {
    int n_pages, n_resting;
    struct page *pages;

    /* Both ends of two rings: `newer` of an end is the oldest page. */
    struct page free, idle;

    /* Kept pages by parent and tokens. A serial is never used again, so what stood behind a page
     * that went is not found behind the next one in its place. */
    struct page **slots;
    int slot_mask;
    uint64_t last_serial;
};

/* The lists. */

static void rest(struct pages *p, struct page *page)
{
    struct page *ends = page->serial ? &p->idle : &p->free;
    page->newer = ends;
    page->older = ends->older;
    page->older->newer = page;
    ends->older = page;
    p->n_resting++;
}

static void wake(struct pages *p, struct page *page)
{
    page->older->newer = page->newer;
    page->newer->older = page->older;
    page->older = page->newer = NULL;
    p->n_resting--;
}

/* The table. */

static struct page **slot_of(const struct pages *p, uint64_t parent, const int32_t *tokens)
{
    const uint64_t odd = UINT64_C(0x9e3779b97f4a7c15);
    uint64_t hash = parent * odd;
    for (int i = 0; i < PAGE_TOKENS; i++)
        hash = (hash ^ (uint32_t)tokens[i]) * odd;
    return &p->slots[(int)(hash >> 33) & p->slot_mask];
}

static bool same_tokens(const struct page *page, const int32_t *tokens)
{
    return memcmp(page->tokens, tokens, sizeof page->tokens) == 0;
}

static struct page *find(const struct pages *p, uint64_t parent, const int32_t *tokens)
{
    struct page *page = *slot_of(p, parent, tokens);
    while (page && (page->parent != parent || !same_tokens(page, tokens)))
        page = page->next;
    return page;
}

/* From now on nobody finds it. */
static void forget(struct pages *p, struct page *page)
{
    struct page **at = slot_of(p, page->parent, page->tokens);
    while (*at != page)
        at = &(*at)->next;
    *at = page->next;
    page->serial = 0;
    if (page->n_holders == 0) {
        wake(p, page);
        rest(p, page);
    }
}

struct pages *pages_new(int n_pages, struct arena *a)
{
    assert(n_pages > 0);
    struct pages *p = ARENA_NEW(a, struct pages);
    p->n_pages = n_pages;
    p->pages = ARENA_ARRAY(a, struct page, (size_t)n_pages);
    /* At most as many slots as pages: a look is short even so, and tests meet collisions. */
    int n_slots = 1;
    while (n_slots <= n_pages / 2)
        n_slots *= 2;
    p->slots = ARENA_ARRAY(a, struct page *, (size_t)n_slots);
    p->slot_mask = n_slots - 1;
    p->free.older = p->free.newer = &p->free;
    p->idle.older = p->idle.newer = &p->idle;
    for (int i = n_pages; i > 0; i--)
        rest(p, &p->pages[i - 1]);
    return p;
}

int pages_left(const struct pages *p)
{
    return p->n_resting;
}

bool pages_take(struct pages *p, int32_t *taken, int n)
{
    if (n > p->n_resting)
        return false;
    for (int i = 0; i < n; i++) {
        if (p->free.older == &p->free)
            forget(p, p->idle.newer);
        struct page *page = p->free.older; /* what was used last, while it is warm */
        wake(p, page);
        page->n_holders = 1;
        taken[i] = (int32_t)(page - p->pages);
    }
    return true;
}

int pages_share(struct pages *p, int32_t *found, const int32_t *tokens, int n_max, int depth)
{
    uint64_t parent = 0;
    for (int i = 0; i < n_max; i++) {
        struct page *page = find(p, parent, tokens + i * PAGE_TOKENS);
        if (!page || page->depth < depth)
            return i;
        if (page->n_holders == 0)
            wake(p, page);
        page->n_holders++;
        found[i] = (int32_t)(page - p->pages);
        parent = page->serial;
    }
    return n_max;
}

void pages_hold(struct pages *p, int32_t *found, const int32_t *held, int n)
{
    for (int i = 0; i < n; i++) {
        assert(p->pages[held[i]].n_holders > 0);
        p->pages[held[i]].n_holders++;
        found[i] = held[i];
    }
}

/* Keeps one page, or sees that an equal one is kept. Returns the serial of the kept one. */
static uint64_t keep(struct pages *p, struct page *page, uint64_t parent, const int32_t *tokens,
                     int depth)
{
    assert(page->n_holders > 0);
    assert(!page->serial || same_tokens(page, tokens));
    struct page *kept = find(p, parent, tokens);
    /* Kept, but not found there: the page before it went while this one was held. */
    if (page->serial && page != kept)
        forget(p, page);
    if (kept && kept->depth >= depth)
        return kept->serial;

    /* In the place of a page with fewer blocks, whatever is kept behind that stays found. */
    const uint64_t serial = kept ? kept->serial : ++p->last_serial;
    if (kept)
        forget(p, kept);
    page->serial = serial;
    page->parent = parent;
    page->depth = depth;
    memcpy(page->tokens, tokens, sizeof page->tokens);
    struct page **slot = slot_of(p, parent, tokens);
    page->next = *slot;
    *slot = page;
    return serial;
}

void pages_keep(struct pages *p, const int32_t *held, const int32_t *tokens, int n, int depth)
{
    uint64_t parent = 0;
    for (int i = 0; i < n; i++)
        parent = keep(p, &p->pages[held[i]], parent, tokens + i * PAGE_TOKENS, depth);
}

void pages_release(struct pages *p, const int32_t *held, int n)
{
    for (int i = n; i > 0; i--) {
        struct page *page = &p->pages[held[i - 1]];
        assert(page->n_holders > 0);
        if (--page->n_holders == 0)
            rest(p, page);
    }
}

/* A ring's length. */
static int check_ring(const struct pages *p, const struct page *ends)
{
    int n = 0;
    for (const struct page *page = ends->newer; page != ends; page = page->newer) {
        n++;
        assert(n <= p->n_pages);
        assert(page->older->newer == page && page->newer->older == page);
        assert(page->n_holders == 0);
        assert((page->serial != 0) == (ends == &p->idle));
    }
    return n;
}

/* A slot's length. */
static int check_slot(const struct pages *p, int slot)
{
    int n = 0;
    for (const struct page *page = p->slots[slot]; page; page = page->next) {
        n++;
        assert(n <= p->n_pages);
        assert(slot_of(p, page->parent, page->tokens) == &p->slots[slot]);
        assert(find(p, page->parent, page->tokens) == page);
        assert(page->parent < page->serial && page->serial <= p->last_serial);
    }
    return n;
}

/* A chain that ends, within as many steps as there are pages, has none of them twice: so where the
 * numbers agree, the pages do. */
void pages_check(const struct pages *p)
{
    int n_free = 0, n_idle = 0, n_kept = 0, n_found = 0;
    for (int i = 0; i < p->n_pages; i++) {
        const struct page *page = &p->pages[i];
        assert(page->n_holders >= 0);
        assert((page->n_holders > 0) == (page->newer == NULL));
        n_kept += page->serial != 0;
        n_idle += page->serial != 0 && page->n_holders == 0;
        n_free += page->serial == 0 && page->n_holders == 0;
    }
    for (int i = 0; i <= p->slot_mask; i++)
        n_found += check_slot(p, i);
    assert(n_found == n_kept);
    assert(check_ring(p, &p->free) == n_free);
    assert(check_ring(p, &p->idle) == n_idle);
    assert(p->n_resting == n_free + n_idle);
}
