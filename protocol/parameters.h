/* The model's parameters as an enum and tables, cut from parameters.def. */
#pragma once
#include "points.h"

enum parameter {
#define ONCE(id, memory, rows, columns) PARAMETER_##id,
#define EACH(id, memory, rows, columns) PARAMETER_##id,
#define NAME(id, path, shape)
#include "parameters.def"
#undef ONCE
#undef EACH
#undef NAME
    PARAMETER_COUNT
};

enum parameter_shape {
    OF_matrix, OF_turned, OF_vector, OF_query, OF_key, OF_value, OF_query_bias, OF_key_bias,
    OF_value_bias, OF_heads
};

struct parameter_info {
    bool each, is_packed;
};

struct parameter_name {
    enum parameter parameter;
    const char *path; /* "transformer.h.*.ln_1.weight" */
    enum parameter_shape shape;
};

extern const struct parameter_info parameter_info[PARAMETER_COUNT];
extern const struct parameter_name parameter_names[];
extern const int n_parameter_names;

/* "(V, D)", for people and the spec. */
const char *parameter_shape_text(const struct parameter_name *name);

/* The name that begins a text, or NULL: `*used` bytes of it, before an index or the end. `*block`
 * may be negative or too large: path_block_check. */
const struct parameter_name *parameter_find(int *block, size_t *used, const char *text,
                                            size_t length);

/* "transformer.h.3.ln_1.weight", the canonical name, in SITE_TEXT_SIZE bytes. */
const char *parameter_text(char *buffer, enum parameter p, int block);

/* Row-major (rows, columns), and the view of it that a name means. */
struct view parameter_matrix(enum parameter p, const struct model_shape *m);
struct view parameter_view(const struct parameter_name *name, const struct model_shape *m);
