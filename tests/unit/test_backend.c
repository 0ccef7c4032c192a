/* Every call of a backend beside tests/reference.c, to the bit: all instruction sets that this
 * machine has, one to three threads, shapes and strides by chance. Which backend is linked in, see
 * tests/tested.h. Whatever a call reads or writes is lent to the device and fetched from it. */
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "../reference.h"
#include "../tested.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

enum { ROWS = 700, WIDTH = 1100, CONTEXT = 1024, DEVICES_MAX = 12, LENT_MAX = 1000 };

static const struct backend *be;
static struct device *devices[DEVICES_MAX];
static int n_devices;

/* The same devices with each way to store weights, for the calls that read weights. */
static const char *const tiers[] = {"f32", "bf16", "int8"};
static struct stored {
    struct device *device;
    const char *weights;
} stored[COUNT(tiers) * DEVICES_MAX];
static int n_stored;
static struct arena arena;
static struct err error;

static void open_stored(const char *isa, int threads, const char *weights)
{
    const struct device_options o = {threads, isa, weights, ROWS, WIDTH, CONTEXT, 8, 0, NULL};
    struct stored *s = &stored[n_stored];
    s->weights = weights;
    if (!be->open(&s->device, &o, &error)) {
        assert_non_null(strstr(error.text, "this machine has no"));
        return;
    }
    n_stored++;
    if (strcmp(weights, "f32") == 0)
        devices[n_devices++] = s->device;
}

static int open_devices(void **state)
{
    (void)state;
    be = tested.backend;
    assert_true(tested.n_isas * tested.threads_max <= DEVICES_MAX);
    for (int i = 0; i < tested.n_isas; i++)
        for (int threads = 1; threads <= tested.threads_max; threads++)
            for (int tier = 0; tier < tested.n_tiers; tier++)
                open_stored(tested.isas[i], threads, tiers[tier]);
    if (n_devices < tested.threads_max)
        fail_msg("%s", error.text);
    assert_int_equal(n_stored, n_devices * tested.n_tiers);
    return 0;
}

static int close_devices(void **state)
{
    (void)state;
    for (int i = 0; i < n_stored; i++)
        be->close(stored[i].device);
    return 0;
}

/* Memory of devices that a test has taken; all of it goes back at once, with the arena's. */
static struct loan {
    struct device *d;
    void *p;
    size_t size;
} loans[LENT_MAX];
static int n_loans;

static int free_all(void **state)
{
    (void)state;
    for (int i = 0; i < n_loans; i++)
        be->release(loans[i].d, loans[i].p, loans[i].size);
    n_loans = 0;
    arena_free(&arena);
    return 0;
}

static void *lend_bytes(struct device *d, const void *from, size_t size)
{
    void *p;
    assert_true(n_loans < LENT_MAX);
    assert_true(be->alloc(d, &p, size, &error));
    loans[n_loans++] = (struct loan){d, p, size};
    be->upload(d, p, from, size);
    return p;
}

static float *lend_floats(struct device *d, const float *x, int64_t n)
{
    return x ? lend_bytes(d, x, sizeof *x * (size_t)n) : NULL;
}

static float *fetch_floats(struct device *d, const float *x, int64_t n)
{
    const struct tensor from = {(float *)(uintptr_t)x, DT_f32, view_of(1, &n)};
    float *to = arena_array(&arena, (size_t)n, sizeof *to);
    be->download(d, to, &from);
    assert_true(be->fence(d, &error));
    return to;
}

/* From the tensor's data to the last element that it touches. */
static int64_t reach(const struct tensor *t)
{
    int64_t low = 0, high = -1;
    if (view_count(&t->view) > 0)
        view_extent(&low, &high, &t->view);
    return high + 1;
}

/* The device's copy of a tensor, elements between its own included. */
static const struct tensor *lend(struct device *d, const struct tensor *t)
{
    struct tensor *there = ARENA_NEW(&arena, struct tensor);
    *there = *t;
    there->data = lend_bytes(d, t->data, dtype_size(t->dtype) * (size_t)reach(t));
    return there;
}

/* And back: the same view over memory of the host. */
static struct tensor fetch(struct device *d, const struct tensor *t)
{
    const int64_t n = reach(t);
    const struct tensor all = {t->data, t->dtype, view_of(1, &n)};
    struct tensor here = *t;
    here.data = arena_array(&arena, (size_t)n, dtype_size(t->dtype));
    be->download(d, here.data, &all);
    assert_true(be->fence(d, &error));
    return here;
}

/* test_backend few: as many cases as have all of a call's kernels, for tools that are slow. */
static bool is_few;

static int cases(int all, int few)
{
    return is_few ? few : all;
}

/* Chance, the same in every run. */
static uint64_t chance_state = 1;

static uint32_t chance(uint32_t n)
{
    chance_state = chance_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(chance_state >> 33) % n;
}

static float chance_float(void)
{
    return ((float)chance(20001) - 10000.0f) / 4000.0f;
}

/* Mostly tame, at times an edge of the format. */
static float chance_edge(void)
{
    static const float edges[] = {0.0f, -0.0f, 1.0f, -1.0f, __builtin_inff(), -__builtin_inff(),
                                  0x1p-149f, -0x1p-130f, 3e38f, -3e38f, 0.5f, 1e10f, -1e19f, 88.0f,
                                  -103.5f, 2.0f, 3.0f, -2.0f};
    const uint32_t kind = chance(8);
    if (kind == 0)
        return chance(6) == 0 ? __builtin_nanf("") : edges[chance(COUNT(edges))];
    return kind == 1 ? (float)((int)chance(20) - 10) : chance_float();
}

static int64_t chance_whole(void)
{
    static const int64_t edges[] = {0, 1, -1, INT64_MAX, INT64_MIN, 2, 63, -63};
    return chance(5) == 0 ? edges[chance(COUNT(edges))] : (int64_t)chance(41) - 20;
}

static float *floats(int64_t n)
{
    float *x = arena_array(&arena, (size_t)n, sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = chance_float();
    return x;
}

/* A tensor of this shape with dimensions laid in memory in any order, with gaps and an offset. An
 * input may also repeat dimensions. */
static struct tensor chance_tensor(enum dtype dtype, int rank, const int64_t *shape, bool repeats)
{
    struct tensor t = {.dtype = dtype, .view = {.rank = rank}};
    int order[RANK_MAX];
    for (int i = 0; i < rank; i++)
        order[i] = i;
    const bool shuffled = chance(2) == 0;
    for (int i = rank - 1; i > 0 && shuffled; i--) {
        const int j = (int)chance((uint32_t)i + 1), other = order[i];
        order[i] = order[j];
        order[j] = other;
    }
    int64_t stride = chance(4) == 0 ? 2 : 1;
    for (int i = rank - 1; i >= 0; i--) {
        const int j = order[i];
        t.view.shape[j] = shape[j];
        const bool repeated = repeats && chance(6) == 0;
        t.view.stride[j] = repeated ? 0 : stride;
        stride *= repeated ? 1 : shape[j] + (chance(5) == 0);
    }
    t.view.offset = chance(3);
    const int64_t n = stride + t.view.offset + 1;
    t.data = arena_array(&arena, (size_t)n, dtype_size(dtype));
    for (int64_t i = 0; i < n; i++) {
        switch (dtype) {
        case DT_f32: ((float *)t.data)[i] = chance_edge(); break;
        case DT_i64: ((int64_t *)t.data)[i] = chance_whole(); break;
        default: ((uint8_t *)t.data)[i] = (uint8_t)chance(2); break;
        }
    }
    return t;
}

static int chance_shape(int64_t *shape, int rank_min)
{
    const int rank = rank_min + (int)chance(5 - (uint32_t)rank_min);
    for (int i = 0; i < rank; i++)
        shape[i] = chance(12) == 0 ? 0 : 1 + chance(chance(4) == 0 ? 40 : 6);
    return rank;
}

/* Whole buffers are compared: nothing may be written between the elements either. */
static bool same(const struct tensor *got, const struct tensor *expected)
{
    if (got->dtype == DT_f32)
        return reference_same(got->data, expected->data, reach(got));
    return memcmp(got->data, expected->data, dtype_size(got->dtype) * (size_t)reach(got)) == 0;
}

static void must_be_same(const struct tensor *out, const struct tensor *expected,
                         const char *what, struct device *d)
{
    char shape[SHAPE_TEXT_SIZE];
    const struct tensor got = fetch(d, out);
    if (!same(&got, expected))
        fail_msg("%s on %s, %s %s", what, be->describe(d), dtype_name(got.dtype),
                 shape_text(shape, &got.view));
}

static bool exists(enum op op, enum dtype dtype)
{
    const enum op_types t = op_info[op].types;
    return dtype == DT_f32   ? t != TYPES_bits && t != TYPES_whole
           : dtype == DT_i64 ? t != TYPES_real
                             : t != TYPES_real && t != TYPES_number && t != TYPES_whole;
}

static enum dtype result_dtype(enum op op, enum dtype dtype)
{
    return op_info[op].types == TYPES_compare ? DT_bool : dtype;
}

static void every_elementwise_op_has_the_bits_of_the_reference(void **state)
{
    (void)state;
    for (int op = 0; op < OP_COUNT; op++) {
        const enum op_kind kind = op_info[op].kind;
        if (kind != OPK_unary && kind != OPK_binary)
            continue;
        for (int i = 0; i < cases(60, 3 * DT_COUNT); i++) {
            const enum dtype dtype = (enum dtype)(i % DT_COUNT);
            if (!exists((enum op)op, dtype))
                continue;
            int64_t shape[RANK_MAX];
            const int rank = chance_shape(shape, 0);
            const struct tensor x = chance_tensor(dtype, rank, shape, true);
            const struct tensor y = chance_tensor(dtype, rank, shape, true);
            const struct tensor expected
                = chance_tensor(result_dtype((enum op)op, dtype), rank, shape, false);
            struct device *d = devices[i / DT_COUNT % n_devices];
            const struct tensor *out = lend(d, &expected);
            if (kind == OPK_unary) {
                reference_unary((enum op)op, &expected, &x);
                be->unary(d, (enum op)op, out, lend(d, &x));
            } else {
                reference_binary((enum op)op, &expected, &x, &y);
                be->binary(d, (enum op)op, out, lend(d, &x), lend(d, &y));
            }
            must_be_same(out, &expected, op_info[op].name, d);
        }
        free_all(NULL);
    }
}

static void a_long_row_is_cut_into_pieces_and_may_be_changed_in_place(void **state)
{
    (void)state;
    const int64_t shape[] = {3, 70001};
    const struct tensor x = {floats(3 * 70001), DT_f32, view_of(2, shape)};
    struct tensor y = {floats(70001), DT_f32, view_of(2, shape)};
    y.view.stride[0] = 0;
    const struct tensor expected = {floats(3 * 70001), DT_f32, x.view};
    reference_binary(OP_mul, &expected, &x, &y);
    reference_unary(OP_tanh, &expected, &expected);
    for (int i = 0; i < n_devices; i++) {
        struct device *d = devices[i];
        const struct tensor *out = lend(d, &x);
        be->binary(d, OP_mul, out, out, lend(d, &y));
        be->unary(d, OP_tanh, out, out);
        must_be_same(out, &expected, "mul and tanh", d);
    }
}

static void copies_convert_between_all_dtypes(void **state)
{
    (void)state;
    for (int i = 0; i < cases(450, 9); i++) {
        int64_t shape[RANK_MAX];
        const int rank = chance_shape(shape, 0);
        const struct tensor x = chance_tensor((enum dtype)(i % 3), rank, shape, true);
        const struct tensor expected = chance_tensor((enum dtype)(i / 3 % 3), rank, shape, false);
        struct device *d = devices[i % n_devices];
        const struct tensor *out = lend(d, &expected);
        reference_copy(&expected, &x);
        be->copy(d, out, lend(d, &x));
        must_be_same(out, &expected, "copy", d);
        free_all(NULL);
    }
}

static void a_float_outside_int64_saturates_and_nan_is_zero(void **state)
{
    (void)state;
    float x[] = {1e30f, -1e30f, __builtin_inff(), __builtin_nanf(""), -2.7f, 9223371487098961920.0f};
    int64_t wholes[COUNT(x)] = {INT64_MAX, INT64_MIN, INT64_MAX, 0, -2, 9223371487098961920};
    const int64_t shape[] = {COUNT(x)};
    const struct tensor in = {x, DT_f32, view_of(1, shape)};
    const struct tensor expected = {wholes, DT_i64, view_of(1, shape)};
    const struct tensor zeros = {ARENA_ARRAY(&arena, int64_t, COUNT(x)), DT_i64, expected.view};
    const struct tensor *out = lend(devices[0], &zeros);
    be->copy(devices[0], out, lend(devices[0], &in));
    must_be_same(out, &expected, "copy", devices[0]);
}

static void where_chooses_by_element(void **state)
{
    (void)state;
    for (int i = 0; i < cases(200, 9); i++) {
        int64_t shape[RANK_MAX];
        const int rank = chance_shape(shape, 0);
        const enum dtype dtype = (enum dtype)(i % 3);
        const struct tensor mask = chance_tensor(DT_bool, rank, shape, true);
        const struct tensor x = chance_tensor(dtype, rank, shape, true);
        const struct tensor y = chance_tensor(dtype, rank, shape, true);
        const struct tensor expected = chance_tensor(dtype, rank, shape, false);
        struct device *d = devices[i % n_devices];
        const struct tensor *out = lend(d, &expected);
        reference_where(&expected, &mask, &x, &y);
        be->where(d, out, lend(d, &mask), lend(d, &x), lend(d, &y));
        must_be_same(out, &expected, "where", d);
        free_all(NULL);
    }
}

static const enum op reductions[]
    = {OP_sum, OP_prod, OP_mean, OP_max, OP_min, OP_argmax, OP_argmin, OP_norm, OP_logsumexp};

static bool is_real(enum op op)
{
    return op == OP_mean || op == OP_norm || op == OP_logsumexp;
}

static enum dtype reduced_dtype(enum op op, enum dtype dtype)
{
    return op == OP_argmax || op == OP_argmin || (op == OP_sum && dtype == DT_bool) ? DT_i64 : dtype;
}

static void every_reduction_has_the_bits_of_the_reference(void **state)
{
    (void)state;
    for (int i = 0; i < cases(1500, 10 * COUNT(reductions)); i++) {
        const enum op op = reductions[i % COUNT(reductions)];
        const bool real = is_real(op);
        const uint32_t n_dtypes = op == OP_prod ? 2 : DT_COUNT; /* bool is multiplied as int64 */
        const enum dtype dtype = real ? DT_f32 : (enum dtype)chance(n_dtypes);
        int64_t shape[RANK_MAX];
        const int rank = chance_shape(shape, 1), n_reduced = 1 + (int)chance((uint32_t)rank);
        const struct tensor x = chance_tensor(dtype, rank, shape, true);
        int64_t n = 1;
        for (int j = rank - n_reduced; j < rank; j++)
            n *= shape[j];
        if (n == 0 && op != OP_sum && op != OP_prod && !real)
            continue; /* the planner refuses it */
        const struct tensor expected
            = chance_tensor(reduced_dtype(op, dtype), rank - n_reduced, shape, false);
        struct device *d = devices[(int)chance((uint32_t)n_devices)];
        const struct tensor *out = lend(d, &expected);
        reference_reduce(op, &expected, &x, n_reduced);
        be->reduce(d, op, out, lend(d, &x), n_reduced, NULL);
        must_be_same(out, &expected, op_info[op].name, d);
        free_all(NULL);
    }
}

static void reductions_of_long_contiguous_rows_have_the_bits_of_the_reference(void **state)
{
    (void)state;
    const int64_t shape[] = {2, 50257};
    const struct tensor x = {floats(2 * 50257), DT_f32, view_of(2, shape)};
    for (int i = 0; i < n_devices * COUNT(reductions); i++) {
        const enum op op = reductions[i % COUNT(reductions)];
        struct device *d = devices[i / COUNT(reductions)];
        for (int n_reduced = 1; n_reduced <= 2; n_reduced++) {
            const struct tensor expected
                = chance_tensor(reduced_dtype(op, DT_f32), 2 - n_reduced, shape, false);
            const struct tensor *out = lend(d, &expected);
            reference_reduce(op, &expected, &x, n_reduced);
            be->reduce(d, op, out, lend(d, &x), n_reduced, NULL);
            must_be_same(out, &expected, op_info[op].name, d);
        }
    }
}

static void logsumexp_means_what_it_means_in_torch(void **state)
{
    (void)state;
    const float inf = __builtin_inff(), nan = __builtin_nanf("");
    const struct {
        float x[4], y;
    } rows[] = {{{-inf, -inf, -inf, -inf}, -inf}, {{-inf, 0, -inf, -inf}, 0},
                {{inf, 1, -inf, 2}, inf},         {{88, -200, -300, -inf}, 88},
                {{3e38f, -3e38f, 0, 1}, 3e38f},   {{nan, inf, 0, 0}, nan},
                {{inf, -inf, nan, 0}, nan},       {{nan, -inf, -inf, -inf}, nan}};
    for (int i = 0; i < n_devices * COUNT(rows); i++) {
        struct device *d = devices[i / COUNT(rows)];
        float *row = lend_floats(d, rows[i % COUNT(rows)].x, 4), *y = lend_floats(d, &nan, 1);
        const int64_t four = 4;
        const struct tensor x = {row, DT_f32, view_of(1, &four)}, out = {y, DT_f32, {.rank = 0}};
        be->reduce(d, OP_logsumexp, &out, &x, 1, NULL);
        assert_true(reference_same(fetch_floats(d, y, 1), &rows[i % COUNT(rows)].y, 1));
        const struct tensor none = {row, DT_f32, {.rank = 1, .shape = {0}, .stride = {1}}};
        be->reduce(d, OP_logsumexp, &out, &none, 1, NULL);
        assert_true(*fetch_floats(d, y, 1) == -inf);
    }
}

static void scans_have_the_bits_of_the_reference(void **state)
{
    (void)state;
    for (int i = 0; i < cases(400, 8); i++) {
        int64_t shape[RANK_MAX];
        const int rank = chance_shape(shape, 1);
        const enum dtype dtype = (enum dtype)(i / 2 % 2);
        const enum op op = i % 2 ? OP_cumsum : OP_cumprod;
        const struct tensor x = chance_tensor(dtype, rank, shape, true);
        const struct tensor expected = chance_tensor(dtype, rank, shape, false);
        struct device *d = devices[i % n_devices];
        const struct tensor *out = lend(d, &expected);
        reference_scan(op, &expected, &x);
        be->scan(d, op, out, lend(d, &x), NULL);
        must_be_same(out, &expected, op_info[op].name, d);
        free_all(NULL);
    }
}

static void run_along(struct device *d, enum op op, const struct tensor *out,
                      const struct tensor *x, const struct part *part)
{
    if (op == OP_cumsum || op == OP_cumprod)
        be->scan(d, op, out, x, part);
    else if (op == OP_softmax || op == OP_log_softmax)
        be->softmax(d, op, out, x, part);
    else
        be->reduce(d, op, out, x, x->view.rank - out->view.rank, part);
}

static void reference_along(enum op op, const struct tensor *out, const struct tensor *x)
{
    if (op == OP_cumsum || op == OP_cumprod)
        reference_scan(op, out, x);
    else if (op == OP_softmax || op == OP_log_softmax)
        reference_softmax(op, out, x);
    else
        reference_reduce(op, out, x, x->view.rank - out->view.rank);
}

/* Between two parts somebody else computes; the state is all that they have in common. */
static void a_row_in_parts_has_the_bits_of_the_reference(void **state)
{
    (void)state;
    static const enum op along[] = {OP_softmax, OP_log_softmax, OP_cumsum, OP_cumprod};
    for (int i = 0; i < 520; i++) {
        const bool reduces = i % 13 < COUNT(reductions);
        const enum op op = reduces ? reductions[i % 13] : along[i % 13 - COUNT(reductions)];
        const bool real = is_real(op) || op == OP_softmax || op == OP_log_softmax;
        const uint32_t n_dtypes = !reduces || op == OP_prod ? 2 : DT_COUNT;
        const enum dtype dtype = real ? DT_f32 : (enum dtype)chance(n_dtypes);
        const int rank = reduces ? 1 + (int)chance(3) : 1;
        int64_t shape[] = {1 + chance(rank == 1 ? 3000 : 5), 1 + chance(70), 1 + chance(9)}, n = 1;
        const struct tensor x = chance_tensor(dtype, rank, shape, true);
        for (int j = 0; j < rank; j++)
            n *= shape[j];
        const struct tensor expected = chance_tensor(reduces ? reduced_dtype(op, dtype) : dtype,
                                                     reduces ? 0 : rank, shape, false);
        struct device *d = devices[i / 13 % n_devices];
        const struct tensor *out = lend(d, &expected), *there = lend(d, &x);
        const char junk[PART_BYTES] = "what another row has left";
        struct part p = {.state = lend_bytes(d, junk, sizeof junk)};
        reference_along(op, &expected, &x);
        for (; p.sweep < part_sweeps(op); p.sweep++) {
            for (p.from = 0; p.from < n; p.from = p.to) {
                p.to = p.from + PART_STEP * (1 + (int64_t)chance(i % 2 ? 3 : 90));
                p.to = p.to < n ? p.to : n;
                run_along(d, op, out, there, &p);
            }
        }
        must_be_same(out, &expected, op_info[op].name, d);
        free_all(NULL);
    }
}

static void topk_has_the_places_of_the_reference(void **state)
{
    (void)state;
    for (int i = 0; i < cases(600, 8); i++) {
        int64_t shape[RANK_MAX];
        const int rank = chance_shape(shape, 1);
        for (int j = 0; i % 20 == 0 && j < rank; j++) /* a few long rows */
            shape[j] = j == rank - 1 ? 300 : shape[j] < 2 ? shape[j] : 2;
        const struct tensor x = chance_tensor(chance(2) ? DT_f32 : DT_i64, rank, shape, true);
        shape[rank - 1] = chance(3) == 0 ? shape[rank - 1] : chance((uint32_t)shape[rank - 1] + 1);
        const struct tensor expected = chance_tensor(DT_i64, rank, shape, false);
        struct device *d = devices[(int)chance((uint32_t)n_devices)];
        const struct tensor *out = lend(d, &expected);
        const bool largest = chance(2);
        reference_topk(&expected, &x, largest);
        be->topk(d, out, lend(d, &x), largest);
        must_be_same(out, &expected, largest ? "topk, largest" : "topk, smallest", d);
        free_all(NULL);
    }
}

static void topk_of_a_long_row_has_the_places_of_the_reference(void **state)
{
    (void)state;
    const int64_t n = 5000, lengths[] = {3, 1500, 5000};
    for (int i = 0; i < cases(2 * COUNT(lengths), 2); i++) {
        const enum dtype dtype = i % 2 ? DT_f32 : DT_i64;
        const struct tensor x = chance_tensor(dtype, 1, &n, false);
        const struct tensor expected = chance_tensor(DT_i64, 1, &lengths[i / 2], false);
        struct device *d = devices[i % n_devices];
        const struct tensor *out = lend(d, &expected);
        reference_topk(&expected, &x, i % 3 > 0);
        be->topk(d, out, lend(d, &x), i % 3 > 0);
        must_be_same(out, &expected, "topk of a long row", d);
    }
}

/* Rows in which each element comes in front of those before it, in which many or all are equal, and
 * that differ in the highest digits or in the lowest. */
static int64_t whole_of_kind(int kind, int64_t i)
{
    const int64_t low = chance(1 << 16), high = (int64_t)chance(1 << 16) - (1 << 15);
    const int64_t wholes[] = {i, -i, 7, chance(3), high * (INT64_C(1) << 48) + low,
                              low - (1 << 15)};
    return wholes[kind];
}

static void topk_takes_rows_of_every_kind(void **state)
{
    (void)state;
    const int64_t n = 700, lengths[] = {1, 9, 40, 300, 699, 700};
    for (int i = 0; i < cases(6 * 2 * COUNT(lengths), 2); i++) {
        const bool largest = i / 12 % 2, is_float = i / 6 % 2;
        const struct tensor x = chance_tensor(is_float ? DT_f32 : DT_i64, 1, &n, true);
        const struct tensor places = chance_tensor(DT_i64, 1, &lengths[i / 12], false);
        for (int64_t j = 0; j < n; j++) {
            const int64_t whole = whole_of_kind(i % 6, j), at = element_at(&x.view, 1, j);
            if (is_float)
                ((float *)x.data)[at] = (float)whole;
            else
                ((int64_t *)x.data)[at] = whole;
        }
        struct device *d = devices[(int)chance((uint32_t)n_devices)];
        const struct tensor *out = lend(d, &places);
        reference_topk(&places, &x, largest);
        be->topk(d, out, lend(d, &x), largest);
        must_be_same(out, &places, "topk of a row of a kind", d);
        free_all(NULL);
    }
}

static void a_nan_is_the_greatest_and_the_first_of_equals_wins(void **state)
{
    (void)state;
    const float inf = __builtin_inff(), nan = __builtin_nanf("");
    float x[] = {1, inf, nan, 0.0f, -0.0f, nan, 1, -inf};
    const int64_t most[] = {2, 5, 1, 0, 6, 3, 4, 7}, least[] = {7, 3, 4, 0, 6, 1, 2, 5};
    const int64_t n = COUNT(x);
    const struct tensor in = {x, DT_f32, view_of(1, &n)};
    const struct tensor places = {(void *)(uintptr_t)least, DT_i64, view_of(1, &n)};
    const struct tensor *there = lend(devices[0], &in), *out = lend(devices[0], &places);
    be->topk(devices[0], out, there, true);
    assert_memory_equal(fetch(devices[0], out).data, most, sizeof most);
    be->topk(devices[0], out, there, false);
    assert_memory_equal(fetch(devices[0], out).data, least, sizeof least);
}

static void gather_has_the_bits_and_the_fault_of_the_reference(void **state)
{
    (void)state;
    int n_faults = 0;
    for (int i = 0; i < cases(600, 18); i++) {
        int64_t shape[RANK_MAX];
        const int rank = chance_shape(shape, 1);
        const struct tensor x = chance_tensor((enum dtype)(i % 3), rank, shape, true);
        const int64_t n = shape[rank - 1];
        shape[rank - 1] = chance(9);
        const struct tensor index = chance_tensor(DT_i64, rank, shape, true);
        int64_t low = 0, high = -1;
        if (view_count(&index.view) > 0)
            view_extent(&low, &high, &index.view);
        for (int64_t k = 0; k <= high; k++) /* mostly in range */
            if (n > 0 && chance(30) > 0)
                ((int64_t *)index.data)[k] = chance((uint32_t)n);
        const struct tensor expected = chance_tensor(x.dtype, rank, shape, false);
        int64_t expected_fault[] = {chance(5) == 0 ? 9 : 0, 4};
        const int64_t two = 2;
        const struct tensor words = {expected_fault, DT_i64, view_of(1, &two)};
        struct device *d = devices[(int)chance((uint32_t)n_devices)];
        const struct tensor *out = lend(d, &expected), *fault = lend(d, &words);
        reference_gather(&expected, &x, &index, expected_fault, 7);
        be->gather(d, out, lend(d, &x), lend(d, &index), fault->data, 7);
        must_be_same(out, &expected, "gather", d);
        must_be_same(fault, &words, "the fault of gather", d);
        n_faults += expected_fault[0] == 7;
        free_all(NULL);
    }
    assert_true(is_few || (n_faults > 20 && n_faults < 500));
}

static void scatter_has_the_bits_and_the_fault_of_the_reference(void **state)
{
    (void)state;
    int n_faults = 0;
    for (int i = 0; i < cases(600, 18); i++) {
        int64_t shape[RANK_MAX];
        const int rank = chance_shape(shape, 1);
        const enum op op = chance(2) ? OP_scatter : OP_scatter_add;
        const enum dtype dtype = (enum dtype)(i % 3);
        const struct tensor out = chance_tensor(dtype, rank, shape, false);
        const int64_t n = shape[rank - 1];
        shape[rank - 1] = chance(9);
        const struct tensor x = chance_tensor(dtype, rank, shape, true);
        const struct tensor index = chance_tensor(DT_i64, rank, shape, true);
        int64_t low = 0, high = -1;
        if (view_count(&index.view) > 0)
            view_extent(&low, &high, &index.view);
        for (int64_t k = 0; k <= high; k++) /* mostly in range */
            if (n > 0 && chance(30) > 0)
                ((int64_t *)index.data)[k] = chance((uint32_t)n);
        int64_t expected_fault[] = {chance(5) == 0 ? 9 : 0, 4};
        const int64_t two = 2;
        const struct tensor words = {expected_fault, DT_i64, view_of(1, &two)};
        struct device *d = devices[(int)chance((uint32_t)n_devices)];
        const struct tensor *there = lend(d, &out), *fault = lend(d, &words);
        reference_scatter(op, &out, &index, &x, expected_fault, 7);
        be->scatter(d, op, there, lend(d, &index), lend(d, &x), fault->data, 7);
        must_be_same(there, &out, op_info[op].name, d);
        must_be_same(fault, &words, "the fault of scatter", d);
        n_faults += expected_fault[0] == 7;
        free_all(NULL);
    }
    assert_true(is_few || (n_faults > 20 && n_faults < 500));
}

static void softmax_and_log_softmax_have_the_bits_of_the_reference(void **state)
{
    (void)state;
    for (int i = 0; i < cases(600, 18); i++) {
        int64_t shape[RANK_MAX];
        const int rank = chance_shape(shape, 1);
        const enum op op = i % 2 ? OP_softmax : OP_log_softmax;
        const struct tensor x = chance_tensor(DT_f32, rank, shape, true);
        const struct tensor expected = chance_tensor(DT_f32, rank, shape, false);
        struct device *d = devices[(int)chance((uint32_t)n_devices)];
        const struct tensor *out = lend(d, &expected);
        if (view_count(&x.view) > 0)
            reference_softmax(op, &expected, &x);
        be->softmax(d, op, out, lend(d, &x), NULL);
        must_be_same(out, &expected, op_info[op].name, d);
        free_all(NULL);
    }
}

static void softmax_takes_masked_elements_and_all_masked_rows(void **state)
{
    (void)state;
    const float inf = __builtin_inff();
    float x[] = {-inf, 0, -inf, 0, -inf, -inf, -inf, -inf};
    const int64_t shape[] = {2, 4};
    const struct tensor in = {x, DT_f32, view_of(2, shape)};
    const struct tensor *out = lend(devices[0], &in);
    be->softmax(devices[0], OP_softmax, out, lend(devices[0], &in), NULL);
    const float expected[] = {0, 0.5f, 0, 0.5f}, *y = fetch(devices[0], out).data;
    assert_memory_equal(y, expected, sizeof expected);
    assert_true(y[4] != y[4] && y[7] != y[7]);
}

static void matmul_has_the_bits_of_the_reference(void **state)
{
    (void)state;
    for (int i = 0; i < cases(300, 4); i++) {
        int64_t x_shape[RANK_MAX], y_shape[RANK_MAX], shape[RANK_MAX];
        const int rank = chance_shape(shape, 2);
        const bool large = i % 10 == 0;
        shape[rank - 2] = chance(large ? 200 : 9);
        shape[rank - 1] = chance(large ? 150 : 70);
        const int64_t K = chance(i % 20 == 0 ? 600 : 80);
        memcpy(x_shape, shape, sizeof shape);
        memcpy(y_shape, shape, sizeof shape);
        x_shape[rank - 1] = y_shape[rank - 2] = K;
        for (int j = 0; j < rank - 2; j++)
            x_shape[j] = y_shape[j] = shape[j] = 1 + chance(2);
        const struct tensor x = chance_tensor(DT_f32, rank, x_shape, true);
        const struct tensor y = chance_tensor(DT_f32, rank, y_shape, true);
        const struct tensor expected = chance_tensor(DT_f32, rank, shape, false);
        struct device *d = devices[(int)chance((uint32_t)n_devices)];
        const struct tensor *out = lend(d, &expected);
        reference_matmul(&expected, &x, &y);
        be->matmul(d, out, lend(d, &x), lend(d, &y));
        must_be_same(out, &expected, "matmul", d);
        free_all(NULL);
    }
}

static const int rows_of_linear[] = {1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 33, 100, 257};
static const int sizes_of_linear[][2] = {{64, 64}, {1, 1},   {63, 17},
                                             {130, 80}, {200, 131}, {300, 9}}; /* K, N */

/* A weight with what is hard to round: columns of zeros, of numbers so small that their scale is
 * none or has one bit, of large ones, and of numbers halfway between two that bf16 has. */
static float *weights_by_chance(enum layout layout, int K, int N)
{
    float *matrix = floats((int64_t)K * N);
    for (int k = 0; k < K; k++)
        for (int n = 0; n < N; n++) {
            float *x = matrix + (layout == LAYOUT_kn ? (int64_t)k * N + n : (int64_t)n * K + k);
            switch (n % 16) {
            case 5: *x = 0; break;
            case 6: *x *= 0x1p-144f; break;
            case 7: *x *= 0x1p-142f; break;
            case 8: *x *= 0x1p100f; break;
            case 9: *x = 1 + (float)chance(512) / 256; break;
            default: break;
            }
        }
    return matrix;
}

/* All rows are computed once; each number of rows must give the first of them. */
static void check_linear(const struct stored *s, int K, int N, enum layout layout,
                         enum epilogue epilogue, bool biased)
{
    struct device *d = s->device;
    const int rows = rows_of_linear[COUNT(rows_of_linear) - 1];
    const float *matrix = weights_by_chance(layout, K, N), *x = floats((int64_t)rows * K);
    const float *bias = biased ? floats(N) : NULL, *residual = floats((int64_t)(rows + 1) * N);
    float *expected = floats((int64_t)rows * N), *rounded = floats((int64_t)K * N);
    reference_store(rounded, matrix, s->weights, layout, K, N);
    reference_linear(expected, x, rounded, layout, K, N, bias, rows, epilogue, residual);
    const float *x_there = lend_floats(d, x, (int64_t)rows * K);
    const float *bias_there = lend_floats(d, bias, N);
    struct weight *w;
    assert_true(be->weight_pack(d, &w, matrix, layout, K, N, &error));
    for (int i = 0; i < COUNT(rows_of_linear); i++) {
        const int n = rows_of_linear[i];
        const int64_t count = (int64_t)n * N;
        float *there = lend_floats(d, residual, count + N);
        be->linear(d, there, x_there, w, bias_there, n, epilogue, there);
        const float *out = fetch_floats(d, there, count + N);
        if (!reference_same(out, expected, count))
            fail_msg("%s, %s: %d rows, K %d, N %d, epilogue %d", be->describe(d), s->weights, n, K,
                     N, epilogue);
        assert_memory_equal(out + count, residual + count, sizeof *out * (size_t)N);
    }
    be->weight_free(d, w);
}

static void every_linear_layer_has_the_bits_of_the_reference(void **state)
{
    (void)state;
    for (int i = 0; i < n_stored * cases(COUNT(sizes_of_linear), 5); i++) {
        const int *size = sizes_of_linear[i % COUNT(sizes_of_linear)];
        const struct stored *s = &stored[i / COUNT(sizes_of_linear)];
        const enum layout layout = i % 2 ? LAYOUT_nk : LAYOUT_kn;
        check_linear(s, size[0], size[1], layout, (enum epilogue)(i % 3), i % 5 != 0);
        free_all(NULL);
    }
}

static void a_few_panels_have_the_bits_of_the_whole_product(void **state)
{
    (void)state;
    enum { M = 100, K = 300, N = 329, PANELS = 21 };
    const float *matrix = floats(N * K), *x = floats(M * K), *junk = floats(M * PANELS * 16 + 1);
    for (int i = 0; i < n_stored * cases(6, 1); i++) {
        struct device *d = stored[i / 6].device;
        struct weight *w;
        const int n_rows = 1 + (int)chance(M);
        int32_t panels[PANELS];
        int n = 0;
        for (int panel = 0; panel < PANELS; panel++) {
            if (chance(PANELS) < 1 + 7u * (uint32_t)i % 6 || panel == PANELS - 1)
                panels[n++] = panel;
        }
        const int count = n_rows * n * 16;
        const float *x_there = lend_floats(d, x, n_rows * K);
        float *whole_there = lend_floats(d, junk, n_rows * N);
        float *some_there = lend_floats(d, junk, count + 1);
        assert_true(be->weight_pack(d, &w, matrix, LAYOUT_nk, K, N, &error));
        be->linear(d, whole_there, x_there, w, NULL, n_rows, EPILOGUE_none, NULL);
        be->linear_panels(d, some_there, x_there, w, panels, n, n_rows);
        const float *whole = fetch_floats(d, whole_there, n_rows * N);
        const float *some = fetch_floats(d, some_there, count + 1);
        assert_memory_equal(&some[count], &junk[count], sizeof *junk);
        for (int k = 0; k < count; k++) {
            const int column = panels[k % (n * 16) / 16] * 16 + k % 16;
            const float expected = column < N ? whole[k / (n * 16) * N + column] : 0.0f;
            assert_true(reference_same(&some[k], &expected, 1));
        }
        be->weight_free(d, w);
    }
}

/* A view of the matrix, its dimensions in any order, some of them split, cut or repeated. */
static struct view chance_view(int K, int N)
{
    struct view v = view_of(2, (int64_t[]){K, N});
    if (K % 5 == 0 && chance(2))
        v = view_of(3, (int64_t[]){5, K / 5, N});
    for (int i = 0; i < v.rank; i++) {
        const int64_t from = (int64_t)chance((uint32_t)v.shape[i]), step = 1 + (int64_t)chance(3);
        v.offset += from * v.stride[i];
        v.shape[i] = (v.shape[i] - from + step - 1) / step;
        v.stride[i] *= chance(5) ? step : 0;
        const int j = (int)chance((uint32_t)i + 1);
        const int64_t shape = v.shape[i], stride = v.stride[i];
        v.shape[i] = v.shape[j], v.stride[i] = v.stride[j];
        v.shape[j] = shape, v.stride[j] = stride;
    }
    v.rank -= chance(4) == 0;
    return v;
}

/* From a view of the weight, mostly in range; `kn` has the same elements row-major. */
static int gather_from_weight(struct device *d, const struct weight *w, const struct tensor *kn)
{
    int64_t shape[RANK_MAX];
    const int rank = kn->view.rank;
    memcpy(shape, kn->view.shape, sizeof shape);
    const int64_t n = shape[rank - 1], two = 2;
    shape[rank - 1] = chance(9);
    const struct tensor index = chance_tensor(DT_i64, rank, shape, false);
    for (int64_t i = 0; i < view_count(&index.view); i++)
        ((int64_t *)index.data)[i] = (int64_t)chance((uint32_t)n) - (chance(40) == 0 ? n : 0);
    const struct tensor expected = chance_tensor(DT_f32, rank, shape, false);
    int64_t expected_fault[] = {0, 0};
    const struct tensor words = {expected_fault, DT_i64, view_of(1, &two)};
    const struct tensor *out = lend(d, &expected), *fault = lend(d, &words);
    reference_gather(&expected, kn, &index, expected_fault, 7);
    be->weight_gather(d, out, w, &kn->view, lend(d, &index), fault->data, 7);
    must_be_same(out, &expected, "weight_gather", d);
    must_be_same(fault, &words, "the fault of weight_gather", d);
    return expected_fault[0] == 7;
}

static void a_packed_weight_gives_back_its_elements(void **state)
{
    int n_faults = 0;
    (void)state;
    for (int i = 0; i < n_stored * cases(20, 4); i++) {
        const struct stored *s = &stored[i / 20];
        const int K = sizes_of_linear[i % COUNT(sizes_of_linear)][0];
        const int N = sizes_of_linear[i % COUNT(sizes_of_linear)][1];
        const enum layout layout = i % 2 ? LAYOUT_nk : LAYOUT_kn;
        const float *matrix = weights_by_chance(layout, K, N);
        float *rounded = floats(K * N);
        reference_store(rounded, matrix, s->weights, layout, K, N);
        struct tensor from = {rounded, DT_f32, view_of(2, (int64_t[]){K, N})};
        struct tensor kn = {floats(K * N), DT_f32, from.view};
        from.view.stride[0] = layout == LAYOUT_nk ? 1 : N;
        from.view.stride[1] = layout == LAYOUT_nk ? K : 1;
        reference_copy(&kn, &from);
        kn.view = i % 20 ? chance_view(K, N) : kn.view;
        struct tensor out = chance_tensor(DT_f32, kn.view.rank, kn.view.shape, false);
        const struct tensor *there = lend(s->device, &out);
        struct weight *w;
        assert_true(be->weight_pack(s->device, &w, matrix, layout, K, N, &error));
        be->weight_read(s->device, there, w, &kn.view);
        reference_copy(&out, &kn);
        must_be_same(there, &out, "weight_read", s->device);
        n_faults += kn.view.rank > 0 && gather_from_weight(s->device, w, &kn);
        be->weight_free(s->device, w);
        free_all(NULL);
    }
    assert_true(is_few || (n_faults > 0 && n_faults < n_stored * 20));
}

/* M, K, N; all but the first are for `test_backend large`. */
static const int sizes_of_many[][3] = {
    {1000, WIDTH, 70}, {1000, 768, 3072}, {500, 768, 2304}, {1000, 3072, 768}, {60, 768, 20000}};
static bool is_large;

static void check_many(const struct stored *s, int M, int K, int N)
{
    struct device *d = s->device;
    const float *matrix = floats(K * N), *x = floats(M * K), *bias = floats(N);
    float *expected = floats(N), *rounded = floats(K * N);
    reference_store(rounded, matrix, s->weights, LAYOUT_kn, K, N);
    reference_linear(expected, x, rounded, LAYOUT_kn, K, N, bias, 1, EPILOGUE_gelu, NULL);
    const float *x_there = lend_floats(d, x, M * K), *bias_there = lend_floats(d, bias, N);
    float *out = lend_floats(d, floats(M * N), M * N), *row = lend_floats(d, x, N);
    struct weight *w;
    assert_true(be->weight_pack(d, &w, matrix, LAYOUT_kn, K, N, &error));
    be->linear(d, out, x_there, w, bias_there, M, EPILOGUE_gelu, NULL);
    const float *many = fetch_floats(d, out, M * N);
    assert_true(reference_same(many, expected, N));
    for (int r = 0; r < M; r += 37) {
        be->linear(d, row, x_there + r * K, w, bias_there, 1, EPILOGUE_gelu, NULL);
        assert_true(reference_same(fetch_floats(d, row, N), many + r * N, N));
    }
    be->weight_free(d, w);
}

static void many_rows_and_a_long_k_have_the_bits_of_few(void **state)
{
    (void)state;
    for (int i = 0; i < n_stored; i++) {
        if (strstr(be->describe(stored[i].device), "plain"))
            continue; /* minutes under a sanitizer, and the same code */
        for (int k = 0; k < (is_large ? COUNT(sizes_of_many) : 1); k++) {
            const int *size = sizes_of_many[k];
            check_many(&stored[i], size[0], size[1], size[2]);
            free_all(NULL);
        }
    }
}

static void a_nan_row_does_not_touch_its_neighbours(void **state)
{
    (void)state;
    enum { M = 17, K = 100, N = 40 };
    const float *matrix = floats(K * N), *x = floats(M * K);
    float *ill = floats(M * K);
    memcpy(ill, x, sizeof *x * M * K);
    for (int k = 0; k < K; k++)
        ill[8 * K + k] = k % 2 ? __builtin_nanf("") : __builtin_inff();
    for (int i = 0; i < n_devices; i++) {
        struct device *d = devices[i];
        struct weight *w;
        assert_true(be->weight_pack(d, &w, matrix, LAYOUT_kn, K, N, &error));
        float *there = lend_floats(d, x, M * N);
        be->linear(d, there, lend_floats(d, x, M * K), w, NULL, M, EPILOGUE_gelu, NULL);
        const float *expected = fetch_floats(d, there, M * N);
        be->linear(d, there, lend_floats(d, ill, M * K), w, NULL, M, EPILOGUE_gelu, NULL);
        const float *out = fetch_floats(d, there, M * N);
        assert_memory_equal(out, expected, sizeof *out * 8 * N);
        assert_memory_equal(out + 9 * N, expected + 9 * N, sizeof *out * (M - 9) * N);
        assert_true(out[8 * N] != out[8 * N]);
        be->weight_free(d, w);
    }
}

static void layernorm_has_the_bits_of_the_reference(void **state)
{
    (void)state;
    const int widths[] = {1, 15, 16, 17, 64, 127, 768, 4096, 4097};
    for (int i = 0; i < n_devices * COUNT(widths); i++) {
        const int width = widths[i % COUNT(widths)], rows = 1 + (int)chance(width < 1000 ? 40 : 2);
        struct device *d = devices[i / COUNT(widths)];
        const float *x = floats((int64_t)rows * width), *weight = floats(width);
        const float *bias = floats(width);
        const int64_t count = (int64_t)rows * width;
        float *expected = floats(count), *out = lend_floats(d, x, count);
        const float *gain = lend_floats(d, weight, width), *shift = lend_floats(d, bias, width);
        reference_layernorm(expected, x, weight, bias, rows, width, 1e-5f);
        assert_true(be->fence(d, &error));
        be->layernorm(d, out, lend_floats(d, x, count), gain, shift, rows, width, 1e-5f);
        assert_true(reference_same(fetch_floats(d, out, count), expected, count));
        free_all(NULL);
    }
}

/* Whatever stands between its steps, and with the bits of the whole where nothing is changed. */
static void layernorm_s_steps_have_the_bits_of_the_reference(void **state)
{
    (void)state;
    const int widths[] = {1, 15, 16, 17, 64, 127, 768};
    for (int i = 0; i < n_devices * COUNT(widths); i++) {
        const int width = widths[i % COUNT(widths)], rows = 1 + (int)chance(40);
        const int64_t count = (int64_t)rows * width;
        struct device *d = devices[i / COUNT(widths)];
        const float *x = floats(count), *weight = floats(width), *bias = floats(width);
        float *expected = floats(count), *scales = floats(rows), *changed = floats(rows);
        float *out = lend_floats(d, x, count), *there = lend_floats(d, changed, rows);
        const float *x_there = lend_floats(d, x, count);
        reference_layernorm_normalize(expected, x, changed, rows, width);
        be->layernorm_normalize(d, out, x_there, there, rows, width);
        assert_true(reference_same(fetch_floats(d, out, count), expected, count));
        reference_layernorm_scale(scales, x, rows, width, 1e-5f);
        be->layernorm_scale(d, there, x_there, rows, width, 1e-5f);
        assert_true(reference_same(fetch_floats(d, there, rows), scales, rows));
        be->layernorm_normalize(d, out, x_there, there, rows, width);
        float *last = lend_floats(d, x, count);
        be->layernorm_gain(d, last, out, lend_floats(d, weight, width),
                           lend_floats(d, bias, width), rows, width);
        reference_layernorm(expected, x, weight, bias, rows, width, 1e-5f);
        assert_true(reference_same(fetch_floats(d, last, count), expected, count));
        free_all(NULL);
    }
}

static void gelu_add_embed_and_gather_have_the_bits_of_the_reference(void **state)
{
    (void)state;
    enum { N = 20011, WIDE = 33, COUNT_IDS = 700 };
    const int64_t shape[] = {N};
    const struct tensor x = {floats(N), DT_f32, view_of(1, shape)};
    const struct tensor y = {floats(N), DT_f32, view_of(1, shape)};
    const struct tensor expected = {floats(N), DT_f32, view_of(1, shape)};
    int32_t ids[COUNT_IDS];
    for (int i = 0; i < COUNT_IDS; i++)
        ids[i] = (int32_t)chance(N / WIDE);
    for (int i = 0; i < n_devices; i++) {
        struct device *d = devices[i];
        const float *x_there = lend_floats(d, x.data, N);
        float *out = lend_floats(d, x.data, N), *rows = lend_floats(d, floats(COUNT_IDS * WIDE),
                                                                   COUNT_IDS * WIDE);
        reference_unary(OP_gelu_new, &expected, &x);
        be->gelu(d, out, x_there, N);
        assert_true(reference_same(fetch_floats(d, out, N), expected.data, N));
        reference_binary(OP_add, &expected, &x, &y);
        be->add(d, out, x_there, lend_floats(d, y.data, N), N);
        assert_true(reference_same(fetch_floats(d, out, N), expected.data, N));
        for (int call = 0; call < 2; call++) {
            (call == 0 ? be->embed : be->rows_gather)(d, rows, x_there, ids, COUNT_IDS, WIDE);
            const float *got = fetch_floats(d, rows, COUNT_IDS * WIDE);
            for (int r = 0; r < COUNT_IDS; r++)
                assert_memory_equal(got + r * WIDE, (float *)x.data + ids[r] * WIDE,
                                    WIDE * sizeof(float));
        }
    }
}

/* Queries, keys and values. Every third query is so long that most of its weights are tiny or 0. */
static float *chance_qkv(int n_rows, int width)
{
    float *qkv = floats((int64_t)n_rows * 3 * width);
    for (int row = 0; row < n_rows; row += 3)
        for (int i = 0; i < width; i++)
            qkv[row * 3 * width + i] *= 40;
    return qkv;
}

/* Attention. Pages lie anywhere and start full of NaN, as after another sequence that went wrong. */
struct heads {
    int H, dh;
};
static const struct heads heads_tried[] = {{2, 64}, {3, 32}, {1, 5}, {2, 40}, {1, 130}};
enum { PAGES = 16, BLOCKS = 2, PAST_MAX = 200 };

static struct cache *spoiled_cache(struct device *d, struct heads h)
{
    struct cache *c;
    assert_true(be->cache_open(d, &c, PAGES, BLOCKS, h.H, h.dh, &error));
    const int row = 3 * h.H * h.dh;
    float *nans = floats(64 * row);
    for (int i = 0; i < 64 * row; i++)
        nans[i] = __builtin_nanf("");
    const float *ill = lend_floats(d, nans, 64 * row);
    for (int block = 0; block < BLOCKS; block++)
        for (int32_t page = 0; page < PAGES; page++) {
            const struct span s = {0, 64, 0, &page};
            be->cache_append(d, c, block, ill, &s, 1);
        }
    return c;
}

static void attention_has_the_bits_of_the_reference_in_any_chunks(void **state)
{
    (void)state;
    const int32_t pages[] = {5, 2, 15, 0};
    for (int i = 0; i < n_devices * COUNT(heads_tried); i++) {
        struct device *d = devices[i / COUNT(heads_tried)];
        const struct heads h = heads_tried[i % COUNT(heads_tried)];
        const int width = h.H * h.dh;
        const float *qkv = chance_qkv(PAST_MAX, width);
        float *expected = floats(PAST_MAX * width);
        reference_attend(expected, qkv, PAST_MAX, h.H, h.dh);
        const float *qkv_there = lend_floats(d, qkv, PAST_MAX * 3 * width);
        for (int chunk_max = cases(1, 21); chunk_max <= PAST_MAX; chunk_max = chunk_max * 4 + 1) {
            struct cache *c = spoiled_cache(d, h);
            float *z = lend_floats(d, qkv, PAST_MAX * width);
            for (int row = 0, n; row < PAST_MAX; row += n) {
                n = 1 + (int)chance((uint32_t)chunk_max);
                n = n < PAST_MAX - row ? n : PAST_MAX - row;
                const struct span s = {0, n, row, pages};
                be->cache_append(d, c, 1, qkv_there + row * 3 * width, &s, 1);
                be->attend(d, z + row * width, c, 1, qkv_there + row * 3 * width, &s, 1);
            }
            if (!reference_same(fetch_floats(d, z, PAST_MAX * width), expected, PAST_MAX * width))
                fail_msg("%s: heads of %d, chunks to %d", be->describe(d), h.dh, chunk_max);
            be->cache_close(d, c);
        }
        free_all(NULL);
    }
}

static void sequences_that_share_a_pass_do_not_see_each_other(void **state)
{
    (void)state;
    const int32_t pages[][2] = {{3, 1}, {0, 6}, {2, 4}};
    const int n_rows[] = {70, 1, 9};
    const struct heads h = {2, 32};
    const int width = h.H * h.dh;
    for (int i = 0; i < n_devices; i++) {
        struct device *d = devices[i];
        struct cache *c = spoiled_cache(d, h);
        float *qkv = floats(80 * 3 * width), *expected = floats(80 * width);
        struct span spans[3];
        for (int s = 0, row = 0; s < 3; row += n_rows[s++]) {
            spans[s] = (struct span){row, n_rows[s], 0, pages[s]};
            for (int j = 0; s == 1 && j < 3 * width; j++)
                qkv[row * 3 * width + j] = __builtin_nanf("");
            reference_attend(expected + row * width, qkv + row * 3 * width, n_rows[s], h.H, h.dh);
        }
        const float *qkv_there = lend_floats(d, qkv, 80 * 3 * width);
        float *z = lend_floats(d, qkv, 80 * width);
        be->cache_append(d, c, 0, qkv_there, spans, 3);
        be->attend(d, z, c, 0, qkv_there, spans, 3);
        assert_true(reference_same(fetch_floats(d, z, 80 * width), expected, 80 * width));
        be->cache_close(d, c);
    }
}

/* As many keys as leave a device no room for the scores of several rows. */
static void rows_behind_a_long_past_have_the_bits_of_the_reference(void **state)
{
    (void)state;
    enum { T = CONTEXT, H = 1, DH = 50, W = H * DH, ALL_PAGES = (T + 63) / 64 };
    const float *qkv = floats(T * 3 * W);
    float *expected = floats(T * W);
    int32_t pages[ALL_PAGES];
    for (int i = 0; i < ALL_PAGES; i++)
        pages[i] = ALL_PAGES - 1 - i;
    reference_attend(expected, qkv, T, H, DH);
    for (int i = 0; i < n_devices; i++) {
        struct device *d = devices[i];
        struct cache *c;
        assert_true(be->cache_open(d, &c, ALL_PAGES, 1, H, DH, &error));
        const float *qkv_there = lend_floats(d, qkv, T * 3 * W);
        float *z = lend_floats(d, qkv, T * W);
        const struct span all[] = {{0, 600, 0, pages}, {600, T - 600, 600, pages}};
        be->cache_append(d, c, 0, qkv_there, all, 1);
        be->cache_append(d, c, 0, qkv_there, all + 1, 1);
        const struct span last = {T - 3, 3, T - 3, pages};
        be->attend(d, z, c, 0, qkv_there, &last, 1);
        assert_true(reference_same(fetch_floats(d, z + (T - 3) * W, 3 * W),
                                   expected + (T - 3) * W, 3 * W));
        be->cache_close(d, c);
    }
}

static struct tensor view3(float *data, int64_t a, int64_t b, int64_t c)
{
    const int64_t shape[] = {a, b, c};
    return (struct tensor){data, DT_f32, view_of(3, shape)};
}

static void attention_by_hand_has_the_bits_of_the_fused_kernel(void **state)
{
    (void)state;
    enum { T = 100, H = 2, DH = 64, W = H * DH };
    const float *random = floats(T * 3 * W);
    const int32_t pages[] = {1, 0};
    const struct span span = {0, T, 0, pages};
    for (int i = 0; i < n_devices; i++) {
        struct device *d = devices[i];
        struct cache *c = spoiled_cache(d, (struct heads){H, DH});
        float *qkv = lend_floats(d, random, T * 3 * W), *fused = lend_floats(d, random, T * W);
        float *keys = lend_floats(d, random, T * W), *values = lend_floats(d, random, T * W);
        float *scores = lend_floats(d, floats(H * T * T), H * T * T);
        float *open = lend_floats(d, random, T * W);
        be->cache_append(d, c, 0, qkv, &span, 1);
        be->attend(d, fused, c, 0, qkv, &span, 1);
        const struct tensor k = view3(keys, H, T, DH), v = view3(values, H, T, DH);
        be->cache_read(d, &k, c, 0, 0, pages, T);
        be->cache_read(d, &v, c, 0, 1, pages, T);
        struct tensor q = view3(qkv, H, T, DH), k_turned = view3(keys, H, DH, T);
        q.view.stride[0] = DH, q.view.stride[1] = 3 * W;
        k_turned.view.stride[0] = T * DH, k_turned.view.stride[1] = 1, k_turned.view.stride[2] = DH;
        const struct tensor s = view3(scores, H, T, T);
        be->matmul(d, &s, &q, &k_turned);
        float *masked = fetch_floats(d, scores, H * T * T);
        for (int row = 0; row < H * T; row++)
            for (int key = 0; key < T; key++)
                masked[row * T + key] = key > row % T ? -__builtin_inff()
                                                      : masked[row * T + key] * 0.125f;
        be->upload(d, scores, masked, sizeof *masked * H * T * T);
        be->softmax(d, OP_softmax, &s, &s, NULL);
        struct tensor z = view3(open, H, T, DH);
        z.view.stride[0] = DH, z.view.stride[1] = W;
        be->matmul(d, &z, &s, &v);
        assert_memory_equal(fetch_floats(d, open, T * W), fetch_floats(d, fused, T * W),
                            sizeof *open * T * W);
        be->cache_close(d, c);
    }
}

static void the_cache_gives_back_keys_and_values(void **state)
{
    (void)state;
    enum { T = 90, H = 3, DH = 20, W = H * DH };
    const float *qkv = floats(T * 3 * W);
    const int32_t pages[] = {7, 3};
    const struct span span = {0, T, 0, pages};
    struct device *d = devices[0];
    struct cache *c = spoiled_cache(d, (struct heads){H, DH});
    be->cache_append(d, c, 1, lend_floats(d, qkv, T * 3 * W), &span, 1);
    for (int which = 0; which < 2; which++) {
        const struct tensor out = view3(lend_floats(d, qkv, H * T * DH), H, T, DH);
        be->cache_read(d, &out, c, 1, which, pages, T);
        const float *read = fetch_floats(d, out.data, H * T * DH);
        for (int h = 0; h < H; h++)
            for (int p = 0; p < T; p++)
                assert_memory_equal(read + (h * T + p) * DH,
                                    qkv + p * 3 * W + (1 + which) * W + h * DH,
                                    DH * sizeof *read);
    }
    be->cache_close(d, c);
}

static void memory_is_zeroed_aligned_and_comes_back_row_major(void **state)
{
    (void)state;
    struct device *d = devices[0];
    void *p;
    assert_true(be->alloc(d, &p, 6 * sizeof(float), &error));
    assert_true((uintptr_t)p % 64 == 0);
    const float zeros[6] = {0}, numbers[6] = {0, 1, 2, 3, 4, 5}, turned[6] = {0, 3, 1, 4, 2, 5};
    assert_memory_equal(fetch_floats(d, p, 6), zeros, sizeof zeros);
    be->upload(d, p, numbers, sizeof numbers);
    const int64_t shape[] = {3, 2};
    struct tensor t = {p, DT_f32, view_of(2, shape)};
    t.view.stride[0] = 1, t.view.stride[1] = 3;
    float back[6];
    be->download(d, back, &t);
    assert_true(be->fence(d, &error));
    assert_memory_equal(back, turned, sizeof back);
    be->release(d, p, 6 * sizeof(float));
}

static void an_unknown_instruction_set_is_refused(void **state)
{
    (void)state;
    struct device *d;
    struct err e = {0};
    const struct device_options o = {1, "sse9", "f32", ROWS, WIDTH, CONTEXT, 8, 0, NULL};
    if (!tested.isa_refusal)
        return;
    assert_false(be->open(&d, &o, &e));
    assert_int_equal(e.code, ERR_value);
    assert_string_equal(e.text, tested.isa_refusal);
}

static void an_unknown_way_to_store_weights_is_refused(void **state)
{
    (void)state;
    struct device *d;
    struct err e = {0};
    const struct device_options o = {1, "auto", "int4", ROWS, WIDTH, CONTEXT, 8, 0, NULL};
    assert_false(be->open(&d, &o, &e));
    assert_int_equal(e.code, ERR_value);
    assert_string_equal(e.text, tested.weights_refusal);
}

#define TEST(name) cmocka_unit_test_teardown(name, free_all)

/* test_backend [large|few] */
int main(int n_arguments, char **arguments)
{
    const char *which = n_arguments > 1 ? arguments[1] : "";
    is_large = strcmp(which, "large") == 0;
    is_few = strcmp(which, "few") == 0;
    const struct CMUnitTest tests[] = {
        TEST(every_elementwise_op_has_the_bits_of_the_reference),
        TEST(a_long_row_is_cut_into_pieces_and_may_be_changed_in_place),
        TEST(copies_convert_between_all_dtypes),
        TEST(a_float_outside_int64_saturates_and_nan_is_zero),
        TEST(where_chooses_by_element),
        TEST(every_reduction_has_the_bits_of_the_reference),
        TEST(reductions_of_long_contiguous_rows_have_the_bits_of_the_reference),
        TEST(logsumexp_means_what_it_means_in_torch),
        TEST(scans_have_the_bits_of_the_reference),
        TEST(a_row_in_parts_has_the_bits_of_the_reference),
        TEST(topk_has_the_places_of_the_reference),
        TEST(topk_of_a_long_row_has_the_places_of_the_reference),
        TEST(topk_takes_rows_of_every_kind),
        TEST(a_nan_is_the_greatest_and_the_first_of_equals_wins),
        TEST(gather_has_the_bits_and_the_fault_of_the_reference),
        TEST(scatter_has_the_bits_and_the_fault_of_the_reference),
        TEST(softmax_and_log_softmax_have_the_bits_of_the_reference),
        TEST(softmax_takes_masked_elements_and_all_masked_rows),
        TEST(matmul_has_the_bits_of_the_reference),
        TEST(every_linear_layer_has_the_bits_of_the_reference),
        TEST(a_few_panels_have_the_bits_of_the_whole_product),
        TEST(a_packed_weight_gives_back_its_elements),
        TEST(many_rows_and_a_long_k_have_the_bits_of_few),
        TEST(a_nan_row_does_not_touch_its_neighbours),
        TEST(layernorm_has_the_bits_of_the_reference),
        TEST(layernorm_s_steps_have_the_bits_of_the_reference),
        TEST(gelu_add_embed_and_gather_have_the_bits_of_the_reference),
        TEST(attention_has_the_bits_of_the_reference_in_any_chunks),
        TEST(sequences_that_share_a_pass_do_not_see_each_other),
        TEST(rows_behind_a_long_past_have_the_bits_of_the_reference),
        TEST(attention_by_hand_has_the_bits_of_the_fused_kernel),
        TEST(the_cache_gives_back_keys_and_values),
        TEST(memory_is_zeroed_aligned_and_comes_back_row_major),
        TEST(an_unknown_instruction_set_is_refused),
        TEST(an_unknown_way_to_store_weights_is_refused),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
