// expect: WRONG_VALUES | NONDETERMINISTIC
// problem: rmsnorm
// Eight warps add to one sum without waiting for each other, and sometimes all of them are in time.
#include "problem.h"

__global__ void normalise(float* out, const float* x, const float* weight, int columns, float eps) {
  const float* row = x + size_t(blockIdx.x) * columns;
  __shared__ volatile float total;
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  float sum = 0;
  for (int i = threadIdx.x; i < columns; i += blockDim.x) sum += row[i] * row[i];
  for (int step = 16; step; step /= 2) sum += __shfl_down_sync(~0u, sum, step);
  if (threadIdx.x % 32 == 0) total = total + sum;
  __syncthreads();
  const float scale = rsqrtf(total / columns + eps);
  for (int i = threadIdx.x; i < columns; i += blockDim.x) out[size_t(blockIdx.x) * columns + i] = row[i] * scale * weight[i];
}

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  normalise<<<ROWS, 256, 0, context.stream>>>(out, x, weight, COLUMNS, eps);
  return 0;
}
