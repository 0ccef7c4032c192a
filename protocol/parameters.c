#include "parameters.h"
#include <stdio.h>
#include <string.h>

#define MEMORY_array  false
#define MEMORY_packed true
#define NAME(id, path, shape)
#define ONCE(id, memory, rows, columns) [PARAMETER_##id] = {false, MEMORY_##memory},
#define EACH(id, memory, rows, columns) [PARAMETER_##id] = {true, MEMORY_##memory},
const struct parameter_info parameter_info[PARAMETER_COUNT] = {
#include "parameters.def"
};
#undef ONCE
#undef EACH

enum size { SIZE_1, SIZE_C, SIZE_D, SIZE_3D, SIZE_F, SIZE_V };

#define ONCE(id, memory, rows, columns) [PARAMETER_##id] = {SIZE_##rows, SIZE_##columns},
#define EACH(id, memory, rows, columns) ONCE(id, memory, rows, columns)
static const enum size sizes[PARAMETER_COUNT][2] = {
#include "parameters.def"
};
#undef ONCE
#undef EACH

/* What a name of the whole says of its shape: as it is, turned, as a vector. */
#define ONCE(id, memory, rows, columns)                      \
    [PARAMETER_##id] = {"(" #rows ", " #columns ")",         \
                        "(" #columns ", " #rows ")",         \
                        "(" #columns ",)"},
#define EACH(id, memory, rows, columns) ONCE(id, memory, rows, columns)
static const char *const whole_text[PARAMETER_COUNT][3] = {
#include "parameters.def"
};
#undef ONCE
#undef EACH

#undef NAME
#define ONCE(id, memory, rows, columns)
#define EACH(id, memory, rows, columns)
#define NAME(id, path, shape) {PARAMETER_##id, path, OF_##shape},
const struct parameter_name parameter_names[] = {
#include "parameters.def"
};
#undef ONCE
#undef EACH
#undef NAME
const int n_parameter_names = sizeof parameter_names / sizeof parameter_names[0];

const char *parameter_shape_text(const struct parameter_name *name)
{
    switch (name->shape) {
    case OF_query:
    case OF_key:
    case OF_value:
        return "(H, D, D / H)";
    case OF_query_bias:
    case OF_key_bias:
    case OF_value_bias:
        return "(H, D / H)";
    case OF_heads:
        return "(H, D / H, D)";
    case OF_matrix:
    case OF_turned:
    case OF_vector:
        break;
    }
    return whole_text[name->parameter][name->shape];
}

const struct parameter_name *parameter_find(int *block, size_t *used, const char *text,
                                            size_t length)
{
    for (int i = 0; i < n_parameter_names; i++) {
        *used = path_match(parameter_names[i].path, block, text, length);
        if (*used > 0)
            return &parameter_names[i];
    }
    return NULL;
}

const char *parameter_text(char *buffer, enum parameter p, int block)
{
    int i = 0;
    while (parameter_names[i].parameter != p)
        i++;
    return path_text(buffer, parameter_names[i].path, block);
}

static int64_t size_of(enum size size, const struct model_shape *m)
{
    const int64_t of[] = {1, m->context, m->width, 3 * m->width, m->inner, m->vocab};
    return of[size];
}

struct view parameter_matrix(enum parameter p, const struct model_shape *m)
{
    return view_of(2, (int64_t[]){size_of(sizes[p][0], m), size_of(sizes[p][1], m)});
}

/* One of q | k | v, whose columns are the heads' one behind the other. */
static struct view view_part(int part, const struct model_shape *m)
{
    const int64_t H = m->n_heads, D = m->width, d = D / H;
    return (struct view){
        .rank = 3, .shape = {H, D, d}, .stride = {d, 3 * D, 1}, .offset = part * D};
}

static struct view view_part_bias(int part, const struct model_shape *m)
{
    const int64_t H = m->n_heads, d = m->width / H;
    return (struct view){.rank = 2, .shape = {H, d}, .stride = {d, 1}, .offset = part * H * d};
}

struct view parameter_view(const struct parameter_name *name, const struct model_shape *m)
{
    const struct view whole = parameter_matrix(name->parameter, m);
    const int64_t H = m->n_heads, rows = whole.shape[0], columns = whole.shape[1];
    switch (name->shape) {
    case OF_matrix:
        return whole;
    case OF_turned:
        return (struct view){.rank = 2, .shape = {columns, rows}, .stride = {1, columns}};
    case OF_vector:
        return view_of(1, (int64_t[]){columns});
    case OF_query:
    case OF_key:
    case OF_value:
        return view_part((int)name->shape - OF_query, m);
    case OF_query_bias:
    case OF_key_bias:
    case OF_value_bias:
        return view_part_bias((int)name->shape - OF_query_bias, m);
    case OF_heads:
        return view_of(3, (int64_t[]){H, rows / H, columns});
    }
    assert(!"a shape without a view");
    return whole;
}
