#include <stddef.h>
#include <stdint.h>
#include <string.h>
// ---- split: 16-bit floats ----
#if defined(__F16C__)
#include <immintrin.h>
#endif

/// 16-bit floats: storage only, they convert to and from float by themselves.
struct bfloat16_t {
  uint16_t bits;
  bfloat16_t() = default;
  bfloat16_t(float value) {
    uint32_t wide;
    memcpy(&wide, &value, 4);
    bits = value != value ? uint16_t((wide >> 16) | 0x40) : uint16_t((wide + 0x7fff + ((wide >> 16) & 1)) >> 16);
  }
  operator float() const {
    const uint32_t wide = uint32_t(bits) << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
  }
};

struct half_t {
  uint16_t bits;
  half_t() = default;
#if defined(__F16C__)
  half_t(float value) : bits(uint16_t(_cvtss_sh(value, 0))) {}
  operator float() const { return _cvtsh_ss(bits); }
#else
  half_t(float value) {
    uint32_t wide;
    memcpy(&wide, &value, 4);
    const uint32_t sign = (wide >> 16) & 0x8000, size = wide & 0x7fffffff;
    if (size > 0x7f800000) {
      bits = uint16_t(sign | 0x7e00);
    } else if (size >= 0x47800000) {
      bits = uint16_t(sign | 0x7c00);
    } else if (size < 0x38800000) {  // subnormal: 0.5f has the same unit in its last place
      memcpy(&value, &size, 4);
      value += 0.5f;
      memcpy(&wide, &value, 4);
      bits = uint16_t(sign | (wide - 0x3f000000));
    } else {
      bits = uint16_t(sign | ((size + 0xfff + ((size >> 13) & 1) - 0x38000000) >> 13));
    }
  }
  operator float() const {
    uint32_t wide = uint32_t(bits & 0x7fff) << 13;
    float value;
    memcpy(&value, &wide, 4);
    value *= 0x1p112f;
    memcpy(&wide, &value, 4);
    wide |= (uint32_t(bits & 0x8000) << 16) | ((bits & 0x7c00) == 0x7c00 ? 0x7f800000 : 0);
    memcpy(&value, &wide, 4);
    return value;
  }
#endif
};

// ---- split: context ----
struct KernelContext {
  void* stream = nullptr;       ///< where device work goes; null on a CPU
  const void* state = nullptr;  ///< what init() wrote; null without KERNEL_STATE

  /// A 64-byte aligned block that is yours until this call returns, contents undefined; null when memory is out.
  /// Blocks are kept for later calls. Call it again for another block, at most 16 times.
  inline void* workspace(size_t bytes);

  /// Report an error, printf-like: `return context.fail("K = %lld is too large", (long long)K);`
  __attribute__((format(printf, 2, 3))) inline int fail(const char* format, ...);
};
// ---- split: memory ----
#include <stdlib.h>

// What workspaces are made of. A compile command for a device says what its own functions are called.
#ifndef KERNEL_ALLOCATE
#define KERNEL_ALLOCATE(bytes) aligned_alloc(64, bytes)
#define KERNEL_RELEASE(memory) free(memory)
#endif

namespace kernelsearch {
inline void* allocate(size_t bytes) { return KERNEL_ALLOCATE(bytes); }
inline void release(void* memory) { KERNEL_RELEASE(memory); }
}  // namespace kernelsearch
// ---- split: plumbing ----
#include <dlfcn.h>
#include <exception>
#include <new>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define KERNEL_EXPORT extern "C" __attribute__((visibility("default")))

namespace kernelsearch {

// TVM-FFI's TVMFFIAny and DLPack's DLTensor, as their C ABIs lay them out.
enum AnyType : int32_t { kNone = 0, kInt = 1, kBool = 2, kFloat = 3, kPointer = 4, kDLTensor = 7, kTensorObject = 70 };

struct Any {
  int32_t type;
  uint32_t padding;
  union {
    int64_t integer;
    double real;
    void* pointer;
  };
};

struct DLTensor {
  void* data;
  int32_t device_type;
  int32_t device_id;
  int32_t ndim;
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};

constexpr size_t kObjectHeader = 24;  // a tvm_ffi Tensor is an object header and then a DLTensor
constexpr size_t kAlignment = 64;

inline char* error_text() {
  static thread_local char text[1024];
  return text;
}

struct Workspace {
  struct Block {
    void* memory = nullptr;
    size_t bytes = 0;
  };
  Block blocks[16];
  int used = 0;

  void* take(size_t bytes) {
    if (used == 16) return nullptr;
    Block& block = blocks[used++];
    if (block.bytes < bytes) {
      release(block.memory);
      block.bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
      block.memory = allocate(block.bytes);
      if (!block.memory) block.bytes = 0;
    }
    return block.memory;
  }
  ~Workspace() {
    for (Block& block : blocks) release(block.memory);
  }
};

inline Workspace& workspace() {
  static thread_local Workspace kept;
  return kept;
}

/// A shape's numbers: a size as it must be, or -1 - i for the i-th named size.
template <int kRank>
struct Expected {
  const char* name;
  int code;
  int bits;
  int rank;
  int64_t shape[kRank];
};

template <int kRank, int kTensors, int kSizes, int kScalars>
struct Call {
  const Expected<kRank>* expected;
  const char* const* size_names;
  const Any* values;
  int count;
  Any* result;
  const DLTensor* tensors[kTensors] = {};
  int64_t sizes[kSizes] = {};

  bool check(KernelContext& context) {
    constexpr int kLeast = kTensors + kScalars;
    if (count < kLeast || count > kLeast + 2)
      return !context.fail("got %d arguments, expected %d tensors and %d scalars", count, kTensors, kScalars);
    for (int64_t& size : sizes) size = -1;
    for (int i = 0; i < kTensors; ++i)
      if (!check_tensor(context, i)) return false;
    for (int i = kTensors; i < kLeast; ++i)
      if (values[i].type != kInt && values[i].type != kBool && values[i].type != kFloat)
        return !context.fail("argument %d is not a number", i);
    return true;
  }

  bool check_tensor(KernelContext& context, int index) {
    const Expected<kRank>& want = expected[index];
    const Any& value = values[index];
    if (value.type == kDLTensor)
      tensors[index] = static_cast<const DLTensor*>(value.pointer);
    else if (value.type == kTensorObject)
      tensors[index] = reinterpret_cast<const DLTensor*>(static_cast<const char*>(value.pointer) + kObjectHeader);
    else
      return !context.fail("argument %d (%s) is not a tensor", index, want.name);
    const DLTensor& tensor = *tensors[index];
    if (tensor.code != want.code || tensor.bits != want.bits || tensor.lanes != 1)
      return !context.fail("%s has another dtype than the problem's", want.name);
    if (tensor.ndim != want.rank)
      return !context.fail("%s has %d dimensions, expected %d", want.name, tensor.ndim, want.rank);
    int64_t stride = 1;
    bool empty = false;
    for (int axis = want.rank - 1; axis >= 0; --axis) {
      const int64_t got = tensor.shape[axis];
      if (tensor.strides && got != 1 && !empty && tensor.strides[axis] != stride)
        return !context.fail("%s is not contiguous", want.name);
      stride *= got;
      empty = empty || got == 0;
    }
    for (int axis = 0; axis < want.rank; ++axis) {
      const int64_t got = tensor.shape[axis];
      int64_t need = want.shape[axis];
      if (need < 0) {
        int64_t& named = sizes[-1 - need];
        if (named < 0) named = got;
        if (got != named)
          return !context.fail("%s has size %lld in dimension %d, but %s is %lld", want.name, (long long)got, axis,
                               size_names[-1 - need], (long long)named);
      } else if (got != need) {
        return !context.fail("%s has size %lld in dimension %d, expected %lld", want.name, (long long)got, axis,
                             (long long)need);
      }
    }
    if (!empty && (reinterpret_cast<uintptr_t>(tensor.data) + tensor.byte_offset) % kAlignment != 0)
      return !context.fail("%s is not aligned to %d bytes", want.name, int(kAlignment));
    return true;
  }

  template <typename T>
  T* pointer(int index) const {
    return reinterpret_cast<T*>(static_cast<char*>(tensors[index]->data) + tensors[index]->byte_offset);
  }

  template <typename T>
  T scalar(int index) const {
    const Any& value = values[kTensors + index];
    return value.type == kFloat ? T(value.real) : T(value.integer);
  }

  void give(int64_t value) const {
    result->type = kInt;
    result->padding = 0;
    result->integer = value;
  }

  /// Reads the optional trailing arguments, given their places after the scalars; returns the block: state or saved.
  void* open(KernelContext& context, int stream, int block) const {
    context.stream = static_cast<decltype(context.stream)>(trailing(stream));
    return trailing(block);
  }

  void* trailing(int place) const {
    const int index = kTensors + kScalars + place;
    if (index >= count || values[index].type == kNone) return nullptr;
    return values[index].pointer;  // an integer is an address too
  }
};

/// In a process that has libtvm_ffi, raise the text there as well; without it, it waits in kernelsearch_last_error().
inline void raise_in_tvm_ffi(const char* text) {
  using Raise = void (*)(const char* kind, const char* message);
  if (Raise raise = reinterpret_cast<Raise>(dlsym(RTLD_DEFAULT, "TVMFFIErrorSetRaisedFromCStr")))
    raise("RuntimeError", text);
}

template <typename Function>
int guarded(Function&& function) {
  KernelContext context;
  char* text = error_text();
  text[0] = 0;
  workspace().used = 0;
  int code;
  try {
    code = function(context);
  } catch (const std::bad_alloc&) {
    code = context.fail("out of memory");
  } catch (const std::exception& error) {
    code = context.fail("C++ exception: %s", error.what());
  } catch (...) {
    code = context.fail("C++ exception of an unknown type");
  }
  if (code == 0) return 0;
  if (text[0] == 0) context.fail("the kernel returned %d", code);
  raise_in_tvm_ffi(text);
  return -1;
}

}  // namespace kernelsearch

inline void* KernelContext::workspace(size_t bytes) { return kernelsearch::workspace().take(bytes); }

inline int KernelContext::fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(kernelsearch::error_text(), 1024, format, arguments);
  va_end(arguments);
  return 1;
}

KERNEL_EXPORT const char* kernelsearch_last_error() { return kernelsearch::error_text(); }
KERNEL_EXPORT int kernelsearch_abi() { return 1; }
