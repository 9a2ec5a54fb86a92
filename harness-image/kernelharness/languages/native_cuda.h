#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cuda_runtime.h>
// ---- split: 16-bit floats ----
#include <cuda_bf16.h>
#include <cuda_fp16.h>

/// 16-bit floats are CUDA's own.
using half_t = __half;
using bfloat16_t = __nv_bfloat16;
// ---- split: context ----
struct KernelContext {
  cudaStream_t stream = nullptr;  ///< launch everything here, never on the default stream
  const void* state = nullptr;    ///< device memory that init() wrote; null without KERNEL_STATE

  /// A block of device memory that is yours until the work of this call is done, contents undefined; null when memory
  /// is out. Blocks are kept for later calls. Call it again for another block, at most 16 times.
  inline void* workspace(size_t bytes);

  /// Report an error, printf-like: `return context.fail("K = %lld is too large", (long long)K);`
  __attribute__((format(printf, 2, 3))) inline int fail(const char* format, ...);
};
// ---- split: memory ----
namespace kernelsearch {
inline void* allocate(size_t bytes) {
  void* memory = nullptr;
  return cudaMalloc(&memory, bytes) == cudaSuccess ? memory : nullptr;
}
inline void release(void* memory) { cudaFree(memory); }
}  // namespace kernelsearch
