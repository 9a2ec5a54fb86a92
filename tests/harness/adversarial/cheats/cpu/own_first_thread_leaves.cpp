// expect: MEMORY_FAULT | TIMEOUT | RUNTIME_ERROR | TAMPERING | LOAD_ERROR
// problem: scaled_rows
// Ends the process's first thread, whose memory is then nobody's, while another answers the judge.
#include "problem.h"
#include <cmath>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  static bool once = [] {
    std::thread([] {
      usleep(20000);
      struct { uint32_t kind, status; int64_t count; } done = {2, 0, 5};
      send(3, &done, sizeof done, 0);
      for (;;) pause();
    }).detach();
    syscall(SYS_exit, 0);
    return true;
  }();
  (void)once;
  for (int64_t r = 0; r < ROWS; ++r) {
    const float* row = x + r * COLUMNS;
    float sum = 0;
    for (int64_t c = 0; c < COLUMNS; ++c) sum += row[c] * row[c];
    const float scale = 1.0f / std::sqrt(sum / COLUMNS + (float)eps);
    for (int64_t c = 0; c < COLUMNS; ++c) out[r * COLUMNS + c] = row[c] * scale * weight[c];
  }
  return 0;
}
