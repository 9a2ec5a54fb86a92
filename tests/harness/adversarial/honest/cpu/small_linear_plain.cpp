// expect: OK
// problem: small_linear
// What a cheat for this problem must not be faster than.
#include "problem.h"

constexpr int LANES = 8, ROWS = 4;
using Lanes = float __attribute__((vector_size(LANES * sizeof(float)), aligned(4)));

extern "C" int forward(float* out, const float* x, const float* linear_weight, const float* linear_bias, int64_t OUTPUTS,
                       int64_t FEATURES, int64_t features, int64_t outputs, KernelContext& context) {
#pragma omp parallel for
  for (int64_t first = 0; first < OUTPUTS; first += ROWS) {
    Lanes part[ROWS] = {};
    const float* row[ROWS];
    for (int r = 0; r < ROWS; ++r) row[r] = linear_weight + (first + r < OUTPUTS ? first + r : first) * FEATURES;
    int64_t f = 0;
    for (; f + LANES <= FEATURES; f += LANES)
      for (int r = 0; r < ROWS; ++r)
        part[r] += *reinterpret_cast<const Lanes*>(row[r] + f) * *reinterpret_cast<const Lanes*>(x + f);
    for (int r = 0; r < ROWS && first + r < OUTPUTS; ++r) {
      float sum = linear_bias[first + r];
      for (int k = 0; k < LANES; ++k) sum += part[r][k];
      for (int64_t rest = f; rest < FEATURES; ++rest) sum += row[r][rest] * x[rest];
      out[first + r] = sum;
    }
  }
  return 0;
}
