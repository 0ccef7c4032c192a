/* A model's config.json: its sizes, and a refusal of every GPT-2 variant that would compute
 * something else than the engine does.
 */
#pragma once
#include "../protocol/points.h"

struct config {
    struct model_shape shape;
    bool tied; /* the output head may be the token embedding */
};

bool config_load(struct config *c, const char *dir, struct err *e);

/* The same from the file's contents; `file` is how errors name it. */
bool config_parse(struct config *c, const char *text, size_t size, const char *file, struct err *e);
