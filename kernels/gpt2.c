/* The pass: a list of backend calls with one HOOK line at each point of points.def, in the order
 * of that table. Two calls are one where nobody hooks what lies between; the bits are the same.
 */
#include "gpt2_scratch.h"

struct walk {
    const struct gpt2 *m;
    const struct backend *be;
    struct device *d;
    const struct pass *p;
    struct gpt2_scratch s; /* the lane's buffers: `narrow` swaps some */
    int block;
    int n_rows, n_spans, n_copies; /* that have not come to their last site yet, and */
    const struct span *spans; /* theirs */
    struct step step;         /* what the device was told of them */
    bool narrow;         /* only the rows of the logits are left */
};

static bool is_hooked(const struct walk *w, const uint64_t *bits, enum point p)
{
    return site_bit(bits, site_of(p, w->block, w->m->shape.n_blocks));
}

static struct tensor activation(const struct walk *w, enum point p, void *data)
{
    const int64_t D = w->m->shape.width, stride = point_row_stride(p, &w->m->shape);
    const bool part = p == PT_query || p == PT_key || p == PT_value;
    const int n_rows = p == PT_logits ? w->p->n_logits : w->n_rows;
    struct tensor t = {.data = data, .dtype = point_dtype(p)};
    t.view = view_of(2, (int64_t[]){n_rows, part ? D : stride});
    t.view.stride[0] = stride;
    return t;
}

/* Rows that follow one another. */
struct rows {
    int first, n;
};

/* Those that a part of this block is computed for. */
static struct rows rows_of(const struct walk *w, enum stage stage)
{
    if (!w->p->spared)
        return (struct rows){0, w->n_rows};
    const struct spared *s = &w->p->spared[w->block * STAGE_COUNT + stage];
    const int end = s->end >= w->n_rows ? s->tail : w->n_rows;
    return (struct rows){s->head, end > s->head ? end - s->head : 0};
}

/* The spans that have rows among these, all of whose rows are. */
static const struct span *spans_in(int *n, const struct walk *w, struct rows rows)
{
    const struct span *first = w->spans, *end = w->spans + w->n_spans;
    while (first < end && first->row < rows.first)
        first++;
    *n = 0;
    while (first + *n < end && first[*n].row < rows.first + rows.n)
        ++*n;
    return first;
}

/* A product of K columns to N, of these rows alone. */
static void product(const struct walk *w, struct rows rows, float *out, const float *x, int K,
                    int N, const struct weight *weight, const float *bias, enum epilogue epilogue)
{
    float *const to = out + (int64_t)rows.first * N;
    if (rows.n > 0)
        w->be->linear(w->d, to, x + (int64_t)rows.first * K, weight, bias, rows.n, epilogue,
                      epilogue == EPILOGUE_residual ? to : NULL);
}

/* Rows from whom nobody wants anything behind this site leave the pass: the last ones. */
static void drop_rows(struct walk *w, int site)
{
    int n = w->n_spans;
    while (n > 0 && w->p->last_sites[n - 1] <= site)
        n--;
    if (n < w->n_spans)
        w->n_rows = w->spans[n].row;
    w->n_spans = n;
    while (w->n_copies > 0 && w->p->copies[w->n_copies - 1].row >= w->n_rows)
        w->n_copies--;
}

/* A point with the rows of `rows`, which are its own or what it is made of. False where the pass
 * ends. */
static bool visit(struct walk *w, enum point p, enum point rows, void *data)
{
    if (is_hooked(w, w->p->wanted, p)) {
        const struct tensor t = activation(w, rows, data);
        w->p->hook(w->p->context, p, w->block, &t);
    }
    if (!w->narrow)
        drop_rows(w, site_of(p, w->block, w->m->shape.n_blocks));
    return w->n_spans > 0;
}

#define HOOK_MADE(point, rows, data)                  \
    do {                                              \
        if (!visit(w, PT_##point, PT_##rows, (data))) \
            return false;                             \
    } while (0)
#define HOOK(point, data) HOOK_MADE(point, point, data)

static void upload_tokens(const struct walk *w)
{
    const struct gpt2_scratch *s = &w->s;
    for (int i = 0; i < w->n_rows; i++)
        s->tokens_host[i] = w->p->tokens[i];
    w->be->upload(w->d, s->tokens, s->tokens_host, (size_t)w->n_rows * sizeof *s->tokens);
}

/* What a layernorm reads: the residual stream, or a copy for who writes there, since that changes
 * the layernorm's input and never the stream. */
static float *layernorm_input(const struct walk *w, enum point p)
{
    const struct gpt2_scratch *s = &w->s;
    if (!is_hooked(w, w->p->written, p))
        return s->residual;
    const struct tensor from = activation(w, p, s->residual), to = activation(w, p, s->side);
    w->be->copy(w->d, &to, &from);
    return s->side;
}

/* Whole, or step by step where someone hooks its scale or what it is before gain and bias, whose
 * points follow one another. False where the pass ends. */
static bool layernorm(struct walk *w, enum point scale, const float *x, const float *weight,
                      const float *bias)
{
    const struct gpt2_scratch *s = &w->s;
    const struct model_shape *m = &w->m->shape;
    const enum point normalized = scale + 1;
    const bool steps =
        is_hooked(w, w->p->wanted, scale) || is_hooked(w, w->p->wanted, normalized);
    float *const scales = s->act, *const rows = s->z;
    if (steps)
        w->be->layernorm_scale(w->d, scales, x, w->n_rows, m->width, m->epsilon);
    if (!visit(w, scale, scale, scales))
        return false;
    if (steps)
        w->be->layernorm_normalize(w->d, rows, x, scales, w->n_rows, m->width);
    if (!visit(w, normalized, normalized, rows))
        return false;
    if (steps)
        w->be->layernorm_gain(w->d, s->normal, rows, weight, bias, w->n_rows, m->width);
    else
        w->be->layernorm(w->d, s->normal, x, weight, bias, w->n_rows, m->width, m->epsilon);
    return true;
}

/* A branch's output: beside the residual stream where its point is hooked, otherwise added at
 * once. */
static void project(const struct walk *w, enum point p, struct rows rows, const float *x, int K,
                    const struct weight *weight, const float *bias)
{
    const bool hooked = is_hooked(w, w->p->wanted, p);
    product(w, rows, hooked ? w->s.side : w->s.residual, x, K, w->m->shape.width, weight, bias,
            hooked ? EPILOGUE_none : EPILOGUE_residual);
}

static void add_projected(const struct walk *w, enum point p)
{
    const struct gpt2_scratch *s = &w->s;
    if (is_hooked(w, w->p->wanted, p))
        w->be->add(w->d, s->residual, s->residual, s->side,
                   (int64_t)w->n_rows * w->m->shape.width);
}

/* The inner layer: before its activation function where someone hooks that, otherwise behind it at
 * once. */
static void expand(const struct walk *w, struct rows rows, const struct gpt2_block *b)
{
    const struct gpt2_scratch *s = &w->s;
    const struct model_shape *m = &w->m->shape;
    const bool hooked = is_hooked(w, w->p->wanted, PT_mlp_pre);
    product(w, rows, hooked ? s->inner : s->act, s->normal, m->width, m->inner, b->fc, b->fc_b,
            hooked ? EPILOGUE_none : EPILOGUE_gelu);
}

static void activate(const struct walk *w, struct rows rows)
{
    const struct gpt2_scratch *s = &w->s;
    const int64_t F = w->m->shape.inner, at = rows.first * F;
    if (is_hooked(w, w->p->wanted, PT_mlp_pre) && rows.n > 0)
        w->be->gelu(w->d, s->act + at, s->inner + at, rows.n * F);
}

static bool run_embedding(struct walk *w)
{
    const struct gpt2 *m = w->m;
    const struct gpt2_scratch *s = &w->s;
    const int n = w->n_rows, D = m->shape.width;
    if (is_hooked(w, w->p->wanted, PT_tokens))
        upload_tokens(w);
    HOOK(tokens, s->tokens);
    w->be->embed(w->d, s->side, m->wte, w->p->tokens, n, D);
    HOOK(embed, s->side);
    w->be->embed(w->d, s->residual, m->wpe, w->p->positions, n, D);
    HOOK(pos_embed, s->residual);
    w->be->add(w->d, s->residual, s->residual, s->side, (int64_t)n * D);
    HOOK(embed_sum, s->residual);
    return true;
}

/* Whether nobody looks at anything between the last block's values and the logits: then that is
 * computed for the rows of the logits alone, most of a block for most prompts. */
static bool may_narrow(const struct walk *w)
{
    const int n_blocks = w->m->shape.n_blocks;
    if (w->block < n_blocks - 1 || w->p->n_logits_spans == 0 ||
        w->p->n_logits >= w->n_rows ||
        w->m->shape.inner < 3 * w->m->shape.width)
        return false;
    const int end = site_of(PT_logits, 0, n_blocks);
    for (int site = site_of(PT_z, w->block, n_blocks); site < end; site++)
        if (site_bit(w->p->wanted, site))
            return false;
    return true;
}

/* Behind the keys and values. `side` is free until the projection, and `inner` for good: its point
 * is not hooked. */
static void narrow(struct walk *w)
{
    struct gpt2_scratch *s = &w->s;
    const struct pass *p = w->p;
    const int D = w->m->shape.width;
    w->be->rows_gather(w->d, s->side, s->residual, p->logits_rows, p->n_logits, D);
    w->be->rows_gather(w->d, s->inner, s->qkv, p->logits_rows, p->n_logits, 3 * D);
    float *const residual = s->side;
    s->side = s->residual;
    s->residual = residual;
    s->qkv = s->inner;
    w->narrow = true;
    w->n_rows = p->n_logits;
    w->spans = p->logits_spans;
    w->n_spans = p->n_logits_spans;
}

/* Keys and values of the pass's rows, and of the copies of some. */
static void append(const struct walk *w)
{
    int n;
    const struct span *spans = spans_in(&n, w, rows_of(w, STAGE_keys));
    if (n > 0)
        w->be->cache_append(w->d, w->m->cache, w->block, w->s.qkv, spans, n);
    if (w->n_copies > 0)
        w->be->cache_append(w->d, w->m->cache, w->block, w->s.qkv, w->p->copies, w->n_copies);
}

static void attend(const struct walk *w)
{
    int n;
    const struct span *spans = spans_in(&n, w, rows_of(w, STAGE_attention));
    if (n > 0)
        w->be->attend(w->d, w->s.z, w->m->cache, w->block, w->s.qkv, spans, n);
}

static bool run_attention(struct walk *w, const struct gpt2_block *b)
{
    const struct gpt2_scratch *s = &w->s;
    const int D = w->m->shape.width;
    HOOK(block_in, s->residual);
    float *x = layernorm_input(w, PT_ln1_in);
    HOOK(ln1_in, x);
    if (!layernorm(w, PT_ln1_scale, x, b->ln1_w, b->ln1_b))
        return false;
    HOOK(ln1_out, s->normal);
    product(w, rows_of(w, STAGE_keys), s->qkv, s->normal, D, 3 * D, b->qkv, b->qkv_b,
            EPILOGUE_none);
    HOOK(qkv, s->qkv);
    HOOK(query, s->qkv);
    HOOK(key, s->qkv + D);
    HOOK(value, s->qkv + 2 * D);
    append(w);
    HOOK_MADE(scores, qkv, s->qkv);
    HOOK(pattern, NULL);
    if (may_narrow(w))
        narrow(w);
    attend(w);
    HOOK(z, s->z);
    HOOK_MADE(result, z, s->z);
    project(w, PT_attn_out, rows_of(w, STAGE_attention), s->z, D, b->proj, b->proj_b);
    HOOK(attn_out, s->side);
    add_projected(w, PT_attn_out);
    HOOK(mid, s->residual);
    return true;
}

static bool run_mlp(struct walk *w, const struct gpt2_block *b)
{
    const struct gpt2_scratch *s = &w->s;
    float *x = layernorm_input(w, PT_ln2_in);
    HOOK(ln2_in, x);
    if (!layernorm(w, PT_ln2_scale, x, b->ln2_w, b->ln2_b))
        return false;
    HOOK(ln2_out, s->normal);
    expand(w, rows_of(w, STAGE_mlp), b);
    HOOK(mlp_pre, s->inner);
    activate(w, rows_of(w, STAGE_mlp));
    HOOK(mlp_act, s->act);
    project(w, PT_mlp_out, rows_of(w, STAGE_mlp), s->act, w->m->shape.inner, b->out, b->out_b);
    HOOK(mlp_out, s->side);
    add_projected(w, PT_mlp_out);
    HOOK(block_out, s->residual);
    HOOK(block_keys, NULL);
    HOOK(block_values, NULL);
    return true;
}

static bool run_head(struct walk *w)
{
    const struct gpt2 *m = w->m;
    const struct gpt2_scratch *s = &w->s;
    const struct pass *p = w->p;
    HOOK(lnf_in, s->residual);
    if (!layernorm(w, PT_lnf_scale, s->residual, m->lnf_w, m->lnf_b))
        return false;
    HOOK(lnf_out, s->normal);
    const float *x = s->normal;
    if (p->n_logits > 0 && !w->narrow) {
        w->be->rows_gather(w->d, s->last, x, p->logits_rows, p->n_logits, m->shape.width);
        x = s->last;
    }
    if (p->n_logits > 0)
        w->be->linear(w->d, s->logits, x, m->head, NULL, p->n_logits, EPILOGUE_none, NULL);
    return true;
}

/* The rows as the pass has them now. */
static void take_rows(struct walk *w)
{
    const struct pass *p = w->p;
    const struct step step = {p->n_rows, p->n_spans, p->n_copies, p->n_logits, p->n_logits_spans,
                              p->tokens, p->positions, p->spans, p->copies, p->logits_rows,
                              p->logits_spans};
    assert(p->n_rows > 0 && p->n_spans > 0);
    assert(p->n_rows <= w->m->rows_max[p->lane]);
    assert(p->n_logits <= w->m->logits_max[p->lane]);
    w->n_rows = p->n_rows;
    w->n_spans = p->n_spans;
    w->n_copies = p->n_copies;
    w->spans = p->spans;
    w->step = step;
    w->be->begin(w->d, p->lane, &step);
}

/* Between two blocks nothing but the residual stream is there. */
static void join(struct walk *w)
{
    struct gpt2_scratch *s = &w->s;
    const int32_t *from = w->p->join(w->p->context, w->block);
    take_rows(w);
    w->be->rows_gather(w->d, s->side, s->residual, from, w->n_rows, w->m->shape.width);
    float *const residual = s->side;
    s->side = s->residual;
    s->residual = residual;
}

static bool run_block(struct walk *w)
{
    const struct gpt2_block *b = &w->m->blocks[w->block];
    if (w->block > 0 && w->block == w->p->joins_at)
        join(w);
    if (w->p->pause)
        w->p->pause(w->p->context, w->n_rows);
    return run_attention(w, b) && run_mlp(w, b);
}

/* Up to the logits; false where all rows have left before. */
static bool run(struct walk *w)
{
    bool goes_on = run_embedding(w);
    for (; goes_on && w->block < w->m->shape.n_blocks; w->block++)
        goes_on = run_block(w);
    w->block = 0;
    return goes_on && run_head(w);
}

/* Whether the calls up to the logits depend on nothing but the pass's rows. */
static bool is_plain(const struct walk *w)
{
    const struct pass *p = w->p;
    const int end = site_of(PT_logits, 0, w->m->shape.n_blocks);
    bool plain = !p->pause && !p->spared && !p->joins_at &&
                 p->last_sites[p->n_spans - 1] >= end;
    for (int site = 0; site < end && plain; site++)
        plain = !site_bit(p->wanted, site);
    return plain;
}

static void run_plain(struct walk *w)
{
    if (w->be->repeat(w->d, &w->step, w->m->cache))
        return;
    const struct walk fresh = *w;
    do {
        *w = fresh;
        run(w);
    } while (!w->be->keep(w->d));
}

bool gpt2_run(struct gpt2 *m, const struct pass *p, struct err *e)
{
    struct walk w = {
        .m = m, .be = m->be, .d = m->device, .p = p, .s = *m->scratch[p->lane]};
    take_rows(&w);
    bool goes_on = true;
    if (is_plain(&w))
        run_plain(&w);
    else
        goes_on = run(&w);
    if (goes_on)
        visit(&w, PT_logits, PT_logits, w.s.logits);
    return m->be->fence(m->device, e);
}

const float *gpt2_logits(const struct gpt2 *m, enum lane lane)
{
    return m->scratch[lane]->logits;
}

/* The rows of the table are called as the fields are. */
void *gpt2_parameter(const struct gpt2 *m, enum parameter p, int block)
{
    switch (p) {
#define ONCE(id, memory, rows, columns) \
    case PARAMETER_##id:                \
        return m->id;
#define EACH(id, memory, rows, columns) \
    case PARAMETER_##id:                \
        return m->blocks[block].id;
#define NAME(id, path, shape)
#include "../protocol/parameters.def"
#undef ONCE
#undef EACH
#undef NAME
    case PARAMETER_COUNT:
        break;
    }
    assert(!"a parameter without memory");
    return NULL;
}

/* A backend takes rows_max rows at once; a row's result does not depend on the others. */
static int rows_at_once(const struct gpt2 *m, int n_rows)
{
    const int most = m->rows_max[LANE_large];
    return n_rows < most ? n_rows : most;
}

void gpt2_apply(struct gpt2 *m, const struct module_at *at, float *out, const float *x, int n_rows)
{
    const struct module *is = at->is;
    const int64_t n_in = module_in(is, &m->shape), n_out = module_out(is, &m->shape);
    void *const weight = gpt2_parameter(m, is->weight, at->block);
    const float *bias =
        is->bias == PARAMETER_COUNT ? NULL : gpt2_parameter(m, is->bias, at->block);
    for (int done = 0, n; done < n_rows; done += n) {
        n = rows_at_once(m, n_rows - done);
        float *to = out + done * n_out;
        const float *from = x + done * n_in;
        if (is->is_layernorm)
            m->be->layernorm(m->device, to, from, weight, bias, n, (int)n_in, m->shape.epsilon);
        else
            m->be->linear(m->device, to, from, weight, bias, n, EPILOGUE_none, NULL);
    }
}

void gpt2_lm_head_panels(struct gpt2 *m, float *out, const float *x, int n_rows,
                         const int32_t *panels, int n_panels)
{
    for (int done = 0, n; done < n_rows; done += n) {
        n = rows_at_once(m, n_rows - done);
        m->be->linear_panels(m->device, out + (int64_t)done * 16 * n_panels,
                             x + (int64_t)done * m->shape.width, m->head, panels, n_panels, n);
    }
}
