/* Any bytes as a body of msgpack. */
#include "request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    try_request(data, size, MEDIA_msgpack);
    return 0;
}
