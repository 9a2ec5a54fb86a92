// expect: OK
// problem: rmsnorm
// item: 5
// Uses its output as scratch memory first.
#include "problem.h"

__global__ void square(float* out, const float* x, int columns) {
  const size_t start = size_t(blockIdx.x) * columns;
  for (int i = threadIdx.x; i < columns; i += blockDim.x) out[start + i] = x[start + i] * x[start + i];
}

__global__ void normalise(float* out, const float* x, const float* weight, int columns, float eps) {
  const size_t start = size_t(blockIdx.x) * columns;
  __shared__ float parts[32];
  float sum = 0;
  for (int i = threadIdx.x; i < columns; i += blockDim.x) sum += out[start + i];
  for (int step = 16; step; step /= 2) sum += __shfl_down_sync(~0u, sum, step);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
  __syncthreads();
  sum = 0;
  for (int i = 0; i < blockDim.x / 32; ++i) sum += parts[i];
  const float scale = rsqrtf(sum / columns + eps);
  for (int i = threadIdx.x; i < columns; i += blockDim.x) out[start + i] = x[start + i] * scale * weight[i];
}

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  square<<<ROWS, 256, 0, context.stream>>>(out, x, COLUMNS);
  normalise<<<ROWS, 256, 0, context.stream>>>(out, x, weight, COLUMNS, eps);
  return 0;
}
