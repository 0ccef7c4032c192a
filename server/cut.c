#include "cut.h"

static bool is_scatter(enum op op)
{
    return op == OP_scatter || op == OP_scatter_add;
}

/* Whether it works along the last dimension. */
static bool is_along(enum op op)
{
    return op == OP_softmax || op == OP_log_softmax || op == OP_cumsum || op == OP_cumprod;
}

/* Whether the pieces must follow one another in memory: so that what is written lies in one piece,
 * or that the first index out of range is found first. */
static bool is_in_order(enum op op)
{
    return op == OP_apply || op == OP_save || action_may_fault(op);
}

/* The dimensions in which results do not depend on one another. */
static int count_dims(const struct action *a, const struct view *over)
{
    const bool rows = is_along(a->op) || a->op == OP_topk_indices || a->op == OP_apply;
    return a->op == OP_hook ? 0 : rows ? over->rank - 1 : over->rank;
}

/* Columns of a product are cut where there is one row, into no fewer than are packed at once. */
static int choose_dim(const struct action *a, const struct view *over)
{
    int best = -1;
    for (int i = 0; i < count_dims(a, over); i++) {
        const bool columns = a->op == OP_matmul && i == over->rank - 1;
        if (over->shape[i] <= 1 || (columns && (best >= 0 || over->shape[i] < 2 * PRODUCT_COLUMNS)))
            continue;
        if (best < 0 || over->shape[i] > over->shape[best])
            best = i;
        if (is_in_order(a->op))
            break;
    }
    return best;
}

struct cut cut_across(const struct action *a, const struct tensor *out, const struct tensor *in)
{
    const struct view *over = is_scatter(a->op) ? &in[0].view : &out->view;
    struct cut c = {.dim = choose_dim(a, over), .out = true, .in = {true, true, true}};
    if (c.dim < 0)
        return c;
    const bool last = c.dim == over->rank - 1;
    c.size = c.n_pieces = over->shape[c.dim];
    if (a->op == OP_matmul) {
        c.in[0] = !last;
        c.in[1] = c.dim != over->rank - 2;
        c.n_pieces = last ? c.size / PRODUCT_COLUMNS : c.size;
    }
    if (action_may_fault(a->op)) {
        c.in[0] = !last || a->op != OP_gather;
        c.in[2] = false;
    }
    c.out = !last || !is_scatter(a->op);
    return c;
}

int64_t cut_row(const struct action *a, const struct tensor *in)
{
    const bool reduces = a->n_reduced > 0;
    const struct view *v = &in->view;
    int64_t n = reduces || is_along(a->op);
    for (int i = v->rank - (reduces ? a->n_reduced : 1); n > 0 && i < v->rank; i++)
        n *= v->shape[i];
    return n;
}
