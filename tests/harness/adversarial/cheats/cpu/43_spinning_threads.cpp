// expect: OK | TIMING_MISMATCH
// problem: scaled_rows
// no gain over: plain
// Leaves threads behind that burn all CPUs and sweep the caches while others are timed. They are also in the way
// of its own calls, which start anew where calls come one by one, and so take longer there.
#include "problem.h"
#include <cmath>
#include <thread>
#include <vector>

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  static bool started = [] {
    for (int i = 0; i < 4; ++i)
      std::thread([] {
        std::vector<float> all(8 << 20);
        for (volatile float sum = 0;;)
          for (size_t k = 0; k < all.size(); k += 16) sum = sum + (all[k] += 1);
      }).detach();
    return true;
  }();
  (void)started;
  for (int64_t r = 0; r < ROWS; ++r) {
    const float* row = x + r * COLUMNS;
    float sum = 0;
    for (int64_t c = 0; c < COLUMNS; ++c) sum += row[c] * row[c];
    const float scale = 1.0f / std::sqrt(sum / COLUMNS + (float)eps);
    for (int64_t c = 0; c < COLUMNS; ++c) out[r * COLUMNS + c] = row[c] * scale * weight[c];
  }
  return 0;
}
