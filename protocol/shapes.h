/* What each op makes of the shapes and dtypes of its operands: torch's rules, one function an op,
 * found through a table that ops.def fills. A new VIEW or CALL row without its rule does not
 * compile. */
#pragma once
#include "plan.h"

struct shape_query {
    const struct node *node;
    const struct value *const *in; /* the tensor operands in order, a list's one by one */
    int n_in;
    const struct model_shape *model;
};

/* The dtype and view of the result, for every op but the EFFECTs. `*is_new`: a row-major tensor of
 * its own, else a view of the first operand. */
bool shape_infer(struct value *out, bool *is_new, const struct shape_query *q, struct err *e);

/* The dtype that elementwise ops, where, cat and stack compute in, once shape_infer agreed. */
enum dtype shape_compute_dtype(const struct shape_query *q);

/* Which dimensions an op with `dim` as its second parameter works over: all where it is absent or
 * an empty list. */
bool shape_dims(bool chosen[RANK_MAX], const struct shape_query *q, struct err *e);

/* A dimension as torch counts it, from either end; rank 0 counts as one dimension. */
bool shape_dim(int *dim, const struct shape_query *q, int arg, int rank, struct err *e);

/* `shape` as it may be: rank, overflow and bytes are within limits.h. */
bool shape_allowed(const struct node *node, enum dtype dtype, int rank, const int64_t *shape,
                   struct err *e);

/* Records what is wrong with a node, at its argument `arg` or, for -1, the node itself. */
bool node_refuse(struct err *e, const struct node *node, int arg, enum err_code code,
                 const char *format, ...) __attribute__((format(printf, 5, 6)));

/* For one sentence: the text lives as long as the block around the call. */
#define SHAPE_TEXT(v) shape_text((char[SHAPE_TEXT_SIZE]){0}, (v))
