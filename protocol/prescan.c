/* One pass over a body that has not been parsed yet, without allocation: what it would cost to
 * parse is known, and bounded, before a library sees it. */
#include "decode.h"

#include <string.h>

enum {
    LITERAL_BYTES_MAX = 400, /* of a JSON number: parsing takes time in the square of its length,
                                and no double needs more than 340 digits before the point */
};

size_t utf8_length(const char *text, size_t length)
{
    const unsigned char *s = (const unsigned char *)text;
    if (length == 0)
        return 0;
    if (s[0] < 0x80)
        return 1;
    const size_t n = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4 || n > length)
        return 0;
    /* Overlong forms, surrogates and what lies past U+10FFFF differ in the second byte. */
    const unsigned low = s[0] == 0xe0 ? 0xa0 : s[0] == 0xf0 ? 0x90 : 0x80;
    const unsigned high = s[0] == 0xed ? 0x9f : s[0] == 0xf4 ? 0x8f : 0xbf;
    if (s[1] < low || s[1] > high)
        return 0;
    for (size_t i = 2; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    }
    return n;
}

static bool refuse_depth(struct err *e)
{
    return err_set(e, ERR_limit, "the body is nested deeper than %d", DEPTH_MAX);
}

static bool refuse_objects(struct err *e)
{
    return err_set(e, ERR_limit, "the body has more than %d values", OBJECTS_MAX);
}

static bool refuse_end(struct err *e)
{
    return err_set(e, ERR_syntax, "the body ends too early");
}

/* The end of the string whose opening quote is at `from`, or NULL. */
static const char *skip_json_string(const char *from, const char *end, struct err *e)
{
    const char *at = from + 1;
    while (at < end && *at != '"') {
        const bool is_nul = *at == '\0' || (end - at >= 6 && memcmp(at, "\\u0000", 6) == 0);
        if (is_nul) {
            err_set(e, ERR_syntax, "a text holds a NUL byte");
            return NULL;
        }
        at += *at == '\\';
        const size_t n = at < end ? utf8_length(at, (size_t)(end - at)) : 0;
        if (at < end && n == 0) {
            err_set(e, ERR_syntax, "a text is not UTF-8");
            return NULL;
        }
        at += n;
        if (n == 0)
            break;
    }
    if (at >= end) {
        refuse_end(e);
        return NULL;
    }
    return at + 1;
}

static const char *skip_json_literal(const char *from, const char *end, struct err *e)
{
    const char *at = from;
    while (at < end && *at != '\0' && !strchr(" \t\r\n,:[]{}\"", *at))
        at++;
    if (at == from) {
        err_set(e, ERR_syntax, "the body holds a NUL byte");
        return NULL;
    }
    if (at - from > LITERAL_BYTES_MAX) {
        err_set(e, ERR_limit, "a number has more than %d digits", LITERAL_BYTES_MAX);
        return NULL;
    }
    return at;
}

bool prescan_json(const char *body, size_t size, struct err *e)
{
    const char *at = body, *end = body + size;
    int depth = 0, objects = 0;
    bool whole = false; /* the one value of the body has begun, at depth 0 it has ended */
    while (at < end) {
        if (*at == ' ' || *at == '\t' || *at == '\r' || *at == '\n' || *at == ',') {
            at++;
            continue;
        }
        if (*at == ':') {
            objects--; /* what stood before it was a key */
            at++;
            continue;
        }
        if (*at == '}' || *at == ']') {
            if (--depth < 0)
                return err_set(e, ERR_syntax, "the body closes a bracket that it has not opened");
            at++;
            continue;
        }
        if (depth == 0 && whole)
            return err_set(e, ERR_syntax, "bytes follow the end of the JSON");
        if (depth == 0 && *at != '{' && *at != '[')
            return err_set(e, ERR_syntax, "the body begins with the byte 0x%02x and not with {",
                           (unsigned char)*at);
        whole = true;
        if (++objects > OBJECTS_MAX)
            return refuse_objects(e);
        if (*at == '{' || *at == '[') {
            if (++depth > DEPTH_MAX)
                return refuse_depth(e);
            at++;
        } else {
            at = *at == '"' ? skip_json_string(at, end, e) : skip_json_literal(at, end, e);
            if (!at)
                return false;
        }
    }
    return whole && depth == 0 ? true : refuse_end(e);
}

enum head_kind { HEAD_bad, HEAD_scalar, HEAD_text, HEAD_bin, HEAD_list, HEAD_map };

struct head { /* what a value's first byte says */
    enum head_kind kind;
    int length_bytes; /* of the length that follows, or 0 and: */
    uint64_t length;  /* bytes, or items of a list, or pairs of a map */
};

/* The bytes 0xc0 to 0xdf. 0xc1 means nothing, the extension types have no use here. */
static const struct head heads[32] = {
    [0x00] = {HEAD_scalar, 0, 0},                               /* nil */
    [0x02] = {HEAD_scalar, 0, 0}, [0x03] = {HEAD_scalar, 0, 0}, /* false, true */
    [0x04] = {HEAD_bin, 1, 0},    [0x05] = {HEAD_bin, 2, 0},    [0x06] = {HEAD_bin, 4, 0},
    [0x0a] = {HEAD_scalar, 0, 4}, [0x0b] = {HEAD_scalar, 0, 8}, /* floats */
    [0x0c] = {HEAD_scalar, 0, 1}, [0x0d] = {HEAD_scalar, 0, 2}, [0x0e] = {HEAD_scalar, 0, 4},
    [0x0f] = {HEAD_scalar, 0, 8}, [0x10] = {HEAD_scalar, 0, 1}, [0x11] = {HEAD_scalar, 0, 2},
    [0x12] = {HEAD_scalar, 0, 4}, [0x13] = {HEAD_scalar, 0, 8}, [0x19] = {HEAD_text, 1, 0},
    [0x1a] = {HEAD_text, 2, 0},   [0x1b] = {HEAD_text, 4, 0},   [0x1c] = {HEAD_list, 2, 0},
    [0x1d] = {HEAD_list, 4, 0},   [0x1e] = {HEAD_map, 2, 0},    [0x1f] = {HEAD_map, 4, 0},
};

struct scan {
    const unsigned char *at, *end;
};

static size_t scan_left(const struct scan *s)
{
    return (size_t)(s->end - s->at);
}

/* Reads a first byte and the length behind it. */
static bool scan_head(struct head *head, struct scan *s, struct err *e)
{
    if (scan_left(s) == 0)
        return refuse_end(e);
    const unsigned char b = *s->at++;
    if (b <= 0x7f || b >= 0xe0)
        *head = (struct head){HEAD_scalar, 0, 0};
    else if (b <= 0x8f)
        *head = (struct head){HEAD_map, 0, b & 15};
    else if (b <= 0x9f)
        *head = (struct head){HEAD_list, 0, b & 15};
    else if (b <= 0xbf)
        *head = (struct head){HEAD_text, 0, b & 31};
    else
        *head = heads[b - 0xc0];
    if (head->kind == HEAD_bad)
        return err_set(e, ERR_syntax, "the msgpack type 0x%02x is not used here", b);
    if (scan_left(s) < (size_t)head->length_bytes)
        return refuse_end(e);
    for (int i = 0; i < head->length_bytes; i++)
        head->length = head->length << 8 | *s->at++;
    const bool past_int64 = b == 0xcf && scan_left(s) > 0 && *s->at >= 0x80;
    if (past_int64)
        return err_set(e, ERR_syntax, "an integer is larger than 2^63 - 1");
    return true;
}

static bool check_text(const char *text, size_t length, struct err *e)
{
    size_t at = 0;
    while (at < length) {
        const size_t n = text[at] == '\0' ? 0 : utf8_length(text + at, length - at);
        if (n == 0)
            return err_set(e, ERR_syntax, "a text %s",
                           text[at] == '\0' ? "holds a NUL byte" : "is not UTF-8");
        at += n;
    }
    return true;
}

static bool skip_payload(const struct head *head, struct scan *s, struct err *e)
{
    if (head->length > scan_left(s))
        return refuse_end(e);
    if (head->kind == HEAD_text && !check_text((const char *)s->at, (size_t)head->length, e))
        return false;
    s->at += head->length;
    return true;
}

struct level { /* an open container */
    bool is_map;
    uint64_t left; /* values to come; of a map keys and values, an even number before a key */
};

bool prescan_msgpack(const char *body, size_t size, struct err *e)
{
    struct scan s = {(const unsigned char *)body, (const unsigned char *)body + size};
    struct level levels[DEPTH_MAX + 1] = {{false, 1}};
    int depth = 0, objects = 0;
    uint64_t owed = 1; /* by all open containers together: each takes at least a byte */
    while (owed > 0) {
        struct head head = {0};
        if (!scan_head(&head, &s, e))
            return false;
        struct level *inside = &levels[depth];
        const bool is_key = inside->is_map && inside->left % 2 == 0;
        if (is_key && head.kind != HEAD_text)
            return err_set(e, ERR_syntax, "a map's key is not a text");
        objects += !is_key;
        if (objects > OBJECTS_MAX)
            return refuse_objects(e);
        owed--;
        inside->left--;
        if (head.kind != HEAD_list && head.kind != HEAD_map) {
            if (!skip_payload(&head, &s, e))
                return false;
        } else {
            const uint64_t count = head.kind == HEAD_map ? 2 * head.length : head.length;
            owed += count;
            if (owed > scan_left(&s))
                return refuse_end(e);
            if (depth == DEPTH_MAX)
                return refuse_depth(e);
            levels[++depth] = (struct level){head.kind == HEAD_map, count};
        }
        while (depth > 0 && levels[depth].left == 0)
            depth--;
    }
    if (scan_left(&s) > 0)
        return err_set(e, ERR_syntax, "bytes follow the end of the msgpack");
    return true;
}
