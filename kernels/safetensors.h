/* The files of a model's weights: one .safetensors file, or the shards that an index names.
 *
 * Headers are checked whole when they are opened: after that a tensor's bytes lie inside of its
 * file, overlap no other's and are as many as its dtype and shape say. Files are read, never
 * mapped: one that shrinks meanwhile is an error and not a signal.
 */
#pragma once
#include "../protocol/tensor.h"

struct json_t;

struct safetensor {
    const char *name;  /* as the file spells it */
    const char *dtype; /* "F32" */
    int rank;
    int64_t shape[RANK_MAX];
    int64_t count;       /* elements */
    size_t element_size; /* bytes */
    size_t begin, end;   /* bytes, from the file's start */
};

struct safetensors {
    const char *path;
    int fd;
    int n_tensors;
    struct safetensor *tensors; /* by name */
};

/* Opens and checks one file. What it keeps lies in the arena; the file stays open until
 * safetensors_close, which may also be called after a failure. */
bool safetensors_open(struct safetensors *s, const char *path, struct arena *a, struct err *e);
void safetensors_close(struct safetensors *s);

/* The tensor of this name, or NULL. */
const struct safetensor *safetensors_find(const struct safetensors *s, const char *name);

/* Its elements as float32, converted from F32, F16 or BF16; other dtypes are refused by name, and
 * so is an element that is not finite. `out` has room for t->count. */
bool safetensors_read(float *out, const struct safetensors *s, const struct safetensor *t,
                      struct err *e);

/* Parses the JSON of one of a model's files: an object, at most a few containers deep, no key
 * twice. Give it back with json_decref. */
bool safetensors_json(struct json_t **root, const char *text, size_t size, const char *file,
                      struct err *e);

/* A name from a file, fit for a line of text: cut short, control characters as '?'. */
enum {
    SHOWN_SIZE = 80
};
const char *safetensors_shown(char *buffer, const char *name);
