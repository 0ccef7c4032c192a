/* kernels/scalar.h beside the C library in double precision, and its special values beside torch's. */
#include <setjmp.h>
#include <stdio.h>

#include <cmocka.h>

#include "../../kernels/scalar.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))
static const float nan_ = NAN, inf = INFINITY;

typedef float narrow_fn(float x);
typedef double wide_fn(double x);

/* SCALAR functions are always inlined; a table needs functions. */
#define NARROW(name) \
    static float narrow_##name(float x) { return scalar_##name(x); }
NARROW(exp)
NARROW(log)
NARROW(tanh)
NARROW(sigmoid)
NARROW(gelu_new)
NARROW(sin)
NARROW(cos)
NARROW(tan)
NARROW(erf)
NARROW(asin)
NARROW(acos)
NARROW(exp2)
NARROW(expm1)
NARROW(log2)
NARROW(log10)
NARROW(log1p)

static float narrow_atan(float x)
{
    return scalar_atan2(x, 1);
}

static double wide_sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static double wide_gelu_new(double x)
{
    return x / (1 + exp(-2 * sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
}

/* In units of the last place of the true value, which is a normal number. */
static double error_of(float got, double expected)
{
    const float rounded = (float)expected;
    if (rounded != rounded || fabsf(rounded) == INFINITY)
        return (rounded != rounded && got != got) || rounded == got ? 0 : 1e9;
    return fabs(got - expected) / ldexp(1.0, ilogbf(rounded) - 23);
}

static void functions_are_as_near_the_true_value_as_promised(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        narrow_fn *narrow;
        wide_fn *wide;
        double units; /* the largest error */
        float lowest; /* of the arguments */
    } cases[] = {
        {"exp", narrow_exp, exp, 1.1, -INFINITY},
        {"log", narrow_log, log, 0.8, -INFINITY},
        {"tanh", narrow_tanh, tanh, 1.4, -INFINITY},
        {"sigmoid", narrow_sigmoid, wide_sigmoid, 2.2, -INFINITY},
        {"gelu_new", narrow_gelu_new, wide_gelu_new, 2.5, -9.8f},
        {"sin", narrow_sin, sin, 0.51, -INFINITY},
        {"cos", narrow_cos, cos, 0.51, -INFINITY},
        {"tan", narrow_tan, tan, 0.51, -INFINITY},
        {"asin", narrow_asin, asin, 0.51, -INFINITY},
        {"acos", narrow_acos, acos, 0.51, -INFINITY},
        {"atan", narrow_atan, atan, 0.51, -INFINITY},
        {"erf", narrow_erf, erf, 0.51, -INFINITY},
        {"exp2", narrow_exp2, exp2, 0.51, -INFINITY},
        {"expm1", narrow_expm1, expm1, 0.51, -INFINITY},
        {"log2", narrow_log2, log2, 0.51, -INFINITY},
        {"log10", narrow_log10, log10, 0.51, -INFINITY},
        {"log1p", narrow_log1p, log1p, 0.51, -INFINITY},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        double most = 0;
        float at = 0;
        for (uint64_t bits = 0; bits <= UINT32_MAX; bits += 9973) {
            const float x = scalar_from_bits((uint32_t)bits);
            const double expected = cases[i].wide((double)x);
            if (x < cases[i].lowest || fabs(expected) < 0x1p-126)
                continue;
            const double units = error_of(cases[i].narrow(x), expected);
            at = units > most ? x : at;
            most = units > most ? units : most;
        }
        if (most > cases[i].units)
            fail_msg("%s is %.2f units off at %a", cases[i].name, most, (double)at);
    }
}

static uint64_t chance_state = 7;

static uint32_t chance(void)
{
    chance_state = chance_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(chance_state >> 32);
}

static void pow_is_nearly_exact(void **state)
{
    (void)state;
    for (int i = 0; i < 400000; i++) {
        float x = scalar_from_bits(chance()), y = scalar_from_bits(chance());
        if (i % 2) {
            x = (float)(int)(chance() % 4001) / 200.0f - 10.0f;
            y = i % 4 == 1 ? (float)(int)(chance() % 41) - 20.0f : (float)(chance() % 999) / 50.0f;
        }
        const double expected = pow((double)x, (double)y);
        if (fabs(expected) >= 0x1p-126 && error_of(scalar_pow(x, y), expected) > 0.51)
            fail_msg("pow(%a, %a) is %a", (double)x, (double)y, (double)scalar_pow(x, y));
    }
}

static void special_arguments_of_pow_are_c_s(void **state)
{
    (void)state;
    const float values[] = {0.0f, -0.0f, 1, -1, 2, -2, 3, -3, 0.5f, -0.5f, inf, -inf, nan_, 1e30f,
                            -1e30f, 16777216.0f, 16777215.0f, -16777215.0f, 1.5f};
    for (int i = 0; i < COUNT(values); i++)
        for (int j = 0; j < COUNT(values); j++) {
            const float got = scalar_pow(values[i], values[j]), c = powf(values[i], values[j]);
            const bool same = got == c && signbit(got) == signbit(c);
            if (!same && !(got != got && c != c) && error_of(got, c) > 1)
                fail_msg("pow(%g, %g) is %g, in C %g", (double)values[i], (double)values[j],
                         (double)got, (double)c);
        }
}

static void atan2_is_c_s(void **state)
{
    (void)state;
    const float values[] = {0.0f, -0.0f, 1, -1, 2.5f, -3, inf, -inf, nan_, 1e-40f, 3e38f, -1e-20f};
    for (int i = 0; i < 200000; i++) {
        const bool chosen = i < COUNT(values) * COUNT(values);
        const float y = chosen ? values[i / COUNT(values)] : scalar_from_bits(chance());
        const float x = chosen ? values[i % COUNT(values)] : scalar_from_bits(chance());
        const double c = atan2((double)y, (double)x);
        const float got = scalar_atan2(y, x);
        const bool zero = got == 0 && !signbit(got) == !signbit(c);
        if (c == 0 ? !zero : !(fabs(c) < 0x1p-126) && error_of(got, c) > 0.51)
            fail_msg("atan2(%a, %a) is %a, in C %a", (double)y, (double)x, (double)got, c);
    }
}

static void exp_of_what_is_not_positive_has_the_bits_of_exp(void **state)
{
    (void)state;
    for (int i = 0; i < 1000000; i++) {
        const float any = -fabsf(scalar_from_bits(chance()));
        const float x = i % 2 ? any : -(float)(chance() % 110000000) * 1e-6f;
        const float got = scalar_exp_falling(x), expected = scalar_exp(x);
        if (scalar_bits(got) != scalar_bits(expected) && !(x != x && got != got))
            fail_msg("exp(%a) is %a, not %a", (double)x, (double)got, (double)expected);
    }
}

static void a_weight_is_the_quotient(void **state)
{
    (void)state;
    for (int i = 0; i < 2000000; i++) {
        float x = ldexpf(1 - (float)(chance() >> 8) * 0x1p-25f, -(int)(chance() % 80));
        float sum = ldexpf(1 + (float)(chance() >> 9) * 0x1p-23f, (int)(chance() % 22));
        if (i % 4 == 1)
            x = ldexpf(1 - (float)(chance() % 99) * 0x1p-24f, -(int)(chance() % 80));
        if (i % 4 > 1)
            sum = ldexpf(2 - (float)(chance() % 99) * 0x1p-23f, (int)(chance() % 21));
        if (x < WEIGHT_LEAST)
            x = WEIGHT_LEAST;
        if (scalar_weight(x, sum, 1 / sum) != x / sum)
            fail_msg("%a / %a is %a", (double)x, (double)sum, (double)scalar_weight(x, sum, 1 / sum));
    }
}

static void special_values_are_torch_s(void **state)
{
    (void)state;
    const struct {
        float got, expected;
    } cases[] = {
        {scalar_exp(-inf), 0}, {scalar_exp(inf), inf}, {scalar_exp(89), inf}, {scalar_exp(-104), 0},
        {scalar_exp(0), 1}, {scalar_exp(nan_), nan_}, {scalar_exp(-103.5f), 0x1p-149f},
        {scalar_log(0), -inf}, {scalar_log(-0.0f), -inf}, {scalar_log(-1), nan_},
        {scalar_log(-inf), nan_}, {scalar_log(inf), inf}, {scalar_log(1), 0},
        {scalar_log(nan_), nan_}, {scalar_log(0x1p-149f), -103.278929903431851f},
        {scalar_tanh(inf), 1}, {scalar_tanh(-inf), -1}, {scalar_tanh(30), 1}, {scalar_tanh(nan_), nan_},
        {scalar_tanh(0x1p-149f), 0x1p-149f}, {1 / scalar_tanh(-0.0f), -inf}, {1 / scalar_tanh(0), inf},
        {scalar_sigmoid(inf), 1}, {scalar_sigmoid(-inf), 0}, {scalar_sigmoid(0), 0.5f},
        {scalar_sigmoid(nan_), nan_},
        {scalar_gelu_new(inf), inf}, {scalar_gelu_new(-inf), nan_}, {scalar_gelu_new(nan_), nan_},
        {scalar_gelu_new(100), 100}, {scalar_gelu_new(-100), 0},
        {scalar_sin(inf), nan_}, {scalar_cos(-inf), nan_}, {scalar_sin(nan_), nan_},
        {scalar_cos(0), 1},
        {scalar_asin(1), 1.57079637f}, {scalar_acos(-1), 3.14159274f}, {scalar_asin(1.5f), nan_},
        {scalar_acos(-2), nan_}, {scalar_acos(nan_), nan_}, {scalar_erf(inf), 1}, {scalar_erf(-inf), -1}, {scalar_erf(nan_), nan_},
        {scalar_erf(0x1p-149f), 0x1p-149f}, {scalar_exp2(inf), inf}, {scalar_exp2(-inf), 0},
        {scalar_exp2(nan_), nan_}, {scalar_exp2(-149), 0x1p-149f}, {scalar_expm1(-inf), -1},
        {scalar_expm1(inf), inf}, {scalar_expm1(nan_), nan_}, {scalar_log2(0), -inf},
        {scalar_log2(-1), nan_}, {scalar_log10(inf), inf}, {scalar_log10(1000), 3},
        {scalar_log1p(-1), -inf}, {scalar_log1p(-2), nan_}, {scalar_log1p(inf), inf},
        {scalar_log1p(nan_), nan_}, {scalar_log1p(1e-20f), 1e-20f}, {scalar_tan(inf), nan_},
        {scalar_tan(nan_), nan_},
        {scalar_maximum(nan_, 1), nan_}, {scalar_maximum(1, nan_), nan_}, {scalar_maximum(1, 2), 2},
        {scalar_minimum(nan_, 1), nan_}, {scalar_minimum(1, nan_), nan_}, {scalar_minimum(1, 2), 1},
        {scalar_remainder(7, 3), 1}, {scalar_remainder(-7, 3), 2}, {scalar_remainder(7, -3), -2},
        {scalar_remainder(-7, -3), -1}, {scalar_remainder(7, 0), nan_}, {scalar_remainder(7, inf), 7},
        {scalar_remainder(-7, inf), inf}, {scalar_remainder(inf, 3), nan_},
        {scalar_floor_divide(7, 3), 2}, {scalar_floor_divide(-7, 3), -3},
        {scalar_floor_divide(7, -3), -3}, {scalar_floor_divide(-7, -3), 2},
        {scalar_floor_divide(7, 0), inf}, {scalar_floor_divide(-7, 0), -inf},
        {scalar_floor_divide(0, 0), nan_}, {scalar_floor_divide(1, 0.1f), 9},
        {scalar_floor_divide(-1, inf), -1},
    };
    for (int i = 0; i < COUNT(cases); i++)
        if (cases[i].got != cases[i].expected
            && !(cases[i].got != cases[i].got && cases[i].expected != cases[i].expected))
            fail_msg("case %d: %g, expected %g", i, (double)cases[i].got, (double)cases[i].expected);
}

static void whole_numbers_wrap_and_never_trap(void **state)
{
    (void)state;
    const int64_t least = INT64_MIN, most = INT64_MAX;
    const struct {
        int64_t got, expected;
    } cases[] = {
        {wrap_add(most, 1), least}, {wrap_sub(least, 1), most}, {wrap_mul(most, 2), -2},
        {wrap_sub(0, least), least},
        {whole_floor_divide(7, 3), 2}, {whole_floor_divide(-7, 3), -3},
        {whole_floor_divide(7, -3), -3}, {whole_floor_divide(-6, 3), -2},
        {whole_floor_divide(5, 0), 0}, {whole_floor_divide(least, -1), least},
        {whole_remainder(-7, 3), 2}, {whole_remainder(7, -3), -2}, {whole_remainder(5, 0), 0},
        {whole_remainder(least, -1), 0}, {whole_remainder(-6, 3), 0},
        {whole_fmod(-7, 3), -1}, {whole_fmod(7, -3), 1}, {whole_fmod(5, 0), 0},
        {whole_fmod(least, -1), 0}, {whole_left_shift(1, 63), least}, {whole_left_shift(1, 64), 0},
        {whole_left_shift(1, -1), 0}, {whole_left_shift(-3, 2), -12}, {whole_right_shift(-5, 1), -3},
        {whole_right_shift(-5, 99), -1}, {whole_right_shift(5, -1), 0},
        {whole_random(0, 0), 0x6627e8d5e169c58d},
        {whole_pow(3, 4), 81}, {whole_pow(-2, 3), -8}, {whole_pow(2, 64), 0}, {whole_pow(0, 0), 1},
        {whole_pow(2, -1), 0}, {whole_pow(1, -5), 1}, {whole_pow(-1, -5), -1},
        {whole_pow(-1, -4), 1}, {whole_pow(0, -1), 0}, {whole_pow(3, most), -6148914691236517205},
        {whole_from_float(2.9f), 2}, {whole_from_float(-2.9f), -2}, {whole_from_float(nan_), 0},
        {whole_from_float(inf), most}, {whole_from_float(-inf), least},
        {whole_from_float(0x1p63f), most}, {whole_from_float(-0x1p63f), least},
    };
    for (int i = 0; i < COUNT(cases); i++)
        if (cases[i].got != cases[i].expected)
            fail_msg("case %d: %lld, expected %lld", i, (long long)cases[i].got,
                     (long long)cases[i].expected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(functions_are_as_near_the_true_value_as_promised),
        cmocka_unit_test(pow_is_nearly_exact),
        cmocka_unit_test(special_arguments_of_pow_are_c_s),
        cmocka_unit_test(atan2_is_c_s),
        cmocka_unit_test(exp_of_what_is_not_positive_has_the_bits_of_exp),
        cmocka_unit_test(a_weight_is_the_quotient),
        cmocka_unit_test(special_values_are_torch_s),
        cmocka_unit_test(whole_numbers_wrap_and_never_trap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
