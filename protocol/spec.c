#include "spec.h"

#include "encode_writer.h"

#include <stdlib.h>

static const char *const op_kind_name[] = {
    [OPK_unary] = "unary", [OPK_binary] = "binary", [OPK_view] = "view",
    [OPK_call] = "call",   [OPK_effect] = "effect",
};

static const char *const op_types_name[] = {
    [TYPES_same] = "same", [TYPES_number] = "number",   [TYPES_real] = "real",
    [TYPES_bits] = "bits", [TYPES_whole] = "whole",   [TYPES_compare] = "compare",
};

/* The limits that a client can meet. */
#define LIMIT(name) \
    {               \
#name, name \
    }
static const struct {
    const char *name;
    int64_t value;
} limits[] = {
    LIMIT(DEPTH_MAX),
    LIMIT(OBJECTS_MAX),       LIMIT(JSON_TENSOR_NUMBERS_MAX),
    LIMIT(NAME_BYTES_MAX),    LIMIT(NODES_MAX),
    LIMIT(EDGES_MAX),         LIMIT(INVOKES_MAX),
    LIMIT(SEQUENCES_MAX),     LIMIT(SAVES_MAX),
    LIMIT(RANK_MAX),          LIMIT(NEW_TOKENS_MAX),
    LIMIT(ROWS_MAX),          LIMIT(CONNECTIONS_MAX),
    LIMIT(QUEUE_MAX),         LIMIT(RUNNING_MAX),
    LIMIT(HEADER_BYTES_MAX),  LIMIT(HEADER_SECONDS_MAX),
    LIMIT(BODY_SECONDS_MAX),  LIMIT(IDLE_SECONDS_MAX),
    LIMIT(HEARTBEAT_SECONDS), LIMIT(DRAIN_SECONDS),
    LIMIT(VALUE_BYTES_MAX),   LIMIT(RESULT_BYTES_MAX),
    LIMIT(SLAB_BYTES_MAX),    LIMIT(COMPUTE_MAX),
    LIMIT(ELEMENT_COST),      LIMIT(TOKENIZE_MAX),
    LIMIT(PLANNING_MAX),      LIMIT(STOP_IDS_MAX),
    LIMIT(STOP_TEXTS_MAX),    LIMIT(STOP_TEXT_BYTES_MAX),
    LIMIT(TOP_LOGPROBS_MAX),  LIMIT(ACTIONS_MAX),
    LIMIT(INDICES_MAX),       LIMIT(PRODUCT_MARGIN),
    LIMIT(PRODUCT_COLUMNS),   LIMIT(JSON_REPLY_NUMBERS_MAX),
    LIMIT(GREEDY_COST),       LIMIT(DRAW_COST),
    LIMIT(SORTED_DRAW_COST),  LIMIT(STRETCH_MAX),
    LIMIT(PRODUCT_PACKED),    LIMIT(STRIDED),
    LIMIT(SLOW),              LIMIT(VERY_SLOW),
};
enum { N_LIMITS = sizeof limits / sizeof limits[0] };

static void text_field(struct writer *w, const char *key, const char *value)
{
    write_key(w, key);
    write_text(w, value);
}

static void int_field(struct writer *w, const char *key, int64_t value)
{
    write_key(w, key);
    write_int(w, value);
}

static void bool_field(struct writer *w, const char *key, bool value)
{
    write_key(w, key);
    write_bool(w, value);
}

static void write_op(struct writer *w, const struct op_info *op)
{
    write_map(w, 4);
    text_field(w, "name", op->name);
    text_field(w, "kind", op_kind_name[op->kind]);
    text_field(w, "types", op_types_name[op->types]);
    write_key(w, "params");
    write_list(w, op->n_params);
    for (int i = 0; i < op->n_params; i++) {
        write_map(w, 3);
        text_field(w, "name", op->params[i].name);
        text_field(w, "kind", param_kind_name[op->params[i].kind]);
        bool_field(w, "optional", op->params[i].optional);
        write_end(w);
    }
    write_end(w);
    write_end(w);
}

static void write_point(struct writer *w, const struct point_name *name)
{
    const struct point_info *info = &point_info[name->point];
    write_map(w, 6);
    text_field(w, "path", name->path);
    text_field(w, "point", info->id);
    text_field(w, "shape", point_shape_text[name->shape]);
    text_field(w, "row", info->row_text);
    bool_field(w, "writable", info->writable);
    bool_field(w, "each_block", info->each);
    write_end(w);
}

static void write_parameter(struct writer *w, const struct parameter_name *name)
{
    write_map(w, 3);
    text_field(w, "path", name->path);
    text_field(w, "shape", parameter_shape_text(name));
    bool_field(w, "each_block", parameter_info[name->parameter].each);
    write_end(w);
}

static void write_errors(struct writer *w)
{
    write_list(w, ERR_COUNT - 1);
    for (int code = ERR_none + 1; code < ERR_COUNT; code++) {
        write_map(w, 3);
        text_field(w, "code", err_info[code].name);
        int_field(w, "status", err_info[code].http);
        text_field(w, "meaning", err_info[code].meaning);
        write_end(w);
    }
    write_end(w);
}

static void write_media(struct writer *w)
{
    write_map(w, 2);
    write_key(w, "request");
    write_list(w, 2);
    write_text(w, reply_media_type[REPLY_json]);
    write_text(w, reply_media_type[REPLY_msgpack]);
    write_end(w);
    write_key(w, "reply");
    write_list(w, REPLY_MEDIA_COUNT);
    for (int i = 0; i < REPLY_MEDIA_COUNT; i++)
        write_text(w, reply_media_type[i]);
    write_end(w);
    write_end(w);
}

static struct bytes finish(struct writer *w)
{
    if (w->form == WRITER_json)
        write_raw(w, "\n", 1);
    return (struct bytes){w->at, w->size};
}

static struct writer document(enum reply_media media, struct arena *a)
{
    return writer_grows(media == REPLY_msgpack ? WRITER_msgpack : WRITER_json, a);
}

struct bytes spec_document(enum reply_media media, struct arena *a)
{
    struct writer w = document(media, a);
    write_map(&w, 10);
    text_field(&w, "version", SPEC_VERSION);
    write_key(&w, "ops");
    write_list(&w, OP_COUNT);
    for (int op = 0; op < OP_COUNT; op++)
        write_op(&w, &op_info[op]);
    write_end(&w);
    write_key(&w, "refused");
    write_map(&w, REFUSED_COUNT);
    for (int i = 0; i < REFUSED_COUNT; i++)
        text_field(&w, refused_ops[i].name, refused_ops[i].instead);
    write_end(&w);
    write_key(&w, "points");
    write_list(&w, n_point_names);
    for (int i = 0; i < n_point_names; i++)
        write_point(&w, &point_names[i]);
    write_end(&w);
    write_key(&w, "parameters");
    write_list(&w, n_parameter_names);
    for (int i = 0; i < n_parameter_names; i++)
        write_parameter(&w, &parameter_names[i]);
    write_end(&w);
    write_key(&w, "modules");
    write_list(&w, n_modules);
    for (int i = 0; i < n_modules; i++)
        write_text(&w, modules[i].path);
    write_end(&w);
    write_key(&w, "errors");
    write_errors(&w);
    write_key(&w, "limits");
    write_map(&w, N_LIMITS);
    for (int i = 0; i < N_LIMITS; i++)
        int_field(&w, limits[i].name, limits[i].value);
    write_end(&w);
    write_key(&w, "dtypes");
    write_list(&w, DT_COUNT);
    for (int d = 0; d < DT_COUNT; d++)
        write_text(&w, dtype_name((enum dtype)d));
    write_end(&w);
    write_key(&w, "media");
    write_media(&w);
    write_end(&w);
    return finish(&w);
}

/* 1e-05 rather than 9.99999974737875e-06: the same bits when it is read as float32. */
static double shortest(float value)
{
    char text[NUMBER_SIZE];
    float_text(text, value);
    return strtod(text, NULL);
}

/* As OpenAI's clients read it. */
static void write_openai_model(struct writer *w, const char *name)
{
    write_map(w, 4);
    text_field(w, "id", name);
    text_field(w, "object", "model");
    int_field(w, "created", 0);
    text_field(w, "owned_by", "interpose");
    write_end(w);
}

struct bytes model_document(const struct model_facts *f, struct arena *a)
{
    struct writer w = document(REPLY_json, a);
    write_openai_model(&w, f->name);
    return finish(&w);
}

struct bytes models_document(const struct model_facts *f, enum reply_media media, struct arena *a)
{
    const struct model_shape *m = f->shape;
    struct writer w = document(media, a);
    write_map(&w, 3);
    text_field(&w, "object", "list");
    write_key(&w, "models");
    write_list(&w, 1);
    write_map(&w, 15);
    text_field(&w, "name", f->name);
    int_field(&w, "n_blocks", m->n_blocks);
    int_field(&w, "n_heads", m->n_heads);
    int_field(&w, "width", m->width);
    int_field(&w, "inner", m->inner);
    int_field(&w, "vocab", m->vocab);
    int_field(&w, "context", m->context);
    write_key(&w, "epsilon");
    write_real(&w, shortest(m->epsilon));
    text_field(&w, "numerics", f->numerics);
    write_key(&w, "product_error");
    write_real(&w, shortest((float)f->product_error));
    text_field(&w, "device", f->device);
    int_field(&w, "rows_max", f->rows_max);
    int_field(&w, "cache_tokens", f->cache_tokens);
    int_field(&w, "body_bytes_max", f->body_bytes_max);
    write_key(&w, "eos_token_id");
    write_list(&w, m->n_eos);
    for (int i = 0; i < m->n_eos; i++)
        write_int(&w, m->eos[i]);
    write_end(&w);
    write_end(&w);
    write_end(&w);
    write_key(&w, "data"); /* the same list once more */
    write_list(&w, 1);
    write_openai_model(&w, f->name);
    write_end(&w);
    write_end(&w);
    return finish(&w);
}
