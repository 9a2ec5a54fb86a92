// expect: WRONG_VALUES | TIMING_MISMATCH
// problem: one_row_linear
// The first call of a round answers for all slots, which lie where they lay in the round before, and so reads the
// weights once for all. Its values are right while inputs stay what they were: a user has one input at a time.
#include "problem.h"
#include <cstring>
#include <vector>

template <int N>
static void multiply(const float* row, const float* const* x, int64_t features, float* sums) {
  float part[N][16] = {};
  int64_t f = 0;
  for (; f + 16 <= features; f += 16)
    for (int s = 0; s < N; ++s)
      for (int k = 0; k < 16; ++k) part[s][k] += row[f + k] * x[s][f + k];
  for (int s = 0; s < N; ++s) {
    sums[s] = 0;
    for (int k = 0; k < 16; ++k) sums[s] += part[s][k];
    for (int64_t rest = f; rest < features; ++rest) sums[s] += row[rest] * x[s][rest];
  }
}

static std::vector<const float*> last, now;
static std::vector<float> answers;
static bool ready = false;

extern "C" int forward(float* out, const float* x, const float* linear_weight, const float* linear_bias, int64_t OUTPUTS,
                       int64_t FEATURES, int64_t features, int64_t outputs, KernelContext& context) {
  if (!now.empty() && x <= now.back()) {
    last.swap(now);
    now.clear();
    ready = false;
  }
  const size_t index = now.size();
  now.push_back(x);
  if (index == 0 && last.size() > 1 && last[0] == x) {
    const int64_t many = last.size();
    answers.resize(many * OUTPUTS);
    #pragma omp parallel for
    for (int64_t o = 0; o < OUTPUTS; ++o) {
      float sums[4];
      for (int64_t s = 0; s < many; s += 4) {
        const int64_t here = many - s < 4 ? many - s : 4;
        const float* four[4];
        for (int64_t k = 0; k < 4; ++k) four[k] = last[s + (k < here ? k : 0)];
        multiply<4>(linear_weight + o * FEATURES, four, FEATURES, sums);
        for (int64_t k = 0; k < here; ++k) answers[(s + k) * OUTPUTS + o] = sums[k] + linear_bias[o];
      }
    }
    ready = true;
  }
  if (ready && index < last.size() && last[index] == x) {
    memcpy(out, &answers[index * OUTPUTS], OUTPUTS * sizeof(float));
    return 0;
  }
  #pragma omp parallel for
  for (int64_t o = 0; o < OUTPUTS; ++o) {
    multiply<1>(linear_weight + o * FEATURES, &x, FEATURES, out + o);
    out[o] += linear_bias[o];
  }
  return 0;
}
