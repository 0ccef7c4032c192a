/* What every module stands on: failing with a reason, memory that is freed all at once, one log.
 *
 * A function that the outside world can make fail returns bool and takes a struct err last.
 * A function that only a bug can make fail asserts. Asserts stay on in release builds.
 */
#pragma once
#include <assert.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum err_code {
    ERR_none,
#define ERR(id, http, meaning) ERR_##id,
#include "errors.def"
#undef ERR
    ERR_COUNT
};

struct err_info {
    const char *name;
    int http; /* the status of a reply that says it */
    const char *meaning;
};

extern const struct err_info err_info[ERR_COUNT];

struct err {
    enum err_code code;
    int node;        /* the index of the node at fault, or -1; read it only if code is set */
    char where[128]; /* the place in the request, "nodes[3].args[0]", or empty */
    char text[384];  /* one sentence for a person, without a full stop; valid UTF-8 */
};

/* Records the first failure and returns false, so that a caller can return it. Later ones are
 * ignored. */
bool err_set(struct err *e, enum err_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Names the place of the failure just recorded, unless a place is known already. Returns false. */
bool err_at(struct err *e, int node, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Memory with one lifetime: a process, a job or a pass. Not for two threads at once. */
struct arena {
    struct arena_block *blocks;
    size_t used; /* bytes handed out so far */
};

/* Zeroed, aligned to 64 bytes, never NULL: limits.h bounds what a request can ask for, and a
 * machine without memory ends the process with one line. Lives until arena_free. */
void *arena_alloc(struct arena *a, size_t size);

/* An array of `count` elements; the product is checked. */
void *arena_array(struct arena *a, size_t count, size_t size);

char *arena_copy_text(struct arena *a, const char *text, size_t length); /* adds the final NUL */
char *arena_format(struct arena *a, const char *format, ...) __attribute__((format(printf, 2, 3)));
void arena_free(struct arena *a);

#define ARENA_NEW(arena, type) ((type *)arena_alloc((arena), sizeof(type)))
#define ARENA_ARRAY(arena, type, count) ((type *)arena_array((arena), (count), sizeof(type)))

/* An array that grows in an arena by doubling: `*items` moves, the old copy stays until the arena
 * goes. Returns the place of the new last element, zeroed. */
void *arena_push(struct arena *a, void *items, int *count, int *capacity, size_t size);

/* A file's bytes, read whole into the arena: regular files only (a FIFO, a device or a folder is
 * refused), at most `size_max` bytes. One NUL is added after the last byte. */
bool read_file(char **bytes, size_t *size, const char *path, size_t size_max, struct arena *a,
               struct err *e);

/* Plain zeroed memory aligned to 64 bytes for a backend's large buffers, in huge pages where the
 * system gives them; untouched pages cost nothing. NULL where the system refuses. */
void *memory_map(size_t size);
void memory_unmap(void *p, size_t size);

/* The same memory with another size, elsewhere perhaps, but not copied. */
void *memory_remap(void *p, size_t size, size_t new_size);

/* How many single characters must change, come or go to make `a` of `b` (Levenshtein), for "did you
 * mean". Only the first 64 of each count. */
int text_distance(const char *a, size_t a_length, const char *b, size_t b_length);

/* Monotonic seconds. */
double seconds_now(void);

/* One line on standard error, as text or as one JSON object, whole even with many threads. Text
 * from outside is escaped. A line that would have to wait, for a pipe that nobody reads, is
 * dropped. Set the format once, before threads start. */
enum log_format { LOG_text, LOG_json, LOG_quiet };
void log_open(enum log_format format);
void log_line(const char *event, const char *format, ...) __attribute__((format(printf, 2, 3)));
