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

/* A model may have more ids than its tokenizer has tokens. */
static const char *bytes_of(size_t *size, const struct bpe *b, int32_t id)
{
    *size = 0;
    return id < bpe_size(b) ? bpe_token(size, b, id) : "";
}

/* The bytes of the last token, behind as many of those before it as a stop text may have: from the
 * end of the buffer on, since tokens are taken from the last to the first. */
static size_t last_bytes(char *end, const struct bpe *b, const int32_t *ids, int n)
{
    size_t size, total = 0;
    const char *bytes = bytes_of(&size, b, ids[n - 1]);
    const size_t most = size + STOP_TEXT_BYTES_MAX - 1;
    for (int i = n - 1; i >= 0 && total < most; i--) {
        bytes = bytes_of(&size, b, ids[i]);
        const size_t take = size < most - total ? size : most - total;
        memcpy(end - total - take, bytes + size - take, take);
        total += take;
    }
    return total;
}

bool ending_reached(const struct ending *g, const struct bpe *b, const int32_t *ids, int n)
{
    if (ending_is_id(g, ids[n - 1]))
        return true;
    if (g->n_texts == 0)
        return false;
    char buffer[STOP_TEXT_BYTES_MAX + BPE_TOKEN_BYTES_MAX], *end = buffer + sizeof buffer;
    const size_t size = last_bytes(end, b, ids, n);
    for (int i = 0; i < g->n_texts; i++) {
        if (memmem(end - size, size, g->texts[i].at, g->texts[i].size))
            return true;
    }
    return false;
}
