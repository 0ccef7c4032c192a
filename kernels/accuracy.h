/* How far a device's products are from the true ones, for GET /v1/models. */
#pragma once
#include "backend.h"

/* K of the product that is tried: a device is opened for rows as long, however small its model. */
enum { ACCURACY_WIDTH = 512 };

/* |y - true y| / |true y|, Euclidean, of one product (16, 512) @ (512, 64) of random numbers, true
 * ones in double precision. A device fault is an error. */
bool product_error(double *error, const struct backend *be, struct device *d, struct err *e);
