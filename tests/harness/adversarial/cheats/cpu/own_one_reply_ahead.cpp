// expect: TAMPERING
// problem: scaled_rows
// One reply too many while nobody counts, so that each later one arrives before it was asked for.
#include "problem.h"
#include <cmath>
#include <sys/socket.h>

__attribute__((constructor)) static void early() {
  struct { uint32_t kind, status; int64_t count; } ready = {1, 0, 0};
  send(3, &ready, sizeof ready, 0);
}

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  for (int64_t r = 0; r < ROWS; ++r) {
    const float* row = x + r * COLUMNS;
    float sum = 0;
    for (int64_t c = 0; c < COLUMNS; ++c) sum += row[c] * row[c];
    const float scale = 1.0f / std::sqrt(sum / COLUMNS + (float)eps);
    for (int64_t c = 0; c < COLUMNS; ++c) out[r * COLUMNS + c] = row[c] * scale * weight[c];
  }
  return 0;
}
