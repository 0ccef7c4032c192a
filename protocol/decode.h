/* A request's body, JSON or msgpack, to a graph: one decoder table for both. Checks form only:
 * every field, kind and name, and every limit of limits.h, before anything of the claimed size is
 * allocated (a pre-scan without allocation comes before the libraries see the bytes). */
#pragma once
#include "graph.h"

enum media { MEDIA_json, MEDIA_msgpack };

/* `body` stays where it is: texts and tensors of the graph may point into it. `m` is the loaded
 * model, for hook paths. Errors name path, node and numbers. */
bool decode_request(struct graph *g, const char *body, size_t size, enum media media,
                    const struct model_shape *m, struct arena *a, struct err *e);

struct text_list { /* the body of /v1/tokenize */
    bool is_list;
    int count;
    const char **texts;
    size_t *bytes;
};

struct token_lists { /* the body of /v1/detokenize */
    bool is_list;
    int count;
    const int32_t **tokens;
    int *lengths;
};

bool decode_texts(struct text_list *t, const char *body, size_t size, enum media media,
                  struct arena *a, struct err *e);
bool decode_token_lists(struct token_lists *t, const char *body, size_t size, enum media media,
                        struct arena *a, struct err *e);

/* A tensor expression's index, "[:, 7, ..., None, 2:5]", from its opening bracket. `*used` is how
 * much of the text it took. */
bool decode_index(const struct index **index, int *count, size_t *used, const char *text,
                  size_t length, struct arena *a, struct err *e);

/* How many bytes the UTF-8 character at the start of the text has, 0 where there is none. */
size_t utf8_length(const char *text, size_t length);

/* The pre-scans alone, for tests: depth, objects, declared lengths, UTF-8, trailing bytes. */
bool prescan_json(const char *body, size_t size, struct err *e);
bool prescan_msgpack(const char *body, size_t size, struct err *e);
