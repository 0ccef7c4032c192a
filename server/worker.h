/* The engine thread: takes jobs out of the queue, and runs one pass after the other for as long as
 * there are any. From worker_start on it alone calls the backend. */
#pragma once
#include "batch.h"
#include "queue.h"

struct worker;

bool worker_start(struct worker **w, struct batch *b, struct queue *q, struct arena *a,
                  struct err *e);

/* Everything that runs or waits fails with `draining`, between two passes or two pieces of a long
 * one. */
void worker_abort(struct worker *w);

/* The queue was closed and everything in it is done, or the device failed. */
bool worker_is_over(struct worker *w);
bool worker_has_failed(struct worker *w);

void worker_join(struct worker *w); /* behind queue_close */
