/* Attention from inside: scores, pattern (B, H, T, S) and what each head adds to the residual
 * stream (B, T, H, D). The pass has none of them, for its kernel keeps no more than a few rows at a
 * time. So they are made by actions of the job, in its memory, from the queries and the keys and
 * values of the cache, in the orders that give the kernel's bits (kernels/backend.h). Where a set
 * changes scores or pattern, z is made of the pattern too, over what the kernel wrote there; else
 * the kernel's stands: who only looks changes nothing.
 *
 * Where prompts differ in length, each sequence is made by itself at the right end of its rows and
 * keys; what lies before them is zero, whatever is set there. */
#include "planner.h"
#include <math.h>

/* The attention of one invoke in one block of one step, as its hooks see it. */
struct inside {
    struct planner *s;
    int node, invoke, block, step;
    int turn; /* of the scores: pattern, z and result follow */
    int64_t B, H, T, S, dh;
};

/* Sequences of one length: all of the invoke's, or one of those that differ. */
struct part {
    int first;         /* sequence */
    int64_t B, T, S;
    int64_t row;       /* its first live row, from the invoke's */
};

static struct inside inside_of(struct planner *s, const struct root *r, int turn)
{
    enum point p;
    const struct plan_invoke *v = &s->p->invokes[r->invoke];
    struct inside a = {.s = s,
                       .node = r->node,
                       .invoke = r->invoke,
                       .step = plan_step(s->p, turn / s->n_sites),
                       .turn = turn,
                       .B = v->n_sequences,
                       .H = s->m->n_heads,
                       .dh = s->m->width / s->m->n_heads};
    a.T = a.step == 0 ? v->n_tokens : 1;
    a.S = v->n_tokens + a.step;
    site_split(&p, &a.block, turn % s->n_sites, s->m->n_blocks);
    return a;
}

static const struct plan_invoke *invoke_of(const struct inside *a)
{
    return &a->s->p->invokes[a->invoke];
}

static int count_parts(const struct inside *a)
{
    return invoke_of(a)->is_ragged ? (int)a->B : 1;
}

static struct part part_of(const struct inside *a, int i)
{
    const struct plan_invoke *v = invoke_of(a);
    const struct plan_sequence *q = &v->sequences[i];
    if (!v->is_ragged)
        return (struct part){0, a->B, a->T, a->S, 0};
    if (a->step == 0)
        return (struct part){i, 1, q->n_tokens, q->n_tokens, q->row};
    return (struct part){i, 1, 1, q->n_tokens + a->step, i};
}

static void act(const struct inside *a, int turn, struct action action)
{
    action.node = a->node;
    a->s->cost += action_push(a->s, turn, -1, action);
}

static int tensor(const struct inside *a, int turn, enum dtype dtype, int64_t B, int64_t H,
                  int64_t rows, int64_t columns)
{
    const struct view shape = view_of(4, (int64_t[]){B, H, rows, columns});
    return tensor_add(a->s, -1, turn, dtype, &shape);
}

/* A tensor of this shape whose elements stand where the strides say. */
static int viewed(const struct inside *a, int value, const int64_t shape[4],
                  const int64_t stride[4], int64_t offset)
{
    struct view v = view_of(4, shape);
    for (int i = 0; i < 4; i++)
        v.stride[i] = stride[i];
    v.offset = offset;
    return value_add(a->s, a->s->value_roots[value], a->s->p->values[value].dtype, v);
}

/* The last rows and columns of a part's matrices in (B, H, n_rows, n_columns). */
static int corner(const struct inside *a, const struct part *p, int whole, int64_t n_rows,
                  int64_t n_columns)
{
    const struct view *v = &a->s->p->values[whole].view;
    const int64_t at = p->first * v->stride[0] + (v->shape[2] - n_rows) * v->stride[2] +
                       (v->shape[3] - n_columns) * v->stride[3];
    const int64_t stride[] = {v->stride[0], v->stride[1], v->stride[2], v->stride[3]};
    return viewed(a, whole, (int64_t[]){p->B, a->H, n_rows, n_columns}, stride, at);
}

/* The heads (B, H, T, dh) of the live rows that the pass shows at this turn. */
static int heads_of(const struct inside *a, const struct part *p, int turn, enum point rows)
{
    const struct point_name name = {rows, NULL, SHAPE_heads};
    struct view v = point_view(&name, a->s->m, p->B, p->T, 0, 0);
    v.offset = p->row * point_row_stride(rows, a->s->m);
    const int root = root_add(a->s, (struct root){.home = HOME_activation,
                                                  .node = -1,
                                                  .turn = turn,
                                                  .invoke = a->invoke,
                                                  .point = rows});
    return value_add(a->s, root, DT_f32, v);
}

/* Keys or values (B, H, S, dh) of all positions so far. */
static int cached(const struct inside *a, int turn, enum point p)
{
    const int copy = tensor(a, turn, DT_f32, a->B, a->H, a->S, a->dh);
    act(a, turn, (struct action){.op = OP_hook, .out = copy, .point = p});
    return copy;
}

static int number(const struct inside *a, const struct part *p, float real)
{
    struct arg *n = ARENA_NEW(a->s->a, struct arg);
    *n = (struct arg){.kind = ARG_float, .real = real};
    const int64_t shape[] = {p->B, a->H, p->T, p->S}, none[4] = {0};
    return viewed(a, number_value(a->s, n, DT_f32), shape, none, 0);
}

/* 0, 1, 2, ... as far as the context goes, one for all. */
static int positions(struct planner *s)
{
    if (!s->positions) {
        const int64_t n = s->m->context;
        int64_t *bytes = ARENA_ARRAY(s->a, int64_t, n);
        for (int64_t i = 0; i < n; i++)
            bytes[i] = i;
        s->positions = tensor_add(s, -1, 0, DT_i64, &(struct view){.rank = 1, .shape = {n}});
        root_of(s, s->positions)->constant = bytes;
    }
    return s->positions;
}

/* Which keys a row sees, those up to its own position: the same for all sequences and heads. */
static int seen(const struct inside *a, const struct part *p)
{
    const int64_t mask_shape[] = {1, 1, p->T, p->S}, shape[] = {p->B, a->H, p->T, p->S};
    const int mask = tensor(a, a->turn, DT_bool, 1, 1, p->T, p->S), all = positions(a->s);
    const int keys = viewed(a, all, mask_shape, (int64_t[]){0, 0, 0, 1}, 0);
    const int rows = viewed(a, all, mask_shape, (int64_t[]){0, 0, 1, 0}, p->S - p->T);
    act(a, a->turn, (struct action){.op = OP_le, .out = mask, .in = {keys, rows}});
    return viewed(a, mask, shape, (int64_t[]){0, 0, p->S, 1}, 0);
}

/* `keys` as `cached`. */
static void make_scores(const struct inside *a, const struct part *p, int scores, int keys)
{
    const int k = corner(a, p, keys, p->S, a->dh), q = heads_of(a, p, a->turn, PT_query);
    const struct view v = a->s->p->values[k].view;
    const int turned = viewed(a, k, (int64_t[]){p->B, a->H, a->dh, p->S},
                              (int64_t[]){v.stride[0], v.stride[1], 1, a->dh}, v.offset);
    const int product = p->T == 1 ? scores : tensor(a, a->turn, DT_f32, p->B, a->H, p->T, p->S);
    act(a, a->turn, (struct action){.op = OP_matmul, .out = product, .in = {q, turned}});
    const int factor = number(a, p, 1.0f / sqrtf((float)a->dh));
    act(a, a->turn, (struct action){.op = OP_mul, .out = product, .in = {product, factor}});
    if (p->T > 1)
        act(a, a->turn, (struct action){.op = OP_where,
                                        .out = scores,
                                        .in = {seen(a, p), product, number(a, p, -INFINITY)}});
}

/* What lies before a part's rows and keys, in (B, H, T, S). */
static void clear_before(const struct inside *a, const struct part *p, int whole, int turn,
                         int behind, int node)
{
    const struct view v = a->s->p->values[whole].view;
    const int64_t stride[] = {v.stride[0], v.stride[1], v.stride[2], v.stride[3]};
    const int64_t at = p->first * v.stride[0], T = a->T - p->T, S = a->S - p->S;
    const int above = viewed(a, whole, (int64_t[]){p->B, a->H, T, a->S}, stride, at);
    const int left = viewed(a, whole, (int64_t[]){p->B, a->H, p->T, S}, stride,
                            at + T * v.stride[2]);
    padding_zero(a->s, above, turn, behind, node);
    padding_zero(a->s, left, turn, behind, node);
}

static void clear(const struct inside *a, int whole, int turn, int behind, int node)
{
    for (int i = 0; i < count_parts(a); i++) {
        const struct part p = part_of(a, i);
        clear_before(a, &p, whole, turn, behind, node);
    }
}

/* The whole of a root, or a tensor in its place where nobody asked for it. */
static int whole_of(const struct inside *a, int root, int turn)
{
    if (root < 0)
        return tensor(a, turn, DT_f32, a->B, a->H, a->T, a->S);
    const struct view shape = view_of(4, (int64_t[]){a->B, a->H, a->T, a->S});
    const int whole = value_add(a->s, root, DT_f32, shape);
    clear(a, whole, turn, -1, a->node);
    return whole;
}

void inside_clear(struct planner *s, int root, int node)
{
    const struct root r = s->roots[root];
    const struct inside a =
        inside_of(s, &r, r.point == PT_scores ? r.turn : r.turn + PT_scores - PT_pattern);
    const struct view shape = view_of(4, (int64_t[]){a.B, a.H, a.T, a.S});
    clear(&a, value_add(s, root, DT_f32, shape), r.turn, node, node);
}

static bool is_needed(const struct planner *s, int root)
{
    return root >= 0 && s->roots[root].needed_by > 0;
}

static int make_all_scores(const struct inside *a, int root)
{
    const int scores = whole_of(a, root, a->turn), keys = cached(a, a->turn, PT_block_keys);
    for (int i = 0; i < count_parts(a); i++) {
        const struct part p = part_of(a, i);
        make_scores(a, &p, corner(a, &p, scores, p.T, p.S), keys);
    }
    return scores;
}

static int make_pattern(const struct inside *a, int root, int scores)
{
    const int turn = a->turn + PT_pattern - PT_scores, pattern = whole_of(a, root, turn);
    for (int i = 0; i < count_parts(a); i++) {
        const struct part p = part_of(a, i);
        act(a, turn, (struct action){.op = OP_softmax,
                                     .out = corner(a, &p, pattern, p.T, p.S),
                                     .in = {corner(a, &p, scores, p.T, p.S)}});
    }
    return pattern;
}

static void make_z(const struct inside *a, int pattern)
{
    const int turn = a->turn + PT_z - PT_scores, values = cached(a, turn, PT_block_values);
    for (int i = 0; i < count_parts(a); i++) {
        const struct part p = part_of(a, i);
        act(a, turn, (struct action){.op = OP_matmul,
                                     .out = heads_of(a, &p, turn, PT_z),
                                     .in = {corner(a, &p, pattern, p.T, p.S),
                                            corner(a, &p, values, p.S, a->dh)}});
    }
}

/* The roots of scores and pattern, or -1. */
static void lower_pattern(const struct inside *a, int scores_root, int pattern_root)
{
    struct planner *s = a->s;
    const bool scores_needed = is_needed(s, scores_root);
    const bool pattern_needed = is_needed(s, pattern_root);
    const int trace = s->p->passes[a->turn / s->n_sites].trace;
    const bool is_changed = ((scores_needed && s->roots[scores_root].is_set) ||
                             (pattern_needed && s->roots[pattern_root].is_set)) &&
                            a->turn + PT_z - PT_scores <= s->last_turns[trace];
    if (!scores_needed && !pattern_needed)
        return;
    const int scores = make_all_scores(a, scores_root);
    if (!pattern_needed && !is_changed)
        return;
    const int pattern = make_pattern(a, pattern_root, scores);
    if (is_changed)
        make_z(a, pattern);
}

/* A part of (B, T, H, D), as (B, H, T, D). */
static int results_of(const struct inside *a, const struct part *p, int root, int64_t first,
                      int64_t count)
{
    const int64_t D = a->s->m->width, row = a->H * D;
    struct view v = view_of(4, (int64_t[]){p->B, a->H, count, D});
    v.stride[0] = a->T * row;
    v.stride[1] = D;
    v.stride[2] = row;
    v.offset = (p->first * a->T + first) * row;
    return value_add(a->s, root, DT_f32, v);
}

/* Each head's z times its rows of the projection. */
static void lower_result(const struct inside *a, int root)
{
    struct planner *s = a->s;
    const int turn = s->roots[root].turn;
    const int proj = parameter_root(s, PARAMETER_proj, a->block, a->node);
    const struct view matrix = parameter_matrix(PARAMETER_proj, s->m);
    const int weight = tensor_add(s, -1, turn, DT_f32, &matrix);
    act(a, turn, (struct action){.op = OP_parameter,
                                 .out = weight,
                                 .in = {value_add(s, proj, DT_f32, matrix)}});
    const int64_t D = s->m->width;
    for (int i = 0; i < count_parts(a); i++) {
        const struct part p = part_of(a, i);
        const int heads = viewed(a, weight, (int64_t[]){p.B, a->H, a->dh, D},
                                 (int64_t[]){0, a->dh * D, D, 1}, 0);
        padding_zero(s, results_of(a, &p, root, 0, a->T - p.T), turn, -1, a->node);
        act(a, turn, (struct action){.op = OP_matmul,
                                     .out = results_of(a, &p, root, a->T - p.T, p.T),
                                     .in = {heads_of(a, &p, turn, PT_z), heads}});
    }
}

/* Of the dimensions of a view that walk along one of (B, H, T, S), `size` long and with this
 * stride: how many of their places are `from` or more. -1 where they leave it. */
static int64_t count_from(struct planner *s, const struct view *v, int64_t unit, int64_t size,
                          int64_t from)
{
    struct view along = {.offset = v->offset / unit % size};
    int64_t high = along.offset, count = 0;
    for (int i = 0; i < v->rank; i++) {
        if (v->shape[i] == 1 || v->stride[i] < unit || v->stride[i] >= unit * size)
            continue;
        if (v->stride[i] % unit != 0)
            return -1;
        along.shape[along.rank] = v->shape[i];
        along.stride[along.rank] = v->stride[i] / unit;
        high += (v->shape[i] - 1) * along.stride[along.rank++];
    }
    const int64_t n = high < size ? view_count(&along) : 0;
    s->n_looks += n;
    for (int64_t i = 0; i < n; i++) {
        int64_t at = along.offset, rest = i;
        for (int k = along.rank - 1; k >= 0; k--) {
            at += rest % along.shape[k] * along.stride[k];
            rest /= along.shape[k];
        }
        count += at >= from;
    }
    return high < size ? count : -1;
}

/* How many elements of a view of (B, H, T, S) are in rows and keys that their sequences have; all,
 * where one of its dimensions walks from one row, head or sequence into the next, or many sets were
 * counted before. */
int64_t inside_count_outside(struct planner *s, const struct root *r, const struct view *v)
{
    const struct inside a =
        inside_of(s, r, r->point == PT_scores ? r->turn : r->turn + PT_scores - PT_pattern);
    const int64_t row = a.S, head = a.T * row, sequence = a.H * head;
    const int64_t heads = count_from(s, v, head, a.H, 0);
    if (s->n_looks > PADDING_LOOKS_MAX)
        return view_count(v);
    int64_t count = 0, behind = 0;
    for (int i = (int)a.B - 1; i >= 0; i--) {
        const struct part p = part_of(&a, i);
        const int64_t sequences = count_from(s, v, sequence, a.B, i);
        const int64_t rows = count_from(s, v, row, a.T, a.T - p.T);
        const int64_t keys = count_from(s, v, 1, a.S, a.S - p.S);
        if (heads < 0 || sequences < 0 || rows < 0 || keys < 0)
            return view_count(v);
        count += (sequences - behind) * heads * rows * keys;
        behind = sequences;
    }
    return count;
}

static void lower_inside(struct planner *s, int root)
{
    const struct root r = s->roots[root];
    if (r.point == PT_result) {
        const struct inside a = inside_of(s, &r, r.turn + PT_scores - PT_result);
        if (is_needed(s, root))
            lower_result(&a, root);
    } else if (r.point == PT_scores) {
        const struct inside a = inside_of(s, &r, r.turn);
        lower_pattern(&a, root, hook_find(s, r.invoke, r.turn + PT_pattern - PT_scores));
    } else if (hook_find(s, r.invoke, r.turn + PT_scores - PT_pattern) < 0) {
        const struct inside a = inside_of(s, &r, r.turn + PT_scores - PT_pattern);
        lower_pattern(&a, -1, root);
    }
}

bool insides_lower(struct planner *s)
{
    const int n_roots = s->n_roots;
    for (int i = 0; i < n_roots; i++) {
        if (!s->roots[i].is_inside)
            continue;
        lower_inside(s, i);
        if (!cost_check(s, s->roots[i].node))
            return false;
    }
    return true;
}
