/* A tensor is a pointer and a way to walk it. Descriptors are copied freely; none owns its data. */
#pragma once
#include "base.h"
#include "limits.h"

enum dtype { DT_f32, DT_i64, DT_bool, DT_COUNT }; /* bool: one byte, 0 or 1 */

size_t dtype_size(enum dtype d);
const char *dtype_name(enum dtype d);                    /* "float32", "int64", "bool" */
bool dtype_from_name(enum dtype *d, const char *name);   /* also "torch.float32" */

/* torch's promotion: bool < int64 < float32, for tensors and Python numbers alike. */
static inline enum dtype dtype_promote(enum dtype a, enum dtype b)
{
    return a == DT_f32 || b == DT_f32 ? DT_f32 : a == DT_i64 || b == DT_i64 ? DT_i64 : DT_bool;
}

struct view {
    int rank;
    int64_t shape[RANK_MAX];
    int64_t stride[RANK_MAX]; /* in elements, never negative; 0 repeats */
    int64_t offset;           /* in elements, from the base */
};

struct tensor {
    void *data; /* the backend's memory, never dereferenced outside kernels/ */
    enum dtype dtype;
    struct view view;
};

/* A row-major view of this shape from offset 0. */
struct view view_of(int rank, const int64_t *shape);

/* The number of elements, 1 for rank 0. The planner has checked that it fits. */
int64_t view_count(const struct view *v);

/* The same, checked: false where it passes INT64_MAX. */
bool view_count_checked(int64_t *count, int rank, const int64_t *shape);

/* The view with each repeated element once: dimensions of stride 0 have size 1, or 0 if empty. */
struct view view_once(const struct view *v);

/* The element of `v` whose place in row-major order over its first `rank` dimensions is `i`. */
int64_t element_at(const struct view *v, int rank, int64_t i);

/* Whether elements share their place: a dimension is repeated, or walks over what the closer ones
 * walk over. */
bool view_shares(const struct view *v);

bool view_is_contiguous(const struct view *v); /* row-major without gaps, whatever the offset */
bool view_same_shape(const struct view *a, const struct view *b);

/* The view as it looks when broadcast to `shape` by numpy's and torch's rule; false where it does
 * not fit. */
bool view_expand(struct view *out, const struct view *v, int rank, const int64_t *shape);

/* The common shape of two operands; false where they do not broadcast. */
bool shape_broadcast(int *rank, int64_t *shape, const struct view *a, const struct view *b);

/* The lowest and the highest element that the view touches, from the base. Not for empty views. */
void view_extent(int64_t *low, int64_t *high, const struct view *v);

/* "(1, 10, 768)", "(5,)", "()", as Python prints it, in a buffer of SHAPE_TEXT_SIZE bytes. */
enum { SHAPE_TEXT_SIZE = 192 };
const char *shape_text(char *buffer, const struct view *v);
