/* Makes one call in a thread of a name, to see that tests/alloc_watch.c finds it.
 *
 *     allocate_tool NAME CALL
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static char **arguments;
static void *volatile kept; /* or the compiler would see that nobody wants the memory */
static void *volatile given;

static void call_malloc(void)
{
    kept = malloc(8);
}

static void call_calloc(void)
{
    kept = calloc(2, 8);
}

static void call_realloc(void)
{
    kept = realloc(given, 16);
}

static void call_free(void)
{
    free(given);
}

static void call_aligned_alloc(void)
{
    kept = aligned_alloc(64, 64);
}

static void call_posix_memalign(void)
{
    void *p;
    if (posix_memalign(&p, 64, 64) == 0)
        kept = p;
}

static void call_mmap(void)
{
    kept = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void call_munmap(void)
{
    munmap(given, 4096);
}

static void call_sbrk(void)
{
    kept = sbrk(4096);
}

static void call_fopen(void)
{
    kept = fopen("/dev/null", "r");
}

static const struct {
    const char *name;
    void (*call)(void);
} calls[] = {
    {"malloc", call_malloc},
    {"calloc", call_calloc},
    {"realloc", call_realloc},
    {"free", call_free},
    {"aligned_alloc", call_aligned_alloc},
    {"posix_memalign", call_posix_memalign},
    {"mmap", call_mmap},
    {"munmap", call_munmap},
    {"sbrk", call_sbrk},
    {"fopen", call_fopen},
};

static void *run(void *context)
{
    (void)context;
    pthread_setname_np(pthread_self(), arguments[1]);
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        if (strcmp(calls[i].name, arguments[2]) == 0)
            calls[i].call();
    return NULL;
}

int main(int n, char **all)
{
    if (n != 3)
        return 2;
    arguments = all;
    if (strcmp(all[2], "munmap") == 0)
        given = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    else
        given = malloc(8);
    pthread_t thread;
    if (pthread_create(&thread, NULL, run, NULL) != 0)
        return 2;
    pthread_join(thread, NULL);
    return 0;
}
