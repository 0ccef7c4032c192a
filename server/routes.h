/* What each route does, from a request's bytes to its reply: one table, from which 404, 405, HEAD
 * and the media types follow. Called by the connections' threads. */
#pragma once
#include <semaphore.h>
#include "../protocol/bpe.h"
#include "../protocol/spec.h"
#include "http.h"
#include "queue.h"

struct service { /* what the routes need; nothing changes while they run but queue and planning */
    const struct bpe *bpe; /* NULL where the model came without a tokenizer */
    struct queue *queue;
    struct model_facts facts;
    struct capacity capacity;
    sem_t planning; /* places for requests that are decoded and planned: routes_of opens them, */
    sem_t planning_of[USERS_COUNTED]; /* and those of a user, half as many */
};

/* Borrows `s`. */
struct http_service routes_of(struct service *s);
