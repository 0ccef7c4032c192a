/* The layers that work row by row. */
#include "cpu.h"
#include <string.h>

enum { TASK_ELEMENTS = 8192 };

struct rows {
    struct device *d;
    float *out;
    const float *x, *y, *z;
    const int32_t *ids;
    int n_rows, width, task_rows;
    int64_t count;
    float epsilon;
};

static void rows_run(struct device *d, task_fn *run, struct rows *r)
{
    r->d = d;
    r->task_rows = r->width < TASK_ELEMENTS ? TASK_ELEMENTS / (r->width > 0 ? r->width : 1) : 1;
    pool_run(d->pool, (r->n_rows + r->task_rows - 1) / r->task_rows, run, r);
}

static int rows_end(const struct rows *r, int task)
{
    const int end = (task + 1) * r->task_rows;
    return end < r->n_rows ? end : r->n_rows;
}

static void gather_task(void *context, int task, int thread)
{
    (void)thread;
    const struct rows *r = context;
    const size_t width = (size_t)r->width;
    for (int i = task * r->task_rows; i < rows_end(r, task); i++)
        memcpy(r->out + (size_t)i * width, r->x + (size_t)r->ids[i] * width,
               sizeof(float) * width);
}

void cpu_rows_gather(struct device *d, float *out, const float *x, const int32_t *rows, int n_rows,
                     int width)
{
    struct rows r = {.out = out, .x = x, .ids = rows, .n_rows = n_rows, .width = width};
    rows_run(d, gather_task, &r);
}

void cpu_embed(struct device *d, float *out, const float *table, const int32_t *ids, int n_rows,
               int width)
{
    cpu_rows_gather(d, out, table, ids, n_rows, width);
}

static void layernorm_task(void *context, int task, int thread)
{
    (void)thread;
    const struct rows *r = context;
    const size_t width = (size_t)r->width;
    for (int i = task * r->task_rows; i < rows_end(r, task); i++)
        r->d->v->layernorm(r->out + (size_t)i * width, r->x + (size_t)i * width, r->y, r->z,
                           r->width, r->epsilon);
}

void cpu_layernorm(struct device *d, float *out, const float *x, const float *weight,
                   const float *bias, int n_rows, int width, float epsilon)
{
    struct rows r = {.out = out, .x = x, .y = weight, .z = bias, .n_rows = n_rows, .width = width,
                     .epsilon = epsilon};
    rows_run(d, layernorm_task, &r);
}

static void layernorm_scale_task(void *context, int task, int thread)
{
    (void)thread;
    const struct rows *r = context;
    for (int i = task * r->task_rows; i < rows_end(r, task); i++)
        r->out[i] = r->d->v->layernorm_scale(r->x + (size_t)i * (size_t)r->width, r->width,
                                             r->epsilon);
}

void cpu_layernorm_scale(struct device *d, float *scale, const float *x, int n_rows, int width,
                         float epsilon)
{
    struct rows r = {.out = scale, .x = x, .n_rows = n_rows, .width = width, .epsilon = epsilon};
    rows_run(d, layernorm_scale_task, &r);
}

static void layernorm_normalize_task(void *context, int task, int thread)
{
    (void)thread;
    const struct rows *r = context;
    const size_t width = (size_t)r->width;
    for (int i = task * r->task_rows; i < rows_end(r, task); i++)
        r->d->v->layernorm_normalize(r->out + (size_t)i * width, r->x + (size_t)i * width, r->y[i],
                                     r->width);
}

void cpu_layernorm_normalize(struct device *d, float *out, const float *x, const float *scale,
                             int n_rows, int width)
{
    struct rows r = {.out = out, .x = x, .y = scale, .n_rows = n_rows, .width = width};
    rows_run(d, layernorm_normalize_task, &r);
}

static void layernorm_gain_task(void *context, int task, int thread)
{
    (void)thread;
    const struct rows *r = context;
    const size_t width = (size_t)r->width;
    for (int i = task * r->task_rows; i < rows_end(r, task); i++)
        r->d->v->layernorm_gain(r->out + (size_t)i * width, r->x + (size_t)i * width, r->y, r->z,
                                r->width);
}

void cpu_layernorm_gain(struct device *d, float *out, const float *x, const float *weight,
                        const float *bias, int n_rows, int width)
{
    struct rows r = {.out = out, .x = x, .y = weight, .z = bias, .n_rows = n_rows, .width = width};
    rows_run(d, layernorm_gain_task, &r);
}

/* Of one long row. */
static int64_t stretch(const struct rows *r, int task, int64_t *first)
{
    *first = (int64_t)task * TASK_ELEMENTS;
    return r->count - *first < TASK_ELEMENTS ? r->count - *first : TASK_ELEMENTS;
}

static void add_task(void *context, int task, int thread)
{
    (void)thread;
    const struct rows *r = context;
    int64_t at;
    const int64_t n = stretch(r, task, &at);
    r->d->v->add(r->out + at, r->x + at, r->y + at, n);
}

void cpu_add(struct device *d, float *out, const float *x, const float *y, int64_t count)
{
    struct rows r = {.d = d, .out = out, .x = x, .y = y, .count = count};
    pool_run(d->pool, (int)((count + TASK_ELEMENTS - 1) / TASK_ELEMENTS), add_task, &r);
}

static void gelu_task(void *context, int task, int thread)
{
    (void)thread;
    const struct rows *r = context;
    int64_t at;
    const int64_t n = stretch(r, task, &at);
    r->d->v->gelu(r->out + at, r->x + at, n);
}

void cpu_gelu(struct device *d, float *out, const float *x, int64_t count)
{
    struct rows r = {.d = d, .out = out, .x = x, .count = count};
    pool_run(d->pool, (int)((count + TASK_ELEMENTS - 1) / TASK_ELEMENTS), gelu_task, &r);
}
