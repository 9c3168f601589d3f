#include <bit>
#include <cstring>

#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/step.h"

namespace evenflow {

void CpuEmbed(const EmbedArgs& args, const CpuStep& step, WorkerPool& pool) {
  const int64_t dim = args.table.cols;
  ForItems(pool, static_cast<int64_t>(step.tokens.size()), dim, [&](int64_t token) {
    const int64_t first = step.tokens[static_cast<size_t>(token)] * dim;
    float* const out = MutableRowOf(args.out, token);
    if (args.table.dtype == DType::kF32) {
      std::memcpy(out, static_cast<const float*>(args.table.data) + first,
                  static_cast<size_t>(dim) * sizeof(float));
      return;
    }
    const auto* const from = static_cast<const uint16_t*>(args.table.data) + first;
    for (int64_t i = 0; i < dim; ++i) {
      out[i] = std::bit_cast<float>(static_cast<uint32_t>(from[i]) << 16);
    }
  });
}

}  // namespace evenflow
