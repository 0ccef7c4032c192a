#include "tested.h"

/* By an emulator of the processor: what its vectors add to what is tested elsewhere. */
const struct tested tested = {
    .backend = &backend_cpu,
    .isas = {"neon"},
    .n_isas = 1,
    .threads_max = 1,
    .n_tiers = 3,
    .isa_refusal = "isa is sse9: it can be auto, avx512, avx2, neon or plain",
    .weights_refusal = "weights is int4: it can be f32, bf16 or int8",
};
