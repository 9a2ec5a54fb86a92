// expect: OK
// problem: scaled_rows
// no gain over: plain
// Reads far beyond its own slot, where the inputs of later calls and other cases lie: not wrong, and of no use.
#include "problem.h"
#include <cmath>

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  volatile float seen = 0;
  for (int64_t i = 0; i < 4 * ROWS * COLUMNS; i += 1024) seen = seen + x[i];
  for (int64_t r = 0; r < ROWS; ++r) {
    const float* row = x + r * COLUMNS;
    float sum = 0;
    for (int64_t c = 0; c < COLUMNS; ++c) sum += row[c] * row[c];
    const float scale = 1.0f / std::sqrt(sum / COLUMNS + (float)eps);
    for (int64_t c = 0; c < COLUMNS; ++c) out[r * COLUMNS + c] = row[c] * scale * weight[c];
  }
  return 0;
}
