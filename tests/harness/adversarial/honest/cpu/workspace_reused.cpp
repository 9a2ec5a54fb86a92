// expect: OK
// problem: scaled_rows
// item: 3
// Scratch memory from the context, and a buffer of its own that it keeps between calls.
#include "problem.h"
#include <cmath>
#include <vector>

static std::vector<float> scales;

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  float* squares = (float*)context.workspace(COLUMNS * sizeof(float));
  if (!squares) return context.fail("no memory");
  scales.resize(ROWS);
  for (int64_t r = 0; r < ROWS; ++r) {
    float sum = 0;
    for (int64_t c = 0; c < COLUMNS; ++c) squares[c] = x[r * COLUMNS + c] * x[r * COLUMNS + c];
    for (int64_t c = 0; c < COLUMNS; ++c) sum += squares[c];
    scales[r] = 1.0f / std::sqrt(sum / COLUMNS + (float)eps);
  }
  for (int64_t i = 0; i < ROWS * COLUMNS; ++i) out[i] = x[i] * scales[i / COLUMNS] * weight[i % COLUMNS];
  return 0;
}
