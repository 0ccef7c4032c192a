#include "device.h"
#include <stdlib.h>
#include <string.h>

enum { DEVICES_MAX = 1024 }; /* a number above it is a slip */

static bool read_number(int *number, const char *digits)
{
    if (strspn(digits, "0123456789") != strlen(digits) || !*digits || strlen(digits) > 4)
        return false;
    *number = (int)strtol(digits, NULL, 10);
    return *number < DEVICES_MAX;
}

bool device_choose(const struct backend **be, int *number, const char *name, struct err *e)
{
    const bool is_auto = strcmp(name, "auto") == 0, is_cpu = strcmp(name, "cpu") == 0;
    *number = 0;
    if (is_auto || is_cpu) {
        *be = is_auto && device_cuda ? device_cuda : &backend_cpu;
        return true;
    }
    if (strncmp(name, "cuda:", 5) != 0 || !read_number(number, name + 5))
        return err_set(e, ERR_value, "--device is \"%.40s\", and must be auto, cpu or cuda:N",
                       name);
    if (!device_cuda)
        return err_set(e, ERR_value,
                       "--device is \"%s\", and this build has no CUDA: build with make CUDA=1, or "
                       "say --device cpu",
                       name);
    *be = device_cuda;
    return true;
}

bool device_open(struct device **d, const struct backend **be, const char *name,
                 const struct device_options *o, struct err *e)
{
    if ((*be)->open(d, o, e))
        return true;
    if (strcmp(name, "auto") != 0 || *be == &backend_cpu || e->code != ERR_device)
        return false;
    log_line("start", "%s: the CPU takes its place", e->text);
    *e = (struct err){0};
    *be = &backend_cpu;
    return backend_cpu.open(d, o, e);
}
