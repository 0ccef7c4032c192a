/* The small documents that routes answer with: maps, lists, texts and numbers, written from front
 * to back as JSON, or as the same in msgpack. */
#pragma once
#include "../protocol/encode.h"

struct document {
    enum reply_media media;
    struct arena *arena;
    struct bytes bytes;
    size_t capacity;
    bool needs_comma;
};

void document_map(struct document *d, int count); /* then so many keys, each with its value */
void document_key(struct document *d, const char *key);
void document_map_end(struct document *d);
void document_list(struct document *d, int count);
void document_list_end(struct document *d);
void document_int(struct document *d, int64_t value);

/* Bytes that are not UTF-8 become U+FFFD. */
void document_text(struct document *d, const char *text, size_t length);
