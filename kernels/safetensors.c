/* The format: eight bytes with the header's size, the header as JSON, and the tensors' bytes. */
#include "safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    LENGTH_SIZE = 8,
    JSON_DEPTH_MAX = 8, /* a header has 3 levels; a config may have a few dictionaries */
};

const char *safetensors_shown(char *buffer, const char *name)
{
    size_t n = 0;
    for (; name[n] && n < SHOWN_SIZE - 1; n++)
        buffer[n] = (unsigned char)name[n] < 0x20 || name[n] == 0x7f ? '?' : name[n];
    while (name[n] && n > 0 && ((unsigned char)name[n] & 0xc0) == 0x80)
        n--;
    buffer[n] = '\0';
    return buffer;
}

/* ---- JSON ---- */

/* Jansson takes about 77 bytes for each byte of "{},": deep or endless text is found before. */
static bool check_extent(const char *text, size_t size, const char *file, struct err *e)
{
    int depth = 0, n_values = 0;
    bool quoted = false;
    for (size_t i = 0; i < size; i++) {
        const char c = text[i];
        if (quoted) {
            i += c == '\\';
            quoted = c != '"';
            continue;
        }
        quoted = c == '"';
        const bool opens = c == '{' || c == '[';
        depth += opens - (c == '}' || c == ']');
        n_values += opens || c == ',';
        if (depth > JSON_DEPTH_MAX)
            return err_set(e, ERR_file, "%s: containers are nested more than %d deep", file,
                           JSON_DEPTH_MAX);
        if (n_values > OBJECTS_MAX)
            return err_set(e, ERR_file, "%s: has more than %d values", file, OBJECTS_MAX);
    }
    return true;
}

bool safetensors_json(struct json_t **root, const char *text, size_t size, const char *file,
                      struct err *e)
{
    if (!check_extent(text, size, file, e))
        return false;
    json_error_t why;
    *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &why);
    if (!*root) {
        char shown[SHOWN_SIZE];
        return err_set(e, ERR_file, "%s: not valid JSON at byte %d: %s", file, why.position,
                       safetensors_shown(shown, why.text));
    }
    if (json_is_object(*root))
        return true;
    json_decref(*root);
    return err_set(e, ERR_file, "%s: must be a JSON object", file);
}

/* ---- Opening ---- */

static bool read_at(void *to, const struct safetensors *s, size_t size, size_t offset,
                    struct err *e)
{
    for (size_t got = 0; got < size;) {
        const ssize_t n = pread(s->fd, (char *)to + got, size - got, (off_t)(offset + got));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(e, ERR_file, "%s: %s", s->path, strerror(errno));
        if (n == 0)
            return err_set(e, ERR_file, "%s: ended at byte %zu while it was read", s->path,
                           offset + got);
        got += (size_t)n;
    }
    return true;
}

static bool open_regular(struct safetensors *s, size_t *size, struct err *e)
{
    s->fd = open(s->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat status;
    if (s->fd < 0 || fstat(s->fd, &status) != 0)
        return err_set(e, ERR_file, "%s: %s", s->path, strerror(errno));
    if (!S_ISREG(status.st_mode))
        return err_set(e, ERR_file, "%s: is not a regular file", s->path);
    *size = (size_t)status.st_size;
    return true;
}

static bool read_header(char **header, size_t *header_size, const struct safetensors *s,
                        size_t file_size, struct arena *a, struct err *e)
{
    if (file_size < LENGTH_SIZE)
        return err_set(e, ERR_file, "%s: has %zu bytes, too few for a header", s->path, file_size);
    unsigned char length[LENGTH_SIZE];
    if (!read_at(length, s, sizeof length, 0, e))
        return false;
    uint64_t size = 0;
    for (int i = LENGTH_SIZE - 1; i >= 0; i--)
        size = size << 8 | length[i];
    if (size > file_size - LENGTH_SIZE || size > SAFETENSORS_HEADER_MAX)
        return err_set(e, ERR_file, "%s: its header claims %llu bytes, the file has %zu after it",
                       s->path, (unsigned long long)size, file_size - LENGTH_SIZE);
    *header_size = (size_t)size;
    *header = arena_alloc(a, *header_size);
    return read_at(*header, s, *header_size, LENGTH_SIZE, e);
}

/* Every dtype of the format, so that a tensor that nobody reads is still checked. */
static const struct storage {
    const char *name;
    size_t size;
} storages[] = {
    {"F32", 4},  {"F16", 2},     {"BF16", 2},    {"F64", 8}, {"I64", 8}, {"I32", 4},
    {"I16", 2},  {"I8", 1},      {"U64", 8},     {"U32", 4}, {"U16", 2}, {"U8", 1},
    {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"C64", 8},
};

/* Where a sentence about a tensor begins. */
struct place {
    const char *path;
    char name[SHOWN_SIZE];
};

static bool parse_dtype(struct safetensor *t, const struct place *p, const json_t *dtype,
                        struct err *e)
{
    if (!json_is_string(dtype))
        return err_set(e, ERR_file, "%s: %s has no dtype", p->path, p->name);
    for (size_t i = 0; i < sizeof storages / sizeof *storages; i++)
        if (!strcmp(json_string_value(dtype), storages[i].name)) {
            t->dtype = storages[i].name;
            t->element_size = storages[i].size;
            return true;
        }
    char shown[SHOWN_SIZE];
    return err_set(e, ERR_file, "%s: %s has the unknown dtype %s", p->path, p->name,
                   safetensors_shown(shown, json_string_value(dtype)));
}

static bool parse_shape(struct safetensor *t, const struct place *p, const json_t *shape,
                        struct err *e)
{
    if (!json_is_array(shape))
        return err_set(e, ERR_file, "%s: %s has no shape", p->path, p->name);
    if (json_array_size(shape) > RANK_MAX)
        return err_set(e, ERR_file, "%s: %s has %zu dimensions, at most %d are supported", p->path,
                       p->name, json_array_size(shape), RANK_MAX);
    t->rank = (int)json_array_size(shape);
    for (int i = 0; i < t->rank; i++) {
        const json_t *n = json_array_get(shape, (size_t)i);
        if (!json_is_integer(n) || json_integer_value(n) < 0)
            return err_set(e, ERR_file, "%s: %s: shape[%d] is not a whole number", p->path, p->name,
                           i);
        t->shape[i] = json_integer_value(n);
    }
    if (!view_count_checked(&t->count, t->rank, t->shape))
        return err_set(e, ERR_file, "%s: the shape of %s has too many elements", p->path, p->name);
    return true;
}

static bool parse_offsets(struct safetensor *t, const struct place *p, const json_t *offsets,
                          size_t data, size_t file_size, struct err *e)
{
    const json_t *first = json_array_get(offsets, 0), *second = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(second))
        return err_set(e, ERR_file, "%s: data_offsets of %s are not two whole numbers", p->path,
                       p->name);
    const json_int_t begin = json_integer_value(first), end = json_integer_value(second);
    const size_t size = file_size - data;
    if (begin < 0 || begin > end || (uint64_t)end > size)
        return err_set(e, ERR_file,
                       "%s: data_offsets of %s are %lld and %lld, the file has %zu bytes of data",
                       p->path, p->name, (long long)begin, (long long)end, size);
    int64_t needed;
    if (__builtin_mul_overflow(t->count, (int64_t)t->element_size, &needed) ||
        needed != end - begin) {
        char shape[SHAPE_TEXT_SIZE];
        const struct view v = view_of(t->rank, t->shape);
        return err_set(e, ERR_file, "%s: %s is %s of shape %s, which does not take its %lld bytes",
                       p->path, p->name, t->dtype, shape_text(shape, &v), (long long)(end - begin));
    }
    t->begin = data + (size_t)begin;
    t->end = data + (size_t)end;
    return true;
}

static bool parse_tensor(struct safetensor *t, const struct safetensors *s, const char *name,
                         const json_t *entry, size_t data, size_t file_size, struct arena *a,
                         struct err *e)
{
    struct place p = {.path = s->path};
    safetensors_shown(p.name, name);
    t->name = arena_copy_text(a, name, strlen(name));
    if (!json_is_object(entry))
        return err_set(e, ERR_file, "%s: the entry of %s is not an object", s->path, p.name);
    return parse_dtype(t, &p, json_object_get(entry, "dtype"), e) &&
           parse_shape(t, &p, json_object_get(entry, "shape"), e) &&
           parse_offsets(t, &p, json_object_get(entry, "data_offsets"), data, file_size, e);
}

static int by_place(const void *left, const void *right)
{
    const struct safetensor *x = left, *y = right;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

static int by_name(const void *left, const void *right)
{
    return strcmp(((const struct safetensor *)left)->name,
                  ((const struct safetensor *)right)->name);
}

/* Every byte of data belongs to one tensor. */
static bool check_cover(const struct safetensors *s, size_t data, size_t file_size, struct err *e)
{
    qsort(s->tensors, (size_t)s->n_tensors, sizeof *s->tensors, by_place);
    size_t at = data;
    for (int i = 0; i < s->n_tensors; i++) {
        const struct safetensor *t = &s->tensors[i];
        char shown[SHOWN_SIZE];
        if (t->begin != at)
            return err_set(e, ERR_file, "%s: %s begins at byte %zu, the tensor before ends at %zu",
                           s->path, safetensors_shown(shown, t->name), t->begin - data, at - data);
        at = t->end;
    }
    if (at != file_size)
        return err_set(e, ERR_file, "%s: its tensors take %zu bytes, the file has %zu for them",
                       s->path, at - data, file_size - data);
    return true;
}

static bool parse_header(struct safetensors *s, json_t *root, size_t data, size_t file_size,
                         struct arena *a, struct err *e)
{
    s->tensors = ARENA_ARRAY(a, struct safetensor, json_object_size(root));
    const char *name;
    json_t *entry;
    json_object_foreach(root, name, entry)
    {
        if (!strcmp(name, "__metadata__"))
            continue;
        if (!parse_tensor(&s->tensors[s->n_tensors++], s, name, entry, data, file_size, a, e))
            return false;
    }
    if (!check_cover(s, data, file_size, e))
        return false;
    qsort(s->tensors, (size_t)s->n_tensors, sizeof *s->tensors, by_name);
    return true;
}

bool safetensors_open(struct safetensors *s, const char *path, struct arena *a, struct err *e)
{
    *s = (struct safetensors){.path = arena_copy_text(a, path, strlen(path)), .fd = -1};
    size_t file_size = 0, header_size = 0;
    char *header = NULL;
    json_t *root;
    if (!open_regular(s, &file_size, e) ||
        !read_header(&header, &header_size, s, file_size, a, e) ||
        !safetensors_json(&root, header, header_size, path, e))
        return false;
    const bool ok = parse_header(s, root, LENGTH_SIZE + header_size, file_size, a, e);
    json_decref(root);
    return ok;
}

void safetensors_close(struct safetensors *s)
{
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
}

const struct safetensor *safetensors_find(const struct safetensors *s, const char *name)
{
    const struct safetensor key = {.name = name};
    return s->n_tensors == 0 ? NULL
                             : bsearch(&key, s->tensors, (size_t)s->n_tensors, sizeof key, by_name);
}

/* ---- Reading ---- */

static uint32_t widen_f16(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    const uint32_t exponent = half >> 10 & 0x1f;
    const uint32_t fraction = half & 0x3ff;
    if (exponent == 0x1f)
        return sign | 0x7f800000 | fraction << 13;
    if (exponent > 0)
        return sign | (exponent + 112) << 23 | fraction << 13;
    const float tiny = (float)fraction * 0x1p-24f; /* subnormal, or zero: exact */
    uint32_t bits;
    memcpy(&bits, &tiny, sizeof bits);
    return sign | bits;
}

static uint32_t widen_bf16(uint16_t brain)
{
    return (uint32_t)brain << 16;
}

/* The halves lie at the end of `out`, so that none is overwritten before its turn. */
static void widen(float *out, int64_t count, uint32_t (*one)(uint16_t))
{
    const char *from = (const char *)(out + count) - 2 * count;
    for (int64_t i = 0; i < count; i++) {
        uint16_t half;
        memcpy(&half, from + 2 * i, sizeof half);
        const uint32_t bits = one(half);
        memcpy(out + i, &bits, sizeof bits);
    }
}

static bool check_finite(const float *x, const struct safetensors *s, const struct safetensor *t,
                         struct err *e)
{
    for (int64_t i = 0; i < t->count; i++)
        if (!__builtin_isfinite(x[i])) {
            char shown[SHOWN_SIZE];
            return err_set(e, ERR_file, "%s: element %lld of %s is %s: the weights are damaged",
                           s->path, (long long)i, safetensors_shown(shown, t->name),
                           __builtin_isnan(x[i]) ? "not a number" : "infinite");
        }
    return true;
}

bool safetensors_read(float *out, const struct safetensors *s, const struct safetensor *t,
                      struct err *e)
{
    const bool whole = !strcmp(t->dtype, "F32"), half = !strcmp(t->dtype, "F16");
    char shown[SHOWN_SIZE];
    if (!whole && !half && strcmp(t->dtype, "BF16"))
        return err_set(e, ERR_file, "%s: %s has dtype %s, only F32, F16 and BF16 are supported",
                       s->path, safetensors_shown(shown, t->name), t->dtype);
    const size_t size = t->end - t->begin;
    if (!read_at((char *)(out + t->count) - size, s, size, t->begin, e))
        return false;
    if (!whole)
        widen(out, t->count, half ? widen_f16 : widen_bf16);
    return check_finite(out, s, t, e);
}
