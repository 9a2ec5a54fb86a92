// The driver of the Acme NPU-1, with the device in it: memory, queues, and the register page that says what is at work.
#include "acme.h"

#include <atomic>
#include <condition_variable>
#include <deque>
#include <fcntl.h>
#include <map>
#include <mutex>
#include <string.h>
#include <string>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>

namespace {

constexpr uint64_t kBytes = uint64_t(1) << 30;
constexpr uint64_t kAlignment = 256;

/// Shared by all processes that opened the device, as a card's registers are.
struct Registers {
  std::atomic<int64_t> queued;
  std::atomic<int64_t> done;
  std::atomic<int64_t> peak;
};

struct Fault {
  uint64_t address;
};

struct Work {
  acme_kernel run;
  void (*drop)(void*);
  void* arguments;
  int64_t lanes;
};

Registers* registers = nullptr;
char* memory = nullptr;
std::mutex allocations;
std::map<uint64_t, uint64_t> used;  // offset -> bytes
std::multimap<uint64_t, uint64_t> unused;
uint64_t end_of_used = 0;
int64_t used_bytes = 0;
thread_local std::string last_error;

int fail(const std::string& text) {
  last_error = text;
  return 1;
}

void* to_address(uint64_t offset) { return reinterpret_cast<void*>(acme::kTag | offset); }

/// The bytes behind a device address, or null when they are not all in the device's memory.
char* behind(const void* address, size_t bytes) {
  const uint64_t at = reinterpret_cast<uint64_t>(address);
  const uint64_t offset = at & ~acme::kTagBits;
  return (at & acme::kTagBits) == acme::kTag && offset + bytes <= kBytes ? memory + offset : nullptr;
}

std::string hexadecimal(uint64_t address) {
  char text[32];
  snprintf(text, sizeof text, "0x%llx", (unsigned long long)address);
  return text;
}

}  // namespace

struct acme_queue {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Work> waiting;
  bool working = false;
  std::string fault;
  std::thread thread{[this] { serve(); }};

  void serve() {
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
      changed.wait(lock, [this] { return !waiting.empty(); });
      const Work work = waiting.front();
      waiting.pop_front();
      working = true;
      lock.unlock();
      std::string what;
      try {
        for (int64_t lane = 0; lane < work.lanes; ++lane) work.run(work.arguments, lane, work.lanes);
      } catch (const Fault& fault) {
        what = "the device has no memory at " + hexadecimal(fault.address);
      }
      work.drop(work.arguments);
      registers->done += 1;
      lock.lock();
      if (fault.empty()) fault = what;
      working = false;
      changed.notify_all();
    }
  }
};

int acme_open(const char* path) {
  const int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return fail(std::string("no device at ") + path + ": " + strerror(errno));
  void* page = mmap(nullptr, sizeof(Registers), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  void* block = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (page == MAP_FAILED || block == MAP_FAILED) return fail("the device cannot be mapped");
  registers = static_cast<Registers*>(page);
  memory = static_cast<char*>(block);
  registers->queued = registers->done = registers->peak = 0;
  return 0;
}

acme_queue* acme_queue_create() { return new acme_queue; }

acme_queue* acme_default_queue() {
  static acme_queue* queue = acme_queue_create();
  return queue;
}

int acme_synchronize(acme_queue* queue) {
  std::unique_lock<std::mutex> lock(queue->mutex);
  queue->changed.wait(lock, [queue] { return queue->waiting.empty() && !queue->working; });
  if (queue->fault.empty()) return 0;
  const std::string told = queue->fault;
  queue->fault.clear();
  return fail(told);
}

void acme_enqueue(acme_queue* queue, acme_kernel run, void (*drop)(void*), void* arguments, int64_t lanes) {
  registers->queued += 1;
  std::lock_guard<std::mutex> lock(queue->mutex);
  queue->waiting.push_back({run, drop, arguments, lanes});
  queue->changed.notify_all();
}

void* acme_malloc(size_t bytes) {
  std::lock_guard<std::mutex> lock(allocations);
  const uint64_t size = (bytes + kAlignment) / kAlignment * kAlignment;
  uint64_t offset;
  if (auto found = unused.lower_bound(size); found != unused.end() && found->first <= 2 * size) {
    offset = found->second;
    used[offset] = found->first;
    unused.erase(found);
  } else {
    if (size > kBytes - end_of_used) return nullptr;
    offset = end_of_used;
    end_of_used += size;
    used[offset] = size;
  }
  used_bytes += int64_t(used[offset]);
  if (used_bytes > registers->peak) registers->peak = used_bytes;
  return to_address(offset);
}

void acme_free(void* address) {
  if (!address) return;
  std::lock_guard<std::mutex> lock(allocations);
  auto found = used.find(reinterpret_cast<uint64_t>(address) & ~acme::kTagBits);
  if (found == used.end()) return;
  used_bytes -= int64_t(found->second);
  unused.emplace(found->second, found->first);
  used.erase(found);
}

int acme_write(void* device, const void* host, size_t bytes) {
  if (acme_synchronize(acme_default_queue())) return 1;
  char* target = behind(device, bytes);
  if (!target) return fail("acme_write: the device has no memory at " + hexadecimal(reinterpret_cast<uint64_t>(device)));
  memcpy(target, host, bytes);
  return 0;
}

int acme_read(void* host, const void* device, size_t bytes) {
  if (acme_synchronize(acme_default_queue())) return 1;
  const char* source = behind(device, bytes);
  if (!source) return fail("acme_read: the device has no memory at " + hexadecimal(reinterpret_cast<uint64_t>(device)));
  memcpy(host, source, bytes);
  return 0;
}

int acme_copy(void* target, const void* source, size_t bytes) {
  if (acme_synchronize(acme_default_queue())) return 1;
  char* to = behind(target, bytes);
  const char* from = behind(source, bytes);
  if (!to || !from) return fail("acme_copy: not in the device's memory");
  memmove(to, from, bytes);
  return 0;
}

int acme_is_idle() { return registers->queued == registers->done; }
long long acme_peak_bytes() { return registers->peak; }
const char* acme_last_error() { return last_error.c_str(); }
char* acme_memory_base() { return memory; }
uint64_t acme_memory_bytes() { return kBytes; }
void acme_fault(uint64_t address) { throw Fault{address}; }
