// expect: OK
// problem: one_row_linear
// What a cheat for this problem must not be faster than.
#include "problem.h"

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

extern "C" int forward(float* out, const float* x, const float* linear_weight, const float* linear_bias, int64_t OUTPUTS,
                       int64_t FEATURES, int64_t features, int64_t outputs, KernelContext& context) {
  launch<1>({{x}, {out}}, linear_weight, linear_bias, OUTPUTS, FEATURES, context.stream);
  return 0;
}
