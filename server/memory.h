/* How much memory this process may have, in bytes: the machine's, or less where a container or a
 * service has a limit of its own (of cgroups, version 2; its parents' are not looked for). */
#pragma once
#include "../protocol/base.h"

int64_t memory_limit(void);
