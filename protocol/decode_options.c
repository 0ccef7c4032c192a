/* How tokens are chosen and where a generation ends: one table of what is allowed for /v1/run and
 * /v1/completions. */
#include "decode_parts.h"

#include "encode_writer.h"

#include <stdio.h>
#include <string.h>

static const struct option {
    const char *name;
    size_t at;         /* in struct sampling: a double, or an int64_t */
    bool is_real;
    bool above;        /* `low` itself is refused */
    double low, high;
    const char *range; /* how a refusal says it */
} options[] = {
#define REAL(name, above, low, high, range) \
    {#name, offsetof(struct sampling, name), true, above, low, high, range},
#define INT(name, low, high, range) \
    {#name, offsetof(struct sampling, name), false, false, low, high, range},
    REAL(temperature, false, 0, TEMPERATURE_MAX, "0 to 1e6")
    INT(top_k, 0, INT32_MAX, "0 to 2147483647")
    REAL(top_p, true, 0, 1, "more than 0 and at most 1")
    REAL(min_p, false, 0, 1, "0 to 1")
    REAL(repetition_penalty, true, 0, PENALTY_MAX, "more than 0 and at most 1000")
    INT(seed, 0, (double)INT64_MAX, "0 to 9223372036854775807")
    INT(n, 1, SEQUENCES_MAX, "1 to 256")
#undef REAL
#undef INT
};

static_assert(sizeof options / sizeof *options == SAMPLING_FIELDS, "a field for each option");

struct field decode_sampling_field(int i)
{
    return (struct field){options[i].name, options[i].is_real ? KIND_number : KIND_int, false};
}

static bool refuse_option(const struct option *o, struct tree t, struct err *e)
{
    char number[NUMBER_SIZE];
    if (o->is_real)
        double_digits(number, tree_real(t));
    else
        snprintf(number, sizeof number, "%lld", (long long)tree_int(t));
    return err_set(e, ERR_value, "%s is %s, not %s", o->name, o->range, number);
}

bool decode_sampling_values(struct sampling *s, const struct tree *values, const char *place,
                            struct err *e)
{
    for (int i = 0; i < SAMPLING_FIELDS; i++) {
        const struct option *o = &options[i];
        if (!values[i].at)
            continue;
        const double number = tree_real(values[i]);
        if (!(o->above ? number > o->low : number >= o->low) || !(number <= o->high)) {
            refuse_option(o, values[i], e);
            return err_at(e, -1, "%s%s", place, o->name);
        }
        char *to = (char *)s + o->at;
        const int64_t integer = o->is_real ? 0 : tree_int(values[i]);
        memcpy(to, o->is_real ? (const void *)&number : (const void *)&integer, 8);
    }
    return true;
}

bool decode_sampling(struct trace *t, struct tree map, struct decoder *d)
{
    struct tree values[SAMPLING_FIELDS];
    struct field fields[SAMPLING_FIELDS];
    const char *place = arena_format(d->scratch, "%ssampling", t->place);
    for (int i = 0; i < SAMPLING_FIELDS; i++)
        fields[i] = decode_sampling_field(i);
    return !map.at || (decode_fields(values, map, fields, SAMPLING_FIELDS, place, -1, d->e) &&
                       decode_sampling_values(&t->sampling, values,
                                              arena_format(d->scratch, "%s.", place), d->e));
}

/* The end. */

/* A list's items, or the value itself as the only one. */
static int count_items(struct tree t)
{
    return !t.at ? 0 : tree_kind(t) == TREE_list ? tree_count(t) : 1;
}

static struct tree item_of(struct tree t, int i)
{
    return tree_kind(t) == TREE_list ? tree_item(t, i) : t;
}

static bool add_id(struct ending *g, int32_t *ids, struct tree t, const char *what,
                   struct decoder *d)
{
    int64_t id = 0;
    if (tree_kind(t) != TREE_int)
        return err_set(d->e, ERR_type, "%s holds token ids, not %s", what,
                       tree_kind_name[tree_kind(t)]);
    if (!decode_int(&id, t, "a token id", 0, d->model->vocab - 1, d->e))
        return false;
    if (g->n_ids == STOP_IDS_MAX)
        return err_set(d->e, ERR_limit, "at most %d tokens end a generation", STOP_IDS_MAX);
    ids[g->n_ids++] = (int32_t)id;
    return true;
}

static bool add_text(struct ending *g, struct stop_text *texts, struct tree t, struct decoder *d)
{
    const struct tree_text text = tree_text(t);
    if (text.length == 0)
        return err_set(d->e, ERR_value, "a stop text is empty");
    if (text.length > STOP_TEXT_BYTES_MAX)
        return err_set(d->e, ERR_limit, "a stop text has at most %d bytes, not %zu",
                       STOP_TEXT_BYTES_MAX, text.length);
    if (g->n_texts == STOP_TEXTS_MAX)
        return err_set(d->e, ERR_limit, "at most %d texts end a generation", STOP_TEXTS_MAX);
    texts[g->n_texts++] =
        (struct stop_text){arena_copy_text(d->arena, text.at, text.length), text.length};
    return true;
}

/* What the request says, else what the model's config does. */
static bool read_eos(struct ending *g, int32_t *ids, struct tree eos, struct decoder *d)
{
    for (int i = 0; i < count_items(eos); i++) {
        if (!add_id(g, ids, item_of(eos, i), "eos_token_id", d))
            return false;
    }
    if (eos.at)
        return true;
    g->n_ids = d->model->n_eos;
    memcpy(ids, d->model->eos, sizeof d->model->eos);
    return true;
}

bool decode_ending(struct trace *trace, struct tree stop, struct tree eos, struct decoder *d)
{
    struct ending *g = &trace->ending;
    int32_t *ids = ARENA_ARRAY(d->arena, int32_t, STOP_IDS_MAX);
    struct stop_text *texts = ARENA_ARRAY(d->arena, struct stop_text, STOP_TEXTS_MAX);
    if (!read_eos(g, ids, eos, d))
        return err_at(d->e, -1, "%seos_token_id", trace->place);
    g->ids = ids;
    g->texts = texts;
    g->pad = g->n_ids ? ids[0] : d->model->n_eos ? d->model->eos[0] : 0;
    for (int i = 0; i < count_items(stop); i++) {
        const struct tree t = item_of(stop, i);
        if (!(tree_kind(t) == TREE_text ? add_text(g, texts, t, d) : add_id(g, ids, t, "stop", d)))
            return err_at(d->e, -1, "%sstop", trace->place);
    }
    return true;
}

bool decode_new_tokens(struct trace *t, struct tree most, struct tree least, const char *most_name,
                       const char *least_name, struct err *e)
{
    int64_t n = t->n_new_tokens, n_min = 0;
    if (most.at && tree_int(most) > NEW_TOKENS_MAX) {
        err_set(e, ERR_limit, "%s is at most %d, not %lld", most_name, NEW_TOKENS_MAX,
                (long long)tree_int(most));
        return err_at(e, -1, "%s%s", t->place, most_name);
    }
    if (most.at && !decode_int(&n, most, most_name, 0, NEW_TOKENS_MAX, e))
        return err_at(e, -1, "%s%s", t->place, most_name);
    if (least.at && !decode_int(&n_min, least, least_name, 0, n, e))
        return err_at(e, -1, "%s%s", t->place, least_name);
    t->n_new_tokens = (int)n;
    t->ending.n_min = (int)n_min;
    return true;
}
