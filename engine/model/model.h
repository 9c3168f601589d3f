// A model: immutable weights in the backend's memory and the plan of its layers. Owned and used by
// the engine thread after loading; the const accessors are safe from any thread.
#ifndef EVENFLOW_ENGINE_MODEL_MODEL_H_
#define EVENFLOW_ENGINE_MODEL_MODEL_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/backend.h"

#include "absl/status/statusor.h"

namespace evenflow {

struct ModelOptions {
  Window window;
  DType state_dtype = DType::kF32;
  int max_step_tokens = 256;  // tokens of one step, rows included
  int max_step_logits = 256;  // tokens of one step whose logits are wanted
  std::function<void(double fraction)>
      progress;  // while loading, on the caller's thread; may be empty
};

// What is known of a model from its files.
struct ModelInfo {
  std::string name;        // the directory's last part
  std::string model_type;  // "retnet" for one
  int64_t parameters = 0;
  int vocab_size = 0;
  int hidden_size = 0;
  std::string options;                // a JSON object: config.json's fields that count, or defaults
  std::vector<std::string> memories;  // of each layer
  std::vector<int32_t> eos_tokens;
  std::optional<int32_t> bos_token;
};

// One layer's share of a session's state.
struct LayerInfo {
  std::string memory;  // "retention" for one, or "window_attention"
  MemoryShape shape;
  int banks = 1;             // states of a head
  std::string detail;        // the memory's options, for people; may be empty
  int attention_window = 0;  // tokens that attention sees; 0: a memory
  // Committed state, pending window and convolution inputs; or the ring of keys and values.
  int64_t state_bytes = 0;
  std::string mode;                  // VLA's; empty for others
  int64_t preconditioner_bytes = 0;  // of these, VLA's A and its pending rows
};

// What of a layer's state has a health of its own.
struct StatePlane {
  int layer = 0;
  const char* name = "";  // "state" or, of VLA's A, "preconditioner"
};

// What the engine runs. Model is the one; tests of the engine run one without arithmetic.
class Forwarder {
 public:
  virtual ~Forwarder() = default;

  virtual const ModelInfo& info() const = 0;
  virtual const Window& window() const = 0;  // as used, which may be longer than asked for
  virtual size_t slot_bytes() const = 0;     // one session's state: constant, whatever its position

  // Enqueues the forward pass of the step that the backend was given by BeginStep: logits of the
  // step's logit tokens, without sampling. REQUIRES: within max_step_tokens and max_step_logits.
  virtual void Forward(const Slots& slots) = 0;
  // Where Forward leaves them: [logit, vocab] fp32 in the backend's memory.
  virtual const Matrix& logits() const = 0;
};

class Model : public Forwarder {
 public:
  // Reads a checkpoint directory (config.json, model.safetensors or its shards). Errors name the
  // file, the field or tensor, what was found and what is expected. `backend` outlives the model.
  static absl::StatusOr<std::unique_ptr<Model>> Load(const std::string& directory,
                                                     const ModelOptions& options, Backend& backend);
  ~Model() override;

  const ModelInfo& info() const override;
  const ModelOptions& options() const;
  const std::vector<LayerInfo>& layers() const;
  const Window& window() const override;
  size_t slot_bytes() const override;
  // In the order of StepOutput::health.
  std::vector<StatePlane> state_planes() const;
  void Forward(const Slots& slots) override;
  const Matrix& logits() const override;

 private:
  struct Impl;
  explicit Model(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_MODEL_MODEL_H_
