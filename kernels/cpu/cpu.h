/* What the files of the CPU backend share. */
#pragma once
#include "../backend.h"
#include "pool.h"

enum {
    LANES = 16,        /* of a sum; also the columns of a panel */
    CHUNK = 64,        /* the k of one partial product; also the positions of a page */
    GROUP = 64,        /* the columns of a task: four panels */
    BLOCK_ROWS = 96,   /* the most rows of a task: a multiple of every tile's height */
    BLOCK_K = 128,     /* the k that a tile takes at once: panel and strip fit the first cache */
    PACKED_ROWS = 960, /* rows that `linear` packs at once, at most: a multiple of BLOCK_ROWS */
};

/* The types in which a weight's elements may lie in memory. */
enum stored {
    STORED_f32,
    STORED_bf16, /* rounded to the nearest, ties to even */
    STORED_int8, /* a whole number -127 .. 127, times a float32 of its column */
    STORED_COUNT
};

/* Multiplies `height` rows by panels of 16 columns. `a` is packed [k][height], the panels [k][16]
 * each, `panel` elements apart, `scales` [n_panels][16] those of int8. Row r of panel p stands at
 * t[r * GROUP + p * 16]; the partial product of each chunk is added to what is there if there is
 * `more` before it, else stored. */
typedef void tile_fn(float *t, const float *a, const void *b, size_t panel, const float *scales,
                     int n_panels, int n_k, bool more);

/* Rows x[0 .. height - 1] of n_k elements as [k][height]. */
typedef void tile_pack_fn(float *packed, const float *x, int64_t row_stride, int64_t k_stride,
                          int n_k);

struct tile {
    int height;
    int wide; /* panels that the tile multiplies at once */
    tile_fn *run[STORED_COUNT];
    tile_pack_fn *pack;
};

/* One stretch of an elementwise op: p[0] is the output. Strides are in elements. */
typedef void row_fn(void *const *p, const int64_t *stride, int64_t n);

/* The arithmetic by instruction set: four compilations of vector.inc with the same bits. */
struct vectors {
    const char *name;
    struct tile tiles[8]; /* by ascending height */
    int n_tiles;
    void (*finish[3])(float *out, const float *t, const float *bias, const float *residual,
                      int n); /* by epilogue; bias may be NULL */
    void (*add)(float *out, const float *x, const float *y, int64_t n);
    void (*scale)(float *out, const float *x, float factor, int64_t n);
    void (*gelu)(float *out, const float *x, int64_t n);
    void (*layernorm)(float *out, const float *x, const float *weight, const float *bias, int n,
                      float epsilon);
    float (*layernorm_scale)(const float *x, int n, float epsilon);
    void (*layernorm_normalize)(float *out, const float *x, float scale, int n);
    void (*layernorm_gain)(float *out, const float *x, const float *weight, const float *bias,
                           int n);
    void (*add_sum)(float *lanes, const float *x, int64_t n);
    void (*add_squares)(float *lanes, const float *x, int64_t n);
    float (*most)(const float *x, int64_t n);
    void (*exp_from)(float *out, const float *x, float from, int64_t n); /* exp(x - from) */
    void (*softmax)(float *out, const float *x, int64_t n);
    row_fn *unary[OP_COUNT];  /* of float32 */
    row_fn *binary[OP_COUNT];
};

/* NULL where the machine or the compiler lacks it. */
const struct vectors *vectors_avx512(void);
const struct vectors *vectors_avx2(void);
const struct vectors *vectors_neon(void);
const struct vectors *vectors_plain(void);

struct scratch { /* of one thread */
    float *a; /* [BLOCK_ROWS * BLOCK_K] rows packed by `matmul` */
    float *b; /* [BLOCK_K * GROUP] panels packed by `matmul` */
    float *scores; /* [ATTEND_ROWS][context rounded up to whole pages] */
};

enum { ATTEND_ROWS = 8 }; /* query rows that attention takes at once, at most */

struct device {
    const struct vectors *v;
    struct pool *pool;
    int n_threads;
    enum stored stored; /* what weight_pack makes */
    int context_max; /* rounded up to whole pages */
    int width_max;
    int packed_rows; /* at most PACKED_ROWS, a multiple of BLOCK_ROWS */
    float *packed;   /* [packed_rows * width_max] the rows of a product */
    struct scratch *scratch; /* [n_threads] */
    char *memory;            /* all of the above */
    size_t memory_size, size;
    char text[64];
};

struct weight {
    int K, N, n_groups;
    enum stored stored;
    size_t size;
    float *scales; /* [n_groups * 4][16], of int8; 0 for columns of zeros */
    char panels[] __attribute__((aligned(64))); /* [n_groups * 4][K][16] elements as `stored` */
};

/* Row k of a panel. */
const void *weight_row(const struct weight *w, int panel, int k);

/* The type by its name in struct device_options. */
bool stored_find(enum stored *s, const char *name, struct err *e);

/* The least tile with room for these rows, or the tallest. */
const struct tile *tile_for(const struct vectors *v, int n_rows);

/* Rows x[0 .. n_rows - 1] of n_k elements as the tile reads them, [k][height]; rows that are
 * missing up to its height are zero. */
void strip_pack(float *packed, const struct tile *tile, const float *x, int64_t row_stride,
                int64_t k_stride, int n_rows, int n_k);

/* Runs `row` over all elements of tensors of one shape, the first being the output. */
void walk(struct device *d, row_fn *row, const struct tensor *const *tensors, int n_tensors);

/* How many rows of `count` elements make a task that is worth a thread. */
int64_t rows_of_a_task(int64_t count);

/* The row function that converts, by dtype of the output and of the input. */
row_fn *copy_row(enum dtype to, enum dtype from);

void cpu_copy(struct device *d, const struct tensor *out, const struct tensor *x);
void cpu_unary(struct device *d, enum op op, const struct tensor *out, const struct tensor *x);
void cpu_binary(struct device *d, enum op op, const struct tensor *out, const struct tensor *x,
                const struct tensor *y);
void cpu_where(struct device *d, const struct tensor *out, const struct tensor *mask,
               const struct tensor *x, const struct tensor *y);
void cpu_reduce(struct device *d, enum op op, const struct tensor *out, const struct tensor *x,
                int n_reduced, const struct part *part);
void cpu_softmax(struct device *d, enum op op, const struct tensor *out, const struct tensor *x,
                 const struct part *part);
void cpu_scan(struct device *d, enum op op, const struct tensor *out, const struct tensor *x,
              const struct part *part);
void cpu_topk(struct device *d, const struct tensor *out, const struct tensor *x, bool largest);
/* Reports the first index outside 0 .. n - 1, as gather does. */
void index_check(const struct tensor *index, int64_t n, int64_t *fault, int64_t tag);
void cpu_gather(struct device *d, const struct tensor *out, const struct tensor *x,
                const struct tensor *index, int64_t *fault, int64_t tag);
void cpu_scatter(struct device *d, enum op op, const struct tensor *out,
                 const struct tensor *index, const struct tensor *x, int64_t *fault,
                 int64_t tag);
void cpu_matmul(struct device *d, const struct tensor *out, const struct tensor *x,
                const struct tensor *y);

bool cpu_weight_pack(struct device *d, struct weight **w, const float *matrix, enum layout l, int K,
                     int N, struct err *e);
void cpu_weight_free(struct device *d, struct weight *w);
void cpu_weight_read(struct device *d, const struct tensor *out, const struct weight *w,
                     const struct view *view);
void cpu_weight_gather(struct device *d, const struct tensor *out, const struct weight *w,
                       const struct view *view, const struct tensor *index, int64_t *fault,
                       int64_t tag);
void cpu_linear(struct device *d, float *out, const float *x, const struct weight *w,
                const float *bias, int n_rows, enum epilogue epilogue, const float *residual);
void cpu_linear_panels(struct device *d, float *out, const float *x, const struct weight *w,
                       const int32_t *panels, int n_panels, int n_rows);
void cpu_embed(struct device *d, float *out, const float *table, const int32_t *ids, int n_rows,
               int width);
void cpu_add(struct device *d, float *out, const float *x, const float *y, int64_t count);
void cpu_layernorm(struct device *d, float *out, const float *x, const float *weight,
                   const float *bias, int n_rows, int width, float epsilon);
void cpu_layernorm_scale(struct device *d, float *scale, const float *x, int n_rows, int width,
                         float epsilon);
void cpu_layernorm_normalize(struct device *d, float *out, const float *x, const float *scale,
                             int n_rows, int width);
void cpu_layernorm_gain(struct device *d, float *out, const float *x, const float *weight,
                        const float *bias, int n_rows, int width);
void cpu_gelu(struct device *d, float *out, const float *x, int64_t count);
void cpu_rows_gather(struct device *d, float *out, const float *x, const int32_t *rows, int n_rows,
                     int width);

bool cpu_cache_open(struct device *d, struct cache **c, int n_pages, int n_blocks, int n_heads,
                    int head_dim, struct err *e);
void cpu_cache_close(struct device *d, struct cache *c);
void cpu_cache_append(struct device *d, struct cache *c, int block, const float *qkv,
                      const struct span *spans, int n_spans);
void cpu_attend(struct device *d, float *z, struct cache *c, int block, const float *qkv,
                const struct span *spans, int n_spans);
void cpu_cache_read(struct device *d, const struct tensor *out, struct cache *c, int block,
                    int which, const int32_t *pages, int n_positions);
