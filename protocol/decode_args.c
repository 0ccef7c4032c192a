/* The arguments of nodes, by the parameters of their op. Hooks, indices and constants that stand
 * inside an argument become nodes of their own, in front of the node that they belong to. */
#include "decode_parts.h"

#include <stdio.h>
#include <string.h>

bool decode_blame(const struct owner *o, struct err *e)
{
    if (!o->part)
        return err_at(e, o->wire, "%s", o->place);
    if (o->key.at)
        return err_at(e, o->wire, "%s.%s.%.*s", o->place, o->part, text_shown(o->key), o->key.at);
    return err_at(e, o->wire, "%s.%s[%d]", o->place, o->part, o->position);
}

static const char *owner_place(const struct owner *o, struct arena *a)
{
    if (!o->part)
        return o->place;
    if (o->key.at)
        return arena_format(a, "%s.%s.%.*s", o->place, o->part, text_shown(o->key), o->key.at);
    return arena_format(a, "%s.%s[%d]", o->place, o->part, o->position);
}

bool decode_add_node(int *index, const struct node *node, struct decoder *d)
{
    struct graph *g = d->graph;
    if (g->n_nodes == NODES_MAX)
        return err_set(d->e, ERR_limit, "the graph has more than %d nodes", NODES_MAX);
    *index = g->n_nodes;
    *(struct node *)arena_push(d->arena, &g->nodes, &g->n_nodes, &d->node_capacity,
                               sizeof *g->nodes) = *node;
    return true;
}

struct node decode_implicit_node(enum op op, const struct owner *o, struct decoder *d)
{
    return (struct node){
        .op = op, .invoke = o->invoke, .wire = o->wire, .place = owner_place(o, d->arena)};
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
        err_set(d->e, ERR_order, "%s refers to \"%.*s\", which %s", o->place, text_shown(said),
                said.at, later->at == o->wire ? "is itself" : "comes later");
    else
        err_set(d->e, ERR_unknown,
                "there is no node or hook point \"%.*s\": did you mean \"%.*s\"?", text_shown(said),
                said.at, text_shown(best->text), best->text.at);
}

static bool refer_name(struct arg *arg, struct tree_text said, const struct owner *o,
                       struct decoder *d)
{
    const struct name *name = names_find(d->names, d->n_names, said);
    char text[100];
    snprintf(text, sizeof text, "\"%.*s\"", text_shown(said), said.at);
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

/* False, without an error, where the path begins with another kind of name. */
static bool is_parameter(struct parameter_at *p, size_t *used, struct tree_text path)
{
    p->name = parameter_find(&p->block, used, path.at, path.length);
    return p->name;
}

static bool find_parameter(struct parameter_at *p, size_t *used, struct tree_text path,
                           const struct owner *o, struct decoder *d)
{
    struct hook hook;
    if (is_parameter(p, used, path))
        return path_block_check(&p->block, path.at, *used, d->model->n_blocks, d->e);
    if (!find_hook(&hook, used, path, o, d))
        return false;
    return err_set(d->e, ERR_unknown, "%.*s is a hook point, not a parameter",
                   (int)(*used < 100 ? *used : 100), path.at);
}

/* The node of what a path names. */
static bool find_path(struct node *node, size_t *used, struct tree_text path,
                      const struct owner *o, struct decoder *d)
{
    node->op = is_parameter(&node->parameter, used, path) ? OP_parameter : OP_hook;
    return node->op == OP_parameter ? find_parameter(&node->parameter, used, path, o, d)
                                    : find_hook(&node->hook, used, path, o, d);
}

bool decode_expression(struct arg *arg, struct tree_text text, const struct owner *o,
                       struct decoder *d)
{
    size_t used = 0;
    while (used < text.length && text.at[used] != '[')
        used++;
    const struct name *name = names_find(d->names, d->n_names, (struct tree_text){text.at, used});
    if (name && name->at < d->n_decoded) {
        if (!set_node(arg, d->wire_node[name->at], d))
            return false;
    } else if (decode_special(&arg->real, text)) {
        arg->kind = ARG_float;
        return true;
    } else {
        struct node place = decode_implicit_node(OP_hook, o, d);
        int at;
        if (!find_path(&place, &used, text, o, d) || !decode_add_node(&at, &place, d) ||
            !set_node(arg, at, d))
            return false;
    }
    while (used < text.length) {
        struct node item = decode_implicit_node(OP_getitem, o, d);
        struct arg *index = &item.args[1];
        size_t taken;
        int at;
        item.args[0] = *arg;
        index->kind = ARG_index;
        if (!decode_index(&index->index, &index->count, &taken, text.at + used, text.length - used,
                          d->arena, d->e) ||
            !decode_add_node(&at, &item, d) || !set_node(arg, at, d))
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
    if (!decode_fields(v, map, tensor_fields, TENSOR_FIELDS, "", -1, e)) {
        e->where[0] = '\0'; /* the caller knows the place */
        return false;
    }
    while (tree_next(&walk, &key, &value)) {
        if (v[TENSOR_NODE].at && !text_is(key, "node"))
            return err_set(e, ERR_syntax, "a reference to a node has no field \"%.*s\"",
                           text_shown(key), key.at);
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
        struct node constant = decode_implicit_node(OP_constant, o, d);
        int at;
        return read_constant(&constant, map, d) && decode_add_node(&at, &constant, d) &&
               set_node(arg, at, d);
    }
    if (tree_kind(v[TENSOR_NODE]) == TREE_text)
        return refer_name(arg, tree_text(v[TENSOR_NODE]), o, d);
    const int64_t wire = tree_int(v[TENSOR_NODE]);
    char said[40];
    snprintf(said, sizeof said, "nodes[%lld]", (long long)wire);
    return refer(arg, wire, said, o, d);
}

bool decode_tensor_arg(struct arg *arg, struct tree t, const struct owner *o, struct decoder *d)
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
        return decode_expression(arg, tree_text(t), o, d);
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
        if (!decode_tensor_arg(&item, tree_item(t, i), o, d))
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
        return err_set(d->e, ERR_syntax, "\"%.*s\" goes on behind the index", text_shown(text),
                       text.at);
    return true;
}

/* What a parameter of kind `path` names depends on the op. */
static bool find_own_path(struct node *node, size_t *used, struct tree_text path,
                          const struct owner *o, struct decoder *d)
{
    if (node->op == OP_apply)
        return module_find(&node->module, used, path.at, path.length, d->model->n_blocks, d->e);
    if (node->op == OP_parameter)
        return find_parameter(&node->parameter, used, path, o, d);
    return find_hook(&node->hook, used, path, o, d);
}

static bool read_path_arg(struct node *node, struct tree t, const struct owner *o,
                          struct decoder *d)
{
    size_t used;
    if (tree_kind(t) != TREE_text)
        return err_set(d->e, ERR_type, "a path is a text, not %s",
                       tree_kind_name[tree_kind(t)]);
    const struct tree_text path = tree_text(t);
    if (!find_own_path(node, &used, path, o, d))
        return false;
    if (used != path.length)
        return err_set(d->e, ERR_syntax, "%s takes a path without an index: \"%.*s\"",
                       op_info[node->op].name, (int)(used < 100 ? used : 100), path.at);
    return true;
}

const char *decode_signature(char *buffer, enum op op)
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
    return err_set(e, ERR_type, "%s: %s is not %s", decode_signature(text, node->op),
                   op_info[node->op].params[param].name, tree_kind_name[tree_kind(t)]);
}

bool decode_arg(struct node *node, int param, struct tree t, const struct owner *o,
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
                   : decode_tensor_arg(arg, t, o, d);
    case PARAM_tensors:
        return kind == TREE_list ? read_tensors_arg(arg, t, o, d)
                                 : refuse_kind(node, param, t, d->e);
    case PARAM_int:
        *arg = (struct arg){.kind = ARG_int};
        return kind == TREE_int ? decode_int(&arg->integer, t, p->name, INT64_MIN, INT64_MAX, d->e)
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
