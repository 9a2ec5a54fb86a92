// expect: OK
// problem: rmsnorm
// item: 3
// A buffer of its own that it allocates once, and scratch memory from the context.
#include "problem.h"

__global__ void sum_squares(float* squares, const float* x, int columns) {
  const float* row = x + size_t(blockIdx.x) * columns;
  __shared__ float parts[32];
  float sum = 0;
  for (int i = threadIdx.x; i < columns; i += blockDim.x) sum += row[i] * row[i];
  for (int step = 16; step; step /= 2) sum += __shfl_down_sync(~0u, sum, step);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x) return;
  sum = 0;
  for (int i = 0; i < blockDim.x / 32; ++i) sum += parts[i];
  squares[blockIdx.x] = sum;
}

__global__ void to_scales(float* scales, const float* squares, int64_t rows, int columns, float eps) {
  const int64_t row = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row < rows) scales[row] = rsqrtf(squares[row] / columns + eps);
}

__global__ void multiply(float* out, const float* x, const float* scales, const float* weight, int columns) {
  const size_t start = size_t(blockIdx.x) * columns;
  for (int i = threadIdx.x; i < columns; i += blockDim.x) out[start + i] = x[start + i] * scales[blockIdx.x] * weight[i];
}

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  static float* squares = nullptr;
  static int64_t room = 0;
  if (room < ROWS) {
    cudaFree(squares);
    if (cudaMalloc(&squares, ROWS * sizeof(float)) != cudaSuccess) return context.fail("no memory");
    room = ROWS;
  }
  float* scales = (float*)context.workspace(ROWS * sizeof(float));
  if (!scales) return context.fail("no memory");
  sum_squares<<<ROWS, 256, 0, context.stream>>>(squares, x, COLUMNS);
  to_scales<<<(ROWS + 255) / 256, 256, 0, context.stream>>>(scales, squares, ROWS, COLUMNS, eps);
  multiply<<<ROWS, 256, 0, context.stream>>>(out, x, scales, weight, COLUMNS);
  return 0;
}
