#include "device.h"

const struct backend *const device_cuda = NULL;
