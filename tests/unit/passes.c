/* Whole passes on the CPU and on a CUDA device, emulated or real, side by side: prompts in
 * random chunks and single tokens, sequences that share passes by chance and some that leave them
 * early, large passes that let a shared one through, every activation read and a few changed on the
 * way. Whatever the one shows, the other shows to the bit, and so do all machines: some logits are
 * also compared with a hash of what they were when this was written.
 *
 *     passes [large]      with a model of GPT-2 small's sizes too
 *     passes few          those alone whose hash is known
 */
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "../../kernels/gpt2.h"
#include "../made_model.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

enum {
    ROWS = 60,
    TOKENS = 90,
    PAGE = 64,
    SEQUENCES = 4,
    SITE_WORDS = 4,
    ROW_MAX = 512,   /* elements of a row of an activation */
    SEEN_MAX = 2000, /* activations of a model's passes */
};

static const struct model_shape shapes[] = {
    {3, 3, 51, 77, 257, 103, 1e-5f, 0, {0}},
    {1, 1, 8, 5, 11, 101, 1e-2f, 0, {0}},
    {2, 2, 128, 512, 130, 130, 1e-5f, 0, {0}},
    {2, 3, 21, 70, 19, 103, 1e-5f, 0, {0}},
};

static const struct backend *const backends[] = {&backend_cpu, &backend_cuda};

/* What a pass showed at a site: an activation's rows, or keys or values of a sequence. */
struct seen {
    char *bytes;
    size_t size;
    int site;
};

struct side {
    const struct backend *be;
    struct device *d;
    struct gpt2 *m;
    float *room; /* on the device, for rows on their way */
    struct seen seen[SEEN_MAX];
    int n_seen;
};

/* A pass on a side; before that many more blocks it lets the other through, if there is one. */
struct run {
    struct side *side;
    const struct pass *pass, *other;
    int blocks_before;
};

static struct side sides[COUNT(backends)];
static int n_read[PT_COUNT], n_written[PT_COUNT]; /* how often it was hooked, on both sides */
static struct arena arena;
static struct err error;

static uint64_t chance_state = 1;

static int chance(int n)
{
    chance_state = chance_state * 6364136223846793005u + 1442695040888963407u;
    return (int)((chance_state >> 33) % (uint64_t)n);
}

static void must(bool went_well)
{
    if (!went_well)
        fail_msg("%s", error.text);
}

static void side_open(struct side *s, const struct backend *be, const char *folder,
                      const struct model_shape *m)
{
    const struct device_options o = {
        .threads = 1,
        .rows_max = ROWS,
        .width_max = m->inner > m->width ? m->inner : m->width,
        .context_max = m->context,
        .heads_max = m->n_heads,
    };
    *s = (struct side){.be = be};
    must(be->open(&s->d, &o, &error));
    must(gpt2_load(&s->m, be, s->d, folder, &(struct gpt2_options){.rows_max = ROWS}, &error));
    void *room;
    must(be->alloc(s->d, &room, sizeof(float) * TOKENS * ROW_MAX, &error));
    s->room = room;
}

static void side_close(struct side *s)
{
    s->be->release(s->d, s->room, sizeof(float) * TOKENS * ROW_MAX);
    gpt2_free(s->m);
    s->be->close(s->d);
}

static char *note(struct side *s, int site, const struct tensor *x)
{
    assert(s->n_seen < SEEN_MAX);
    const size_t size = dtype_size(x->dtype) * (size_t)view_count(&x->view);
    struct seen *seen = &s->seen[s->n_seen++];
    *seen = (struct seen){arena_alloc(&arena, size), size, site};
    s->be->download(s->d, seen->bytes, x);
    must(s->be->fence(s->d, &error));
    return seen->bytes;
}

/* The first sequence's keys or values so far. */
static void note_cache(const struct run *r, int site, int which, int block)
{
    struct side *s = r->side;
    const struct span *span = &r->pass->spans[0];
    const int n = span->past + span->n_rows, H = s->m->shape.n_heads, dh = s->m->shape.width / H;
    const struct tensor t = {s->room, DT_f32, view_of(3, (int64_t[]){H, n, dh})};
    s->be->cache_read(s->d, &t, s->m->cache, block, which, span->pages, n);
    note(s, site, &t);
}

/* Turns some of what it sees around, by a copy on the device. */
static void look(void *context, enum point p, int block, const struct tensor *x)
{
    const struct run *r = context;
    struct side *s = r->side;
    const int site = site_of(p, block, s->m->shape.n_blocks);
    n_read[p]++;
    if (!x->data) {
        note_cache(r, site, p == PT_block_values, block);
        return;
    }
    float *rows = (float *)note(s, site, x);
    if (!site_bit(r->pass->written, site))
        return;
    n_written[p]++;
    const int64_t n = view_count(&x->view);
    float *changed = ARENA_ARRAY(&arena, float, (size_t)n);
    for (int64_t i = 0; i < n; i++)
        changed[i] = i % 3 ? rows[i] : -0.5f * rows[i];
    assert(n <= TOKENS * ROW_MAX);
    const struct tensor from = {s->room, DT_f32, view_of(2, x->view.shape)};
    s->be->upload(s->d, s->room, changed, sizeof *changed * (size_t)n);
    s->be->copy(s->d, x, &from);
}

struct sequence {
    int32_t tokens[TOKENS], pages[TOKENS / PAGE + 1];
    int past, last_site;
};

struct schedule {
    int32_t tokens[ROWS], positions[ROWS], logits_rows[ROWS];
    struct span spans[SEQUENCES], logits_spans[ROWS];
    int last_sites[SEQUENCES];
    uint64_t wanted[SITE_WORDS], written[SITE_WORDS];
};

/* Row `past` of the sequence, and by chance its logits: neighbours are one span of the logits. */
static void add_row(struct schedule *c, struct pass *p, struct sequence *s, bool has_logits)
{
    if (has_logits) {
        const bool goes_on = p->n_logits > 0 && c->logits_rows[p->n_logits - 1] == p->n_rows - 1 &&
                             c->logits_spans[p->n_logits_spans - 1].pages == s->pages;
        if (!goes_on)
            c->logits_spans[p->n_logits_spans++] =
                (struct span){p->n_logits, 0, s->past, s->pages};
        c->logits_spans[p->n_logits_spans - 1].n_rows++;
        c->logits_rows[p->n_logits++] = p->n_rows;
    }
    c->tokens[p->n_rows] = s->tokens[s->past];
    c->positions[p->n_rows++] = s->past++;
}

/* Rows of some of the sequences that are this lane's in this round: a chunk or a single token of
 * each. */
static struct pass pass_by_chance(struct schedule *c, struct sequence *all, const enum lane *lanes,
                                  enum lane lane, int n_blocks)
{
    struct pass p = {.lane = lane, .tokens = c->tokens, .positions = c->positions,
                     .spans = c->spans, .last_sites = c->last_sites,
                     .logits_rows = c->logits_rows, .logits_spans = c->logits_spans,
                     .wanted = c->wanted, .written = c->written, .hook = look};
    const int logits_in = 1 + chance(3);
    for (int i = 0; i < SEQUENCES; i++) {
        struct sequence *s = &all[i];
        const int longest = chance(2) ? 1 : ROWS / SEQUENCES, left = TOKENS - s->past;
        const int most = left < longest ? left : longest;
        if (lanes[i] != lane || most == 0 || chance(4) == 0)
            continue;
        const int n = 1 + chance(most);
        c->last_sites[p.n_spans] = s->last_site;
        c->spans[p.n_spans++] = (struct span){p.n_rows, n, s->past, s->pages};
        for (int k = 0; k < n; k++)
            add_row(c, &p, s, s->last_site >= site_of(PT_logits, 0, n_blocks) &&
                                  chance(logits_in) == 0);
    }
    p.n_logits_spans = chance(4) ? p.n_logits_spans : 0;
    return p;
}

/* By chance none behind the last block's values, so that it may be narrowed. */
static void hooks_by_chance(struct schedule *c, int n_blocks)
{
    memset(c->wanted, 0, sizeof c->wanted);
    memset(c->written, 0, sizeof c->written);
    const int in = 1 + chance(4);
    const int end = chance(2) ? n_sites(n_blocks) - 1 : site_of(PT_z, n_blocks - 1, n_blocks);
    for (int site = 0; site < end; site++) {
        enum point p;
        int block;
        site_split(&p, &block, site, n_blocks);
        if (chance(in) != 0)
            continue;
        c->wanted[site / 64] |= UINT64_C(1) << site % 64;
        if (point_info[p].writable && p != PT_block_keys && p != PT_block_values && !chance(5))
            c->written[site / 64] |= UINT64_C(1) << site % 64;
    }
}

static void check_same(const struct model_shape *m)
{
    const struct side *x = &sides[0], *y = &sides[1];
    char text[SITE_TEXT_SIZE];
    assert_int_equal(x->n_seen, y->n_seen);
    for (int i = 0; i < x->n_seen; i++) {
        assert_int_equal(x->seen[i].site, y->seen[i].site);
        assert_int_equal(x->seen[i].size, y->seen[i].size);
        if (memcmp(x->seen[i].bytes, y->seen[i].bytes, x->seen[i].size) != 0)
            fail_msg("%s differs", site_text(text, x->seen[i].site, m->n_blocks));
    }
}

static void run_pass(struct side *s, const struct pass *p, const struct pass *other,
                     int blocks_before);

static void let_through(void *context, int n_rows)
{
    struct run *r = context;
    (void)n_rows;
    if (r->blocks_before-- == 0)
        run_pass(r->side, r->other, NULL, 0);
}

static void run_pass(struct side *s, const struct pass *p, const struct pass *other,
                     int blocks_before)
{
    struct run r = {s, p, other, blocks_before};
    struct pass own = *p;
    own.context = &r;
    own.pause = other ? let_through : NULL;
    must(gpt2_run(s->m, &own, &error));
    const int64_t shape[] = {p->n_logits, s->m->shape.vocab};
    const struct tensor logits = {(float *)(uintptr_t)gpt2_logits(s->m, p->lane), DT_f32,
                                  view_of(2, shape)};
    note(s, site_of(PT_logits, 0, s->m->shape.n_blocks), &logits);
    if (other && r.blocks_before >= 0) /* this one came to no such block */
        run_pass(s, other, NULL, 0);
}

static void run_both(const struct model_shape *m, struct sequence *all)
{
    struct schedule c[LANE_COUNT];
    struct pass p[LANE_COUNT];
    enum lane lanes[SEQUENCES];
    for (int i = 0; i < SEQUENCES; i++)
        lanes[i] = chance(2) ? LANE_large : LANE_shared;
    for (int lane = 0; lane < LANE_COUNT; lane++) {
        p[lane] = pass_by_chance(&c[lane], all, lanes, (enum lane)lane, m->n_blocks);
        hooks_by_chance(&c[lane], m->n_blocks);
    }
    const struct pass *large = &p[LANE_large], *shared = &p[LANE_shared];
    const int blocks_before = chance(m->n_blocks);
    for (int i = 0; i < COUNT(sides); i++) {
        sides[i].n_seen = 0;
        if (large->n_rows > 0)
            run_pass(&sides[i], large, shared->n_rows > 0 ? shared : NULL, blocks_before);
        else if (shared->n_rows > 0)
            run_pass(&sides[i], shared, NULL, 0);
    }
    check_same(m);
    arena_free(&arena);
}

static void passes_have_the_same_bits_on_both(void **state)
{
    (void)state;
    for (int model = 0; model < COUNT(shapes); model++) {
        const struct model_shape *m = &shapes[model];
        char folder[MADE_TEXT_SIZE];
        made_model(folder, m, 3 + (uint64_t)model);
        for (int i = 0; i < COUNT(sides); i++)
            side_open(&sides[i], backends[i], folder, m);
        struct sequence all[SEQUENCES];
        int last_site = n_sites(m->n_blocks) - 1; /* they descend */
        for (int n = 0; n < SEQUENCES; n++) {
            all[n] = (struct sequence){.pages = {2 * n + 1, 2 * n}, .last_site = last_site};
            last_site = chance(2) && last_site > 0 ? chance(last_site) : last_site;
            for (int i = 0; i < TOKENS; i++)
                all[n].tokens[i] = chance(m->vocab);
        }
        for (int left = 1; left > 0;) {
            run_both(m, all);
            left = 0;
            for (int n = 0; n < SEQUENCES; n++)
                left += TOKENS - all[n].past;
        }
        for (int i = 0; i < COUNT(sides); i++)
            side_close(&sides[i]);
    }
}

/* Scores and patterns are the engine's: tests/test_programs.py. */
static void every_point_was_read_and_written(void **state)
{
    (void)state;
    for (enum point p = 0; p <= PT_logits; p++) {
        const bool is_live = point_info[p].row != ROW_none;
        if (n_read[p] == 0 || (is_live && point_info[p].writable && n_written[p] == 0))
            fail_msg("%s: read %d times, written %d times", point_info[p].id, n_read[p],
                     n_written[p]);
    }
}

/* Logits of a prompt in two chunks, then of greedy steps: their bytes' hash (FNV-1a). */
static const struct golden {
    struct model_shape shape;
    uint64_t hash;
    bool is_large;
} goldens[] = {
    {{3, 3, 51, 77, 257, 103, 1e-5f, 0, {0}}, UINT64_C(0x7e9f8415efc846d0), false},
    {{2, 4, 64, 256, 101, 200, 1e-5f, 0, {0}}, UINT64_C(0x128411304b1d1822), false},
    {{12, 12, 768, 3072, 50257, 1024, 1e-5f, 0, {0}}, UINT64_C(0xdcfd45e9e09b2150), true},
};
enum { GOLDEN_TOKENS = 44, GOLDEN_STEPS = 4, GOLDEN_CHUNK = 17 };

static bool has_large;

static void no_hook(void *context, enum point p, int block, const struct tensor *x)
{
    (void)context, (void)p, (void)block, (void)x;
}

static int32_t greatest(const float *x, int n)
{
    int at = 0;
    for (int i = 1; i < n; i++)
        at = x[i] > x[at] ? i : at;
    return at;
}

/* Appends `n` tokens of a sequence to the hash, and the one that the last of them calls for. */
static uint64_t hash_on(struct side *s, uint64_t hash, int32_t *tokens, int past, int n)
{
    static const int32_t pages[] = {3, 1};
    const int V = s->m->shape.vocab, last_site = n_sites(s->m->shape.n_blocks) - 1;
    int32_t positions[GOLDEN_TOKENS], rows[GOLDEN_TOKENS];
    const uint64_t none[64] = {0};
    for (int i = 0; i < n; i++) {
        positions[i] = past + i;
        rows[i] = i;
    }
    const struct span span = {0, n, past, pages};
    const struct pass p = {.n_rows = n, .n_spans = 1, .n_logits = n, .tokens = tokens + past,
                           .positions = positions, .spans = &span, .last_sites = &last_site,
                           .logits_rows = rows, .wanted = none, .written = none, .hook = no_hook};
    must(gpt2_run(s->m, &p, &error));
    const int64_t shape[] = {n, V};
    const struct tensor logits = {(float *)(uintptr_t)gpt2_logits(s->m, p.lane), DT_f32,
                                  view_of(2, shape)};
    float *seen = ARENA_ARRAY(&arena, float, (size_t)n * (size_t)V);
    s->be->download(s->d, seen, &logits);
    must(s->be->fence(s->d, &error));
    for (size_t i = 0; i < sizeof *seen * (size_t)n * (size_t)V; i++)
        hash = (hash ^ ((const unsigned char *)seen)[i]) * UINT64_C(0x100000001b3);
    tokens[past + n] = greatest(seen + (size_t)(n - 1) * (size_t)V, V);
    return hash;
}

static uint64_t hash_of(struct side *s)
{
    int32_t tokens[GOLDEN_TOKENS + GOLDEN_STEPS + 1];
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (int i = 0; i < GOLDEN_TOKENS; i++)
        tokens[i] = i * 7919 % s->m->shape.vocab;
    hash = hash_on(s, hash, tokens, 0, GOLDEN_CHUNK);
    for (int i = GOLDEN_CHUNK; i < GOLDEN_TOKENS; i++)
        tokens[i] = i * 7919 % s->m->shape.vocab;
    hash = hash_on(s, hash, tokens, GOLDEN_CHUNK, GOLDEN_TOKENS - GOLDEN_CHUNK);
    for (int i = GOLDEN_TOKENS; i < GOLDEN_TOKENS + GOLDEN_STEPS; i++)
        hash = hash_on(s, hash, tokens, i, 1);
    arena_free(&arena);
    return hash;
}

static void logits_are_what_they_always_were(void **state)
{
    (void)state;
    for (int g = 0; g < COUNT(goldens); g++)
        for (int i = 0; i < COUNT(sides) && (has_large || !goldens[g].is_large); i++) {
            char folder[MADE_TEXT_SIZE];
            side_open(&sides[i], backends[i], made_model(folder, &goldens[g].shape, 1),
                      &goldens[g].shape);
            const uint64_t hash = hash_of(&sides[i]);
            side_close(&sides[i]);
            if (hash != goldens[g].hash)
                fail_msg("%s on %s: 0x%016llx", folder, backends[i]->name,
                         (unsigned long long)hash);
        }
}

static void a_device_that_is_not_there_is_refused(void **state)
{
    (void)state;
    struct device *d;
    struct err e = {0};
    const struct device_options o = {.rows_max = 1, .context_max = 1, .number = 999};
    assert_false(backend_cuda.open(&d, &o, &e));
    assert_int_equal(e.code, ERR_device);
    const char *const says = "no CUDA device 999: this machine has ";
    assert_memory_equal(e.text, says, strlen(says));
}

/* Before anything of its size is looked at. */
static void what_a_gpu_has_no_room_for_is_refused(void **state)
{
    (void)state;
    struct device *d;
    struct weight *w;
    struct cache *c;
    const struct device_options o = {.rows_max = 1, .context_max = 1 << 20};
    must(backend_cuda.open(&d, &o, &error));
    struct err e = {0};
    assert_false(backend_cuda.weight_pack(d, &w, NULL, LAYOUT_kn, 1 << 16, 1 << 16, &e));
    assert_string_equal(e.text, "a matrix of 65536 x 65536 has more elements than a GPU's may");
    e = (struct err){0};
    assert_false(backend_cuda.cache_open(d, &c, 1, 1, 1, 64, &e));
    const char *const says = "attention over 1048576 positions by heads of 64 takes 8463232 bytes ";
    assert_memory_equal(e.text, says, strlen(says));
    void *p;
    e = (struct err){0};
    assert_false(backend_cuda.alloc(d, &p, (size_t)1 << 50, &e));
    assert_string_equal(e.text, "no device memory for 1125899906842624 bytes: out of memory");
    must(backend_cuda.alloc(d, &p, sizeof(float), &error));
    backend_cuda.add(d, p, p, p, 1);
    must(backend_cuda.fence(d, &error)); /* goes on as if nobody had asked */
    backend_cuda.release(d, p, sizeof(float));
    backend_cuda.close(d);
}

int main(int n_arguments, char **arguments)
{
    const char *which = n_arguments > 1 ? arguments[1] : "";
    has_large = strcmp(which, "large") == 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_device_that_is_not_there_is_refused),
        cmocka_unit_test(what_a_gpu_has_no_room_for_is_refused),
        cmocka_unit_test(logits_are_what_they_always_were),
        cmocka_unit_test(passes_have_the_same_bits_on_both),
        cmocka_unit_test(every_point_was_read_and_written),
    };
    const struct CMUnitTest few[] = {
        cmocka_unit_test(logits_are_what_they_always_were),
    };
    if (strcmp(which, "few") == 0)
        return cmocka_run_group_tests(few, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
