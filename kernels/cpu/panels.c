/* Products with some of a weight's columns: panels of 16 wherever they lie. */
#include "cpu.h"

struct some {
    const struct device *d;
    const struct weight *w;
    float *out;
    const float *x;
    const int32_t *panels;
    int n_panels, n_rows, n_blocks;
};

/* At most a tile's height of rows by at most a group of panels. */
static void strip_multiply(const struct some *s, const struct tile *tile, float *packed, int row,
                           int n_rows, int panel, int n_panels)
{
    const int K = s->w->K;
    float t[BLOCK_ROWS * GROUP] __attribute__((aligned(64)));
    for (int k = 0; k < K; k += BLOCK_K) {
        const int n_k = K - k < BLOCK_K ? K - k : BLOCK_K;
        strip_pack(packed, tile, s->x + (size_t)row * (size_t)K + k, K, 1, n_rows, n_k);
        for (int p = 0; p < n_panels; p++) {
            const int which = s->panels[panel + p];
            tile->run[s->w->stored](t + p * LANES, packed, weight_row(s->w, which, k), 0,
                                    s->w->scales + which * LANES, 1, n_k, k > 0);
        }
    }
    for (int r = 0; r < n_rows; r++) {
        float *to = s->out + ((size_t)(row + r) * (size_t)s->n_panels + (size_t)panel) * LANES;
        for (int i = 0; i < n_panels * LANES; i++)
            to[i] = t[r * GROUP + i];
    }
}

static void panels_task(void *context, int task, int thread)
{
    const struct some *s = context;
    const int panel = task / s->n_blocks * 4, first = task % s->n_blocks * BLOCK_ROWS;
    const int n_panels = s->n_panels - panel < 4 ? s->n_panels - panel : 4;
    const int end = s->n_rows - first < BLOCK_ROWS ? s->n_rows : first + BLOCK_ROWS;
    for (int row = first, n; row < end; row += n) {
        const struct tile *tile = tile_for(s->d->v, end - row);
        n = end - row < tile->height ? end - row : tile->height;
        strip_multiply(s, tile, s->d->scratch[thread].a, row, n, panel, n_panels);
    }
}

void cpu_linear_panels(struct device *d, float *out, const float *x, const struct weight *w,
                       const int32_t *panels, int n_panels, int n_rows)
{
    struct some s = {.d = d, .w = w, .out = out, .x = x, .panels = panels};
    s.n_panels = n_panels;
    s.n_rows = n_rows;
    s.n_blocks = (n_rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
    pool_run(d->pool, (n_panels + 3) / 4 * s.n_blocks, panels_task, &s);
}
