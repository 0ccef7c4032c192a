/* The first byte chooses: the rest is a config.json; or the index of a folder with two shards; or
 * what to overwrite in a good one of either, as places and bytes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../kernels/config.h"
#include "../../kernels/shards.h"

enum {
    TEXT_MAX = 1 << 16
};

static const char config[] =
    "{\"model_type\":\"gpt2\",\"n_layer\":2,\"n_head\":3,\"n_embd\":12,\"n_positions\":16,"
    "\"n_ctx\":16,\"n_inner\":null,\"vocab_size\":19,\"layer_norm_epsilon\":1e-05,"
    "\"activation_function\":\"gelu_new\",\"scale_attn_weights\":true,"
    "\"scale_attn_by_inverse_layer_idx\":false,\"reorder_and_upcast_attn\":false,"
    "\"add_cross_attention\":false,\"tie_word_embeddings\":true,\"pruned_heads\":{}}";
static const char index_text[] =
    "{\"metadata\":{\"total_size\":8},"
    "\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}}";

/* Where it is, and how to leave it as it was found. */
static char folder[] = "/tmp/fuzz_config.XXXXXX";

static void leave(void)
{
    static const char *const names[] = {"one.safetensors", "two.safetensors",
                                        "model.safetensors.index.json"};
    char path[128];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    rmdir(folder);
}

static void write_file(const char *name, const void *bytes, size_t size)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert(f);
    const size_t written = fwrite(bytes, 1, size, f);
    assert(written == size);
    fclose(f);
}

static void write_shard(const char *name, char tensor)
{
    char file[128] = {0};
    const int n =
        snprintf(file + 8, sizeof file - 8,
                 "{\"%c\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", tensor);
    file[0] = (char)n;
    write_file(name, file, 8 + (size_t)n + 4);
}

static void enter(void)
{
    static bool entered;
    if (entered)
        return;
    entered = mkdtemp(folder) != NULL;
    assert(entered);
    atexit(leave);
    write_shard("one.safetensors", 'a');
    write_shard("two.safetensors", 'b');
}

static void check_refusal(const struct err *e)
{
    assert(e->code == ERR_file);
    assert(e->text[0] != '\0');
    assert(!strchr(e->text, '\n'));
}

static void try_config(const char *text, size_t size)
{
    struct config c;
    struct err e = {0};
    if (!config_parse(&c, text, size, "config.json", &e)) {
        check_refusal(&e);
        return;
    }
    assert(c.shape.n_blocks > 0);
    assert(c.shape.width % c.shape.n_heads == 0);
    assert(c.shape.inner > 0);
    assert(c.shape.epsilon > 0);
    assert(c.shape.context > 0);
}

static void try_index(const char *text, size_t size)
{
    enter();
    write_file("model.safetensors.index.json", text, size);
    struct arena a = {0};
    struct err e = {0};
    struct shards s;
    if (!shards_open(&s, folder, &a, &e))
        check_refusal(&e);
    shards_close(&s);
    arena_free(&a);
}

/* Whole texts, or edits of this good one. */
static size_t make_text(char *text, const uint8_t *data, size_t size, const char *good,
                        size_t good_size)
{
    if (size > 0 && data[0] & 2) {
        memcpy(text, data + 1, size - 1);
        return size - 1;
    }
    memcpy(text, good, good_size);
    for (size_t i = 1; i + 3 <= size; i += 3)
        text[(size_t)(data[i] << 8 | data[i + 1]) % good_size] = (char)data[i + 2];
    return good_size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char text[TEXT_MAX];
    if (size > TEXT_MAX)
        return -1;
    if (size > 0 && data[0] & 1)
        try_index(text, make_text(text, data, size, index_text, sizeof index_text - 1));
    else
        try_config(text, make_text(text, data, size, config, sizeof config - 1));
    return 0;
}
