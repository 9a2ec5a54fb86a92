// expect: COMPILE_ERROR
// problem: rmsnorm
#include "problem.h"
__global__ void normalise(float* out) { out[0] = undeclared; }
extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  normalise<<<1, 1, 0, context.stream>>>(out);
  return 0;
}
