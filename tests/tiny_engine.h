/* A batch over a model on a backend, as the server opens them, for unit tests of the engine. */
#pragma once
#include "../protocol/decode.h"
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

/* A request's job, of a user of this number; nobody has it yet. */
static inline struct job *tiny_engine_job(const char *request, const struct model_shape *m,
                                          uint64_t user, struct arena *a)
{
    struct job *j = job_new("id", a);
    struct err e = {0};
    j->turn.user = user;
    if (!decode_request(&j->graph, request, strlen(request), MEDIA_json, m, a, &e) ||
        !plan_build(&j->plan, &j->graph, m, a, &e) || !job_reserve(j, &e))
        fail_msg("%s: %s", e.where, e.text);
    return j;
}
