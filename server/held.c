#include "held.h"
#include "../protocol/limits.h"
#include "metrics.h"
#include <stdatomic.h>

/* What all requests that wait, run or are read may take together, graphs and replies: sixteen of
 * the largest replies, or the usual thousands of small ones; on a small machine this part of it,
 * which the model, its cache and the slab leave. A reply's memory is touched as values arrive, so a
 * reservation alone costs nothing. Who reads slowly holds it for long: a user may hold no more than
 * is left for the others. */
#define HELD_BYTES_MAX (16 * RESULT_BYTES_MAX)
#define HELD_PART 4

static int64_t held_bytes_max = HELD_BYTES_MAX;
static atomic_int_least64_t held_by_all, held_by[USERS_COUNTED];

void held_open(int64_t memory_bytes, int64_t request_bytes)
{
    const int64_t part = memory_bytes / HELD_PART;
    const int64_t enough = part > request_bytes ? part : request_bytes;
    held_bytes_max = enough < HELD_BYTES_MAX ? enough : HELD_BYTES_MAX;
}

void held_let_go(struct held *h)
{
    atomic_fetch_sub(&held_by_all, h->bytes);
    atomic_fetch_sub(&held_by[h->user % USERS_COUNTED], h->bytes);
    metric_add(METRIC_request_bytes, -h->bytes);
    *h = (struct held){0};
}

/* Two at a time may refuse one another where either alone would be taken: they come back. */
bool held_take(struct held *h, uint64_t user, int64_t bytes, struct err *e)
{
    held_let_go(h);
    const int64_t all = atomic_fetch_add(&held_by_all, bytes);
    const int64_t own = atomic_fetch_add(&held_by[user % USERS_COUNTED], bytes);
    const int64_t left = held_bytes_max - all - bytes;
    *h = (struct held){user, bytes};
    metric_add(METRIC_request_bytes, bytes);
    if (left >= 0 && (own == 0 || own + bytes <= left))
        return true;
    held_let_go(h);
    if (left < 0)
        return err_set(e, ERR_busy,
                       "requests that are being answered take %lld of %lld bytes, this one would "
                       "take %lld",
                       (long long)all, (long long)held_bytes_max, (long long)bytes);
    return err_set(e, ERR_busy,
                   "your requests that are being answered take %lld bytes, this one would take "
                   "%lld, and the other %lld are kept for others",
                   (long long)own, (long long)bytes, (long long)left);
}
