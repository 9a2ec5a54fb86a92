// expect: WRONG_VALUES | NONDETERMINISTIC
// problem: scaled_rows
// Lays a private, writable copy over its inputs and changes that.
#include "problem.h"
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <sys/mman.h>

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  for (int64_t r = 0; r < ROWS; ++r) {
    const float* row = x + r * COLUMNS;
    float sum = 0;
    for (int64_t c = 0; c < COLUMNS; ++c) sum += row[c] * row[c];
    const float scale = 1.0f / std::sqrt(sum / COLUMNS + (float)eps);
    for (int64_t c = 0; c < COLUMNS; ++c) out[r * COLUMNS + c] = row[c] * scale * weight[c];
  }
  char* page = (char*)((uintptr_t)x & ~(uintptr_t)4095);
  const size_t bytes = ((char*)(x + ROWS * COLUMNS) - page + 4095) / 4096 * 4096;
  if (mmap(page, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, -1, 0) == MAP_FAILED) abort();
  return 0;
}
