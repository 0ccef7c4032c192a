/* POST /v1/completions, OpenAI's completion of texts. Its body becomes an ordinary graph: a prompt
 * is an invoke, its n choices are the invoke's sequences, and log-probabilities are nodes that are
 * saved. The reply's text is made of what the job generates, as it comes. */
#pragma once
#include "decode.h"
#include "encode.h"
#include "ending.h"

/* The saves that say how likely tokens are: of one step of an invoke, or of its prompt. Indices of
 * nodes; -1 where they are not asked for. */
struct logprob_nodes {
    int chosen, values, ids; /* (B, 1); the likeliest, (B, n_top) */
};

struct completion { /* what the body asks for beside the graph */
    bool echo, streams, counts_usage; /* the last two chunks of a stream say the usage */
    bool has_seed, has_logprobs;
    int n_top;
    struct logprob_nodes *steps; /* (n_invokes, n_new_tokens), and */
    struct logprob_nodes *prompts; /* [n_invokes], or both NULL */
};

/* As decode_request does; `body` may be msgpack too. */
bool decode_completion(struct completion *c, struct graph *g, const char *body, size_t size,
                       enum media media, const struct model_shape *m, struct arena *a,
                       struct err *e);

/* One sequence on its way to text. */
struct choice {
    int invoke, sequence;
    int n_taken;        /* of its new tokens, and */
    int n_tokens;       /* how many of them are part of the text */
    bool ended;         /* nothing comes any more: */
    bool stopped;       /* by its end, not by max_tokens */
    char *text;         /* of what was generated, without what ended it */
    size_t size, capacity;
    size_t *ends;       /* [n_new_tokens] where each token's bytes end */
    size_t sent;        /* bytes and tokens that the reply has already */
    int tokens_sent;
    int64_t characters_sent; /* up to the end of these tokens, with the prompt if that is echoed */
    bool has_begun, has_finished; /* in the reply */
};

struct completion_facts { /* what the reply is made of; borrowed */
    const struct completion *asked;
    const struct graph *graph;
    const struct plan *plan;
    const struct bpe *bpe;
    const char *request_id, *model;
    int64_t created;         /* seconds since 1970 */
    const char *results;     /* of the saves, and */
    const int *save_of;      /* [n_nodes] the save of an OP_save, an index into plan.saves */
    const int32_t *generated;
    struct choice *choices;  /* [n_choices], by sequence */
    int n_choices;
    struct arena *arena;     /* in which their texts grow */
};

/* Behind the plan: the choices. */
void completion_open(struct completion_facts *f, struct arena *a);

/* Takes the tokens of a choice up to its step `n_steps`. Returns whether the reply gets something
 * new of it: its end, or text that is certain, for what may yet become a character or a text that
 * ends it is held back. */
bool completion_take(struct completion_facts *f, struct choice *c, int n_steps);

/* The reply in one document, once all choices have ended; a stream's event of what a choice has
 * that has not been sent; the one with the usage; an error's. */
struct bytes completion_document(const struct completion_facts *f, struct arena *a);
struct bytes completion_event(const struct completion_facts *f, struct choice *c, struct arena *a);
struct bytes completion_usage_event(const struct completion_facts *f, struct arena *a);
struct bytes completion_error_event(const struct err *e, const char *request_id, struct arena *a);

/* {"error": {...}} as OpenAI's clients read it, with our codes. */
struct bytes completion_error(const struct err *e, const char *request_id, struct arena *a);
