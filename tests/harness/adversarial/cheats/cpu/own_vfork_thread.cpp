// expect: TAMPERING
// problem: scaled_rows
// A thread waits for another that it made like vfork() does: such a wait cannot be stopped, so a judge that stops this
// process would wait for ever.
#include "problem.h"
#include <cmath>
#include <sched.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>

static int wait_for_ever(void*) {
  for (;;) syscall(SYS_pause);
}

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  static bool once = [] {
    std::thread([] {
      static char stack[1 << 16];
      const int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_VFORK;
      clone(wait_for_ever, stack + sizeof stack, flags, nullptr);
    }).detach();
    usleep(50000);
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
