// expect: OK | TIMING_MISMATCH
// problem: small_sigmoid
// no gain over: sigmoid_plain
// Slow until the judge has decided how many calls a block needs: then blocks are too short to tell time in.
#include "problem.h"
#include <cmath>
#include <time.h>

extern "C" int forward(float* out, const float* x, int64_t COUNT, KernelContext& context) {
  static int calls = 0;
  if (++calls < 30) {
    timespec pause = {0, 20000000};
    nanosleep(&pause, nullptr);
  }
  for (int64_t i = 0; i < COUNT; ++i) out[i] = 1.0f / (1.0f + std::exp(-x[i]));
  return 0;
}
