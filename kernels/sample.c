/* Greedy choice, and a draw from the softmax by its distribution function: one uniform number of
 * Philox for each (seed, sequence, step). */
#include "sample.h"
#include "cpu/cpu.h"
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

/* Keys rise where logits fall; NaN comes last, beside -infinity. */
static uint32_t key_of(float logit)
{
    const uint32_t bits = scalar_bits(logit == logit ? logit + 0.0f : -INFINITY); /* -0 is 0 */
    return bits >> 31 ? bits : ~bits & INT32_MAX;
}

enum {
    DIGIT_BITS = 11, /* of a key, sorted at a time */
    DIGIT = 1 << DIGIT_BITS,
    N_DIGITS = 3
};

static int digit_of(uint32_t key, int digit)
{
    return (int)(key >> (digit * DIGIT_BITS) & (DIGIT - 1));
}

/* Where the ids of each digit begin in their order. */
static void find_starts(int starts[N_DIGITS][DIGIT], const float *logits, int n)
{
    for (int i = 0; i < n; i++)
        for (int d = 0; d < N_DIGITS; d++)
            starts[d][digit_of(key_of(logits[i]), d)]++;
    for (int d = 0; d < N_DIGITS; d++)
        for (int k = 0, at = 0; k < DIGIT; k++) {
            const int count = starts[d][k];
            starts[d][k] = at;
            at += count;
        }
}

/* Ids in the order of falling logits, the lower id first among equals, in order[0 .. n), each below
 * its key; behind them lie as many of scratch. Digit by digit from the lowest up, so that no logits
 * take longer than others. */
static void sort_ids(uint64_t *order, const float *logits, int n)
{
    int starts[N_DIGITS][DIGIT] = {{0}};
    uint64_t *from = order + n, *to = order;
    find_starts(starts, logits, n);
    for (int i = 0; i < n; i++)
        from[i] = (uint64_t)key_of(logits[i]) << 32 | (uint32_t)i;
    for (int d = 0; d < N_DIGITS; d++) {
        for (int i = 0; i < n; i++)
            to[starts[d][digit_of((uint32_t)(from[i] >> 32), d)]++] = from[i];
        uint64_t *const sorted = to;
        to = from;
        from = sorted;
    }
}

static float weight_at(const float *weight, const uint64_t *order, int place)
{
    return weight[(uint32_t)order[place]];
}

/* The first k, and what equals the last of them, as Hugging Face's processor keeps it. */
static int count_top_k(const uint64_t *order, int n, int k)
{
    while (k < n && order[k] >> 32 == order[k - 1] >> 32)
        k++;
    return k;
}

/* Of the first `n_allowed` ids, whose mass is `sum`, those before which less than top_p of it
 * stands, and one at least. */
static int count_top_p(const uint64_t *order, int n_allowed, double top_p, double sum,
                       const float *weight)
{
    double before = weight_at(weight, order, 0);
    int kept = 1;
    while (kept < n_allowed && before < top_p * sum)
        before += weight_at(weight, order, kept++);
    return kept;
}

/* What top-k and top-p leave: their number. */
static int count_kept(const uint64_t *order, int n, const struct sampler *s, double sum,
                      const float *weight)
{
    int kept = n;
    if (s->top_k > 0 && s->top_k < n) {
        kept = count_top_k(order, n, s->top_k);
        sum = 0;
        for (int i = 0; i < kept; i++)
            sum += weight_at(weight, order, i);
    }
    return s->top_p < 1 ? count_top_p(order, kept, s->top_p, sum, weight) : kept;
}

static bool is_choosy(const struct sampler *s, int n)
{
    return (s->top_k > 0 && s->top_k < n) || s->top_p < 1;
}

/* scalar_exp's bits, as fast as the host can. */
static void exp_all(float *x, int n)
{
    const struct vectors *v = vectors_avx512();
    v = v ? v : vectors_avx2();
    v = v ? v : vectors_neon();
    v = v ? v : vectors_plain();
    v->unary[OP_exp]((void *const[]){x, x}, (const int64_t[]){1, 1}, n);
}

double sample_weights(float *weight, const float *logits, int n, const struct sampler *s,
                      uint64_t *order)
{
    const int32_t best = argmax(logits, n);
    assert(best >= 0 && s->temperature > 0);
    for (int i = 0; i < n; i++) {
        const double shifted = ((double)logits[i] - logits[best]) / s->temperature;
        weight[i] = shifted == shifted ? (float)shifted : -INFINITY;
    }
    exp_all(weight, n);
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += weight[i];
    if (is_choosy(s, n)) {
        sort_ids(order, logits, n);
        for (int i = count_kept(order, n, s, sum, weight); i < n; i++)
            weight[(uint32_t)order[i]] = 0;
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
                     uint32_t step, float *weight, uint64_t *order)
{
    const int32_t best = argmax(logits, n);
    if (best < 0 || !(s->temperature > 0) || logits[best] == INFINITY)
        return best < 0 ? 0 : best;
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
