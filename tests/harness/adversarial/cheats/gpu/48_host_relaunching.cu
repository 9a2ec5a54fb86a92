// expect: BACKGROUND_WORK | LATE_OUTPUT
// problem: rmsnorm
// no gain over: rmsnorm_rows
// Leaves a long queue of small kernels behind each call, which watch the inputs while the runner stands still.
#include "problem.h"

__global__ void normalise(float* out, const float* x, const float* weight, int columns, float eps) {
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
  for (int i = threadIdx.x; i < columns; i += blockDim.x) out[size_t(blockIdx.x) * columns + i] = row[i] * scale * weight[i];
}

__global__ void linger(volatile const unsigned* last, unsigned* seen) {
  const long long end = clock64() + 2000000;
  while (clock64() < end)
    if (*last != *seen) *seen = *last;
}

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  static cudaStream_t side = [] { cudaStream_t s; cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking); return s; }();
  static unsigned* seen = [] { unsigned* p; cudaMalloc(&p, 4); return p; }();
  normalise<<<ROWS, 256, 0, context.stream>>>(out, x, weight, COLUMNS, eps);
  for (int i = 0; i < 20; ++i) linger<<<1, 1, 0, side>>>((const unsigned*)x + ROWS * COLUMNS - 1, seen);
  return 0;
}
