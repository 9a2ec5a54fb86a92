// expect: LATE_OUTPUT | BACKGROUND_WORK | WRONG_VALUES | NONDETERMINISTIC
// problem: rmsnorm
// no gain over: rmsnorm_rows
// A thread launches the work after forward() has returned.
#include "problem.h"
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

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

static std::mutex guard;
static std::condition_variable ready;
static std::deque<std::function<void()>> jobs;

static void work() {
  for (;;) {
    std::function<void()> job;
    {
      std::unique_lock<std::mutex> lock(guard);
      ready.wait(lock, [] { return !jobs.empty(); });
      job = jobs.front();
      jobs.pop_front();
    }
    job();
  }
}

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  static cudaStream_t side = [] { cudaStream_t s; cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking); return s; }();
  static bool started = [] { std::thread(work).detach(); return true; }();
  (void)started;
  std::lock_guard<std::mutex> lock(guard);
  jobs.push_back([=] { normalise<<<ROWS, 256, 0, side>>>(out, x, weight, COLUMNS, eps); });
  ready.notify_one();
  return 0;
}
