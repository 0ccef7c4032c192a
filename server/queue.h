/* Bounded first-in first-out queue between connections and the engine. Any thread may call it. */
#pragma once
#include "job.h"

struct queue;

struct queue *queue_new(int n_max);
void queue_free(struct queue *q); /* empty by then */

/* Borrows the job until its outbox is final. Refused when full (busy) or closed (draining). */
bool queue_push(struct queue *q, struct job *j, struct err *e);

/* The oldest job, or NULL: at once, or after waiting up to wait_seconds for one. */
struct job *queue_peek(struct queue *q, double wait_seconds);
void queue_pop(struct queue *q);

/* From now on pushes are refused; what is queued stays. Wakes the waiting engine. */
void queue_close(struct queue *q);
int queue_length(struct queue *q);
