/* `linear` on tensor cores, for who asks for a faster precision than the exact one. Operands are
 * rounded, sums are float32:
 *
 *   tf32x3   each operand is a tf32 and the tf32 of what is left: three products, as accurate as
 *            float32's
 *   tf32     each operand is a tf32
 *   bf16     each operand is a bfloat16
 *
 * The order is again a function of the weight's shape alone: a chunk of 64 k is a row of mma
 * instructions by ascending k from +0, then the chunks' sums in order. So an element's bits do not
 * depend on the number of rows, as in the exact tier; but they are this GPU's, since within an
 * instruction the order is the hardware's. All kernels here multiply by multiply_slice; they
 * differ in which warp multiplies what.
 */
#include "fragment.h"
#include "tile.h"

/* Which column of the weight makes column n of the product: the same, or that of a panel. Columns
 * past the last are nobody's: -1. */
struct columns {
    const int32_t *panels; /* or NULL */
    int N, n_out;
};

__device__ __forceinline__ int source_of(const struct columns &c, int n)
{
    const int from = n >= c.n_out ? -1 : c.panels ? c.panels[n / LANES] * LANES + n % LANES : n;
    return from < c.N ? from : -1;
}

struct fast {
    float *out;
    const float *bias, *residual;
    enum epilogue epilogue;
    const float *x; /* [n_rows][pitch], in words of whole chunks, zeros behind the last k */
    int n_rows, pitch;
    const float *words; /* of the weight: see fragment.h */
    int n_chunks;
    struct columns columns;
};

/* What an instruction multiplies: 16 rows and 8 columns, by 8 words. A slice of WORDS are two steps;
 * in step s lane t of four has words 4 t + 2 s and the next, so that it loads those of both at once. */
constexpr int MMA_ROWS = 16, MMA_COLUMNS = 8, STEP = 8, STEPS = WORDS / STEP;

/* Rows of x are as linear gets them, or rounded, in words and in the order in which load_matrix wants
 * them: number i of four lies with those of the other lanes. A slice's low parts follow its high
 * ones. */
enum rows_form { ROWS_plain, ROWS_rounded };

template <enum precision P, enum rows_form F> struct form {
    static constexpr int EACH = P == PRECISION_bf16 ? 2 : 1;      /* k of a word */
    static constexpr int ROUNDED = P == PRECISION_tf32x3 ? 2 : 1; /* words of a word's k */
    static constexpr int PARTS = CHUNK / EACH / WORDS;            /* slices of a chunk */
    static constexpr int X_FLOATS = WORDS * (F == ROWS_plain ? EACH : ROUNDED); /* a row's, of a slice */
    /* So far are rows apart that no two lanes of a load meet at a bank. */
    static constexpr int X_PITCH = F == ROWS_plain && EACH == 1 ? X_FLOATS : X_FLOATS + 4;
};

/* What THREADS threads stage of a slice: ROWS of x, then COLUMNS of the weight. */
template <enum precision P, enum rows_form F, int ROWS_, int COLUMNS_, int THREADS_>
struct slice : form<P, F> {
    using form<P, F>::X_FLOATS, form<P, F>::X_PITCH;
    static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, THREADS = THREADS_;
    static constexpr int W_AT = ROWS * X_PITCH, FLOATS = W_AT + COLUMNS * WORDS;
    /* Pieces of 16 bytes: a thread's are X_STEP rows or W_STEP columns apart. */
    static constexpr int X_STEP = THREADS / (X_FLOATS / 4), X_EACH = ROWS / X_STEP;
    static constexpr int W_STEP = THREADS / (WORDS / 4), W_EACH = COLUMNS / W_STEP;
    static_assert(ROWS % X_STEP == 0 && COLUMNS % W_STEP == 0, "all threads have as many");
};

/* Where a thread's pieces of the next slice come from, and how many rows there are from its first on.
 * A column that is nobody's is the first one: nobody uses it. */
template <class S> struct pieces {
    const float *x, *w[S::W_EACH];
    int left;
};

/* The weight was there before any pass, but panels come with one. */
template <class S>
__device__ __forceinline__ void find_pieces(struct pieces<S> *p, const struct fast &f, int row,
                                            int column, int s, int t)
{
    constexpr int FOURS = S::X_FLOATS / 4;
    if (f.columns.panels)
        AWAIT_LAST();
    p->x = f.x + (size_t)(row + t / FOURS) * (size_t)f.pitch + s * S::X_FLOATS + t % FOURS * 4;
    p->left = f.n_rows - row - t / FOURS;
    UNROLL(8)
    for (int i = 0; i < S::W_EACH; i++) {
        const int n = source_of(f.columns, column + t / 4 + i * S::W_STEP);
        p->w[i] = f.words + ((size_t)s * (size_t)f.columns.N + (size_t)(n < 0 ? 0 : n)) * WORDS
                  + t % 4 * 4;
    }
}

/* Begins to copy the pieces of a slice and goes on to that `by` slices further. */
template <class S>
__device__ __forceinline__ void fetch_w(float *stage, struct pieces<S> *p, const struct fast &f,
                                        int by, int t)
{
    UNROLL(8)
    for (int i = 0; i < S::W_EACH; i++) {
        COPY_ASYNC(stage + S::W_AT + (t + i * S::THREADS) * 4, p->w[i], 4 * sizeof *stage);
        p->w[i] += (size_t)by * (size_t)(f.columns.N * WORDS);
    }
}

/* Rows past the last stay as they are. */
template <class S>
__device__ __forceinline__ void fetch_x(float *stage, struct pieces<S> *p, const struct fast &f,
                                        int by, int t)
{
    constexpr int FOURS = S::X_FLOATS / 4;
    float *to = stage + t / FOURS * S::X_PITCH + t % FOURS * 4;
    UNROLL(8)
    for (int i = 0; i < S::X_EACH; i++)
        if (i * S::X_STEP < p->left)
            COPY_ASYNC(to + i * S::X_STEP * S::X_PITCH,
                       p->x + (size_t)(i * S::X_STEP) * (size_t)f.pitch, 4 * sizeof *stage);
    p->x += by * S::X_FLOATS;
}

/* Rows past the last are zeros, in all stages. */
template <class S>
__device__ __forceinline__ void clear_rows(float *stages, int n_stages, int left, int t)
{
    if (left >= S::ROWS)
        return;
    const int first = left * S::X_PITCH / 4, count = S::W_AT / 4 - first;
    for (int s = 0; s < n_stages; s++)
        for (int i = t; i < count; i += S::THREADS)
            *reinterpret_cast<float4 *>(stages + s * S::FLOATS + (first + i) * 4)
                = make_float4(0, 0, 0, 0);
}

/* What is multiplied by, rounded; the low parts are for three products alone. */
template <enum precision P>
__device__ __forceinline__ void round_x(uint32_t *high, uint32_t *low, float x)
{
    if constexpr (P == PRECISION_tf32x3)
        split_tf32(high, low, x);
    else
        *high = nearest_tf32(x);
}

template <enum precision P>
__device__ __forceinline__ void round_w(uint32_t *high, uint32_t *low, float word)
{
    *high = bits_of(word);
    if constexpr (P == PRECISION_tf32x3)
        *low = bits_of(tf32_whole(*high) - float_of(*high & TF32_BITS));
}

/* A step of a slice's 16 rows from `row` on, as they are in memory. */
template <enum precision P>
__device__ __forceinline__ void load_plain(uint32_t (&high)[4], uint32_t (&low)[4],
                                           const float *row, int step)
{
    const int lane = (int)threadIdx.x % 32;
    UNROLL(2)
    for (int h = 0; h < 2; h++) {
        const float *at = row + (lane / 4 + h * 8) * form<P, ROWS_plain>::X_PITCH;
        if constexpr (P == PRECISION_bf16) {
            float x[4];
            load_columns(x, at + lane % 4 * 8 + step * 4);
            high[h] = nearest_bf16(x[0], x[1]);
            high[2 + h] = nearest_bf16(x[2], x[3]);
        } else {
            const float2 x = *reinterpret_cast<const float2 *>(at + lane % 4 * 4 + step * 2);
            round_x<P>(&high[h], &low[h], x.x);
            round_x<P>(&high[2 + h], &low[2 + h], x.y);
        }
    }
}

/* The same rounded. */
template <enum precision P>
__device__ __forceinline__ void load_rounded(uint32_t (&high)[4], uint32_t (&low)[4],
                                             const float *row, int step)
{
    const int lane = (int)threadIdx.x % 32;
    const float *at
        = row + lane % 16 * form<P, ROWS_rounded>::X_PITCH + lane / 16 * 4 + step * STEP;
    load_matrix(high, at);
    if constexpr (P == PRECISION_tf32x3)
        load_matrix(low, at + WORDS);
}

/* d += a @ b; of three products the smaller ones first. */
template <enum precision P, int W>
__device__ __forceinline__ void multiply_step(float (&d)[W][4], const uint32_t (&a_high)[4],
                                              const uint32_t (&a_low)[4],
                                              const uint32_t (&b_high)[W][2],
                                              const uint32_t (&b_low)[W][2])
{
    if constexpr (P == PRECISION_tf32x3) {
        UNROLL(4)
        for (int j = 0; j < W; j++)
            mma_tf32(d[j], a_low, b_high[j]);
        UNROLL(4)
        for (int j = 0; j < W; j++)
            mma_tf32(d[j], a_high, b_low[j]);
    }
    UNROLL(8)
    for (int j = 0; j < W; j++)
        if constexpr (P == PRECISION_bf16)
            mma_bf16(d[j], a_high, b_high[j]);
        else
            mma_tf32(d[j], a_high, b_high[j]);
}

/* p += a slice of R * 16 rows at x by one of W * 8 columns at w. Sum p[i][j][e] of lane l is that of
 * row 16 i + l / 4 + e / 2 * 8 and of column 8 j + l % 4 * 2 + e % 2. Does `meanwhile` while the
 * tensor cores have something to do. */
template <enum precision P, enum rows_form F, int R, int W, class M>
__device__ __forceinline__ void multiply_slice(float (&p)[R][W][4], const float *x, const float *w,
                                               const M &meanwhile)
{
    const int lane = (int)threadIdx.x % 32;
    float words[W][4];
    UNROLL(4)
    for (int j = 0; j < W; j++)
        load_columns(words[j], w + (j * MMA_COLUMNS + lane / 4) * WORDS + lane % 4 * 4);
    UNROLL(2)
    for (int s = 0; s < STEPS; s++) {
        uint32_t b_high[W][2], b_low[W][2];
        UNROLL(4)
        for (int j = 0; j < W; j++)
            UNROLL(2)
            for (int i = 0; i < 2; i++)
                round_w<P>(&b_high[j][i], &b_low[j][i], words[j][2 * s + i]);
        UNROLL(2)
        for (int i = 0; i < R; i++) {
            uint32_t a_high[4], a_low[4];
            const float *row = x + i * MMA_ROWS * form<P, F>::X_PITCH;
            if constexpr (F == ROWS_rounded)
                load_rounded<P>(a_high, a_low, row, s);
            else
                load_plain<P>(a_high, a_low, row, s);
            multiply_step<P>(p[i], a_high, a_low, b_high, b_low);
        }
        if (s == 0)
            meanwhile();
    }
}

template <int R, int W> __device__ __forceinline__ void fill(float (&sums)[R][W][4], float x)
{
    UNROLL(4)
    for (int i = 0; i < R; i++)
        UNROLL(8)
        for (int j = 0; j < W; j++)
            UNROLL(4)
            for (int e = 0; e < 4; e++)
                sums[i][j][e] = x;
}

/* Puts 16 rows of a warp's sums where they lie row by row, PITCH apart. */
template <int PITCH, int W>
__device__ __forceinline__ void lay_out(float *room, const float (&sums)[W][4])
{
    const int lane = (int)threadIdx.x % 32;
    UNROLL(8)
    for (int j = 0; j < W; j++)
        UNROLL(2)
        for (int h = 0; h < 2; h++)
            *reinterpret_cast<float2 *>(room + (lane / 4 + h * 8) * PITCH + j * MMA_COLUMNS
                                        + lane % 4 * 2)
                = {sums[j][2 * h], sums[j][2 * h + 1]};
}

/* Finishes and stores a matrix of sums, of which the caller is thread `t` of n_threads; some at once,
 * whose residuals are asked for together. Columns that nobody has are zero, whatever x is. */
template <int ROWS, int COLUMNS, int PITCH, enum epilogue E>
__device__ __forceinline__ void put_sums(const struct fast &f, const float *sums, int row,
                                         int column, int t, int n_threads)
{
    constexpr int ONCE = 8;
    UNROLL(1)
    for (int first = t; first < ROWS * COLUMNS; first += ONCE * n_threads) {
        float residual[ONCE];
        UNROLL(8)
        for (int e = 0; e < ONCE; e++) {
            const int i = first + e * n_threads, r = row + i / COLUMNS, n = column + i % COLUMNS;
            residual[e] = E == EPILOGUE_residual && i < ROWS * COLUMNS && r < f.n_rows
                                  && n < f.columns.n_out
                              ? f.residual[(size_t)r * (size_t)f.columns.n_out + (size_t)n]
                              : 0;
        }
        UNROLL(8)
        for (int e = 0; e < ONCE; e++) {
            const int i = first + e * n_threads, r = row + i / COLUMNS, n = column + i % COLUMNS;
            if (i >= ROWS * COLUMNS || r >= f.n_rows || n >= f.columns.n_out)
                continue;
            const float sum = sums[i / COLUMNS * PITCH + i % COLUMNS];
            f.out[(size_t)r * (size_t)f.columns.n_out + (size_t)n]
                = finish<E>(source_of(f.columns, n) < 0 ? 0 : sum, f.bias, &residual[e], n, 0);
        }
    }
}

template <int ROWS, int COLUMNS, int PITCH>
__device__ __forceinline__ void put(const struct fast &f, const float *sums, int row, int column,
                                    int t, int n_threads)
{
    switch (f.epilogue) {
    case EPILOGUE_none:
        put_sums<ROWS, COLUMNS, PITCH, EPILOGUE_none>(f, sums, row, column, t, n_threads);
        break;
    case EPILOGUE_gelu:
        put_sums<ROWS, COLUMNS, PITCH, EPILOGUE_gelu>(f, sums, row, column, t, n_threads);
        break;
    case EPILOGUE_residual:
        put_sums<ROWS, COLUMNS, PITCH, EPILOGUE_residual>(f, sums, row, column, t, n_threads);
        break;
    }
}

/* Few rows: the chunks are multiplied side by side. A warp takes R * 16 rows and W * 8 columns by one
 * chunk at a time and stages its slices for itself; then the threads sum the chunks in order. */
template <enum precision P_, int R_, int W_> struct split {
    static constexpr enum precision P = P_;
    static constexpr enum rows_form F = ROWS_plain;
    static constexpr int R = R_, W = W_, ROWS = R * MMA_ROWS, COLUMNS = W * MMA_COLUMNS;
    static constexpr int TILE = ROWS * COLUMNS;
    using S = slice<P, F, ROWS, COLUMNS, 32>;
    static constexpr int STAGES = R == 1 ? 4 : 2;
    static constexpr int WARP = STAGES * S::FLOATS + TILE; /* floats: stages and sums */
};
constexpr int SPLIT_WARPS = 8;

template <class T>
__global__ void __launch_bounds__(SPLIT_WARPS * 32, T::R == 1 ? 2 : 1)
    fast_split_kernel(const __grid_constant__ fast f)
{
    using S = typename T::S;
    constexpr int PARTS = S::PARTS;
    DYNAMIC_SHARED(float, sums); /* [TILE], then each warp's [TILE] of a chunk, then its stages */
    const int t = (int)threadIdx.x, warp = t / 32, lane = t % 32, n_warps = (int)blockDim.x / 32;
    const int row = (int)blockIdx.x * T::ROWS, column = (int)blockIdx.y * T::COLUMNS;
    float *partials = sums + T::TILE;
    float *stages = partials + n_warps * T::TILE + warp * T::STAGES * S::FLOATS;
    const auto slice_of = [&](int s) {
        return (s / PARTS * n_warps + warp) * PARTS + s % PARTS;
    };
    struct pieces<S> from;
    const auto fetch_weights = [&](int s) {
        if (slice_of(s) < f.n_chunks * PARTS)
            fetch_w(stages + s % T::STAGES * S::FLOATS, &from, f, slice_of(s + 1) - slice_of(s), lane);
    };
    const auto fetch_rows = [&](int s) {
        if (slice_of(s) < f.n_chunks * PARTS)
            fetch_x(stages + s % T::STAGES * S::FLOATS, &from, f, slice_of(s + 1) - slice_of(s), lane);
        COPY_COMMIT();
    };
    LET_NEXT_START();
    find_pieces(&from, f, row, column, slice_of(0), lane);
    for (int s = 0; s < T::STAGES; s++)
        fetch_weights(s);
    clear_rows<S>(stages, T::STAGES, f.n_rows - row, lane);
    AWAIT_LAST();
    for (int s = 0; s < T::STAGES; s++)
        fetch_rows(s);
    for (int first = 0, s = 0; first < f.n_chunks; first += n_warps) {
        float p[T::R][T::W][4] = {};
        UNROLL(1)
        for (int end = s + PARTS; s < end; s++) {
            const float *stage = stages + s % T::STAGES * S::FLOATS;
            COPY_WAIT(T::STAGES - 1);
            __syncwarp(ALL_LANES);
            if (first + warp < f.n_chunks)
                multiply_slice<T::P, T::F>(p, stage, stage + S::W_AT, [] {});
            __syncwarp(ALL_LANES);
            fetch_weights(s + T::STAGES);
            fetch_rows(s + T::STAGES);
        }
        UNROLL(4)
        for (int i = 0; i < T::R; i++)
            lay_out<T::COLUMNS>(partials + warp * T::TILE + i * MMA_ROWS * T::COLUMNS, p[i]);
        __syncthreads();
        for (int i = t; i < T::TILE; i += n_warps * 32) {
            float sum = first == 0 ? 0 : sums[i];
            for (int c = 0; c < n_warps && first + c < f.n_chunks; c++)
                sum = add_chunk(sum, partials[c * T::TILE + i], first + c);
            sums[i] = sum;
        }
        __syncthreads();
    }
    put<T::ROWS, T::COLUMNS, T::COLUMNS>(f, sums, row, column, t, n_warps * 32);
}

template <class T> struct split_launch {
    static int size(int n_warps)
    {
        return (int)sizeof(float) * (T::TILE + n_warps * T::WARP);
    }

    static int warps_max(const struct device *d)
    {
        const int most = (d->shared_max - size(0)) / (size(1) - size(0));
        return most < SPLIT_WARPS ? most : SPLIT_WARPS;
    }

    static cudaError_t allow(const struct device *d)
    {
        return ALLOW_SHARED(fast_split_kernel<T>, size(warps_max(d)));
    }

    /* As many warps as there are chunks for, in as many rounds as it takes. */
    static void run(struct device *d, const fast &f)
    {
        const int rounds = (int)blocks_for(f.n_chunks, warps_max(d));
        const int warps = (int)blocks_for(f.n_chunks, rounds);
        LAUNCH_EARLY(d, fast_split_kernel<T>,
                     dim3(blocks_for(f.n_rows, T::ROWS), blocks_for(f.columns.n_out, T::COLUMNS)),
                     warps * 32, (size_t)size(warps), f);
        CHECK_LAUNCH(d);
    }
};

static constexpr int max_of(int x, int y)
{
    return x > y ? x : y;
}

/* Many rows: a block has TALL by WIDE warps, each of which makes 32 rows by 32 columns. Slices are
 * staged for all of them, STAGES - 1 ahead. */
template <enum precision P_, int TALL_, int WIDE_> struct tile {
    static constexpr enum precision P = P_;
    static constexpr enum rows_form F = ROWS_rounded;
    static constexpr int R = 2, W = 4, WARP_ROWS = R * MMA_ROWS, WARP_COLUMNS = W * MMA_COLUMNS;
    static constexpr int WIDE = WIDE_, THREADS = TALL_ * WIDE * 32;
    static constexpr int ROWS = TALL_ * WARP_ROWS, COLUMNS = WIDE * WARP_COLUMNS;
    using S = slice<P, F, ROWS, COLUMNS, THREADS>;
    static constexpr int STAGES = S::FLOATS > 6000 ? 3 : 4; /* so that any device has room */
    /* At the end sums lie in the stages' place. */
    static constexpr int ROOM_PITCH = WARP_COLUMNS + 8, ROOM = WARP_ROWS * ROOM_PITCH;
    static constexpr int SIZE
        = (int)sizeof(float) * max_of(STAGES * S::FLOATS, THREADS / 32 * ROOM);
};
constexpr int TILE_THREADS = 512; /* of a processor, which has 128 registers for each */

template <class T>
__device__ __forceinline__ void put_tile(const struct fast &f, float *room,
                                         const float (&sum)[T::R][T::W][4], int row, int column)
{
    UNROLL(2)
    for (int i = 0; i < T::R; i++)
        lay_out<T::ROOM_PITCH>(room + i * MMA_ROWS * T::ROOM_PITCH, sum[i]);
    __syncwarp(ALL_LANES);
    put<T::WARP_ROWS, T::WARP_COLUMNS, T::ROOM_PITCH>(f, room, row, column,
                                                      (int)threadIdx.x % 32, 32);
}

template <class T>
__global__ void __launch_bounds__(T::THREADS, TILE_THREADS / T::THREADS)
    fast_tile_kernel(const __grid_constant__ fast f)
{
    using S = typename T::S;
    DYNAMIC_SHARED(float, stages);
    const int t = (int)threadIdx.x, warp = t / 32, n_slices = f.n_chunks * S::PARTS;
    const int row = (int)blockIdx.x * T::ROWS, column = (int)blockIdx.y * T::COLUMNS;
    const int warp_row = warp / T::WIDE * T::WARP_ROWS, warp_column = warp % T::WIDE * T::WARP_COLUMNS;
    struct pieces<S> from;
    find_pieces(&from, f, row, column, 0, t);
    for (int s = 0; s < T::STAGES - 1; s++)
        if (s < n_slices)
            fetch_w(stages + s * S::FLOATS, &from, f, 1, t);
    clear_rows<S>(stages, T::STAGES, f.n_rows - row, t);
    AWAIT_LAST();
    for (int s = 0; s < T::STAGES - 1; s++) {
        if (s < n_slices)
            fetch_x(stages + s * S::FLOATS, &from, f, 1, t);
        COPY_COMMIT();
    }
    float sum[T::R][T::W][4];
    fill(sum, -0.0f); /* so that the first chunk's comes as it is */
    int at = 0; /* stage */
    for (int chunk = 0; chunk < f.n_chunks; chunk++) {
        float p[T::R][T::W][4] = {};
        UNROLL(4)
        for (int part = 0; part < S::PARTS; part++) {
            const float *stage = stages + at * S::FLOATS;
            float *free = stages + (at + T::STAGES - 1) % T::STAGES * S::FLOATS;
            COPY_WAIT(T::STAGES - 2);
            __syncthreads(); /* the slice has come for all, and all are done with the one before */
            multiply_slice<T::P, T::F>(
                p, stage + warp_row * S::X_PITCH, stage + S::W_AT + warp_column * WORDS, [&] {
                    if (chunk * S::PARTS + part + T::STAGES - 1 < n_slices) {
                        fetch_w(free, &from, f, 1, t);
                        fetch_x(free, &from, f, 1, t);
                    }
                    COPY_COMMIT();
                });
            at = (at + 1) % T::STAGES;
        }
        UNROLL(4)
        for (int i = 0; i < T::R; i++)
            UNROLL(8)
            for (int j = 0; j < T::W; j++)
                UNROLL(4)
                for (int e = 0; e < 4; e++)
                    sum[i][j][e] += p[i][j][e];
    }
    LET_NEXT_START();
    COPY_WAIT(0);
    __syncthreads();
    put_tile<T>(f, stages + warp * T::ROOM, sum, row + warp_row, column + warp_column);
}

template <class T> struct tile_launch {
    static cudaError_t allow(const struct device *)
    {
        return ALLOW_SHARED(fast_tile_kernel<T>, T::SIZE);
    }

    static void run(struct device *d, const fast &f)
    {
        LAUNCH_EARLY(d, fast_tile_kernel<T>,
                     dim3(blocks_for(f.n_rows, T::ROWS), blocks_for(f.columns.n_out, T::COLUMNS)),
                     T::THREADS, T::SIZE, f);
        CHECK_LAUNCH(d);
    }
};

__device__ __forceinline__ void store_four(float *to, const uint32_t (&words)[4])
{
    *reinterpret_cast<float4 *>(to) = make_float4(float_of(words[0]), float_of(words[1]),
                                                  float_of(words[2]), float_of(words[3]));
}

/* Rounded rows, in whole chunks of zeros behind the last k. A thread makes four words. */
template <enum precision P>
__global__ void __launch_bounds__(BLOCK)
    round_rows_kernel(float *out, const float *x, int n_rows, int K, int n_words)
{
    constexpr int ROUNDED = form<P, ROWS_rounded>::ROUNDED;
    const int i = (int)(blockIdx.x * BLOCK + threadIdx.x), row = i / (n_words / 4);
    const int in_slice = i % (WORDS / 4) * 4, slice = i % (n_words / 4) * 4 - in_slice;
    AWAIT_LAST();
    if (row >= n_rows)
        return;
    const float *from = x + (size_t)row * (size_t)K;
    float *to = out + ((size_t)row * (size_t)n_words + (size_t)slice) * ROUNDED + in_slice;
    const auto element = [&](int k) { return k < K ? from[k] : 0.0f; };
    uint32_t high[4], low[4];
    UNROLL(4)
    for (int j = 0; j < 4; j++) {
        const int word = slice + in_slice / 4 + 4 * j;
        if constexpr (P == PRECISION_bf16)
            high[j] = nearest_bf16(element(2 * word), element(2 * word + 1));
        else
            round_x<P>(&high[j], &low[j], element(word));
    }
    store_four(to, high);
    if constexpr (P == PRECISION_tf32x3)
        store_four(to + WORDS, low);
}

/* Rows as they are, so that each lies at 16 bytes. */
__global__ void __launch_bounds__(BLOCK)
    pad_rows_kernel(float *out, const float *x, int n_rows, int K, int n_words)
{
    const int i = (int)(blockIdx.x * BLOCK + threadIdx.x), row = i / n_words, k = i % n_words;
    AWAIT_LAST();
    if (row < n_rows)
        out[i] = k < K ? x[(size_t)row * (size_t)K + (size_t)k] : 0;
}

/* How a product can be cut, and what cuts it so. */
struct cut {
    int rows, columns;
    enum rows_form form;
    cudaError_t (*allow)(const struct device *d);
    void (*run)(struct device *d, const fast &f);
};

template <enum precision P> struct cuts {
    template <int R, int W> static constexpr struct cut few()
    {
        using T = split<P, R, W>;
        return {T::ROWS, T::COLUMNS, T::F, split_launch<T>::allow, split_launch<T>::run};
    }

    template <int TALL, int WIDE> static constexpr struct cut many()
    {
        using T = tile<P, TALL, WIDE>;
        return {T::ROWS, T::COLUMNS, T::F, tile_launch<T>::allow, tile_launch<T>::run};
    }

    static constexpr struct cut all[5]
        = {few<1, 2>(), few<2, 4>(), many<2, 2>(), many<4, 2>(), many<4, 4>()};
    /* What it takes to bring a row or a column, in multiplications. */
    static constexpr int BRING = P == PRECISION_tf32x3 ? 27 : P == PRECISION_tf32 ? 80 : 120;

    static cudaError_t allow(const struct device *d)
    {
        cudaError_t error = cudaSuccess;
        for (const struct cut &c : all)
            if (error == cudaSuccess)
                error = c.allow(d);
        return error;
    }

    /* The cut whose busiest processor is done first. */
    static const struct cut *best(const struct device *d, const fast &f)
    {
        const struct cut *best = NULL;
        int64_t least = INT64_MAX;
        for (const struct cut &c : all) {
            const int64_t blocks
                = (int64_t)blocks_for(f.n_rows, c.rows) * blocks_for(f.columns.n_out, c.columns);
            const int64_t each = c.rows * c.columns + BRING * (c.rows + c.columns);
            const int64_t cost = blocks_for(blocks, d->processors) * each;
            if (cost < least)
                best = &c, least = cost;
        }
        return best;
    }

    /* x as the cut wants it. */
    static void prepare(struct device *d, fast *f, int K, enum rows_form form_)
    {
        using X = form<P, ROWS_rounded>;
        const bool is_rounded = form_ == ROWS_rounded;
        const int n_words = f->n_chunks * CHUNK / (is_rounded ? X::EACH : 1);
        const int64_t count = (int64_t)f->n_rows * n_words;
        if (is_rounded)
            LAUNCH_EARLY(d, round_rows_kernel<P>, blocks_for(count / 4, BLOCK), BLOCK, 0,
                         d->prepared, f->x, f->n_rows, K, n_words);
        else if (K % CHUNK != 0 || reinterpret_cast<uintptr_t>(f->x) % 16 != 0)
            LAUNCH_EARLY(d, pad_rows_kernel, blocks_for(count, BLOCK), BLOCK, 0, d->prepared, f->x,
                         f->n_rows, K, n_words);
        else
            return;
        CHECK_LAUNCH(d);
        f->x = d->prepared;
        f->pitch = n_words * (is_rounded ? X::ROUNDED : 1);
    }

    static void run(struct device *d, fast f, int K)
    {
        const struct cut *c = best(d, f);
        prepare(d, &f, K, c->form);
        c->run(d, f);
    }
};

cudaError_t cuda_fast_open(struct device *d, const struct device_options *o)
{
    const size_t row = 2 * sizeof(float) * blocks_for(o->width_max, CHUNK) * CHUNK; /* two words a k */
    void *prepared = NULL;
    cudaError_t error = cudaSuccess;
    if (d->precision == PRECISION_exact)
        return error;
    error = cudaMalloc(&prepared, (size_t)d->rows_max * row + 1);
    d->prepared = static_cast<float *>(prepared);
    if (error != cudaSuccess)
        return error;
    return d->precision == PRECISION_tf32x3 ? cuts<PRECISION_tf32x3>::allow(d)
           : d->precision == PRECISION_tf32 ? cuts<PRECISION_tf32>::allow(d)
                                            : cuts<PRECISION_bf16>::allow(d);
}

void cuda_fast_close(struct device *d)
{
    cudaFree(d->prepared);
}

void cuda_linear_fast(struct device *d, float *out, const float *x, const struct weight *w,
                      const float *bias, int n_rows, enum epilogue epilogue, const float *residual,
                      const int32_t *panels, int n_out)
{
    const struct fast f = {out, bias, residual, epilogue, x, n_rows, w->K,
                           reinterpret_cast<const float *>(w->words),
                           (int)blocks_for(w->K, CHUNK), {panels, w->N, n_out}};
    switch (d->precision) {
    case PRECISION_tf32x3: cuts<PRECISION_tf32x3>::run(d, f, w->K); break;
    case PRECISION_tf32: cuts<PRECISION_tf32>::run(d, f, w->K); break;
    case PRECISION_bf16: cuts<PRECISION_bf16>::run(d, f, w->K); break;
    default: assert(false);
    }
}
