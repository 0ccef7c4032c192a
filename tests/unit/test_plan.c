/* What the planner guarantees, one name each, and each refusal with its sentence and place. That
 * plans compute the right numbers is shown by test_dispatch.c. */
#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <time.h>
#include <cmocka.h>

#include "../../protocol/planner.h"
#include "../tiny_graph.h"

static struct tiny_graph t;

static int set_up(void **state)
{
    (void)state;
    tiny_open(&t);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    arena_free(&t.arena);
    return 0;
}

/* The graph so far as the planner answers: stops with their actions, or the refusal. */
static const char *answer(void)
{
    const char *text = "";
    if (!tiny_plan(&t))
        return arena_format(&t.arena, "%s %s: %s", err_info[t.error.code].name, t.error.where,
                            t.error.text);
    for (int i = 0; i < t.plan.n_stops; i++) {
        const struct stop *s = &t.plan.stops[i];
        char site[SITE_TEXT_SIZE];
        text = arena_format(&t.arena, "%s%s%d %s:", text, i ? "; " : "", s->pass,
                            site_text(site, s->site, t.model.n_blocks));
        for (int k = 0; k < s->n_actions; k++) {
            const struct action *a = &t.plan.actions[s->first + k];
            text = arena_format(&t.arena, "%s %s", text, op_info[a->op].name);
        }
    }
    return text;
}

#define IS(text) assert_string_equal(answer(), text)

static int hook(const char *path)
{
    return tiny_hook(&t, path, 0, 0);
}

static const struct action *action_at(int stop, int i)
{
    return &t.plan.actions[t.plan.stops[stop].first + i];
}

static const char *shape_of(int value)
{
    char *text = arena_alloc(&t.arena, SHAPE_TEXT_SIZE);
    return shape_text(text, &t.plan.values[value].view);
}

/* Moments. */

static void the_tutorials_ablation_is_two_stops(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 10);
    tiny_invoke(&t, 1, 10);
    t.graph.traces[0].n_new_tokens = 1;
    tiny_save(&t, tiny_hook(&t, "lm_head.output", 0, 0));
    const int v = tiny_hook(&t, "transformer.h.0.attn.value.output", 1, 0);
    tiny_op(&t, set, NODE(tiny_getitem(&t, v, "[:, 1, :, :]")), FLOAT(0));
    tiny_save(&t, tiny_hook(&t, "lm_head.output", 1, 0));
    IS("0 transformer.h.0.attn.value.output: set; 0 lm_head.output: save save");
    assert_true(t.plan.stops[0].writes);
    assert_false(t.plan.stops[1].writes);
    assert_int_equal(t.plan.stops[1].n_saves, 2);
    assert_int_equal(t.plan.values[action_at(1, 1)->in[0]].home, HOME_activation);
    assert_int_equal(t.plan.n_logits, 20);
}

static void nodes_run_when_their_last_input_is_known(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    const int late = hook("transformer.h.2.output[0]"), early = hook("transformer.h.0.output[0]");
    const int a = tiny_op(&t, neg, NODE(late)), b = tiny_op(&t, neg, NODE(early));
    tiny_save(&t, tiny_op(&t, add, NODE(a), NODE(b)));
    IS("0 transformer.h.0.output[0]: neg; 0 transformer.h.2.output[0]: neg add save");
}

static void saves_come_in_the_order_in_which_they_are_known(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    const int late = tiny_save(&t, hook("lm_head.output"));
    const int early = tiny_save(&t, hook("transformer.wte.output"));
    t.graph.nodes[late].name = "late";
    assert_true(tiny_plan(&t));
    assert_int_equal(t.plan.saves[0].node, early);
    assert_string_equal(t.plan.saves[0].name, "node 3");
    assert_string_equal(t.plan.saves[1].name, "late");
    assert_int_equal(t.plan.saves[1].offset % 64, 0);
    assert_int_equal(t.plan.saves[1].bytes, 4 * 11 * 4);
}

static void a_late_set_is_refused(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    const int early = hook("transformer.h.0.output[0]"), late = hook("transformer.h.2.output[0]");
    tiny_op(&t, set, NODE(early), NODE(late));
    IS("order nodes[2].args[1]: transformer.h.0.output[0] has passed when the new value is known, "
       "at transformer.h.2.output[0]");
    assert_int_equal(t.error.node, 2);
}

static void a_set_by_a_later_step_is_refused(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    t.graph.traces[0].n_new_tokens = 3;
    const int early = tiny_hook(&t, "lm_head.output", 0, 0);
    const int late = tiny_hook(&t, "transformer.wte.output", 0, 2);
    tiny_op(&t, set, NODE(early), NODE(tiny_getitem(&t, late, "[0, 0, 0]")));
    IS("order nodes[3].args[1]: lm_head.output of step 0 has passed when the new value is known, "
       "at transformer.wte.output of step 2");
}

static void a_model_output_that_feeds_its_own_past_is_refused(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    const int x = hook("transformer.h.1.mlp.input"), y = hook("transformer.h.1.mlp.output");
    tiny_op(&t, set, NODE(x), NODE(tiny_op(&t, mul, NODE(y), INT(0))));
    IS("order nodes[3].args[1]: transformer.h.1.ln_2.output has passed when the new value is "
       "known, at transformer.h.1.mlp.output");
}

static void a_value_may_be_set_at_any_later_time(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    const int early = hook("transformer.h.0.output[0]"), late = hook("transformer.h.2.output[0]");
    const int x = tiny_op(&t, clone, NODE(early));
    tiny_save(&t, x);
    tiny_op(&t, set, NODE(x), NODE(late));
    tiny_save(&t, x);
    IS("0 transformer.h.0.output[0]: clone save; 0 transformer.h.2.output[0]: set save");
}

static void a_set_waits_for_the_earlier_readers_of_a_value(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    const int early = hook("transformer.h.0.output[0]"), late = hook("transformer.h.2.output[0]");
    const int x = tiny_op(&t, clone, NODE(early));
    tiny_save(&t, tiny_op(&t, add, NODE(x), NODE(late)));
    tiny_op(&t, set, NODE(x), INT(0));
    tiny_save(&t, x);
    IS("0 transformer.h.0.output[0]: clone; 0 transformer.h.2.output[0]: add save set save");
}

static void invokes_may_refer_to_each_other(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    tiny_invoke(&t, 1, 4);
    const int to = tiny_hook(&t, "transformer.h.1.output[0]", 0, 0);
    const int from = tiny_hook(&t, "transformer.h.1.output[0]", 1, 0);
    tiny_op(&t, set, NODE(tiny_getitem(&t, to, "[:, 2]")), NODE(tiny_getitem(&t, from, "[:, 1]")));
    const int before = tiny_hook(&t, "transformer.h.0.output[0]", 1, 0);
    tiny_op(&t, set, NODE(tiny_getitem(&t, to, "[:, 0]")),
            NODE(tiny_getitem(&t, before, "[:, 0]")));
    tiny_save(&t, tiny_hook(&t, "lm_head.output", 0, 0));
    IS("0 transformer.h.0.output[0]: clone; 0 transformer.h.1.output[0]: set set; 0 "
       "lm_head.output: save");
}

/* Parking. */

static void only_what_is_read_late_is_parked(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    const int early = hook("transformer.h.0.output[0]"), late = hook("transformer.h.2.output[0]");
    const int row = tiny_getitem(&t, early, "[:, -1]");
    tiny_save(&t, tiny_op(&t, add, NODE(row), NODE(late)));
    tiny_save(&t, tiny_op(&t, sub, NODE(row), NODE(late)));
    IS("0 transformer.h.0.output[0]: clone; 0 transformer.h.2.output[0]: add save sub save");
    assert_string_equal(shape_of(action_at(0, 0)->out), "(1, 8)");
}

static void all_rows_are_parked_once_where_readers_want_as_much(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    const int late = hook("transformer.h.2.output[0]");
    for (int i = 0; i < 3; i++) {
        const int early = hook("transformer.h.0.output[0]");
        tiny_save(&t, tiny_op(&t, add, NODE(early), NODE(late)));
        tiny_save(&t, tiny_op(&t, add, NODE(tiny_getitem(&t, early, "[:, 1]")), NODE(late)));
    }
    IS("0 transformer.h.0.output[0]: clone; 0 transformer.h.2.output[0]: add save add save add "
       "save add save add save add save");
    assert_string_equal(shape_of(action_at(0, 0)->out), "(4, 8)");
}

static void a_late_reader_sees_the_sets_before_it_and_none_after(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    const int x = hook("transformer.h.0.output[0]"), late = hook("transformer.h.2.output[0]");
    tiny_save(&t, tiny_op(&t, add, NODE(x), NODE(late)));
    tiny_op(&t, set, NODE(x), INT(1));
    tiny_save(&t, tiny_op(&t, add, NODE(x), NODE(late)));
    tiny_op(&t, set, NODE(x), INT(2));
    IS("0 transformer.h.0.output[0]: clone set clone set; 0 transformer.h.2.output[0]: add save "
       "add save");
}

static void a_parked_part_of_the_fused_rows_is_packed(void **state)
{
    (void)state;
    tiny_invoke(&t, 2, 3);
    const int key = hook("transformer.h.0.attn.key.output"), late = hook("lm_head.output");
    const int last = tiny_getitem(&t, late, "[0, 0, 0]");
    tiny_save(&t, tiny_op(&t, add, NODE(key), NODE(last)));
    assert_true(tiny_plan(&t));
    assert_string_equal(shape_of(action_at(0, 0)->out), "(6, 8)");
    const struct view *v = &t.plan.values[action_at(1, 0)->in[0]].view;
    assert_string_equal(shape_of(action_at(1, 0)->in[0]), "(2, 2, 3, 4)");
    assert_int_equal(v->stride[0], 24);
    assert_int_equal(v->stride[1], 4);
    assert_int_equal(v->stride[2], 8);
}

/* What nobody needs. */

static void dead_nodes_cost_nothing(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    const int x = hook("transformer.h.2.output[0]"), early = hook("transformer.wte.output");
    const int unused = tiny_op(&t, exp, NODE(x));
    tiny_op(&t, set, NODE(unused), FLOAT(7));
    tiny_save(&t, early);
    IS("0 transformer.wte.output: save");
    assert_int_equal(t.plan.slab_bytes, 0);
    assert_int_equal(t.plan.constant_bytes, 0);
    assert_int_equal(t.plan.traces[0].last_site, PT_embed);
    assert_int_equal(t.plan.n_logits, 0);
    assert_int_equal(t.plan.passes[0].n_logits, 0);
}

static void dead_nodes_are_checked_all_the_same(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    tiny_op(&t, add, NODE(hook("transformer.h.2.output[0]")), NODE(hook("lm_head.output")));
    IS("shape nodes[2].args[1]: add of (1, 4, 8) and (1, 4, 11)");
}

static void a_change_behind_the_last_save_is_not_made(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    tiny_op(&t, set, NODE(hook("transformer.h.2.output[0]")), FLOAT(0));
    tiny_save(&t, hook("transformer.h.1.output[0]"));
    IS("0 transformer.h.1.output[0]: save");
    t.graph.traces[0].n_new_tokens = 1;
    IS("0 transformer.h.1.output[0]: save; 0 transformer.h.2.output[0]: set");
    assert_int_equal(t.plan.traces[0].last_site, site_of(PT_logits, 0, 3));
}

static void a_request_without_a_graph_is_a_plan(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    IS("");
    assert_int_equal(t.plan.n_passes, 1);
    t.graph.traces[0].n_new_tokens = 5;
    IS("");
    assert_int_equal(t.plan.n_passes, 5);
    assert_int_equal(t.plan.n_logits, 1);
    assert_int_equal(t.plan.passes[4].n_logits, 1);
}

/* Sets. */

static void hooks_of_one_place_are_one_activation(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    tiny_op(&t, set, NODE(hook("transformer.h.0.attn.query.output")), INT(1));
    tiny_save(&t, hook("blocks.0.attn.hook_q"));
    tiny_op(&t, set, NODE(hook("blocks.0.attn.hook_q")), INT(2));
    tiny_save(&t, hook("transformer.h.0.attn.query.output"));
    IS("0 transformer.h.0.attn.query.output: set save set save");
}

static void a_set_that_reads_its_target_copies_first(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    const int x = hook("transformer.h.0.output[0]");
    tiny_save(&t, x);
    tiny_op(&t, set, NODE(tiny_getitem(&t, x, "[:, 1:]")), NODE(tiny_getitem(&t, x, "[:, :-1]")));
    tiny_save(&t, x);
    IS("0 transformer.h.0.output[0]: save clone set save");
}

static void a_set_from_elsewhere_in_its_target_copies_nothing(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    const int x = hook("transformer.h.0.output[0]");
    tiny_op(&t, set, NODE(tiny_getitem(&t, x, "[:, 0]")), NODE(tiny_getitem(&t, x, "[:, 3]")));
    tiny_op(&t, set, NODE(x), NODE(tiny_getitem(&t, x, "[...]")));
    tiny_save(&t, x);
    IS("0 transformer.h.0.output[0]: set save");
}

static void a_set_through_a_copying_reshape_changes_the_copy(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    const int x = hook("transformer.h.0.attn.z.output");
    const int flat = tiny_op(&t, reshape, NODE(x), INT(-1));
    tiny_op(&t, set, NODE(flat), INT(1));
    tiny_save(&t, flat);
    tiny_save(&t, x);
    IS("0 transformer.h.0.attn.z.output: clone set save save");
    assert_false(t.plan.stops[0].writes);
}

static void a_value_with_leading_ones_can_be_set(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    const int x = hook("transformer.h.0.output[0]");
    tiny_op(&t, set, NODE(tiny_getitem(&t, x, "[0, 0]")), NODE(tiny_shape(&t, DT_i64, 1, 1, 8)));
    tiny_save(&t, x);
    IS("0 transformer.h.0.output[0]: set save");
}

static void a_set_of_another_shape_is_refused(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    const int value = tiny_shape(&t, DT_f32, 1, 4, 7);
    tiny_op(&t, set, NODE(hook("transformer.h.0.output[0]")), NODE(value));
    IS("shape nodes[2].args[1]: set: the value, (1, 4, 7), does not fit the target, (1, 4, 8)");
}

static void a_set_that_changes_nothing_is_refused(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    const int x = hook("transformer.h.0.output[0]");
    tiny_op(&t, set, NODE(tiny_getitem(&t, x, "[:, 4:]")), INT(0));
    IS("shape nodes[2].args[0]: set of (1, 0, 8), which has no elements to change");
}

static void a_set_of_an_expanded_value_is_refused(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    const int x = tiny_shape(&t, DT_f32, 1, 3);
    tiny_op(&t, set, NODE(tiny_op(&t, expand, NODE(x), INTS(2, 3))), INT(0));
    IS("shape nodes[2].args[0]: set of (2, 3), in which elements share their place, as expand and "
       "unfold make it: clone it first");
    t.graph.n_nodes = 0;
    const int y = tiny_shape(&t, DT_f32, 4);
    tiny_op(&t, set, NODE(tiny_op(&t, unfold, NODE(y), INT(0), INT(2), INT(1))), INT(0));
    IS("shape nodes[2].args[0]: set of (3, 2), in which elements share their place, as expand and "
       "unfold make it: clone it first");
    t.graph.n_nodes = 0;
    const int z = tiny_shape(&t, DT_f32, 4);
    tiny_op(&t, set, NODE(tiny_op(&t, unfold, NODE(z), INT(0), INT(2), INT(2))), INT(0));
    assert_true(tiny_plan(&t));
}

static void a_set_of_what_can_only_be_read_is_refused(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    tiny_op(&t, set, NODE(hook("transformer.h.1.output[1][0]")), INT(0));
    IS("type nodes[1].args[0]: transformer.h.1.output[1][0] can be read, but not set");
    t.graph.n_nodes = 0;
    tiny_op(&t, set, NODE(hook("transformer.wte.input")), INT(0));
    IS("type nodes[1].args[0]: transformer.wte.input can be read, but not set");
    t.graph.n_nodes = 0;
    tiny_op(&t, set, INT(1), INT(0));
    IS("type nodes[0].args[0]: a number cannot be set, only a tensor");
    t.graph.n_nodes = 0;
    tiny_op(&t, set, NODE(tiny_op(&t, unsqueeze, INT(1), INT(0))), INT(0));
    IS("type nodes[1].args[0]: a number cannot be set, only a tensor");
}

/* Logits on demand. */

static const char *positions(const char *index, int n_prompts, int n_new)
{
    t.graph.n_invokes = t.graph.traces[0].n_invokes = t.graph.n_nodes = 0;
    t.graph.traces[0].n_new_tokens = n_new;
    tiny_invoke(&t, n_prompts, 6);
    if (index)
        tiny_save(&t, tiny_getitem(&t, hook("lm_head.output"), index));
    assert_true(tiny_plan(&t));
    return arena_format(&t.arena, "from %d, %d rows", t.plan.invokes[0].logits_from,
                        t.plan.n_logits);
}

static void logits_are_computed_where_someone_looks(void **state)
{
    (void)state;
    assert_string_equal(positions("[:, -1]", 1, 0), "from 5, 1 rows");
    assert_string_equal(positions("[:, 3:5, 2]", 1, 0), "from 3, 3 rows");
    assert_string_equal(positions("[:, ::2]", 1, 0), "from 0, 6 rows");
    assert_string_equal(positions("[:, -2:]", 3, 0), "from 4, 6 rows");
    assert_string_equal(positions("[1, -2:]", 3, 0), "from 4, 6 rows");
    assert_string_equal(positions(NULL, 1, 0), "from 6, 0 rows");
    assert_string_equal(positions(NULL, 2, 1), "from 5, 2 rows");
    assert_string_equal(positions("[:, 2]", 2, 1), "from 2, 8 rows");
    assert_string_equal(positions("[:, 6:]", 2, 0), "from 5, 2 rows");
}

static void logits_views_follow_the_rows_that_exist(void **state)
{
    (void)state;
    tiny_invoke(&t, 2, 6);
    const int x = tiny_getitem(&t, hook("lm_head.output"), "[1, -2:, 3:5]");
    tiny_save(&t, x);
    assert_true(tiny_plan(&t));
    const struct view *v = &plan_value(&t.plan, x)->view;
    assert_int_equal(v->offset, 2 * 11 + 3); /* of 2 rows a sequence */
    assert_int_equal(v->stride[0], 11);
    assert_string_equal(shape_of(x), "(2, 2)");
    assert_string_equal(shape_of(0), "(2, 6, 11)"); /* what the user sees stays */
}

static void a_view_that_mixes_positions_gets_all_logits(void **state)
{
    (void)state;
    tiny_invoke(&t, 2, 6);
    const int flat = tiny_op(&t, flatten, NODE(hook("lm_head.output")), INT(0), INT(1));
    tiny_save(&t, tiny_getitem(&t, flat, "[5::5]"));
    assert_true(tiny_plan(&t));
    assert_int_equal(t.plan.n_logits, 12);
}

/* Logits that nobody needs whole. */

static const struct model_shape gpt2_shape = {12, 12, 768, 3072, 50257, 1024, 1e-5f, 1, {50256}};

/* The loss of a prompt of 1,024 tokens, each token being its own target. */
static int loss_of(int logits)
{
    const int rows = tiny_getitem(&t, logits, "[:, :-1]");
    const int ids = tiny_getitem(&t, hook("transformer.wte.input"), "[:, 1:, None]");
    const int right = tiny_op(&t, gather, NODE(rows), INT(-1), NODE(ids));
    const int all = tiny_op(&t, logsumexp, NODE(rows), INT(-1), BOOL(true));
    return tiny_op(&t, mean, NODE(tiny_op(&t, sub, NODE(all), NODE(right))));
}

static void a_loss_takes_a_tile_of_logits(void **state)
{
    (void)state;
    t.model = gpt2_shape;
    tiny_invoke(&t, 1, 1024);
    tiny_save(&t, loss_of(hook("lm_head.output")));
    IS("0 transformer.wte.input: clone; 0 transformer.ln_f.output: clone; 0 lm_head.output: apply "
       "gather logsumexp sub mean save");
    assert_int_equal(t.plan.n_logits, 0);
    assert_int_equal(t.plan.n_loops, 1);
    const struct loop *l = t.plan.loops;
    assert_int_equal(l->n_actions, 4);
    assert_int_equal(l->n_tiles, 32);
    assert_int_equal(l->height, 32);
    /* 32 rows of logits, 1,023 of lm_head.input, and small change: not 206 MB. */
    const size_t tile = 32 * 50257 * 4, rows = 1023 * 768 * 4;
    assert_true(t.plan.slab_bytes >= tile + rows);
    assert_true(t.plan.slab_bytes < tile + rows + (64 << 10));
}

static void a_log_softmax_is_as_high_as_a_tile(void **state)
{
    (void)state;
    t.model = gpt2_shape;
    tiny_invoke(&t, 1, 1000);
    const int p = tiny_op(&t, log_softmax, NODE(hook("lm_head.output")), INT(-1));
    const int entropy = tiny_op(&t, mul, NODE(tiny_op(&t, exp, NODE(p))), NODE(p));
    tiny_save(&t, tiny_op(&t, sum, NODE(entropy), INT(-1)));
    assert_true(tiny_plan(&t));
    assert_int_equal(t.plan.n_logits, 0);
    assert_true(t.plan.slab_bytes < (size_t)4 * 32 * 50257 * 4);
}

static void a_few_columns_are_a_few_panels(void **state)
{
    (void)state;
    t.model = gpt2_shape;
    tiny_invoke(&t, 1, 1024);
    const int x = hook("lm_head.output");
    const int a = tiny_getitem(&t, x, "[:, :, 50256]"), b = tiny_getitem(&t, x, "[..., 300:310]");
    tiny_save(&t, a);
    tiny_save(&t, b);
    IS("0 transformer.ln_f.output: clone; 0 lm_head.output: apply save save");
    const struct action *product = action_at(1, 0);
    assert_int_equal(product->n_panels, 3);
    assert_int_equal(product->panels[0], 18); /* 288 .. 303, 304 .. 319, 50256 */
    assert_int_equal(product->panels[1], 19);
    assert_int_equal(product->panels[2], 3141);
    assert_int_equal(t.plan.n_logits, 0);
    assert_int_equal(plan_value(&t.plan, b)->view.offset, 12);
    assert_int_equal(plan_value(&t.plan, a)->view.offset, 32);
    assert_int_equal(plan_value(&t.plan, a)->view.stride[1], 48);
    assert_true(t.plan.slab_bytes < (4 << 20));
}

static void what_somebody_needs_whole_is_the_model_s(void **state)
{
    (void)state;
    t.model = gpt2_shape;
    tiny_invoke(&t, 1, 100);
    const int x = hook("lm_head.output");
    tiny_save(&t, tiny_op(&t, argmax, NODE(x), INT(-1)));
    const int n = t.graph.n_nodes;
    assert_true(tiny_plan(&t));
    assert_int_equal(t.plan.n_logits, 0);
    tiny_save(&t, x);
    assert_true(tiny_plan(&t));
    assert_int_equal(t.plan.n_logits, 100);
    t.graph.n_nodes = n;
    tiny_save(&t, tiny_op(&t, mean, NODE(x), INT(1)));
    assert_true(tiny_plan(&t));
    assert_int_equal(t.plan.n_logits, 100);
    assert_int_equal(t.plan.n_loops, 0);
    t.graph.n_nodes = n;
    tiny_op(&t, set, NODE(tiny_getitem(&t, x, "[..., 7]")), FLOAT(0));
    tiny_save(&t, tiny_op(&t, argmax, NODE(x), INT(-1)));
    assert_true(tiny_plan(&t));
    assert_int_equal(t.plan.n_logits, 100);
    /* One row that is saved is the model's, the rows that are reduced are not. */
    t.graph.n_nodes = n;
    tiny_save(&t, tiny_getitem(&t, x, "[:, -1]"));
    assert_true(tiny_plan(&t));
    assert_int_equal(t.plan.n_logits, 1);
    assert_int_equal(t.plan.n_loops, 1);
}

static void what_changes_lm_head_input_is_seen(void **state)
{
    (void)state;
    t.model = gpt2_shape;
    tiny_invoke(&t, 1, 100);
    tiny_save(&t, tiny_op(&t, argmax, NODE(hook("lm_head.output")), INT(-1)));
    tiny_op(&t, set, NODE(hook("lm_head.input")), FLOAT(0));
    IS("0 transformer.ln_f.output: set clone; 0 lm_head.output: apply argmax save");
}

/* Steps. */

static void later_steps_see_one_token(void **state)
{
    (void)state;
    tiny_invoke(&t, 2, 5);
    t.graph.traces[0].n_new_tokens = 3;
    const int x = tiny_hook(&t, "transformer.h.0.output[0]", 0, 2);
    const int keys = tiny_hook(&t, "transformer.h.0.output[1][0]", 0, 2);
    const int ids = tiny_hook(&t, "generator.output", 0, 0);
    tiny_save(&t, ids);
    tiny_save(&t, keys);
    tiny_save(&t, x);
    IS("2 transformer.h.0.output[0]: save; 2 transformer.h.0.output[1][0]: hook save; 2 "
       "generator.output: hook save");
    assert_string_equal(shape_of(x), "(2, 1, 8)");
    assert_string_equal(shape_of(keys), "(2, 2, 7, 4)");
    assert_string_equal(shape_of(ids), "(2, 8)");
    assert_int_equal(plan_value(&t.plan, ids)->dtype, DT_i64);
    assert_int_equal(t.plan.traces[0].last_site, site_of(PT_logits, 0, 3));
}

static void a_step_that_does_not_exist_is_refused(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    tiny_hook(&t, "lm_head.output", 0, 1);
    IS("index nodes[0].step: step 1 does not exist: the request makes 1 pass, steps 0 to 0");
    t.graph.traces[0].n_new_tokens = 3;
    t.graph.nodes[0].hook.step = 3;
    IS("index nodes[0].step: step 3 does not exist: the request makes 3 passes, steps 0 to 2");
    t.graph.nodes[0].hook.step = -1;
    IS("index nodes[0].step: step -1 does not exist: the request makes 3 passes, steps 0 to 2");
}

static void an_invoke_that_does_not_exist_is_refused(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    tiny_hook(&t, "lm_head.output", 1, 0);
    IS("index nodes[0].invoke: invoke 1 does not exist: the request has invokes 0 to 0");
}

static void values_and_their_places_are_chosen_once(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    const int x = tiny_op(&t, clone, NODE(hook("lm_head.output")));
    tiny_save(&t, tiny_op(&t, topk_values, NODE(x), INT(2)));
    tiny_save(&t, tiny_op(&t, topk_indices, NODE(x), INT(2)));
    tiny_save(&t, tiny_op(&t, topk_indices, NODE(x), INT(3)));
    tiny_op(&t, set, NODE(x), FLOAT(1));
    tiny_save(&t, tiny_op(&t, topk_indices, NODE(x), INT(2)));
    IS("0 lm_head.output: clone topk_indices gather save clone save topk_indices save set "
       "topk_indices save");
}

/* Unless they are more than all. */
static void columns_of_a_packed_parameter_are_gathered_where_it_lies(void **state)
{
    for (int n = 11; n <= 12; n++) {
        tear_down(state);
        set_up(state);
        tiny_invoke(&t, 1, n);
        const int ids = tiny_op(&t, argmax, NODE(tiny_getitem(&t, hook("lm_head.output"), "[0]")),
                                INT(-1));
        tiny_save(&t, tiny_op(&t, index_select, NODE(tiny_parameter(&t, "W_U")), INT(1),
                              NODE(ids)));
        IS(n == 11 ? "0 lm_head.output: argmax gather save"
                   : "0 lm_head.output: argmax parameter gather save");
    }
}

/* Modules that are left out. */

static void leave_out(int target, struct arg value)
{
    tiny_add(&t, OP_set,
             (struct arg[PARAMS_MAX]){NODE(target), value, BOOL(false), BOOL(true)});
}

static const char *skips_text(void)
{
    const char *text = "";
    assert_true(tiny_plan(&t));
    for (int i = 0; i < t.plan.n_skips; i++) {
        const struct plan_skip *s = &t.plan.skips[i];
        text = arena_format(&t.arena, "%s%d: %d%s%s%s; ", text, s->invoke, s->block,
                            s->stages[STAGE_keys] ? " keys" : "",
                            s->stages[STAGE_attention] ? " attention" : "",
                            s->stages[STAGE_mlp] ? " mlp" : "");
    }
    return text;
}

static const char *forks_text(void)
{
    const char *text = "";
    if (!tiny_plan(&t))
        fail_msg("%s: %s", t.error.where, t.error.text);
    for (int i = 0; i < t.plan.n_invokes; i++) {
        const struct plan_invoke *v = &t.plan.invokes[i];
        if (v->leader != i)
            text = arena_format(&t.arena, "%s%d: %d %d %d; ", text, i, v->leader, v->fork,
                                v->start);
    }
    return text;
}

static void rows_go_without_a_module_whose_output_nobody_sees(void **state)
{
    (void)state;
    const struct arg zero = FLOAT(0);
    tiny_invoke(&t, 1, 4);
    tiny_invoke(&t, 1, 4);
    leave_out(hook("transformer.h.0.attn.output[0]"), zero);
    leave_out(tiny_hook(&t, "transformer.h.0.output[0]", 1, 0), zero);
    leave_out(hook("transformer.h.1.attn.output[0]"), zero);
    tiny_save(&t, hook("transformer.h.1.output[1][1]")); /* the values of block 1 */
    const int out = hook("transformer.h.1.mlp.output");
    tiny_save(&t, out);
    leave_out(out, zero);
    const int twice = hook("transformer.h.2.mlp.output");
    leave_out(twice, (struct arg)NODE(tiny_op(&t, mul, NODE(twice), FLOAT(2))));
    tiny_save(&t, hook("lm_head.output"));
    assert_string_equal(skips_text(), "0: 0 keys attention; 1: 0 keys attention mlp; "
                                      "0: 1 attention; ");
}

static void later_steps_need_the_keys_of_attention_that_they_do_not_skip(void **state)
{
    (void)state;
    const struct arg zero = FLOAT(0);
    tiny_invoke(&t, 1, 4);
    t.graph.traces[0].n_new_tokens = 2;
    leave_out(hook("transformer.h.0.attn.output[0]"), zero);
    leave_out(hook("transformer.h.1.attn.output[0]"), zero);
    leave_out(tiny_hook(&t, "transformer.h.1.attn.output[0]", 0, 1), zero);
    assert_string_equal(skips_text(), "0: 0 attention; 0: 1 keys attention; "
                                      "0: 1 keys attention; ");
}

/* Of the other prompt's second step, which may not come. */
static void what_may_be_absent_replaces_nothing(void **state)
{
    (void)state;
    static const int32_t end[] = {7};
    for (int n_ids = 0; n_ids < 2; n_ids++) {
        tear_down(state);
        set_up(state);
        t.graph.traces[0].n_new_tokens = 2;
        t.graph.traces[0].ending = (struct ending){.ids = end, .n_ids = n_ids};
        tiny_invoke(&t, 1, 4);
        tiny_invoke(&t, 1, 4);
        leave_out(tiny_hook(&t, "transformer.h.2.mlp.output", 0, 1),
             (struct arg)NODE(tiny_hook(&t, "transformer.h.0.mlp.output", 1, 1)));
        assert_string_equal(skips_text(), n_ids ? "" : "0: 2 mlp; ");
    }
}

/* Prompts and sampling. */

static void rows_sequences_and_pages_are_dealt_out(void **state)
{
    (void)state;
    t.model.context = 1024;
    t.graph.traces[0].n_new_tokens = 4;
    tiny_invoke(&t, 2, 61);
    tiny_invoke(&t, 3, 62);
    assert_true(tiny_plan(&t));
    const struct plan_invoke *v = t.plan.invokes;
    assert_int_equal(t.plan.n_rows, 2 * 61 + 3 * 62);
    assert_int_equal(t.plan.traces[0].n_sequences, 5);
    assert_int_equal(v[1].row_first, 122);
    assert_int_equal(v[1].sequence_first, 2);
    assert_int_equal(v[0].sequences[1].n_pages, 1); /* 64 positions: the last token is not run */
    assert_int_equal(v[1].sequences[0].n_pages, 2);
    assert_int_equal(v[1].sequences[0].page_first, 2);
    assert_int_equal(t.plan.n_pages, 8);
    assert_int_equal(v[1].logits_first, 2);
}

/* Eleven prompts and two copies, and what the copies have where a node touches these. */
static void copies_of_a_prompt_share_its_rows(void **state)
{
    static const struct {
        const char *touched;
        int step, n_rows, n_logits, n_pages;
    } cases[] = {
        {NULL, 0, 11 * 130, 13, 11 * 3 + 2},
        {"transformer.h.1.output[1][0]", 0, 11 * 130, 13, 11 * 3 + 2},
        {"transformer.h.1.input", 1, 11 * 130, 13, 11 * 3 + 2},
        {"lm_head.output", 0, 11 * 130, 13 * 130, 11 * 3 + 2},
        {"transformer.h.1.input", 0, 13 * 130, 13, 13 * 3},
        {"transformer.h.1.attn.scores.output", 0, 13 * 130, 13, 13 * 3},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tear_down(state);
        set_up(state);
        t.model.context = 1024;
        t.graph.traces[0].n_new_tokens = 4;
        tiny_invoke(&t, 13, 130);
        if (cases[i].touched)
            tiny_save(&t, tiny_hook(&t, cases[i].touched, 0, cases[i].step));
        assert_true(tiny_plan(&t));
        const bool copies = cases[i].n_rows < 13 * 130;
        const struct plan_sequence *q = t.plan.invokes[0].sequences;
        assert_int_equal(t.plan.passes[0].n_rows, cases[i].n_rows);
        assert_int_equal(t.plan.passes[1].n_rows, 13);
        assert_int_equal(t.plan.n_logits, cases[i].n_logits);
        assert_int_equal(t.plan.n_pages, cases[i].n_pages);
        assert_int_equal(t.plan.n_listed, 13 * 3);
        assert_int_equal(q[12].source, copies ? 1 : 12);
        assert_int_equal(q[12].row, copies ? 130 : 12 * 130);
    }
}

/* Three invokes of the same 8 tokens: where each is changed, and what somebody reads of the first.
 * Which of them follows whom, up to which block, and from which position on it has rows then. */
static void invokes_follow_who_is_changed_last(void **state)
{
    static const struct {
        const char *changed[3][2], *read[2], *text;
    } cases[] = {
        {{{"transformer.h.0.output[0]", "[:, 5]"}, {"transformer.h.2.output[0]", "[:, 6]"}},
         {0}, "0: 2 0 5; 1: 2 2 6; "},
        {{{"transformer.h.0.output[0]", "[:, 5]"},
          {"transformer.h.1.input", "[:, 2]"},
          {"transformer.h.1.mid.output", "[:, 1]"}},
         {0}, "0: 1 0 2; 2: 1 1 1; "},
        {{{"transformer.h.1.mid.output", "[:, 5]"},
          {"transformer.h.2.output[0]", "[:, 6]"},
          {"transformer.h.1.output[0]", "[:, 7]"}},
         {0}, "0: 1 1 5; 2: 1 1 6; "},
        {{{"transformer.h.1.output[0]", "[:, 5]"},
          {"transformer.h.1.input", "[:, 4]"},
          {"transformer.h.1.ln_1.output", "[:, 5:]"}},
         {0}, "1: 0 1 4; 2: 0 1 5; "},
        {{{"transformer.h.1.output[0]", "[:, 5]"}}, {"transformer.h.0.input", "[:, 2]"},
         "0: 1 1 2; 2: 1 3 7; "},
        {{{"transformer.h.1.output[0]", "[:, 5]"}}, {"transformer.h.2.attn.pattern.output", "[:]"},
         "0: 1 1 0; 2: 1 3 7; "},
        {{{"transformer.h.1.attn.pattern.output", "[:, 0, 5, 5]"}}, {0}, "0: 1 1 0; 2: 1 3 7; "},
        {{{"transformer.ln_f.input", "[:, -1]"}}, {0}, "0: 1 2 7; 2: 1 3 7; "},
        {{{"lm_head.output", "[:, -1]"}}, {"lm_head.output", "[:, -3:]"},
         "0: 1 3 5; 2: 1 3 7; "},
        {{{"transformer.wte.output", "[:]"}, {"transformer.h.0.input", "[:]"}}, {0}, ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tear_down(state);
        set_up(state);
        for (int k = 0; k < 3; k++) {
            const char *const *changed = cases[i].changed[k];
            tiny_invoke(&t, 1, 8);
            if (changed[0])
                tiny_op(&t, set,
                        NODE(tiny_getitem(&t, tiny_hook(&t, changed[0], k, 0), changed[1])),
                        FLOAT(0));
            tiny_save(&t, tiny_getitem(&t, tiny_hook(&t, "lm_head.output", k, 0), "[:, -1]"));
        }
        if (cases[i].read[0])
            tiny_save(&t, tiny_getitem(&t, tiny_hook(&t, cases[i].read[0], 0, 0),
                                       cases[i].read[1]));
        assert_string_equal(forks_text(), cases[i].text);
    }
}

/* Others have other tokens, another number of them, or another trace; and later steps have rows of
 * their own. */
static void invokes_follow_within_a_trace_by_the_same_prompts(void **state)
{
    (void)state;
    t.graph.traces[0].n_new_tokens = 2;
    for (int i = 0; i < 6; i++)
        tiny_invoke(&t, i == 2 ? 2 : 1, i == 3 ? 7 : 8);
    ((int32_t *)(uintptr_t)t.graph.invokes[4].prompts[0].tokens)[7] = 0;
    tiny_trace(&t, 0);
    tiny_invoke(&t, 1, 8);
    tiny_op(&t, set, NODE(tiny_hook(&t, "transformer.h.1.input", 5, 1)), FLOAT(0));
    assert_string_equal(forks_text(), "1: 0 3 7; 5: 0 3 7; ");
}

/* The cache has the first page of a prompt, but who follows may need rows from there: of one it saves
 * less than the page takes, of two more. */
static void a_leader_leaves_to_the_cache_what_no_follower_needs(void **state)
{
    static const struct {
        int n_followers;
        const char *index;
        int cached_most;
    } cases[] = {{1, "[:, 3]", 64}, {2, "[:, 3]", 0}, {2, "[:, 63]", 0}, {9, "[:, 64]", 64}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tear_down(state);
        set_up(state);
        t.model.context = 128;
        for (int k = 0; k <= cases[i].n_followers; k++) {
            tiny_invoke(&t, 1, 70);
            const int x = tiny_hook(&t, "transformer.h.2.input", k, 0);
            if (k > 0)
                tiny_op(&t, set, NODE(tiny_getitem(&t, x, cases[i].index)), FLOAT(0));
            tiny_save(&t, tiny_getitem(&t, tiny_hook(&t, "lm_head.output", k, 0), "[:, -1]"));
        }
        assert_true(tiny_plan(&t));
        assert_int_equal(t.plan.invokes[1].leader, 0);
        assert_int_equal(t.plan.invokes[0].cached_most, cases[i].cached_most);
    }
}

/* Six rows in all three blocks, and the last two in two of them. */
static void rows_that_are_another_invokes_cost_once(void **state)
{
    (void)state;
    const double row = 4 * 8 * 8 + 2 * 8 * 16, key = 2 * 8;
    for (int i = 0; i < 2; i++) {
        tiny_invoke(&t, 1, 6);
        tiny_save(&t, tiny_getitem(&t, tiny_hook(&t, "transformer.h.2.input", i, 0), "[:, 4:]"));
    }
    tiny_op(&t, set, NODE(tiny_getitem(&t, tiny_hook(&t, "transformer.h.1.input", 1, 0), "[:, 4]")),
            FLOAT(0));
    assert_string_equal(forks_text(), "1: 0 1 4; ");
    const struct plan_pass *p = t.plan.passes;
    assert_true(p->cost - p->graph_cost ==
                3 * (6 * row + 21 * key) + 2 * (2 * row + (5 + 6) * key));
    assert_int_equal(p->n_rows, 12);
}

static void prompts_of_unequal_length_have_their_own_rows(void **state)
{
    (void)state;
    tiny_invoke(&t, 3, 5);
    t.graph.invokes[0].prompts[1].n_tokens = 2;
    const int x = tiny_hook(&t, "transformer.h.0.output[0]", 0, 0);
    tiny_save(&t, tiny_getitem(&t, tiny_hook(&t, "lm_head.output", 0, 0), "[:, -3:]"));
    tiny_op(&t, set, NODE(tiny_getitem(&t, x, "[1:, :3]")), FLOAT(0));
    /* A copy of each prompt's rows, zeros before the second, and back behind the set. */
    IS("0 transformer.h.0.output[0]: clone clone clone clone set clone set set set; 0 "
       "lm_head.output: clone clone clone clone save");
    assert_string_equal(shape_of(x), "(3, 5, 8)");
    assert_int_equal(t.plan.touched[t.graph.n_nodes - 1], 3 * 8);
    assert_int_equal(t.plan.n_rows, 12);
    assert_int_equal(t.plan.n_logits, 3 + 2 + 3);
    assert_int_equal(t.plan.invokes[0].sequences[2].row, 7);
    assert_int_equal(t.plan.invokes[0].sequences[2].logits_row, 5);
}

static void a_set_of_padding_alone_is_refused(void **state)
{
    (void)state;
    tiny_invoke(&t, 2, 5);
    t.graph.invokes[0].prompts[1].n_tokens = 2;
    const int x = tiny_hook(&t, "transformer.h.0.output[0]", 0, 0);
    tiny_op(&t, set, NODE(tiny_getitem(&t, x, "[1, :3]")), FLOAT(0));
    IS("shape nodes[2].args[0]: set of (3, 8), which is padding alone: the prompts there are "
       "shorter");
}

/* One of `longest` tokens and 255 of one. */
static int unequal(int longest)
{
    tiny_invoke(&t, 256, longest);
    for (int i = 1; i < 256; i++)
        t.graph.invokes[0].prompts[i].n_tokens = 1;
    return hook("transformer.h.0.output[0]");
}

static void clearing_the_padding_is_work_of_the_graph(void **state)
{
    (void)state;
    t.model.width = 1 << 13;
    const int x = unequal(8);
    const int one = tiny_getitem(&t, x, "[0, -1, 0]");
    for (int i = 0; i < 250; i++)
        tiny_op(&t, set, NODE(one), FLOAT(0));
    tiny_save(&t, hook("lm_head.output"));
    IS("limit nodes[230]: up to here the graph itself asks for 2.15e+11 multiply-adds: the limit "
       "is 2.15e+11");
}

static void constant_indices_are_looked_at_so_often(void **state)
{
    (void)state;
    static int64_t indices[1 << 20];
    tiny_invoke(&t, 1, 2);
    const int index = tiny_constant(&t, DT_i64, 1, (int64_t[]){1 << 20}, indices);
    for (int i = 0; i < 70; i++)
        tiny_op(&t, wrap_index, NODE(index), INT(5));
    IS("limit nodes[65]: up to here 68157440 constant indices have to be looked at before the "
       "graph runs: the limit is 67108864");
}

static void work_in_too_many_parts_is_refused(void **state)
{
    (void)state;
    tiny_invoke(&t, 200, 2);
    for (int i = 1; i < 200; i++)
        t.graph.invokes[0].prompts[i].n_tokens = 1;
    const int x = tiny_hook(&t, "transformer.h.0.ln_1.scale", 0, 0);
    for (int i = 0; i < 2000; i++)
        tiny_op(&t, set, NODE(x), FLOAT(i));
    tiny_save(&t, x);
    IS("limit nodes[1499]: up to here the graph's work has more than 300000 parts: send it as "
       "several requests");
}

static void prompts_that_cannot_run_are_refused(void **state)
{
    (void)state;
    IS("value invokes: a request needs at least one prompt");
    tiny_invoke(&t, 0, 4);
    IS("value invokes[0].prompt: an invoke needs at least one prompt");
    t.graph.n_invokes = t.graph.traces[0].n_invokes = 0;
    tiny_invoke(&t, 1, 0);
    IS("value invokes[0].prompt: a prompt needs at least one token: this one has none");
    t.graph.n_invokes = t.graph.traces[0].n_invokes = 0;
    tiny_invoke(&t, 1, 30);
    t.graph.traces[0].n_new_tokens = 3;
    IS("context invokes[0].prompt: 30 tokens and 3 new ones are 33: this model's context is 32");
}

static void tokens_that_do_not_exist_are_refused(void **state)
{
    (void)state;
    static const int32_t too_high[] = {1, 11}, negative[] = {-1, 2};
    tiny_invoke(&t, 1, 2);
    t.graph.invokes[0].prompts[0].tokens = too_high;
    IS("index invokes[0].prompt[1]: token 11 does not exist: this model has tokens 0 to 10");
    t.graph.n_invokes = t.graph.traces[0].n_invokes = 0;
    tiny_invoke(&t, 2, 2);
    t.graph.invokes[0].prompts[1].tokens = negative;
    IS("index invokes[0].prompt[1][0]: token -1 does not exist: this model has tokens 0 to 10");
}

static void too_many_prompts_are_refused(void **state)
{
    (void)state;
    tiny_invoke(&t, 257, 1);
    IS("limit invokes: 257 prompts in one request: the limit is 256");
    t.graph.n_invokes = t.graph.traces[0].n_invokes = 0;
    tiny_invoke(&t, 200, 21);
    assert_true(tiny_plan(&t)); /* 11 of them, and copies */
}

/* Early ends. */

static int needs_of(int node, int invoke)
{
    return t.plan.needs[node * t.plan.n_invokes + invoke];
}

static void what_a_node_is_made_of_is_known_by_invoke_and_step(void **state)
{
    (void)state;
    static const int32_t end[] = {7};
    tiny_invoke(&t, 1, 4);
    tiny_invoke(&t, 1, 4);
    t.graph.traces[0].n_new_tokens = 5;
    const int a = tiny_hook(&t, "transformer.h.0.output[0]", 0, 1);
    const int b = tiny_hook(&t, "transformer.h.0.output[0]", 1, 3);
    const int c = tiny_op(&t, exp, NODE(a));
    tiny_save(&t, c);
    const int set = tiny_op(&t, set, NODE(c), NODE(b));
    const int next = tiny_hook(&t, "generator.streamer.output", 1, 2);
    const int all = tiny_hook(&t, "generator.output", 1, 0);
    const int late = tiny_op(&t, exp, NODE(c));
    tiny_save(&t, late);
    tiny_save(&t, next);
    tiny_save(&t, all);
    assert_true(tiny_plan(&t));
    assert_null(t.plan.needs); /* nothing can end it */
    t.graph.traces[0].ending = (struct ending){.n_ids = 1, .ids = end};
    assert_true(tiny_plan(&t));
    const struct {
        int node, first, second;
    } rows[] = {{a, 1, -1}, {b, -1, 3},    {c, 1, -1},   {set, 1, 3},
                {late, 1, 3}, {next, -1, 2}, {all, -1, -1}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(needs_of(rows[i].node, 0), rows[i].first);
        assert_int_equal(needs_of(rows[i].node, 1), rows[i].second);
    }
}

static void a_step_s_token_is_asked_for_where_one_is_sampled(void **state)
{
    (void)state;
    tiny_invoke(&t, 2, 4);
    tiny_save(&t, tiny_hook(&t, "generator.streamer.output", 0, 0));
    IS("value nodes[0].args[0]: generator.streamer.output is the token that a step samples: ask "
       "for max_new_tokens");
    t.graph.traces[0].n_new_tokens = 2;
    assert_true(tiny_plan(&t));
    assert_int_equal(t.plan.saves[0].view.rank, 1);
    assert_int_equal(t.plan.saves[0].view.shape[0], 2);
}

/* Memory and limits. */

static void equal_numbers_are_one_constant(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    int x = hook("transformer.h.0.output[0]");
    for (int i = 0; i < 10; i++)
        x = tiny_op(&t, add, NODE(x), FLOAT(0.5));
    tiny_save(&t, tiny_op(&t, mul, NODE(x), INT(2)));
    assert_true(tiny_plan(&t));
    assert_int_equal(t.plan.constant_bytes, 68); /* 0.5 and 2.0, both float32 */
    assert_int_equal(t.plan.n_constants, 1);
    const float *numbers = t.plan.constants[0].from;
    assert_true(numbers[0] == 0.5f && numbers[16] == 2.0f);
}

static void many_bytes_of_constants_stay_where_they_are(void **state)
{
    (void)state;
    enum { MANY = (1 << 16) / 4 + 1 };
    static const float numbers[] = {1, 2, 3};
    float *many = ARENA_ARRAY(&t.arena, float, MANY);
    for (int i = 0; i < MANY; i++)
        many[i] = (float)i;
    tiny_invoke(&t, 1, 4);
    int large = 0;
    for (int i = 0; i < 5; i++) {
        const int64_t shape = i == 2 ? MANY : 3;
        const int c = tiny_constant(&t, DT_f32, 1, &shape, i == 2 ? many : numbers);
        large = i == 2 ? c : large;
        tiny_save(&t, tiny_op(&t, neg, NODE(c)));
    }
    tiny_save(&t, tiny_op(&t, neg, NODE(hook("lm_head.output"))));
    assert_true(tiny_plan(&t));
    const struct plan *p = &t.plan;
    assert_int_equal(p->n_constants, 3);
    assert_ptr_equal(p->constants[1].from, t.graph.nodes[large].constant->data);
    assert_int_equal(p->constants[1].bytes, MANY * sizeof(float));
    char *slab = arena_alloc(&t.arena, p->constant_bytes);
    tiny_constants(slab, p);
    assert_memory_equal(slab + 64, numbers, sizeof numbers);
    assert_memory_equal(slab + 128, many, MANY * sizeof(float));
    assert_memory_equal(slab + p->constant_bytes - sizeof numbers, numbers, sizeof numbers);
}

static void values_share_the_slab_when_their_lives_do_not_meet(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    int x = hook("transformer.h.0.output[0]");
    for (int i = 0; i < 100; i++)
        x = tiny_op(&t, neg, NODE(x));
    tiny_save(&t, x);
    assert_true(tiny_plan(&t));
    assert_int_equal(t.plan.slab_bytes, 2 * 4 * 8 * 4);
}

static uint64_t seed = 1;

static int pick(int n)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (int)((seed >> 33) % (uint64_t)n);
}

static void lives_that_meet_never_share_bytes(void **state)
{
    (void)state;
    enum {
        ROOTS = 120,
        ACTIONS = 60
    };
    for (int round = 0; round < 2000; round++) {
        struct root roots[ROOTS] = {{0}};
        struct arena a = {0};
        int64_t sum = 0;
        for (int i = 0; i < ROOTS; i++) {
            struct root *r = &roots[i];
            r->first = pick(ACTIONS);
            r->last = r->first + pick(pick(8) ? 6 : ACTIONS);
            r->last = r->last < ACTIONS ? r->last : ACTIONS - 1;
            r->bytes = 1 + pick(pick(4) ? 300 : 30000);
            r->constant = pick(16) ? NULL : roots;
            r->first = r->constant ? 0 : r->first;
            sum += (r->bytes + 63) / 64 * 64;
        }
        const size_t size = lifetimes_fold(roots, ROOTS, ACTIONS, &a);
        for (int i = 0; i < ROOTS; i++) {
            const struct root *x = &roots[i];
            assert_true(x->base % 64 == 0 && x->base + (size_t)x->bytes <= size);
            for (int k = 0; k < i; k++) {
                const struct root *y = &roots[k];
                if (x->first <= y->last && y->first <= x->last)
                    assert_true(x->base + (size_t)x->bytes <= y->base ||
                                y->base + (size_t)y->bytes <= x->base);
            }
        }
        assert_true(size < (size_t)sum);
        arena_free(&a);
    }
}

static void too_much_is_refused_before_it_is_allocated(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    const int big = tiny_op(&t, expand, FLOAT(1), INTS(1 << 14, 1 << 14)); /* 2^28, 1 GiB */
    const int a = tiny_op(&t, neg, NODE(big)), b = tiny_op(&t, abs, NODE(big));
    const int sum = tiny_op(&t, add, NODE(a), NODE(b));
    tiny_save(&t, sum);
    IS("limit nodes[4]: with this one the saves take 1073741824 bytes: the limit is 268435456");
    t.graph.n_nodes--;
    tiny_save(&t, tiny_op(&t, sum, NODE(sum)));
    IS("limit : the graph keeps values of 3221225536 bytes at the same time: the limit is "
       "1073741824");
}

static void too_much_work_is_refused(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    const int x = tiny_op(&t, expand, FLOAT(1), INTS(1 << 13, 1 << 13));
    tiny_save(&t, tiny_op(&t, sum, NODE(tiny_op(&t, matmul, NODE(x), NODE(x)))));
    IS("limit nodes[1]: up to here the graph itself asks for 5.57e+11 multiply-adds: the limit is "
       "2.15e+11");
}

static void what_cannot_be_cut_is_bounded(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    const int x = tiny_op(&t, expand, FLOAT(1), INTS(1 << 24));
    tiny_save(&t, tiny_op(&t, sum, NODE(tiny_op(&t, topk_indices, NODE(x), INT(1 << 24)))));
    IS("limit nodes[1]: this asks for 2.58e+10 multiply-adds that cannot be cut: the limit is "
       "3.22e+09");
}

/* Rows are sorted one by one. */
static void what_can_be_cut_is_not(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    const int x = tiny_op(&t, expand, FLOAT(1), INTS(64, 1 << 18));
    tiny_save(&t, tiny_op(&t, sum, NODE(tiny_op(&t, topk_indices, NODE(x), INT(1 << 18)))));
    assert_true(tiny_plan(&t));
}

/* Of a product, the terms of one element. */
static void a_product_of_too_many_terms_is_refused(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    const int x = tiny_op(&t, expand, FLOAT(1), INTS(1 << 23));
    tiny_save(&t, tiny_op(&t, matmul, NODE(x), NODE(x)));
    IS("limit nodes[1]: this asks for 4.83e+09 multiply-adds that cannot be cut: the limit is "
       "3.22e+09");
}

/* Sweep by sweep, a part of the row at a time. */
static void a_long_row_is_cut(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    const int x = tiny_op(&t, expand, FLOAT(1), INTS(1 << 27));
    tiny_save(&t, tiny_op(&t, logsumexp, NODE(x), INT(-1)));
    tiny_save(&t, tiny_op(&t, sum, NODE(tiny_op(&t, softmax, NODE(x), INT(-1)))));
    assert_true(tiny_plan(&t));
}

/* One row through a large module is as much work as ten: its weights are read. */
static void the_weights_of_an_applied_module_are_work(void **state)
{
    (void)state;
    t.model.width = 1 << 13;
    t.model.inner = 1 << 15;
    tiny_invoke(&t, 1, 1);
    const int x = hook("transformer.h.0.mlp.c_fc.input");
    for (int i = 0; i < 100; i++)
        tiny_save(&t, tiny_apply(&t, "transformer.h.1.mlp.c_fc", x));
    IS("limit nodes[159]: up to here the graph itself asks for 2.15e+11 multiply-adds: the limit "
       "is 2.15e+11");
}

/* A million products of one number each pack as much as a million of 16 columns. */
static void small_products_are_work_too(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    const int x = tiny_op(&t, expand, FLOAT(2), INTS(1 << 20, 1, 1));
    int y = x;
    for (int i = 0; i < 12; i++)
        y = tiny_op(&t, matmul, NODE(y), NODE(x));
    tiny_save(&t, tiny_op(&t, sum, NODE(y)));
    IS("limit nodes[11]: up to here the graph itself asks for 2.19e+11 multiply-adds: the limit is "
       "2.15e+11");
}

/* A thousand powers of as many elements as a value may have keep everybody waiting for an hour. */
static void too_much_work_without_a_product_is_refused(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    int x = tiny_op(&t, clone, NODE(tiny_op(&t, expand, FLOAT(2), INTS(1 << 22))));
    for (int i = 0; i < 1000; i++)
        x = tiny_op(&t, pow, NODE(x), FLOAT(0.5));
    tiny_save(&t, tiny_op(&t, sum, NODE(x)));
    assert_false(tiny_plan(&t));
    assert_int_equal(t.error.code, ERR_limit);
    assert_non_null(strstr(t.error.text, "the graph itself asks for 2.15e+11 multiply-adds"));
}

static void too_many_saves_are_refused(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    const int x = hook("transformer.h.0.output[0]");
    for (int i = 0; i < SAVES_MAX; i++)
        tiny_save(&t, x);
    assert_true(tiny_plan(&t));
    tiny_save(&t, x);
    IS("limit nodes[4097]: more than 4096 saves in one request");
}

static void the_cost_counts_what_is_run(void **state)
{
    (void)state;
    const double row = 4 * 8 * 8 + 2 * 8 * 16, head = 8 * 11;
    tiny_invoke(&t, 2, 3);
    assert_true(tiny_plan(&t));
    assert_true(t.plan.cost == 0);
    t.graph.traces[0].n_new_tokens = 2;
    assert_true(tiny_plan(&t)); /* 3 rows over 1 + 2 + 3 keys, then one over 4 */
    const double passes = 2 * (3 * (4 * row + 2 * 8 * 10.0) + 2 * head);
    struct sampling *how = &t.graph.traces[0].sampling;
    const struct {
        struct sampling sampling;
        int id; /* the cost of choosing a token, for each id */
    } ways[] = {{{.top_p = 1}, GREEDY_COST},
                {{.top_p = 0.5, .top_k = 3}, GREEDY_COST},
                {{.temperature = 1, .top_p = 1}, DRAW_COST},
                {{.temperature = 1, .top_p = 1, .top_k = 11}, DRAW_COST},
                {{.temperature = 1, .top_p = 1, .top_k = 10}, SORTED_DRAW_COST},
                {{.temperature = 1, .top_p = 0.9}, SORTED_DRAW_COST}};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        *how = ways[i].sampling;
        assert_true(tiny_plan(&t));
        assert_true(t.plan.cost == passes + 2 * 2 * 11 * ways[i].id);
    }
    t.graph.traces[0].n_new_tokens = 0;
    tiny_save(&t, hook("transformer.h.0.output[0]"));
    assert_true(tiny_plan(&t));
    assert_true(t.plan.cost == 2 * (3 * row + 2 * 8 * 6.0) + ELEMENT_COST * 2 * 3 * 8);
}

/* Large graphs. */

/* Processor time, so that a busy machine does not matter; the limit leaves room for a sanitizer. */
static void plans_in_time(const char *what)
{
    const clock_t before = clock();
    assert_true(tiny_plan(&t));
    const double ms = 1e3 * (double)(clock() - before) / CLOCKS_PER_SEC;
    print_message("%s: %d nodes in %.1f ms\n", what, t.graph.n_nodes, ms);
    assert_true(ms < 1000);
}

static void a_long_chain_is_planned_in_time(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    int x = hook("transformer.h.0.output[0]");
    while (t.graph.n_nodes < NODES_MAX - 1)
        x = tiny_op(&t, add, NODE(x), FLOAT(t.graph.n_nodes));
    tiny_save(&t, x);
    plans_in_time("a chain");
}

static void a_wide_fan_out_is_planned_in_time(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    const int x = hook("transformer.h.0.output[0]"), late = hook("lm_head.output");
    const int last = tiny_getitem(&t, late, "[0, -1, 0]");
    int sum = tiny_op(&t, clone, NODE(last));
    while (t.graph.n_nodes < NODES_MAX - 4) {
        const int part = tiny_getitem(&t, x, "[:, 1, 3]");
        tiny_op(&t, set, NODE(part), FLOAT(1));
        tiny_op(&t, set, NODE(sum), NODE(tiny_op(&t, add, NODE(part), NODE(last))));
    }
    tiny_save(&t, sum);
    plans_in_time("parked versions");
}

static void a_long_list_is_planned_in_time(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    int *nodes = ARENA_ARRAY(&t.arena, int, EDGES_MAX);
    const int x = hook("transformer.h.0.output[0]");
    for (int i = 0; i < EDGES_MAX; i++)
        nodes[i] = x;
    const struct arg list = {.kind = ARG_nodes, .count = EDGES_MAX, .nodes = nodes};
    tiny_save(&t, tiny_add(&t, OP_cat, (struct arg[PARAMS_MAX]){list}));
    plans_in_time("a list of 200,000");
}

/* Attention from inside. */

static const char *const scores = "transformer.h.1.attn.scores.output";
static const char *const pattern = "transformer.h.1.attn.pattern.output";

static void a_pattern_that_is_read_is_made_beside_the_pass(void **state)
{
    (void)state;
    tiny_invoke(&t, 2, 4);
    tiny_save(&t, hook(pattern));
    IS("0 transformer.h.1.attn.scores.output: hook matmul mul le where; "
       "0 transformer.h.1.attn.pattern.output: softmax save");
    assert_string_equal(shape_of(0), "(2, 2, 4, 4)");
    assert_false(t.plan.stops[0].writes);
    assert_int_equal(t.plan.traces[0].last_site, site_of(PT_pattern, 1, 3));
    assert_int_equal(t.plan.invokes[0].read_from, 0);
    assert_int_equal(t.plan.invokes[0].set_from, 4);
}

static void scores_that_are_read_need_no_pattern(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    tiny_save(&t, hook(scores));
    IS("0 transformer.h.1.attn.scores.output: hook matmul mul le where save");
}

static void a_row_that_sees_all_keys_is_not_masked(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    t.graph.traces[0].n_new_tokens = 3;
    tiny_save(&t, tiny_hook(&t, scores, 0, 2));
    IS("2 transformer.h.1.attn.scores.output: hook matmul mul save");
    assert_string_equal(shape_of(0), "(1, 2, 1, 6)");
}

static void z_is_made_of_what_was_set(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    tiny_op(&t, set, NODE(tiny_getitem(&t, hook(scores), "[:, 1]")), FLOAT(0));
    tiny_save(&t, hook("transformer.h.1.attn.z.output"));
    IS("0 transformer.h.1.attn.scores.output: hook matmul mul le where set; "
       "0 transformer.h.1.attn.pattern.output: softmax; "
       "0 transformer.h.1.attn.z.output: hook matmul save");
    assert_true(t.plan.stops[2].writes);
    assert_int_equal(t.plan.invokes[0].set_from, 0);
}

static void z_that_nobody_sees_is_not_made(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    const int p = hook(pattern);
    tiny_op(&t, set, NODE(tiny_getitem(&t, p, "[:, 1]")), FLOAT(0));
    tiny_save(&t, p);
    IS("0 transformer.h.1.attn.scores.output: hook matmul mul le where; "
       "0 transformer.h.1.attn.pattern.output: softmax set save");
}

static void a_late_reader_of_a_pattern_sees_the_sets_before_it(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    const int p = hook(pattern), s = hook(scores), last = hook("transformer.h.2.attn.z.output");
    const int sum = tiny_op(&t, add, NODE(p), NODE(s));
    const int late = tiny_op(&t, add, NODE(tiny_op(&t, sum, NODE(p))),
                             NODE(tiny_getitem(&t, last, "[0, 0, 0, 0]")));
    tiny_op(&t, set, NODE(tiny_getitem(&t, p, "[:, 1]")), FLOAT(0));
    tiny_save(&t, tiny_op(&t, mul, NODE(sum), NODE(late)));
    IS("0 transformer.h.1.attn.scores.output: hook matmul mul le where clone; "
       "0 transformer.h.1.attn.pattern.output: softmax add sum set; "
       "0 transformer.h.1.attn.z.output: hook matmul; "
       "0 transformer.h.2.attn.z.output: add mul save");
}

static void a_result_is_each_head_s_part_of_the_projection(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    tiny_save(&t, hook("blocks.1.attn.hook_result"));
    IS("0 transformer.h.1.attn.result.output: parameter matmul save");
    assert_string_equal(shape_of(0), "(1, 4, 2, 8)");
    assert_int_equal(t.plan.invokes[0].read_from, 0);
}

static void a_result_cannot_be_set(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    tiny_op(&t, set, NODE(hook("blocks.1.attn.hook_result")), FLOAT(0));
    IS("type nodes[1].args[0]: transformer.h.1.attn.result.output can be read, but not set");
}

static void scores_that_have_become_a_pattern_cannot_be_set(void **state)
{
    (void)state;
    tiny_invoke(&t, 1, 4);
    const int s = hook(scores);
    tiny_op(&t, set, NODE(s), NODE(hook(pattern)));
    IS("order nodes[2].args[1]: transformer.h.1.attn.scores.output has passed when the new value is "
       "known, at transformer.h.1.attn.pattern.output");
}

static void patterns_too_large_for_a_job_are_refused(void **state)
{
    (void)state;
    t.model.context = 1024;
    t.model.width = t.model.n_heads = 64;
    for (int i = 0; i < 2; i++)
        tiny_invoke(&t, 2, 1024);
    tiny_save(&t, tiny_op(&t, sum, NODE(tiny_op(&t, add, NODE(tiny_hook(&t, pattern, 0, 0)),
                                                NODE(tiny_hook(&t, pattern, 1, 0))))));
    IS("limit : the graph keeps values of 1612193920 bytes at the same time: the limit is "
       "1073741824");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_tutorials_ablation_is_two_stops),
        TEST(nodes_run_when_their_last_input_is_known),
        TEST(saves_come_in_the_order_in_which_they_are_known),
        TEST(a_late_set_is_refused),
        TEST(a_set_by_a_later_step_is_refused),
        TEST(a_model_output_that_feeds_its_own_past_is_refused),
        TEST(a_value_may_be_set_at_any_later_time),
        TEST(a_set_waits_for_the_earlier_readers_of_a_value),
        TEST(invokes_may_refer_to_each_other),
        TEST(only_what_is_read_late_is_parked),
        TEST(all_rows_are_parked_once_where_readers_want_as_much),
        TEST(a_late_reader_sees_the_sets_before_it_and_none_after),
        TEST(a_parked_part_of_the_fused_rows_is_packed),
        TEST(dead_nodes_cost_nothing),
        TEST(dead_nodes_are_checked_all_the_same),
        TEST(a_change_behind_the_last_save_is_not_made),
        TEST(a_request_without_a_graph_is_a_plan),
        TEST(hooks_of_one_place_are_one_activation),
        TEST(a_set_that_reads_its_target_copies_first),
        TEST(a_set_from_elsewhere_in_its_target_copies_nothing),
        TEST(a_set_through_a_copying_reshape_changes_the_copy),
        TEST(a_value_with_leading_ones_can_be_set),
        TEST(a_set_of_another_shape_is_refused),
        TEST(a_set_that_changes_nothing_is_refused),
        TEST(a_set_of_an_expanded_value_is_refused),
        TEST(a_set_of_what_can_only_be_read_is_refused),
        TEST(a_pattern_that_is_read_is_made_beside_the_pass),
        TEST(scores_that_are_read_need_no_pattern),
        TEST(a_row_that_sees_all_keys_is_not_masked),
        TEST(z_is_made_of_what_was_set),
        TEST(z_that_nobody_sees_is_not_made),
        TEST(a_late_reader_of_a_pattern_sees_the_sets_before_it),
        TEST(a_result_is_each_head_s_part_of_the_projection),
        TEST(a_result_cannot_be_set),
        TEST(scores_that_have_become_a_pattern_cannot_be_set),
        TEST(patterns_too_large_for_a_job_are_refused),
        TEST(logits_are_computed_where_someone_looks),
        TEST(logits_views_follow_the_rows_that_exist),
        TEST(a_view_that_mixes_positions_gets_all_logits),
        TEST(a_loss_takes_a_tile_of_logits),
        TEST(a_log_softmax_is_as_high_as_a_tile),
        TEST(a_few_columns_are_a_few_panels),
        TEST(what_somebody_needs_whole_is_the_model_s),
        TEST(what_changes_lm_head_input_is_seen),
        TEST(later_steps_see_one_token),
        TEST(a_step_that_does_not_exist_is_refused),
        TEST(an_invoke_that_does_not_exist_is_refused),
        TEST(rows_sequences_and_pages_are_dealt_out),
        TEST(columns_of_a_packed_parameter_are_gathered_where_it_lies),
        TEST(values_and_their_places_are_chosen_once),
        TEST(rows_go_without_a_module_whose_output_nobody_sees),
        TEST(later_steps_need_the_keys_of_attention_that_they_do_not_skip),
        TEST(what_may_be_absent_replaces_nothing),
        TEST(copies_of_a_prompt_share_its_rows),
        TEST(invokes_follow_who_is_changed_last),
        TEST(invokes_follow_within_a_trace_by_the_same_prompts),
        TEST(a_leader_leaves_to_the_cache_what_no_follower_needs),
        TEST(rows_that_are_another_invokes_cost_once),
        TEST(prompts_of_unequal_length_have_their_own_rows),
        TEST(clearing_the_padding_is_work_of_the_graph),
        TEST(constant_indices_are_looked_at_so_often),
        TEST(a_set_of_padding_alone_is_refused),
        TEST(work_in_too_many_parts_is_refused),
        TEST(prompts_that_cannot_run_are_refused),
        TEST(tokens_that_do_not_exist_are_refused),
        TEST(too_many_prompts_are_refused),
        TEST(what_a_node_is_made_of_is_known_by_invoke_and_step),
        TEST(a_step_s_token_is_asked_for_where_one_is_sampled),
        TEST(equal_numbers_are_one_constant),
        TEST(many_bytes_of_constants_stay_where_they_are),
        TEST(values_share_the_slab_when_their_lives_do_not_meet),
        TEST(lives_that_meet_never_share_bytes),
        TEST(too_much_is_refused_before_it_is_allocated),
        TEST(too_much_work_is_refused),
        TEST(what_cannot_be_cut_is_bounded),
        TEST(what_can_be_cut_is_not),
        TEST(a_product_of_too_many_terms_is_refused),
        TEST(a_long_row_is_cut),
        TEST(the_weights_of_an_applied_module_are_work),
        TEST(small_products_are_work_too),
        TEST(too_much_work_without_a_product_is_refused),
        TEST(too_many_saves_are_refused),
        TEST(the_cost_counts_what_is_run),
        TEST(a_long_chain_is_planned_in_time),
        TEST(a_wide_fan_out_is_planned_in_time),
        TEST(a_long_list_is_planned_in_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
