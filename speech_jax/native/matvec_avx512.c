/* Matrix-vector products with AVX-512. A group of 16 lanes is one register; a block of 8 groups is 8 sums for one stream,
   parts of 4 groups are 16 sums for four. The bfloat16 and int8 products need instructions of their own (BF16, VNNI); a
   machine without them takes AVX2's, see wavenet.c. */

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <immintrin.h>

#define TARGET __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")))
#define NAME(f) avx512_##f
#include "elementwise.h"

#define PART static inline __attribute__((always_inline))
#define BF16_TARGET __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")))
#define VNNI_TARGET __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))

/* `count` groups of one block, for `streams` streams. `w` points to the part's first lane, a row of the block is `row`
   elements of 32 bits. Constants after inlining, so that the loops unroll and the sums stay in registers. */

PART TARGET void part_float32(int count, int streams, const float *w, int row, int rows, const Input *x, float *acc,
                              size_t stride) {
  __m512 sums[16];
#pragma GCC unroll 16
  for (int i = 0; i < streams * count; i++) sums[i] = _mm512_loadu_ps(acc + (i / count) * stride + (i % count) * LANES);
  const float *in = x->data;
  size_t step = x->stride / sizeof(float);
  for (int k = 0; k < rows; k++, w += row) {
    __m512 weights[8];
#pragma GCC unroll 8
    for (int i = 0; i < count; i++) weights[i] = _mm512_loadu_ps(w + LANES * i);
#pragma GCC unroll 4
    for (int s = 0; s < streams; s++) {
      __m512 value = _mm512_set1_ps(in[s * step + k]);
#pragma GCC unroll 8
      for (int i = 0; i < count; i++) sums[s * count + i] = _mm512_fmadd_ps(value, weights[i], sums[s * count + i]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < streams * count; i++) _mm512_storeu_ps(acc + (i / count) * stride + (i % count) * LANES, sums[i]);
}

PART BF16_TARGET void part_bfloat16(int count, int streams, const float *w, int row, int rows, const Input *x,
                                    float *acc, size_t stride) {
  __m512 sums[16];
#pragma GCC unroll 16
  for (int i = 0; i < streams * count; i++) sums[i] = _mm512_loadu_ps(acc + (i / count) * stride + (i % count) * LANES);
  const char *in = x->data;
  for (int k = 0; k < rows; k += 2, w += row, in += 4) {
    __m512i weights[8];
#pragma GCC unroll 8
    for (int i = 0; i < count; i++) weights[i] = _mm512_loadu_si512(w + LANES * i);
#pragma GCC unroll 4
    for (int s = 0; s < streams; s++) {
      int32_t two;
      memcpy(&two, in + s * x->stride, 4);
      __m512i value = _mm512_set1_epi32(two);
#pragma GCC unroll 8
      for (int i = 0; i < count; i++)
        sums[s * count + i] = _mm512_dpbf16_ps(sums[s * count + i], (__m512bh)value, (__m512bh)weights[i]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < streams * count; i++) _mm512_storeu_ps(acc + (i / count) * stride + (i % count) * LANES, sums[i]);
}

PART VNNI_TARGET void part_int8(int count, int streams, const float *w, int row, int rows, const float *header,
                                const Input *x, float *acc, size_t stride) {
  __m512i sums[16];
#pragma GCC unroll 16
  for (int i = 0; i < streams * count; i++) sums[i] = _mm512_loadu_si512(header + (i % count) * LANES);
  const char *in = x->data;
  for (int k = 0; k < rows; k += 4, w += row, in += 4) {
    __m512i weights[8];
#pragma GCC unroll 8
    for (int i = 0; i < count; i++) weights[i] = _mm512_loadu_si512(w + LANES * i);
#pragma GCC unroll 4
    for (int s = 0; s < streams; s++) {
      int32_t four;
      memcpy(&four, in + s * x->stride, 4);
      __m512i value = _mm512_set1_epi32(four);
#pragma GCC unroll 8
      for (int i = 0; i < count; i++)
        sums[s * count + i] = _mm512_dpbusd_epi32(sums[s * count + i], value, weights[i]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < streams * count; i++) {
    float *out = acc + (i / count) * stride + (i % count) * LANES;
    __m512 scale =
        _mm512_mul_ps(_mm512_loadu_ps(header + row + (i % count) * LANES), _mm512_set1_ps(x->scale[i / count]));
    _mm512_storeu_ps(out, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[i]), scale, _mm512_loadu_ps(out)));
  }
}

/* A block in parts; `groups` is 8, 4, 2 or 1. */
#define STREAMS(call, n)                \
  switch (groups) {                     \
    case 8: call(4, n, 0); call(4, n, 4); break; \
    case 4: call(4, n, 0); break;       \
    case 2: call(2, n, 0); break;       \
    default: call(1, n, 0);             \
  }

#define ONE_STREAM(call)                \
  switch (groups) {                     \
    case 8: call(8, 1, 0); break;       \
    case 4: call(4, 1, 0); break;       \
    case 2: call(2, 1, 0); break;       \
    default: call(1, 1, 0);             \
  }

#define FLOAT32_PART(count, n, at) part_float32(count, n, w + LANES * (at), row, m->rows, x, out + LANES * (at), stride)
#define BFLOAT16_PART(count, n, at) part_bfloat16(count, n, w + LANES * (at), row, m->rows, x, out + LANES * (at), stride)
#define INT8_PART(count, n, at) \
  part_int8(count, n, w + 2 * row + LANES * (at), row, m->rows, w + LANES * (at), x, out + LANES * (at), stride)

#define MATVEC(name, ATTRIBUTE, PART_CALL, rows_a_lane, header)                                                  \
  ATTRIBUTE static void name(const Matrix *m, int streams, const Input *x, float *acc, size_t stride) {          \
    const float *w = m->weights;                                                                                 \
    for (int g = 0, groups; g < m->groups; g += groups) {                                                        \
      groups = block_groups(m->groups - g);                                                                      \
      int row = groups * LANES;                                                                                  \
      float *out = acc + (size_t)g * LANES;                                                                      \
      if (streams == 1) {                                                                                        \
        ONE_STREAM(PART_CALL)                                                                                    \
      } else if (streams == 2) {                                                                                 \
        STREAMS(PART_CALL, 2)                                                                                    \
      } else {                                                                                                   \
        STREAMS(PART_CALL, 4)                                                                                    \
      }                                                                                                          \
      w += (size_t)row * ((m->rows + (rows_a_lane)-1) / (rows_a_lane) + (header));                               \
    }                                                                                                            \
  }

MATVEC(matvec_float32, TARGET, FLOAT32_PART, 1, 0)
MATVEC(matvec_bfloat16, BF16_TARGET, BFLOAT16_PART, 2, 0)
MATVEC(matvec_int8, VNNI_TARGET, INT8_PART, 4, 2)

const Kernels avx512_kernels = {.matvec = {matvec_float32, matvec_bfloat16, matvec_int8}, ELEMENTWISE};

#endif
