/* What goes from the host to the device: a pass's arrays in one piece, small arrays, and what else
 * is uploaded. It passes through pinned memory, so that no copy makes the host wait; the device has
 * a counterpart of the same layout, `here` and `there`. */
#include "device.h"

cudaError_t cuda_both_open(struct both *b, size_t size)
{
    void *here = NULL, *there = NULL;
    cudaError_t error = cudaMallocHost(&here, size);
    if (error == cudaSuccess)
        error = cudaMalloc(&there, size);
    *b = {static_cast<char *>(here), static_cast<char *>(there),
          error == cudaSuccess ? size : 0, 0};
    return error;
}

void cuda_both_close(struct both *b)
{
    cudaFree(b->there);
    cudaFreeHost(b->here);
    *b = {};
}

/* To the same place on the other side. */
static const void *send(struct device *d, const struct both *b, const char *from, size_t size)
{
    char *to = b->there + (from - b->here);
    cuda_note(d, cudaMemcpyAsync(to, from, size, cudaMemcpyHostToDevice, d->stream), __func__);
    return to;
}

/* Small arrays: room begins anew after each fence. */

static char *stage_room(struct device *d, size_t size)
{
    struct both *b = &d->staging;
    assert(size <= b->size && !d->graphs.captured);
    if (b->used + size > b->size) {
        cuda_note(d, cudaStreamSynchronize(d->stream), __func__);
        b->used = 0;
    }
    char *room = b->here + b->used;
    b->used += (size + 63) / 64 * 64;
    return room;
}

/* A step's array that `host` lies in, or NULL. The lane that began last is asked first: an array
 * may be told again in another one. */
static const struct told *find_told(const struct device *d, const void *host)
{
    const char *at = static_cast<const char *>(host);
    for (int i = 0; i < LANE_COUNT; i++) {
        const struct sent_step *s = &d->steps[(d->lane + i) % LANE_COUNT];
        for (int k = 0; k < s->n_told; k++)
            if (at >= s->told[k].host && at < s->told[k].host + s->told[k].size)
                return &s->told[k];
    }
    return NULL;
}

const void *cuda_stage(struct device *d, const void *from, size_t size)
{
    const struct told *t = find_told(d, from);
    if (t)
        return t->there + (static_cast<const char *>(from) - t->host);
    char *room = stage_room(d, size);
    memcpy(room, from, size);
    return send(d, &d->staging, room, size);
}

const void *cuda_stage_spans(int *n_rows_before, struct device *d, const struct span *spans,
                             int n_spans)
{
    *n_rows_before = 0;
    const struct told *t = find_told(d, spans);
    if (t) {
        for (const char *s = t->host; s < reinterpret_cast<const char *>(spans); s += sizeof *spans)
            *n_rows_before += reinterpret_cast<const struct span *>(s)->n_rows;
        return t->there;
    }
    const size_t size = cuda_spans_size(d, spans, n_spans);
    char *room = stage_room(d, size);
    cuda_spans_write(d, room, spans, n_spans);
    return send(d, &d->staging, room, size);
}

/* What is large, as weights are, makes the host wait. */
void cuda_upload(struct device *d, void *to, const void *from, size_t size)
{
    const void *source = from;
    if (size <= d->staging.size / 4)
        source = memcpy(stage_room(d, size), from, size);
    cuda_note(d, cudaMemcpyAsync(to, source, size, cudaMemcpyHostToDevice, d->stream), __func__);
}

/* A pass's arrays. */

/* Some numbers and the pages of each row and of its logits; and of the positions that a cache has,
 * in case all are copies. */
cudaError_t cuda_steps_reserve(struct device *d, int n_pages)
{
    const size_t pages = (size_t)(d->context_max / CHUNK) * sizeof(int32_t);
    const size_t size = (size_t)d->rows_max * 2 * (32 + pages)
                        + (size_t)n_pages * (CHUNK * 16 + pages) + STEP_ARRAYS * 64;
    cudaError_t error = cudaSuccess;
    for (int i = 0; i < LANE_COUNT && error == cudaSuccess; i++) {
        if (d->steps[i].memory.size >= size)
            continue;
        cuda_graphs_drop(d);
        cuda_both_close(&d->steps[i].memory);
        error = cuda_both_open(&d->steps[i].memory, size);
    }
    return error;
}

/* Room for what calls will know as an array of the host. */
static char *tell(struct device *d, const void *host, size_t host_size, size_t size)
{
    struct sent_step *s = &d->steps[d->lane];
    struct both *b = &s->memory;
    const size_t at = b->used;
    b->used += (size + 63) / 64 * 64;
    assert(b->used <= b->size && s->n_told < STEP_ARRAYS);
    s->told[s->n_told++] = {static_cast<const char *>(host), b->there + at, host_size};
    return b->here + at;
}

static void tell_ids(struct device *d, const int32_t *ids, int n)
{
    const size_t size = sizeof *ids * (size_t)n;
    if (n > 0)
        memcpy(tell(d, ids, size, size), ids, size);
}

static void tell_spans(struct device *d, const struct span *spans, int n_spans)
{
    if (n_spans == 0)
        return;
    const size_t size = cuda_spans_size(d, spans, n_spans);
    cuda_spans_write(d, tell(d, spans, sizeof *spans * (size_t)n_spans, size), spans, n_spans);
}

/* What was sent since the last fence may not have left this memory. */
void cuda_begin(struct device *d, enum lane lane, const struct step *s)
{
    struct sent_step *sent = &d->steps[lane];
    d->lane = lane;
    if (sent->memory.used > 0)
        cuda_note(d, cudaStreamSynchronize(d->stream), __func__);
    sent->n_told = 0;
    sent->memory.used = 0;
    tell_ids(d, s->tokens, s->n_rows);
    tell_ids(d, s->positions, s->n_rows);
    tell_ids(d, s->logits_rows, s->n_logits);
    tell_spans(d, s->spans, s->n_spans);
    tell_spans(d, s->copies, s->n_copies);
    tell_spans(d, s->logits_spans, s->n_logits_spans);
    send(d, &sent->memory, sent->memory.here, sent->memory.used);
}
