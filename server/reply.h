/* The stream of frames that answers a run: head at once, each saved tensor as it arrives, then end
 * or error. Runs on the connection's thread. */
#pragma once
#include "../protocol/encode.h"
#include "http.h"
#include "queue.h"

/* Whether what is saved can be sent in this form; else refused (limit) with the one that can. */
bool reply_fits(const struct plan *p, enum reply_media media, struct err *e);

/* Queues the job and takes it: it is freed when the reply is over, and the engine told to stop if
 * the client leaves before. False, and the job is still the caller's, where the queue refuses it.
 * `facts` lives in the request's arena. */
bool reply_open(struct http_reply *reply, const struct http_request *r, struct job *j,
                struct queue *q, enum reply_media media, const struct reply_facts *facts,
                struct err *e);

/* The end of a job that was queued, whatever became of it: the engine lets go of it, and it is
 * freed. */
void reply_let_go(struct job *j, struct queue *q);
