/* Prompts of unequal length in one invoke. The model has their rows one behind the other; their
 * hooks see one tensor of B sequences of T tokens, T the longest, with zeros at the left of the
 * shorter ones. It lies on the slab: filled from the rows before anything looks at it, its padding
 * cleared behind each change, and what was changed goes back to the rows behind all changes.
 *
 * Until then, its root counts as the activation that it stands for: it can be changed at its site
 * only, and late readers have copies of what it was. */
#include "planner.h"

bool is_padded(const struct planner *s, const struct root *r)
{
    return r->home == HOME_activation && s->p->invokes[r->invoke].is_ragged && is_first(s, r->turn);
}

/* Rows that follow one another. */
struct stretch {
    int64_t first, count;
};

/* Of logits only the last positions exist. */
static int64_t positions_of(const struct planner *s, const struct root *r)
{
    const struct plan_invoke *v = &s->p->invokes[r->invoke];
    return r->point == PT_logits ? v->n_tokens - v->logits_from : v->n_tokens;
}

static int64_t count_tokens(const struct root *r, const struct plan_sequence *q)
{
    return r->point == PT_logits ? q->n_logits : q->n_tokens;
}

/* Where in (B * T) rows the padding of a sequence is, and where its tokens. */
static struct stretch padding_of(const struct planner *s, const struct root *r, int sequence)
{
    const struct plan_sequence *q = &s->p->invokes[r->invoke].sequences[sequence];
    const int64_t T = positions_of(s, r);
    return (struct stretch){sequence * T, T - count_tokens(r, q)};
}

static struct stretch tokens_of(const struct planner *s, const struct root *r, int sequence)
{
    const struct plan_sequence *q = &s->p->invokes[r->invoke].sequences[sequence];
    const int64_t T = positions_of(s, r), n = count_tokens(r, q);
    return (struct stretch){(sequence + 1) * T - n, n};
}

/* The same distance lies between the rows of both. */
static int rows_value(struct planner *s, int root, struct stretch at)
{
    struct view v = root_rows(s, &s->roots[root]);
    v.offset = at.first * v.stride[0];
    v.shape[0] = at.count;
    return value_add(s, root, point_dtype(s->roots[root].point), v);
}

void padding_zero(struct planner *s, int to, int turn, int behind, int node)
{
    static const struct arg zero = {.kind = ARG_bool};
    struct value *v = &s->p->values[to];
    if (view_count(&v->view) == 0)
        return;
    const enum dtype dtype = v->dtype;
    struct view wide;
    const struct view shape = v->view;
    const int number = number_value(s, &zero, dtype);
    const bool fits = view_expand(&wide, &s->p->values[number].view, shape.rank, shape.shape);
    assert(fits);
    const int from = value_add(s, s->value_roots[number], dtype, wide);
    s->cost += action_push(
        s, turn, behind, (struct action){.op = OP_clone, .node = node, .out = to, .in = {from}});
}

void padding_clear(struct planner *s, int root, int node)
{
    const struct root r = s->roots[root];
    for (int i = 0; i < s->p->invokes[r.invoke].n_sequences; i++)
        padding_zero(s, rows_value(s, root, padding_of(s, &r, i)), r.turn, node, node);
}

/* The padding of what is gathered, (B, S, ...) or (B, H, S, dh) with the positions in this
 * dimension. */
void padding_clear_gathered(struct planner *s, int node, int dim)
{
    const struct plan_invoke *v = &s->p->invokes[s->g->nodes[node].invoke];
    for (int i = 0; i < v->n_sequences; i++) {
        struct view part = s->p->values[node].view;
        part.offset += i * part.stride[0];
        part.shape[0] = 1;
        part.shape[dim] = v->n_tokens - v->sequences[i].n_tokens;
        const int to = value_add(s, s->value_roots[node], s->p->values[node].dtype, part);
        padding_zero(s, to, s->turns[node], node, node);
    }
}

/* Between the rows of each sequence and the padded tensor. */
static void copy_rows(struct planner *s, int root, enum op op, int behind, int node)
{
    const struct root r = s->roots[root];
    const struct plan_invoke *v = &s->p->invokes[r.invoke];
    for (int i = 0; i < v->n_sequences; i++) {
        const struct plan_sequence *q = &v->sequences[i];
        const struct stretch at = tokens_of(s, &r, i);
        const int64_t row = r.point == PT_logits ? q->logits_row : q->row;
        const int padded = rows_value(s, root, at);
        const int live = rows_value(s, r.live, (struct stretch){row, at.count});
        const bool fills = op == OP_clone;
        s->cost += action_push(s, r.turn, behind,
                               (struct action){.op = op,
                                               .node = node,
                                               .out = fills ? padded : live,
                                               .in = {fills ? live : padded}});
    }
}

void padding_open(struct planner *s)
{
    const int n = s->n_roots;
    for (int i = 0; i < n; i++) {
        const struct root r = s->roots[i];
        const struct view rows = is_padded(s, &r) ? root_rows(s, &r) : (struct view){.rank = 1};
        if (r.needed_by == 0 || view_count(&rows) == 0)
            continue;
        const int live = root_add(s, (struct root){.home = HOME_activation,
                                                   .node = r.node,
                                                   .turn = r.turn,
                                                   .invoke = r.invoke,
                                                   .point = r.point});
        s->roots[i].live = live;
        s->roots[i].bytes = rows.shape[0] * rows.stride[0] *
                            (int64_t)dtype_size(point_dtype(r.point));
        copy_rows(s, i, OP_clone, r.node, r.node);
        padding_clear(s, i, r.node);
    }
}

void padding_close(struct planner *s)
{
    for (int i = 0; i < s->n_roots; i++) {
        if (s->roots[i].live && s->roots[i].version != s->roots[i].node)
            copy_rows(s, i, OP_set, s->g->n_nodes, s->roots[i].node);
    }
    for (int i = 0; i < s->n_roots; i++)
        s->roots[i].home = s->roots[i].live ? HOME_slab : s->roots[i].home;
    for (int i = 0; i < s->p->n_values; i++)
        s->p->values[i].home = root_of(s, i)->home;
}

/* How many of a view's elements are no padding: at a time as many as lie in one row, where no
 * dimension walks from one row into the next. */
int64_t padding_count_outside(struct planner *s, const struct root *r, const struct view *v)
{
    const struct plan_invoke *invoke = &s->p->invokes[r->invoke];
    const int64_t row = point_row_stride(r->point, s->m), T = invoke->n_tokens;
    struct view rows = {.offset = v->offset};
    int64_t in_row = 1, high = v->offset % row;
    for (int i = 0; i < v->rank; i++) {
        if (v->stride[i] % row == 0) {
            rows.shape[rows.rank] = v->shape[i];
            rows.stride[rows.rank++] = v->stride[i];
        } else {
            in_row *= v->shape[i];
            high += (v->shape[i] - 1) * v->stride[i];
        }
    }
    if (high >= row) {
        rows = *v;
        in_row = 1;
    }
    const int64_t n_rows = view_count(&rows);
    if (n_rows > PADDING_LOOKS_MAX - s->n_looks)
        return view_count(v);
    s->n_looks += n_rows;
    int64_t count = 0;
    for (int64_t i = 0; i < n_rows; i++) {
        int64_t at = rows.offset, rest = i;
        for (int k = rows.rank - 1; k >= 0; k--) {
            at += rest % rows.shape[k] * rows.stride[k];
            rest /= rows.shape[k];
        }
        const int64_t sequence = at / row / T, position = at / row % T;
        count += position >= T - invoke->sequences[sequence].n_tokens;
    }
    return count * in_row;
}
