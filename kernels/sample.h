/* The next token from a row of logits: greedy, or temperature, top-k and top-p in the order of
 * Hugging Face's processors, with noise that is a function of (seed, sequence, step) alone. */
#pragma once
#include <stdint.h>

struct sampler {
    double temperature; /* 0: greedy, the lowest id among equals; NaN never wins */
    int top_k;          /* 0: all */
    double top_p;       /* 1: all */
    uint64_t seed;
};

/* `scratch` holds n floats and n ints. A row without any finite logit gives token 0. */
int32_t sample_token(const float *logits, int n, const struct sampler *s, uint32_t sequence,
                     uint32_t step, float *scratch, int32_t *order);
