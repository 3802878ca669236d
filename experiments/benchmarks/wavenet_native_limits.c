/* What one core can do at most, for wavenet_native.py: reading so many bytes over and over, and multiplying registers; with
   the instructions that the name ends in. */

#include <stddef.h>
#include <stdint.h>

/* Reads `bytes` (a multiple of 512, 64-byte aligned) `times` times from end to end; the result depends on all of them. */
#define READ(name, features, size)                                                                \
  __attribute__((target(features))) int64_t name(const char *data, size_t bytes, int times) {     \
    typedef int64_t Wide __attribute__((vector_size(size)));                                      \
    Wide sum[8] = {0};                                                                            \
    for (int n = 0; n < times; n++) {                                                             \
      for (const Wide *at = (const Wide *)data; (const char *)at < data + bytes; at += 8)         \
        _Pragma("GCC unroll 8") for (int i = 0; i < 8; i++) sum[i] ^= at[i];                      \
      __asm__ volatile("" ::: "memory"); /* or the second reading is dropped */                   \
    }                                                                                             \
    int64_t all = 0;                                                                              \
    for (int i = 0; i < size; i++) all ^= sum[i * 8 / size][i * 8 % size / 8];                    \
    return all;                                                                                   \
  }

READ(limit_read_avx512, "avx512f", 64)
READ(limit_read_avx2, "avx2", 32)

/* 8 independent products a turn, without memory. */
#define EIGHT(product)                                                                                            \
  product("0") product("1") product("2") product("3") product("4") product("5") product("6") product("7")

#define LIMIT(name, product)                                                                                        \
  void name(int64_t turns) {                                                                                        \
    for (int64_t n = 0; n < turns; n++)                                                                             \
      __asm__ volatile(EIGHT(product) ::: "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",   \
                       "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");                               \
  }

/* Each multiplies and adds 16 float32, 32 bfloat16 or 64 bytes. */
#define FLOAT32_512(n) "vfmadd231ps %%zmm30, %%zmm31, %%zmm" n "\n"
#define BFLOAT16_512(n) "vdpbf16ps %%zmm30, %%zmm31, %%zmm" n "\n"
#define INT8_512(n) "vpdpbusd %%zmm30, %%zmm31, %%zmm" n "\n"
LIMIT(limit_float32_avx512, FLOAT32_512)
LIMIT(limit_bfloat16_avx512, BFLOAT16_512)
LIMIT(limit_int8_avx512, INT8_512)

/* Each multiplies and adds 8 float32, 16 bfloat16 (as two of float32, their unpacking not counted) or 32 bytes (signs likewise). */
#define FLOAT32_256(n) "vfmadd231ps %%ymm14, %%ymm15, %%ymm" n "\n"
#define BFLOAT16_256(n) FLOAT32_256(n) FLOAT32_256(n)
#define INT8_256(n) \
  "vpmaddubsw %%ymm14, %%ymm15, %%ymm13\n" "vpmaddwd %%ymm15, %%ymm13, %%ymm13\n" "vpaddd %%ymm13, %%ymm" n ", %%ymm" n "\n"
LIMIT(limit_float32_avx2, FLOAT32_256)
LIMIT(limit_bfloat16_avx2, BFLOAT16_256)
LIMIT(limit_int8_avx2, INT8_256)
