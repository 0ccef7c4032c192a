/* Whether a generation is over: the engine asks behind each token, and who makes text of the tokens
 * asks again and gets the same answer. */
#pragma once
#include "bpe.h"
#include "graph.h"

/* Of the new tokens of a sequence, `n` so far, the last one ends it: by itself, or by making a text
 * whole. `b` may be NULL where there are no texts. */
bool ending_reached(const struct ending *g, const struct bpe *b, const int32_t *ids, int n);

/* Where the first text begins that is whole with what stands from `last` on, or `size`. */
size_t ending_text_at(const struct ending *g, const char *text, size_t size, size_t last);

/* Whether it is one of the tokens that end a sequence by themselves. */
bool ending_is_id(const struct ending *g, int32_t id);
