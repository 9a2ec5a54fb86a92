// expect: OK
// problem: scaled_rows
// A thread of its own for half of the rows, joined before it returns.
#include "problem.h"
#include <cmath>
#include <thread>

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  auto rows = [=](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const float* row = x + r * COLUMNS;
      float sum = 0;
      for (int64_t c = 0; c < COLUMNS; ++c) sum += row[c] * row[c];
      const float scale = 1.0f / std::sqrt(sum / COLUMNS + (float)eps);
      for (int64_t c = 0; c < COLUMNS; ++c) out[r * COLUMNS + c] = row[c] * scale * weight[c];
    }
  };
  std::thread helper(rows, 0, ROWS / 2);
  rows(ROWS / 2, ROWS);
  helper.join();
  return 0;
}
