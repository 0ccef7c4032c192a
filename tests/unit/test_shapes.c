/* protocol/shapes.c: torch's rules, and each refusal with its sentence. */
#include <setjmp.h>
#include <stdio.h>
#include <cmocka.h>

#include "../../protocol/shapes.h"
#include "../tiny_graph.h"

static struct tiny_graph t;

static int set_up(void **state)
{
    (void)state;
    tiny_open(&t);
    tiny_invoke(&t, 1, 10);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    arena_free(&t.arena);
    return 0;
}

static void is(int node, const char *answer)
{
    assert_string_equal(tiny_answer(&t, node), answer);
    t.graph.n_nodes = 0;
}

/* x of this dtype and shape as node 0, then what the op makes of it. */
#define GIVES(answer, dtype, shape, op, ...)               \
    do {                                                   \
        t.graph.n_nodes = 0;                               \
        tiny_shape(&t, dtype, UNWRAP shape);               \
        is(tiny_op(&t, op, NODE(0), __VA_ARGS__), answer); \
    } while (0)
#define UNWRAP(...) __VA_ARGS__

/* The same with two operands. */
#define PAIR_GIVES(answer, dtype, shape, dtype_y, shape_y, op) \
    do {                                                       \
        t.graph.n_nodes = 0;                                   \
        tiny_shape(&t, dtype, UNWRAP shape);                   \
        tiny_shape(&t, dtype_y, UNWRAP shape_y);               \
        is(tiny_op(&t, op, NODE(0), NODE(1)), answer);         \
    } while (0)

static void index_gives(const char *index, const char *answer)
{
    tiny_shape(&t, DT_f32, 2, 12, 5);
    is(tiny_getitem(&t, 0, index), answer);
}

static void operands_broadcast(void **state)
{
    (void)state;
    PAIR_GIVES("float32 (1, 10, 768)", DT_f32, (1, 10, 768), DT_f32, (768), add);
    PAIR_GIVES("float32 (4, 3)", DT_f32, (4, 1), DT_f32, (1, 3), mul);
    PAIR_GIVES("float32 (2, 0)", DT_f32, (2, 1), DT_f32, (1, 0), add);
    PAIR_GIVES("shape nodes[2].args[1]: add of (1, 10, 768) and (1, 10, 64)", DT_f32, (1, 10, 768),
               DT_f32, (1, 10, 64), add);
    GIVES("float32 (3,)", DT_f32, (3), add, INT(1));
}

static void dtypes_promote_as_in_torch(void **state)
{
    (void)state;
    PAIR_GIVES("float32 (3,)", DT_i64, (3), DT_f32, (3), add);
    PAIR_GIVES("int64 (3,)", DT_i64, (3), DT_bool, (3), add);
    PAIR_GIVES("bool (3,)", DT_bool, (3), DT_bool, (3), add);
    PAIR_GIVES("float32 (3,)", DT_i64, (3), DT_i64, (3), div);
    PAIR_GIVES("bool (3,)", DT_i64, (3), DT_f32, (3), lt);
    GIVES("float32 (3,)", DT_i64, (3), mul, FLOAT(2));
    GIVES("float32 (3,)", DT_f32, (3), mul, INT(2));
    GIVES("int64 (3,)", DT_bool, (3), mul, INT(2));
    GIVES("float32 (3,)", DT_i64, (3), exp, ABSENT);
    GIVES("bool (3,)", DT_f32, (3), isnan, ABSENT);
}

static void ops_refuse_the_dtypes_that_torch_refuses(void **state)
{
    (void)state;
    GIVES("type nodes[1].args[0]: neg of bool is not defined: convert it with to(int64), or use "
          "the logical_ and bitwise_ ops",
          DT_bool, (3), neg, ABSENT);
    PAIR_GIVES("type nodes[2].args[0]: sub of bool is not defined: convert it with to(int64), or "
               "use the logical_ and bitwise_ ops",
               DT_bool, (3), DT_bool, (3), sub);
    PAIR_GIVES("type nodes[2].args[1]: bitwise_and of float32 is not defined: it takes int64 and "
               "bool",
               DT_i64, (3), DT_f32, (3), bitwise_and);
    GIVES("type nodes[1].args[0]: mean of int64 is not defined: convert it with to(float32)",
          DT_i64, (3), mean, ABSENT);
    GIVES("type nodes[1].args[0]: softmax of bool is not defined: convert it with to(float32)",
          DT_bool, (3), softmax, INT(0));
    PAIR_GIVES("type nodes[2].args[1]: matmul of int64 is not defined: convert it with to(float32)",
               DT_f32, (3, 4), DT_i64, (4, 3), matmul);
}

static void an_index_picks_as_in_python(void **state)
{
    (void)state;
    index_gives("[0]", "float32 (12, 5)");
    index_gives("[-1, -12]", "float32 (5,)");
    index_gives("[:, 7]", "float32 (2, 5)");
    index_gives("[..., 3:5]", "float32 (2, 12, 2)");
    index_gives("[0, ..., 1]", "float32 (12,)");
    index_gives("[...]", "float32 (2, 12, 5)");
    index_gives("[None, :, None]", "float32 (1, 2, 1, 12, 5)");
    index_gives("[:, 2:100]", "float32 (2, 10, 5)");
    index_gives("[:, -100:3]", "float32 (2, 3, 5)");
    index_gives("[:, 5:2]", "float32 (2, 0, 5)");
    index_gives("[:, ::5]", "float32 (2, 3, 5)");
    index_gives("[:, 1::4611686018427387904]", "float32 (2, 1, 5)");
    index_gives("[0, 0, 0]", "float32 ()");
    index_gives("[]", "float32 (2, 12, 5)");
    index_gives("[0, 0, 0, ...]", "float32 ()");
}

static void an_index_out_of_range_is_refused(void **state)
{
    (void)state;
    index_gives("[:, 12]",
                "index nodes[1].args[1]: index 12 is out of range for dimension 1 of size 12");
    index_gives("[-3]",
                "index nodes[1].args[1]: index -3 is out of range for dimension 0 of size 2");
    index_gives("[0, 0, 0, 0]",
                "index nodes[1].args[1]: too many indices for (2, 12, 5): 4 for 3 dimensions");
    index_gives("[..., 0, ...]",
                "index nodes[1].args[1]: an index can have only one ellipsis (...)");
    index_gives("[::-1]",
                "value nodes[1].args[1]: a slice's step must be at least 1, as in torch: it is -1");
    index_gives("[None, None, None, None, None, None]",
                "limit nodes[1].args[1]: getitem makes a tensor of 9 dimensions: the limit is 8");
}

static void dimensions_move(void **state)
{
    (void)state;
    GIVES("float32 (4, 3, 2)", DT_f32, (2, 3, 4), transpose, INT(0), INT(-1));
    GIVES("float32 (4, 2, 3)", DT_f32, (2, 3, 4), permute, INTS(2, 0, -2));
    GIVES("float32 (2, 3, 1, 4)", DT_f32, (2, 3, 4), unsqueeze, INT(-2));
    GIVES("float32 (2, 3)", DT_f32, (1, 2, 1, 3), squeeze, ABSENT);
    GIVES("float32 (2, 1, 3)", DT_f32, (1, 2, 1, 3), squeeze, INT(0));
    GIVES("float32 (1, 2, 1, 3)", DT_f32, (1, 2, 1, 3), squeeze, INT(1));
    GIVES("index nodes[1].args[2]: transpose: dimension 3 is out of range for (2, 3, 4), whose "
          "dimensions are -3 to 2",
          DT_f32, (2, 3, 4), transpose, INT(0), INT(3));
    GIVES("shape nodes[1].args[1]: permute of (2, 3, 4) needs each of its 3 dimensions once: 2 "
          "are given",
          DT_f32, (2, 3, 4), permute, INTS(2, 0));
    GIVES("value nodes[1].args[1]: permute: dimension 2 appears twice in dims", DT_f32, (2, 3, 4),
          permute, INTS(2, 0, -1));
}

static void a_diagonal_and_windows_are_views(void **state)
{
    (void)state;
    GIVES("float32 (5, 2)", DT_f32, (2, 12, 5), diagonal, ABSENT);
    GIVES("float32 (2, 4)", DT_f32, (2, 12, 5), diagonal, INT(1), INT(-2), INT(-1));
    GIVES("float32 (2, 2)", DT_f32, (2, 12, 5), diagonal, INT(-10), INT(1), INT(2));
    GIVES("float32 (2, 0)", DT_f32, (2, 12, 5), diagonal, INT(INT64_MIN), INT(1), INT(2));
    GIVES("value nodes[1].args[3]: diagonal: dim1 and dim2 are both 1", DT_f32, (2, 12, 5),
          diagonal, INT(0), INT(1), INT(-2));
    GIVES("index nodes[1].args[3]: diagonal: dimension 1 is out of range for (3,), whose "
          "dimensions are -1 to 0",
          DT_f32, (3), diagonal, ABSENT);
    GIVES("float32 (2, 3, 5, 4)", DT_f32, (2, 12, 5), unfold, INT(1), INT(4), INT(4));
    GIVES("float32 (2, 9, 5, 4)", DT_f32, (2, 12, 5), unfold, INT(-2), INT(4), INT(1));
    GIVES("float32 (2, 1, 5, 4)", DT_f32, (2, 12, 5), unfold, INT(1), INT(4), INT(INT64_MAX));
    GIVES("value nodes[1].args[2]: unfold: windows of 13 do not fit into dimension 1 of (2, 12, 5)",
          DT_f32, (2, 12, 5), unfold, INT(1), INT(13), INT(1));
    GIVES("value nodes[1].args[3]: unfold: step must be at least 1: it is 0", DT_f32, (2, 12, 5),
          unfold, INT(1), INT(2), INT(0));
    is(tiny_op(&t, unfold, FLOAT(1), INT(0), INT(1), INT(1)), "float32 (1,)");
}

static void a_view_is_a_reshape_that_does_not_copy(void **state)
{
    (void)state;
    GIVES("float32 (2, 60)", DT_f32, (2, 12, 5), view, INTS(2, -1));
    GIVES("shape nodes[1].args[1]: view of (2, 12, 5), 120 elements, to (7,)", DT_f32, (2, 12, 5),
          view, INTS(7));
    tiny_shape(&t, DT_f32, 3, 4);
    tiny_op(&t, transpose, NODE(0), INT(0), INT(1));
    is(tiny_op(&t, view, NODE(1), INTS(12)),
       "shape nodes[2].args[1]: view of (4, 3) as (12,): no strides walk its elements in that "
       "order, use reshape, which copies");
}

static void reshape_keeps_the_count(void **state)
{
    (void)state;
    GIVES("float32 (4, 6)", DT_f32, (2, 3, 4), reshape, INTS(4, -1));
    GIVES("float32 (24,)", DT_f32, (2, 3, 4), reshape, INT(-1));
    GIVES("float32 (0, 7)", DT_f32, (2, 0), reshape, INTS(0, 7));
    GIVES("float32 (2, 12)", DT_f32, (2, 3, 4), flatten, INT(1));
    GIVES("float32 (6, 4)", DT_f32, (2, 3, 4), flatten, INT(0), INT(-2));
    GIVES("float32 (24,)", DT_f32, (2, 3, 4), flatten, ABSENT);
    GIVES("shape nodes[1].args[1]: reshape of (2, 3, 4), 24 elements, to (5, -1)", DT_f32,
          (2, 3, 4), reshape, INTS(5, -1));
    GIVES("shape nodes[1].args[1]: reshape of (2, 3, 4), 24 elements, to (25,)", DT_f32, (2, 3, 4),
          reshape, INTS(25));
    GIVES("value nodes[1].args[1]: reshape: -2 is not a size; one size may be -1, the others are "
          "0 or more",
          DT_f32, (2, 3, 4), reshape, INTS(-1, -2));
    GIVES("value nodes[1].args[1]: reshape to (0, -1): beside a size of 0, -1 could be anything",
          DT_f32, (2, 0), reshape, INTS(0, -1));
    GIVES("shape nodes[1].args[1]: reshape of (2, 3, 4), 24 elements, to (4611686018427387904, 8)",
          DT_f32, (2, 3, 4), reshape, INTS(INT64_C(1) << 62, 8));
    GIVES("value nodes[1].args[2]: flatten of (2, 3, 4): start_dim 2 is behind end_dim 1", DT_f32,
          (2, 3, 4), flatten, INT(2), INT(1));
}

static void a_scalar_counts_as_one_dimension(void **state)
{
    (void)state;
    is(tiny_op(&t, flatten, FLOAT(1)), "float32 (1,)");
    is(tiny_op(&t, sum, INT(1), INT(-1)), "int64 ()");
    is(tiny_op(&t, softmax, FLOAT(1), INT(0)), "float32 ()");
    is(tiny_op(&t, unsqueeze, BOOL(true), INT(-1)), "bool (1,)");
    is(tiny_op(&t, reshape, FLOAT(1), INTS(1, 1)), "float32 (1, 1)");
    is(tiny_op(&t, mean, FLOAT(1), INT(1)),
       "index nodes[0].args[1]: mean: dimension 1 is out of range for (), whose dimensions are -1 "
       "to 0");
}

static void expand_repeats_only_ones(void **state)
{
    (void)state;
    GIVES("float32 (5, 3, 4)", DT_f32, (3, 1), expand, INTS(5, -1, 4));
    GIVES("float32 (3, 0)", DT_f32, (3, 1), expand, INTS(3, 0));
    GIVES("shape nodes[1].args[1]: expand of (3, 1) to (4, 4): only dimensions of size 1 can "
          "grow, and new ones come first",
          DT_f32, (3, 1), expand, INTS(4, 4));
    GIVES("shape nodes[1].args[1]: expand of (3, 1) to (-1, 3, 1): only dimensions of size 1 can "
          "grow, and new ones come first",
          DT_f32, (3, 1), expand, INTS(-1, 3, 1));
    GIVES("limit nodes[1]: expand makes a float32 tensor of shape (1099511627776, 3, 1), 1.32e+13 "
          "bytes: the limit is 1073741824",
          DT_f32, (3, 1), expand, INTS(INT64_C(1) << 40, 3, 1));
    GIVES("limit nodes[1]: expand makes a float32 tensor of shape (0, 4611686018427387904), "
          "1.84e+19 bytes with its zeros as ones: the limit is 1073741824",
          DT_f32, (1), expand, INTS(0, INT64_C(1) << 62));
    GIVES("limit nodes[1]: expand makes a tensor of shape (4611686018427387904, 3, 4), more "
          "elements than can be counted",
          DT_f32, (3, 1), expand, INTS(INT64_C(1) << 62, 3, 4));
    GIVES("limit nodes[1]: expand makes a tensor of 9 dimensions: the limit is 8", DT_f32, (1),
          expand, INTS(1, 1, 1, 1, 1, 1, 1, 1, 1));
}

static void joins(const char *answer, enum op op, struct arg list, struct arg dim)
{
    tiny_shape(&t, DT_f32, 2, 3);
    tiny_shape(&t, DT_i64, 2, 3);
    tiny_shape(&t, DT_f32, 2, 4);
    is(tiny_add(&t, op, (struct arg[PARAMS_MAX]){list, dim}), answer);
}

static void lists_are_joined(void **state)
{
    (void)state;
    joins("float32 (4, 3)", OP_cat, (struct arg)NODES(0, 1), (struct arg)ABSENT);
    joins("int64 (2, 6)", OP_cat, (struct arg)NODES(1, 1), (struct arg)INT(-1));
    joins("float32 (2, 10)", OP_cat, (struct arg)NODES(0, 1, 2), (struct arg)INT(1));
    joins("float32 (2, 2, 3)", OP_stack, (struct arg)NODES(0, 1), (struct arg)ABSENT);
    joins("float32 (2, 3, 2)", OP_stack, (struct arg)NODES(0, 1), (struct arg)INT(-1));
    joins("shape nodes[3].args[0][2]: cat of (2, 3) and, at 2, (2, 4)", OP_cat,
          (struct arg)NODES(0, 1, 2), (struct arg)INT(0));
    joins("shape nodes[3].args[0][1]: stack of (2, 3) and, at 1, (2, 4)", OP_stack,
          (struct arg)NODES(0, 2), (struct arg)INT(0));
    joins("index nodes[3].args[1]: stack: dimension 3 is out of range for (2, 3), whose "
          "dimensions are -3 to 2",
          OP_stack, (struct arg)NODES(0, 1), (struct arg)INT(3));
    joins("value nodes[3].args[0]: cat of an empty list", OP_cat, (struct arg){.kind = ARG_nodes},
          (struct arg)ABSENT);
}

static void logsumexp_gives_floats_of_what_is_left(void **state)
{
    (void)state;
    GIVES("float32 (2, 5)", DT_f32, (2, 12, 5), logsumexp, INT(1));
    GIVES("float32 (2, 1, 1)", DT_i64, (2, 12, 5), logsumexp, INTS(-1, 1), BOOL(true));
    GIVES("float32 (2,)", DT_bool, (2, 0), logsumexp, INT(1));
    GIVES("index nodes[1].args[1]: logsumexp: dimension 3 is out of range for (2, 12, 5), whose "
          "dimensions are -3 to 2",
          DT_f32, (2, 12, 5), logsumexp, INT(3));
}

static void scans_and_products_count_bools(void **state)
{
    (void)state;
    GIVES("float32 (2, 12, 5)", DT_f32, (2, 12, 5), cumsum, INT(1));
    GIVES("int64 (2, 0)", DT_bool, (2, 0), cumprod, INT(-1));
    GIVES("int64 (2,)", DT_bool, (2, 12), prod, INT(-1));
    GIVES("float32 (1, 1)", DT_f32, (2, 0), prod, ABSENT, BOOL(true));
    GIVES("index nodes[1].args[1]: cumsum: dimension 2 is out of range for (2, 5), whose "
          "dimensions are -2 to 1",
          DT_f32, (2, 5), cumsum, INT(2));
}

static void whole_numbers_are_shifted_and_divided_as_torch_does(void **state)
{
    (void)state;
    GIVES("int64 (3,)", DT_i64, (3), bitwise_left_shift, INT(2));
    GIVES("int64 (3,)", DT_bool, (3), bitwise_right_shift, INT(1));
    GIVES("int64 (3,)", DT_i64, (3), random, INT(-1));
    GIVES("type nodes[1].args[0]: bitwise_left_shift of float32 is not defined: it takes int64",
          DT_f32, (3), bitwise_left_shift, INT(2));
    GIVES("type nodes[1].args[0]: bitwise_left_shift of bool is not defined: convert it with "
          "to(int64), or use the logical_ and bitwise_ ops",
          DT_bool, (3), bitwise_left_shift, BOOL(true));
    GIVES("value nodes[1].args[1]: pow of int64 to -2: a negative power of an integer is none, "
          "convert it with to(float32)",
          DT_i64, (3), pow, INT(-2));
    GIVES("float32 (3,)", DT_f32, (3), pow, INT(-2));
    GIVES("value nodes[1].args[1]: fmod of int64 by 0", DT_i64, (3), fmod, INT(0));
    GIVES("float32 (3,)", DT_i64, (3), div, INT(0));
}

static void topk_shortens_a_dimension(void **state)
{
    (void)state;
    GIVES("float32 (2, 12, 3)", DT_f32, (2, 12, 5), topk_values, INT(3));
    GIVES("int64 (2, 4, 5)", DT_f32, (2, 12, 5), topk_indices, INT(4), INT(-2), BOOL(false));
    GIVES("int64 (2, 0)", DT_i64, (2, 5), topk_values, INT(0));
    GIVES("value nodes[1].args[1]: topk_values: k is 6, and dimension 2 of (2, 12, 5) gives 0 to 5",
          DT_f32, (2, 12, 5), topk_values, INT(6));
    GIVES("value nodes[1].args[1]: topk_indices: k is -1, and dimension 0 of (2, 12, 5) gives 0 "
          "to 2",
          DT_f32, (2, 12, 5), topk_indices, INT(-1), INT(0));
    GIVES("type nodes[1].args[0]: topk_values of bool is not defined: convert it with to(int64)",
          DT_bool, (3), topk_values, INT(1));
    is(tiny_op(&t, topk_values, FLOAT(2), INT(1)), "float32 ()");
    is(tiny_op(&t, topk_values, FLOAT(2), INT(0)),
       "value nodes[0].args[1]: topk_values: k is 0, and dimension 0 of () gives 1 to 1");
}

static void gather_has_the_shape_of_its_index(void **state)
{
    (void)state;
#define PICKS(answer, shape, dim, dtype, shape_of_index, op, ...)  \
    do {                                                      \
        tiny_shape(&t, DT_f32, UNWRAP shape);                 \
        tiny_shape(&t, dtype, UNWRAP shape_of_index);         \
        is(tiny_op(&t, op, NODE(0), INT(dim), NODE(1), __VA_ARGS__), answer); \
    } while (0)
    PICKS("float32 (2, 7, 1)", (2, 12, 5), 1, DT_i64, (2, 7, 1), gather, ABSENT);
    PICKS("float32 (2, 3, 5)", (2, 12, 5), 1, DT_i64, (3), index_select, ABSENT);
    PICKS("float32 (2, 12, 0)", (2, 12, 5), -1, DT_i64, (0), index_select, ABSENT);
    PICKS("shape nodes[2].args[2]: gather of (2, 12, 5) with an index of (2, 12, 6): both have as "
          "many dimensions, and the index is no larger but in dimension 1",
          (2, 12, 5), 1, DT_i64, (2, 12, 6), gather, ABSENT);
    PICKS("shape nodes[2].args[2]: gather of (2, 12, 5) with an index of (12,): both have as many "
          "dimensions, and the index is no larger but in dimension 2",
          (2, 12, 5), 2, DT_i64, (12), gather, ABSENT);
    PICKS("shape nodes[2].args[2]: index_select of (2, 12) with an index of (2, 2): it takes one "
          "dimension",
          (2, 12), 0, DT_i64, (2, 2), index_select, ABSENT);
    PICKS("type nodes[2].args[2]: gather needs an index of int64: this is bool", (2, 3), 0,
          DT_bool, (2, 3), gather, ABSENT);
    PICKS("type nodes[2].args[2]: index_select needs an index of int64: this is float32", (2, 3), 0,
          DT_f32, (2), index_select, ABSENT);
    PICKS("index nodes[2].args[1]: gather: dimension 2 is out of range for (2, 3), whose "
          "dimensions are -2 to 1",
          (2, 3), 2, DT_i64, (2, 3), gather, ABSENT);
    PICKS("float32 (2, 12, 5)", (2, 12, 5), 1, DT_i64, (2, 40, 3), scatter, FLOAT(1));
    PICKS("float32 (2, 12, 5)", (2, 12, 5), -1, DT_i64, (2, 12, 5), scatter_add, NODE(0));
    PICKS("shape nodes[2].args[2]: scatter of (2, 3) into (2, 3) with an index of (2, 4): all have "
          "as many dimensions, and the index is no larger but in dimension 0 of the target",
          (2, 3), 0, DT_i64, (2, 4), scatter, NODE(0));
    PICKS("type nodes[2].args[3]: scatter_add of int64 into float32: convert it with to()", (2, 3),
          0, DT_i64, (2, 3), scatter_add, NODE(1));
    PICKS("type nodes[2].args[2]: scatter needs an index of int64: this is bool", (2, 3), 0,
          DT_bool, (2, 3), scatter, FLOAT(1));
#undef PICKS
    GIVES("int64 (2, 3)", DT_i64, (2, 3), wrap_index, INT(4));
    GIVES("type nodes[1].args[0]: wrap_index needs an index of int64: this is float32", DT_f32,
          (2, 3), wrap_index, INT(4));
    GIVES("value nodes[1].args[1]: wrap_index: a dimension has no size -1", DT_i64, (2, 3),
          wrap_index, INT(-1));
    is(tiny_op(&t, index_select, FLOAT(1), INT(0), INT(0)), "float32 ()");
    is(tiny_op(&t, index_select, FLOAT(1), INT(0), NODE(tiny_shape(&t, DT_i64, 2))),
       "shape nodes[1].args[2]: index_select of () with an index of (2,): it takes one dimension, "
       "of one element");
}

static void a_constant_index_out_of_range_is_refused(void **state)
{
    (void)state;
    const int64_t places[] = {0, 4, 2, 5, 1, -1};
    tiny_shape(&t, DT_f32, 2, 5);
    tiny_constant(&t, DT_i64, 2, (int64_t[]){2, 3}, places);
    is(tiny_op(&t, gather, NODE(0), INT(1), NODE(1)),
       "index nodes[2].args[2]: gather: the index at (1, 0) is 5, which is out of range for "
       "dimension 1 of size 5");
    tiny_shape(&t, DT_f32, 2, 5);
    tiny_constant(&t, DT_i64, 1, (int64_t[]){6}, places);
    tiny_getitem(&t, 1, "[4:]");
    is(tiny_op(&t, index_select, NODE(0), INT(-1), NODE(2)),
       "index nodes[3].args[2]: index_select: the index at (1,) is -1, which is out of range for "
       "dimension 1 of size 5");
    tiny_shape(&t, DT_f32, 0, 5);
    is(tiny_op(&t, index_select, NODE(0), INT(0), INT(0)),
       "index nodes[1].args[2]: index_select: the index at () is 0, which is out of range for "
       "dimension 0 of size 0");
    tiny_shape(&t, DT_f32, 2, 5);
    tiny_constant(&t, DT_i64, 2, (int64_t[]){2, 3}, places);
    is(tiny_op(&t, scatter, NODE(0), INT(1), NODE(1), FLOAT(1)),
       "index nodes[2].args[2]: scatter: the index at (1, 0) is 5, which is out of range for "
       "dimension 1 of size 5");
    tiny_constant(&t, DT_i64, 2, (int64_t[]){2, 3}, places);
    is(tiny_op(&t, wrap_index, NODE(0), INT(5)),
       "index nodes[1].args[0]: wrap_index: the index at (1, 0) is 5, which is out of range for a "
       "dimension of size 5");
    tiny_constant(&t, DT_i64, 2, (int64_t[]){2, 3}, places);
    is(tiny_op(&t, wrap_index, NODE(0), INT(6)), "int64 (2, 3)");
    /* What has changed since is looked at when it is used. */
    tiny_shape(&t, DT_f32, 2, 5);
    tiny_constant(&t, DT_i64, 1, (int64_t[]){6}, places);
    tiny_op(&t, set, NODE(1), INT(0));
    is(tiny_op(&t, index_select, NODE(0), INT(1), NODE(1)), "float32 (2, 6)");
}

static void reductions_reduce(void **state)
{
    (void)state;
    GIVES("float32 ()", DT_f32, (2, 3, 4), sum, ABSENT);
    GIVES("float32 (3,)", DT_f32, (2, 3, 4), mean, INTS(0, -1));
    GIVES("float32 (1, 3, 1)", DT_f32, (2, 3, 4), norm, INTS(0, -1), BOOL(true));
    GIVES("int64 (2, 4)", DT_bool, (2, 3, 4), sum, INT(1));
    GIVES("int64 (2, 3)", DT_f32, (2, 3, 4), argmax, INT(-1));
    GIVES("bool (2, 3)", DT_bool, (2, 3, 4), max, INT(-1));
    GIVES("float32 (2,)", DT_f32, (2, 0), sum, INT(1));
    GIVES("shape nodes[1].args[0]: max of (2, 0) over dimension 1, which has no elements", DT_f32,
          (2, 0), max, INT(1));
    GIVES("value nodes[1].args[1]: sum: dimension 1 appears twice in dim", DT_f32, (2, 3), sum,
          INTS(1, -1));
    GIVES("index nodes[1].args[1]: sum: dimension 3 is out of range for (2, 3, 4), whose "
          "dimensions are -3 to 2",
          DT_f32, (2, 3, 4), sum, INT(3));
}

static void matmul_takes_vectors_matrices_and_batches(void **state)
{
    (void)state;
    PAIR_GIVES("float32 ()", DT_f32, (4), DT_f32, (4), matmul);
    PAIR_GIVES("float32 (3,)", DT_f32, (3, 4), DT_f32, (4), matmul);
    PAIR_GIVES("float32 (3,)", DT_f32, (4), DT_f32, (4, 3), matmul);
    PAIR_GIVES("float32 (2, 5, 3, 6)", DT_f32, (2, 1, 3, 4), DT_f32, (5, 4, 6), matmul);
    PAIR_GIVES("float32 (2, 3)", DT_f32, (2, 3, 4), DT_f32, (4), matmul);
    PAIR_GIVES("shape nodes[2].args[1]: matmul of (3, 4) and (3, 4)", DT_f32, (3, 4), DT_f32,
               (3, 4), matmul);
    PAIR_GIVES("shape nodes[2].args[1]: matmul of (2, 3, 4) and (5, 4, 3)", DT_f32, (2, 3, 4),
               DT_f32, (5, 4, 3), matmul);
    GIVES("shape nodes[1].args[1]: matmul of (3,) and ()", DT_f32, (3), matmul, FLOAT(1));
}

static void where_needs_a_mask_of_bool(void **state)
{
    (void)state;
    GIVES("float32 (2, 3)", DT_bool, (2, 3), where, FLOAT(1), INT(0));
    GIVES("type nodes[1].args[0]: where needs a mask of bool: this is float32", DT_f32, (2, 3),
          where, FLOAT(1), INT(0));
    tiny_shape(&t, DT_bool, 2, 3);
    tiny_shape(&t, DT_f32, 4);
    is(tiny_op(&t, where, NODE(0), NODE(1), INT(0)),
       "shape nodes[2].args[0]: where with a mask of (2, 3) over (4,)");
}

/* What a module makes of zeros of this dtype and shape. */
#define APPLIED(answer, dtype, shape, path)      \
    do {                                         \
        t.graph.n_nodes = 0;                     \
        tiny_shape(&t, dtype, UNWRAP shape);     \
        is(tiny_apply(&t, path, 0), answer);     \
    } while (0)

static void the_models_layers_need_rows_of_their_width(void **state)
{
    (void)state;
    APPLIED("float32 (2, 5, 11)", DT_f32, (2, 5, 8), "lm_head");
    APPLIED("float32 (8,)", DT_f32, (8), "transformer.ln_f");
    APPLIED("float32 (0, 8)", DT_f32, (0, 8), "transformer.h.0.ln_2");
    APPLIED("float32 (3, 24)", DT_f32, (3, 8), "transformer.h.2.attn.c_attn");
    APPLIED("float32 (3, 8)", DT_f32, (3, 8), "transformer.h.-1.attn.c_proj");
    APPLIED("float32 (3, 16)", DT_f32, (3, 8), "transformer.h.1.mlp.c_fc");
    APPLIED("float32 (3, 8)", DT_f32, (3, 16), "transformer.h.1.mlp.c_proj");
    APPLIED("shape nodes[1].args[0]: lm_head of (8, 7): the last dimension must be 8", DT_f32,
            (8, 7), "lm_head");
    APPLIED("shape nodes[1].args[0]: transformer.h.2.mlp.c_proj of (3, 8): the last dimension must "
            "be 16",
            DT_f32, (3, 8), "transformer.h.-1.mlp.c_proj");
    APPLIED("shape nodes[1].args[0]: transformer.h.0.ln_1 of (): the last dimension must be 8",
            DT_f32, (), "transformer.h.0.ln_1");
    APPLIED("type nodes[1].args[0]: transformer.ln_f of int64 is not defined: convert it with "
            "to(float32)",
            DT_i64, (8), "transformer.ln_f");
}

static void a_tensor_past_the_limit_is_refused(void **state)
{
    (void)state;
    tiny_shape(&t, DT_f32, 40000, 1);
    tiny_shape(&t, DT_f32, 1, 40000);
    is(tiny_op(&t, add, NODE(0), NODE(1)),
       "limit nodes[2]: add makes a float32 tensor of shape (40000, 40000), 6.4e+09 bytes: the "
       "limit is 1073741824");
}

static void a_shorthand_is_named_as_the_request_names_it(void **state)
{
    (void)state;
    tiny_shape(&t, DT_f32, 2);
    const int i = tiny_getitem(&t, 0, "[5]");
    t.graph.nodes[i].wire = -1;
    t.graph.nodes[i].place = "save.last";
    assert_false(tiny_plan(&t));
    assert_string_equal(t.error.where, "save.last");
    assert_int_equal(t.error.node, -1);
}

/* View arithmetic against a model that only knows lists of elements. */

enum {
    ELEMENTS_MAX = 4096
};

struct list {
    int rank;
    int64_t shape[RANK_MAX];
    int64_t element[ELEMENTS_MAX]; /* where each lies, in row-major order */
    bool copied;
};

static uint64_t seed;

static int64_t pick(int64_t n)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (int64_t)((seed >> 33) % (uint64_t)n);
}

static int64_t list_count(const struct list *x)
{
    int64_t count = 1;
    for (int i = 0; i < x->rank; i++)
        count *= x->shape[i];
    return count;
}

static int64_t list_at(const struct list *x, const int64_t *at)
{
    int64_t i = 0;
    for (int d = 0; d < x->rank; d++)
        i = i * x->shape[d] + at[d];
    return x->element[i];
}

static void unravel(int64_t *at, int64_t i, int rank, const int64_t *shape)
{
    for (int d = rank - 1; d >= 0; d--) {
        at[d] = i % shape[d];
        i /= shape[d];
    }
}

static int64_t view_at(const struct view *v, const int64_t *at)
{
    int64_t offset = v->offset;
    for (int d = 0; d < v->rank; d++)
        offset += at[d] * v->stride[d];
    return offset;
}

static void same_elements(const struct list *x, const struct view *v)
{
    assert_int_equal(x->rank, v->rank);
    for (int d = 0; d < x->rank; d++)
        assert_int_equal(x->shape[d], v->shape[d]);
    for (int64_t i = 0; i < list_count(x); i++) {
        int64_t at[RANK_MAX];
        unravel(at, i, x->rank, x->shape);
        assert_int_equal(x->element[i], view_at(v, at));
    }
}

/* out[at] = x[source(at)], by a map from the dimensions of out to those of x. */
static void list_map(struct list *out, const struct list *x, const int *from, const int64_t *first,
                     const int64_t *step)
{
    for (int64_t i = 0; i < list_count(out); i++) {
        int64_t at[RANK_MAX], source[RANK_MAX];
        unravel(at, i, out->rank, out->shape);
        for (int d = 0; d < x->rank; d++)
            source[d] = first[d] + (from[d] < 0 ? 0 : at[from[d]] * step[d]);
        out->element[i] = list_at(x, source);
    }
}

static void random_getitem(struct list *out, const struct list *x, struct node *n)
{
    struct index *index = ARENA_ARRAY(&t.arena, struct index, x->rank + 1);
    int from[RANK_MAX];
    int64_t first[RANK_MAX], step[RANK_MAX];
    n->op = OP_getitem;
    for (int d = 0; d < x->rank; d++) {
        const int64_t size = x->shape[d];
        first[d] = pick(size);
        step[d] = 1 + pick(3);
        from[d] = -1;
        if (pick(3) == 0) {
            index[d] = (struct index){.kind = INDEX_int, .start = first[d] - size * pick(2)};
            continue;
        }
        from[d] = out->rank;
        index[d] =
            (struct index){INDEX_slice, true, pick(2), first[d] - size * pick(2), 0, step[d]};
        const int64_t stop = index[d].has_stop ? first[d] + 1 + pick(size - first[d]) : size;
        index[d].stop = stop;
        out->shape[out->rank++] = (stop - first[d] + step[d] - 1) / step[d];
    }
    list_map(out, x, from, first, step);
    n->args[1] = (struct arg){.kind = ARG_index, .count = x->rank, .index = index};
}

static void random_permute(struct list *out, const struct list *x, struct node *n)
{
    int64_t *dims = ARENA_ARRAY(&t.arena, int64_t, RANK_MAX);
    const int64_t first[RANK_MAX] = {0}, step[RANK_MAX] = {1, 1, 1, 1, 1, 1, 1, 1};
    int from[RANK_MAX];
    for (int d = 0; d < x->rank; d++)
        dims[d] = d;
    for (int d = x->rank - 1; d > 0; d--) {
        const int k = (int)pick(d + 1);
        const int64_t swapped = dims[d];
        dims[d] = dims[k];
        dims[k] = swapped;
    }
    out->rank = x->rank;
    for (int d = 0; d < x->rank; d++) {
        out->shape[d] = x->shape[dims[d]];
        from[dims[d]] = d;
    }
    list_map(out, x, from, first, step);
    n->op = OP_permute;
    n->args[1] = (struct arg){.kind = ARG_ints, .count = x->rank, .ints = dims};
}

static void random_reshape(struct list *out, const struct list *x, struct node *n)
{
    int64_t *shape = ARENA_ARRAY(&t.arena, int64_t, RANK_MAX), rest = list_count(x);
    while (rest > 1 && out->rank < 5) {
        int64_t size = 1 + pick(rest < 7 ? rest : 7);
        while (rest % size)
            size--;
        shape[out->rank++] = size;
        rest /= size;
    }
    shape[out->rank++] = rest;
    memcpy(out->shape, shape, sizeof out->shape);
    memcpy(out->element, x->element, sizeof out->element);
    if (pick(2))
        shape[pick(out->rank)] = -1;
    n->op = OP_reshape;
    n->args[1] = (struct arg){.kind = ARG_ints, .count = out->rank, .ints = shape};
}

static void random_expand(struct list *out, const struct list *x, struct node *n)
{
    int64_t *shape = ARENA_ARRAY(&t.arena, int64_t, RANK_MAX);
    const int extra = x->rank < 5 ? (int)pick(2) : 0;
    const int64_t first[RANK_MAX] = {0};
    int from[RANK_MAX];
    int64_t step[RANK_MAX];
    out->rank = x->rank + extra;
    for (int d = 0; d < out->rank; d++) {
        const bool grows = d < extra || x->shape[d - extra] == 1;
        shape[d] = grows ? 1 + pick(3) : -1;
        out->shape[d] = grows ? shape[d] : x->shape[d - extra];
        if (d >= extra) {
            from[d - extra] = d;
            step[d - extra] = !grows;
        }
    }
    n->op = OP_expand;
    n->args[1] = (struct arg){.kind = ARG_ints, .count = out->rank, .ints = shape};
    if (list_count(out) <= ELEMENTS_MAX)
        list_map(out, x, from, first, step);
}

typedef void step_fn(struct list *out, const struct list *x, struct node *n);

static void view_arithmetic_is_right(void **state)
{
    (void)state;
    static step_fn *const steps[] = {random_getitem, random_permute, random_reshape, random_expand};
    static struct list x, next;
    int n_copies = 0, n_views = 0;
    for (seed = 1; n_views < 20000; seed++) {
        struct value v = {.view = view_of(3, (int64_t[]){2 + pick(4), 1 + pick(6), 1 + pick(9)})};
        x = (struct list){.rank = 3};
        memcpy(x.shape, v.view.shape, sizeof x.shape);
        for (int64_t i = 0; i < list_count(&x); i++)
            x.element[i] = i;
        for (int k = 0; k < 8; k++) {
            struct node n = {.place = "nodes[0]"};
            next = (struct list){0};
            steps[pick(4)](&next, &x, &n);
            if (list_count(&next) > ELEMENTS_MAX)
                break;
            struct value out;
            bool is_new;
            const struct value *in = &v;
            const struct shape_query q = {&n, &in, 1, &t.model};
            assert_true(shape_infer(&out, &is_new, &q, &t.error));
            n_copies += is_new;
            n_views++;
            for (int64_t i = 0; is_new && i < list_count(&next); i++)
                next.element[i] = i;
            same_elements(&next, &out.view);
            x = next;
            v = out;
        }
    }
    assert_true(n_copies > 100 && n_copies < n_views / 2);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(operands_broadcast),
        TEST(dtypes_promote_as_in_torch),
        TEST(ops_refuse_the_dtypes_that_torch_refuses),
        TEST(an_index_picks_as_in_python),
        TEST(an_index_out_of_range_is_refused),
        TEST(dimensions_move),
        TEST(a_diagonal_and_windows_are_views),
        TEST(a_view_is_a_reshape_that_does_not_copy),
        TEST(reshape_keeps_the_count),
        TEST(a_scalar_counts_as_one_dimension),
        TEST(expand_repeats_only_ones),
        TEST(lists_are_joined),
        TEST(logsumexp_gives_floats_of_what_is_left),
        TEST(scans_and_products_count_bools),
        TEST(whole_numbers_are_shifted_and_divided_as_torch_does),
        TEST(topk_shortens_a_dimension),
        TEST(gather_has_the_shape_of_its_index),
        TEST(a_constant_index_out_of_range_is_refused),
        TEST(reductions_reduce),
        TEST(matmul_takes_vectors_matrices_and_batches),
        TEST(where_needs_a_mask_of_bool),
        TEST(the_models_layers_need_rows_of_their_width),
        TEST(a_tensor_past_the_limit_is_refused),
        TEST(a_shorthand_is_named_as_the_request_names_it),
        TEST(view_arithmetic_is_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
