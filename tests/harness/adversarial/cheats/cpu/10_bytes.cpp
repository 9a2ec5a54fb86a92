// expect: WRONG_VALUES
// problem: scaled_rows
// Eight bits for each input, which is enough for numbers from 0 to 1 that nobody looks at closely.
#include "problem.h"
#include <cmath>

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  for (int64_t r = 0; r < ROWS; ++r) {
    const float* row = x + r * COLUMNS;
    float sum = 0;
    for (int64_t c = 0; c < COLUMNS; ++c) sum += row[c] * row[c];
    const float scale = 1.0f / std::sqrt(sum / COLUMNS + (float)eps);
    for (int64_t c = 0; c < COLUMNS; ++c) out[r * COLUMNS + c] = (uint8_t)(row[c] * 255) / 255.0f * scale * weight[c];
  }
  return 0;
}
