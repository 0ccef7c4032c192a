/* protocol/spec.c: the tables as a client reads them. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "../../protocol/limits.h"
#include "../../protocol/ops.h"
#include "../../protocol/spec.h"

static struct arena arena;
static json_t *spec;

static json_t *parse(struct bytes b)
{
    json_error_t why;
    json_t *json = json_loadb(b.at, b.size, JSON_REJECT_DUPLICATES, &why);
    if (!json)
        fail_msg("%s", why.text);
    return json;
}

static int set_up(void **state)
{
    (void)state;
    spec = parse(spec_document(REPLY_json, &arena));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    json_decref(spec);
    arena_free(&arena);
    return 0;
}

/* The row of a table whose field has this value. */
static const json_t *row(const char *table, const char *field, const char *value)
{
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(spec, table), i, item)
    {
        if (strcmp(json_string_value(json_object_get(item, field)), value) == 0)
            return item;
    }
    fail_msg("%s has no %s", table, value);
    return NULL;
}

static const char *text_of(const json_t *map, const char *field)
{
    return json_string_value(json_object_get(map, field));
}

static void every_op_says_its_parameters(void **state)
{
    (void)state;
    assert_int_equal(json_array_size(json_object_get(spec, "ops")), OP_COUNT);
    const json_t *sum = row("ops", "name", "sum");
    assert_string_equal(text_of(sum, "kind"), "call");
    const json_t *params = json_object_get(sum, "params");
    assert_int_equal(json_array_size(params), 3);
    const json_t *dim = json_array_get(params, 1);
    assert_string_equal(text_of(dim, "name"), "dim");
    assert_string_equal(text_of(dim, "kind"), "ints");
    assert_true(json_is_true(json_object_get(dim, "optional")));
    assert_string_equal(text_of(row("ops", "name", "bitwise_and"), "types"), "bits");
    assert_string_equal(text_of(row("ops", "name", "getitem"), "kind"), "view");
}

static void what_has_no_op_says_what_to_use(void **state)
{
    (void)state;
    const json_t *refused = json_object_get(spec, "refused");
    assert_int_equal(json_object_size(refused), REFUSED_COUNT);
    assert_string_equal(text_of(refused, "masked_select"),
                        "take where(mask, x, y), which keeps the shape");
}

static void every_point_says_its_shape(void **state)
{
    (void)state;
    assert_int_equal(json_array_size(json_object_get(spec, "points")), n_point_names);
    const json_t *value = row("points", "path", "transformer.h.*.attn.value.output");
    assert_string_equal(text_of(value, "point"), "value");
    assert_string_equal(text_of(value, "shape"), "(B, H, T, D / H)");
    assert_string_equal(text_of(value, "row"), "3D");
    assert_true(json_is_true(json_object_get(value, "writable")));
    assert_true(json_is_true(json_object_get(value, "each_block")));
    const json_t *keys = row("points", "path", "transformer.h.*.output[1][0]");
    assert_false(json_is_true(json_object_get(keys, "writable")));
}

static void errors_limits_and_names_are_listed(void **state)
{
    (void)state;
    assert_int_equal(json_array_size(json_object_get(spec, "errors")), ERR_COUNT - 1);
    const json_t *limit = row("errors", "code", "limit");
    assert_int_equal(json_integer_value(json_object_get(limit, "status")), 413);
    const json_t *limits = json_object_get(spec, "limits");
    assert_int_equal(json_integer_value(json_object_get(limits, "NODES_MAX")), NODES_MAX);
    assert_true(json_integer_value(json_object_get(limits, "COMPUTE_MAX")) == COMPUTE_MAX);
    assert_string_equal(text_of(spec, "version"), SPEC_VERSION);
    assert_int_equal(json_array_size(json_object_get(spec, "dtypes")), DT_COUNT);
    const json_t *media = json_object_get(spec, "media");
    assert_int_equal(json_array_size(json_object_get(media, "reply")), REPLY_MEDIA_COUNT);
}

static void a_model_says_its_sizes(void **state)
{
    (void)state;
    const struct model_shape shape = {12, 11, 768, 3072, 50257, 1024, 1e-5f, 1, {50256}};
    const struct model_facts facts = {"demo", "cpu", "exact", 2e-7, 2048, 4096, 1 << 24, &shape};
    json_t *document = parse(models_document(&facts, REPLY_json, &arena));
    const json_t *m = json_array_get(json_object_get(document, "models"), 0);
    assert_int_equal(json_object_size(m), 15);
    assert_float_equal(json_real_value(json_object_get(m, "product_error")), 2e-7, 1e-12);
    assert_string_equal(text_of(m, "name"), "demo");
    assert_int_equal(json_integer_value(json_object_get(m, "n_heads")), 11);
    assert_int_equal(json_integer_value(json_object_get(m, "cache_tokens")), 4096);
    assert_int_equal(json_integer_value(json_object_get(m, "body_bytes_max")), 1 << 24);
    assert_true(json_real_value(json_object_get(m, "epsilon")) == 1e-5);
    json_decref(document);
}

static void msgpack_has_the_same_fields(void **state)
{
    (void)state;
    const struct bytes packed = spec_document(REPLY_msgpack, &arena);
    assert_memory_equal(packed.at, "\x8a\xa7version\xa5" SPEC_VERSION "\xa3ops\xdc", 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_op_says_its_parameters),
        cmocka_unit_test(what_has_no_op_says_what_to_use),
        cmocka_unit_test(every_point_says_its_shape),
        cmocka_unit_test(errors_limits_and_names_are_listed),
        cmocka_unit_test(a_model_says_its_sizes),
        cmocka_unit_test(msgpack_has_the_same_fields),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
