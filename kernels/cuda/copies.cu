/* What goes from the host to the device: a pass's arrays in one piece, small arrays, and what else
 * is uploaded. It passes through pinned memory, so that no copy makes the host wait; the device has
 * a counterpart of the same layout, `here` and `there`. */
#include "device.h"

/* What calls read of the host: some numbers for each row, and the pages of each, twice. */
static size_t step_size(const struct device_options *o)
{
    const size_t pages = ((size_t)o->context_max + CHUNK - 1) / CHUNK;
    const size_t rows = (size_t)(o->rows_max > 0 ? o->rows_max : 1);
    return rows * 2 * (8 + pages) * sizeof(int32_t) + 4096;
}

size_t cuda_copies_size(struct device *d, const struct device_options *o)
{
    d->step_size = (step_size(o) + 63) / 64 * 64;
    d->staging_size = d->step_size + 65536;
    return d->staging_size + LANE_COUNT * d->step_size;
}

/* To the same place on the other side. */
static const void *send(struct device *d, const char *from, size_t size)
{
    char *to = d->there + (from - d->here);
    cuda_note(d, cudaMemcpyAsync(to, from, size, cudaMemcpyHostToDevice, d->stream), __func__);
    return to;
}

/* Small arrays. */

void cuda_stage_restart(struct device *d)
{
    cuda_note(d, cudaStreamSynchronize(d->stream), __func__);
    d->staging_used = 0;
}

char *cuda_stage_room(struct device *d, size_t size)
{
    assert(size <= d->staging_size);
    if (d->staging_used + size > d->staging_size)
        cuda_stage_restart(d);
    char *room = d->here + d->staging_used;
    d->staging_used += (size + 63) / 64 * 64;
    return room;
}

const void *cuda_stage(struct device *d, const void *from, size_t size)
{
    const void *told = cuda_told(d, from);
    if (told)
        return told;
    char *room = cuda_stage_room(d, size);
    memcpy(room, from, size);
    return send(d, room, size);
}

const void *cuda_stage_spans(struct device *d, const struct span *spans, int n_spans)
{
    const void *told = cuda_told(d, spans);
    if (told)
        return told;
    const size_t size = cuda_spans_size(spans, n_spans);
    char *room = cuda_stage_room(d, size);
    cuda_spans_write(room, spans, n_spans);
    return send(d, room, size);
}

/* What is large, as weights are, makes the host wait. */
void cuda_upload(struct device *d, void *to, const void *from, size_t size)
{
    const void *source = from;
    if (size <= d->staging_size / 4)
        source = memcpy(cuda_stage_room(d, size), from, size);
    cuda_note(d, cudaMemcpyAsync(to, source, size, cudaMemcpyHostToDevice, d->stream), __func__);
}

/* A pass's arrays. */

/* Room for what calls will know as `host`. */
static char *tell(struct device *d, const void *host, size_t size)
{
    struct told_step *t = &d->told[d->lane];
    char *room = d->here + d->staging_size + (size_t)d->lane * d->step_size + t->used;
    t->used += (size + 63) / 64 * 64;
    assert(t->used <= d->step_size && t->n < STEP_ARRAYS);
    t->arrays[t->n++] = {host, d->there + (room - d->here)};
    return room;
}

static void tell_ids(struct device *d, const int32_t *ids, int n)
{
    const size_t size = sizeof *ids * (size_t)n;
    if (n > 0)
        memcpy(tell(d, ids, size), ids, size);
}

static void tell_spans(struct device *d, const struct span *spans, int n_spans)
{
    if (n_spans > 0)
        cuda_spans_write(tell(d, spans, cuda_spans_size(spans, n_spans)), spans, n_spans);
}

void cuda_begin(struct device *d, enum lane lane, const struct step *s)
{
    struct told_step *t = &d->told[lane];
    d->lane = lane;
    t->n = 0;
    t->used = 0;
    tell_ids(d, s->tokens, s->n_rows);
    tell_ids(d, s->positions, s->n_rows);
    tell_ids(d, s->logits_rows, s->n_logits);
    tell_spans(d, s->spans, s->n_spans);
    tell_spans(d, s->logits_spans, s->n_logits_spans);
    send(d, d->here + d->staging_size + (size_t)lane * d->step_size, t->used);
}

/* The lane that began last is asked first: an array may be told again in another one. */
const void *cuda_told(const struct device *d, const void *host)
{
    for (int i = 0; i < LANE_COUNT; i++) {
        const struct told_step *t = &d->told[(d->lane + i) % LANE_COUNT];
        for (int k = 0; k < t->n; k++)
            if (t->arrays[k].host == host)
                return t->arrays[k].there;
    }
    return NULL;
}
