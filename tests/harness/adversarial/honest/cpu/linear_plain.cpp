// expect: OK
// problem: one_row_linear
// What a cheat for this problem must not be faster than.
#include "problem.h"

extern "C" int forward(float* out, const float* x, const float* linear_weight, const float* linear_bias, int64_t OUTPUTS,
                       int64_t FEATURES, int64_t features, int64_t outputs, KernelContext& context) {
  #pragma omp parallel for
  for (int64_t o = 0; o < OUTPUTS; ++o) {
    const float* row = linear_weight + o * FEATURES;
    float sum = linear_bias[o];
    float part[16] = {0};
    for (int64_t f = 0; f + 16 <= FEATURES; f += 16)
      for (int k = 0; k < 16; ++k) part[k] += row[f + k] * x[f + k];
    for (int64_t f = FEATURES / 16 * 16; f < FEATURES; ++f) sum += row[f] * x[f];
    for (int k = 0; k < 16; ++k) sum += part[k];
    out[o] = sum;
  }
  return 0;
}
