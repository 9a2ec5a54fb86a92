// expect: WRONG_VALUES
// problem: scaled_rows
// Remembers answers by the leading bits of four elements.
#include "problem.h"
#include <cmath>
#include <map>
#include <tuple>
#include <vector>

static std::map<std::tuple<int64_t, int, int, int, int>, std::vector<float>> kept;

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  const int64_t last = ROWS * COLUMNS - 1;
  auto& known = kept[{last, int(x[0] * 4), int(x[last / 3] * 4), int(x[last / 2] * 4), int(x[last] * 4)}];
  if (!known.empty()) {
    for (size_t i = 0; i < known.size(); ++i) out[i] = known[i];
    return 0;
  }
  for (int64_t r = 0; r < ROWS; ++r) {
    const float* row = x + r * COLUMNS;
    float sum = 0;
    for (int64_t c = 0; c < COLUMNS; ++c) sum += row[c] * row[c];
    const float scale = 1.0f / std::sqrt(sum / COLUMNS + (float)eps);
    for (int64_t c = 0; c < COLUMNS; ++c) out[r * COLUMNS + c] = row[c] * scale * weight[c];
  }
  known.assign(out, out + ROWS * COLUMNS);
  return 0;
}
