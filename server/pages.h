/* The pages of the key/value cache: who holds which, and which hold the beginning of a prompt that
 * a later request may share. A page is PAGE_TOKENS positions of all blocks; the backend has what is
 * in it. Belongs to the engine thread. Nothing is allocated behind pages_new, and a call looks at
 * the pages that it names and, in a hash table, at the few that stand in the same slot.
 *
 * What is shared is found by the tokens of the page and of all pages before it, compared token by
 * token: a hash alone could give somebody another prompt's activations. Whoever keeps a page
 * promises that nothing but these tokens shaped it: no edit at its positions or before them, in
 * whatever block. So two pages that are kept for the same tokens hold the same bits.
 *
 * A kept page that nobody holds stays until its place is needed, the one that was let go of the
 * longest ago first, and the end of a prompt before its beginning.
 */
#pragma once
#include "../protocol/plan.h"

struct pages;

struct pages *pages_new(int n_pages, struct arena *a);

/* How many could be taken now: those that nobody holds. */
int pages_left(const struct pages *p);

/* Takes `n` pages for their sole use. False, and nothing changed, where fewer are left. */
bool pages_take(struct pages *p, int32_t *taken, int n);

/* Finds the longest beginning of a prompt, of at most n_max pages, whose keys and values of the
 * first `depth` blocks are there, and holds its pages, for reading. Returns how many. `tokens`:
 * those of n_max pages. */
int pages_share(struct pages *p, int32_t *found, const int32_t *tokens, int n_max, int depth);

/* Holds these pages, which somebody holds, once more, for reading. */
void pages_hold(struct pages *p, int32_t *found, const int32_t *held, int n);

/* From now on others may share these pages: the first n of a prompt, with the keys and values of
 * all their `tokens` in the first `depth` blocks. The caller still holds them and no longer writes
 * there; it may keep them again, with more blocks or more pages of the prompt. Of two equal pages
 * the one with more blocks is kept, else the one that was kept before; the other is free when its
 * holders have let go. */
void pages_keep(struct pages *p, const int32_t *held, const int32_t *tokens, int n, int depth);

/* Lets go of pages that were taken or shared, in the order of their prompt; each holder does so
 * once. */
void pages_release(struct pages *p, const int32_t *held, int n);

/* Asserts what must hold between calls: every page is held, kept for later or free, exactly one of
 * them, and lists and table agree. O(pages); for tests. */
void pages_check(const struct pages *p);
