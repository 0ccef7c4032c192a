#include "memory.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The first line of a file that begins so, without the beginning and its end. */
static bool read_line(char *line, int size, const char *path, const char *beginning)
{
    FILE *f = fopen(path, "r");
    const size_t n = strlen(beginning);
    bool found = false;
    while (f && !found && fgets(line, size, f))
        found = strncmp(line, beginning, n) == 0;
    if (f)
        fclose(f);
    if (!found)
        return false;
    memmove(line, line + n, strlen(line + n) + 1);
    line[strcspn(line, "\n")] = '\0';
    return true;
}

/* The length of the name of the group that a group is in: 0 is the root. */
static size_t parent_of(const char *group, size_t length)
{
    while (length > 0 && group[length - 1] != '/')
        length--;
    return length > 0 ? length - 1 : 0;
}

int64_t memory_limit_of(const char *root, const char *group, int64_t most)
{
    for (size_t length = strlen(group);; length = parent_of(group, length)) {
        char path[4096], text[64];
        long long limit;
        snprintf(path, sizeof path, "%s/%.*s/memory.max", root, (int)length, group);
        if (read_line(text, sizeof text, path, "") && sscanf(text, "%lld", &limit) == 1)
            most = limit < most ? limit : most;
        if (length == 0)
            return most;
    }
}

int64_t memory_limit(void)
{
    const int64_t machine = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    char group[3072];
    return read_line(group, sizeof group, "/proc/self/cgroup", "0::/")
               ? memory_limit_of("/sys/fs/cgroup", group, machine)
               : machine;
}
