/* Times passes of a model without HTTP: `pass MODEL [isa [threads [weights]]]`. One line for each
 * number of rows: a prompt of that many tokens with the last row's logits, with all rows' logits,
 * and a decode step of as many sequences. Medians.
 */
#include "../kernels/gpt2.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 512, ROUNDS = 9, PAGES_EACH = 9 };

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void ignore(void *context, enum point p, int block, const struct tensor *activation)
{
    (void)context, (void)p, (void)block, (void)activation;
}

struct rows {
    int32_t tokens[ROWS], positions[ROWS], wanted[ROWS], pages[ROWS][PAGES_EACH];
    struct span spans[ROWS], logits_span;
    int last_sites[ROWS];
    uint64_t bits[64];
};

static double run(struct gpt2 *m, struct pass *p)
{
    struct err e = {0};
    double seconds[ROUNDS];
    for (int i = -2; i < ROUNDS; i++) {
        const double start = seconds_now();
        if (!gpt2_run(m, p, &e)) {
            fprintf(stderr, "%s\n", e.text);
            exit(1);
        }
        if (i >= 0)
            seconds[i] = seconds_now() - start;
    }
    qsort(seconds, ROUNDS, sizeof *seconds, compare);
    return seconds[ROUNDS / 2];
}

static double prompt(struct gpt2 *m, struct rows *r, int n, bool all)
{
    for (int i = 0; i < n; i++) {
        r->tokens[i] = i;
        r->positions[i] = i;
        r->wanted[i] = all ? i : n - 1;
    }
    r->spans[0] = (struct span){.row = 0, .n_rows = n, .past = 0, .pages = r->pages[0]};
    const int n_logits = all ? n : 1;
    r->logits_span = (struct span){
        .n_rows = n_logits, .past = n - n_logits, .pages = r->pages[0]};
    struct pass p = {.n_rows = n, .n_spans = 1, .n_logits = n_logits, .tokens = r->tokens,
                     .positions = r->positions, .spans = r->spans, .logits_rows = r->wanted,
                     .logits_spans = &r->logits_span, .n_logits_spans = 1,
                     .wanted = r->bits, .written = r->bits, .hook = ignore,
                     .last_sites = r->last_sites};
    return run(m, &p);
}

static double decode(struct gpt2 *m, struct rows *r, int n)
{
    const int past = 20;
    for (int i = 0; i < n; i++) {
        r->tokens[i] = i;
        r->positions[i] = past;
        r->wanted[i] = i;
        r->spans[i] = (struct span){.row = i, .n_rows = 1, .past = past, .pages = r->pages[i]};
    }
    struct pass p = {.n_rows = n, .n_spans = n, .n_logits = n, .tokens = r->tokens,
                     .positions = r->positions, .spans = r->spans, .logits_rows = r->wanted,
                     .wanted = r->bits, .written = r->bits, .hook = ignore,
                     .last_sites = r->last_sites};
    return run(m, &p);
}

int main(int argc, char **argv)
{
    struct err e = {0};
    struct device *d = NULL;
    struct gpt2 *m = NULL;
    struct model_shape shape;
    struct arena arena = {0};
    struct rows *r = ARENA_NEW(&arena, struct rows);
    const char *isa = argc > 2 ? argv[2] : "auto";
    const int threads = argc > 3 ? (int)strtol(argv[3], NULL, 10) : 2;
    if (argc < 2) {
        fprintf(stderr, "usage: pass MODEL [isa [threads [weights]]]\n");
        return 2;
    }
    bool ok = gpt2_config(&shape, argv[1], &e);
    const struct device_options o = {.threads = threads, .isa = isa,
                                     .weights = argc > 4 ? argv[4] : "f32", .rows_max = ROWS,
                                     .width_max = shape.inner, .context_max = shape.context,
                                     .heads_max = shape.n_heads};
    const struct gpt2_options g = {.rows_max = ROWS, .logits_max = ROWS, .cache_tokens = 8192};
    ok = ok && backend_cpu.open(&d, &o, &e) && gpt2_load(&m, &backend_cpu, d, argv[1], &g, &e);
    if (!ok) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    for (int i = 0; i < ROWS; i++)
        r->last_sites[i] = n_sites(m->shape.n_blocks) - 1;
    for (int i = 0; i < PAGES_EACH; i++)
        r->pages[0][i] = i;
    for (int i = 1; i < ROWS; i++)
        r->pages[i][0] = i < m->n_pages - PAGES_EACH ? PAGES_EACH + i - 1 : PAGES_EACH;
    printf("%s\n  rows  last logits ms  all logits ms  decode step ms\n", backend_cpu.describe(d));
    for (int n = 1; n <= ROWS; n *= 2) {
        printf("%6d  %14.2f  %13.2f", n, 1e3 * prompt(m, r, n, false), 1e3 * prompt(m, r, n, true));
        if (n < 128)
            printf("  %14.2f", 1e3 * decode(m, r, n));
        printf("\n");
    }
    gpt2_free(m);
    backend_cpu.close(d);
    arena_free(&arena);
    return 0;
}
