#include "parameters.h"
#include <stdio.h>
#include <string.h>

#define ACCESS_r  false
#define ACCESS_rw true
#define ONCE(id, row, access) [PT_##id] = {#id, false, ACCESS_##access, ROW_##row, #row},
#define EACH(id, row, access) [PT_##id] = {#id, true, ACCESS_##access, ROW_##row, #row},
#define NAME(id, path, shape)
const struct point_info point_info[PT_COUNT] = {
#include "points.def"
};
#undef ONCE
#undef EACH
#undef NAME

#define ONCE(id, row, access)
#define EACH(id, row, access)
#define NAME(id, path, shape) {PT_##id, path, SHAPE_##shape},
const struct point_name point_names[] = {
#include "points.def"
};
#undef ONCE
#undef EACH
#undef NAME
const int n_point_names = sizeof point_names / sizeof point_names[0];

const char *const point_shape_text[SHAPE_COUNT] = {
    [SHAPE_tokens] = "(B, T)",
    [SHAPE_hidden] = "(B, T, D)",
    [SHAPE_fused] = "(B, T, 3D)",
    [SHAPE_wide] = "(B, T, F)",
    [SHAPE_logits] = "(B, T, V)",
    [SHAPE_scale] = "(B, T, 1)",
    [SHAPE_heads] = "(B, H, T, D / H)",
    [SHAPE_heads_last] = "(B, T, H, D / H)",
    [SHAPE_scores] = "(B, H, T, S)",
    [SHAPE_results] = "(B, T, H, D)",
    [SHAPE_cache] = "(B, H, S, D / H)",
    [SHAPE_next] = "(B)",
    [SHAPE_ids] = "(B, T + new)",
};

void site_split(enum point *p, int *block, int site, int n_blocks)
{
    *block = 0;
    if (site < (int)PT_EACH_FIRST) {
        *p = (enum point)site;
        return;
    }
    int inside = site - (int)PT_EACH_FIRST;
    if (inside < n_blocks * PT_PER_BLOCK) {
        *block = inside / PT_PER_BLOCK;
        *p = (enum point)(inside % PT_PER_BLOCK + (int)PT_EACH_FIRST);
        return;
    }
    *p = (enum point)(site - (n_blocks - 1) * PT_PER_BLOCK);
}

static const struct point_name *canonical_name(enum point p)
{
    int i = 0;
    while (point_names[i].point != p)
        i++;
    return &point_names[i];
}

const char *path_text(char *buffer, const char *path, int block)
{
    const char *star = strchr(path, '*');
    if (star)
        snprintf(buffer, SITE_TEXT_SIZE, "%.*s%d%s", (int)(star - path), path, block, star + 1);
    else
        snprintf(buffer, SITE_TEXT_SIZE, "%s", path);
    return buffer;
}

const char *site_text(char *buffer, int site, int n_blocks)
{
    enum point p;
    int block;
    site_split(&p, &block, site, n_blocks);
    return path_text(buffer, canonical_name(p)->path, block);
}

/* Reads an optional minus and up to nine digits; returns how many bytes it took, 0 for none. */
static size_t read_block(int *block, const char *text, size_t length)
{
    size_t i = length > 0 && text[0] == '-', first = i;
    int value = 0;
    for (; i < length && i < first + 9 && text[i] >= '0' && text[i] <= '9'; i++)
        value = value * 10 + (text[i] - '0');
    if (i == first)
        return 0;
    *block = first ? -value : value;
    return i;
}

size_t path_match(const char *pattern, int *block, const char *text, size_t length)
{
    size_t at = 0;
    *block = 0;
    for (; *pattern; pattern++) {
        if (*pattern == '*') {
            size_t digits = read_block(block, text + at, length - at);
            if (digits == 0)
                return 0;
            at += digits;
        } else if (at >= length || text[at++] != *pattern) {
            return 0;
        }
    }
    bool ends = at == length || text[at] == '[' || pattern[-1] == ']';
    return ends ? at : 0;
}

bool path_block_check(int *block, const char *text, size_t used, int n_blocks, struct err *e)
{
    if (*block < 0)
        *block += n_blocks;
    if (*block < 0 || *block >= n_blocks)
        return err_set(e, ERR_unknown, "%.*s does not exist: this model has blocks 0 to %d",
                       (int)(used < 100 ? used : 100), text, n_blocks - 1);
    return true;
}

/* The part of the text before any bracket, with the first whole number replaced by a star. */
static int generic_path(char *out, size_t size, const char *path, size_t length)
{
    size_t n = 0;
    bool starred = false;
    for (size_t i = 0; i < length && path[i] != '[' && n + 1 < size; i++) {
        int block;
        size_t digits = i > 0 && path[i - 1] == '.' && !starred
                            ? read_block(&block, path + i, length - i)
                            : 0;
        if (digits) {
            out[n++] = '*';
            starred = true;
            i += digits - 1;
        } else {
            out[n++] = path[i];
        }
    }
    out[n] = '\0';
    return (int)n;
}

/* Lists the leaves of a path that is a tuple, "transformer.h.*.output[0]", ... */
static int list_leaves(char *out, size_t size, const char *stem, int stem_length)
{
    int found = 0;
    size_t n = 0;
    for (int i = 0; i < n_point_names; i++) {
        const char *path = point_names[i].path;
        if (strncmp(path, stem, (size_t)stem_length) == 0 && path[stem_length] == '[' &&
            n + 100 < size) {
            n += (size_t)snprintf(out + n, size - n, "%s%s", found ? ", " : "", path);
            found++;
        }
    }
    return found;
}

static void take_nearer(const char **best, int *best_distance, const char *path, const char *stem,
                        int stem_length)
{
    const int d = text_distance(stem, (size_t)stem_length, path, strcspn(path, "["));
    if (d < *best_distance) {
        *best = path;
        *best_distance = d;
    }
}

static bool refuse_path(const char *path, size_t length, struct err *e)
{
    char stem[128], leaves[256];
    int stem_length = generic_path(stem, sizeof stem, path, length);
    int shown = (int)(length < 100 ? length : 100);
    int block;
    size_t used;
    if (parameter_find(&block, &used, path, length))
        return err_set(e, ERR_unknown, "%.*s is a parameter, not a hook point", (int)used, path);
    if (list_leaves(leaves, sizeof leaves, stem, stem_length))
        return err_set(e, ERR_unknown, "%.*s is a tuple: its tensors are %s", shown, path, leaves);
    const char *best = NULL;
    int best_distance = 1 << 30;
    for (int i = 0; i < n_point_names; i++)
        take_nearer(&best, &best_distance, point_names[i].path, stem, stem_length);
    for (int i = 0; i < n_parameter_names; i++)
        take_nearer(&best, &best_distance, parameter_names[i].path, stem, stem_length);
    return err_set(e, ERR_unknown, "there is no hook point or name \"%.*s\": did you mean %s?",
                   shown, path, best);
}

bool point_find(const struct point_name **name, int *block, size_t *used, const char *path,
                size_t length, int n_blocks, struct err *e)
{
    *used = 0;
    for (int i = 0; i < n_point_names; i++) {
        int at;
        size_t n = path_match(point_names[i].path, &at, path, length);
        if (n > *used) {
            *used = n;
            *name = &point_names[i];
            *block = at;
        }
    }
    if (*used == 0)
        return refuse_path(path, length, e);
    return path_block_check(block, path, *used, n_blocks, e);
}

int64_t point_row_stride(enum point p, const struct model_shape *m)
{
    const int64_t stride[] = {
        [ROW_none] = 0,         [ROW_1] = 1,        [ROW_D] = m->width,
        [ROW_3D] = 3 * m->width, [ROW_F] = m->inner, [ROW_V] = m->vocab,
    };
    return stride[point_info[p].row];
}

static struct view view_heads(int64_t B, int64_t T, int64_t H, int64_t d, int64_t row)
{
    return (struct view){.rank = 4, .shape = {B, H, T, d}, .stride = {T * row, d, row, 1}};
}

static struct view view_heads_last(int64_t B, int64_t T, int64_t H, int64_t d, int64_t row)
{
    return (struct view){.rank = 4, .shape = {B, T, H, d}, .stride = {T * row, row, d, 1}};
}

struct view point_view(const struct point_name *name, const struct model_shape *m, int64_t B,
                       int64_t T, int64_t past, int64_t n_new)
{
    const int64_t H = m->n_heads, d = m->width / m->n_heads;
    const int64_t row = point_row_stride(name->point, m);
    switch (name->shape) {
    case SHAPE_tokens:
        return view_of(2, (int64_t[]){B, T});
    case SHAPE_next:
        return view_of(1, &B);
    case SHAPE_ids:
        return view_of(2, (int64_t[]){B, T + n_new});
    case SHAPE_cache:
        return view_of(4, (int64_t[]){B, H, past + T, d});
    case SHAPE_scores:
        return view_of(4, (int64_t[]){B, H, T, past + T});
    case SHAPE_results:
        return view_of(4, (int64_t[]){B, T, H, m->width});
    case SHAPE_heads:
        return view_heads(B, T, H, d, row);
    case SHAPE_heads_last:
        return view_heads_last(B, T, H, d, row);
    case SHAPE_hidden:
    case SHAPE_fused:
    case SHAPE_wide:
    case SHAPE_logits:
    case SHAPE_scale:
        break;
    case SHAPE_COUNT:
        assert(false);
    }
    return (struct view){.rank = 3, .shape = {B, T, row}, .stride = {T * row, row, 1}};
}

enum dtype point_dtype(enum point p)
{
    return p == PT_tokens || p == PT_next || p == PT_generated ? DT_i64 : DT_f32;
}
