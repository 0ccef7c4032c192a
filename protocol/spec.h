/* The tables as documents: GET /v1/spec and GET /v1/models, the two that a client is built from. */
#pragma once
#include "encode.h"

#define SPEC_VERSION "0.1.0"

struct bytes spec_document(enum reply_media media, struct arena *a);

struct model_facts {
    const char *name, *device, *numerics; /* "demo", "cpu avx512, 2 threads", "exact" */
    double product_error; /* relative, of the device's products: kernels/accuracy.h */
    int rows_max, cache_tokens;
    int64_t body_bytes_max;
    const struct model_shape *shape;
};

struct bytes models_document(const struct model_facts *f, enum reply_media media, struct arena *a);

/* The one that is loaded, as OpenAI's clients read it, as JSON. */
struct bytes model_document(const struct model_facts *f, struct arena *a);
