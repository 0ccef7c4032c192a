#include "decode_tree.h"

#include <jansson.h>
#include <msgpack.h>
#include <stdlib.h>
#include <string.h>

const char *const tree_kind_name[TREE_KIND_COUNT] = {
    [TREE_null] = "null",    [TREE_bool] = "a boolean", [TREE_int] = "an integer",
    [TREE_real] = "a float", [TREE_text] = "a text",    [TREE_bin] = "a bin",
    [TREE_list] = "a list",  [TREE_map] = "a map",
};

static const msgpack_object *packed(struct tree t)
{
    return t.at;
}

/* jansson quotes what it stumbled over, also the first half of a character. */
static bool refuse_json(const json_error_t *why, struct err *e)
{
    size_t length = 0, n = 0;
    while ((n = utf8_length(why->text + length, strlen(why->text + length))) > 0)
        length += n;
    return err_set(e, ERR_syntax, "the JSON cannot be read at line %d, column %d: %.*s", why->line,
                   why->column, (int)length, why->text);
}

static bool open_json(struct tree_document *d, const char *body, size_t size, struct err *e)
{
    json_error_t why;
    if (!prescan_json(body, size, e))
        return false;
    d->json = json_loadb(body, size, JSON_REJECT_DUPLICATES, &why);
    if (!d->json)
        return refuse_json(&why, e);
    d->root = (struct tree){MEDIA_json, d->json};
    return true;
}

static struct tree_text key_text(const msgpack_object_kv *pair)
{
    return (struct tree_text){pair->key.via.str.ptr, pair->key.via.str.size};
}

static bool refuse_key(struct tree_text key, struct err *e)
{
    return err_set(e, ERR_syntax, "the key \"%.*s\" stands twice in one map", text_shown(key),
                   key.at);
}

static bool check_few_keys(const msgpack_object_map *map, struct err *e)
{
    for (uint32_t i = 1; i < map->size; i++) {
        const struct tree_text key = key_text(&map->ptr[i]);
        for (uint32_t j = 0; j < i; j++) {
            const struct tree_text other = key_text(&map->ptr[j]);
            if (key.length == other.length && memcmp(key.at, other.at, key.length) == 0)
                return refuse_key(key, e);
        }
    }
    return true;
}

static bool check_many_keys(const msgpack_object_map *map, struct arena *scratch, struct err *e)
{
    struct name *names = ARENA_ARRAY(scratch, struct name, map->size);
    for (uint32_t i = 0; i < map->size; i++)
        names[i] = (struct name){key_text(&map->ptr[i]), (int)i};
    names_sort(names, (int)map->size);
    const struct name *twice = names_duplicate(names, (int)map->size);
    return twice ? refuse_key(twice->text, e) : true;
}

static bool check_map(const msgpack_object_map *map, struct arena *scratch, struct err *e)
{
    return map->size <= 8 ? check_few_keys(map, e) : check_many_keys(map, scratch, e);
}

/* Every map of the tree: jansson refuses duplicate keys while it parses, msgpack-c does not. */
static bool check_keys(const msgpack_object *root, struct arena *scratch, struct err *e)
{
    struct {
        const msgpack_object *object;
        uint32_t next;
    } open[DEPTH_MAX + 1] = {{root, 0}};
    int depth = 0;
    while (depth >= 0) {
        const msgpack_object *o = open[depth].object;
        const uint32_t i = open[depth].next++;
        const bool is_map = o->type == MSGPACK_OBJECT_MAP;
        if (is_map && i == 0 && !check_map(&o->via.map, scratch, e))
            return false;
        const msgpack_object *child = NULL;
        if (is_map && i < o->via.map.size)
            child = &o->via.map.ptr[i].val;
        else if (o->type == MSGPACK_OBJECT_ARRAY && i < o->via.array.size)
            child = &o->via.array.ptr[i];
        if (child && (child->type == MSGPACK_OBJECT_MAP || child->type == MSGPACK_OBJECT_ARRAY)) {
            open[++depth].object = child;
            open[depth].next = 0;
        } else if (!child) {
            depth--;
        }
    }
    return true;
}

static bool open_msgpack(struct tree_document *d, const char *body, size_t size,
                         struct arena *scratch, struct err *e)
{
    if (!prescan_msgpack(body, size, e))
        return false;
    msgpack_unpacked *u = ARENA_NEW(scratch, msgpack_unpacked);
    msgpack_unpacked_init(u);
    d->unpacked = u;
    size_t used = 0;
    const msgpack_unpack_return got = msgpack_unpack_next(u, body, size, &used);
    if (got != MSGPACK_UNPACK_SUCCESS || used != size)
        return err_set(e, ERR_syntax, "the msgpack cannot be read behind byte %zu", used);
    d->root = (struct tree){MEDIA_msgpack, &u->data};
    return check_keys(&u->data, scratch, e);
}

bool tree_open(struct tree_document *d, const char *body, size_t size, enum media media,
               struct arena *scratch, struct err *e)
{
    *d = (struct tree_document){0};
    if (size == 0)
        return err_set(e, ERR_syntax, "the body is empty");
    if (size > BODY_BYTES_MAX)
        return err_set(e, ERR_limit, "the body has %zu bytes, at most %d are taken", size,
                       BODY_BYTES_MAX);
    return media == MEDIA_json ? open_json(d, body, size, e)
                               : open_msgpack(d, body, size, scratch, e);
}

void tree_close(struct tree_document *d)
{
    json_decref(d->json);
    if (d->unpacked)
        msgpack_unpacked_destroy(d->unpacked);
}

static enum tree_kind json_kind(const json_t *json)
{
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        return TREE_map;
    case JSON_ARRAY:
        return TREE_list;
    case JSON_STRING:
        return TREE_text;
    case JSON_INTEGER:
        return TREE_int;
    case JSON_REAL:
        return TREE_real;
    case JSON_TRUE:
    case JSON_FALSE:
        return TREE_bool;
    case JSON_NULL:
        break;
    }
    return TREE_null;
}

enum tree_kind tree_kind(struct tree t)
{
    if (t.media == MEDIA_json)
        return json_kind(t.at);
    switch (packed(t)->type) {
    case MSGPACK_OBJECT_BOOLEAN:
        return TREE_bool;
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        return TREE_int;
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64:
        return TREE_real;
    case MSGPACK_OBJECT_STR:
        return TREE_text;
    case MSGPACK_OBJECT_ARRAY:
        return TREE_list;
    case MSGPACK_OBJECT_MAP:
        return TREE_map;
    case MSGPACK_OBJECT_BIN:
        return TREE_bin;
    case MSGPACK_OBJECT_NIL:
    case MSGPACK_OBJECT_EXT:
        break;
    }
    return TREE_null;
}

bool tree_bool(struct tree t)
{
    return t.media == MEDIA_json ? json_is_true((const json_t *)t.at) : packed(t)->via.boolean;
}

int64_t tree_int(struct tree t)
{
    return t.media == MEDIA_json ? json_integer_value(t.at) : packed(t)->via.i64;
}

double tree_real(struct tree t)
{
    if (tree_kind(t) == TREE_int)
        return (double)tree_int(t);
    return t.media == MEDIA_json ? json_real_value(t.at) : packed(t)->via.f64;
}

struct tree_text tree_text(struct tree t)
{
    if (t.media == MEDIA_json)
        return (struct tree_text){json_string_value(t.at), json_string_length(t.at)};
    if (packed(t)->type == MSGPACK_OBJECT_BIN)
        return (struct tree_text){packed(t)->via.bin.ptr, packed(t)->via.bin.size};
    return (struct tree_text){packed(t)->via.str.ptr, packed(t)->via.str.size};
}

int tree_count(struct tree t)
{
    if (t.media == MEDIA_json)
        return (int)(json_is_array((const json_t *)t.at) ? json_array_size(t.at)
                                                         : json_object_size(t.at));
    return (int)(packed(t)->type == MSGPACK_OBJECT_ARRAY ? packed(t)->via.array.size
                                                         : packed(t)->via.map.size);
}

struct tree tree_item(struct tree list, int i)
{
    if (list.media == MEDIA_json)
        return (struct tree){MEDIA_json, json_array_get(list.at, (size_t)i)};
    return (struct tree){MEDIA_msgpack, &packed(list)->via.array.ptr[i]};
}

bool tree_next(struct tree_walk *w, struct tree_text *key, struct tree *value)
{
    if (w->next == tree_count(w->map))
        return false;
    if (w->map.media == MEDIA_json) {
        json_t *object = (json_t *)w->map.at; /* jansson's iterators are not const */
        w->json = w->next ? json_object_iter_next(object, w->json) : json_object_iter(object);
        const char *text = json_object_iter_key(w->json);
        *key = (struct tree_text){text, strlen(text)};
        *value = (struct tree){MEDIA_json, json_object_iter_value(w->json)};
    } else {
        const msgpack_object_kv *pair = &packed(w->map)->via.map.ptr[w->next];
        *key = key_text(pair);
        *value = (struct tree){MEDIA_msgpack, &pair->val};
    }
    w->next++;
    return true;
}

struct tree tree_find(struct tree map, const char *key)
{
    if (map.media == MEDIA_json)
        return (struct tree){MEDIA_json, json_object_get(map.at, key)};
    const msgpack_object_map *m = &packed(map)->via.map;
    for (uint32_t i = 0; i < m->size; i++) {
        if (text_is(key_text(&m->ptr[i]), key))
            return (struct tree){MEDIA_msgpack, &m->ptr[i].val};
    }
    return (struct tree){MEDIA_msgpack, NULL};
}

bool text_is(struct tree_text t, const char *word)
{
    return strlen(word) == t.length && memcmp(t.at, word, t.length) == 0;
}

static int compare_texts(struct tree_text x, struct tree_text y)
{
    const int order = memcmp(x.at, y.at, x.length < y.length ? x.length : y.length);
    return order ? order : (x.length > y.length) - (x.length < y.length);
}

static int compare_names(const void *a, const void *b)
{
    const struct name *x = a, *y = b;
    const int order = compare_texts(x->text, y->text);
    return order ? order : (x->at > y->at) - (x->at < y->at);
}

void names_sort(struct name *names, int count)
{
    if (count > 1)
        qsort(names, (size_t)count, sizeof *names, compare_names);
}

const struct name *names_find(const struct name *names, int count, struct tree_text text)
{
    int low = 0, high = count;
    while (low < high) {
        const int middle = low + (high - low) / 2;
        const int order = compare_texts(text, names[middle].text);
        if (order == 0)
            return &names[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

const struct name *names_duplicate(const struct name *names, int count)
{
    for (int i = 1; i < count; i++) {
        if (compare_texts(names[i - 1].text, names[i].text) == 0)
            return &names[i];
    }
    return NULL;
}
