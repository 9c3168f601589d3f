#include <cstring>

#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/step.h"

namespace evenflow {

void CpuMlpActivation(const MlpActivationArgs& args, const CpuStep& step, WorkerPool& pool) {
  constexpr int64_t kPart = 512;
  constexpr int64_t kWorkPerElement = 8;
  const int64_t parts = (args.size + kPart - 1) / kPart;
  const int64_t items = static_cast<int64_t>(step.tokens.size()) * parts;
  ForItems(pool, items, kPart * kWorkPerElement, [&](int64_t item) {
    const int64_t begin = item % parts * kPart;
    const int64_t count = std::min(kPart, args.size - begin);
    const float* const gate = RowOf(args.gate_up, item / parts) + begin;
    float* const y = MutableRowOf(args.y, item / parts) + begin;
    float activated[kPart];
    std::memcpy(activated, gate, static_cast<size_t>(count) * sizeof(float));
    Activate(args.activation, activated, count);
    for (int64_t i = 0; i < count; ++i) {
      y[i] = args.has_up ? activated[i] * gate[args.size + i] : activated[i];
    }
  });
}

}  // namespace evenflow
