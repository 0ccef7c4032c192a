/* Runs a product of the head, and what is made of it row by row, a few rows at a time: so much of
 * it exists at once, and of what is as wide.
 *
 * Of the actions of the product's stop, those that read it must be row by row, and so must whatever
 * they are made from; these are the loop, with the product first. What does not depend on them runs
 * before, what else does, behind. Where one of them is not row by row, nothing is tiled. */
#include "planner.h"
#include <string.h>

enum when { BEFORE, INSIDE, BEHIND };

/* What a root is to the loop, valid for the stamp beside it. */
enum part {
    PART_none,
    PART_tile,   /* as high as a tile, written anew by each */
    PART_rows,   /* all rows, some of them written by each tile */
    PART_behind  /* written behind the loop */
};

struct tiling {
    struct planner *s;
    int64_t n_rows, width; /* of the product */
    int first, end; /* of the stop's drafts from the product on */
    bool joins;     /* products of as many rows join the loop: their ops may meet */
    int stamp;
    int *stamps, *used; /* of each root: when `parts` was written; when it was last touched */
    int8_t *parts;
    int8_t *whens; /* of each draft */
};

static enum part part_of(const struct tiling *t, int value)
{
    const int root = t->s->value_roots[value];
    return t->stamps[root] == t->stamp ? (enum part)t->parts[root] : PART_none;
}

static void part_set(struct tiling *t, int value, enum part part)
{
    const int root = t->s->value_roots[value];
    t->stamps[root] = t->stamp;
    t->parts[root] = (int8_t)part;
}

/* The operands that have rows: not where a gather reports. */
static int count_rowed(const struct action *a)
{
    return a->op == OP_gather ? 2 : action_n_in(a->op);
}

static int64_t width_of(const struct tiling *t, int value)
{
    const struct root *r = root_of(t->s, value);
    return r->bytes / (int64_t)dtype_size(t->s->p->values[value].dtype) / t->n_rows;
}

/* How many leading dimensions are the rows: 0 where none are. */
static int count_row_dims(const struct tiling *t, const struct action *a)
{
    const struct view *out = &t->s->p->values[a->out].view;
    const bool last = a->op == OP_softmax || a->op == OP_log_softmax || a->op == OP_topk_indices ||
                      a->op == OP_gather || a->op == OP_cumsum || a->op == OP_cumprod;
    int64_t n = 1;
    for (int i = 0; i < out->rank - last; i++) {
        n *= out->shape[i];
        if (n == t->n_rows)
            return i + 1;
    }
    return 0;
}

/* The elements from one row to the next, -1 where the rows are not evenly spaced. */
static int64_t row_step(const struct view *v, int n_dims)
{
    int64_t step = -1, n = 1;
    for (int i = n_dims - 1; i >= 0; i--) {
        if (v->shape[i] == 1)
            continue;
        if (step < 0)
            step = v->stride[i];
        else if (v->stride[i] != step * n)
            return -1;
        n *= v->shape[i];
    }
    return step;
}

/* Whether an operand has all rows evenly spaced and, if the loop writes it, in their own places. */
static bool rows_match(const struct tiling *t, int value, int n_dims, bool is_written)
{
    const struct view *v = &t->s->p->values[value].view;
    const int64_t step = row_step(v, n_dims);
    if (step < 0 || !is_written)
        return step >= 0;
    const int64_t width = width_of(t, value);
    int64_t high = v->offset;
    for (int i = n_dims; i < v->rank; i++)
        high += (v->shape[i] - 1) * v->stride[i];
    return step == width && high < width;
}

static bool is_row_by_row(const struct tiling *t, const struct action *a)
{
    if (a->op == OP_save || a->op == OP_matmul || a->op == OP_hook || a->op == OP_apply ||
        a->op == OP_scatter || a->op == OP_scatter_add ||
        root_of(t->s, a->out)->home == HOME_activation)
        return false;
    const int n_dims = count_row_dims(t, a);
    bool match = n_dims > 0 && rows_match(t, a->out, n_dims, true);
    for (int i = 0; i < count_rowed(a) && match; i++)
        match = rows_match(t, a->in[i], n_dims, part_of(t, a->in[i]) != PART_none);
    return match;
}

/* Whether nobody wrote the action's result before it. */
static bool is_first_writer(const struct tiling *t, const struct action *a)
{
    return a->op != OP_set && root_of(t->s, a->out)->first_writer == a->node;
}

struct reading { /* what an action has to do with the loop so far */
    bool tile, rows, behind;
};

static struct reading reading_of(const struct tiling *t, const struct action *a)
{
    struct reading r = {false};
    for (int i = 0; i <= action_n_in(a->op); i++) {
        if (i == action_n_in(a->op) && a->op == OP_save)
            break;
        const enum part part = part_of(t, i < action_n_in(a->op) ? a->in[i] : a->out);
        r.tile |= part == PART_tile;
        r.rows |= part == PART_rows;
        r.behind |= part == PART_behind;
    }
    return r;
}

static bool is_product(const struct tiling *t, const struct action *a)
{
    const struct view *out = &t->s->p->values[a->out].view;
    return action_is_head(a) && view_count(out) / out->shape[out->rank - 1] == t->n_rows &&
           head_is_large(t->n_rows, out->shape[out->rank - 1]);
}

/* What a new result of the loop is: as high as a tile where it is wide. */
static void write_inside(struct tiling *t, const struct action *a)
{
    if (part_of(t, a->out) == PART_none)
        part_set(t, a->out, 4 * width_of(t, a->out) > t->width ? PART_tile : PART_rows);
}

/* False where an action must be in the loop and cannot. */
static bool place(struct tiling *t, const struct action *a, enum when *when)
{
    const struct reading r = reading_of(t, a);
    const bool writes_used =
        a->op != OP_save && t->used[t->s->value_roots[a->out]] == t->stamp;
    const bool is_own = a->op != OP_save && (part_of(t, a->out) == PART_tile ||
                                             part_of(t, a->out) == PART_rows ||
                                             is_first_writer(t, a));
    if (t->joins && !r.tile && !r.rows && !r.behind && is_product(t, a))
        *when = INSIDE;
    else if ((r.tile || r.rows) && !r.behind && is_own && is_row_by_row(t, a))
        *when = INSIDE;
    else if (r.tile)
        return false;
    else
        *when = r.rows || r.behind || writes_used ? BEHIND : BEFORE;
    return true;
}

static void note(struct tiling *t, const struct action *a, enum when when)
{
    if (when == BEFORE)
        return;
    for (int i = 0; i < action_n_in(a->op); i++)
        t->used[t->s->value_roots[a->in[i]]] = t->stamp;
    if (a->op == OP_save)
        return;
    t->used[t->s->value_roots[a->out]] = t->stamp;
    if (when == BEHIND)
        part_set(t, a->out, PART_behind);
    else
        write_inside(t, a);
}

static bool place_all(struct tiling *t)
{
    t->stamp++;
    for (int i = t->first; i < t->end; i++) {
        const struct draft *d = &t->s->drafts[i];
        enum when when = INSIDE;
        if (i > t->first && !place(t, &d->action, &when))
            return false;
        if (d->loop && when != BEFORE)
            return false;
        note(t, &d->action, when);
        t->whens[i] = (int8_t)when;
    }
    return true;
}

/* Who reads the product at a later moment needs it whole. */
static bool is_read_later(const struct tiling *t)
{
    for (int i = t->end; i < t->s->n_drafts; i++) {
        const struct reading r = reading_of(t, &t->s->drafts[i].action);
        if (r.tile)
            return true;
    }
    return false;
}

/* The operand as one tile has it. */
static int tile_value(struct tiling *t, int value, int n_dims, int64_t height)
{
    struct planner *s = t->s;
    struct view v = s->p->values[value].view;
    const int64_t step = row_step(&v, n_dims);
    for (int i = 0; i < n_dims; i++) {
        v.shape[i] = i == n_dims - 1 ? height : 1;
        v.stride[i] = step;
    }
    const int tile = value_add(s, s->value_roots[value], s->p->values[value].dtype, v);
    if (part_of(t, value) != PART_tile)
        s->p->values[tile].row_step = step;
    return tile;
}

static void action_tile(struct tiling *t, struct action *a, int64_t height)
{
    const int n_dims = action_is_head(a) ? t->s->p->values[a->out].view.rank - 1
                                         : count_row_dims(t, a);
    for (int i = 0; i < count_rowed(a); i++)
        a->in[i] = tile_value(t, a->in[i], n_dims, height);
    a->out = tile_value(t, a->out, n_dims, height);
}

/* Before, inside, behind: each in the order that they had. */
static void reorder(struct tiling *t, int *first, int *n)
{
    struct draft *drafts = t->s->drafts;
    struct draft *sorted = ARENA_ARRAY(t->s->a, struct draft, (size_t)(t->end - t->first));
    int k = 0;
    for (int when = BEFORE; when <= BEHIND; when++) {
        if (when == INSIDE)
            *first = t->first + k;
        for (int i = t->first; i < t->end; i++) {
            if (t->whens[i] == when)
                sorted[k++] = drafts[i];
        }
        if (when == INSIDE)
            *n = t->first + k - *first;
    }
    memcpy(drafts + t->first, sorted, sizeof *sorted * (size_t)k);
}

static void tile(struct tiling *t)
{
    struct planner *s = t->s;
    struct plan *p = s->p;
    struct loop *l = arena_push(s->a, &p->loops, &p->n_loops, &s->loop_capacity, sizeof *l);
    l->n_rows = t->n_rows;
    l->n_tiles = (int)((t->n_rows + TILE_ROWS - 1) / TILE_ROWS);
    l->height = (t->n_rows + l->n_tiles - 1) / l->n_tiles;
    int first = 0;
    reorder(t, &first, &l->n_actions);
    for (int i = first; i < first + l->n_actions; i++) {
        action_tile(t, &s->drafts[i].action, l->height);
        s->drafts[i].loop = p->n_loops;
    }
    for (int i = first; i < first + l->n_actions; i++) {
        struct root *r = root_of(s, s->drafts[i].action.out);
        if (part_of(t, s->drafts[i].action.out) != PART_tile || r->is_tile)
            continue;
        r->bytes = r->bytes / t->n_rows * l->height;
        r->is_tile = true;
    }
}

/* Whatever a stop's actions make of each other: alone if not with the others. */
static bool try(struct tiling *t)
{
    t->joins = true;
    if (!place_all(t) || is_read_later(t)) {
        t->joins = false;
        if (!place_all(t) || is_read_later(t))
            return false;
    }
    tile(t);
    return true;
}

static void find_first_writers(struct planner *s)
{
    for (int i = 0; i < s->n_roots; i++)
        s->roots[i].first_writer = -1;
    for (int i = 0; i < s->n_drafts; i++) {
        const struct action *a = &s->drafts[i].action;
        struct root *r = a->op == OP_save ? NULL : root_of(s, a->out);
        if (r && r->first_writer < 0)
            r->first_writer = a->node;
    }
}

bool tiles_make(struct planner *s)
{
    struct tiling t = {.s = s};
    for (int i = 0; i < s->n_drafts; i++) {
        const struct action *a = &s->drafts[i].action;
        if (!action_is_head(a) || s->drafts[i].loop)
            continue;
        const struct view *out = &s->p->values[a->out].view;
        t.width = out->shape[out->rank - 1];
        t.n_rows = view_count(out) / t.width;
        if (!head_is_large(t.n_rows, t.width))
            continue;
        if (!t.stamps) {
            find_first_writers(s);
            t.stamps = ARENA_ARRAY(s->a, int, (size_t)s->n_roots);
            t.used = ARENA_ARRAY(s->a, int, (size_t)s->n_roots);
            t.parts = ARENA_ARRAY(s->a, int8_t, (size_t)s->n_roots);
            t.whens = ARENA_ARRAY(s->a, int8_t, (size_t)s->n_drafts);
        }
        t.first = i;
        for (t.end = i + 1; t.end < s->n_drafts; t.end++) {
            if (s->drafts[t.end].key >> 32 != s->drafts[i].key >> 32)
                break;
        }
        const struct root *r = root_of(s, a->out);
        if (!try(&t) && r->is_apart && r->n_panels == 0)
            return false;
    }
    return true;
}
