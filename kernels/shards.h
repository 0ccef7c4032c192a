/* A model's weights as a folder holds them: model.safetensors, or the shards that
 * model.safetensors.index.json names.
 */
#pragma once
#include "safetensors.h"

struct shards {
    const char *path; /* of the one file, or of the index */
    int n_files;
    struct safetensors *files;
};

/* Opens them all. shards_close may also be called after a failure. */
bool shards_open(struct shards *s, const char *dir, struct arena *a, struct err *e);
void shards_close(struct shards *s);

/* The tensor of this name and the file that has it, or NULL. */
const struct safetensor *shards_find(const struct safetensors **file, const struct shards *s,
                                     const char *name);
