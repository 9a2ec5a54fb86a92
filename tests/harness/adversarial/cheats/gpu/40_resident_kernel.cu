// expect: BACKGROUND_WORK | LATE_OUTPUT | WRONG_VALUES | TIMEOUT
// problem: rmsnorm
// no gain over: rmsnorm_rows
// A kernel that never ends watches the inputs and answers as soon as they change.
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

__global__ void watch(const float* x, const float* weight, float* answers, int rows, int columns, float eps,
                      volatile int* stop) {
  volatile const unsigned* last = (volatile const unsigned*)(x + size_t(rows) * columns - 1);
  unsigned seen = *last;
  while (!*stop) {
    if (*last == seen) continue;
    seen = *last;
    for (int r = blockIdx.x; r < rows; r += gridDim.x) {
      float sum = 0;
      for (int i = threadIdx.x % 32; i < columns; i += 32) sum += x[size_t(r) * columns + i] * x[size_t(r) * columns + i];
      for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
      const float scale = rsqrtf(sum / columns + eps);
      for (int i = threadIdx.x; i < columns; i += 32) answers[size_t(r) * columns + i] = x[size_t(r) * columns + i] * scale * weight[i];
    }
  }
}

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  static cudaStream_t side = [] { cudaStream_t s; cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking); return s; }();
  static const float* watched = nullptr;
  static int calls = 0;
  cudaFuncAttributes loaded;
  cudaFuncGetAttributes(&loaded, watch);
  // Once nothing is allocated or loaded any more, which would wait for a kernel that never ends.
  if (!watched && ++calls > 60) {
    float* answers;
    int* stop;
    cudaMalloc(&answers, ROWS * COLUMNS * sizeof(float));
    cudaMalloc(&stop, sizeof(int));
    cudaMemset(stop, 0, sizeof(int));
    watched = x;
    watch<<<8, 32, 0, side>>>(x, weight, answers, ROWS, COLUMNS, eps, stop);
  }
  normalise<<<ROWS, 256, 0, context.stream>>>(out, x, weight, COLUMNS, eps);
  return 0;
}
