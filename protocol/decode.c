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

bool decode_count(const struct trace *t, int n_prompts, const char *place, struct decoder *d)
{
    const int copies = trace_copies(t);
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
    const int copies = trace_copies(&d->graph->traces[invoke->trace]), n = invoke->n_prompts;
    struct prompt *prompts = ARENA_ARRAY(d->arena, struct prompt, (size_t)(n * copies));
    for (int i = 0; i < n * copies; i++)
        prompts[i] = invoke->prompts[i / copies];
    invoke->n_prompts = n * copies;
    invoke->prompts = prompts;
}

/* A text, a list of ids, or a list of either. */
static bool read_prompt(struct invoke *invoke, struct tree t, const char *place, struct decoder *d)
{
    const bool one =
        tree_kind(t) == TREE_text || tree_count(t) == 0 || tree_kind(tree_item(t, 0)) == TREE_int;
    invoke->n_prompts = one ? 1 : tree_count(t);
    if (!decode_count(&d->graph->traces[invoke->trace], invoke->n_prompts, place, d))
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

/* The tokenizer knows its own sign when it sees it. A prompt's copies share its text, however long
 * that is. */
static bool add_bos(struct invoke *invoke, struct decoder *d)
{
    static const char bos[] = "<|endoftext|>";
    const int copies = trace_copies(&d->graph->traces[invoke->trace]);
    for (int i = 0; i < invoke->n_prompts; i++) {
        struct prompt *p = &invoke->prompts[i];
        if (i % copies > 0) {
            *p = p[-1];
            continue;
        }
        if (!p->text) {
            err_set(d->e, ERR_value, "add_bos is for texts: token ids are taken as they are");
            return err_at(d->e, -1, "%s.add_bos", invoke->place);
        }
        p->text = arena_format(d->arena, "%s%s", bos, p->text);
        p->text_bytes += sizeof bos - 1;
    }
    return true;
}

static bool read_invoke(struct invoke *invoke, struct tree map, struct decoder *d)
{
    static const struct field fields[] = {{"prompt", KIND_text | KIND_list, true},
                                          {"add_bos", KIND_bool, false}};
    struct tree v[2];
    return decode_fields(v, map, fields, 2, invoke->place, -1, d->e) &&
           read_prompt(invoke, v[0], arena_format(d->arena, "%s.prompt", invoke->place), d) &&
           (!v[1].at || !tree_bool(v[1]) || add_bos(invoke, d));
}

/* Of one trace, behind those of the traces before it. */
static bool read_invokes(struct trace *t, struct tree invokes, struct tree prompt,
                         struct decoder *d)
{
    struct graph *g = d->graph;
    if (!invokes.at == !prompt.at)
        return err_set(d->e, ERR_syntax, "a %s has either invokes or a prompt",
                       *t->place ? "trace" : "request");
    t->invoke_first = g->n_invokes;
    t->n_invokes = invokes.at ? tree_count(invokes) : 1;
    g->n_invokes += t->n_invokes;
    if (t->n_invokes < 1 || g->n_invokes > INVOKES_MAX) {
        err_set(d->e, t->n_invokes ? ERR_limit : ERR_value, "a request has 1 to %d invokes, not %d",
                INVOKES_MAX, t->n_invokes ? g->n_invokes : 0);
        return err_at(d->e, -1, "%sinvokes", t->place);
    }
    for (int i = 0; i < t->n_invokes; i++) {
        struct invoke *v = &g->invokes[t->invoke_first + i];
        v->trace = (int)(t - g->traces);
        v->place = arena_format(d->arena, "%sinvokes[%d]", t->place, i);
        if (prompt.at)
            return read_prompt(v, prompt, arena_format(d->arena, "%sprompt", t->place), d);
        if (!read_invoke(v, tree_item(invokes, i), d))
            return false;
    }
    return true;
}

/* A trace's fields come first: a request of one trace has them as its own. */
enum {
    TRACE_PROMPT, TRACE_INVOKES, TRACE_NEW_TOKENS, TRACE_LEAST, TRACE_SAMPLING, TRACE_STOP,
    TRACE_EOS, TRACE_FIELDS,
    REQUEST_MODEL = TRACE_FIELDS, REQUEST_TRACES, REQUEST_NODES, REQUEST_SAVE, REQUEST_SET,
    REQUEST_FIELDS
};

static const struct field request_fields[REQUEST_FIELDS] = {
    [TRACE_PROMPT] = {"prompt", KIND_text | KIND_list, false},
    [TRACE_INVOKES] = {"invokes", KIND_list, false},
    [TRACE_NEW_TOKENS] = {"max_new_tokens", KIND_int, false},
    [TRACE_LEAST] = {"min_new_tokens", KIND_int, false},
    [TRACE_SAMPLING] = {"sampling", KIND_map, false},
    [TRACE_STOP] = {"stop", KIND_text | KIND_int | KIND_list, false},
    [TRACE_EOS] = {"eos_token_id", KIND_int | KIND_list, false},
    [REQUEST_MODEL] = {"model", KIND_text, false},
    [REQUEST_TRACES] = {"traces", KIND_list, false},
    [REQUEST_NODES] = {"nodes", KIND_list, false},
    [REQUEST_SAVE] = {"save", KIND_map, false},
    [REQUEST_SET] = {"set", KIND_map, false},
};

static bool read_trace(struct trace *t, const struct tree *v, struct decoder *d)
{
    t->sampling = (struct sampling){.top_p = 1, .repetition_penalty = 1, .n = 1};
    return decode_sampling(t, v[TRACE_SAMPLING], d) &&
           read_invokes(t, v[TRACE_INVOKES], v[TRACE_PROMPT], d) &&
           decode_new_tokens(t, v[TRACE_NEW_TOKENS], v[TRACE_LEAST], "max_new_tokens",
                             "min_new_tokens", d->e) &&
           decode_ending(t, v[TRACE_STOP], v[TRACE_EOS], d);
}

/* The request's own fields, or a list of maps of the same. */
static bool read_traces(const struct tree *v, struct decoder *d)
{
    struct graph *g = d->graph;
    g->n_traces = v[REQUEST_TRACES].at ? tree_count(v[REQUEST_TRACES]) : 1;
    if (g->n_traces < 1 || g->n_traces > INVOKES_MAX) {
        err_set(d->e, g->n_traces ? ERR_limit : ERR_value, "a request has 1 to %d traces, not %d",
                INVOKES_MAX, g->n_traces);
        return err_at(d->e, -1, "traces");
    }
    g->traces = ARENA_ARRAY(d->arena, struct trace, (size_t)g->n_traces);
    g->invokes = ARENA_ARRAY(d->arena, struct invoke, INVOKES_MAX);
    if (!v[REQUEST_TRACES].at) {
        g->traces[0].place = "";
        return read_trace(&g->traces[0], v, d);
    }
    for (int i = 0; i < TRACE_FIELDS; i++) {
        if (v[i].at) {
            err_set(d->e, ERR_syntax, "a request with traces has %s in each of them",
                    request_fields[i].name);
            return err_at(d->e, -1, "%s", request_fields[i].name);
        }
    }
    for (int i = 0; i < g->n_traces; i++) {
        struct trace *t = &g->traces[i];
        struct tree fields[TRACE_FIELDS];
        char place[24];
        snprintf(place, sizeof place, "traces[%d]", i);
        t->place = arena_format(d->arena, "%s.", place);
        if (!decode_fields(fields, tree_item(v[REQUEST_TRACES], i), request_fields, TRACE_FIELDS,
                           place, -1, d->e))
            return false;
        if (!read_trace(t, fields, d))
            return err_at(d->e, -1, "%s", place);
    }
    return true;
}

static bool read_request(struct tree root, struct decoder *d)
{
    struct tree v[REQUEST_FIELDS];
    if (!decode_fields(v, root, request_fields, REQUEST_FIELDS, "", -1, d->e))
        return false;
    if (v[REQUEST_MODEL].at) {
        const struct tree_text model = tree_text(v[REQUEST_MODEL]);
        d->graph->model = arena_copy_text(d->arena, model.at, model.length);
    }
    return read_traces(v, d) &&
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
