#include "ops.h"
#include <string.h>

#define P(name, kind) {#name, PARAM_##kind, false},
#define O(name, kind) {#name, PARAM_##kind, true},
#define UNARY(id, types, f, i, b)  [OP_##id] = {#id, OPK_unary, TYPES_##types, 1, {P(x, tensor)}},
#define BINARY(id, types, f, i, b) \
    [OP_##id] = {#id, OPK_binary, TYPES_##types, 2, {P(x, tensor) P(y, tensor)}},
#define COUNT(params)    ((int)(sizeof((struct param[]){params}) / sizeof(struct param)))
#define VIEW(id, params) [OP_##id] = {#id, OPK_view, TYPES_same, COUNT((params)), {params}},
#undef VIEW
#define VIEW(id, ...)   [OP_##id] = {#id, OPK_view, TYPES_same, COUNT(__VA_ARGS__), {__VA_ARGS__}},
#define CALL(id, ...)   [OP_##id] = {#id, OPK_call, TYPES_same, COUNT(__VA_ARGS__), {__VA_ARGS__}},
#define EFFECT(id, ...) [OP_##id] = {#id, OPK_effect, TYPES_same, COUNT(__VA_ARGS__), {__VA_ARGS__}},
const struct op_info op_info[OP_COUNT] = {
#include "ops.def"
};
