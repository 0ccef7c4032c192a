/* Tokens to the text of a completion, one token at a time: what is sent when, what is held back
 * because it may become a character or a text that ends it, and what a body asks for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "../../protocol/completion.h"
#include "../tiny_bpe.h"

static struct arena arena;
static struct bpe *bpe;
static struct completion asked;
static struct trace trace;
static struct prompt prompt;
static struct invoke invoke = {.n_prompts = 1, .prompts = &prompt};
static const struct graph graph = {
    .n_invokes = 1, .n_traces = 1, .invokes = &invoke, .traces = &trace};
static struct plan_invoke plan_invoke = {.n_sequences = 1};
static const struct plan plan = {.n_invokes = 1, .n_sequences = 1, .invokes = &plan_invoke};
static struct completion_facts facts;

static int set_up(void **state)
{
    (void)state;
    struct err e = {0};
    const char *text = tiny_tokenizer(&arena, "", "[]", "");
    return !bpe_parse_json(&bpe, text, strlen(text), &e);
}

static int tear_down(void **state)
{
    (void)state;
    bpe_free(bpe);
    arena_free(&arena);
    return 0;
}

/* A token for each byte. */
static void begin(const char *generated, size_t size, const char *stop)
{
    static struct stop_text texts[1];
    int32_t *ids = ARENA_ARRAY(&arena, int32_t, size);
    for (size_t i = 0; i < size; i++) {
        for (int id = 0; id < 256; id++) {
            size_t n;
            const char *bytes = bpe_token(&n, bpe, id);
            if (n == 1 && *bytes == generated[i])
                ids[i] = id;
        }
    }
    trace = (struct trace){.place = "", .n_invokes = 1, .n_new_tokens = (int)size};
    texts[0] = (struct stop_text){stop, stop ? strlen(stop) : 0};
    trace.ending = (struct ending){.n_texts = stop != NULL, .texts = texts};
    facts = (struct completion_facts){.asked = &asked,
                                      .graph = &graph,
                                      .plan = &plan,
                                      .bpe = bpe,
                                      .request_id = "r",
                                      .model = "m",
                                      .generated = ids};
    completion_open(&facts, &arena);
}

/* What an event behind so many steps says: its text and its end; NULL where there is none. */
static const char *event(const char **reason, int n_steps)
{
    if (!completion_take(&facts, &facts.choices[0], n_steps))
        return NULL;
    const struct bytes b = completion_event(&facts, &facts.choices[0], &arena);
    assert_memory_equal(b.at, "data: ", 6);
    assert_memory_equal(b.at + b.size - 2, "\n\n", 2);
    json_t *root = json_loadb(b.at + 6, b.size - 8, JSON_ALLOW_NUL, NULL);
    const json_t *choice = json_array_get(json_object_get(root, "choices"), 0);
    const json_t *text = json_object_get(choice, "text");
    const json_t *why = json_object_get(choice, "finish_reason");
    char *copy = arena_copy_text(&arena, json_string_value(text), json_string_length(text));
    *reason = json_is_null(why) ? NULL : arena_format(&arena, "%s", json_string_value(why));
    json_decref(root);
    return copy;
}

/* The events behind each token, with a bar between them. */
static const struct row {
    const char *generated, *stop, *events, *reason;
} rows[] = {
    {"abc", NULL, "a|b|c", "length"},
    {"a\xc3\xa9z", NULL, "a||\xc3\xa9|z", "length"},
    {"\xf0\x9f\x99\x82!", NULL, "|||\xf0\x9f\x99\x82|!", "length"},
    {"a\xe6\x9d", NULL, "a||\xef\xbf\xbd\xef\xbf\xbd", "length"}, /* it ends within a character */
    {"\xc3x", NULL, "|\xef\xbf\xbdx", "length"},
    {"hello world", "wor", "h|e|l|l|o| |||", "stop"},
    {"hello wood", "wor", "h|e|l|l|o| |||woo|d", "length"},
    {"aaab", "ab", "|a|a|", "stop"},
    {"aaa", "ab", "|a|aa", "length"},
    {"abcabd", "abd", "||abc|||", "stop"},
    {"a\xc3\xa9z", "\xc3\xa9", "a||", "stop"},
    {"ab", "ab", "|", "stop"},
};

static void what_is_certain_is_sent(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct row *r = &rows[i];
        char sent[256] = "";
        const char *reason = NULL;
        const size_t size = strlen(r->generated);
        begin(r->generated, size, r->stop);
        for (size_t n = 1; n <= size && !reason; n++) {
            const char *text = event(&reason, (int)n);
            strcat(sent, n > 1 ? "|" : "");
            strcat(sent, text ? text : "");
        }
        assert_string_equal(sent, r->events);
        assert_string_equal(reason, r->reason);
        assert_null(event(&reason, (int)size)); /* an end comes once */
    }
}

static void tokens_that_come_together_give_the_same_text(void **state)
{
    (void)state;
    const char *reason;
    begin("hello world", 11, "wor");
    assert_string_equal(event(&reason, 11), "hello ");
    assert_string_equal(reason, "stop");
    assert_int_equal(facts.choices[0].n_taken, 9);
    assert_int_equal(facts.choices[0].n_tokens, 6);
}

static void an_end_token_is_no_text(void **state)
{
    (void)state;
    const char *reason;
    begin("abc", 3, NULL);
    const int32_t end = facts.generated[1];
    trace.ending = (struct ending){.n_ids = 1, .ids = &end};
    assert_string_equal(event(&reason, 3), "a");
    assert_string_equal(reason, "stop");
    assert_int_equal(facts.choices[0].n_taken, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_certain_is_sent),
        cmocka_unit_test(tokens_that_come_together_give_the_same_text),
        cmocka_unit_test(an_end_token_is_no_text),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
