/* What the files of the decoder share. */
#pragma once
#include "decode_tree.h"

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

/* The values of a map's fields in the order of the table; a null counts as left out. `place` is
 * what errors call the map, empty for the body itself. */
bool decode_fields(struct tree *values, struct tree map, const struct field *fields, int count,
                   const char *place, int wire, struct err *e);

/* An integer from `low` to `high`; `what` begins the sentence that refuses another. */
bool decode_int(int64_t *out, struct tree t, const char *what, int64_t low, int64_t high,
                struct err *e);

/* A request on its way to a graph. */

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

/* All nodes of the graph, in program order: set, nodes, save. */
bool decode_nodes(struct tree nodes, struct tree set, struct tree save, struct decoder *d);

struct owner { /* what an argument belongs to: what hooks inside it look at, and errors name */
    int wire;
    const char *place;  /* "nodes[7]", "save.last" */
    const char *part;   /* "args", "kwargs", or NULL where the place says it all */
    int position;       /* in args */
    struct tree_text key; /* in kwargs */
    int invoke, step;
};

/* Names the place of the failure just recorded: this argument of this node. Returns false. */
bool decode_blame(const struct owner *o, struct err *e);

bool decode_add_node(int *index, const struct node *node, struct decoder *d);
struct node decode_implicit_node(enum op op, const struct owner *o, struct decoder *d);

/* A parameter's argument; of a hook and a constant it sets the node's own fields. */
bool decode_arg(struct node *node, int param, struct tree t, const struct owner *o,
                struct decoder *d);
bool decode_tensor_arg(struct arg *arg, struct tree t, const struct owner *o, struct decoder *d);

/* A name or a hook path, then any number of indices, each of which becomes a getitem. */
bool decode_expression(struct arg *arg, struct tree_text text, const struct owner *o,
                       struct decoder *d);

/* "sum(x: tensor, dim?: ints, keepdim?: bool)" */
enum { SIGNATURE_SIZE = 160 };
const char *decode_signature(char *buffer, enum op op);

/* How tokens are chosen and where a generation ends: decode_options.c. */

enum { SAMPLING_FIELDS = 7 };

/* The fields of struct sampling, for a table of fields, and their values in its order; `place`
 * stands before a field's name in an error. What is left out stays as it is. */
struct field decode_sampling_field(int i);
bool decode_sampling_values(struct sampling *s, const struct tree *values, const char *place,
                            struct err *e);
bool decode_sampling(struct trace *t, struct tree map, struct decoder *d);

/* `stop` is a text, a token id or a list of them, `eos` an id or a list. */
bool decode_ending(struct trace *t, struct tree stop, struct tree eos, struct decoder *d);

/* The most new tokens, and the least. */
bool decode_new_tokens(struct trace *t, struct tree most, struct tree least, const char *most_name,
                       const char *least_name, struct err *e);

/* One prompt: a text or a list of token ids. */
bool decode_sequence(struct prompt *p, struct tree t, struct decoder *d);

/* Counts prompts, each as often as the request wants continuations of it; and puts each so often
 * into its invoke. */
bool decode_count(const struct trace *t, int n_prompts, const char *place, struct decoder *d);
void decode_copies(struct invoke *invoke, struct decoder *d);

/* Arguments that are more than a value. */

/* A `{"tensor": data, "dtype": ..., "shape": ...}` in the arena: contiguous, aligned to 64 bytes.
 * `*n_numbers` counts the numbers of the body that came as lists. */
bool decode_tensor(const struct tensor **tensor, struct tree data, struct tree dtype,
                   struct tree shape, int *n_numbers, struct arena *a, struct arena *scratch,
                   struct err *e);
bool decode_dtype(enum dtype *dtype, struct tree t, struct err *e);

/* "NaN", "Infinity", "-Infinity": JSON has no other way to say them. */
bool decode_special(double *number, struct tree_text text);

/* An index as a list: integers, null, "..." and {"slice": [start, stop, step]}. */
bool decode_index_list(const struct index **index, int *count, struct tree list, struct arena *a,
                       struct err *e);
