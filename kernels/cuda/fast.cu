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
    const float *x; /* [n_rows][pitch]: whole chunks, zeros behind the last k */
    int n_rows, pitch;
    const float *words; /* of the weight: see fragment.h */
    int n_chunks;
    struct columns columns;
};

/* What an instruction multiplies: 16 rows and 8 columns, by 8 words. A slice of WORDS is two steps:
 * in step s lane t of four has words 4 t + 2 s and the next, so that it loads those of both at
 * once. */
constexpr int MMA_ROWS = 16, MMA_COLUMNS = 8, STEPS = 2;

/* Rows of x are as linear gets them (for bf16 two numbers a word), or rounded in words and in the
 * order in which load_matrix wants them: number i of four lies with those of the other lanes. */
enum rows_form { ROWS_plain, ROWS_rounded };

template <enum precision P, enum rows_form F> struct form {
    static constexpr int EACH = P == PRECISION_bf16 ? 2 : 1; /* k of a word */
    static constexpr int PARTS = CHUNK / EACH / WORDS;       /* slices of a chunk */
    static constexpr int X_FLOATS = F == ROWS_plain ? WORDS * EACH : WORDS; /* of a row's slice */
    /* So far are rows apart that no two lanes of a load meet at a bank. */
    static constexpr int X_PITCH = P == PRECISION_bf16 ? X_FLOATS + 4 : X_FLOATS;
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

/* Where a thread's pieces of the next slice come from, and how many rows there are from its first
 * on. A column that is nobody's is the first one: nobody uses it. */
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

/* Begins to copy the pieces of a slice, and goes on to the one that is `by` slices further. */
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

/* A slice's 16 rows from `row` on, rounded, for each step. */
template <enum precision P, enum rows_form F>
__device__ __forceinline__ void load_x(uint32_t (&high)[STEPS][4], uint32_t (&low)[STEPS][4],
                                       const float *row)
{
    constexpr int APART = form<P, F>::X_PITCH;
    const int lane = (int)threadIdx.x % 32;
    UNROLL(2)
    for (int h = 0; h < 2; h++)
        if constexpr (F == ROWS_rounded) {
            load_matrix(high[h], row + lane % 16 * APART + lane / 16 * 4 + h * 8);
        } else if constexpr (P == PRECISION_bf16) {
            const float *at = row + (lane / 4 + h * 8) * APART + lane % 4 * 8;
            UNROLL(2)
            for (int s = 0; s < STEPS; s++) {
                float x[4];
                load_columns(x, at + 4 * s);
                high[s][h] = nearest_bf16(x[0], x[1]);
                high[s][2 + h] = nearest_bf16(x[2], x[3]);
            }
        } else {
            float x[4];
            load_columns(x, row + (lane / 4 + h * 8) * APART + lane % 4 * 4);
            UNROLL(4)
            for (int i = 0; i < 4; i++)
                round_x<P>(&high[i / 2][i % 2 * 2 + h], &low[i / 2][i % 2 * 2 + h], x[i]);
        }
}

/* d += a @ b; of three products the smaller ones first. */
template <enum precision P, int W>
__device__ __forceinline__ void multiply_step(float (&d)[W][4], const uint32_t (&a_high)[4],
                                              const uint32_t (&a_low)[4],
                                              const uint32_t (&b_high)[W][2],
                                              const uint32_t (&b_low)[W][2])
{
    if constexpr (P == PRECISION_tf32x3) {
        UNROLL(8)
        for (int j = 0; j < W; j++)
            mma_tf32(d[j], a_low, b_high[j]);
        UNROLL(8)
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

/* p += a slice of R * 16 rows at x by one of W * 8 columns at w. A lane's sum p[i][j][e] is that of
 * row 16 i + lane / 4 + e / 2 * 8 and of column 8 j + lane % 4 * 2 + e % 2. Does `meanwhile` while
 * the tensor cores have something to do. */
template <enum precision P, enum rows_form F, int R, int W, class M>
__device__ __forceinline__ void multiply_slice(float (&p)[R][W][4], const float *x, const float *w,
                                               const M &meanwhile)
{
    const int lane = (int)threadIdx.x % 32;
    uint32_t b_high[STEPS][W][2], b_low[STEPS][W][2];
    UNROLL(8)
    for (int j = 0; j < W; j++) {
        float b[4];
        load_columns(b, w + (j * MMA_COLUMNS + lane / 4) * WORDS + lane % 4 * 4);
        UNROLL(4)
        for (int i = 0; i < 4; i++)
            round_w<P>(&b_high[i / 2][j][i % 2], &b_low[i / 2][j][i % 2], b[i]);
    }
    UNROLL(4)
    for (int i = 0; i < R; i++) {
        uint32_t a_high[STEPS][4], a_low[STEPS][4];
        load_x<P, F>(a_high, a_low, x + i * MMA_ROWS * form<P, F>::X_PITCH);
        UNROLL(2)
        for (int s = 0; s < STEPS; s++)
            multiply_step<P>(p[i], a_high[s], a_low[s], b_high[s], b_low[s]);
        if (i == 0)
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

/* Finishes and stores a matrix of sums by n_threads threads, of which this is `t`; some at once,
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

/* Few rows: the chunks are multiplied side by side. A warp takes R * 16 rows and W * 8 columns by
 * one chunk at a time and stages its slices for itself; then the threads sum the chunks in
 * order. */
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

/* Grid: n_rows by ROWS, n_out by COLUMNS. */
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
        float *stage = stages + s % T::STAGES * S::FLOATS;
        if (slice_of(s) < f.n_chunks * PARTS)
            fetch_w(stage, &from, f, slice_of(s + 1) - slice_of(s), lane);
    };
    const auto fetch_rows = [&](int s) {
        float *stage = stages + s % T::STAGES * S::FLOATS;
        if (slice_of(s) < f.n_chunks * PARTS)
            fetch_x(stage, &from, f, slice_of(s + 1) - slice_of(s), lane);
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

/* Many rows: a block has two by two warps, each of which makes 32 rows by W * 8 columns. Slices are
 * staged for all of them, STAGES - 1 ahead. Bf16 are rounded beforehand, for half the bytes; a tf32
 * would be as long as what it is made of. */
template <enum precision P_, int W_> struct tile {
    static constexpr enum precision P = P_;
    static constexpr enum rows_form F = P == PRECISION_bf16 ? ROWS_rounded : ROWS_plain;
    static constexpr int R = 2, W = W_, WARP_ROWS = R * MMA_ROWS, WARP_COLUMNS = W * MMA_COLUMNS;
    static constexpr int SIDE = 2, WARPS = SIDE * SIDE, THREADS = WARPS * 32, STAGES = 4;
    static constexpr int ROWS = SIDE * WARP_ROWS, COLUMNS = SIDE * WARP_COLUMNS;
    using S = slice<P, F, ROWS, COLUMNS, THREADS>;
    /* At the end sums lie in the stages' place, for each warp. */
    static constexpr int ROOM_PITCH = WARP_COLUMNS + 8, ROOM = WARP_ROWS * ROOM_PITCH;
    static constexpr int SIZE = (int)sizeof(float) * max_of(STAGES * S::FLOATS, WARPS * ROOM);
};

/* Grid: n_rows by ROWS, n_out by COLUMNS. A chunk's sums and the sums of chunks are registers. */
template <class T>
__global__ void __launch_bounds__(T::THREADS, T::W == 4 ? 3 : 2)
    fast_tile_kernel(const __grid_constant__ fast f)
{
    using S = typename T::S;
    DYNAMIC_SHARED(float, stages);
    const int t = (int)threadIdx.x, warp = t / 32, n_slices = f.n_chunks * S::PARTS;
    const int row = (int)blockIdx.x * T::ROWS, column = (int)blockIdx.y * T::COLUMNS;
    const int warp_row = warp / T::SIDE * T::WARP_ROWS;
    const int warp_column = warp % T::SIDE * T::WARP_COLUMNS;
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
    float *room = stages + warp * T::ROOM;
    UNROLL(2)
    for (int i = 0; i < T::R; i++)
        lay_out<T::ROOM_PITCH>(room + i * MMA_ROWS * T::ROOM_PITCH, sum[i]);
    __syncwarp(ALL_LANES);
    put<T::WARP_ROWS, T::WARP_COLUMNS, T::ROOM_PITCH>(f, room, row + warp_row,
                                                      column + warp_column, t % 32, 32);
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

/* out (n_rows, n_words): rounded rows, in whole chunks, with zeros behind the last k. A thread
 * makes four words. */
__global__ void __launch_bounds__(BLOCK)
    round_rows_kernel(float *out, const float *x, int n_rows, int K, int n_words)
{
    const int i = (int)(blockIdx.x * BLOCK + threadIdx.x), row = i / (n_words / 4);
    const int word = i % (n_words / 4) * 4, first = word / WORDS * WORDS + word % WORDS / 4;
    AWAIT_LAST();
    if (row >= n_rows)
        return;
    const float *from = x + (size_t)row * (size_t)K;
    const auto element = [&](int k) { return k < K ? from[k] : 0.0f; };
    const auto pair = [&](int at) {
        return float_of(nearest_bf16(element(2 * at), element(2 * at + 1)));
    };
    *reinterpret_cast<float4 *>(out + (size_t)i * 4)
        = make_float4(pair(first), pair(first + 4), pair(first + 8), pair(first + 12));
}

/* out (n_rows, n_words): rows as they are, a word a thread, so that each lies at 16 bytes. */
__global__ void __launch_bounds__(BLOCK)
    pad_rows_kernel(float *out, const float *x, int n_rows, int K, int n_words)
{
    const int i = (int)(blockIdx.x * BLOCK + threadIdx.x), row = i / n_words, k = i % n_words;
    AWAIT_LAST();
    if (row < n_rows)
        out[i] = k < K ? x[(size_t)row * (size_t)K + (size_t)k] : 0;
}

/* x in the form that a cut wants. */
static void prepare(struct device *d, fast *f, int K, enum rows_form form)
{
    const int n_words = f->n_chunks * CHUNK / (form == ROWS_rounded ? 2 : 1);
    const int64_t count = (int64_t)f->n_rows * n_words;
    assert(f->n_rows <= d->rows_max);
    if (form == ROWS_rounded)
        LAUNCH_EARLY(d, round_rows_kernel, blocks_for(count / 4, BLOCK), BLOCK, 0, d->prepared,
                     f->x, f->n_rows, K, n_words);
    else if (K % CHUNK != 0 || reinterpret_cast<uintptr_t>(f->x) % 16 != 0)
        LAUNCH_EARLY(d, pad_rows_kernel, blocks_for(count, BLOCK), BLOCK, 0, d->prepared, f->x,
                     f->n_rows, K, n_words);
    else
        return;
    CHECK_LAUNCH(d);
    f->x = d->prepared;
    f->pitch = n_words;
}

/* How a product can be cut, and what cuts it so. */
struct cut {
    int rows, columns;
    float first, next; /* what a processor's first block takes, and each one more */
    enum rows_form form;
    cudaError_t (*allow)(const struct device *d);
    void (*run)(struct device *d, const fast &f);
};

/* Measured on an H100: us for 768 k. */
constexpr int N_CUTS = 4;
constexpr float CUTS[3][N_CUTS][2] = {
    {{2.5f, 2.3f}, {7.3f, 5.0f}, {14.8f, 12.5f}, {27.0f, 24.9f}}, /* tf32x3 */
    {{1.7f, 1.7f}, {5.2f, 4.2f}, {9.5f, 6.6f}, {15.0f, 13.0f}},   /* tf32 */
    {{1.2f, 2.0f}, {3.5f, 4.2f}, {7.0f, 4.5f}, {12.0f, 8.4f}},    /* bf16 */
};

template <enum precision P> struct cuts {
    template <class T, template <class> class L> static constexpr struct cut cut_of(const float *us)
    {
        return {T::ROWS, T::COLUMNS, us[0], us[1], T::F, L<T>::allow, L<T>::run};
    }

    static constexpr const float (*US)[2] = CUTS[P - PRECISION_tf32x3];
    static constexpr struct cut all[N_CUTS] = {
        cut_of<split<P, 1, 2>, split_launch>(US[0]), cut_of<split<P, 2, 4>, split_launch>(US[1]),
        cut_of<tile<P, 4>, tile_launch>(US[2]), cut_of<tile<P, 8>, tile_launch>(US[3])};

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
        float least = INFINITY;
        for (const struct cut &c : all) {
            const int64_t blocks
                = (int64_t)blocks_for(f.n_rows, c.rows) * blocks_for(f.columns.n_out, c.columns);
            const float us = c.first + (float)(blocks_for(blocks, d->processors) - 1) * c.next;
            if (us < least)
                best = &c, least = us;
        }
        return best;
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
    const size_t row = sizeof(float) * blocks_for(o->width_max, CHUNK) * CHUNK;
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
