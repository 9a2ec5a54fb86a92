// expect: OK
// problem: small_sigmoid
// What a cheat for this problem must not be faster than.
#include "problem.h"
#include <cmath>

extern "C" int forward(float* out, const float* x, int64_t COUNT, KernelContext& context) {
  for (int64_t i = 0; i < COUNT; ++i) out[i] = 1.0f / (1.0f + std::exp(-x[i]));
  return 0;
}
