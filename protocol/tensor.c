#include "tensor.h"
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    size_t size;
} dtypes[DT_COUNT] = {
    [DT_f32] = {"float32", 4},
    [DT_i64] = {"int64", 8},
    [DT_bool] = {"bool", 1},
};

size_t dtype_size(enum dtype d)
{
    return dtypes[d].size;
}

const char *dtype_name(enum dtype d)
{
    return dtypes[d].name;
}

bool dtype_from_name(enum dtype *d, const char *name)
{
    if (strncmp(name, "torch.", 6) == 0)
        name += 6;
    for (int i = 0; i < DT_COUNT; i++) {
        if (strcmp(dtypes[i].name, name) == 0) {
            *d = (enum dtype)i;
            return true;
        }
    }
    return false;
}

struct view view_of(int rank, const int64_t *shape)
{
    struct view v = {.rank = rank};
    int64_t stride = 1;
    for (int i = rank - 1; i >= 0; i--) {
        v.shape[i] = shape[i];
        v.stride[i] = stride;
        stride *= shape[i];
    }
    return v;
}

int64_t view_count(const struct view *v)
{
    int64_t count = 1;
    for (int i = 0; i < v->rank; i++)
        count *= v->shape[i];
    return count;
}

bool view_count_checked(int64_t *count, int rank, const int64_t *shape)
{
    *count = 1;
    bool empty = false;
    for (int i = 0; i < rank; i++)
        empty = empty || shape[i] == 0;
    if (empty)
        *count = 0;
    for (int i = 0; i < rank && !empty; i++) {
        if (__builtin_mul_overflow(*count, shape[i], count))
            return false;
    }
    return true;
}

struct view view_once(const struct view *v)
{
    struct view once = *v;
    for (int i = 0; i < v->rank; i++) {
        if (v->stride[i] == 0 && v->shape[i] > 1)
            once.shape[i] = 1;
    }
    return once;
}

int64_t element_at(const struct view *v, int rank, int64_t i)
{
    int64_t at = v->offset;
    for (int j = rank - 1; j >= 0; j--) {
        at += i % v->shape[j] * v->stride[j];
        i /= v->shape[j];
    }
    return at;
}

/* From the closest dimension to the widest, each has to step past all that is closer. */
bool view_shares(const struct view *v)
{
    bool passed[RANK_MAX] = {false};
    int64_t high = 0; /* of the elements that the passed ones reach */
    for (int n = 0; n < v->rank; n++) {
        int next = -1;
        for (int i = 0; i < v->rank; i++) {
            if (!passed[i] && v->shape[i] > 1 && (next < 0 || v->stride[i] < v->stride[next]))
                next = i;
        }
        if (next < 0)
            break;
        if (v->stride[next] <= high)
            return true;
        passed[next] = true;
        high += (v->shape[next] - 1) * v->stride[next];
    }
    return false;
}

bool view_is_contiguous(const struct view *v)
{
    int64_t stride = 1;
    for (int i = v->rank - 1; i >= 0; i--) {
        if (v->shape[i] == 0)
            return true;
        if (v->shape[i] != 1 && v->stride[i] != stride)
            return false;
        stride *= v->shape[i];
    }
    return true;
}

bool view_same_shape(const struct view *a, const struct view *b)
{
    return a->rank == b->rank &&
           memcmp(a->shape, b->shape, sizeof a->shape[0] * (size_t)a->rank) == 0;
}

bool view_expand(struct view *out, const struct view *v, int rank, const int64_t *shape)
{
    if (v->rank > rank)
        return false;
    struct view wide = {.rank = rank, .offset = v->offset};
    int missing = rank - v->rank;
    for (int i = 0; i < rank; i++) {
        int64_t have = i < missing ? 1 : v->shape[i - missing];
        if (have != shape[i] && have != 1)
            return false;
        wide.shape[i] = shape[i];
        wide.stride[i] = i < missing || have != shape[i] ? 0 : v->stride[i - missing];
    }
    *out = wide;
    return true;
}

bool shape_broadcast(int *rank, int64_t *shape, const struct view *a, const struct view *b)
{
    *rank = a->rank > b->rank ? a->rank : b->rank;
    for (int i = 1; i <= *rank; i++) {
        int64_t x = i <= a->rank ? a->shape[a->rank - i] : 1;
        int64_t y = i <= b->rank ? b->shape[b->rank - i] : 1;
        if (x != y && x != 1 && y != 1)
            return false;
        shape[*rank - i] = x == 1 ? y : x;
    }
    return true;
}

void view_extent(int64_t *low, int64_t *high, const struct view *v)
{
    *low = *high = v->offset;
    for (int i = 0; i < v->rank; i++)
        *high += (v->shape[i] - 1) * v->stride[i];
}

const char *shape_text(char *buffer, const struct view *v)
{
    size_t n = (size_t)snprintf(buffer, SHAPE_TEXT_SIZE, "(");
    for (int i = 0; i < v->rank && n < SHAPE_TEXT_SIZE - 24; i++)
        n += (size_t)snprintf(buffer + n, SHAPE_TEXT_SIZE - n, "%s%lld", i ? ", " : "",
                              (long long)v->shape[i]);
    snprintf(buffer + n, SHAPE_TEXT_SIZE - n, v->rank == 1 ? ",)" : ")");
    return buffer;
}
