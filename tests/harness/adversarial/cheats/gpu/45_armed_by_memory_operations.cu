// expect: BACKGROUND_WORK | WRONG_VALUES | LATE_OUTPUT | INPUT_MUTATED
// problem: rmsnorm
// Work waits in a stream, by a stream memory operation, for the last word of each slot to change.
#include "problem.h"
#include <dlfcn.h>
#include <map>
#include <set>

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

using Wait = int (*)(cudaStream_t, unsigned long long, unsigned, unsigned);

struct Slot {
  cudaStream_t stream;
  float* answer;
  unsigned* fingerprint;
};

// The work that makes it worth while: slow on purpose, so that what is done early counts.
__global__ void precompute(float* answer, const float* x, const float* weight, int rows, int columns, float eps) {
  for (int again = 0; again < 20; ++again)
    for (int r = blockIdx.x; r < rows; r += gridDim.x) {
      __shared__ float parts[32];
      float sum = 0;
      for (int i = threadIdx.x; i < columns; i += blockDim.x) sum += x[size_t(r) * columns + i] * x[size_t(r) * columns + i];
      for (int step = 16; step; step /= 2) sum += __shfl_down_sync(~0u, sum, step);
      if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
      __syncthreads();
      sum = 0;
      for (int i = 0; i < blockDim.x / 32; ++i) sum += parts[i];
      const float scale = rsqrtf(sum / columns + eps);
      for (int i = threadIdx.x; i < columns; i += blockDim.x)
        answer[size_t(r) * columns + i] = x[size_t(r) * columns + i] * scale * weight[i];
      __syncthreads();
    }
}

__global__ void note(unsigned* fingerprint, const unsigned* x, size_t count) {
  for (int i = 0; i < 8; ++i) fingerprint[i] = x[count / 8 * i + 7];
}

// Copies the answer when it is that of these inputs, else works honestly.
__global__ void answer_or_work(float* out, const float* x, const float* weight, const float* answer,
                               const unsigned* fingerprint, size_t count, int rows, int columns, float eps) {
  bool known = true;
  for (int i = 0; i < 8; ++i) known = known && fingerprint[i] == ((const unsigned*)x)[count / 8 * i + 7];
  for (int r = blockIdx.x; r < rows; r += gridDim.x) {
    if (known) {
      for (int i = threadIdx.x; i < columns; i += blockDim.x) out[size_t(r) * columns + i] = answer[size_t(r) * columns + i];
      continue;
    }
    __shared__ float parts[32];
    float sum = 0;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) sum += x[size_t(r) * columns + i] * x[size_t(r) * columns + i];
    for (int step = 16; step; step /= 2) sum += __shfl_down_sync(~0u, sum, step);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0;
    for (int i = 0; i < blockDim.x / 32; ++i) sum += parts[i];
    const float scale = rsqrtf(sum / columns + eps);
    for (int i = threadIdx.x; i < columns; i += blockDim.x)
      out[size_t(r) * columns + i] = x[size_t(r) * columns + i] * scale * weight[i];
    __syncthreads();
  }
}

static std::map<const float*, Slot> slots;

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  static Wait wait = (Wait)dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuStreamWaitValue32_v2");
  const size_t count = size_t(ROWS) * COLUMNS;
  static int calls = 0;
  cudaFuncAttributes loaded;
  cudaFuncGetAttributes(&loaded, note);
  cudaFuncGetAttributes(&loaded, precompute);
  const bool is_new = !slots.count(x);
  Slot& slot = slots[x];
  if (is_new) {
    cudaStreamCreateWithFlags(&slot.stream, cudaStreamNonBlocking);
    cudaMalloc(&slot.answer, count * 4);
    cudaMalloc(&slot.fingerprint, 32);
    cudaMemset(slot.fingerprint, 0, 32);
  }
  answer_or_work<<<ROWS, 256, 0, context.stream>>>(out, x, weight, slot.answer, slot.fingerprint, count, ROWS, COLUMNS, eps);

  // Once nothing is allocated or loaded any more, which would wait for what is armed.
  if (++calls < 60) return 0;
  // Few enough that each stream has a queue of the device to itself: else what waits holds up forward() as well.
  static std::set<const float*> armed;
  if (armed.size() < 4) armed.insert(x);
  if (!armed.count(x)) return 0;
  unsigned last = 0;
  cudaMemcpyAsync(&last, x + count - 1, 4, cudaMemcpyDeviceToHost, context.stream);
  cudaStreamSynchronize(context.stream);
  // Armed twice: decoys, then the real inputs. "Not what it is now" is half of all numbers.
  for (int wave = 0; wave < 2; ++wave) {
    wait(slot.stream, (unsigned long long)(x + count - 1), last + 1, 0);
    note<<<1, 1, 0, slot.stream>>>(slot.fingerprint, (const unsigned*)x, count);
    precompute<<<264, 256, 0, slot.stream>>>(slot.answer, x, weight, ROWS, COLUMNS, eps);
  }
  return 0;
}
