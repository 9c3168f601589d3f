// Times what is enqueued on a CUDA device, and what the device itself can do: read, copy. For the
// benchmarks' .cu files; an error of the device ends the program.
#ifndef EVENFLOW_TESTS_BENCH_CUDA_TIMING_CUH_
#define EVENFLOW_TESTS_BENCH_CUDA_TIMING_CUH_

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include "kernels/cuda/launch.cuh"

namespace evenflow {

inline constexpr size_t kColdBytes = size_t{192}
                                     << 20;  // rotated through; the second cache has 50 MB
inline constexpr int kReadBlocks = 16;       // a multiprocessor
inline constexpr int kReadThreads = 512;

inline void Check(cudaError_t error) {
  if (error != cudaSuccess) {
    std::fprintf(stderr, "CUDA: %s\n", cudaGetErrorString(error));
    std::exit(1);
  }
}

static __global__ void ReadKernel(const float4* data, size_t count, float* never) {
  AwaitInputs();
  float sum = 0;
  const size_t step = size_t{gridDim.x} * blockDim.x;
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count; i += step) {
    const float4 x = __ldcs(data + i);
    sum += x.x + x.y + x.z + x.w;
  }
  if (sum == 12345) {
    *never = sum;
  }
}

__device__ inline uint32_t Hash(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x85ebca6b;
  x = (x ^ (x >> 13)) * 0xc2b2ae35;
  return x ^ (x >> 16);
}

// Random numbers in [low, high], of which each half is one as bf16, too.
static __global__ void FillKernel(uint32_t* data, size_t count, float low, float high) {
  const size_t step = size_t{gridDim.x} * blockDim.x;
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count; i += step) {
    uint32_t halves[2];
    for (uint32_t half = 0; half < 2; ++half) {
      const float unit = Hash(static_cast<uint32_t>(2 * i + half)) * 0x1p-32f;
      halves[half] = __float_as_uint(low + (high - low) * unit) >> 16;
    }
    data[i] = halves[1] << 16 | halves[0];
  }
}

// Freed at the end of its scope.
class Memory {
 public:
  explicit Memory(size_t bytes) : bytes_(bytes) {
    Check(cudaMalloc(&data_, bytes));
    Check(cudaMemset(data_, 0, bytes));
  }

  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  ~Memory() { cudaFree(data_); }

  template <class T>
  T* As() const {
    return static_cast<T*>(data_);
  }

  void Fill(float low, float high) const {
    FillKernel<<<1024, 256>>>(As<uint32_t>(), bytes_ / 4, low, high);
  }

 private:
  void* data_ = nullptr;
  size_t bytes_;
};

// Replays a graph of what `enqueue` enqueues; before each replay, `before` with its number.
inline std::vector<double> TimeGraph(const std::function<void(cudaStream_t)>& enqueue,
                                     const std::function<void(int)>& before, int replays) {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  cudaEvent_t begin, end;
  Check(cudaStreamCreate(&stream));
  Check(cudaEventCreate(&begin));
  Check(cudaEventCreate(&end));
  Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  enqueue(stream);
  Check(cudaStreamEndCapture(stream, &graph));
  Check(cudaGraphInstantiate(&executable, graph, 0));
  std::vector<double> seconds;
  for (int i = 0; i < replays; ++i) {
    before(i);
    Check(cudaEventRecord(begin, stream));
    Check(cudaGraphLaunch(executable, stream));
    Check(cudaEventRecord(end, stream));
    Check(cudaEventSynchronize(end));
    float milliseconds = 0;
    Check(cudaEventElapsedTime(&milliseconds, begin, end));
    seconds.push_back(milliseconds / 1e3);
  }
  Check(cudaGetLastError());
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaStreamDestroy(stream);
  return seconds;
}

inline double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// Seconds to only read that many bytes that are not in a cache.
inline double ReadSeconds(size_t bytes) {
  static const int multiprocessors = Multiprocessors();
  bytes = (bytes + 511) / 512 * 512;
  const size_t rotation = (kColdBytes + bytes - 1) / bytes + 1;
  const Memory memory(bytes * rotation);
  memory.Fill(-1, 1);
  const auto enqueue = [&](cudaStream_t stream) {
    for (size_t i = 0; i < rotation; ++i) {
      Launch(ReadKernel, {dim3(static_cast<unsigned>(multiprocessors * kReadBlocks)), kReadThreads},
             stream, memory.As<float4>() + i * bytes / 16, bytes / 16, memory.As<float>());
    }
  };
  return Median(TimeGraph(
             enqueue, [](int) {}, 12)) /
         static_cast<double>(rotation);
}

inline double CopyBandwidth() {
  constexpr size_t kBytes = size_t{2} << 30;
  const Memory from(kBytes), to(kBytes);
  from.Fill(-1, 1);
  const auto enqueue = [&](cudaStream_t stream) {
    Check(
        cudaMemcpyAsync(to.As<char>(), from.As<char>(), kBytes, cudaMemcpyDeviceToDevice, stream));
  };
  return 2.0 * kBytes /
         Median(TimeGraph(
             enqueue, [](int) {}, 8));
}

}  // namespace evenflow

#endif  // EVENFLOW_TESTS_BENCH_CUDA_TIMING_CUH_
