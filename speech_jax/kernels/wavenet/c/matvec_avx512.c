/* Matrix-vector products with AVX-512. A group of 16 lanes is one register; a block of 8 groups is 8 sums for one stream,
   parts of 4 groups are 16 sums for four. The bfloat16 and int8 products need instructions of their own (BF16, VNNI); a
   machine without them takes AVX2's, see wavenet.c. */

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <immintrin.h>

#define TARGET __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")))
#define NAME(f) avx512_##f
#define OWN_GATE
#include "elementwise.h"

#define PART static inline __attribute__((always_inline))
#define BF16_TARGET __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")))
#define VNNI_TARGET __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))

/* sum += value * weights, written as assembly because gcc copies every sum of the intrinsic to another register and back. */
#define MULTIPLY(instruction, sum, value, place, weights) \
  __asm__(instruction " %2, %1, %0" : "+v"(sum) : "v"(value), place(weights))

TARGET static inline __m512 wide_exp(__m512 x, float scale_log2e) {
  __m512 scale = _mm512_set1_ps(scale_log2e), round = _mm512_set1_ps(ROUND);
  __m512 shifted = _mm512_fmadd_ps(x, scale, round);
  __m512 r = _mm512_fmsub_ps(x, scale, _mm512_sub_ps(shifted, round));
  __m512 p = _mm512_set1_ps(POWER5);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(POWER4));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(POWER3));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(POWER2));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(POWER1));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(POWER0));
  __m512i power = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), power));
}

/* elementwise.h's, with an estimate of the reciprocal and one Newton step in place of the division, which takes as long as
   everything else. */
TARGET static float avx512_gate(const float *a, float *z, int n) {
  __m512 largest = _mm512_setzero_ps(), one = _mm512_set1_ps(1.0f);
  for (int i = 0; i < n; i += LANES) {
    __m512 left = _mm512_min_ps(_mm512_loadu_ps(a + i), _mm512_set1_ps(15.0f));
    __m512 right = _mm512_min_ps(_mm512_loadu_ps(a + n + i), _mm512_set1_ps(40.0f));
    __m512 e = wide_exp(_mm512_max_ps(left, _mm512_set1_ps(-15.0f)), -2.0f * LOG2E);
    __m512 f = wide_exp(_mm512_max_ps(right, _mm512_set1_ps(-40.0f)), -LOG2E);
    __m512 below = _mm512_mul_ps(_mm512_add_ps(one, e), _mm512_add_ps(one, f));
    __m512 inverse = _mm512_rcp14_ps(below);
    inverse = _mm512_mul_ps(inverse, _mm512_fnmadd_ps(below, inverse, _mm512_set1_ps(2.0f)));
    __m512 value = _mm512_mul_ps(_mm512_sub_ps(one, e), inverse);
    _mm512_storeu_ps(z + i, value);
    largest = _mm512_max_ps(largest, _mm512_abs_ps(value));
  }
  return _mm512_reduce_max_ps(largest);
}

/* `count` groups of one block, for `streams` streams. `w` points to the part's first lane, a row of the block is `row`
   elements of 32 bits. Constants after inlining, so that the loops unroll and the sums stay in registers. */

PART TARGET void part_float32(int count, int streams, const float *w, int row, int rows, const Input *x, float *acc,
                              size_t stride) {
  /* with few groups, rows alternate between several sums; otherwise each sum would wait for the previous one */
  const int turns = count < 4 ? 4 / count : 1, all = streams * count;
  __m512 sums[16];
#pragma GCC unroll 16
  for (int i = 0; i < all; i++) sums[i] = _mm512_loadu_ps(acc + (i / count) * stride + (i % count) * LANES);
#pragma GCC unroll 16
  for (int i = all; i < turns * all; i++) sums[i] = _mm512_setzero_ps();
  const float *in = x->data;
  size_t step = x->stride / sizeof(float);
  int k = 0;
  for (; k + turns <= rows; k += turns) {
#pragma GCC unroll 4
    for (int t = 0; t < turns; t++, w += row) {
      __m512 weights[16];
#pragma GCC unroll 16
      for (int i = 0; i < count; i++) weights[i] = _mm512_loadu_ps(w + LANES * i);
#pragma GCC unroll 4
      for (int s = 0; s < streams; s++) {
        __m512 value = _mm512_set1_ps(in[s * step + k + t]), *to = sums + t * all + s * count;
#pragma GCC unroll 16
        for (int i = 0; i < count; i++) to[i] = _mm512_fmadd_ps(value, weights[i], to[i]);
      }
    }
  }
  for (; k < rows; k++, w += row) {
#pragma GCC unroll 4
    for (int s = 0; s < streams; s++) {
      __m512 value = _mm512_set1_ps(in[s * step + k]);
#pragma GCC unroll 2
      for (int i = 0; i < count; i++)
        sums[s * count + i] = _mm512_fmadd_ps(value, _mm512_loadu_ps(w + LANES * i), sums[s * count + i]);
    }
  }
#pragma GCC unroll 16
  for (int i = all; i < turns * all; i++) sums[i % all] = _mm512_add_ps(sums[i % all], sums[i]);
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
    for (int i = 0; i < count && streams > 1; i++) weights[i] = _mm512_loadu_si512(w + LANES * i);
#pragma GCC unroll 4
    for (int s = 0; s < streams; s++) {
      int32_t two;
      memcpy(&two, in + s * x->stride, 4);
      __m512i value = _mm512_set1_epi32(two);
#pragma GCC unroll 16
      for (int i = 0; i < count; i++) {
        if (streams == 1) MULTIPLY("vdpbf16ps", sums[i], value, "m", *(const __m512i *)(w + LANES * i));
        else MULTIPLY("vdpbf16ps", sums[s * count + i], value, "v", weights[i]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < streams * count; i++) _mm512_storeu_ps(acc + (i / count) * stride + (i % count) * LANES, sums[i]);
}

/* `offset`: 128 times the sum of each stream's input, which the weights' offset has added to every column. */
PART VNNI_TARGET void part_int8(int count, int streams, const float *w, int row, int rows, const float *scales,
                                const int32_t *offset, const Input *x, float *acc, size_t stride) {
  __m512i sums[16];
#pragma GCC unroll 16
  for (int i = 0; i < streams * count; i++) sums[i] = _mm512_setzero_si512();
  const char *in = x->data;
  for (int k = 0; k < rows; k += 4, w += row, in += 4) {
    __m512i values[4];
#pragma GCC unroll 4
    for (int s = 0; s < streams; s++) {
      int32_t four;
      memcpy(&four, in + s * x->stride, 4);
      values[s] = _mm512_set1_epi32(four);
    }
#pragma GCC unroll 16
    for (int i = 0; i < count; i++) {
      __m512i weights = _mm512_loadu_si512(w + LANES * i);
#pragma GCC unroll 4
      for (int s = 0; s < streams; s++) MULTIPLY("vpdpbusd", sums[s * count + i], weights, "v", values[s]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < streams * count; i++) {
    int s = i / count, at = i % count * LANES;
    float *out = acc + s * stride + at;
    __m512 scale = _mm512_mul_ps(_mm512_loadu_ps(scales + at), _mm512_set1_ps(x->scale[s]));
    __m512i sum = _mm512_sub_epi32(sums[i], _mm512_set1_epi32(offset[s]));
    _mm512_storeu_ps(out, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, _mm512_loadu_ps(out)));
  }
}

/* The same with 16-bit inputs; `plane` bytes lie between a number's high and its low byte. `offset` is of the high bytes of
   all streams, then of the low ones. */
PART VNNI_TARGET void part_fine(int count, int streams, const float *w, int row, int rows, const float *scales, int plane,
                                const int32_t *offset, const Input *x, float *acc, size_t stride) {
  __m512i sums[16];
#pragma GCC unroll 16
  for (int i = 0; i < 2 * streams * count; i++) sums[i] = _mm512_setzero_si512();
  const char *in = x->data;
  for (int k = 0; k < rows; k += 4, w += row, in += 4) {
    __m512i values[8];
#pragma GCC unroll 8
    for (int s = 0; s < 2 * streams; s++) {
      int32_t four;
      memcpy(&four, in + (s % streams) * x->stride + s / streams * plane, 4);
      values[s] = _mm512_set1_epi32(four);
    }
#pragma GCC unroll 8
    for (int i = 0; i < count; i++) {
      __m512i weights = _mm512_loadu_si512(w + LANES * i);
#pragma GCC unroll 8
      for (int s = 0; s < 2 * streams; s++) MULTIPLY("vpdpbusd", sums[s * count + i], weights, "v", values[s]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < streams * count; i++) {
    int s = i / count, at = i % count * LANES;
    float *out = acc + s * stride + at;
    __m512 scale = _mm512_mul_ps(_mm512_loadu_ps(scales + at), _mm512_set1_ps(x->scale[s]));
    __m512 high = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums[i], _mm512_set1_epi32(offset[s])));
    __m512i low = _mm512_sub_epi32(sums[streams * count + i], _mm512_set1_epi32(offset[streams + s]));
    __m512 sum = _mm512_fmadd_ps(high, _mm512_set1_ps(256.0f), _mm512_cvtepi32_ps(low));
    _mm512_storeu_ps(out, _mm512_fmadd_ps(sum, scale, _mm512_loadu_ps(out)));
  }
}

/* Offsets of the bytes at `plane` after the start of each vector. Vectors of bytes are whole groups of 16, padded with zeros. */
VNNI_TARGET static void input_offsets(const Matrix *m, int streams, const Input *x, int plane, int32_t *offset) {
  for (int s = 0; s < streams; s++) {
    const char *in = (const char *)x->data + s * x->stride + plane;
    __m128i sum = _mm_setzero_si128(), ones = _mm_set1_epi8(1);
    for (int k = 0; k < m->rows; k += LANES)
      sum = _mm_dpbusd_epi32(sum, ones, _mm_loadu_si128((const __m128i *)(in + k)));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4E));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xB1));
    offset[s] = 128 * _mm_cvtsi128_si32(sum);
  }
}

/* A block in parts; `groups` is 16, 8, 4, 2 or 1. */
#define UP_TO_4(call, n)                                     \
  switch (groups) {                                          \
    case 2: call(2, n, 0); break;                            \
    case 1: call(1, n, 0); break;                            \
    default:                                                 \
      for (int at = 0; at < groups; at += 4) call(4, n, at); \
  }

#define UP_TO_8(call)             \
  switch (groups) {               \
    case 8: call(8, 1, 0); break; \
    case 4: call(4, 1, 0); break; \
    case 2: call(2, 1, 0); break; \
    default: call(1, 1, 0);       \
  }

#define PARTS(call)                                             \
  if (streams == 1) {                                           \
    if (groups == 16) call(16, 1, 0); else UP_TO_8(call)        \
  } else if (streams == 2) {                                    \
    UP_TO_4(call, 2)                                            \
  } else {                                                      \
    UP_TO_4(call, 4)                                            \
  }

#define FINE_PARTS(call)                                                                              \
  if (streams == 1) {                                                                                 \
    UP_TO_8(call)                                                                                     \
  } else if (streams == 2) {                                                                          \
    UP_TO_4(call, 2)                                                                                  \
  } else {                                                                                            \
    if (groups == 1) call(1, 4, 0); else for (int at = 0; at < groups; at += 2) call(2, 4, at);       \
  }

#define FLOAT32_PART(count, n, at) part_float32(count, n, w + LANES * (at), row, m->rows, x, out + LANES * (at), stride)
#define BFLOAT16_PART(count, n, at) part_bfloat16(count, n, w + LANES * (at), row, m->rows, x, out + LANES * (at), stride)
#define INT8_PART(count, n, at)                                                                              \
  part_int8(count, n, w + LANES * (at), row, m->rows, w + (size_t)row * ((m->rows + 3) / 4) + LANES * (at), offset, x, \
            out + LANES * (at), stride)

#define FINE_PART(count, n, at)                                                                              \
  part_fine(count, n, w + LANES * (at), row, m->rows, w + (size_t)row * ((m->rows + 3) / 4) + LANES * (at),  \
            padded(m->rows), offset, x, out + LANES * (at), stride)

#define MATVEC(name, ATTRIBUTE, PARTS, PART_CALL, rows_a_lane, scales, PREPARE)                            \
  ATTRIBUTE static void name(const Matrix *m, int streams, const Input *x, float *acc, size_t stride) {          \
    const float *w = m->weights;                                                                                 \
    PREPARE                                                                                                      \
    for (int g = 0, groups; g < m->groups; g += groups) {                                                        \
      groups = block_groups(m->groups - g, m->block);                                                                \
      int row = groups * LANES;                                                                                  \
      float *out = acc + (size_t)g * LANES;                                                                      \
      PARTS(PART_CALL)                                                                                           \
      w += (size_t)row * ((m->rows + (rows_a_lane)-1) / (rows_a_lane) + (scales));                               \
    }                                                                                                            \
  }

MATVEC(matvec_float32, TARGET, PARTS, FLOAT32_PART, 1, 0, )
MATVEC(matvec_bfloat16, BF16_TARGET, PARTS, BFLOAT16_PART, 2, 0, )
MATVEC(matvec_int8, VNNI_TARGET, PARTS, INT8_PART, 4, 1, int32_t offset[MAX_STREAMS];
       input_offsets(m, streams, x, 0, offset);)
MATVEC(matvec_fine, VNNI_TARGET, FINE_PARTS, FINE_PART, 4, 1, int32_t offset[2 * MAX_STREAMS];
       input_offsets(m, streams, x, 0, offset); input_offsets(m, streams, x, padded(m->rows), offset + streams);)

const Kernels avx512_kernels = {.matvec = {matvec_float32, matvec_bfloat16, matvec_int8, matvec_fine}, ELEMENTWISE};

#endif
