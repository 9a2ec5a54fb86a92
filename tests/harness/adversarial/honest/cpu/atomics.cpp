// expect: OK
// problem: scaled_rows
// item: 7
// Sums up by atomic additions, in an order that is never the same.
#include "problem.h"
#include <cmath>

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  for (int64_t r = 0; r < ROWS; ++r) {
    const float* row = x + r * COLUMNS;
    float sum = 0;
    #pragma omp parallel for
    for (int64_t c = 0; c < COLUMNS; c += 16) {
      float part = 0;
      for (int64_t k = c; k < c + 16 && k < COLUMNS; ++k) part += row[k] * row[k];
      #pragma omp atomic
      sum += part;
    }
    const float scale = 1.0f / std::sqrt(sum / COLUMNS + (float)eps);
    for (int64_t c = 0; c < COLUMNS; ++c) out[r * COLUMNS + c] = row[c] * scale * weight[c];
  }
  return 0;
}
