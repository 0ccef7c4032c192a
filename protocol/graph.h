/* A request as it was asked: checked for form, not yet for sense. Nodes stand in program order, and
 * an argument can only name an earlier node, so that a graph has no cycles by construction. */
#pragma once
#include "ops.h"
#include "modules.h"

enum arg_kind {
    ARG_absent, ARG_node, ARG_int, ARG_float, ARG_bool, ARG_ints, ARG_nodes, ARG_index, ARG_dtype
};

enum index_kind { INDEX_int, INDEX_slice, INDEX_ellipsis, INDEX_new_axis };

struct index { /* one element of x[...] */
    enum index_kind kind;
    bool has_start, has_stop;
    int64_t start, stop, step; /* an INDEX_int is in start */
};

struct arg {
    enum arg_kind kind;
    int count; /* of the lists */
    union {
        int node; /* an earlier node's index */
        int64_t integer;
        double real;
        bool boolean;
        enum dtype dtype;
        const int64_t *ints;
        const int *nodes;
        const struct index *index;
    };
};

struct hook { /* of an OP_hook: where and when */
    const struct point_name *name;
    int block, step; /* the step of its invoke's trace */
};

struct parameter_at { /* of an OP_parameter: which */
    const struct parameter_name *name;
    int block;
};

struct node {
    enum op op;
    int invoke;                     /* whose rows a hook sees; 0 where it does not matter */
    int wire;                       /* its place in the request's `nodes`, -1 for a shorthand's */
    const char *place;              /* what an error calls it: "nodes[7]", "save.last", ... */
    const char *name;               /* or NULL */
    struct arg args[PARAMS_MAX];    /* in the order of op_info[op].params */
    struct hook hook;
    struct parameter_at parameter;
    struct module_at module; /* of an OP_apply */
    const struct tensor *constant;  /* of an OP_constant: contiguous, on the host; many floats
                                       may lie unaligned in the body */
};

struct prompt { /* one sequence: text until the tokenizer has seen it, then ids */
    const char *text;
    size_t text_bytes;
    const int32_t *tokens;
    int n_tokens;
};

struct invoke {
    int trace;
    const char *place; /* what an error calls it: "invokes[1]" */
    int n_prompts;
    struct prompt *prompts;
};

struct sampling {
    double temperature;        /* 0: greedy */
    double top_p;              /* 1: all */
    double min_p;              /* 0: all */
    double repetition_penalty; /* 1: none */
    int64_t top_k;             /* 0: all */
    int64_t seed;
    int64_t n; /* how often each prompt stands in its invoke: 0 is 1 */
};

struct stop_text { /* not empty, at most STOP_TEXT_BYTES_MAX */
    const char *at;
    size_t size;
};

struct ending { /* what ends a sequence before its last step */
    int n_min; /* so many new tokens come in any case, none of them of `ids` */
    int n_ids, n_texts;
    const int32_t *ids;
    const struct stop_text *texts; /* in what is generated, wherever its tokens are cut */
    int32_t pad;                   /* what stands behind the end of a sequence */
};

struct outcome { /* of one sequence: what was generated */
    int n_new;
    bool stopped; /* by its `ending` */
};

struct trace { /* invokes that go through the model together, behind those of earlier traces */
    const char *place; /* what stands before its fields' names: "", or "traces[1]." */
    int invoke_first, n_invokes;
    int sequences_before; /* of a part (parts.h): how many the parts in front of it have, whose
                             random numbers its own go on with */
    int n_new_tokens;
    struct sampling sampling;
    struct ending ending;
};

static inline bool trace_may_end_early(const struct trace *t)
{
    return t->n_new_tokens > 1 && t->ending.n_ids + t->ending.n_texts > 0;
}

/* Each prompt stands so often in its invoke, one behind the other. */
static inline int trace_copies(const struct trace *t)
{
    return t->sampling.n > 0 ? (int)t->sampling.n : 1;
}

struct graph {
    const char *model; /* as the request names it, or NULL */
    int n_nodes, n_invokes, n_traces;
    struct node *nodes;
    struct invoke *invokes; /* of all traces, in their order */
    struct trace *traces;
};
