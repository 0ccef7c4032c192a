/* protocol/decode*.c and prescan.c: every form of a request as the graph it becomes, every refusal
 * with its code, place and sentence. That JSON and msgpack mean the same is tests/test_wire.py's. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "../../protocol/decode.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static const struct model_shape shape = {12, 12, 768, 3072, 50257, 1024, 1e-5f, 1, {50256}};

static struct arena arena;
static struct err error;
static struct graph graph;

static int set_up(void **state)
{
    (void)state;
    error = (struct err){0};
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    arena_free(&arena);
    return 0;
}

static bool decode_bytes(const char *body, size_t size, enum media media)
{
    error = (struct err){0};
    return decode_request(&graph, body, size, media, &shape, &arena, &error);
}

static bool decode(const char *body)
{
    return decode_bytes(body, strlen(body), MEDIA_json);
}

/* A graph as a text. */

struct text {
    char at[4096];
    size_t size;
};

static void put(struct text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void put(struct text *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    t->size += (size_t)vsnprintf(t->at + t->size, sizeof t->at - t->size, format, args);
    va_end(args);
    assert_true(t->size < sizeof t->at);
}

static void put_index(struct text *t, const struct index *x)
{
    switch (x->kind) {
    case INDEX_int:
        put(t, "%lld", (long long)x->start);
        return;
    case INDEX_ellipsis:
        put(t, "...");
        return;
    case INDEX_new_axis:
        put(t, "None");
        return;
    case INDEX_slice:
        break;
    }
    if (x->has_start)
        put(t, "%lld", (long long)x->start);
    put(t, ":");
    if (x->has_stop)
        put(t, "%lld", (long long)x->stop);
    if (x->step != 1)
        put(t, ":%lld", (long long)x->step);
}

static void put_arg(struct text *t, const struct arg *arg)
{
    switch (arg->kind) {
    case ARG_absent:
        put(t, "-");
        return;
    case ARG_node:
        put(t, "#%d", arg->node);
        return;
    case ARG_int:
        put(t, "%lld", (long long)arg->integer);
        return;
    case ARG_float:
        put(t, "%#.3g", arg->real);
        return;
    case ARG_bool:
        put(t, arg->boolean ? "true" : "false");
        return;
    case ARG_dtype:
        put(t, "%s", dtype_name(arg->dtype));
        return;
    case ARG_ints:
    case ARG_nodes:
    case ARG_index:
        break;
    }
    put(t, "[");
    for (int i = 0; i < arg->count; i++) {
        put(t, i ? ", " : "");
        if (arg->kind == ARG_ints)
            put(t, "%lld", (long long)arg->ints[i]);
        else if (arg->kind == ARG_nodes)
            put(t, "#%d", arg->nodes[i]);
        else
            put_index(t, &arg->index[i]);
    }
    put(t, "]");
}

static void put_constant(struct text *t, const struct tensor *x)
{
    char text[SHAPE_TEXT_SIZE];
    put(t, "%s %s", dtype_name(x->dtype), shape_text(text, &x->view));
    for (int64_t i = 0; i < view_count(&x->view); i++) {
        if (x->dtype == DT_f32)
            put(t, " %g", (double)((float *)x->data)[i]);
        else if (x->dtype == DT_i64)
            put(t, " %lld", (long long)((int64_t *)x->data)[i]);
        else
            put(t, " %d", ((unsigned char *)x->data)[i]);
    }
}

/* "0 hook(transformer.h.*.output[0] 3, step 0, invoke 1) v; ..." with `@ place` where the node is
 * not the request's own. */
static const char *describe(struct text *t)
{
    t->size = 0;
    put(t, "%s", "");
    for (int i = 0; i < graph.n_nodes; i++) {
        const struct node *n = &graph.nodes[i];
        char own[32];
        put(t, "%s%s(", i ? "; " : "", op_info[n->op].name);
        if (n->op == OP_hook)
            put(t, "%s %d, step %d, invoke %d", n->hook.name->path, n->hook.block, n->hook.step,
                n->invoke);
        else if (n->op == OP_constant)
            put_constant(t, n->constant);
        for (int k = 0; k < op_info[n->op].n_params && n->op != OP_hook && n->op != OP_constant;
             k++) {
            put(t, k ? ", " : "");
            put_arg(t, &n->args[k]);
        }
        put(t, ")%s%s", n->name ? " " : "", n->name ? n->name : "");
        snprintf(own, sizeof own, "nodes[%d]", n->wire);
        if (strcmp(own, n->place) != 0)
            put(t, " @%s %d", n->place, n->wire);
    }
    return t->at;
}

/* Nodes as they are written, behind a prompt. */
static const char *with_prompt(const char *fields)
{
    return arena_format(&arena, "{\"prompt\": [1, 2], %s}", fields);
}

#define HOOK "{\"op\": \"hook\", \"args\": [\"lm_head.output\"]}"
#define HOOKED "hook(lm_head.output 0, step 0, invoke 0)"

static void every_form_becomes_a_graph(void **state)
{
    (void)state;
    static const struct {
        const char *fields, *graph;
    } rows[] = {
        {"\"nodes\": []", ""},
        {"\"nodes\": null, \"set\": null, \"save\": {}", ""},
        {"\"nodes\": [" HOOK "]", HOOKED},
        {"\"nodes\": [{\"op\": \"hook\", \"kwargs\": {\"path\": \"blocks.-1.hook_resid_post\"}, "
         "\"step\": 2, \"name\": \"v\"}]",
         "hook(blocks.*.hook_resid_post 11, step 2, invoke 0) v"},
        {"\"nodes\": [" HOOK ", {\"op\": \"add\", \"args\": [{\"node\": 0}, 1]}]",
         HOOKED "; add(#0, 1)"},
        {"\"nodes\": [" HOOK ", {\"op\": \"add\", \"args\": [2.5, {\"node\": 0}]}]",
         HOOKED "; add(2.50, #0)"},
        {"\"nodes\": [" HOOK ", {\"op\": \"add\", \"args\": [true, {\"node\": 0}]}]",
         HOOKED "; add(true, #0)"},
        {"\"nodes\": [" HOOK ", {\"op\": \"add\", \"args\": [\"-Infinity\", {\"node\": 0}]}]",
         HOOKED "; add(-inf, #0)"},
        {"\"nodes\": [{\"op\": \"hook\", \"args\": [\"lm_head.output\"], \"name\": \"v\"}, "
         "{\"op\": \"exp\", \"args\": [{\"node\": \"v\"}]}, {\"op\": \"exp\", \"args\": [\"v\"]}]",
         HOOKED " v; exp(#0); exp(#0)"},
        {"\"nodes\": [{\"op\": \"hook\", \"args\": [\"lm_head.output\"], \"name\": \"v\"}, "
         "{\"op\": \"exp\", \"args\": [\"v[:, 7][..., None, 2:-5:3]\"]}]",
         HOOKED " v; getitem(#0, [:, 7]) @nodes[1].args[0] 1; "
                "getitem(#1, [..., None, 2:-5:3]) @nodes[1].args[0] 1; exp(#2)"},
        {"\"nodes\": [{\"op\": \"exp\", \"args\": [\"transformer.h.3.output[0][:, -1]\"], "
         "\"step\": 4}]",
         "hook(transformer.h.*.output[0] 3, step 4, invoke 0) @nodes[0].args[0] 0; "
         "getitem(#0, [:, -1]) @nodes[0].args[0] 0; exp(#1)"},
        {"\"nodes\": [{\"op\": \"exp\", \"kwargs\": {\"x\": \"transformer.h.3.output[1][0]\"}}]",
         "hook(transformer.h.*.output[1][0] 3, step 0, invoke 0) @nodes[0].kwargs.x 0; exp(#0)"},
        {"\"nodes\": [{\"op\": \"hook\", \"args\": [\"transformer.wte.output\"], "
         "\"name\": \"lm_head.output\"}, {\"op\": \"exp\", \"args\": [\"lm_head.output\"]}]",
         "hook(transformer.wte.output 0, step 0, invoke 0) lm_head.output; exp(#0)"},
        {"\"nodes\": [" HOOK
         ", {\"op\": \"getitem\", \"args\": [{\"node\": 0}, \"[ 1 , : ,-2:]\"]}]",
         HOOKED "; getitem(#0, [1, :, -2:])"},
        {"\"nodes\": [" HOOK ", {\"op\": \"getitem\", \"args\": [{\"node\": 0}, "
         "[1, null, \"...\", {\"slice\": [null, -2, null]}, {\"slice\": [1, null, 2]}]]}]",
         HOOKED "; getitem(#0, [1, None, ..., :-2, 1::2])"},
        {"\"nodes\": [" HOOK ", {\"op\": \"sum\", \"args\": [{\"node\": 0}, 1, true]}, "
         "{\"op\": \"sum\", \"args\": [{\"node\": 0}, [0, -1]]}, "
         "{\"op\": \"sum\", \"args\": [{\"node\": 0}, null], \"kwargs\": {\"keepdim\": false}}]",
         HOOKED "; sum(#0, [1], true); sum(#0, [0, -1], -); sum(#0, -, false)"},
        {"\"nodes\": [" HOOK ", {\"op\": \"softmax\", \"args\": [{\"node\": 0}], "
         "\"kwargs\": {\"dim\": -1}}]",
         HOOKED "; softmax(#0, -1)"},
        {"\"nodes\": [" HOOK ", {\"op\": \"to\", \"args\": [{\"node\": 0}, \"int64\"]}, "
         "{\"op\": \"to\", \"args\": [{\"node\": 0}, \"torch.bool\"]}]",
         HOOKED "; to(#0, int64); to(#0, bool)"},
        {"\"nodes\": [" HOOK ", {\"op\": \"cat\", \"args\": [[{\"node\": 0}, \"lm_head.output\", "
         "{\"tensor\": [1.5]}], 1]}]",
         HOOKED "; hook(lm_head.output 0, step 0, invoke 0) @nodes[1].args[0] 1; "
                "constant(float32 (1,) 1.5) @nodes[1].args[0] 1; cat([#0, #1, #2], 1)"},
        {"\"nodes\": [{\"op\": \"constant\", \"args\": [{\"tensor\": [[1, 2], [3, 4]]}]}]",
         "constant(int64 (2, 2) 1 2 3 4)"},
        {"\"nodes\": [{\"op\": \"constant\", \"args\": [{\"tensor\": [1, 2.5, \"NaN\"]}]}]",
         "constant(float32 (3,) 1 2.5 nan)"},
        {"\"nodes\": [{\"op\": \"constant\", \"args\": [{\"tensor\": [true, false]}]}]",
         "constant(bool (2,) 1 0)"},
        {"\"nodes\": [{\"op\": \"constant\", \"args\": [{\"tensor\": [[], []]}]}]",
         "constant(float32 (2, 0))"},
        {"\"nodes\": [{\"op\": \"constant\", \"args\": [{\"tensor\": 3}]}]",
         "constant(int64 () 3)"},
        {"\"nodes\": [{\"op\": \"constant\", \"args\": [{\"tensor\": [1, 2], \"dtype\": "
         "\"float32\", "
         "\"shape\": [2]}]}]",
         "constant(float32 (2,) 1 2)"},
        {"\"nodes\": [{\"op\": \"constant\", \"args\": [{\"tensor\": \"AACAPwAAAEA=\", "
         "\"dtype\": \"float32\", \"shape\": [1, 2]}]}]",
         "constant(float32 (1, 2) 1 2)"},
        {"\"nodes\": [{\"op\": \"constant\", \"args\": [{\"tensor\": \"\", \"dtype\": \"int64\", "
         "\"shape\": [0, 9000]}]}]",
         "constant(int64 (0, 9000))"},
        {"\"nodes\": [" HOOK ", {\"op\": \"set\", \"args\": [{\"node\": 0}, 0.0]}, "
         "{\"op\": \"save\", \"args\": [{\"node\": 1}]}, {\"op\": \"exp\", \"args\": [{\"node\": "
         "2}]}]",
         HOOKED "; set(#0, 0.00, -, -); save(#0) node 2; exp(#0)"},
        {"\"save\": {\"last\": \"lm_head.output[:, -1]\"}",
         "hook(lm_head.output 0, step 0, invoke 0) @save.last -1; "
         "getitem(#0, [:, -1]) @save.last -1; save(#1) last @save.last -1"},
        {"\"set\": {\"lm_head.output\": 1.0}, \"nodes\": [" HOOK
         "], \"save\": {\"x\": {\"node\": 0}}",
         "hook(lm_head.output 0, step 0, invoke 0) @set[lm_head.output] -1; "
         "set(#0, 1.00, -, -) @set[lm_head.output] -1; " HOOKED "; save(#2) x @save.x -1"},
        {"\"set\": {\"lm_head.output\": {\"tensor\": [1]}, \"hook_embed\": \"hook_tokens\"}",
         "hook(lm_head.output 0, step 0, invoke 0) @set[lm_head.output] -1; "
         "constant(int64 (1,) 1) @set[lm_head.output] -1; set(#0, #1, -, -) @set[lm_head.output] -1; "
         "hook(hook_embed 0, step 0, invoke 0) @set[hook_embed] -1; "
         "hook(hook_tokens 0, step 0, invoke 0) @set[hook_embed] -1; "
         "set(#3, #4, -, -) @set[hook_embed] -1"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct text t;
        if (!decode(with_prompt(rows[i].fields)))
            fail_msg("%s: %s", rows[i].fields, error.text);
        assert_string_equal(describe(&t), rows[i].graph);
    }
}

static void a_save_is_named_after_what_it_saves(void **state)
{
    (void)state;
    static const struct {
        const char *argument, *name;
    } rows[] = {
        {"{\"node\": 0}", "v"},
        {"\"v\"", "v"},
        {"{\"node\": 1}", "node 2"},
        {"\"v[:, 7]\"", "v[:, 7]"},
        {"\"lm_head.output[:, -1]\"", "lm_head.output[:, -1]"},
        {"\"transformer.h.11.attn.value.output[0, 0:100, 0:100, 0:100, 0:100]\"", "node 2"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        const char *nodes = arena_format(
            &arena,
            "\"nodes\": [{\"op\": \"hook\", \"args\": [\"hook_embed\"], \"name\": \"v\"}, "
            "{\"op\": \"exp\", \"args\": [\"v\"]}, {\"op\": \"save\", \"args\": [%s]}]",
            rows[i].argument);
        assert_true(decode(with_prompt(nodes)));
        assert_string_equal(graph.nodes[graph.n_nodes - 1].name, rows[i].name);
    }
}

static void prompts_are_texts_or_ids(void **state)
{
    (void)state;
    static const struct {
        const char *prompt;
        int n_prompts, n_tokens; /* of the last prompt, 0 for a text */
    } rows[] = {
        {"\"a\\u00e9b\"", 1, 0}, {"[5, 6, 7]", 1, 3},       {"[\"a\", \"b\"]", 2, 0},
        {"[[1], [2, 3]]", 2, 2}, {"[\"a\", [2, 3]]", 2, 2},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        assert_true(decode(arena_format(
            &arena, "{\"invokes\": [{\"prompt\": [1]}, {\"prompt\": %s}]}", rows[i].prompt)));
        assert_int_equal(graph.n_invokes, 2);
        const struct invoke *invoke = &graph.invokes[1];
        assert_int_equal(invoke->n_prompts, rows[i].n_prompts);
        assert_int_equal(invoke->prompts[rows[i].n_prompts - 1].n_tokens, rows[i].n_tokens);
    }
    assert_true(decode("{\"prompt\": \"a\\u00e9b\"}"));
    assert_string_equal(graph.invokes[0].prompts[0].text, "a\xc3\xa9"
                                                          "b");
    assert_int_equal(graph.invokes[0].prompts[0].text_bytes, 4);
}

static void the_rest_of_a_request_is_read(void **state)
{
    (void)state;
    assert_true(
        decode("{\"model\": \"demo\", \"prompt\": \"x\", \"max_new_tokens\": 3, \"sampling\": "
               "{\"temperature\": 1, \"top_k\": 40, \"top_p\": 0.5, "
               "\"seed\": 9223372036854775807}}"));
    assert_string_equal(graph.model, "demo");
    assert_int_equal(graph.traces[0].n_new_tokens, 3);
    assert_true(graph.traces[0].sampling.temperature == 1.0);
    assert_int_equal(graph.traces[0].sampling.top_k, 40);
    assert_true(graph.traces[0].sampling.top_p == 0.5);
    assert_true(graph.traces[0].sampling.seed == INT64_MAX);
    assert_true(decode("{\"prompt\": \"x\"}"));
    assert_null(graph.model);
    assert_true(graph.traces[0].sampling.temperature == 0.0);
    assert_true(graph.traces[0].sampling.top_p == 1.0);
    assert_true(graph.traces[0].sampling.repetition_penalty == 1.0 && graph.traces[0].sampling.min_p == 0.0);
    assert_int_equal(trace_copies(&graph.traces[0]), 1);
}

static void the_end_of_a_generation_is_read(void **state)
{
    (void)state;
    assert_true(decode("{\"prompt\": \"x\"}"));
    assert_int_equal(graph.traces[0].ending.n_ids, 1);
    assert_int_equal(graph.traces[0].ending.ids[0], 50256); /* the model's own */
    assert_int_equal(graph.traces[0].ending.pad, 50256);
    assert_true(decode("{\"prompt\": \"x\", \"max_new_tokens\": 9, \"min_new_tokens\": 4, "
                       "\"eos_token_id\": [3, 4], \"stop\": [\"ab\", 7, \"c\"]}"));
    assert_int_equal(graph.traces[0].ending.n_min, 4);
    assert_int_equal(graph.traces[0].ending.n_ids, 3);
    assert_int_equal(graph.traces[0].ending.ids[2], 7);
    assert_int_equal(graph.traces[0].ending.pad, 3);
    assert_int_equal(graph.traces[0].ending.n_texts, 2);
    assert_memory_equal(graph.traces[0].ending.texts[0].at, "ab", 2);
    assert_true(decode("{\"prompt\": \"x\", \"eos_token_id\": []}"));
    assert_int_equal(graph.traces[0].ending.n_ids + graph.traces[0].ending.n_texts, 0);
    assert_int_equal(graph.traces[0].ending.pad, 50256);
    assert_true(decode("{\"prompt\": \"x\", \"eos_token_id\": 9, \"stop\": \"y\"}"));
    assert_int_equal(graph.traces[0].ending.ids[0], 9);
    assert_int_equal(graph.traces[0].ending.n_texts, 1);
}

static void several_continuations_repeat_each_prompt(void **state)
{
    (void)state;
    assert_true(decode("{\"prompt\": [[1, 2], [3, 4]], \"sampling\": {\"n\": 3}}"));
    assert_int_equal(graph.invokes[0].n_prompts, 6);
    for (int i = 0; i < 6; i++)
        assert_int_equal(graph.invokes[0].prompts[i].tokens[0], i < 3 ? 1 : 3);
}

/* 15 MB of prompt would else be 4 GB. */
static void copies_share_a_text_behind_its_sign(void **state)
{
    (void)state;
    assert_true(decode("{\"invokes\": [{\"prompt\": [\"a\", \"b\"], \"add_bos\": true}], "
                       "\"sampling\": {\"n\": 2}}"));
    const struct prompt *p = graph.invokes[0].prompts;
    assert_string_equal(p[1].text, "<|endoftext|>a");
    assert_ptr_equal(p[1].text, p[0].text);
    assert_string_equal(p[3].text, "<|endoftext|>b");
    assert_int_equal(p[3].text_bytes, 14);
}

struct refusal {
    const char *body;
    enum err_code code;
    const char *where;
    int node;
    const char *text;
};

static void check_refusal(const struct refusal *r, const char *body)
{
    if (decode(body))
        fail_msg("%s is taken", body);
    if (strcmp(error.text, r->text) != 0 || error.code != r->code || error.node != r->node ||
        strcmp(error.where, r->where) != 0)
        fail_msg("%s\n is refused with %s at \"%s\" (node %d): %s", body, err_info[error.code].name,
                 error.where, error.node, error.text);
}

static void a_broken_body_is_refused(void **state)
{
    (void)state;
    static const struct refusal rows[] = {
        {"", ERR_syntax, "", -1, "the body is empty"},
        {"   ", ERR_syntax, "", -1, "the body ends too early"},
        {"null", ERR_syntax, "", -1, "the body begins with the byte 0x6e and not with {"},
        {"\xef\xbb\xbf{\"prompt\": [1]}", ERR_syntax, "", -1, /* a byte order mark */
         "the body begins with the byte 0xef and not with {"},
        {"[]", ERR_syntax, "", -1, "the body is a map, not a list"},
        {"{\"prompt\": [1]", ERR_syntax, "", -1, "the body ends too early"},
        {"{\"prompt\": [1]}}", ERR_syntax, "", -1,
         "the body closes a bracket that it has not opened"},
        {"{\"prompt\": [1]} {}", ERR_syntax, "", -1, "bytes follow the end of the JSON"},
        {"{\"prompt\": [1],}", ERR_syntax, "", -1,
         "the JSON cannot be read at line 1, column 16: string or '}' expected near '}'"},
        {"{\"prompt\": [1], \"prompt\": [2]}", ERR_syntax, "", -1,
         "the JSON cannot be read at line 1, column 24: duplicate object key near '\"prompt\"'"},
        {"{\"prompt\": [NaN]}", ERR_syntax, "", -1,
         "the JSON cannot be read at line 1, column 15: invalid token near 'NaN'"},
        {"{\"prompt\": [1e999]}", ERR_syntax, "", -1,
         "the JSON cannot be read at line 1, column 17: real number overflow near '1e999'"},
        {"{\"prompt\": [9223372036854775808]}", ERR_syntax, "", -1,
         "the JSON cannot be read at line 1, column 31: too big integer near "
         "'9223372036854775808'"},
        {"{\"prompt\": \"\\u0000\"}", ERR_syntax, "", -1, "a text holds a NUL byte"},
        {"{\"prompt\": \"\\\\u0000", ERR_syntax, "", -1, "the body ends too early"},
        {"{\"prompt\": \"\xff\"}", ERR_syntax, "", -1, "a text is not UTF-8"},
        {"{\"prompt\": \"\xc0\x80\"}", ERR_syntax, "", -1, "a text is not UTF-8"},
        {"{\"prompt\": \"\xed\xa0\x80\"}", ERR_syntax, "", -1, "a text is not UTF-8"},
        {"{\"prompt\": \"\\ud800\"}", ERR_syntax, "", -1,
         "the JSON cannot be read at line 1, column 19: invalid Unicode '\\uD800' near "
         "'\"\\ud800\"'"},
        {"{\"prompt\": \"\\u\xd1\x9a\"}", ERR_syntax, "", -1,
         "the JSON cannot be read at line 1, column 15: invalid escape near '\"\\u"},
        {"{}", ERR_syntax, "", -1, "a request has either invokes or a prompt"},
        {"{\"prompt\": [1], \"invokes\": []}", ERR_syntax, "", -1,
         "a request has either invokes or a prompt"},
        {"{\"prompt\": [1], \"safe\": {}}", ERR_syntax, "safe", -1,
         "there is no field \"safe\" here: did you mean \"save\"?"},
        {"{\"prompt\": 5}", ERR_type, "prompt", -1, "prompt is a text or a list, not an integer"},
        {"{\"prompt\": \"\"}", ERR_value, "prompt", -1, "a prompt is empty"},
        {"{\"prompt\": [[1], []]}", ERR_value, "prompt[1]", -1, "a prompt is empty"},
        {"{\"prompt\": [1, 2.0]}", ERR_type, "prompt", -1, "a prompt holds token ids, not a float"},
        {"{\"prompt\": [1, true]}", ERR_type, "prompt", -1,
         "a prompt holds token ids, not a boolean"},
        {"{\"prompt\": [50257]}", ERR_value, "prompt", -1, "a token id is 0 to 50256, not 50257"},
        {"{\"prompt\": [[1], 2]}", ERR_type, "prompt[1]", -1,
         "a prompt is a text or a list of token ids, not an integer"},
        {"{\"invokes\": []}", ERR_value, "invokes", -1, "a request has 1 to 256 invokes, not 0"},
        {"{\"invokes\": [[1]]}", ERR_type, "invokes[0]", -1, "invokes[0] is a map, not a list"},
        {"{\"invokes\": [{\"prompt\": [1]}, {}]}", ERR_syntax, "invokes[1]", -1,
         "prompt is missing"},
        {"{\"invokes\": [{\"prompt\": [1]}, {\"prompt\": [1, -1]}]}", ERR_value,
         "invokes[1].prompt", -1, "a token id is 0 to 50256, not -1"},
        {"{\"prompt\": [1], \"max_new_tokens\": -1}", ERR_value, "max_new_tokens", -1,
         "max_new_tokens is 0 to 1024, not -1"},
        {"{\"prompt\": [1], \"max_new_tokens\": 1025}", ERR_limit, "max_new_tokens", -1,
         "max_new_tokens is at most 1024, not 1025"},
        {"{\"prompt\": [1], \"max_new_tokens\": 1.0}", ERR_type, "max_new_tokens", -1,
         "max_new_tokens is an integer, not a float"},
        {"{\"prompt\": [1], \"max_new_tokens\": true}", ERR_type, "max_new_tokens", -1,
         "max_new_tokens is an integer, not a boolean"},
        {"{\"prompt\": [1], \"sampling\": {\"temperature\": \"hot\"}}", ERR_type,
         "sampling.temperature", -1, "temperature is an integer or a float, not a text"},
        {"{\"prompt\": [1], \"sampling\": {\"temperature\": -0.5}}", ERR_value,
         "sampling.temperature", -1, "temperature is 0 to 1e6, not -0.5"},
        {"{\"prompt\": [1], \"sampling\": {\"top_p\": 1.5}}", ERR_value, "sampling.top_p", -1,
         "top_p is more than 0 and at most 1, not 1.5"},
        {"{\"prompt\": [1], \"sampling\": {\"top_p\": 1.0000001}}", ERR_value, "sampling.top_p", -1,
         "top_p is more than 0 and at most 1, not 1.0000001"},
        {"{\"prompt\": [1], \"sampling\": {\"top_k\": -1}}", ERR_value, "sampling.top_k", -1,
         "top_k is 0 to 2147483647, not -1"},
        {"{\"prompt\": [1], \"sampling\": {\"seed\": -1}}", ERR_value, "sampling.seed", -1,
         "seed is 0 to 9223372036854775807, not -1"},
        {"{\"prompt\": [1], \"sampling\": {\"min_p\": 1.01}}", ERR_value, "sampling.min_p", -1,
         "min_p is 0 to 1, not 1.01"},
        {"{\"prompt\": [1], \"sampling\": {\"repetition_penalty\": 0}}", ERR_value,
         "sampling.repetition_penalty", -1,
         "repetition_penalty is more than 0 and at most 1000, not 0"},
        {"{\"prompt\": [1], \"sampling\": {\"n\": 0}}", ERR_value, "sampling.n", -1,
         "n is 1 to 256, not 0"},
        {"{\"prompt\": [[1], [2]], \"sampling\": {\"n\": 129}}", ERR_limit, "prompt", -1,
         "a request has at most 256 prompts, and each counts n times, 129"},
        {"{\"prompt\": [1], \"min_new_tokens\": 1}", ERR_value, "min_new_tokens", -1,
         "min_new_tokens is 0 to 0, not 1"},
        {"{\"prompt\": [1], \"stop\": {}}", ERR_type, "stop", -1,
         "stop is an integer or a text or a list, not a map"},
        {"{\"prompt\": [1], \"stop\": [\"\"]}", ERR_value, "stop", -1, "a stop text is empty"},
        {"{\"prompt\": [1], \"stop\": [2.0]}", ERR_type, "stop", -1,
         "stop holds token ids, not a float"},
        {"{\"prompt\": [1], \"stop\": -1}", ERR_value, "stop", -1,
         "a token id is 0 to 50256, not -1"},
        {"{\"prompt\": [1], \"stop\": [\"a\", \"a\", \"a\", \"a\", \"a\", \"a\", \"a\", \"a\", "
         "\"a\", \"a\", \"a\", \"a\", \"a\", \"a\", \"a\", \"a\", \"b\"]}",
         ERR_limit, "stop", -1, "at most 16 texts end a generation"},
        {"{\"prompt\": [1], \"eos_token_id\": [\"a\"]}", ERR_type, "eos_token_id", -1,
         "eos_token_id holds token ids, not a text"},
        {"{\"prompt\": [1], \"eos_token_id\": 50257}", ERR_value, "eos_token_id", -1,
         "a token id is 0 to 50256, not 50257"},
        {"{\"prompt\": [1], \"sampling\": {\"topk\": 1}}", ERR_syntax, "sampling.topk", -1,
         "there is no field \"topk\" here: did you mean \"top_k\"?"},
        {"{\"prompt\": [1], \"nodes\": {}}", ERR_type, "nodes", -1, "nodes is a list, not a map"},
    };
    for (size_t i = 0; i < COUNT(rows); i++)
        check_refusal(&rows[i], rows[i].body);
}

static void a_wrong_node_is_refused(void **state)
{
    (void)state;
    static const struct refusal rows[] = {
        {"3", ERR_type, "nodes[1]", 1, "nodes[1] is a map, not an integer"},
        {"{}", ERR_syntax, "nodes[1]", 1, "op is missing"},
        {"{\"op\": 3}", ERR_type, "nodes[1].op", 1, "op is a text, not an integer"},
        {"{\"op\": \"sofmax\"}", ERR_unknown, "nodes[1].op", 1,
         "there is no op \"sofmax\": did you mean softmax?"},
        {"{\"op\": \"__reduce__\"}", ERR_unknown, "nodes[1].op", 1,
         "there is no op \"__reduce__\": did you mean relu?"},
        {"{\"op\": \"exp\", \"arg\": []}", ERR_syntax, "nodes[1].arg", 1,
         "there is no field \"arg\" here: did you mean \"args\"?"},
        {"{\"op\": \"exp\", \"args\": {}}", ERR_type, "nodes[1].args", 1,
         "args is a list, not a map"},
        {"{\"op\": \"exp\"}", ERR_type, "nodes[1]", 1, "exp(x: tensor): x is missing"},
        {"{\"op\": \"exp\", \"args\": [\"v\", 2]}", ERR_type, "nodes[1]", 1,
         "exp(x: tensor) takes 1 argument, not 2"},
        {"{\"op\": \"sum\", \"args\": [\"v\", 2, true, 1]}", ERR_type, "nodes[1]", 1,
         "sum(x: tensor, dim?: ints, keepdim?: bool) takes at most 3 arguments, not 4"},
        {"{\"op\": \"sum\", \"args\": [\"v\"], \"kwargs\": {\"axis\": 1}}", ERR_type,
         "nodes[1].kwargs.axis", 1,
         "sum(x: tensor, dim?: ints, keepdim?: bool) has no parameter \"axis\""},
        {"{\"op\": \"sum\", \"args\": [\"v\"], \"kwargs\": {\"x\": 1}}", ERR_type,
         "nodes[1].kwargs.x", 1, "sum(x: tensor, dim?: ints, keepdim?: bool): x is given twice"},
        {"{\"op\": \"sum\", \"args\": [\"v\", 1.0]}", ERR_type, "nodes[1].args[1]", 1,
         "sum(x: tensor, dim?: ints, keepdim?: bool): dim is not a float"},
        {"{\"op\": \"sum\", \"args\": [\"v\", [true]]}", ERR_type, "nodes[1].args[1]", 1,
         "an integer or a list of integers is needed, not a list with a boolean"},
        {"{\"op\": \"sum\", \"args\": [\"v\", 1, 1]}", ERR_type, "nodes[1].args[2]", 1,
         "sum(x: tensor, dim?: ints, keepdim?: bool): keepdim is not an integer"},
        {"{\"op\": \"permute\", \"args\": [\"v\", [0,1,2,3,4,5,6,7,8]]}", ERR_limit,
         "nodes[1].args[1]", 1, "a tensor has at most 8 dimensions, not 9"},
        {"{\"op\": \"softmax\", \"args\": [\"v\", null]}", ERR_type, "nodes[1].args[1]", 1,
         "softmax(x: tensor, dim: int): dim is not null"},
        {"{\"op\": \"softmax\", \"args\": [\"v\", true]}", ERR_type, "nodes[1].args[1]", 1,
         "softmax(x: tensor, dim: int): dim is not a boolean"},
        {"{\"op\": \"to\", \"args\": [\"v\", \"float16\"]}", ERR_type, "nodes[1].args[1]", 1,
         "the dtype \"float16\" is none of float32, int64 and bool"},
        {"{\"op\": \"cat\", \"args\": [\"v\"]}", ERR_type, "nodes[1].args[0]", 1,
         "cat(tensors: tensors, dim?: int): tensors is not a text"},
        {"{\"op\": \"cat\", \"args\": [[]]}", ERR_value, "nodes[1].args[0]", 1,
         "a list of at least one tensor is needed"},
        {"{\"op\": \"cat\", \"args\": [[\"v\", 2]]}", ERR_type, "nodes[1].args[0]", 1,
         "element 1 of the list is a number, not a tensor"},
        {"{\"op\": \"exp\", \"args\": [[1]]}", ERR_type, "nodes[1].args[0]", 1,
         "exp(x: tensor): x is not a list"},
        {"{\"op\": \"exp\", \"args\": [{}]}", ERR_syntax, "nodes[1].args[0]", 1,
         "a tensor is {\"node\": ...} or {\"tensor\": ...}"},
        {"{\"op\": \"exp\", \"args\": [{\"nod\": 0}]}", ERR_syntax, "nodes[1].args[0]", 1,
         "there is no field \"nod\" here: did you mean \"node\"?"},
        {"{\"op\": \"exp\", \"args\": [{\"node\": 0, \"shape\": [1]}]}", ERR_syntax,
         "nodes[1].args[0]", 1, "a reference to a node has no field \"shape\""},
        {"{\"op\": \"exp\", \"args\": [{\"node\": 1.0}]}", ERR_type, "nodes[1].args[0]", 1,
         "node is an integer or a text, not a float"},
        {"{\"op\": \"exp\", \"args\": [{\"node\": 1}]}", ERR_order, "nodes[1].args[0]", 1,
         "nodes[1] refers to itself"},
        {"{\"op\": \"exp\", \"args\": [{\"node\": 2}]}", ERR_order, "nodes[1].args[0]", 1,
         "nodes[1] refers to nodes[2], which comes later"},
        {"{\"op\": \"exp\", \"args\": [{\"node\": 3}]}", ERR_unknown, "nodes[1].args[0]", 1,
         "nodes[1] refers to nodes[3], but the request has 3 nodes"},
        {"{\"op\": \"exp\", \"args\": [{\"node\": -1}]}", ERR_unknown, "nodes[1].args[0]", 1,
         "nodes[1] refers to nodes[-1], but the request has 3 nodes"},
        {"{\"op\": \"exp\", \"args\": [{\"node\": \"last\"}]}", ERR_order, "nodes[1].args[0]", 1,
         "nodes[1] refers to \"last\", which comes later"},
        {"{\"op\": \"exp\", \"args\": [{\"node\": \"w\"}]}", ERR_unknown, "nodes[1].args[0]", 1,
         "nodes[1] refers to \"w\", but no node has that name"},
        {"{\"op\": \"exp\", \"args\": [\"last[0]\"]}", ERR_order, "nodes[1].args[0]", 1,
         "nodes[1] refers to \"last\", which comes later"},
        {"{\"op\": \"exp\", \"args\": [\"me\"], \"name\": \"me\"}", ERR_order, "nodes[1].args[0]",
         1, "nodes[1] refers to \"me\", which is itself"},
        {"{\"op\": \"exp\", \"args\": [\"lm_head.outptu\"]}", ERR_unknown, "nodes[1].args[0]", 1,
         "there is no hook point or name \"lm_head.outptu\": did you mean lm_head.output?"},
        {"{\"op\": \"exp\", \"args\": [\"lm_head.output[:, 7\"]}", ERR_syntax, "nodes[1].args[0]",
         1, "\"[:, 7\" ends inside an index"},
        {"{\"op\": \"exp\", \"args\": [\"lm_head.output[0] \"]}", ERR_syntax, "nodes[1].args[0]", 1,
         "\" \" is not an index: it starts with ["},
        {"{\"op\": \"exp\", \"args\": [\"v[True]\"]}", ERR_syntax, "nodes[1].args[0]", 1,
         "\"[True]\": at character 1 an integer, a slice, \"...\" or None is expected"},
        {"{\"op\": \"exp\", \"args\": [\"v[]\"]}", ERR_syntax, "nodes[1].args[0]", 1,
         "an index is empty"},
        {"{\"op\": \"exp\", \"args\": [\"v[::0]\"]}", ERR_value, "nodes[1].args[0]", 1,
         "a slice's step is 1 or more, not 0"},
        {"{\"op\": \"exp\", \"args\": [\"v[9223372036854775808]\"]}", ERR_value, "nodes[1].args[0]",
         1, "an index does not fit 64 bits: 9223372036854775808"},
        {"{\"op\": \"exp\", \"args\": [\"v[..., ...]\"]}", ERR_index, "nodes[1].args[0]", 1,
         "an index can hold only one \"...\""},
        {"{\"op\": \"exp\", \"args\": [\"v[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]\"]}", ERR_limit,
         "nodes[1].args[0]", 1, "an index has at most 17 elements"},
        {"{\"op\": \"getitem\", \"args\": [\"v\", \"[0] \"]}", ERR_syntax, "nodes[1].args[1]", 1,
         "\"[0] \" goes on behind the index"},
        {"{\"op\": \"getitem\", \"args\": [\"v\", [[0]]]}", ERR_type, "nodes[1].args[1]", 1,
         "an index holds integers, null, \"...\" and {\"slice\": ...}, not a list"},
        {"{\"op\": \"getitem\", \"args\": [\"v\", [{\"slice\": [1, 2]}]]}", ERR_type,
         "nodes[1].args[1]", 1, "a slice in a list is {\"slice\": [start, stop, step]}"},
        {"{\"op\": \"getitem\", \"args\": [\"v\", 3]}", ERR_type, "nodes[1].args[1]", 1,
         "getitem(x: tensor, index: index): index is not an integer"},
        {"{\"op\": \"hook\", \"args\": [\"transformer.h.12.output[0]\"]}", ERR_unknown,
         "nodes[1].args[0]", 1,
         "transformer.h.12.output[0] does not exist: this model has blocks 0 to 11"},
        {"{\"op\": \"hook\", \"args\": [\"lm_head.output[0]\"]}", ERR_syntax, "nodes[1].args[0]", 1,
         "hook takes a path without an index: \"lm_head.output\""},
        {"{\"op\": \"hook\", \"args\": [{\"node\": 0}]}", ERR_type, "nodes[1].args[0]", 1,
         "a path is a text, not a map"},
        {"{\"op\": \"hook\", \"args\": [\"lm_head.output\"], \"invoke\": 1}", ERR_value,
         "nodes[1].invoke", 1, "invoke 1 does not exist: the request has 1"},
        {"{\"op\": \"hook\", \"args\": [\"lm_head.output\"], \"step\": -1}", ERR_value,
         "nodes[1].step", 1, "step is 0 to 1023, not -1"},
        {"{\"op\": \"exp\", \"args\": [\"v\"], \"name\": \"\"}", ERR_value, "nodes[1].name", 1,
         "a name has 1 to 64 bytes, not 0"},
        {"{\"op\": \"exp\", \"args\": [\"v\"], \"name\": \"12\"}", ERR_value, "nodes[1].name", 1,
         "a name is not a number: \"12\""},
        {"{\"op\": \"exp\", \"args\": [\"v\"], \"name\": \"v\"}", ERR_value, "nodes[1].name", 1,
         "two nodes are called \"v\""},
        {"{\"op\": \"set\", \"args\": [1, 2]}", ERR_type, "nodes[1]", 1,
         "set of a number: it needs a tensor"},
        {"{\"op\": \"save\", \"args\": [1.0]}", ERR_type, "nodes[1]", 1,
         "save of a number: it needs a tensor"},
        {"{\"op\": \"save\", \"args\": [\"v\"], \"name\": \"x\"}", ERR_value, "save.x", -1,
         "two saves are called \"x\": give one of them another name"},
    };
    for (size_t i = 0; i < COUNT(rows); i++)
        check_refusal(&rows[i],
                      arena_format(&arena,
                                   "{\"prompt\": [1], \"nodes\": [{\"op\": \"hook\", \"args\": "
                                   "[\"lm_head.output\"], \"name\": \"v\"}, %s, {\"op\": \"exp\", "
                                   "\"args\": [\"v\"], \"name\": \"last\"}], "
                                   "\"save\": {\"x\": \"v\"}}",
                                   rows[i].body));
}

static void a_wrong_constant_is_refused(void **state)
{
    (void)state;
    static const struct refusal rows[] = {
        {"1", ERR_type, "nodes[0].args[0]", 0, "a constant is {\"tensor\": ...}, not an integer"},
        {"{\"node\": 0}", ERR_type, "nodes[0].args[0]", 0,
         "a constant is {\"tensor\": ...}, not a node"},
        {"{\"tensor\": null}", ERR_type, "nodes[0].args[0]", 0,
         "a tensor is lists of numbers or bytes, not null"},
        {"{\"tensor\": [[1], 2]}", ERR_shape, "nodes[0].args[0]", 0,
         "the lists of a tensor do not have one shape"},
        {"{\"tensor\": [1, [2]]}", ERR_shape, "nodes[0].args[0]", 0,
         "the lists of a tensor do not have one shape"},
        {"{\"tensor\": [[], [1]]}", ERR_shape, "nodes[0].args[0]", 0,
         "the lists of a tensor do not have one shape"},
        {"{\"tensor\": [[[[[[[[[1]]]]]]]]]}", ERR_limit, "nodes[0].args[0]", 0,
         "a tensor has at most 8 dimensions"},
        {"{\"tensor\": [1, true]}", ERR_type, "nodes[0].args[0]", 0,
         "a tensor holds booleans or numbers, not both"},
        {"{\"tensor\": [1, \"x\"]}", ERR_type, "nodes[0].args[0]", 0,
         "a float32 tensor cannot hold a text"},
        {"{\"tensor\": [1.5], \"dtype\": \"int64\"}", ERR_type, "nodes[0].args[0]", 0,
         "a int64 tensor cannot hold a float"},
        {"{\"tensor\": [1, 2], \"shape\": [2, 1]}", ERR_shape, "nodes[0].args[0]", 0,
         "a tensor's lists have the shape (2,), not (2, 1)"},
        {"{\"tensor\": \"AAAA\"}", ERR_syntax, "nodes[0].args[0]", 0,
         "a tensor's bytes need a dtype and a shape"},
        {"{\"tensor\": \"AAA\", \"dtype\": \"bool\", \"shape\": [2]}", ERR_syntax,
         "nodes[0].args[0]", 0, "a tensor's text is not base64"},
        {"{\"tensor\": \"A*AA\", \"dtype\": \"bool\", \"shape\": [3]}", ERR_syntax,
         "nodes[0].args[0]", 0, "a tensor's text is not base64"},
        {"{\"tensor\": \"====\", \"dtype\": \"bool\", \"shape\": [1]}", ERR_syntax,
         "nodes[0].args[0]", 0, "a tensor's text is not base64"},
        {"{\"tensor\": \"AAAA\", \"dtype\": \"float32\", \"shape\": [1]}", ERR_shape,
         "nodes[0].args[0]", 0, "a tensor of float32 (1,) takes 4 bytes, not 3"},
        {"{\"tensor\": \"AAAC\", \"dtype\": \"bool\", \"shape\": [3]}", ERR_value,
         "nodes[0].args[0]", 0, "a bool tensor's bytes are 0 and 1, not 2"},
        {"{\"tensor\": \"AAAA\", \"dtype\": \"bool\", \"shape\": [-3]}", ERR_value,
         "nodes[0].args[0]", 0, "a shape holds no negative numbers: -3"},
        {"{\"tensor\": \"AAAA\", \"dtype\": \"bool\", \"shape\": [0, 4611686018427387904, 4]}",
         ERR_limit, "nodes[0].args[0]", 0, "a tensor has at most 1073741824 bytes"},
        {"{\"tensor\": \"AAAA\", \"dtype\": \"bool\", \"shape\": [3.0]}", ERR_type,
         "nodes[0].args[0]", 0, "a shape holds integers, not a float"},
    };
    for (size_t i = 0; i < COUNT(rows); i++)
        check_refusal(&rows[i], arena_format(&arena,
                                             "{\"prompt\": [1], \"nodes\": [{\"op\": \"constant\", "
                                             "\"args\": [%s]}]}",
                                             rows[i].body));
}

static void a_wrong_shorthand_is_refused(void **state)
{
    (void)state;
    static const struct refusal rows[] = {
        {"\"save\": {\"x\": \"lm_head.ouput\"}", ERR_unknown, "save.x", -1,
         "there is no hook point or name \"lm_head.ouput\": did you mean lm_head.output?"},
        {"\"save\": {\"x\": 3}", ERR_type, "save.x", -1, "save of a number: it needs a tensor"},
        {"\"save\": {\"x\": null}", ERR_type, "save.x", -1,
         "a tensor is {\"node\": ...}, {\"tensor\": ...}, a text or a number, not null"},
        {"\"save\": {\"\": \"lm_head.output\"}", ERR_value, "save.", -1,
         "a name has 1 to 64 bytes, not 0"},
        {"\"save\": {\"x\": {\"node\": 0}}", ERR_unknown, "save.x", -1,
         "save.x refers to nodes[0], but the request has 0 nodes"},
        {"\"set\": {\"lm_head.output[\": 0}", ERR_syntax, "set[lm_head.output[]", -1,
         "\"[\" ends inside an index"},
        {"\"set\": {\"NaN\": 0}", ERR_type, "set[NaN]", -1, "set of a number: it needs a tensor"},
        {"\"set\": {\"v\": 0}, \"nodes\": [{\"op\": \"hook\", \"args\": [\"lm_head.output\"], "
         "\"name\": \"v\"}]",
         ERR_order, "set[v]", -1, "set[v] refers to \"v\", which comes later"},
        {"\"set\": {\"lm_head.output\": [0]}", ERR_type, "set[lm_head.output]", -1,
         "a tensor is {\"node\": ...}, {\"tensor\": ...}, a text or a number, not a list"},
    };
    for (size_t i = 0; i < COUNT(rows); i++)
        check_refusal(&rows[i], with_prompt(rows[i].body));
}

/* `count` times the same text, between others. */
static const char *repeat(const char *before, const char *item, int count, const char *after)
{
    const size_t size = strlen(before) + strlen(item) * (size_t)count + strlen(after);
    char *text = arena_alloc(&arena, size + 1), *to = text;
    to += snprintf(to, size + 1, "%s", before);
    for (int i = 0; i < count; i++, to += strlen(item))
        memcpy(to, item, strlen(item));
    snprintf(to, strlen(after) + 1, "%s", after);
    return text;
}

static void limits_are_kept(void **state)
{
    (void)state;
    static const struct {
        const char *before, *item;
        int most;
        const char *after, *text;
    } rows[] = {
        {"{\"prompt\": [1], \"nodes\": [", HOOK ",", NODES_MAX - 1, HOOK "]}",
         "the graph has 20001 nodes, at most 20000 are taken"},
        {"{\"prompt\": [1], \"nodes\": [", "{\"op\": \"exp\", \"args\": [\"hook_embed\"]},",
         NODES_MAX / 2 - 1, HOOK "," HOOK "]}", "the graph has more than 20000 nodes"},
        {"{\"prompt\": [", "[1],", SEQUENCES_MAX - 1, "[1]]}", "a request has at most 256 prompts"},
        {"{\"invokes\": [", "{\"prompt\": [1]},", INVOKES_MAX - 1, "{\"prompt\": [1]}]}",
         "a request has 1 to 256 invokes, not 257"},
        {"{\"prompt\": [1], \"nodes\": [{\"op\": \"constant\", \"args\": [{\"tensor\": [", "1,",
         JSON_TENSOR_NUMBERS_MAX - 1, "1]}]}]}",
         "lists of a body hold at most 100000 numbers: send base64 or a msgpack bin"},
        {"{\"prompt\": [", "1,", OBJECTS_MAX - 3, "1]}", "the body has more than 200000 values"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        if (!decode(repeat(rows[i].before, rows[i].item, rows[i].most, rows[i].after)))
            fail_msg("row %zu: %s", i, error.text);
        assert_false(decode(repeat(rows[i].before, rows[i].item, rows[i].most + 1, rows[i].after)));
        assert_int_equal(error.code, ERR_limit);
        assert_string_equal(error.text, rows[i].text);
    }
    error = (struct err){0};
    assert_true(prescan_json(repeat("", "[", DEPTH_MAX, repeat("", "]", DEPTH_MAX, "")),
                             2 * DEPTH_MAX, &error));
    assert_false(decode(repeat("{\"prompt\": ", "[", DEPTH_MAX, "")));
    assert_string_equal(error.text, "the body is nested deeper than 32");
}

static void bombs_are_refused_at_once(void **state)
{
    (void)state;
    /* 31 lists of 64 million each, in 155 bytes; three megabytes of "{},". */
    char bomb[155];
    for (int i = 0; i < 31; i++)
        memcpy(bomb + 5 * i, "\xdd\x04\x00\x00\x00", 5);
    const char *objects = repeat("{\"prompt\": [", "{},", 1 << 20, "{}]}");
    const clock_t from = clock();
    const size_t used = arena.used;
    assert_false(decode_bytes(bomb, sizeof bomb, MEDIA_msgpack));
    assert_string_equal(error.text, "the body ends too early");
    assert_false(decode(objects));
    assert_string_equal(error.text, "the body has more than 200000 values");
    assert_true(arena.used == used);
    assert_true(clock() - from < CLOCKS_PER_SEC / 20); /* 50 ms */
}

static void broken_msgpack_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t size;
        enum err_code code;
        const char *text;
    } rows[] = {
        {"\xc1", 1, ERR_syntax, "the msgpack type 0xc1 is not used here"},
        {"\xd4\x01\x00", 3, ERR_syntax, "the msgpack type 0xd4 is not used here"},
        {"\xc9\xff\xff\xff\xff\x01", 6, ERR_syntax, "the msgpack type 0xc9 is not used here"},
        {"\xdd\x10\x00\x00\x00", 5, ERR_syntax, "the body ends too early"},
        {"\xdf\xff\xff\xff\xff", 5, ERR_syntax, "the body ends too early"},
        {"\xdb\xff\xff\xff\xff", 5, ERR_syntax, "the body ends too early"},
        {"\xc6\xff\xff\xff\xff", 5, ERR_syntax, "the body ends too early"},
        {"\x92\xdc\x00\x02\x01", 5, ERR_syntax, "the body ends too early"},
        {"\x80\x80", 2, ERR_syntax, "bytes follow the end of the msgpack"},
        {"\x81\x01\x01", 3, ERR_syntax, "a map's key is not a text"},
        {"\x82\xa1p\x01\xa1p\x01", 7, ERR_syntax, "the key \"p\" stands twice in one map"},
        {"\x81\xa1\xff\x01", 4, ERR_syntax, "a text is not UTF-8"},
        {"\x81\xa1\x00\x01", 4, ERR_syntax, "a text holds a NUL byte"},
        {"\x81\xa6prompt\xcf\x80\x00\x00\x00\x00\x00\x00\x00", 17, ERR_syntax,
         "an integer is larger than 2^63 - 1"},
        {"\xc0", 1, ERR_syntax, "the body is a map, not null"},
        {"\x81\xa6prompt\xc4\x01\x01", 11, ERR_type, "prompt is a text or a list, not a bin"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        assert_false(decode_bytes(rows[i].bytes, rows[i].size, MEDIA_msgpack));
        assert_string_equal(error.text, rows[i].text);
        assert_int_equal(error.code, rows[i].code);
    }
    char deep[64];
    memset(deep, 0x91, 33);
    deep[33] = 1;
    error = (struct err){0};
    assert_false(prescan_msgpack(deep, 34, &error));
    assert_int_equal(error.code, ERR_limit);
    error = (struct err){0};
    assert_true(prescan_msgpack(deep + 1, 33, &error));
}

/* Each copied to memory of its own size, so that a sanitizer sees a byte read behind the end. */
static void every_truncation_is_refused(void **state)
{
    (void)state;
    static const char json[] =
        "{\"model\": \"demo\", \"invokes\": [{\"prompt\": \"caf\\u00e9 \xc3\xa9\"}, {\"prompt\": "
        "[1]}], "
        "\"sampling\": {\"temperature\": 0.5}, \"nodes\": [{\"op\": \"hook\", \"args\": "
        "[\"lm_head.output\"], \"invoke\": 1}, {\"op\": \"add\", \"args\": [{\"node\": 0}, "
        "-1.5e3]}], "
        "\"save\": {\"x\": \"lm_head.output[:, -1]\"}}";
    static const char msgpack[] = "\x83\xa6prompt\x92\x01\xcd\x01\x00\xa5model\xa4"
                                  "demo\xa5nodes\x92\x82\xa2op\xa4hook\xa4"
                                  "args\x91\xaelm_head.output\x82\xa2op\xa3"
                                  "add\xa4"
                                  "args\x92\x81\xa4node\x00\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00";
    static const struct {
        const char *body;
        size_t size;
        enum media media;
    } rows[] = {
        {json, sizeof json - 1, MEDIA_json},
        {msgpack, sizeof msgpack - 1, MEDIA_msgpack},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        if (!decode_bytes(rows[i].body, rows[i].size, rows[i].media))
            fail_msg("%s", error.text);
        for (size_t size = 0; size < rows[i].size; size++) {
            char *copy = test_malloc(size + !size);
            memcpy(copy, rows[i].body, size);
            assert_false(decode_bytes(copy, size, rows[i].media));
            assert_int_equal(error.code, ERR_syntax);
            test_free(copy);
        }
    }
}

static void texts_and_token_lists_are_read(void **state)
{
    (void)state;
    struct text_list t;
    struct token_lists l;
    static const char one[] = "{\"text\": \"abc\"}", many[] = "{\"text\": [\"a\", \"\"]}";
    static const char ids[] = "{\"tokens\": [1, 2, 3]}", lists[] = "{\"tokens\": [[1], []]}";
    assert_true(decode_texts(&t, one, strlen(one), MEDIA_json, &arena, &error));
    assert_false(t.is_list);
    assert_int_equal(t.bytes[0], 3);
    assert_string_equal(t.texts[0], "abc");
    assert_true(decode_texts(&t, many, strlen(many), MEDIA_json, &arena, &error));
    assert_true(t.is_list);
    assert_int_equal(t.count, 2);
    assert_true(decode_token_lists(&l, ids, strlen(ids), MEDIA_json, &arena, &error));
    assert_false(l.is_list);
    assert_int_equal(l.lengths[0], 3);
    assert_int_equal(l.tokens[0][2], 3);
    assert_true(decode_token_lists(&l, lists, strlen(lists), MEDIA_json, &arena, &error));
    assert_int_equal(l.count, 2);
    assert_int_equal(l.lengths[1], 0);
    static const struct {
        const char *body, *where;
    } refused[] = {
        {"{\"tokens\": [1, \"a\"]}", "tokens"},
        {"{\"tokens\": [[1], [-1]]}", "tokens[1]"},
        {"{\"tokens\": [[1], 2]}", "tokens[1]"},
        {"{\"tokens\": [2147483648]}", "tokens"},
    };
    for (size_t i = 0; i < COUNT(refused); i++) {
        error = (struct err){0};
        assert_false(decode_token_lists(&l, refused[i].body, strlen(refused[i].body), MEDIA_json,
                                        &arena, &error));
        assert_string_equal(error.where, refused[i].where);
    }
    error = (struct err){0};
    assert_false(decode_texts(&t, "{\"text\": [\"a\", 1]}", 18, MEDIA_json, &arena, &error));
    assert_string_equal(error.where, "text[1]");
}

/* Tens of milliseconds, as limits.h promises for a whole validation; the bound has room for
 * sanitizers and slow machines. */
static void a_full_graph_is_decoded_fast(void **state)
{
    (void)state;
    const char *body = repeat("{\"prompt\": [1], \"nodes\": [" HOOK ",",
                              "{\"op\": \"add\", \"args\": [{\"node\": 0}, {\"node\": 0}]},",
                              NODES_MAX - 2, HOOK "]}");
    const clock_t from = clock();
    assert_true(decode(body));
    assert_int_equal(graph.n_nodes, NODES_MAX);
    const double took = (double)(clock() - from) / CLOCKS_PER_SEC;
    print_message("%d nodes decoded in %.1f ms\n", NODES_MAX, 1e3 * took);
    assert_true(took < 1.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form_becomes_a_graph),
        cmocka_unit_test(a_save_is_named_after_what_it_saves),
        cmocka_unit_test(prompts_are_texts_or_ids),
        cmocka_unit_test(the_rest_of_a_request_is_read),
        cmocka_unit_test(the_end_of_a_generation_is_read),
        cmocka_unit_test(several_continuations_repeat_each_prompt),
        cmocka_unit_test(copies_share_a_text_behind_its_sign),
        cmocka_unit_test(a_broken_body_is_refused),
        cmocka_unit_test(a_wrong_node_is_refused),
        cmocka_unit_test(a_wrong_constant_is_refused),
        cmocka_unit_test(a_wrong_shorthand_is_refused),
        cmocka_unit_test(limits_are_kept),
        cmocka_unit_test(bombs_are_refused_at_once),
        cmocka_unit_test(broken_msgpack_is_refused),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(texts_and_token_lists_are_read),
        cmocka_unit_test(a_full_graph_is_decoded_fast),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
