// expect: OK
// problem: rmsnorm
// item: 7
// Sums up by atomic additions, in an order that is never the same.
#include "problem.h"

__global__ void add_squares(float* sums, const float* x, int columns) {
  const float* row = x + size_t(blockIdx.x) * columns;
  float sum = 0;
  for (int i = blockIdx.y * blockDim.x + threadIdx.x; i < columns; i += gridDim.y * blockDim.x) sum += row[i] * row[i];
  for (int step = 16; step; step /= 2) sum += __shfl_down_sync(~0u, sum, step);
  if (threadIdx.x % 32 == 0) atomicAdd(sums + blockIdx.x, sum);
}

__global__ void multiply(float* out, const float* x, const float* sums, const float* weight, int columns, float eps) {
  const size_t start = size_t(blockIdx.x) * columns;
  const float scale = rsqrtf(sums[blockIdx.x] / columns + eps);
  for (int i = threadIdx.x; i < columns; i += blockDim.x) out[start + i] = x[start + i] * scale * weight[i];
}

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  float* sums = (float*)context.workspace(ROWS * sizeof(float));
  if (!sums) return context.fail("no memory");
  cudaMemsetAsync(sums, 0, ROWS * sizeof(float), context.stream);
  const dim3 grid(ROWS, 4);
  add_squares<<<grid, 256, 0, context.stream>>>(sums, x, COLUMNS);
  multiply<<<ROWS, 256, 0, context.stream>>>(out, x, sums, weight, COLUMNS, eps);
  return 0;
}
