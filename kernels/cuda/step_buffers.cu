#include <algorithm>
#include <cstring>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/step_buffers.h"

namespace evenflow {
namespace {

constexpr size_t kAlignment = 256;

// Takes `count` elements of T from the end of a block and returns where they begin.
template <class T>
size_t Take(int count, size_t* end) {
  const size_t begin = *end;
  *end += (static_cast<size_t>(count) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
  return begin;
}

constexpr int kCopyThreads = 256;

__global__ void CopyBlock(uint4* to, const uint4* from, int64_t count) {
  AwaitInputs();
  const int64_t stride = int64_t{gridDim.x} * kCopyThreads;
  for (int64_t i = int64_t{blockIdx.x} * kCopyThreads + threadIdx.x; i < count; i += stride) {
    to[i] = from[i];
  }
}

// Between pinned host memory and the device's, up to the next multiple of 16 bytes. By a kernel:
// the copy engines may have a session's state under way, for which a step would wait.
void Copy(std::byte* to, const std::byte* from, size_t bytes, cudaStream_t stream) {
  const auto count = static_cast<int64_t>((bytes + sizeof(uint4) - 1) / sizeof(uint4));
  const unsigned blocks = std::clamp(CeilDiv(count, kCopyThreads), 1u, 64u);
  Launch(CopyBlock, {.blocks = dim3(blocks), .threads = kCopyThreads}, stream,
         reinterpret_cast<uint4*>(to), reinterpret_cast<const uint4*>(from), count);
}

}  // namespace

CudaBlock::~CudaBlock() {
  for (const Block& block : blocks_) {
    cudaFreeHost(block.host[0]);
    cudaFreeHost(block.host[1]);
    cudaFree(block.device);
  }
}

cudaError_t CudaBlock::Reserve(size_t needed, cudaStream_t stream, bool* moved) {
  const size_t had = blocks_.empty() ? 0 : blocks_.back().bytes;
  needed = (needed + kAlignment - 1) / kAlignment * kAlignment;
  if (needed <= had) {
    return cudaSuccess;
  }
  *moved = true;
  Block& block = blocks_.emplace_back();
  const size_t bytes = std::max(needed, 2 * had);
  void* memory = nullptr;
  for (std::byte*& host : block.host) {
    if (const cudaError_t status = cudaMallocHost(&memory, bytes); status != cudaSuccess) {
      return status;
    }
    host = static_cast<std::byte*>(memory);
    std::memset(host, 0, bytes);
  }
  if (const cudaError_t status = cudaMalloc(&memory, bytes); status != cudaSuccess) {
    return status;
  }
  block.device = static_cast<std::byte*>(memory);
  block.bytes = bytes;
  return cudaMemsetAsync(block.device, 0, bytes, stream);
}

cudaError_t StepBuffers::Reserve(int rows, int tokens, int logits, cudaStream_t stream,
                                 bool* moved) {
  Layout& at = layout_;
  if (rows > at.rows || tokens > at.tokens || logits > at.logits) {
    *moved = true;
    at.rows = std::max(2 * at.rows, rows);
    at.tokens = std::max(2 * at.tokens, tokens);
    at.logits = std::max(2 * at.logits, logits);
    size_t end = 0;
    at.row = Take<Row>(at.rows, &end);
    at.logit_tokens = Take<int32_t>(at.logits, &end);
    at.sampling = Take<CudaSamplingRow>(at.logits, &end);
    at.token = Take<int32_t>(at.tokens, &end);
    at.token_row = Take<int32_t>(at.tokens, &end);
    at.positions = Take<int64_t>(at.tokens, &end);
    at.edits = end;
    end = 0;
    Take<CudaSampled>(at.logits, &end);
    at.health = end;
    Take<StateHealth>(at.rows * kMaxMemoryLayers, &end);
    at.outputs = end;
  }
  cudaError_t status =
      input_.Reserve(layout_.edits + edits_.size() * sizeof(LogitEdit), stream, moved);
  if (status == cudaSuccess) {
    status = output_.Reserve(at.outputs, stream, moved);
  }
  if (status == cudaSuccess) {
    status = top_.Reserve(sizeof(TokenLogprob) * kMaxTopLogprobs * static_cast<size_t>(at.logits),
                          stream, moved);
  }
  if (status == cudaSuccess) {
    status = counters_.Reserve(sizeof(uint32_t) * static_cast<size_t>(kCounters + at.rows), stream,
                               moved);
  }
  return status;
}

void StepBuffers::WriteRows(const StepInput& input, int padded) {
  Row* const rows = Host<Row>(layout_.row);
  auto* const tokens = Host<int32_t>(layout_.token);
  auto* const token_row = Host<int32_t>(layout_.token_row);
  auto* const positions = Host<int64_t>(layout_.positions);
  std::copy_n(input.rows, input.row_count, rows);
  std::copy_n(input.tokens, input.token_count, tokens);
  for (int r = 0; r < input.row_count; ++r) {
    for (int i = 0; i < rows[r].tokens; ++i) {
      token_row[rows[r].first_token + i] = r;
      positions[rows[r].first_token + i] = rows[r].position + i;
    }
  }
  for (int r = input.row_count; r < padded; ++r) {
    rows[r] = {};
    tokens[r] = 0;
    token_row[r] = -1;
    positions[r] = 0;
  }
}

void StepBuffers::WriteLogits(const StepInput& input, int padded) {
  std::copy_n(input.logit_tokens, input.logit_count, Host<int32_t>(layout_.logit_tokens));
  std::fill_n(Host<int32_t>(layout_.logit_tokens) + input.logit_count,
              std::max(0, padded - input.logit_count), 0);
  std::copy(edits_.begin(), edits_.end(), Host<LogitEdit>(layout_.edits));
}

cudaError_t StepBuffers::Upload(const StepInput& input, int padded, CudaStep* step, bool* moved) {
  edits_.clear();
  wants_top_ = false;
  turn_ = 1 - turn_;
  const CudaSampled* const drawn = sampling_.sampled;
  const int logits = std::max(input.logit_count, padded);
  static thread_local std::vector<CudaSamplingRow> sampling;
  sampling.assign(static_cast<size_t>(logits), {});
  for (int i = 0; i < input.logit_count; ++i) {
    const SamplingRow& row = input.sampling[i];
    if (row.params != nullptr) {
      sampling[static_cast<size_t>(i)] = PrepareSampling(row, &edits_);
      wants_top_ = wants_top_ || row.params->top_logprobs > 0;
    }
  }
  const cudaError_t status =
      Reserve(std::max(input.row_count, padded), std::max(input.token_count, padded), logits,
              step->stream, moved);
  if (status != cudaSuccess) {
    return status;
  }
  WriteRows(input, padded);
  WriteLogits(input, padded);
  std::copy(sampling.begin(), sampling.end(), Host<CudaSamplingRow>(layout_.sampling));

  step->rows = Device<Row>(layout_.row);
  step->tokens = Device<int32_t>(layout_.token);
  step->drawn = drawn;
  step->token_row = Device<int32_t>(layout_.token_row);
  step->positions = Device<int64_t>(layout_.positions);
  step->logit_tokens = Device<int32_t>(layout_.logit_tokens);
  step->health = reinterpret_cast<StateHealth*>(output_.device() + layout_.health);
  step->counters = reinterpret_cast<uint32_t*>(counters_.device());
  step->health_stride = std::max(input.row_count, padded);
  sampling_.rows = Device<CudaSamplingRow>(layout_.sampling);
  sampling_.edits = Device<LogitEdit>(layout_.edits);
  sampling_.sampled = reinterpret_cast<CudaSampled*>(output_.device());
  sampling_.top = reinterpret_cast<TokenLogprob*>(top_.device());
  Copy(input_.device(), input_.host(turn_), layout_.edits + edits_.size() * sizeof(LogitEdit),
       step->stream);
  return cudaGetLastError();
}

cudaError_t StepBuffers::Download(const CudaStep& step, int memory_layers,
                                  StepRemains* remains) const {
  const size_t health = sizeof(StateHealth) * static_cast<size_t>(memory_layers) *
                        static_cast<size_t>(step.health_stride);
  std::byte* const host = output_.host(turn_);
  Copy(host, output_.device(), layout_.health + health, step.stream);
  if (wants_top_) {
    Copy(top_.host(turn_), top_.device(),
         sizeof(TokenLogprob) * kMaxTopLogprobs * static_cast<size_t>(step.logit_count),
         step.stream);
  }
  remains->sampled = reinterpret_cast<const CudaSampled*>(host);
  remains->top = reinterpret_cast<const TokenLogprob*>(top_.host(turn_));
  remains->health = reinterpret_cast<const StateHealth*>(host + layout_.health);
  remains->health_stride = step.health_stride;
  return cudaGetLastError();
}

void StepRemains::Read(const std::vector<SamplingRow>& rows, StepOutput* output) const {
  for (size_t i = 0; i < rows.size(); ++i) {
    SampledToken& token = output->sampled[i];
    token = {sampled[i].token, sampled[i].logprob, {}};
    const int wanted = rows[i].params == nullptr ? 0 : rows[i].params->top_logprobs;
    for (int n = 0; token.token >= 0 && n < std::min(wanted, kMaxTopLogprobs); ++n) {
      const TokenLogprob& entry = top[i * kMaxTopLogprobs + static_cast<size_t>(n)];
      if (entry.token >= 0) {
        token.top.push_back(entry);
      }
    }
  }
  const auto layers = static_cast<size_t>(output->memory_layers);
  for (size_t i = 0; i < output->health.size(); ++i) {
    output->health[i] = health[i % layers * static_cast<size_t>(health_stride) + i / layers];
  }
}

}  // namespace evenflow
