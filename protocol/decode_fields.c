/* A map's fields by a table: unknown ones, missing ones and other kinds are refused here alone. */
#include "decode_parts.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

static bool refuse_field(struct tree_text key, const struct field *fields, int count, struct err *e)
{
    int best = 0, best_distance = INT_MAX;
    for (int i = 0; i < count; i++) {
        const int d = text_distance(key.at, key.length, fields[i].name, strlen(fields[i].name));
        if (d < best_distance) {
            best = i;
            best_distance = d;
        }
    }
    return err_set(e, ERR_syntax, "there is no field \"%.*s\" here: did you mean \"%s\"?",
                   text_shown(key), key.at, fields[best].name);
}

/* "an integer or a float", for a set of kinds. */
static const char *kinds_text(char *buffer, size_t size, int kinds)
{
    size_t n = 0;
    buffer[0] = '\0';
    for (int kind = 0; kind < TREE_KIND_COUNT; kind++) {
        if (kinds >> kind & 1 && n < size)
            n += (size_t)snprintf(buffer + n, size - n, "%s%s", n ? " or " : "",
                                  tree_kind_name[kind]);
    }
    return buffer;
}

bool decode_fields(struct tree *values, struct tree map, const struct field *fields, int count,
                   const char *place, int wire, struct err *e)
{
    struct tree_walk walk = {.map = map};
    struct tree_text key;
    struct tree value;
    const char *dot = *place ? "." : "";
    if (tree_kind(map) != TREE_map) {
        err_set(e, *place ? ERR_type : ERR_syntax, "%s is a map, not %s",
                *place ? place : "the body", tree_kind_name[tree_kind(map)]);
        return *place ? err_at(e, wire, "%s", place) : false;
    }
    memset(values, 0, sizeof *values * (size_t)count);
    while (tree_next(&walk, &key, &value)) {
        int i = 0;
        while (i < count && !text_is(key, fields[i].name))
            i++;
        if (i == count) {
            refuse_field(key, fields, count, e);
            return err_at(e, wire, "%s%s%.*s", place, dot, text_shown(key), key.at);
        }
        const enum tree_kind kind = tree_kind(value);
        char kinds[160];
        if (kind != TREE_null && !(fields[i].kinds >> kind & 1)) {
            err_set(e, ERR_type, "%s is %s, not %s", fields[i].name,
                    kinds_text(kinds, sizeof kinds, fields[i].kinds), tree_kind_name[kind]);
            return err_at(e, wire, "%s%s%s", place, dot, fields[i].name);
        }
        if (kind != TREE_null || fields[i].kinds == KIND_any)
            values[i] = value;
    }
    for (int i = 0; i < count; i++) {
        if (fields[i].needed && !values[i].at) {
            err_set(e, ERR_syntax, "%s is missing", fields[i].name);
            return *place ? err_at(e, wire, "%s", place) : false;
        }
    }
    return true;
}

bool decode_int(int64_t *out, struct tree t, const char *what, int64_t low, int64_t high,
                struct err *e)
{
    const int64_t value = tree_int(t);
    if (value < low || value > high)
        return err_set(e, ERR_value, "%s is %lld to %lld, not %lld", what, (long long)low,
                       (long long)high, (long long)value);
    *out = value;
    return true;
}
