/* A parsed body as one read-only tree, whether it came as JSON or as msgpack, so that every field
 * is decoded by one piece of code. The only file that knows the two libraries' readers is
 * decode_tree.c.
 */
#pragma once
#include "decode.h"

enum tree_kind {
    TREE_null, TREE_bool, TREE_int, TREE_real, TREE_text, TREE_bin, TREE_list, TREE_map,
    TREE_KIND_COUNT
};

extern const char *const tree_kind_name[TREE_KIND_COUNT]; /* "a boolean", "an integer", ... */

struct tree { /* a value; `at` is NULL where there is none */
    enum media media;
    const void *at;
};

struct tree_text { /* borrowed from the tree or the body, without a final NUL; valid UTF-8 */
    const char *at;
    size_t length;
};

struct tree_walk { /* over a map's fields in the order of the body; start with {.map = map} */
    struct tree map;
    void *json;
    int next;
};

struct tree_document {
    struct tree root;
    void *json, *unpacked; /* what tree_close frees */
};

/* Pre-scans, parses and refuses duplicate keys. `scratch` must outlive the document. Call
 * tree_close in any case. */
bool tree_open(struct tree_document *d, const char *body, size_t size, enum media media,
               struct arena *scratch, struct err *e);
void tree_close(struct tree_document *d);

enum tree_kind tree_kind(struct tree t);
bool tree_bool(struct tree t);
int64_t tree_int(struct tree t);
double tree_real(struct tree t);           /* of an integer too */
struct tree_text tree_text(struct tree t); /* of a bin too */

int tree_count(struct tree t); /* of a list or a map */
struct tree tree_item(struct tree list, int i);
bool tree_next(struct tree_walk *w, struct tree_text *key, struct tree *value);
struct tree tree_find(struct tree map, const char *key);

/* How much of a client's text an error shows. */
static inline int text_shown(struct tree_text text)
{
    int n = (int)(text.length < 80 ? text.length : 80);
    while (n > 0 && (size_t)n < text.length && (text.at[n] & 0xc0) == 0x80)
        n--;
    return n;
}

bool text_is(struct tree_text t, const char *word);

/* Names sorted by their bytes: found in O(log n) whatever names a client chooses. */
struct name {
    struct tree_text text;
    int at; /* what it is the name of */
};

void names_sort(struct name *names, int count);
const struct name *names_find(const struct name *names, int count, struct tree_text text);
const struct name *names_duplicate(const struct name *names, int count); /* the second, or NULL */
