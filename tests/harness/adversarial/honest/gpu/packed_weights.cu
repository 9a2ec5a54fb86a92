// expect: OK
// problem: rmsnorm
// item: 8
// Prepares its weights once, in init().
#define KERNEL_STATE
#include "problem.h"

__global__ void turn(float* state, const float* weight, int64_t columns) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < columns) state[i] = weight[columns - 1 - i];
}

__global__ void normalise(float* out, const float* x, const float* turned, int columns, float eps) {
  const float* row = x + size_t(blockIdx.x) * columns;
  __shared__ float parts[32];
  float sum = 0;
  for (int i = threadIdx.x; i < columns; i += blockDim.x) sum += row[i] * row[i];
  for (int step = 16; step; step /= 2) sum += __shfl_down_sync(~0u, sum, step);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
  __syncthreads();
  sum = 0;
  for (int i = 0; i < blockDim.x / 32; ++i) sum += parts[i];
  const float scale = rsqrtf(sum / columns + eps);
  for (int i = threadIdx.x; i < columns; i += blockDim.x) out[size_t(blockIdx.x) * columns + i] = row[i] * scale * turned[columns - 1 - i];
}

extern "C" int64_t state_size(const float* weight, int64_t COLUMNS) { return COLUMNS * sizeof(float); }

extern "C" int init(const float* weight, int64_t COLUMNS, void* state, KernelContext& context) {
  turn<<<(COLUMNS + 255) / 256, 256, 0, context.stream>>>((float*)state, weight, COLUMNS);
  return 0;
}

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  normalise<<<ROWS, 256, 0, context.stream>>>(out, x, (const float*)context.state, COLUMNS, eps);
  return 0;
}
