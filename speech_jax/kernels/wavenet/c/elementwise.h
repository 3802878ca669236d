/* Everything but the matrix products, as plain loops that the compiler vectorizes for TARGET.
   Included once per instruction set, with
     TARGET  the function attribute that allows them,
     NAME(f) the name of f for them, and
     OWN_GATE, OWN_TO_INT8 where there are a gate and a to_int8 written for them. */

#include <string.h>

#include "wavenet.h"

/* Adding this rounds to the nearest integer, which is then in the lowest bits: no conversion that could overflow. */
#define ROUND 12582912.0f
#define ROUND_BITS 0x4B400000u

/* 2^r for |r| <= 1/2: least largest relative error among polynomials of degree 5. */
#define LOG2E 1.44269504f
#define POWER0 1.0000001f
#define POWER1 0.69314694f
#define POWER2 0.24022120f
#define POWER3 0.055507135f
#define POWER4 0.0096755410f
#define POWER5 0.0013276470f

static inline TARGET uint32_t NAME(bits)(float x) {
  uint32_t b;
  memcpy(&b, &x, 4);
  return b;
}

static inline TARGET float NAME(from_bits)(uint32_t b) {
  float x;
  memcpy(&x, &b, 4);
  return x;
}

/* exp(scale x) for |scale x| <= 87, given scale log2(e): 2^n 2^r with |r| <= 1/2, the second by a polynomial that is off by
   at most 1e-7. n is in the lowest bits of `shifted`, and is added to the exponent. */
static inline TARGET float NAME(exp)(float x, float scale_log2e) {
  float shifted = x * scale_log2e + ROUND;
  float r = x * scale_log2e - (shifted - ROUND);
  float p = POWER5;
  p = p * r + POWER4;
  p = p * r + POWER3;
  p = p * r + POWER2;
  p = p * r + POWER1;
  p = p * r + POWER0;
  return NAME(from_bits)(NAME(bits)(p) + (NAME(bits)(shifted) << 23));
}

/* The largest of |x|, compared as integers, which have the same order, so that the compiler can vectorize it. */
#define LARGER(m, x) ((m) > (NAME(bits)(x) & 0x7FFFFFFFu) ? (m) : (NAME(bits)(x) & 0x7FFFFFFFu))

#ifndef OWN_GATE
/* tanh(a) sigmoid(b) = (1 - e) / ((1 + e) (1 + f)) with e = exp(-2a), f = exp(-b). Beyond |a| = 15 tanh is 1 in float32, and
   f is bounded so that the product stays finite. Absolute error below 1e-6. */
static TARGET float NAME(gate)(const float *restrict a, float *restrict z, int n) {
  const float *restrict b = a + n; /* with a[n + i] gcc reads lane by lane */
  uint32_t largest = 0;
  for (int i = 0; i < n; i++) {
    float left = a[i], right = b[i];
    left = left < 15.0f ? left : 15.0f;
    left = left > -15.0f ? left : -15.0f;
    right = right < 40.0f ? right : 40.0f;
    right = right > -40.0f ? right : -40.0f;
    float e = NAME(exp)(left, -2.0f * LOG2E), f = NAME(exp)(right, -LOG2E);
    float value = (1.0f - e) / ((1.0f + e) * (1.0f + f));
    z[i] = value;
    largest = LARGER(largest, value);
  }
  return NAME(from_bits)(largest);
}
#endif

static TARGET float NAME(add_bias)(float *restrict x, const float *restrict bias, float scale, int n) {
  uint32_t largest = 0;
  for (int i = 0; i < n; i++) {
    float value = (x[i] + bias[i]) * scale;
    x[i] = value;
    largest = LARGER(largest, value);
  }
  return NAME(from_bits)(largest);
}

static TARGET float NAME(relu)(const float *restrict x, float *restrict y, int n) {
  uint32_t largest = 0;
  for (int i = 0; i < n; i++) {
    uint32_t b = NAME(bits)(x[i]);
    float value = NAME(from_bits)(b & ((b >> 31) - 1u)); /* 0 where the sign is set: no branch */
    y[i] = value;
    largest = LARGER(largest, value);
  }
  return NAME(from_bits)(largest);
}

static TARGET void NAME(add)(const float *x, const float *y, float *z, int n) {
  for (int i = 0; i < n; i++) z[i] = x[i] + y[i];
}

static TARGET void NAME(add_row)(const float *restrict row, const float *restrict bias, float value, float *restrict x,
                                 int n) {
  for (int i = 0; i < n; i++) x[i] += row[i] * value + bias[i];
}

#ifndef OWN_TO_INT8
static TARGET float NAME(to_int8)(const float *restrict x, float largest, int8_t *restrict q, int n) {
  /* a vector that is nearly zero, or not finite, becomes zero */
  int usable = largest > 1e-30f && largest < 1e30f;
  float inverse = usable ? 127.0f / largest : 0.0f;
  for (int i = 0; i < n; i++) q[i] = (int8_t)(uint8_t)(NAME(bits)(x[i] * inverse + ROUND) - ROUND_BITS);
  return usable ? largest / 127.0f : 0.0f;
}
#endif

static TARGET float NAME(to_fine)(const float *restrict x, float largest, int8_t *restrict q, int n) {
  int usable = largest > 1e-30f && largest < 1e30f;
  float inverse = usable ? FINE_TOP / largest : 0.0f;
  int8_t *restrict low = q + n;
  for (int i = 0; i < n; i++) {
    uint32_t whole = NAME(bits)(x[i] * inverse + ROUND) - ROUND_BITS; /* its low byte, signed, is `low` */
    q[i] = (int8_t)(uint8_t)((whole + 128u) >> 8);
    low[i] = (int8_t)(uint8_t)whole;
  }
  return usable ? largest / FINE_TOP : 0.0f;
}

/* To the nearest, ties to even. */
static TARGET void NAME(to_bfloat16)(const float *restrict x, uint16_t *restrict q, int n) {
  for (int i = 0; i < n; i++) {
    uint32_t b = NAME(bits)(x[i]);
    q[i] = (uint16_t)((b + 0x7FFFu + ((b >> 16) & 1u)) >> 16);
  }
}

static TARGET float NAME(exp_all)(float *y, int count) {
  float largest = y[0], sums[LANES] = {0}, total = 0.0f;
  for (int i = 1; i < count; i++) largest = y[i] > largest ? y[i] : largest;
  int i = 0;
  for (; i + LANES <= count; i += LANES)
    for (int lane = 0; lane < LANES; lane++) {
      float x = y[i + lane] - largest;
      float e = NAME(exp)(x > -87.0f ? x : -87.0f, LOG2E);
      y[i + lane] = e;
      sums[lane] += e;
    }
  for (; i < count; i++) {
    float x = y[i] - largest;
    total += y[i] = NAME(exp)(x > -87.0f ? x : -87.0f, LOG2E);
  }
  for (int lane = 0; lane < LANES; lane++) total += sums[lane];
  return total;
}

#define ELEMENTWISE                                                                                                \
  .gate = NAME(gate), .add_bias = NAME(add_bias), .relu = NAME(relu), .add = NAME(add), .add_row = NAME(add_row), \
  .to_int8 = NAME(to_int8), .to_fine = NAME(to_fine), .to_bfloat16 = NAME(to_bfloat16), .exp_all = NAME(exp_all)
