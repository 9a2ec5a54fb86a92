// expect: WRONG_VALUES
// problem: scaled_rows
// Honest for two hundred calls, then the last answer again.
#include "problem.h"
#include <cmath>
#include <vector>

static std::vector<float> kept;
static int calls = 0;

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  if (calls++ > 200 && kept.size() == (size_t)(ROWS * COLUMNS)) {
    for (size_t i = 0; i < kept.size(); ++i) out[i] = kept[i];
    return 0;
  }
  for (int64_t r = 0; r < ROWS; ++r) {
    const float* row = x + r * COLUMNS;
    float sum = 0;
    for (int64_t c = 0; c < COLUMNS; ++c) sum += row[c] * row[c];
    const float scale = 1.0f / std::sqrt(sum / COLUMNS + (float)eps);
    for (int64_t c = 0; c < COLUMNS; ++c) out[r * COLUMNS + c] = row[c] * scale * weight[c];
  }
  kept.assign(out, out + ROWS * COLUMNS);
  return 0;
}
