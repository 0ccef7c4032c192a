/* Attention of neighbours of one sequence, as in a prompt: 8 R of them share each page. Both
 * products are of a page's 64 keys by 64 elements, which come to shared memory while those before
 * them are multiplied: elements 64 p .. of the keys by the queries, then those of the values by the
 * weights. Each of two teams has every second page; the first team sums the products with values,
 * its own and the other's, in the order of the pages. A team's four warps make 4 R rows by 32
 * columns each, a thread R by 4. */
#include "attention.h"

constexpr int TEAMS = 2, TEAM = 128, ATTEND = TEAMS * TEAM;
constexpr int TALL = 4, WIDE = 8, QUERY_W = 4; /* lanes above each other and side by side */
constexpr int COLUMN_BITS = 1 | 4 | 8; /* of a lane's number */
constexpr int PAGE_PITCH = CHUNK + 4, PAGE = CHUNK * PAGE_PITCH;
static_assert(TALL * WIDE == 32 && 2 * WIDE * QUERY_W == CHUNK, "two warps are as wide as a page");

/* DH: elements of a head, known to the compiler, and rows of q lie at 16 bytes; or 0. */
template <int R_, int DH_> struct attend_shape {
    static constexpr int R = R_, DH = DH_;
    static constexpr int COUNT = 2 * TALL * R, ROUNDS = COUNT / (ATTEND / LANES);
    static constexpr bool IS_FEW = R == 2;
};

/* What is copied next: keys by pairs of pages and their parts of 64 elements, then values by parts
 * and their pairs of pages. */
struct pair {
    bool is_value;
    int number, part;
};

struct run {
    int head, n_rows, position; /* of its first row */
    int dh, pitch, n_keys; /* the last row's */
    int n_pages, pairs, parts;
    int32_t *pages; /* shared */
    float *blocks; /* [2][TEAMS][CHUNK][PAGE_PITCH] */
    float *q;      /* [COUNT][q_pitch] */
    float *scores; /* [COUNT][score_pitch] */
    float *most;   /* [2 TEAMS][COUNT]: of a row's scores, the two warps of a team one by one */
    float4 *others; /* [2][R][TEAM]: products of the second team, where q was */
    int q_pitch, score_pitch;
    const float *from; /* what this thread copies of page 0, and to where of a block */
    size_t page_size;
    int to;
    struct pair ahead;
    int n_fetched;
};

__device__ __forceinline__ int own_team(void)
{
    return (int)threadIdx.x / TEAM;
}

/* Lanes whose numbers differ in bit 0 alone have the same rows, those that differ in bit 1 alone
 * the same columns: so shared memory answers half a warp's loads of 16 bytes at once. */
__device__ __forceinline__ int lane_row(void)
{
    const int lane = (int)threadIdx.x % 32;
    return lane / 2 % 2 + lane / 16 * 2;
}

__device__ __forceinline__ int lane_column(void)
{
    const int lane = (int)threadIdx.x % 32;
    return lane % 2 + lane / 4 % 4 * 2;
}

template <class S> __device__ __forceinline__ int warp_row(void)
{
    return (int)threadIdx.x / 64 % 2 * TALL * S::R;
}

__device__ __forceinline__ int warp_column(void)
{
    return (int)threadIdx.x / 32 % 2 * HALF;
}

template <class S> __device__ __forceinline__ int query_of(int i)
{
    return warp_row<S>() + lane_row() + TALL * i;
}

/* The keys that a query sees. */
__device__ __forceinline__ int keys_of(const struct run &r, int query)
{
    return r.position + query + 1;
}

/* Begins to copy each team's page of the next step, as far as somebody sees it, by halves. */
template <class S> __device__ __forceinline__ void fetch_pages(struct run &r)
{
    struct pair &s = r.ahead;
    const int page = TEAMS * s.number + own_team(), n = r.n_keys - page * CHUNK;
    const int element = s.part * CHUNK + (int)threadIdx.x % LANES * 4;
    if (s.part < r.parts && n > 0 && (S::DH == CHUNK || element < r.pitch)) {
        const float *from = r.from + (size_t)r.pages[page] * r.page_size + s.part * CHUNK
                            + (s.is_value ? CHUNK * r.pitch : 0);
        float *to = r.blocks + r.n_fetched % 2 * TEAMS * PAGE + r.to;
        constexpr int STEP = TEAM / LANES;
        UNROLL(4)
        for (int i = 0; i < HALF; i += STEP)
            COPY_ASYNC(to + i * PAGE_PITCH, from + i * r.pitch, 4 * sizeof *to);
        UNROLL(4)
        for (int i = HALF; i < CHUNK && n > HALF; i += STEP)
            COPY_ASYNC(to + i * PAGE_PITCH, from + i * r.pitch, 4 * sizeof *to);
    }
    COPY_COMMIT();
    r.n_fetched++;
    if (s.is_value)
        s = s.number + 1 < r.pairs ? pair{true, s.number + 1, s.part} : pair{true, 0, s.part + 1};
    else if (s.part + 1 < r.parts)
        s.part++;
    else
        s = s.number + 1 < r.pairs ? pair{false, s.number + 1, 0} : pair{true, 0, 0};
}

/* The team's page of the step, which all of it may read now; the next one is on its way. */
template <class S> __device__ __forceinline__ const float *next_page(struct run &r)
{
    COPY_WAIT(0);
    __syncthreads(); /* it has come for all, and all are done with the one before it */
    fetch_pages<S>(r);
    return r.blocks + (r.n_fetched % 2 * TEAMS + own_team()) * PAGE;
}

/* p (R, QUERY_W) += R rows of x by QUERY_W rows of y, n_k elements of each. */
template <int R>
__device__ __forceinline__ void multiply_both(float (&p)[R][QUERY_W], const float *x, int X,
                                              const float *y, int Y, int n_k)
{
    const int fours = n_k / 4 * 4;
    UNROLL(8)
    for (int k = 0; k < fours; k += 4) {
        float a[R][4], b[QUERY_W][4];
        UNROLL(4)
        for (int i = 0; i < R; i++)
            load_columns(a[i], x + i * X + k);
        UNROLL(4)
        for (int c = 0; c < QUERY_W; c++)
            load_columns(b[c], y + c * Y + k);
        UNROLL(4)
        for (int j = 0; j < 4; j++)
            UNROLL(4)
            for (int i = 0; i < R; i++)
                UNROLL(4)
                for (int c = 0; c < QUERY_W; c++)
                    p[i][c] = fmaf(a[i][j], b[c][j], p[i][c]);
    }
    UNROLL(1)
    for (int k = fours; k < n_k; k++)
        UNROLL(4)
        for (int i = 0; i < R; i++)
            UNROLL(4)
            for (int c = 0; c < QUERY_W; c++)
                p[i][c] = fmaf(x[i * X + k], y[c * Y + k], p[i][c]);
}

/* A sum's chunks are added to -0, which changes none, unlike +0. */
template <int R> __device__ __forceinline__ void begin_sum(float (&sum)[R][QUERY_W])
{
    UNROLL(4)
    for (int i = 0; i < R; i++)
        UNROLL(4)
        for (int c = 0; c < QUERY_W; c++)
            sum[i][c] = -0.0f;
}

/* scores = sum / sqrt(dh) of the keys from `key` on, WIDE apart; `most` goes along, of those that a
 * query sees. */
template <class S>
__device__ __forceinline__ void put_scores(float (&most)[S::R], const struct run &r,
                                           float (&sum)[S::R][QUERY_W], int key, float factor)
{
    const bool is_whole = key - lane_column() + HALF <= keys_of(r, warp_row<S>());
    float *to = r.scores + query_of<S>(0) * r.score_pitch + key;
    UNROLL(4)
    for (int i = 0; i < S::R; i++)
        UNROLL(4)
        for (int c = 0; c < QUERY_W; c++) {
            sum[i][c] *= factor;
            to[TALL * i * r.score_pitch + WIDE * c] = sum[i][c];
        }
    UNROLL(4)
    for (int i = 0; i < S::R; i++)
        UNROLL(4)
        for (int c = 0; c < QUERY_W; c++)
            if (is_whole)
                most[i] = fmaxf(most[i], sum[i][c]);
            else if (key + WIDE * c < keys_of(r, query_of<S>(i)))
                most[i] = fmaxf(most[i], sum[i][c]);
}

/* scores = q @ keys / sqrt(dh), but for keys that none of a warp's queries sees, and the most of
 * each query's. */
template <class S> __device__ __forceinline__ void score_pages(struct run &r)
{
    const float factor = 1.0f / sqrtf((float)r.dh);
    const int column = warp_column() + lane_column();
    const int n_rows = r.n_rows - warp_row<S>() < TALL * S::R ? r.n_rows - warp_row<S>()
                                                              : TALL * S::R;
    const int n_seen = n_rows > 0 ? keys_of(r, warp_row<S>() + n_rows - 1) : 0;
    const float *q = r.q + query_of<S>(0) * r.q_pitch;
    float most[S::R];
    UNROLL(4)
    for (int i = 0; i < S::R; i++)
        most[i] = -INFINITY;
    UNROLL(1)
    for (int number = 0; number < r.pairs; number++) {
        const int first = (TEAMS * number + own_team()) * CHUNK + warp_column();
        float sum[S::R][QUERY_W];
        begin_sum(sum);
        for (int k = 0; k < r.dh; k += CHUNK) {
            const float *keys = next_page<S>(r) + column * PAGE_PITCH;
            const int n = r.dh - k < CHUNK ? r.dh - k : CHUNK;
            float p[S::R][QUERY_W] = {};
            if (first < n_seen)
                multiply_both(p, q + k, TALL * r.q_pitch, keys, WIDE * PAGE_PITCH, n);
            UNROLL(4)
            for (int i = 0; i < S::R; i++)
                UNROLL(4)
                for (int c = 0; c < QUERY_W; c++)
                    sum[i][c] += p[i][c];
        }
        if (first < n_seen)
            put_scores<S>(most, r, sum, first + lane_column(), factor);
    }
    UNROLL(4)
    for (int i = 0; i < S::R; i++) {
        most[i] = lanes_most(most[i], COLUMN_BITS);
        if (lane_column() == 0)
            r.most[(own_team() * 2 + (int)threadIdx.x / 32 % 2) * S::COUNT + query_of<S>(i)]
                = most[i];
    }
    __syncthreads();
}

/* The rows of half a warp, in a softmax. What stands behind a row's last key is computed as far as
 * another row of the warp goes, and not read. */
template <int ROUNDS> struct soft {
    float *row[ROUNDS], sum[ROUNDS];
    int n_keys[ROUNDS], n_most;
};

/* scores become exp(score - most), and `sum` their sums. Four of each row at a time: loads do not
 * pass stores. */
template <class S> __device__ __forceinline__ void exp_rows(struct soft<S::ROUNDS> &s,
                                                            const float (&most)[S::ROUNDS])
{
    constexpr int ROUNDS = S::ROUNDS, AT_ONCE = 4;
    UNROLL(1)
    for (int key = (int)threadIdx.x % LANES; key < s.n_most; key += LANES * AT_ONCE) {
        float x[AT_ONCE][ROUNDS];
        UNROLL(4)
        for (int j = 0; j < AT_ONCE; j++)
            UNROLL(2)
            for (int i = 0; i < ROUNDS; i++)
                x[j][i] = key + j * LANES < s.n_most ? s.row[i][key + j * LANES] : most[i];
        UNROLL(4)
        for (int j = 0; j < AT_ONCE; j++)
            UNROLL(2)
            for (int i = 0; i < ROUNDS; i++)
                x[j][i] = scalar_exp_falling(x[j][i] - most[i]);
        UNROLL(4)
        for (int j = 0; j < AT_ONCE; j++)
            UNROLL(2)
            for (int i = 0; i < ROUNDS; i++) {
                if (key + j * LANES < s.n_most)
                    s.row[i][key + j * LANES] = x[j][i];
                s.sum[i] += key + j * LANES < s.n_keys[i] ? x[j][i] : 0.0f;
            }
    }
    UNROLL(2)
    for (int i = 0; i < ROUNDS; i++)
        s.sum[i] = lane_zero(lanes_sum(s.sum[i]));
}

/* They become weights, four by four. */
template <class S> __device__ __forceinline__ void divide_rows(const struct soft<S::ROUNDS> &s)
{
    constexpr int ROUNDS = S::ROUNDS;
    float inverse[ROUNDS];
    UNROLL(2)
    for (int i = 0; i < ROUNDS; i++)
        inverse[i] = 1.0f / s.sum[i];
    UNROLL(2)
    for (int key = (int)threadIdx.x % LANES * 4; key < s.n_most; key += LANES * 4) {
        float x[ROUNDS][4], least = INFINITY;
        UNROLL(2)
        for (int i = 0; i < ROUNDS; i++) {
            load_columns(x[i], s.row[i] + key);
            least = fminf(least, fminf(fminf(x[i][0], x[i][1]), fminf(x[i][2], x[i][3])));
        }
        UNROLL(8)
        for (int j = 0; j < ROUNDS * 4; j++) {
            float &it = x[j / 4][j % 4];
            it = least >= WEIGHT_LEAST ? scalar_weight(it, s.sum[j / 4], inverse[j / 4]) : it;
        }
        if (!(least >= WEIGHT_LEAST))
            UNROLL(8)
            for (int j = 0; j < ROUNDS * 4; j++)
                x[j / 4][j % 4] = x[j / 4][j % 4] / s.sum[j / 4];
        UNROLL(2)
        for (int i = 0; i < ROUNDS; i++)
            *reinterpret_cast<float4 *>(s.row[i] + key)
                = make_float4(x[i][0], x[i][1], x[i][2], x[i][3]);
    }
}

/* Scores become weights, a row by half a warp; the halves' rows are two apart, in other banks. */
template <class S> __device__ __forceinline__ void softmax_rows(const struct run &r)
{
    struct soft<S::ROUNDS> s = {};
    float most[S::ROUNDS];
    UNROLL(2)
    for (int i = 0; i < S::ROUNDS; i++) {
        const int round = (int)threadIdx.x / 32 * S::ROUNDS + i;
        const int query = round / 2 * 4 + round % 2 + (int)threadIdx.x / LANES % 2 * 2;
        s.n_keys[i] = query < r.n_rows ? keys_of(r, query) : 0;
        s.n_most = s.n_keys[i] > s.n_most ? s.n_keys[i] : s.n_most;
        s.row[i] = r.scores + query * r.score_pitch;
        most[i] = r.most[query];
        UNROLL(4)
        for (int w = 1; w < 2 * TEAMS; w++)
            most[i] = fmaxf(most[i], r.most[w * S::COUNT + query]);
    }
    exp_rows<S>(s, most);
    __syncwarp(ALL_LANES);
    divide_rows<S>(s);
}

/* p += weights @ values of a page, each row by the keys that it sees. */
template <class S>
__device__ __forceinline__ void multiply_seen(float (&p)[S::R][QUERY_W], const struct run &r,
                                              const float *weights, const float *values, int page)
{
    int n[S::R], n_most = 0;
    UNROLL(4)
    for (int i = 0; i < S::R; i++) {
        const int query = query_of<S>(i);
        n[i] = query < r.n_rows ? keys_within(keys_of(r, query), page * CHUNK, CHUNK) : 0;
        n_most = n[i] > n_most ? n[i] : n_most;
    }
    UNROLL(1)
    for (int k = 0; k < n_most; k += 4) {
        float a[S::R][4];
        UNROLL(4)
        for (int i = 0; i < S::R; i++)
            load_columns(a[i], weights + TALL * i * r.score_pitch + k);
        UNROLL(4)
        for (int j = 0; j < 4; j++) {
            float b[QUERY_W];
            load_columns(b, values + (k + j) * PAGE_PITCH);
            UNROLL(4)
            for (int i = 0; i < S::R; i++)
                UNROLL(4)
                for (int c = 0; c < QUERY_W; c++)
                    p[i][c] = k + j < n[i] ? fmaf(a[i][j], b[c], p[i][c]) : p[i][c];
        }
    }
}

template <class S>
__device__ __forceinline__ void multiply_page(float (&p)[S::R][QUERY_W], const struct run &r,
                                              const float *values, int page)
{
    const float *weights = r.scores + query_of<S>(0) * r.score_pitch + page * CHUNK;
    if (keys_of(r, warp_row<S>()) >= (page + 1) * CHUNK && warp_row<S>() < r.n_rows)
        multiply_fours(p, weights, TALL * r.score_pitch, values, PAGE_PITCH, CHUNK);
    else
        multiply_seen<S>(p, r, weights, values, page);
}

/* sum += a page's product, of the rows that see so many pages. */
template <int R>
__device__ __forceinline__ void add_page(float (&sum)[R][QUERY_W], const float (&p)[R][QUERY_W],
                                         const int (&n_seen)[R], int page)
{
    UNROLL(4)
    for (int i = 0; i < R; i++)
        UNROLL(4)
        for (int c = 0; c < QUERY_W; c++)
            sum[i][c] = page < n_seen[i] ? sum[i][c] + p[i][c] : sum[i][c];
}

/* The second team's product with the second page of a pair goes to the first. */
template <int R>
__device__ __forceinline__ void give_page(const struct run &r, const float (&p)[R][QUERY_W],
                                          int number)
{
    float4 *to = r.others + number % 2 * R * TEAM + (int)threadIdx.x % TEAM;
    UNROLL(4)
    for (int i = 0; i < R; i++)
        to[i * TEAM] = make_float4(p[i][0], p[i][1], p[i][2], p[i][3]);
}

template <int R>
__device__ __forceinline__ void take_page(float (&sum)[R][QUERY_W], const struct run &r,
                                          const int (&n_seen)[R], int number)
{
    const float4 *from = r.others + number % 2 * R * TEAM + (int)threadIdx.x % TEAM;
    float p[R][QUERY_W];
    UNROLL(4)
    for (int i = 0; i < R; i++)
        load_columns(p[i], reinterpret_cast<const float *>(from + i * TEAM));
    add_page(sum, p, n_seen, TEAMS * number + 1);
}

/* z[row] of the run's rows, `z` from its first one's head on. */
template <class S> __device__ __forceinline__ void weigh_pages(float *z, int width, struct run &r)
{
    const int column = warp_column() + QUERY_W * lane_column();
    const bool is_first = own_team() == 0;
    int n_seen[S::R];
    UNROLL(4)
    for (int i = 0; i < S::R; i++) {
        const int query = query_of<S>(i);
        n_seen[i] = query < r.n_rows ? (keys_of(r, query) + CHUNK - 1) / CHUNK : 0;
    }
    for (int first = column; first - column < r.dh; first += CHUNK) {
        const bool is_there = first < r.dh;
        float sum[S::R][QUERY_W];
        begin_sum(sum);
        UNROLL(1)
        for (int number = 0; number < r.pairs; number++) {
            const float *values = next_page<S>(r) + column;
            if (is_first && number > 0)
                take_page(sum, r, n_seen, number - 1);
            const int page = TEAMS * number + own_team();
            float p[S::R][QUERY_W] = {};
            if (is_there && page < r.n_pages)
                multiply_page<S>(p, r, values, page);
            if (is_first)
                add_page(sum, p, n_seen, page);
            else
                give_page(r, p, number);
        }
        __syncthreads();
        if (!is_first)
            continue;
        take_page(sum, r, n_seen, r.pairs - 1);
        UNROLL(4)
        for (int i = 0; i < S::R; i++)
            UNROLL(4)
            for (int c = 0; c < QUERY_W; c++)
                if (query_of<S>(i) < r.n_rows && first + c < r.dh)
                    z[query_of<S>(i) * width + first + c] = sum[i][c];
    }
}

/* Shared memory: blocks; q, and then in its place the second team's products; scores; the most of
 * each row's; pages. */
template <class S> static int beside_scores(int dh)
{
    const int q = S::COUNT * (whole_fours(dh) + 4), others = 2 * S::R * TEAM * QUERY_W;
    return q > others ? q : others;
}

template <class S> static size_t rows_shared(int dh, int context)
{
    return sizeof(float) * (size_t)(2 * TEAMS * PAGE + beside_scores<S>(dh)
                                    + S::COUNT * (context + 8 + 2 * TEAMS) + context / CHUNK);
}

/* Copies the run's pages, then q and the first of them. `qkv` is its first row's head. */
template <class S>
__device__ __forceinline__ void begin_run(struct run &r, const float *qkv, int width,
                                          const int32_t *pages)
{
    const int t = (int)threadIdx.x;
    r.n_keys = keys_of(r, r.n_rows - 1);
    r.n_pages = (r.n_keys + CHUNK - 1) / CHUNK;
    r.pairs = (r.n_pages + TEAMS - 1) / TEAMS;
    r.ahead = {false, 0, 0};
    r.n_fetched = 0;
    for (int i = t; i < r.n_pages; i += ATTEND)
        r.pages[i] = pages[i];
    __syncthreads(); /* all are done with the run before, too */
    constexpr int SIZE = S::DH ? 4 : 1; /* floats at once */
    for (int i = t / LANES; i < S::COUNT; i += ATTEND / LANES) {
        const int query = i < r.n_rows ? i : r.n_rows - 1;
        const float *q = qkv + (size_t)query * 3 * (size_t)width;
        for (int e = t % LANES * SIZE; e < r.dh; e += LANES * SIZE)
            COPY_ASYNC(r.q + i * r.q_pitch + e, q + e, SIZE * sizeof *q);
    }
    fetch_pages<S>(r);
}

template <class S>
__device__ __forceinline__ struct run run_of(const struct pages &c, float *shared, int context,
                                             int beside)
{
    const int t = (int)threadIdx.x, copied = t % TEAM;
    struct run r = {};
    r.dh = S::DH ? S::DH : c.dh, r.pitch = S::DH ? S::DH : c.pitch;
    r.head = (int)blockIdx.x, r.parts = (r.dh + CHUNK - 1) / CHUNK;
    r.page_size = (size_t)c.H * 2 * CHUNK * (size_t)r.pitch;
    r.from = c.data + (size_t)r.head * 2 * CHUNK * (size_t)r.pitch
             + copied / LANES * r.pitch + copied % LANES * 4;
    r.to = t / TEAM * PAGE + copied / LANES * PAGE_PITCH + copied % LANES * 4;
    r.q_pitch = r.pitch + 4, r.score_pitch = context + 8;
    r.blocks = shared;
    r.q = shared + 2 * TEAMS * PAGE;
    r.others = reinterpret_cast<float4 *>(r.q);
    r.scores = r.q + beside;
    r.most = r.scores + S::COUNT * r.score_pitch;
    r.pages = reinterpret_cast<int32_t *>(r.most + 2 * TEAMS * S::COUNT);
    return r;
}

/* z (rows, H dh). Grid: heads, and the table's rows by queries, the last first, since a prompt's
 * have the most keys; run by run. A lane knows a row of the block's. Pitches are such that
 * neighbouring rows lie in different banks. */
template <class S>
__global__ void __launch_bounds__(ATTEND, 1)
    attend_rows_kernel(float *z, const __grid_constant__ pages c, const float *qkv,
                       const struct row *rows, const int32_t *pages, int n_rows, int context,
                       int beside)
{
    static_assert(S::COUNT <= 32, "a lane a row");
    DYNAMIC_SHARED(float, shared);
    if (S::IS_FEW)
        LET_NEXT_START(); /* else blocks fill all processors: the next kernel's would crowd */
    AWAIT_LAST();
    const int lane = (int)threadIdx.x % 32, width = c.H * c.dh;
    const int first = (int)(gridDim.y - 1 - blockIdx.y) * S::COUNT;
    const int count = n_rows - first < S::COUNT ? n_rows - first : S::COUNT;
    const struct row own = rows[lane < count ? first + lane : first];
    struct run r = run_of<S>(c, shared, context, beside);
    for (int from = 0; from < count; from += r.n_rows) {
        const int32_t pages_at = __shfl_sync(ALL_LANES, own.pages_at, from, 32);
        const size_t row = (size_t)__shfl_sync(ALL_LANES, own.row, from, 32);
        r.position = __shfl_sync(ALL_LANES, own.position, from, 32);
        r.n_rows = __popc(__ballot_sync(ALL_LANES, lane < count && own.pages_at == pages_at));
        if (r.n_rows == 1 && is_alone(rows, first + from, n_rows))
            continue;
        const size_t at = row * (size_t)width, element = (size_t)(r.head * r.dh);
        begin_run<S>(r, qkv + 3 * at + element, width, pages + pages_at);
        score_pages<S>(r);
        softmax_rows<S>(r);
        weigh_pages<S>(z + at + element, width, r);
    }
    COPY_WAIT(0);
}

template <class S>
static void attend_rows(struct device *d, float *z, const struct pages &c, const float *qkv,
                        const struct staged &s)
{
    const int context = (s.n_keys + CHUNK - 1) / CHUNK * CHUNK;
    const dim3 grid((unsigned)c.H, blocks_for(s.n_rows, S::COUNT));
    LAUNCH_EARLY(d, attend_rows_kernel<S>, grid, ATTEND, rows_shared<S>(c.dh, context), z, c, qkv,
                 s.rows, s.pages, s.n_rows, context, beside_scores<S>(c.dh));
    CHECK_LAUNCH(d);
}

using few_queries = attend_shape<2, 0>;
using few_queries_of_64 = attend_shape<2, 64>;
using many_queries_of_64 = attend_shape<4, 64>; /* GPT-2's heads */

template <class S> static bool has_room(const struct device *d, const struct pages &c, int n_keys)
{
    return rows_shared<S>(c.dh, (n_keys + CHUNK - 1) / CHUNK * CHUNK) <= (size_t)d->shared_max;
}

/* Many queries share a page where they find room, enough processors have some, and sequences are
 * so long. */
bool cuda_attend_rows(struct device *d, float *z, const struct pages &c, const float *qkv,
                      const struct staged &s, int rows_most)
{
    const bool is_64 = c.dh == 64 && reinterpret_cast<uintptr_t>(qkv) % 16 == 0;
    const int64_t n_blocks = (int64_t)blocks_for(s.n_rows, many_queries_of_64::COUNT) * c.H;
    if (!has_room<few_queries>(d, c, s.n_keys))
        return false;
    if (!is_64)
        attend_rows<few_queries>(d, z, c, qkv, s);
    else if (rows_most > few_queries::COUNT && n_blocks >= d->processors
             && has_room<many_queries_of_64>(d, c, s.n_keys))
        attend_rows<many_queries_of_64>(d, z, c, qkv, s);
    else
        attend_rows<few_queries_of_64>(d, z, c, qkv, s);
    return true;
}

cudaError_t cuda_attend_rows_open(const struct device *d)
{
    cudaError_t error = ALLOW_SHARED(attend_rows_kernel<few_queries>, d->shared_max);
    if (error == cudaSuccess)
        error = ALLOW_SHARED(attend_rows_kernel<few_queries_of_64>, d->shared_max);
    if (error == cudaSuccess)
        error = ALLOW_SHARED(attend_rows_kernel<many_queries_of_64>, d->shared_max);
    return error;
}
