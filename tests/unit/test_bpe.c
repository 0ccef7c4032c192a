/* protocol/bpe.c at vocabularies small enough to be read. Its ids are compared with HF's on real
 * ones in tests/test_bpe.py. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "../../protocol/bpe.h"
#include "../tiny_bpe.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static struct arena arena;
static struct err error;

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

static struct bpe *pair_of(const char *more, const char *merges)
{
    struct bpe *b;
    const char *vocab = tiny_vocab(&arena, more);
    bpe_parse_pair(&b, vocab, strlen(vocab), merges, strlen(merges), &error);
    return b;
}

static struct bpe *json_of(const char *more, const char *merges, const char *settings)
{
    struct bpe *b;
    const char *tokenizer = tiny_tokenizer(&arena, more, merges, settings);
    bpe_parse_json(&b, tokenizer, strlen(tokenizer), &error);
    return b;
}

/* The ids as text, "256 64", or the error. */
static const char *encoded_bytes(const struct bpe *b, const char *text, size_t size, int ids_max)
{
    int32_t *ids;
    int n;
    if (!bpe_encode(&ids, &n, b, text, size, ids_max, &arena, &error))
        return error.text;
    const char *all = "";
    for (int i = 0; i < n; i++)
        all = arena_format(&arena, "%s%s%d", all, i > 0 ? " " : "", (int)ids[i]);
    return all;
}

static const char *encoded(const struct bpe *b, const char *text)
{
    return encoded_bytes(b, text, strlen(text), 100);
}

static void a_text_becomes_ids(void **state)
{
    (void)state;
    struct bpe *b = pair_of(",\"ab\":256,\"\xC4\xA0"
                            "ab\":257,\"<|endoftext|>\":258",
                            "#version: 0.2\na b\n\xC4\xA0 ab\n");
    assert_non_null(b);
    assert_int_equal(bpe_size(b), 259);
    assert_string_equal(encoded(b, ""), "");
    assert_string_equal(encoded(b, "ab ab"), "256 257");
    assert_string_equal(encoded(b, "ab  ab"), "256 220 257");
    assert_string_equal(encoded(b, "aab<|endoftext|>a<|endoftext|"),
                        "64 256 258 64 27 91 68 77 67 78 69 83 68 87 83 91");
    assert_string_equal(encoded_bytes(b, "a\0b", 3, 100), "64 188 65");
    bpe_free(b);
}

static void the_lowest_rank_goes_first_and_then_the_leftmost(void **state)
{
    (void)state;
    struct bpe *b =
        pair_of(",\"aa\":256,\"ab\":257,\"bc\":258,\"abc\":259", "b c\na a\na b\na bc\nab c\n");
    assert_non_null(b);
    assert_string_equal(encoded(b, "aaa"), "256 64");
    assert_string_equal(encoded(b, "abc"), "259");
    assert_string_equal(encoded(b, "aabc"), "256 258");
    assert_string_equal(encoded(b, "abab"), "257 257");
    bpe_free(b);
}

static void words_are_cut_as_gpt2_cuts_them(void **state)
{
    (void)state;
    static const struct {
        const char *text, *ids;
    } rows[] = {
        {"''s", "6 6 82"},  /* the quotes are one word, and there is no contraction */
        {"a's", "64 257"},  /* 's after a letter */
        {"a'S", "64 6 50"}, /* but not in capitals */
        {" 's", "256 82"},  /* a space takes the quote along */
        {"a'sa", "64 257 64"},
        {"1a", "16 64"},    /* numbers and letters never meet, though there is a merge */
        {"  a", "220 259"}, /* the last space belongs to the word */
        {"a  ", "64 260"},  /* at the end all spaces stay together */
        {"\n a", "198 259"},
    };
    struct bpe *b = pair_of(",\"\xC4\xA0'\":256,\"'s\":257,\"1a\":258,\"\xC4\xA0"
                            "a\":259,\"\xC4\xA0\xC4\xA0\":260",
                            "\xC4\xA0 \xC4\xA0\n\xC4\xA0 a\n\xC4\xA0 '\n' s\n1 a\n");
    assert_non_null(b);
    for (size_t i = 0; i < COUNT(rows); i++)
        assert_string_equal(encoded(b, rows[i].text), rows[i].ids);
    bpe_free(b);
}

static void every_byte_is_a_token_and_decodes_to_itself(void **state)
{
    (void)state;
    struct bpe *b = pair_of("", "");
    assert_non_null(b);
    bool seen[256] = {false};
    for (int id = 0; id < 256; id++) {
        size_t size;
        const char *bytes = bpe_token(&size, b, id);
        assert_int_equal(size, 1);
        assert_false(seen[(unsigned char)*bytes]);
        seen[(unsigned char)*bytes] = true;
    }
    bpe_free(b);
}

static void ids_become_text(void **state)
{
    (void)state;
    struct bpe *b = pair_of(",\"\xC3\xA9\xC4\xA0\":256,\"\xE4\xB8\xAD\":257", "");
    assert_non_null(b);
    char *text;
    size_t size;
    assert_true(bpe_decode(&text, &size, b, (const int32_t[]){256, 64, 257}, 3, &arena, &error));
    assert_int_equal(size, 6);
    assert_string_equal(text, "\xE9 a\xE4\xB8\xAD");
    bpe_free(b);
}

static void an_id_outside_the_vocabulary_is_refused(void **state)
{
    (void)state;
    static const int32_t wrong[] = {256, -1, INT32_MAX, INT32_MIN};
    struct bpe *b = pair_of("", "");
    for (size_t i = 0; i < COUNT(wrong); i++) {
        const int32_t ids[] = {3, wrong[i]};
        char *text;
        size_t size;
        error = (struct err){0};
        assert_false(bpe_decode(&text, &size, b, ids, 2, &arena, &error));
        assert_int_equal(error.code, ERR_index);
        assert_string_equal(
            error.text,
            arena_format(&arena, "ids[1] is %d: this model has tokens 0 to 255", (int)wrong[i]));
    }
    bpe_free(b);
}

static void text_that_is_not_utf8_is_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "abc\xFF",         "abc\x80",         "abc\xC0\x80",        "abc\xE4\xB8",
        "abc\xED\xA0\x80", "abc\xE0\x80\x80", "abc\xF5\x80\x80\x80"};
    struct bpe *b = pair_of("", "");
    for (size_t i = 0; i < COUNT(wrong); i++) {
        error = (struct err){0};
        assert_string_equal(
            encoded(b, wrong[i]),
            arena_format(&arena, "the text is not UTF-8 at byte 3 of %zu", strlen(wrong[i])));
        assert_int_equal(error.code, ERR_syntax);
    }
    bpe_free(b);
}

static void more_tokens_than_asked_for_are_refused(void **state)
{
    (void)state;
    struct bpe *b = pair_of(",\"ab\":256,\"abababab\":257", "a b\n");
    assert_string_equal(encoded_bytes(b, "ababab", 6, 3), "256 256 256");
    assert_string_equal(encoded_bytes(b, "ababab", 6, 2),
                        "a text of 6 bytes is more than 2 tokens");
    assert_int_equal(error.code, ERR_limit);
    error = (struct err){0};
    assert_string_equal(encoded_bytes(b, "a", 1, 0), "a text of 1 bytes is more than 0 tokens");
    bpe_free(b);
}

/* A merge that looked at the whole word each time would take many minutes. */
static void a_word_of_a_megabyte_takes_no_minute(void **state)
{
    (void)state;
    struct bpe *b = pair_of(",\"aa\":256,\"aaaa\":257", "a a\naa aa\n");
    assert_non_null(b);
    enum {
        SIZE = (1 << 20) - 1,
    };
    char *text = arena_alloc(&arena, SIZE);
    memset(text, 'a', SIZE);
    int32_t *ids;
    int n;
    alarm(60);
    assert_true(bpe_encode(&ids, &n, b, text, SIZE, SIZE, &arena, &error));
    alarm(0);
    assert_int_equal(n, SIZE / 4 + 2);
    assert_int_equal(ids[0], 257);
    assert_int_equal(ids[n - 2], 256);
    assert_int_equal(ids[n - 1], 64);
    bpe_free(b);
}

static void merges_may_lack_the_header_and_end_in_crlf(void **state)
{
    (void)state;
    static const char *const forms[] = {"a b\nb c\n", "a b\nb c", "#version: 0.2\r\na b\r\nb c\r\n",
                                        "a b\r\n#version: 1\r\nb c"};
    for (size_t i = 0; i < COUNT(forms); i++) {
        struct bpe *b = pair_of(",\"ab\":256,\"bc\":257", forms[i]);
        assert_non_null(b);
        assert_string_equal(encoded(b, "abbc"), "256 257");
        bpe_free(b);
    }
}

static void both_spellings_of_a_merge_are_read(void **state)
{
    (void)state;
    struct bpe *b = json_of(",\"ab\":256,\"bc\":257", "[\"a b\",[\"b\",\"c\"]]", "");
    assert_non_null(b);
    assert_string_equal(encoded(b, "abbc"), "256 257");
    bpe_free(b);
}

static void added_tokens_are_found_before_words(void **state)
{
    (void)state;
    struct bpe *b = json_of(",\"<x>\":256", "[]",
                            ",\"added_tokens\":["
                            "{\"id\":256,\"content\":\"<x>\"},"
                            "{\"id\":257,\"content\":\"<x><x>\"},"
                            "{\"id\":258,\"content\":\"a<\",\"normalized\":true},"
                            "{\"id\":259,\"content\":\"\xC3\xA9 b\",\"normalized\":true}]");
    assert_non_null(b);
    assert_int_equal(bpe_size(b), 260);
    assert_string_equal(encoded(b, "<x>"), "256");
    assert_string_equal(encoded(b, "<x><x><x>"), "257 256");     /* the longest */
    assert_string_equal(encoded(b, "a<x>a<y"), "64 256 258 88"); /* those not normalized first */
    assert_string_equal(encoded(b, "\xC3\xA9 b"), "259");
    char *text;
    size_t size;
    assert_true(bpe_decode(&text, &size, b, (const int32_t[]){257, 259}, 2, &arena, &error));
    assert_string_equal(text, "<x><x>\xC3\xA9 b");
    bpe_free(b);
}

static void a_malformed_pair_of_files_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *more, *merges, *why;
    } rows[] = {
        {",\"ab\":5", "", "vocab.json: two tokens have id 5"},
        {",\"ab\":257", "", "vocab.json: a token has id 257, but 257 tokens need ids 0 to 256"},
        {",\"ab\":-1", "", "vocab.json: a token has id -1, but 257 tokens need ids 0 to 256"},
        {",\"ab\":2.5", "", "vocab.json: a token's id is not an integer"},
        {",\"ab\":null", "", "vocab.json: a token's id is not an integer"},
        {",\"\":256", "", "vocab.json: token 256 has 0 bytes, not 1 to 1024"},
        {",\"a\":256", "", "vocab.json, line 1, column 3222: duplicate object key"},
        {",\"ab\":256}", "", "vocab.json, line 1, column 3229: end of file expected"},
        {",\"ab\":99999999999999999999", "", "vocab.json, line 1, column 3244: too big integer"},
        {",\"ab\":256", "a b\n\n", "merges.txt, line 2: not two tokens with one space between"},
        {",\"ab\":256", "a b \n", "merges.txt, line 1: not two tokens with one space between"},
        {",\"ab\":256", "ab\n", "merges.txt, line 1: not two tokens with one space between"},
        {",\"ab\":256", "a  b\n", "merges.txt, line 1: not two tokens with one space between"},
        {",\"ab\":256", "\na b", "merges.txt, line 1: not two tokens with one space between"},
        {",\"ab\":256", "#version: 0.2\na b\na b\n",
         "merges.txt, line 3: this pair is already the merge of rank 0"},
        {",\"ab\":256", "ac b\n",
         "merges.txt, line 1: the first part is not a token of the vocabulary"},
        {",\"ab\":256", "a \n",
         "merges.txt, line 1: the second part is not a token of the vocabulary"},
        {",\"ab\":256", "a \xFF\n",
         "merges.txt, line 1: the second part is not a token of the vocabulary"},
        {",\"ab\":256", "a c\n",
         "merges.txt, line 1: the two together are not a token of the vocabulary"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        error = (struct err){0};
        assert_null(pair_of(rows[i].more, rows[i].merges));
        assert_int_equal(error.code, ERR_file);
        assert_string_equal(error.text, rows[i].why);
    }
}

static void a_vocabulary_without_some_byte_is_refused(void **state)
{
    (void)state;
    struct bpe *b;
    assert_false(bpe_parse_pair(&b, "{\"!\":0}", 7, "", 0, &error));
    assert_null(b);
    assert_string_equal(error.text, "vocab.json: no token is the byte 0x22 alone");
}

static void json_that_is_not_an_object_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *why;
    } rows[] = {
        {"", "vocab.json, line 1, column 0: '[' or '{' expected"},
        {"[]", "vocab.json: not a JSON object"},
        {"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
         "vocab.json: more than 32 brackets inside each other at byte 32"},
        {"{\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\\\"[\":0}",
         "vocab.json: no token is the byte 0x21 alone"},
        {"{\"\xFF\":0}", "vocab.json, line 1, column 2: unable to decode byte 0xff"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct bpe *b;
        error = (struct err){0};
        assert_false(bpe_parse_pair(&b, rows[i].text, strlen(rows[i].text), "", 0, &error));
        assert_string_equal(error.text, rows[i].why);
    }
}

static void a_malformed_tokenizer_json_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *more, *merges, *settings, *why;
    } rows[] = {
        {"", "{}", "", "tokenizer.json: model.merges must be an array"},
        {"", "[\"ab\"]", "", "tokenizer.json, model.merges 0: not a pair of tokens"},
        {"", "[[\"a\",\"b\",\"c\"]]", "", "tokenizer.json, model.merges 0: not a pair of tokens"},
        {"", "[[\"a\",1]]", "", "tokenizer.json, model.merges 0: not a pair of tokens"},
        {",\"ab\":256", "[\"a b\",[\"a\",\"b\"]]", "",
         "tokenizer.json, model.merges 1: this pair is already the merge of rank 0"},
        {"", "[]", ",\"added_tokens\":{}", "tokenizer.json: added_tokens must be an array"},
        {"", "[]", ",\"added_tokens\":[1]",
         "tokenizer.json, added_tokens 0: content must be a string of 1 to 1024 bytes"},
        {"", "[]", ",\"added_tokens\":[{\"id\":256,\"content\":\"\"}]",
         "tokenizer.json, added_tokens 0: content must be a string of 1 to 1024 bytes"},
        {"", "[]", ",\"added_tokens\":[{\"id\":257,\"content\":\"<x>\"}]",
         "tokenizer.json, added_tokens 0: id must be 256"},
        {",\"<x>\":256", "[]", ",\"added_tokens\":[{\"id\":257,\"content\":\"<x>\"}]",
         "tokenizer.json, added_tokens 0: id must be 256"},
        {"", "[]",
         ",\"added_tokens\":[{\"id\":64,\"content\":\"a\"},{\"id\":64,\"content\":\"a\"}]",
         "tokenizer.json, added_tokens 1: id 64 is there twice"},
        {"", "[]", ",\"added_tokens\":[{\"id\":220,\"content\":\"\xC4\xA0\"}]",
         "tokenizer.json, added_tokens 0: content is how the vocabulary spells other bytes"},
        {"", "[]", ",\"added_tokens\":[{\"id\":256,\"content\":\"x\",\"lstrip\":true}]",
         "tokenizer.json, added_tokens 0: lstrip must be false"},
        {"", "[]", ",\"added_tokens\":[{\"id\":256,\"content\":\"x\",\"single_word\":true}]",
         "tokenizer.json, added_tokens 0: single_word must be false"},
        {"", "[]", ",\"normalizer\":{\"type\":\"NFC\"}", "tokenizer.json: normalizer must be null"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        error = (struct err){0};
        assert_null(json_of(rows[i].more, rows[i].merges, rows[i].settings));
        assert_int_equal(error.code, ERR_file);
        assert_string_equal(error.text, rows[i].why);
    }
}

static void a_model_without_a_vocabulary_is_refused(void **state)
{
    (void)state;
    struct bpe *b;
    assert_false(bpe_parse_json(&b, "{}", 2, &error));
    assert_string_equal(error.text, "tokenizer.json: model.vocab must be an object");
}

static char *temporary_folder(void)
{
    char *folder =
        arena_format(&arena, "%s/test_bpe.XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    assert_non_null(mkdtemp(folder));
    return folder;
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void a_folder_is_loaded(void **state)
{
    (void)state;
    const char *folder = temporary_folder();
    const char *vocab = arena_format(&arena, "%s/vocab.json", folder);
    const char *merges = arena_format(&arena, "%s/merges.txt", folder);
    struct bpe *b;
    write_file(vocab, tiny_vocab(&arena, ",\"ab\":256"));
    assert_false(bpe_load(&b, folder, &error));
    assert_int_equal(error.code, ERR_file);

    error = (struct err){0};
    write_file(merges, "a b\n");
    assert_true(bpe_load(&b, folder, &error));
    assert_string_equal(encoded(b, "ab"), "256");
    bpe_free(b);
    unlink(vocab);
    unlink(merges);
    rmdir(folder);
}

static void a_pipe_in_place_of_a_file_is_refused(void **state)
{
    (void)state;
    const char *folder = temporary_folder();
    const char *pipe_path = arena_format(&arena, "%s/tokenizer.json", folder);
    assert_int_equal(mkfifo(pipe_path, 0600), 0);
    struct bpe *b;
    alarm(30);
    assert_false(bpe_load(&b, folder, &error));
    alarm(0);
    assert_null(b);
    assert_int_equal(error.code, ERR_file);
    unlink(pipe_path);
    rmdir(folder);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_text_becomes_ids),
        TEST(the_lowest_rank_goes_first_and_then_the_leftmost),
        TEST(words_are_cut_as_gpt2_cuts_them),
        TEST(every_byte_is_a_token_and_decodes_to_itself),
        TEST(ids_become_text),
        TEST(an_id_outside_the_vocabulary_is_refused),
        TEST(text_that_is_not_utf8_is_refused),
        TEST(more_tokens_than_asked_for_are_refused),
        TEST(a_word_of_a_megabyte_takes_no_minute),
        TEST(merges_may_lack_the_header_and_end_in_crlf),
        TEST(both_spellings_of_a_merge_are_read),
        TEST(added_tokens_are_found_before_words),
        TEST(a_malformed_pair_of_files_is_refused),
        TEST(a_vocabulary_without_some_byte_is_refused),
        TEST(json_that_is_not_an_object_is_refused),
        TEST(a_malformed_tokenizer_json_is_refused),
        TEST(a_model_without_a_vocabulary_is_refused),
        TEST(a_folder_is_loaded),
        TEST(a_pipe_in_place_of_a_file_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
