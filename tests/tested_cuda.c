#include "tested.h"

const struct tested tested = {
    .backend = &backend_cuda,
    .isas = {"auto"},
    .n_isas = 1,
    .threads_max = 1,
    .n_tiers = 1,
    .weights_refusal = "weights is int4: the CUDA backend stores f32",
};
