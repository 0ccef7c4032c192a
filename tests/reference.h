/* What every call of a backend means, in the slowest and most obvious way: one element after the
 * other, every sum in the order that kernels/backend.h promises. If a kernel disagrees, the kernel is
 * wrong. The tensors lie in the host's memory. */
#pragma once
#include "../kernels/backend.h"

/* The bits of x and y are the same, or both are NaN. */
bool reference_same(const float *x, const float *y, int64_t count);

void reference_copy(const struct tensor *out, const struct tensor *x);
void reference_unary(enum op op, const struct tensor *out, const struct tensor *x);
void reference_binary(enum op op, const struct tensor *out, const struct tensor *x,
                      const struct tensor *y);
void reference_where(const struct tensor *out, const struct tensor *mask, const struct tensor *x,
                     const struct tensor *y);
void reference_reduce(enum op op, const struct tensor *out, const struct tensor *x, int n_reduced);
void reference_scan(enum op op, const struct tensor *out, const struct tensor *x);
void reference_topk(const struct tensor *out, const struct tensor *x, bool largest);
void reference_scatter(enum op op, const struct tensor *out, const struct tensor *index,
                       const struct tensor *x, int64_t *fault, int64_t tag);
void reference_gather(const struct tensor *out, const struct tensor *x, const struct tensor *index,
                      int64_t *fault, int64_t tag);
void reference_softmax(enum op op, const struct tensor *out, const struct tensor *x);
void reference_matmul(const struct tensor *out, const struct tensor *x, const struct tensor *y);

void reference_layernorm(float *out, const float *x, const float *weight, const float *bias,
                         int n_rows, int width, float epsilon);
void reference_layernorm_scale(float *scale, const float *x, int n_rows, int width, float epsilon);
void reference_layernorm_normalize(float *out, const float *x, const float *scale, int n_rows,
                                   int width);
void reference_layernorm_gain(float *out, const float *x, const float *weight, const float *bias,
                              int n_rows, int width);
/* The elements of a matrix as a backend opened with these `weights` stores them: "f32", "bf16" or
 * "int8". They are finite. */
void reference_store(float *out, const float *matrix, const char *weights, enum layout l, int K,
                     int N);
void reference_linear(float *out, const float *x, const float *matrix, enum layout l, int K, int N,
                      const float *bias, int n_rows, enum epilogue epilogue, const float *residual);

/* z of a whole sequence: rows 0 .. n_rows - 1 of qkv are its positions. */
void reference_attend(float *z, const float *qkv, int n_rows, int n_heads, int head_dim);
