/* The backend that test_backend.c compares with the reference. Each is a file of its own, and a
 * program of its own that the Makefile links with it. */
#pragma once
#include "../kernels/backend.h"

struct tested {
    const struct backend *backend;
    const char *isas[4]; /* tried; a machine may lack some, but not the first */
    int n_isas, threads_max; /* 1 .. threads_max threads are tried with each */
    int n_tiers;             /* ways to store weights that it has: f32, bf16, int8 */
    const char *isa_refusal; /* what an unknown instruction set is told, or NULL: it is not read */
    const char *weights_refusal; /* what weights "int4" are told */
};
extern const struct tested tested;
