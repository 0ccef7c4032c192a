#include "modules.h"
#include <string.h>

#define PARAMETER_none PARAMETER_COUNT
#define LAYERNORM(path, weight, bias) {path, true, PARAMETER_##weight, PARAMETER_##bias},
#define LINEAR(path, weight, bias)    {path, false, PARAMETER_##weight, PARAMETER_##bias},
const struct module modules[] = {
#include "modules.def"
};
const int n_modules = sizeof modules / sizeof modules[0];

static bool refuse_module(const char *path, size_t length, struct err *e)
{
    const struct module *best = NULL;
    int best_distance = 1 << 30;
    for (int i = 0; i < n_modules; i++) {
        const int d = text_distance(path, length, modules[i].path, strlen(modules[i].path));
        if (d < best_distance) {
            best = &modules[i];
            best_distance = d;
        }
    }
    return err_set(e, ERR_unknown, "there is no module \"%.*s\" to apply: did you mean %s?",
                   (int)(length < 100 ? length : 100), path, best->path);
}

bool module_find(struct module_at *at, size_t *used, const char *path, size_t length, int n_blocks,
                 struct err *e)
{
    for (int i = 0; i < n_modules; i++) {
        *used = path_match(modules[i].path, &at->block, path, length);
        if (*used == 0)
            continue;
        at->is = &modules[i];
        return path_block_check(&at->block, path, *used, n_blocks, e);
    }
    return refuse_module(path, length, e);
}

int64_t module_in(const struct module *is, const struct model_shape *m)
{
    return parameter_matrix(is->weight, m).shape[is->is_layernorm];
}

int64_t module_out(const struct module *is, const struct model_shape *m)
{
    return parameter_matrix(is->weight, m).shape[1];
}
