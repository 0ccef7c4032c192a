/* GPT-2: weights resident on one backend, and one pass over packed rows with its hook points.
 *
 * Loads any Hugging Face GPT-2 (gpt2, medium, large, xl, distilgpt2, fine-tunes): config.json and
 * model.safetensors, or its sharded index. Whatever is wrong with a file is refused with one line
 * that names the file and the field.
 */
#pragma once
#include "../protocol/modules.h"
#include "backend.h"

struct gpt2_block {
    float *ln1_w, *ln1_b, *qkv_b, *proj_b, *ln2_w, *ln2_b, *fc_b, *out_b; /* on the device */
    struct weight *qkv, *proj, *fc, *out; /* (D, 3D) (D, D) (D, F) (F, D) */
};

struct gpt2 {
    const struct backend *be;
    struct device *device;
    struct model_shape shape;
    float *wte, *wpe, *lnf_w, *lnf_b; /* (V, D) (context, D) (D) (D) */
    struct weight *head;              /* (V, D) packed as the output head, tied or not */
    struct gpt2_block *blocks;
    struct cache *cache;
    int n_pages;                  /* of the cache */
    struct gpt2_scratch *scratch[LANE_COUNT]; /* every activation of a pass, sized once at load */
    int rows_max[LANE_COUNT], logits_max[LANE_COUNT]; /* of a pass, and of its logits */
    struct gpt2_buffer *buffers;  /* all that was allocated on the device, for gpt2_free */
    int n_buffers, buffers_capacity;
    struct arena arena;
};

struct gpt2_options {
    int rows_max;     /* rows of a large pass; 0: ROWS_DEFAULT */
    int logits_max;   /* rows of logits of a large pass, at most rows_max; 0: rows_max */
    int shared_rows;  /* rows of a shared pass, and of its logits; 0, or more than those: as many */
    int cache_tokens; /* positions of all sequences together, rounded up to pages; 0: enough for
                         eight sequences as long as the context, and for rows_max */
};

/* What the cache takes for so many positions, where a head's width is a multiple of 16. */
static inline int64_t gpt2_cache_bytes(const struct model_shape *m, int64_t n_positions)
{
    return (int64_t)sizeof(float) * 2 * m->width * m->n_blocks * n_positions;
}

/* Called at each wanted site in turn with the activation of all rows (of the logits: of the rows
 * asked for); what it writes there, the model goes on with. The tensor is (rows, row length) with
 * point_row_stride between rows and offset 0. Points without a live tensor come with what they are
 * made of, scores with qkv and result with z, the others as (rows, 0) with data NULL. `generated`
 * belongs to no pass. */
typedef void hook_fn(void *context, enum point p, int block, const struct tensor *activation);

/* The rows that go without a part of a block: those before `head`, and where no others are left
 * behind `end`, those from `tail` on. Their output is set in the part's hook. */
struct spared {
    int head, tail, end;
};

struct pass {
    enum lane lane;
    int n_rows, n_spans, n_copies, n_logits;
    const int32_t *tokens, *positions; /* [n_rows] */
    const struct span *spans;          /* rows in order */
    const int *last_sites;             /* [n_spans] descending: behind it, a span's rows are
                                          computed no more */
    const struct span *copies;         /* [n_copies] rows of `spans` that leave keys and values in
                                          these pages too; of rows that end first, last */
    const int32_t *logits_rows; /* [n_logits] rows whose logits are computed, */
    const struct span *logits_spans; /* and the same as spans: [n_logits_spans], `row` counted among
                                        the logits */
    int n_logits_spans; /* 0: not told, and then all rows go through the last block */
    const uint64_t *wanted;  /* a bit for each hooked site: the others may be fused away */
    const uint64_t *written; /* the hooked sites that may change the activation */
    const struct spared *spared; /* [n_blocks][STAGE_COUNT], or NULL where no row goes without */
    hook_fn *hook;
    void (*pause)(void *context, int n_rows); /* before each block, with the rows that go into it;
                                                 or NULL */
    int joins_at; /* the block before which rows come that were others' until there; 0: none. `join`
                     then makes this pass anew, with all its rows from this block on, and returns
                     for each of them which one it was before. The hooked sites stay */
    const int32_t *(*join)(void *context, int block);
    void *context;
};

static inline bool site_bit(const uint64_t *bits, int site)
{
    return bits[site / 64] >> (site % 64) & 1;
}

/* The folder of a model given as a folder or as a Hugging Face repo id ("gpt2",
 * "openai-community/gpt2-xl") found in the local cache (HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME,
 * ~/.cache). Where it is absent the error says which command downloads it. Bare "gpt2*" and
 * "distilgpt2" also look under their present owners. */
bool model_find(char **dir, const char *name, struct arena *a, struct err *e);

/* config.json alone: what the tokenizer and the device need to know before weights are read. */
bool gpt2_config(struct model_shape *shape, const char *dir, struct err *e);

bool gpt2_load(struct gpt2 **m, const struct backend *be, struct device *d, const char *dir,
               const struct gpt2_options *o, struct err *e);

/* Rows x blocks up to their last sites, hooks at the wanted sites, keys and values appended. Only a
 * device fault can fail it. While a pass is in `pause` or in a hook, the other lane may run one. */
bool gpt2_run(struct gpt2 *m, const struct pass *p, struct err *e);

/* A parameter on the device: the floats of an array, the struct weight of a packed one. */
void *gpt2_parameter(const struct gpt2 *m, enum parameter p, int block);

/* The lane's last pass's logits, (n_logits, V), after its hooks. */
const float *gpt2_logits(const struct gpt2 *m, enum lane lane);

/* One of the model's own layers on a user's contiguous rows, no hooks. */
void gpt2_apply(struct gpt2 *m, const struct module_at *at, float *out, const float *x, int n_rows);

/* Only the logits in these panels: (n, D) -> (n, 16 * n_panels); panel p holds ids 16 p to
 * 16 p + 15. */
void gpt2_lm_head_panels(struct gpt2 *m, float *out, const float *x, int n_rows,
                         const int32_t *panels, int n_panels);

void gpt2_free(struct gpt2 *m);
