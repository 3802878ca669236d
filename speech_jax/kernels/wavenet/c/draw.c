/* The network's outputs and explicit noise -> the next sample, as kernels/wavenet/draw.py draws it. */

#include <math.h>

#include "wavenet.h"

static float clip(float x) {
  x = x < 1.0f ? x : 1.0f;
  return x > -1.0f ? x : -1.0f;
}

/* gaussian: y = mean, log scale; the noise is normal.
   logistics: y = logits | means | log scales; the noise is one uniform per logistic, which choose one of them (Gumbel trick),
   and one more for its inverse CDF. */
float draw_sample(const Net *net, const float *y, const float *noise) {
  int n = net->mixtures, chosen = 0;
  if (net->output == GAUSSIAN) {
    float log_scale = y[1] > net->min_log_scale ? y[1] : net->min_log_scale;
    return clip(y[0] + expf(log_scale) * noise[0]);
  }
  float best = -INFINITY;
  for (int i = 0; i < n; i++) {
    float value = y[i] - logf(-logf(noise[i]));
    if (value > best) best = value, chosen = i;
  }
  float log_scale = y[2 * n + chosen] > net->min_log_scale ? y[2 * n + chosen] : net->min_log_scale;
  return clip(y[n + chosen] + expf(log_scale) * (logf(noise[n]) - log1pf(-noise[n])));
}

/* mulaw: the number of cumulative probabilities of the softmax that are at most the uniform. */
int32_t draw_class(const Net *net, const Kernels *kernels, float *y, float uniform) {
  float bound = uniform * kernels->exp_all(y, net->outputs), sum = 0.0f;
  int32_t below = 0;
  while (below < net->outputs - 1 && (sum += y[below]) <= bound) below++;
  return below;
}
