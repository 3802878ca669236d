/* Matrix-vector products in plain C: the fallback, and the reference for the others. Loops over 16 lanes are written so that
   a compiler can vectorize them for any target. */

#define TARGET
#define NAME(f) portable_##f
#include "elementwise.h"

static void matvec_float32(const Matrix *w, int streams, const Input *x, float *acc, size_t stride) {
  for (int s = 0; s < streams; s++) {
    const float *in = (const float *)((const char *)x->data + s * x->stride);
    const float *weights = w->weights;
    for (int g = 0, groups; g < w->groups; g += groups) {
      groups = block_groups(w->groups - g, w->block);
      float *out = acc + s * stride + (size_t)g * LANES;
      float sums[BLOCK * LANES]; /* not `out`, which may alias the weights as far as the compiler knows */
      memcpy(sums, out, (size_t)groups * LANES * sizeof(float));
      for (int row = 0; row < w->rows; row++, weights += groups * LANES)
        for (int i = 0; i < groups * LANES; i += LANES)
          for (int lane = 0; lane < LANES; lane++) sums[i + lane] += in[row] * weights[i + lane];
      memcpy(out, sums, (size_t)groups * LANES * sizeof(float));
    }
  }
}

static void matvec_bfloat16(const Matrix *w, int streams, const Input *x, float *acc, size_t stride) {
  for (int s = 0; s < streams; s++) {
    const uint16_t *in = (const uint16_t *)((const char *)x->data + s * x->stride);
    const uint16_t *weights = w->weights;
    for (int g = 0, groups; g < w->groups; g += groups) {
      groups = block_groups(w->groups - g, w->block);
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
    const int8_t *in = (const int8_t *)x->data + s * x->stride;
    const uint8_t *weights = w->weights;
    for (int g = 0, groups; g < w->groups; g += groups) {
      groups = block_groups(w->groups - g, w->block);
      int32_t sums[BLOCK * LANES] = {0};
      for (int row = 0; row < w->rows; row += 4, weights += 4 * groups * LANES)
        for (int i = 0; i < groups * LANES; i++)
          for (int j = 0; j < 4; j++) sums[i] += in[row + j] * (weights[4 * i + j] - 128);
      const float *scales = (const float *)weights;
      float *out = acc + s * stride + (size_t)g * LANES;
      for (int i = 0; i < groups * LANES; i++) out[i] += (float)sums[i] * (scales[i] * x->scale[s]);
      weights += 4 * groups * LANES;
    }
  }
}

static void matvec_fine(const Matrix *w, int streams, const Input *x, float *acc, size_t stride) {
  for (int s = 0; s < streams; s++) {
    const int8_t *high = (const int8_t *)x->data + s * x->stride, *low = high + padded(w->rows);
    const uint8_t *weights = w->weights;
    for (int g = 0, groups; g < w->groups; g += groups) {
      groups = block_groups(w->groups - g, w->block);
      int32_t highs[BLOCK * LANES] = {0}, lows[BLOCK * LANES] = {0};
      for (int row = 0; row < w->rows; row += 4, weights += 4 * groups * LANES)
        for (int i = 0; i < groups * LANES; i++)
          for (int j = 0; j < 4; j++) {
            highs[i] += high[row + j] * (weights[4 * i + j] - 128);
            lows[i] += low[row + j] * (weights[4 * i + j] - 128);
          }
      const float *scales = (const float *)weights;
      float *out = acc + s * stride + (size_t)g * LANES;
      for (int i = 0; i < groups * LANES; i++)
        out[i] += ((float)highs[i] * 256.0f + (float)lows[i]) * (scales[i] * x->scale[s]);
      weights += 4 * groups * LANES;
    }
  }
}

const Kernels portable_kernels = {.matvec = {matvec_float32, matvec_bfloat16, matvec_int8, matvec_fine}, ELEMENTWISE};
