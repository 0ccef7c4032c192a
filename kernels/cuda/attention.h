/* What the two forms of attention share: attention.cu has the cache and rows that come alone,
 * attention_rows.cu rows that share pages. */
#pragma once
#include "tile.h"

/* What kernels know of a cache, one block of the model. */
struct pages {
    float *data;
    int H, dh, pitch;
};

/* A row of a pass, with the page of its position and its sequence's pages. */
struct alignas(16) row {
    int32_t row, position, page, pages_at;
};

static inline int whole_fours(int n)
{
    return (n + 3) / 4 * 4;
}

__device__ __forceinline__ float *head_keys(const struct pages &c, int32_t page, int head)
{
    return c.data + ((size_t)page * (size_t)c.H + (size_t)head) * 2 * CHUNK * (size_t)c.pitch;
}

__device__ __forceinline__ float *head_values(const struct pages &c, int32_t page, int head)
{
    return head_keys(c, page, head) + (size_t)CHUNK * (size_t)c.pitch;
}

/* Of a call's spans. */
struct staged {
    int n_rows, n_keys; /* of all rows; the most of any row */
    const struct row *rows;
    const int32_t *pages;
};

constexpr int HALF = CHUNK / 2; /* of a page: what a warp or a team goes by */

/* So many of a row's keys from `first` on, `most` at most. */
__device__ __forceinline__ int keys_within(int n_keys, int first, int most)
{
    const int n = n_keys - first;
    return n < 0 ? 0 : n < most ? n : most;
}

/* The most of the lanes whose numbers differ in these bits. A NaN may be overlooked: it makes the
 * sum of a softmax one. */
__device__ __forceinline__ float lanes_most(float x, int bits)
{
    UNROLL(5)
    for (int by = 16; by > 0; by /= 2)
        if (bits & by)
            x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, by, 32));
    return x;
}

/* Is row i the only one of its sequence in the table? */
__device__ __forceinline__ bool is_alone(const struct row *rows, int i, int n_rows)
{
    return (i == 0 || rows[i - 1].pages_at != rows[i].pages_at)
           && (i == n_rows - 1 || rows[i + 1].pages_at != rows[i].pages_at);
}

/* Attention of the rows that do not come alone; false where it finds no room. The longest sequence
 * has rows_most of them. */
bool cuda_attend_rows(struct device *d, float *z, const struct pages &c, const float *qkv,
                      const struct staged &s, int rows_most);
cudaError_t cuda_attend_rows_open(const struct device *d);
