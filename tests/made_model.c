#include "made_model.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../kernels/config.h"
#include "../kernels/shards.h"

enum {
    NAME_MAX_SIZE = 64,
    PER_BLOCK = 12,
    ENDS = 4
};

static struct model_shape shape;
static uint64_t seed;

const char *made_model(char *text, const struct model_shape *m, uint64_t with_seed)
{
    snprintf(text, MADE_TEXT_SIZE, "made %d %d %d %d %d %d %.9g %" PRIu64, m->n_blocks, m->n_heads,
             m->width, m->inner, m->vocab, m->context, (double)m->epsilon, with_seed);
    return text;
}

bool config_load(struct config *c, const char *text, struct err *e)
{
    struct model_shape *m = &shape;
    const int n = sscanf(text, "made %d %d %d %d %d %d %f %" SCNu64, &m->n_blocks, &m->n_heads,
                         &m->width, &m->inner, &m->vocab, &m->context, &m->epsilon, &seed);
    *c = (struct config){.shape = *m, .tied = true};
    return n == 8 || err_set(e, ERR_file, "%s: is not what made_model wrote", text);
}

static void add(struct safetensors *s, struct arena *a, const char *name, int n_rows, int n_columns)
{
    struct safetensor *t = &s->tensors[s->n_tensors++];
    t->name = arena_copy_text(a, name, strlen(name));
    t->rank = n_columns ? 2 : 1;
    t->shape[0] = n_rows;
    t->shape[1] = n_columns;
    t->count = (int64_t)n_rows * (n_columns ? n_columns : 1);
}

static void add_block(struct safetensors *s, struct arena *a, int block)
{
    const int D = shape.width, F = shape.inner;
    const struct {
        const char *name;
        int n_rows, n_columns;
    } tensors[PER_BLOCK] = {
        {"ln_1.weight", D, 0},        {"ln_1.bias", D, 0},
        {"attn.c_attn.weight", D, 3 * D}, {"attn.c_attn.bias", 3 * D, 0},
        {"attn.c_proj.weight", D, D}, {"attn.c_proj.bias", D, 0},
        {"ln_2.weight", D, 0},        {"ln_2.bias", D, 0},
        {"mlp.c_fc.weight", D, F},    {"mlp.c_fc.bias", F, 0},
        {"mlp.c_proj.weight", F, D},  {"mlp.c_proj.bias", D, 0},
    };
    for (int i = 0; i < PER_BLOCK; i++) {
        char name[NAME_MAX_SIZE];
        snprintf(name, sizeof name, "h.%d.%s", block, tensors[i].name);
        add(s, a, name, tensors[i].n_rows, tensors[i].n_columns);
    }
}

bool shards_open(struct shards *s, const char *text, struct arena *a, struct err *e)
{
    (void)e;
    struct safetensors *f = ARENA_NEW(a, struct safetensors);
    *s = (struct shards){.path = text, .n_files = 1, .files = f};
    f->path = text;
    f->tensors = ARENA_ARRAY(a, struct safetensor, (size_t)(ENDS + PER_BLOCK * shape.n_blocks));
    add(f, a, "wte.weight", shape.vocab, shape.width);
    add(f, a, "wpe.weight", shape.context, shape.width);
    add(f, a, "ln_f.weight", shape.width, 0);
    add(f, a, "ln_f.bias", shape.width, 0);
    for (int i = 0; i < shape.n_blocks; i++)
        add_block(f, a, i);
    return true;
}

void shards_close(struct shards *s)
{
    (void)s;
}

const struct safetensor *shards_find(const struct safetensors **file, const struct shards *s,
                                     const char *name)
{
    *file = s->files;
    for (int i = 0; i < s->files->n_tensors; i++)
        if (strcmp(s->files->tensors[i].name, name) == 0)
            return &s->files->tensors[i];
    return NULL;
}

/* Steele, Lea and Flood's SplitMix64. */
static uint64_t mixed(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* About normal: the sum of eight bytes, whose mean is 1020 and deviation 209. */
static float number(uint64_t bits)
{
    int sum = 0;
    for (int i = 0; i < 8; i++)
        sum += (int)(bits >> (8 * i) & 0xff);
    return (float)(sum - 1020) / 209.0f;
}

/* Matrices keep the size of what they multiply, a layernorm's weight is about 1. */
bool safetensors_read(float *out, const struct safetensors *s, const struct safetensor *t,
                      struct err *e)
{
    (void)e;
    const bool ends = strncmp(t->name, "h.", 2) != 0, is_vector = t->rank == 1;
    const bool is_gain = is_vector && strstr(t->name, ".weight");
    const float scale = is_vector || ends ? 0.2f : 1 / sqrtf((float)t->shape[0]);
    const uint64_t first = mixed(seed * 1000 + (uint64_t)(t - s->tensors));
    for (int64_t i = 0; i < t->count; i++)
        out[i] = (is_gain ? 1.0f : 0.0f) + scale * number(mixed(first + (uint64_t)i));
    return true;
}
