#include "decode_parts.h"

#include <stdio.h>

static bool read_tokens(struct prompt *p, struct tree list, const struct model_shape *m,
                        struct arena *a, struct err *e)
{
    const int count = tree_count(list);
    int32_t *tokens = ARENA_ARRAY(a, int32_t, (size_t)count);
    for (int i = 0; i < count; i++) {
        const struct tree t = tree_item(list, i);
        int64_t id = 0;
        if (tree_kind(t) != TREE_int)
            return err_set(e, ERR_type, "a prompt holds token ids, not %s",
                           tree_kind_name[tree_kind(t)]);
        if (!decode_int(&id, t, "a token id", 0, m->vocab - 1, e))
            return false;
        tokens[i] = (int32_t)id;
    }
    *p = (struct prompt){.tokens = tokens, .n_tokens = count};
    return count ? true : err_set(e, ERR_value, "a prompt is empty");
}

static bool read_text(struct prompt *p, struct tree t, struct arena *a, struct err *e)
{
    const struct tree_text text = tree_text(t);
    *p = (struct prompt){.text = arena_copy_text(a, text.at, text.length),
                         .text_bytes = text.length};
    return text.length ? true : err_set(e, ERR_value, "a prompt is empty");
}

bool decode_sequence(struct prompt *p, struct tree t, struct decoder *d)
{
    const enum tree_kind kind = tree_kind(t);
    if (kind == TREE_text)
        return read_text(p, t, d->arena, d->e);
    if (kind == TREE_list)
        return read_tokens(p, t, d->model, d->arena, d->e);
    return err_set(d->e, ERR_type, "a prompt is a text or a list of token ids, not %s",
                   tree_kind_name[kind]);
}

bool decode_count(int n_prompts, const char *place, struct decoder *d)
{
    const int copies = graph_copies(d->graph);
    d->n_sequences += n_prompts * copies;
    if (d->n_sequences <= SEQUENCES_MAX)
        return true;
    if (copies == 1)
        err_set(d->e, ERR_limit, "a request has at most %d prompts", SEQUENCES_MAX);
    else
        err_set(d->e, ERR_limit, "a request has at most %d prompts, and each counts n times, %d",
                SEQUENCES_MAX, copies);
    return err_at(d->e, -1, "%s", place);
}

void decode_copies(struct invoke *invoke, struct decoder *d)
{
    const int copies = graph_copies(d->graph), n = invoke->n_prompts;
    struct prompt *prompts = ARENA_ARRAY(d->arena, struct prompt, (size_t)(n * copies));
    for (int i = 0; i < n * copies; i++)
        prompts[i] = invoke->prompts[i / copies];
    *invoke = (struct invoke){n * copies, prompts};
}

/* A text, a list of ids, or a list of either. */
static bool read_prompt(struct invoke *invoke, struct tree t, const char *place, struct decoder *d)
{
    const bool one =
        tree_kind(t) == TREE_text || tree_count(t) == 0 || tree_kind(tree_item(t, 0)) == TREE_int;
    invoke->n_prompts = one ? 1 : tree_count(t);
    if (!decode_count(invoke->n_prompts, place, d))
        return false;
    invoke->prompts = ARENA_ARRAY(d->arena, struct prompt, (size_t)invoke->n_prompts);
    if (one && !decode_sequence(invoke->prompts, t, d))
        return err_at(d->e, -1, "%s", place);
    for (int i = 0; i < invoke->n_prompts && !one; i++) {
        if (!decode_sequence(&invoke->prompts[i], tree_item(t, i), d))
            return err_at(d->e, -1, "%s[%d]", place, i);
    }
    decode_copies(invoke, d);
    return true;
}

static bool read_invokes(struct tree invokes, struct tree prompt, struct decoder *d)
{
    static const struct field fields[] = {{"prompt", KIND_text | KIND_list, true}};
    struct graph *g = d->graph;
    if (!invokes.at == !prompt.at)
        return err_set(d->e, ERR_syntax, "a request has either invokes or a prompt");
    g->n_invokes = invokes.at ? tree_count(invokes) : 1;
    if (g->n_invokes < 1 || g->n_invokes > INVOKES_MAX) {
        err_set(d->e, g->n_invokes ? ERR_limit : ERR_value, "a request has 1 to %d invokes, not %d",
                INVOKES_MAX, g->n_invokes);
        return err_at(d->e, -1, "invokes");
    }
    g->invokes = ARENA_ARRAY(d->arena, struct invoke, (size_t)g->n_invokes);
    if (prompt.at)
        return read_prompt(&g->invokes[0], prompt, "prompt", d);
    for (int i = 0; i < g->n_invokes; i++) {
        char place[40];
        snprintf(place, sizeof place, "invokes[%d]", i);
        struct tree value;
        if (!decode_fields(&value, tree_item(invokes, i), fields, 1, place, -1, d->e))
            return false;
        snprintf(place, sizeof place, "invokes[%d].prompt", i);
        if (!read_prompt(&g->invokes[i], value, place, d))
            return false;
    }
    return true;
}

enum {
    REQUEST_MODEL, REQUEST_PROMPT, REQUEST_INVOKES, REQUEST_NEW_TOKENS, REQUEST_LEAST,
    REQUEST_SAMPLING, REQUEST_STOP, REQUEST_EOS, REQUEST_NODES, REQUEST_SAVE, REQUEST_SET,
    REQUEST_FIELDS
};

static const struct field request_fields[REQUEST_FIELDS] = {
    [REQUEST_MODEL] = {"model", KIND_text, false},
    [REQUEST_PROMPT] = {"prompt", KIND_text | KIND_list, false},
    [REQUEST_INVOKES] = {"invokes", KIND_list, false},
    [REQUEST_NEW_TOKENS] = {"max_new_tokens", KIND_int, false},
    [REQUEST_LEAST] = {"min_new_tokens", KIND_int, false},
    [REQUEST_STOP] = {"stop", KIND_text | KIND_int | KIND_list, false},
    [REQUEST_EOS] = {"eos_token_id", KIND_int | KIND_list, false},
    [REQUEST_SAMPLING] = {"sampling", KIND_map, false},
    [REQUEST_NODES] = {"nodes", KIND_list, false},
    [REQUEST_SAVE] = {"save", KIND_map, false},
    [REQUEST_SET] = {"set", KIND_map, false},
};

static bool read_request(struct tree root, struct decoder *d)
{
    struct tree v[REQUEST_FIELDS];
    if (!decode_fields(v, root, request_fields, REQUEST_FIELDS, "", -1, d->e))
        return false;
    if (v[REQUEST_MODEL].at) {
        const struct tree_text model = tree_text(v[REQUEST_MODEL]);
        d->graph->model = arena_copy_text(d->arena, model.at, model.length);
    }
    d->graph->sampling = (struct sampling){.top_p = 1, .repetition_penalty = 1, .n = 1};
    return decode_sampling(&d->graph->sampling, v[REQUEST_SAMPLING], d->e) &&
           read_invokes(v[REQUEST_INVOKES], v[REQUEST_PROMPT], d) &&
           decode_new_tokens(d->graph, v[REQUEST_NEW_TOKENS], v[REQUEST_LEAST], "max_new_tokens",
                             "min_new_tokens", d->e) &&
           decode_ending(&d->graph->ending, v[REQUEST_STOP], v[REQUEST_EOS], d) &&
           decode_nodes(v[REQUEST_NODES], v[REQUEST_SET], v[REQUEST_SAVE], d);
}

bool decode_request(struct graph *g, const char *body, size_t size, enum media media,
                    const struct model_shape *m, struct arena *a, struct err *e)
{
    struct arena scratch = {0};
    struct tree_document document;
    struct decoder d = {.graph = g, .model = m, .arena = a, .scratch = &scratch, .e = e};
    *g = (struct graph){0};
    const bool ok =
        tree_open(&document, body, size, media, &scratch, e) && read_request(document.root, &d);
    tree_close(&document);
    arena_free(&scratch);
    return ok;
}

static bool read_texts(struct text_list *t, struct tree root, struct arena *a, struct err *e)
{
    static const struct field fields[] = {{"text", KIND_text | KIND_list, true}};
    struct tree value;
    if (!decode_fields(&value, root, fields, 1, "", -1, e))
        return false;
    t->is_list = tree_kind(value) == TREE_list;
    t->count = t->is_list ? tree_count(value) : 1;
    t->texts = ARENA_ARRAY(a, const char *, (size_t)t->count);
    t->bytes = ARENA_ARRAY(a, size_t, (size_t)t->count);
    for (int i = 0; i < t->count; i++) {
        const struct tree item = t->is_list ? tree_item(value, i) : value;
        if (tree_kind(item) != TREE_text) {
            err_set(e, ERR_type, "a list of texts holds %s", tree_kind_name[tree_kind(item)]);
            return err_at(e, -1, "text[%d]", i);
        }
        const struct tree_text text = tree_text(item);
        t->texts[i] = arena_copy_text(a, text.at, text.length);
        t->bytes[i] = text.length;
    }
    return true;
}

bool decode_texts(struct text_list *t, const char *body, size_t size, enum media media,
                  struct arena *a, struct err *e)
{
    struct arena scratch = {0};
    struct tree_document document;
    *t = (struct text_list){0};
    const bool ok =
        tree_open(&document, body, size, media, &scratch, e) && read_texts(t, document.root, a, e);
    tree_close(&document);
    arena_free(&scratch);
    return ok;
}

static bool read_ids(const int32_t **tokens, int *length, struct tree list, struct arena *a,
                     struct err *e)
{
    if (tree_kind(list) != TREE_list)
        return err_set(e, ERR_type, "a list of token ids is needed, not %s",
                       tree_kind_name[tree_kind(list)]);
    *length = tree_count(list);
    int32_t *ids = ARENA_ARRAY(a, int32_t, (size_t)*length);
    for (int i = 0; i < *length; i++) {
        const struct tree t = tree_item(list, i);
        int64_t id = 0;
        if (tree_kind(t) != TREE_int)
            return err_set(e, ERR_type, "a list of token ids holds %s",
                           tree_kind_name[tree_kind(t)]);
        if (!decode_int(&id, t, "a token id", 0, INT32_MAX, e))
            return false;
        ids[i] = (int32_t)id;
    }
    *tokens = ids;
    return true;
}

static bool read_token_lists(struct token_lists *t, struct tree root, struct arena *a,
                             struct err *e)
{
    static const struct field fields[] = {{"tokens", KIND_list, true}};
    struct tree value;
    if (!decode_fields(&value, root, fields, 1, "", -1, e))
        return false;
    t->is_list = tree_count(value) > 0 && tree_kind(tree_item(value, 0)) == TREE_list;
    t->count = t->is_list ? tree_count(value) : 1;
    t->tokens = ARENA_ARRAY(a, const int32_t *, (size_t)t->count);
    t->lengths = ARENA_ARRAY(a, int, (size_t)t->count);
    for (int i = 0; i < t->count; i++) {
        const struct tree item = t->is_list ? tree_item(value, i) : value;
        if (!read_ids(&t->tokens[i], &t->lengths[i], item, a, e))
            return t->is_list ? err_at(e, -1, "tokens[%d]", i) : err_at(e, -1, "tokens");
    }
    return true;
}

bool decode_token_lists(struct token_lists *t, const char *body, size_t size, enum media media,
                        struct arena *a, struct err *e)
{
    struct arena scratch = {0};
    struct tree_document document;
    *t = (struct token_lists){0};
    const bool ok = tree_open(&document, body, size, media, &scratch, e) &&
                    read_token_lists(t, document.root, a, e);
    tree_close(&document);
    arena_free(&scratch);
    return ok;
}
