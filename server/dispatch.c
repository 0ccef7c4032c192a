#include "dispatch.h"
#include "cut.h"

struct place { /* where a stop's actions run */
    struct job *job;
    const struct stop *stop;
    struct gpt2 *model;
    const struct backend *be;
    struct device *device;
    const struct tensor *activation;
    const struct breath *breath;
    int64_t row; /* of the loop that runs, else 0 */
    int n_tiles; /* the rounds of it, else 1 */
};

/* Of a packed one the data is the weight, which weight_read and weight_gather alone can read. */
static void *parameter_at(const struct place *p, size_t number)
{
    return gpt2_parameter(p->model, (enum parameter)(number % PARAMETER_COUNT),
                          (int)(number / PARAMETER_COUNT));
}

static bool is_packed(const struct value *v)
{
    return v->home == HOME_parameter && parameter_info[v->base % PARAMETER_COUNT].is_packed;
}

static struct tensor tensor_at(const struct place *p, int value)
{
    const struct job *j = p->job;
    const struct value *v = &j->plan.values[value];
    struct tensor t = {.dtype = v->dtype, .view = v->view};
    t.view.offset += p->row * v->row_step;
    if (v->home != HOME_activation) {
        t.data = v->home == HOME_slab ? j->slab + v->base : parameter_at(p, v->base);
        return t;
    }
    assert(p->activation->data);
    const bool logits = p->stop->site == site_of(PT_logits, 0, p->model->shape.n_blocks);
    const int64_t row = logits ? j->logits_of[v->invoke] : j->row_of[v->invoke];
    t.data = p->activation->data;
    t.view.offset += p->activation->view.offset + row * p->activation->view.stride[0];
    return t;
}

static float *rows_at(const struct tensor *t)
{
    return (float *)t->data + t->view.offset;
}

static void gather_cache(const struct place *p, const struct node *n, int which,
                         const struct tensor *out)
{
    const struct plan_invoke *v = &p->job->plan.invokes[n->invoke];
    const struct view *all = &out->view; /* (B, H, S, dh) */
    for (int i = 0; i < v->n_sequences; i++) {
        const int64_t padding = v->n_tokens - v->sequences[i].n_tokens, S = all->shape[2] - padding;
        const struct view one = {
            .rank = 3,
            .shape = {all->shape[1], S, all->shape[3]},
            .stride = {all->stride[1], all->stride[2], all->stride[3]},
            .offset = all->offset + i * all->stride[0] + padding * all->stride[2]};
        p->be->cache_read(p->device, &(struct tensor){out->data, out->dtype, one}, p->model->cache,
                          n->hook.block, which, job_pages(p->job, n->invoke, i), (int)S);
    }
}

/* Token ids as int64, in pieces that fit on the stack. Returns the place behind them. */
static int64_t *upload_ids(const struct place *p, int64_t *to, const int32_t *ids, int count)
{
    int64_t piece[256];
    for (int done = 0, n; done < count; done += n) {
        for (n = 0; n < 256 && done + n < count; n++)
            piece[n] = ids[done + n];
        p->be->upload(p->device, to + done, piece, (size_t)n * sizeof *piece);
    }
    return to + count;
}

static void gather_generated(const struct place *p, const struct node *n, const struct tensor *out)
{
    const struct plan_invoke *v = &p->job->plan.invokes[n->invoke];
    const int n_new = p->job->graph.traces[v->trace].n_new_tokens;
    int64_t *to = (int64_t *)out->data + out->view.offset; /* (B, T + new) */
    for (int i = 0; i < v->n_sequences; i++) {
        const struct prompt *prompt = &p->job->graph.invokes[n->invoke].prompts[i];
        to += v->n_tokens - prompt->n_tokens;
        to = upload_ids(p, to, prompt->tokens, prompt->n_tokens);
        if (n_new > 0)
            to = upload_ids(p, to, job_generated(p->job, n->invoke, i), n_new);
    }
}

/* What this step sampled: (B). */
static void gather_next(const struct place *p, const struct node *n, const struct tensor *out)
{
    int64_t *to = (int64_t *)out->data + out->view.offset;
    for (int i = 0; i < p->job->plan.invokes[n->invoke].n_sequences; i++)
        to = upload_ids(p, to, job_generated(p->job, n->invoke, i) + n->hook.step, 1);
}

static void gather(const struct place *p, const struct action *a, const struct tensor *out)
{
    const struct node *n = &p->job->graph.nodes[a->node];
    if (a->point == PT_generated)
        gather_generated(p, n, out);
    else if (n->hook.name->point == PT_next)
        gather_next(p, n, out);
    else
        gather_cache(p, n, a->point == PT_block_values, out);
}

static void select_at(const struct place *p, const struct action *a, const struct tensor *out,
                      const struct tensor *in)
{
    int64_t *fault = (int64_t *)in[2].data + in[2].view.offset;
    if (is_packed(&p->job->plan.values[a->in[0]]))
        p->be->weight_gather(p->device, out, in->data, &in->view, in + 1, fault, 1 + a->node);
    else
        p->be->gather(p->device, out, in, in + 1, fault, 1 + a->node);
}

static void scatter(const struct place *p, const struct action *a, const struct tensor *out,
                    const struct tensor *in)
{
    int64_t *fault = (int64_t *)in[2].data + in[2].view.offset;
    p->be->scatter(p->device, a->op, out, in, in + 1, fault, 1 + a->node);
}

/* `out` lies in the results: on the host, whole or a stretch of its rows. */
static void save(const struct place *p, const struct tensor *out, const struct tensor *x)
{
    if (view_count(&x->view) == 0)
        return;
    char *to = (char *)out->data + (size_t)out->view.offset * dtype_size(out->dtype);
    p->be->download(p->device, to, x);
}

static void apply(const struct place *p, const struct action *a, const struct tensor *out,
                  const struct tensor *in)
{
    const int n = (int)(view_count(&in->view) / in->view.shape[in->view.rank - 1]);
    if (a->panels)
        gpt2_lm_head_panels(p->model, rows_at(out), rows_at(in), n, a->panels, a->n_panels);
    else
        gpt2_apply(p->model, &a->module, rows_at(out), rows_at(in), n);
}

/* One case for each op of ops.def, so that the compiler names the one that is missing. `part` is of
 * those that may be cut along a row, or NULL. */
/* clang-format off */
static void run_op(const struct place *p, const struct action *a, const struct tensor *out,
                   const struct tensor *in, const struct part *part)
{
    const struct backend *be = p->be;
    switch (a->op) {
#define UNARY(id, types, f, i, b) case OP_##id: be->unary(p->device, a->op, out, in); break;
#define BINARY(id, types, f, i, b) \
    case OP_##id: be->binary(p->device, a->op, out, in, in + 1); break;
#define VIEW(id, params) case OP_##id: assert(!"a view is no action"); break;
#define CALL(id, params)
#define EFFECT(id, params)
#include "../protocol/ops.def"
#undef UNARY
#undef BINARY
#undef VIEW
#undef CALL
#undef EFFECT
    case OP_clone: case OP_set: be->copy(p->device, out, in); break;
    case OP_where: be->where(p->device, out, in, in + 1, in + 2); break;
    case OP_sum: case OP_prod: case OP_mean: case OP_norm: case OP_logsumexp:
    case OP_max: case OP_min: case OP_argmax: case OP_argmin:
        be->reduce(p->device, a->op, out, in, a->n_reduced, part); break;
    case OP_softmax: case OP_log_softmax: be->softmax(p->device, a->op, out, in, part); break;
    case OP_cumsum: case OP_cumprod: be->scan(p->device, a->op, out, in, part); break;
    case OP_topk_indices: be->topk(p->device, out, in, a->largest); break;
    case OP_gather: select_at(p, a, out, in); break;
    case OP_scatter: case OP_scatter_add: scatter(p, a, out, in); break;
    case OP_matmul: be->matmul(p->device, out, in, in + 1); break;
    case OP_apply: apply(p, a, out, in); break;
    case OP_save: save(p, out, in); break;
    case OP_hook: gather(p, a, out); break;
    case OP_parameter: be->weight_read(p->device, out, in->data, &in->view); break;
    case OP_to: case OP_cat: case OP_stack: case OP_constant: case OP_COUNT:
    case OP_topk_values: case OP_index_select: case OP_wrap_index:
        assert(!"the planner makes other actions of these");
    }
}
/* clang-format on */

/* Where an action's result goes. */
static struct tensor target_of(const struct place *p, const struct action *a)
{
    if (a->op != OP_save)
        return tensor_at(p, a->out);
    const struct save *s = &p->job->plan.saves[a->out];
    return (struct tensor){p->job->results + s->offset, s->dtype, s->view};
}

/* Long actions, a piece at a time. */

static struct tensor piece_of(const struct tensor *t, int dim, int64_t from, int64_t count)
{
    struct tensor piece = *t;
    piece.view.offset += from * t->view.stride[dim];
    piece.view.shape[dim] = count;
    return piece;
}

/* The one row that is left, in sweeps over it. */
static void run_parts(const struct place *p, const struct action *a, const struct tensor *out,
                      const struct tensor *in, int64_t n_elements, double cost)
{
    const int n_sweeps = part_sweeps(a->op);
    const int64_t n_steps = (n_elements + PART_STEP - 1) / PART_STEP;
    const double wish = cost / n_sweeps / p->breath->most;
    const int64_t n = wish < (double)n_steps ? (int64_t)wish + 1 : n_steps;
    for (int64_t i = 0; i < n_sweeps * n && !job_cancelled(p->job); i++) {
        const int64_t first = n_steps * (i % n) / n, end = n_steps * (i % n + 1) / n;
        const struct part part = {.sweep = (int)(i / n),
                                  .from = first * PART_STEP,
                                  .to = end < n_steps ? end * PART_STEP : n_elements,
                                  .state = p->breath->state};
        run_op(p, a, out, in, &part);
        p->breath->take(p->breath->context, cost / (double)(n_sweeps * n));
    }
}

/* Pieces of pieces, until they are small enough or cannot be cut. */
static void run_cut(const struct place *p, const struct action *a, const struct tensor *out,
                    const struct tensor *in, double cost)
{
    const double wish = cost / p->breath->most;
    const struct cut cut = cut_across(a, out, in);
    const int64_t n_elements = cut_row(a, in);
    if (wish <= 1 || (cut.dim < 0 && n_elements == 0)) {
        run_op(p, a, out, in, NULL);
        p->breath->take(p->breath->context, cost);
        return;
    }
    if (cut.dim < 0) {
        run_parts(p, a, out, in, n_elements, cost);
        return;
    }
    const int64_t n = wish < (double)cut.n_pieces ? (int64_t)wish + 1 : cut.n_pieces;
    for (int64_t i = 0; i < n && !job_cancelled(p->job); i++) {
        const int64_t from = cut.size * i / n, count = cut.size * (i + 1) / n - from;
        const struct tensor to = cut.out ? piece_of(out, cut.dim, from, count) : *out;
        struct tensor x[3];
        for (int k = 0; k < action_n_in(a->op); k++)
            x[k] = cut.in[k] ? piece_of(&in[k], cut.dim, from, count) : in[k];
        run_cut(p, a, &to, x, cost / (double)n);
    }
}

static void run(const struct place *p, const struct action *a)
{
    struct tensor in[3];
    for (int i = 0; i < action_n_in(a->op); i++)
        in[i] = tensor_at(p, a->in[i]);
    const struct tensor out = target_of(p, a);
    if (p->breath)
        run_cut(p, a, &out, in, a->cost / p->n_tiles);
    else
        run_op(p, a, &out, in, NULL);
}

/* Whether each step of an invoke of which an action makes something has come. */
static bool is_there(const struct job *j, const struct action *a)
{
    const struct plan *p = &j->plan;
    const int16_t *needs = p->needs ? p->needs + (int64_t)a->node * p->n_invokes : NULL;
    for (int i = 0; i < p->n_invokes && needs; i++) {
        if (needs[i] > j->last_step[i])
            return false;
    }
    return true;
}

/* The last tile ends with the last row, and may begin before the one before it has ended. */
static void run_loop(const struct place *all, const struct loop *l)
{
    struct place p = *all;
    p.n_tiles = l->n_tiles;
    for (int tile = 0; tile < l->n_tiles; tile++) {
        const int64_t row = tile * l->height, last = l->n_rows - l->height;
        p.row = row < last ? row : last;
        for (int i = 0; i < l->n_actions && !job_cancelled(p.job); i++) {
            const struct action *a = &p.job->plan.actions[l->first + i];
            if (is_there(p.job, a))
                run(&p, a);
        }
    }
}

/* A graph's own work can take longer than the pass, and nobody should wait for somebody who left.
 * Rows that stay as they are belong to that job alone. */
void dispatch_stop(struct job *j, const struct stop *stop, struct gpt2 *m,
                   const struct tensor *activation, const struct breath *breath)
{
    const struct place p = {j, stop, m, m->be, m->device, activation, breath, 0, 1};
    const struct action *actions = &j->plan.actions[stop->first];
    for (int i = 0; i < stop->n_actions && !job_cancelled(j); i++) {
        const struct loop *l = actions[i].loop ? &j->plan.loops[actions[i].loop - 1] : NULL;
        if (l) { /* which may hold what is there and what is not */
            run_loop(&p, l);
            i += l->n_actions - 1;
        } else if (is_there(j, &actions[i])) {
            run(&p, &actions[i]);
        } else if (actions[i].op == OP_save) {
            j->absent[actions[i].out] = true;
        }
    }
    if (stop->gathers) {
        const struct tensor faults = tensor_at(&p, j->plan.faults);
        p.be->download(p.device, j->fault, &faults);
    }
}

bool dispatch_check(const struct job *j, struct err *e)
{
    if (!j->fault[0])
        return true;
    const struct node *n = &j->graph.nodes[j->fault[0] - 1];
    const int64_t moved = n->op == OP_wrap_index ? n->args[1].integer : 0; /* before the check */
    char indexed[INDEXED_TEXT_SIZE];
    err_set(e, ERR_index, "%s: the index %lld, which the graph computed, is out of range for %s",
            op_info[n->op].name, (long long)(j->fault[1] - moved),
            plan_indexed(indexed, &j->plan, n));
    return err_at(e, n->wire, "%s", n->place);
}
