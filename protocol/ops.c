#include "ops.h"
#include <string.h>

#define P(name, kind) {#name, PARAM_##kind, false},
#define O(name, kind) {#name, PARAM_##kind, true},
#define COUNT(...) ((int)(sizeof((struct param[]){__VA_ARGS__}) / sizeof(struct param)))
#define ROW(id, kind, types, ...) \
    [OP_##id] = {#id, OPK_##kind, TYPES_##types, COUNT(__VA_ARGS__), {__VA_ARGS__}},
#define UNARY(id, types, f, i, b)  ROW(id, unary, types, P(x, tensor))
#define BINARY(id, types, f, i, b) ROW(id, binary, types, P(x, tensor) P(y, tensor))
#define VIEW(id, params)           ROW(id, view, same, params)
#define CALL(id, params)           ROW(id, call, same, params)
#define EFFECT(id, params)         ROW(id, effect, same, params)
const struct op_info op_info[OP_COUNT] = {
#include "ops.def"
};

const char *const param_kind_name[PARAM_COUNT] = {
    [PARAM_tensor] = "tensor", [PARAM_tensors] = "tensors", [PARAM_int] = "int",
    [PARAM_ints] = "ints",     [PARAM_bool] = "bool",       [PARAM_index] = "index",
    [PARAM_dtype] = "dtype",   [PARAM_path] = "path",       [PARAM_text] = "text",
};

const struct refused_op refused_ops[REFUSED_COUNT] = {
#define REFUSED(id, instead) {#id, instead},
#include "refused.def"
#undef REFUSED
};

enum op op_from_name(const char *name, size_t length)
{
    int op = 0;
    while (op < OP_COUNT &&
           (strlen(op_info[op].name) != length || memcmp(op_info[op].name, name, length) != 0))
        op++;
    return (enum op)op;
}

const char *op_nearest_name(const char *name, size_t length)
{
    int best = 0, best_distance = 1 << 30;
    for (int op = 0; op < OP_COUNT; op++) {
        int d = text_distance(name, length, op_info[op].name, strlen(op_info[op].name));
        if (d < best_distance) {
            best = op;
            best_distance = d;
        }
    }
    return op_info[best].name;
}
