/* The hook points as an enum and tables, cut from points.def, and the one rule that orders them. */
#pragma once
#include "tensor.h"

enum { EOS_MAX = 8 }; /* GPT-2 has one */

struct model_shape {
    int n_blocks, n_heads, width, inner, vocab, context; /* L, H, D, F, V */
    float epsilon;                                       /* of the layernorms */
    int n_eos; /* the tokens that end a text, as its config says */
    int32_t eos[EOS_MAX];
};

enum point {
#define ONCE(id, row, access) PT_##id,
#define EACH(id, row, access) PT_##id,
#define NAME(id, path, shape)
#include "points.def"
#undef ONCE
#undef EACH
#undef NAME
    PT_COUNT
};

#define PT_EACH_FIRST PT_block_in
#define PT_EACH_LAST  PT_block_values
#define PT_PER_BLOCK  (PT_EACH_LAST - PT_EACH_FIRST + 1)

/* What a block does to its rows, in parts that a row may go without. */
enum stage { STAGE_keys, STAGE_attention, STAGE_mlp, STAGE_COUNT };

enum point_row { ROW_none, ROW_1, ROW_D, ROW_3D, ROW_F, ROW_V };

enum point_shape {
    SHAPE_tokens, SHAPE_hidden, SHAPE_fused, SHAPE_wide, SHAPE_logits, SHAPE_scale,
    SHAPE_heads, SHAPE_heads_last, SHAPE_scores, SHAPE_results, SHAPE_cache,
    SHAPE_next, SHAPE_ids, SHAPE_COUNT
};

struct point_info {
    const char *id;
    bool each, writable;
    enum point_row row;
    const char *row_text; /* "3D" */
};

struct point_name {
    enum point point;
    const char *path; /* "transformer.h.*.attn.value.output" */
    enum point_shape shape;
};

extern const struct point_info point_info[PT_COUNT];
extern const struct point_name point_names[];
extern const int n_point_names;
extern const char *const point_shape_text[SHAPE_COUNT]; /* "(B, H, T, D / H)" */

/* A site is one point in one block, numbered by its turn in the pass: comparing sites compares
 * time. */
static inline int site_of(enum point p, int block, int n_blocks)
{
    if (p < PT_EACH_FIRST)
        return p;
    if (p <= PT_EACH_LAST)
        return p + block * PT_PER_BLOCK;
    return p + (n_blocks - 1) * PT_PER_BLOCK;
}

static inline int n_sites(int n_blocks)
{
    return PT_COUNT + (n_blocks - 1) * PT_PER_BLOCK;
}

/* The reverse of site_of; block is 0 for points that are not in a block. */
void site_split(enum point *p, int *block, int site, int n_blocks);

/* Paths with a star for the block's number. How many bytes of a text this one takes up, before an
 * index or the end: 0 if it is another's, else with the number, 0 if the path has none. */
size_t path_match(const char *path, int *block, const char *text, size_t length);

/* A negative number counts from the end; refused (unknown) is one that is no block's. `used` bytes
 * of the text are the path. */
bool path_block_check(int *block, const char *text, size_t used, int n_blocks, struct err *e);

/* "transformer.h.3.ln_1.weight", in SITE_TEXT_SIZE bytes. */
enum { SITE_TEXT_SIZE = 80 };
const char *path_text(char *buffer, const char *path, int block);

/* The canonical name with its block, "transformer.h.3.attn.value.output". */
const char *site_text(char *buffer, int site, int n_blocks);

/* Where a path such as "transformer.h.3.output[0]" or "blocks.3.hook_resid_post" leads. `*used` is
 * how much of the text was the path: an index such as "[:, 7]" may follow. Refused (unknown) with
 * the nearest known names, for a tuple with its leaves, for a block that does not exist with the
 * range that does. A negative block counts from the end. */
bool point_find(const struct point_name **name, int *block, size_t *used, const char *path,
                size_t length, int n_blocks, struct err *e);

/* How many elements lie between the rows of two tokens in the live activation of this point. */
int64_t point_row_stride(enum point p, const struct model_shape *m);

/* The view of one invoke's rows at a point: B sequences of T tokens whose rows lie one after the
 * other, from the first of them. `past` and `n_new` matter to cache and ids shapes, which are views
 * of gathered values: row-major. */
struct view point_view(const struct point_name *name, const struct model_shape *m, int64_t B,
                       int64_t T, int64_t past, int64_t n_new);
enum dtype point_dtype(enum point p);
