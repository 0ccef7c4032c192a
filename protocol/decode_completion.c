/* The body of /v1/completions to a graph. */
#include "completion.h"
#include "decode_parts.h"

#include <string.h>

enum {
    BODY_MODEL = SAMPLING_FIELDS, BODY_PROMPT, BODY_MAX, BODY_MIN, BODY_STOP, BODY_EOS, BODY_ECHO,
    BODY_STREAM, BODY_STREAM_OPTIONS, BODY_LOGPROBS, BODY_USER, BODY_BEST_OF, BODY_FREQUENCY,
    BODY_PRESENCE, BODY_BIAS, BODY_SUFFIX, BODY_FIELDS
};

/* Behind those of decode_sampling_field. */
static const struct field own_fields[BODY_FIELDS] = {
    [BODY_MODEL] = {"model", KIND_text, false},
    [BODY_PROMPT] = {"prompt", KIND_text | KIND_list, true},
    [BODY_MAX] = {"max_tokens", KIND_int, false},
    [BODY_MIN] = {"min_tokens", KIND_int, false},
    [BODY_STOP] = {"stop", KIND_text | KIND_int | KIND_list, false},
    [BODY_EOS] = {"eos_token_id", KIND_int | KIND_list, false},
    [BODY_ECHO] = {"echo", KIND_bool, false},
    [BODY_STREAM] = {"stream", KIND_bool, false},
    [BODY_STREAM_OPTIONS] = {"stream_options", KIND_map, false},
    [BODY_LOGPROBS] = {"logprobs", KIND_int, false},
    [BODY_USER] = {"user", KIND_text, false}, /* X-Interpose-User says who asks */
    [BODY_BEST_OF] = {"best_of", KIND_int, false},
    [BODY_FREQUENCY] = {"frequency_penalty", KIND_number, false},
    [BODY_PRESENCE] = {"presence_penalty", KIND_number, false},
    [BODY_BIAS] = {"logit_bias", KIND_map, false},
    [BODY_SUFFIX] = {"suffix", KIND_text, false},
};

enum { MAX_TOKENS_DEFAULT = 16 }; /* OpenAI's */

static bool refuse_unsupported(const char *place, struct err *e)
{
    err_set(e, ERR_value, "%s is not supported here: leave it out", place);
    return err_at(e, -1, "%s", place);
}

/* What OpenAI's clients may send is taken where it asks for nothing. */
static bool check_unsupported(const struct tree *v, int64_t n, struct err *e)
{
    const bool asks[BODY_FIELDS] = {
        [BODY_BEST_OF] = v[BODY_BEST_OF].at && tree_int(v[BODY_BEST_OF]) != n,
        [BODY_FREQUENCY] = v[BODY_FREQUENCY].at && tree_real(v[BODY_FREQUENCY]) != 0,
        [BODY_PRESENCE] = v[BODY_PRESENCE].at && tree_real(v[BODY_PRESENCE]) != 0,
        [BODY_BIAS] = v[BODY_BIAS].at && tree_count(v[BODY_BIAS]) > 0,
        [BODY_SUFFIX] = v[BODY_SUFFIX].at && tree_text(v[BODY_SUFFIX]).length > 0,
    };
    for (int i = 0; i < BODY_FIELDS; i++) {
        if (asks[i])
            return refuse_unsupported(own_fields[i].name, e);
    }
    return true;
}

/* A text or a list of ids is one prompt, a list of either several. */
static bool read_prompts(struct tree t, struct decoder *d)
{
    struct graph *g = d->graph;
    const bool one =
        tree_kind(t) == TREE_text || tree_count(t) == 0 || tree_kind(tree_item(t, 0)) == TREE_int;
    const int n = one ? 1 : tree_count(t);
    if (n > INVOKES_MAX) {
        err_set(d->e, ERR_limit, "a request has at most %d prompts, not %d", INVOKES_MAX, n);
        return err_at(d->e, -1, "prompt");
    }
    g->n_invokes = g->traces[0].n_invokes = n;
    g->invokes = ARENA_ARRAY(d->arena, struct invoke, (size_t)n);
    for (int i = 0; i < n; i++) {
        struct invoke *v = &g->invokes[i];
        v->place = arena_format(d->arena, "invokes[%d]", i);
        v->n_prompts = 1;
        v->prompts = ARENA_NEW(d->arena, struct prompt);
        if (!decode_sequence(v->prompts, one ? t : tree_item(t, i), d))
            return one ? err_at(d->e, -1, "prompt") : err_at(d->e, -1, "prompt[%d]", i);
        if (!decode_count(&g->traces[0], 1, "prompt", d))
            return false;
        decode_copies(v, d);
    }
    return true;
}

static bool flag(struct tree t)
{
    return t.at && tree_bool(t);
}

static bool read_stream_options(struct completion *c, struct tree map, struct err *e)
{
    static const struct field fields[] = {{"include_usage", KIND_bool, false},
                                          {"include_obfuscation", KIND_bool, false}};
    struct tree v[2];
    if (!map.at)
        return true;
    if (!decode_fields(v, map, fields, 2, "stream_options", -1, e))
        return false;
    if (flag(v[1]))
        return refuse_unsupported("stream_options.include_obfuscation", e);
    c->counts_usage = flag(v[0]);
    return true;
}

static bool read_logprobs(struct completion *c, struct tree t, struct err *e)
{
    int64_t n_top = 0;
    c->has_logprobs = t.at != NULL;
    if (t.at && !decode_int(&n_top, t, "logprobs", 0, TOP_LOGPROBS_MAX, e))
        return err_at(e, -1, "logprobs");
    c->n_top = (int)n_top;
    return true;
}

static bool read_body(struct completion *c, struct tree root, struct decoder *d)
{
    struct field fields[BODY_FIELDS];
    struct tree v[BODY_FIELDS];
    for (int i = 0; i < BODY_FIELDS; i++)
        fields[i] = i < SAMPLING_FIELDS ? decode_sampling_field(i) : own_fields[i];
    if (!decode_fields(v, root, fields, BODY_FIELDS, "", -1, d->e))
        return false;
    struct trace *t = &d->graph->traces[0];
    t->sampling = (struct sampling){
        .temperature = 1, .top_p = 1, .repetition_penalty = 1, .n = 1, .seed = -1};
    t->n_new_tokens = MAX_TOKENS_DEFAULT;
    if (v[BODY_MODEL].at) {
        const struct tree_text model = tree_text(v[BODY_MODEL]);
        d->graph->model = arena_copy_text(d->arena, model.at, model.length);
    }
    if (!decode_sampling_values(&t->sampling, v, "", d->e) ||
        !check_unsupported(v, t->sampling.n, d->e) || !read_prompts(v[BODY_PROMPT], d) ||
        !decode_new_tokens(t, v[BODY_MAX], v[BODY_MIN], "max_tokens", "min_tokens", d->e) ||
        !decode_ending(t, v[BODY_STOP], v[BODY_EOS], d) ||
        !read_stream_options(c, v[BODY_STREAM_OPTIONS], d->e) ||
        !read_logprobs(c, v[BODY_LOGPROBS], d->e))
        return false;
    c->has_seed = t->sampling.seed >= 0;
    c->echo = flag(v[BODY_ECHO]);
    c->streams = flag(v[BODY_STREAM]);
    if (t->n_new_tokens > 0 || c->echo)
        return true;
    err_set(d->e, ERR_value, "max_tokens is 1 to %d, or 0 with echo", NEW_TOKENS_MAX);
    return err_at(d->e, -1, "max_tokens");
}

/* The graph. */

enum { LOGPROB_STEPS_MAX = (SAVES_MAX - 3 * INVOKES_MAX) / 3 };

static bool add(struct arg *out, enum op op, const struct arg *args, int n_args,
                const struct owner *o, struct decoder *d)
{
    struct node node = decode_implicit_node(op, o, d);
    int index;
    for (int i = 0; i < n_args; i++)
        node.args[i] = args[i];
    node.name = op == OP_save ? "logprobs" : NULL;
    if (!decode_add_node(&index, &node, d))
        return false;
    *out = (struct arg){.kind = ARG_node, .node = index};
    return true;
}

static bool expression(struct arg *out, const char *text, const struct owner *o, struct decoder *d)
{
    return decode_expression(out, (struct tree_text){text, strlen(text)}, o, d);
}

/* Saves what log_softmax of these logits says of these ids, and of the likeliest. */
static bool add_logprobs(struct logprob_nodes *nodes, const char *logits, const char *ids,
                         int n_top, const struct owner *o, struct decoder *d)
{
    const struct arg last = {.kind = ARG_int, .integer = -1};
    const struct arg k = {.kind = ARG_int, .integer = n_top};
    struct arg x, all, index, chosen, values, places, saved[3];
    *nodes = (struct logprob_nodes){-1, -1, -1};
    if (!expression(&x, logits, o, d) ||
        !add(&all, OP_log_softmax, (struct arg[]){x, last}, 2, o, d) ||
        !expression(&index, ids, o, d) ||
        !add(&chosen, OP_gather, (struct arg[]){all, last, index}, 3, o, d) ||
        !add(&saved[0], OP_save, &chosen, 1, o, d))
        return false;
    nodes->chosen = saved[0].node;
    if (n_top == 0)
        return true;
    if (!add(&values, OP_topk_values, (struct arg[]){all, k}, 2, o, d) ||
        !add(&places, OP_topk_indices, (struct arg[]){all, k}, 2, o, d) ||
        !add(&saved[1], OP_save, &values, 1, o, d) || !add(&saved[2], OP_save, &places, 1, o, d))
        return false;
    nodes->values = saved[1].node;
    nodes->ids = saved[2].node;
    return true;
}

static bool add_graph(struct completion *c, struct decoder *d)
{
    const struct graph *g = d->graph;
    const int n_new = g->traces[0].n_new_tokens;
    if (!c->has_logprobs)
        return true;
    if (g->n_invokes * n_new > LOGPROB_STEPS_MAX) {
        err_set(d->e, ERR_limit,
                "logprobs of %d prompts with %d new tokens each: together at most %d are offered",
                g->n_invokes, n_new, LOGPROB_STEPS_MAX);
        return err_at(d->e, -1, "logprobs");
    }
    c->steps = ARENA_ARRAY(d->arena, struct logprob_nodes, (size_t)(g->n_invokes * n_new));
    c->prompts = ARENA_ARRAY(d->arena, struct logprob_nodes, (size_t)g->n_invokes);
    for (int i = 0; i < g->n_invokes; i++) {
        struct owner o = {.wire = -1, .place = "logprobs", .invoke = i};
        c->prompts[i] = (struct logprob_nodes){-1, -1, -1};
        if (c->echo && !add_logprobs(&c->prompts[i], "lm_head.output[:1, :-1]",
                                     "transformer.wte.input[:1, 1:, None]", c->n_top, &o, d))
            return false;
        for (o.step = 0; o.step < n_new; o.step++) {
            if (!add_logprobs(&c->steps[i * n_new + o.step], "lm_head.output[:, -1]",
                              "generator.streamer.output[:, None]", c->n_top, &o, d))
                return false;
        }
    }
    return true;
}

bool decode_completion(struct completion *c, struct graph *g, const char *body, size_t size,
                       enum media media, const struct model_shape *m, struct arena *a,
                       struct err *e)
{
    struct arena scratch = {0};
    struct tree_document document;
    struct decoder d = {.graph = g, .model = m, .arena = a, .scratch = &scratch, .e = e};
    *c = (struct completion){0};
    *g = (struct graph){.n_traces = 1, .traces = ARENA_NEW(a, struct trace)};
    g->traces[0].place = "";
    const bool ok = tree_open(&document, body, size, media, &scratch, e) &&
                    read_body(c, document.root, &d) && add_graph(c, &d);
    tree_close(&document);
    arena_free(&scratch);
    return ok;
}
