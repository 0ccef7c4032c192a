/* The choice of the next token: what is kept, how often it is drawn, and that a draw depends on seed,
 * sequence and step alone. */
#include <math.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

#include <cmocka.h>

#include "../../kernels/sample.h"
#include "../../kernels/scalar.h"

enum { VOCAB = 50257, DRAWS = 20000 };
static float scratch[VOCAB], many[VOCAB];
static uint64_t order[2 * VOCAB];

static int32_t sample(const float *logits, int n, struct sampler s, uint32_t sequence, uint32_t step)
{
    return sample_token(logits, n, &s, sequence, step, scratch, order);
}

static struct sampler all_at(double temperature)
{
    return (struct sampler){.temperature = temperature, .top_p = 1, .seed = 42};
}

static void philox_gives_the_published_numbers(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (int i = 0; i < 3; i++) {
        uint32_t out[4];
        philox4x32(out, cases[i].counter, cases[i].key);
        assert_memory_equal(out, cases[i].out, sizeof out);
    }
}

static void greedy_takes_the_lowest_of_equals_and_never_nan(void **state)
{
    (void)state;
    const float logits[] = {NAN, 1, 3, NAN, 3, -INFINITY};
    assert_int_equal(sample(logits, 6, all_at(0), 0, 0), 2);
}

static void a_row_with_nothing_above_minus_infinity_gives_token_0(void **state)
{
    (void)state;
    const float rows[][3] = {{NAN, NAN, NAN}, {-INFINITY, -INFINITY, -INFINITY},
                             {NAN, -INFINITY, NAN}};
    for (int i = 0; i < 3; i++)
        for (int t = 0; t < 2; t++)
            assert_int_equal(sample(rows[i], 3, all_at(t), 0, 0), 0);
}

static void infinity_beats_all_others(void **state)
{
    (void)state;
    const float rows[][3] = {{5, INFINITY, 1}, {-INFINITY, INFINITY, INFINITY}, {NAN, INFINITY, NAN}};
    for (uint32_t step = 0; step < 50; step++)
        for (int t = 0; t < 2; t++)
            assert_int_equal(sample(rows[step % 3], 3, all_at(t), 0, step), 1);
}

static void a_tiny_temperature_is_greedy(void **state)
{
    (void)state;
    const float logits[] = {1, 1.0001f, 1};
    for (uint32_t step = 0; step < 50; step++)
        assert_int_equal(sample(logits, 3, all_at(1e-300), 0, step), 1);
}

/* Draws over steps, and how far each token's count is from its share in standard deviations. */
static void check_shares(const float *logits, int n, struct sampler s, const double *shares)
{
    int counts[16] = {0};
    for (uint32_t step = 0; step < DRAWS; step++)
        counts[sample(logits, n, s, 3, step)]++;
    for (int i = 0; i < n; i++) {
        const double expected = DRAWS * shares[i];
        const double deviation = sqrt(DRAWS * shares[i] * (1 - shares[i]));
        if (fabs(counts[i] - expected) > 4.5 * deviation)
            fail_msg("token %d was drawn %d times, expected %.0f", i, counts[i], expected);
    }
}

/* Natural logarithms of 0.1, 0.4, 0.2, 0.25 and 0.05. */
static const float logits[] = {-2.302585f, -0.9162907f, -1.609438f, -1.386294f, -2.995732f};

static void tokens_are_drawn_in_the_shares_of_the_softmax(void **state)
{
    (void)state;
    check_shares(logits, 5, all_at(1), (const double[]){0.1, 0.4, 0.2, 0.25, 0.05});
}

static void a_temperature_of_one_half_squares_the_shares(void **state)
{
    (void)state;
    const double sum = 0.01 + 0.16 + 0.04 + 0.0625 + 0.0025;
    check_shares(logits, 5, all_at(0.5),
                 (const double[]){0.01 / sum, 0.16 / sum, 0.04 / sum, 0.0625 / sum, 0.0025 / sum});
}

static void top_k_keeps_the_k_largest_and_ties_with_the_last(void **state)
{
    (void)state;
    struct sampler s = all_at(1);
    s.top_k = 2;
    check_shares(logits, 5, s, (const double[]){0, 0.4 / 0.65, 0, 0.25 / 0.65, 0});
    const float ties[] = {0, 1, 1, 1, -5};
    check_shares(ties, 5, s, (const double[]){0, 1 / 3.0, 1 / 3.0, 1 / 3.0, 0});
    s.top_k = 1;
    s.temperature = 1e9;
    check_shares(logits, 5, s, (const double[]){0, 1, 0, 0, 0});
}

static void top_p_keeps_the_token_that_reaches_it(void **state)
{
    (void)state;
    struct sampler s = all_at(1);
    s.top_p = 0.6;
    check_shares(logits, 5, s, (const double[]){0, 0.4 / 0.65, 0, 0.25 / 0.65, 0});
    s.top_p = 0.0;
    check_shares(logits, 5, s, (const double[]){0, 1, 0, 0, 0});
}

static void top_p_counts_the_mass_that_top_k_left(void **state)
{
    (void)state;
    struct sampler s = all_at(1);
    s.top_k = 3; /* 0.4, 0.25, 0.2 of 0.85 */
    s.top_p = 0.5;
    check_shares(logits, 5, s, (const double[]){0, 0.4 / 0.65, 0, 0.25 / 0.65, 0});
}

static void min_p_is_relative_to_the_likeliest(void **state)
{
    (void)state;
    struct sampler s = all_at(1);
    s.min_p = 0.45; /* of 0.4: 0.18 */
    check_shares(logits, 5, s, (const double[]){0, 0.4 / 0.85, 0.2 / 0.85, 0.25 / 0.85, 0});
}

static void a_token_is_penalized_once_and_a_forbidden_one_never_comes(void **state)
{
    (void)state;
    static const int32_t first[] = {0, 1, 0}, second[] = {1, 2};
    const struct token_ids seen[] = {{first, 3}, {second, 2}};
    float x[] = {4, -4, 0, 3};
    sample_penalize(x, 2, seen, 2, scratch);
    assert_true(x[0] == 2 && x[1] == -8 && x[2] == 0 && x[3] == 3);
    sample_forbid(x, (struct token_ids){(const int32_t[]){3, 0}, 2});
    assert_int_equal(sample(x, 4, all_at(0), 0, 0), 2);
}

static void a_draw_depends_on_seed_sequence_and_step_alone(void **state)
{
    (void)state;
    for (int i = 0; i < VOCAB; i++)
        many[i] = (float)((i * 7919) % 1000) / 100.0f;
    const struct sampler s = {.temperature = 1, .top_p = 1, .seed = 1234567890123};
    struct sampler other = s, high = s;
    other.seed++;
    high.seed += UINT64_C(1) << 32;
    int seeds = 0, seeds_high = 0, sequences = 0, steps = 0;
    for (uint32_t step = 0; step < 20; step++) {
        const int32_t token = sample(many, VOCAB, s, 5, step);
        assert_int_equal(token, sample(many, VOCAB, s, 5, step));
        seeds += token != sample(many, VOCAB, other, 5, step);
        seeds_high += token != sample(many, VOCAB, high, 5, step);
        sequences += token != sample(many, VOCAB, s, 6, step);
        steps += token != sample(many, VOCAB, s, 5, step + 1);
    }
    assert_true(seeds > 15 && seeds_high > 15 && sequences > 15 && steps > 15);
}

static void nan_logits_are_never_drawn(void **state)
{
    (void)state;
    for (int i = 0; i < VOCAB; i++)
        many[i] = i % 2 ? NAN : (float)(i % 11);
    const struct sampler kinds[] = {{1, 0, 1, 0, 1}, {1, 40, 1, 0, 1}, {1, 0, 0.9, 0, 1},
                                    {1, 40, 0.9, 0, 1}, {1, VOCAB, 0.999, 0, 1},
                                    {1, 0, 1, 0.01, 1}};
    for (int i = 0; i < 6; i++)
        for (uint32_t step = 0; step < 20; step++)
            assert_int_equal(sample(many, VOCAB, kinds[i], 0, step) % 2, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_the_published_numbers),
        cmocka_unit_test(greedy_takes_the_lowest_of_equals_and_never_nan),
        cmocka_unit_test(a_row_with_nothing_above_minus_infinity_gives_token_0),
        cmocka_unit_test(infinity_beats_all_others),
        cmocka_unit_test(a_tiny_temperature_is_greedy),
        cmocka_unit_test(tokens_are_drawn_in_the_shares_of_the_softmax),
        cmocka_unit_test(a_temperature_of_one_half_squares_the_shares),
        cmocka_unit_test(top_k_keeps_the_k_largest_and_ties_with_the_last),
        cmocka_unit_test(top_p_keeps_the_token_that_reaches_it),
        cmocka_unit_test(top_p_counts_the_mass_that_top_k_left),
        cmocka_unit_test(min_p_is_relative_to_the_likeliest),
        cmocka_unit_test(a_token_is_penalized_once_and_a_forbidden_one_never_comes),
        cmocka_unit_test(a_draw_depends_on_seed_sequence_and_step_alone),
        cmocka_unit_test(nan_logits_are_never_drawn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
