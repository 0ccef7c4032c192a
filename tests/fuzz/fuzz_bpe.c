/* The first byte chooses: the rest is a text for a tiny vocabulary, and must come back from its
 * ids; or it is the vocabulary's files. */
#include <string.h>

#include "../../protocol/bpe.h"
#include "../../protocol/limits.h"
#include "../tiny_bpe.h"

static const char more[] = ",\"ab\":256,\"\xC4\xA0"
                           "a\":257,\"aa\":258,\"\xC4\xA0"
                           "ab\":259,"
                           "\"aaaa\":260,\"\xC4\xA0\xC4\xA0\":261,\"\xC3\xA3\xC2\xA9\":262";

static const char merges[] = "[\"a b\",\"\xC4\xA0 a\",\"a a\",\"\xC4\xA0 ab\",\"aa aa\","
                             "\"\xC4\xA0 \xC4\xA0\",\"\xC3\xA3 \xC2\xA9\"]";

static const char added[] = ",\"added_tokens\":[{\"id\":263,\"content\":\"<|endoftext|>\"},"
                            "{\"id\":264,\"content\":\"<|\",\"normalized\":true},"
                            "{\"id\":265,\"content\":\"a<\"}]";

static void check_round_trip(const struct bpe *b, const char *text, size_t size)
{
    struct arena a = {0};
    struct err e = {0};
    int32_t *ids;
    int n;
    if (bpe_encode(&ids, &n, b, text, size, (int)size, &a, &e)) {
        char *back;
        size_t back_size;
        const bool decoded = bpe_decode(&back, &back_size, b, ids, n, &a, &e);
        assert(decoded);
        assert(back_size == size);
        assert(memcmp(back, text, size) == 0);
    } else
        assert(e.code == ERR_syntax);
    arena_free(&a);
}

static void check_tiny(const char *text, size_t size)
{
    static struct bpe *b;
    struct arena a = {0};
    struct err e = {0};
    if (!b) {
        const char *json = tiny_tokenizer(&a, more, merges, added);
        const bool loaded = bpe_parse_json(&b, json, strlen(json), &e);
        assert(loaded);
        arena_free(&a);
    }
    check_round_trip(b, text, size);
}

/* A vocabulary that was taken must work; one that was refused must say why. */
static void check_loaded(struct bpe *b, const struct err *e)
{
    assert(!b == (e->code == ERR_file));
    assert(!b == (e->text[0] != '\0'));
    if (b)
        check_round_trip(b, "ab aab\0 <|endoftext|>\xC3\xA9", 24);
    bpe_free(b);
}

static void check_json(const char *text, size_t size)
{
    struct bpe *b;
    struct err e = {0};
    bpe_parse_json(&b, text, size, &e);
    check_loaded(b, &e);
}

/* Random bytes hardly ever hold 256 tokens, so here they are only what comes after those: more of
 * the vocabulary, then a NUL, then the merges; as two files and as one. */
static void check_files(const char *text, size_t size)
{
    struct arena a = {0};
    struct err e = {0}, e_json = {0};
    struct bpe *b;
    const char *whole = arena_copy_text(&a, text, size);
    const size_t split = strlen(whole);
    const char *second = split < size ? whole + split + 1 : "";
    const char *vocab = tiny_vocab(&a, whole);
    bpe_parse_pair(&b, vocab, strlen(vocab), second, split < size ? size - split - 1 : 0, &e);
    check_loaded(b, &e);

    const char *json = tiny_tokenizer(&a, more, merges, whole);
    bpe_parse_json(&b, json, strlen(json), &e_json);
    check_loaded(b, &e_json);
    arena_free(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const checks[])(const char *, size_t) = {check_tiny, check_json, check_files};
    if (size > 0 && size <= BODY_BYTES_MAX)
        checks[data[0] % 3]((const char *)data + 1, size - 1);
    return 0;
}
