#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <hip/hip_runtime.h>
// ---- split: 16-bit floats ----

/// 16-bit floats are the compiler's own; hip_fp16.h and hip_bf16.h have types of the same layout.
using half_t = _Float16;
using bfloat16_t = __bf16;
// ---- split: context ----
struct KernelContext {
  hipStream_t stream = nullptr;  ///< launch everything here, never on the default stream
  const void* state = nullptr;   ///< device memory that init() wrote; null without KERNEL_STATE

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
  return hipMalloc(&memory, bytes) == hipSuccess ? memory : nullptr;
}
inline void release(void* memory) { (void)hipFree(memory); }
}  // namespace kernelsearch
