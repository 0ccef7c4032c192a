/* The pass of kernels/gpt2.c on small random models of odd sizes: the order of its hooks, and that
 * nothing but the tokens and what hooks write changes a bit. HF's numbers are in
 * tests/test_pass.py. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../guarded.h"
#include "../tiny_gpt2.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

enum {
    ROWS = 90,
    TOKENS = 100,
    PAGE = 64,
    SITES_MAX = 256,
    SITE_WORDS = SITES_MAX / 64
};

static const struct model_shape shapes[] = {
    {3, 3, 51, 77, 257, 103, 1e-5f, 0, {0}},
    {1, 1, 8, 5, 11, 101, 1e-2f, 0, {0}},
    {2, 2, 128, 512, 130, 130, 1e-5f, 0, {0}},
    {2, 5, 5, 200, 17, 110, 1e-5f, 0, {0}},
};

static char folders[COUNT(shapes)][32];
static struct arena arena;

static int make_models(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(shapes); i++) {
        snprintf(folders[i], sizeof folders[i], "/tmp/test_gpt2.XXXXXX");
        tiny_model(folders[i], &shapes[i], 17 + i);
    }
    return 0;
}

static int remove_models(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(shapes); i++)
        tiny_remove(folders[i]);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    arena_free(&arena);
    return 0;
}

/* ---- Running ---- */

struct engine {
    struct device *d;
    struct gpt2 *m;
};

static struct engine engine_on(const struct backend *be, size_t model, int threads, const char *isa)
{
    const struct model_shape *s = &shapes[model];
    const struct device_options o = {
        .threads = threads,
        .isa = isa,
        .rows_max = ROWS,
        .width_max = s->inner > s->width ? s->inner : s->width,
        .context_max = s->context,
        .heads_max = s->n_heads,
    };
    struct engine g;
    struct err e = {0};
    if (!be->open(&g.d, &o, &e))
        fail_msg("%s", e.text);
    const struct gpt2_options options = {.rows_max = ROWS};
    if (!gpt2_load(&g.m, be, g.d, folders[model], &options, &e))
        fail_msg("%s", e.text);
    return g;
}

static struct engine engine_of(size_t model, int threads, const char *isa)
{
    return engine_on(&backend_cpu, model, threads, isa);
}

static struct engine engine_new(size_t model)
{
    return engine_of(model, 0, "auto");
}

static void engine_free(struct engine *g)
{
    gpt2_free(g->m);
    backend_cpu.close(g->d);
}

/* Tokens of one sequence, and where its keys and values lie. */
struct sequence {
    int32_t tokens[TOKENS];
    int32_t pages[TOKENS / PAGE + 1];
};

/* The n-th of the sequences that tests speak of. Its pages are not in order. */
static struct sequence sequence_of(const struct engine *g, int n)
{
    struct sequence s;
    uint64_t random = 1000 + (uint64_t)n;
    for (int i = 0; i < TOKENS; i++) {
        const float x = tiny_number(&random) * 1e4f;
        s.tokens[i] = abs((int)x) % g->m->shape.vocab;
    }
    s.pages[0] = 2 * n + 1;
    s.pages[1] = 2 * n;
    return s;
}

struct piece { /* rows of one sequence in a pass */
    const struct sequence *s;
    int past, n_rows;
};

/* What a test does at the sites. */
struct hooks {
    hook_fn *hook;
    void *context;
    uint64_t wanted[SITE_WORDS], written[SITE_WORDS];
    int last_site; /* 0: all of them */
};

static void bit_set(uint64_t *bits, int site)
{
    assert(site < SITES_MAX);
    bits[site / 64] |= UINT64_C(1) << (site % 64);
}

/* The logits of all rows, (rows, V). */
static float *run(const struct engine *g, const struct piece *pieces, int n, const struct hooks *h)
{
    int32_t tokens[ROWS], positions[ROWS], rows[ROWS];
    struct span spans[ROWS];
    int last_sites[ROWS], n_rows = 0;
    for (int i = 0; i < n; i++) {
        const struct piece *p = &pieces[i];
        last_sites[i] = h->last_site ? h->last_site : n_sites(g->m->shape.n_blocks) - 1;
        spans[i] = (struct span){n_rows, p->n_rows, p->past, p->s->pages};
        for (int k = 0; k < p->n_rows; k++, n_rows++) {
            tokens[n_rows] = p->s->tokens[p->past + k];
            positions[n_rows] = p->past + k;
            rows[n_rows] = n_rows;
        }
    }
    const struct pass p = {
        .n_rows = n_rows,
        .n_spans = n,
        .n_logits = n_rows,
        .tokens = tokens,
        .positions = positions,
        .spans = spans,
        .logits_rows = rows,
        .wanted = h->wanted,
        .written = h->written,
        .last_sites = last_sites,
        .hook = h->hook,
        .context = h->context,
    };
    struct err e = {0};
    if (!gpt2_run(g->m, &p, &e))
        fail_msg("%s", e.text);
    const size_t count = (size_t)n_rows * (size_t)g->m->shape.vocab;
    float *logits = ARENA_ARRAY(&arena, float, count);
    memcpy(logits, gpt2_logits(g->m, LANE_shared), count * sizeof *logits);
    return logits;
}

static float *run_alone(const struct engine *g, const struct sequence *s, int n_rows,
                        const struct hooks *h)
{
    return run(g, &(struct piece){s, 0, n_rows}, 1, h);
}

static void check_rows(const struct engine *g, const float *logits, int row, const float *expected,
                       int expected_row, int n_rows)
{
    const int V = g->m->shape.vocab;
    assert_memory_equal(logits + (ptrdiff_t)row * V, expected + (ptrdiff_t)expected_row * V,
                        (size_t)n_rows * (size_t)V * sizeof *logits);
}

/* ---- The order of the hooks ---- */

struct visits {
    int n;
    int sites[SITES_MAX];
    int n_blocks;
};

static void note(void *context, enum point p, int block, const struct tensor *x)
{
    struct visits *v = context;
    (void)x;
    v->sites[v->n++] = site_of(p, block, v->n_blocks);
}

static struct hooks everywhere(const struct engine *g, hook_fn *hook, void *context)
{
    struct hooks h = {.hook = hook, .context = context};
    for (int i = 0; i < n_sites(g->m->shape.n_blocks); i++)
        bit_set(h.wanted, i);
    return h;
}

/* `generated` is the last site: no pass reaches it. */
/* What is sampled belongs to no pass. */
static int count_visited(int n_blocks)
{
    return site_of(PT_logits, 0, n_blocks) + 1;
}

static void hooks_come_in_the_order_of_the_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(shapes); i++) {
        struct engine g = engine_new(i);
        const struct sequence s = sequence_of(&g, 0);
        struct visits v = {.n_blocks = shapes[i].n_blocks};
        const struct hooks h = everywhere(&g, note, &v);
        run_alone(&g, &s, 3, &h);
        assert_int_equal(v.n, count_visited(v.n_blocks));
        for (int k = 0; k < v.n; k++)
            assert_int_equal(v.sites[k], k);
        engine_free(&g);
    }
}

static void a_pass_ends_behind_its_last_site(void **state)
{
    (void)state;
    struct engine g = engine_new(0);
    const struct sequence s = sequence_of(&g, 0);
    for (int last = 1; last < count_visited(shapes[0].n_blocks); last++) {
        struct visits v = {.n_blocks = shapes[0].n_blocks};
        struct hooks h = everywhere(&g, note, &v);
        h.last_site = last;
        run_alone(&g, &s, 3, &h);
        assert_int_equal(v.n, last + 1);
    }
    engine_free(&g);
}

static void only_wanted_sites_are_visited(void **state)
{
    (void)state;
    struct engine g = engine_new(0);
    const struct sequence s = sequence_of(&g, 0);
    for (int site = 0; site < count_visited(shapes[0].n_blocks); site++) {
        struct visits v = {.n_blocks = shapes[0].n_blocks};
        struct hooks h = {.hook = note, .context = &v};
        bit_set(h.wanted, site);
        run_alone(&g, &s, 3, &h);
        assert_int_equal(v.n, 1);
        assert_int_equal(v.sites[0], site);
    }
    engine_free(&g);
}

static void check_shape(void *context, enum point p, int block, const struct tensor *x)
{
    const struct model_shape *m = context;
    const enum point made_of = p == PT_scores ? PT_qkv : p == PT_result ? PT_z : p;
    const int64_t stride = point_row_stride(made_of, m);
    const bool part = p == PT_query || p == PT_key || p == PT_value;
    (void)block;
    assert_int_equal(x->view.rank, 2);
    assert_int_equal(x->view.shape[0], 3);
    assert_int_equal(x->view.shape[1], part ? m->width : stride);
    assert_int_equal(x->view.stride[0], stride);
    assert_int_equal(x->dtype, point_dtype(p));
    assert_true((x->data == NULL) == (point_info[made_of].row == ROW_none));
}

static void activations_are_rows(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(shapes); i++) {
        struct engine g = engine_new(i);
        const struct sequence s = sequence_of(&g, 0);
        struct model_shape m = g.m->shape;
        const struct hooks h = everywhere(&g, check_shape, &m);
        run_alone(&g, &s, 3, &h);
        engine_free(&g);
    }
}

/* ---- The same bits ---- */

static void write_itself(void *context, enum point p, int block, const struct tensor *x)
{
    (void)context;
    (void)block;
    if (!x->data || !point_info[p].writable)
        return;
    for (int64_t r = 0; r < x->view.shape[0]; r++) {
        float row[1024];
        float *at = (float *)x->data + x->view.offset + r * x->view.stride[0];
        const size_t size = (size_t)x->view.shape[1] * sizeof *row;
        assert(size <= sizeof row);
        memcpy(row, at, size);
        memset(at, 0xff, size);
        memcpy(at, row, size);
    }
}

/* Logits of all rows but the first: the last block's inner layer then has almost as many rows as the
 * pass, four times as wide. */
static void a_narrowed_block_stays_in_its_buffers(void **state)
{
    (void)state;
    struct backend guarded = backend_cpu;
    guarded.alloc = guarded_alloc;
    guarded.release = guarded_release;
    const size_t model = 2;
    struct engine g = engine_on(&guarded, model, 0, "auto");
    const struct sequence s = sequence_of(&g, 0);
    const float *all = run_alone(&g, &s, ROWS, &(struct hooks){0});
    const uint64_t none[SITE_WORDS] = {0};
    const int last_site = site_of(PT_logits, 0, shapes[model].n_blocks);
    int32_t numbers[ROWS];
    for (int i = 0; i < ROWS; i++)
        numbers[i] = i;
    const struct pass p = {
        .n_rows = ROWS,
        .n_spans = 1,
        .n_logits = ROWS - 1,
        .tokens = s.tokens,
        .positions = numbers,
        .spans = &(struct span){0, ROWS, 0, s.pages},
        .last_sites = &last_site,
        .logits_rows = numbers + 1,
        .logits_spans = &(struct span){0, ROWS - 1, 1, s.pages},
        .n_logits_spans = 1,
        .wanted = none,
        .written = none,
    };
    struct err e = {0};
    assert_true(gpt2_run(g.m, &p, &e));
    check_rows(&g, gpt2_logits(g.m, LANE_shared), 0, all, 1, ROWS - 1);
    engine_free(&g);
}

static void writing_what_is_there_changes_no_bit(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(shapes); i++) {
        struct engine g = engine_new(i);
        const struct sequence s = sequence_of(&g, 0);
        const float *plain = run_alone(&g, &s, ROWS, &(struct hooks){0});
        struct hooks h = everywhere(&g, write_itself, NULL);
        memcpy(h.written, h.wanted, sizeof h.written);
        check_rows(&g, run_alone(&g, &s, ROWS, &h), 0, plain, 0, ROWS);
        engine_free(&g);
    }
}

static void a_hook_at_any_site_changes_no_bit(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(shapes); i++) {
        struct engine g = engine_new(i);
        const struct sequence s = sequence_of(&g, 0);
        const float *fused = run_alone(&g, &s, 5, &(struct hooks){0});
        for (int site = 0; site < n_sites(shapes[i].n_blocks); site++) {
            struct hooks h = {.hook = write_itself};
            bit_set(h.wanted, site);
            bit_set(h.written, site);
            check_rows(&g, run_alone(&g, &s, 5, &h), 0, fused, 0, 5);
        }
        engine_free(&g);
    }
}

static void decoding_and_chunks_have_the_bits_of_prefill(void **state)
{
    (void)state;
    static const int cuts[][5] = {
        {ROWS}, {1, 89}, {63, 1, 1, 25}, {64, 26}, {65, 25}, {10, 20, 30, 30},
    };
    const struct hooks none = {0};
    for (size_t i = 0; i < COUNT(shapes); i++) {
        struct engine g = engine_new(i);
        const struct sequence s = sequence_of(&g, 0), again = sequence_of(&g, 1);
        struct sequence t = again; /* other pages, the same tokens */
        memcpy(t.tokens, s.tokens, sizeof t.tokens);
        const float *whole = run_alone(&g, &s, ROWS, &none);
        for (size_t k = 0; k < COUNT(cuts); k++)
            for (int past = 0, c = 0; past < ROWS; past += cuts[k][c++]) {
                const struct piece p = {&t, past, cuts[k][c]};
                check_rows(&g, run(&g, &p, 1, &none), 0, whole, past, cuts[k][c]);
            }
        for (int past = 0; past < ROWS; past++) {
            const struct piece p = {&t, past, 1};
            check_rows(&g, run(&g, &p, 1, &none), 0, whole, past, 1);
        }
        engine_free(&g);
    }
}

static void neighbours_change_no_bit(void **state)
{
    (void)state;
    const struct hooks none = {0};
    for (size_t i = 0; i < COUNT(shapes); i++) {
        struct engine g = engine_new(i);
        const struct sequence x = sequence_of(&g, 0), y = sequence_of(&g, 1),
                              z = sequence_of(&g, 2);
        const float *x_alone = run_alone(&g, &x, 40, &none);
        const float *y_alone = run_alone(&g, &y, 70, &none);
        const float *z_alone = run_alone(&g, &z, 7, &none);
        run_alone(&g, &x, 39, &none);
        run_alone(&g, &y, 50, &none);
        const struct piece pieces[] = {{&y, 50, 20}, {&z, 0, 7}, {&x, 39, 1}};
        const float *together = run(&g, pieces, 3, &none);
        check_rows(&g, together, 0, y_alone, 50, 20);
        check_rows(&g, together, 20, z_alone, 0, 7);
        check_rows(&g, together, 27, x_alone, 39, 1);
        engine_free(&g);
    }
}

static void threads_and_instruction_sets_change_no_bit(void **state)
{
    (void)state;
    static const char *const sets[] = {"plain", "neon", "avx2", "avx512"};
    for (size_t i = 0; i < COUNT(shapes); i++) {
        struct engine g = engine_of(i, 1, "plain");
        const struct sequence s = sequence_of(&g, 0);
        const float *expected = run_alone(&g, &s, ROWS, &(struct hooks){0});
        for (size_t k = 0; k < COUNT(sets); k++)
            for (int threads = 1; threads <= 3; threads++) {
                struct device *d;
                struct err e = {0};
                const struct device_options o = {1, sets[k], "f32", 1, 1, 1, 1, 0, NULL};
                if (!backend_cpu.open(&d, &o, &e)) {
                    print_message("not on this machine: %s\n", e.text);
                    break;
                }
                backend_cpu.close(d);
                struct engine other = engine_of(i, threads, sets[k]);
                check_rows(&g, run_alone(&other, &s, ROWS, &(struct hooks){0}), 0, expected, 0,
                           ROWS);
                engine_free(&other);
            }
        engine_free(&g);
    }
}

/* ---- What a write changes ---- */

/* Zeroes one site, and keeps copies of the activations that a test looks at. */
struct experiment {
    int zeroed;
    int n_blocks;
    float *kept[SITES_MAX]; /* the rows, one behind the other */
};

static void zero_and_keep(void *context, enum point p, int block, const struct tensor *x)
{
    struct experiment *t = context;
    const int site = site_of(p, block, t->n_blocks);
    if (!x->data)
        return;
    const int64_t n_rows = x->view.shape[0], width = x->view.shape[1];
    float *copy = t->kept[site] = ARENA_ARRAY(&arena, float, n_rows *width);
    for (int64_t r = 0; r < n_rows && x->dtype == DT_f32; r++) {
        float *row = (float *)x->data + r * x->view.stride[0];
        if (site == t->zeroed)
            memset(row, 0, (size_t)width * sizeof *row);
        memcpy(copy + r * width, row, (size_t)width * sizeof *row);
    }
}

static struct experiment zero(const struct engine *g, enum point p, int block)
{
    const int L = g->m->shape.n_blocks;
    struct experiment t = {.zeroed = site_of(p, block, L), .n_blocks = L};
    struct hooks h = everywhere(g, zero_and_keep, &t);
    bit_set(h.written, t.zeroed);
    const struct sequence s = sequence_of(g, 0);
    run_alone(g, &s, 4, &h);
    return t;
}

static const float *kept(const struct experiment *t, enum point p, int block)
{
    return t->kept[site_of(p, block, t->n_blocks)];
}

static void a_layernorm_s_input_is_not_the_residual_stream(void **state)
{
    (void)state;
    struct engine g = engine_new(0);
    const size_t size = 4 * (size_t)shapes[0].width * sizeof(float);
    const struct experiment plain = zero(&g, PT_tokens, 0);
    const struct experiment first = zero(&g, PT_ln1_in, 1);
    assert_memory_equal(kept(&first, PT_ln1_out, 1), g.m->blocks[1].ln1_b,
                        (size_t)shapes[0].width * sizeof(float));
    assert_memory_not_equal(kept(&first, PT_attn_out, 1), kept(&plain, PT_attn_out, 1), size);
    const float *in = kept(&first, PT_block_in, 1), *out = kept(&first, PT_attn_out, 1);
    for (int i = 0; i < 4 * shapes[0].width; i++)
        assert_true(kept(&first, PT_mid, 1)[i] == in[i] + out[i]);
    const struct experiment second = zero(&g, PT_ln2_in, 1);
    assert_memory_equal(kept(&second, PT_mid, 1), kept(&plain, PT_mid, 1), size);
    assert_memory_not_equal(kept(&second, PT_mlp_out, 1), kept(&plain, PT_mlp_out, 1), size);
    in = kept(&second, PT_mid, 1);
    out = kept(&second, PT_mlp_out, 1);
    for (int i = 0; i < 4 * shapes[0].width; i++)
        assert_true(kept(&second, PT_block_out, 1)[i] == in[i] + out[i]);
    engine_free(&g);
}

static void zeroed_values_mix_to_zero(void **state)
{
    (void)state;
    struct engine g = engine_new(0);
    const struct experiment t = zero(&g, PT_value, 1);
    for (int i = 0; i < 4 * shapes[0].width; i++)
        assert_true(kept(&t, PT_z, 1)[i] == 0);
    engine_free(&g);
}

static void zeroed_branches_leave_the_residual_stream(void **state)
{
    (void)state;
    struct engine g = engine_new(0);
    const size_t size = 4 * (size_t)shapes[0].width * sizeof(float);
    const struct experiment attention = zero(&g, PT_attn_out, 1), mlp = zero(&g, PT_mlp_out, 2);
    assert_memory_equal(kept(&attention, PT_mid, 1), kept(&attention, PT_block_in, 1), size);
    assert_memory_equal(kept(&mlp, PT_block_out, 2), kept(&mlp, PT_mid, 2), size);
    assert_memory_equal(kept(&mlp, PT_lnf_in, 0), kept(&mlp, PT_mid, 2), size);
    engine_free(&g);
}

/* ---- Rows and layers ---- */

static void logits_are_computed_for_the_rows_asked_for(void **state)
{
    (void)state;
    struct engine g = engine_new(0);
    const struct sequence s = sequence_of(&g, 0);
    const float *all = run_alone(&g, &s, 20, &(struct hooks){0});
    int32_t positions[20];
    for (int i = 0; i < 20; i++)
        positions[i] = i;
    const struct span span = {0, 20, 0, s.pages};
    const uint64_t none[SITE_WORDS] = {0};
    const int32_t rows[] = {19, 3, 3, 0};
    const int last_site = n_sites(shapes[0].n_blocks) - 1;
    const struct pass p = {.n_rows = 20,
                           .n_spans = 1,
                           .n_logits = 4,
                           .tokens = s.tokens,
                           .positions = positions,
                           .spans = &span,
                           .last_sites = &last_site,
                           .logits_rows = rows,
                           .wanted = none,
                           .written = none};
    struct err e = {0};
    assert_true(gpt2_run(g.m, &p, &e));
    for (int i = 0; i < 4; i++)
        check_rows(&g, gpt2_logits(g.m, LANE_shared), i, all, rows[i], 1);
    engine_free(&g);
}

static void apply(const struct engine *g, const char *path, float *out, const float *x, int n)
{
    struct module_at at;
    struct err e = {0};
    size_t used;
    assert_true(module_find(&at, &used, path, strlen(path), g->m->shape.n_blocks, &e));
    gpt2_apply(g->m, &at, out, x, n);
}

/* On more rows than a pass has. */
static void the_last_layers_can_be_applied_to_any_rows(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(shapes); i++) {
        struct engine g = engine_new(i);
        const struct experiment t = zero(&g, PT_tokens, 0);
        const int D = shapes[i].width, V = shapes[i].vocab, n = 4 * ROWS;
        float *x = ARENA_ARRAY(&arena, float, n *D), *y = ARENA_ARRAY(&arena, float, n *D);
        float *logits = ARENA_ARRAY(&arena, float, n *V);
        for (int k = 0; k < ROWS; k++)
            memcpy(x + (ptrdiff_t)4 * k * D, kept(&t, PT_lnf_in, 0), 4 * (size_t)D * sizeof *x);
        apply(&g, "transformer.ln_f", y, x, n);
        apply(&g, "lm_head", logits, y, n);
        for (int k = 0; k < ROWS; k++) {
            assert_memory_equal(y + (ptrdiff_t)4 * k * D, kept(&t, PT_lnf_out, 0),
                                4 * (size_t)D * sizeof *y);
            check_rows(&g, logits, 4 * k, kept(&t, PT_logits, 0), 0, 4);
        }
        engine_free(&g);
    }
}

static void a_model_that_is_refused_leaves_nothing(void **state)
{
    (void)state;
    struct engine g = engine_new(0);
    char dir[] = "/tmp/test_gpt2.XXXXXX";
    struct model_shape deeper = shapes[0];
    tiny_model(dir, &deeper, 1);
    deeper.n_blocks++;
    tiny_config(dir, &deeper);
    struct gpt2 *m = NULL;
    struct err e = {0};
    assert_false(gpt2_load(&m, &backend_cpu, g.d, dir, &(struct gpt2_options){0}, &e));
    assert_int_equal(e.code, ERR_file);
    assert_string_equal(e.text + strlen(dir), "/model.safetensors: has no tensor h.3.ln_1.weight");
    tiny_remove(dir);
    engine_free(&g);
}

static void the_sizes_are_what_was_asked_for(void **state)
{
    (void)state;
    struct engine g = engine_new(0);
    assert_int_equal(g.m->rows_max[LANE_large], ROWS);
    assert_int_equal(g.m->logits_max[LANE_large], ROWS);
    assert_int_equal(g.m->rows_max[LANE_shared], ROWS);
    assert_int_equal(g.m->n_pages, 8 * 2);
    struct gpt2 *m;
    struct err e = {0};
    const struct gpt2_options o = {
        .rows_max = 7, .logits_max = 3, .shared_rows = 5, .cache_tokens = 65};
    assert_true(gpt2_load(&m, &backend_cpu, g.d, folders[0], &o, &e));
    assert_int_equal(m->rows_max[LANE_large], 7);
    assert_int_equal(m->logits_max[LANE_large], 3);
    assert_int_equal(m->rows_max[LANE_shared], 5);
    assert_int_equal(m->logits_max[LANE_shared], 3);
    assert_int_equal(m->n_pages, 2);
    gpt2_free(m);
    engine_free(&g);
}

#define TEST(name) cmocka_unit_test_teardown(name, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(hooks_come_in_the_order_of_the_table),
        TEST(a_pass_ends_behind_its_last_site),
        TEST(only_wanted_sites_are_visited),
        TEST(activations_are_rows),
        TEST(a_narrowed_block_stays_in_its_buffers),
        TEST(writing_what_is_there_changes_no_bit),
        TEST(a_hook_at_any_site_changes_no_bit),
        TEST(decoding_and_chunks_have_the_bits_of_prefill),
        TEST(neighbours_change_no_bit),
        TEST(threads_and_instruction_sets_change_no_bit),
        TEST(a_layernorm_s_input_is_not_the_residual_stream),
        TEST(zeroed_values_mix_to_zero),
        TEST(zeroed_branches_leave_the_residual_stream),
        TEST(logits_are_computed_for_the_rows_asked_for),
        TEST(the_last_layers_can_be_applied_to_any_rows),
        TEST(a_model_that_is_refused_leaves_nothing),
        TEST(the_sizes_are_what_was_asked_for),
    };
    return cmocka_run_group_tests(tests, make_models, remove_models);
}
