/* A request as it will run: every shape, place and moment settled. The engine only follows it.
 *
 * The passes of the request's traces follow one another. turn(hook) = pass * sites + site;
 * turn(any other node) = max over its inputs, over the last set of what it reads and, for a set,
 * over the earlier readers of what it changes. Nodes run by turn, then in program order. A set
 * whose turn would pass the site of the activation that it changes is refused (order).
 *
 * Values that start as a hook's live activation can be touched at that site only. What is read
 * later is copied to the slab (parked) by a clone that the planner puts right behind the last set
 * before that read in program order, or behind the hook. So are packed parameters, where they are
 * first read: what somebody looks at, at most the whole.
 */
#pragma once
#include "graph.h"

/* Positions in a page of the key/value cache; attention sums in absolute chunks of as many keys. */
enum { PAGE_TOKENS = 64 };

enum home {
    HOME_activation, /* rows of the live activation, from the first row of `invoke` */
    HOME_slab,       /* the job's memory on the device; constants lie at its start */
    HOME_parameter   /* the model's own */
};

struct value {
    enum home home;
    int invoke;      /* HOME_activation: whose rows */
    size_t base;     /* HOME_slab: bytes into the slab, a multiple of 64. HOME_parameter: which of
                        all blocks' parameters, block * PARAMETER_COUNT + parameter */
    int64_t row_step; /* in a loop: elements by which it moves on with each row; else 0 */
    enum dtype dtype;
    struct view view;
};

/* One call at run time. `op` is an elementwise op, or one of: clone (copies and converts), set
 * (the same, into `out`), where, sum .. logsumexp (over the last `n_reduced` dimensions of in[0]),
 * softmax, log_softmax, cumsum, cumprod, topk_indices (over the last dimension), gather (along the
 * last dimension of in[0] with the index in[1]; in[2] is where an index out of range is reported:
 * plan.faults), scatter, scatter_add (in[1] to the places in[0] along the last dimension of `out`,
 * which has its other elements already; in[2] as in gather), matmul, apply (`module`; in[0] is
 * contiguous), hook (gathers a point without a live tensor), parameter (unpacks elements of in[0],
 * a packed one), save (in[0] goes to
 * results). Views, constants and parameters that are arrays need no action: they are only values.
 * A clone of what parks an activation belongs to the node behind which it is as it is. */
struct action {
    enum op op;
    int node;     /* whose work it is, an index into the graph's nodes */
    int out;      /* a value, or for save the index into plan.saves */
    int in[3];    /* values */
    int n_reduced;
    bool largest; /* of topk_indices: else the smallest come first */
    struct module_at module;
    const int32_t *panels; /* of lm_head: the columns that it computes, in panels of 16, or NULL */
    int n_panels;          /* for all */
    enum point point; /* of hook: what it gathers, where and when `hook` of nodes[node] says */
    int loop;     /* 1 + the loop that it belongs to, or 0 */
    double cost;  /* multiply-adds, or what takes as long; in a loop of all its rounds */
};

/* Columns of a panel: backend.h's linear_panels. */
enum { PANEL_COLUMNS = 16 };

/* How many of `in` an op's action has: 0 to 3. */
int action_n_in(enum op op);

/* Whether it is a product of lm_head. */
static inline bool action_is_head(const struct action *a)
{
    return a->op == OP_apply && module_is_head(&a->module);
}

/* Whether an action may find an index out of range. */
bool action_may_fault(enum op op);

/* Actions of one stop that follow one another and run once for each tile of rows: in round i all
 * values stand at row min(i * height, n_rows - height). Rows that two rounds share are computed
 * twice, to the same bits: no shape changes from round to round. */
struct loop {
    int first, n_actions;
    int n_tiles;
    int64_t height, n_rows;
};

struct plan_skip { /* an invoke whose rows go without parts of a block, which nobody sees */
    int invoke, block;
    bool stages[STAGE_COUNT];
};

struct stop { /* the actions due at one site of one pass */
    int pass, site;
    int first, n_actions;
    int first_skip, n_skips; /* what it replaces, of plan.skips: in that pass */
    int n_saves;  /* how many saves it completes: the next ones in the order of plan.saves */
    bool writes;  /* changes the live activation there */
    bool gathers; /* may find an index out of range */
    double cost;  /* of its actions */
};

struct save {
    int node;         /* the saved node's OP_save */
    const char *name; /* of the frame, never NULL */
    int step;         /* of its trace, at which it becomes known */
    enum dtype dtype;
    struct view view; /* row-major, what the client gets */
    size_t offset, bytes; /* into the job's results, a multiple of 64 */
};

/* A copy is a sequence with the same tokens as an earlier one of its invoke, its source, where no
 * action touches rows of step 0: it has none of its own there, but the keys and values, and the
 * logits if none are touched, of its source. Else a sequence is its own source. */
struct plan_sequence {
    int n_tokens;
    int source;
    int row;                  /* its source's first row in step 0, from its invoke's, and */
    int n_logits, logits_row; /* how many rows of logits it has there (0: its source's are its own),
                                 and the first of them */
    int page_first, n_pages;  /* in the job's list of pages: they follow one another */
};

/* How many pages a sequence shares with its source: those that a copy's prompt fills. */
static inline int plan_pages_copied(const struct plan_sequence *sequences, int sequence)
{
    const struct plan_sequence *q = &sequences[sequence];
    return q->source == sequence ? 0 : q->n_tokens / PAGE_TOKENS;
}

struct plan_constants { /* some of what the slab starts with */
    const void *from;   /* the request's own bytes where they are many, which may lie unaligned */
    size_t base, bytes; /* where they go on the slab */
};

struct plan_invoke { /* one invoke's rows, the same for every request beside it */
    int trace;
    int n_sequences, n_tokens; /* tokens of its longest sequence */
    bool is_ragged;            /* some are shorter: padding.c */
    struct plan_sequence *sequences;
    int row_first;        /* its first row among the job's, in the pass over the prompts (step 0);
                             later steps have one row a sequence: sequence_first */
    int sequence_first;   /* its first sequence of those of its trace, or of the whole (parts.h) */
    int outcome_first;    /* its first sequence among the job's */
    int generated_first;  /* its first new token among the job's; each sequence's follow another */
    int logits_from;      /* step 0: logits exist for the last n_tokens - logits_from positions of
                             each sequence, as far as it has so many; n_tokens: for none */
    int logits_first;     /* its first row among the job's rows of logits in step 0 */
    int read_from;        /* step 0: no action touches a row of an earlier position, but of logits,
                             and */
    int set_from;         /* no action changes one: n_tokens where nothing is read, or set */
    bool touches_logits;  /* step 0: some action does */
    int leader;           /* step 0: an invoke of its trace with the same prompts, whose rows it has
                             in front of a block; itself where it has all its own */
    int fork;             /* that block (the number of blocks: it has none of its own). From there
                             on it has its own rows of some positions, */
    int start;            /* those from here on: no action touches one before, nor changes one of
                             the leader's */
    int cached_most;      /* the first positions that need no rows where the cache has their keys
                             and values: whole pages */
};

struct plan_trace {
    int invoke_first, n_invokes;
    int pass_first, n_steps;   /* its passes: max(1, new tokens) */
    bool samples;              /* new tokens are asked for */
    int n_sequences, n_rows;   /* of its invokes together; rows of step 0, at most: some may be
                                  another invoke's */
    int n_logits;              /* rows of logits in step 0 */
    int last_site;             /* of each of its passes: nothing behind it is computed; at most the
                                  logits'. Stops at `generated` are due when its last token is
                                  sampled */
};

struct plan_pass {
    int trace;
    int n_rows, n_logits;
    double cost, graph_cost;   /* multiply-adds with its stops', and of its stops alone */
};

struct plan {
    int n_values, n_actions, n_stops, n_saves, n_skips, n_invokes;
    struct value *values;      /* values[i] belongs to nodes[i] for i < n_nodes, then temporaries */
    struct action *actions;    /* in the order of running */
    struct loop *loops;        /* of products of the head that nobody needs whole: tiles.c */
    int n_loops;
    struct stop *stops;        /* sorted by pass, then site */
    struct plan_skip *skips;   /* in the order of the stops */
    struct save *saves;        /* in the order in which they become known */
    struct plan_invoke *invokes;
    int64_t *touched;          /* of each node: how many elements it sets, without padding */
    int n_traces, n_passes;
    struct plan_trace *traces;
    struct plan_pass *passes;  /* of all traces, in their order */
    int n_rows, n_logits;      /* of the largest pass */
    int n_sequences;           /* of all traces, and */
    int n_generated;           /* their new tokens */
    int n_pages;               /* of the key/value cache, for all sequences to their last steps, */
    int n_listed;              /* and in their lists: copies share some */
    size_t slab_bytes;         /* on the device, lifetimes folded over one another */
    int faults;                /* a value, int64 (2), zeros at first: 1 + the node of the first
                                  index out of range, and that index; 0 where none gathers */
    struct plan_constants *constants; /* what the slab starts with: they follow one another */
    int n_constants;
    size_t constant_bytes;     /* of all */
    size_t result_bytes;       /* on the host, every saved value */
    const int16_t *needs;      /* (n_nodes, n_invokes) where generations may end early, else NULL:
                                  the last step of each invoke of which a node is made, or -1 */
    double cost;               /* multiply-adds of all passes with the graph's own */
};

/* Which step of its trace a pass is: 0 is the one over the prompts. */
static inline int plan_step(const struct plan *p, int pass)
{
    return pass - p->traces[p->passes[pass].trace].pass_first;
}

/* Where the graph has prompts as token ids: checks sense and settles everything. The plan borrows
 * from the graph and lives in the same arena. Errors name the node and the numbers. Iterative,
 * O(traces * (nodes + edges) + passes). */
bool plan_build(struct plan *p, const struct graph *g, const struct model_shape *m,
                struct arena *a, struct err *e);

/* What a node's index is out of range for: "dimension 1 of size 4". */
enum { INDEXED_TEXT_SIZE = 64 };
const char *plan_indexed(char *buffer, const struct plan *p, const struct node *n);

/* The shape and dtype of what a node stands for, for /v1/plan: set has its target's. */
const struct value *plan_value(const struct plan *p, int node);
