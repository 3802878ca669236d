/* The loop over samples. See wavenet.h for the layouts and kernels/wavenet/native.py for the caller.

   For each layer l, with x the residual vector and a ring of the last (kernel - 1) * dilation inputs:
     a = cond + sum over taps of x(earlier) @ taps;  z = tanh(a) sigmoid(a);  s += z @ skips;  x = (x + z @ out + bias) * scale

   In layer 0, x is w * first + first_bias with the last sample w, so x @ taps is w * (first @ taps) + first_bias @ taps: a row
   of first_taps, in float32, instead of a product. This is exact, and the history of the layer is only the samples.

   The input of a tap that reaches n samples back is available n steps earlier. So its products are computed ahead, for up to
   MAX_AHEAD samples at once, and stored in `ahead` until their sample is due: these weights are read once for all of them.

   With one core they are computed when the first of these samples is due, between the gate of the previous layer and its
   use: the dependency chain from one product to the next (largest value, scale, bytes) is long compared with a product of a
   small network, and these products depend on none of it.

   With two cores a second thread computes them, and the first thread computes the chain. The taps of the second thread reach
   back at least twice as far as it works ahead, so it has as many steps of time for a product as the product has samples.
   Each layer is due in a different step, so that all steps are about equal work. The second thread also computes the skips
   of the first `early` layers, which are needed only at the end of a step. So the threads rarely wait for each other. The
   sums and their order are the same as with one core. */

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "wavenet.h"

#if defined(__x86_64__)
#define RELAX() __builtin_ia32_pause()
#else
#define RELAX() ((void)0)
#endif
#define PATIENCE 20000     /* polls of the other thread's counter before the core is yielded */
#define ROWS (2 * MAX_AHEAD) /* of `ahead`: samples whose products are being computed, and those being used */

static const size_t element[4] = {4, 2, 1, 2}; /* bytes of a number, by kind */

int wavenet_level(void) {
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return PORTABLE;
  int wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return wide ? AVX512 : AVX2;
#else
  return PORTABLE;
#endif
}

/* True if the int8 and fine products of a level are AVX2's, which need signed weights; AVX-512 without VNNI uses these too. */
int wavenet_signed(int level) {
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
  return level == AVX2 || (level == AVX512 && !__builtin_cpu_supports("avx512vnni"));
#else
  (void)level;
  return 0;
#endif
}

/* The kernels of a level that the machine supports; AVX-512 without BF16 or VNNI uses AVX2's products. */
static Kernels kernels_of(int level) {
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
  if (level == AVX2) return avx2_kernels;
  if (level == AVX512) {
    Kernels kernels = avx512_kernels;
    if (!__builtin_cpu_supports("avx512bf16")) kernels.matvec[BFLOAT16] = avx2_kernels.matvec[BFLOAT16];
    if (wavenet_signed(level)) {
      kernels.matvec[INT8] = avx2_kernels.matvec[INT8];
      kernels.matvec[FINE] = avx2_kernels.matvec[FINE];
    }
    return kernels;
  }
#endif
  (void)level;
  return portable_kernels;
}

static size_t line(size_t bytes) { return (bytes + 63) / 64 * 64; }

static int layer_kind(const Net *net, int layer) { return net->taps[layer * net->kernel].kind; }

static int has_scale(int kind) { return kind == INT8 || kind == FINE; }

static int slots_of(const Net *net, int layer) { return (net->kernel - 1) * net->dilations[layer]; }

/* Size of a layer's ring: `slots` vectors, then, for int8 and fine, as many scales; in layer 0 only the samples. */
static size_t ring_bytes(const Net *net, int layer) {
  size_t slots = slots_of(net, layer);
  if (layer == 0) return line(slots * 4);
  int kind = layer_kind(net, layer);
  return line(slots * padded(net->residual) * element[kind]) + (has_scale(kind) ? line(slots * 4) : 0);
}

/* Bytes of one stream's rings. Zero bytes are zero vectors in every kind; for int8 and fine because their scale is zero. */
int64_t wavenet_history_bytes(const Net *net) {
  size_t bytes = 0;
  for (int l = 0; l < net->layers; l++) bytes += ring_bytes(net, l);
  return (int64_t)bytes;
}

/* Progress of the two threads: layers done since the start of the call, summed over steps. */
typedef struct {
  _Alignas(64) atomic_llong passed;  /* first thread: the layer's input is in the ring, its z in `gates` */
  _Alignas(64) atomic_llong made;    /* second thread: products are in `ahead`; its steps start one earlier */
  _Alignas(64) atomic_llong skipped; /* second thread, early layers only: skips are in `early` */
} Progress;

/* Working memory of a group of up to MAX_STREAMS streams. Strides are in floats, from stream to stream. Of the values that
   change, the second thread reads the rings and `gates` and writes `ahead` and `early`. */
typedef struct {
  const Net *net;
  Kernels kernels;
  Progress *progress;
  int alone; /* no second thread */
  int streams;
  int64_t begin, end, time; /* the call's first sample, the one after its last, and the current one */
  int64_t seen;             /* the second thread's `made`, when last read */
  char *history[MAX_STREAMS];
  size_t history_stride;
  size_t *ring;    /* [layers]: where a layer's ring begins in the history */
  int32_t *place;  /* [layers]: the ring's oldest slot, the next one to be written */
  float *cond;     /* [streams][layers][2 halves] */
  float *x;        /* [streams][the widest of residual, head] */
  float *early;    /* [streams][skip]: the sum of the early layers' skips; zero where there are none */
  float *late;     /* [streams][skip]: the sum of the other layers' skips */
  float *a[2];     /* [streams][2 halves], of even and odd layers */
  float *ahead;    /* [streams][layers][ROWS][2 halves]: the sum of the products with earlier samples, by time % ROWS */
  float *z;        /* [layers][streams][the widest of half, skip, head] */
  Input *gates;    /* [layers]: z, converted for its products */
  float *y;        /* [streams][outputs] */
  char *q;         /* [layers + 1][streams][the widest vector]: converted z of each layer, and x */
  size_t cond_stride, x_stride, skip_stride, a_stride, ahead_stride, z_stride, y_stride, q_stride;
} Work;

static const Matrix *tap(const Work *work, int layer, int j) { return &work->net->taps[layer * work->net->kernel + j]; }

/* Pause between two polls of the other thread's counter. */
static void look_again(int looks) {
  if (looks < PATIENCE) RELAX();
  else sched_yield();
}

static void wait_for(atomic_llong *progress, int64_t least, int64_t *seen) {
  if (*seen >= least) return;
  for (int looks = 0; (*seen = atomic_load_explicit(progress, memory_order_acquire)) < least; looks++) look_again(looks);
}

/* Converts the vectors x, `stride` floats apart, to the input type of weights of `kind`, into q number `at`. */
static Input prepare(const Work *work, int kind, const float *x, size_t stride, int n, const float *largest, int at) {
  Input input = {.data = x, .stride = stride * sizeof(float)};
  if (kind == FLOAT32) return input;
  char *to = work->q + (size_t)at * work->streams * work->q_stride;
  input.data = to;
  input.stride = work->q_stride;
  for (int s = 0; s < work->streams; s++, to += work->q_stride) {
    if (kind == BFLOAT16) work->kernels.to_bfloat16(x + s * stride, (uint16_t *)to, n);
    else if (kind == FINE) input.scale[s] = work->kernels.to_fine(x + s * stride, largest[s], (int8_t *)to, n);
    else input.scale[s] = work->kernels.to_int8(x + s * stride, largest[s], (int8_t *)to, n);
  }
  return input;
}

static void multiply(const Work *work, const Matrix *w, const Input *input, float *acc, size_t stride) {
  work->kernels.matvec[w->kind](w, work->streams, input, acc, stride);
}

/* Number of vectors, of `count`, that share one reading of the weights. */
static int at_once(int64_t count) { return count >= 4 ? 4 : count >= 2 ? 2 : 1; }

static float *ahead_row(const Work *work, int s, int layer, int64_t time) {
  return work->ahead + s * work->ahead_stride + ((size_t)layer * ROWS + time % ROWS) * work->a_stride;
}

/* Sets from..to to the samples whose products with tap j are computed in a step, by the chain (`second` 0) or by the second
   thread, whose steps start one before the call's first; returns 0 if there are none. The first step also includes those
   that a step before the call would have computed. */
static int due(const Work *work, int layer, int j, int second, int64_t step, int64_t *from, int64_t *to) {
  int count = work->net->ahead[layer * work->net->kernel + j];
  int64_t reach = (int64_t)(work->net->kernel - 1 - j) * work->net->dilations[layer];
  if (work->alone ? second : second == (reach == 1)) return 0; /* the other thread's: reach 1 is too late for the second */
  int64_t first = step + (second ? count - layer % count : 0), past = first & (count - 1);
  int begins = step == work->begin - second;
  if (past && !begins) return 0;
  *from = begins ? work->begin : first;
  *to = first - past + count;
  if (*to > work->end) *to = work->end;
  return *from < *to;
}

/* Adds a layer's products with tap j to the rows of samples from..to; tap 0 starts from zero. */
static void make_ahead(const Work *work, int layer, int j, int64_t from, int64_t to) {
  const Net *net = work->net;
  const Matrix *w = tap(work, layer, j);
  int slots = slots_of(net, layer), kind = w->kind, streams = work->streams;
  size_t vector = padded(net->residual) * element[kind], ring = work->ring[layer], scales = ring + line(slots * vector);
  int together = to - from == 1; /* all streams, or else several samples of each, share a reading of the weights */
  for (int64_t n, t = from; t < to; t += n) {
    int64_t slot = (t + (int64_t)j * net->dilations[layer]) % slots, most = slots - slot, rows = ROWS - t % ROWS;
    if (most > rows) most = rows;
    n = at_once(to - t < most ? to - t : most);
    for (int s = 0; s < streams; s++) {
      float *row = ahead_row(work, s, layer, t);
      if (j == 0) memset(row, 0, 4 * n * work->a_stride);
      if (together) continue;
      Input input = {.data = work->history[s] + ring + slot * vector, .stride = vector};
      if (has_scale(kind)) memcpy(input.scale, work->history[s] + scales + 4 * slot, 4 * n);
      work->kernels.matvec[kind](w, (int)n, &input, row, work->a_stride);
    }
    if (!together) continue;
    Input input = {.data = work->history[0] + ring + slot * vector, .stride = work->history_stride};
    for (int s = 0; s < streams && has_scale(kind); s++)
      memcpy(&input.scale[s], work->history[s] + scales + 4 * slot, 4);
    multiply(work, w, &input, ahead_row(work, 0, layer, t), work->ahead_stride);
  }
}

static void fetch(const void *from, size_t bytes) {
  for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch((const char *)from + at);
}

/* Prefetches a layer's data other than its weights, which the stream of weights has evicted from the caches. */
static void fetch_layer(const Work *work, int layer) {
  const Net *net = work->net;
  int residual = padded(net->residual), slots = slots_of(net, layer), kind = layer_kind(net, layer);
  size_t vector = residual * element[kind];
  fetch(net->out_bias + (size_t)layer * residual, 4 * residual);
  for (int s = 0; s < work->streams; s++) {
    fetch(work->cond + s * work->cond_stride + layer * work->a_stride, 4 * work->a_stride);
    fetch(ahead_row(work, s, layer, work->time), 4 * work->a_stride);
  }
  for (int j = 0; j + 1 < net->kernel; j++) {
    int64_t from, to;
    if (!due(work, layer, j, 0, work->time, &from, &to)) continue;
    size_t slot = (from + (int64_t)j * net->dilations[layer]) % slots;
    if (slot + (to - from) > (size_t)slots) continue;
    for (int s = 0; s < work->streams; s++) {
      fetch(work->history[s] + work->ring[layer] + slot * vector, (to - from) * vector);
      if (has_scale(kind)) __builtin_prefetch(work->history[s] + work->ring[layer] + line(slots * vector) + 4 * slot);
    }
  }
}

/* Adds to `to` the last sample (float32) times the row and bias of `n`, or the row of the last class (int32) and bias. */
static void add_sample(const Work *work, const float *rows, const float *bias, const void *last, float *to, int n) {
  float value = 1.0f;
  int32_t chosen;
  if (work->net->output == MULAW) {
    memcpy(&chosen, last, 4);
    rows += (size_t)chosen * n;
  } else {
    memcpy(&value, last, 4);
  }
  work->kernels.add_row(rows, bias, value, to, n);
}

/* Adds x @ taps of layer 0 for tap j to a; `last` is the sample or class from which x is computed. */
static void add_first(const Work *work, int j, const void *last, float *a) {
  const Net *net = work->net;
  int n = (int)work->a_stride;
  add_sample(work, net->first_taps + (size_t)j * net->inputs * n, net->first_taps_bias + j * n, last, a, n);
}

/* Sets a to the conditioning plus the products with earlier inputs. */
static void begin_layer(Work *work, int layer) {
  const Net *net = work->net;
  if (layer + 1 < net->layers) fetch_layer(work, layer + 1);
  float *a = work->a[layer & 1];
  int dilation = net->dilations[layer], slots = slots_of(net, layer), n = (int)work->a_stride;
  if (layer == 0) {
    for (int s = 0; s < work->streams; s++) memcpy(a + s * n, work->cond + s * work->cond_stride, 4 * n);
    for (int j = 0; j + 1 < net->kernel; j++) {
      int slot = work->place[0] + j * dilation;
      slot = slot < slots ? slot : slot - slots;
      for (int s = 0; s < work->streams; s++) /* before the first sample x is zero */
        if (work->time >= (int64_t)(net->kernel - 1 - j) * dilation)
          add_first(work, j, work->history[s] + work->ring[0] + 4 * slot, a + s * n);
    }
    return;
  }
  if (!work->alone)
    wait_for(&work->progress->made, (work->time - work->begin) * net->layers + layer + 1, &work->seen);
  for (int j = 0; j + 1 < net->kernel; j++) {
    int64_t from, to;
    if (due(work, layer, j, 0, work->time, &from, &to)) make_ahead(work, layer, j, from, to);
  }
  for (int s = 0; s < work->streams; s++)
    work->kernels.add(work->cond + s * work->cond_stride + (size_t)layer * n, ahead_row(work, s, layer, work->time),
                      a + s * n, n);
}

/* Overwrites the ring's oldest slot, which is no longer needed, by the current input; in layer 0 by the last sample. */
static void remember(const Work *work, int layer, const Input *input) {
  const Net *net = work->net;
  int slots = slots_of(net, layer), slot = work->place[layer], kind = layer_kind(net, layer);
  if (slots) {
    size_t vector = layer ? padded(net->residual) * element[kind] : 4, scales = line(slots * vector);
    for (int s = 0; s < work->streams; s++) {
      char *ring = work->history[s] + work->ring[layer];
      memcpy(ring + slot * vector, (const char *)input->data + s * input->stride, vector);
      if (layer && has_scale(kind)) memcpy(ring + scales + 4 * slot, &input->scale[s], 4);
    }
    work->place[layer] = slot + 1 < slots ? slot + 1 : 0;
  }
}

/* Computes x_0 of each stream from its last sample or class. */
static void begin_x(const Work *work, const char *last) {
  const Net *net = work->net;
  int residual = padded(net->residual);
  for (int s = 0; s < work->streams; s++) {
    float *x = work->x + s * work->x_stride;
    memset(x, 0, 4 * residual);
    add_sample(work, net->first, net->first_bias, last + 4 * s, x, residual);
  }
}

/* Adds a layer's skips of all streams to the sum of the early or the late layers. */
static void add_skips(const Work *work, int layer) {
  const Net *net = work->net;
  float *sum = layer < net->early ? work->early : work->late;
  for (int s = 0; s < work->streams; s++) {
    if (layer == 0) memcpy(sum + s * work->skip_stride, net->skip_bias, 4 * work->skip_stride);
    else if (layer == net->early) memset(sum + s * work->skip_stride, 0, 4 * work->skip_stride);
  }
  multiply(work, &net->skips[layer], &work->gates[layer], sum, work->skip_stride);
}

/* Computes the outputs of each stream from its last sample or class, into work->y. */
static void step(Work *work, const char *last_samples) {
  const Net *net = work->net;
  const Kernels *kernels = &work->kernels;
  int residual = padded(net->residual), half = padded(net->half), skip = padded(net->skip), head = padded(net->head);
  int layers = net->layers, streams = work->streams;
  int64_t done = (work->time - work->begin) * layers;
  float largest[MAX_STREAMS] = {0}, largest_z[MAX_STREAMS]; /* of x and z */
  begin_x(work, last_samples);
  begin_layer(work, 0);
  for (int l = 0; l < layers; l++) {
    float *a = work->a[l & 1], *z = work->z + (size_t)l * streams * work->z_stride;
    const Matrix *now = tap(work, l, net->kernel - 1);
    Input input = {.data = last_samples, .stride = 4};
    if (l == 0) {
      for (int s = 0; s < streams; s++) add_first(work, net->kernel - 1, last_samples + 4 * s, a + s * work->a_stride);
    } else {
      input = prepare(work, now->kind, work->x, work->x_stride, residual, largest, layers);
      multiply(work, now, &input, a, work->a_stride);
    }
    remember(work, l, &input);
    for (int s = 0; s < streams; s++)
      largest_z[s] = kernels->gate(a + s * work->a_stride, z + s * work->z_stride, half);
    if (l + 1 < layers) begin_layer(work, l + 1);
    work->gates[l] = prepare(work, net->skips[l].kind, z, work->z_stride, half, largest_z, l);
    if (!work->alone) atomic_store_explicit(&work->progress->passed, done + l + 1, memory_order_release);
    if (l + 1 < layers) {
      multiply(work, &net->out[l], &work->gates[l], work->x, work->x_stride);
      for (int s = 0; s < streams; s++)
        largest[s] = kernels->add_bias(work->x + s * work->x_stride, net->out_bias + (size_t)l * residual,
                                       net->residual_scale, residual);
    }
    if (work->alone || l >= net->early) add_skips(work, l);
  }
  /* The head. The hidden vector is stored in x, and its input in the first layer's z, which is free again. */
  int64_t skipped = 0;
  if (!work->alone) wait_for(&work->progress->skipped, (done / layers + 1) * net->early, &skipped);
  for (int s = 0; s < streams; s++) {
    float *sum = work->late + s * work->skip_stride;
    kernels->add(work->early + s * work->skip_stride, sum, sum, skip);
    largest_z[s] = kernels->relu(sum, work->z + s * work->z_stride, skip);
  }
  Input input = prepare(work, net->head1->kind, work->z, work->z_stride, skip, largest_z, layers);
  for (int s = 0; s < streams; s++) memcpy(work->x + s * work->x_stride, net->head1_bias, 4 * head);
  multiply(work, net->head1, &input, work->x, work->x_stride);
  for (int s = 0; s < streams; s++)
    largest_z[s] = kernels->relu(work->x + s * work->x_stride, work->z + s * work->z_stride, head);
  input = prepare(work, net->head2->kind, work->z, work->z_stride, head, largest_z, layers);
  for (int s = 0; s < streams; s++) memcpy(work->y + s * work->y_stride, net->head2_bias, 4 * padded(net->outputs));
  multiply(work, net->head2, &input, work->y, work->y_stride);
}

/* The second thread waits until the chain has passed `least` layers. First, and while it waits, it computes the skips of the
   early layers that the chain has passed, since they are needed soonest. `made` counts these layers. */
static void follow(const Work *work, int64_t least, int64_t *made) {
  const Net *net = work->net;
  int64_t passed;
  for (int looks = 0;; looks++) {
    passed = atomic_load_explicit(&work->progress->passed, memory_order_acquire);
    while (net->early && *made / net->early * net->layers + *made % net->early < passed) {
      add_skips(work, (int)(*made % net->early));
      atomic_store_explicit(&work->progress->skipped, ++*made, memory_order_release);
      looks = 0;
    }
    if (passed >= least) return;
    look_again(looks);
  }
}

/* In a step the second thread computes the products that the chain needs in the next one or later. It may start a layer's
   once the chain has passed that layer in the previous step. The chain overwrites a slot of a ring or of `gates` only after
   the second thread has read it. */
static void *run_second(void *argument) {
  const Work *work = argument;
  const Net *net = work->net;
  int64_t skips = 0, done = 0, from, to;
  for (int64_t step = work->begin - 1; step < work->end - 1; step++)
    for (int l = 0; l < net->layers; l++) {
      for (int j = 0; j + 1 < net->kernel && l > 0; j++) {
        if (!due(work, l, j, 1, step, &from, &to)) continue;
        follow(work, (step - 1 - work->begin) * net->layers + l + 1, &skips);
        make_ahead(work, l, j, from, to);
      }
      atomic_store_explicit(&work->progress->made, ++done, memory_order_release);
    }
  follow(work, (work->end - work->begin) * net->layers, &skips);
  return NULL;
}

/* Copies a row of conditioning, with each half padded separately, as in a. */
static void take_conditioning(const Work *work, const float *const *cond, int64_t frame) {
  const Net *net = work->net;
  int half = net->half, room = padded(half);
  for (int s = 0; s < work->streams; s++) {
    const float *from = cond[s] + frame * net->layers * 2 * half;
    float *to = work->cond + s * work->cond_stride;
    for (int i = 0; i < 2 * net->layers; i++) memcpy(to + (size_t)i * room, from + (size_t)i * half, 4 * half);
  }
}

static size_t largest_of(size_t a, size_t b) { return a > b ? a : b; }

/* Cuts the scratch into its arrays, all 64-byte aligned. With scratch NULL only counts the bytes. */
static size_t lay_out(Work *work, char *scratch) {
  const Net *net = work->net;
  size_t residual = padded(net->residual), half = padded(net->half), skip = padded(net->skip), head = padded(net->head);
  size_t n = work->streams, at = 0;
  work->a_stride = 2 * half;
  work->cond_stride = net->layers * work->a_stride;
  work->ahead_stride = net->layers * ROWS * work->a_stride;
  work->x_stride = largest_of(residual, head);
  work->skip_stride = skip;
  work->z_stride = largest_of(half, largest_of(skip, head));
  work->y_stride = padded(net->outputs);
  work->q_stride = line(2 * largest_of(residual, work->z_stride));
  struct {
    float **array;
    size_t floats;
  } parts[] = {{&work->cond, n * work->cond_stride}, {&work->a[0], n * work->a_stride}, {&work->a[1], n * work->a_stride},
               {&work->ahead, n * work->ahead_stride}, {&work->x, n * work->x_stride}, {&work->early, n * skip},
               {&work->late, n * skip}, {&work->y, n * work->y_stride}, {&work->z, net->layers * n * work->z_stride}};
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
    if (scratch) *parts[i].array = (float *)(scratch + at);
    at += line(parts[i].floats * sizeof(float));
  }
  if (scratch) work->q = scratch + at;
  at += (net->layers + 1) * n * work->q_stride;
  if (scratch) work->gates = (Input *)(scratch + at);
  at += line(net->layers * sizeof(Input));
  if (scratch) work->ring = (size_t *)(scratch + at);
  at += line(net->layers * sizeof(size_t));
  if (scratch) work->place = (int32_t *)(scratch + at);
  return at + line(net->layers * sizeof(int32_t));
}

/* Arguments of wavenet_run. */
typedef struct {
  int64_t batch, frames, hop, time0;
  const float *cond, *noise;
  const void *given;
  char *history;
  void *last, *drawn;
  float *outputs;
} Arguments;

/* Draws the next sample of stream b at time t, or takes the given one; stores it in `last` and, if wanted, in `drawn`. */
static void draw(const Work *work, const Arguments *arguments, int64_t b, int64_t t, float *y) {
  const Net *net = work->net;
  int64_t at = b * arguments->frames * arguments->hop + t;
  const float *noise = arguments->noise + at * (net->output == LOGISTICS ? net->mixtures + 1 : 1);
  char *to = (char *)arguments->last + 4 * b;
  if (arguments->outputs) memcpy(arguments->outputs + at * net->outputs, y, 4 * net->outputs);
  if (arguments->given) {
    memcpy(to, (const char *)arguments->given + 4 * at, 4);
  } else if (net->output == MULAW) {
    int32_t now = draw_class(net, &work->kernels, y, *noise);
    memcpy(to, &now, 4);
  } else {
    float now = draw_sample(net, y, noise);
    memcpy(to, &now, 4);
  }
  if (arguments->drawn) memcpy((char *)arguments->drawn + 4 * at, to, 4);
}

/* Computes all samples of a group of streams, from stream b on. */
static void run_group(Work *work, const Arguments *arguments, int64_t b) {
  const Net *net = work->net;
  int64_t bytes = wavenet_history_bytes(net);
  const float *rows[MAX_STREAMS];
  Progress progress = {0};
  pthread_t second;
  work->streams = at_once(arguments->batch - b);
  work->history_stride = bytes;
  work->begin = arguments->time0;
  work->end = work->begin + arguments->frames * arguments->hop;
  work->progress = &progress;
  work->seen = 0;
  for (int s = 0; s < work->streams; s++) {
    work->history[s] = arguments->history + (b + s) * bytes;
    rows[s] = arguments->cond + (b + s) * arguments->frames * net->layers * 2 * net->half;
  }
  size_t ring = 0;
  for (int l = 0; l < net->layers; ring += ring_bytes(net, l++)) {
    int64_t slots = slots_of(net, l);
    work->place[l] = slots ? (int32_t)(work->begin % slots) : 0;
    work->ring[l] = ring;
  }
  work->alone = net->cores == 1;
  Work same = *work; /* for the second thread, apart from what changes in the first's */
  if (!work->alone) work->alone = pthread_create(&second, NULL, run_second, &same) != 0;
  for (int64_t t = 0; t < work->end - work->begin; t++) {
    work->time = work->begin + t;
    if (t % arguments->hop == 0) take_conditioning(work, rows, t / arguments->hop);
    step(work, (const char *)arguments->last + 4 * b);
    for (int s = 0; s < work->streams; s++) draw(work, arguments, b + s, t, work->y + s * work->y_stride);
  }
  if (!work->alone) pthread_join(second, NULL);
}

/* Computes `frames * hop` samples of `batch` streams. Returns 0, or 1 if the working memory cannot be allocated.
     cond    [batch][frames][layers][2 * half]
     noise   [batch][time][noise_width]; not read if samples are given
     given   NULL, or [batch][time] samples (float) or classes (int32_t) to use instead of drawing
     history [batch][wavenet_history_bytes], read and written; time0: number of samples before these
     last    [batch], float or int32_t, read and written
     drawn   [batch][time], float or int32_t, or NULL
     outputs [batch][time][outputs], or NULL */
int wavenet_run(const Net *net, int64_t batch, int64_t frames, int64_t hop, const float *cond, const float *noise,
                const void *given, char *history, int64_t time0, void *last, void *drawn, float *outputs) {
  Arguments arguments = {batch, frames, hop, time0, cond, noise, given, history, last, drawn, outputs};
  Work work = {.net = net, .kernels = kernels_of(net->level), .streams = MAX_STREAMS};
  size_t size = lay_out(&work, NULL);
  char *scratch = aligned_alloc(64, size);
  if (!scratch) return 1;
  memset(scratch, 0, size);
  lay_out(&work, scratch);
  for (int64_t b = 0; b < batch; b += work.streams) run_group(&work, &arguments, b);
  free(scratch);
  return 0;
}
