#include "tested.h"

const struct tested tested = {
    .backend = &backend_cpu,
    .isas = {"plain", "neon", "avx2", "avx512"},
    .n_isas = 4,
    .threads_max = 3,
    .n_tiers = 3,
    .isa_refusal = "isa is sse9: it can be auto, avx512, avx2, neon or plain",
    .weights_refusal = "weights is int4: it can be f32, bf16 or int8",
};
