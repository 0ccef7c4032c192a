#include "device.h"

const struct backend *const device_cuda = &backend_cuda;
