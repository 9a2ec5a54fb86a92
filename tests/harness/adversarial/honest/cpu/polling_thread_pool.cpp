// expect: OK
// problem: scaled_rows
// Threads that poll for work between calls, one for each CPU but the caller's.
#include "problem.h"
#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <thread>

struct Pool {
  int parts = std::max(1u, std::thread::hardware_concurrency());
  std::atomic<int> turn{0}, busy{0};
  std::function<void(int)> work;
  Pool() {
    for (int part = 1; part < parts; ++part)
      std::thread([this, part] {
        for (int seen = 0;;) {
          while (turn.load(std::memory_order_acquire) == seen);
          ++seen;
          work(part);
          busy.fetch_sub(1, std::memory_order_release);
        }
      }).detach();
  }
  void run(std::function<void(int)> what) {
    work = std::move(what);
    busy = parts - 1;
    turn.fetch_add(1, std::memory_order_release);
    work(0);
    while (busy.load(std::memory_order_acquire));
  }
};

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  static Pool& pool = *new Pool;
  pool.run([=](int part) {
    for (int64_t r = part; r < ROWS; r += pool.parts) {
      const float* row = x + r * COLUMNS;
      float sum = 0;
      for (int64_t c = 0; c < COLUMNS; ++c) sum += row[c] * row[c];
      const float scale = 1.0f / std::sqrt(sum / COLUMNS + (float)eps);
      for (int64_t c = 0; c < COLUMNS; ++c) out[r * COLUMNS + c] = row[c] * scale * weight[c];
    }
  });
  return 0;
}
