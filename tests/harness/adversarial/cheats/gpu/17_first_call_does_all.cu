// expect: WRONG_VALUES | TIMING_MISMATCH
// problem: one_row_linear
// no gain over: one_row_linear
// The first call of a round answers for all slots, which lie at a fixed distance where they lay in the round before, and
// so reads the weights once for eight of them; the other calls only copy. Its values are right, for whoever calls it
// with many inputs that are all there beforehand: a user has one input at a time.
#include "problem.h"
#include <vector>

constexpr int ROWS_OF_A_WARP = 4;

template <int N>
struct Many {
  const float* x[N];
  float* out[N];
};

// A warp has four rows of the weights and N inputs, so that each weight is read once for all of them.
template <int N>
__global__ void multiply(Many<N> many, const float* weight, const float* bias, int64_t outputs, int64_t features) {
  const int lane = threadIdx.x % 32;
  const int64_t first = (int64_t(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32) * ROWS_OF_A_WARP;
  float sums[ROWS_OF_A_WARP][N] = {};
  if (first >= outputs) return;
  for (int64_t f = lane * 4; f < features; f += 128) {
    const bool whole = features % 4 == 0;
    float w[ROWS_OF_A_WARP][4], v[4];
    for (int r = 0; r < ROWS_OF_A_WARP; ++r) {
      const float* row = weight + (first + r < outputs ? first + r : first) * features + f;
      if (whole) *reinterpret_cast<float4*>(w[r]) = __ldcs(reinterpret_cast<const float4*>(row));
      for (int k = 0; k < 4 && !whole; ++k) w[r][k] = f + k < features ? row[k] : 0.0f;
    }
#pragma unroll
    for (int s = 0; s < N; ++s) {
      if (whole) *reinterpret_cast<float4*>(v) = *reinterpret_cast<const float4*>(many.x[s] + f);
      for (int k = 0; k < 4 && !whole; ++k) v[k] = f + k < features ? many.x[s][f + k] : 0.0f;
      for (int r = 0; r < ROWS_OF_A_WARP; ++r)
        for (int k = 0; k < 4; ++k) sums[r][s] += w[r][k] * v[k];
    }
  }
#pragma unroll
  for (int s = 0; s < N; ++s)
    for (int r = 0; r < ROWS_OF_A_WARP; ++r) {
      float sum = sums[r][s];
      for (int step = 16; step; step /= 2) sum += __shfl_down_sync(~0u, sum, step);
      if (lane == 0 && first + r < outputs) many.out[s][first + r] = sum + bias[first + r];
    }
}

template <int N>
static void launch(const Many<N>& many, const float* weight, const float* bias, int64_t outputs, int64_t features,
                   cudaStream_t stream) {
  multiply<N><<<(outputs + 31) / 32, 256, 0, stream>>>(many, weight, bias, outputs, features);
}

constexpr size_t EACH = 8, MOST = 256;

static std::vector<const float*> last, now;
static size_t ready = 0;

extern "C" int forward(float* out, const float* x, const float* linear_weight, const float* linear_bias, int64_t OUTPUTS,
                       int64_t FEATURES, int64_t features, int64_t outputs, KernelContext& context) {
  static float* answers = nullptr;
  static int64_t room = 0;
  if (room < OUTPUTS) {
    room = OUTPUTS;
    if (cudaMalloc(&answers, MOST * OUTPUTS * sizeof(float)) != cudaSuccess) return context.fail("no memory");
  }
  if (!now.empty() && x <= now.back()) {
    last.swap(now);
    now.clear();
    ready = 0;
  }
  const size_t index = now.size();
  now.push_back(x);
  if (index == 0 && last.size() > 1 && last[0] == x) {
    const ptrdiff_t stride = last[1] - last[0];
    ready = last.size() < MOST ? last.size() : MOST;
    for (size_t from = 0; from < ready; from += EACH) {
      Many<EACH> many;
      for (size_t s = 0; s < EACH; ++s) {
        // The last group is filled up with its first member, answered several times.
        const size_t slot = from + s < ready ? from + s : from;
        many.x[s] = x + ptrdiff_t(slot) * stride;
        many.out[s] = answers + slot * OUTPUTS;
      }
      launch<EACH>(many, linear_weight, linear_bias, OUTPUTS, FEATURES, context.stream);
    }
  }
  if (index < ready && x == last[0] + ptrdiff_t(index) * (last[1] - last[0])) {
    cudaMemcpyAsync(out, answers + index * OUTPUTS, OUTPUTS * sizeof(float), cudaMemcpyDeviceToDevice, context.stream);
    return 0;
  }
  launch<1>({{x}, {out}}, linear_weight, linear_bias, OUTPUTS, FEATURES, context.stream);
  return 0;
}
