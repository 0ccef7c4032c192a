/* A batch over a model on a backend, as the server opens them, for unit tests of the engine. */
#pragma once
#include "../server/batch.h"

static inline void tiny_engine_open(struct device **d, struct gpt2 **m, struct batch **b,
                                    const struct backend *be, const char *folder,
                                    const struct device_options *device,
                                    const struct gpt2_options *model,
                                    const struct batch_options *batch, struct arena *a)
{
    struct err e = {0};
    assert_true(be->open(d, device, &e));
    assert_true(gpt2_load(m, be, *d, folder, model, &e));
    assert_true(batch_open(b, *m, batch, a, &e));
}

/* batch_close asserts that every page has come back. */
static inline void tiny_engine_close(struct device *d, struct gpt2 *m, struct batch *b,
                                     struct arena *a)
{
    const struct backend *be = m->be;
    batch_close(b);
    gpt2_free(m);
    be->close(d);
    arena_free(a);
}
