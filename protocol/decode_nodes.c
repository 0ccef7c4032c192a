/* The graph of a request: nodes, the shorthands around them, and what expressions add. */
#include "decode_parts.h"

#include <stdio.h>
#include <string.h>

static bool refuse_arity(enum op op, int given, struct err *e)
{
    char text[SIGNATURE_SIZE];
    return err_set(e, ERR_type, "%s takes %s%d argument%s, not %d", decode_signature(text, op),
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
                           decode_signature(text, node->op), text_shown(o->key), o->key.at);
        if (given[param].at)
            return err_set(d->e, ERR_type, "%s: %s is given twice",
                           decode_signature(text, node->op), info->params[param].name);
        given[param] = value;
        if (!decode_arg(node, param, value, o, d))
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
        return decode_blame(o, d->e);
    }
    o->part = "args";
    for (o->position = 0; o->position < n_args; o->position++) {
        given[o->position] = tree_item(args, o->position);
        if (!decode_arg(node, o->position, given[o->position], o, d))
            return decode_blame(o, d->e);
    }
    o->part = "kwargs";
    if (kwargs.at && !read_kwargs(given, node, kwargs, o, d))
        return decode_blame(o, d->e);
    o->part = NULL;
    char text[SIGNATURE_SIZE];
    for (int i = 0; i < info->n_params; i++) {
        if (!given[i].at && !info->params[i].optional) {
            err_set(d->e, ERR_type, "%s: %s is missing", decode_signature(text, node->op),
                    info->params[i].name);
            return decode_blame(o, d->e);
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
        return err_set(e, ERR_value, "a name is not a number: \"%.*s\"", text_shown(name), name.at);
    return true;
}

static bool add_save(int *index, const struct node *node, struct decoder *d)
{
    if (++d->n_saves > SAVES_MAX)
        return err_set(d->e, ERR_limit, "a request saves at most %d values", SAVES_MAX);
    return decode_add_node(index, node, d);
}

enum { NODE_OP, NODE_ARGS, NODE_KWARGS, NODE_NAME, NODE_INVOKE, NODE_STEP, NODE_FIELDS };

static const struct field node_fields[NODE_FIELDS] = {
    [NODE_OP] = {"op", KIND_text, true},         [NODE_ARGS] = {"args", KIND_list, false},
    [NODE_KWARGS] = {"kwargs", KIND_map, false}, [NODE_NAME] = {"name", KIND_text, false},
    [NODE_INVOKE] = {"invoke", KIND_int, false}, [NODE_STEP] = {"step", KIND_int, false},
};

static bool read_op(enum op *op, struct tree t, const struct owner *o, struct err *e)
{
    const struct tree_text name = tree_text(t);
    *op = op_from_name(name.at, name.length);
    if (*op != OP_COUNT)
        return true;
    for (int i = 0; i < REFUSED_COUNT; i++) {
        const struct refused_op *r = &refused_ops[i];
        if (strlen(r->name) != name.length || memcmp(r->name, name.at, name.length) != 0)
            continue;
        err_set(e, ERR_unknown, "%s is not offered: the shape of its result depends on values, and "
                "every shape is known before a run; %s", r->name, r->instead);
        return err_at(e, o->wire, "%s.op", o->place);
    }
    err_set(e, ERR_unknown, "there is no op \"%.*s\": did you mean %s?", text_shown(name), name.at,
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
    if (step.at && !decode_int(&at, step, "step", 0, NEW_TOKENS_MAX - 1, d->e))
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
    if (!decode_fields(v, map, node_fields, NODE_FIELDS, place, o.wire, d->e) ||
        !read_op(&node.op, v[NODE_OP], &o, d->e) || !read_when(&o, v[NODE_INVOKE], v[NODE_STEP], d))
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
        return decode_blame(&o, d->e);
    if (node.op == OP_save)
        name_save(&node, given[0], d->arena, d->graph);
    int at;
    if (!(node.op == OP_save ? add_save(&at, &node, d) : decode_add_node(&at, &node, d)))
        return decode_blame(&o, d->e);
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
    err_set(d->e, ERR_value, "two nodes are called \"%.*s\"", text_shown(twice->text),
            twice->text.at);
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
        o.place = arena_format(d->arena, "set[%.*s]", text_shown(key), key.at);
        struct node set = decode_implicit_node(OP_set, &o, d);
        int at;
        if (!decode_expression(&set.args[0], key, &o, d) ||
            !decode_tensor_arg(&set.args[1], value, &o, d) || !check_effect(&set, d->e) ||
            !decode_add_node(&at, &set, d))
            return decode_blame(&o, d->e);
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
        o.place = arena_format(d->arena, "save.%.*s", text_shown(key), key.at);
        struct node save = decode_implicit_node(OP_save, &o, d);
        save.name = arena_copy_text(d->arena, key.at, key.length);
        int at;
        if (!check_name(key, d->e) || !decode_tensor_arg(&save.args[0], value, &o, d) ||
            !check_effect(&save, d->e) || !add_save(&at, &save, d))
            return decode_blame(&o, d->e);
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

bool decode_nodes(struct tree nodes, struct tree set, struct tree save, struct decoder *d)
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
