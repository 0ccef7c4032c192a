/* What answers POST /v1/completions: waits for the job and says it whole, or streams it as
 * server-sent events. Runs on the connection's thread. */
#pragma once
#include "../protocol/completion.h"
#include "http.h"
#include "queue.h"

/* Queues the job and takes it: it is freed when the reply is over. False, and the job is still the
 * caller's, where the queue refuses it, or where it failed before anything was said. `facts` lives
 * in the request's arena. */
bool completions_answer(struct http_reply *reply, const struct http_request *r, struct job *j,
                        struct queue *q, struct completion_facts *facts, struct err *e);
