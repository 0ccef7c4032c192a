/* What the sampler makes of rows of logits, for tests/test_generation.py.
 *
 *     sample_tool < cases
 *
 * A case is a struct header, then `n` logits as floats, `n_seen` ids and `n_forbidden` ids as
 * int32_t. Written for each: the probability of every id as a double, 0 for those that are not kept,
 * then `draws` tokens as int32_t, one a step.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../kernels/sample.h"
#include "../protocol/base.h"

struct header {
    double temperature, top_p, min_p, penalty;
    int64_t seed;
    int32_t top_k, n, n_seen, n_forbidden, draws, sequence;
};

static void *get(void *to, size_t size)
{
    const size_t got = fread(to, 1, size, stdin);
    assert(got == size);
    return to;
}

static void put(const void *from, size_t size)
{
    const size_t written = fwrite(from, 1, size, stdout);
    assert(written == size);
}

static void answer(const struct header *h, struct arena *a)
{
    const size_t n = (size_t)h->n;
    float *logits = get(ARENA_ARRAY(a, float, n), n * sizeof *logits);
    const size_t seen_size = (size_t)h->n_seen * sizeof(int32_t);
    const size_t forbidden_size = (size_t)h->n_forbidden * sizeof(int32_t);
    const struct token_ids seen = {get(arena_alloc(a, seen_size), seen_size), h->n_seen};
    const struct token_ids forbidden = {get(arena_alloc(a, forbidden_size), forbidden_size),
                                        h->n_forbidden};
    float *weight = ARENA_ARRAY(a, float, n);
    uint64_t *order = ARENA_ARRAY(a, uint64_t, 2 * n);
    sample_penalize(logits, h->penalty, &seen, 1, weight);
    sample_forbid(logits, forbidden);
    const struct sampler s = {h->temperature, h->top_k, h->top_p, h->min_p, (uint64_t)h->seed};
    const double sum = sample_weights(weight, logits, h->n, &s, order);
    for (size_t i = 0; i < n; i++) {
        const double p = weight[i] / sum;
        put(&p, sizeof p);
    }
    for (int32_t step = 0; step < h->draws; step++) {
        const int32_t token = sample_token(logits, h->n, &s, (uint32_t)h->sequence, (uint32_t)step,
                                           weight, order);
        put(&token, sizeof token);
    }
}

int main(void)
{
    struct header h;
    while (fread(&h, sizeof h, 1, stdin) == 1) {
        struct arena a = {0};
        answer(&h, &a);
        arena_free(&a);
    }
    return 0;
}
