/* Writes one document as JSON or as msgpack, from the same calls: a document is described once.
 *
 *     write_map(w, 2);
 *     write_key(w, "steps"), write_int(w, 3);
 *     write_key(w, "tokens"), write_list(w, 0), write_end(w);
 *     write_end(w);
 */
#pragma once
#include "base.h"

enum writer_form { WRITER_json, WRITER_msgpack };

enum { WRITER_DEPTH_MAX = 12 };

struct writer {
    enum writer_form form;
    struct arena *arena;    /* where the text grows, or NULL: it has to fit */
    char *at;               /* NULL: only its size is counted, from above */
    size_t size, capacity;
    int depth;
    struct {
        char close;         /* of JSON */
        int left;           /* items to come; of a map keys and values */
    } open[WRITER_DEPTH_MAX];
};

struct writer writer_grows(enum writer_form form, struct arena *a);
struct writer writer_counts(enum writer_form form);
struct writer writer_fills(enum writer_form form, char *buffer, size_t capacity);

/* Exactly `count` values (or keys and values) follow before write_end. */
void write_map(struct writer *w, int count);
void write_list(struct writer *w, int count);
void write_end(struct writer *w);

void write_key(struct writer *w, const char *key);
void write_text(struct writer *w, const char *text); /* NULL is null */
void write_text_of(struct writer *w, const char *text, size_t length); /* may hold NUL bytes */
void write_int(struct writer *w, int64_t value);
void write_real(struct writer *w, double value);
void write_bool(struct writer *w, bool value);
void write_null(struct writer *w);

/* The header of a msgpack bin; its bytes are the caller's to send. */
void write_bin_header(struct writer *w, size_t size);

/* Bytes as they are, outside the form's rules. */
void write_raw(struct writer *w, const char *bytes, size_t size);
void write_format(struct writer *w, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The shortest text that reads back as the same bits, always with a point or an exponent; NaN and
 * the infinities as JSON's texts "NaN", "Infinity", "-Infinity" with their quotes. Returns its
 * length. */
enum { NUMBER_SIZE = 40 };
int float_text(char *buffer, float value);
int double_digits(char *buffer, double value); /* the same without the point or the quotes */
int double_text(char *buffer, double value);
