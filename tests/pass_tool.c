/* Runs a model for tests/test_pass.py and tests/test_loading.py, and writes what it computes.
 *
 *     pass_tool load FOLDER                  loads; the most memory that it took, in kB
 *     pass_tool find NAME                    the folder of a model
 *     pass_tool logits FOLDER ROWS... < ids  logits of every row; ids are int32_t
 *     pass_tool sites FOLDER ROWS... < ids   every activation at every site
 *
 * Each ROWS is a pass of so many tokens of one sequence, behind the passes before it. An activation
 * is a line, "block_in 3 float32 5 768", and its values, row-major. What is refused ends the
 * program with the reason on standard error.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../kernels/gpt2.h"

enum {
    PAGE = 64,
    SITE_WORDS = 1024
};

struct tool {
    const struct backend *be;
    struct device *d;
    struct gpt2 *m;
    int past, n_rows; /* of the pass that runs */
    const int32_t *pages;
    struct arena arena;
};

static void refuse(const char *text)
{
    fprintf(stderr, "%s\n", text);
    exit(1);
}

static void put(struct tool *t, enum point p, int block, const struct tensor *x)
{
    struct err e = {0};
    const size_t size = (size_t)view_count(&x->view) * dtype_size(x->dtype);
    char *bytes = arena_alloc(&t->arena, size + 1);
    t->be->download(t->d, bytes, x);
    if (!t->be->fence(t->d, &e))
        refuse(e.text);
    printf("%s %d %s", point_info[p].id, block, dtype_name(x->dtype));
    for (int i = 0; i < x->view.rank; i++)
        printf(" %lld", (long long)x->view.shape[i]);
    printf("\n");
    const size_t written = fwrite(bytes, 1, size, stdout);
    assert(written == size);
}

static void put_cache(struct tool *t, enum point p, int block)
{
    struct err e = {0};
    const struct model_shape *s = &t->m->shape;
    const int S = t->past + t->n_rows;
    struct tensor x = {.dtype = DT_f32};
    x.view = view_of(3, (int64_t[]){s->n_heads, S, s->width / s->n_heads});
    const size_t size = (size_t)view_count(&x.view) * sizeof(float);
    if (!t->be->alloc(t->d, &x.data, size, &e))
        refuse(e.text);
    t->be->cache_read(t->d, &x, t->m->cache, block, p == PT_block_values, t->pages, S);
    put(t, p, block, &x);
    t->be->release(t->d, x.data, size);
}

static void hook(void *context, enum point p, int block, const struct tensor *activation)
{
    if (p == PT_block_keys || p == PT_block_values)
        put_cache(context, p, block);
    else
        put(context, p, block, activation);
}

/* `first` is the first of the ids that are new to the cache. */
static void run(struct tool *t, const int32_t *first, const uint64_t *wanted)
{
    const int n = t->n_rows, n_all = n_sites(t->m->shape.n_blocks);
    int32_t *numbers = ARENA_ARRAY(&t->arena, int32_t, 2 * n);
    for (int i = 0; i < n; i++) {
        numbers[i] = i;
        numbers[n + i] = t->past + i;
    }
    const struct span span = {.row = 0, .n_rows = n, .past = t->past, .pages = t->pages};
    const int last_site = n_all - 1;
    const struct pass p = {
        .n_rows = n,
        .n_spans = 1,
        .n_logits = n,
        .tokens = first,
        .positions = numbers + n,
        .spans = &span,
        .logits_rows = numbers,
        .wanted = wanted,
        .written = ARENA_ARRAY(&t->arena, uint64_t, SITE_WORDS),
        .last_sites = &last_site,
        .hook = hook,
        .context = t,
    };
    struct err e = {0};
    if (!gpt2_run(t->m, &p, &e))
        refuse(e.text);
    t->past += n;
}

/* The sites to show, as the bits of a pass. */
static const uint64_t *sites_of(struct tool *t, const char *command)
{
    uint64_t *wanted = ARENA_ARRAY(&t->arena, uint64_t, SITE_WORDS);
    const int L = t->m->shape.n_blocks, logits = site_of(PT_logits, 0, L);
    assert(n_sites(L) <= SITE_WORDS * 64);
    for (int i = strcmp(command, "sites") ? logits : 0; i <= logits; i++)
        wanted[i / 64] |= UINT64_C(1) << (i % 64);
    return wanted;
}

static void load(struct tool *t, const char *dir, int n_ids)
{
    struct err e = {0};
    struct model_shape s;
    if (!gpt2_config(&s, dir, &e))
        refuse(e.text);
    const struct device_options device = {
        .isa = "auto",
        .rows_max = n_ids,
        .width_max = s.inner > s.width ? s.inner : s.width,
        .context_max = s.context,
        .heads_max = s.n_heads,
    };
    t->be = &backend_cpu;
    if (!t->be->open(&t->d, &device, &e))
        refuse(e.text);
    const struct gpt2_options o = {.rows_max = n_ids, .cache_tokens = n_ids};
    if (!gpt2_load(&t->m, t->be, t->d, dir, &o, &e))
        refuse(e.text);
    int32_t *pages = ARENA_ARRAY(&t->arena, int32_t, n_ids / PAGE + 1);
    for (int i = 0; i <= n_ids / PAGE; i++)
        pages[i] = i;
    t->pages = pages;
}

static void run_all(struct tool *t, const char *command, int n_passes, char **rows, int n_ids)
{
    int32_t *ids = ARENA_ARRAY(&t->arena, int32_t, n_ids);
    if (fread(ids, sizeof *ids, (size_t)n_ids, stdin) != (size_t)n_ids)
        refuse("too few ids");
    const uint64_t *wanted = sites_of(t, command);
    for (int i = 0; i < n_passes; i++) {
        t->n_rows = (int)strtol(rows[i], NULL, 10);
        run(t, ids + t->past, wanted);
    }
}

/* Not getrusage, which begins with what the parent took before exec. */
static void put_peak(void)
{
    FILE *status = fopen("/proc/self/status", "r");
    assert(status);
    char line[256];
    long peak = 0;
    while (peak == 0 && fgets(line, sizeof line, status))
        if (!strncmp(line, "VmHWM:", 6))
            peak = strtol(line + 6, NULL, 10);
    fclose(status);
    printf("%ld\n", peak);
}

int main(int n_arguments, char **arguments)
{
    struct tool t = {0};
    struct err e = {0};
    char *dir;
    if (n_arguments < 3)
        refuse("usage: pass_tool load|find|logits|sites FOLDER [ROWS...]");
    if (!model_find(&dir, arguments[2], &t.arena, &e))
        refuse(e.text);
    if (!strcmp(arguments[1], "find")) {
        puts(dir);
        arena_free(&t.arena);
        return 0;
    }
    int n_ids = 0;
    for (int i = 3; i < n_arguments; i++)
        n_ids += (int)strtol(arguments[i], NULL, 10);
    load(&t, dir, n_ids > 0 ? n_ids : 1);
    if (!strcmp(arguments[1], "load"))
        put_peak();
    run_all(&t, arguments[1], n_arguments - 3, arguments + 3, n_ids);
    gpt2_free(t.m);
    t.be->close(t.d);
    arena_free(&t.arena);
    return 0;
}
