/* A reply as a person reads it in a terminal (text/plain). */
#pragma once
#include "encode.h"
#include "encode_writer.h"

/* How many bytes the longest of the texts below takes at most. */
size_t text_room(const struct reply_facts *f);

void text_head(struct writer *w, const struct reply_facts *f);
void text_tensor(struct writer *w, const struct save *s, const char *data);
void text_absent(struct writer *w, const struct save *s);
void text_end(struct writer *w, const struct reply_facts *f, double queue_seconds,
              double run_seconds);
void text_error(struct writer *w, const struct err *e);

/* The ids that a sequence of an invoke generated, and how many: all that there can be where room
 * for them is counted. */
const int32_t *reply_new_ids(const struct reply_facts *f, int invoke, int sequence);
int reply_count_new(const struct writer *w, const struct reply_facts *f, int invoke, int sequence);

/* One element as JSON has it, in a buffer of NUMBER_SIZE bytes; returns its length. */
int element_text(char *buffer, const char *from, enum dtype dtype);
