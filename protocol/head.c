/* Logits that only this request's own ops look at, at many positions: the head's product is then
 * an action like any other, over a copy of the rows of lm_head.input, and tiles.c runs it a few
 * rows at a time. Where the ops look at a few columns, through a view or by constant ids, only the
 * panels of 16 that hold them are computed.
 *
 * Readers that look at the same rows share a product. It has those rows alone, in their order. */
#include "planner.h"
#include <string.h>

enum {
    GROUPS_MAX = 64,
    IDS_MAX = 1 << 16, /* of all indices that are looked at: their columns take 1 MB of the arena */
};

/* What a view of a row-major (rows, V) tensor looks at. */
struct look {
    struct view rows;  /* in rows of the tensor, without dimensions of size 1 */
    int64_t low, high; /* the first and the last column */
};

struct group { /* readers of one root that look at the same rows */
    int root;
    struct view rows;
    bool is_live; /* stays where it is: the model computes it */
    int first, last; /* of its readers, a chain of values, and */
    int first_select; /* of the nodes that select columns of them, or -1 */
};

struct choice {
    struct planner *s;
    bool *is_set;     /* of each root: something alive changes it */
    int *next;        /* of each value: the next reader of its group, or -1, and */
    bool *is_reader;  /* whether it is in one, and */
    bool *is_whole;   /* whether somebody looks at all columns that it has */
    int *next_select; /* of each node that selects columns: the next of its group, or -1 */
    int64_t n_ids;    /* by which they do */
    struct group groups[GROUPS_MAX];
    int n_groups;
};

/* False where one dimension walks along the columns into the next row, or there is nothing. */
static bool look_of(struct look *l, const struct view *v, int64_t V)
{
    *l = (struct look){.rows.offset = v->offset / V, .low = v->offset % V, .high = v->offset % V};
    for (int i = 0; i < v->rank; i++) {
        if (v->shape[i] == 1 || v->stride[i] == 0)
            continue;
        if (v->stride[i] % V != 0) {
            l->high += (v->shape[i] - 1) * v->stride[i];
            continue;
        }
        l->rows.shape[l->rows.rank] = v->shape[i];
        l->rows.stride[l->rows.rank++] = v->stride[i] / V;
    }
    return view_count(v) > 0 && l->high < V;
}

static bool rows_equal(const struct view *a, const struct view *b)
{
    bool equal = view_same_shape(a, b) && a->offset == b->offset;
    for (int i = 0; i < a->rank && equal; i++)
        equal = a->stride[i] == b->stride[i];
    return equal;
}

bool head_is_large(int64_t n_rows, int64_t width)
{
    return n_rows > TILE_ROWS && n_rows * width * (int64_t)sizeof(float) >= TILED_BYTES_MIN;
}

/* Whether a root is a product of the head that could be made otherwise. */
static bool is_head(const struct choice *c, int root)
{
    const struct root *r = &c->s->roots[root];
    if (c->is_set[root] || r->node < 0)
        return false;
    if (r->home == HOME_activation)
        return r->point == PT_logits && is_first(c->s, r->turn);
    const struct node *n = &c->s->g->nodes[r->node];
    return n->op == OP_apply && module_is_head(&n->module);
}

/* The rows of an applied head stay together, those of the model's logits are taken apart. */
static struct group *group_of(struct choice *c, int root, const struct look *l)
{
    const bool together = c->s->roots[root].home == HOME_slab;
    for (int i = 0; i < c->n_groups; i++) {
        struct group *g = &c->groups[i];
        if (g->root == root && (together || rows_equal(&g->rows, &l->rows)))
            return g;
    }
    if (c->n_groups == GROUPS_MAX)
        return NULL;
    struct group *g = &c->groups[c->n_groups++];
    *g = (struct group){.root = root, .rows = l->rows, .first = -1, .last = -1, .first_select = -1};
    if (together)
        g->rows = view_of(1, (int64_t[]){c->s->roots[root].bytes / (int64_t)sizeof(float) /
                                         c->s->m->vocab});
    return g;
}

/* The dimension along which a node chooses by an index. */
static int dim_of(const struct node *n, const struct view *x)
{
    const int64_t dim = n->args[1].integer;
    return (int)(dim < 0 ? dim + x->rank : dim);
}

/* By how many known ids a node, whose operands are taken, chooses columns: 0 where it does not. */
static int64_t ids_selecting(struct planner *s, const struct node *n)
{
    if (n->op != OP_index_select && n->op != OP_gather)
        return 0;
    const struct view *x = &s->p->values[s->in[0]].view;
    const struct root *ids = root_of(s, s->in[1]);
    const struct view once = view_once(&s->p->values[s->in[1]].view);
    const int64_t V = s->m->vocab;
    if (!ids->constant || ids->is_set || x->rank == 0 || x->stride[dim_of(n, x)] % V == 0)
        return 0;
    int n_steps = 0; /* dimensions that step along columns */
    for (int i = 0; i < x->rank; i++)
        n_steps += x->shape[i] > 1 && x->stride[i] % V != 0;
    return n_steps == 1 && x->shape[dim_of(n, x)] > 1 ? view_count(&once) : 0;
}

/* What a save keeps of all columns exists as a whole, and as a part of the reply. */
static void reader_add(struct choice *c, int node, int operand)
{
    struct planner *s = c->s;
    const struct node *n = &s->g->nodes[node];
    const bool is_saved = n->op == OP_save;
    const int64_t V = s->m->vocab;
    struct look l;
    const int value = s->in[operand], root = s->value_roots[value];
    const bool fits = look_of(&l, &s->p->values[value].view, V);
    if (!fits && s->roots[root].home == HOME_activation)
        return;
    struct group *g = group_of(c, root, &l);
    if (!g)
        return;
    if (!fits || (is_saved && l.high - l.low >= V / 2))
        g->is_live = true;
    const int64_t n_ids = operand == 0 ? ids_selecting(s, n) : 0;
    if (n_ids > 0 && n_ids <= IDS_MAX - c->n_ids) {
        c->n_ids += n_ids;
        c->next_select[node] = g->first_select;
        g->first_select = node;
    } else {
        c->is_whole[value] = true;
    }
    if (c->is_reader[value])
        return;
    c->is_reader[value] = true;
    c->next[value] = -1;
    *(g->last < 0 ? &g->first : &c->next[g->last]) = value;
    g->last = value;
}

static void readers_find(struct choice *c)
{
    struct planner *s = c->s;
    for (int i = 0; i < s->g->n_nodes; i++) {
        if (s->is_alive[i] && s->g->nodes[i].op == OP_set)
            c->is_set[s->value_roots[i]] = true;
    }
    for (int i = 0; i < s->g->n_nodes; i++) {
        if (!s->is_alive[i])
            continue;
        operands_take(s, &s->g->nodes[i]);
        for (int k = 0; k < s->n_in; k++) {
            if (is_head(c, s->value_roots[s->in[k]]))
                reader_add(c, i, k);
        }
    }
}

struct panels { /* of a product */
    bool *needed; /* [n_all] */
    int n, n_all;
    int *places; /* [n_all] of those that are needed: which of them each is */
};

static void need_columns(struct panels *p, int64_t low, int64_t high)
{
    for (int64_t panel = low / PANEL_COLUMNS; panel <= high / PANEL_COLUMNS; panel++) {
        p->n += !p->needed[panel];
        p->needed[panel] = true;
    }
}

struct columns { /* of the product, that a node selects */
    struct view once; /* of its index, what is not repeated, and */
    int64_t count;    /* its elements, */
    int64_t *at;      /* in row-major order */
};

static struct columns selected(struct planner *s, int node)
{
    const struct node *n = &s->g->nodes[node];
    operands_take(s, n);
    const struct view *x = &s->p->values[s->in[0]].view;
    const int64_t *ids = root_of(s, s->in[1])->constant;
    struct columns c = {.once = view_once(&s->p->values[s->in[1]].view)};
    c.count = view_count(&c.once);
    c.at = ARENA_ARRAY(s->a, int64_t, (size_t)c.count);
    for (int64_t i = 0; i < c.count; i++)
        c.at[i] = x->offset % s->m->vocab +
                  ids[element_at(&c.once, c.once.rank, i)] * x->stride[dim_of(n, x)];
    return c;
}

/* The panels that a group's readers need, ascending: none where that is more than half of them. */
static int find_panels(const int32_t **panels, struct panels *p, const struct choice *c,
                       const struct group *g)
{
    struct planner *s = c->s;
    const int V = s->m->vocab;
    p->n_all = (V + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
    p->needed = ARENA_ARRAY(s->a, bool, (size_t)p->n_all);
    p->places = ARENA_ARRAY(s->a, int, (size_t)p->n_all);
    for (int value = g->first; value >= 0; value = c->next[value]) {
        struct look l;
        look_of(&l, &s->p->values[value].view, V);
        if (c->is_whole[value])
            need_columns(p, l.low, l.high);
        if (2 * p->n * PANEL_COLUMNS > V)
            return 0;
    }
    for (int node = g->first_select; node >= 0; node = c->next_select[node]) {
        const struct columns selects = selected(s, node);
        for (int64_t i = 0; i < selects.count; i++)
            need_columns(p, selects.at[i], selects.at[i]);
    }
    if (2 * p->n * PANEL_COLUMNS > V)
        return 0;
    int32_t *list = ARENA_ARRAY(s->a, int32_t, (size_t)p->n);
    for (int panel = 0, i = 0; panel < p->n_all; panel++) {
        p->places[panel] = i;
        if (p->needed[panel])
            list[i++] = panel;
    }
    *panels = list;
    return p->n;
}

/* The index of a node that selects columns, where only some panels exist. */
static void move_index(struct planner *s, int node, const struct panels *p)
{
    const struct columns c = selected(s, node);
    for (int64_t i = 0; i < c.count; i++)
        c.at[i] = p->places[c.at[i] / PANEL_COLUMNS] * PANEL_COLUMNS + c.at[i] % PANEL_COLUMNS;
    s->moved_index[node] = tensor_add(s, -1, 0, DT_i64, &c.once);
    root_of(s, s->moved_index[node])->constant = c.at;
}

/* Rows one behind the other, in the order in which a view has them. */
static void take_rows_apart(struct view *v, int64_t V)
{
    int64_t row = 1;
    v->offset %= V;
    for (int i = v->rank - 1; i >= 0; i--) {
        if (v->shape[i] == 1 || v->stride[i] == 0 || v->stride[i] % V != 0)
            continue;
        v->stride[i] = row * V;
        row *= v->shape[i];
    }
}

/* The same elements where of the columns only these panels exist. What a view looks at lies in
 * panels that follow one another, and still do. */
static void take_panels(struct view *v, int64_t V, const struct panels *p)
{
    const int64_t column = v->offset % V, width = (int64_t)p->n * PANEL_COLUMNS;
    v->offset = v->offset / V * width + p->places[column / PANEL_COLUMNS] * PANEL_COLUMNS +
                column % PANEL_COLUMNS;
    for (int k = 0; k < v->rank; k++) {
        if (v->stride[k] % V == 0)
            v->stride[k] = v->stride[k] / V * width;
    }
}

/* The rows of lm_head.input that a product of the model's logits needs. */
static int input_of(struct planner *s, const struct group *g)
{
    const struct root logits = s->roots[g->root];
    const int turn = logits.turn / s->n_sites * s->n_sites + site_of(PT_lnf_out, 0, s->m->n_blocks);
    const int64_t D = s->m->width;
    const int root = hook_root(s, logits.invoke, turn, logits.node, PT_lnf_out);
    s->roots[root].needed_by = s->g->n_nodes;
    struct view v = g->rows;
    v.offset *= D;
    for (int i = 0; i < v.rank; i++)
        v.stride[i] *= D;
    v.shape[v.rank] = D;
    v.stride[v.rank++] = 1;
    return value_add(s, root, DT_f32, v);
}

/* The model's logits become a product of their own. */
static int root_apart(struct planner *s, const struct group *g)
{
    const struct root logits = s->roots[g->root];
    const int input = input_of(s, g);
    const int root = root_add(s, (struct root){.home = HOME_slab,
                                               .node = logits.node,
                                               .turn = logits.turn,
                                               .invoke = logits.invoke,
                                               .is_apart = true});
    struct head *h = arena_push(s->a, &s->heads, &s->n_heads, &s->head_capacity, sizeof *h);
    *h = (struct head){root, input, view_count(&g->rows)};
    return root;
}

static void group_settle(struct choice *c, const struct group *g)
{
    struct planner *s = c->s;
    const int64_t n_rows = view_count(&g->rows), V = s->m->vocab;
    const bool is_op = s->roots[g->root].home == HOME_slab;
    if (g->is_live || n_rows <= TILE_ROWS)
        return;
    const int32_t *panels = NULL;
    struct panels p = {0};
    const int n_panels = find_panels(&panels, &p, c, g);
    if (n_panels == 0 && (is_op || s->whole_logits || !head_is_large(n_rows, V)))
        return;
    const int64_t width = n_panels ? (int64_t)n_panels * PANEL_COLUMNS : V;
    const int root = is_op ? g->root : root_apart(s, g);
    struct root *r = &s->roots[root];
    r->panels = panels;
    r->n_panels = n_panels;
    r->bytes = n_rows * width * (int64_t)sizeof(float);
    for (int node = g->first_select; node >= 0 && n_panels; node = c->next_select[node]) {
        operands_take(s, &s->g->nodes[node]);
        if (!c->is_whole[s->in[0]])
            move_index(s, node, &p);
    }
    for (int value = g->first; value >= 0; value = c->next[value]) {
        struct view *v = &s->p->values[value].view;
        if (!is_op)
            take_rows_apart(v, V);
        if (n_panels && !c->is_whole[value])
            v->offset -= v->offset % V; /* its nodes' moved indices say the columns alone */
        if (n_panels)
            take_panels(v, V, &p);
        s->p->values[value].home = HOME_slab;
        s->value_roots[value] = root;
    }
}

void heads_choose(struct planner *s)
{
    struct choice *c = ARENA_NEW(s->a, struct choice);
    c->s = s;
    c->is_set = ARENA_ARRAY(s->a, bool, (size_t)s->n_roots);
    c->next = ARENA_ARRAY(s->a, int, (size_t)s->p->n_values);
    c->is_reader = ARENA_ARRAY(s->a, bool, (size_t)s->p->n_values);
    c->is_whole = ARENA_ARRAY(s->a, bool, (size_t)s->p->n_values);
    c->next_select = ARENA_ARRAY(s->a, int, (size_t)s->g->n_nodes);
    s->moved_index = ARENA_ARRAY(s->a, int, (size_t)s->g->n_nodes);
    readers_find(c);
    for (int i = 0; i < c->n_groups; i++)
        group_settle(c, &c->groups[i]);
}
