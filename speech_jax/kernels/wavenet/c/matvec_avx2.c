/* Matrix-vector products with AVX2 and FMA. A group of 16 lanes is two registers; eight registers of sums are live. */

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <immintrin.h>

#define TARGET __attribute__((target("avx2,fma")))
#define NAME(f) avx2_##f
#define OWN_GATE
#define OWN_TO_INT8
#include "elementwise.h"

/* sum += x, written as assembly because gcc copies every sum of the intrinsic to another register or to the stack. */
#define ADD(sum, x) __asm__("vpaddd %1, %0, %0" : "+x"(sum) : "x"(x))
#define MULTIPLY(sum, value, weights) __asm__("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(value), "m"(weights))

#define PART static inline __attribute__((always_inline)) TARGET

PART __m256 eight_exp(__m256 x, float scale_log2e) {
  __m256 scale = _mm256_set1_ps(scale_log2e), round = _mm256_set1_ps(ROUND);
  __m256 shifted = _mm256_fmadd_ps(x, scale, round);
  __m256 r = _mm256_fmsub_ps(x, scale, _mm256_sub_ps(shifted, round));
  __m256 p = _mm256_set1_ps(POWER5);
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(POWER4));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(POWER3));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(POWER2));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(POWER1));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(POWER0));
  __m256i power = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), power));
}

/* elementwise.h's, which gcc makes half as fast. */
TARGET static float avx2_gate(const float *a, float *z, int n) {
  const __m256 one = _mm256_set1_ps(1.0f), sign = _mm256_set1_ps(-0.0f);
  __m256 largest = _mm256_setzero_ps();
  for (int i = 0; i < n; i += 8) {
    __m256 left = _mm256_min_ps(_mm256_loadu_ps(a + i), _mm256_set1_ps(15.0f));
    __m256 right = _mm256_min_ps(_mm256_loadu_ps(a + n + i), _mm256_set1_ps(40.0f));
    __m256 e = eight_exp(_mm256_max_ps(left, _mm256_set1_ps(-15.0f)), -2.0f * LOG2E);
    __m256 f = eight_exp(_mm256_max_ps(right, _mm256_set1_ps(-40.0f)), -LOG2E);
    __m256 below = _mm256_mul_ps(_mm256_add_ps(one, e), _mm256_add_ps(one, f));
    __m256 value = _mm256_div_ps(_mm256_sub_ps(one, e), below);
    _mm256_storeu_ps(z + i, value);
    largest = _mm256_max_ps(largest, _mm256_andnot_ps(sign, value));
  }
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(largest), _mm256_extractf128_ps(largest, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_shuffle_ps(four, four, 1)));
}

/* elementwise.h's. */
TARGET static float avx2_to_int8(const float *x, float largest, int8_t *q, int n) {
  int usable = largest > 1e-30f && largest < 1e30f;
  const __m256 inverse = _mm256_set1_ps(usable ? 127.0f / largest : 0.0f);
  for (int i = 0; i < n; i += 16) {
    __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), inverse));
    __m256i high = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8), inverse));
    __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xD8);
    __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128((__m128i *)(q + i), bytes);
  }
  return usable ? largest / 127.0f : 0.0f;
}

/* Asks for weights that are read soon. Hardware does so too, but not across pages. */
#define AHEAD 2048
PART void fetch_ahead(const float *w, int count) {
#pragma GCC unroll 4
  for (int i = 0; i < count; i += 2) __builtin_prefetch((const char *)w + AHEAD + 32 * i);
}

/* `count` registers of 8 lanes of one block, for `streams` streams. `w` points to the part's first lane, a row of the block
   is `row` elements of 32 bits. Constants after inlining, so that the loops unroll and the sums stay in registers. */

PART void part_float32(int count, int streams, const float *w, int row, int rows, const Input *x, float *acc,
                       size_t stride) {
  __m256 sums[8];
#pragma GCC unroll 8
  for (int i = 0; i < streams * count; i++) sums[i] = _mm256_loadu_ps(acc + (i / count) * stride + (i % count) * 8);
  const float *in = x->data;
  size_t step = x->stride / sizeof(float);
  for (int k = 0; k < rows; k++, w += row) {
    fetch_ahead(w, count);
#pragma GCC unroll 4
    for (int s = 0; s < streams; s++) {
      __m256 value = _mm256_broadcast_ss(in + s * step + k);
#pragma GCC unroll 8
      for (int i = 0; i < count; i++)
        MULTIPLY(sums[s * count + i], value, *(const __m256 *)(w + 8 * i));
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < streams * count; i++) _mm256_storeu_ps(acc + (i / count) * stride + (i % count) * 8, sums[i]);
}

PART void part_bfloat16(int count, int streams, const float *w, int row, int rows, const Input *x, float *acc,
                        size_t stride) {
  __m256 sums[8];
  const __m256i upper = _mm256_set1_epi32((int)0xFFFF0000u);
#pragma GCC unroll 8
  for (int i = 0; i < streams * count; i++) sums[i] = _mm256_loadu_ps(acc + (i / count) * stride + (i % count) * 8);
  const char *in = x->data;
  for (int k = 0; k < rows; k += 2, w += row, in += 4) {
    fetch_ahead(w, count);
#pragma GCC unroll 4
    for (int s = 0; s < streams; s++) {
      int32_t two;
      memcpy(&two, in + s * x->stride, 4);
      __m256i pair = _mm256_set1_epi32(two);
      __m256 even = _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16));
      __m256 odd = _mm256_castsi256_ps(_mm256_and_si256(pair, upper));
#pragma GCC unroll 8
      for (int i = 0; i < count; i++) {
        __m256i pairs = _mm256_loadu_si256((const __m256i *)(w + 8 * i));
        __m256 *sum = &sums[s * count + i];
        *sum = _mm256_fmadd_ps(even, _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)), *sum);
        *sum = _mm256_fmadd_ps(odd, _mm256_castsi256_ps(_mm256_and_si256(pairs, upper)), *sum);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < streams * count; i++) _mm256_storeu_ps(acc + (i / count) * stride + (i % count) * 8, sums[i]);
}

/* The sum of four products in each lane: of sizes (unsigned) with values that take over the signs. A sum of two is at most
   2 * 128 * 127, so the 16-bit step never saturates. */
PART __m256i four_products(__m256i sizes, __m256i values, __m256i signs) {
  return _mm256_madd_epi16(_mm256_maddubs_epi16(sizes, _mm256_sign_epi8(values, signs)), _mm256_set1_epi16(1));
}

/* Sums of `count` registers for vectors of bytes at `places`: |x| times w with the sign of x. That takes an |x| for each
   vector; where there are more of them than registers, |w| times x with the sign of w, if no x is -128 (`symmetric`). */
PART void part_bytes(int count, int vectors, int symmetric, const float *w, int row, int rows, const char *in,
                     const size_t *places, __m256i *sums) {
  const int weigh = symmetric && vectors > count;
#pragma GCC unroll 8
  for (int i = 0; i < vectors * count; i++) sums[i] = _mm256_setzero_si256();
  for (int k = 0; k < rows; k += 4, w += row, in += 4) {
    __m256i weights[8], sizes[8];
    fetch_ahead(w, count);
#pragma GCC unroll 8
    for (int i = 0; i < count; i++) {
      weights[i] = _mm256_loadu_si256((const __m256i *)(w + 8 * i));
      sizes[i] = _mm256_abs_epi8(weights[i]);
    }
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++) {
      int32_t four;
      memcpy(&four, in + places[v], 4);
      __m256i x = _mm256_set1_epi32(four), size = _mm256_abs_epi8(x);
#pragma GCC unroll 8
      for (int i = 0; i < count; i++)
        ADD(sums[v * count + i], weigh ? four_products(sizes[i], x, weights[i]) : four_products(size, weights[i], x));
    }
  }
}

PART void part_int8(int count, int streams, const float *w, int row, int rows, const float *scales, const Input *x,
                    float *acc, size_t stride) {
  __m256i sums[8];
  const size_t places[4] = {0, x->stride, 2 * x->stride, 3 * x->stride};
  part_bytes(count, streams, 1, w, row, rows, x->data, places, sums);
#pragma GCC unroll 8
  for (int i = 0; i < streams * count; i++) {
    float *out = acc + (i / count) * stride + (i % count) * 8;
    __m256 scale = _mm256_mul_ps(_mm256_loadu_ps(scales + (i % count) * 8), _mm256_set1_ps(x->scale[i / count]));
    _mm256_storeu_ps(out, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[i]), scale, _mm256_loadu_ps(out)));
  }
}

/* The same with 16-bit inputs; `plane` bytes lie between a number's high and its low byte. */
PART void part_fine(int count, int streams, const float *w, int row, int rows, const float *scales, int plane,
                    const Input *x, float *acc, size_t stride) {
  __m256i sums[8];
  size_t places[8];
  for (int v = 0; v < 2 * streams; v++) places[v] = v / 2 * x->stride + v % 2 * plane;
  part_bytes(count, 2 * streams, 0, w, row, rows, x->data, places, sums);
#pragma GCC unroll 4
  for (int i = 0; i < streams * count; i++) {
    int s = i / count, high = s * count + i;
    float *out = acc + s * stride + (i % count) * 8;
    __m256 scale = _mm256_mul_ps(_mm256_loadu_ps(scales + (i % count) * 8), _mm256_set1_ps(x->scale[s]));
    __m256 sum = _mm256_cvtepi32_ps(sums[high + count]);
    sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[high]), _mm256_set1_ps(256.0f), sum);
    _mm256_storeu_ps(out, _mm256_fmadd_ps(sum, scale, _mm256_loadu_ps(out)));
  }
}

/* A block in parts of as many registers as leave eight sums for all streams: for one stream a block of four groups, fine of
   two, is one part. `groups` is 16, 8, 4, 2 or 1. */
#define EVERY(call, count, n) \
  for (int at = 0; at < 2 * groups; at += (count)) call(count, n, at)

#define PARTS(call)                                                                                   \
  if (streams == 1) {                                                                                 \
    if (groups >= 4) EVERY(call, 8, 1); else if (groups == 2) call(4, 1, 0); else call(2, 1, 0);      \
  } else if (streams == 2) {                                                                          \
    if (groups >= 2) EVERY(call, 4, 2); else call(2, 2, 0);                                           \
  } else {                                                                                            \
    EVERY(call, 2, 4);                                                                                \
  }

#define FINE_PARTS(call)                                                  \
  if (streams == 1) {                                                     \
    if (groups >= 2) EVERY(call, 4, 1); else call(2, 1, 0);               \
  } else if (streams == 2) {                                              \
    EVERY(call, 2, 2);                                                    \
  } else {                                                                \
    EVERY(call, 1, 4);                                                    \
  }

#define FLOAT32_PART(count, n, at) part_float32(count, n, w + 8 * (at), row, m->rows, x, out + 8 * (at), stride)
#define BFLOAT16_PART(count, n, at) part_bfloat16(count, n, w + 8 * (at), row, m->rows, x, out + 8 * (at), stride)
#define INT8_PART(count, n, at)                                                                               \
  part_int8(count, n, w + 8 * (at), row, m->rows, w + (size_t)row * ((m->rows + 3) / 4) + 8 * (at), x, out + 8 * (at), \
            stride)

#define FINE_PART(count, n, at)                                                                               \
  part_fine(count, n, w + 8 * (at), row, m->rows, w + (size_t)row * ((m->rows + 3) / 4) + 8 * (at), padded(m->rows), x, \
            out + 8 * (at), stride)

#define MATVEC(name, PARTS, PART_CALL, rows_a_lane, scales)                                        \
  TARGET static void name(const Matrix *m, int streams, const Input *x, float *acc, size_t stride) {     \
    const float *w = m->weights;                                                                         \
    for (int g = 0, groups; g < m->groups; g += groups) {                                                \
      groups = block_groups(m->groups - g, m->block);                                                        \
      int row = groups * LANES;                                                                          \
      float *out = acc + (size_t)g * LANES;                                                              \
      PARTS(PART_CALL)                                                                                   \
      w += (size_t)row * ((m->rows + (rows_a_lane)-1) / (rows_a_lane) + (scales));                       \
    }                                                                                                    \
  }

MATVEC(matvec_float32, PARTS, FLOAT32_PART, 1, 0)
MATVEC(matvec_bfloat16, PARTS, BFLOAT16_PART, 2, 0)
MATVEC(matvec_int8, PARTS, INT8_PART, 4, 1)
MATVEC(matvec_fine, FINE_PARTS, FINE_PART, 4, 1)

const Kernels avx2_kernels = {.matvec = {matvec_float32, matvec_bfloat16, matvec_int8, matvec_fine}, ELEMENTWISE};

#endif
