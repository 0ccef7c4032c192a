/* How far a device's products are from the true ones, for GET /v1/models. */
#pragma once
#include "backend.h"

/* |y - true y| / |true y|, Euclidean, of one product (16, K) @ (K, 64) of random numbers, true ones
 * in double precision. K is at most what the device was opened for. A device fault is an error. */
bool product_error(double *error, const struct backend *be, struct device *d, int K,
                   struct err *e);
