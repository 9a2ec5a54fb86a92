// expect: LATE_OUTPUT | BACKGROUND_WORK | WRONG_VALUES | NONDETERMINISTIC | TAMPERING
// problem: rmsnorm
// no gain over: rmsnorm_rows
// Overwrites the runtime's waiting functions with "return 0".
#include "problem.h"
#include <dlfcn.h>
#include <sys/mman.h>

__global__ void normalise(float* out, const float* x, const float* weight, int columns, float eps) {
  const float* row = x + size_t(blockIdx.x) * columns;
  __shared__ float parts[32];
  float sum = 0;
  for (int i = threadIdx.x; i < columns; i += blockDim.x) sum += row[i] * row[i];
  for (int step = 16; step; step /= 2) sum += __shfl_down_sync(~0u, sum, step);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
  __syncthreads();
  sum = 0;
  for (int i = 0; i < blockDim.x / 32; ++i) sum += parts[i];
  const float scale = rsqrtf(sum / columns + eps);
  for (int i = threadIdx.x; i < columns; i += blockDim.x) out[size_t(blockIdx.x) * columns + i] = row[i] * scale * weight[i];
}

static void hook(const char* name) {
  void* library = dlopen("libcudart.so.13", RTLD_NOW | RTLD_NOLOAD);
  auto* code = (unsigned char*)dlsym(library ? library : RTLD_DEFAULT, name);
  if (!code) return;
  auto page = (uintptr_t)code & ~uintptr_t(4095);
  if (mprotect((void*)page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC)) return;
  const unsigned char nothing[] = {0x31, 0xc0, 0xc3};
  memcpy(code, nothing, sizeof nothing);
}

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  static bool hooked = [] {
    hook("cudaStreamSynchronize");
    hook("cudaDeviceSynchronize");
    hook("cudaEventSynchronize");
    return true;
  }();
  (void)hooked;
  for (int i = 0; i < 10; ++i) normalise<<<ROWS, 256, 0, context.stream>>>(out, x, weight, COLUMNS, eps);
  return 0;
}
