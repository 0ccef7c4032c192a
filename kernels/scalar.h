/* What every elementwise op means: the functions that the expressions of protocol/ops.def are
 * written over, compiled from this one source for the host and for a device.
 *
 * Only operations that IEEE 754 fixes to the bit are used: + - * /, sqrt, fma where it is written,
 * rounding to integers, and fmod, which is exact. So every compiler, instruction set and device
 * gives the same bits, provided that it contracts nothing by itself (-ffp-contract=off,
 * -fmad=false). Against the true value exp, log, tanh, sigmoid and gelu_new are within 2.5 units in
 * the last place (gelu_new from -9.8 on: further down it is below 1e-36), all others within 0.51.
 * Special values are torch's. The vector twins of scalar_exp and scalar_gelu_new stand in
 * cpu/vector.inc.
 */
#pragma once
#include <math.h>
#include <string.h>
#include "../protocol/ops.h"

#ifdef __CUDACC__
#define SCALAR static __host__ __device__ __forceinline__
#else
#define SCALAR static inline __attribute__((always_inline))
#endif

/* The numbers of scalar_exp, scalar_gelu_new and their vector twins. */
#define EXP_LOWEST   -104.0f /* below it exp is 0, above EXP_HIGHEST infinite */
#define EXP_HIGHEST  89.0f
#define EXP_LOG2E    1.44269504f
#define EXP_ROUND    12582912.0f /* 1.5 * 2^23: adding it leaves an integer in the low bits */
#define EXP_LN2_HIGH 0.693115234375f
#define EXP_LN2_LOW  3.19461833e-5f
#define EXP_2        0.5f
#define EXP_3        0x1.55548ep-3f
#define EXP_4        0x1.55545ep-5f
#define EXP_5        0x1.123b7cp-7f
#define EXP_6        0x1.6db45cp-10f

#define GELU_CLAMP   12.0f            /* from here on sigmoid is 0 or 1 */
#define GELU_1_HIGH  0x1.988454p+0f   /* 2 sqrt(2 / pi) in two floats */
#define GELU_1_LOW   -0x1.857936p-25f
#define GELU_3_HIGH  0x1.2444f2p-4f   /* the same times 0.044715 */
#define GELU_3_LOW   0x1.49b16ap-29f

SCALAR uint32_t scalar_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

SCALAR float scalar_from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* 2^n for -126 <= n <= 127; any other n gives some number and no trap. */
SCALAR float scalar_power_of_two(uint32_t n)
{
    return scalar_from_bits((n + 127u) << 23);
}

/* p 2^n, n being in the low bits of EXP_ROUND + n; in two steps, since 2^n alone may lie outside
 * the normal range. */
SCALAR float scalar_times_power(float p, float shifted)
{
    const uint32_t n = scalar_bits(shifted) - scalar_bits(EXP_ROUND);
    const uint32_t half = (n >> 1) | (n & 0x80000000u);
    return p * scalar_power_of_two(half) * scalar_power_of_two(n - half);
}

/* p of exp(t) = p 2^n, n being in the low bits of *shifted. */
SCALAR float scalar_exp_parts(float *shifted, float t)
{
    *shifted = fmaf(t, EXP_LOG2E, EXP_ROUND);
    const float n = *shifted - EXP_ROUND;
    float r = fmaf(n, -EXP_LN2_HIGH, t);
    r = fmaf(n, -EXP_LN2_LOW, r);
    float p = fmaf(r, EXP_6, EXP_5);
    p = fmaf(r, p, EXP_4);
    p = fmaf(r, p, EXP_3);
    p = fmaf(r, p, EXP_2);
    return fmaf(r * r, p, r) + 1.0f;
}

SCALAR float scalar_exp(float x)
{
    const float low = EXP_LOWEST > x ? EXP_LOWEST : x; /* a NaN stays */
    float shifted;
    const float p = scalar_exp_parts(&shifted, EXP_HIGHEST < low ? EXP_HIGHEST : low);
    return scalar_times_power(p, shifted);
}

/* The same of an x that is not above 0, in fewer steps: n is -150 .. 0, so p 2^(n + 64) is normal,
 * and what follows rounds once. */
SCALAR float scalar_exp_falling(float x)
{
    float shifted;
    const float p = scalar_exp_parts(&shifted, EXP_LOWEST > x ? EXP_LOWEST : x);
    return p * scalar_from_bits((scalar_bits(shifted) << 23) + (191u << 23)) * 0x1p-64f;
}

/* x / sum of a softmax, x being WEIGHT_LEAST to 1 and the sum 1 to 2^22, whose inverse 1 / sum
 * serves a whole row: a quotient corrected once is within a unit in the last place, and corrected
 * again it is the division's (Markstein). Of smaller x the corrections would not be exact. */
#define WEIGHT_LEAST 0x1p-80f

SCALAR float scalar_weight(float x, float sum, float inverse)
{
    float quotient = x * inverse;
    quotient = fmaf(fmaf(-sum, quotient, x), inverse, quotient);
    return fmaf(fmaf(-sum, quotient, x), inverse, quotient);
}

SCALAR float scalar_log(float x)
{
    const bool tiny = x < 0x1p-126f;
    const uint32_t bits = scalar_bits(tiny ? x * 0x1p23f : x);
    /* x = m 2^e with m between sqrt(1/2) and sqrt(2) */
    const uint32_t e_bits = bits - 0x3f3504f3u;
    const float m = scalar_from_bits((e_bits & 0x007fffffu) + 0x3f3504f3u);
    const float e = (float)(int)(e_bits >> 23) - (e_bits & 0x80000000u ? 512.0f : 0.0f)
                    - (tiny ? 23.0f : 0.0f);
    const float f = m - 1.0f;
    float p = fmaf(f, -0.07859649f, 0.12881638f);
    p = fmaf(f, p, -0.13128736f);
    p = fmaf(f, p, 0.14181193f);
    p = fmaf(f, p, -0.16624556f);
    p = fmaf(f, p, 0.20002286f);
    p = fmaf(f, p, -0.2500081f);
    p = fmaf(f, p, 0.33333317f);
    const float square = f * f;
    const float tail = fmaf(e, EXP_LN2_LOW, fmaf(f * square, p, -0.5f * square));
    const float y = fmaf(e, EXP_LN2_HIGH, f + tail);
    return x > 0 ? (x == INFINITY ? x : y) : x == 0 ? -INFINITY : NAN;
}

SCALAR float scalar_tanh(float x)
{
    const float a = fabsf(x);
    const float s = x * x;
    float p = fmaf(s, -0.00571472f, 0.0206486f);
    p = fmaf(s, p, -0.05374292f);
    p = fmaf(s, p, 0.13331485f);
    p = fmaf(s, p, -0.33333284f);
    const float near = fmaf(x * s, p, x);
    const float far = 1.0f - 2.0f / (scalar_exp(2.0f * a) + 1.0f);
    return copysignf(a < 0.625f ? near : far, x); /* of -0 too, where near is 0 */
}

SCALAR float scalar_sigmoid(float x)
{
    const float e = scalar_exp(-fabsf(x));
    return (x < 0 ? e : 1.0f) / (1.0f + e);
}

/* 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), which is x sigmoid(w) with w twice the
 * argument of tanh. An error of w grows by |w| in the result, so w is carried in two floats. */
SCALAR float scalar_gelu_new(float x)
{
    const float low = -GELU_CLAMP > x ? -GELU_CLAMP : x;
    const float t = GELU_CLAMP < low ? GELU_CLAMP : low;
    const float s = t * t;
    const float s_low = fmaf(t, t, -s);
    const float p = GELU_3_HIGH * s;
    float low_sum = fmaf(GELU_3_HIGH, s_low, fmaf(GELU_3_LOW, s, fmaf(GELU_3_HIGH, s, -p)));
    const float q = GELU_1_HIGH + p;
    const float b = q - GELU_1_HIGH;
    low_sum = low_sum + ((GELU_1_HIGH - (q - b)) + (p - b)) + GELU_1_LOW;
    const float w = t * q;
    const float w_low = fmaf(t, low_sum, fmaf(t, q, -w));
    const float e_high = scalar_exp(-fabsf(w));
    const float e = fmaf(x < 0 ? w_low : -w_low, e_high, e_high);
    return x * (x < 0 ? e : 1.0f) / (1.0f + e);
}

/* x = n pi/2 + r, |r| <= pi/4: returns r, the quadrant n mod 4 in *quadrant. Not for NaN and
 * infinities. */
SCALAR double scalar_reduce(float x, uint32_t *quadrant)
{
    if (fabsf(x) < 0x1p18f) {
        const double n = rint(x * 0x1.45f306dc9c883p-1);
        *quadrant = (uint32_t)(int32_t)n;
        return (x - n * 0x1.921fb544p+0) - n * 0x1.0b4611a626331p-34;
    }
    /* 2/pi behind 32 zero bits. Times the significand, from the bit on whose product weighs two
     * quarter turns: those before it only add multiples of four. */
    static const uint32_t two_over_pi[] = {0, 0xa2f9836eu, 0x4e441529u, 0xfc2757d1u, 0xf534ddc0u,
                                           0xdb629599u, 0x3c439041u, 0xfe5163abu};
    const uint32_t bits = scalar_bits(x);
    const uint64_t m = (bits & 0x007fffffu) | 0x00800000u;
    const uint32_t first = ((bits >> 23) & 255u) - 120u;
    const uint32_t word = first >> 5, shift = first & 31u;
    const uint64_t w0 = two_over_pi[word], w1 = two_over_pi[word + 1];
    const uint64_t w2 = two_over_pi[word + 2], w3 = two_over_pi[word + 3];
    const uint64_t high = (w0 << 32 | w1) << shift | (w2 << shift >> 32);
    const uint64_t low = (w2 << 32 | w3) << shift >> 32;
    const uint64_t turns = high * m + (low * m >> 32); /* in units of 2^-62, mod 4 */
    const uint32_t n = (uint32_t)((turns + ((uint64_t)1 << 61)) >> 62);
    const double part = (double)(int64_t)(turns - ((uint64_t)n << 62));
    const double r = part * 0x1.921fb54442d18p-62;
    *quadrant = bits & 0x80000000u ? 0u - n : n;
    return bits & 0x80000000u ? -r : r;
}

/* sin(r + quadrant pi/2) */
SCALAR double scalar_wave(double r, uint32_t quadrant)
{
    const double s = r * r;
    double y;
    if (quadrant & 1u)
        y = 1 + s * (-1.0 / 2 + s * (1.0 / 24 + s * (-1.0 / 720 + s * (1.0 / 40320
            + s * (-1.0 / 3628800 + s * (1.0 / 479001600))))));
    else
        y = r + r * s * (-1.0 / 6 + s * (1.0 / 120 + s * (-1.0 / 5040 + s * (1.0 / 362880
            + s * (-1.0 / 39916800 + s * (1.0 / 6227020800))))));
    return quadrant & 2u ? -y : y;
}

SCALAR float scalar_sin(float x)
{
    if (!(fabsf(x) < INFINITY))
        return x - x;
    if (x == 0)
        return x;
    uint32_t quadrant;
    const double r = scalar_reduce(x, &quadrant);
    return (float)scalar_wave(r, quadrant);
}

SCALAR float scalar_cos(float x)
{
    if (!(fabsf(x) < INFINITY))
        return x - x;
    uint32_t quadrant;
    const double r = scalar_reduce(x, &quadrant);
    return (float)scalar_wave(r, quadrant + 1u);
}

SCALAR float scalar_tan(float x)
{
    if (!(fabsf(x) < INFINITY))
        return x - x;
    if (x == 0)
        return x;
    uint32_t quadrant;
    const double r = scalar_reduce(x, &quadrant);
    return (float)(scalar_wave(r, quadrant) / scalar_wave(r, quadrant + 1u));
}

/* atan of a number that is not negative; infinity is one. Each step halves the angle. */
SCALAR double wide_atan(double x)
{
    double t = x < 1e300 ? x : 1e150;
    for (int i = 0; i < 3; i++)
        t = t / (1 + sqrt(1 + t * t));
    const double s = t * t;
    double p = 1.0 / 27;
    for (int k = 25; k > 0; k -= 2)
        p = 1.0 / k - s * p;
    return 8 * t * p;
}

/* The angle of the point (x, y). */
SCALAR double wide_atan2(double y, double x)
{
    if (y != y || x != x)
        return y + x;
    const double a = fabs(y), b = fabs(x);
    const double slope = a == b ? (a == 0 ? 0.0 : 1.0) : a / b;
    const double angle = wide_atan(slope);
    return copysign(copysign(1.0, x) < 0 ? 0x1.921fb54442d18p+1 - angle : angle, y);
}

SCALAR float scalar_atan2(float y, float x)
{
    return (float)wide_atan2(y, x);
}

/* Outside -1 .. 1 the root is NaN. */
SCALAR float scalar_asin(float x)
{
    return (float)wide_atan2(x, sqrt((1.0 - x) * (1.0 + x)));
}

SCALAR float scalar_acos(float x)
{
    return (float)wide_atan2(sqrt((1.0 - x) * (1.0 + x)), x);
}

#define LN_2   0x1.62e42fefa39efp-1
#define LOG2_E 0x1.71547652b82fep+0

/* log2 of a positive normal number; a float is normal as a double, even where it is not as one. */
SCALAR double wide_log2(double d)
{
    uint64_t bits;
    memcpy(&bits, &d, sizeof bits);
    const uint64_t e_bits = bits - 0x3fe6a09e667f3bcdu;
    const double e = (double)((int64_t)(e_bits >> 52) - (e_bits >> 63 ? 4096 : 0));
    const uint64_t m_bits = (e_bits & 0x000fffffffffffffu) + 0x3fe6a09e667f3bcdu;
    double m;
    memcpy(&m, &m_bits, sizeof m);
    const double f = (m - 1) / (m + 1);
    const double s = f * f;
    const double p = 1 + s * (1.0 / 3 + s * (1.0 / 5 + s * (1.0 / 7 + s * (1.0 / 9
                     + s * (1.0 / 11 + s * (1.0 / 13 + s * (1.0 / 15 + s * (1.0 / 17))))))));
    return e + 2 * f * p * LOG2_E;
}

/* 2^x of a number that is no NaN. */
SCALAR double wide_exp2(double x)
{
    const double t = x < -300 ? -300 : x > 300 ? 300 : x;
    const double n = rint(t);
    const double r = (t - n) * LN_2;
    const double p = 1 + r * (1 + r * (1.0 / 2 + r * (1.0 / 6 + r * (1.0 / 24 + r * (1.0 / 120
                     + r * (1.0 / 720 + r * (1.0 / 5040 + r * (1.0 / 40320 + r * (1.0 / 362880
                     + r * (1.0 / 3628800))))))))));
    const uint64_t bits = (uint64_t)((int64_t)n + 1023) << 52;
    double scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

/* C's pow, special cases included. */
SCALAR float scalar_pow(float x, float y)
{
    if (y == 0 || x == 1)
        return 1.0f;
    if (x != x || y != y)
        return x + y;
    const float a = fabsf(x);
    if (fabsf(y) == INFINITY)
        return a == 1 ? 1.0f : (a > 1) == (y > 0) ? INFINITY : 0.0f;
    const bool whole = floorf(y) == y;
    const bool odd = whole && fabsf(y) < 0x1p24f && floorf(y * 0.5f) != y * 0.5f;
    const float sign = odd && copysignf(1.0f, x) < 0 ? -1.0f : 1.0f;
    if (a == 0)
        return sign * (y < 0 ? INFINITY : 0.0f);
    if (a == INFINITY)
        return sign * (y > 0 ? INFINITY : 0.0f);
    if (x < 0 && !whole)
        return NAN;
    return sign * (float)wide_exp2(y * wide_log2(a));
}

SCALAR float scalar_exp2(float x)
{
    return x != x ? x : (float)wide_exp2(x);
}

SCALAR float scalar_expm1(float x)
{
    if (!(fabsf(x) < 0.5f))
        return x != x ? x : (float)(wide_exp2(x * LOG2_E) - 1);
    double p = 1; /* (exp(x) - 1) / x, of which so small an x loses nothing */
    for (int k = 12; k > 1; k--)
        p = 1 + p * (x * (1.0 / k));
    return (float)(x * p);
}

/* `unit` times log2(x). */
SCALAR float scalar_log_times(float x, double unit)
{
    return x > 0 ? (x == INFINITY ? x : (float)(wide_log2(x) * unit)) : x == 0 ? -INFINITY : NAN;
}

SCALAR float scalar_log2(float x)
{
    return scalar_log_times(x, 1);
}

SCALAR float scalar_log10(float x)
{
    return scalar_log_times(x, 0x1.34413509f79ffp-2);
}

/* What 1 + x loses of a small x is put back by x / ((1 + x) - 1). */
SCALAR float scalar_log1p(float x)
{
    if (!(x > -1))
        return x == -1 ? -INFINITY : NAN;
    const double sum = 1.0 + x, kept = sum - 1.0;
    if (kept == 0 || x == INFINITY)
        return x;
    return (float)(wide_log2(sum) * LN_2 * (x / kept));
}

/* 2 / sqrt(pi) exp(-x^2) (x + 2/3 x^3 + 2/3 2/5 x^5 + ...), all of one sign. It rounds to 1 from
 * 3.93 on. */
SCALAR float scalar_erf(float x)
{
    if (x != x)
        return x;
    const double t = x < -4 ? -4 : x > 4 ? 4 : x, s = 2 * t * t;
    double p = 1;
    for (int k = 14 + (int)(s * 1.25); k > 0; k--)
        p = 1 + p * (s * (1.0 / (2 * k + 1)));
    return (float)(0x1.20dd750429b6dp+0 * t * p * wide_exp2(s * (LOG2_E * -0.5)));
}

/* The nearest number that float16 has, ties to even: infinite from 65520 on. */
SCALAR float scalar_float16(float x)
{
    const float a = fabsf(x);
    if (!(a < 65520.0f))
        return x != x ? x : copysignf(INFINITY, x);
    if (a < 0x1p-14f)
        return rintf(x * 0x1p24f) * 0x1p-24f;
    const uint32_t bits = scalar_bits(x);
    return scalar_from_bits((bits + 0xfffu + (bits >> 13 & 1u)) & ~0x1fffu);
}

/* The same of bfloat16, whose range is float32's. */
SCALAR float scalar_bfloat16(float x)
{
    const uint32_t bits = scalar_bits(x);
    return x != x ? x : scalar_from_bits((bits + 0x7fffu + (bits >> 16 & 1u)) & ~0xffffu);
}

SCALAR float scalar_maximum(float x, float y)
{
    return x != x ? x : y != y ? y : x > y ? x : y;
}

SCALAR float scalar_minimum(float x, float y)
{
    return x != x ? x : y != y ? y : x < y ? x : y;
}

/* torch's: the sign of the divisor. */
SCALAR float scalar_remainder(float x, float y)
{
    const float r = fmodf(x, y);
    return r != 0 && (y < 0) != (r < 0) ? r + y : r;
}

/* torch's and Python's: built on the exact remainder, so that it agrees with scalar_remainder. */
SCALAR float scalar_floor_divide(float x, float y)
{
    if (y == 0)
        return x / y;
    const float r = fmodf(x, y);
    float quotient = (x - r) / y;
    if (r != 0 && (y < 0) != (r < 0))
        quotient -= 1.0f;
    if (quotient == 0)
        return copysignf(0.0f, x / y);
    const float whole = floorf(quotient);
    return quotient - whole > 0.5f ? whole + 1.0f : whole;
}

SCALAR int64_t wrap_add(int64_t x, int64_t y)
{
    return (int64_t)((uint64_t)x + (uint64_t)y);
}

SCALAR int64_t wrap_sub(int64_t x, int64_t y)
{
    return (int64_t)((uint64_t)x - (uint64_t)y);
}

SCALAR int64_t wrap_mul(int64_t x, int64_t y)
{
    return (int64_t)((uint64_t)x * (uint64_t)y);
}

/* Division by zero gives 0: a device has no way to refuse it. */
SCALAR int64_t whole_floor_divide(int64_t x, int64_t y)
{
    if (y == 0)
        return 0;
    if (y == -1)
        return wrap_sub(0, x);
    const int64_t quotient = x / y;
    return x % y != 0 && (x < 0) != (y < 0) ? quotient - 1 : quotient;
}

SCALAR int64_t whole_remainder(int64_t x, int64_t y)
{
    if (y == 0 || y == -1)
        return 0;
    const int64_t r = x % y;
    return r != 0 && (r < 0) != (y < 0) ? r + y : r;
}

/* C's %. */
SCALAR int64_t whole_fmod(int64_t x, int64_t y)
{
    return y == 0 || y == -1 ? 0 : x % y;
}

/* By fewer than 0 or more than 63 places nothing is left but, of a negative number to the right,
 * its sign: as in torch. */
SCALAR int64_t whole_left_shift(int64_t x, int64_t y)
{
    return y < 0 || y > 63 ? 0 : (int64_t)((uint64_t)x << y);
}

SCALAR int64_t whole_right_shift(int64_t x, int64_t y)
{
    return x >> (y < 0 || y > 63 ? 63 : y);
}

/* Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011). */
SCALAR void philox4x32(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2])
{
    uint32_t x[4] = {counter[0], counter[1], counter[2], counter[3]};
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        const uint64_t a = (uint64_t)0xD2511F53u * x[0], b = (uint64_t)0xCD9E8D57u * x[2];
        x[0] = (uint32_t)(b >> 32) ^ x[1] ^ k0;
        x[2] = (uint32_t)(a >> 32) ^ x[3] ^ k1;
        x[1] = (uint32_t)b;
        x[3] = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    memcpy(out, x, sizeof x);
}

/* The y-th 64 random bits of the seed x: the first two words of Philox4x32-10 with x as key and y
 * as counter. So they depend on these two alone. */
SCALAR int64_t whole_random(int64_t x, int64_t y)
{
    const uint32_t counter[4] = {(uint32_t)y, (uint32_t)((uint64_t)y >> 32), 0, 0};
    const uint32_t key[2] = {(uint32_t)x, (uint32_t)((uint64_t)x >> 32)};
    uint32_t bits[4];
    philox4x32(bits, counter, key);
    return (int64_t)((uint64_t)bits[0] << 32 | bits[1]);
}

/* A negative exponent gives 0, except of 1 and -1, as in torch. */
SCALAR int64_t whole_pow(int64_t x, int64_t y)
{
    if (y < 0)
        return x == 1 ? 1 : x == -1 ? (y & 1 ? -1 : 1) : 0;
    int64_t power = 1;
    for (int64_t base = x; y > 0; y >>= 1, base = wrap_mul(base, base))
        if (y & 1)
            power = wrap_mul(power, base);
    return power;
}

/* float32 to int64: towards zero, at most the ends of the range, NaN to 0. */
SCALAR int64_t whole_from_float(float x)
{
    if (x != x)
        return 0;
    if (x >= 0x1p63f)
        return INT64_MAX;
    return x < -0x1p63f ? INT64_MIN : (int64_t)x;
}

/* The three expressions of a row, by the dtype that the op computes in. A comparison gives 0 or
 * 1. */
#define VIEW(id, ...)
#define CALL(id, ...)
#define EFFECT(id, ...)

#define UNARY(id, types, f, i, b) case OP_##id: return (f);
#define BINARY(id, types, f, i, b)
SCALAR float scalar_unary(enum op op, float x)
{
    switch (op) {
#include "../protocol/ops.def"
    default: return 0.0f;
    }
}
#undef UNARY

#define UNARY(id, types, f, i, b) case OP_##id: return (i);
SCALAR int64_t whole_unary(enum op op, int64_t x)
{
    switch (op) {
#include "../protocol/ops.def"
    default: return 0;
    }
}
#undef UNARY

#define UNARY(id, types, f, i, b) case OP_##id: return (b);
SCALAR bool bool_unary(enum op op, bool x)
{
    switch (op) {
#include "../protocol/ops.def"
    default: return false;
    }
}
#undef UNARY
#undef BINARY

#define UNARY(id, types, f, i, b)
#define BINARY(id, types, f, i, b) case OP_##id: return (f);
SCALAR float scalar_binary(enum op op, float x, float y)
{
    switch (op) {
#include "../protocol/ops.def"
    default: return 0.0f;
    }
}
#undef BINARY

#define BINARY(id, types, f, i, b) case OP_##id: return (i);
SCALAR int64_t whole_binary(enum op op, int64_t x, int64_t y)
{
    switch (op) {
#include "../protocol/ops.def"
    default: return 0;
    }
}
#undef BINARY

#define BINARY(id, types, f, i, b) case OP_##id: return (b);
SCALAR bool bool_binary(enum op op, bool x, bool y)
{
    switch (op) {
#include "../protocol/ops.def"
    default: return false;
    }
}
#undef BINARY
#undef UNARY
#undef VIEW
#undef CALL
#undef EFFECT
