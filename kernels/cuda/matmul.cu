/* Products in the canonical order: `linear` over weights, `matmul` over any strides.
 * Whatever the kernel, one thread makes a chunk of an element, a chain over 64 k from +0, and one
 * sums the chunks in order. So all kernels give the same bits, and what is fastest chooses among
 * them. */
#include "tile.h"

/* Slices of k lie in shared memory and are copied while earlier ones are multiplied. Rows of x are
 * PITCH apart there: four more than a slice against bank conflicts. */
constexpr int SLICE = 16, PITCH = SLICE + 4, SLICES = CHUNK / SLICE;

/* What the kernels of `linear` compute: out (n_rows, N) = finish(x (n_rows, K) @ weights). */
struct linear {
    float *out;
    const float *bias, *residual, *weights;
    int stride, K, N, n_rows;
    enum epilogue epilogue;
    const float *x;
    bool x_is_aligned; /* each row lies at 16 bytes */
};

__device__ __forceinline__ void put(const struct linear &l, int row, int n, float sum)
{
    const size_t at = (size_t)row * (size_t)l.N + (size_t)n;
    if (row >= l.n_rows || n >= l.N)
        return;
    switch (l.epilogue) {
    case EPILOGUE_none: l.out[at] = finish<EPILOGUE_none>(sum, l.bias, l.residual, n, at); break;
    case EPILOGUE_gelu: l.out[at] = finish<EPILOGUE_gelu>(sum, l.bias, l.residual, n, at); break;
    case EPILOGUE_residual:
        l.out[at] = finish<EPILOGUE_residual>(sum, l.bias, l.residual, n, at);
        break;
    }
}

/* One of THREADS threads that copy slices of ROWS rows of x, and of COLUMNS columns of the weight,
 * to shared memory: where its first four floats come from, and how the others lie to them. Columns
 * past the last are the first again, which nobody uses; rows past it are left as they are. */
template <int ROWS, int COLUMNS, int THREADS> struct copier {
    static constexpr int ROW_FOURS = SLICE / 4, COLUMN_FOURS = COLUMNS / 4;
    static constexpr int ROW_STEP = THREADS / ROW_FOURS, K_STEP = THREADS / COLUMN_FOURS;
    static constexpr int N_ROWS = (ROWS + ROW_STEP - 1) / ROW_STEP, N_K = SLICE / K_STEP;
    static_assert(THREADS % ROW_FOURS == 0 && THREADS % COLUMN_FOURS == 0 && SLICE % K_STEP == 0,
                  "each thread copies the same columns each time");
    const float *x, *w;
    int t, rows; /* up to where its rows are some, from its first one on */

    __device__ __forceinline__ copier(const struct linear &l, int row, int column, int t_)
        : t(t_)
    {
        const int n = column + t % COLUMN_FOURS * 4;
        w = l.weights + (size_t)(t / COLUMN_FOURS) * (size_t)l.stride + (n < l.stride ? n : 0);
        x = l.x + (size_t)(row + t / ROW_FOURS) * (size_t)l.K + t % ROW_FOURS * 4;
        rows = l.n_rows - row - t / ROW_FOURS;
        rows = rows < ROWS - t / ROW_FOURS ? rows : ROWS - t / ROW_FOURS;
    }

    /* Rows past the last. */
    __device__ __forceinline__ void clear(float *to, int pitch) const
    {
        UNROLL(1)
        for (int i = 0; t / ROW_FOURS + i * ROW_STEP < ROWS; i++)
            for (int j = 0; i * ROW_STEP >= rows && j < 4; j++)
                to[(t / ROW_FOURS + i * ROW_STEP) * pitch + t % ROW_FOURS * 4 + j] = 0;
    }

    __device__ __forceinline__ void fetch_x(float *to, int pitch, const struct linear &l,
                                            int k) const
    {
        const bool is_whole = l.x_is_aligned && k + SLICE <= l.K;
        to += t / ROW_FOURS * pitch + t % ROW_FOURS * 4;
        UNROLL(8)
        for (int i = 0; i < N_ROWS; i++)
            if (i * ROW_STEP < rows && is_whole)
                COPY_ASYNC(to + i * ROW_STEP * pitch,
                           x + (size_t)(i * ROW_STEP) * (size_t)l.K + k, 4 * sizeof *to);
        for (int i = 0; i * ROW_STEP < rows && !is_whole; i++)
            for (int j = 0; j < 4 && k + t % ROW_FOURS * 4 + j < l.K; j++)
                COPY_ASYNC(to + i * ROW_STEP * pitch + j,
                           x + (size_t)(i * ROW_STEP) * (size_t)l.K + k + j, sizeof *to);
    }

    __device__ __forceinline__ void fetch_w(float *to, int pitch, const struct linear &l,
                                            int k) const
    {
        const int first = t / COLUMN_FOURS;
        const float *from = w + (size_t)k * (size_t)l.stride;
        to += first * pitch + t % COLUMN_FOURS * 4;
        const bool is_whole = k + SLICE <= l.K;
        UNROLL(8)
        for (int i = 0; i < N_K; i++)
            if (is_whole || k + first + i * K_STEP < l.K)
                COPY_ASYNC(to + i * K_STEP * pitch,
                           from + (size_t)(i * K_STEP) * (size_t)l.stride, 4 * sizeof *to);
    }
};

/* multiply_fours one by one, for what is left. */
template <int R, int W>
__device__ __forceinline__ void multiply_ones(float (&p)[R][W], const float *x, int X,
                                              const float *w, int Y, int n_k, int apart)
{
    UNROLL(1)
    for (int k = 0; k < n_k; k++) {
        float b[W];
        load_columns(b, w + k * Y, apart);
        UNROLL(8)
        for (int i = 0; i < R; i++)
            UNROLL(8)
            for (int c = 0; c < W; c++)
                p[i][c] = fmaf(x[i * X + k], b[c], p[i][c]);
    }
}

/* Over a slice, of which only the first n_k are there. */
template <int R, int W>
__device__ __forceinline__ void multiply_slice(float (&p)[R][W], const float *x, int X,
                                               const float *w, int Y, int apart, int n_k)
{
    if (n_k >= SLICE)
        multiply_fours(p, x, X, w, Y, SLICE, apart);
    else
        multiply_ones(p, x, X, w, Y, n_k, apart);
}

/* Lanes above and beside one another, so that of four neighbours two have the same row and two the
 * same columns: then a processor reads sixteen bytes for each of half a warp at once. */
template <int TALL> __device__ __forceinline__ int row_of_lane(int lane)
{
    return lane % 2 + lane / 2 / (32 / TALL) * 2;
}

template <int TALL> __device__ __forceinline__ int column_of_lane(int lane)
{
    return lane / 2 % (32 / TALL);
}

/* Products of so many chunks of k by teams of threads side by side. */
constexpr int WARPS_MIN = 4;

/* As many warps as there are chunks for, in as many rounds as it takes. */
static int warps_for(int K, int teams, int most)
{
    const int n_warps = (int)blocks_for(K, teams * CHUNK);
    const int each = (int)blocks_for(n_warps, (int)blocks_for(n_warps, most));
    return each < WARPS_MIN ? WARPS_MIN : each;
}

/* sum[e], of element threadIdx + e blockDim of a tile, goes on by the teams' chunks of a round,
 * which begins at k = `first`: `partials` [n_teams][tile]. */
template <int EACH>
__device__ __forceinline__ void sum_teams(float (&sum)[EACH], const float *partials, int tile,
                                          int n_teams, int first, int K)
{
    const int left = (K - first + CHUNK - 1) / CHUNK, n = left < n_teams ? left : n_teams;
    UNROLL(8)
    for (int e = 0; e < EACH; e++) {
        const int i = (int)threadIdx.x + e * (int)blockDim.x;
        UNROLL(4)
        for (int c = 0; i < tile && c < n; c++)
            sum[e] = add_chunk(sum[e], partials[c * tile + i], first + c);
    }
}

template <class S, int EACH>
__device__ __forceinline__ void put_sums(const struct linear &l, int row, int column,
                                         const float (&sum)[EACH])
{
    UNROLL(8)
    for (int e = 0; e < EACH; e++) {
        const int i = (int)threadIdx.x + e * (int)blockDim.x;
        if (i < S::TILE)
            put(l, row + i / S::COLUMNS, column + i % S::COLUMNS, sum[e]);
    }
}

/* One row to eight wait for the weights alone. A team of lanes takes W columns each by one chunk of
 * k at a time, HELD k of whose weights are on their way to registers; then the threads sum the
 * teams' chunks in order. */
template <int R_, int W_, int TEAM_> struct few {
    static constexpr int R = R_, W = W_, TEAM = TEAM_, TEAMS = 32 / TEAM, HELD = CHUNK / W;
    static constexpr int ROWS = R, COLUMNS = TEAM * W, TILE = R * COLUMNS;
};
constexpr int FEW_WARPS = 12;

/* A team's rows of x by a chunk, [R][CHUNK]: zero past the last row and k. */
template <class S, int FLOATS>
__device__ __forceinline__ void fetch_few(float *to, const struct linear &l, int row, int first)
{
    UNROLL(4)
    for (int i = (int)threadIdx.x % S::TEAM * FLOATS; i < S::R * CHUNK; i += S::TEAM * FLOATS) {
        const int r = row + i / CHUNK, k = first + i % CHUNK;
        float x[FLOATS] = {};
        if (r < l.n_rows && k < l.K)
            load_columns(x, l.x + (size_t)r * (size_t)l.K + (size_t)k);
        UNROLL(4)
        for (int j = 0; j < FLOATS; j++)
            to[i + j] = x[j];
    }
}

template <class S>
__device__ __forceinline__ void hold(float (&to)[S::HELD][S::W], const float *w, unsigned stride)
{
    UNROLL(64)
    for (int k = 0; k < S::HELD; k++)
        load_columns(to[k], w + (size_t)stride * (unsigned)k);
}

/* p += x @ w, of HELD k. */
template <class S>
__device__ __forceinline__ void multiply_held(float (&p)[S::R][S::W], const float *x,
                                              const float (&w)[S::HELD][S::W])
{
    UNROLL(16)
    for (int k = 0; k < S::HELD; k += 4) {
        float a[S::R][4];
        UNROLL(8)
        for (int i = 0; i < S::R; i++)
            load_columns(a[i], x + i * CHUNK + k);
        UNROLL(4)
        for (int j = 0; j < 4; j++)
            UNROLL(8)
            for (int i = 0; i < S::R; i++)
                UNROLL(4)
                for (int c = 0; c < S::W; c++)
                    p[i][c] = fmaf(a[i][j], w[k + j][c], p[i][c]);
    }
}

/* Grid: n_rows by R, N by COLUMNS. Dynamic shared memory: the teams' products, then their rows.
 * What a weight has behind its last k makes no difference (struct weight). */
template <class S>
__global__ void __launch_bounds__(FEW_WARPS * 32, 1)
    linear_few_kernel(const __grid_constant__ linear l)
{
    constexpr int EACH = (S::TILE + WARPS_MIN * 32 - 1) / (WARPS_MIN * 32);
    DYNAMIC_SHARED(float, partials); /* [n_teams][TILE] */
    const int t = (int)threadIdx.x, n_threads = (int)blockDim.x, n_teams = n_threads / S::TEAM;
    const int team = t / S::TEAM, lane = t % S::TEAM, row = (int)blockIdx.x * S::R;
    const int column = (int)blockIdx.y * S::COLUMNS, at = column + lane * S::W;
    float *const x = partials + n_teams * S::TILE + team * S::R * CHUNK;
    float sum[EACH] = {};
    for (int first = 0; first < l.K; first += n_teams * CHUNK) {
        const int mine = first + team * CHUNK;
        const float *w = l.weights + (size_t)mine * (size_t)l.stride + (at < l.stride ? at : 0);
        float p[S::R][S::W] = {};
        UNROLL(1)
        for (int k = 0; k < CHUNK; k += S::HELD, w += S::HELD * (size_t)l.stride) {
            float held[S::HELD][S::W];
            if (mine < l.K)
                hold<S>(held, w, (unsigned)l.stride);
            if (first == 0 && k == 0) {
                AWAIT_LAST();
                LET_NEXT_START();
            }
            if (k == 0 && l.x_is_aligned)
                fetch_few<S, 4>(x, l, row, mine);
            else if (k == 0)
                fetch_few<S, 1>(x, l, row, mine);
            __syncwarp(ALL_LANES);
            if (mine < l.K)
                multiply_held<S>(p, x + k, held);
        }
        UNROLL(8)
        for (int i = 0; i < S::R; i++)
            UNROLL(4)
            for (int c = 0; c < S::W; c++)
                partials[team * S::TILE + i * S::COLUMNS + lane * S::W + c] = p[i][c];
        __syncthreads();
        sum_teams(sum, partials, S::TILE, n_teams, first, l.K);
        __syncthreads();
    }
    put_sums<S>(l, row, column, sum);
}

template <class S> static int size_of_few(int n_warps)
{
    return (int)sizeof(float) * n_warps * S::TEAMS * (S::TILE + S::R * CHUNK);
}

template <class S> static void linear_few(struct device *d, const struct linear &l)
{
    const int n_warps = warps_for(l.K, S::TEAMS, FEW_WARPS);
    LAUNCH_EARLY(d, linear_few_kernel<S>,
                 dim3(blocks_for(l.n_rows, S::ROWS), blocks_for(l.N, S::COLUMNS)), n_warps * 32,
                 (size_t)size_of_few<S>(n_warps), l);
    CHECK_LAUNCH(d);
}

template <class S> static cudaError_t allow_few(const struct device *d)
{
    (void)d;
    return ALLOW_SHARED(linear_few_kernel<S>, size_of_few<S>(FEW_WARPS));
}

/* Up to some hundred rows: there are too few large tiles for all processors, so the chunks of k are
 * multiplied side by side. A warp takes a tile by one chunk at a time and stages its slices for
 * itself; then the threads sum the warps' chunks in order. TALL lanes stand above one another, each
 * with R rows and W columns of the tile. */
template <int R_, int W_, int TALL_, int STAGES_> struct split {
    static constexpr int R = R_, W = W_, TALL = TALL_, STAGES = STAGES_;
    static constexpr int ROWS = R * TALL, COLUMNS = W * (32 / TALL), TILE = ROWS * COLUMNS;
    static constexpr int STAGE = ROWS * PITCH + SLICE * COLUMNS; /* floats */
    using copies = copier<ROWS, COLUMNS, 32>;
};
constexpr int SPLIT_WARPS = 12;

/* Grid: n_rows by ROWS, N by COLUMNS. Dynamic shared memory: the warps' products, then each one's
 * stages. */
template <class S>
__global__ void __launch_bounds__(SPLIT_WARPS * 32, 1)
    linear_split_kernel(const __grid_constant__ linear l)
{
    constexpr int EACH = (S::TILE + WARPS_MIN * 32 - 1) / (WARPS_MIN * 32);
    DYNAMIC_SHARED(float, partials); /* [n_warps][TILE] */
    const int t = (int)threadIdx.x, n_warps = (int)blockDim.x / 32;
    const int warp = t / 32, lane = t % 32;
    const int row = (int)blockIdx.x * S::ROWS, column = (int)blockIdx.y * S::COLUMNS;
    const int lane_row = row_of_lane<S::TALL>(lane);
    const int lane_column = column_of_lane<S::TALL>(lane) * S::W;
    float *const xs = partials + n_warps * S::TILE + warp * S::STAGES * S::STAGE;
    float *const ws = xs + S::ROWS * PITCH;
    const int round_k = n_warps * CHUNK; /* the warp's slices: SLICES of each round's chunk */
    const auto k_of = [&](int s) {
        return s / SLICES * round_k + warp * CHUNK + s % SLICES * SLICE;
    };
    const typename S::copies copies(l, row, column, lane);
    UNROLL(1)
    for (int s = 0; s < S::STAGES; s++)
        copies.clear(xs + s * S::STAGE, PITCH);
    UNROLL(4)
    for (int s = 0; s < S::STAGES; s++)
        copies.fetch_w(ws + s * S::STAGE, S::COLUMNS, l, k_of(s));
    AWAIT_LAST();
    UNROLL(4)
    for (int s = 0; s < S::STAGES; s++) {
        copies.fetch_x(xs + s * S::STAGE, PITCH, l, k_of(s));
        COPY_COMMIT(); /* the first with the weights of all */
    }
    float sum[EACH] = {};
    for (int first = 0, s = 0; first < l.K; first += round_k) {
        float p[S::R][S::W] = {};
        UNROLL(1)
        for (int end = s + SLICES; s < end; s++) {
            const int at = s % S::STAGES * S::STAGE;
            COPY_WAIT(S::STAGES - 1);
            __syncwarp(ALL_LANES);
            multiply_slice(p, xs + at + lane_row * PITCH, S::TALL * PITCH,
                           ws + at + lane_column, S::COLUMNS, 4, l.K - k_of(s));
            __syncwarp(ALL_LANES);
            if (k_of(s + S::STAGES) < l.K) {
                copies.fetch_w(ws + at, S::COLUMNS, l, k_of(s + S::STAGES));
                copies.fetch_x(xs + at, PITCH, l, k_of(s + S::STAGES));
            }
            COPY_COMMIT();
        }
        UNROLL(8)
        for (int i = 0; i < S::R; i++)
            UNROLL(4)
            for (int c = 0; c < S::W; c++)
                partials[warp * S::TILE + (lane_row + i * S::TALL) * S::COLUMNS + lane_column + c]
                    = p[i][c];
        __syncthreads();
        sum_teams(sum, partials, S::TILE, n_warps, first, l.K);
        __syncthreads();
    }
    LET_NEXT_START();
    put_sums<S>(l, row, column, sum);
}

template <class S> static int split_size(int n_warps)
{
    return (int)sizeof(float) * n_warps * (S::TILE + S::STAGES * S::STAGE);
}

/* SPLIT_WARPS, or fewer where a block may have less shared memory. */
template <class S> static int split_warps_max(const struct device *d)
{
    const int most = d->shared_max / split_size<S>(1);
    return most < SPLIT_WARPS ? most : SPLIT_WARPS;
}

template <class S> static void linear_split(struct device *d, const struct linear &l)
{
    const int n_warps = warps_for(l.K, 1, split_warps_max<S>(d));
    LAUNCH_EARLY(d, linear_split_kernel<S>,
                 dim3(blocks_for(l.n_rows, S::ROWS), blocks_for(l.N, S::COLUMNS)), n_warps * 32,
                 (size_t)split_size<S>(n_warps), l);
    CHECK_LAUNCH(d);
}

template <class S> static cudaError_t allow_split(const struct device *d)
{
    return ALLOW_SHARED(linear_split_kernel<S>, split_size<S>(split_warps_max<S>(d)));
}

/* More rows: each warp of a block makes 4 R rows of its tile, four lanes above one another with R
 * rows each, and 32 by FOURS columns, eight lanes beside one another. The slices' copies are
 * STAGES - 1 ahead. Sums lie in shared memory, so that more blocks find registers. */
template <int R_, int FOURS_, int TALL_, int WIDE_, int STAGES_, int BLOCKS_> struct tiles {
    static constexpr int TALL = TALL_, WIDE = WIDE_, FOURS = FOURS_, STAGES = STAGES_; /* warps */
    static constexpr int R = R_, W = 4 * FOURS, ROWS = TALL * 4 * R, COLUMNS = WIDE * 32 * FOURS;
    static constexpr int BLOCKS = BLOCKS_; /* on a processor at once */
    static constexpr int THREADS = TALL * WIDE * 32, STAGE = ROWS * PITCH + SLICE * COLUMNS;
    static constexpr int SIZE = (int)sizeof(float) * (ROWS * COLUMNS + STAGES * STAGE);
    using copies = copier<ROWS, COLUMNS, THREADS>;
};

/* sums += p, which becomes zero again; the thread's rows are 4 apart, its fours of columns 32. */
template <int R, int W>
__device__ __forceinline__ void add_chunk_to(float *sums, int pitch, float (&p)[R][W], int k)
{
    UNROLL(8)
    for (int i = 0; i < R; i++)
        UNROLL(2)
        for (int c = 0; c < W; c += 4) {
            float4 *const to = reinterpret_cast<float4 *>(sums + 4 * i * pitch + c / 4 * 32);
            float4 four = make_float4(p[i][c], p[i][c + 1], p[i][c + 2], p[i][c + 3]);
            if (k > 0) {
                const float4 sum = *to;
                four = make_float4(sum.x + four.x, sum.y + four.y, sum.z + four.z, sum.w + four.w);
            }
            *to = four;
            p[i][c] = p[i][c + 1] = p[i][c + 2] = p[i][c + 3] = 0;
        }
}

/* Grid: n_rows by ROWS, N by COLUMNS. Dynamic shared memory: sums, then stages. */
template <class T>
__global__ void __launch_bounds__(T::THREADS, T::BLOCKS)
    linear_tiles_kernel(const __grid_constant__ linear l)
{
    DYNAMIC_SHARED(float, sums); /* [ROWS][COLUMNS] */
    float *const stages = sums + T::ROWS * T::COLUMNS;
    const int t = (int)threadIdx.x, warp = t / 32, lane = t % 32;
    const int row = (int)blockIdx.x * T::ROWS, column = (int)blockIdx.y * T::COLUMNS;
    const int my_row = warp % T::TALL * 4 * T::R + lane / 8;
    const int my_column = warp / T::TALL * 32 * T::FOURS + lane % 8 * 4;
    const typename T::copies copies(l, row, column, t);
    const auto fetch_w = [&](int s) {
        copies.fetch_w(stages + s % T::STAGES * T::STAGE + T::ROWS * PITCH, T::COLUMNS, l,
                       s * SLICE);
    };
    const auto fetch_x = [&](int s) {
        copies.fetch_x(stages + s % T::STAGES * T::STAGE, PITCH, l, s * SLICE);
        COPY_COMMIT();
    };
    UNROLL(1)
    for (int s = 0; s < T::STAGES; s++)
        copies.clear(stages + s * T::STAGE, PITCH);
    UNROLL(4)
    for (int s = 0; s < T::STAGES - 1; s++)
        fetch_w(s);
    AWAIT_LAST();
    UNROLL(4)
    for (int s = 0; s < T::STAGES - 1; s++)
        fetch_x(s);
    float p[T::R][T::W] = {};
    UNROLL(1)
    for (int s = 0; s * SLICE < l.K; s++) {
        COPY_WAIT(T::STAGES - 2);
        __syncthreads(); /* slice s has come for all, and all are done with slice s - 1 */
        fetch_w(s + T::STAGES - 1);
        fetch_x(s + T::STAGES - 1);
        const float *x = stages + s % T::STAGES * T::STAGE + my_row * PITCH;
        const float *w = stages + s % T::STAGES * T::STAGE + T::ROWS * PITCH + my_column;
        multiply_slice(p, x, 4 * PITCH, w, T::COLUMNS, 32, l.K - s * SLICE);
        if ((s + 1) % SLICES == 0 || (s + 1) * SLICE >= l.K)
            add_chunk_to(sums + my_row * T::COLUMNS + my_column, T::COLUMNS, p, s / SLICES);
    }
    LET_NEXT_START();
    __syncthreads();
    UNROLL(2)
    for (int i = t; i < T::ROWS * T::COLUMNS; i += T::THREADS)
        put(l, row + i / T::COLUMNS, column + i % T::COLUMNS, sums[i]);
}

template <class T> static void linear_tiles(struct device *d, const struct linear &l)
{
    LAUNCH_EARLY(d, linear_tiles_kernel<T>,
                 dim3(blocks_for(l.n_rows, T::ROWS), blocks_for(l.N, T::COLUMNS)), T::THREADS,
                 (size_t)T::SIZE, l);
    CHECK_LAUNCH(d);
}

template <class T> static cudaError_t allow_tiles(const struct device *d)
{
    (void)d;
    return ALLOW_SHARED(linear_tiles_kernel<T>, T::SIZE);
}

/* All kernels, one of which computes a product: a block's tile, and the nanoseconds that it takes
 * for a chunk of k where it has a processor for itself, and that each further block of the same
 * processor adds, on an H100. */
static const struct kernel {
    int rows, columns, first, more;
    void (*launch)(struct device *d, const struct linear &l);
    cudaError_t (*allow)(const struct device *d);
} kernels[] = {
#define KERNEL(kind, first, more, ...)                                                            \
    {kind<__VA_ARGS__>::ROWS, kind<__VA_ARGS__>::COLUMNS, first, more,                            \
     linear_##kind<kind<__VA_ARGS__>>, allow_##kind<kind<__VA_ARGS__>>}
    KERNEL(few, 120, 120, 1, 1, 8),           /* 1 x 8 */
    KERNEL(few, 140, 200, 1, 1, 16),          /* 1 x 16 */
    KERNEL(few, 450, 1250, 1, 4, 32),         /* 1 x 128 */
    KERNEL(few, 150, 150, 4, 1, 8),           /* 4 x 8 */
    KERNEL(few, 160, 220, 4, 1, 16),          /* 4 x 16 */
    KERNEL(few, 700, 1150, 4, 4, 32),         /* 4 x 128 */
    KERNEL(few, 230, 200, 8, 1, 16),          /* 8 x 16 */
    KERNEL(few, 850, 1100, 8, 4, 32),         /* 8 x 128 */
    KERNEL(split, 330, 335, 2, 4, 8, 4),      /* 16 x 16 */
    KERNEL(split, 460, 440, 4, 4, 4, 3),      /* 16 x 32 */
    KERNEL(split, 720, 800, 8, 4, 4, 3),      /* 32 x 32 */
    KERNEL(tiles, 2650, 2200, 8, 1, 2, 2, 4, 4), /* 64 x 64 */
    KERNEL(tiles, 3000, 2650, 6, 2, 2, 2, 3, 3), /* 48 x 128 */
    KERNEL(tiles, 4000, 3500, 8, 2, 2, 2, 3, 3), /* 64 x 128 */
#undef KERNEL
};

cudaError_t cuda_linear_open(const struct device *d)
{
    cudaError_t error = cudaSuccess;
    for (const struct kernel &k : kernels)
        error = error == cudaSuccess ? k.allow(d) : error;
    return error;
}

/* Nanoseconds a chunk, of the processor with the most blocks. */
static int64_t cost_of(const struct kernel *k, const struct device *d, const struct linear &l)
{
    const int64_t blocks = (int64_t)blocks_for(l.n_rows, k->rows) * blocks_for(l.N, k->columns);
    return k->first + (int64_t)(blocks_for(blocks, d->processors) - 1) * k->more;
}

static const struct kernel *kernel_for(const struct device *d, const struct linear &l)
{
    const struct kernel *best = &kernels[0];
    for (const struct kernel &k : kernels)
        if (cost_of(&k, d, l) < cost_of(best, d, l))
            best = &k;
    return best;
}

void cuda_linear(struct device *d, float *out, const float *x, const struct weight *w,
                 const float *bias, int n_rows, enum epilogue epilogue, const float *residual)
{
    if (n_rows == 0)
        return;
    if (d->precision != PRECISION_exact) {
        cuda_linear_fast(d, out, x, w, bias, n_rows, epilogue, residual, NULL, w->N);
        return;
    }
    const struct linear l = {out, bias, residual, w->data, w->stride, w->K, w->N, n_rows, epilogue,
                             x, w->K % 4 == 0 && reinterpret_cast<uintptr_t>(x) % 16 == 0};
    kernel_for(d, l)->launch(d, l);
}

/* out (n_rows, 16 n_panels) = x (n_rows, K) @ the columns 16 panels[p] .. 16 panels[p] + 15 of w, a
 * thread an element; columns from N on are zero. */
__global__ void linear_panels_kernel(float *out, const float *x, const float *weights,
                                     const int32_t *panels, int stride, int K, int N, int n_panels,
                                     int n_rows)
{
    const int width = n_panels * LANES;
    const int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i >= (int64_t)n_rows * width)
        return;
    const int column = (int)(i % width), n = panels[column / LANES] * LANES + column % LANES;
    const float *row = x + i / width * K;
    float sum = 0;
    for (int k = 0; k < K && n < N; k += CHUNK) {
        float partial = 0;
        for (int j = k; j < k + CHUNK && j < K; j++)
            partial = fmaf(row[j], weights[(size_t)j * (size_t)stride + (size_t)n], partial);
        sum = add_chunk(sum, partial, k);
    }
    out[i] = sum;
}

void cuda_linear_panels(struct device *d, float *out, const float *x, const struct weight *w,
                        const int32_t *panels, int n_panels, int n_rows)
{
    if (n_rows == 0 || n_panels == 0)
        return;
    const void *staged = cuda_stage(d, panels, sizeof *panels * (size_t)n_panels);
    if (d->precision != PRECISION_exact) {
        cuda_linear_fast(d, out, x, w, NULL, n_rows, EPILOGUE_none, NULL,
                         static_cast<const int32_t *>(staged), n_panels * LANES);
        return;
    }
    LAUNCH(linear_panels_kernel, blocks_for((int64_t)n_rows * n_panels * LANES, BLOCK), BLOCK, 0,
           d->stream, out, x, w->data, static_cast<const int32_t *>(staged), w->stride, w->K, w->N,
           n_panels, n_rows);
    CHECK_LAUNCH(d);
}

/* matmul: a block makes PRODUCT_TILE x PRODUCT_TILE elements of one matrix of the batch, a thread
 * those of one column at every PRODUCT_STEP rows. Both sides are staged by chunks. */
constexpr int PRODUCT_TILE = 32, PRODUCT_STEP = BLOCK / PRODUCT_TILE;
constexpr int EACH = PRODUCT_TILE / PRODUCT_STEP;

struct product {
    struct walk batch; /* of out, x and y, without the matrices' dimensions */
    int M, K, N;
    unsigned row_tiles, column_tiles;
    int64_t out_row, out_column, x_row, x_k, y_k, y_column; /* strides */
};

__global__ void __launch_bounds__(BLOCK)
    product_kernel(float *out, const float *x, const float *y, const __grid_constant__ product p)
{
    SHARED(float, a, [PRODUCT_TILE][CHUNK + 1]);
    SHARED(float, b, [CHUNK][PRODUCT_TILE + 1]);
    const int t = (int)threadIdx.x, column = t % PRODUCT_TILE, row = t / PRODUCT_TILE;
    const unsigned tile = blockIdx.x / p.column_tiles;
    const int row_first = (int)(tile % p.row_tiles) * PRODUCT_TILE;
    const int column_first = (int)(blockIdx.x % p.column_tiles) * PRODUCT_TILE;
    int64_t at[3];
    walk_places(at, p.batch, tile / p.row_tiles);
    float sum[EACH] = {};
    for (int k = 0; k < p.K; k += CHUNK) {
        const int n_k = p.K - k < CHUNK ? p.K - k : CHUNK;
        for (int i = t; i < PRODUCT_TILE * CHUNK; i += BLOCK) {
            const int r = i / CHUNK, x_k = i % CHUNK, n = i % PRODUCT_TILE, y_k = i / PRODUCT_TILE;
            if (row_first + r < p.M && x_k < n_k)
                a[r][x_k] = x[at[1] + (row_first + r) * p.x_row + (k + x_k) * p.x_k];
            if (column_first + n < p.N && y_k < n_k)
                b[y_k][n] = y[at[2] + (k + y_k) * p.y_k + (column_first + n) * p.y_column];
        }
        __syncthreads();
        for (int e = 0; e < EACH; e++) {
            const int r = row + e * PRODUCT_STEP;
            float partial = 0;
            if (row_first + r < p.M && column_first + column < p.N)
                for (int i = 0; i < n_k; i++)
                    partial = fmaf(a[r][i], b[i][column], partial);
            sum[e] = add_chunk(sum[e], partial, k);
        }
        __syncthreads();
    }
    for (int e = 0; e < EACH; e++) {
        const int r = row_first + row + e * PRODUCT_STEP, n = column_first + column;
        if (r < p.M && n < p.N)
            out[at[0] + r * p.out_row + n * p.out_column] = sum[e];
    }
}

void cuda_matmul(struct device *d, const struct tensor *out, const struct tensor *x,
                 const struct tensor *y)
{
    const struct tensor *const all[] = {out, x, y};
    const struct view *ov = &out->view, *xv = &x->view, *yv = &y->view;
    const int last = ov->rank - 1;
    if (view_count(ov) == 0)
        return;
    struct product p = {};
    p.batch = walk_of(all, 3, last - 1);
    p.M = (int)ov->shape[last - 1];
    p.N = (int)ov->shape[last];
    p.K = (int)xv->shape[last];
    p.row_tiles = blocks_for(p.M, PRODUCT_TILE);
    p.column_tiles = blocks_for(p.N, PRODUCT_TILE);
    p.out_row = ov->stride[last - 1], p.out_column = ov->stride[last];
    p.x_row = xv->stride[last - 1], p.x_k = xv->stride[last];
    p.y_k = yv->stride[last - 1], p.y_column = yv->stride[last];
    LAUNCH(product_kernel, p.batch.count * p.row_tiles * p.column_tiles, BLOCK, 0, d->stream,
           cuda_data<float>(out), cuda_data<float>(x), cuda_data<float>(y), p);
    CHECK_LAUNCH(d);
}
