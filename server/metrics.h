/* The numbers of GET /metrics: metrics.def is their table. Any thread moves any of them, at the
 * cost of an atomic addition: nobody waits and nothing is allocated. What belongs to a request has
 * been counted when its client reads the last frame. */
#pragma once
#include "../protocol/encode.h"

enum metric {
#define METRIC(kind, id, name, labels, help) METRIC_##id,
#include "metrics.def"
#undef METRIC
    METRIC_COUNT
};

void metric_add(enum metric m, int64_t n); /* a gauge may fall */
void metric_set(enum metric m, int64_t value);
void metric_observe(enum metric m, double seconds);
int64_t metric_value(enum metric m); /* of a gauge or a counter */

static inline void metric_add_error(enum err_code code)
{
    metric_add((enum metric)(METRIC_error_syntax + (int)code - (int)ERR_syntax), 1);
}

/* All of them as Prometheus reads them, text format 0.0.4. */
#define METRICS_TYPE "text/plain; version=0.0.4; charset=utf-8"
struct bytes metrics_text(struct arena *a);
