/* Tokenizes for tests/test_bpe.py: many texts in one process.
 *
 *     bpe_tool FOLDER < texts > ids
 *
 * A text is its size (int32_t) and its bytes; its answer is n and n ids (int32_t each), or -1 if it
 * is refused, or -2 if the ids do not decode to the text.
 */
#include "../protocol/bpe.h"

#include <stdio.h>
#include <string.h>

enum {
    TEXT_MAX = 16 << 20,
};

static void put(const int32_t *numbers, int n)
{
    const size_t written = fwrite(numbers, sizeof *numbers, (size_t)n, stdout);
    assert(written == (size_t)n);
}

static void answer(const struct bpe *b, const char *text, size_t size)
{
    struct arena a = {0};
    struct err e = {0};
    int32_t *ids;
    int n;
    char *back;
    size_t back_size;
    if (!bpe_encode(&ids, &n, b, text, size, TEXT_MAX, &a, &e))
        put(&(int32_t){-1}, 1);
    else if (!bpe_decode(&back, &back_size, b, ids, n, &a, &e) || back_size != size ||
             memcmp(back, text, size))
        put(&(int32_t){-2}, 1);
    else {
        put(&n, 1);
        put(ids, n);
    }
    arena_free(&a);
}

int main(int n_arguments, char **arguments)
{
    struct bpe *b;
    struct err e = {0};
    if (n_arguments != 2 || !bpe_load(&b, arguments[1], &e)) {
        fprintf(stderr, "%s\n", n_arguments == 2 ? e.text : "usage: bpe_tool FOLDER");
        return 1;
    }
    struct arena a = {0};
    char *text = arena_alloc(&a, TEXT_MAX);
    int32_t size;
    while (fread(&size, sizeof size, 1, stdin) == 1) {
        assert(size >= 0);
        assert(size <= TEXT_MAX);
        const size_t got = fread(text, 1, (size_t)size, stdin);
        assert(got == (size_t)size);
        answer(b, text, got);
    }
    arena_free(&a);
    bpe_free(b);
    return 0;
}
