/* The loop over samples. See wavenet.h for the layouts and decoding/wavenet_native.py for what calls this.

   For each layer l, with x the residual vector and a ring of the last (kernel - 1) * dilation inputs:
     a = cond + sum over taps of x(earlier) @ taps;  z = tanh(a) sigmoid(a);  x | skips += z @ mix;  x = (x + bias) * scale

   In layer 0, x is w * first + first_bias with the last sample w, so x @ taps is w * (first @ taps) + first_bias @ taps: a row
   of first_taps, in float32, in place of a product. It is exact, and of the layer only the samples need to be kept.

   The chain from one product to the next (largest value, scale, bytes) is long next to a product of a small net. So the
   products with earlier samples of layer l + 1, which wait for nothing, stand between the gate of layer l and its use.

   With two parts two threads go through the same steps, each with the columns that are its own, and meet where one vector
   is made of both's: z of each layer, the skips, the head's hidden vector. The residual both make whole, rather than meet
   once more. */

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
#define PATIENCE 20000 /* looks at the other's counter before the core is offered to others */

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

/* The kernels of a level that the machine has; AVX-512 without BF16 or VNNI takes AVX2's products. */
static Kernels kernels_of(int level) {
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
  if (level == AVX2) return avx2_kernels;
  if (level == AVX512) {
    Kernels kernels = avx512_kernels;
    if (!__builtin_cpu_supports("avx512bf16")) kernels.matvec[BFLOAT16] = avx2_kernels.matvec[BFLOAT16];
    if (!__builtin_cpu_supports("avx512vnni")) {
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

/* A layer's ring: `slots` vectors, then, for int8 and fine, as many scales; in layer 0 the samples alone. */
static size_t ring_bytes(const Net *net, int layer) {
  size_t slots = (size_t)(net->kernel - 1) * net->dilations[layer];
  if (layer == 0) return line(slots * 4);
  int kind = layer_kind(net, layer);
  return line(slots * padded(net->residual) * element[kind]) + (has_scale(kind) ? line(slots * 4) : 0);
}

/* Bytes of one stream's rings. All zero bytes are not all zero vectors for int8, but with their scale of zero they are. */
int64_t wavenet_history_bytes(const Net *net) {
  size_t bytes = 0;
  for (int l = 0; l < net->layers; l++) bytes += ring_bytes(net, l);
  return (int64_t)bytes;
}

/* What two threads tell each other. Of two meetings' values the older ones are written over: who still reads them has not
   come to the later meeting. */
typedef struct {
  struct {
    _Alignas(64) atomic_uint arrived; /* how often this thread has come to a meeting */
    float largest[2][MAX_STREAMS];    /* of its part of z */
  } of[MAX_PARTS];
} Team;

/* What a group of up to MAX_STREAMS streams is computed in. Strides are in floats, from stream to stream. With two parts each
   thread has a Work of its own; z is the same memory in both. */
typedef struct {
  const Net *net;
  Kernels kernels;
  Team *team;
  int part;
  unsigned met; /* meetings so far */
  int streams;
  int64_t time; /* samples before this one */
  char *history[MAX_STREAMS];
  size_t history_stride;
  int32_t *place;  /* [layers]: the ring's oldest slot, which is written next */
  float *cond;     /* [streams][layers][2 halves], halves of this part, as in a */
  float *x;        /* [streams][residual | skip], of the skips this part's */
  float *a[2];     /* [streams][2 halves], of even and odd layers */
  float *z[2];     /* [streams][the widest of half, skip, head], what parts make together, of even and odd meetings */
  float *y;        /* [streams][outputs] */
  char *q;         /* [streams][the widest vector], what products take */
  size_t cond_stride, x_stride, a_stride, z_stride, y_stride, q_stride;
} Work;

/* Of the gate's padded half, of a matrix' columns or of a vector: what one part has of it. */
static int share(const Work *work, int n) { return n / work->net->parts; }

static const Matrix *tap(const Work *work, int layer, int j) {
  const Net *net = work->net;
  return &net->taps[((size_t)work->part * net->layers + layer) * net->kernel + j];
}

/* Where this part writes its columns of a padded vector of n before the next meeting, and their largest. */
static float *own_z(const Work *work, int n) { return work->z[work->met & 1] + work->part * share(work, n); }
static float *own_largest(const Work *work) { return work->team->of[work->part].largest[work->met & 1]; }

/* A thread says that it is there: what it wrote before, the other sees after `wait`. */
static void arrive(Work *work) {
  work->met++;
  if (work->net->parts > 1) atomic_store_explicit(&work->team->of[work->part].arrived, work->met, memory_order_release);
}

static void wait(const Work *work) {
  if (work->net->parts == 1) return;
  atomic_uint *other = &work->team->of[1 - work->part].arrived;
  for (int looks = 0; (int)(atomic_load_explicit(other, memory_order_acquire) - work->met) < 0; looks++) {
    if (looks < PATIENCE) RELAX();
    else sched_yield();
  }
}

static void meet(Work *work) {
  arrive(work);
  wait(work);
}

/* The vectors x, rows `stride` floats apart, as the weights of `kind` want them. */
static Input prepare(const Work *work, int kind, const float *x, size_t stride, int n, const float *largest) {
  Input input = {.data = x, .stride = stride * sizeof(float)};
  if (kind == FLOAT32) return input;
  input.data = work->q;
  input.stride = work->q_stride;
  for (int s = 0; s < work->streams; s++) {
    void *q = work->q + s * work->q_stride;
    if (kind == BFLOAT16) work->kernels.to_bfloat16(x + s * stride, q, n);
    else if (kind == FINE) input.scale[s] = work->kernels.to_fine(x + s * stride, largest[s], q, n);
    else input.scale[s] = work->kernels.to_int8(x + s * stride, largest[s], q, n);
  }
  return input;
}

/* The same for the vectors of n that the parts have made before the last meeting. */
static Input prepare_z(const Work *work, int kind, int n) {
  int last = (work->met - 1) & 1;
  const float *left = work->team->of[0].largest[last], *right = work->team->of[work->net->parts - 1].largest[last];
  float largest[MAX_STREAMS];
  for (int s = 0; s < work->streams; s++) largest[s] = left[s] > right[s] ? left[s] : right[s];
  return prepare(work, kind, work->z[last], work->z_stride, n, largest);
}

static void multiply(const Work *work, const Matrix *w, const Input *input, float *acc, size_t stride) {
  work->kernels.matvec[w->kind](w, work->streams, input, acc, stride);
}

static void fetch(const void *from, size_t bytes) {
  for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch((const char *)from + at);
}

/* Asks for what a layer needs besides its weights, whose stream has pushed it out of the near caches. */
static void fetch_layer(const Work *work, int layer, size_t ring) {
  const Net *net = work->net;
  int half = share(work, padded(net->half)), residual = padded(net->residual), dilation = net->dilations[layer];
  int slots = (net->kernel - 1) * dilation, slot = work->place[layer];
  int kind = layer_kind(net, layer);
  size_t vector = residual * element[kind], scales = ring + line(slots * vector);
  fetch(net->out_bias + (size_t)layer * residual, 4 * residual);
  for (int s = 0; s < work->streams; s++) fetch(work->cond + s * work->cond_stride + (size_t)layer * 2 * half, 8 * half);
  for (int j = 0; j + 1 < net->kernel; j++) {
    for (int s = 0; s < work->streams; s++) {
      fetch(work->history[s] + ring + slot * vector, vector);
      if (has_scale(kind)) __builtin_prefetch(work->history[s] + scales + 4 * slot);
    }
    slot = slot + dilation < slots ? slot + dilation : slot + dilation - slots;
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

/* x @ taps of layer 0 for tap j, added to a; `last` is the sample or class that x is made of. */
static void add_first(const Work *work, int j, const void *last, float *a) {
  const Net *net = work->net;
  int n = 2 * share(work, padded(net->half));
  size_t at = (size_t)work->part * net->kernel + j;
  add_sample(work, net->first_taps + at * net->inputs * n, net->first_taps_bias + at * n, last, a, n);
}

/* a = cond, plus the products with the samples before this one. `ring` is the layer's offset in the history. */
static void begin_layer(const Work *work, int layer, size_t ring) {
  const Net *net = work->net;
  if (layer + 1 < net->layers) fetch_layer(work, layer + 1, ring + ring_bytes(net, layer));
  float *a = work->a[layer & 1];
  int half = share(work, padded(net->half)), dilation = net->dilations[layer], slots = (net->kernel - 1) * dilation;
  int kind = layer_kind(net, layer);
  size_t vector = padded(net->residual) * element[kind], scales = ring + line(slots * vector);
  for (int s = 0; s < work->streams; s++)
    memcpy(a + s * work->a_stride, work->cond + s * work->cond_stride + (size_t)layer * 2 * half, 8 * half);
  int slot = work->place[layer];
  for (int j = 0; j + 1 < net->kernel; j++) {
    if (layer == 0) {
      for (int s = 0; s < work->streams; s++) /* before the first sample x is zero */
        if (work->time >= (int64_t)(net->kernel - 1 - j) * dilation)
          add_first(work, j, work->history[s] + ring + 4 * slot, a + s * work->a_stride);
    } else {
      Input input = {.data = work->history[0] + ring + slot * vector, .stride = work->history_stride};
      for (int s = 0; s < work->streams && has_scale(kind); s++)
        memcpy(&input.scale[s], work->history[s] + scales + 4 * slot, 4);
      multiply(work, tap(work, layer, j), &input, a, work->a_stride);
    }
    slot = slot + dilation < slots ? slot + dilation : slot + dilation - slots;
  }
}

/* Writes this sample's input, in layer 0 the last sample, over the ring's oldest, which begin_layer has read. */
static void remember(const Work *work, int layer, size_t ring, const Input *input) {
  const Net *net = work->net;
  int slots = (net->kernel - 1) * net->dilations[layer], slot = work->place[layer], kind = layer_kind(net, layer);
  if (slots == 0) return;
  size_t vector = layer ? padded(net->residual) * element[kind] : 4, scales = ring + line(slots * vector);
  for (int s = 0; s < work->streams && work->part == 0; s++) {
    memcpy(work->history[s] + ring + slot * vector, (const char *)input->data + s * input->stride, vector);
    if (layer && has_scale(kind)) memcpy(work->history[s] + scales + 4 * slot, &input->scale[s], 4);
  }
  work->place[layer] = slot + 1 < slots ? slot + 1 : 0;
}

/* x_0 | skip_bias of each stream from the `last` of each. */
static void begin_x(const Work *work, const char *last) {
  const Net *net = work->net;
  int residual = padded(net->residual), own_skip = share(work, padded(net->skip));
  for (int s = 0; s < work->streams; s++) {
    float *x = work->x + s * work->x_stride;
    memset(x, 0, 4 * residual);
    add_sample(work, net->first, net->first_bias, last + 4 * s, x, residual);
    memcpy(x + residual, net->skip_bias + work->part * own_skip, 4 * own_skip);
  }
}

/* One sample of each stream from the `last` of each; fills work->y of the first part. */
static void step(Work *work, const char *last_samples) {
  const Net *net = work->net;
  const Kernels *kernels = &work->kernels;
  int residual = padded(net->residual), half = padded(net->half), skip = padded(net->skip), head = padded(net->head);
  int own_half = share(work, half), own_skip = share(work, skip), own_head = share(work, head);
  int last = net->layers - 1, streams = work->streams;
  float largest[MAX_STREAMS] = {0}; /* of x */
  size_t ring = 0;
  begin_x(work, last_samples);
  begin_layer(work, 0, ring);
  for (int l = 0; l <= last; l++) {
    float *a = work->a[l & 1];
    const Matrix *now = tap(work, l, net->kernel - 1), *mix = &net->mix[(size_t)work->part * net->layers + l];
    Input input = {.data = last_samples, .stride = 4};
    if (l == 0) {
      for (int s = 0; s < streams; s++) add_first(work, net->kernel - 1, last_samples + 4 * s, a + s * work->a_stride);
    } else {
      input = prepare(work, now->kind, work->x, work->x_stride, residual, largest);
      multiply(work, now, &input, a, work->a_stride);
    }
    for (int s = 0; s < streams; s++)
      own_largest(work)[s] = kernels->gate(a + s * work->a_stride, own_z(work, half) + s * work->z_stride, own_half);
    arrive(work);
    if (l < last) begin_layer(work, l + 1, ring + ring_bytes(net, l));
    wait(work);
    remember(work, l, ring, &input); /* the other has begun this layer, so has read what is overwritten */
    ring += ring_bytes(net, l);
    input = prepare_z(work, mix->kind, half);
    multiply(work, mix, &input, work->x + (l < last ? 0 : residual), work->x_stride);
    for (int s = 0; s < streams && l < last; s++)
      largest[s] = kernels->add_bias(work->x + s * work->x_stride, net->out_bias + (size_t)l * residual,
                                     net->residual_scale, residual);
  }
  /* The head. The hidden vector takes the place of the residual. */
  for (int s = 0; s < streams; s++)
    own_largest(work)[s] = kernels->relu(work->x + s * work->x_stride + residual, own_z(work, skip) + s * work->z_stride,
                                         own_skip);
  meet(work);
  const Matrix *head1 = &net->head1[work->part];
  Input input = prepare_z(work, head1->kind, skip);
  for (int s = 0; s < streams; s++)
    memcpy(work->x + s * work->x_stride, net->head1_bias + work->part * own_head, 4 * own_head);
  multiply(work, head1, &input, work->x, work->x_stride);
  for (int s = 0; s < streams; s++)
    own_largest(work)[s] = kernels->relu(work->x + s * work->x_stride, own_z(work, head) + s * work->z_stride, own_head);
  meet(work);
  if (work->part) return;
  input = prepare_z(work, net->head2->kind, head);
  for (int s = 0; s < streams; s++) memcpy(work->y + s * work->y_stride, net->head2_bias, 4 * padded(net->outputs));
  multiply(work, net->head2, &input, work->y, work->y_stride);
}

/* A row of conditioning, its halves padded each by itself, of each what this part makes. */
static void take_conditioning(const Work *work, const float *const *cond, int64_t frame) {
  const Net *net = work->net;
  int half = net->half, own = share(work, padded(half)), begin = work->part * own;
  int count = half - begin < own ? half - begin : own;
  for (int s = 0; s < work->streams && count > 0; s++) {
    const float *from = cond[s] + frame * net->layers * 2 * half + begin;
    float *to = work->cond + s * work->cond_stride;
    for (int i = 0; i < 2 * net->layers; i++) memcpy(to + (size_t)i * own, from + (size_t)i * half, 4 * count);
  }
}

static size_t largest_of(size_t a, size_t b) { return a > b ? a : b; }

/* Cuts the scratch into the arrays of one part, all 64-byte aligned; z, which parts share, and y are in the first's. With
   scratch NULL only counts the bytes. */
static size_t lay_out(Work *work, char *scratch) {
  const Net *net = work->net;
  size_t residual = padded(net->residual), half = padded(net->half), skip = padded(net->skip), head = padded(net->head);
  size_t n = work->streams, at = 0;
  work->a_stride = 2 * share(work, half);
  work->cond_stride = net->layers * work->a_stride;
  work->x_stride = largest_of(residual + share(work, skip), share(work, head));
  work->z_stride = largest_of(half, largest_of(skip, head));
  work->y_stride = padded(net->outputs);
  work->q_stride = line(2 * largest_of(residual, work->z_stride));
  float **arrays[] = {&work->cond, &work->a[0], &work->a[1], &work->x, &work->y, &work->z[0], &work->z[1]};
  size_t strides[] = {work->cond_stride, work->a_stride, work->a_stride, work->x_stride,
                      work->y_stride, work->z_stride, work->z_stride};
  for (int i = 0; i < (work->part ? 4 : 7); i++) {
    if (scratch) *arrays[i] = (float *)(scratch + at);
    at += line(n * strides[i] * sizeof(float));
  }
  if (scratch) work->q = scratch + at;
  at += n * work->q_stride;
  if (scratch) work->place = (int32_t *)(scratch + at);
  return at + line(net->layers * sizeof(int32_t));
}

/* What wavenet_run was called with. */
typedef struct {
  int64_t batch, frames, hop, time0;
  const float *cond, *noise;
  const void *given;
  char *history;
  void *last, *drawn;
  float *outputs;
} Arguments;

/* The next sample of stream b at time t: drawn, or given; to where it is fed back from, and where it is wanted. */
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

/* One part's way through all samples. */
static void run_part(Work *work, const Arguments *arguments) {
  const Net *net = work->net;
  int64_t time = arguments->frames * arguments->hop, bytes = wavenet_history_bytes(net), batch = arguments->batch;
  work->history_stride = bytes;
  for (int64_t b = 0; b < batch; b += work->streams) {
    work->streams = batch - b >= 4 ? 4 : batch - b >= 2 ? 2 : 1;
    const float *rows[MAX_STREAMS];
    for (int s = 0; s < work->streams; s++) {
      work->history[s] = arguments->history + (b + s) * bytes;
      rows[s] = arguments->cond + (b + s) * arguments->frames * net->layers * 2 * net->half;
    }
    for (int l = 0; l < net->layers; l++) {
      int64_t slots = (int64_t)(net->kernel - 1) * net->dilations[l];
      work->place[l] = slots ? (int32_t)(arguments->time0 % slots) : 0;
    }
    for (int64_t t = 0; t < time; t++) {
      work->time = arguments->time0 + t;
      if (t % arguments->hop == 0) take_conditioning(work, rows, t / arguments->hop);
      step(work, (const char *)arguments->last + 4 * b);
      for (int s = 0; s < work->streams && work->part == 0; s++)
        draw(work, arguments, b + s, t, work->y + s * work->y_stride);
      meet(work); /* the sample is there */
    }
  }
}

typedef struct {
  Work work;
  const Arguments *arguments;
} Second;

static void *run_second(void *second) {
  run_part(&((Second *)second)->work, ((Second *)second)->arguments);
  return NULL;
}

/* `frames * hop` samples of `batch` streams. Returns 0, or 1 where there is no memory for the scratch.
     cond    [batch][frames][layers][2 * half]
     noise   [batch][time][noise_width]; not read where samples are given
     given   NULL, or [batch][time] samples (float) or classes (int32_t) that are taken for what was drawn
     history [batch][wavenet_history_bytes], read and written; time0: samples before these
     last    [batch], float or int32_t, read and written
     drawn   [batch][time], float or int32_t, or NULL
     outputs [batch][time][outputs], or NULL */
int wavenet_run(const Net *net, int64_t batch, int64_t frames, int64_t hop, const float *cond, const float *noise,
                const void *given, char *history, int64_t time0, void *last, void *drawn, float *outputs) {
  Arguments arguments = {batch, frames, hop, time0, cond, noise, given, history, last, drawn, outputs};
  Team team = {0};
  Work work = {.net = net, .kernels = kernels_of(net->level), .team = &team, .streams = MAX_STREAMS};
  Second second = {.work = work, .arguments = &arguments};
  second.work.part = 1;
  size_t size = lay_out(&work, NULL), more = net->parts > 1 ? lay_out(&second.work, NULL) : 0;
  char *scratch = aligned_alloc(64, size + more);
  if (!scratch) return 1;
  memset(scratch, 0, size + more);
  lay_out(&work, scratch);
  pthread_t thread;
  if (net->parts > 1) {
    lay_out(&second.work, scratch + size);
    memcpy(second.work.z, work.z, sizeof work.z);
    if (pthread_create(&thread, NULL, run_second, &second)) {
      free(scratch);
      return 1;
    }
  }
  run_part(&work, &arguments);
  if (net->parts > 1) pthread_join(thread, NULL);
  free(scratch);
  return 0;
}
