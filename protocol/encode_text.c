#include "encode_text.h"

#include "decode.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    EDGE = 3,            /* how many elements are shown at both ends of a long dimension */
    EXCERPT_BYTES = 240, /* of a prompt's or a generated text */
};

/* Text from outside, which must not steer the terminal: control characters become escapes. */
static void put_bytes(struct writer *w, const char *text, size_t length)
{
    size_t n;
    for (size_t at = 0; at < length; at += n ? n : 1) {
        const unsigned char c = (unsigned char)text[at];
        n = utf8_length(text + at, length - at);
        const bool is_c1 = c == 0xc2 && n == 2 && (unsigned char)text[at + 1] < 0xa0;
        if (n == 0 || c < 0x20 || c == 0x7f || is_c1)
            write_format(w, "\\x%02x", is_c1 ? (unsigned char)text[at + 1] : c);
        else
            write_raw(w, text + at, n);
    }
}

static void put_safe(struct writer *w, const char *text)
{
    put_bytes(w, text, strlen(text));
}

/* The beginning of the text that these ids stand for. */
static void put_excerpt(struct writer *w, const struct bpe *b, const int32_t *ids, int count)
{
    char text[EXCERPT_BYTES];
    size_t used = 0, size = 0;
    int shown = 0;
    if (!b)
        return;
    if (!w->at)
        w->size += 4 * EXCERPT_BYTES + 16; /* each byte as an escape */
    for (; shown < count && w->at; shown++) {
        const char *piece = bpe_token(&size, b, ids[shown]);
        if (used + size > sizeof text)
            break;
        memcpy(text + used, piece, size);
        used += size;
    }
    write_format(w, "  \"");
    put_bytes(w, text, used);
    write_format(w, shown < count ? "...\"\n" : "\"\n");
}

static void put_ids(struct writer *w, const int32_t *ids, int count)
{
    for (int i = 0; i < count && w->at; i++)
        write_format(w, " %d", ids[i]);
    if (!w->at)
        w->size += 12 * (size_t)count;
    write_format(w, "\n");
}

void text_head(struct writer *w, const struct reply_facts *f)
{
    const struct graph *g = f->graph;
    write_format(w, "request %s, model ", f->request_id);
    put_safe(w, f->model);
    write_format(w, ", %s, %d pass%s\n", f->numerics, f->plan->n_passes,
                 f->plan->n_passes == 1 ? "" : "es");
    for (int i = 0; i < g->n_invokes; i++) {
        for (int j = 0; j < g->invokes[i].n_prompts; j++) {
            const struct prompt *p = &g->invokes[i].prompts[j];
            write_format(w, "invoke %d, prompt %d, %d token%s:", i, j, p->n_tokens,
                         p->n_tokens == 1 ? "" : "s");
            put_ids(w, p->tokens, p->n_tokens);
            put_excerpt(w, f->bpe, p->tokens, p->n_tokens);
        }
    }
    write_format(w, "\n");
}

/* A NaN has no sign for people. */
static double shown(double x)
{
    return isnan(x) ? (double)NAN : x;
}

static double element(const char *data, int64_t i, enum dtype dtype)
{
    return dtype == DT_f32   ? (double)((const float *)data)[i]
           : dtype == DT_i64 ? (double)((const int64_t *)data)[i]
                             : (double)data[i];
}

/* Aligned like numpy's. */
static void put_element(struct writer *w, const char *data, int64_t i, enum dtype dtype)
{
    if (!w->at)
        w->size += NUMBER_SIZE;
    else if (dtype == DT_f32)
        write_format(w, "%11.5g", shown(element(data, i, dtype)));
    else if (dtype == DT_i64)
        write_format(w, "%7lld", (long long)((const int64_t *)data)[i]);
    else
        write_format(w, "%5s", data[i] ? "true" : "false");
}

static void put_summary(struct writer *w, const struct save *s, const char *data)
{
    const int64_t count = view_count(&s->view);
    double sum = 0.0, low = INFINITY, high = -INFINITY;
    if (!w->at || count < 2) {
        w->size += w->at ? 0 : 100;
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        const double x = element(data, i, s->dtype);
        sum += x;
        low = x < low || isnan(x) ? x : low; /* from a NaN on it stays one */
        high = x > high || isnan(x) ? x : high;
    }
    write_format(w, "  mean %.6g, min %.6g, max %.6g\n", shown(sum / (double)count), shown(low),
                 shown(high));
}

/* Line breaks and the space under the brackets, in front of the next item of a dimension. */
static void put_gap(struct writer *w, int rank, int dim)
{
    for (int i = 0; i < rank - 1 - dim; i++)
        write_format(w, "\n");
    write_format(w, "%*s", dim == rank - 1 ? 1 : 3 + dim, "");
}

/* One dimension in brackets and, inside, the ones behind it: RANK_MAX bounds the recursion. */
static void put_values(struct writer *w, const struct save *s, const char *data, int dim,
                       int64_t first)
{
    const int rank = s->view.rank;
    if (dim == rank) {
        put_element(w, data, first, s->dtype);
        return;
    }
    const int64_t n = s->view.shape[dim];
    const int64_t edge = dim + 2 >= rank ? EDGE : 1; /* else rank 8 would fill the screen */
    write_format(w, "[");
    for (int64_t i = 0; i < n; i++) {
        if (i > 0)
            put_gap(w, rank, dim);
        if (n > 2 * edge && i == edge) {
            write_format(w, "...");
            put_gap(w, rank, dim);
            i = n - edge;
        }
        put_values(w, s, data, dim + 1, first + i * s->view.stride[dim]);
    }
    write_format(w, "]");
}

void text_tensor(struct writer *w, const struct save *s, const char *data)
{
    char shape[SHAPE_TEXT_SIZE];
    put_safe(w, s->name);
    write_format(w, ": %s %s, step %d\n", dtype_name(s->dtype), shape_text(shape, &s->view),
                 s->step);
    put_summary(w, s, data);
    write_format(w, "  ");
    if (view_count(&s->view) > 0)
        put_values(w, s, data, 0, 0);
    else
        write_format(w, "[]");
    write_format(w, "\n\n");
}

void text_absent(struct writer *w, const struct save *s)
{
    put_safe(w, s->name);
    write_format(w, ": step %d did not come, its generation had ended\n\n", s->step);
}

void text_end(struct writer *w, const struct reply_facts *f, double queue_seconds,
              double run_seconds)
{
    const struct graph *g = f->graph;
    for (int i = 0; i < g->n_invokes && f->generated; i++) {
        for (int j = 0; j < g->invokes[i].n_prompts; j++) {
            const int n_new = reply_count_new(w, f, i, j);
            write_format(w, "invoke %d, prompt %d, %d new token%s:", i, j, n_new,
                         n_new == 1 ? "" : "s");
            put_ids(w, reply_new_ids(f, i, j), n_new);
            put_excerpt(w, f->bpe, reply_new_ids(f, i, j), n_new);
        }
    }
    write_format(w, "done: %.3f s in the queue, %.3f s running\n", queue_seconds, run_seconds);
}

void text_error(struct writer *w, const struct err *e)
{
    write_format(w, "error (%s): ", err_info[e->code].name);
    put_safe(w, e->text);
    if (e->where[0]) {
        write_format(w, ", at ");
        put_safe(w, e->where);
    }
    write_format(w, "\n");
}

size_t text_room(const struct reply_facts *f)
{
    struct writer head = writer_counts(WRITER_json), end = head;
    text_head(&head, f);
    text_end(&end, f, 0.0, 0.0);
    size_t room = head.size > end.size ? head.size : end.size;
    for (int i = 0; i < f->plan->n_saves; i++) {
        struct writer tensor = writer_counts(WRITER_json);
        text_tensor(&tensor, &f->plan->saves[i], NULL);
        room = tensor.size > room ? tensor.size : room;
    }
    const size_t error = 4 * (sizeof(struct err) + 64); /* each byte as an escape */
    room = room > error ? room : error;
    return room + 256; /* the seconds' digits */
}

int element_text(char *buffer, const char *from, enum dtype dtype)
{
    if (dtype == DT_f32)
        return float_text(buffer, *(const float *)from);
    if (dtype == DT_i64)
        return snprintf(buffer, NUMBER_SIZE, "%lld", (long long)*(const int64_t *)from);
    return snprintf(buffer, NUMBER_SIZE, "%s", *from ? "true" : "false");
}
