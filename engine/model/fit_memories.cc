#include "engine/model/fit_memories.h"

#include "absl/strings/str_format.h"

namespace evenflow {

Window FitWindow(const ModelPlan& plan, Window asked) {
  for (const LayerPlan& layer : plan.layers) {
    asked = FitWindow(layer.mixer.advance.memory, asked);
  }
  return asked;
}

absl::Status FitPowerLaws(const Window& window, BackendMemory& memory, ModelPlan& plan) {
  const MixerPlan* last = nullptr;  // layers have the same, all in all
  for (LayerPlan& layer : plan.layers) {
    MixerPlan& mixer = layer.mixer;
    if (!mixer.power_law.has_value()) {
      continue;
    }
    mixer.power_law->first_lag = window.lag + 1;
    if (last == nullptr || *last->power_law != *mixer.power_law) {
      const PowerLawFit fit = FitPowerLaw(*mixer.power_law);
      const size_t rates_bytes = fit.rates.size() * sizeof(float);
      const size_t coefficients_bytes = fit.coefficients.size() * sizeof(float);
      const absl::StatusOr<void*> rates = memory.Allocate(rates_bytes);
      const absl::StatusOr<void*> coefficients = memory.Allocate(coefficients_bytes);
      if (!rates.ok() || !coefficients.ok()) {
        return rates.ok() ? coefficients.status() : rates.status();
      }
      memory.backend().Upload(*rates, fit.rates.data(), rates_bytes);
      memory.backend().Upload(*coefficients, fit.coefficients.data(), coefficients_bytes);
      mixer.advance.power_law = {
          static_cast<int>(fit.rates.size()), static_cast<float>(mixer.power_law->alpha_min),
          static_cast<const float*>(*rates), static_cast<const float*>(*coefficients)};
      mixer.detail = absl::StrFormat(
          "%d nodes, weights of tokens %d to %.0f ago off by at most %.1e", fit.rates.size(),
          mixer.power_law->first_lag, mixer.power_law->horizon, fit.error);
      if (fit.error > mixer.power_law->epsilon) {
        absl::StrAppendFormat(&mixer.detail, ", more than the epsilon of %.1e asked for",
                              mixer.power_law->epsilon);
      }
    } else {
      mixer.advance.power_law = last->advance.power_law;
      mixer.detail = last->detail;
    }
    mixer.inputs.shape.banks = mixer.advance.power_law.nodes;
    last = &mixer;
  }
  return absl::OkStatus();
}

}  // namespace evenflow
