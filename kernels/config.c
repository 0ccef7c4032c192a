#include "config.h"

#include <jansson.h>
#include <string.h>

#include "safetensors.h"

/* No count passes an int, and no product of two an int64_t; files are held to their own sizes. */
enum {
    BLOCKS_MAX = 1000,        /* gpt2-xl has 48 */
    WIDTH_MAX = 1 << 16,      /* 1,600 */
    INNER_MAX = 1 << 18,      /* 6,400 */
    CONTEXT_MAX = 1 << 20,    /* 1,024 */
    VOCABULARY_MAX = 65535 * 16, /* 50,257; a grid of so many by 16 columns */
    EOS_DEFAULT = 50256,      /* HF's own, where a config says nothing */
};

struct source {
    const json_t *root;
    const char *file;
};

static bool read_count(int *count, const struct source *s, const char *key, int most, struct err *e)
{
    const json_t *n = json_object_get(s->root, key);
    if (!n)
        return err_set(e, ERR_file, "%s: %s is missing", s->file, key);
    if (!json_is_integer(n))
        return err_set(e, ERR_file, "%s: %s must be a whole number from 1 to %d", s->file, key,
                       most);
    if (json_integer_value(n) < 1 || json_integer_value(n) > most)
        return err_set(e, ERR_file, "%s: %s is %lld, it must be from 1 to %d", s->file, key,
                       (long long)json_integer_value(n), most);
    *count = (int)json_integer_value(n);
    return true;
}

/* Older configs call it n_ctx. */
static bool read_context(int *context, const struct source *s, struct err *e)
{
    const bool older =
        !json_object_get(s->root, "n_positions") && json_object_get(s->root, "n_ctx");
    return read_count(context, s, older ? "n_ctx" : "n_positions", CONTEXT_MAX, e);
}

static bool read_inner(int *inner, int width, const struct source *s, struct err *e)
{
    const json_t *n = json_object_get(s->root, "n_inner");
    if (n && !json_is_null(n))
        return read_count(inner, s, "n_inner", INNER_MAX, e);
    *inner = 4 * width;
    return true;
}

static bool read_epsilon(float *epsilon, const struct source *s, struct err *e)
{
    const json_t *n = json_object_get(s->root, "layer_norm_epsilon");
    if (n && !json_is_number(n))
        return err_set(e, ERR_file, "%s: layer_norm_epsilon must be a number", s->file);
    *epsilon = n ? (float)json_number_value(n) : 1e-5f; /* HF's own default */
    if (*epsilon > 0 && *epsilon <= 1)
        return true;
    return err_set(e, ERR_file, "%s: layer_norm_epsilon is %g, it must be above 0 and at most 1",
                   s->file, json_number_value(n));
}

/* An id, a list of ids, or null. One that the vocabulary lacks never comes. */
static bool read_eos(struct model_shape *m, const struct source *s, struct err *e)
{
    const json_t *eos = json_object_get(s->root, "eos_token_id");
    const bool is_list = json_is_array(eos);
    const size_t count = is_list ? json_array_size(eos) : !json_is_null(eos);
    if (count > EOS_MAX)
        return err_set(e, ERR_file, "%s: eos_token_id has %zu tokens, it may have %d", s->file,
                       count, EOS_MAX);
    for (size_t i = 0; i < count; i++) {
        const json_t *id = is_list ? json_array_get(eos, i) : eos;
        if (id && !json_is_integer(id))
            return err_set(e, ERR_file, "%s: eos_token_id must be a token id or a list of them",
                           s->file);
        const long long value = id ? json_integer_value(id) : EOS_DEFAULT;
        if (value >= 0 && value < m->vocab)
            m->eos[m->n_eos++] = (int32_t)value;
    }
    return true;
}

static bool check_text(const struct source *s, const char *key, const char *expected, struct err *e)
{
    const json_t *text = json_object_get(s->root, key);
    if (!text)
        return true;
    if (!json_is_string(text))
        return err_set(e, ERR_file, "%s: %s must be \"%s\"", s->file, key, expected);
    char shown[SHOWN_SIZE];
    if (strcmp(json_string_value(text), expected))
        return err_set(e, ERR_file, "%s: %s is \"%s\", only \"%s\" is supported", s->file, key,
                       safetensors_shown(shown, json_string_value(text)), expected);
    return true;
}

static bool read_flag(bool *flag, const struct source *s, const char *key, struct err *e)
{
    const json_t *value = json_object_get(s->root, key);
    if (value && !json_is_boolean(value))
        return err_set(e, ERR_file, "%s: %s must be true or false", s->file, key);
    if (value)
        *flag = json_is_true(value);
    return true;
}

/* Switches of HF's GPT-2 that change what it computes, with the only value that is supported. */
static bool check_flags(const struct source *s, struct err *e)
{
    static const struct {
        const char *key;
        bool expected;
    } flags[] = {
        {"scale_attn_weights", true},
        {"scale_attn_by_inverse_layer_idx", false},
        {"reorder_and_upcast_attn", false},
        {"add_cross_attention", false},
    };
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        bool flag = flags[i].expected;
        if (!read_flag(&flag, s, flags[i].key, e))
            return false;
        if (flag != flags[i].expected)
            return err_set(e, ERR_file, "%s: %s is %s: this variant of GPT-2 is not supported",
                           s->file, flags[i].key, flag ? "true" : "false");
    }
    return true;
}

/* Entries that are harmless only while they say nothing. */
static bool check_empty(const struct source *s, struct err *e)
{
    static const char *const keys[] = {"pruned_heads", "quantization_config"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json_t *value = json_object_get(s->root, keys[i]);
        if (value && !json_is_null(value) && !(json_is_object(value) && !json_object_size(value)))
            return err_set(e, ERR_file, "%s: %s is set: this variant of GPT-2 is not supported",
                           s->file, keys[i]);
    }
    return true;
}

static bool read_sizes(struct model_shape *m, const struct source *s, struct err *e)
{
    if (!read_count(&m->n_blocks, s, "n_layer", BLOCKS_MAX, e) ||
        !read_count(&m->n_heads, s, "n_head", WIDTH_MAX, e) ||
        !read_count(&m->width, s, "n_embd", WIDTH_MAX, e) ||
        !read_count(&m->vocab, s, "vocab_size", VOCABULARY_MAX, e) ||
        !read_context(&m->context, s, e) || !read_inner(&m->inner, m->width, s, e))
        return false;
    if (m->width % m->n_heads != 0)
        return err_set(e, ERR_file, "%s: n_embd is %d, not a multiple of n_head, %d", s->file,
                       m->width, m->n_heads);
    return true;
}

bool config_parse(struct config *c, const char *text, size_t size, const char *file, struct err *e)
{
    *c = (struct config){.tied = true};
    json_t *root;
    if (!safetensors_json(&root, text, size, file, e))
        return false;
    const struct source s = {root, file};
    const bool ok = check_text(&s, "model_type", "gpt2", e) && read_sizes(&c->shape, &s, e) &&
                    read_epsilon(&c->shape.epsilon, &s, e) && read_eos(&c->shape, &s, e) &&
                    check_text(&s, "activation_function", "gelu_new", e) && check_flags(&s, e) &&
                    check_empty(&s, e) && read_flag(&c->tied, &s, "tie_word_embeddings", e);
    json_decref(root);
    return ok;
}

bool config_load(struct config *c, const char *dir, struct err *e)
{
    struct arena a = {0};
    const char *path = arena_format(&a, "%s/config.json", dir);
    char *text;
    size_t size;
    const bool ok = read_file(&text, &size, path, CONFIG_BYTES_MAX, &a, e) &&
                    config_parse(c, text, size, path, e);
    arena_free(&a);
    return ok;
}
