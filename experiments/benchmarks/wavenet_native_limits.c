/* What this core can do at most, for wavenet_native.py: reading so many bytes over and over, and multiplying. */

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define WIDE __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")))

/* Reads `bytes` (a multiple of 512) `times` times from end to end; returns something that depends on all of them. */
WIDE int64_t limit_read(const char *data, size_t bytes, int times, int ahead) {
  __m512i sum[8] = {0};
  for (int n = 0; n < times; n++)
    for (const char *at = data; at < data + bytes; at += 512)
#pragma GCC unroll 8
      for (int i = 0; i < 8; i++) {
        if (ahead) _mm_prefetch(at + 64 * i + ahead, _MM_HINT_T0);
        sum[i] = _mm512_xor_si512(sum[i], _mm512_load_si512(at + 64 * i));
      }
  for (int i = 1; i < 8; i++) sum[0] = _mm512_xor_si512(sum[0], sum[i]);
  return _mm512_reduce_add_epi64(sum[0]);
}

/* 16 independent chains of products in registers: 16 * 32 operations a turn for float32, 64 a register for bfloat16, 128
   for int8. */
WIDE float limit_float32(int64_t turns, float seed) {
  __m512 sum[16], x = _mm512_set1_ps(seed), y = _mm512_set1_ps(0.5f);
  
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) sum[i] = _mm512_set1_ps(i);
  for (int64_t n = 0; n < turns; n++) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) sum[i] = _mm512_fmadd_ps(x, y, sum[i]);
    __asm__ volatile("" ::: "memory");
  }
  for (int i = 1; i < 16; i++) sum[0] = _mm512_add_ps(sum[0], sum[i]);
  return _mm512_reduce_add_ps(sum[0]);
}

WIDE float limit_bfloat16(int64_t turns, float seed) {
  __m512 sum[16];
  __m512i x = _mm512_castps_si512(_mm512_set1_ps(seed)), y = _mm512_castps_si512(_mm512_set1_ps(0.5f));
  
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) sum[i] = _mm512_set1_ps(i);
  for (int64_t n = 0; n < turns; n++) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) sum[i] = _mm512_dpbf16_ps(sum[i], (__m512bh)x, (__m512bh)y);
    __asm__ volatile("" ::: "memory");
  }
  for (int i = 1; i < 16; i++) sum[0] = _mm512_add_ps(sum[0], sum[i]);
  return _mm512_reduce_add_ps(sum[0]);
}

WIDE float limit_int8(int64_t turns, float seed) {
  __m512i sum[16], x = _mm512_set1_epi8((char)seed), y = _mm512_set1_epi8(3);
  
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) sum[i] = _mm512_set1_epi32(i);
  for (int64_t n = 0; n < turns; n++) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) sum[i] = _mm512_dpbusd_epi32(sum[i], x, y);
    __asm__ volatile("" ::: "memory");
  }
  for (int i = 1; i < 16; i++) sum[0] = _mm512_add_epi32(sum[0], sum[i]);
  return (float)_mm512_reduce_add_epi32(sum[0]);
}
