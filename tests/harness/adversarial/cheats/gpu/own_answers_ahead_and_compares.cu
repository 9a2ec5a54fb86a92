// expect: TIMING_MISMATCH
// problem: one_row_linear
// Every eighth call answers for the seven that follow, whose inputs lie where they lay in the round before, and so reads
// the weights once for eight; the others compare their inputs with what was answered, and answer anew if they differ.
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
__global__ void multiply(Many<N> many, const float* weight, const float* bias, int64_t outputs, int64_t features,
                         const int* needed) {
  if (needed && !*needed) return;
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

__global__ void keep(Many<8> many, float* kept, int64_t features) {
  for (int64_t f = blockIdx.x * blockDim.x + threadIdx.x; f < 8 * features; f += gridDim.x * blockDim.x)
    kept[f] = many.x[f / features][f % features];
}

// Whether x is not what was answered; if it is, the answer.
__global__ void take(float* out, const float* answer, int64_t outputs, const float* x, const float* kept, int64_t features,
                     int* differs) {
  int found = 0;
  for (int64_t f = threadIdx.x; f < features; f += blockDim.x) found |= x[f] != kept[f];
  found = __syncthreads_or(found);
  if (threadIdx.x == 0) *differs = found;
  for (int64_t o = threadIdx.x; o < outputs && !found; o += blockDim.x) out[o] = answer[o];
}

constexpr size_t EACH = 8;

static std::vector<const float*> last, now;

extern "C" int forward(float* out, const float* x, const float* linear_weight, const float* linear_bias, int64_t OUTPUTS,
                       int64_t FEATURES, int64_t features, int64_t outputs, KernelContext& context) {
  static float *answers = nullptr, *kept = nullptr;
  static int* differs = nullptr;
  static bool ahead = false;
  if (!answers && (cudaMalloc(&answers, EACH * OUTPUTS * sizeof(float)) || cudaMalloc(&differs, sizeof(int)) ||
                   cudaMalloc(&kept, EACH * FEATURES * sizeof(float))))
    return context.fail("no memory");
  if (!now.empty() && x <= now.back()) {
    last.swap(now);
    now.clear();
  }
  const size_t index = now.size(), slot = index % EACH;
  now.push_back(x);
  const int blocks = (OUTPUTS + 31) / 32;
  if (slot == 0) {
    ahead = last.size() >= index + EACH && last[index] == x;
    if (ahead) {
      Many<EACH> many;
      for (size_t s = 0; s < EACH; ++s) many.x[s] = last[index + s], many.out[s] = answers + s * OUTPUTS;
      keep<<<64, 256, 0, context.stream>>>(many, kept, FEATURES);
      multiply<EACH><<<blocks, 256, 0, context.stream>>>(many, linear_weight, linear_bias, OUTPUTS, FEATURES, nullptr);
    }
  }
  const bool answered = ahead && last[index] == x;
  if (answered)
    take<<<1, 1024, 0, context.stream>>>(out, answers + slot * OUTPUTS, OUTPUTS, x, kept + slot * FEATURES, FEATURES, differs);
  multiply<1><<<blocks, 256, 0, context.stream>>>({{x}, {out}}, linear_weight, linear_bias, OUTPUTS, FEATURES,
                                                  answered ? differs : nullptr);
  return 0;
}
