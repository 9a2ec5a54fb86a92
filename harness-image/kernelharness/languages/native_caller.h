#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace kernelcheck {

enum Content { kUnwritten, kZeros, kNumbers };

/// In [0, 1), the same ones in every run.
inline float next_number() {
  static uint64_t state = 0x9e3779b97f4a7c15u;
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return float(state >> 40) * 0x1p-24f;
}

/// Exactly this large, so that the next byte is nobody's.
inline void* take(const char* name, size_t bytes) {
  void* memory = nullptr;
#ifdef __CUDACC__
  const bool failed = cudaMalloc(&memory, bytes ? bytes : 1) != cudaSuccess;
#else
  const bool failed = posix_memalign(&memory, 64, bytes) != 0;
#endif
  if (failed) {
    printf("no memory for %s\n", name);
    exit(2);
  }
  printf("tensor %s %p %zu\n", name, memory, bytes);
  fflush(stdout);
  return memory;
}

template <typename T>
T* tensor(const char* name, size_t count, Content content) {
  T* memory = static_cast<T*>(take(name, count * sizeof(T)));
  if (content == kUnwritten) return memory;
  T* values = static_cast<T*>(malloc(count * sizeof(T) + 1));
  for (size_t i = 0; values && i < count; ++i) values[i] = T(content == kNumbers ? next_number() : 0.0f);
#ifdef __CUDACC__
  cudaMemcpy(memory, values, count * sizeof(T), cudaMemcpyHostToDevice);
#else
  if (count) memcpy(memory, values, count * sizeof(T));
#endif
  free(values);
  return memory;
}

/// Waits until the work of a call is done; ends the program when it failed.
inline void expect_success(const char* name, int code) {
#ifdef __CUDACC__
  const cudaError_t error = cudaDeviceSynchronize();
  if (error != cudaSuccess) {
    printf("%s() failed: %s\n", name, cudaGetErrorString(error));
    exit(4);
  }
#endif
  if (code != 0) {
    printf("%s() returned %d: %s\n", name, code, kernelsearch::error_text());
    exit(3);
  }
}

}  // namespace kernelcheck
