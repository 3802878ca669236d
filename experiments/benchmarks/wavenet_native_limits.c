/* What one core can do at most, for wavenet_native.py: reading so many bytes over and over, and multiplying registers. */

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define WIDE __attribute__((target("avx512f,avx512dq")))

/* Reads `bytes` (a multiple of 512, 64-byte aligned) `times` times from end to end; the result depends on all of them. */
WIDE int64_t limit_read(const char *data, size_t bytes, int times) {
  __m512i sum[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) sum[i] = _mm512_setzero_si512();
  for (int n = 0; n < times; n++) {
    for (const char *at = data; at < data + bytes; at += 512)
#pragma GCC unroll 8
      for (int i = 0; i < 8; i++) sum[i] = _mm512_xor_si512(sum[i], _mm512_load_si512(at + 64 * i));
    __asm__ volatile("" ::: "memory"); /* or the second reading is dropped */
  }
#pragma GCC unroll 8
  for (int i = 1; i < 8; i++) sum[0] = _mm512_xor_si512(sum[0], sum[i]);
  return _mm512_reduce_add_epi64(sum[0]);
}

/* 8 independent products a turn, without memory: each multiplies and adds 16 float32, 32 bfloat16 or 64 bytes. */
#define EIGHT(op)                                                                                   \
  op " %%zmm30, %%zmm31, %%zmm0\n" op " %%zmm30, %%zmm31, %%zmm1\n" op " %%zmm30, %%zmm31, %%zmm2\n" \
  op " %%zmm30, %%zmm31, %%zmm3\n" op " %%zmm30, %%zmm31, %%zmm4\n" op " %%zmm30, %%zmm31, %%zmm5\n" \
  op " %%zmm30, %%zmm31, %%zmm6\n" op " %%zmm30, %%zmm31, %%zmm7\n"

#define LIMIT(name, op)                                                                                             \
  void name(int64_t turns) {                                                                                        \
    for (int64_t n = 0; n < turns; n++)                                                                             \
      __asm__ volatile(EIGHT(op) ::: "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7");               \
  }

LIMIT(limit_float32, "vfmadd231ps")
LIMIT(limit_bfloat16, "vdpbf16ps")
LIMIT(limit_int8, "vpdpbusd")
