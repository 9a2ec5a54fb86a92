// expect: OK
// problem: matmul
// A plain kernel with 64 x 64 tiles in shared memory.
#include "problem.h"

constexpr int TILE = 64, STEP = 16, PER = 4;

__global__ void multiply(float* out, const float* a, const float* b, int m, int n, int k) {
  __shared__ float left[STEP][TILE + 1], right[STEP][TILE];
  const int row0 = blockIdx.y * TILE, column0 = blockIdx.x * TILE;
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  float sum[PER][PER] = {};
  for (int start = 0; start < k; start += STEP) {
    for (int i = threadIdx.x; i < TILE * STEP; i += 256) {
      const int r = i / STEP, s = i % STEP;
      left[s][r] = row0 + r < m && start + s < k ? a[size_t(row0 + r) * k + start + s] : 0.0f;
      const int c = i % TILE, t = i / TILE;
      right[t][c] = column0 + c < n && start + t < k ? b[size_t(start + t) * n + column0 + c] : 0.0f;
    }
    __syncthreads();
    for (int s = 0; s < STEP; ++s)
      for (int i = 0; i < PER; ++i)
        for (int j = 0; j < PER; ++j) sum[i][j] += left[s][ty * PER + i] * right[s][tx * PER + j];
    __syncthreads();
  }
  for (int i = 0; i < PER; ++i)
    for (int j = 0; j < PER; ++j) {
      const int r = row0 + ty * PER + i, c = column0 + tx * PER + j;
      if (r < m && c < n) out[size_t(r) * n + c] = sum[i][j];
    }
}

extern "C" int forward(float* out, const float* a, const float* b, int64_t M, int64_t N, int64_t K,
                       KernelContext& context) {
  const dim3 grid((N + TILE - 1) / TILE, (M + TILE - 1) / TILE);
  multiply<<<grid, 256, 0, context.stream>>>(out, a, b, M, N, K);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? 0 : context.fail("%s", cudaGetErrorString(error));
}
