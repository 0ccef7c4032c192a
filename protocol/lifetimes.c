/* Values whose lives do not meet share bytes of the slab. The slab is a row of blocks, free or
 * taken; free ones of a similar size hang in one bin, and free neighbours are merged at once. Each
 * value costs a constant number of steps. */
#include "planner.h"

enum {
    LINE = 64,
    BINS = 64,
    TRIES = 4
}; /* sizes are in lines, bins by their binary logarithm */

struct block {
    int64_t at, size;
    int left, right;    /* neighbours on the slab, 0 for none */
    int before, behind; /* in the bin, 0 for none */
    bool is_free;
};

struct slab {
    struct block *blocks; /* the first is not used, so that 0 is none */
    int n_blocks, last;   /* `last` on the slab */
    int bins[BINS];
    int64_t top, peak;
};

static int bin_of(int64_t size)
{
    return 63 - __builtin_clzll((unsigned long long)size);
}

static void bin_add(struct slab *s, int i)
{
    struct block *b = &s->blocks[i];
    int *bin = &s->bins[bin_of(b->size)];
    b->is_free = true;
    b->before = 0;
    b->behind = *bin;
    s->blocks[*bin].before = i;
    *bin = i;
}

static void bin_remove(struct slab *s, int i)
{
    struct block *b = &s->blocks[i];
    b->is_free = false;
    s->blocks[b->behind].before = b->before;
    if (b->before)
        s->blocks[b->before].behind = b->behind;
    else
        s->bins[bin_of(b->size)] = b->behind;
}

/* A free block of at least this size, or 0: a few of the nearest bin, then the first of the next
 * that has one, where every block is large enough. */
static int find_free(const struct slab *s, int64_t size)
{
    int bin = bin_of(size), tries = 0;
    for (int i = s->bins[bin]; i && tries < TRIES; i = s->blocks[i].behind, tries++) {
        if (s->blocks[i].size >= size)
            return i;
    }
    while (++bin < BINS) {
        if (s->bins[bin])
            return s->bins[bin];
    }
    return 0;
}

/* Taking a value makes at most one of these. */
static int block_new(struct slab *s, int64_t at, int64_t size, int left)
{
    const int i = s->n_blocks++, right = left ? s->blocks[left].right : 0;
    s->blocks[i] = (struct block){.at = at, .size = size, .left = left, .right = right};
    if (left)
        s->blocks[left].right = i;
    if (right)
        s->blocks[right].left = i;
    else
        s->last = i;
    return i;
}

/* At the top of the slab, with the free block that may lie there. */
static int block_at_top(struct slab *s, int64_t size)
{
    int i = s->last;
    if (i && s->blocks[i].is_free)
        bin_remove(s, i);
    else
        i = block_new(s, s->top, 0, i);
    s->blocks[i].size = size;
    s->top = s->blocks[i].at + size;
    s->peak = s->top > s->peak ? s->top : s->peak;
    return i;
}

static int block_take(struct slab *s, int64_t size)
{
    const int i = find_free(s, size);
    if (!i)
        return block_at_top(s, size);
    bin_remove(s, i);
    const int64_t rest = s->blocks[i].size - size;
    s->blocks[i].size = size;
    if (rest)
        bin_add(s, block_new(s, s->blocks[i].at + size, rest, i));
    return i;
}

/* Adds the right block to the left one; the right one is no more. */
static void block_merge(struct slab *s, int left, int right)
{
    s->blocks[left].size += s->blocks[right].size;
    s->blocks[left].right = s->blocks[right].right;
    if (s->blocks[right].right)
        s->blocks[s->blocks[right].right].left = left;
    else
        s->last = left;
}

static void block_free(struct slab *s, int i)
{
    const int left = s->blocks[i].left, right = s->blocks[i].right;
    if (right && s->blocks[right].is_free) {
        bin_remove(s, right);
        block_merge(s, i, right);
    }
    if (left && s->blocks[left].is_free) {
        bin_remove(s, left);
        block_merge(s, left, i);
        i = left;
    }
    bin_add(s, i);
}

/* For each action a chain of the roots that begin or end with it; constants begin before all. */
struct chains {
    int *first, *next; /* of each action, of each root: a root + 1, or 0 */
};

static struct chains chains_new(int n_roots, int n_actions, struct arena *a)
{
    return (struct chains){ARENA_ARRAY(a, int, n_actions + 1), ARENA_ARRAY(a, int, n_roots + 1)};
}

static void chain_add(struct chains *c, int action, int root)
{
    c->next[root] = c->first[action];
    c->first[action] = root + 1;
}

size_t lifetimes_fold(struct root *roots, int n_roots, int n_actions, struct arena *a)
{
    struct slab s = {.blocks = ARENA_ARRAY(a, struct block, n_roots + 2), .n_blocks = 1};
    struct chains births = chains_new(n_roots, n_actions, a);
    struct chains deaths = chains_new(n_roots, n_actions, a);
    int *blocks = ARENA_ARRAY(a, int, n_roots + 1);
    for (int i = 0; i < n_roots; i++) {
        struct root *r = &roots[i];
        if (r->first > r->last || r->bytes == 0)
            continue;
        chain_add(&deaths, r->last, i);
        if (r->constant) {
            blocks[i] = block_take(&s, (r->bytes + LINE - 1) / LINE);
            r->base = (size_t)s.blocks[blocks[i]].at * LINE;
        } else {
            chain_add(&births, r->first, i);
        }
    }
    for (int i = 0; i < n_actions; i++) {
        for (int k = births.first[i]; k; k = births.next[k - 1]) {
            blocks[k - 1] = block_take(&s, (roots[k - 1].bytes + LINE - 1) / LINE);
            roots[k - 1].base = (size_t)s.blocks[blocks[k - 1]].at * LINE;
        }
        for (int k = deaths.first[i]; k; k = deaths.next[k - 1])
            block_free(&s, blocks[k - 1]);
    }
    return (size_t)s.peak * LINE;
}
