/* The CPU backend: its life, its memory, and the table of its calls. */
#include "cpu.h"
#include <sched.h>
#include <stdio.h>
#include <string.h>

static bool choose_vectors(const struct vectors **v, const char *isa, struct err *e)
{
    const struct vectors *const known[] = {vectors_avx512(), vectors_avx2(), vectors_neon(),
                                           vectors_plain()};
    const char *const names[] = {"avx512", "avx2", "neon", "plain"};
    for (int i = 0; i < 4; i++) {
        if (known[i] && (strcmp(isa, "auto") == 0 || strcmp(isa, names[i]) == 0)) {
            *v = known[i];
            return true;
        }
        if (strcmp(isa, names[i]) == 0)
            return err_set(e, ERR_device, "this machine has no %s: choose isa auto", isa);
    }
    return err_set(e, ERR_value, "isa is %s: it can be auto, avx512, avx2, neon or plain", isa);
}

static int count_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    return CPU_COUNT(&set);
}

/* Cuts the next `count` floats from the device's memory. Counted once, then cut for real. */
static float *cut(struct device *d, size_t count)
{
    float *p = d->memory ? (float *)(d->memory + d->size) : NULL;
    d->size += (count * sizeof(float) + 63) / 64 * 64;
    return p;
}

static void cut_scratch(struct device *d)
{
    d->size = 0;
    d->packed = cut(d, (size_t)d->packed_rows * (size_t)d->width_max);
    for (int i = 0; i < d->n_threads; i++) {
        struct scratch s;
        s.a = cut(d, (size_t)BLOCK_ROWS * BLOCK_K);
        s.b = cut(d, (size_t)BLOCK_K * GROUP);
        s.scores = cut(d, (size_t)ATTEND_ROWS * (size_t)d->context_max);
        if (d->memory)
            d->scratch[i] = s;
    }
}

static void cpu_close(struct device *d)
{
    if (!d)
        return;
    if (d->pool)
        pool_close(d->pool);
    if (d->memory)
        memory_unmap(d->memory, d->memory_size);
    memory_unmap(d, sizeof *d + sizeof *d->scratch * (size_t)d->n_threads);
}

static bool cpu_open(struct device **out, const struct device_options *o, struct err *e)
{
    const struct vectors *v = NULL;
    enum stored stored;
    if (!choose_vectors(&v, o->isa ? o->isa : "auto", e)
        || !stored_find(&stored, o->weights ? o->weights : "f32", e))
        return false;
    if (o->precision && strcmp(o->precision, "exact") != 0)
        return err_set(e, ERR_value, "precision is %.40s: the CPU backend has exact only",
                       o->precision);
    const int n_threads = o->threads > 0 ? o->threads : count_cores();
    struct device *d = memory_map(sizeof *d + sizeof *d->scratch * (size_t)n_threads);
    if (!d)
        return err_set(e, ERR_device, "no memory for the device");
    d->v = v;
    d->n_threads = n_threads;
    d->stored = stored;
    d->scratch = (struct scratch *)(d + 1);
    d->width_max = o->width_max;
    const int rows = o->rows_max < PACKED_ROWS ? o->rows_max : PACKED_ROWS;
    d->packed_rows = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS * BLOCK_ROWS;
    d->context_max = (o->context_max + CHUNK - 1) / CHUNK * CHUNK;
    snprintf(d->text, sizeof d->text, "cpu %s %d thread%s", v->name, n_threads,
             n_threads == 1 ? "" : "s");
    cut_scratch(d);
    d->memory_size = d->size;
    d->memory = memory_map(d->memory_size);
    if (!d->memory) {
        cpu_close(d);
        return err_set(e, ERR_device, "no memory for the device's scratch");
    }
    cut_scratch(d);
    if (!pool_open(&d->pool, n_threads, e)) {
        d->pool = NULL;
        cpu_close(d);
        return false;
    }
    *out = d;
    return true;
}

static const char *cpu_describe(struct device *d)
{
    return d->text;
}

static bool cpu_alloc(struct device *d, void **p, size_t size, struct err *e)
{
    (void)d;
    *p = memory_map(size > 0 ? size : 1);
    return *p || err_set(e, ERR_device, "no memory for %zu bytes", size);
}

static void cpu_release(struct device *d, void *p, size_t size)
{
    (void)d;
    if (p)
        memory_unmap(p, size > 0 ? size : 1);
}

static void cpu_enter(struct device *d)
{
    (void)d;
}

static void cpu_upload(struct device *d, void *to, const void *from, size_t size)
{
    (void)d;
    memcpy(to, from, size);
}

static void cpu_download(struct device *d, void *to, const struct tensor *from)
{
    const struct tensor out = {to, from->dtype, view_of(from->view.rank, from->view.shape)};
    cpu_copy(d, &out, from);
}

static int64_t cpu_mark(struct device *d)
{
    (void)d;
    return 0;
}

static bool cpu_reached(struct device *d, int64_t mark)
{
    (void)d;
    (void)mark;
    return true;
}

static bool cpu_fence(struct device *d, struct err *e)
{
    (void)d;
    (void)e;
    return true;
}

static void cpu_begin(struct device *d, enum lane lane, const struct step *s)
{
    (void)d;
    (void)lane;
    (void)s;
}

static bool cpu_repeat(struct device *d, const struct step *s, const struct cache *c)
{
    (void)d;
    (void)s;
    (void)c;
    return false;
}

static bool cpu_keep(struct device *d)
{
    (void)d;
    return true;
}

const struct backend backend_cpu = {
    .name = "cpu",
    .open = cpu_open,
    .enter = cpu_enter,
    .close = cpu_close,
    .describe = cpu_describe,
    .alloc = cpu_alloc,
    .release = cpu_release,
    .upload = cpu_upload,
    .download = cpu_download,
    .mark = cpu_mark,
    .reached = cpu_reached,
    .fence = cpu_fence,
    .begin = cpu_begin,
    .repeat = cpu_repeat,
    .keep = cpu_keep,
    .copy = cpu_copy,
    .unary = cpu_unary,
    .binary = cpu_binary,
    .where = cpu_where,
    .reduce = cpu_reduce,
    .softmax = cpu_softmax,
    .scan = cpu_scan,
    .topk = cpu_topk,
    .gather = cpu_gather,
    .scatter = cpu_scatter,
    .matmul = cpu_matmul,
    .weight_pack = cpu_weight_pack,
    .weight_free = cpu_weight_free,
    .weight_read = cpu_weight_read,
    .weight_gather = cpu_weight_gather,
    .embed = cpu_embed,
    .add = cpu_add,
    .layernorm = cpu_layernorm,
    .layernorm_scale = cpu_layernorm_scale,
    .layernorm_normalize = cpu_layernorm_normalize,
    .layernorm_gain = cpu_layernorm_gain,
    .linear = cpu_linear,
    .linear_panels = cpu_linear_panels,
    .gelu = cpu_gelu,
    .rows_gather = cpu_rows_gather,
    .cache_open = cpu_cache_open,
    .cache_close = cpu_cache_close,
    .cache_append = cpu_cache_append,
    .attend = cpu_attend,
    .cache_read = cpu_cache_read,
};
