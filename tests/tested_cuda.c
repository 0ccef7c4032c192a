#include "tested.h"

const struct tested tested = {
    .backend = &backend_cuda,
    .isas = {"auto"},
    .n_isas = 1,
    .threads_max = 1,
};
