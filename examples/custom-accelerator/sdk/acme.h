// The runtime of the Acme NPU-1, a device that does not exist: what a vendor's SDK has, no more than a judge needs.
//
// The device's memory is apart from the host's: an address of it is a number that a CPU cannot dereference, so host code
// reaches it through acme_write, acme_read and acme_copy, and kernels through acme::Global. Work is done by queues, one
// thread each, in order, while the host goes on. Functions return 0, or set acme_last_error(). 256-byte aligned blocks.
#pragma once
#include <stddef.h>
#include <stdint.h>

#define ACME_API extern "C" __attribute__((visibility("default")))

struct acme_queue;

ACME_API int acme_open(const char* registers);  // the device's register page; all that was queued before is forgotten
ACME_API acme_queue* acme_default_queue();
ACME_API acme_queue* acme_queue_create();
ACME_API int acme_synchronize(acme_queue* queue);  // waits for this queue alone; a fault of its kernels is told here
ACME_API void* acme_malloc(size_t bytes);          // null when there is no more
ACME_API void acme_free(void* address);            // null is nothing
ACME_API int acme_write(void* device, const void* host, size_t bytes);
ACME_API int acme_read(void* host, const void* device, size_t bytes);
ACME_API int acme_copy(void* target, const void* source, size_t bytes);
ACME_API int acme_is_idle();            // of all processes' work, by the register page
ACME_API long long acme_peak_bytes();   // allocated at once since the device was opened last
ACME_API const char* acme_last_error();

// For what acmecc makes of a program. A kernel runs once for each lane.
using acme_kernel = void (*)(void* arguments, int64_t lane, int64_t lanes);
ACME_API void acme_enqueue(acme_queue* queue, acme_kernel run, void (*drop)(void*), void* arguments, int64_t lanes);
ACME_API char* acme_memory_base();
ACME_API uint64_t acme_memory_bytes();
ACME_API __attribute__((noreturn)) void acme_fault(uint64_t address);

namespace acme {

constexpr uint64_t kTag = 0xac3e000000000000;  // no address of a host has these upper bits
constexpr uint64_t kTagBits = 0xffff000000000000;

/// Device memory in a kernel: `global const float* x`.
template <typename T>
class Global {
 public:
  Global(T* address) : address_(reinterpret_cast<uint64_t>(address)) {}
  template <typename I>
  T& operator[](I index) const {
    const uint64_t at = address_ + uint64_t(int64_t(index)) * sizeof(T);
    if ((at & kTagBits) != kTag || (at & ~kTagBits) + sizeof(T) > bytes_) acme_fault(at);
    return *reinterpret_cast<T*>(base_ + (at & ~kTagBits));
  }
  Global operator+(int64_t count) const { return Global(reinterpret_cast<T*>(address_ + uint64_t(count) * sizeof(T))); }

 private:
  uint64_t address_;
  char* base_ = acme_memory_base();
  uint64_t bytes_ = acme_memory_bytes();
};

/// `launch(queue, lanes) name(arguments);` in a program.
template <typename Body>
void launch(void* queue, int64_t lanes, Body body) {
  acme_enqueue(
      static_cast<acme_queue*>(queue),
      [](void* given, int64_t lane, int64_t count) { (*static_cast<Body*>(given))(lane, count); },
      [](void* given) { delete static_cast<Body*>(given); }, new Body(body), lanes);
}

}  // namespace acme
