/* Decodes requests for tests/test_wire.py: many in one process, as a line of JSON each.
 *
 *     decode_tool < requests > answers
 *
 * A request is 'j' or 'm', its size (int32_t) and its bytes. Its answer is {"error": {...}}, or
 * everything that the graph says. The model is GPT-2 small in shape.
 */
#include "../protocol/decode.h"
#include "../protocol/encode.h"
#include "../protocol/encode_writer.h"

#include <stdio.h>
#include <string.h>

static const struct model_shape shape = {12, 12, 768, 3072, 50257, 1024, 1e-5f, 1, {50256}};

static void dump_index(struct writer *w, const struct arg *arg)
{
    write_list(w, arg->count);
    for (int i = 0; i < arg->count; i++) {
        const struct index *x = &arg->index[i];
        write_list(w, 6);
        write_int(w, x->kind);
        write_bool(w, x->has_start);
        write_bool(w, x->has_stop);
        write_int(w, x->start);
        write_int(w, x->stop);
        write_int(w, x->step);
        write_end(w);
    }
    write_end(w);
}

static void dump_arg(struct writer *w, const struct arg *arg)
{
    write_list(w, 2);
    write_int(w, arg->kind);
    switch (arg->kind) {
    case ARG_absent:
        write_null(w);
        break;
    case ARG_node:
        write_int(w, arg->node);
        break;
    case ARG_int:
        write_int(w, arg->integer);
        break;
    case ARG_float:
        write_real(w, arg->real);
        break;
    case ARG_bool:
        write_bool(w, arg->boolean);
        break;
    case ARG_ints:
        write_list(w, arg->count);
        for (int i = 0; i < arg->count; i++)
            write_int(w, arg->ints[i]);
        write_end(w);
        break;
    case ARG_nodes:
        write_list(w, arg->count);
        for (int i = 0; i < arg->count; i++)
            write_int(w, arg->nodes[i]);
        write_end(w);
        break;
    case ARG_index:
        dump_index(w, arg);
        break;
    case ARG_dtype:
        write_text(w, dtype_name(arg->dtype));
        break;
    }
    write_end(w);
}

static void dump_constant(struct writer *w, const struct tensor *t)
{
    char text[SHAPE_TEXT_SIZE];
    const size_t size = (size_t)view_count(&t->view) * dtype_size(t->dtype);
    assert((uintptr_t)t->data % 64 == 0);
    write_list(w, 2 + (int)size);
    write_text(w, dtype_name(t->dtype));
    write_text(w, shape_text(text, &t->view));
    for (size_t i = 0; i < size; i++)
        write_int(w, ((const unsigned char *)t->data)[i]);
    write_end(w);
}

static void dump_node(struct writer *w, const struct node *n)
{
    write_list(w, 10);
    write_text(w, op_info[n->op].name);
    write_int(w, n->invoke);
    write_int(w, n->wire);
    write_text(w, n->place);
    write_text(w, n->name);
    write_text(w, n->op == OP_hook ? n->hook.name->path : NULL);
    write_int(w, n->hook.block);
    write_int(w, n->hook.step);
    write_list(w, PARAMS_MAX);
    for (int i = 0; i < PARAMS_MAX; i++)
        dump_arg(w, &n->args[i]);
    write_end(w);
    if (n->constant)
        dump_constant(w, n->constant);
    else
        write_null(w);
    write_end(w);
}

static void dump_prompt(struct writer *w, const struct prompt *p)
{
    if (p->text) {
        assert(strlen(p->text) == p->text_bytes);
        write_text(w, p->text);
        return;
    }
    write_list(w, p->n_tokens);
    for (int i = 0; i < p->n_tokens; i++)
        write_int(w, p->tokens[i]);
    write_end(w);
}

static void dump_graph(struct writer *w, const struct graph *g)
{
    write_list(w, 8);
    write_text(w, g->model);
    write_int(w, g->traces[0].n_new_tokens);
    write_real(w, g->traces[0].sampling.temperature);
    write_int(w, g->traces[0].sampling.top_k);
    write_real(w, g->traces[0].sampling.top_p);
    write_int(w, (int64_t)g->traces[0].sampling.seed);
    write_list(w, g->n_invokes);
    for (int i = 0; i < g->n_invokes; i++) {
        write_list(w, g->invokes[i].n_prompts);
        for (int j = 0; j < g->invokes[i].n_prompts; j++)
            dump_prompt(w, &g->invokes[i].prompts[j]);
        write_end(w);
    }
    write_end(w);
    write_list(w, g->n_nodes);
    for (int i = 0; i < g->n_nodes; i++)
        dump_node(w, &g->nodes[i]);
    write_end(w);
    write_end(w);
}

static void answer(const char *body, size_t size, enum media media)
{
    struct arena a = {0};
    struct err e = {0};
    struct graph g;
    struct bytes out;
    if (decode_request(&g, body, size, media, &shape, &a, &e)) {
        struct writer w = writer_grows(WRITER_json, &a);
        dump_graph(&w, &g);
        write_raw(&w, "\n", 1);
        out = (struct bytes){w.at, w.size};
    } else {
        out = encode_error(&e, NULL, REPLY_json, &a);
    }
    const size_t written = fwrite(out.at, 1, out.size, stdout);
    assert(written == out.size);
    arena_free(&a);
}

int main(void)
{
    struct arena a = {0};
    char *body = arena_alloc(&a, BODY_MB << 20);
    for (int media = getchar(); media != EOF; media = getchar()) {
        int32_t size;
        if (fread(&size, sizeof size, 1, stdin) != 1 || size < 0 || size > BODY_MB << 20 ||
            fread(body, 1, (size_t)size, stdin) != (size_t)size) {
            fprintf(stderr, "a request is cut\n");
            return 1;
        }
        answer(body, (size_t)size, media == 'j' ? MEDIA_json : MEDIA_msgpack);
    }
    arena_free(&a);
    return 0;
}
