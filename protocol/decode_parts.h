/* The two arguments that are more than a value: constants and indices. */
#pragma once
#include "decode_tree.h"

/* A `{"tensor": data, "dtype": ..., "shape": ...}` in the arena: contiguous, aligned to 64 bytes.
 * `*n_numbers` counts the numbers of the body that came as lists. */
bool decode_tensor(const struct tensor **tensor, struct tree data, struct tree dtype,
                   struct tree shape, int *n_numbers, struct arena *a, struct arena *scratch,
                   struct err *e);
bool decode_dtype(enum dtype *dtype, struct tree t, struct err *e);

/* "NaN", "Infinity", "-Infinity": JSON has no other way to say them. */
bool decode_special(double *number, struct tree_text text);

/* An index as a list: integers, null, "..." and {"slice": [start, stop, step]}. */
bool decode_index_list(const struct index **index, int *count, struct tree list, struct arena *a,
                       struct err *e);
