/* Greedy choice, and a draw from the softmax by its distribution function: one uniform number of
 * Philox for each (seed, sequence, step). */
#include "sample.h"
#include "scalar.h"

/* In [0, 1), of 53 bits. */
static double uniform(uint64_t seed, uint32_t sequence, uint32_t step)
{
    const uint64_t counter = (uint64_t)sequence << 32 | step;
    return (double)((uint64_t)whole_random((int64_t)seed, (int64_t)counter) >> 11) * 0x1p-53;
}

/* The lowest id of the largest logit, or -1 where none is more than -infinity. */
static int32_t argmax(const float *logits, int n)
{
    int32_t best = -1;
    for (int32_t i = 0; i < n; i++)
        if (logits[i] > (best < 0 ? -INFINITY : logits[best]))
            best = i;
    return best;
}

static bool any_finite(const float *logits, int n)
{
    for (int i = 0; i < n; i++)
        if (fabsf(logits[i]) < INFINITY)
            return true;
    return false;
}

/* Ids in the order of falling logits, the lower id first among equals and NaN last: a heap gives
 * them one by one, so that a draw from the head of the list does not pay for a sort of all. Those
 * taken stand behind the heap's end, in reverse. */
struct ranking {
    const float *logits;
    int32_t *ids; /* [n] */
    int n, left;  /* of them still in the heap */
};

static float rank_of(const struct ranking *r, int32_t id)
{
    return r->logits[id] == r->logits[id] ? r->logits[id] : -INFINITY;
}

static bool precedes(const struct ranking *r, int32_t a, int32_t b)
{
    const float x = rank_of(r, a), y = rank_of(r, b);
    return x > y || (x == y && a < b);
}

static void ranking_sink(struct ranking *r, int at)
{
    const int32_t id = r->ids[at];
    for (int child = 2 * at + 1; child < r->left; child = 2 * at + 1) {
        if (child + 1 < r->left && precedes(r, r->ids[child + 1], r->ids[child]))
            child++;
        if (precedes(r, id, r->ids[child]))
            break;
        r->ids[at] = r->ids[child];
        at = child;
    }
    r->ids[at] = id;
}

static void ranking_init(struct ranking *r, const float *logits, int n, int32_t *ids)
{
    *r = (struct ranking){logits, ids, n, n};
    for (int i = 0; i < n; i++)
        ids[i] = i;
    for (int i = n / 2 - 1; i >= 0; i--)
        ranking_sink(r, i);
}

static int32_t ranking_take(struct ranking *r)
{
    const int32_t id = r->ids[0];
    r->ids[0] = r->ids[--r->left];
    r->ids[r->left] = id;
    ranking_sink(r, 0);
    return id;
}

static int32_t ranking_at(const struct ranking *r, int place)
{
    return r->ids[r->n - 1 - place];
}

/* Takes the k first, and what equals the last of them, as Hugging Face's processor does. Returns
 * their number. */
static int take_top_k(struct ranking *r, int k)
{
    float least = INFINITY;
    while (r->left > 0 && (r->n - r->left < k || rank_of(r, r->ids[0]) == least))
        least = rank_of(r, ranking_take(r));
    return r->n - r->left;
}

/* Of the first `n_allowed` ids, whose mass is `sum`, those before which less than top_p of it
 * stands, and one at least. */
static int take_top_p(struct ranking *r, int n_allowed, double top_p, double sum,
                      const float *weight)
{
    double before = 0;
    int kept = 0;
    while (kept < n_allowed && (kept == 0 || before < top_p * sum)) {
        if (r->n - r->left == kept)
            ranking_take(r);
        before += weight[ranking_at(r, kept++)];
    }
    return kept;
}

/* What top-k and top-p leave: their number. They stand at the end of the ranking's ids. */
static int take_kept(struct ranking *r, const struct sampler *s, double sum, const float *weight)
{
    int kept = r->n;
    if (s->top_k > 0 && s->top_k < r->n) {
        kept = take_top_k(r, s->top_k);
        sum = 0;
        for (int i = 0; i < kept; i++)
            sum += weight[ranking_at(r, i)];
    }
    return s->top_p < 1 ? take_top_p(r, kept, s->top_p, sum, weight) : kept;
}

static bool is_choosy(const struct sampler *s, int n)
{
    return (s->top_k > 0 && s->top_k < n) || s->top_p < 1;
}

double sample_weights(float *weight, const float *logits, int n, const struct sampler *s,
                      int32_t *order)
{
    const int32_t best = argmax(logits, n);
    assert(best >= 0 && s->temperature > 0);
    double sum = 0;
    for (int i = 0; i < n; i++) {
        const double shifted = ((double)logits[i] - logits[best]) / s->temperature;
        weight[i] = shifted == shifted ? scalar_exp((float)shifted) : 0.0f;
        sum += weight[i];
    }
    if (is_choosy(s, n)) {
        struct ranking r;
        ranking_init(&r, logits, n, order);
        const int kept = take_kept(&r, s, sum, weight);
        for (int i = 0; i < n - kept; i++)
            weight[order[i]] = 0;
    }
    sum = 0;
    for (int i = 0; i < n; i++) {
        weight[i] = weight[i] < s->min_p ? 0 : weight[i]; /* the likeliest has 1 */
        sum += weight[i];
    }
    return sum;
}

static int32_t draw(const float *weight, int n, double sum, double u, int32_t fallback)
{
    double passed = 0;
    for (int32_t i = 0; i < n; i++) {
        passed += weight[i];
        if (passed > u * sum)
            return i;
    }
    return fallback;
}

int32_t sample_token(const float *logits, int n, const struct sampler *s, uint32_t sequence,
                     uint32_t step, float *weight, int32_t *order)
{
    const int32_t best = argmax(logits, n);
    if (best < 0 || !(s->temperature > 0) || logits[best] == INFINITY)
        return best < 0 || !any_finite(logits, n) ? 0 : best;
    const double sum = sample_weights(weight, logits, n, s, order);
    return draw(weight, n, sum, uniform(s->seed, sequence, step), best);
}

/* Twice over the tokens, so that one that stands there twice is penalized once. */
void sample_penalize(float *logits, double penalty, const struct token_ids *seen, int n_lists,
                     float *scratch)
{
    const float by = (float)penalty;
    for (int k = 0; k < n_lists; k++)
        for (int i = 0; i < seen[k].count; i++) {
            const int32_t id = seen[k].at[i];
            scratch[id] = logits[id] < 0 ? logits[id] * by : logits[id] / by;
        }
    for (int k = 0; k < n_lists; k++)
        for (int i = 0; i < seen[k].count; i++)
            logits[seen[k].at[i]] = scratch[seen[k].at[i]];
}

void sample_forbid(float *logits, struct token_ids ids)
{
    for (int i = 0; i < ids.count; i++)
        logits[ids.at[i]] = -INFINITY;
}
