#include "tests/support/memory_sessions.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <random>

namespace evenflow {
namespace {

using Random = std::mt19937;

// `count` unit vectors.
std::vector<float> UnitVectors(size_t count, int dim, Random& random) {
  std::normal_distribution<float> normal;
  std::vector<float> all;
  for (size_t i = 0; i < count; ++i) {
    std::vector<float> x(static_cast<size_t>(dim));
    float square = 0;
    for (float& value : x) {
      value = normal(random);
      square += value * value;
    }
    for (const float value : x) {
      all.push_back(value / std::sqrt(square));
    }
  }
  return all;
}

std::vector<float> Uniform(size_t count, float low, float high, Random& random) {
  std::uniform_real_distribution<float> uniform(low, high);
  std::vector<float> all(count);
  std::generate(all.begin(), all.end(), [&] { return uniform(random); });
  return all;
}

// Elements that a token brings to each of the inputs.
struct TokenSizes {
  size_t q, k, e, v, log_decay, beta, level_weights;

  explicit TokenSizes(const MemorySetup& setup) {
    const MemoryShape& shape = setup.shape;
    const auto size = [](int a, int b) { return static_cast<size_t>(a) * static_cast<size_t>(b); };
    q = size(shape.query_heads, shape.key_dim);
    const bool made = setup.mode.has_value();  // by the preconditioner
    k = size(shape.key_heads * (made ? 1 : EntryCount(setup.memory)), shape.key_dim);
    e = made ? 0 : size(shape.heads * OwnKeyCount(setup.memory), shape.key_dim);
    v = size(shape.value_heads, shape.value_dim);
    const Decay decay = DecayOf(setup.memory);
    log_decay = 0;
    if (decay == Decay::kScalar) {
      log_decay = size(shape.heads, 1);
    } else if (decay == Decay::kChannel) {
      log_decay = size(shape.heads, shape.key_dim);
    }
    beta = size(shape.heads, 1);
    level_weights = IsBanked(setup.memory) ? size(shape.heads, shape.banks) : 0;
  }
};

void AppendTokens(const std::vector<float>& from, size_t token_size, int begin, int end,
                  std::vector<float>* to) {
  to->insert(to->end(), from.begin() + static_cast<ptrdiff_t>(token_size) * begin,
             from.begin() + static_cast<ptrdiff_t>(token_size) * end);
}

void AppendInputs(const TokenSizes& sizes, const MemoryInputs& from, int begin, int end,
                  MemoryInputs* to) {
  AppendTokens(from.q, sizes.q, begin, end, &to->q);
  AppendTokens(from.k, sizes.k, begin, end, &to->k);
  AppendTokens(from.e, sizes.e, begin, end, &to->e);
  AppendTokens(from.v, sizes.v, begin, end, &to->v);
  AppendTokens(from.beta, sizes.beta, begin, end, &to->beta);
  AppendTokens(from.level_weights, sizes.level_weights, begin, end, &to->level_weights);
  if (sizes.log_decay > 0) {
    AppendTokens(from.log_decay, sizes.log_decay, begin, end, &to->log_decay);
  } else {
    to->log_decay = from.log_decay;
  }
  to->tokens += end - begin;
}

// Makes e the written keys of the entries that erase by their own, and scales these by channels.
template <class Memory>
void SeparateOwnKeys(const MemoryShape& shape, Random& random, MemoryInputs* inputs) {
  const auto dim = static_cast<size_t>(shape.key_dim);
  const auto written = [&](int token, int key_head, int entry) {
    return inputs->k.begin() +
           ((ptrdiff_t{token} * shape.key_heads + key_head) * kEntryCount<Memory> + entry) *
               shape.key_dim;
  };
  for (int t = 0; OwnKeys<Memory>() > 0 && t < inputs->tokens; ++t) {
    for (int h = 0; h < shape.heads; ++h) {
      for (int n = 0; n < kEntryCount<Memory>; ++n) {
        if (Memory::kEntries[n].erase == Erase::kOwnKey) {
          const auto key = written(t, h / (shape.heads / shape.key_heads), n);
          inputs->e.insert(inputs->e.end(), key, key + shape.key_dim);
        }
      }
    }
    for (int n = 0; n < kEntryCount<Memory> * shape.key_heads; ++n) {
      if (Memory::kEntries[n % kEntryCount<Memory>].erase == Erase::kOwnKey) {
        const auto rates = Uniform(dim, 0, 1, random);
        const auto key = written(t, 0, n);
        std::transform(rates.begin(), rates.end(), key, key, std::multiplies<>());
      }
    }
  }
}

}  // namespace

PowerLaw TestPowerLaw() {
  constexpr int kNodes = 4;
  static const std::vector<float> rates = {1e-7f, 0.004f, 0.03f, 0.2f};
  static const std::vector<float> coefficients = [] {
    std::vector<float> table;
    for (int point = 0; point < PowerLaw::kPoints; ++point) {
      const double alpha = kTestAlphaMin + (1 - kTestAlphaMin) * point / (PowerLaw::kPoints - 1);
      for (int node = 0; node < kNodes; ++node) {
        table.push_back(static_cast<float>(std::pow(alpha, node + 1) / kNodes));
      }
    }
    return table;
  }();
  return {kNodes, static_cast<float>(kTestAlphaMin), rates.data(), coefficients.data()};
}

MemorySetup Fitted(MemorySetup setup) {
  constexpr int kLevels = 8;  // a test of some hundred tokens outgrows them
  setup.window = FitWindow(setup.memory, setup.window);
  setup.shape.banks = setup.memory == MemoryKind::kVort ? TestPowerLaw().nodes
                      : IsBanked(setup.memory)          ? kLevels
                                                        : 0;
  if (!setup.mode.has_value()) {
    for (const PreconditionMode mode :
         {PreconditionMode::kStar, PreconditionMode::kUnit, PreconditionMode::kRls}) {
      setup.mode = MemoryOf(mode) == setup.memory ? std::optional(mode) : setup.mode;
    }
  }
  return setup;
}

size_t SlotBytes(const MemorySetup& setup) {
  size_t bytes = LayoutOf(setup.memory, setup.shape, setup.window, setup.state_dtype).bytes;
  if (setup.mode.has_value()) {
    bytes += LayoutOf(setup.preconditioner(), setup.window).bytes;
  }
  return bytes;
}

bool IsLive(const MemorySetup& setup, int bank, int64_t blocks) {
  return VisitMemory(setup.memory, [&]<class Memory>() {
    if constexpr (Banked<Memory>) {
      return Memory::Banks::Of(setup.shape, setup.window, setup.forgets_top).Live(bank, blocks);
    } else {
      return true;
    }
  });
}

MemoryShape PlainShape(int heads, int key_dim, int value_dim) {
  return {heads, heads, heads, heads, key_dim, value_dim};
}

MemoryInputs RandomInputs(const MemorySetup& setup, int tokens, uint32_t seed) {
  const MemoryShape& shape = setup.shape;
  const TokenSizes sizes(setup);
  const auto count = static_cast<size_t>(tokens);
  Random random(seed);
  std::normal_distribution<float> normal;
  MemoryInputs inputs;
  inputs.tokens = tokens;
  inputs.q = UnitVectors(count * static_cast<size_t>(shape.query_heads), shape.key_dim, random);
  inputs.k =
      UnitVectors(count * sizes.k / static_cast<size_t>(shape.key_dim), shape.key_dim, random);
  inputs.v.resize(count * sizes.v);
  std::generate(inputs.v.begin(), inputs.v.end(), [&] { return normal(random); });
  const float least = setup.memory == MemoryKind::kVort ? static_cast<float>(kTestAlphaMin) : 0.0f;
  inputs.beta = Uniform(count * sizes.beta, least, 1, random);
  inputs.level_weights = Uniform(count * sizes.level_weights, 0, 2, random);
  if (sizes.log_decay > 0) {
    inputs.log_decay = Uniform(count * sizes.log_decay, -0.2f, 0, random);
  } else {
    for (int h = 0; h < shape.heads; ++h) {
      inputs.log_decay.push_back(std::log1p(-std::ldexp(1.0f, -2 - h)));
    }
  }
  if (!setup.mode.has_value()) {
    VisitMemory(setup.memory,
                [&]<class Memory>() { SeparateOwnKeys<Memory>(shape, random, &inputs); });
  }
  return inputs;
}

MemoryInputs Splice(const MemorySetup& setup, const MemoryInputs& head, int prefix,
                    const MemoryInputs& tail) {
  const TokenSizes sizes(setup);
  MemoryInputs inputs;
  AppendInputs(sizes, head, 0, prefix, &inputs);
  AppendInputs(sizes, tail, prefix, tail.tokens, &inputs);
  return inputs;
}

Preconditioner MemorySetup::preconditioner() const {
  Preconditioner of;
  of.mode = *mode;
  of.lambda0 = lambda0;
  of.mu = mu;
  of.heads = shape.heads;
  of.key_dim = shape.key_dim;
  return of;
}

MemorySessions::MemorySessions(const MemorySetup& setup, int slots, int threads)
    : setup_(setup),
      layout_(LayoutOf(setup.memory, setup.shape, setup.window, setup.state_dtype)),
      slot_bytes_(SlotBytes(setup)),
      device_(CreateMemoryDevice(threads, setup.activations)),
      base_(device_->Allocate(slot_bytes_ * static_cast<size_t>(slots))) {
  for (int slot = 0; slot < slots; ++slot) {
    Reset(slot);
  }
}

void MemorySessions::Reset(int slot) {
  const MemoryShape& shape = setup_.shape;
  std::vector<std::byte> initial(slot_bytes_, std::byte{0xff});
  if (IsBanked(setup_.memory)) {
    device_->Upload(Slot(slot), initial.data(), initial.size());
    return;  // no bank holds anything
  }
  std::memset(initial.data() + layout_.committed, 0,
              static_cast<size_t>(shape.heads) * static_cast<size_t>(shape.key_dim) *
                  static_cast<size_t>(shape.value_dim) * ByteSize(setup_.state_dtype));
  device_->Upload(Slot(slot), initial.data(), initial.size());
}

void MemorySessions::Precondition(MemoryInputs* inputs) {
  const std::vector<float> k = inputs->k;
  const size_t keys = k.size() * static_cast<size_t>(EntryCount(setup_.memory));
  inputs->k.resize(keys);
  inputs->e.resize(keys);
  PreconditionArgs args;
  args.preconditioner = setup_.preconditioner();
  args.window = setup_.window;
  args.slots = {base_, slot_bytes_};
  args.layer_offset = layout_.bytes;
  args.k = k.data();
  args.q = inputs->q.data();
  args.beta = inputs->beta.data();
  args.w = inputs->k.data();
  args.e = inputs->e.data();
  step_seconds_ += device_->Precondition(args, &step_);
  // Room for that of the state.
  step_.output.health.swap(preconditioner_health_);
  step_.output.health.assign(step_.rows.size(), {});
}

std::vector<std::vector<float>> MemorySessions::Step(const std::vector<MemoryRow>& rows) {
  const TokenSizes sizes(setup_);
  MemoryInputs inputs;
  step_.rows.clear();
  for (const MemoryRow& row : rows) {
    step_.rows.push_back({row.slot, inputs.tokens, row.end - row.begin, row.begin});
    AppendInputs(sizes, *row.inputs, row.begin, row.end, &inputs);
  }
  step_.output.memory_layers = 1;
  step_.output.health.assign(rows.size(), {});
  const auto token_outputs = static_cast<ptrdiff_t>(setup_.shape.output_heads()) *
                             static_cast<ptrdiff_t>(setup_.shape.value_dim);
  std::vector<float> o(static_cast<size_t>(token_outputs * inputs.tokens));
  step_seconds_ = 0;
  if (setup_.mode.has_value() && !rows.empty()) {
    Precondition(&inputs);
  }
  AdvanceArgs args;
  args.memory = setup_.memory;
  args.shape = setup_.shape;
  args.window = setup_.window;
  args.state_dtype = setup_.state_dtype;
  args.slots = {base_, slot_bytes_};
  args.forgets_top = setup_.forgets_top;
  args.power_law = TestPowerLaw();
  step_seconds_ += device_->Advance(args, inputs, &step_, &o);
  std::vector<std::vector<float>> outputs;
  for (const Row& row : step_.rows) {
    const auto begin = o.begin() + token_outputs * row.first_token;
    outputs.emplace_back(begin, begin + token_outputs * row.tokens);
  }
  return outputs;
}

std::vector<float> MemorySessions::Run(int slot, const MemoryInputs& inputs, int begin, int end,
                                       int chunk) {
  std::vector<float> outputs;
  for (int at = begin; at < end; at += chunk) {
    const auto o = Step({{slot, &inputs, at, std::min(end, at + chunk)}});
    outputs.insert(outputs.end(), o[0].begin(), o[0].end());
  }
  return outputs;
}

void MemorySessions::CopySlot(int to, int from) {
  std::vector<std::byte> slot(slot_bytes_);
  device_->Download(slot.data(), Slot(from), slot_bytes_);
  device_->Upload(Slot(to), slot.data(), slot_bytes_);
}

std::vector<float> MemorySessions::StoredState(int slot_index) const {
  const MemoryShape& shape = setup_.shape;
  const int banks = BankCount(setup_.memory, shape, setup_.window);
  const auto elements = static_cast<size_t>(shape.key_dim) * static_cast<size_t>(shape.value_dim);
  const size_t element = ByteSize(setup_.state_dtype);
  std::vector<std::byte> slot(layout_.bytes);
  device_->Download(slot.data(), Slot(slot_index), layout_.bytes);
  int64_t tokens = 0;
  std::memcpy(&tokens, slot.data() + layout_.committed_tokens, sizeof(tokens));
  const std::byte* from = slot.data() + layout_.committed;
  std::vector<float> state;
  for (int bank = 0; bank < shape.heads * banks; ++bank, from += elements * element) {
    const bool live = IsLive(setup_, bank % banks, tokens / setup_.window.commit);
    for (int k = 0; k < shape.key_dim; ++k) {
      for (int c = 0; c < shape.value_dim; ++c) {
        const auto index = static_cast<size_t>(device_->StateIndex(shape, k, c));
        uint32_t bits = 0;  // little-endian
        std::memcpy(&bits, from + index * element, element);
        state.push_back(live ? std::bit_cast<float>(element == 2 ? bits << 16 : bits) : 0);
      }
    }
  }
  return state;
}

}  // namespace evenflow
