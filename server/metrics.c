#include "metrics.h"
#include "../protocol/encode_writer.h"
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum kind {
    KIND_counter,
    KIND_gauge,
    KIND_histogram
};

static const char *const kind_name[] = {"counter", "gauge", "histogram"};

static const struct row {
    enum kind kind;
    const char *name, *labels, *help;
} rows[METRIC_COUNT] = {
#define METRIC(kind, id, name, labels, help) {KIND_##kind, "interpose_" name, labels, help},
#include "metrics.def"
#undef METRIC
};

/* Upper ends of a histogram's parts: a GPU's token takes 0.2 ms, the longest request minutes. */
static const double ends[] = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                              0.25,   0.5,     1,      2.5,   5,      10,    25,   50,    100};

enum {
    N_ENDS = sizeof ends / sizeof ends[0]
};

static struct series {
    atomic_int_least64_t value; /* of a histogram the sum, in microseconds (thousands
                                   wait for years), and */
    atomic_int_least64_t parts[N_ENDS + 1]; /* how many fell into each, the last beyond all ends */
} all[METRIC_COUNT];

void metric_add(enum metric m, int64_t n)
{
    atomic_fetch_add_explicit(&all[m].value, n, memory_order_relaxed);
}

void metric_set(enum metric m, int64_t value)
{
    atomic_store_explicit(&all[m].value, value, memory_order_relaxed);
}

int64_t metric_value(enum metric m)
{
    return atomic_load_explicit(&all[m].value, memory_order_relaxed);
}

void metric_observe(enum metric m, double seconds)
{
    assert(rows[m].kind == KIND_histogram);
    int i = 0;
    while (i < N_ENDS && seconds > ends[i])
        i++;
    atomic_fetch_add_explicit(&all[m].parts[i], 1, memory_order_relaxed);
    metric_add(m, (int64_t)(seconds * 1e6 + 0.5));
}

/* `more` is a label of ours, or empty. */
static void write_sample(struct writer *w, const struct row *r, const char *suffix,
                         const char *more, const char *value)
{
    const char *comma = *r->labels && *more ? "," : "";
    const bool has_labels = *r->labels || *more;
    write_format(w, "%s%s%s%s%s%s%s %s\n", r->name, suffix, has_labels ? "{" : "", r->labels, comma,
                 more, has_labels ? "}" : "", value);
}

/* The count is that of the parts as they are read here, so that they always agree. */
static void write_histogram(struct writer *w, const struct row *r, struct series *s)
{
    char end[40] = "", count[24] = "", sum[40];
    int64_t n = 0;
    for (int i = 0; i <= N_ENDS; i++) {
        n += atomic_load_explicit(&s->parts[i], memory_order_relaxed);
        if (i < N_ENDS)
            snprintf(end, sizeof end, "le=\"%g\"", ends[i]);
        snprintf(count, sizeof count, "%lld", (long long)n);
        write_sample(w, r, "_bucket", i < N_ENDS ? end : "le=\"+Inf\"", count);
    }
    const int64_t microseconds = atomic_load_explicit(&s->value, memory_order_relaxed);
    snprintf(sum, sizeof sum, "%.6f", (double)microseconds * 1e-6);
    write_sample(w, r, "_sum", "", sum);
    write_sample(w, r, "_count", "", count);
}

static void write_row(struct writer *w, enum metric m)
{
    const struct row *r = &rows[m];
    if (m == 0 || strcmp(r->name, r[-1].name) != 0)
        write_format(w, "# HELP %s %s\n# TYPE %s %s\n", r->name, r->help, r->name,
                     kind_name[r->kind]);
    if (r->kind == KIND_histogram) {
        write_histogram(w, r, &all[m]);
        return;
    }
    char value[24];
    snprintf(value, sizeof value, "%lld", (long long)metric_value(m));
    write_sample(w, r, "", "", value);
}

struct bytes metrics_text(struct arena *a)
{
    struct writer w = writer_grows(WRITER_json, a);
    for (int m = 0; m < METRIC_COUNT; m++)
        write_row(&w, (enum metric)m);
    return (struct bytes){w.at, w.size};
}
