/* protocol/encode*.c: each frame in each media type, whole and pulled in pieces of every size. */
#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../../protocol/encode.h"
#include "../../protocol/encode_writer.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static struct arena arena;

static int tear_down(void **state)
{
    (void)state;
    arena_free(&arena);
    return 0;
}

/* A request with two invokes, a set and two saves, as the planner would leave it. */

static const int32_t tokens[] = {464, 412, 7};
static struct prompt prompts[] = {{.tokens = tokens, .n_tokens = 2},
                                  {.tokens = tokens + 1, .n_tokens = 2}};
static struct prompt one_prompt[] = {{.tokens = tokens + 2, .n_tokens = 1}};
static struct invoke invokes[] = {{.n_prompts = 2, .prompts = prompts},
                                  {.n_prompts = 1, .prompts = one_prompt}};
static struct trace trace = {.place = "", .n_invokes = 2, .n_new_tokens = 2};
static struct node nodes[] = {
    {.op = OP_hook, .wire = 0, .place = "nodes[0]", .name = "v"},
    {.op = OP_set, .wire = 1, .place = "nodes[1]", .args = {{.kind = ARG_node}}},
    {.op = OP_save, .wire = 2, .place = "nodes[2]", .name = "x\n\"y", .args = {{.kind = ARG_node}}},
    {.op = OP_save, .wire = -1, .place = "save.z", .name = "z", .args = {{.kind = ARG_node}}},
};
static const struct graph graph = {
    .n_nodes = COUNT(nodes), .n_invokes = 2, .n_traces = 1, .nodes = nodes, .invokes = invokes, .traces = &trace};

static char results[64 * 4] __attribute__((aligned(64)));
static struct value values[COUNT(nodes)];
static struct save saves[] = {
    {.node = 2, .name = "x\n\"y", .step = 1, .dtype = DT_f32, .bytes = 16},
    {.node = 3, .name = "z", .dtype = DT_i64, .offset = 64, .bytes = 8},
};
static struct stop stops[] = {{.pass = 1, .site = PT_embed_sum, .first = 0, .n_actions = 1}};
static struct action actions[] = {{.op = OP_set, .node = 1}};
static struct plan_invoke plan_invokes[2] = {
    {.n_sequences = 2}, {.n_sequences = 1, .outcome_first = 2, .generated_first = 4}};
static struct plan_trace plan_trace = {.n_invokes = 2, .n_steps = 2, .samples = true};
static struct plan_pass plan_passes[2];
static struct plan plan = {.n_values = COUNT(nodes),
                           .n_saves = COUNT(saves),
                           .touched = (int64_t[]){0, 4, 0, 0},
                           .n_invokes = 2,
                           .n_traces = 1,
                           .n_passes = 2,
                           .invokes = plan_invokes,
                           .traces = &plan_trace,
                           .passes = plan_passes,
                           .n_stops = 1,
                           .n_actions = 1,
                           .values = values,
                           .saves = saves,
                           .stops = stops,
                           .actions = actions,
                           .slab_bytes = 128,
                           .result_bytes = 128,
                           .cost = 1.5e9};
static const int32_t generated[] = {1, 2, 3, 4, 5, 6};
static const struct reply_facts facts = {.request_id = "r1",
                                         .model = "demo",
                                         .numerics = "exact",
                                         .graph = &graph,
                                         .plan = &plan,
                                         .results = results,
                                         .generated = generated};

static int set_up(void **state)
{
    (void)state;
    const float floats[] = {0.1f, -1.0f, -NAN, INFINITY};
    const int64_t integer = -5;
    memcpy(results, floats, sizeof floats);
    memcpy(results + 64, &integer, sizeof integer);
    saves[0].view = view_of(2, (int64_t[]){2, 2});
    saves[1].view = view_of(0, NULL);
    values[0] = (struct value){.dtype = DT_f32, .view = saves[0].view};
    nodes[0].hook = (struct hook){.name = &point_names[2], .step = 1}; /* transformer.wte.output */
    return 0;
}

/* Pulls a frame to its end, `piece` bytes at a time, behind what is there. */
static void pull(struct bytes *all, struct encoder *c, size_t piece)
{
    char buffer[4096];
    for (size_t n; (n = encoder_pull(c, buffer, piece)) > 0;) {
        assert_true(n <= piece);
        char *more = arena_alloc(&arena, all->size + n + 1);
        if (all->size)
            memcpy(more, all->at, all->size);
        memcpy(more + all->size, buffer, n);
        *all = (struct bytes){more, all->size + n};
    }
}

static struct bytes whole_reply(enum reply_media media, size_t piece)
{
    struct bytes all = {0};
    struct encoder *c = encoder_open(media, &facts, &arena);
    encoder_head(c);
    pull(&all, c, piece);
    encoder_save(c, 0);
    pull(&all, c, piece);
    encoder_heartbeat(c);
    pull(&all, c, piece);
    encoder_save(c, 1);
    pull(&all, c, piece);
    encoder_end(c, 0.25, 1.5);
    pull(&all, c, piece);
    return all;
}

#define HEAD                                                                                      \
    "{\"type\": \"head\", \"request_id\": \"r1\", \"model\": \"demo\", \"numerics\": \"exact\", " \
    "\"tokens\": [[[464, 412], [412, 7]], [[7]]], \"lengths\": [[2, 2], [1]], \"steps\": 2, "       \
    "\"touched\": [{\"place\": \"nodes[1]\", \"elements\": 4}], \"default_step\": 0}"
#define FIRST                                                                        \
    "{\"type\": \"tensor\", \"name\": \"x\\u000a\\\"y\", \"node\": 2, \"step\": 1, " \
    "\"dtype\": \"float32\", \"shape\": [2, 2], \"data\": [[0.1,-1.0],[\"NaN\",\"Infinity\"]]}"
#define SECOND                                                                                    \
    "{\"type\": \"tensor\", \"name\": \"z\", \"node\": null, \"step\": 0, \"dtype\": \"int64\", " \
    "\"shape\": [], \"data\": -5}"
#define END                                                                                   \
    "{\"type\": \"end\", \"status\": \"done\", \"generated\": [[[1, 2], [3, 4]], [[5, 6]]], " \
    "\"finish\": [[\"length\", \"length\"], [\"length\"]], "                                    \
    "\"timing\": {\"queue\": 0.25, \"run\": 1.5}}"

static const char ndjson[] = HEAD "\n" FIRST "\n\n" SECOND "\n" END "\n";
static const char json[] = "{\"frames\": [" HEAD ", " FIRST " , " SECOND ", " END "]}\n";
static const char text[] = "request r1, model demo, exact, 2 passes\n"
                           "invoke 0, prompt 0, 2 tokens: 464 412\n"
                           "invoke 0, prompt 1, 2 tokens: 412 7\n"
                           "invoke 1, prompt 0, 1 token: 7\n"
                           "\n"
                           "x\\x0a\"y: float32 (2, 2), step 1\n"
                           "  mean nan, min nan, max nan\n"
                           "  [[        0.1          -1]\n"
                           "   [        nan         inf]]\n"
                           "\n"
                           "\n"
                           "z: int64 (), step 0\n"
                           "       -5\n"
                           "\n"
                           "invoke 0, prompt 0, 2 new tokens: 1 2\n"
                           "invoke 0, prompt 1, 2 new tokens: 3 4\n"
                           "invoke 1, prompt 0, 2 new tokens: 5 6\n"
                           "done: 0.250 s in the queue, 1.500 s running\n";

static void check_bytes(struct bytes found, const char *expected, size_t size)
{
    if (found.size != size || memcmp(found.at, expected, size) != 0)
        fail_msg("found:\n%.*s\nexpected:\n%s", (int)found.size, found.at, expected);
}

static void a_reply_reads_as_it_should(void **state)
{
    (void)state;
    check_bytes(whole_reply(REPLY_ndjson, 4096), ndjson, sizeof ndjson - 1);
    check_bytes(whole_reply(REPLY_json, 4096), json, sizeof json - 1);
    check_bytes(whole_reply(REPLY_text, 4096), text, sizeof text - 1);
}

static void msgpack_carries_the_bytes_themselves(void **state)
{
    (void)state;
    const struct bytes found = whole_reply(REPLY_msgpack, 4096);
    static const char first[] = "\x87\xa4type\xa6tensor\xa4name\xa4x\n\"y\xa4node\x02\xa4step\x01"
                                "\xa5"
                                "dtype\xa7"
                                "float32\xa5shape\x92\x02\x02\xa4"
                                "data\xc4\x10";
    const char *at = memmem(found.at, found.size, first, sizeof first - 1);
    assert_non_null(at);
    at += sizeof first - 1;
    assert_memory_equal(at, results, 16);
    assert_int_equal((unsigned char)at[16], 0xc0); /* the heartbeat */
    assert_int_equal((unsigned char)at[17], 0x87);
    assert_memory_equal(found.at, "\x89\xa4type\xa4head\xaarequest_id\xa2r1", 25);
}

static void pieces_of_any_size_give_the_same_bytes(void **state)
{
    (void)state;
    for (int media = 0; media < REPLY_MEDIA_COUNT; media++) {
        const struct bytes all = whole_reply((enum reply_media)media, 4096);
        for (size_t piece = 1; piece < 100; piece++) {
            const struct bytes found = whole_reply((enum reply_media)media, piece);
            assert_int_equal(found.size, all.size);
            assert_memory_equal(found.at, all.at, all.size);
        }
    }
}

static void a_failure_closes_the_stream(void **state)
{
    (void)state;
    static const struct {
        enum reply_media media;
        const char *expected;
    } rows[] = {
        {REPLY_json, "{\"frames\": [{\"type\": \"error\", \"error\": {\"code\": \"device\", "
                     "\"message\": \"it \\\"broke\\\"\", \"path\": \"nodes[1]\", \"node\": 1, "
                     "\"request_id\": \"r1\"}}]}\n"},
        {REPLY_ndjson, "{\"type\": \"error\", \"error\": {\"code\": \"device\", "
                       "\"message\": \"it \\\"broke\\\"\", \"path\": \"nodes[1]\", \"node\": 1, "
                       "\"request_id\": \"r1\"}}\n"},
        {REPLY_text, "error (device): it \"broke\", at nodes[1]\n"},
    };
    struct err e = {0};
    err_set(&e, ERR_device, "it \"broke\"");
    err_at(&e, 1, "nodes[1]");
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct bytes found = {0};
        struct encoder *c = encoder_open(rows[i].media, &facts, &arena);
        encoder_error(c, &e);
        pull(&found, c, 4096);
        check_bytes(found, rows[i].expected, strlen(rows[i].expected));
    }
}

static void the_longest_failure_fits(void **state)
{
    (void)state;
    struct err e = {0};
    char long_text[600];
    memset(long_text, 1, sizeof long_text);
    err_set(&e, ERR_misdirected, "%.599s", long_text);
    err_at(&e, 19999, "%.200s", long_text);
    for (int media = 0; media < REPLY_MEDIA_COUNT; media++) {
        struct bytes found = {0};
        struct encoder *c = encoder_open((enum reply_media)media, &facts, &arena);
        encoder_error(c, &e);
        pull(&found, c, 4096);
        assert_true(found.size > 500);
    }
}

static void a_refusal_is_a_document(void **state)
{
    (void)state;
    struct err e = {0};
    err_set(&e, ERR_shape, "add of (1, 2) and (3,)");
    struct bytes found = encode_error(&e, "r1", REPLY_text, &arena);
    static const char bare[] = "{\"error\": {\"code\": \"shape\", \"message\": "
                               "\"add of (1, 2) and (3,)\", \"request_id\": \"r1\"}}\n";
    check_bytes(found, bare, sizeof bare - 1);
    err_at(&e, 7, "nodes[7].args[1]");
    found = encode_error(&e, NULL, REPLY_json, &arena);
    static const char placed[] =
        "{\"error\": {\"code\": \"shape\", \"message\": \"add of (1, 2) and (3,)\", "
        "\"path\": \"nodes[7].args[1]\", \"node\": 7}}\n";
    check_bytes(found, placed, sizeof placed - 1);
    found = encode_error(&e, NULL, REPLY_msgpack, &arena);
    assert_memory_equal(found.at,
                        "\x81\xa5"
                        "error\x84\xa4"
                        "code\xa5shape",
                        19);
}

static void what_is_no_utf8_is_replaced(void **state)
{
    (void)state;
    struct err e = {0};
    err_set(&e, ERR_unknown, "a\xff\xc3");
    const struct bytes found = encode_error(&e, NULL, REPLY_json, &arena);
    assert_non_null(memmem(found.at, found.size, "a\xef\xbf\xbd", 4));
    const struct bytes packed = encode_error(&e, NULL, REPLY_msgpack, &arena);
    assert_null(memchr(packed.at, 0xff, packed.size));
}

static void a_plan_names_what_the_request_has(void **state)
{
    (void)state;
    static const struct model_shape shape = {2, 2, 8, 32, 100, 64, 1e-5f, 0, {0}};
    const struct bytes found = encode_plan(&graph, &plan, &shape, REPLY_json, &arena);
    static const char expected[] =
        "{\"nodes\": ["
        "{\"index\": 0, \"op\": \"hook\", \"name\": \"v\", \"shape\": [2, 2], "
        "\"dtype\": \"float32\", \"step\": 1, \"site\": \"transformer.wte.output\"}, "
        "{\"index\": 1, \"op\": \"set\", \"shape\": [2, 2], \"dtype\": \"float32\", \"step\": 1, "
        "\"site\": \"transformer.drop.output\"}, "
        "{\"index\": 2, \"op\": \"save\", \"name\": \"x\\u000a\\\"y\", \"shape\": [2, 2], "
        "\"dtype\": \"float32\", \"step\": 1, \"site\": \"transformer.wte.output\"}], "
        "\"saves\": [{\"name\": \"x\\u000a\\\"y\", \"shape\": [2, 2], \"dtype\": \"float32\", "
        "\"step\": 1}, {\"name\": \"z\", \"shape\": [], \"dtype\": \"int64\", \"step\": 0}], "
        "\"touched\": [{\"place\": \"nodes[1]\", \"elements\": 4}], \"steps\": 2, "
        "\"tokens\": [[[464, 412], [412, 7]], [[7]]], \"lengths\": [[2, 2], [1]], "
        "\"slab_bytes\": 128, "
        "\"result_bytes\": 128, \"cost\": 1.5e+09}\n";
    check_bytes(found, expected, sizeof expected - 1);
}

/* A save alone, as JSON and as text. */
static struct bytes one_tensor(enum reply_media media, const struct save *s, const void *data)
{
    const struct plan only = {.n_passes = 1,
                              .n_saves = 1,
                              .invokes = plan_invokes,
                              .saves = (struct save[]){*s}};
    struct reply_facts f = facts;
    f.plan = &only;
    f.results = data;
    struct graph g = graph;
    g.n_nodes = 1; /* no sets */
    f.graph = &g;
    struct bytes found = {0};
    struct encoder *c = encoder_open(media, &f, &arena);
    encoder_save(c, 0);
    pull(&found, c, 4096);
    return found;
}

static void tensors_of_any_rank_become_nested_lists(void **state)
{
    (void)state;
    static const struct {
        int rank;
        int64_t shape[4];
        const char *data;
    } rows[] = {
        {0, {0}, "true"},
        {1, {1}, "[true]"},
        {1, {3}, "[true,false,true]"},
        {3, {1, 2, 1}, "[[[true],[false]]]"},
        {3, {2, 1, 2}, "[[[true,false]],[[true,false]]]"},
        {1, {0}, "[]"},
        {3, {2, 0, 3}, "[]"},
    };
    static const char data[] = {1, 0, 1, 0};
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct save s = {
            .name = "b", .dtype = DT_bool, .view = view_of(rows[i].rank, rows[i].shape)};
        s.bytes = (size_t)view_count(&s.view);
        const struct bytes found = one_tensor(REPLY_ndjson, &s, data);
        const char *at = memmem(found.at, found.size, "\"data\": ", 8);
        assert_non_null(at);
        const struct bytes rest = {(char *)at + 8, found.size - (size_t)(at + 8 - found.at)};
        const char *expected = arena_format(&arena, "%s}\n", rows[i].data);
        check_bytes(rest, expected, strlen(expected));
    }
}

static void long_tensors_show_their_corners_as_text(void **state)
{
    (void)state;
    int64_t data[8 * 9];
    for (int i = 0; i < 8 * 9; i++)
        data[i] = i;
    const struct save s = {
        .name = "t", .dtype = DT_i64, .bytes = sizeof data, .view = view_of(2, (int64_t[]){8, 9})};
    const struct bytes found = one_tensor(REPLY_text, &s, data);
    static const char expected[] = "t: int64 (8, 9), step 0\n"
                                   "  mean 35.5, min 0, max 71\n"
                                   "  [[      0       1       2 ...       6       7       8]\n"
                                   "   [      9      10      11 ...      15      16      17]\n"
                                   "   [     18      19      20 ...      24      25      26]\n"
                                   "   ...\n"
                                   "   [     45      46      47 ...      51      52      53]\n"
                                   "   [     54      55      56 ...      60      61      62]\n"
                                   "   [     63      64      65 ...      69      70      71]]\n"
                                   "\n";
    check_bytes(found, expected, sizeof expected - 1);
}

static void floats_have_the_fewest_digits_that_read_back(void **state)
{
    (void)state;
    static const struct {
        float value;
        const char *text;
    } rows[] = {
        {0.0f, "0.0"},
        {-0.0f, "-0.0"},
        {1.0f, "1.0"},
        {0.1f, "0.1"},
        {1e20f, "1e+20"},
        {16777216.0f, "16777216.0"},
        {3.4028235e38f, "3.4028235e+38"},
        {1e-45f, "1.4013e-45"},
        {0.33333334f, "0.33333334"},
        {NAN, "\"NaN\""},
        {-INFINITY, "\"-Infinity\""},
    };
    char found[NUMBER_SIZE];
    for (size_t i = 0; i < COUNT(rows); i++) {
        assert_int_equal(float_text(found, rows[i].value), strlen(rows[i].text));
        assert_string_equal(found, rows[i].text);
    }
    uint32_t bits = 1;
    for (int i = 0; i < 100000; i++) {
        bits = bits * 1664525 + 1013904223;
        float value;
        memcpy(&value, &bits, sizeof value);
        if (!isfinite(value))
            continue;
        float_text(found, value);
        const float back = strtof(found, NULL);
        assert_memory_equal(&back, &value, sizeof value);
    }
}

/* The size that is counted is never less than what is written. */
static void counting_bounds_writing(void **state)
{
    (void)state;
    for (int form = 0; form < 2; form++) {
        struct writer ws[] = {writer_counts((enum writer_form)form),
                              writer_grows((enum writer_form)form, &arena)};
        for (size_t i = 0; i < COUNT(ws); i++) {
            struct writer *w = &ws[i];
            write_map(w, 3);
            write_key(w, "a");
            write_list(w, 5);
            write_int(w, INT64_MIN);
            write_real(w, -1.2345678901234567e-300);
            write_bool(w, true);
            write_null(w);
            write_text(w, "\x01\xff\"");
            write_end(w);
            write_key(w, "b");
            write_map(w, 0);
            write_end(w);
            write_key(w, "c");
            write_list(w, 0);
            write_end(w);
            write_end(w);
        }
        assert_true(ws[0].size >= ws[1].size);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_reply_reads_as_it_should),
        cmocka_unit_test(msgpack_carries_the_bytes_themselves),
        cmocka_unit_test(pieces_of_any_size_give_the_same_bytes),
        cmocka_unit_test(a_failure_closes_the_stream),
        cmocka_unit_test(the_longest_failure_fits),
        cmocka_unit_test(a_refusal_is_a_document),
        cmocka_unit_test(what_is_no_utf8_is_replaced),
        cmocka_unit_test(a_plan_names_what_the_request_has),
        cmocka_unit_test(tensors_of_any_rank_become_nested_lists),
        cmocka_unit_test(long_tensors_show_their_corners_as_text),
        cmocka_unit_test(floats_have_the_fewest_digits_that_read_back),
        cmocka_unit_test(counting_bounds_writing),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
