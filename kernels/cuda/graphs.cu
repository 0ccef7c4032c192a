/* Passes that nobody hooks, queued at once: the calls of one are captured as a graph, which is
 * launched for every later pass that would make the same calls with the same arguments. What
 * differs between these stands in the step, at the same place (copies.cu). */
#include "device.h"

/* Sequences of a pass in which launching takes longer than computing. */
constexpr int GRAPH_ROWS = 64;

static struct graph_key key_of(const struct device *d, const struct step *s, const struct cache *c)
{
    struct graph_key k;
    memset(&k, 0, sizeof k); /* also what lies between */
    k.cache = c;
    k.lane = d->lane;
    k.n_rows = s->n_rows;
    k.n_logits = s->n_logits;
    k.n_logits_spans = s->n_logits_spans;
    k.n_pages = cuda_spans_pages(s->spans, s->n_spans);
    k.n_logits_pages = cuda_spans_pages(s->logits_spans, s->n_logits_spans);
    return k;
}

static void drop(struct graph *g)
{
    if (g->runs)
        cudaGraphExecDestroy(g->runs);
    *g = {};
}

void cuda_graphs_drop(struct device *d)
{
    for (int i = 0; i < GRAPHS_MAX; i++)
        drop(&d->graphs.all[i]);
}

/* The one of that key, or the one to make room. */
static struct graph *find(struct graphs *s, const struct graph_key *key)
{
    struct graph *oldest = &s->all[0];
    for (int i = 0; i < GRAPHS_MAX; i++) {
        struct graph *g = &s->all[i];
        if (g->runs && memcmp(&g->key, key, sizeof *key) == 0)
            return g;
        if (g->used_at < oldest->used_at)
            oldest = g;
    }
    drop(oldest);
    oldest->key = *key;
    return oldest;
}

static void launch(struct device *d, struct graph *g)
{
    g->used_at = ++d->graphs.n_launched;
    cuda_note(d, cudaGraphLaunch(g->runs, d->stream), __func__);
}

/* Where nothing can be captured, passes go on without. */
static bool give_up(struct device *d)
{
    cudaGetLastError();
    d->graphs.are_refused = true;
    return false;
}

bool cuda_repeat(struct device *d, const struct step *s, const struct cache *c)
{
    struct graphs *all = &d->graphs;
    assert(!all->captured);
    if (all->are_refused || s->n_rows > GRAPH_ROWS || s->n_rows != s->n_spans || s->n_copies > 0)
        return false;
    const struct graph_key key = key_of(d, s, c);
    struct graph *g = find(all, &key);
    if (g->runs) {
        launch(d, g);
        return true;
    }
    if (cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess)
        return give_up(d);
    all->captured = g;
    all->before = d->error;
    return false;
}

bool cuda_keep(struct device *d)
{
    struct graph *g = d->graphs.captured;
    if (!g)
        return true;
    d->graphs.captured = NULL;
    cudaGraph_t calls = NULL;
    cudaError_t error = cudaStreamEndCapture(d->stream, &calls);
    if (error == cudaSuccess)
        error = cudaGraphInstantiateWithFlags(&g->runs, calls, 0);
    if (calls)
        cudaGraphDestroy(calls);
    if (error != cudaSuccess) {
        g->runs = NULL;
        d->error = d->graphs.before; /* what the calls met inside is nothing to those made again */
        return give_up(d);
    }
    launch(d, g);
    return true;
}
