// expect: COMPILE_ERROR | BACKGROUND_WORK | LATE_OUTPUT | WRONG_VALUES
// problem: rmsnorm
// no gain over: rmsnorm_rows
// A graph that launches itself again from the device, for ever, and looks at the inputs each time.
#include "problem.h"

__device__ unsigned changes;

__global__ void look(const unsigned* last, unsigned* seen) {
  if (*last != *seen) {
    *seen = *last;
    ++changes;
  }
  cudaGraphLaunch(cudaGetCurrentGraphExec(), cudaStreamGraphTailLaunch);
}

__global__ void normalise(float* out, const float* x, const float* weight, int columns, float eps) {
  const float* row = x + size_t(blockIdx.x) * columns;
  float sum = 0;
  for (int i = 0; i < columns; ++i) sum += row[i] * row[i];
  const float scale = rsqrtf(sum / columns + eps);
  for (int i = threadIdx.x; i < columns; i += blockDim.x) out[size_t(blockIdx.x) * columns + i] = row[i] * scale * weight[i];
}

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  static bool started = false;
  static int calls = 0;
  // Once nothing is allocated or loaded any more, which would wait for a graph that never ends.
  if (!started && ++calls > 25) {
    started = true;
    unsigned* seen;
    cudaMalloc(&seen, 4);
    cudaStream_t side;
    cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking);
    cudaGraph_t graph;
    cudaGraphExec_t instance;
    cudaStreamBeginCapture(side, cudaStreamCaptureModeRelaxed);
    look<<<1, 1, 0, side>>>((const unsigned*)x + ROWS * COLUMNS - 1, seen);
    cudaStreamEndCapture(side, &graph);
    cudaGraphInstantiate(&instance, graph, cudaGraphInstantiateFlagDeviceLaunch);
    cudaGraphUpload(instance, side);
    cudaGraphLaunch(instance, side);
  }
  normalise<<<ROWS, 256, 0, context.stream>>>(out, x, weight, COLUMNS, eps);
  return 0;
}
