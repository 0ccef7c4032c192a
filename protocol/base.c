#include "base.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

const struct err_info err_info[ERR_COUNT] = {
    [ERR_none] = {"none", 200, "no error"},
#define ERR(id, http, meaning) [ERR_##id] = {#id, http, meaning},
#include "errors.def"
#undef ERR
};

/* Cuts a text that did not fit at the start of its last, broken character. */
static void trim_utf8(char *text)
{
    size_t end = strlen(text), start = end;
    while (start > 0 && end - start < 4 && ((unsigned char)text[start - 1] & 0xc0) == 0x80)
        start--;
    if (start == 0)
        return;
    unsigned char lead = (unsigned char)text[start - 1];
    size_t need = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : lead >= 0xc0 ? 1 : 0;
    if (end - start != need)
        text[start - 1] = '\0';
}

bool err_set(struct err *e, enum err_code code, const char *format, ...)
{
    if (e->code != ERR_none)
        return false;
    e->code = code;
    e->node = -1;
    e->where[0] = '\0';
    va_list args;
    va_start(args, format);
    vsnprintf(e->text, sizeof e->text, format, args);
    va_end(args);
    trim_utf8(e->text);
    return false;
}

bool err_at(struct err *e, int node, const char *format, ...)
{
    assert(e->code != ERR_none);
    if (e->where[0] != '\0')
        return false;
    e->node = node;
    va_list args;
    va_start(args, format);
    vsnprintf(e->where, sizeof e->where, format, args);
    va_end(args);
    trim_utf8(e->where);
    return false;
}

/* Small requests share blocks; a large one gets a block of its own behind the current one. */
struct arena_block {
    struct arena_block *next;
    char *data; /* in the block: the first place behind this that is aligned */
    size_t size, used;
    bool mapped;
};

enum { ARENA_ALIGN = 64, ARENA_BLOCK = 32 << 10, ARENA_MAP = 1 << 20 };

/* Whether a line can be written at once. Who does not read the log, a pager or a pipe's other end,
 * would else stop whoever has something to say, one by one. */
static bool log_is_read(void)
{
    struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
    return poll(&p, 1, 0) > 0 && (p.revents & POLLOUT);
}

static void out_of_memory(size_t size)
{
    if (log_is_read())
        fprintf(stderr, "interposed: the machine has no memory left for %zu bytes\n", size);
    _exit(70); /* other threads run on: nothing may be taken from under them */
}

static size_t block_total(size_t size)
{
    return sizeof(struct arena_block) + ARENA_ALIGN + size;
}

/* Not aligned_alloc: glibc looks for more than it then takes, and so does not take again what was
 * given back, 100 KB for each connection that idles behind a request. */
static struct arena_block *block_new(size_t size)
{
    const size_t total = block_total(size);
    const bool mapped = total >= ARENA_MAP;
    struct arena_block *b = mapped ? memory_map(total) : calloc(1, total);
    if (!b)
        out_of_memory(total);
    const uintptr_t end = (uintptr_t)(b + 1);
    *b = (struct arena_block){.size = size, .mapped = mapped};
    b->data = (char *)(b + 1) + (ARENA_ALIGN - end % ARENA_ALIGN) % ARENA_ALIGN;
    return b;
}

void *arena_alloc(struct arena *a, size_t size)
{
    if (size > SIZE_MAX / 2)
        out_of_memory(size);
    size = (size + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    struct arena_block *b = a->blocks;
    if (!b || b->size - b->used < size) {
        struct arena_block *fresh = block_new(size > ARENA_BLOCK ? size : ARENA_BLOCK);
        bool keep_current = b && size > ARENA_BLOCK;
        fresh->next = keep_current ? b->next : b;
        if (keep_current)
            b->next = fresh;
        else
            a->blocks = fresh;
        b = fresh;
    }
    void *p = b->data + b->used;
    b->used += size;
    a->used += size;
    return p;
}

void *arena_array(struct arena *a, size_t count, size_t size)
{
    size_t total;
    if (__builtin_mul_overflow(count, size, &total))
        out_of_memory(SIZE_MAX);
    return arena_alloc(a, total);
}

char *arena_copy_text(struct arena *a, const char *text, size_t length)
{
    char *copy = arena_alloc(a, length + 1);
    if (length)
        memcpy(copy, text, length);
    return copy;
}

char *arena_format(struct arena *a, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    assert(length >= 0);
    char *text = arena_alloc(a, (size_t)length + 1);
    vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    return text;
}

void arena_free(struct arena *a)
{
    while (a->blocks) {
        struct arena_block *b = a->blocks;
        a->blocks = b->next;
        if (b->mapped)
            memory_unmap(b, block_total(b->size));
        else
            free(b);
    }
    a->used = 0;
}

void *arena_push(struct arena *a, void *items, int *count, int *capacity, size_t size)
{
    char **at = items;
    if (*count == *capacity) {
        int larger = *capacity ? *capacity * 2 : 16;
        char *moved = arena_array(a, (size_t)larger, size);
        if (*count)
            memcpy(moved, *at, (size_t)*count * size);
        *at = moved;
        *capacity = larger;
    }
    return *at + (size_t)(*count)++ * size;
}

static bool read_open(int *fd, size_t *size, const char *path, size_t size_max, struct err *e)
{
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0)
        return err_set(e, ERR_file, "%s: %s", path, strerror(errno));
    struct stat s;
    if (fstat(*fd, &s) != 0)
        return err_set(e, ERR_file, "%s: %s", path, strerror(errno));
    if (!S_ISREG(s.st_mode))
        return err_set(e, ERR_file, "%s: is not a regular file", path);
    if ((uint64_t)s.st_size > size_max)
        return err_set(e, ERR_file, "%s: has %lld bytes, at most %zu are read", path,
                       (long long)s.st_size, size_max);
    *size = (size_t)s.st_size;
    return true;
}

bool read_file(char **bytes, size_t *size, const char *path, size_t size_max, struct arena *a,
               struct err *e)
{
    int fd;
    bool ok = read_open(&fd, size, path, size_max, e);
    size_t got = 0;
    if (ok)
        *bytes = arena_alloc(a, *size + 1);
    while (ok && got < *size) {
        ssize_t n = read(fd, *bytes + got, *size - got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            ok = err_set(e, ERR_file, "%s: ended after %zu of %zu bytes", path, got, *size);
        else
            got += (size_t)n;
    }
    if (fd >= 0)
        close(fd);
    return ok;
}

void *memory_map(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    madvise(p, size, MADV_HUGEPAGE);
    return p;
}

void memory_unmap(void *p, size_t size)
{
    if (p)
        munmap(p, size);
}

void *memory_remap(void *p, size_t size, size_t new_size)
{
    void *moved = mremap(p, size, new_size, MREMAP_MAYMOVE);
    return moved == MAP_FAILED ? NULL : moved;
}

int text_distance(const char *a, size_t a_length, const char *b, size_t b_length)
{
    enum { LENGTH_MAX = 64 };
    int row[LENGTH_MAX + 1];
    size_t m = a_length < LENGTH_MAX ? a_length : LENGTH_MAX;
    size_t n = b_length < LENGTH_MAX ? b_length : LENGTH_MAX;
    for (size_t j = 0; j <= n; j++)
        row[j] = (int)j;
    for (size_t i = 1; i <= m; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= n; j++) {
            int change = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            int gap = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            row[j] = change < gap ? change : gap;
        }
    }
    return row[n];
}

double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static enum log_format log_format;

void log_open(enum log_format format)
{
    log_format = format;
}

/* ASCII alone: what clients send is neither a terminal's code, nor turns what stands beside it
 * around, nor keeps a line from being UTF-8. */
static void log_escape(char *out, size_t size, const char *text)
{
    size_t n = 0;
    for (; *text && n + 7 < size; text++) {
        const unsigned char c = (unsigned char)*text;
        const bool is_json = log_format == LOG_json;
        if (c >= 0x7f)
            n += (size_t)snprintf(out + n, size - n, is_json ? "\\\\x%02x" : "\\x%02x", c);
        else if (c < 0x20 || (is_json && (c == '"' || c == '\\')))
            n += (size_t)snprintf(out + n, size - n, "\\u%04x", c);
        else
            out[n++] = (char)c;
    }
    out[n] = '\0';
}

void log_line(const char *event, const char *format, ...)
{
    if (log_format == LOG_quiet)
        return;
    char text[1024], safe[2048], line[2304], when[40];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    log_escape(safe, sizeof safe, text);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct tm utc;
    gmtime_r(&now.tv_sec, &utc);
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &utc);
    const char *shape = log_format == LOG_json
                            ? "{\"time\":\"%s.%03ldZ\",\"event\":\"%s\",\"text\":\"%s\"}\n"
                            : "%s.%03ldZ %s: %s\n";
    int n = snprintf(line, sizeof line, shape, when, now.tv_nsec / 1000000, event, safe);
    flockfile(stderr); /* room for one line is not room for two */
    if (n > 0 && log_is_read() && write(STDERR_FILENO, line, (size_t)n) < 0)
        n = 0; /* a full disk: nothing to do about it */
    funlockfile(stderr);
}
