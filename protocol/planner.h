/* What the planner's files share: plan.h is what others see. The phases, each a walk over the nodes
 * in program order unless it says otherwise:
 *
 *   plan.c       place    the request's prompts, as sequences of traces; and the results of all
 *   infer.c      infer    every node's shape, dtype, root and turn; everything wrong is found here
 *   plan.c       mark     backwards: what some save or some change of the model depends on
 *   skips.c      skips    modules that are left out: nobody looks inside; what need not be made
 *   head.c       heads    which logits become products of the graph's own, of which columns
 *   rows.c       rows     from which position on anyone looks; the passes' rows and logits
 *   lower.c      lower    living nodes to actions; late readers get parked copies
 *   padding.c             prompts of unequal length: what their hooks see instead of the rows
 *   attention.c  insides  what the pass does not have of attention, as actions
 *   tiles.c      tiles    products that nobody needs whole are made a few rows at a time
 *   forks.c      forks    invokes with the same prompts share rows until one is changed
 *   lifetimes.c  fold     values whose lives do not meet share bytes of the slab
 *
 * roots.c has what all of them use: roots, values and operands.
 */
#pragma once
#include "shapes.h"

struct root { /* one tensor that values are views of, and its history in program order */
    enum home home;
    int node;      /* the node that brings it into being, or -1 */
    int turn;      /* when it comes into being */
    int set_turn;  /* when its last set so far is done */
    int read_turn; /* on the slab: when its last reader so far is done, and */
    int read_invoke; /* whose rows that waits for */
    int version;   /* the node behind which it is as it is now: its hook or its last set */
    int invoke;    /* of an activation: whose rows; on the slab: for whose its last set waits */
    enum point point; /* of an activation */
    const struct arg *number; /* a number of the request, or NULL */
    const void *constant;     /* the bytes that it starts with, or NULL */
    const int32_t *panels;    /* of a product of the head: the columns that exist, in panels of */
    int n_panels;             /* 16; 0: all */
    bool is_apart;            /* the model's logits, as a product of their own */
    bool is_tile;             /* as high as a tile of a loop */
    int first_writer;         /* tiles.c: the node of its first action, or -1 */
    int live;                 /* of a padded one: the root of the rows themselves, or 0 */
    bool readonly;
    int16_t *needs; /* [n_invokes] as plan.needs, of what it is so far, or NULL */
    bool is_inside; /* of attention: its point has no live tensor, but is made of live rows */
    bool is_packed; /* a parameter that has to be unpacked to be read */
    bool is_set; /* by some node so far, so that a constant may be something else by now */
    int needed_by;   /* 1 + the last node alive that needs it, or 0 */
    int64_t bytes;   /* on the slab */
    size_t base;     /* where on the slab, and */
    int first, last; /* the actions from which to which it is there; first > last: never */
};

struct table { /* from a key to a small number, open addressing */
    int64_t *keys;
    int *items; /* 0: empty */
    int mask;
};

struct head { /* a product of rows of lm_head.input in place of the model's logits */
    int root;
    int input; /* a value: the rows, in the live activation */
    int64_t n_rows;
};

struct draft { /* an action before its place in the order is known */
    int64_t key;
    int loop; /* 1 + its loop, or 0 */
    struct action action;
};

struct chosen { /* where the elements are that a topk_values chose */
    const struct node *of; /* that node, or NULL */
    int version;           /* of what it chose from */
    int places;            /* a value */
};

struct planner {
    struct plan *p;
    const struct graph *g;
    const struct model_shape *m;
    struct arena *a;
    struct err *e;
    int n_sites;
    int *last_turns; /* of each trace: the last moment whose changes of the model anyone will see */

    int *value_roots; /* of each of p->values */
    int value_capacity, n_value_roots, value_root_capacity;
    struct root *roots;
    int n_roots, root_capacity;
    struct table hooks, parameters, numbers[DT_COUNT];

    int *turns;   /* of each node */
    bool *is_new; /* whether it brings a root into being */
    bool *is_alive;
    int16_t *needs; /* of p->needs, or NULL */

    int *in; /* the operands of the node at hand: values */
    int n_in;
    const struct value **in_values;

    struct draft *drafts;
    int n_drafts, draft_capacity;
    struct chosen chosen; /* last */
    int *moved_index; /* of each node: a constant, its index where only some panels of its operand
                         exist, one behind the other, or 0 */
    struct head *heads;
    int n_heads, head_capacity, loop_capacity;
    int positions; /* a value, 0, 1, 2, ... (context); 0: not needed so far */
    bool whole_logits; /* an earlier attempt showed that somebody needs all of them */
    int64_t n_looks; /* at places of padded prompts */
    double cost; /* of the graph so far */
    double stretch; /* the most of it that cannot be cut */
    int64_t n_indices; /* of constants, checked */
    int64_t result_bytes;
};

struct table table_new(int n_max, struct arena *a);
int *table_find(struct table *t, int64_t key); /* the place of this key's item: 0 where it is new */

int root_add(struct planner *s, struct root root);
int value_add(struct planner *s, int root, enum dtype dtype, struct view view);

/* A new row-major tensor on the slab: its root alone, and as a value. */
int slab_root(struct planner *s, int node, int turn, enum dtype dtype, const struct view *shape);
int tensor_add(struct planner *s, int node, int turn, enum dtype dtype, const struct view *shape);

/* A number of the request as a constant of this dtype, one for equal numbers. */
int number_value(struct planner *s, const struct arg *number, enum dtype dtype);

/* Fills s->in with the operands of a node, a list's one by one, numbers as constants. */
void operands_take(struct planner *s, const struct node *n);
struct shape_query operands_query(struct planner *s, const struct node *n);

/* What torch lets a set ignore: dimensions of size 1 in front of a value that has more dimensions
 * than its target. */
static inline struct view view_without_ones(const struct view *v, int rank)
{
    struct view out = {.offset = v->offset};
    for (int i = 0; i < v->rank; i++) {
        if (out.rank == 0 && v->shape[i] == 1 && v->rank - i > rank)
            continue;
        out.shape[out.rank] = v->shape[i];
        out.stride[out.rank++] = v->stride[i];
    }
    return out;
}

static inline struct root *root_of(struct planner *s, int value)
{
    return &s->roots[s->value_roots[value]];
}

/* Whether the model goes on with it at its turn: it can be touched then only. */
static inline bool is_passing(const struct root *r)
{
    return r->home == HOME_activation || (r->is_inside && !r->readonly);
}

/* Whether a moment is in a pass over prompts. */
static inline bool is_first(const struct planner *s, int turn)
{
    return plan_step(s->p, turn / s->n_sites) == 0;
}

/* Whether a node needs a copy of a value: it lives elsewhere, or does no more. */
static inline bool is_late(struct planner *s, int node, int value)
{
    const struct root *r = root_of(s, value);
    return r->is_packed || (is_passing(r) && s->turns[node] > r->turn);
}

/* The rows of an activation's root, as a matrix without what lies beside them; of a parameter's the
 * whole matrix. */
struct view root_rows(const struct planner *s, const struct root *r);

/* The root of all hooks of an invoke's rows at this turn, made by `node` if it is new. */
int hook_root(struct planner *s, int invoke, int turn, int node, enum point point);

/* Whether a root is an activation whose sequences differ in length: then all views of it are of a
 * padded copy. The calls below are for such roots. */
bool is_padded(const struct planner *s, const struct root *r);
int64_t padding_count_outside(struct planner *s, const struct root *r, const struct view *v);
void padding_open(struct planner *s);                       /* before nodes are lowered */
void padding_clear(struct planner *s, int root, int node);  /* behind a node that changed it */
void padding_clear_gathered(struct planner *s, int node, int dim); /* of a hook with its own root */
void padding_close(struct planner *s);                      /* behind all nodes */

/* Makes a value zero. */
void padding_zero(struct planner *s, int value, int turn, int behind, int node);

/* The same if there is one, else -1. */
int hook_find(struct planner *s, int invoke, int turn);

/* Nodes to p->values. */
bool infer(struct planner *s);

/* Finds read_from, set_from and logits_from of each invoke: what living nodes look at. */
void rows_find_positions(struct planner *s);

/* Gives sequences their rows. */
void rows_settle(struct planner *s);

/* Gives sequences their logits, and moves the views of these to the rows that exist. */
void rows_settle_logits(struct planner *s);

/* Refuses what a set that leaves a module out does not let a request look at. */
bool skips_check(struct planner *s);

/* Behind the stops: what rows go without. */
void skips_make(struct planner *s);

/* Behind the stops: who has the rows of another invoke, and how long. */
void forks_find(struct planner *s);

/* Moves readers of logits from the live activation to s->heads, and narrows products to the columns
 * that are looked at. */
void heads_choose(struct planner *s);

/* Whether a product is worth making in tiles. */
bool head_is_large(int64_t n_rows, int64_t width);

/* The root of a parameter, made by `node` if it is new. */
int parameter_root(struct planner *s, enum parameter p, int block, int node);

/* An action at a turn, behind those of nodes up to `behind`, -1: before them all. Returns what it
 * costs. */
double action_push(struct planner *s, int turn, int behind, struct action a);

/* False (limit) where the graph's work up to this node is too much, or too many pieces. */
bool cost_check(struct planner *s, int node);

/* The work that makes roots inside of attention, where they are needed. */
bool insides_lower(struct planner *s);

/* The same as padding_clear and padding_count_outside for scores and patterns. */
void inside_clear(struct planner *s, int root, int node);
int64_t inside_count_outside(struct planner *s, const struct root *r, const struct view *v);

/* Living nodes to drafts, sorted. */
bool lower(struct planner *s);

/* Drafts to p->loops. False where something that was moved to s->heads needs all of it. */
bool tiles_make(struct planner *s);

/* Gives roots that are used their place: `base`, from `bytes`, `first` and `last`. Constants come
 * first, from offset 0. Returns the bytes of the whole slab. O(roots + actions). */
size_t lifetimes_fold(struct root *roots, int n_roots, int n_actions, struct arena *a);
