/* Memory of a device for tests, each buffer with a page behind it that nobody may touch: who writes
 * past its end is found at once. */
#pragma once
#include <sys/mman.h>

#include "../kernels/backend.h"

enum {
    GUARD_PAGE = 4096
};

static inline size_t guarded_size(size_t size, size_t unit)
{
    return (size + unit - 1) / unit * unit;
}

static inline bool guarded_alloc(struct device *d, void **p, size_t size, struct err *e)
{
    (void)d;
    const size_t whole = guarded_size(size, GUARD_PAGE);
    char *start = mmap(NULL, whole + GUARD_PAGE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED)
        return err_set(e, ERR_device, "no memory for %zu bytes", size);
    mprotect(start + whole, GUARD_PAGE, PROT_NONE);
    *p = start + whole - guarded_size(size, 64);
    return true;
}

static inline void guarded_release(struct device *d, void *p, size_t size)
{
    (void)d;
    const size_t whole = guarded_size(size, GUARD_PAGE);
    munmap((char *)p + guarded_size(size, 64) - whole, whole + GUARD_PAGE);
}
