// expect: TAMPERING
// problem: scaled_rows
// Writes a reply, and then a line of the log, to every descriptor that there may be.
#include "problem.h"
#include <cmath>
#include <unistd.h>

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  struct { uint32_t kind, status; int64_t count; } done = {2, 0, 5};
  const char line[] = "{\"type\":\"bye\",\"count\":1}\n";
  for (int fd = 0; fd < 256; ++fd) {
    write(fd, &done, sizeof done);
    write(fd, line, sizeof line - 1);
  }
  for (int64_t r = 0; r < ROWS; ++r) {
    const float* row = x + r * COLUMNS;
    float sum = 0;
    for (int64_t c = 0; c < COLUMNS; ++c) sum += row[c] * row[c];
    const float scale = 1.0f / std::sqrt(sum / COLUMNS + (float)eps);
    for (int64_t c = 0; c < COLUMNS; ++c) out[r * COLUMNS + c] = row[c] * scale * weight[c];
  }
  return 0;
}
