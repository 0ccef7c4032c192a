/* Attention from inside: scores, pattern (B, H, T, S) and what each head adds to the residual
 * stream (B, T, H, D). The pass has none of them, for its kernel keeps no more than a few rows at a
 * time. So they are made by actions of the job, in its memory, from the queries and the keys and
 * values of the cache, in the orders that give the kernel's bits (kernels/backend.h). Where a set
 * changes scores or pattern, z is made of the pattern too, over what the kernel wrote there; else
 * the kernel's stands: who only looks changes nothing. */
#include "planner.h"
#include <math.h>

/* The attention of one invoke in one block of one step. */
struct inside {
    struct planner *s;
    int node, invoke, block;
    int turn;        /* of the scores: pattern, z and result follow */
    int64_t B, H, T, S, dh;
};

static struct inside inside_of(struct planner *s, const struct root *r, int turn)
{
    enum point p;
    const int step = plan_step(s->p, turn / s->n_sites);
    const struct plan_invoke *v = &s->p->invokes[r->invoke];
    struct inside a = {.s = s,
                       .node = r->node,
                       .invoke = r->invoke,
                       .turn = turn,
                       .B = v->n_sequences,
                       .H = s->m->n_heads,
                       .T = step == 0 ? v->n_tokens : 1,
                       .S = v->n_tokens + step,
                       .dh = s->m->width / s->m->n_heads};
    site_split(&p, &a.block, turn % s->n_sites, s->m->n_blocks);
    return a;
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

static int scores_like(const struct inside *a, int turn)
{
    return tensor(a, turn, DT_f32, a->B, a->H, a->T, a->S);
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

/* The heads (B, H, T, dh) of the live rows that the pass shows at this turn. */
static int heads_of(const struct inside *a, int turn, enum point rows)
{
    const struct point_name name = {rows, NULL, SHAPE_heads};
    const int root = root_add(a->s, (struct root){.home = HOME_activation,
                                                  .node = -1,
                                                  .turn = turn,
                                                  .invoke = a->invoke,
                                                  .point = rows});
    return value_add(a->s, root, DT_f32, point_view(&name, a->s->m, a->B, a->T, 0, 0));
}

/* Keys or values (B, H, S, dh) of all positions so far. */
static int cached(const struct inside *a, int turn, enum point p)
{
    const int copy = tensor(a, turn, DT_f32, a->B, a->H, a->S, a->dh);
    act(a, turn, (struct action){.op = OP_hook, .out = copy, .point = p});
    return copy;
}

static int number(const struct inside *a, float real)
{
    struct arg *n = ARENA_NEW(a->s->a, struct arg);
    *n = (struct arg){.kind = ARG_float, .real = real};
    const int64_t shape[] = {a->B, a->H, a->T, a->S}, none[4] = {0};
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
static int seen(const struct inside *a)
{
    const int64_t mask_shape[] = {1, 1, a->T, a->S}, shape[] = {a->B, a->H, a->T, a->S};
    const int mask = tensor(a, a->turn, DT_bool, 1, 1, a->T, a->S), all = positions(a->s);
    const int keys = viewed(a, all, mask_shape, (int64_t[]){0, 0, 0, 1}, 0);
    const int rows = viewed(a, all, mask_shape, (int64_t[]){0, 0, 1, 0}, a->S - a->T);
    act(a, a->turn, (struct action){.op = OP_le, .out = mask, .in = {keys, rows}});
    return viewed(a, mask, shape, (int64_t[]){0, 0, a->S, 1}, 0);
}

static void make_scores(const struct inside *a, int scores)
{
    const int turn = a->turn, q = heads_of(a, turn, PT_query), k = cached(a, turn, PT_block_keys);
    const int turned = viewed(a, k, (int64_t[]){a->B, a->H, a->dh, a->S},
                              (int64_t[]){a->H * a->S * a->dh, a->S * a->dh, 1, a->dh}, 0);
    const int product = a->T == 1 ? scores : scores_like(a, turn);
    act(a, turn, (struct action){.op = OP_matmul, .out = product, .in = {q, turned}});
    const int factor = number(a, 1.0f / sqrtf((float)a->dh));
    act(a, turn, (struct action){.op = OP_mul, .out = product, .in = {product, factor}});
    if (a->T > 1)
        act(a, turn, (struct action){.op = OP_where,
                                     .out = scores,
                                     .in = {seen(a), product, number(a, -INFINITY)}});
}

static void make_z(const struct inside *a, int pattern)
{
    const int turn = a->turn + PT_z - PT_scores, v = cached(a, turn, PT_block_values);
    const int z = heads_of(a, turn, PT_z);
    act(a, turn, (struct action){.op = OP_matmul, .out = z, .in = {pattern, v}});
}

/* The whole of a root, or a tensor in its place where nobody asked for it. */
static int whole(const struct inside *a, int root, int turn)
{
    if (root < 0)
        return scores_like(a, turn);
    const struct view shape = view_of(4, (int64_t[]){a->B, a->H, a->T, a->S});
    return value_add(a->s, root, DT_f32, shape);
}

static bool is_needed(const struct planner *s, int root)
{
    return root >= 0 && s->roots[root].needed_by > 0;
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
    const int turn = a->turn + PT_pattern - PT_scores, scores = whole(a, scores_root, a->turn);
    make_scores(a, scores);
    if (!pattern_needed && !is_changed)
        return;
    const int pattern = whole(a, pattern_root, turn);
    act(a, turn, (struct action){.op = OP_softmax, .out = pattern, .in = {scores}});
    if (is_changed)
        make_z(a, pattern);
}

/* Each head's z times its rows of the projection. */
static void lower_result(const struct inside *a, int root)
{
    struct planner *s = a->s;
    const int64_t D = s->m->width, turn = s->roots[root].turn;
    const int proj = parameter_root(s, PARAMETER_proj, a->block, a->node);
    const struct view matrix = parameter_matrix(PARAMETER_proj, s->m);
    const int weight = tensor_add(s, -1, (int)turn, DT_f32, &matrix);
    act(a, (int)turn, (struct action){.op = OP_parameter,
                                      .out = weight,
                                      .in = {value_add(s, proj, DT_f32, matrix)}});
    const int heads = viewed(a, weight, (int64_t[]){a->B, a->H, a->dh, D},
                             (int64_t[]){0, a->dh * D, D, 1}, 0);
    struct view out = view_of(4, (int64_t[]){a->B, a->H, a->T, D});
    out.stride[0] = a->T * a->H * D;
    out.stride[1] = D;
    out.stride[2] = a->H * D;
    act(a, (int)turn, (struct action){.op = OP_matmul,
                                      .out = value_add(s, root, DT_f32, out),
                                      .in = {heads_of(a, (int)turn, PT_z), heads}});
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
