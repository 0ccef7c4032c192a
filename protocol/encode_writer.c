#include "encode_writer.h"

#include "decode.h"

#include <math.h>
#include <msgpack.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct writer writer_grows(enum writer_form form, struct arena *a)
{
    const size_t capacity = 1024;
    return (struct writer){
        .form = form, .arena = a, .at = arena_alloc(a, capacity), .capacity = capacity};
}

struct writer writer_counts(enum writer_form form)
{
    return (struct writer){.form = form};
}

struct writer writer_fills(enum writer_form form, char *buffer, size_t capacity)
{
    return (struct writer){.form = form, .at = buffer, .capacity = capacity};
}

void write_raw(struct writer *w, const char *bytes, size_t size)
{
    if (!w->at) {
        w->size += size;
        return;
    }
    if (w->arena && size > w->capacity - w->size) {
        const size_t larger = 2 * (w->size + size);
        char *moved = arena_alloc(w->arena, larger);
        memcpy(moved, w->at, w->size);
        w->at = moved;
        w->capacity = larger;
    }
    assert(size <= w->capacity - w->size);
    if (size)
        memcpy(w->at + w->size, bytes, size);
    w->size += size;
}

void write_format(struct writer *w, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    assert(n >= 0);
    write_raw(w, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
}

static void put(struct writer *w, const char *text)
{
    write_raw(w, text, strlen(text));
}

static int pack_write(void *context, const char *bytes, size_t size)
{
    write_raw(context, bytes, size);
    return 0;
}

static msgpack_packer packer(struct writer *w)
{
    msgpack_packer p;
    msgpack_packer_init(&p, w, pack_write);
    return p;
}

/* Takes the place of one value (or key) in what is open. */
static void begin(struct writer *w)
{
    if (w->depth == 0)
        return;
    assert(w->open[w->depth - 1].left > 0);
    w->open[w->depth - 1].left--;
}

/* What JSON puts behind a value: after a key its value comes, after a value the next. */
static void end(struct writer *w)
{
    if (w->depth == 0 || w->form == WRITER_msgpack)
        return;
    const int left = w->open[w->depth - 1].left;
    const bool was_key = w->open[w->depth - 1].close == '}' && left % 2 == 1;
    if (was_key)
        put(w, ": ");
    else if (left > 0)
        put(w, ", ");
}

static void push(struct writer *w, char close, int left)
{
    assert(w->depth < WRITER_DEPTH_MAX);
    w->open[w->depth].close = close;
    w->open[w->depth++].left = left;
}

void write_map(struct writer *w, int count)
{
    begin(w);
    push(w, '}', 2 * count);
    msgpack_packer p = packer(w);
    if (w->form == WRITER_msgpack)
        msgpack_pack_map(&p, (size_t)count);
    else
        put(w, "{");
}

void write_list(struct writer *w, int count)
{
    begin(w);
    push(w, ']', count);
    msgpack_packer p = packer(w);
    if (w->form == WRITER_msgpack)
        msgpack_pack_array(&p, (size_t)count);
    else
        put(w, "[");
}

void write_end(struct writer *w)
{
    assert(w->depth > 0);
    const char close = w->open[w->depth - 1].close;
    assert(w->open[w->depth - 1].left == 0);
    w->depth--;
    if (w->form == WRITER_json)
        write_raw(w, &close, 1);
    end(w);
}

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

/* What is no UTF-8 becomes U+FFFD, so that whatever an error quotes, the reply can be read. */
static void put_json_text(struct writer *w, const char *text, size_t length)
{
    size_t at = 0;
    put(w, "\"");
    while (at < length) {
        const unsigned char c = (unsigned char)text[at];
        const size_t n = utf8_length(text + at, length - at);
        if (n == 0)
            put(w, REPLACEMENT);
        else if (c == '"' || c == '\\')
            write_format(w, "\\%c", c);
        else if (c < 0x20 || c == 0x7f)
            write_format(w, "\\u%04x", c);
        else
            write_raw(w, text + at, n);
        at += n ? n : 1;
    }
    put(w, "\"");
}

/* The same for msgpack, where the length stands in front. */
static void put_msgpack_text(struct writer *w, const char *text, size_t length)
{
    size_t n, size = 0;
    for (size_t at = 0; at < length; at += n ? n : 1) {
        n = utf8_length(text + at, length - at);
        size += n ? n : strlen(REPLACEMENT);
    }
    msgpack_packer p = packer(w);
    msgpack_pack_str(&p, size);
    for (size_t at = 0; at < length; at += n ? n : 1) {
        n = utf8_length(text + at, length - at);
        write_raw(w, n ? text + at : REPLACEMENT, n ? n : strlen(REPLACEMENT));
    }
}

void write_text_of(struct writer *w, const char *text, size_t length)
{
    begin(w);
    if (w->form == WRITER_msgpack)
        put_msgpack_text(w, text, length);
    else
        put_json_text(w, text, length);
    end(w);
}

void write_text(struct writer *w, const char *text)
{
    if (text)
        write_text_of(w, text, strlen(text));
    else
        write_null(w);
}

void write_key(struct writer *w, const char *key)
{
    assert(w->depth > 0);
    assert(w->open[w->depth - 1].close == '}');
    assert(w->open[w->depth - 1].left % 2 == 0);
    write_text(w, key);
}

void write_int(struct writer *w, int64_t value)
{
    begin(w);
    msgpack_packer p = packer(w);
    if (!w->at)
        w->size += 20; /* the longest, so that it fits whatever the number will be */
    else if (w->form == WRITER_msgpack)
        msgpack_pack_int64(&p, value);
    else
        write_format(w, "%lld", (long long)value);
    end(w);
}

void write_real(struct writer *w, double value)
{
    begin(w);
    msgpack_packer p = packer(w);
    char text[NUMBER_SIZE];
    if (!w->at)
        w->size += NUMBER_SIZE;
    else if (w->form == WRITER_msgpack)
        msgpack_pack_double(&p, value);
    else
        write_raw(w, text, (size_t)double_text(text, value));
    end(w);
}

void write_bool(struct writer *w, bool value)
{
    begin(w);
    msgpack_packer p = packer(w);
    if (w->form == WRITER_json)
        put(w, value ? "true" : "false");
    else if (value)
        msgpack_pack_true(&p);
    else
        msgpack_pack_false(&p);
    end(w);
}

void write_null(struct writer *w)
{
    begin(w);
    msgpack_packer p = packer(w);
    if (w->form == WRITER_json)
        put(w, "null");
    else
        msgpack_pack_nil(&p);
    end(w);
}

void write_bin_header(struct writer *w, size_t size)
{
    begin(w);
    msgpack_packer p = packer(w);
    assert(w->form == WRITER_msgpack);
    msgpack_pack_bin(&p, size);
}

static int special_text(char *buffer, double value)
{
    return snprintf(buffer, NUMBER_SIZE, "\"%s\"",
                    isnan(value) ? "NaN"
                    : value > 0  ? "Infinity"
                                 : "-Infinity");
}

/* "3" is an integer in JSON, "3.0" is not. */
static int add_point(char *buffer, int n)
{
    return strpbrk(buffer, ".e") ? n : n + snprintf(buffer + n, NUMBER_SIZE - (size_t)n, ".0");
}

int float_text(char *buffer, float value)
{
    if (!isfinite(value))
        return special_text(buffer, value);
    int n = 0;
    for (int digits = 6; digits <= 9; digits++) {
        n = snprintf(buffer, NUMBER_SIZE, "%.*g", digits, (double)value);
        if (strtof(buffer, NULL) == value)
            break;
    }
    return add_point(buffer, n);
}

int double_digits(char *buffer, double value)
{
    int n = 0;
    for (int digits = 6; digits <= 17; digits++) {
        n = snprintf(buffer, NUMBER_SIZE, "%.*g", digits, value);
        if (strtod(buffer, NULL) == value)
            break;
    }
    return n;
}

int double_text(char *buffer, double value)
{
    return isfinite(value) ? add_point(buffer, double_digits(buffer, value))
                           : special_text(buffer, value);
}
