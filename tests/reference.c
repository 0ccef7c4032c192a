#include "reference.h"
#include "../kernels/scalar.h"

bool reference_same(const float *x, const float *y, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        if (scalar_bits(x[i]) != scalar_bits(y[i]) && !(x[i] != x[i] && y[i] != y[i]))
            return false;
    return true;
}

/* The place of element `i` in row-major order, from the tensor's data. */
static int64_t place(const struct view *v, int64_t i)
{
    int64_t at = v->offset;
    for (int j = v->rank - 1; j >= 0; j--) {
        at += i % v->shape[j] * v->stride[j];
        i /= v->shape[j];
    }
    return at;
}

static float *float_at(const struct tensor *t, int64_t i)
{
    return (float *)t->data + place(&t->view, i);
}

static int64_t *whole_at(const struct tensor *t, int64_t i)
{
    return (int64_t *)t->data + place(&t->view, i);
}

static uint8_t *bool_at(const struct tensor *t, int64_t i)
{
    return (uint8_t *)t->data + place(&t->view, i);
}

void reference_copy(const struct tensor *out, const struct tensor *x)
{
    for (int64_t i = 0; i < view_count(&out->view); i++) {
        const float f = x->dtype == DT_f32   ? *float_at(x, i)
                        : x->dtype == DT_i64 ? (float)*whole_at(x, i)
                                             : (float)*bool_at(x, i);
        const int64_t whole = x->dtype == DT_f32   ? whole_from_float(*float_at(x, i))
                              : x->dtype == DT_i64 ? *whole_at(x, i)
                                                   : *bool_at(x, i);
        switch (out->dtype) {
        case DT_f32: *float_at(out, i) = f; break;
        case DT_i64: *whole_at(out, i) = whole; break;
        default: *bool_at(out, i) = x->dtype == DT_f32 ? f != 0 : whole != 0; break;
        }
    }
}

void reference_unary(enum op op, const struct tensor *out, const struct tensor *x)
{
    const bool compares = op_info[op].types == TYPES_compare;
    for (int64_t i = 0; i < view_count(&out->view); i++) {
        if (x->dtype == DT_f32) {
            const float y = scalar_unary(op, *float_at(x, i));
            if (compares)
                *bool_at(out, i) = y != 0;
            else
                *float_at(out, i) = y;
        } else if (x->dtype == DT_i64) {
            const int64_t y = whole_unary(op, *whole_at(x, i));
            if (compares)
                *bool_at(out, i) = y != 0;
            else
                *whole_at(out, i) = y;
        } else {
            *bool_at(out, i) = bool_unary(op, *bool_at(x, i));
        }
    }
}

void reference_binary(enum op op, const struct tensor *out, const struct tensor *x,
                      const struct tensor *y)
{
    const bool compares = op_info[op].types == TYPES_compare;
    for (int64_t i = 0; i < view_count(&out->view); i++) {
        if (x->dtype == DT_f32) {
            const float z = scalar_binary(op, *float_at(x, i), *float_at(y, i));
            if (compares)
                *bool_at(out, i) = z != 0;
            else
                *float_at(out, i) = z;
        } else if (x->dtype == DT_i64) {
            const int64_t z = whole_binary(op, *whole_at(x, i), *whole_at(y, i));
            if (compares)
                *bool_at(out, i) = z != 0;
            else
                *whole_at(out, i) = z;
        } else {
            *bool_at(out, i) = bool_binary(op, *bool_at(x, i), *bool_at(y, i));
        }
    }
}

void reference_where(const struct tensor *out, const struct tensor *mask, const struct tensor *x,
                     const struct tensor *y)
{
    for (int64_t i = 0; i < view_count(&out->view); i++) {
        const struct tensor *from = *bool_at(mask, i) ? x : y;
        switch (out->dtype) {
        case DT_f32: *float_at(out, i) = *float_at(from, i); break;
        case DT_i64: *whole_at(out, i) = *whole_at(from, i); break;
        default: *bool_at(out, i) = *bool_at(from, i); break;
        }
    }
}

static float tree(float *lanes)
{
    for (int l = 0; l < 8; l++)
        lanes[l] += lanes[l + 8];
    for (int l = 0; l < 4; l++)
        lanes[l] += lanes[l + 4];
    for (int l = 0; l < 2; l++)
        lanes[l] += lanes[l + 2];
    return lanes[0] + lanes[1];
}

static float product_tree(float *factors)
{
    for (int width = 8; width > 0; width /= 2)
        for (int l = 0; l < width; l++)
            factors[l] *= factors[l + width];
    return factors[0];
}

/* The elements n i .. n i + n - 1 of x make output i. */
static void reduce_floats(enum op op, const struct tensor *out, const struct tensor *x, int64_t i,
                          int64_t n)
{
    float lanes[16] = {0}, factors[16], best = 0;
    int64_t best_at = 0;
    for (int l = 0; l < 16; l++)
        factors[l] = 1;
    for (int64_t j = 0; j < n; j++) {
        const float value = *float_at(x, i * n + j);
        lanes[j % 16] = op == OP_norm ? fmaf(value, value, lanes[j % 16]) : lanes[j % 16] + value;
        factors[j % 16] *= value;
        const bool wins = op == OP_max || op == OP_argmax ? value > best : value < best;
        if (j == 0 || (best == best && (wins || value != value))) {
            best = value;
            best_at = j;
        }
    }
    const float sum = tree(lanes);
    switch (op) {
    case OP_sum: *float_at(out, i) = sum; break;
    case OP_prod: *float_at(out, i) = product_tree(factors); break;
    case OP_mean: *float_at(out, i) = sum / (float)n; break;
    case OP_norm: *float_at(out, i) = sqrtf(sum); break;
    case OP_max: case OP_min: *float_at(out, i) = best; break;
    default: *whole_at(out, i) = best_at; break;
    }
}

static void reduce_wholes(enum op op, const struct tensor *out, const struct tensor *x, int64_t i,
                          int64_t n)
{
    int64_t sum = 0, product = 1, best = 0, best_at = 0;
    for (int64_t j = 0; j < n; j++) {
        const int64_t value = x->dtype == DT_i64 ? *whole_at(x, i * n + j) : *bool_at(x, i * n + j);
        sum = wrap_add(sum, value);
        product = wrap_mul(product, value);
        if (j == 0 || (op == OP_max || op == OP_argmax ? value > best : value < best)) {
            best = value;
            best_at = j;
        }
    }
    const int64_t y = op == OP_sum                     ? sum
                      : op == OP_prod                  ? product
                      : op == OP_max || op == OP_min ? best
                                                       : best_at;
    if (out->dtype == DT_i64)
        *whole_at(out, i) = y;
    else
        *bool_at(out, i) = y != 0;
}

static float logsumexp(const struct tensor *x, int64_t i, int64_t n)
{
    float most = -INFINITY, lanes[16] = {0};
    for (int64_t j = 0; j < n; j++)
        most = *float_at(x, i * n + j) > most ? *float_at(x, i * n + j) : most;
    const float shift = most == INFINITY || most == -INFINITY ? 0.0f : most;
    for (int64_t j = 0; j < n; j++)
        lanes[j % 16] += scalar_exp(*float_at(x, i * n + j) - shift);
    return scalar_log(tree(lanes)) + shift;
}

void reference_reduce(enum op op, const struct tensor *out, const struct tensor *x, int n_reduced)
{
    int64_t n = 1;
    for (int j = x->view.rank - n_reduced; j < x->view.rank; j++)
        n *= x->view.shape[j];
    for (int64_t i = 0; i < view_count(&out->view); i++) {
        if (op == OP_logsumexp)
            *float_at(out, i) = logsumexp(x, i, n);
        else if (x->dtype == DT_f32)
            reduce_floats(op, out, x, i, n);
        else
            reduce_wholes(op, out, x, i, n);
    }
}

void reference_scan(enum op op, const struct tensor *out, const struct tensor *x)
{
    const int64_t n = x->view.shape[x->view.rank - 1];
    double sum = 0, product = 1;
    int64_t whole_sum = 0, whole_product = 1;
    for (int64_t i = 0; i < view_count(&x->view); i++) {
        if (i % n == 0) {
            sum = 0, product = 1;
            whole_sum = 0, whole_product = 1;
        }
        if (x->dtype == DT_f32) {
            sum += (double)*float_at(x, i);
            product *= (double)*float_at(x, i);
            *float_at(out, i) = (float)(op == OP_cumsum ? sum : product);
        } else {
            whole_sum = wrap_add(whole_sum, *whole_at(x, i));
            whole_product = wrap_mul(whole_product, *whole_at(x, i));
            *whole_at(out, i) = op == OP_cumsum ? whole_sum : whole_product;
        }
    }
}

/* Whether element i comes before element j: NaN is the greatest, the first of equals wins. */
static bool comes_before(const struct tensor *x, int64_t i, int64_t j, bool largest)
{
    bool more, less;
    if (x->dtype == DT_f32) {
        const float a = *float_at(x, i), b = *float_at(x, j);
        more = a > b || (a != a && b == b);
        less = a < b || (a == a && b != b);
    } else {
        more = *whole_at(x, i) > *whole_at(x, j);
        less = *whole_at(x, i) < *whole_at(x, j);
    }
    return more || less ? more == largest : i < j;
}

/* An element's place is how many come before it. */
void reference_topk(const struct tensor *out, const struct tensor *x, bool largest)
{
    const int64_t n = x->view.shape[x->view.rank - 1], k = out->view.shape[x->view.rank - 1];
    for (int64_t i = 0; k > 0 && i < view_count(&x->view); i++) {
        const int64_t row = i / n;
        int64_t place = 0;
        for (int64_t j = row * n; place < k && j < (row + 1) * n; j++)
            place += j != i && comes_before(x, j, i, largest);
        if (place < k)
            *whole_at(out, row * k + place) = i % n;
    }
}

static void copy_element(const struct tensor *to, int64_t i, const struct tensor *from, int64_t j)
{
    const size_t size = dtype_size(to->dtype);
    const char *source = (const char *)from->data + (size_t)place(&from->view, j) * size;
    char *target = (char *)to->data + (size_t)place(&to->view, i) * size;
    for (size_t b = 0; b < size; b++)
        target[b] = source[b];
}

void reference_gather(const struct tensor *out, const struct tensor *x, const struct tensor *index,
                      int64_t *fault, int64_t tag)
{
    const int64_t n = x->view.shape[x->view.rank - 1], k = out->view.shape[x->view.rank - 1];
    const int64_t zero = 0;
    const struct tensor nothing = {(void *)(uintptr_t)&zero, out->dtype, {.rank = 0}};
    for (int64_t i = 0; i < view_count(&out->view); i++) {
        const int64_t at = *whole_at(index, i);
        if (at >= 0 && at < n) {
            copy_element(out, i, x, i / k * n + at);
        } else {
            copy_element(out, i, &nothing, 0);
            fault[1] = fault[0] ? fault[1] : at;
            fault[0] = fault[0] ? fault[0] : tag;
        }
    }
}

void reference_scatter(enum op op, const struct tensor *out, const struct tensor *index,
                       const struct tensor *x, int64_t *fault, int64_t tag)
{
    const int last = out->view.rank - 1;
    const int64_t n = out->view.shape[last], k = index->view.shape[last];
    for (int64_t i = 0; i < view_count(&index->view); i++) {
        const int64_t at = *whole_at(index, i), to = i / k * n + at;
        if (at < 0 || at >= n) {
            fault[1] = fault[0] ? fault[1] : at;
            fault[0] = fault[0] ? fault[0] : tag;
        } else if (op == OP_scatter) {
            copy_element(out, to, x, i);
        } else if (x->dtype == DT_f32) {
            *float_at(out, to) += *float_at(x, i);
        } else if (x->dtype == DT_i64) {
            *whole_at(out, to) = wrap_add(*whole_at(out, to), *whole_at(x, i));
        } else {
            *bool_at(out, to) |= *bool_at(x, i);
        }
    }
}

void reference_softmax(enum op op, const struct tensor *out, const struct tensor *x)
{
    const int64_t n = x->view.shape[x->view.rank - 1];
    for (int64_t i = 0; i < view_count(&x->view); i += n) {
        float most = -INFINITY, lanes[16] = {0};
        for (int64_t j = 0; j < n; j++)
            most = *float_at(x, i + j) > most ? *float_at(x, i + j) : most;
        for (int64_t j = 0; j < n; j++)
            lanes[j % 16] += scalar_exp(*float_at(x, i + j) - most);
        const float sum = tree(lanes);
        for (int64_t j = 0; j < n; j++) {
            const float shifted = *float_at(x, i + j) - most;
            *float_at(out, i + j)
                = op == OP_softmax ? scalar_exp(shifted) / sum : shifted - scalar_log(sum);
        }
    }
}

/* The canonical product of two rows of n elements, `x_step` and `y_step` apart. */
static float product(const float *x, int64_t x_step, const float *y, int64_t y_step, int64_t n)
{
    float sum = 0;
    for (int64_t chunk = 0; chunk < n; chunk += 64) {
        float partial = 0;
        for (int64_t k = chunk; k < n && k < chunk + 64; k++)
            partial = fmaf(x[k * x_step], y[k * y_step], partial);
        sum = chunk == 0 ? partial : sum + partial;
    }
    return sum;
}

void reference_matmul(const struct tensor *out, const struct tensor *x, const struct tensor *y)
{
    const int rank = out->view.rank;
    const int64_t M = out->view.shape[rank - 2], N = out->view.shape[rank - 1];
    const int64_t K = x->view.shape[rank - 1];
    for (int64_t i = 0; i < view_count(&out->view); i++) {
        const int64_t batch = i / (M * N), m = i / N % M, n = i % N;
        *float_at(out, i) = K == 0 ? 0
            : product(float_at(x, (batch * M + m) * K), x->view.stride[rank - 1],
                      float_at(y, batch * K * N + n), y->view.stride[rank - 2], K);
    }
}

static float mean_of(const float *x, int width)
{
    float lanes[16] = {0};
    for (int i = 0; i < width; i++)
        lanes[i % 16] += x[i];
    return tree(lanes) / (float)width;
}

void reference_layernorm_scale(float *scale, const float *x, int n_rows, int width, float epsilon)
{
    for (int r = 0; r < n_rows; r++, x += width) {
        const float mean = mean_of(x, width);
        float lanes[16] = {0};
        for (int i = 0; i < width; i++)
            lanes[i % 16] = fmaf(x[i] - mean, x[i] - mean, lanes[i % 16]);
        scale[r] = sqrtf(tree(lanes) / (float)width + epsilon);
    }
}

void reference_layernorm_normalize(float *out, const float *x, const float *scale, int n_rows,
                                   int width)
{
    for (int r = 0; r < n_rows; r++, x += width, out += width) {
        const float mean = mean_of(x, width), factor = 1.0f / scale[r];
        for (int i = 0; i < width; i++)
            out[i] = (x[i] - mean) * factor;
    }
}

void reference_layernorm_gain(float *out, const float *x, const float *weight, const float *bias,
                              int n_rows, int width)
{
    for (int r = 0; r < n_rows; r++)
        for (int i = 0; i < width; i++)
            out[r * width + i] = fmaf(x[r * width + i], weight[i], bias[i]);
}

void reference_layernorm(float *out, const float *x, const float *weight, const float *bias,
                         int n_rows, int width, float epsilon)
{
    for (int r = 0; r < n_rows; r++, x += width, out += width) {
        float scale, row[8192];
        assert(width <= 8192);
        reference_layernorm_scale(&scale, x, 1, width, epsilon);
        reference_layernorm_normalize(row, x, &scale, 1, width);
        reference_layernorm_gain(out, row, weight, bias, 1, width);
    }
}

/* The nearest of the two floats around x whose lower half is zero; of two as near the even one. */
static float nearest_bf16(float x)
{
    const uint32_t below = scalar_bits(x) & 0xffff0000, above = below + 0x10000;
    const double down = fabs((double)x - scalar_from_bits(below));
    const double up = fabs((double)scalar_from_bits(above) - x);
    const bool is_even = below % 0x20000 == 0;
    return scalar_from_bits(down < up || (down == up && is_even) ? below : above);
}

static float nearest_int8(float x, float most)
{
    const float scale = most / 127.0f;
    const float q = scale == 0 ? 0 : rintf(x / scale);
    return (float)(int)(q > 127 ? 127 : q < -127 ? -127 : q) * scale; /* no -0 */
}

void reference_store(float *out, const float *matrix, const char *weights, enum layout l, int K,
                     int N)
{
    for (int n = 0; n < N; n++) {
        const int64_t first = l == LAYOUT_kn ? n : (int64_t)n * K, step = l == LAYOUT_kn ? N : 1;
        float most = 0;
        for (int k = 0; k < K; k++)
            most = fmaxf(most, fabsf(matrix[first + k * step]));
        for (int k = 0; k < K; k++) {
            const float x = matrix[first + k * step];
            out[first + k * step] = weights[0] == 'b'   ? nearest_bf16(x)
                                    : weights[0] == 'i' ? nearest_int8(x, most)
                                                        : x;
        }
    }
}

void reference_linear(float *out, const float *x, const float *matrix, enum layout l, int K, int N,
                      const float *bias, int n_rows, enum epilogue epilogue, const float *residual)
{
    for (int r = 0; r < n_rows; r++)
        for (int n = 0; n < N; n++) {
            const float *column = l == LAYOUT_kn ? matrix + n : matrix + (int64_t)n * K;
            float y = product(x + (int64_t)r * K, 1, column, l == LAYOUT_kn ? N : 1, K);
            if (bias)
                y += bias[n];
            const int64_t at = (int64_t)r * N + n;
            out[at] = epilogue == EPILOGUE_gelu       ? scalar_gelu_new(y)
                      : epilogue == EPILOGUE_residual ? residual[at] + y
                                                      : y;
        }
}

static void attend_row(float *z, const float *qkv, int row, int head, int n_heads, int head_dim)
{
    const int64_t width = (int64_t)n_heads * head_dim, step = 3 * width;
    const float *q = qkv + row * step + head * head_dim;
    const float *keys = qkv + width + head * head_dim, *values = keys + width;
    const float factor = 1.0f / sqrtf((float)head_dim);
    float p[1024], most = -INFINITY, lanes[16] = {0};
    for (int j = 0; j <= row; j++) {
        p[j] = product(q, 1, keys + j * step, 1, head_dim) * factor;
        most = p[j] > most ? p[j] : most;
    }
    for (int j = 0; j <= row; j++) {
        p[j] = scalar_exp(p[j] - most);
        lanes[j % 16] += p[j];
    }
    const float sum = tree(lanes);
    for (int j = 0; j <= row; j++)
        p[j] = p[j] / sum;
    for (int i = 0; i < head_dim; i++)
        z[row * width + head * head_dim + i] = product(p, 1, values + i, step, row + 1);
}

void reference_attend(float *z, const float *qkv, int n_rows, int n_heads, int head_dim)
{
    assert(n_rows <= 1024);
    for (int row = 0; row < n_rows; row++)
        for (int head = 0; head < n_heads; head++)
            attend_row(z, qkv, row, head, n_heads, head_dim);
}
