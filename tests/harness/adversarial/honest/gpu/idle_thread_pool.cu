// expect: OK
// problem: rmsnorm
// item: 11
// A pool of threads that wait for work between calls, and launch half of the rows each.
#include "problem.h"
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

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

struct Pool {
  std::mutex guard;
  std::condition_variable changed;
  int turn = 0, busy = 0;
  std::vector<std::thread> threads;
  void (*work)(void*, int) = nullptr;
  void* argument = nullptr;

  explicit Pool(int count) {
    for (int i = 0; i < count; ++i) threads.emplace_back([this, i] { serve(i); });
    for (std::thread& thread : threads) thread.detach();
  }
  void serve(int index) {
    int seen = 0;
    for (;;) {
      std::unique_lock<std::mutex> lock(guard);
      changed.wait(lock, [&] { return turn != seen; });
      seen = turn;
      lock.unlock();
      work(argument, index);
      lock.lock();
      if (--busy == 0) changed.notify_all();
    }
  }
  void run(void (*what)(void*, int), void* with) {
    std::unique_lock<std::mutex> lock(guard);
    work = what, argument = with, busy = (int)threads.size(), ++turn;
    changed.notify_all();
    changed.wait(lock, [&] { return busy == 0; });
  }
};

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  static Pool& pool = *new Pool(2);
  auto half = [=, stream = context.stream](int part) {
    const int64_t first = part ? ROWS / 2 : 0, count = part ? ROWS - ROWS / 2 : ROWS / 2;
    if (count) normalise<<<count, 256, 0, stream>>>(out + first * COLUMNS, x + first * COLUMNS, weight, COLUMNS, eps);
  };
  pool.run([](void* work, int part) { (*static_cast<decltype(half)*>(work))(part); }, (void*)&half);
  return 0;
}
