#include "reply.h"
#include "../protocol/limits.h"
#include "metrics.h"
#include <limits.h>

/* How often a waiting connection looks whether its client is still there. */
#define LOOK_SECONDS 0.25

struct stream {
    const struct http_request *request;
    struct job *job;
    struct queue *queue;
    struct encoder *encoder;
    int n_ready;    /* saves that have come, as last seen, and */
    int n_sent;     /* how many of their frames are set or sent */
    bool is_ending; /* the frame that is being pulled is the last */
    double sent_at; /* when the last bytes left, for the heartbeat */
};

static void set_last_frame(struct stream *s, enum job_state state)
{
    struct job *j = s->job;
    struct err e = j->err;
    s->is_ending = true;
    if (state == JOB_cancelled)
        err_set(&e, ERR_cancelled, "the request was taken back");
    if (state == JOB_done) {
        encoder_end(s->encoder, j->admitted_at - j->queued_at, j->finished_at - j->admitted_at);
        return;
    }
    metric_add_error(e.code);
    encoder_error(s->encoder, &e);
}

/* Waits for the next thing to say. False where nobody listens any more. */
static bool set_next_frame(struct stream *s)
{
    for (;;) {
        enum job_state state = job_wait(s->job, &s->n_ready, s->n_sent, LOOK_SECONDS);
        if (s->n_ready > s->n_sent) {
            encoder_save(s->encoder, s->n_sent++);
            return true;
        }
        if (job_state_is_final(state)) {
            set_last_frame(s, state);
            return true;
        }
        if (http_client_left(s->request))
            return false;
        if (seconds_now() >= s->sent_at + s->request->heartbeat_seconds) {
            encoder_heartbeat(s->encoder);
            return true;
        }
    }
}

/* All that is there and fits: each piece costs a system call here and a wake-up there. */
static size_t pull_ready(struct stream *s, char *buffer, size_t max)
{
    size_t n = encoder_pull(s->encoder, buffer, max);
    while (n > 0 && n < max && s->n_sent < s->n_ready) {
        encoder_save(s->encoder, s->n_sent++);
        n += encoder_pull(s->encoder, buffer + n, max - n);
    }
    return n;
}

static ptrdiff_t pull(void *context, char *buffer, size_t max)
{
    struct stream *s = context;
    for (;;) {
        size_t n = pull_ready(s, buffer, max);
        if (n > 0) {
            s->sent_at = seconds_now();
            return (ptrdiff_t)n;
        }
        if (s->is_ending)
            return HTTP_END;
        if (!set_next_frame(s)) {
            job_cancel(s->job);
            return HTTP_CUT;
        }
    }
}

/* The engine may be in the middle of a pass with this job: it lets go of it at the end. */
static void wait_until_final(struct job *j)
{
    int n_ready;
    while (!job_state_is_final(job_wait(j, &n_ready, INT_MAX, HEARTBEAT_SECONDS)))
        continue;
}

void reply_let_go(struct job *j, struct queue *q)
{
    job_cancel(j);
    if (queue_remove(q, j))
        metric_add(METRIC_requests_cancelled, 1);
    else
        wait_until_final(j);
    job_free(j);
}

static void done(void *context)
{
    struct stream *s = context;
    reply_let_go(s->job, s->queue);
}

bool reply_fits(const struct plan *p, enum reply_media media, struct err *e)
{
    int64_t n = 0;
    for (int i = 0; i < p->n_saves; i++)
        n += view_count(&p->saves[i].view);
    return (media != REPLY_json && media != REPLY_ndjson) || n <= JSON_REPLY_NUMBERS_MAX ||
           err_set(e, ERR_limit,
                   "the saves have %lld numbers, and a reply as JSON at most %d: ask for msgpack "
                   "(Accept: application/msgpack), or save less",
                   (long long)n, JSON_REPLY_NUMBERS_MAX);
}

bool reply_open(struct http_reply *reply, const struct http_request *r, struct job *j,
                struct queue *q, enum reply_media media, const struct reply_facts *facts,
                struct err *e)
{
    struct stream *s = ARENA_NEW(r->arena, struct stream);
    *s = (struct stream){.request = r, .job = j, .queue = q, .sent_at = seconds_now()};
    s->encoder = encoder_open(media, facts, r->arena);
    encoder_head(s->encoder);
    if (!queue_push(q, j, e))
        return false;
    *reply = (struct http_reply){.status = 200,
                                 .content_type = reply_media_type[media],
                                 .pull = pull,
                                 .done = done,
                                 .stream = s};
    return true;
}
