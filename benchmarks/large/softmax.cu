// One block for each row: largest value and sum in one pass, the quotient in a second.
#include "problem.h"

constexpr int THREADS = 1024;

struct Part {
  float largest, sum;
};

__device__ Part merged(Part a, Part b) {
  const float largest = fmaxf(a.largest, b.largest);
  if (largest == -INFINITY) return {largest, 0};
  return {largest, a.sum * __expf(a.largest - largest) + b.sum * __expf(b.largest - largest)};
}

__global__ void __launch_bounds__(THREADS) softmax(float* out, const float* x, int64_t columns) {
  const float* row = x + blockIdx.x * columns;
  float* target = out + blockIdx.x * columns;
  Part mine{-INFINITY, 0};
  for (int64_t i = threadIdx.x; i < columns; i += THREADS) {
    const float value = row[i];
    if (value > mine.largest) {
      mine.sum *= __expf(mine.largest - value);
      mine.largest = value;
    }
    mine.sum += __expf(value - mine.largest);
  }
  __shared__ Part parts[32];
  for (int step = 16; step; step /= 2)
    mine = merged(mine, {__shfl_xor_sync(~0u, mine.largest, step), __shfl_xor_sync(~0u, mine.sum, step)});
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = mine;
  __syncthreads();
  Part all = parts[0];
  for (int i = 1; i < THREADS / 32; ++i) all = merged(all, parts[i]);
  const float scale = 1.0f / all.sum;
  for (int64_t i = threadIdx.x; i < columns; i += THREADS) target[i] = __expf(row[i] - all.largest) * scale;
}

extern "C" int forward(float* out, const float* x, int64_t ROWS, int64_t COLUMNS, KernelContext& context) {
  softmax<<<ROWS, THREADS, 0, context.stream>>>(out, x, COLUMNS);
  return 0;
}
