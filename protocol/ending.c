#include "ending.h"
#include "limits.h"
#include <string.h>

bool ending_is_id(const struct ending *g, int32_t id)
{
    for (int i = 0; i < g->n_ids; i++) {
        if (g->ids[i] == id)
            return true;
    }
    return false;
}

/* The bytes of the last token, `last`, behind as many of those before it as a stop text may have:
 * from the end of the buffer on, since tokens are taken from the last to the first. Returns how
 * many in all. */
static size_t last_bytes(char *end, size_t *last, const struct bpe *b, const int32_t *ids, int n)
{
    size_t size, total = 0;
    const char *bytes = bpe_token(last, b, ids[n - 1]);
    const size_t most = *last + STOP_TEXT_BYTES_MAX - 1;
    for (int i = n - 1; i >= 0 && total < most; i--) {
        bytes = bpe_token(&size, b, ids[i]);
        const size_t take = size < most - total ? size : most - total;
        memcpy(end - total - take, bytes + size - take, take);
        total += take;
    }
    return total;
}

size_t ending_text_at(const struct ending *g, const char *text, size_t size, size_t last)
{
    size_t first = size;
    for (int i = 0; i < g->n_texts; i++) {
        const struct stop_text *s = &g->texts[i];
        const size_t from = last > s->size - 1 ? last - (s->size - 1) : 0;
        const char *at = memmem(text + from, size - from, s->at, s->size);
        if (at && (size_t)(at - text) < first)
            first = (size_t)(at - text);
    }
    return first;
}

bool ending_reached(const struct ending *g, const struct bpe *b, const int32_t *ids, int n)
{
    if (ending_is_id(g, ids[n - 1]))
        return true;
    if (g->n_texts == 0 || n <= g->n_min)
        return false;
    char buffer[STOP_TEXT_BYTES_MAX + BPE_TOKEN_BYTES_MAX], *end = buffer + sizeof buffer;
    size_t last;
    const size_t size = last_bytes(end, &last, b, ids, n);
    return ending_text_at(g, end - size, size, size - last) < size;
}
