// expect: OK
// problem: scaled_rows
// item: 8
// Prepares its weights once, in init().
#define KERNEL_STATE
#include "problem.h"
#include <cmath>

extern "C" int64_t state_size(const float* weight, int64_t COLUMNS) { return COLUMNS * sizeof(float); }

extern "C" int init(const float* weight, int64_t COLUMNS, void* state, KernelContext& context) {
  for (int64_t c = 0; c < COLUMNS; ++c) ((float*)state)[c] = weight[COLUMNS - 1 - c];
  return 0;
}

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  const float* turned = (const float*)context.state;
  for (int64_t r = 0; r < ROWS; ++r) {
    const float* row = x + r * COLUMNS;
    float sum = 0;
    for (int64_t c = 0; c < COLUMNS; ++c) sum += row[c] * row[c];
    const float scale = 1.0f / std::sqrt(sum / COLUMNS + (float)eps);
    for (int64_t c = 0; c < COLUMNS; ++c) out[r * COLUMNS + c] = row[c] * scale * turned[COLUMNS - 1 - c];
  }
  return 0;
}
