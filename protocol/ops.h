/* The graph vocabulary as an enum and a table, both cut from ops.def. */
#pragma once
#include "tensor.h"

enum op_kind { OPK_unary, OPK_binary, OPK_view, OPK_call, OPK_effect };
enum op_types { TYPES_same, TYPES_number, TYPES_real, TYPES_bits, TYPES_whole, TYPES_compare };

enum param_kind {
    PARAM_tensor, PARAM_tensors, PARAM_int, PARAM_ints, PARAM_bool, PARAM_index, PARAM_dtype,
    PARAM_path, PARAM_text, PARAM_COUNT
};

enum op {
#define UNARY(id, types, f, i, b)  OP_##id,
#define BINARY(id, types, f, i, b) OP_##id,
#define VIEW(id, params)           OP_##id,
#define CALL(id, params)           OP_##id,
#define EFFECT(id, params)         OP_##id,
#include "ops.def"
#undef UNARY
#undef BINARY
#undef VIEW
#undef CALL
#undef EFFECT
    OP_COUNT
};

enum { PARAMS_MAX = 4 };

struct param {
    const char *name;
    enum param_kind kind;
    bool optional;
};

struct op_info {
    const char *name;
    enum op_kind kind;
    enum op_types types; /* of the elementwise kinds */
    int n_params;
    struct param params[PARAMS_MAX];
};

extern const struct op_info op_info[OP_COUNT];
extern const char *const param_kind_name[PARAM_COUNT];

/* The op of this name, or OP_COUNT. `length` bytes, no NUL needed. */
enum op op_from_name(const char *name, size_t length);

/* What of torch no request can have, since its result's shape depends on values (refused.def). */
struct refused_op {
    const char *name, *instead;
};
enum {
#define REFUSED(id, instead) REFUSED_##id,
#include "refused.def"
#undef REFUSED
    REFUSED_COUNT
};
extern const struct refused_op refused_ops[REFUSED_COUNT];

/* The known name nearest to a mistyped one, for a refusal: never NULL. */
const char *op_nearest_name(const char *name, size_t length);
