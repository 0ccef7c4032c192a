/* How much memory this process may have, in bytes: the machine's, or less where a container, a
 * service or a user has a limit of its own (of cgroups, version 2). */
#pragma once
#include "../protocol/base.h"

int64_t memory_limit(void);

/* `most`, or the least that a group may have ("user.slice/session-3.scope"), and those that it is
 * in; their files are below `root`. */
int64_t memory_limit_of(const char *root, const char *group, int64_t most);
