/* The next token from a row of logits: greedy, or drawn from what Hugging Face's processors leave,
 * in their order: repetition penalty, forbidden ids, temperature, top-k, top-p, min-p. The noise is
 * a function of (seed, sequence, step) alone. */
#pragma once
#include <stdint.h>

struct sampler {
    double temperature; /* 0: greedy, the lowest id among equals; NaN never wins */
    int top_k;          /* 0: all */
    double top_p;       /* 1: all */
    double min_p;       /* of the likeliest's probability; 0: all */
    uint64_t seed;
};

struct token_ids { /* each an index into the row */
    const int32_t *at;
    int count;
};

/* Logits of tokens that these lists hold: divided by `penalty`, multiplied where below zero.
 * `scratch` holds as many floats as the row. */
void sample_penalize(float *logits, double penalty, const struct token_ids *seen, int n_lists,
                     float *scratch);

/* These are not drawn, nor chosen while any other can be. */
void sample_forbid(float *logits, struct token_ids ids);

/* `weight` holds n floats and 2 n of `order` are scratch. A row with nothing above
 * -infinity gives token 0. */
int32_t sample_token(const float *logits, int n, const struct sampler *s, uint32_t sequence,
                     uint32_t step, float *weight, uint64_t *order);

/* The distribution behind it, for a temperature above 0 and a row with a finite maximum: the
 * probability of id i is weight[i] / the sum that is returned, 0 for what is not kept. */
double sample_weights(float *weight, const float *logits, int n, const struct sampler *s,
                      uint64_t *order);
