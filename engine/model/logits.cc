#include "engine/model/logits.h"

#include <algorithm>
#include <numeric>

#include "engine/model/backend_memory.h"
#include "engine/model/safetensors_writer.h"

#include "absl/strings/str_cat.h"

namespace evenflow {
namespace {

absl::Status CheckInput(const Model& model, const std::vector<int32_t>& tokens, int chunk) {
  const int max_chunk = std::min(model.options().max_step_tokens, model.options().max_step_logits);
  if (chunk < 1 || chunk > max_chunk) {
    return absl::InvalidArgumentError(
        absl::StrCat("chunk is ", chunk, "; allowed: 1 to ", max_chunk));
  }
  if (tokens.empty()) {
    return absl::InvalidArgumentError("tokens is empty; at least one token is needed");
  }
  const int vocab_size = model.info().vocab_size;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokens[", i, "] is ", tokens[i], "; allowed: 0 to ", vocab_size - 1));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<float>> ComputeLogits(Model& model, Backend& backend,
                                                 const std::vector<int32_t>& tokens, int chunk) {
  if (absl::Status status = CheckInput(model, tokens, chunk); !status.ok()) {
    return status;
  }
  BackendMemory memory(backend);
  absl::StatusOr<void*> state = memory.Allocate(model.slot_bytes());
  if (!state.ok()) {
    return state.status();
  }
  const Slots slots{static_cast<std::byte*>(*state), model.slot_bytes()};
  const auto vocab = static_cast<size_t>(model.info().vocab_size);
  std::vector<float> logits(tokens.size() * vocab);
  std::vector<int32_t> all(static_cast<size_t>(chunk));
  std::iota(all.begin(), all.end(), 0);
  const std::vector<SamplingRow> no_sampling(all.size());
  for (size_t position = 0; position < tokens.size(); position += all.size()) {
    const size_t count = std::min(all.size(), tokens.size() - position);
    const Row row{0, 0, static_cast<int32_t>(count), static_cast<int64_t>(position)};
    StepInput step;
    step.rows = &row;
    step.row_count = 1;
    step.tokens = tokens.data() + position;
    step.token_count = row.tokens;
    step.logit_tokens = all.data();
    step.sampling = no_sampling.data();
    step.logit_count = row.tokens;
    backend.BeginStep(step);
    model.Forward(slots);
    backend.Collect(backend.Launch());
    for (size_t i = 0; i < count; ++i) {
      const auto* from = static_cast<const float*>(model.logits().data) +
                         static_cast<int64_t>(i) * model.logits().stride;
      backend.Download(logits.data() + (position + i) * vocab, from, vocab * sizeof(float));
    }
  }
  return logits;
}

absl::Status WriteLogits(const std::string& path, const std::vector<float>& logits,
                         int vocab_size) {
  const auto tokens = static_cast<int64_t>(logits.size()) / vocab_size;
  absl::StatusOr<SafetensorsWriter> writer =
      SafetensorsWriter::Create(path, {{"logits", "F32", {tokens, vocab_size}}});
  if (!writer.ok()) {
    return writer.status();
  }
  absl::Status status = writer->Append(logits.data(), logits.size() * sizeof(float));
  return status.ok() ? writer->Finish() : status;
}

}  // namespace evenflow
