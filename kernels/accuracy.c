#include "accuracy.h"
#include <math.h>

enum {
    M = 16,
    N = 64
};

struct trial {
    int K;
    float *x, *w, y[M * N]; /* [M * K], [K * N] */
    float *device_x, *device_y;
    struct weight *weight;
};

/* About normal, by a linear congruence: the sum of four numbers of 16 bits. */
static void fill(float *x, int count, uint32_t state)
{
    for (int i = 0; i < count; i++) {
        int sum = 0;
        for (int j = 0; j < 4; j++) {
            state = state * 1664525u + 1013904223u;
            sum += (int)(state >> 16) - 32768;
        }
        x[i] = (float)sum / 37837.0f;
    }
}

static double distance(const struct trial *t)
{
    double apart = 0, size = 0;
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            double y = 0;
            for (int k = 0; k < t->K; k++)
                y += (double)t->x[m * t->K + k] * (double)t->w[k * N + n];
            apart += pow((double)t->y[m * N + n] - y, 2);
            size += y * y;
        }
    return sqrt(apart / size);
}

static bool multiply(struct trial *t, const struct backend *be, struct device *d, struct err *e)
{
    const struct tensor y = {t->device_y, DT_f32, view_of(2, (int64_t[]){M, N})};
    if (!be->weight_pack(d, &t->weight, t->w, LAYOUT_kn, t->K, N, e))
        return false;
    be->upload(d, t->device_x, t->x, sizeof *t->x * (size_t)(M * t->K));
    be->linear(d, t->device_y, t->device_x, t->weight, NULL, M, EPILOGUE_none, NULL);
    be->download(d, t->y, &y);
    const bool ok = be->fence(d, e);
    be->weight_free(d, t->weight);
    return ok;
}

bool product_error(double *error, const struct backend *be, struct device *d, int K,
                   struct err *e)
{
    struct arena arena = {0};
    struct trial *t = ARENA_NEW(&arena, struct trial);
    t->K = K;
    t->x = ARENA_ARRAY(&arena, float, (size_t)(M * K));
    t->w = ARENA_ARRAY(&arena, float, (size_t)(K * N));
    const size_t x_size = sizeof *t->x * (size_t)(M * K);
    void *x, *y;
    bool ok = be->alloc(d, &x, x_size, e);
    if (ok && !be->alloc(d, &y, sizeof t->y, e)) {
        be->release(d, x, x_size);
        ok = false;
    }
    if (ok) {
        t->device_x = x;
        t->device_y = y;
        fill(t->x, M * K, 1);
        fill(t->w, K * N, 2);
        ok = multiply(t, be, d, e);
        *error = ok ? distance(t) : 0;
        be->release(d, x, x_size);
        be->release(d, y, sizeof t->y);
    }
    arena_free(&arena);
    return ok;
}
