// expect: LATE_OUTPUT | BACKGROUND_WORK
// problem: rmsnorm
// Each call waits for the one before; a thousandth of the rows of the last one is written 120 us after it has returned.
#include "problem.h"

__device__ unsigned long long now() {
  unsigned long long time;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(time));
  return time;
}

// The rows that are left for later, or all the others; `wait` in nanoseconds.
__global__ void normalise(float* out, const float* x, const float* weight, int columns, float eps, bool later, int wait) {
  const bool left = blockIdx.x % 1000 == 537;
  if (left != later) return;
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
  for (const unsigned long long begin = now(); now() < begin + wait;) {}
  for (int i = threadIdx.x; i < columns; i += blockDim.x) out[size_t(blockIdx.x) * columns + i] = row[i] * scale * weight[i];
}

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  static cudaStream_t side = [] { cudaStream_t s; cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking); return s; }();
  static cudaEvent_t mostly = [] { cudaEvent_t e; cudaEventCreateWithFlags(&e, cudaEventDisableTiming); return e; }();
  static cudaEvent_t whole = [] { cudaEvent_t e; cudaEventCreateWithFlags(&e, cudaEventDisableTiming); return e; }();
  cudaStreamWaitEvent(context.stream, whole, 0);
  normalise<<<ROWS, 256, 0, context.stream>>>(out, x, weight, COLUMNS, eps, false, 0);
  cudaEventRecord(mostly, context.stream);
  cudaStreamWaitEvent(side, mostly, 0);
  normalise<<<ROWS, 256, 0, side>>>(out, x, weight, COLUMNS, eps, true, 120000);
  cudaEventRecord(whole, side);
  return 0;
}
