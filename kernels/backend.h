/* The one interface between the engine and the arithmetic: backend_cpu and backend_cuda fill
 * it in.
 *
 * Calls return at once and run in the order given. None can fail on its own: the planner settled
 * every shape, and a device fault shows at the next fence. A call's tensors and weights belong to
 * this backend. One thread at a time calls a device: who opened it, or has entered. Nothing is
 * allocated outside open, alloc, weight_pack and cache_open.
 *
 * The exact tier: a result's bits depend on its inputs alone, never on what else is in the call, on
 * the number of threads, on the instruction set or on the backend. The orders of summation are part
 * of this interface; tests/reference.c is their meaning in code.
 *   product    p_c = fma chain over the k of chunk c (64 wide, ascending, from +0);
 *              y = ((p_0 + p_1) + p_2) + ..., then + bias
 *   sums       sixteen lanes, lane l adds elements l, l + 16, ... in order, from +0; then the tree
 *              lane[l] += lane[l + 8], then + 4, + 2, + 1
 *   prod       sixteen lanes as those of a sum, each from 1, and the same tree, by products
 *   scans      one element behind the other from 0 or 1, in double; each is rounded to its place
 *   layernorm  mean = sum / D, variance = sum((x - mean)^2) / D, both in lanes (the squares by fma
 *              into the lane); (x - mean) * (1 / sqrt(variance + epsilon)) * weight + bias, the
 *              last step an fma
 *   attention  s_j = (the product of a query with key j) * (1 / sqrt(dh)); the maximum; e_j =
 *              exp(s_j - maximum); their sum in lanes; p_j = e_j / sum; z = the product of p with
 *              the values: chunks are absolute, of keys 0 .. 63, 64 .. 127, ... So matmul, mul,
 *              softmax and matmul over masked scores give the same bits, and so do any chunks of a
 *              prompt. (But for a key behind a row's own position whose value is not finite: the
 *              products multiply it by zero, as torch does. And for the sign of a zero that is what
 *              is left of a sum of underflows.)
 *   norm       the square root of the sum of squares, in lanes, each square added by fma
 *   logsumexp  the maximum m, taken as 0 where it is infinite; exp(x - m) summed in lanes; the log
 *              of the sum, + m
 * The payload of a NaN is no part of the promise.
 *
 * Stored weights, for who asks for them: the elements of matrices of weight_pack are rounded once,
 * when they are packed, and `linear` computes with the rounded ones as with any others: so its bits
 * are those of a model that was rounded beforehand.
 *   bf16       the nearest bfloat16, ties to even
 *   int8       scale = max |w| of the output column / 127; q = w / scale to the nearest whole
 *              number, ties to even, held to -127 .. 127 (0 where the scale is 0); the element is
 *              float(q) * scale
 *
 * Precisions, for who asks for them, of linear and linear_panels alone: operands are rounded to
 * tf32 or bf16, or split into two tf32 (tf32x3), sums are float32 in an order that depends on the
 * weight's shape alone. The bits do not depend on what else is in the call, but on the device. A
 * backend without them (the CPU's) refuses all but "exact".
 */
#pragma once
#include "../protocol/ops.h"

struct device; /* a backend's own state */
struct weight; /* a matrix packed for the backend's products */
struct cache;  /* keys and values of all blocks, in pages of 64 positions */

struct device_options {
    int threads;     /* of the CPU backend; 0: one for each core that the process may use */
    const char *isa; /* "auto", "avx512", "avx2", "neon" (64-bit ARM), "plain": refused where the
                        machine lacks it */
    const char *weights; /* how weight_pack stores: "f32" (also NULL), "bf16", "int8" */
    int rows_max;    /* rows of a pass: sizes the device's own scratch */
    int width_max;   /* the longest row of a product's input (K) */
    int context_max; /* keys of a sequence */
    int heads_max;
    int number; /* which of the machine's devices: the CPU is one */
    const char *precision; /* of linear: "exact" (also NULL), "tf32x3", "tf32", "bf16" */
};

struct span {  /* one sequence's rows in a pass */
    int row, n_rows;
    int past;  /* positions already in the cache; this pass's come behind them */
    const int32_t *pages; /* the cache's pages of positions 0 .. 63, 64 .. 127, ... */
};

/* Two passes can be under way: while a large one pauses, shared ones run to their ends. */
enum lane { LANE_shared, LANE_large, LANE_COUNT };

/* The arrays of the host that a pass's calls are given. */
struct step {
    int n_rows, n_spans, n_copies, n_logits, n_logits_spans;
    const int32_t *tokens, *positions;  /* [n_rows] */
    const struct span *spans, *copies;  /* [n_spans] [n_copies] */
    const int32_t *logits_rows;         /* [n_logits] */
    const struct span *logits_spans;    /* [n_logits_spans] */
};

/* A piece of a call along one long row, for who cannot wait for all of it at once: elements `from`,
 * a multiple of PART_STEP, to `to` - 1. A row is done in part_sweeps(op) sweeps over it, each piece
 * by piece in order; its result, of the same bits, is there behind the last piece of the last. */
enum {
    PART_STEP = 16,
    PART_BYTES = 512 /* of `state`, the backend's memory: what one piece leaves for the next */
};
struct part {
    int sweep;
    int64_t from, to;
    void *state;
};

static inline int part_sweeps(enum op op)
{
    return op == OP_softmax || op == OP_log_softmax ? 3 : op == OP_logsumexp ? 2 : 1;
}

enum layout { LAYOUT_kn, LAYOUT_nk }; /* a source matrix [K][N] as HF's Conv1D, or [N][K] */

enum epilogue { EPILOGUE_none, EPILOGUE_gelu, EPILOGUE_residual };

struct backend {
    const char *name;

    /* Life and memory. `alloc` zeroes and aligns to 64 bytes. */
    bool (*open)(struct device **d, const struct device_options *o, struct err *e);
    void (*enter)(struct device *d); /* from here on this thread calls it */
    void (*close)(struct device *d); /* by who opened it */
    const char *(*describe)(struct device *d); /* "cpu avx512 2 threads": for people */
    bool (*alloc)(struct device *d, void **p, size_t size, struct err *e);
    void (*release)(struct device *d, void *p, size_t size);
    void (*upload)(struct device *d, void *to, const void *from, size_t size);
    void (*download)(struct device *d, void *to, const struct tensor *from); /* `to`: row-major */
    /* Downloads arrive at the next fence, or when a mark is reached that was taken behind them.
     * `reached` never waits, and sees to it that what the mark is for is on its way. */
    int64_t (*mark)(struct device *d);
    bool (*reached)(struct device *d, int64_t mark);
    bool (*fence)(struct device *d, struct err *e);
    /* A pass of this lane begins: calls will be given these arrays, or a part of one, so a device
     * takes all of them at once. Who changes one and uses it again begins again first, as a pass
     * does in its midst where rows join it; arrays that no pass told of are taken as they come. */
    void (*begin)(struct device *d, enum lane lane, const struct step *s);
    /* Of a pass whose calls depend on its step alone, all of them between `begin` and here: true
     * where those of an earlier one could be queued again at once. Else they are made, and then
     * `keep` asked for; where that is false they have not run, and are made again. */
    bool (*repeat)(struct device *d, const struct step *s, const struct cache *c);
    bool (*keep)(struct device *d);

    /* The ops of a graph: any strides, operands broadcast by stride 0 and already of the dtype in
     * which the op computes (protocol/ops.def); `out` never overlaps an input, unless it is the
     * very same view in unary and binary. `copy` converts between dtypes as torch's `to` does. */
    void (*copy)(struct device *d, const struct tensor *out, const struct tensor *x);
    void (*unary)(struct device *d, enum op op, const struct tensor *out, const struct tensor *x);
    void (*binary)(struct device *d, enum op op, const struct tensor *out, const struct tensor *x,
                   const struct tensor *y);
    void (*where)(struct device *d, const struct tensor *out, const struct tensor *mask,
                  const struct tensor *x, const struct tensor *y);
    /* OP_sum prod mean max min argmax argmin norm logsumexp over the last `n_reduced` dimensions of
     * x, read as one row-major sequence; out has the other dimensions. A NaN wins max, min, argmax
     * and argmin, the first of equals wins the arg ops, as in torch. An empty sum is 0, an empty
     * product 1, an empty mean NaN and an empty logsumexp -infinity. With `part`, which may be NULL
     * here and in the next two, out is one element, or out and x are one row. */
    void (*reduce)(struct device *d, enum op op, const struct tensor *out, const struct tensor *x,
                   int n_reduced, const struct part *part);
    /* OP_softmax, OP_log_softmax along the last dimension; out may be x. */
    void (*softmax)(struct device *d, enum op op, const struct tensor *out, const struct tensor *x,
                    const struct part *part);
    /* OP_cumsum, OP_cumprod along the last dimension: float32 and int64, the same for out. */
    void (*scan)(struct device *d, enum op op, const struct tensor *out, const struct tensor *x,
                 const struct part *part);
    /* out (..., k) int64: where along the last dimension of x (..., n), float32 or int64, its k
     * greatest elements are (`largest`) or its k least, in order, k <= n; of equals the first. A
     * NaN is greater than all. */
    void (*topk)(struct device *d, const struct tensor *out, const struct tensor *x, bool largest);
    /* out (..., k) = x (..., n) at index (..., k) int64 along the last dimension. An index outside
     * 0 .. n - 1 gives 0, and the first of them in row-major order is reported: fault[0] = tag,
     * which is not 0, and fault[1] = the index, unless fault[0] has another's tag already. The
     * words are the backend's memory. */
    void (*gather)(struct device *d, const struct tensor *out, const struct tensor *x,
                   const struct tensor *index, int64_t *fault, int64_t tag);
    /* OP_scatter: out (..., n) at index (..., k) int64 along the last dimension = x (..., k), of a
     * row in the order of k, so that of equal places the last stays; OP_scatter_add adds, in that
     * order, bool as |. An index outside 0 .. n - 1 changes nothing and is reported as gather's. */
    void (*scatter)(struct device *d, enum op op, const struct tensor *out,
                    const struct tensor *index, const struct tensor *x, int64_t *fault,
                    int64_t tag);
    /* out (..., M, N) = x (..., M, K) @ y (..., K, N), leading dimensions the same (broadcast by
     * stride 0), any strides. */
    void (*matmul)(struct device *d, const struct tensor *out, const struct tensor *x,
                   const struct tensor *y);

    /* The layers of the model: rows packed one behind the other. ids, rows, spans and the matrix
     * of weight_pack are host memory, the rest is the device's. In add and gelu out may be x. */
    bool (*weight_pack)(struct device *d, struct weight **w, const float *matrix, enum layout l,
                        int K, int N, struct err *e);
    void (*weight_free)(struct device *d, struct weight *w);
    /* out = elements of w as `linear` multiplies by them: `view`, of out's shape, walks w as if it
     * were row-major (K, N). */
    void (*weight_read)(struct device *d, const struct tensor *out, const struct weight *w,
                        const struct view *view);
    /* As gather, from elements that weight_read would give: out (..., k) from `view` (..., n). */
    void (*weight_gather)(struct device *d, const struct tensor *out, const struct weight *w,
                          const struct view *view, const struct tensor *index, int64_t *fault,
                          int64_t tag);
    /* out[r] = table[ids[r]], rows of `width`. */
    void (*embed)(struct device *d, float *out, const float *table, const int32_t *ids, int n_rows,
                  int width);
    void (*add)(struct device *d, float *out, const float *x, const float *y, int64_t count);
    /* weight and bias are what they were at the last fence. */
    void (*layernorm)(struct device *d, float *out, const float *x, const float *weight,
                      const float *bias, int n_rows, int width, float epsilon);
    /* The same in its three steps, with the same bits, for who looks between them: scale[r] =
     * sqrt(variance + epsilon); out = (x - mean) * (1 / scale[r]); out = fma(x, weight, bias). */
    void (*layernorm_scale)(struct device *d, float *scale, const float *x, int n_rows, int width,
                            float epsilon);
    void (*layernorm_normalize)(struct device *d, float *out, const float *x, const float *scale,
                                int n_rows, int width);
    void (*layernorm_gain)(struct device *d, float *out, const float *x, const float *weight,
                           const float *bias, int n_rows, int width);
    /* out[r] (N) = x[r] (K) @ w, + bias (N, or NULL), then by the epilogue: nothing, gelu_new, or
     * residual[r] + it (residual may be out). Rows of out and residual are N apart, of x K. */
    void (*linear)(struct device *d, float *out, const float *x, const struct weight *w,
                   const float *bias, int n_rows, enum epilogue epilogue, const float *residual);
    /* out[r] (16 * n_panels) = x[r] (K) @ the columns of w in these panels: panel p holds columns
     * 16 p .. 16 p + 15. A column that w does not have is zero. */
    void (*linear_panels)(struct device *d, float *out, const float *x, const struct weight *w,
                          const int32_t *panels, int n_panels, int n_rows);
    void (*gelu)(struct device *d, float *out, const float *x, int64_t count);
    /* out[i] = x[rows[i]]. */
    void (*rows_gather)(struct device *d, float *out, const float *x, const int32_t *rows,
                        int n_rows, int width);

    /* Keys and values. qkv rows are q | k | v, each H * dh wide. */
    bool (*cache_open)(struct device *d, struct cache **c, int n_pages, int n_blocks, int n_heads,
                       int head_dim, struct err *e);
    void (*cache_close)(struct device *d, struct cache *c);
    void (*cache_append)(struct device *d, struct cache *c, int block, const float *qkv,
                         const struct span *spans, int n_spans);
    /* z[r] (H * dh) from qkv's queries over the cache, causal; append comes before. */
    void (*attend)(struct device *d, float *z, struct cache *c, int block, const float *qkv,
                   const struct span *spans, int n_spans);
    /* Keys (which = 0) or values (1) of positions 0 .. n_positions - 1 as (H, n_positions, dh). */
    void (*cache_read)(struct device *d, const struct tensor *out, struct cache *c, int block,
                       int which, const int32_t *pages, int n_positions);
};

extern const struct backend backend_cpu;
extern const struct backend backend_cuda; /* in builds with CUDA=1, and in tests */
