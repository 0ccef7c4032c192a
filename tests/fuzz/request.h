/* What holds for every body, whatever bytes it is: refused with a reason, or a graph that keeps
 * its promises and that the planner answers. For fuzz_json.c, fuzz_msgpack.c and
 * fuzz_completion.c. */
#pragma once
#include <stdlib.h>
#include <string.h>

#include "../../protocol/completion.h"
#include "../../protocol/decode.h"
#include "../../protocol/encode.h"
#include "../../protocol/plan.h"

static const struct model_shape shape = {2, 2, 8, 32, 50257, 1024, 1e-5f, 1, {50256}};

static void check_refusal(const struct err *e, int n_wire_max)
{
    assert(e->code > ERR_none);
    assert(e->code < ERR_COUNT);
    assert(e->text[0] != '\0');
    assert(e->node >= -1);
    assert(e->node < n_wire_max);
    for (size_t at = 0; e->text[at]; at += utf8_length(e->text + at, strlen(e->text + at)))
        assert(utf8_length(e->text + at, strlen(e->text + at)) > 0);
}

static void check_arg(const struct arg *arg, int node)
{
    if (arg->kind == ARG_node) {
        assert(arg->node >= 0);
        assert(arg->node < node);
    }
    for (int i = 0; arg->kind == ARG_nodes && i < arg->count; i++) {
        assert(arg->nodes[i] >= 0);
        assert(arg->nodes[i] < node);
    }
}

static void check_graph(const struct graph *g)
{
    assert(g->n_nodes <= NODES_MAX);
    assert(g->n_invokes >= 1);
    assert(g->n_invokes <= INVOKES_MAX);
    for (int i = 0; i < g->n_nodes; i++) {
        const struct node *n = &g->nodes[i];
        assert(n->op < OP_COUNT);
        assert(n->invoke >= 0);
        assert(n->invoke < g->n_invokes);
        assert(n->place);
        assert((n->op == OP_constant) == (n->constant != NULL));
        assert((n->op == OP_hook) == (n->hook.name != NULL));
        assert(n->op != OP_save || n->name);
        for (int k = 0; k < PARAMS_MAX; k++)
            check_arg(&n->args[k], i);
    }
}

/* Texts become ids as the tokenizer would make them. */
static void give_tokens(struct graph *g)
{
    static const int32_t ids[] = {1, 2, 3};
    for (int i = 0; i < g->n_invokes; i++) {
        for (int j = 0; j < g->invokes[i].n_prompts; j++) {
            struct prompt *p = &g->invokes[i].prompts[j];
            if (p->text)
                *p = (struct prompt){.tokens = ids, .n_tokens = 3};
        }
    }
}

static void check_plan(struct graph *g, struct arena *a)
{
    struct plan p;
    struct err e = {0};
    give_tokens(g);
    if (!plan_build(&p, g, &shape, a, &e)) {
        check_refusal(&e, NODES_MAX);
        return;
    }
    assert(p.n_saves <= SAVES_MAX);
    assert(p.result_bytes <= RESULT_BYTES_MAX);
    assert(p.slab_bytes <= SLAB_BYTES_MAX);
    const struct bytes document = encode_plan(g, &p, &shape, REPLY_json, a);
    assert(document.size > 0);
    const struct reply_facts facts = {
        .request_id = "r", .model = "m", .numerics = "exact", .graph = g, .plan = &p};
    for (int media = 0; media < REPLY_MEDIA_COUNT; media++)
        encoder_head(encoder_open((enum reply_media)media, &facts, a));
}

/* Copied to memory of its own size, so that a byte read behind the end is seen. */
static inline void try_request(const uint8_t *data, size_t size, enum media media)
{
    struct arena a = {0};
    struct err e = {0};
    struct graph g;
    char *body = malloc(size + !size);
    if (size)
        memcpy(body, data, size);
    if (decode_request(&g, body, size, media, &shape, &a, &e)) {
        check_graph(&g);
        check_plan(&g, &a);
    } else {
        check_refusal(&e, NODES_MAX);
    }
    struct text_list texts;
    struct token_lists lists;
    e = (struct err){0};
    if (!decode_texts(&texts, body, size, media, &a, &e))
        check_refusal(&e, 0);
    e = (struct err){0};
    if (!decode_token_lists(&lists, body, size, media, &a, &e))
        check_refusal(&e, 0);
    free(body);
    arena_free(&a);
}

static inline void try_completion(const uint8_t *data, size_t size)
{
    struct arena a = {0};
    struct err e = {0};
    struct graph g;
    struct completion c;
    char *body = malloc(size + !size);
    if (size)
        memcpy(body, data, size);
    if (decode_completion(&c, &g, body, size, MEDIA_json, &shape, &a, &e)) {
        check_graph(&g);
        check_plan(&g, &a);
    } else {
        check_refusal(&e, 0);
        assert(completion_error(&e, "r", &a).size > 0);
    }
    free(body);
    arena_free(&a);
}
