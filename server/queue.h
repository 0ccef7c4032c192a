/* Bounded queue between connections and the engine. Any thread may call it.
 *
 * A job counts as waiting from queue_push until the engine says that it is not (queue_forget), also
 * after the engine has taken it out to choose among all. No user may have more jobs waiting than
 * there are places left for the others. */
#pragma once
#include "job.h"

struct queue;

struct queue *queue_new(int n_max, struct arena *a);
void queue_free(struct queue *q); /* empty by then */

/* Borrows the job until its outbox is final. Refused (busy) when full, or when this user has its
 * share of it (j->turn.user); or with what closed it. */
bool queue_push(struct queue *q, struct job *j, struct err *e);

/* Takes the oldest job out, or NULL: after waiting up to wait_seconds for one, at once if the queue
 * is closed. */
struct job *queue_pop(struct queue *q, double wait_seconds);

/* The engine: a job that it took out waits no more. */
void queue_forget(struct queue *q, const struct job *j);

/* Takes this job out, wherever it stands; false if the engine has it already. */
bool queue_remove(struct queue *q, struct job *j);

/* Whether it is not closed, and if it is, its refusal. */
bool queue_is_open(struct queue *q, struct err *e);

/* Whether a push would be taken now, and if not, its refusal. */
bool queue_takes(struct queue *q, struct err *e);

/* From now on pushes are refused with `why`; what is queued stays. Wakes the waiting engine. Only
 * the first call counts. */
void queue_close(struct queue *q, const struct err *why);

/* Nothing is left to take out, and nothing can come any more. */
bool queue_is_over(struct queue *q);
