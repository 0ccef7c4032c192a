#include "decode_parts.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

struct decoder {
    struct graph *graph;
    const struct model_shape *model;
    struct arena *arena;   /* the request's */
    struct arena *scratch; /* gone when decoding ends */
    struct err *e;
    int node_capacity, n_edges, n_saves, n_numbers, n_sequences;
    struct name *names; /* of the nodes, sorted */
    int n_names;
    int n_wire;      /* the length of `nodes` */
    int n_decoded;   /* of them */
    int *wire_node;  /* [n_wire]: the node of the graph that a reference to nodes[i] means */
};

/* Fields of a map. */

enum {
    KIND_bool = 1 << TREE_bool, KIND_int = 1 << TREE_int, KIND_text = 1 << TREE_text,
    KIND_list = 1 << TREE_list, KIND_map = 1 << TREE_map, KIND_bin = 1 << TREE_bin,
    KIND_number = 1 << TREE_int | 1 << TREE_real, KIND_any = ~0
};

struct field {
    const char *name;
    int kinds;
    bool needed;
};

static int shown(struct tree_text text)
{
    return (int)(text.length < 80 ? text.length : 80);
}

static bool refuse_field(struct tree_text key, const struct field *fields, int count,
                         struct err *e)
{
    int best = 0, best_distance = INT_MAX;
    for (int i = 0; i < count; i++) {
        const int d = text_distance(key.at, key.length, fields[i].name, strlen(fields[i].name));
        if (d < best_distance) {
            best = i;
            best_distance = d;
        }
    }
    return err_set(e, ERR_syntax, "there is no field \"%.*s\" here: did you mean \"%s\"?",
                   shown(key), key.at, fields[best].name);
}

/* "an integer or a float", for a set of kinds. */
static const char *kinds_text(char *buffer, size_t size, int kinds)
{
    size_t n = 0;
    buffer[0] = '\0';
    for (int kind = 0; kind < TREE_KIND_COUNT; kind++) {
        if (kinds >> kind & 1 && n < size)
            n += (size_t)snprintf(buffer + n, size - n, "%s%s", n ? " or " : "",
                                  tree_kind_name[kind]);
    }
    return buffer;
}

/* The values of a map's fields in the order of the table; a null counts as left out. `place` is
 * what errors call the map, empty for the body itself. */
static bool read_fields(struct tree *values, struct tree map, const struct field *fields, int count,
                        const char *place, int wire, struct err *e)
{
    struct tree_walk walk = {.map = map};
    struct tree_text key;
    struct tree value;
    const char *dot = *place ? "." : "";
    if (tree_kind(map) != TREE_map) {
        err_set(e, *place ? ERR_type : ERR_syntax, "%s is a map, not %s",
                *place ? place : "the body", tree_kind_name[tree_kind(map)]);
        return *place ? err_at(e, wire, "%s", place) : false;
    }
    memset(values, 0, sizeof *values * (size_t)count);
    while (tree_next(&walk, &key, &value)) {
        int i = 0;
        while (i < count && !text_is(key, fields[i].name))
            i++;
        if (i == count) {
            refuse_field(key, fields, count, e);
            return err_at(e, wire, "%s%s%.*s", place, dot, shown(key), key.at);
        }
        const enum tree_kind kind = tree_kind(value);
        char kinds[160];
        if (kind != TREE_null && !(fields[i].kinds >> kind & 1)) {
            err_set(e, ERR_type, "%s is %s, not %s", fields[i].name,
                    kinds_text(kinds, sizeof kinds, fields[i].kinds), tree_kind_name[kind]);
            return err_at(e, wire, "%s%s%s", place, dot, fields[i].name);
        }
        if (kind != TREE_null || fields[i].kinds == KIND_any)
            values[i] = value;
    }
    for (int i = 0; i < count; i++) {
        if (fields[i].needed && !values[i].at) {
            err_set(e, ERR_syntax, "%s is missing", fields[i].name);
            return *place ? err_at(e, wire, "%s", place) : false;
        }
    }
    return true;
}

static bool read_int(int64_t *out, struct tree t, const char *what, int64_t low, int64_t high,
                     struct err *e)
{
    const int64_t value = tree_int(t);
    if (value < low || value > high)
        return err_set(e, ERR_value, "%s is %lld to %lld, not %lld", what, (long long)low,
                       (long long)high, (long long)value);
    *out = value;
    return true;
}

/* Prompts. */

static bool read_tokens(struct prompt *p, struct tree list, const struct model_shape *m,
                        struct arena *a, struct err *e)
{
    const int count = tree_count(list);
    int32_t *tokens = ARENA_ARRAY(a, int32_t, (size_t)count);
    for (int i = 0; i < count; i++) {
        const struct tree t = tree_item(list, i);
        int64_t id = 0;
        if (tree_kind(t) != TREE_int)
            return err_set(e, ERR_type, "a prompt holds token ids, not %s",
                           tree_kind_name[tree_kind(t)]);
        if (!read_int(&id, t, "a token id", 0, m->vocab - 1, e))
            return false;
        tokens[i] = (int32_t)id;
    }
    *p = (struct prompt){.tokens = tokens, .n_tokens = count};
    return count ? true : err_set(e, ERR_value, "a prompt is empty");
}

static bool read_text(struct prompt *p, struct tree t, struct arena *a, struct err *e)
{
    const struct tree_text text = tree_text(t);
    *p = (struct prompt){.text = arena_copy_text(a, text.at, text.length),
                         .text_bytes = text.length};
    return text.length ? true : err_set(e, ERR_value, "a prompt is empty");
}

static bool read_sequence(struct prompt *p, struct tree t, struct decoder *d)
{
    const enum tree_kind kind = tree_kind(t);
    if (kind == TREE_text)
        return read_text(p, t, d->arena, d->e);
    if (kind == TREE_list)
        return read_tokens(p, t, d->model, d->arena, d->e);
    return err_set(d->e, ERR_type, "a prompt is a text or a list of token ids, not %s",
                   tree_kind_name[kind]);
}

/* A text, a list of ids, or a list of either. */
static bool read_prompt(struct invoke *invoke, struct tree t, const char *place, struct decoder *d)
{
    const bool one = tree_kind(t) == TREE_text || tree_count(t) == 0 ||
                     tree_kind(tree_item(t, 0)) == TREE_int;
    invoke->n_prompts = one ? 1 : tree_count(t);
    d->n_sequences += invoke->n_prompts;
    if (d->n_sequences > SEQUENCES_MAX) {
        err_set(d->e, ERR_limit, "a request has at most %d prompts", SEQUENCES_MAX);
        return err_at(d->e, -1, "%s", place);
    }
    invoke->prompts = ARENA_ARRAY(d->arena, struct prompt, (size_t)invoke->n_prompts);
    if (one)
        return read_sequence(invoke->prompts, t, d) ? true : err_at(d->e, -1, "%s", place);
    for (int i = 0; i < invoke->n_prompts; i++) {
        if (!read_sequence(&invoke->prompts[i], tree_item(t, i), d))
            return err_at(d->e, -1, "%s[%d]", place, i);
    }
    return true;
}

static bool read_invokes(struct tree invokes, struct tree prompt, struct decoder *d)
{
    static const struct field fields[] = {{"prompt", KIND_text | KIND_list, true}};
    struct graph *g = d->graph;
    if (!invokes.at == !prompt.at)
        return err_set(d->e, ERR_syntax, "a request has either invokes or a prompt");
    g->n_invokes = invokes.at ? tree_count(invokes) : 1;
    if (g->n_invokes < 1 || g->n_invokes > INVOKES_MAX) {
        err_set(d->e, g->n_invokes ? ERR_limit : ERR_value, "a request has 1 to %d invokes, not %d",
                INVOKES_MAX, g->n_invokes);
        return err_at(d->e, -1, "invokes");
    }
    g->invokes = ARENA_ARRAY(d->arena, struct invoke, (size_t)g->n_invokes);
    if (prompt.at)
        return read_prompt(&g->invokes[0], prompt, "prompt", d);
    for (int i = 0; i < g->n_invokes; i++) {
        char place[40];
        snprintf(place, sizeof place, "invokes[%d]", i);
        struct tree value;
        if (!read_fields(&value, tree_item(invokes, i), fields, 1, place, -1, d->e))
            return false;
        snprintf(place, sizeof place, "invokes[%d].prompt", i);
        if (!read_prompt(&g->invokes[i], value, place, d))
            return false;
    }
    return true;
}

static bool read_sampling(struct sampling *s, struct tree map, struct err *e)
{
    enum { TEMPERATURE, TOP_K, TOP_P, SEED, COUNT };
    static const struct field fields[COUNT] = {
        [TEMPERATURE] = {"temperature", KIND_number, false},
        [TOP_K] = {"top_k", KIND_int, false},
        [TOP_P] = {"top_p", KIND_number, false},
        [SEED] = {"seed", KIND_int, false},
    };
    struct tree v[COUNT];
    int64_t top_k = 0, seed = 0;
    *s = (struct sampling){.top_p = 1.0};
    if (!map.at)
        return true;
    if (!read_fields(v, map, fields, COUNT, "sampling", -1, e))
        return false;
    if (v[TEMPERATURE].at)
        s->temperature = tree_real(v[TEMPERATURE]);
    if (!(s->temperature >= 0.0 && s->temperature <= 1e6)) {
        err_set(e, ERR_value, "temperature is 0 to 1e6, not %g", s->temperature);
        return err_at(e, -1, "sampling.temperature");
    }
    if (v[TOP_P].at)
        s->top_p = tree_real(v[TOP_P]);
    if (!(s->top_p > 0.0 && s->top_p <= 1.0)) {
        err_set(e, ERR_value, "top_p is more than 0 and at most 1, not %g", s->top_p);
        return err_at(e, -1, "sampling.top_p");
    }
    if (v[TOP_K].at && !read_int(&top_k, v[TOP_K], "top_k", 0, INT32_MAX, e))
        return err_at(e, -1, "sampling.top_k");
    if (v[SEED].at && !read_int(&seed, v[SEED], "seed", 0, INT64_MAX, e))
        return err_at(e, -1, "sampling.seed");
    s->top_k = (int)top_k;
    s->seed = (uint64_t)seed;
    return true;
}

/* Nodes. */

struct owner { /* what an argument belongs to: what hooks inside it look at, and errors name */
    int wire;
    const char *place;  /* "nodes[7]", "save.last" */
    const char *part;   /* "args", "kwargs", or NULL where the place says it all */
    int position;       /* in args */
    struct tree_text key; /* in kwargs */
    int invoke, step;
};

static bool blame(const struct owner *o, struct err *e)
{
    if (!o->part)
        return err_at(e, o->wire, "%s", o->place);
    if (o->key.at)
        return err_at(e, o->wire, "%s.%s.%.*s", o->place, o->part, shown(o->key), o->key.at);
    return err_at(e, o->wire, "%s.%s[%d]", o->place, o->part, o->position);
}

static const char *owner_place(const struct owner *o, struct arena *a)
{
    if (!o->part)
        return o->place;
    if (o->key.at)
        return arena_format(a, "%s.%s.%.*s", o->place, o->part, shown(o->key), o->key.at);
    return arena_format(a, "%s.%s[%d]", o->place, o->part, o->position);
}

static bool add_node(int *index, const struct node *node, struct decoder *d)
{
    struct graph *g = d->graph;
    if (g->n_nodes == NODES_MAX)
        return err_set(d->e, ERR_limit, "the graph has more than %d nodes", NODES_MAX);
    *index = g->n_nodes;
    *(struct node *)arena_push(d->arena, &g->nodes, &g->n_nodes, &d->node_capacity,
                               sizeof *g->nodes) = *node;
    return true;
}

static struct node implicit_node(enum op op, const struct owner *o, struct decoder *d)
{
    return (struct node){.op = op,
                         .invoke = o->invoke,
                         .wire = o->wire,
                         .place = owner_place(o, d->arena)};
}

static bool set_node(struct arg *arg, int node, struct decoder *d)
{
    *arg = (struct arg){.kind = ARG_node, .node = node};
    if (++d->n_edges > EDGES_MAX)
        return err_set(d->e, ERR_limit, "the graph has more than %d arguments that are nodes",
                       EDGES_MAX);
    return true;
}

/* nodes[wire], which must be an earlier node. `said` is how the request names it. */
static bool refer(struct arg *arg, int64_t wire, const char *said, const struct owner *o,
                  struct decoder *d)
{
    if (wire < 0 || wire >= d->n_wire)
        return err_set(d->e, ERR_unknown, "%s refers to %s, but the request has %d nodes", o->place,
                       said, d->n_wire);
    if (wire == d->n_decoded && o->wire == wire)
        return err_set(d->e, ERR_order, "%s refers to itself", o->place);
    if (wire >= d->n_decoded)
        return err_set(d->e, ERR_order, "%s refers to %s, which comes later", o->place, said);
    return set_node(arg, d->wire_node[wire], d);
}

/* Replaces "there is no hook point or name" where an earlier node's name is closer. */
static void suggest_name(struct tree_text said, const struct owner *o, struct decoder *d)
{
    enum { LOOKED_AT_MAX = 1000 };
    const struct name *best = NULL;
    int best_distance = (int)(said.length < 64 ? said.length : 64) / 3 + 1;
    for (int i = 0; i < d->n_names && i < LOOKED_AT_MAX; i++) {
        const struct name *n = &d->names[i];
        const int distance = text_distance(said.at, said.length, n->text.at, n->text.length);
        if (n->at < d->n_decoded && distance < best_distance) {
            best = n;
            best_distance = distance;
        }
    }
    const struct name *later = names_find(d->names, d->n_names, said);
    if (d->e->code != ERR_unknown || (!best && !later))
        return;
    d->e->code = ERR_none;
    if (later)
        err_set(d->e, ERR_order, "%s refers to \"%.*s\", which %s", o->place, shown(said), said.at,
                later->at == o->wire ? "is itself" : "comes later");
    else
        err_set(d->e, ERR_unknown, "there is no node or hook point \"%.*s\": did you mean \"%.*s\"?",
                shown(said), said.at, shown(best->text), best->text.at);
}

static bool refer_name(struct arg *arg, struct tree_text said, const struct owner *o,
                       struct decoder *d)
{
    const struct name *name = names_find(d->names, d->n_names, said);
    char text[100];
    snprintf(text, sizeof text, "\"%.*s\"", shown(said), said.at);
    if (name)
        return refer(arg, name->at, text, o, d);
    err_set(d->e, ERR_unknown, "%s refers to %s, but no node has that name", o->place, text);
    suggest_name(said, o, d);
    return false;
}

static bool find_hook(struct hook *hook, size_t *used, struct tree_text path, const struct owner *o,
                      struct decoder *d)
{
    hook->step = o->step;
    if (point_find(&hook->name, &hook->block, used, path.at, path.length, d->model->n_blocks, d->e))
        return true;
    size_t stem = 0;
    while (stem < path.length && path.at[stem] != '[')
        stem++;
    suggest_name((struct tree_text){path.at, stem}, o, d);
    return false;
}

/* A name or a hook path, then any number of indices, each of which becomes a getitem. */
static bool read_expression(struct arg *arg, struct tree_text text, const struct owner *o,
                            struct decoder *d)
{
    size_t used = 0;
    while (used < text.length && text.at[used] != '[')
        used++;
    const struct name *name =
        names_find(d->names, d->n_names, (struct tree_text){text.at, used});
    if (name && name->at < d->n_decoded) {
        if (!set_node(arg, d->wire_node[name->at], d))
            return false;
    } else if (decode_special(&arg->real, text)) {
        arg->kind = ARG_float;
        return true;
    } else {
        struct node hook = implicit_node(OP_hook, o, d);
        int at;
        if (!find_hook(&hook.hook, &used, text, o, d) || !add_node(&at, &hook, d) ||
            !set_node(arg, at, d))
            return false;
    }
    while (used < text.length) {
        struct node item = implicit_node(OP_getitem, o, d);
        struct arg *index = &item.args[1];
        size_t taken;
        int at;
        item.args[0] = *arg;
        index->kind = ARG_index;
        if (!decode_index(&index->index, &index->count, &taken, text.at + used, text.length - used,
                          d->arena, d->e) ||
            !add_node(&at, &item, d) || !set_node(arg, at, d))
            return false;
        used += taken;
    }
    return true;
}

enum { TENSOR_NODE, TENSOR_DATA, TENSOR_DTYPE, TENSOR_SHAPE, TENSOR_FIELDS };

static const struct field tensor_fields[TENSOR_FIELDS] = {
    [TENSOR_NODE] = {"node", KIND_int | KIND_text, false},
    [TENSOR_DATA] = {"tensor", KIND_any, false},
    [TENSOR_DTYPE] = {"dtype", KIND_text, false},
    [TENSOR_SHAPE] = {"shape", KIND_list, false},
};

static bool read_tensor_fields(struct tree *v, struct tree map, struct err *e)
{
    struct tree_walk walk = {.map = map};
    struct tree_text key;
    struct tree value;
    if (!read_fields(v, map, tensor_fields, TENSOR_FIELDS, "", -1, e)) {
        e->where[0] = '\0'; /* the caller knows the place */
        return false;
    }
    while (tree_next(&walk, &key, &value)) {
        if (v[TENSOR_NODE].at && !text_is(key, "node"))
            return err_set(e, ERR_syntax, "a reference to a node has no field \"%.*s\"",
                           shown(key), key.at);
    }
    if (!v[TENSOR_NODE].at && !v[TENSOR_DATA].at)
        return err_set(e, ERR_syntax, "a tensor is {\"node\": ...} or {\"tensor\": ...}");
    return true;
}

static bool read_constant(struct node *node, struct tree map, struct decoder *d)
{
    struct tree v[TENSOR_FIELDS];
    if (tree_kind(map) != TREE_map)
        return err_set(d->e, ERR_type, "a constant is {\"tensor\": ...}, not %s",
                       tree_kind_name[tree_kind(map)]);
    if (!read_tensor_fields(v, map, d->e))
        return false;
    if (v[TENSOR_NODE].at)
        return err_set(d->e, ERR_type, "a constant is {\"tensor\": ...}, not a node");
    return decode_tensor(&node->constant, v[TENSOR_DATA], v[TENSOR_DTYPE], v[TENSOR_SHAPE],
                         &d->n_numbers, d->arena, d->scratch, d->e);
}

static bool read_tensor_map(struct arg *arg, struct tree map, const struct owner *o,
                            struct decoder *d)
{
    struct tree v[TENSOR_FIELDS];
    if (!read_tensor_fields(v, map, d->e))
        return false;
    if (!v[TENSOR_NODE].at) {
        struct node constant = implicit_node(OP_constant, o, d);
        int at;
        return read_constant(&constant, map, d) && add_node(&at, &constant, d) &&
               set_node(arg, at, d);
    }
    if (tree_kind(v[TENSOR_NODE]) == TREE_text)
        return refer_name(arg, tree_text(v[TENSOR_NODE]), o, d);
    const int64_t wire = tree_int(v[TENSOR_NODE]);
    char said[40];
    snprintf(said, sizeof said, "nodes[%lld]", (long long)wire);
    return refer(arg, wire, said, o, d);
}

static bool read_tensor_arg(struct arg *arg, struct tree t, const struct owner *o,
                            struct decoder *d)
{
    const enum tree_kind kind = tree_kind(t);
    switch (kind) {
    case TREE_bool:
        *arg = (struct arg){.kind = ARG_bool, .boolean = tree_bool(t)};
        return true;
    case TREE_int:
        *arg = (struct arg){.kind = ARG_int, .integer = tree_int(t)};
        return true;
    case TREE_real:
        *arg = (struct arg){.kind = ARG_float, .real = tree_real(t)};
        return true;
    case TREE_text:
        return read_expression(arg, tree_text(t), o, d);
    case TREE_map:
        return read_tensor_map(arg, t, o, d);
    case TREE_null:
    case TREE_bin:
    case TREE_list:
    case TREE_KIND_COUNT:
        break;
    }
    return err_set(d->e, ERR_type,
                   "a tensor is {\"node\": ...}, {\"tensor\": ...}, a text or a number, not %s",
                   tree_kind_name[kind]);
}

static bool read_tensors_arg(struct arg *arg, struct tree t, const struct owner *o,
                             struct decoder *d)
{
    const int count = tree_kind(t) == TREE_list ? tree_count(t) : 0;
    if (count == 0)
        return err_set(d->e, tree_kind(t) == TREE_list ? ERR_value : ERR_type,
                       "a list of at least one tensor is needed");
    int *nodes = ARENA_ARRAY(d->arena, int, (size_t)count);
    for (int i = 0; i < count; i++) {
        struct arg item = {0};
        if (!read_tensor_arg(&item, tree_item(t, i), o, d))
            return false;
        if (item.kind != ARG_node)
            return err_set(d->e, ERR_type, "element %d of the list is a number, not a tensor", i);
        nodes[i] = item.node;
    }
    *arg = (struct arg){.kind = ARG_nodes, .count = count, .nodes = nodes};
    return true;
}

static bool read_ints_arg(struct arg *arg, struct tree t, struct decoder *d)
{
    const bool is_list = tree_kind(t) == TREE_list;
    const int count = is_list ? tree_count(t) : 1;
    if (count > RANK_MAX)
        return err_set(d->e, ERR_limit, "a tensor has at most %d dimensions, not %d", RANK_MAX,
                       count);
    int64_t *ints = ARENA_ARRAY(d->arena, int64_t, (size_t)count);
    for (int i = 0; i < count; i++) {
        const struct tree item = is_list ? tree_item(t, i) : t;
        if (tree_kind(item) != TREE_int)
            return err_set(d->e, ERR_type, "an integer or a list of integers is needed, not %s%s",
                           is_list ? "a list with " : "", tree_kind_name[tree_kind(item)]);
        ints[i] = tree_int(item);
    }
    *arg = (struct arg){.kind = ARG_ints, .count = count, .ints = ints};
    return true;
}

static bool read_index_arg(struct arg *arg, struct tree t, struct decoder *d)
{
    const enum tree_kind kind = tree_kind(t);
    arg->kind = ARG_index;
    if (kind == TREE_list)
        return decode_index_list(&arg->index, &arg->count, t, d->arena, d->e);
    if (kind != TREE_text)
        return err_set(d->e, ERR_type, "an index is a text such as \"[:, 7]\" or a list, not %s",
                       tree_kind_name[kind]);
    const struct tree_text text = tree_text(t);
    size_t used;
    if (!decode_index(&arg->index, &arg->count, &used, text.at, text.length, d->arena, d->e))
        return false;
    if (used != text.length)
        return err_set(d->e, ERR_syntax, "\"%.*s\" goes on behind the index", shown(text), text.at);
    return true;
}

static bool read_path_arg(struct node *node, struct tree t, const struct owner *o,
                          struct decoder *d)
{
    size_t used;
    if (tree_kind(t) != TREE_text)
        return err_set(d->e, ERR_type, "a hook path is a text, not %s",
                       tree_kind_name[tree_kind(t)]);
    const struct tree_text path = tree_text(t);
    if (!find_hook(&node->hook, &used, path, o, d))
        return false;
    if (used != path.length)
        return err_set(d->e, ERR_syntax, "a hook takes a path without an index: \"%.*s\"",
                       (int)(used < 100 ? used : 100), path.at);
    return true;
}

/* "sum(x: tensor, dim?: ints, keepdim?: bool)" */
enum { SIGNATURE_SIZE = 160 };
static const char *signature(char *buffer, enum op op)
{
    const struct op_info *info = &op_info[op];
    size_t n = (size_t)snprintf(buffer, SIGNATURE_SIZE, "%s(", info->name);
    for (int i = 0; i < info->n_params && n < SIGNATURE_SIZE; i++)
        n += (size_t)snprintf(buffer + n, SIGNATURE_SIZE - n, "%s%s%s: %s", i ? ", " : "",
                              info->params[i].name, info->params[i].optional ? "?" : "",
                              param_kind_name[info->params[i].kind]);
    if (n < SIGNATURE_SIZE)
        snprintf(buffer + n, SIGNATURE_SIZE - n, ")");
    return buffer;
}

/* An argument of the wrong kind, by its op's signature. */
static bool refuse_kind(const struct node *node, int param, struct tree t, struct err *e)
{
    char text[SIGNATURE_SIZE];
    return err_set(e, ERR_type, "%s: %s is not %s", signature(text, node->op),
                   op_info[node->op].params[param].name, tree_kind_name[tree_kind(t)]);
}

static bool read_arg(struct node *node, int param, struct tree t, const struct owner *o,
                     struct decoder *d)
{
    const struct param *p = &op_info[node->op].params[param];
    struct arg *arg = &node->args[param];
    const enum tree_kind kind = tree_kind(t);
    if (kind == TREE_null && p->optional)
        return true;
    switch (p->kind) {
    case PARAM_tensor:
        return kind == TREE_list || kind == TREE_null || kind == TREE_bin
                   ? refuse_kind(node, param, t, d->e)
                   : read_tensor_arg(arg, t, o, d);
    case PARAM_tensors:
        return kind == TREE_list ? read_tensors_arg(arg, t, o, d)
                                 : refuse_kind(node, param, t, d->e);
    case PARAM_int:
        *arg = (struct arg){.kind = ARG_int};
        return kind == TREE_int ? read_int(&arg->integer, t, p->name, INT64_MIN, INT64_MAX, d->e)
                                : refuse_kind(node, param, t, d->e);
    case PARAM_ints:
        return kind == TREE_int || kind == TREE_list ? read_ints_arg(arg, t, d)
                                                     : refuse_kind(node, param, t, d->e);
    case PARAM_bool:
        *arg = (struct arg){.kind = ARG_bool, .boolean = kind == TREE_bool && tree_bool(t)};
        return kind == TREE_bool ? true : refuse_kind(node, param, t, d->e);
    case PARAM_index:
        return kind == TREE_text || kind == TREE_list ? read_index_arg(arg, t, d)
                                                      : refuse_kind(node, param, t, d->e);
    case PARAM_dtype:
        *arg = (struct arg){.kind = ARG_dtype};
        return kind == TREE_text ? decode_dtype(&arg->dtype, t, d->e)
                                 : refuse_kind(node, param, t, d->e);
    case PARAM_path:
        return read_path_arg(node, t, o, d);
    case PARAM_text:
        return read_constant(node, t, d);
    case PARAM_COUNT:
        break;
    }
    assert(false);
    return false;
}

static bool refuse_arity(enum op op, int given, struct err *e)
{
    char text[SIGNATURE_SIZE];
    return err_set(e, ERR_type, "%s takes %s%d argument%s, not %d", signature(text, op),
                   op_info[op].params[op_info[op].n_params - 1].optional ? "at most " : "",
                   op_info[op].n_params, op_info[op].n_params == 1 ? "" : "s", given);
}

/* The parameter that a keyword names, or -1. */
static int find_param(const struct op_info *info, struct tree_text key)
{
    for (int i = 0; i < info->n_params; i++) {
        if (text_is(key, info->params[i].name))
            return i;
    }
    return -1;
}

/* `given` has the argument of each parameter. */
static bool read_kwargs(struct tree *given, struct node *node, struct tree kwargs, struct owner *o,
                        struct decoder *d)
{
    const struct op_info *info = &op_info[node->op];
    struct tree_walk walk = {.map = kwargs};
    struct tree value;
    char text[SIGNATURE_SIZE];
    while (tree_next(&walk, &o->key, &value)) {
        const int param = find_param(info, o->key);
        if (param < 0)
            return err_set(d->e, ERR_type, "%s has no parameter \"%.*s\"",
                           signature(text, node->op), shown(o->key), o->key.at);
        if (given[param].at)
            return err_set(d->e, ERR_type, "%s: %s is given twice", signature(text, node->op),
                           info->params[param].name);
        given[param] = value;
        if (!read_arg(node, param, value, o, d))
            return false;
    }
    return true;
}

static bool read_args(struct tree *given, struct node *node, struct tree args, struct tree kwargs,
                      struct owner *o, struct decoder *d)
{
    const struct op_info *info = &op_info[node->op];
    const int n_args = args.at ? tree_count(args) : 0;
    if (n_args > info->n_params) {
        refuse_arity(node->op, n_args, d->e);
        return blame(o, d->e);
    }
    o->part = "args";
    for (o->position = 0; o->position < n_args; o->position++) {
        given[o->position] = tree_item(args, o->position);
        if (!read_arg(node, o->position, given[o->position], o, d))
            return blame(o, d->e);
    }
    o->part = "kwargs";
    if (kwargs.at && !read_kwargs(given, node, kwargs, o, d))
        return blame(o, d->e);
    o->part = NULL;
    char text[SIGNATURE_SIZE];
    for (int i = 0; i < info->n_params; i++) {
        if (!given[i].at && !info->params[i].optional) {
            err_set(d->e, ERR_type, "%s: %s is missing", signature(text, node->op),
                    info->params[i].name);
            return blame(o, d->e);
        }
    }
    return true;
}

/* What a save and a set are about is a tensor of the graph, not a number. */
static bool check_effect(const struct node *node, struct err *e)
{
    const bool is_effect = node->op == OP_set || node->op == OP_save;
    if (is_effect && node->args[0].kind != ARG_node)
        return err_set(e, ERR_type, "%s of a number: it needs a tensor", op_info[node->op].name);
    return true;
}

/* A save's own name, else that of what it saves, else how its argument says it. */
static void name_save(struct node *node, struct tree argument, struct arena *a,
                      const struct graph *g)
{
    const char *target = g->nodes[node->args[0].node].name;
    if (node->name)
        return;
    node->name = target;
    if (target)
        return;
    const bool is_text = tree_kind(argument) == TREE_text;
    const struct tree_text text = is_text ? tree_text(argument) : (struct tree_text){NULL, 0};
    node->name = is_text && text.length <= NAME_BYTES_MAX ? arena_copy_text(a, text.at, text.length)
                                                          : arena_format(a, "node %d", node->wire);
}

static bool check_name(struct tree_text name, struct err *e)
{
    bool digits = true;
    for (size_t i = 0; i < name.length; i++)
        digits = digits && name.at[i] >= '0' && name.at[i] <= '9';
    if (name.length == 0 || name.length > NAME_BYTES_MAX)
        return err_set(e, ERR_value, "a name has 1 to %d bytes, not %zu", NAME_BYTES_MAX,
                       name.length);
    if (digits)
        return err_set(e, ERR_value, "a name is not a number: \"%.*s\"", shown(name), name.at);
    return true;
}

static bool add_save(int *index, const struct node *node, struct decoder *d)
{
    if (++d->n_saves > SAVES_MAX)
        return err_set(d->e, ERR_limit, "a request saves at most %d values", SAVES_MAX);
    return add_node(index, node, d);
}

enum { NODE_OP, NODE_ARGS, NODE_KWARGS, NODE_NAME, NODE_INVOKE, NODE_STEP, NODE_FIELDS };

static const struct field node_fields[NODE_FIELDS] = {
    [NODE_OP] = {"op", KIND_text, true},
    [NODE_ARGS] = {"args", KIND_list, false},
    [NODE_KWARGS] = {"kwargs", KIND_map, false},
    [NODE_NAME] = {"name", KIND_text, false},
    [NODE_INVOKE] = {"invoke", KIND_int, false},
    [NODE_STEP] = {"step", KIND_int, false},
};

static bool read_op(enum op *op, struct tree t, const struct owner *o, struct err *e)
{
    const struct tree_text name = tree_text(t);
    *op = op_from_name(name.at, name.length);
    if (*op != OP_COUNT)
        return true;
    err_set(e, ERR_unknown, "there is no op \"%.*s\": did you mean %s?", shown(name), name.at,
            op_nearest_name(name.at, name.length));
    return err_at(e, o->wire, "%s.op", o->place);
}

/* Whose rows, and of which pass, hooks of this node see. */
static bool read_when(struct owner *o, struct tree invoke, struct tree step,
                      const struct decoder *d)
{
    const int n_invokes = d->graph->n_invokes;
    const int64_t asked = invoke.at ? tree_int(invoke) : 0;
    int64_t at = 0;
    if (asked < 0 || asked >= n_invokes) {
        err_set(d->e, ERR_value, "invoke %lld does not exist: the request has %d", (long long)asked,
                n_invokes);
        return err_at(d->e, o->wire, "%s.invoke", o->place);
    }
    if (step.at && !read_int(&at, step, "step", 0, NEW_TOKENS_MAX - 1, d->e))
        return err_at(d->e, o->wire, "%s.step", o->place);
    o->invoke = (int)asked;
    o->step = (int)at;
    return true;
}

static bool read_node(struct tree map, const char *place, struct decoder *d)
{
    struct tree v[NODE_FIELDS], given[PARAMS_MAX] = {{0}};
    struct owner o = {.wire = d->n_decoded, .place = place};
    struct node node = {.wire = o.wire, .place = place};
    if (!read_fields(v, map, node_fields, NODE_FIELDS, place, o.wire, d->e) ||
        !read_op(&node.op, v[NODE_OP], &o, d->e) ||
        !read_when(&o, v[NODE_INVOKE], v[NODE_STEP], d))
        return false;
    node.invoke = o.invoke;
    if (v[NODE_NAME].at) {
        const struct tree_text name = tree_text(v[NODE_NAME]);
        if (!check_name(name, d->e))
            return err_at(d->e, o.wire, "%s.name", place);
        node.name = arena_copy_text(d->arena, name.at, name.length);
    }
    if (!read_args(given, &node, v[NODE_ARGS], v[NODE_KWARGS], &o, d))
        return false;
    if (!check_effect(&node, d->e))
        return blame(&o, d->e);
    if (node.op == OP_save)
        name_save(&node, given[0], d->arena, d->graph);
    int at;
    if (!(node.op == OP_save ? add_save(&at, &node, d) : add_node(&at, &node, d)))
        return blame(&o, d->e);
    const bool is_effect = node.op == OP_set || node.op == OP_save;
    d->wire_node[d->n_decoded++] = is_effect ? node.args[0].node : at;
    return true;
}

/* Every name of `nodes`, so that a reference to a later one can say so. */
static bool collect_names(struct tree nodes, struct decoder *d)
{
    d->names = ARENA_ARRAY(d->scratch, struct name, (size_t)d->n_wire);
    for (int i = 0; i < d->n_wire; i++) {
        const struct tree map = tree_item(nodes, i);
        if (tree_kind(map) != TREE_map)
            continue; /* refused when its turn comes */
        const struct tree name = tree_find(map, "name");
        if (name.at && tree_kind(name) == TREE_text)
            d->names[d->n_names++] = (struct name){tree_text(name), i};
    }
    names_sort(d->names, d->n_names);
    const struct name *twice = names_duplicate(d->names, d->n_names);
    if (!twice)
        return true;
    err_set(d->e, ERR_value, "two nodes are called \"%.*s\"", shown(twice->text), twice->text.at);
    return err_at(d->e, twice->at, "nodes[%d].name", twice->at);
}

static bool read_nodes(struct tree nodes, struct decoder *d)
{
    enum { PLACE_SIZE = 20 }; /* "nodes[19999]" */
    char *places = arena_array(d->arena, (size_t)d->n_wire, PLACE_SIZE);
    for (int i = 0; i < d->n_wire; i++) {
        char *place = places + i * PLACE_SIZE;
        snprintf(place, PLACE_SIZE, "nodes[%d]", i);
        if (!read_node(tree_item(nodes, i), place, d))
            return false;
    }
    return true;
}

/* The shorthand `set`: tensor expression -> value, before all nodes. */
static bool read_sets(struct tree map, struct decoder *d)
{
    struct tree_walk walk = {.map = map};
    struct tree_text key;
    struct tree value;
    while (map.at && tree_next(&walk, &key, &value)) {
        struct owner o = {.wire = -1};
        o.place = arena_format(d->arena, "set[%.*s]", shown(key), key.at);
        struct node set = implicit_node(OP_set, &o, d);
        int at;
        if (!read_expression(&set.args[0], key, &o, d) ||
            !read_tensor_arg(&set.args[1], value, &o, d) || !check_effect(&set, d->e) ||
            !add_node(&at, &set, d))
            return blame(&o, d->e);
    }
    return true;
}

/* The shorthand `save`: name -> tensor expression, behind all nodes. */
static bool read_saves(struct tree map, struct decoder *d)
{
    struct tree_walk walk = {.map = map};
    struct tree_text key;
    struct tree value;
    while (map.at && tree_next(&walk, &key, &value)) {
        struct owner o = {.wire = -1};
        o.place = arena_format(d->arena, "save.%.*s", shown(key), key.at);
        struct node save = implicit_node(OP_save, &o, d);
        save.name = arena_copy_text(d->arena, key.at, key.length);
        int at;
        if (!check_name(key, d->e) || !read_tensor_arg(&save.args[0], value, &o, d) ||
            !check_effect(&save, d->e) || !add_save(&at, &save, d))
            return blame(&o, d->e);
    }
    return true;
}

/* A client keeps frames by their names. */
static bool check_save_names(struct decoder *d)
{
    const struct graph *g = d->graph;
    struct name *names = ARENA_ARRAY(d->scratch, struct name, (size_t)d->n_saves);
    int n = 0;
    for (int i = 0; i < g->n_nodes; i++) {
        const char *name = g->nodes[i].name;
        if (g->nodes[i].op == OP_save)
            names[n++] = (struct name){{name, strlen(name)}, i};
    }
    names_sort(names, n);
    const struct name *twice = names_duplicate(names, n);
    if (!twice)
        return true;
    const struct node *node = &g->nodes[twice->at];
    err_set(d->e, ERR_value, "two saves are called \"%s\": give one of them another name",
            node->name);
    return err_at(d->e, node->wire, "%s", node->place);
}

static bool read_graph(struct tree nodes, struct tree set, struct tree save, struct decoder *d)
{
    d->n_wire = nodes.at ? tree_count(nodes) : 0;
    if (d->n_wire > NODES_MAX) {
        err_set(d->e, ERR_limit, "the graph has %d nodes, at most %d are taken", d->n_wire,
                NODES_MAX);
        return err_at(d->e, -1, "nodes");
    }
    d->wire_node = ARENA_ARRAY(d->scratch, int, (size_t)d->n_wire);
    return collect_names(nodes, d) && read_sets(set, d) && read_nodes(nodes, d) &&
           read_saves(save, d) && check_save_names(d);
}

/* The bodies. */

enum {
    REQUEST_MODEL, REQUEST_PROMPT, REQUEST_INVOKES, REQUEST_NEW_TOKENS, REQUEST_SAMPLING,
    REQUEST_NODES, REQUEST_SAVE, REQUEST_SET, REQUEST_FIELDS
};

static const struct field request_fields[REQUEST_FIELDS] = {
    [REQUEST_MODEL] = {"model", KIND_text, false},
    [REQUEST_PROMPT] = {"prompt", KIND_text | KIND_list, false},
    [REQUEST_INVOKES] = {"invokes", KIND_list, false},
    [REQUEST_NEW_TOKENS] = {"max_new_tokens", KIND_int, false},
    [REQUEST_SAMPLING] = {"sampling", KIND_map, false},
    [REQUEST_NODES] = {"nodes", KIND_list, false},
    [REQUEST_SAVE] = {"save", KIND_map, false},
    [REQUEST_SET] = {"set", KIND_map, false},
};

static bool read_new_tokens(struct graph *g, struct tree t, struct err *e)
{
    int64_t count = 0;
    if (t.at && tree_int(t) > NEW_TOKENS_MAX)
        err_set(e, ERR_limit, "max_new_tokens is at most %d, not %lld", NEW_TOKENS_MAX,
                (long long)tree_int(t));
    else if (!t.at || read_int(&count, t, "max_new_tokens", 0, NEW_TOKENS_MAX, e)) {
        g->n_new_tokens = (int)count;
        return true;
    }
    return err_at(e, -1, "max_new_tokens");
}

static bool read_request(struct tree root, struct decoder *d)
{
    struct tree v[REQUEST_FIELDS];
    if (!read_fields(v, root, request_fields, REQUEST_FIELDS, "", -1, d->e))
        return false;
    if (v[REQUEST_MODEL].at) {
        const struct tree_text model = tree_text(v[REQUEST_MODEL]);
        d->graph->model = arena_copy_text(d->arena, model.at, model.length);
    }
    return read_invokes(v[REQUEST_INVOKES], v[REQUEST_PROMPT], d) &&
           read_new_tokens(d->graph, v[REQUEST_NEW_TOKENS], d->e) &&
           read_sampling(&d->graph->sampling, v[REQUEST_SAMPLING], d->e) &&
           read_graph(v[REQUEST_NODES], v[REQUEST_SET], v[REQUEST_SAVE], d);
}

bool decode_request(struct graph *g, const char *body, size_t size, enum media media,
                    const struct model_shape *m, struct arena *a, struct err *e)
{
    struct arena scratch = {0};
    struct tree_document document;
    struct decoder d = {.graph = g, .model = m, .arena = a, .scratch = &scratch, .e = e};
    *g = (struct graph){0};
    const bool ok =
        tree_open(&document, body, size, media, &scratch, e) && read_request(document.root, &d);
    tree_close(&document);
    arena_free(&scratch);
    return ok;
}

static bool read_texts(struct text_list *t, struct tree root, struct arena *a, struct err *e)
{
    static const struct field fields[] = {{"text", KIND_text | KIND_list, true}};
    struct tree value;
    if (!read_fields(&value, root, fields, 1, "", -1, e))
        return false;
    t->is_list = tree_kind(value) == TREE_list;
    t->count = t->is_list ? tree_count(value) : 1;
    t->texts = ARENA_ARRAY(a, const char *, (size_t)t->count);
    t->bytes = ARENA_ARRAY(a, size_t, (size_t)t->count);
    for (int i = 0; i < t->count; i++) {
        const struct tree item = t->is_list ? tree_item(value, i) : value;
        if (tree_kind(item) != TREE_text) {
            err_set(e, ERR_type, "a list of texts holds %s", tree_kind_name[tree_kind(item)]);
            return err_at(e, -1, "text[%d]", i);
        }
        const struct tree_text text = tree_text(item);
        t->texts[i] = arena_copy_text(a, text.at, text.length);
        t->bytes[i] = text.length;
    }
    return true;
}

bool decode_texts(struct text_list *t, const char *body, size_t size, enum media media,
                  struct arena *a, struct err *e)
{
    struct arena scratch = {0};
    struct tree_document document;
    *t = (struct text_list){0};
    const bool ok =
        tree_open(&document, body, size, media, &scratch, e) && read_texts(t, document.root, a, e);
    tree_close(&document);
    arena_free(&scratch);
    return ok;
}

static bool read_ids(const int32_t **tokens, int *length, struct tree list, struct arena *a,
                     struct err *e)
{
    if (tree_kind(list) != TREE_list)
        return err_set(e, ERR_type, "a list of token ids is needed, not %s",
                       tree_kind_name[tree_kind(list)]);
    *length = tree_count(list);
    int32_t *ids = ARENA_ARRAY(a, int32_t, (size_t)*length);
    for (int i = 0; i < *length; i++) {
        const struct tree t = tree_item(list, i);
        int64_t id = 0;
        if (tree_kind(t) != TREE_int)
            return err_set(e, ERR_type, "a list of token ids holds %s",
                           tree_kind_name[tree_kind(t)]);
        if (!read_int(&id, t, "a token id", 0, INT32_MAX, e))
            return false;
        ids[i] = (int32_t)id;
    }
    *tokens = ids;
    return true;
}

static bool read_token_lists(struct token_lists *t, struct tree root, struct arena *a,
                             struct err *e)
{
    static const struct field fields[] = {{"tokens", KIND_list, true}};
    struct tree value;
    if (!read_fields(&value, root, fields, 1, "", -1, e))
        return false;
    t->is_list = tree_count(value) > 0 && tree_kind(tree_item(value, 0)) == TREE_list;
    t->count = t->is_list ? tree_count(value) : 1;
    t->tokens = ARENA_ARRAY(a, const int32_t *, (size_t)t->count);
    t->lengths = ARENA_ARRAY(a, int, (size_t)t->count);
    for (int i = 0; i < t->count; i++) {
        const struct tree item = t->is_list ? tree_item(value, i) : value;
        if (!read_ids(&t->tokens[i], &t->lengths[i], item, a, e))
            return t->is_list ? err_at(e, -1, "tokens[%d]", i) : err_at(e, -1, "tokens");
    }
    return true;
}

bool decode_token_lists(struct token_lists *t, const char *body, size_t size, enum media media,
                        struct arena *a, struct err *e)
{
    struct arena scratch = {0};
    struct tree_document document;
    *t = (struct token_lists){0};
    const bool ok = tree_open(&document, body, size, media, &scratch, e) &&
                    read_token_lists(t, document.root, a, e);
    tree_close(&document);
    arena_free(&scratch);
    return ok;
}
