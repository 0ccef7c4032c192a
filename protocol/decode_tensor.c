/* A constant of the graph: from nested lists, base64 or bytes to a tensor. */
#include "decode_parts.h"

#include <math.h>
#include <string.h>

bool decode_special(double *number, struct tree_text text)
{
    if (text_is(text, "NaN"))
        *number = NAN;
    else if (text_is(text, "Infinity"))
        *number = INFINITY;
    else if (text_is(text, "-Infinity"))
        *number = -INFINITY;
    else
        return false;
    return true;
}

bool decode_dtype(enum dtype *dtype, struct tree t, struct err *e)
{
    char name[32] = "";
    if (tree_kind(t) != TREE_text)
        return err_set(e, ERR_type, "a dtype is a text, not %s", tree_kind_name[tree_kind(t)]);
    const struct tree_text text = tree_text(t);
    if (text.length < sizeof name)
        memcpy(name, text.at, text.length);
    if (!dtype_from_name(dtype, name))
        return err_set(e, ERR_type, "the dtype \"%.*s\" is none of float32, int64 and bool",
                       text_shown(text), text.at);
    return true;
}

static bool refuse_numbers(struct err *e)
{
    return err_set(e, ERR_limit,
                   "lists of a body hold at most %d numbers: send base64 or a msgpack bin",
                   JSON_TENSOR_NUMBERS_MAX);
}

/* The shape that `shape` says, small enough for strides to be computed. */
static bool read_shape(struct view *v, struct tree shape, struct err *e)
{
    int64_t dims[RANK_MAX], room = VALUE_BYTES_MAX;
    const int rank = tree_kind(shape) == TREE_list ? tree_count(shape) : -1;
    if (rank < 0)
        return err_set(e, ERR_type, "a shape is a list, not %s", tree_kind_name[tree_kind(shape)]);
    if (rank > RANK_MAX)
        return err_set(e, ERR_limit, "a tensor has at most %d dimensions, not %d", RANK_MAX, rank);
    for (int i = 0; i < rank; i++) {
        const struct tree t = tree_item(shape, i);
        if (tree_kind(t) != TREE_int)
            return err_set(e, ERR_type, "a shape holds integers, not %s",
                           tree_kind_name[tree_kind(t)]);
        dims[i] = tree_int(t);
        if (dims[i] < 0)
            return err_set(e, ERR_value, "a shape holds no negative numbers: %lld",
                           (long long)dims[i]);
        if (dims[i] > room)
            return err_set(e, ERR_limit, "a tensor has at most %lld bytes",
                           (long long)VALUE_BYTES_MAX);
        room /= dims[i] ? dims[i] : 1;
    }
    *v = view_of(rank, dims);
    return true;
}

/* The shape of nested lists, seen from each level's first element. */
static bool find_shape(struct view *v, struct tree data, struct err *e)
{
    int64_t dims[RANK_MAX], count;
    int rank = 0;
    for (struct tree t = data; tree_kind(t) == TREE_list; t = tree_item(t, 0)) {
        if (rank == RANK_MAX)
            return err_set(e, ERR_limit, "a tensor has at most %d dimensions", RANK_MAX);
        dims[rank++] = tree_count(t);
        if (dims[rank - 1] == 0)
            break;
    }
    if (!view_count_checked(&count, rank, dims) || count > JSON_TENSOR_NUMBERS_MAX)
        return refuse_numbers(e);
    *v = view_of(rank, dims);
    return true;
}

/* The numbers of nested lists in order; every list must be as long as its first sibling. */
static bool collect_leaves(struct tree *leaves, const struct view *v, struct tree data,
                           struct err *e)
{
    struct tree open[RANK_MAX + 1] = {data};
    int64_t next[RANK_MAX + 1] = {0};
    int depth = 0, n = 0;
    while (depth >= 0) {
        const struct tree t = open[depth];
        const bool is_list = tree_kind(t) == TREE_list;
        if (is_list != (depth < v->rank) || (is_list && tree_count(t) != v->shape[depth]))
            return err_set(e, ERR_shape, "the lists of a tensor do not have one shape");
        if (!is_list)
            leaves[n++] = t;
        if (is_list && next[depth] < v->shape[depth]) {
            open[depth + 1] = tree_item(t, (int)next[depth]++);
            next[++depth] = 0;
        } else {
            depth--;
        }
    }
    return true;
}

/* The dtype that holds all leaves: float32 for none, as torch has it. */
static bool find_dtype(enum dtype *dtype, const struct tree *leaves, int64_t count, struct err *e)
{
    int64_t kinds[TREE_KIND_COUNT] = {0};
    for (int64_t i = 0; i < count; i++)
        kinds[tree_kind(leaves[i])]++;
    if (kinds[TREE_bool] && kinds[TREE_bool] != count)
        return err_set(e, ERR_type, "a tensor holds booleans or numbers, not both");
    *dtype = count == 0                 ? DT_f32
             : kinds[TREE_bool]         ? DT_bool
             : kinds[TREE_int] == count ? DT_i64
                                        : DT_f32;
    return true;
}

static bool store_leaf(void *to, enum dtype dtype, struct tree leaf, struct err *e)
{
    const enum tree_kind kind = tree_kind(leaf);
    double special;
    if (kind == TREE_text && dtype == DT_f32 && decode_special(&special, tree_text(leaf)))
        *(float *)to = (float)special;
    else if (dtype == DT_f32 && (kind == TREE_real || kind == TREE_int))
        *(float *)to = (float)tree_real(leaf);
    else if (dtype == DT_i64 && kind == TREE_int)
        *(int64_t *)to = tree_int(leaf);
    else if (dtype == DT_bool && kind == TREE_bool)
        *(unsigned char *)to = tree_bool(leaf);
    else
        return err_set(e, ERR_type, "a %s tensor cannot hold %s", dtype_name(dtype),
                       tree_kind_name[kind]);
    return true;
}

static bool read_lists(struct tensor *out, struct tree data, struct tree dtype, int *n_numbers,
                       struct arena *a, struct arena *scratch, struct err *e)
{
    if (!find_shape(&out->view, data, e))
        return false;
    const int64_t count = view_count(&out->view);
    *n_numbers += (int)count;
    if (*n_numbers > JSON_TENSOR_NUMBERS_MAX)
        return refuse_numbers(e);
    struct tree *leaves = ARENA_ARRAY(scratch, struct tree, (size_t)count);
    if (!collect_leaves(leaves, &out->view, data, e))
        return false;
    if (!(dtype.at ? decode_dtype(&out->dtype, dtype, e)
                   : find_dtype(&out->dtype, leaves, count, e)))
        return false;
    const size_t size = dtype_size(out->dtype);
    char *bytes = arena_array(a, (size_t)count, size);
    for (int64_t i = 0; i < count; i++) {
        if (!store_leaf(bytes + (size_t)i * size, out->dtype, leaves[i], e))
            return false;
    }
    out->data = bytes;
    return true;
}

static int base64_digit(char c)
{
    return c >= 'A' && c <= 'Z'   ? c - 'A'
           : c >= 'a' && c <= 'z' ? c - 'a' + 26
           : c >= '0' && c <= '9' ? c - '0' + 52
           : c == '+'             ? 62
           : c == '/'             ? 63
                                  : -1;
}

static bool refuse_base64(struct err *e)
{
    return err_set(e, ERR_syntax, "a tensor's text is not base64");
}

static bool read_base64(char **bytes, size_t *size, struct tree_text text, struct arena *a,
                        struct err *e)
{
    size_t padding = 0;
    while (padding < 2 && padding < text.length && text.at[text.length - 1 - padding] == '=')
        padding++;
    if (text.length % 4 != 0)
        return refuse_base64(e);
    *size = text.length / 4 * 3 - padding;
    *bytes = arena_alloc(a, text.length / 4 * 3);
    char *to = *bytes;
    for (size_t i = 0; i < text.length; i += 4) {
        int group = 0;
        for (size_t j = i; j < i + 4; j++) {
            const int digit = j >= text.length - padding ? 0 : base64_digit(text.at[j]);
            if (digit < 0)
                return refuse_base64(e);
            group = group << 6 | digit;
        }
        *to++ = (char)(group >> 16);
        *to++ = (char)(group >> 8);
        *to++ = (char)group;
    }
    return true;
}

/* Many floats stay in the body, which outlives the graph: the planner only copies them, and so does
 * not mind where they begin. */
enum { COPIED_BYTES_MAX = 1 << 20 };

static const char *bytes_of_bin(struct tree_text bin, enum dtype dtype, struct arena *a)
{
    const bool stays = dtype == DT_f32 && bin.length > COPIED_BYTES_MAX;
    return stays ? bin.at : arena_copy_text(a, bin.at, bin.length);
}

static bool read_bytes(struct tensor *out, struct tree data, struct tree dtype, struct tree shape,
                       struct arena *a, struct err *e)
{
    if (!dtype.at || !shape.at)
        return err_set(e, ERR_syntax, "a tensor's bytes need a dtype and a shape");
    if (!decode_dtype(&out->dtype, dtype, e) || !read_shape(&out->view, shape, e))
        return false;
    char *decoded = NULL;
    size_t size = tree_text(data).length;
    if (tree_kind(data) != TREE_bin && !read_base64(&decoded, &size, tree_text(data), a, e))
        return false;
    const char *bytes = decoded ? decoded : bytes_of_bin(tree_text(data), out->dtype, a);
    const size_t wanted = (size_t)view_count(&out->view) * dtype_size(out->dtype);
    char text[SHAPE_TEXT_SIZE];
    if (size != wanted)
        return err_set(e, ERR_shape, "a tensor of %s %s takes %zu bytes, not %zu",
                       dtype_name(out->dtype), shape_text(text, &out->view), wanted, size);
    for (size_t i = 0; i < size && out->dtype == DT_bool; i++) {
        if (bytes[i] != 0 && bytes[i] != 1)
            return err_set(e, ERR_value, "a bool tensor's bytes are 0 and 1, not %d",
                           (unsigned char)bytes[i]);
    }
    out->data = (void *)bytes; /* a constant is not written to */
    return true;
}

bool decode_tensor(const struct tensor **tensor, struct tree data, struct tree dtype,
                   struct tree shape, int *n_numbers, struct arena *a, struct arena *scratch,
                   struct err *e)
{
    struct tensor *out = ARENA_NEW(a, struct tensor);
    const enum tree_kind kind = tree_kind(data);
    double special;
    *tensor = out;
    if (kind == TREE_map || kind == TREE_null)
        return err_set(e, ERR_type, "a tensor is lists of numbers or bytes, not %s",
                       tree_kind_name[kind]);
    const bool is_bytes =
        kind == TREE_bin || (kind == TREE_text && !decode_special(&special, tree_text(data)));
    if (is_bytes)
        return read_bytes(out, data, dtype, shape, a, e);
    if (!read_lists(out, data, dtype, n_numbers, a, scratch, e))
        return false;
    struct view asked;
    if (shape.at && !read_shape(&asked, shape, e))
        return false;
    char said[SHAPE_TEXT_SIZE], found[SHAPE_TEXT_SIZE];
    if (shape.at && !view_same_shape(&asked, &out->view))
        return err_set(e, ERR_shape, "a tensor's lists have the shape %s, not %s",
                       shape_text(found, &out->view), shape_text(said, &asked));
    return true;
}
