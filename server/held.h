/* Memory that requests take on the host until their replies have left: bounded for all together,
 * and for each user by what is left for the others. Any thread may call it. */
#pragma once
#include "../protocol/base.h"

struct held { /* by one request, whose threads come one after the other; all zero: nothing */
    uint64_t user;
    int64_t bytes;
};

/* Before threads start: what the process may have, and what one request needs at least. */
void held_open(int64_t memory_bytes, int64_t request_bytes);

/* `bytes` in the place of what was held before. Refused (busy) while other requests take all that
 * the server has for them, or this user's as much as they leave; then nothing is held. */
bool held_take(struct held *h, uint64_t user, int64_t bytes, struct err *e);

void held_let_go(struct held *h);
