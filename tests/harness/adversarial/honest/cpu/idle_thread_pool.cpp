// expect: OK
// problem: scaled_rows
// item: 11
// A pool of threads that wait for work between calls.
#include "problem.h"
#include <cmath>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

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
  auto rows = [=](int part) {
    for (int64_t r = part; r < ROWS; r += 2) {
      const float* row = x + r * COLUMNS;
      float sum = 0;
      for (int64_t c = 0; c < COLUMNS; ++c) sum += row[c] * row[c];
      const float scale = 1.0f / std::sqrt(sum / COLUMNS + (float)eps);
      for (int64_t c = 0; c < COLUMNS; ++c) out[r * COLUMNS + c] = row[c] * scale * weight[c];
    }
  };
  pool.run([](void* work, int part) { (*static_cast<decltype(rows)*>(work))(part); }, (void*)&rows);
  return 0;
}
