/* The CUDA backend: its life, its memory, and the table of its calls. */
#include "device.h"
#include <stdio.h>
#include <string.h>

void cuda_note(struct device *d, cudaError_t error, const char *where)
{
    d->is_busy = true;
    if (error == cudaSuccess || d->error != cudaSuccess)
        return;
    d->error = error;
    d->failed = where;
}

static bool refuse(struct err *e, cudaError_t error, const char *what)
{
    return err_set(e, ERR_device, "no CUDA device: %s: %s", what, cudaGetErrorString(error));
}

/* Each thread has a current device, the first one until it says otherwise. */
static void cuda_enter(struct device *d)
{
    cuda_note(d, cudaSetDevice(d->number), __func__);
}

static void cuda_close(struct device *d)
{
    if (!d)
        return;
    if (d->stream)
        cudaStreamDestroy(d->stream);
    cuda_graphs_drop(d);
    cudaFree(d->faulty);
    cuda_fast_close(d);
    for (int i = 0; i < LANE_COUNT; i++)
        cuda_both_close(&d->steps[i].memory);
    cuda_both_close(&d->staging);
    cuda_downloads_close(&d->downloads);
    memory_unmap(d, sizeof *d);
}

/* Small arrays: those of a pass that told of none, and the panels of the largest vocabulary. */
static bool open_memory(struct device *d, const struct device_options *o, struct err *e)
{
    const size_t pages = (size_t)(d->context_max / CHUNK) * sizeof(int32_t);
    void *faulty = NULL;
    cudaError_t error = cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking);
    if (error == cudaSuccess)
        error = cuda_both_open(&d->staging, (size_t)d->rows_max * (64 + pages) + (1 << 18));
    if (error == cudaSuccess)
        error = cuda_downloads_open(&d->downloads, o);
    if (error == cudaSuccess)
        error = cuda_linear_open(d);
    if (error == cudaSuccess)
        error = cuda_fast_open(d, o);
    if (error == cudaSuccess)
        error = cuda_attend_open(d);
    if (error == cudaSuccess)
        error = cudaMalloc(&faulty, sizeof *d->faulty);
    if (error == cudaSuccess)
        error = cudaMemsetAsync(faulty, 0xff, sizeof *d->faulty, d->stream);
    d->faulty = static_cast<uint32_t *>(faulty);
    return error == cudaSuccess || refuse(e, error, "its streams and memory for copies");
}

static bool has_device(int number, struct err *e)
{
    int n_devices = 0;
    const cudaError_t error = cudaGetDeviceCount(&n_devices);
    if (error == cudaErrorInsufficientDriver)
        return err_set(e, ERR_device,
                       "no CUDA device: this machine has no NVIDIA driver, or too old a one");
    if (error != cudaSuccess && error != cudaErrorNoDevice)
        return refuse(e, error, "looking for one");
    return number < n_devices
           || err_set(e, ERR_device, "no CUDA device %d: this machine has %d", number, n_devices);
}

static bool find_precision(enum precision *precision, const char *name, struct err *e)
{
    static const char *const names[] = {"exact", "tf32x3", "tf32", "bf16"};
    for (int i = 0; i < 4; i++)
        if (!name || strcmp(name, names[i]) == 0) {
            *precision = (enum precision)i;
            return true;
        }
    return err_set(e, ERR_value, "precision is %.40s: it can be exact, tf32x3, tf32 or bf16", name);
}

enum { ROWS_LEAST = 16 }; /* accuracy.c's */

static bool cuda_open(struct device **out, const struct device_options *o, struct err *e)
{
    enum precision precision = PRECISION_exact;
    if (!find_precision(&precision, o->precision, e))
        return false;
    if (o->weights && strcmp(o->weights, "f32") != 0)
        return err_set(e, ERR_value, "weights is %s: the CUDA backend stores f32", o->weights);
    if (!has_device(o->number, e))
        return false;
    struct cudaDeviceProp properties;
    cudaError_t error = cudaSetDevice(o->number);
    if (error == cudaSuccess)
        error = cudaGetDeviceProperties(&properties, o->number);
    if (error != cudaSuccess)
        return refuse(e, error, "opening it");
    struct device *d = static_cast<struct device *>(memory_map(sizeof *d));
    if (!d)
        return err_set(e, ERR_device, "no memory for the device");
    d->precision = precision;
    d->number = o->number;
    d->rows_max = o->rows_max > ROWS_LEAST ? o->rows_max : ROWS_LEAST;
    d->processors = properties.multiProcessorCount;
    d->shared_max = (int)properties.sharedMemPerBlockOptin;
    d->starts_early = properties.major >= 9;
    d->context_max = (o->context_max + CHUNK - 1) / CHUNK * CHUNK;
    snprintf(d->text, sizeof d->text, "cuda %s", properties.name);
    if (!open_memory(d, o, e)) {
        cuda_close(d);
        return false;
    }
    *out = d;
    return true;
}

static const char *cuda_describe(struct device *d)
{
    return d->text;
}

static bool cuda_alloc(struct device *d, void **p, size_t size, struct err *e)
{
    cudaError_t error = cudaMalloc(p, size > 0 ? size : 1);
    if (error == cudaSuccess)
        error = cudaMemsetAsync(*p, 0, size, d->stream);
    if (error == cudaSuccess)
        return true;
    cudaGetLastError(); /* or the next launch would be told of it */
    return err_set(e, ERR_device, "no device memory for %zu bytes: %s", size,
                   cudaGetErrorString(error));
}

static void cuda_release(struct device *d, void *p, size_t size)
{
    (void)size;
    cuda_note(d, cudaFree(p), __func__);
}

extern "C" const struct backend backend_cuda = {
    .name = "cuda",
    .open = cuda_open,
    .enter = cuda_enter,
    .close = cuda_close,
    .describe = cuda_describe,
    .alloc = cuda_alloc,
    .release = cuda_release,
    .upload = cuda_upload,
    .download = cuda_download,
    .mark = cuda_mark,
    .reached = cuda_reached,
    .fence = cuda_fence,
    .begin = cuda_begin,
    .repeat = cuda_repeat,
    .keep = cuda_keep,
    .copy = cuda_copy,
    .unary = cuda_unary,
    .binary = cuda_binary,
    .where = cuda_where,
    .reduce = cuda_reduce,
    .softmax = cuda_softmax,
    .scan = cuda_scan,
    .topk = cuda_topk,
    .gather = cuda_gather,
    .scatter = cuda_scatter,
    .matmul = cuda_matmul,
    .weight_pack = cuda_weight_pack,
    .weight_free = cuda_weight_free,
    .weight_read = cuda_weight_read,
    .weight_gather = cuda_weight_gather,
    .embed = cuda_embed,
    .add = cuda_add,
    .layernorm = cuda_layernorm,
    .layernorm_scale = cuda_layernorm_scale,
    .layernorm_normalize = cuda_layernorm_normalize,
    .layernorm_gain = cuda_layernorm_gain,
    .linear = cuda_linear,
    .linear_panels = cuda_linear_panels,
    .gelu = cuda_gelu,
    .rows_gather = cuda_rows_gather,
    .cache_open = cuda_cache_open,
    .cache_close = cuda_cache_close,
    .cache_append = cuda_cache_append,
    .attend = cuda_attend,
    .cache_read = cuda_cache_read,
};
