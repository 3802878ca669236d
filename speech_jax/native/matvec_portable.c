/* Matrix-vector products in plain C: the fallback, and what the others are compared with. Loops over 16 lanes are written
   so that a compiler can vectorise them for whatever it builds for. */

#define TARGET
#define NAME(f) portable_##f
#include "elementwise.h"

static void matvec_float32(const Matrix *w, int streams, const Input *x, float *acc, size_t stride) {
  for (int s = 0; s < streams; s++) {
    const float *in = (const float *)((const char *)x->data + s * x->stride);
    const float *weights = w->weights;
    for (int g = 0, groups; g < w->groups; g += groups) {
      groups = block_groups(w->groups - g);
      float *out = acc + s * stride + (size_t)g * LANES;
      for (int row = 0; row < w->rows; row++, weights += groups * LANES)
        for (int i = 0; i < groups * LANES; i++) out[i] += in[row] * weights[i];
    }
  }
}

static void matvec_bfloat16(const Matrix *w, int streams, const Input *x, float *acc, size_t stride) {
  for (int s = 0; s < streams; s++) {
    const uint16_t *in = (const uint16_t *)((const char *)x->data + s * x->stride);
    const uint16_t *weights = w->weights;
    for (int g = 0, groups; g < w->groups; g += groups) {
      groups = block_groups(w->groups - g);
      float *out = acc + s * stride + (size_t)g * LANES;
      for (int row = 0; row < w->rows; row += 2, weights += 2 * groups * LANES) {
        float even = portable_from_bits((uint32_t)in[row] << 16), odd = portable_from_bits((uint32_t)in[row + 1] << 16);
        for (int i = 0; i < groups * LANES; i++)
          out[i] += even * portable_from_bits((uint32_t)weights[2 * i] << 16) +
                    odd * portable_from_bits((uint32_t)weights[2 * i + 1] << 16);
      }
    }
  }
}

static void matvec_int8(const Matrix *w, int streams, const Input *x, float *acc, size_t stride) {
  for (int s = 0; s < streams; s++) {
    const uint8_t *in = (const uint8_t *)x->data + s * x->stride;
    const char *block = w->weights;
    for (int g = 0, groups; g < w->groups; g += groups) {
      groups = block_groups(w->groups - g);
      const int32_t *offsets = (const int32_t *)block;
      const float *scales = (const float *)block + groups * LANES;
      const int8_t *weights = (const int8_t *)block + 8 * groups * LANES;
      int32_t sums[BLOCK * LANES];
      for (int i = 0; i < groups * LANES; i++) sums[i] = offsets[i];
      for (int row = 0; row < w->rows; row += 4, weights += 4 * groups * LANES)
        for (int i = 0; i < groups * LANES; i++)
          sums[i] += in[row] * weights[4 * i] + in[row + 1] * weights[4 * i + 1] + in[row + 2] * weights[4 * i + 2] +
                     in[row + 3] * weights[4 * i + 3];
      float *out = acc + s * stride + (size_t)g * LANES;
      for (int i = 0; i < groups * LANES; i++) out[i] += (float)sums[i] * (scales[i] * x->scale[s]);
      block = (const char *)weights;
    }
  }
}

const Kernels portable_kernels = {.matvec = {matvec_float32, matvec_bfloat16, matvec_int8}, ELEMENTWISE};
