// expect: OK
// problem: scaled_rows
// item: 5
// Uses its output as scratch memory first.
#include "problem.h"
#include <cmath>

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  for (int64_t i = 0; i < ROWS * COLUMNS; ++i) out[i] = x[i] * x[i];
  for (int64_t r = 0; r < ROWS; ++r) {
    float sum = 0;
    for (int64_t c = 0; c < COLUMNS; ++c) sum += out[r * COLUMNS + c];
    const float scale = 1.0f / std::sqrt(sum / COLUMNS + (float)eps);
    for (int64_t c = 0; c < COLUMNS; ++c) out[r * COLUMNS + c] = x[r * COLUMNS + c] * scale * weight[c];
  }
  return 0;
}
