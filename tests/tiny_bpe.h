/* The smallest vocabularies that protocol/bpe.c takes, as text. */
#pragma once
#include <stdio.h>

#include "../protocol/base.h"

/* Is this one of the 256 characters that GPT-2's files spell bytes with? In this order, 'a' has id
 * 64 and the space 220, as in GPT-2. */
static inline bool tiny_is_spelling(int c)
{
    return (c > 0x20 && c < 0x7F) || (c > 0xA0 && c <= 0x143 && c != 0xAD);
}

/* Ids 0 to 255 are the single bytes. `more` goes behind them: ",\"ab\":256". */
static inline const char *tiny_vocab(struct arena *a, const char *more)
{
    enum {
        ROW = sizeof ",\"\\u0000\":255",
    };
    char *all = arena_alloc(a, 256 * ROW), *end = all;
    int id = 0;
    for (int c = 0; c <= 0x143; c++)
        if (tiny_is_spelling(c)) {
            end += snprintf(end, ROW, "%s\"\\u%04x\":%d", id > 0 ? "," : "", (unsigned)c, id);
            id++;
        }
    return arena_format(a, "{%s%s}", all, more);
}

/* A whole tokenizer.json. `settings` goes behind the parts that must be there. */
static inline const char *tiny_tokenizer(struct arena *a, const char *more, const char *merges,
                                         const char *settings)
{
    return arena_format(a,
                        "{\"model\":{\"vocab\":%s,\"merges\":%s},\"pre_tokenizer\":{\"type\":"
                        "\"ByteLevel\",\"add_prefix_space\":false}%s}",
                        tiny_vocab(a, more), merges, settings);
}
