/* A reply's frames as bytes, pulled piece by piece into whatever buffer the connection has, so that
 * a result of 200 MB is never held twice. One encoder a reply; no locks, no allocation after
 * encoder_open. */
#pragma once
#include "bpe.h"
#include "plan.h"

enum reply_media { REPLY_msgpack, REPLY_ndjson, REPLY_json, REPLY_text, REPLY_MEDIA_COUNT };

extern const char *const reply_media_type[REPLY_MEDIA_COUNT]; /* "application/msgpack", ... */

struct reply_facts { /* what the frames say besides the tensors; borrowed */
    const char *request_id, *model, *numerics;
    const struct graph *graph;
    const struct plan *plan;
    const char *results;        /* of the saves */
    const bool *absent;         /* of the saves: those that did not come */
    const int32_t *generated;   /* plan.n_generated, or NULL, and */
    const struct outcome *outcomes; /* [plan.n_sequences] how many came of each: known at the end */
    const struct bpe *bpe;      /* for people to read the ids, or NULL */
};

struct encoder;

struct encoder *encoder_open(enum reply_media media, const struct reply_facts *facts,
                             struct arena *a);

/* Sets the next frame; the one before has been pulled to its end. */
void encoder_head(struct encoder *c);
void encoder_save(struct encoder *c, int save); /* an index into plan.saves: a tensor, or absent */
void encoder_end(struct encoder *c, double queue_seconds, double run_seconds);
void encoder_error(struct encoder *c, const struct err *e);
void encoder_heartbeat(struct encoder *c);

/* Copies the frame's next bytes, up to max; 0 when it is whole. */
size_t encoder_pull(struct encoder *c, char *buffer, size_t max);

/* Whole documents in an arena, for everything that is not a stream: JSON, or msgpack of the same
 * tree where `media` is REPLY_msgpack. */
struct bytes {
    char *at;
    size_t size;
};

struct bytes encode_error(const struct err *e, const char *request_id, enum reply_media media,
                          struct arena *a);
struct bytes encode_plan(const struct graph *g, const struct plan *p, const struct model_shape *m,
                         enum reply_media media, struct arena *a);
