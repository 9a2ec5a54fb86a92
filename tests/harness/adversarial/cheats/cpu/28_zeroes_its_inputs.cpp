// expect: INPUT_MUTATED
// problem: scaled_rows
// Zeroes its inputs, so that zeros are the right answer for whoever looks at them later.
#include "problem.h"
#include <cmath>

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  for (int64_t i = 0; i < ROWS * COLUMNS; ++i) const_cast<float*>(x)[i] = out[i] = 0;
  return 0;
  for (int64_t r = 0; r < ROWS; ++r) {
    const float* row = x + r * COLUMNS;
    float sum = 0;
    for (int64_t c = 0; c < COLUMNS; ++c) sum += row[c] * row[c];
    const float scale = 1.0f / std::sqrt(sum / COLUMNS + (float)eps);
    for (int64_t c = 0; c < COLUMNS; ++c) out[r * COLUMNS + c] = row[c] * scale * weight[c];
  }
  return 0;
}
