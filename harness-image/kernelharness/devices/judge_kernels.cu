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

// Every word becomes another one.
extern "C" __global__ void scramble(u32* words, u64 count, u64 key) {
  for (u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x; i < count; i += (u64)gridDim.x * blockDim.x)
    words[i] ^= (u32)mixed(key ^ i) | 1u;
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

// Elements of 1, 2, 4 or 8 bytes from anywhere, past every cache of this context.
extern "C" __global__ void gather(const u64* addresses, const u32* widths, u64* values, u32 count) {
  const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const u64 at = addresses[i];
  u64 value = 0;
  switch (widths[i]) {
    case 1: value = *(volatile u8*)at; break;
    case 2: value = *(volatile u16*)at; break;
    case 4: value = *(volatile u32*)at; break;
    case 8: value = *(volatile u64*)at; break;
  }
  values[i] = value;
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

// target = scale * signs * rotated(source); signs from `key`, none when it is 0.
template <typename T>
__device__ void refill(T* target, const T* source, u64 count, u64 shift, u64 key, float scale) {
  for (u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x; i < count; i += (u64)gridDim.x * blockDim.x) {
    const u64 from = i + shift < count ? i + shift : i + shift - count;
    const bool flip = key && (mixed(key ^ (i >> 6)) >> (i & 63)) & 1;
    store(target + i, wide(source[from]) * (flip ? -scale : scale));
  }
}

#define REFILL(name, type)                                                                              \
  extern "C" __global__ void refill_##name(type* target, const type* source, u64 count, u64 shift,     \
                                           u64 key, float scale) {                                      \
    refill(target, source, count, shift, key, scale);                                                   \
  }
REFILL(float32, float)
REFILL(float64, double)
REFILL(float16, Half)
REFILL(bfloat16, Brain)
