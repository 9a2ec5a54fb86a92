// expect: BACKGROUND_WORK | LATE_OUTPUT | TIMEOUT
// problem: rmsnorm
// no gain over: rmsnorm_rows
// Leaves a millisecond of work for a third of the device behind each call, in which whoever comes next is slow.
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

__global__ void occupy() {
  const long long end = clock64() + 2000000;
  while (clock64() < end) {
  }
}

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  static cudaStream_t side = [] {
    int least, greatest;
    cudaDeviceGetStreamPriorityRange(&least, &greatest);
    cudaStream_t s;
    cudaStreamCreateWithPriority(&s, cudaStreamNonBlocking, greatest);
    return s;
  }();
  static cudaEvent_t done = [] { cudaEvent_t e; cudaEventCreateWithFlags(&e, cudaEventDisableTiming); return e; }();
  normalise<<<ROWS, 256, 0, context.stream>>>(out, x, weight, COLUMNS, eps);
  cudaEventRecord(done, context.stream);
  cudaStreamWaitEvent(side, done, 0);
  occupy<<<132, 1024, 0, side>>>();
  return 0;
}
