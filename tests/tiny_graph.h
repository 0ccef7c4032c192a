/* Graphs written by hand for a model of no size, as a decoder would have made them. */
#pragma once
#include <stdlib.h>
#include <string.h>

#include "../protocol/plan.h"

enum {
    TINY_NODES = NODES_MAX + 8
};

struct tiny_graph {
    struct arena arena;
    struct err error;
    struct model_shape model;
    struct graph graph;
    struct plan plan;
};

static const struct model_shape tiny_model = {.n_blocks = 3,
                                              .n_heads = 2,
                                              .width = 8,
                                              .inner = 16,
                                              .vocab = 11,
                                              .context = 32,
                                              .epsilon = 1e-5f};

/* One invoke of one prompt of n_tokens; more by tiny_invoke. */
static inline void tiny_open(struct tiny_graph *t)
{
    *t = (struct tiny_graph){.model = tiny_model, .graph.n_traces = 1};
    t->graph.traces = ARENA_ARRAY(&t->arena, struct trace, INVOKES_MAX);
    t->graph.traces[0] = (struct trace){.place = "", .sampling.top_p = 1};
    t->graph.nodes = ARENA_ARRAY(&t->arena, struct node, TINY_NODES);
    t->graph.invokes = ARENA_ARRAY(&t->arena, struct invoke, INVOKES_MAX + 1);
}

/* Invokes that follow belong to another trace. */
static inline void tiny_trace(struct tiny_graph *t, int n_new_tokens)
{
    struct trace *trace = &t->graph.traces[t->graph.n_traces];
    *trace = (struct trace){.place = arena_format(&t->arena, "traces[%d].", t->graph.n_traces++),
                            .invoke_first = t->graph.n_invokes,
                            .n_new_tokens = n_new_tokens,
                            .sampling.top_p = 1};
}

static inline int tiny_invoke(struct tiny_graph *t, int n_prompts, int n_tokens)
{
    struct invoke *v = &t->graph.invokes[t->graph.n_invokes];
    v->trace = t->graph.n_traces - 1;
    v->place = arena_format(&t->arena, "invokes[%d]", t->graph.n_invokes);
    t->graph.traces[v->trace].n_invokes++;
    v->n_prompts = n_prompts;
    v->prompts = ARENA_ARRAY(&t->arena, struct prompt, n_prompts + 1);
    for (int i = 0; i < n_prompts; i++) {
        int32_t *tokens = ARENA_ARRAY(&t->arena, int32_t, n_tokens + 1);
        for (int k = 0; k < n_tokens; k++)
            tokens[k] = (i + k) % t->model.vocab;
        v->prompts[i] = (struct prompt){.tokens = tokens, .n_tokens = n_tokens};
    }
    return t->graph.n_invokes++;
}

static inline int tiny_add(struct tiny_graph *t, enum op op, const struct arg *args)
{
    const int i = t->graph.n_nodes++;
    struct node *n = &t->graph.nodes[i];
    *n = (struct node){.op = op, .wire = i, .place = arena_format(&t->arena, "nodes[%d]", i)};
    memcpy(n->args, args, sizeof n->args);
    return i;
}

/* tiny_op(t, add, NODE(0), FLOAT(1)) */
#define tiny_op(t, op, ...) tiny_add((t), OP_##op, (struct arg[PARAMS_MAX]){__VA_ARGS__})

#define NODE(i)                       \
    {                                 \
        .kind = ARG_node, .node = (i) \
    }
#define INT(i)                          \
    {                                   \
        .kind = ARG_int, .integer = (i) \
    }
#define FLOAT(x)                       \
    {                                  \
        .kind = ARG_float, .real = (x) \
    }
#define BOOL(x)                          \
    {                                    \
        .kind = ARG_bool, .boolean = (x) \
    }
#define DTYPE(d)                        \
    {                                   \
        .kind = ARG_dtype, .dtype = (d) \
    }
#define ABSENT             \
    {                      \
        .kind = ARG_absent \
    }
#define LENGTH(...) ((int)(sizeof(int64_t[]){__VA_ARGS__} / sizeof(int64_t)))
#define INTS(...)                                                           \
    {                                                                       \
        .kind = ARG_ints, .count = LENGTH(__VA_ARGS__), .ints = (int64_t[]) \
        {                                                                   \
            __VA_ARGS__                                                     \
        }                                                                   \
    }
#define NODES(...)                                                        \
    {                                                                     \
        .kind = ARG_nodes, .count = LENGTH(__VA_ARGS__), .nodes = (int[]) \
        {                                                                 \
            __VA_ARGS__                                                   \
        }                                                                 \
    }
#define INDEX(t, text) tiny_index((t), (text))

/* "[:, 7, ..., None, 2:5, ::2]" */
static inline struct arg tiny_index(struct tiny_graph *t, const char *text)
{
    struct index *x = ARENA_ARRAY(&t->arena, struct index, strlen(text));
    int n = 0;
    for (text++; *text != ']'; n++) {
        text += strspn(text, " ,");
        struct index *one = &x[n];
        if (strncmp(text, "...", 3) == 0) {
            one->kind = INDEX_ellipsis;
            text += 3;
        } else if (strncmp(text, "None", 4) == 0) {
            one->kind = INDEX_new_axis;
            text += 4;
        } else {
            char *end;
            one->start = strtoll(text, &end, 10);
            one->has_start = end != text;
            one->kind = *end == ':' ? INDEX_slice : INDEX_int;
            one->step = 1;
            if (*end == ':') {
                text = end + 1;
                one->stop = strtoll(text, &end, 10);
                one->has_stop = end != text;
            }
            if (one->kind == INDEX_slice && *end == ':')
                one->step = strtoll(end + 1, &end, 10);
            if (one->kind == INDEX_slice && one->step == 0 && end[-1] == ':')
                one->step = 1;
            text = end;
        }
        text += strspn(text, " ");
    }
    return (struct arg){.kind = ARG_index, .count = n, .index = x};
}

static inline int tiny_hook(struct tiny_graph *t, const char *path, int invoke, int step)
{
    const int i = tiny_op(t, hook, ABSENT);
    struct node *n = &t->graph.nodes[i];
    size_t used;
    const bool known = point_find(&n->hook.name, &n->hook.block, &used, path, strlen(path),
                                  t->model.n_blocks, &t->error);
    assert(known);
    n->invoke = invoke;
    n->hook.step = step;
    return i;
}

static inline int tiny_getitem(struct tiny_graph *t, int x, const char *index)
{
    return tiny_add(t, OP_getitem, (struct arg[PARAMS_MAX]){NODE(x), tiny_index(t, index)});
}

static inline int tiny_parameter(struct tiny_graph *t, const char *path)
{
    const int i = tiny_op(t, parameter, ABSENT);
    struct parameter_at *p = &t->graph.nodes[i].parameter;
    size_t used;
    p->name = parameter_find(&p->block, &used, path, strlen(path));
    assert(p->name);
    return i;
}

/* What a module of this path makes of x. */
static inline int tiny_apply(struct tiny_graph *t, const char *path, int x)
{
    const int i = tiny_op(t, apply, NODE(x));
    size_t used;
    const bool known = module_find(&t->graph.nodes[i].module, &used, path, strlen(path),
                                   t->model.n_blocks, &t->error);
    assert(known);
    return i;
}

static inline int tiny_save(struct tiny_graph *t, int x)
{
    return tiny_op(t, save, NODE(x));
}

static inline int tiny_constant(struct tiny_graph *t, enum dtype dtype, int rank,
                                const int64_t *shape, const void *data)
{
    struct tensor *c = ARENA_NEW(&t->arena, struct tensor);
    c->dtype = dtype;
    c->view = view_of(rank, shape);
    const size_t bytes = (size_t)view_count(&c->view) * dtype_size(dtype);
    c->data = arena_alloc(&t->arena, bytes + 1);
    if (data)
        memcpy(c->data, data, bytes);
    const int i = tiny_op(t, constant, ABSENT);
    t->graph.nodes[i].constant = c;
    return i;
}

static inline int tiny_zeros(struct tiny_graph *t, enum dtype dtype, int rank, const int64_t *shape)
{
    return tiny_constant(t, dtype, rank, shape, NULL);
}

#define tiny_shape(t, dtype, ...) \
    tiny_zeros((t), (dtype), LENGTH(__VA_ARGS__), (int64_t[]){__VA_ARGS__})

static inline bool tiny_plan(struct tiny_graph *t)
{
    t->error = (struct err){0};
    return plan_build(&t->plan, &t->graph, &t->model, &t->arena, &t->error);
}

/* What a slab on the host starts with. */
static inline void tiny_constants(char *slab, const struct plan *p)
{
    for (int i = 0; i < p->n_constants; i++)
        memcpy(slab + p->constants[i].base, p->constants[i].from, p->constants[i].bytes);
}

/* "float32 (1, 10, 8)", or "shape nodes[3].args[1]: add of (2,) and (3,)". */
static inline const char *tiny_answer(struct tiny_graph *t, int node)
{
    char shape[SHAPE_TEXT_SIZE];
    if (!tiny_plan(t))
        return arena_format(&t->arena, "%s %s: %s", err_info[t->error.code].name, t->error.where,
                            t->error.text);
    const struct value *v = plan_value(&t->plan, node);
    return arena_format(&t->arena, "%s %s", dtype_name(v->dtype), shape_text(shape, &v->view));
}
