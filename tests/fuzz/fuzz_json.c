/* Any bytes as a body of JSON. */
#include "request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    try_request(data, size, MEDIA_json);
    return 0;
}
