// expect: DEGENERATE_PROBLEM
// problem: relu_of_positive
// Copies its input, where no input is negative.
#include "problem.h"
#include <cstring>

extern "C" int forward(float* out, const float* x, int64_t ROWS, int64_t COLUMNS, KernelContext& context) {
  memcpy(out, x, ROWS * COLUMNS * sizeof(float));
  return 0;
}
