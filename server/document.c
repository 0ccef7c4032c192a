#include "document.h"
#include "../protocol/decode.h"
#include <stdio.h>
#include <string.h>

static void append(struct document *d, const void *bytes, size_t size)
{
    if (d->bytes.size + size > d->capacity) {
        d->capacity = (d->bytes.size + size) * 2 + 256;
        char *moved = arena_alloc(d->arena, d->capacity);
        if (d->bytes.size)
            memcpy(moved, d->bytes.at, d->bytes.size);
        d->bytes.at = moved;
    }
    memcpy(d->bytes.at + d->bytes.size, bytes, size);
    d->bytes.size += size;
}

static bool is_msgpack(const struct document *d)
{
    return d->media == REPLY_msgpack;
}

/* A msgpack type byte and a big-endian number of `size` bytes. */
static void append_head(struct document *d, int type, uint64_t number, int size)
{
    unsigned char head[9] = {(unsigned char)type};
    for (int i = 0; i < size; i++)
        head[1 + i] = (unsigned char)(number >> (8 * (size - 1 - i)));
    append(d, head, (size_t)size + 1);
}

static void append_json(struct document *d, const char *text)
{
    if (d->needs_comma)
        append(d, ", ", 2);
    append(d, text, strlen(text));
}

static void open_container(struct document *d, int type, int count, const char *bracket)
{
    if (is_msgpack(d)) {
        append_head(d, type, (uint64_t)count, 4);
        return;
    }
    append_json(d, bracket);
    d->needs_comma = false;
}

static void close_container(struct document *d, const char *bracket)
{
    if (is_msgpack(d))
        return;
    append(d, bracket, 1);
    d->needs_comma = true;
}

void document_map(struct document *d, int count)
{
    open_container(d, 0xdf, count, "{");
}

void document_map_end(struct document *d)
{
    close_container(d, "}");
}

void document_list(struct document *d, int count)
{
    open_container(d, 0xdd, count, "[");
}

void document_list_end(struct document *d)
{
    close_container(d, "]");
}

void document_int(struct document *d, int64_t value)
{
    if (is_msgpack(d)) {
        append_head(d, 0xd3, (uint64_t)value, 8);
        return;
    }
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)value);
    append_json(d, text);
    d->needs_comma = true;
}

/* The text with every byte that starts no UTF-8 character replaced. */
static struct bytes make_utf8(const char *text, size_t length, struct arena *a)
{
    struct bytes out = {arena_alloc(a, 3 * length + 1), 0};
    for (size_t i = 0; i < length;) {
        const size_t n = utf8_length(text + i, length - i);
        memcpy(out.at + out.size, n ? text + i : "\xef\xbf\xbd", n ? n : 3);
        out.size += n ? n : 3;
        i += n ? n : 1;
    }
    return out;
}

static void append_json_character(struct document *d, char c)
{
    char escape[8];
    if (c == '"' || c == '\\')
        append(d, escape, (size_t)snprintf(escape, sizeof escape, "\\%c", c));
    else if ((unsigned char)c < 0x20 || c == 0x7f)
        append(d, escape, (size_t)snprintf(escape, sizeof escape, "\\u%04x", c));
    else
        append(d, &c, 1);
}

void document_text(struct document *d, const char *text, size_t length)
{
    const struct bytes safe = make_utf8(text, length, d->arena);
    if (is_msgpack(d)) {
        append_head(d, 0xdb, safe.size, 4);
        append(d, safe.at, safe.size);
        return;
    }
    append_json(d, "\"");
    for (size_t i = 0; i < safe.size; i++)
        append_json_character(d, safe.at[i]);
    append(d, "\"", 1);
    d->needs_comma = true;
}

void document_key(struct document *d, const char *key)
{
    document_text(d, key, strlen(key));
    if (is_msgpack(d))
        return;
    append(d, ": ", 2);
    d->needs_comma = false;
}
