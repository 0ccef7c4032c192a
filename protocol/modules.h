/* The modules that a graph may apply, as a table cut from modules.def. */
#pragma once
#include "parameters.h"

struct module {
    const char *path; /* "transformer.h.*.ln_1" */
    bool is_layernorm;
    enum parameter weight, bias; /* PARAMETER_COUNT: none */
};

struct module_at { /* one of them in one block */
    const struct module *is;
    int block;
};

extern const struct module modules[];
extern const int n_modules;

/* The one of this path, refused (unknown) with the nearest known. `*used`: as path_match. */
bool module_find(struct module_at *at, size_t *used, const char *path, size_t length, int n_blocks,
                 struct err *e);

static inline bool module_is_head(const struct module_at *at)
{
    return at->is->weight == PARAMETER_head;
}

/* The length of the rows that it takes, and of those that it makes. */
int64_t module_in(const struct module *is, const struct model_shape *m);
int64_t module_out(const struct module *is, const struct model_shape *m);
