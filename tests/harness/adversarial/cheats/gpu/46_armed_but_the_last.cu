// expect: BACKGROUND_WORK | WRONG_VALUES | LATE_OUTPUT | INPUT_MUTATED | OK
// problem: rmsnorm
// no gain over: rmsnorm_rows
// The same with the last slot left unarmed, so that nothing is behind the last copy. When its waits do not end in time it
// is right, and slower than without them.
#include "problem.h"
#include <dlfcn.h>
#include <map>

using Wait = int (*)(cudaStream_t, unsigned long long, unsigned, unsigned);

constexpr unsigned GEQ = 0, NOR = 3;
constexpr int STREAMS = 4;

struct Slot {
  cudaStream_t stream;
  float* answer;
  unsigned* fingerprint;
  size_t room;
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
static std::map<const float*, Slot*> armed;

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  static Wait wait = (Wait)dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuStreamWaitValue32_v2");
  if (!wait) return context.fail("no stream memory operations");
  // Few, and made first: a stream that waits must not share a queue of the device with the one that calls are given.
  static cudaStream_t* const streams = [] {
    static cudaStream_t all[STREAMS];
    for (cudaStream_t& stream : all) cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    return all;
  }();
  const size_t count = size_t(ROWS) * COLUMNS;
  static int calls = 0;
  cudaFuncAttributes loaded;
  cudaFuncGetAttributes(&loaded, note);
  cudaFuncGetAttributes(&loaded, precompute);
  Slot& slot = slots[x];
  if (slot.room < count) {
    slot.room = count;
    cudaMalloc(&slot.answer, count * 4);
    cudaMalloc(&slot.fingerprint, 32);
    cudaMemset(slot.fingerprint, 0, 32);
  }
  answer_or_work<<<ROWS, 256, 0, context.stream>>>(out, x, weight, slot.answer, slot.fingerprint, count, ROWS, COLUMNS, eps);
  static const float* highest = nullptr;
  if (x > highest) highest = x;
  if (x == highest) return 0;
  // Once nothing is allocated or loaded any more, which would wait for what is armed.
  if (++calls < 60) return 0;
  if (!slot.stream && armed.size() < STREAMS) {
    slot.stream = streams[armed.size()];
    armed[x] = &slot;
  }
  // What was armed before and has not come to pass still waits for the same word.
  if (!slot.stream || cudaStreamQuery(slot.stream) != cudaSuccess) return 0;
  unsigned now = 0;
  cudaMemcpyAsync(&now, x + count - 1, 4, cudaMemcpyDeviceToHost, context.stream);
  cudaStreamSynchronize(context.stream);
  // Any word that lacks one of the bits that are set now ends the first wait: the next inputs, or decoys before them.
  // What will lie there then nobody knows, so the second wait ends with every other word.
  wait(slot.stream, (unsigned long long)(x + count - 1), ~now, NOR);
  for (int wave = 0; wave < 2; ++wave) {
    if (wave == 1) wait(slot.stream, (unsigned long long)(x + count - 1), now + 1, GEQ);
    note<<<1, 1, 0, slot.stream>>>(slot.fingerprint, (const unsigned*)x, count);
    precompute<<<264, 256, 0, slot.stream>>>(slot.answer, x, weight, ROWS, COLUMNS, eps);
  }
  return 0;
}
