#include "completions.h"
#include "metrics.h"
#include "reply.h"
#include <limits.h>
#include <string.h>

/* How often a waiting connection looks whether its client is still there. */
#define LOOK_SECONDS 0.25

struct stream {
    const struct http_request *request;
    struct job *job;
    struct queue *queue;
    struct completion_facts *facts;
    struct arena arena;    /* of the event that is being pulled */
    struct bytes event;
    size_t event_sent;
    int n_steps;           /* whose tokens have come, and */
    int next;              /* the next choice to look at */
    enum job_state state;
    bool is_usage_said, is_over; /* the last event is set */
    bool (*set_next)(struct stream *s); /* waits for the next event; false: nobody listens */
    double sent_at;        /* when the last bytes left, for the heartbeat */
};

/* How many tokens of a choice have come, at a moment when so many steps have. */
static int count_new(const struct stream *s, int choice)
{
    return s->state == JOB_done ? s->job->outcomes[choice].n_new : s->n_steps;
}

static void set_event(struct stream *s, struct bytes event)
{
    s->event = event;
    s->event_sent = 0;
}

static void set_text(struct stream *s, const char *text)
{
    set_event(s, (struct bytes){arena_copy_text(&s->arena, text, strlen(text)), strlen(text)});
}

/* The next event of what has come; false where everything has been said. */
static bool set_next_choice(struct stream *s)
{
    struct completion_facts *f = s->facts;
    for (; s->next < f->n_choices; s->next++) {
        struct choice *c = &f->choices[s->next];
        if (completion_take(f, c, count_new(s, s->next))) {
            set_event(s, completion_event(f, c, &s->arena));
            return true;
        }
    }
    return false;
}

static void set_last(struct stream *s)
{
    struct err e = s->job->err;
    if (s->state != JOB_done) {
        err_set(&e, ERR_cancelled, "the request was taken back");
        metric_add_error(e.code);
        set_event(s, completion_error_event(&e, s->request->id, &s->arena));
        s->is_over = true;
    } else if (s->facts->asked->counts_usage && !s->is_usage_said) {
        set_event(s, completion_usage_event(s->facts, &s->arena));
        s->is_usage_said = true;
    } else {
        set_text(s, "data: [DONE]\n\n");
        s->is_over = true;
    }
}

/* Waits for the next thing to say. False where nobody listens any more. */
static bool set_next_event(struct stream *s)
{
    for (;;) {
        if (set_next_choice(s))
            return true;
        if (job_state_is_final(s->state)) {
            set_last(s);
            return true;
        }
        const int n_seen = s->n_steps;
        s->state = job_wait_step(s->job, &s->n_steps, n_seen, LOOK_SECONDS);
        s->next = 0;
        if (s->n_steps > n_seen || job_state_is_final(s->state))
            continue;
        if (http_client_left(s->request))
            return false;
        if (seconds_now() >= s->sent_at + s->request->heartbeat_seconds) {
            set_text(s, ": \n\n");
            return true;
        }
    }
}

static ptrdiff_t pull(void *context, char *buffer, size_t max)
{
    struct stream *s = context;
    if (s->event_sent == s->event.size) {
        arena_free(&s->arena);
        if (s->is_over)
            return HTTP_END;
        if (!s->set_next(s)) {
            job_cancel(s->job);
            return HTTP_CUT;
        }
    }
    const size_t left = s->event.size - s->event_sent, n = left < max ? left : max;
    memcpy(buffer, s->event.at + s->event_sent, n);
    s->event_sent += n;
    s->sent_at = seconds_now();
    return (ptrdiff_t)n;
}

static void done(void *context)
{
    struct stream *s = context;
    arena_free(&s->arena);
    reply_let_go(s->job, s->queue);
}

static bool stream(struct http_reply *reply, struct stream *s, const char *content_type)
{
    *reply = (struct http_reply){.status = 200,
                                 .content_type = content_type,
                                 .pull = pull,
                                 .done = done,
                                 .stream = s};
    return true;
}

/* Of a job that is final; refused with what the engine failed for. */
static bool document(struct bytes *body, struct stream *s, struct arena *a, struct err *e)
{
    struct completion_facts *f = s->facts;
    if (s->state != JOB_done) {
        *e = s->job->err;
        return err_set(e, ERR_cancelled, "the request was taken back");
    }
    for (int i = 0; i < f->n_choices; i++)
        completion_take(f, &f->choices[i], count_new(s, i));
    *body = completion_document(f, a);
    return true;
}

/* What waits for the document is white space, as JSON allows in front of it. */
static bool set_document(struct stream *s)
{
    int n_steps;
    for (;;) {
        s->state = job_wait_step(s->job, &n_steps, INT_MAX, LOOK_SECONDS);
        if (job_state_is_final(s->state))
            break;
        if (http_client_left(s->request))
            return false;
        if (seconds_now() >= s->sent_at + s->request->heartbeat_seconds) {
            set_text(s, " ");
            return true;
        }
    }
    struct err e = {0};
    struct bytes body;
    if (!document(&body, s, &s->arena, &e)) {
        metric_add_error(e.code);
        body = completion_error(&e, s->request->id, &s->arena);
    }
    set_event(s, body);
    s->is_over = true;
    return true;
}

/* The whole reply. It begins when it is there, or before a proxy takes it for dead. */
static bool whole(struct http_reply *reply, struct stream *s, struct err *e)
{
    const double begins_at = s->sent_at + s->request->heartbeat_seconds;
    int n_steps;
    while (!job_state_is_final(s->state) && seconds_now() < begins_at) {
        s->state = job_wait_step(s->job, &n_steps, INT_MAX, LOOK_SECONDS);
        if (http_client_left(s->request))
            job_cancel(s->job);
    }
    if (!job_state_is_final(s->state))
        return stream(reply, s, "application/json");
    struct bytes body;
    if (!document(&body, s, s->request->arena, e))
        return false;
    *reply = (struct http_reply){.status = 200,
                                 .content_type = "application/json",
                                 .body = body.at,
                                 .body_size = body.size,
                                 .done = done,
                                 .stream = s};
    return true;
}

bool completions_answer(struct http_reply *reply, const struct http_request *r, struct job *j,
                        struct queue *q, struct completion_facts *facts, struct err *e)
{
    struct stream *s = ARENA_NEW(r->arena, struct stream);
    *s = (struct stream){
        .request = r, .job = j, .queue = q, .facts = facts, .sent_at = seconds_now()};
    j->is_followed = facts->asked->streams;
    s->set_next = facts->asked->streams ? set_next_event : set_document;
    if (!queue_push(q, j, e))
        return false;
    return facts->asked->streams ? stream(reply, s, "text/event-stream; charset=utf-8")
                                 : whole(reply, s, e);
}
