// What the judge runs on the device itself. Compiled by NVRTC at start for the device that is there; no headers.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

__device__ u64 mixed(u64 x) {  // splitmix64: neighbouring numbers give unrelated ones
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

// Touches every line of a buffer larger than the L2: flushes it, and takes as long as it must on an idle device.
extern "C" __global__ void canary(uint4* buffer, u64 count) {
  for (u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x; i < count; i += (u64)gridDim.x * blockDim.x) {
    uint4 value = buffer[i];
    value.x += 1;
    buffer[i] = value;
  }
}

// Every word becomes one that nobody can foresee.
extern "C" __global__ void scramble(u64* words, u64 count, u64 key) {
  for (u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x; i < count; i += (u64)gridDim.x * blockDim.x)
    words[i] = mixed(key ^ i);
}

extern "C" __global__ void differences(const u32* left, const u32* right, u64 count, u64* found) {
  u64 mine = 0;
  for (u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x; i < count; i += (u64)gridDim.x * blockDim.x)
    mine += left[i] != right[i];
  if (mine) atomicAdd(found, mine);
}

// One range per blockIdx.y.
extern "C" __global__ void fill_ranges(const u64* starts, const u64* sizes, u32 byte) {
  u8* start = (u8*)starts[blockIdx.y];
  const u64 size = sizes[blockIdx.y];
  const u64 step = (u64)gridDim.x * blockDim.x, first = blockIdx.x * (u64)blockDim.x + threadIdx.x;
  const u64 head = min(size, (16 - ((u64)start & 15)) & 15), body = (size - head) / 16;
  const u32 word = byte * 0x01010101u;
  for (u64 i = first; i < body; i += step) ((uint4*)(start + head))[i] = make_uint4(word, word, word, word);
  for (u64 i = first; i < head; i += step) start[i] = (u8)byte;
  for (u64 i = head + body * 16 + first; i < size; i += step) start[i] = (u8)byte;
}

struct Half { u16 bits; };
struct Brain { u16 bits; };
__device__ float wide(float x) { return x; }
__device__ double wide(double x) { return x; }
__device__ float wide(Half x) { float y; asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits)); return y; }
__device__ float wide(Brain x) { return __uint_as_float((u32)x.bits << 16); }
__device__ void store(float* at, float x) { *at = x; }
__device__ void store(double* at, double x) { *at = x; }
__device__ void store(Half* at, float x) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(at->bits) : "f"(x)); }
__device__ void store(Brain* at, float x) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(at->bits) : "f"(x)); }

// target = factors * rotated(source): every element by a factor of its own, 0.25 to 1 in size, so that no sum over a
// slot follows from sums over others. `signs`: whether factors may be negative.
template <typename T>
__device__ void refill(T* target, const T* source, u64 count, u64 shift, u64 key, u32 signs) {
  for (u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x; i < count; i += (u64)gridDim.x * blockDim.x) {
    const u64 from = i + shift < count ? i + shift : i + shift - count;
    const u64 drawn = mixed(key ^ i);
    const float size = 0.25f + 0.75f * (float)(u32)(drawn >> 40) * 0x1p-24f;
    store(target + i, wide(source[from]) * (signs && drawn & 1 ? -size : size));
  }
}

// found[0] += elements that are wrong; found[1] = the largest finite error so far, as the bits of a double. Equal
// infinities, and NaN in the same place, are right although their difference is no number.
template <typename T>
__device__ void compare(const T* got, const T* want, u64 count, double atol, double rtol, u64* found) {
  const auto least = (decltype(wide(*got)))atol, share = (decltype(wide(*got)))rtol;
  decltype(wide(*got)) largest = 0;
  u64 wrong = 0;
  for (u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x; i < count; i += (u64)gridDim.x * blockDim.x) {
    const auto mine = wide(got[i]), reference = wide(want[i]);
    const auto error = mine < reference ? reference - mine : mine - reference;
    const bool finite = error - error == 0;
    const bool same = mine == reference || (mine != mine && reference != reference);
    wrong += !(same || (finite && error <= least + share * (reference < 0 ? -reference : reference)));
    if (finite && error > largest) largest = error;
  }
  if (wrong) atomicAdd(found, wrong);
  if (largest > 0) atomicMax(found + 1, (u64)__double_as_longlong((double)largest));
}

// found[0] = the largest error so far, as the bits of a double: for what has no sign their order is that of numbers, with
// NaN, for an error that is no number, behind all. found[1], found[2] += the sum and the sum of squares, as doubles, of
// what is finite in `want`; found[3] += its number. Right is what `compare` says.
template <typename T>
__device__ void errors(const T* got, const T* want, u64 count, u64* found) {
  const u64 nan = 0x7ff8000000000000ull;
  double total = 0, squares = 0;
  decltype(wide(*got)) largest = 0;
  u64 finite = 0;
  bool numbers = true;
  for (u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x; i < count; i += (u64)gridDim.x * blockDim.x) {
    const auto mine = wide(got[i]), reference = wide(want[i]);
    const auto error = mine < reference ? reference - mine : mine - reference;
    const bool same = mine == reference || (mine != mine && reference != reference);
    if (!same) {
      numbers = numbers && error - error == 0;
      largest = error > largest ? error : largest;
    }
    if (reference - reference != 0) continue;
    total += reference;
    squares += (double)reference * reference;
    ++finite;
  }
  for (u32 step = 16; step; step /= 2) {
    total += __shfl_down_sync(~0u, total, step);
    squares += __shfl_down_sync(~0u, squares, step);
    finite += __shfl_down_sync(~0u, finite, step);
  }
  const u64 bits = numbers ? (u64)__double_as_longlong((double)largest) : nan;
  if (bits) atomicMax(found, bits);
  if (threadIdx.x & 31) return;
  atomicAdd((double*)found + 1, total);
  atomicAdd((double*)found + 2, squares);
  atomicAdd(found + 3, finite);
}

#define OF_TYPE(name, type)                                                                                      \
  extern "C" __global__ void refill_##name(type* target, const type* source, u64 count, u64 shift, u64 key,     \
                                           u32 signs) {                                                          \
    refill(target, source, count, shift, key, signs);                                                            \
  }                                                                                                              \
  extern "C" __global__ void compare_##name(const type* got, const type* want, u64 count, double atol,          \
                                            double rtol, u64* found) {                                           \
    compare(got, want, count, atol, rtol, found);                                                                \
  }                                                                                                              \
  extern "C" __global__ void errors_##name(const type* got, const type* want, u64 count, u64* found) {           \
    errors(got, want, count, found);                                                                             \
  }
OF_TYPE(float32, float)
OF_TYPE(float64, double)
OF_TYPE(float16, Half)
OF_TYPE(bfloat16, Brain)
