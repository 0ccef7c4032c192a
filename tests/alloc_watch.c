/* Loaded with LD_PRELOAD: ends the process where a thread of the engine, which must not, allocates
 * or gives back memory. Those are the threads that call themselves "engine" (server/worker.c) and
 * "arithmetic" (kernels/cpu/pool.c), from then until they end. At exit it says how many there were,
 * and how often all other threads allocated, so that a test knows that it was there.
 */
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* glibc's own, under the names that it keeps for such as us. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *p, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *p);

static __thread const char *watched __attribute__((tls_model("initial-exec")));
static atomic_int n_watched;
static atomic_long n_others;

static void say(const char *text, size_t length)
{
    const ssize_t written = write(STDERR_FILENO, text, length);
    (void)written;
}

static void look(const char *call)
{
    if (!watched) {
        atomic_fetch_add(&n_others, 1);
        return;
    }
    char line[128];
    const int length = snprintf(line, sizeof line, "alloc_watch: %s in the thread %s\n", call,
                                watched);
    watched = NULL; /* abort may allocate */
    say(line, (size_t)length);
    abort();
}

/* A thread that ends gives back what the C library keeps for it. */
static void unwatch(void *value)
{
    (void)value;
    watched = NULL;
}

static pthread_key_t ends;

static void __attribute__((constructor)) make_key(void)
{
    pthread_key_create(&ends, unwatch);
}

static void watch(const char *name)
{
    pthread_setspecific(ends, name);
    watched = name;
    atomic_fetch_add(&n_watched, 1);
}

int pthread_setname_np(pthread_t thread, const char *name)
{
    static const char *const names[] = {"engine", "arithmetic"};
    if (!pthread_equal(thread, pthread_self()))
        return EINVAL;
    prctl(PR_SET_NAME, name, 0, 0, 0);
    for (int i = 0; i < 2; i++) {
        if (strcmp(name, names[i]) == 0)
            watch(names[i]);
    }
    return 0;
}

static void __attribute__((destructor)) say_counts(void)
{
    char line[128];
    const int length =
        snprintf(line, sizeof line, "alloc_watch: %d threads watched, %ld calls in others\n",
                 atomic_load(&n_watched), atomic_load(&n_others));
    say(line, (size_t)length);
}

void *malloc(size_t size)
{
    look("malloc");
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    look("calloc");
    return __libc_calloc(count, size);
}

void *realloc(void *p, size_t size)
{
    look("realloc");
    return __libc_realloc(p, size);
}

void free(void *p)
{
    look("free");
    __libc_free(p);
}

void *memalign(size_t alignment, size_t size)
{
    look("memalign");
    return __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    look("aligned_alloc");
    return __libc_memalign(alignment, size);
}

int posix_memalign(void **p, size_t alignment, size_t size)
{
    look("posix_memalign");
    *p = __libc_memalign(alignment, size);
    return *p ? 0 : ENOMEM;
}

void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    look("mmap");
    return (void *)syscall(SYS_mmap, at, size, protection, flags, fd, offset);
}

void *mmap64(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    look("mmap64");
    return (void *)syscall(SYS_mmap, at, size, protection, flags, fd, offset);
}

int munmap(void *p, size_t size)
{
    look("munmap");
    return (int)syscall(SYS_munmap, p, size);
}

/* The heap's end moves by these alone, and glibc's allocator calls its own copies: nobody else
 * should. */
int brk(void *end)
{
    (void)end;
    look("brk");
    errno = ENOMEM;
    return -1;
}

void *sbrk(intptr_t more)
{
    (void)more;
    look("sbrk");
    errno = ENOMEM;
    return (void *)-1;
}
