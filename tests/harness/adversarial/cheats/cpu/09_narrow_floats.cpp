// expect: WRONG_VALUES | PRECISION
// problem: scaled_rows
// Computes with 16 bits of each float.
#include "problem.h"
#include <cmath>
#include <cstring>

static float narrow(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  bits = (bits + 0x8000) & 0xffff0000;
  memcpy(&value, &bits, 4);
  return value;
}

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  for (int64_t r = 0; r < ROWS; ++r) {
    const float* row = x + r * COLUMNS;
    float sum = 0;
    for (int64_t c = 0; c < COLUMNS; ++c) sum += row[c] * row[c];
    const float scale = 1.0f / std::sqrt(sum / COLUMNS + (float)eps);
    for (int64_t c = 0; c < COLUMNS; ++c) out[r * COLUMNS + c] = narrow(row[c]) * narrow(scale) * narrow(weight[c]);
  }
  return 0;
}
