/* A GPT-2 that a seeded generator makes in place of files, the same on every machine: for programs
 * that need nothing but a compiler. They link made_model.c instead of kernels/config.c,
 * safetensors.c and shards.c; gpt2_load then takes the text that made_model writes for the name of
 * a folder. */
#pragma once
#include "../protocol/points.h"

enum {
    MADE_TEXT_SIZE = 200
};

/* "made 3 3 51 77 257 103 1e-05 7": blocks, heads, width, inner, vocab, context, epsilon, seed. */
const char *made_model(char *text, const struct model_shape *m, uint64_t seed);
