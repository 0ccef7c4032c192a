#include "shards.h"

#include <jansson.h>
#include <string.h>
#include <unistd.h>

enum {
    SHARDS_MAX = 64,            /* each stays open while the model is loaded */
    INDEX_BYTES_MAX = 16 << 20, /* gpt2-xl's would take 60 KB */
};

const struct safetensor *shards_find(const struct safetensors **file, const struct shards *s,
                                     const char *name)
{
    for (int i = 0; i < s->n_files; i++) {
        const struct safetensor *t = safetensors_find(&s->files[i], name);
        *file = &s->files[i];
        if (t)
            return t;
    }
    return NULL;
}

/* The shard of this file name, opened if it is new, or NULL. A name stays inside of the folder. */
static struct safetensors *shard_of(struct shards *s, const char *dir, const char *name,
                                    struct arena *a, struct err *e)
{
    char shown[SHOWN_SIZE];
    safetensors_shown(shown, name);
    if (name[0] == '\0' || name[0] == '.' || strchr(name, '/') || strcmp(shown, name)) {
        err_set(e, ERR_file, "%s: weight_map names \"%s\", which is not a file of this folder",
                s->path, shown);
        return NULL;
    }
    const char *path = arena_format(a, "%s/%s", dir, name);
    for (int i = 0; i < s->n_files; i++)
        if (!strcmp(s->files[i].path, path))
            return &s->files[i];
    if (s->n_files == SHARDS_MAX) {
        err_set(e, ERR_file, "%s: names more than %d files", s->path, SHARDS_MAX);
        return NULL;
    }
    return safetensors_open(&s->files[s->n_files++], path, a, e) ? &s->files[s->n_files - 1] : NULL;
}

static bool open_entry(struct shards *s, const char *dir, const char *name, const json_t *file,
                       struct arena *a, struct err *e)
{
    char shown[SHOWN_SIZE];
    safetensors_shown(shown, name);
    if (!json_is_string(file))
        return err_set(e, ERR_file, "%s: weight_map does not say which file has %s", s->path,
                       shown);
    const struct safetensors *shard = shard_of(s, dir, json_string_value(file), a, e);
    if (!shard)
        return false;
    if (!safetensors_find(shard, name))
        return err_set(e, ERR_file, "%s: has no tensor %s, but the index says so", shard->path,
                       shown);
    return true;
}

static bool check_once(const struct shards *s, struct err *e)
{
    for (int i = 1; i < s->n_files; i++)
        for (int k = 0; k < s->files[i].n_tensors; k++) {
            const char *name = s->files[i].tensors[k].name;
            const struct safetensors *first = NULL;
            shards_find(&first, s, name);
            char shown[SHOWN_SIZE];
            if (first != &s->files[i])
                return err_set(e, ERR_file, "%s: has %s, and so has %s", s->files[i].path,
                               safetensors_shown(shown, name), first->path);
        }
    return true;
}

static bool open_all(struct shards *s, const char *dir, const json_t *root, struct arena *a,
                     struct err *e)
{
    json_t *map = json_object_get(root, "weight_map");
    if (!json_is_object(map))
        return err_set(e, ERR_file, "%s: has no weight_map", s->path);
    const char *name;
    json_t *file;
    json_object_foreach(map, name, file)
    {
        if (!open_entry(s, dir, name, file, a, e))
            return false;
    }
    return check_once(s, e);
}

static bool open_index(struct shards *s, const char *dir, struct arena *a, struct err *e)
{
    s->files = ARENA_ARRAY(a, struct safetensors, SHARDS_MAX);
    char *text;
    size_t size;
    json_t *root;
    if (!read_file(&text, &size, s->path, INDEX_BYTES_MAX, a, e) ||
        !safetensors_json(&root, text, size, s->path, e))
        return false;
    const bool ok = open_all(s, dir, root, a, e);
    json_decref(root);
    return ok;
}

static bool is_there(const char *dir, const char *name, struct arena *a)
{
    return access(arena_format(a, "%s/%s", dir, name), F_OK) == 0;
}

static bool refuse(const char *dir, struct arena *a, struct err *e)
{
    if (!is_there(dir, "pytorch_model.bin", a) && !is_there(dir, "pytorch_model.bin.index.json", a))
        return err_set(e, ERR_file, "%s: has neither model.safetensors nor its index", dir);
    return err_set(e, ERR_file,
                   "%s: has only a pytorch_model.bin, a pickle, which could run code: with "
                   "transformers, GPT2LMHeadModel.from_pretrained(folder).save_pretrained(folder) "
                   "writes model.safetensors beside it",
                   dir);
}

bool shards_open(struct shards *s, const char *dir, struct arena *a, struct err *e)
{
    *s = (struct shards){.path = arena_format(a, "%s/model.safetensors", dir)};
    if (access(s->path, F_OK) == 0) {
        s->files = ARENA_NEW(a, struct safetensors);
        s->n_files = 1;
        return safetensors_open(s->files, s->path, a, e);
    }
    s->path = arena_format(a, "%s/model.safetensors.index.json", dir);
    return access(s->path, F_OK) == 0 ? open_index(s, dir, a, e) : refuse(dir, a, e);
}

void shards_close(struct shards *s)
{
    for (int i = 0; i < s->n_files; i++)
        safetensors_close(&s->files[i]);
    s->n_files = 0;
}
