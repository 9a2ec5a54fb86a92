// expect: OK
// problem: row_norms
// What a cheat for this problem must not be faster than.
#include "problem.h"
#include <cmath>

extern "C" int forward(float* out, const float* x, int64_t ROWS, int64_t COLUMNS, KernelContext& context) {
  for (int64_t r = 0; r < ROWS; ++r) {
    float part[16] = {0};
    const float* row = x + r * COLUMNS;
    int64_t c = 0;
    for (; c + 16 <= COLUMNS; c += 16)
      for (int k = 0; k < 16; ++k) part[k] += row[c + k] * row[c + k];
    for (; c < COLUMNS; ++c) part[0] += row[c] * row[c];
    float sum = 0;
    for (int k = 0; k < 16; ++k) sum += part[k];
    out[r] = std::sqrt(sum);
  }
  return 0;
}
