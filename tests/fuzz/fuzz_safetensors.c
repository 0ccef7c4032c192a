/* The first byte chooses: the rest is a file; or its header's text, with some bytes of data behind
 * it; or what to overwrite in a good file, as places and bytes. A file that is taken must be read
 * without a step outside of it, one that is refused must say why in one line. */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../kernels/safetensors.h"

enum {
    FILE_MAX = 1 << 16,
    DATA_SIZE = 64
};

static const char header[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                             "\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
                             "\"b\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[24,32]},"
                             "\"c\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[34,36]},"
                             "\"d\":{\"dtype\":\"BOOL\",\"shape\":[2,0],\"data_offsets\":[34,34]},"
                             "\"e\":{\"dtype\":\"U8\",\"shape\":[1,2],\"data_offsets\":[32,34]},"
                             "\"f\":{\"dtype\":\"F64\",\"shape\":[3],\"data_offsets\":[36,60]},"
                             "\"g\":{\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":[60,64]}}";

/* A file with this header and DATA_SIZE bytes behind it. */
static size_t wrap(char *file, const void *text, size_t size)
{
    memset(file, 0, 8);
    for (size_t i = 0; i < 8; i++)
        file[i] = (char)(size >> (8 * i) & 0xff);
    memcpy(file + 8, text, size);
    memset(file + 8 + size, 0x11, DATA_SIZE);
    return 8 + size + DATA_SIZE;
}

static size_t make_file(char *file, const uint8_t *data, size_t size)
{
    const int kind = size > 0 ? data[0] % 3 : 0;
    const size_t n = size > 0 ? size - 1 : 0;
    if (kind == 0 && n > 0)
        memcpy(file, data + 1, n);
    if (kind == 0)
        return n;
    if (kind == 1)
        return wrap(file, data + 1, n);
    const size_t made = wrap(file, header, sizeof header - 1);
    for (size_t i = 1; i + 3 <= size; i += 3)
        file[(size_t)(data[i] << 8 | data[i + 1]) % made] = (char)data[i + 2];
    return made;
}

static void check_refusal(const struct err *e)
{
    assert(e->code == ERR_file);
    assert(e->text[0] != '\0');
    assert(!strchr(e->text, '\n'));
}

static void read_all(const struct safetensors *s, struct arena *a)
{
    for (int i = 0; i < s->n_tensors; i++) {
        const struct safetensor *t = &s->tensors[i];
        struct err e = {0};
        float *x = ARENA_ARRAY(a, float, t->count);
        assert(safetensors_find(s, t->name) == t);
        if (!safetensors_read(x, s, t, &e))
            check_refusal(&e);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char file[FILE_MAX + sizeof header + DATA_SIZE + 8];
    if (size > FILE_MAX)
        return -1;
    const size_t made = make_file(file, data, size);
    const int fd = memfd_create("fuzz", 0);
    assert(fd >= 0);
    const ssize_t written = write(fd, file, made);
    assert(written == (ssize_t)made);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);

    struct arena a = {0};
    struct err e = {0};
    struct safetensors s;
    if (safetensors_open(&s, path, &a, &e))
        read_all(&s, &a);
    else
        check_refusal(&e);
    safetensors_close(&s);
    arena_free(&a);
    close(fd);
    return 0;
}
