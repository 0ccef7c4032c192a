/* What a job generates, as the text of choices, and the replies that hold it. */
#include "completion.h"
#include "encode_writer.h"
#include "limits.h"

#include <stdio.h>
#include <string.h>

static int64_t count_characters(const char *text, size_t size)
{
    int64_t count = 0;
    for (size_t i = 0; i < size; i++)
        count += ((unsigned char)text[i] & 0xc0) != 0x80;
    return count;
}

static int64_t prompt_characters(const struct completion_facts *f, int invoke)
{
    const struct prompt *p = &f->graph->invokes[invoke].prompts[0];
    int64_t count = 0;
    for (int i = 0; i < p->n_tokens; i++) {
        size_t size;
        const char *bytes = bpe_token(&size, f->bpe, p->tokens[i]);
        count += count_characters(bytes, size);
    }
    return count;
}

void completion_open(struct completion_facts *f, struct arena *a)
{
    const struct plan *p = f->plan;
    int *save_of = ARENA_ARRAY(a, int, (size_t)f->graph->n_nodes);
    for (int i = 0; i < p->n_saves; i++)
        save_of[p->saves[i].node] = i;
    f->save_of = save_of;
    f->arena = a;
    f->n_choices = p->n_sequences;
    f->choices = ARENA_ARRAY(a, struct choice, (size_t)p->n_sequences);
    struct choice *c = f->choices;
    for (int i = 0; i < p->n_invokes; i++) {
        const int64_t before = f->asked->echo ? prompt_characters(f, i) : 0;
        for (int k = 0; k < p->invokes[i].n_sequences; k++, c++) {
            c->invoke = i;
            c->sequence = k;
            c->characters_sent = before;
            c->ends = ARENA_ARRAY(a, size_t, (size_t)f->graph->traces[0].n_new_tokens);
        }
    }
}

static const int32_t *ids_of(const struct completion_facts *f, const struct choice *c)
{
    const int n_new = f->graph->traces[0].n_new_tokens;
    return f->generated + f->plan->invokes[c->invoke].generated_first + c->sequence * n_new;
}

static void add_text(struct choice *c, const char *bytes, size_t size, struct arena *a)
{
    if (size > c->capacity - c->size) {
        c->capacity = 2 * (c->size + size);
        char *moved = arena_alloc(a, c->capacity);
        if (c->size)
            memcpy(moved, c->text, c->size);
        c->text = moved;
    }
    if (size)
        memcpy(c->text + c->size, bytes, size);
    c->size += size;
}

static void take_token(struct completion_facts *f, struct choice *c, const int32_t *ids, int n)
{
    const struct trace *t = &f->graph->traces[0];
    const bool reached = ending_reached(&t->ending, f->bpe, ids, n);
    c->n_taken = n;
    c->stopped = reached;
    c->ended = reached || n == t->n_new_tokens;
    if (reached && ending_is_id(&t->ending, ids[n - 1]))
        return;
    size_t size;
    const char *bytes = bpe_token(&size, f->bpe, ids[n - 1]);
    add_text(c, bytes, size, f->arena);
    c->ends[c->n_tokens++] = c->size;
    if (!reached)
        return;
    c->size = ending_text_at(&t->ending, c->text, c->size, c->size - size);
    while (c->n_tokens > 1 && c->ends[c->n_tokens - 2] >= c->size)
        c->n_tokens--;
}

/* A character whose bytes have not all come. */
static size_t cut_character(const char *text, size_t size)
{
    for (size_t i = 1; i <= 3 && i <= size; i++) {
        const unsigned char c = (unsigned char)text[size - i];
        const size_t length = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
        if ((c & 0xc0) == 0x80)
            continue;
        return length > i ? size - i : size;
    }
    return size;
}

/* What may become a text that ends it. */
static size_t cut_stop(const struct ending *g, const char *text, size_t size)
{
    size_t least = size;
    for (int i = 0; i < g->n_texts && size > 0; i++) {
        const struct stop_text *s = &g->texts[i];
        size_t most = s->size - 1 < size ? s->size - 1 : size;
        while (most > 0 && memcmp(text + size - most, s->at, most) != 0)
            most--;
        least = size - most < least ? size - most : least;
    }
    return least;
}

/* How much of a choice's text is certain. */
static size_t certain(const struct completion_facts *f, const struct choice *c)
{
    if (c->ended)
        return c->size;
    const size_t held = cut_stop(&f->graph->traces[0].ending, c->text, c->size);
    return cut_character(c->text, held);
}

bool completion_take(struct completion_facts *f, struct choice *c, int n_steps)
{
    const int32_t *ids = f->graph->traces[0].n_new_tokens ? ids_of(f, c) : NULL;
    c->ended |= f->graph->traces[0].n_new_tokens == 0;
    while (!c->ended && c->n_taken < n_steps)
        take_token(f, c, ids, c->n_taken + 1);
    return !c->has_finished && (c->ended || certain(f, c) > c->sent);
}

/* The replies. */

/* A token as a text of its own, another for each: what is no UTF-8 by itself as OpenAI spells it,
 * in escapes, and an id without bytes by its number. */
static void write_token(struct writer *w, const struct bpe *b, int32_t id)
{
    static const char digits[] = "0123456789abcdef";
    char text[6 + 4 * BPE_TOKEN_BYTES_MAX] = "bytes:";
    size_t size, at = 0, n = 6;
    const char *bytes = bpe_token(&size, b, id);
    if (size == 0) {
        n = (size_t)snprintf(text, sizeof text, "token_id:%d", id);
        write_text_of(w, text, n);
        return;
    }
    for (size_t length = 1; at < size && length > 0; at += length)
        length = utf8_length(bytes + at, size - at);
    if (at == size && utf8_length(bytes, size) > 0) {
        write_text_of(w, bytes, size);
        return;
    }
    for (size_t i = 0; i < size; i++) {
        const unsigned char c = (unsigned char)bytes[i];
        text[n++] = '\\';
        text[n++] = 'x';
        text[n++] = digits[c >> 4];
        text[n++] = digits[c & 15];
    }
    write_text_of(w, text, n);
}

static const void *saved(const struct completion_facts *f, int node)
{
    return f->results + f->plan->saves[f->save_of[node]].offset;
}

struct span_of_tokens { /* of a reply: those of the prompt, then of the text */
    bool with_prompt;
    int from, to;
};

/* What the reply says of one token: where its log-probabilities are. */
struct spoken {
    int32_t id;
    const float *chosen, *values; /* NULL where nothing came before it */
    const int64_t *ids;
};

static struct spoken spoken_prompt(const struct completion_facts *f, const struct choice *c, int i)
{
    const struct logprob_nodes *n = &f->asked->prompts[c->invoke];
    const int k = f->asked->n_top;
    struct spoken s = {.id = f->graph->invokes[c->invoke].prompts[0].tokens[i]};
    if (i == 0)
        return s;
    s.chosen = (const float *)saved(f, n->chosen) + i - 1;
    if (k > 0) {
        s.values = (const float *)saved(f, n->values) + (int64_t)(i - 1) * k;
        s.ids = (const int64_t *)saved(f, n->ids) + (int64_t)(i - 1) * k;
    }
    return s;
}

static struct spoken spoken_new(const struct completion_facts *f, const struct choice *c, int i)
{
    const int n_new = f->graph->traces[0].n_new_tokens, k = f->asked->n_top;
    const struct logprob_nodes *n = &f->asked->steps[c->invoke * n_new + i];
    struct spoken s = {.id = ids_of(f, c)[i],
                       .chosen = (const float *)saved(f, n->chosen) + c->sequence};
    if (k > 0) {
        s.values = (const float *)saved(f, n->values) + (int64_t)c->sequence * k;
        s.ids = (const int64_t *)saved(f, n->ids) + (int64_t)c->sequence * k;
    }
    return s;
}

typedef void speak_fn(struct writer *w, const struct completion_facts *f, const struct spoken *s);

static void speak_token(struct writer *w, const struct completion_facts *f, const struct spoken *s)
{
    write_token(w, f->bpe, s->id);
}

static void speak_logprob(struct writer *w, const struct completion_facts *f,
                          const struct spoken *s)
{
    (void)f;
    if (s->chosen)
        write_real(w, (double)*s->chosen);
    else
        write_null(w);
}

/* The likeliest, and the chosen one if it is none of them. */
static void speak_top(struct writer *w, const struct completion_facts *f, const struct spoken *s)
{
    const int k = f->asked->n_top;
    if (!s->chosen) {
        write_null(w);
        return;
    }
    bool listed = false;
    for (int i = 0; i < k; i++)
        listed |= s->ids[i] == s->id;
    write_map(w, k + !listed);
    for (int i = 0; i < k; i++) {
        speak_token(w, f, &(struct spoken){.id = (int32_t)s->ids[i]});
        write_real(w, (double)s->values[i]);
    }
    if (!listed) {
        speak_token(w, f, s);
        write_real(w, (double)*s->chosen);
    }
    write_end(w);
}

static void write_spoken(struct writer *w, const char *key, const struct completion_facts *f,
                         const struct choice *c, struct span_of_tokens t, speak_fn *speak)
{
    const int n_prompt = t.with_prompt ? f->graph->invokes[c->invoke].prompts[0].n_tokens : 0;
    write_key(w, key);
    write_list(w, n_prompt + t.to - t.from);
    for (int i = 0; i < n_prompt; i++) {
        const struct spoken s = spoken_prompt(f, c, i);
        speak(w, f, &s);
    }
    for (int i = t.from; i < t.to; i++) {
        const struct spoken s = spoken_new(f, c, i);
        speak(w, f, &s);
    }
    write_end(w);
}

static int64_t token_characters(const struct choice *c, int i)
{
    const size_t from = i ? c->ends[i - 1] : 0;
    return count_characters(c->text + from, c->ends[i] - from);
}

/* Where each token's text begins in the choice's, in characters. */
static void write_offsets(struct writer *w, const struct completion_facts *f,
                          const struct choice *c, struct span_of_tokens t)
{
    const struct prompt *p = &f->graph->invokes[c->invoke].prompts[0];
    const int n_prompt = t.with_prompt ? p->n_tokens : 0;
    int64_t at = 0;
    write_key(w, "text_offset");
    write_list(w, n_prompt + t.to - t.from);
    for (int i = 0; i < n_prompt; i++) {
        size_t size;
        const char *bytes = bpe_token(&size, f->bpe, p->tokens[i]);
        write_int(w, at);
        at += count_characters(bytes, size);
    }
    at = c->characters_sent;
    for (int i = t.from; i < t.to; i++) {
        write_int(w, at);
        at += token_characters(c, i);
    }
    write_end(w);
}

static void write_logprobs(struct writer *w, const struct completion_facts *f,
                           const struct choice *c, struct span_of_tokens t)
{
    if (!f->asked->has_logprobs) {
        write_null(w);
        return;
    }
    write_map(w, 4);
    write_spoken(w, "tokens", f, c, t, speak_token);
    write_spoken(w, "token_logprobs", f, c, t, speak_logprob);
    write_spoken(w, "top_logprobs", f, c, t, speak_top);
    write_offsets(w, f, c, t);
    write_end(w);
}

/* What has not been sent of a choice, and is certain. */
static void write_choice(struct writer *w, const struct completion_facts *f, struct choice *c)
{
    const struct prompt *p = &f->graph->invokes[c->invoke].prompts[0];
    const size_t until = certain(f, c);
    struct span_of_tokens t = {f->asked->echo && !c->has_begun, c->tokens_sent, c->tokens_sent};
    while (t.to < c->n_tokens && (c->ended || c->ends[t.to] <= until))
        t.to++;
    struct arena a = {0};
    struct writer text = writer_grows(WRITER_json, &a);
    for (int i = 0; i < p->n_tokens && t.with_prompt; i++) {
        size_t size;
        const char *bytes = bpe_token(&size, f->bpe, p->tokens[i]);
        write_raw(&text, bytes, size);
    }
    write_raw(&text, c->text + c->sent, until - c->sent);
    write_map(w, 4);
    write_key(w, "index");
    write_int(w, c - f->choices);
    write_key(w, "text");
    write_text_of(w, text.at, text.size);
    write_key(w, "logprobs");
    write_logprobs(w, f, c, t);
    write_key(w, "finish_reason");
    write_text(w, !c->ended ? NULL : c->stopped ? "stop" : "length");
    write_end(w);
    arena_free(&a);
    c->sent = until;
    for (; c->tokens_sent < t.to; c->tokens_sent++)
        c->characters_sent += token_characters(c, c->tokens_sent);
    c->has_begun = true;
    c->has_finished = c->ended;
}

static void write_usage(struct writer *w, const struct completion_facts *f)
{
    int64_t n_prompt = 0, n_new = 0;
    for (int i = 0; i < f->graph->n_invokes; i++)
        n_prompt += f->graph->invokes[i].prompts[0].n_tokens;
    for (int i = 0; i < f->n_choices; i++)
        n_new += f->choices[i].n_taken;
    write_key(w, "usage");
    write_map(w, 3);
    write_key(w, "prompt_tokens");
    write_int(w, n_prompt);
    write_key(w, "completion_tokens");
    write_int(w, n_new);
    write_key(w, "total_tokens");
    write_int(w, n_prompt + n_new);
    write_end(w);
}

/* A map's fields that all documents begin with; `count` with those. */
static void begin_document(struct writer *w, const struct completion_facts *f, int count)
{
    char id[64];
    snprintf(id, sizeof id, "cmpl-%s", f->request_id);
    write_map(w, count);
    write_key(w, "id");
    write_text(w, id);
    write_key(w, "object");
    write_text(w, "text_completion");
    write_key(w, "created");
    write_int(w, f->created);
    write_key(w, "model");
    write_text(w, f->model);
    write_key(w, "choices");
}

struct bytes completion_document(const struct completion_facts *f, struct arena *a)
{
    struct writer w = writer_grows(WRITER_json, a);
    begin_document(&w, f, 6);
    write_list(&w, f->n_choices);
    for (int i = 0; i < f->n_choices; i++)
        write_choice(&w, f, &f->choices[i]);
    write_end(&w);
    write_usage(&w, f);
    write_end(&w);
    write_raw(&w, "\n", 1);
    return (struct bytes){w.at, w.size};
}

static struct writer begin_event(struct arena *a)
{
    struct writer w = writer_grows(WRITER_json, a);
    write_raw(&w, "data: ", 6);
    return w;
}

static struct bytes end_event(struct writer *w)
{
    write_raw(w, "\n\n", 2);
    return (struct bytes){w->at, w->size};
}

struct bytes completion_event(const struct completion_facts *f, struct choice *c, struct arena *a)
{
    struct writer w = begin_event(a);
    begin_document(&w, f, 5 + f->asked->counts_usage);
    write_list(&w, 1);
    write_choice(&w, f, c);
    write_end(&w);
    if (f->asked->counts_usage) {
        write_key(&w, "usage");
        write_null(&w);
    }
    write_end(&w);
    return end_event(&w);
}

struct bytes completion_usage_event(const struct completion_facts *f, struct arena *a)
{
    struct writer w = begin_event(a);
    begin_document(&w, f, 6);
    write_list(&w, 0);
    write_end(&w);
    write_usage(&w, f);
    write_end(&w);
    return end_event(&w);
}

/* An invoke is one of the body's prompts. */
static const char *param_of(const struct err *e)
{
    const char *dot = strncmp(e->where, "invokes", 7) ? NULL : strchr(e->where, '.');
    return dot ? dot + 1 : e->where[0] ? e->where : NULL;
}

static void write_error(struct writer *w, const struct err *e, const char *request_id)
{
    write_map(w, 1);
    write_key(w, "error");
    write_map(w, 5);
    write_key(w, "message");
    write_text(w, e->text);
    write_key(w, "type");
    write_text(w, err_info[e->code].http < 500 ? "invalid_request_error" : "server_error");
    write_key(w, "param");
    write_text(w, param_of(e));
    write_key(w, "code");
    write_text(w, err_info[e->code].name);
    write_key(w, "request_id");
    write_text(w, request_id);
    write_end(w);
    write_end(w);
}

struct bytes completion_error_event(const struct err *e, const char *request_id, struct arena *a)
{
    struct writer w = begin_event(a);
    write_error(&w, e, request_id);
    return end_event(&w);
}

struct bytes completion_error(const struct err *e, const char *request_id, struct arena *a)
{
    struct writer w = writer_grows(WRITER_json, a);
    write_error(&w, e, request_id);
    write_raw(&w, "\n", 1);
    return (struct bytes){w.at, w.size};
}
