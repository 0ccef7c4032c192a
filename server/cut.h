/* How a long action is cut into pieces, which give the same bits as the whole: across its
 * dimensions first, pieces of pieces, then along the one row that is left. */
#pragma once
#include "../kernels/backend.h"
#include "../protocol/plan.h"

struct cut {
    int dim;          /* of out, of a scatter of its index; -1 where no cut across is left */
    int64_t size;     /* of that dimension, */
    int64_t n_pieces; /* and how many it can be cut into, at most */
    bool out, in[3];  /* who is cut with it */
};

struct cut cut_across(const struct action *a, const struct tensor *out, const struct tensor *in);

/* The elements of the row along which `struct part` can cut it, or 0. */
int64_t cut_row(const struct action *a, const struct tensor *in);
