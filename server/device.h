/* Which backend and which of its devices --device means. */
#pragma once
#include "../kernels/backend.h"

/* "cpu"; "cuda:N", refused where this build has no CUDA; "auto": CUDA's first device where this
 * build has CUDA, otherwise the CPU. Whether the machine has the device shows when it is opened. */
bool device_choose(const struct backend **be, int *number, const char *name, struct err *e);

/* Opens the device of this name. Where "auto" has chosen one that the machine lacks, the log says
 * so and `*be` becomes the CPU's. */
bool device_open(struct device **d, const struct backend **be, const char *name,
                 const struct device_options *o, struct err *e);

/* NULL in builds without it: device_cuda.c or device_no_cuda.c, as the Makefile chooses. */
extern const struct backend *const device_cuda;
