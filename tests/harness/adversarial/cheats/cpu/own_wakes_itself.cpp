// expect: RUNTIME_ERROR
// problem: scaled_rows
// Asks for a SIGCONT in a moment: to go on computing while everything of it is stopped.
#include "problem.h"
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <ctime>

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  sigevent event = {};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGCONT;
  timer_t timer;
  if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0) abort();
  for (int64_t r = 0; r < ROWS; ++r) {
    const float* row = x + r * COLUMNS;
    float sum = 0;
    for (int64_t c = 0; c < COLUMNS; ++c) sum += row[c] * row[c];
    const float scale = 1.0f / std::sqrt(sum / COLUMNS + (float)eps);
    for (int64_t c = 0; c < COLUMNS; ++c) out[r * COLUMNS + c] = row[c] * scale * weight[c];
  }
  return 0;
}
