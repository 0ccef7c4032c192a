/* Tensors on their way to the host, without a wait. A download packs its tensor into a ring on the
 * device, in the order of the calls. Several parcels are a shipment: it goes to the same place of
 * pinned memory on a stream of its own, while what was called later computes, and when it has
 * arrived, from there to where each belongs. */
#include "device.h"

/* The ring is twice the widest activation of a pass: one is packed while the other goes. */
cudaError_t cuda_downloads_open(struct downloads *r, const struct device_options *o)
{
    const size_t rows = (size_t)(o->rows_max > 0 ? o->rows_max : 1);
    const size_t width = (size_t)(o->width_max > 0 ? o->width_max : 1);
    const size_t size = 2 * sizeof(float) * rows * width;
    cudaError_t error = cuda_both_open(&r->ring, (size > 65536 ? size : 65536) / 64 * 64);
    if (error == cudaSuccess)
        error = cudaStreamCreateWithFlags(&r->stream, cudaStreamNonBlocking);
    if (error == cudaSuccess) /* what lies between parcels travels with them */
        error = cudaMemsetAsync(r->ring.there, 0, r->ring.size, r->stream);
    if (error == cudaSuccess)
        error = cudaStreamSynchronize(r->stream);
    if (error == cudaSuccess)
        error = cudaEventCreateWithFlags(&r->packed, cudaEventDisableTiming);
    for (int i = 0; i < SHIPMENTS_MAX && error == cudaSuccess; i++)
        error = cudaEventCreateWithFlags(&r->shipments[i].arrived, cudaEventDisableTiming);
    return error;
}

void cuda_downloads_close(struct downloads *r)
{
    for (int i = 0; i < SHIPMENTS_MAX; i++)
        if (r->shipments[i].arrived)
            cudaEventDestroy(r->shipments[i].arrived);
    if (r->packed)
        cudaEventDestroy(r->packed);
    if (r->stream)
        cudaStreamDestroy(r->stream);
    cuda_both_close(&r->ring);
}

static struct shipment *oldest(struct downloads *r)
{
    return &r->shipments[r->n_arrived % SHIPMENTS_MAX];
}

/* Of the oldest shipment, which has arrived. */
static void unpack(struct downloads *r)
{
    const struct shipment *s = oldest(r);
    for (int64_t i = r->arrived.parcel; i < s->end.parcel; i++) {
        const struct parcel *p = &r->parcels[i % PARCELS_MAX];
        memcpy(p->to, r->ring.here + p->at, p->size);
    }
    r->arrived = s->end;
    r->n_arrived++;
}

static void wait_for_oldest(struct device *d)
{
    assert(d->downloads.n_arrived < d->downloads.n_shipped);
    cuda_note(d, cudaEventSynchronize(oldest(&d->downloads)->arrived), __func__);
    unpack(&d->downloads);
}

/* What goes down from here on goes behind what was computed so far. */
static void follow(struct device *d)
{
    struct downloads *r = &d->downloads;
    cuda_note(d, cudaEventRecord(r->packed, d->stream), __func__);
    cuda_note(d, cudaStreamWaitEvent(r->stream, r->packed, 0), __func__);
}

/* All that is packed and has not left. */
static void ship(struct device *d)
{
    struct downloads *r = &d->downloads;
    if (r->end.parcel == r->shipped.parcel)
        return;
    if (r->n_shipped - r->n_arrived == SHIPMENTS_MAX)
        wait_for_oldest(d);
    struct shipment *s = &r->shipments[r->n_shipped++ % SHIPMENTS_MAX];
    const size_t at = r->shipped.byte % r->ring.size;
    follow(d);
    cuda_note(d,
              cudaMemcpyAsync(r->ring.here + at, r->ring.there + at, r->end.byte - r->shipped.byte,
                              cudaMemcpyDeviceToHost, r->stream),
              __func__);
    cuda_note(d, cudaEventRecord(s->arrived, r->stream), __func__);
    s->end = r->shipped = r->end;
}

/* Room for a parcel, at most a quarter of the ring: where in the ring. Only a full one makes the
 * host wait. */
static size_t take_room(struct device *d, size_t size)
{
    struct downloads *r = &d->downloads;
    const size_t left = r->ring.size - r->end.byte % r->ring.size;
    if (left == r->ring.size || size > left)
        ship(d); /* which lies in one piece, so that none goes on at the ring's beginning */
    if (size > left)
        r->shipped.byte = r->end.byte += left;
    while (r->end.byte + size > r->arrived.byte + r->ring.size
           || r->end.parcel == r->arrived.parcel + PARCELS_MAX) {
        ship(d);
        wait_for_oldest(d);
    }
    const size_t at = r->end.byte % r->ring.size;
    r->end.byte += (size + 63) / 64 * 64;
    return at;
}

void cuda_download(struct device *d, void *to, const struct tensor *from)
{
    struct downloads *r = &d->downloads;
    const int64_t count = view_count(&from->view), element = (int64_t)dtype_size(from->dtype);
    const int64_t piece_max = (int64_t)r->ring.size / 4 / element;
    char *out = static_cast<char *>(to);
    for (int64_t first = 0; first < count; first += piece_max) {
        const int64_t n = count - first < piece_max ? count - first : piece_max;
        const size_t size = (size_t)(n * element), at = take_room(d, size);
        cuda_pack(d, r->ring.there + at, from, first, n);
        r->parcels[r->end.parcel++ % PARCELS_MAX] = {out + first * element, at, size};
        if (r->end.byte - r->shipped.byte >= SHIPMENT_BYTES)
            ship(d);
    }
}

/* The number of the shipment that has it. */
int64_t cuda_mark(struct device *d)
{
    const struct downloads *r = &d->downloads;
    return r->n_shipped + (r->end.parcel > r->shipped.parcel);
}

bool cuda_reached(struct device *d, int64_t mark)
{
    struct downloads *r = &d->downloads;
    if (mark > r->n_shipped)
        ship(d);
    while (r->n_arrived < mark && d->error == cudaSuccess) {
        const cudaError_t error = cudaEventQuery(oldest(r)->arrived);
        if (error == cudaErrorNotReady) {
            cudaGetLastError(); /* or the next launch would be told of it */
            return false;
        }
        cuda_note(d, error, __func__);
        unpack(r);
    }
    return d->error == cudaSuccess;
}

bool cuda_fence(struct device *d, struct err *e)
{
    struct downloads *r = &d->downloads;
    if (d->is_busy) {
        ship(d);
        while (r->n_arrived + 1 < r->n_shipped)
            wait_for_oldest(d); /* and unpack while the rest computes */
        if (r->n_arrived < r->n_shipped)
            follow(d);
        cuda_note(d, cudaStreamSynchronize(r->n_arrived < r->n_shipped ? r->stream : d->stream),
                  __func__);
        while (r->n_arrived < r->n_shipped)
            unpack(r);
        d->staging.used = 0;
        for (int i = 0; i < LANE_COUNT; i++)
            d->steps[i].memory.used = 0;
        d->is_busy = false;
    }
    return d->error == cudaSuccess
           || err_set(e, ERR_device, "the CUDA device failed in %s: %s", d->failed,
                      cudaGetErrorString(d->error));
}
