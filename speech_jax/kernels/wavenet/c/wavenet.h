/* The native WaveNet step: declarations shared by its files.

   A sample takes, per layer, a few matrix-vector products and a gate. With one stream no weight is used twice per sample, so
   the time per sample is that of reading all weights once; with the layouts below they are read sequentially.

   Lanes. Every vector is padded with zeros to a multiple of 16 floats; the two halves of a gate are padded separately.
   Weights and biases of the padding are zero, so the padding of every vector stays zero.

   Matrices. The output columns are in blocks of `block` groups of 16 lanes (16, or as many as have registers for the sums of
   one pass over the rows, so that memory is read sequentially); the remaining columns are in blocks of 8, 4, 2 or 1 groups,
   largest first. A block holds its rows one after the other, with as many rows per 32-bit lane as fit:
     float32   [rows]    [groups][16]       float
     bfloat16  [rows / 2][groups][16][2]    upper 16 bits of the float
     int8      [rows / 4][groups][16][4] bytes, then [groups][16] float: the scale of each column
     fine      the same
   Matrices that are not read for every sample (`ahead`) come after the others.
   An int8 weight is stored as w + 128, because AVX-512's instructions multiply unsigned by signed bytes; subtracting 128 times
   the sum of the input corrects for that exactly. For AVX2 (wavenet_signed) it is stored as w.
   Rows are padded with zero weights to a full lane.

   Int8 and fine differ in their inputs. Int8 takes a vector of bytes and its scale. Fine takes 16 bits per number, stored as
   the bytes `high` of all numbers and then `low` of all (256 high + low, both signed), with the same weights: twice the
   products, but the same bytes of weights to read. */

#ifndef SPEECH_JAX_WAVENET_H
#define SPEECH_JAX_WAVENET_H

#include <stddef.h>
#include <stdint.h>

#define LANES 16      /* floats in a group */
#define BLOCK 16      /* the most groups of a block */
#define FINE_TOP 32639 /* 127 * 256 + 127: the largest of a fine vector */
#define MAX_STREAMS 4 /* streams that share one reading of the weights */
#define MAX_AHEAD 8   /* most samples for which a product with earlier inputs is computed at once */

enum { FLOAT32, BFLOAT16, INT8, FINE };  /* kinds of weights, and of the vectors that they take */
enum { GAUSSIAN, LOGISTICS, MULAW };     /* kinds of outputs */
enum { PORTABLE, AVX2, AVX512, LEVELS }; /* kinds of instructions */

typedef struct {
  const void *weights; /* 64-byte aligned */
  int32_t rows;        /* inputs, without padding */
  int32_t groups;      /* outputs / LANES */
  int32_t kind;
  int32_t block; /* groups in a full block: a power of two up to BLOCK */
} Matrix;

/* The vectors that a matrix is multiplied with: `streams` of them, `stride` bytes apart. */
typedef struct {
  const void *data;
  size_t stride;
  float scale[MAX_STREAMS]; /* int8, fine: value of one integer step */
} Input;

/* A net, as kernels/wavenet/native_pack.py packs it. Widths are without padding; every array of floats is padded. */
typedef struct {
  int32_t layers, kernel, residual, half, skip, head, outputs, inputs; /* half: of the gate; inputs: 1 or classes */
  int32_t output, mixtures, level;
  int32_t cores, early; /* cores per stream, 1 or 2; number of first layers whose skips the second core computes */
  float residual_scale, min_log_scale;
  const int32_t *dilations; /* [layers] */
  const int32_t *ahead;     /* [layers][kernel]: number of samples for which a tap's product is computed at once, see
                               wavenet.c: a power of two up to MAX_AHEAD; 1 for the last tap */
  const float *first;       /* [inputs][residual] */
  const float *first_bias;  /* [residual] */
  const float *out_bias;    /* [layers][residual] */
  const float *skip_bias, *head1_bias, *head2_bias;
  const float *first_taps;  /* [kernel][inputs][2 halves]: first @ the taps of layer 0, see wavenet.c */
  const float *first_taps_bias; /* [kernel][2 halves]: first_bias @ these taps */
  const Matrix *taps; /* [layers][kernel], the oldest sample first: residual -> tanh | sigmoid; none in layer 0 */
  const Matrix *out;  /* [layers]: half of the gate -> residual; none in the last layer */
  const Matrix *skips; /* [layers]: half of the gate -> skip */
  const Matrix *head1;
  const Matrix *head2;
} Net;

/* Functions implemented for each instruction set. `n` is a multiple of LANES. */
typedef struct {
  /* acc[s] += x[s] @ w for each stream s; the rows of acc are `stride` floats apart */
  void (*matvec[4])(const Matrix *w, int streams, const Input *x, float *acc, size_t stride);
  /* z = tanh(a[:n]) * sigmoid(a[n:]); returns the largest |z| */
  float (*gate)(const float *a, float *z, int n);
  /* x = (x + bias) * scale; returns the largest |x| */
  float (*add_bias)(float *x, const float *bias, float scale, int n);
  /* y = max(x, 0); returns the largest y */
  float (*relu)(const float *x, float *y, int n);
  /* z = x + y; z may be one of them */
  void (*add)(const float *x, const float *y, float *z, int n);
  /* x += row * value + bias */
  void (*add_row)(const float *row, const float *bias, float value, float *x, int n);
  /* to signed bytes, the largest |x| to 127; returns the scale */
  float (*to_int8)(const float *x, float largest, int8_t *q, int n);
  /* to 16 bits, the largest |x| to FINE_TOP: high bytes in q[:n], low ones in q[n:]; returns the scale */
  float (*to_fine)(const float *x, float largest, int8_t *q, int n);
  void (*to_bfloat16)(const float *x, uint16_t *q, int n);
  /* y = exp(y - the largest y) over the first `count`; returns the sum */
  float (*exp_all)(float *y, int count);
} Kernels;

extern const Kernels portable_kernels;
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;

/* Outputs y of one stream and its noise -> the sample that is fed back; a class for MULAW. See draw.c */
float draw_sample(const Net *net, const float *y, const float *noise);
int32_t draw_class(const Net *net, const Kernels *kernels, float *y, float uniform);

static inline int padded(int n) { return (n + LANES - 1) / LANES * LANES; }

/* Groups in the block that begins where `left` groups are left. */
static inline int block_groups(int left, int most) {
  left = left < most ? left : most;
  return left >= 16 ? 16 : left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

#endif
