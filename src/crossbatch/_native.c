/* Pairs of references and anchors above a bound, and sums over such pairs: see _native.py.

   A pair is looked at in two steps. Products of codes, exact but for the rounding of the codes, tell
   which pairs may pass; the product of the rows in float32 decides. Rows are asked for some pairs
   before they are needed, so that one does not wait for memory. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define AHEAD 16  /* pairs whose rows are under way */
#define LANES 16
#define HASHES (1 << 18)

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

typedef struct {
    int64_t *row, *anchor;  /* the n pairs that pass */
    float *sim;
    int64_t n;
    float *G, *count;  /* or for each anchor the sum of their rows, and how many */
} found;

static uint32_t hash(int64_t value) { return (uint32_t)(value ^ value >> 18) % HASHES; }

static void fetch(const float *row, int64_t D)
{
    for (int64_t d = 0; d < D; d += 64 / sizeof(float)) __builtin_prefetch(row + d, 0, 2);
}

static float dot(const float *a, const float *b, int64_t D)
{
    lanes s = {0}, t = {0};
    int64_t d = 0;
    for (; d + 2 * LANES <= D; d += 2 * LANES) {
        s += *(const lanes *)(a + d) * *(const lanes *)(b + d);
        t += *(const lanes *)(a + d + LANES) * *(const lanes *)(b + d + LANES);
    }
    s += t;
    float sum = 0;
    for (int l = 0; l < LANES; l++) sum += s[l];
    for (; d < D; d++) sum += a[d] * b[d];
    return sum;
}

static void add(float *g, const float *r, float w, int64_t D)
{
    int64_t d = 0;
    for (; d + LANES <= D; d += LANES) *(lanes *)(g + d) += w * *(const lanes *)(r + d);
    for (; d < D; d++) g[d] += w * r[d];
}

/* Of n pairs that may pass those that do; there is room for all. */
static void decide(const int32_t *row, const int32_t *anchor, int64_t n, const float *rows,
                   const float *x, const float *bound, int64_t D, found *out)
{
    for (int64_t i = 0; i < n; i++) {
        if (i + AHEAD < n && row[i + AHEAD] != row[i + AHEAD - 1]) fetch(rows + row[i + AHEAD] * D, D);
        const float *r = rows + row[i] * D, sim = dot(r, x + anchor[i] * D, D);
        const int passes = sim > bound[anchor[i]];
        if (out->G) {
            if (!passes) continue;
            add(out->G + anchor[i] * D, r, 1, D);
            out->count[anchor[i]]++;
            continue;
        }
        out->row[out->n] = row[i];
        out->anchor[out->n] = anchor[i];
        out->sim[out->n] = sim;
        out->n += passes;
    }
}

/* Of listed pairs, ascending by row, those above the bound; how many. */
int64_t listed_above(const int64_t *row, const int64_t *anchor, int64_t n, const float *rows,
                     const float *x, const float *bound, int64_t D,
                     int64_t *out_row, int64_t *out_anchor, float *out_sim)
{
    enum { SOME = 1024 };
    int32_t r[SOME], a[SOME];
    found out = {out_row, out_anchor, out_sim, 0, NULL, NULL};
    for (int64_t start = 0; start < n; start += SOME) {
        const int64_t some = n - start < SOME ? n - start : SOME;
        for (int64_t i = 0; i < some; i++) {
            r[i] = (int32_t)row[start + i];
            a[i] = (int32_t)anchor[start + i];
        }
        decide(r, a, some, rows, x, bound, D, &out);
    }
    return out.n;
}

/* G_a += w r of n pairs; n. */
int64_t sum_rows(const int64_t *row, const int64_t *anchor, const float *weight, int64_t n,
              const float *rows, int64_t D, float *G)
{
    for (int64_t i = 0; i < n; i++) {
        if (i + AHEAD < n && row[i + AHEAD] != row[i + AHEAD - 1]) fetch(rows + row[i + AHEAD] * D, D);
        add(G + anchor[i] * D, rows + row[i] * D, weight[i], D);
    }
    return n;
}

/* Which labels or ids of n rows may occur among the few, all that do and few more; how many. */
int64_t occurring(const int64_t *labels, const int64_t *ids, int64_t n, const int64_t *few_labels,
                  const int64_t *few_ids, int64_t few, int64_t *place)
{
    uint32_t table[2][HASHES / 32] = {{0}};
    for (int64_t i = 0; i < few; i++) {
        const uint32_t a = hash(few_labels[i]), b = hash(few_ids[i]);
        table[0][a / 32] |= 1u << a % 32;
        table[1][b / 32] |= 1u << b % 32;
    }
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t a = hash(labels[i]), b = hash(ids[i]);
        place[count] = i;
        count += (table[0][a / 32] >> a % 32 | table[1][b / 32] >> b % 32) & 1;
    }
    return count;
}

#if defined(__AMX_BF16__) && defined(__AMX_INT8__) && defined(__AVX512BW__) && defined(__AVX512BF16__) && defined(__linux__)

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SIDE = 16, DEPTH = 32, BLOCK = 128, WAITING = 4096, PIECES = 3, ONE = 0x3F80, FINE = 254 };

/* Whether the system lends the matrix units to this process. */
int64_t has_matrix_units(void) { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

#define NEVER (-__builtin_inff())
#define TINY 1e-30f  /* above whatever matrix units flush to zero */

typedef struct {
    int32_t *row, *anchor;
    int64_t n;
} candidates;

/* An error that holds: squares of tiny rows vanish, and those of huge ones are infinite. */
static float bounded(float error, float norm, float slack)
{
    return norm >= 1e-15f && slack >= 1e-20f && error == error ? error + TINY : -NEVER;
}

static __m512i names_from(int64_t anchor)
{
    return _mm512_add_epi32(_mm512_set1_epi32((int)anchor),
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}

static void append(candidates *may, __mmask16 which, __m512i names, int64_t row)
{
    _mm512_storeu_si512(may->anchor + may->n, _mm512_maskz_compress_epi32(which, names));
    _mm512_storeu_si512(may->row + may->n, _mm512_set1_epi32((int)row));
    may->n += __builtin_popcount(which);
}

/* Of 16 × 16 pairs those that may reach the bound: first + second / FINE, scaled, and the error. */
static void compare(const int32_t *first, const int32_t *second, const float *scale, const float *error,
                    const float *bound, int64_t row, int64_t anchor, candidates *may)
{
    const __m512i name = names_from(anchor);
    const __m512 limit = _mm512_loadu_ps(bound + anchor), fine = _mm512_set1_ps(1.0f / FINE);
    for (int r = 0; r < SIDE; r++) {
        const __m512 high = _mm512_cvtepi32_ps(_mm512_load_si512(first + r * SIDE));
        const __m512 low = _mm512_cvtepi32_ps(_mm512_load_si512(second + r * SIDE));
        const __m512 sim = _mm512_mul_ps(_mm512_fmadd_ps(low, fine, high), _mm512_set1_ps(scale[r]));
        const __mmask16 passing = _mm512_cmp_ps_mask(_mm512_add_ps(sim, _mm512_set1_ps(error[r])), limit, _CMP_GT_OQ);
        if (passing) append(may, passing, name, row + r);
    }
}

static void start_units(void)
{
    struct { uint8_t palette, pad[15]; uint16_t width[16]; uint8_t height[16]; } shape = {.palette = 1};
    for (int i = 0; i < 8; i++) { shape.width[i] = 64; shape.height[i] = SIDE; }
    __asm__ volatile("" ::: "memory"); /* shape is written */
    _tile_loadconfig(&shape);
}

/* 32 rows by 32 anchors, added to four tiles of 16 × 16. */
static void multiply(const uint16_t *codes, const uint16_t *packed, int64_t D)
{
    const uint16_t *right = packed + SIDE * D;
    for (int64_t d = 0; d < D; d += DEPTH) {
        _tile_loadd(4, codes + d, 2 * D);
        _tile_loadd(5, codes + SIDE * D + d, 2 * D);
        _tile_loadd(6, packed + d * SIDE, 64);
        _tile_loadd(7, right + d * SIDE, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

static void clear(void) { _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3); }

static void store(void *product)
{
    uint32_t *tile = product;
    _tile_stored(0, tile, 64);
    _tile_stored(1, tile + SIDE * SIDE, 64);
    _tile_stored(2, tile + 2 * SIDE * SIDE, 64);
    _tile_stored(3, tile + 3 * SIDE * SIDE, 64);
}

/* 32 rows beside 16 anchors, who have two digits each: the pairs that may pass. */
static void screen(const int8_t *codes, const float *scale, const float *error, const int8_t *packed,
                   const float *bound, int64_t B, int64_t D, int64_t row, int64_t anchor, candidates *may)
{
    int32_t product[4][SIDE * SIDE] __attribute__((aligned(64)));
    const int8_t *first = packed + anchor * D, *second = packed + (B + anchor) * D;
    __asm__ volatile("" ::: "memory");
    clear();
    for (int64_t d = 0; d < D; d += 2 * DEPTH) {
        _tile_loadd(4, codes + d, D);
        _tile_loadd(5, codes + SIDE * D + d, D);
        _tile_loadd(6, first + d * SIDE, 64);
        _tile_loadd(7, second + d * SIDE, 64);
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    }
    store(product);
    compare(product[0], product[1], scale, error, bound, row, anchor, may);
    compare(product[2], product[3], scale + SIDE, error + SIDE, bound, row + SIDE, anchor, may);
}

/* Of T rows beside B anchors those pairs above the bound; how many, or −1 without memory. Stops
   early, after *done rows, where room might not do; see room_needed. Hidden rows, ascending, are left
   out. Anchors are a multiple of 32, those at the end with an infinite bound, D is one of 64. A row is
   its code times its scale; an anchor is (first + second / FINE) times the scale of all, and packed
   are all first digits, then all second ones. Similarities exceed what codes say by reach · residual +
   slack · norm at most. With G and count pairs are not listed: G_a += r, and they are counted. */
int64_t coded_above(const int8_t *codes, const float *scales, const float *residual, const float *norm,
                    float scale, float reach, float slack, int64_t T, const int64_t *hidden, int64_t hidden_rows,
                    const float *rows, const int8_t *packed, const float *x, const float *bound,
                    int64_t B, int64_t D, int64_t *out_row, int64_t *out_anchor, float *out_sim,
                    int64_t room, int64_t *done, float *G, float *count)
{
    found out = {out_row, out_anchor, out_sim, 0, G, count};
    const int64_t most = BLOCK * B + WAITING + SIDE;
    int32_t *names = malloc(2 * most * sizeof(int32_t));
    int8_t *last = calloc(2 * SIDE * D, 1);
    *done = 0;
    if (!names || !last) { free(names); free(last); return -1; }
    candidates may = {names, names + most, 0};
    start_units();
    for (int64_t start = 0; start < T; start += BLOCK) {
        const int64_t here = start + BLOCK < T ? BLOCK : T - start;
        float error[BLOCK], both[BLOCK];
        for (int64_t r = 0; r < BLOCK; r++) {
            both[r] = r < here ? scale * scales[start + r] : 0;
            error[r] = r < here ? bounded(reach * residual[start + r] + slack * norm[start + r], norm[start + r], slack) : NEVER;
        }
        for (; hidden_rows && *hidden < start + here; hidden++, hidden_rows--) error[*hidden - start] = NEVER;
        const int64_t rest = here % (2 * SIDE), whole = here - rest;
        if (rest) memcpy(last, codes + (start + whole) * D, rest * D);
        for (int64_t anchor = 0; anchor < B; anchor += SIDE) {
            for (int64_t r = 0; r < whole; r += 2 * SIDE) {
                const int8_t *code = codes + (start + r) * D;
                if (!anchor) /* codes are read once: ask for those to come */
                    for (int64_t d = 0; d < 2 * SIDE * D; d += 64) __builtin_prefetch(code + BLOCK * D + d, 0, 2);
                screen(code, both + r, error + r, packed, bound, B, D, start + r, anchor, &may);
            }
            if (rest) screen(last, both + whole, error + whole, packed, bound, B, D, start + whole, anchor, &may);
        }
        if (may.n < WAITING && start + here < T) continue;
        if (!G && out.n + may.n > room) break;
        decide(may.row, may.anchor, may.n, rows, x, bound, D, &out);
        may.n = 0;
        *done = start + here;
    }
    _tile_release();
    free(names);
    free(last);
    return out.n;
}

/* 32 rows beside 16 anchors: pairs that may pass and may not are candidates, what surely passes is
   marked by ones of bfloat16, a row for each anchor. */
static void mark(const float *product, const float *error, const float *bound, int64_t row, int64_t anchor,
                 uint16_t *ones, float *count, candidates *may)
{
    const __m512i name = names_from(anchor);
    const __m512 limit = _mm512_loadu_ps(bound + anchor);
    __m512i passing = _mm512_setzero_si512();
    for (int r = 0; r < 2 * SIDE; r++) {
        const __m512 s = _mm512_load_ps(product + r / SIDE * 2 * SIDE * SIDE + r % SIDE * SIDE), e = _mm512_set1_ps(error[r]);
        const __mmask16 may_be = _mm512_cmp_ps_mask(_mm512_add_ps(s, e), limit, _CMP_GT_OQ);
        const __mmask16 surely = _mm512_mask_cmp_ps_mask(may_be, _mm512_sub_ps(s, e), limit, _CMP_GT_OQ);
        passing = _mm512_mask_or_epi32(passing, surely, passing, _mm512_set1_epi32((int)(1u << r)));
        const __mmask16 unsure = may_be & ~surely;
        if (unsure) append(may, unsure, name, row + r);
    }
    uint32_t bits[SIDE];
    _mm512_storeu_si512(bits, passing);
    for (int a = 0; a < SIDE; a++) {
        _mm512_storeu_si512(ones + a * DEPTH, _mm512_maskz_set1_epi16(bits[a], ONE));
        count[anchor + a] += __builtin_popcount(bits[a]);
    }
}

/* Sixteen numbers in bfloat16, and so what that leaves. */
static void halve(__m512 x, uint16_t *code, uint16_t *rest)
{
    const __m256i high = (__m256i)_mm512_cvtneps_pbh(x);
    const __m512 back = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
    _mm256_storeu_si256((__m256i *)code, high);
    _mm256_storeu_si256((__m256i *)rest, (__m256i)_mm512_cvtneps_pbh(_mm512_sub_ps(x, back)));
}

/* Two rows in bfloat16 and their rest, and what matrix units take of their sum: three numbers of
   bfloat16 that add up to each number, cut off, those of both rows beside each other. */
static void cut(const float *a, const float *b, int64_t D, uint16_t *codes, uint16_t *rest, uint16_t *pieces)
{
    const __m512i top = _mm512_set1_epi32((int)0xFFFF0000);
    for (int64_t d = 0; d < D; d += SIDE) {
        __m512 x = _mm512_loadu_ps(a + d), y = _mm512_loadu_ps(b + d);
        halve(x, codes + d, rest + d);
        halve(y, codes + D + d, rest + D + d);
        uint16_t *piece = pieces + d / SIDE * PIECES * SIDE * DEPTH;
        for (int n = 0; n < PIECES; n++, piece += SIDE * DEPTH) {
            const __m512i u = _mm512_and_si512(_mm512_castps_si512(x), top);
            const __m512i v = _mm512_and_si512(_mm512_castps_si512(y), top);
            _mm512_storeu_si512(piece, _mm512_or_si512(_mm512_srli_epi32(u, 16), v));
            x = _mm512_sub_ps(x, _mm512_castsi512_ps(u));
            y = _mm512_sub_ps(y, _mm512_castsi512_ps(v));
        }
    }
}

/* G += ones · pieces over a block of rows; G and what is in it a multiple of 32 by 32. */
static void gather(const uint16_t *ones, const uint16_t *pieces, int64_t rows, int64_t B, int64_t D, float *G)
{
    const int64_t steps = rows / DEPTH, tile = SIDE * DEPTH;
    __asm__ volatile("" ::: "memory");
    for (int64_t d = 0; d < D; d += 2 * SIDE)
        for (int64_t a = 0; a < B; a += 2 * SIDE) {
            float *g = G + a * D + d;
            _tile_loadd(0, g, 4 * D);
            _tile_loadd(1, g + SIDE, 4 * D);
            _tile_loadd(2, g + SIDE * D, 4 * D);
            _tile_loadd(3, g + SIDE * D + SIDE, 4 * D);
            for (int64_t k = 0; k < steps; k++) {
                const uint16_t *left = ones + (k * B + a) * DEPTH;
                const uint16_t *right = pieces + (k * D + d) / SIDE * PIECES * tile;
                _tile_loadd(4, left, 64);
                _tile_loadd(5, left + tile, 64);
                for (int n = 0; n < PIECES; n++, right += tile) {
                    _tile_loadd(6, right, 64);
                    _tile_loadd(7, right + PIECES * tile, 64);
                    _tile_dpbf16ps(0, 4, 6);
                    _tile_dpbf16ps(1, 4, 7);
                    _tile_dpbf16ps(2, 5, 6);
                    _tile_dpbf16ps(3, 5, 7);
                }
            }
            _tile_stored(0, g, 4 * D);
            _tile_stored(1, g + SIDE, 4 * D);
            _tile_stored(2, g + SIDE * D, 4 * D);
            _tile_stored(3, g + SIDE * D + SIDE, 4 * D);
        }
}

/* The sums of coded_above where many pairs pass: all rows are read, and matrix units add them, too.
   Anchors and what rounding them to bfloat16 left are packed one after the other: with two numbers of
   bfloat16 for each number of both sides products err so little, slack · norm at most, that hardly a
   pair is unsure. G and count have B rows. 0, or −1
   without memory. */
int64_t many_above(const float *norm, float slack, int64_t T,
                   const int64_t *hidden, int64_t hidden_rows, const float *rows, const uint16_t *packed,
                   const float *x, const float *bound, int64_t B, int64_t D, float *G, float *count)
{
    const int64_t block = D < 512 ? 256 : 128, most = block * B + SIDE;
    int32_t *names = malloc(2 * most * sizeof(int32_t));
    uint16_t *codes = malloc(2 * block * D * sizeof(uint16_t)), *pieces = malloc(PIECES * block * D * sizeof(uint16_t));
    uint16_t *ones = malloc(block * B * sizeof(uint16_t));
    float *none = calloc(D, sizeof(float));
    const int64_t result = names && codes && pieces && ones && none ? 0 : -1;
    candidates may = {names, names + most, 0};
    found out = {NULL, NULL, NULL, 0, G, count};
    if (!result) start_units();
    for (int64_t start = 0; !result && start < T; start += block) {
        const int64_t here = start + block < T ? block : T - start, whole = (here + DEPTH - 1) / DEPTH * DEPTH;
        float error[256];
        for (int64_t r = 0; r < whole; r++)
            error[r] = r < here ? bounded(slack * norm[start + r], norm[start + r], slack) : NEVER;
        for (; hidden_rows && *hidden < start + here; hidden++, hidden_rows--) error[*hidden - start] = NEVER;
        for (int64_t r = 0; r < whole; r += 2)
            cut(r < here ? rows + (start + r) * D : none, r + 1 < here ? rows + (start + r + 1) * D : none, D,
                codes + r * D, codes + (block + r) * D, pieces + r / DEPTH * D * PIECES * DEPTH + r % DEPTH / 2 * DEPTH);
        for (int64_t a = 0; a < B; a += 2 * SIDE)
            for (int64_t r = 0; r < whole; r += DEPTH) {
                float product[4 * SIDE * SIDE] __attribute__((aligned(64)));
                __asm__ volatile("" ::: "memory"); /* and so are codes */
                clear();
                multiply(codes + r * D, packed + a * D, D);
                multiply(codes + r * D, packed + (B + a) * D, D);
                multiply(codes + (block + r) * D, packed + a * D, D);
                store(product);
                for (int side = 0; side < 2; side++)
                    mark(product + side * SIDE * SIDE, error + r, bound, start + r, a + side * SIDE,
                         ones + (r / DEPTH * B + a + side * SIDE) * DEPTH, count, &may);
            }
        decide(may.row, may.anchor, may.n, rows, x, bound, D, &out);
        may.n = 0;
        gather(ones, pieces, whole, B, D, G);
    }
    if (!result) _tile_release();
    free(names); free(codes); free(pieces); free(ones); free(none);
    return result;
}

/* Squared distances of points, each pair once. Points are numbers of float32, D to a row, and s their
   squared norms. Columns are cut into two numbers of bfloat16 and packed once, rows as they come: the
   products miss what two of eight bits leave of either, beside float32. The small ones come first, so
   that hardly more is rounded than the large ones round. */
typedef struct {
    const float *x, *s;
    int64_t D, W, first, last; /* W: D up to a multiple of 32; columns first to last */
    uint16_t *rows, *columns, *line; /* 2 · 32 rows, columns as units take them, and two lines to cut */
} triangle;

static void cut_point(const triangle *t, int64_t at, uint16_t *code, uint16_t *rest)
{
    for (int64_t d = 0; d < t->W; d += SIDE) {
        const int64_t left = t->D - d;
        const __mmask16 there = left >= SIDE ? 0xFFFF : left > 0 ? (1u << left) - 1 : 0;
        halve(at < t->last ? _mm512_maskz_loadu_ps(there, t->x + at * t->D + d) : _mm512_setzero_ps(), code + d, rest + d);
    }
}

/* Room for what is cut, and the columns; 0 without memory. */
static int cut_columns(triangle *t)
{
    const int64_t W = t->W, groups = (t->last - t->first + 2 * SIDE - 1) / (2 * SIDE);
    t->rows = malloc(4 * SIDE * W * sizeof(uint16_t));
    t->line = malloc(2 * W * sizeof(uint16_t));
    t->columns = malloc(groups * 4 * SIDE * W * sizeof(uint16_t));
    if (!t->rows || !t->line || !t->columns) return 0;
    for (int64_t c = 0; c < groups * 2 * SIDE; c++) {
        cut_point(t, t->first + c, t->line, t->line + W);
        for (int digit = 0; digit < 2; digit++) { /* of 32 columns first digits, then second ones */
            uint32_t *to = (uint32_t *)(t->columns + (c / (2 * SIDE) * 4 + digit * 2 + c / SIDE % 2) * SIDE * W) + c % SIDE;
            const uint32_t *from = (const uint32_t *)(t->line + digit * W);
            for (int64_t d = 0; d < W / 2; d++) to[d * SIDE] = from[d];
        }
    }
    return 1;
}

static void cut_rows(const triangle *t, int64_t row)
{
    for (int64_t r = 0; r < 2 * SIDE; r++)
        cut_point(t, row + r, t->rows + r * t->W, t->rows + (2 * SIDE + r) * t->W);
}

/* Of 32 rows and 32 columns what makes a distance of a product: the squares, 16 columns after the others;
   infinite where the column is not after the row, or there is none. */
static void squares(const triangle *t, int64_t row, int64_t column, float *out)
{
    const uint16_t *c = t->columns + (column - t->first) * 2 * t->W, *rest = t->rows + 2 * SIDE * t->W;
    float product[4 * SIDE * SIDE] __attribute__((aligned(64)));
    __asm__ volatile("" ::: "memory");
    clear();
    multiply(rest, c, t->W);
    multiply(t->rows, c + 2 * SIDE * t->W, t->W);
    multiply(t->rows, c, t->W);
    store(product);
    for (int side = 0; side < 2; side++) {
        const int64_t at = column + side * SIDE, there = t->last - at;
        const __mmask16 real = there >= SIDE ? 0xFFFF : there > 0 ? (1u << there) - 1 : 0;
        const __m512 s = _mm512_maskz_loadu_ps(real, t->s + at), none = _mm512_set1_ps(-NEVER);
        for (int r = 0; r < 2 * SIDE; r++) {
            const int64_t before = row + r + 1 - at; /* columns that are not after the row */
            const __mmask16 after = before <= 0 ? real : before >= SIDE ? 0 : real & (0xFFFFu << before);
            const __m512 p = _mm512_load_ps(product + (r / SIDE * 2 + side) * SIDE * SIDE + r % SIDE * SIDE);
            const float own = row + r < t->last ? t->s[row + r] : 0;
            const __m512 a = _mm512_fnmadd_ps(_mm512_set1_ps(2), p, _mm512_add_ps(_mm512_set1_ps(own), s));
            _mm512_store_ps(out + (side * 2 * SIDE + r) * SIDE, _mm512_mask_blend_ps(after, none, a));
        }
    }
}

static int64_t keep(__mmask16 which, __m512 a, int64_t row, int64_t column, int32_t *i, int32_t *j, float *kept)
{
    _mm512_mask_compressstoreu_epi32(i, which, _mm512_set1_epi32((int)row));
    _mm512_mask_compressstoreu_epi32(j, which, names_from(column));
    _mm512_mask_compressstoreu_ps(kept, which, a);
    return __builtin_popcount(which);
}

/* Sixteen columns and 32 rows: pairs below lo are counted for both, those up to hi are kept. */
static int64_t count_between(const float *a, float lo, float hi, int64_t row, int64_t column, int32_t *below,
                             int32_t *columns, int32_t *i, int32_t *j, float *kept)
{
    int64_t n = 0;
    __m512i counted = _mm512_loadu_si512(columns);
    for (int r = 0; r < 2 * SIDE; r++) {
        const __m512 square = _mm512_load_ps(a + r * SIDE);
        const __mmask16 lower = _mm512_cmp_ps_mask(square, _mm512_set1_ps(lo), _CMP_LT_OQ);
        const __mmask16 inside = _mm512_cmp_ps_mask(square, _mm512_set1_ps(hi), _CMP_LE_OQ) & ~lower;
        counted = _mm512_mask_add_epi32(counted, lower, counted, _mm512_set1_epi32(1));
        below[r] += __builtin_popcount(lower);
        if (inside) n += keep(inside, square, row + r, column, i + n, j + n, kept + n);
    }
    _mm512_storeu_si512(columns, counted);
    return n;
}

/* Sixteen columns and 32 rows: pairs no farther than the nearest of the column so far, and more, are kept. */
static int64_t keep_nearest(const float *a, float more, int64_t row, int64_t column, float *nearest,
                            int32_t *i, int32_t *j, float *kept)
{
    int64_t n = 0;
    __m512 least = _mm512_loadu_ps(nearest);
    for (int r = 0; r < 2 * SIDE; r++) least = _mm512_min_ps(least, _mm512_load_ps(a + r * SIDE));
    _mm512_storeu_ps(nearest, least);
    const __m512 limit = _mm512_add_ps(least, _mm512_set1_ps(more));
    const __mmask16 met = _mm512_cmp_ps_mask(least, _mm512_set1_ps(-NEVER), _CMP_LT_OQ);
    for (int r = 0; r < 2 * SIDE; r++) {
        const __m512 square = _mm512_load_ps(a + r * SIDE);
        const __mmask16 near = _mm512_mask_cmp_ps_mask(met, square, limit, _CMP_LE_OQ);
        if (near) n += keep(near, square, row + r, column, i + n, j + n, kept + n);
    }
    return n;
}

/* Of the columns first to last, a multiple of 32, and the rows before each: with below (last and 32
   more numbers) how many pairs are below lo, and those from lo to hi; without it those that are within
   hi of the nearest that came before the column. How many are kept, −1 where room (with 1,024 more)
   might not do, −2 without memory. */
int64_t pairs_of_columns(const float *x, const float *s, int64_t D, int64_t first, int64_t last, float lo, float hi,
                         int32_t *below, int32_t *i, int32_t *j, float *kept, int64_t room)
{
    triangle t = {x, s, D, (D + DEPTH - 1) / DEPTH * DEPTH, first, last, NULL, NULL, NULL};
    const int64_t columns = (last - first + 2 * SIDE - 1) / (2 * SIDE) * 2 * SIDE;
    int32_t *counted = calloc(columns, sizeof(int32_t));
    float *nearest = malloc(columns * sizeof(float));
    int64_t n = counted && nearest && cut_columns(&t) ? 0 : -2;
    if (!n) start_units();
    for (int64_t c = 0; !n && c < columns; c++) nearest[c] = -NEVER;
    for (int64_t row = 0; n >= 0 && row < last; row += 2 * SIDE) {
        cut_rows(&t, row);
        for (int64_t c = row < first ? 0 : (row - first) / (2 * SIDE) * 2 * SIDE; n >= 0 && c < columns; c += 2 * SIDE) {
            float a[4 * SIDE * SIDE] __attribute__((aligned(64)));
            squares(&t, row, first + c, a);
            for (int64_t at = c, side = 0; side < 2; side++, at += SIDE) {
                const float *part = a + side * 2 * SIDE * SIDE;
                if (below)
                    n += count_between(part, lo, hi, row, first + at, below + row, counted + at, i + n, j + n, kept + n);
                else
                    n += keep_nearest(part, hi, row, first + at, nearest + at, i + n, j + n, kept + n);
            }
            if (n > room) n = -1;
        }
    }
    if (n != -2) _tile_release();
    for (int64_t c = 0; below && n >= 0 && c < last - first; c++) below[first + c] += counted[c];
    free(t.rows); free(t.line); free(t.columns); free(counted); free(nearest);
    return n;
}

/* Room in which coded_above gets on. */
int64_t room_needed(int64_t B) { return BLOCK * B + WAITING; }

#else

int64_t has_matrix_units(void) { return 0; }

#endif
