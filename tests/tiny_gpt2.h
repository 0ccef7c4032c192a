/* A GPT-2 with random weights, written where a test asks for it. */
#pragma once
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../kernels/gpt2.h"

struct tiny_file {
    struct arena arena;
    char *header; /* grows: the arena keeps the older ones */
    FILE *data;   /* the tensors, until the header is known */
    size_t size;
    uint64_t random;
};

/* About normal, deterministic: the sum of eight bytes. */
static inline float tiny_number(uint64_t *random)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    int sum = 0;
    for (int i = 0; i < 8; i++)
        sum += (int)(*random >> (8 * i) & 0xff);
    return (float)(sum - 1020) / 210.0f;
}

static inline void tiny_tensor(struct tiny_file *f, const char *name, int n_rows, int n_columns,
                               float mean, float deviation)
{
    const size_t count = (size_t)n_rows * (size_t)(n_columns ? n_columns : 1);
    const char *shape = n_columns ? arena_format(&f->arena, "%d,%d", n_rows, n_columns)
                                  : arena_format(&f->arena, "%d", n_rows);
    f->header = arena_format(
        &f->arena, "%s%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
        f->header, f->header[1] ? "," : "", name, shape, f->size, f->size + 4 * count);
    f->size += 4 * count;
    for (size_t i = 0; i < count; i++) {
        const float x = mean + deviation * tiny_number(&f->random);
        fwrite(&x, sizeof x, 1, f->data);
    }
}

static inline void tiny_block(struct tiny_file *f, const struct model_shape *m, int block)
{
    const int D = m->width, F = m->inner;
    const struct {
        const char *name;
        int n_rows, n_columns;
        float mean;
    } tensors[] = {
        {"ln_1.weight", D, 0, 1},
        {"ln_1.bias", D, 0, 0},
        {"attn.c_attn.weight", D, 3 * D, 0},
        {"attn.c_attn.bias", 3 * D, 0, 0},
        {"attn.c_proj.weight", D, D, 0},
        {"attn.c_proj.bias", D, 0, 0},
        {"ln_2.weight", D, 0, 1},
        {"ln_2.bias", D, 0, 0},
        {"mlp.c_fc.weight", D, F, 0},
        {"mlp.c_fc.bias", F, 0, 0},
        {"mlp.c_proj.weight", F, D, 0},
        {"mlp.c_proj.bias", D, 0, 0},
    };
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++)
        tiny_tensor(f, arena_format(&f->arena, "h.%d.%s", block, tensors[i].name),
                    tensors[i].n_rows, tensors[i].n_columns, tensors[i].mean, 0.2f);
}

static inline FILE *tiny_file_open(const char *dir, const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w+b");
    assert(f);
    return f;
}

static inline void tiny_config(const char *dir, const struct model_shape *m)
{
    FILE *f = tiny_file_open(dir, "config.json");
    fprintf(f,
            "{\"model_type\":\"gpt2\",\"n_layer\":%d,\"n_head\":%d,\"n_embd\":%d,\"n_inner\":%d,"
            "\"n_positions\":%d,\"vocab_size\":%d,\"layer_norm_epsilon\":%g}",
            m->n_blocks, m->n_heads, m->width, m->inner, m->context, m->vocab, (double)m->epsilon);
    fclose(f);
}

static inline void tiny_weights(const char *dir, const struct model_shape *m, uint64_t seed)
{
    struct tiny_file f = {.data = tmpfile(), .random = seed};
    assert(f.data);
    f.header = arena_format(&f.arena, "{");
    tiny_tensor(&f, "wte.weight", m->vocab, m->width, 0, 0.3f);
    tiny_tensor(&f, "wpe.weight", m->context, m->width, 0, 0.3f);
    for (int i = 0; i < m->n_blocks; i++)
        tiny_block(&f, m, i);
    tiny_tensor(&f, "ln_f.weight", m->width, 0, 1, 0.2f);
    tiny_tensor(&f, "ln_f.bias", m->width, 0, 0, 0.2f);

    FILE *whole = tiny_file_open(dir, "model.safetensors");
    f.header = arena_format(&f.arena, "%s}", f.header);
    const uint64_t size = strlen(f.header);
    fwrite(&size, sizeof size, 1, whole);
    fputs(f.header, whole);
    char *data = arena_alloc(&f.arena, f.size);
    rewind(f.data);
    const size_t got = fread(data, 1, f.size, f.data);
    assert(got == f.size);
    fwrite(data, 1, got, whole);
    fclose(whole);
    fclose(f.data);
    arena_free(&f.arena);
}

/* Makes `dir`, which ends in XXXXXX, a new folder with a model. */
static inline void tiny_model(char *dir, const struct model_shape *m, uint64_t seed)
{
    char *made = mkdtemp(dir);
    assert(made);
    tiny_config(dir, m);
    tiny_weights(dir, m, seed);
}

static inline void tiny_remove(const char *dir)
{
    static const char *const names[] = {"config.json", "model.safetensors"};
    char path[256];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    rmdir(dir);
}
