/* From a folder to weights on the device. Every tensor is held to config.json and to its file
 * before memory of its size is asked for. */
#include <stdio.h>
#include <string.h>

#include "config.h"
#include "gpt2_scratch.h"
#include "shards.h"

enum {
    PAGE = 64,
    FULL_SEQUENCES = 8,
    TENSOR_NAME_MAX = 80
};

struct gpt2_buffer { /* on the device */
    void *p;
    size_t size;
};

struct loader {
    struct gpt2 *m;
    const char *dir;
    struct config config;
    struct shards shards;
    const char *prefix;  /* of the tensors' names: "transformer." or "" */
    float *staging;      /* one tensor on its way to the device */
    size_t staging_size; /* bytes */
    struct arena arena;  /* gone when the model is loaded */
};

static bool device_alloc(void *to, struct gpt2 *m, size_t count, size_t element, struct err *e)
{
    size_t size;
    if (__builtin_mul_overflow(count, element, &size))
        return err_set(e, ERR_device, "%zu elements of %zu bytes are too many", count, element);
    void *p;
    if (!m->be->alloc(m->device, &p, size, e))
        return false;
    struct gpt2_buffer *b =
        arena_push(&m->arena, &m->buffers, &m->n_buffers, &m->buffers_capacity, sizeof *b);
    *b = (struct gpt2_buffer){p, size};
    memcpy(to, &p, sizeof p);
    return true;
}

/* ---- One tensor ---- */

/* Reads a tensor of this shape (n_columns 0: a vector) into the staging buffer. */
static bool stage(struct loader *l, const char *name, int n_rows, int n_columns, struct err *e)
{
    const struct safetensors *file;
    const struct safetensor *t = shards_find(&file, &l->shards, name);
    if (!t)
        return err_set(e, ERR_file, "%s: has no tensor %s", l->shards.path, name);
    const struct view expected = view_of(n_columns ? 2 : 1, (int64_t[]){n_rows, n_columns});
    const struct view found = view_of(t->rank, t->shape);
    char expected_text[SHAPE_TEXT_SIZE], found_text[SHAPE_TEXT_SIZE];
    if (!view_same_shape(&found, &expected))
        return err_set(e, ERR_file, "%s: %s has shape %s, but config.json asks for %s", file->path,
                       name, shape_text(found_text, &found), shape_text(expected_text, &expected));
    const size_t size = (size_t)t->count * sizeof(float);
    if (size > l->staging_size) {
        memory_unmap(l->staging, l->staging_size);
        l->staging = memory_map(size);
        l->staging_size = l->staging ? size : 0;
    }
    if (!l->staging)
        return err_set(e, ERR_device, "no memory for the %zu bytes of %s", size, name);
    return safetensors_read(l->staging, file, t, e);
}

static bool load_array(float **to, struct loader *l, const char *name, int n_rows, int n_columns,
                       struct err *e)
{
    struct gpt2 *m = l->m;
    if (!stage(l, name, n_rows, n_columns, e))
        return false;
    const size_t count = (size_t)n_rows * (size_t)(n_columns ? n_columns : 1);
    if (!device_alloc(to, m, count, sizeof **to, e))
        return false;
    m->be->upload(m->device, *to, l->staging, count * sizeof **to);
    return m->be->fence(m->device, e);
}

static bool load_top(float **to, struct loader *l, const char *name, int n_rows, int n_columns,
                     struct err *e)
{
    char full[TENSOR_NAME_MAX];
    snprintf(full, sizeof full, "%s%s", l->prefix, name);
    return load_array(to, l, full, n_rows, n_columns, e);
}

static bool load_vector(float **to, struct loader *l, int block, const char *name, int n,
                        struct err *e)
{
    char full[TENSOR_NAME_MAX];
    snprintf(full, sizeof full, "%sh.%d.%s", l->prefix, block, name);
    return load_array(to, l, full, n, 0, e);
}

/* HF's Conv1D keeps a matrix as (K, N). */
static bool load_matrix(struct weight **to, struct loader *l, int block, const char *name, int K,
                        int N, struct err *e)
{
    struct gpt2 *m = l->m;
    char full[TENSOR_NAME_MAX];
    snprintf(full, sizeof full, "%sh.%d.%s", l->prefix, block, name);
    return stage(l, full, K, N, e) &&
           m->be->weight_pack(m->device, to, l->staging, LAYOUT_kn, K, N, e) &&
           m->be->fence(m->device, e);
}

/* ---- All of them ---- */

static bool load_block(struct loader *l, int i, struct err *e)
{
    struct gpt2_block *b = &l->m->blocks[i];
    const int D = l->m->shape.width, F = l->m->shape.inner;
    return load_vector(&b->ln1_w, l, i, "ln_1.weight", D, e) &&
           load_vector(&b->ln1_b, l, i, "ln_1.bias", D, e) &&
           load_matrix(&b->qkv, l, i, "attn.c_attn.weight", D, 3 * D, e) &&
           load_vector(&b->qkv_b, l, i, "attn.c_attn.bias", 3 * D, e) &&
           load_matrix(&b->proj, l, i, "attn.c_proj.weight", D, D, e) &&
           load_vector(&b->proj_b, l, i, "attn.c_proj.bias", D, e) &&
           load_vector(&b->ln2_w, l, i, "ln_2.weight", D, e) &&
           load_vector(&b->ln2_b, l, i, "ln_2.bias", D, e) &&
           load_matrix(&b->fc, l, i, "mlp.c_fc.weight", D, F, e) &&
           load_vector(&b->fc_b, l, i, "mlp.c_fc.bias", F, e) &&
           load_matrix(&b->out, l, i, "mlp.c_proj.weight", F, D, e) &&
           load_vector(&b->out_b, l, i, "mlp.c_proj.bias", D, e);
}

/* A head of its own where the file has one, otherwise the token embedding, which is loaded last
 * for this: its values are still in the staging buffer. */
static bool load_ends(struct loader *l, struct err *e)
{
    struct gpt2 *m = l->m;
    const int D = m->shape.width, V = m->shape.vocab;
    const struct safetensors *file;
    const bool separate = shards_find(&file, &l->shards, "lm_head.weight");
    if (!separate && !l->config.tied)
        return err_set(e, ERR_file,
                       "%s: has no tensor lm_head.weight, and config.json says that "
                       "tie_word_embeddings is false",
                       l->shards.path);
    return load_top(&m->wpe, l, "wpe.weight", m->shape.context, D, e) &&
           load_top(&m->lnf_w, l, "ln_f.weight", D, 0, e) &&
           load_top(&m->lnf_b, l, "ln_f.bias", D, 0, e) &&
           load_top(&m->wte, l, "wte.weight", V, D, e) &&
           (!separate || stage(l, "lm_head.weight", V, D, e)) &&
           m->be->weight_pack(m->device, &m->head, l->staging, LAYOUT_nk, D, V, e) &&
           m->be->fence(m->device, e);
}

static bool find_prefix(struct loader *l, struct err *e)
{
    const struct safetensors *file;
    const bool bare = shards_find(&file, &l->shards, "wte.weight");
    const bool prefixed = shards_find(&file, &l->shards, "transformer.wte.weight");
    if (!bare && !prefixed)
        return err_set(e, ERR_file, "%s: has no tensor wte.weight", l->shards.path);
    if (bare && prefixed)
        return err_set(e, ERR_file, "%s: has both wte.weight and transformer.wte.weight",
                       l->shards.path);
    l->prefix = prefixed ? "transformer." : "";
    return true;
}

/* A file with more blocks than config.json says would compute something, but not its model. */
static bool check_depth(const struct loader *l, struct err *e)
{
    const struct safetensors *file;
    char name[TENSOR_NAME_MAX];
    const int n = l->config.shape.n_blocks;
    snprintf(name, sizeof name, "%sh.%d.ln_1.weight", l->prefix, n);
    if (!shards_find(&file, &l->shards, name))
        return true;
    return err_set(e, ERR_file, "%s: has %s, but config.json says that n_layer is %d", file->path,
                   name, n);
}

static bool load_weights(struct loader *l, struct err *e)
{
    struct gpt2 *m = l->m;
    if (!shards_open(&l->shards, l->dir, &l->arena, e) || !find_prefix(l, e) || !check_depth(l, e))
        return false;
    m->blocks = ARENA_ARRAY(&m->arena, struct gpt2_block, m->shape.n_blocks);
    for (int i = 0; i < m->shape.n_blocks; i++)
        if (!load_block(l, i, e))
            return false;
    return load_ends(l, e);
}

/* ---- What a pass writes ---- */

static bool make_scratch(struct gpt2 *m, enum lane lane, struct err *e)
{
    struct gpt2_scratch *s = m->scratch[lane] = ARENA_NEW(&m->arena, struct gpt2_scratch);
    const size_t rows = (size_t)m->rows_max[lane], logits = (size_t)m->logits_max[lane];
    const size_t D = (size_t)m->shape.width, F = (size_t)m->shape.inner;
    const size_t V = (size_t)m->shape.vocab, element = sizeof(float);
    s->tokens_host = ARENA_ARRAY(&m->arena, int64_t, rows);
    return device_alloc(&s->tokens, m, rows, sizeof *s->tokens, e) &&
           device_alloc(&s->residual, m, rows * D, element, e) &&
           device_alloc(&s->side, m, rows * D, element, e) &&
           device_alloc(&s->normal, m, rows * D, element, e) &&
           device_alloc(&s->qkv, m, rows * 3 * D, element, e) &&
           device_alloc(&s->z, m, rows * D, element, e) &&
           device_alloc(&s->inner, m, rows * F, element, e) &&
           device_alloc(&s->act, m, rows * F, element, e) &&
           device_alloc(&s->last, m, logits * D, element, e) &&
           device_alloc(&s->logits, m, logits * V, element, e);
}

static bool make_cache(struct gpt2 *m, int tokens, struct err *e)
{
    const struct model_shape *s = &m->shape;
    const int context_pages = (s->context + PAGE - 1) / PAGE;
    const int rows_pages = (m->rows_max[LANE_large] + PAGE - 1) / PAGE;
    const int enough = FULL_SEQUENCES * context_pages;
    m->n_pages = tokens > 0 ? (tokens - 1) / PAGE + 1 : enough > rows_pages ? enough : rows_pages;
    return m->be->cache_open(m->device, &m->cache, m->n_pages, s->n_blocks, s->n_heads,
                             s->width / s->n_heads, e);
}

/* ---- A model's life ---- */

/* What is asked for, 0 for as much as there can be. */
static int at_most(int asked, int most)
{
    return asked > 0 && asked < most ? asked : most;
}

static struct gpt2 *model_new(const struct backend *be, struct device *d,
                              const struct model_shape *shape, const struct gpt2_options *o)
{
    struct arena a = {0};
    struct gpt2 *m = ARENA_NEW(&a, struct gpt2);
    *m = (struct gpt2){.be = be, .device = d, .shape = *shape};
    const int rows = o->rows_max > 0 ? o->rows_max : ROWS_DEFAULT;
    const int logits = at_most(o->logits_max, rows);
    const int shared = at_most(o->shared_rows, rows);
    m->rows_max[LANE_large] = rows;
    m->logits_max[LANE_large] = logits;
    m->rows_max[LANE_shared] = shared;
    m->logits_max[LANE_shared] = at_most(shared, logits);
    m->arena = a;
    return m;
}

bool gpt2_config(struct model_shape *shape, const char *dir, struct err *e)
{
    struct config c;
    if (!config_load(&c, dir, e))
        return false;
    *shape = c.shape;
    return true;
}

bool gpt2_load(struct gpt2 **m, const struct backend *be, struct device *d, const char *dir,
               const struct gpt2_options *o, struct err *e)
{
    struct loader l = {.dir = dir};
    if (!config_load(&l.config, dir, e))
        return false;
    l.m = model_new(be, d, &l.config.shape, o);
    const bool ok =
        load_weights(&l, e) && make_scratch(l.m, LANE_shared, e) &&
                    make_scratch(l.m, LANE_large, e) && make_cache(l.m, o->cache_tokens, e);
    shards_close(&l.shards);
    memory_unmap(l.staging, l.staging_size);
    arena_free(&l.arena);
    if (!ok) {
        gpt2_free(l.m);
        return false;
    }
    *m = l.m;
    return true;
}

static void free_weight(struct gpt2 *m, struct weight *w)
{
    if (w)
        m->be->weight_free(m->device, w);
}

void gpt2_free(struct gpt2 *m)
{
    for (int i = 0; m->blocks && i < m->shape.n_blocks; i++) {
        free_weight(m, m->blocks[i].qkv);
        free_weight(m, m->blocks[i].proj);
        free_weight(m, m->blocks[i].fc);
        free_weight(m, m->blocks[i].out);
    }
    free_weight(m, m->head);
    if (m->cache)
        m->be->cache_close(m->device, m->cache);
    for (int i = 0; i < m->n_buffers; i++)
        m->be->release(m->device, m->buffers[i].p, m->buffers[i].size);
    struct arena a = m->arena;
    arena_free(&a);
}
