/* What stands between the brackets of x[...], as a text or as a list. */
#include "decode_parts.h"

#include <string.h>

enum { INDEX_MAX = 2 * RANK_MAX + 1 }; /* every dimension, as many new ones, and "..." */

static bool refuse_count(struct err *e)
{
    return err_set(e, ERR_limit, "an index has at most %d elements", INDEX_MAX);
}

/* What holds for an index however it is written. */
static bool check_index(const struct index *index, int count, struct err *e)
{
    int ellipses = 0;
    for (int i = 0; i < count; i++) {
        ellipses += index[i].kind == INDEX_ellipsis;
        if (index[i].kind == INDEX_slice && index[i].step <= 0)
            return err_set(e, ERR_value, "a slice's step is 1 or more, not %lld",
                           (long long)index[i].step);
    }
    if (count == 0)
        return err_set(e, ERR_syntax, "an index is empty");
    if (ellipses > 1)
        return err_set(e, ERR_index, "an index can hold only one \"...\"");
    return true;
}

static void keep_index(const struct index **index, const struct index *from, int count,
                       struct arena *a)
{
    struct index *copy = ARENA_ARRAY(a, struct index, (size_t)count);
    memcpy(copy, from, sizeof *from * (size_t)count);
    *index = copy;
}

struct reader { /* of an index's text */
    const char *text;
    size_t at, length;
};

static char peek(struct reader *r)
{
    while (r->at < r->length && r->text[r->at] == ' ')
        r->at++;
    return r->at < r->length ? r->text[r->at] : '\0';
}

static bool take(struct reader *r, const char *word)
{
    const size_t n = strlen(word);
    peek(r);
    if (r->length - r->at < n || memcmp(r->text + r->at, word, n) != 0)
        return false;
    r->at += n;
    return true;
}

static bool refuse_text(const struct reader *r, struct err *e)
{
    const int shown = text_shown((struct tree_text){r->text, r->length});
    if (r->at >= r->length)
        return err_set(e, ERR_syntax, "\"%.*s\" ends inside an index", shown, r->text);
    return err_set(e, ERR_syntax,
                   "\"%.*s\": at character %zu an integer, a slice, \"...\" or None is expected",
                   shown, r->text, r->at);
}

/* An integer if one stands here. */
static bool read_integer(bool *found, int64_t *value, struct reader *r, struct err *e)
{
    const char first = peek(r);
    size_t at = r->at + (first == '-' || first == '+');
    const size_t digits = at;
    bool fits = true;
    *value = 0;
    for (; at < r->length && r->text[at] >= '0' && r->text[at] <= '9'; at++)
        fits = fits && !__builtin_mul_overflow(*value, 10, value) &&
               !__builtin_sub_overflow(*value, r->text[at] - '0', value);
    *found = at > digits;
    if (!*found)
        return first == '-' || first == '+' ? refuse_text(r, e) : true;
    if (first != '-')
        fits = fits && !__builtin_sub_overflow(0, *value, value);
    if (!fits)
        return err_set(e, ERR_value, "an index does not fit 64 bits: %.*s",
                       (int)(at - r->at < 40 ? at - r->at : 40), r->text + r->at);
    r->at = at;
    return true;
}

static bool read_element(struct index *out, struct reader *r, struct err *e)
{
    *out = (struct index){.kind = INDEX_slice, .step = 1};
    if (take(r, "...")) {
        out->kind = INDEX_ellipsis;
        return true;
    }
    if (take(r, "None")) {
        out->kind = INDEX_new_axis;
        return true;
    }
    if (!read_integer(&out->has_start, &out->start, r, e))
        return false;
    if (!take(r, ":")) {
        out->kind = INDEX_int;
        return out->has_start ? true : refuse_text(r, e);
    }
    if (!read_integer(&out->has_stop, &out->stop, r, e))
        return false;
    int64_t step;
    bool has_step = false;
    if (take(r, ":") && !read_integer(&has_step, &step, r, e))
        return false;
    if (has_step)
        out->step = step;
    return true;
}

bool decode_index(const struct index **index, int *count, size_t *used, const char *text,
                  size_t length, struct arena *a, struct err *e)
{
    struct index found[INDEX_MAX];
    struct reader r = {text, 0, length};
    int n = 0;
    if (!take(&r, "["))
        return err_set(e, ERR_syntax, "\"%.*s\" is not an index: it starts with [",
                       text_shown((struct tree_text){text, length}), text);
    while (!take(&r, "]")) {
        if (n == INDEX_MAX)
            return refuse_count(e);
        if (!read_element(&found[n++], &r, e))
            return false;
        if (!take(&r, ",") && peek(&r) != ']')
            return refuse_text(&r, e);
    }
    if (!check_index(found, n, e))
        return false;
    keep_index(index, found, n, a);
    *count = n;
    *used = r.at;
    return true;
}

static bool read_bound(bool *has, int64_t *value, struct tree t, struct err *e)
{
    *has = tree_kind(t) == TREE_int;
    if (*has)
        *value = tree_int(t);
    else if (tree_kind(t) != TREE_null)
        return err_set(e, ERR_type, "a slice holds integers and nulls, not %s",
                       tree_kind_name[tree_kind(t)]);
    return true;
}

static bool read_slice(struct index *out, struct tree map, struct err *e)
{
    const struct tree slice = tree_find(map, "slice");
    if (tree_count(map) != 1 || !slice.at || tree_kind(slice) != TREE_list ||
        tree_count(slice) != 3)
        return err_set(e, ERR_type, "a slice in a list is {\"slice\": [start, stop, step]}");
    bool has_step;
    int64_t step = 1;
    *out = (struct index){.kind = INDEX_slice};
    if (!read_bound(&out->has_start, &out->start, tree_item(slice, 0), e) ||
        !read_bound(&out->has_stop, &out->stop, tree_item(slice, 1), e) ||
        !read_bound(&has_step, &step, tree_item(slice, 2), e))
        return false;
    out->step = step;
    return true;
}

bool decode_index_list(const struct index **index, int *count, struct tree list, struct arena *a,
                       struct err *e)
{
    struct index found[INDEX_MAX] = {{0}};
    const int n = tree_count(list);
    if (n > INDEX_MAX)
        return refuse_count(e);
    for (int i = 0; i < n; i++) {
        const struct tree t = tree_item(list, i);
        const enum tree_kind kind = tree_kind(t);
        if (kind == TREE_int)
            found[i] = (struct index){.kind = INDEX_int, .has_start = true, .start = tree_int(t)};
        else if (kind == TREE_null)
            found[i] = (struct index){.kind = INDEX_new_axis};
        else if (kind == TREE_text && text_is(tree_text(t), "..."))
            found[i] = (struct index){.kind = INDEX_ellipsis};
        else if (kind != TREE_map)
            return err_set(e, ERR_type,
                           "an index holds integers, null, \"...\" and {\"slice\": ...}, not %s",
                           tree_kind_name[kind]);
        else if (!read_slice(&found[i], t, e))
            return false;
    }
    if (!check_index(found, n, e))
        return false;
    keep_index(index, found, n, a);
    *count = n;
    return true;
}
