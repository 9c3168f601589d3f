// A config.json from outside, through its family's plan: errors or sizes that make sense.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "engine/model/config.h"
#include "engine/model/families/family.h"
#include "engine/model/weights.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  absl::StatusOr<evenflow::Config> config = evenflow::Config::Parse(text, "config.json");
  if (!config.ok()) {
    return 0;
  }
  config->Tokens("eos_token_id", {2});
  const absl::StatusOr<evenflow::Family> family = evenflow::FindFamily(*config);
  // Planning takes time for each layer, the same for all: a few show all there is to see.
  if (!family.ok() || config->Int("num_hidden_layers", 24) > 32) {
    return 0;
  }
  evenflow::Weights weights;
  if (!evenflow::PlanModel(*family, *config, weights).ok()) {
    return 0;
  }
  for (const evenflow::TensorPart& tensor : weights.asked()) {
    int64_t elements = 1;
    for (const int64_t length : tensor.shape) {
      if (length < 1 || __builtin_mul_overflow(elements, length, &elements)) {
        std::abort();
      }
    }
  }
  return 0;
}
