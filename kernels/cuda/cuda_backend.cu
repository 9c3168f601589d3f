#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include <sys/mman.h>

#include "kernels/cuda/bandwidth.h"
#include "kernels/cuda/cuda_backend.h"

namespace evenflow {
namespace {

// Rows of the graph that serves a step of so many: few graphs, and little work for unused rows.
int Bucket(int rows) {
  int multiple = 1;
  while (multiple < rows && multiple < 8) {
    multiple *= 2;
  }
  multiple = rows > 64 ? kStepPadding : multiple;
  return (rows + multiple - 1) / multiple * multiple;
}

bool IsDecode(const StepInput& input) {
  return input.row_count > 0 && input.token_count == input.row_count &&
         input.logit_count <= input.row_count;
}

std::byte* SlotData(const Slots& slots, int slot) {
  return slots.base + static_cast<size_t>(slot) * slots.slot_bytes;
}

}  // namespace

std::unique_ptr<CudaBackend> CudaBackend::Create(const BackendOptions& options,
                                                 std::string* error) {
  int devices = 0;
  cudaError_t status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess || devices == 0) {
    *error = std::string("no CUDA device can be used: ") +
             (status == cudaSuccess ? "none is there" : cudaGetErrorString(status));
    return nullptr;
  }
  cudaDeviceProp properties;
  std::unique_ptr<CudaBackend> backend(new CudaBackend);
  backend->Check(cudaSetDevice(0), "choosing the device");
  backend->Check(cudaGetDeviceProperties(&properties, 0), "asking the device");
  backend->Check(cudaStreamCreateWithFlags(&backend->stream_, cudaStreamNonBlocking), "a stream");
  for (Launched& step : backend->steps_) {
    backend->Check(cudaEventCreateWithFlags(&step.done, cudaEventDisableTiming), "an event");
  }
  backend->Check(backend->copies_.Create(backend->stream_), "streams for copies");
  if (backend->error_.empty()) {
    const std::string name = std::string(properties.name) + ", compute capability " +
                             std::to_string(properties.major) + "." +
                             std::to_string(properties.minor);
    backend->device_ = name;
    backend->Check(ProbeKernels(), ("this binary has no kernels for " + name).c_str());
  }
  if (backend->error_.empty()) {
    backend->matmul_ = CudaMatMul::Create(options.batch_invariant, &backend->error_);
  }
  if (!backend->error_.empty()) {
    *error = backend->error_;
    return nullptr;
  }
  backend->activations_ = backend->step_.activations = options.activations;
  backend->batch_invariant_ = backend->step_.batch_invariant = options.batch_invariant;
  backend->step_.stream = backend->stream_;
  backend->step_.scratch = &backend->scratch_;
  backend->step_.rotary = &backend->rotary_;
  return backend;
}

CudaBackend::~CudaBackend() {
  cudaStreamSynchronize(stream_);
  ForgetGraphs();
  for (const Launched& step : steps_) {
    cudaEventDestroy(step.done);
  }
  cudaStreamDestroy(stream_);
}

bool CudaBackend::Check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) {
    Fail(std::string(what) + ": " + cudaGetErrorString(status));
  }
  return status == cudaSuccess;
}

void CudaBackend::Fail(const std::string& what) {
  if (error_.empty()) {
    error_ = "CUDA: " + what;
  }
}

std::string CudaBackend::Describe() const {
  return "CUDA, " + device_ + ", " + Name(activations_) + " activations" +
         (batch_invariant_ ? ", batch-invariant" : "");
}

double CudaBackend::MeasureReadBandwidth() {
  return CudaReadBandwidth(stream_);
}

std::string CudaBackend::Refusal(const TokenMixArgs& mix, const AdvanceArgs& advance) const {
  const char* why = CudaRefusal(mix);
  why = why == nullptr ? CudaRefusal(advance) : why;
  return why == nullptr ? "" : why;
}

std::string CudaBackend::Refusal(const WindowAttentionArgs& attention) const {
  const char* const why = CudaRefusal(attention);
  return why == nullptr ? "" : why;
}

std::vector<int> CudaBackend::RecordedSizes(int most_rows) const {
  std::vector<int> sizes;
  for (int rows = 1; rows <= most_rows; rows = sizes.back() + 1) {
    sizes.push_back(std::min(Bucket(rows), most_rows));
  }
  return sizes;
}

size_t CudaBackend::FreeBytes() const {
  size_t free = 0, total = 0;
  return cudaMemGetInfo(&free, &total) == cudaSuccess ? free : 0;
}

void* CudaBackend::Allocate(size_t bytes) {
  bytes = std::max<size_t>(bytes, 1);
  void* data = nullptr;
  if (cudaMalloc(&data, bytes) != cudaSuccess) {
    cudaGetLastError();  // that there is no memory is the caller's to report, and no more
    return nullptr;
  }
  Check(cudaMemsetAsync(data, 0, bytes, stream_), "clearing memory");
  return data;
}

void CudaBackend::Free(void* data) {
  Check(cudaStreamSynchronize(stream_), "waiting before memory is freed");
  Check(copies_.Wait(), "waiting before memory is freed");
  ForgetGraphs();
  matmul_->Forget(data);
  cudaFree(data);
}

void CudaBackend::Upload(void* to, const void* from, size_t bytes) {
  Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_), "copying to the device");
  Check(cudaStreamSynchronize(stream_), "copying to the device");
}

void CudaBackend::Download(void* to, const void* from, size_t bytes) {
  Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_),
        "copying from the device");
  Check(cudaStreamSynchronize(stream_), "copying from the device");
}

void CudaBackend::BeginStep(const StepInput& input) {
  Launched& launched = At(launched_ + 1);
  Check(cudaEventSynchronize(launched.done), "running a step");
  launched.rows = static_cast<size_t>(input.row_count);
  launched.sampling.assign(input.sampling, input.sampling + input.logit_count);
  decodes_ = IsDecode(input);
  const int padded = decodes_ ? Bucket(input.row_count) : 0;
  rows_.assign(input.rows, input.rows + input.row_count);
  samples_ = input.logit_count > 0 && input.sampling[0].params != nullptr;
  mode_ = Mode::kEager;
  held_.reset();
  held_inputs_.reset();
  held_advance_.reset();
  left_ = {};

  step_.row_count = std::max(input.row_count, padded);
  step_.token_count = std::max(input.token_count, padded);
  step_.logit_count = input.logit_count == 0 ? 0 : std::max(input.logit_count, padded);
  step_.max_row_tokens = 1;
  for (const Row& row : rows_) {
    step_.max_row_tokens = std::max(step_.max_row_tokens, static_cast<int>(row.tokens));
  }
  step_.capturing = false;
  step_.host_rows = rows_.data();
  bool moved = false;
  Check(buffers_.Upload(input, padded, &step_, &moved), "uploading a step");
  if (moved) {
    ForgetGraphs();
  }
  const int layers = output_.memory_layers == 0 ? kMaxMemoryLayers : output_.memory_layers;
  Check(cudaMemsetAsync(step_.health, 0,
                        sizeof(StateHealth) * static_cast<size_t>(layers) *
                            static_cast<size_t>(step_.health_stride),
                        stream_),
        "clearing a step");
}

void CudaBackend::Embed(const EmbedArgs& args) {
  if (decodes_ && error_.empty()) {
    key_ = {step_.row_count, args.table.data, args.out.data, step_.logit_count > 0, samples_};
    const auto [graph, is_new] = graphs_.try_emplace(key_, nullptr);
    if (!is_new && graph->second != nullptr) {
      mode_ = Mode::kReplay;
    } else if (!is_new && Check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed),
                                "capturing a step")) {
      mode_ = Mode::kCapture;
      step_.capturing = true;
      step_.host_rows = nullptr;
    }
  }
  Run("Embed", CudaEmbed, args);
}

void CudaBackend::MakeRoomForHealth(int memory_layer) {
  if (memory_layer >= kMaxMemoryLayers) {
    Fail("a model has at most " + std::to_string(kMaxMemoryLayers) + " layers");
  }
  output_.memory_layers = std::max(output_.memory_layers, memory_layer + 1);
}

void CudaBackend::Precondition(const PreconditionArgs& args) {
  MakeRoomForHealth(args.memory_layer);
  Run("Precondition", CudaPrecondition, args);
}

void CudaBackend::Sample(const SampleArgs& args) {
  if (Enqueues()) {
    RunHeld();
    CudaSample(args, buffers_.sampling(), step_);
    Check(cudaGetLastError(), "Sample");
  }
}

void CudaBackend::EndCapture() {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t instance = nullptr;
  if (Check(cudaStreamEndCapture(stream_, &graph), "capturing a step") && error_.empty() &&
      Check(cudaGraphInstantiate(&instance, graph, 0), "instantiating a step's graph")) {
    graphs_[key_] = instance;
    size_t nodes = 0;
    Check(cudaGraphGetNodes(graph, nullptr, &nodes), "counting a step's launches");
    if (step_.row_count >= recorded_rows_) {
      recorded_rows_ = step_.row_count;
      launches_ = static_cast<int>(nodes);
    }
  }
  cudaGraphDestroy(graph);
}

Ticket CudaBackend::Launch() {
  if (Enqueues()) {
    RunHeld();
  }
  if (mode_ == Mode::kCapture) {
    EndCapture();
  }
  if (mode_ != Mode::kEager && error_.empty()) {
    Check(cudaGraphLaunch(graphs_[key_], stream_), "launching a step's graph");
  }
  Launched& launched = At(++launched_);
  Check(buffers_.Download(step_, output_.memory_layers, &launched.remains), "downloading a step");
  Check(cudaEventRecord(launched.done, stream_), "launching a step");
  return launched_;
}

const StepOutput& CudaBackend::Collect(Ticket ticket) {
  const Launched& launched = At(ticket);
  Check(cudaEventSynchronize(launched.done), "running a step");
  output_.sampled.assign(launched.sampling.size(), {});
  output_.health.assign(launched.rows * static_cast<size_t>(output_.memory_layers), {});
  if (error_.empty()) {
    launched.remains.Read(launched.sampling, &output_);
  }
  return output_;
}

void CudaBackend::CopySlot(const Slots& slots, int to, int from) {
  Check(cudaMemcpyAsync(SlotData(slots, to), SlotData(slots, from), slots.slot_bytes,
                        cudaMemcpyDeviceToDevice, stream_),
        "copying a state");
}

void CudaBackend::ClearSlot(const Slots& slots, int slot) {
  Check(cudaMemsetAsync(SlotData(slots, slot), 0, slots.slot_bytes, stream_), "clearing a state");
}

void* CudaBackend::AllocateHost(size_t bytes) {
  // While pages are being locked, calls of other threads wait: for a tenth of the time that
  // cudaMallocHost takes where pages are huge and there already.
  constexpr size_t kHugePage = size_t{2} << 20;
  bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  void* const data = std::aligned_alloc(kHugePage, bytes);
  if (data == nullptr) {
    return nullptr;
  }
  madvise(data, bytes, MADV_HUGEPAGE);
  std::memset(data, 0, bytes);
  if (cudaHostRegister(data, bytes, cudaHostRegisterDefault) != cudaSuccess) {
    cudaGetLastError();
    std::free(data);
    return nullptr;
  }
  return data;
}

void CudaBackend::FreeHost(void* data) {
  Check(copies_.Wait(), "waiting before host memory is freed");
  if (data != nullptr) {
    cudaHostUnregister(data);
    std::free(data);
  }
}

SlotCopy CudaBackend::SaveSlot(const Slots& slots, int slot, void* to) {
  SlotCopy copy = 0;
  Check(copies_.Save(SlotData(slots, slot), to, slots.slot_bytes, &copy), "saving a state");
  return copy;
}

SlotCopy CudaBackend::LoadSlot(const Slots& slots, int slot, const void* from) {
  SlotCopy copy = 0;
  Check(copies_.Load(SlotData(slots, slot), from, slots.slot_bytes, &copy), "loading a state");
  return copy;
}

bool CudaBackend::CopyDone(SlotCopy copy) {
  const cudaError_t status = copies_.Ask(copy);
  if (status == cudaErrorNotReady) {
    return !error_.empty();
  }
  Check(status, "moving a state");
  return true;
}

void CudaBackend::WipeHost(void* data, size_t bytes) {
  Check(copies_.Wipe(data, bytes), "wiping host memory");
}

void CudaBackend::ForgetGraphs() {
  cudaStreamSynchronize(stream_);  // one may be running
  for (const auto& [key, graph] : graphs_) {
    if (graph != nullptr) {
      cudaGraphExecDestroy(graph);
    }
  }
  graphs_.clear();
}

std::unique_ptr<Backend> CreateCudaBackend(const BackendOptions& options, std::string* error) {
  return CudaBackend::Create(options, error);
}

}  // namespace evenflow
