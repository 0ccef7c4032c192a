/* Where a model lies on this machine: a folder, or a repo in Hugging Face's cache, laid out as
 *     models--OWNER--NAME/refs/main            the snapshot's hash
 *     models--OWNER--NAME/snapshots/HASH/...   links to the files
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "gpt2.h"

enum {
    REPO_ID_MAX = 96, /* Hugging Face's own limit */
    REF_BYTES_MAX = 4096,
};

/* The owners that bare names have today. */
static const struct {
    const char *name, *repo;
} renamed[] = {
    {"gpt2", "openai-community/gpt2"},
    {"gpt2-medium", "openai-community/gpt2-medium"},
    {"gpt2-large", "openai-community/gpt2-large"},
    {"gpt2-xl", "openai-community/gpt2-xl"},
    {"distilgpt2", "distilbert/distilgpt2"},
};

static bool is_folder(const char *path)
{
    struct stat s;
    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

/* Hugging Face's rule: NAME or OWNER/NAME of letters, digits, "-", "_" and ".", neither "--" nor
 * "..", neither "-" nor "." at an end. */
static bool is_repo_id(const char *name)
{
    const size_t n = strlen(name);
    if (n == 0 || n > REPO_ID_MAX || strstr(name, "--") || strstr(name, ".."))
        return false;
    int n_slashes = 0;
    for (size_t i = 0; i < n; i++) {
        const char c = name[i], next = name[i + 1];
        const bool joint = c == '-' || c == '.';
        const bool starts = i == 0 || name[i - 1] == '/', ends = next == '\0' || next == '/';
        n_slashes += c == '/';
        if (c == '/' ? starts || ends : !isalnum((unsigned char)c) && !joint && c != '_')
            return false;
        if (joint && (starts || ends))
            return false;
    }
    return n_slashes <= 1;
}

/* The start of a name that may hold anything, with '?' for what is not plain. */
static const char *printable(const char *name, struct arena *a)
{
    const size_t n = strnlen(name, REPO_ID_MAX);
    char *text = arena_copy_text(a, name, n);
    for (size_t i = 0; i < n; i++)
        if (!isascii((unsigned char)text[i]) || iscntrl((unsigned char)text[i]))
            text[i] = '?';
    return text;
}

/* A variable's text, or NULL where it is empty or not set. */
static const char *variable(const char *name)
{
    const char *value = getenv(name);
    return value && value[0] ? value : NULL;
}

static const char *cache_dir(struct arena *a)
{
    const char *dir = variable("HF_HUB_CACHE");
    if (dir)
        return dir;
    if ((dir = variable("HF_HOME")))
        return arena_format(a, "%s/hub", dir);
    if ((dir = variable("XDG_CACHE_HOME")))
        return arena_format(a, "%s/huggingface/hub", dir);
    dir = variable("HOME");
    return arena_format(a, "%s/.cache/huggingface/hub", dir ? dir : "");
}

/* The first line of refs/main, if it can be the name of a folder beside it. */
static const char *snapshot_hash(const char *path, struct arena *a)
{
    char *text;
    size_t size;
    if (!read_file(&text, &size, path, REF_BYTES_MAX, a, &(struct err){0}))
        return NULL;
    const size_t n = strspn(text, "0123456789abcdefABCDEF");
    const bool ends = text[n + strspn(text + n, "\r\n")] == '\0';
    text[n] = '\0';
    return n > 0 && ends ? text : NULL;
}

static bool find_repo(char **dir, const char *cache, const char *repo, struct arena *a)
{
    const char *slash = strchr(repo, '/');
    const char *base =
        slash ? arena_format(a, "%s/models--%.*s--%s", cache, (int)(slash - repo), repo, slash + 1)
              : arena_format(a, "%s/models--%s", cache, repo);
    const char *hash = snapshot_hash(arena_format(a, "%s/refs/main", base), a);
    if (!hash)
        return false;
    *dir = arena_format(a, "%s/snapshots/%s", base, hash);
    return is_folder(*dir);
}

bool model_find(char **dir, const char *name, struct arena *a, struct err *e)
{
    if (is_folder(name)) {
        *dir = arena_copy_text(a, name, strlen(name));
        return true;
    }
    if (!is_repo_id(name))
        return err_set(e, ERR_file,
                       "there is no folder \"%s\": a model is a folder, or a name as on Hugging "
                       "Face such as openai-community/gpt2",
                       printable(name, a));
    const char *cache = cache_dir(a);
    if (find_repo(dir, cache, name, a))
        return true;
    const char *repo = name;
    for (size_t i = 0; i < sizeof renamed / sizeof *renamed; i++)
        if (!strcmp(name, renamed[i].name))
            repo = renamed[i].repo;
    if (repo != name && find_repo(dir, cache, repo, a))
        return true;
    return err_set(e, ERR_file,
                   "%s is neither a folder nor in the cache %s: try \"hf download %s\"", name,
                   cache, repo);
}
