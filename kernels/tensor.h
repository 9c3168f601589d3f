// Plain descriptions of data that a backend owns. Nothing here allocates; no thread rules of its
// own.
#ifndef EVENFLOW_KERNELS_TENSOR_H_
#define EVENFLOW_KERNELS_TENSOR_H_

#include <cstddef>
#include <cstdint>

namespace evenflow {

enum class DType : uint8_t { kF32, kBF16 };

constexpr size_t ByteSize(DType dtype) {
  return dtype == DType::kF32 ? 4 : 2;
}

constexpr const char* Name(DType dtype) {
  return dtype == DType::kF32 ? "fp32" : "bf16";
}

// A weight matrix [rows = outputs, cols = inputs], row-major, in the backend's memory: y = x W^T.
// A descriptor rather than a typed pointer: quantised and sharded weights come through the same
// door.
struct Weight {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;

  explicit operator bool() const { return data != nullptr; }
};

// Activations [row, stride] in the backend's memory. `data` may point at a column inside a row.
struct Matrix {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t stride = 0;  // elements between rows
};

// The sessions' states: slot s begins at base + s * slot_bytes. A layer's part has an offset in it.
struct Slots {
  std::byte* base = nullptr;
  size_t slot_bytes = 0;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_TENSOR_H_
