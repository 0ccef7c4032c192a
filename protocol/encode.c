#include "encode.h"

#include "encode_text.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

const char *const reply_media_type[REPLY_MEDIA_COUNT] = {
    [REPLY_msgpack] = "application/msgpack",
    [REPLY_ndjson] = "application/x-ndjson",
    [REPLY_json] = "application/json",
    [REPLY_text] = "text/plain; charset=utf-8",
};

enum data_form { DATA_none, DATA_bytes, DATA_numbers };

struct encoder {
    enum reply_media media;
    struct reply_facts facts;
    bool begun; /* a frame has been set */

    char *head; /* a frame without its tensor's data, in a buffer for the largest */
    size_t capacity, head_size, head_sent;

    enum data_form form; /* the data behind it */
    const struct save *save;
    const char *data;
    size_t data_sent;     /* DATA_bytes */
    int64_t count, next;  /* DATA_numbers: elements */
    int64_t at[RANK_MAX]; /* the next one's place */
    char item[NUMBER_SIZE + 2 * RANK_MAX + 8];
    size_t item_size, item_sent;

    char tail[8]; /* what closes the frame */
    size_t tail_size, tail_sent;
};

static enum writer_form form_of(enum reply_media media)
{
    return media == REPLY_msgpack ? WRITER_msgpack : WRITER_json;
}

/* The frames. */

static void write_ids(struct writer *w, const int32_t *ids, int count)
{
    write_list(w, count);
    for (int i = 0; i < count; i++)
        write_int(w, ids[i]);
    write_end(w);
}

static void write_tokens(struct writer *w, const struct graph *g)
{
    write_list(w, g->n_invokes);
    for (int i = 0; i < g->n_invokes; i++) {
        write_list(w, g->invokes[i].n_prompts);
        for (int j = 0; j < g->invokes[i].n_prompts; j++)
            write_ids(w, g->invokes[i].prompts[j].tokens, g->invokes[i].prompts[j].n_tokens);
        write_end(w);
    }
    write_end(w);
}

int reply_count_new(const struct writer *w, const struct reply_facts *f, int invoke, int sequence)
{
    const struct plan_invoke *v = &f->plan->invokes[invoke];
    if (!f->generated)
        return 0;
    return w->at && f->outcomes ? f->outcomes[v->outcome_first + sequence].n_new
                                : f->graph->traces[v->trace].n_new_tokens;
}

const int32_t *reply_new_ids(const struct reply_facts *f, int invoke, int sequence)
{
    const struct plan_invoke *v = &f->plan->invokes[invoke];
    const int n_new = f->graph->traces[v->trace].n_new_tokens;
    return f->generated ? f->generated + v->generated_first + sequence * n_new : NULL;
}

typedef void each_fn(struct writer *w, const struct reply_facts *f, int invoke, int sequence);

/* A value for each prompt of each invoke. */
static void write_each(struct writer *w, const struct reply_facts *f, each_fn *write)
{
    const struct graph *g = f->graph;
    write_list(w, g->n_invokes);
    for (int i = 0; i < g->n_invokes; i++) {
        write_list(w, g->invokes[i].n_prompts);
        for (int j = 0; j < g->invokes[i].n_prompts; j++)
            write(w, f, i, j);
        write_end(w);
    }
    write_end(w);
}

static void write_generated(struct writer *w, const struct reply_facts *f, int invoke, int sequence)
{
    write_ids(w, reply_new_ids(f, invoke, sequence), reply_count_new(w, f, invoke, sequence));
}

static void write_finish(struct writer *w, const struct reply_facts *f, int invoke, int sequence)
{
    const int outcome = f->plan->invokes[invoke].outcome_first + sequence;
    write_text(w, f->outcomes && f->outcomes[outcome].stopped ? "stop" : "length");
}

static void write_lengths(struct writer *w, const struct graph *g)
{
    write_list(w, g->n_invokes);
    for (int i = 0; i < g->n_invokes; i++) {
        write_list(w, g->invokes[i].n_prompts);
        for (int j = 0; j < g->invokes[i].n_prompts; j++)
            write_int(w, g->invokes[i].prompts[j].n_tokens);
        write_end(w);
    }
    write_end(w);
}

/* What each set changes: a mistyped index that touches nothing, or everything, is seen here. */
static void write_touched(struct writer *w, const struct graph *g, const struct plan *p)
{
    int n_sets = 0;
    for (int i = 0; i < g->n_nodes; i++)
        n_sets += g->nodes[i].op == OP_set;
    write_list(w, n_sets);
    for (int i = 0; i < g->n_nodes; i++) {
        const struct node *node = &g->nodes[i];
        if (node->op != OP_set)
            continue;
        write_map(w, 2);
        write_key(w, "place");
        write_text(w, node->place);
        write_key(w, "elements");
        write_int(w, p->touched[i]);
        write_end(w);
    }
    write_end(w);
}

static void write_head(struct writer *w, const struct reply_facts *f)
{
    write_map(w, 9);
    write_key(w, "type");
    write_text(w, "head");
    write_key(w, "request_id");
    write_text(w, f->request_id);
    write_key(w, "model");
    write_text(w, f->model);
    write_key(w, "numerics");
    write_text(w, f->numerics);
    write_key(w, "tokens");
    write_tokens(w, f->graph);
    write_key(w, "lengths");
    write_lengths(w, f->graph);
    write_key(w, "steps");
    write_int(w, f->plan->n_passes);
    write_key(w, "touched");
    write_touched(w, f->graph, f->plan);
    write_key(w, "default_step");
    write_int(w, 0);
    write_end(w);
}

static void write_shape(struct writer *w, const struct view *v)
{
    write_list(w, v->rank);
    for (int i = 0; i < v->rank; i++)
        write_int(w, v->shape[i]);
    write_end(w);
}

static void write_wire(struct writer *w, int wire)
{
    if (wire < 0)
        write_null(w);
    else
        write_int(w, wire);
}

/* What the frames of a save begin with; `count` with those. */
static void begin_save(struct writer *w, const struct reply_facts *f, const struct save *s,
                       const char *type, int count)
{
    write_map(w, count);
    write_key(w, "type");
    write_text(w, type);
    write_key(w, "name");
    write_text(w, s->name);
    write_key(w, "node");
    write_wire(w, f->graph->nodes[s->node].wire);
    write_key(w, "step");
    write_int(w, s->step);
}

/* All of a tensor's frame but the data, which is its last field. */
static void write_tensor(struct writer *w, const struct reply_facts *f, const struct save *s)
{
    begin_save(w, f, s, "tensor", 7);
    write_key(w, "dtype");
    write_text(w, dtype_name(s->dtype));
    write_key(w, "shape");
    write_shape(w, &s->view);
    write_key(w, "data");
    if (w->form == WRITER_msgpack)
        write_bin_header(w, s->bytes);
}

static void write_absent(struct writer *w, const struct reply_facts *f, const struct save *s)
{
    begin_save(w, f, s, "absent", 4);
    write_end(w);
}

/* Digits behind that mean nothing. */
static double microseconds(double seconds)
{
    return round(seconds * 1e6) / 1e6;
}

static void write_done(struct writer *w, const struct reply_facts *f, double queue_seconds,
                       double run_seconds)
{
    write_map(w, 5);
    write_key(w, "type");
    write_text(w, "end");
    write_key(w, "status");
    write_text(w, "done");
    write_key(w, "generated");
    write_each(w, f, write_generated);
    write_key(w, "finish");
    write_each(w, f, write_finish);
    write_key(w, "timing");
    write_map(w, 2);
    write_key(w, "queue");
    write_real(w, microseconds(queue_seconds));
    write_key(w, "run");
    write_real(w, microseconds(run_seconds));
    write_end(w);
    write_end(w);
}

/* The map that says what was wrong. */
static void write_failure(struct writer *w, const struct err *e, const char *request_id)
{
    const bool has_node = e->node >= 0, has_path = e->where[0] != '\0';
    write_map(w, 2 + has_path + has_node + !!request_id);
    write_key(w, "code");
    write_text(w, err_info[e->code].name);
    write_key(w, "message");
    write_text(w, e->text);
    if (has_path) {
        write_key(w, "path");
        write_text(w, e->where);
    }
    if (has_node) {
        write_key(w, "node");
        write_int(w, e->node);
    }
    if (request_id) {
        write_key(w, "request_id");
        write_text(w, request_id);
    }
    write_end(w);
}

static void write_error_frame(struct writer *w, const struct err *e, const char *request_id)
{
    write_map(w, 2);
    write_key(w, "type");
    write_text(w, "error");
    write_key(w, "error");
    write_failure(w, e, request_id);
    write_end(w);
}

/* The stream. */

static size_t frame_room(enum reply_media media, const struct reply_facts *f)
{
    const struct err longest = {.code = ERR_internal, .node = 1};
    const enum writer_form form = form_of(media);
    struct writer head = writer_counts(form), end = writer_counts(form);
    write_head(&head, f);
    write_done(&end, f, 0.0, 0.0);
    size_t room = head.size > end.size ? head.size : end.size;
    for (int i = 0; i < f->plan->n_saves; i++) {
        struct writer tensor = writer_counts(form);
        write_tensor(&tensor, f, &f->plan->saves[i]);
        room = tensor.size > room ? tensor.size : room;
    }
    struct writer error = writer_counts(form);
    write_error_frame(&error, &longest, f->request_id);
    /* Each byte of an error's text takes up to six as JSON. */
    error.size += 6 * (sizeof longest.where + sizeof longest.text);
    room = error.size > room ? error.size : room;
    return room + 64; /* what JSON has between frames */
}

struct encoder *encoder_open(enum reply_media media, const struct reply_facts *facts,
                             struct arena *a)
{
    struct encoder *c = ARENA_NEW(a, struct encoder);
    c->media = media;
    c->facts = *facts;
    c->capacity = media == REPLY_text ? text_room(facts) : frame_room(media, facts);
    c->head = arena_alloc(a, c->capacity);
    return c;
}

/* Starts a frame: what stands before it in a JSON document. */
static struct writer frame_begin(struct encoder *c)
{
    struct writer w = writer_fills(form_of(c->media), c->head, c->capacity);
    c->head_sent = c->tail_size = c->tail_sent = c->data_sent = c->item_size = c->item_sent = 0;
    c->form = DATA_none;
    if (c->media == REPLY_json)
        write_format(&w, "%s", c->begun ? ", " : "{\"frames\": [");
    c->begun = true;
    return w;
}

static void frame_end(struct encoder *c, const struct writer *w, const char *tail)
{
    c->head_size = w->size;
    c->tail_size = (size_t)snprintf(c->tail, sizeof c->tail, "%s", tail);
}

void encoder_head(struct encoder *c)
{
    struct writer w = frame_begin(c);
    if (c->media == REPLY_text)
        text_head(&w, &c->facts);
    else
        write_head(&w, &c->facts);
    frame_end(c, &w, c->media == REPLY_ndjson ? "\n" : "");
}

static void begin_data(struct encoder *c)
{
    c->form = c->media == REPLY_msgpack ? DATA_bytes : DATA_numbers;
    c->count = view_count(&c->save->view);
    c->next = 0;
    memset(c->at, 0, sizeof c->at);
    if (c->form == DATA_numbers && c->count == 0)
        c->item_size = (size_t)snprintf(c->item, sizeof c->item, "[]");
}

static void set_absent(struct encoder *c, const struct save *s)
{
    struct writer w = frame_begin(c);
    if (c->media == REPLY_text)
        text_absent(&w, s);
    else
        write_absent(&w, &c->facts, s);
    frame_end(c, &w, c->media == REPLY_ndjson ? "\n" : "");
}

void encoder_save(struct encoder *c, int save)
{
    assert(save < c->facts.plan->n_saves);
    if (c->facts.absent && c->facts.absent[save]) {
        set_absent(c, &c->facts.plan->saves[save]);
        return;
    }
    struct writer w = frame_begin(c);
    c->save = &c->facts.plan->saves[save];
    c->data = c->facts.results + c->save->offset;
    if (c->media == REPLY_text) {
        text_tensor(&w, c->save, c->data);
        frame_end(c, &w, "");
        return;
    }
    write_tensor(&w, &c->facts, c->save);
    begin_data(c);
    frame_end(c, &w, c->media == REPLY_ndjson ? "}\n" : c->media == REPLY_json ? "}" : "");
}

static const char *last_tail(enum reply_media media)
{
    return media == REPLY_ndjson ? "\n" : media == REPLY_json ? "]}\n" : "";
}

void encoder_end(struct encoder *c, double queue_seconds, double run_seconds)
{
    struct writer w = frame_begin(c);
    if (c->media == REPLY_text)
        text_end(&w, &c->facts, queue_seconds, run_seconds);
    else
        write_done(&w, &c->facts, queue_seconds, run_seconds);
    frame_end(c, &w, last_tail(c->media));
}

void encoder_error(struct encoder *c, const struct err *e)
{
    struct writer w = frame_begin(c);
    if (c->media == REPLY_text)
        text_error(&w, e);
    else
        write_error_frame(&w, e, c->facts.request_id);
    frame_end(c, &w, last_tail(c->media));
}

void encoder_heartbeat(struct encoder *c)
{
    const char nil = (char)0xc0;
    c->form = DATA_none;
    c->head_sent = c->tail_size = c->tail_sent = c->item_size = c->item_sent = 0;
    c->head[0] = c->media == REPLY_msgpack ? nil : c->media == REPLY_json ? ' ' : '\n';
    c->head_size = 1;
}

/* "[[0.5,": an element with the brackets around it. */
static void next_item(struct encoder *c)
{
    const struct view *v = &c->save->view;
    char *to = c->item;
    for (int i = v->rank - 1; i >= 0 && c->at[i] == 0; i--)
        *to++ = '[';
    const char *from = c->data + (size_t)c->next * dtype_size(c->save->dtype);
    to += element_text(to, from, c->save->dtype);
    int i = v->rank - 1;
    for (; i >= 0 && ++c->at[i] == v->shape[i]; i--) {
        c->at[i] = 0;
        *to++ = ']';
    }
    if (++c->next < c->count)
        *to++ = ',';
    c->item_size = (size_t)(to - c->item);
    c->item_sent = 0;
}

/* Sends what is left of `from`, as far as there is room. */
static size_t pull(char *buffer, size_t max, const char *from, size_t size, size_t *sent)
{
    const size_t left = size - *sent, n = left < max ? left : max;
    if (n)
        memcpy(buffer, from + *sent, n);
    *sent += n;
    return n;
}

size_t encoder_pull(struct encoder *c, char *buffer, size_t max)
{
    size_t n = pull(buffer, max, c->head, c->head_size, &c->head_sent);
    if (c->form == DATA_bytes)
        n += pull(buffer + n, max - n, c->data, c->save->bytes, &c->data_sent);
    n += pull(buffer + n, max - n, c->item, c->item_size, &c->item_sent);
    while (c->form == DATA_numbers && n < max && c->next < c->count) {
        next_item(c);
        n += pull(buffer + n, max - n, c->item, c->item_size, &c->item_sent);
    }
    return n + pull(buffer + n, max - n, c->tail, c->tail_size, &c->tail_sent);
}

/* The documents. */

static struct bytes finish(struct writer *w)
{
    if (w->form == WRITER_json)
        write_raw(w, "\n", 1);
    return (struct bytes){w->at, w->size};
}

struct bytes encode_error(const struct err *e, const char *request_id, enum reply_media media,
                          struct arena *a)
{
    struct writer w = writer_grows(form_of(media), a);
    write_map(&w, 1);
    write_key(&w, "error");
    write_failure(&w, e, request_id);
    write_end(&w);
    return finish(&w);
}

enum { NEVER = -1 };

static int later(int a, int b)
{
    return a > b ? a : b;
}

static int latest_input(const struct node *node, const int *turns)
{
    int turn = NEVER;
    for (int i = 0; i < PARAMS_MAX; i++) {
        const struct arg *arg = &node->args[i];
        if (arg->kind == ARG_node)
            turn = later(turn, turns[arg->node]);
        for (int j = 0; arg->kind == ARG_nodes && j < arg->count; j++)
            turn = later(turn, turns[arg->nodes[j]]);
    }
    return turn;
}

/* What is generated is whole behind the last step, whenever it is asked for. */
static int hook_turn(const struct node *n, const struct plan *p, int n_blocks)
{
    const struct hook *h = &n->hook;
    const struct plan_trace *t = &p->traces[p->invokes[n->invoke].trace];
    const int step = h->name->point == PT_generated ? t->n_steps - 1 : h->step;
    return (t->pass_first + step) * n_sites(n_blocks) + site_of(h->name->point, h->block, n_blocks);
}

/* When each node's value is known, as pass * sites + site; NEVER for what is before the pass. */
static int *find_turns(const struct graph *g, const struct plan *p, int n_blocks, struct arena *a)
{
    const int sites = n_sites(n_blocks);
    int *turns = ARENA_ARRAY(a, int, (size_t)g->n_nodes);
    for (int i = 0; i < g->n_nodes; i++)
        turns[i] = NEVER;
    for (int i = 0; i < p->n_stops; i++) {
        const struct stop *s = &p->stops[i];
        for (int j = s->first; j < s->first + s->n_actions; j++) {
            int *turn = &turns[p->actions[j].node];
            *turn = later(*turn, s->pass * sites + s->site);
        }
    }
    for (int i = 0; i < g->n_nodes; i++) {
        const struct node *node = &g->nodes[i];
        if (node->op == OP_hook)
            turns[i] = hook_turn(node, p, n_blocks);
        else if (node->op == OP_parameter)
            turns[i] = NEVER; /* whenever it is unpacked */
        else if (op_info[node->op].kind == OPK_view || turns[i] == NEVER)
            turns[i] = latest_input(node, turns);
    }
    return turns;
}

/* What a node stands for: a set and a save stand for what they are about. */
static const struct value *value_of(const struct graph *g, const struct plan *p, int i)
{
    const struct node *node = &g->nodes[i];
    const bool is_effect = node->op == OP_set || node->op == OP_save;
    return &p->values[is_effect ? node->args[0].node : i];
}

static void write_plan_node(struct writer *w, const struct plan *p, const struct node *node,
                            const struct value *value, int turn, int n_blocks)
{
    const int sites = n_sites(n_blocks);
    char text[SITE_TEXT_SIZE];
    write_map(w, 6 + !!node->name);
    write_key(w, "index");
    write_int(w, node->wire);
    write_key(w, "op");
    write_text(w, op_info[node->op].name);
    if (node->name) {
        write_key(w, "name");
        write_text(w, node->name);
    }
    write_key(w, "shape");
    write_shape(w, &value->view);
    write_key(w, "dtype");
    write_text(w, dtype_name(value->dtype));
    write_key(w, "step");
    write_int(w, turn == NEVER ? 0 : plan_step(p, turn / sites));
    write_key(w, "site");
    write_text(w, turn == NEVER ? NULL : site_text(text, turn % sites, n_blocks));
    write_end(w);
}

/* The nodes of the request; those that its expressions made come before theirs. */
static void write_plan_nodes(struct writer *w, const struct graph *g, const struct plan *p,
                             int n_blocks, struct arena *a)
{
    const int *turns = find_turns(g, p, n_blocks, a);
    int count = 0;
    for (int i = 0; i < g->n_nodes; i++)
        count = g->nodes[i].wire >= count ? g->nodes[i].wire + 1 : count;
    write_list(w, count);
    for (int i = 0; i < g->n_nodes; i++) {
        const struct node *node = &g->nodes[i];
        const bool last = i + 1 == g->n_nodes || g->nodes[i + 1].wire != node->wire;
        if (node->wire >= 0 && last)
            write_plan_node(w, p, node, value_of(g, p, i), turns[i], n_blocks);
    }
    write_end(w);
}

static void write_plan_saves(struct writer *w, const struct plan *p)
{
    write_list(w, p->n_saves);
    for (int i = 0; i < p->n_saves; i++) {
        const struct save *s = &p->saves[i];
        write_map(w, 4);
        write_key(w, "name");
        write_text(w, s->name);
        write_key(w, "shape");
        write_shape(w, &s->view);
        write_key(w, "dtype");
        write_text(w, dtype_name(s->dtype));
        write_key(w, "step");
        write_int(w, s->step);
        write_end(w);
    }
    write_end(w);
}

struct bytes encode_plan(const struct graph *g, const struct plan *p, const struct model_shape *m,
                         enum reply_media media, struct arena *a)
{
    struct writer w = writer_grows(form_of(media), a);
    write_map(&w, 9);
    write_key(&w, "nodes");
    write_plan_nodes(&w, g, p, m->n_blocks, a);
    write_key(&w, "saves");
    write_plan_saves(&w, p);
    write_key(&w, "touched");
    write_touched(&w, g, p);
    write_key(&w, "steps");
    write_int(&w, p->n_passes);
    write_key(&w, "tokens");
    write_tokens(&w, g);
    write_key(&w, "lengths");
    write_lengths(&w, g);
    write_key(&w, "slab_bytes");
    write_int(&w, (int64_t)p->slab_bytes);
    write_key(&w, "result_bytes");
    write_int(&w, (int64_t)p->result_bytes);
    write_key(&w, "cost");
    write_real(&w, p->cost);
    write_end(&w);
    return finish(&w);
}
