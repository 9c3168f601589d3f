#include "tests/engine/fake_device.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"

namespace evenflow {
namespace {

uint64_t Mix(uint64_t hash, uint64_t value) {
  // splitmix64's finalizer over the sum.
  uint64_t x = hash * 0x9e3779b97f4a7c15u + value + 0x632be59bd9b4e019u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

class FakeModel : public Forwarder {
 public:
  FakeModel(FakeDevice& device, Window window) : device_(device), window_(window) {
    info_.name = "fake";
    info_.vocab_size = kFakeVocab;
  }

  const ModelInfo& info() const override { return info_; }

  const Window& window() const override { return window_; }

  size_t slot_bytes() const override { return sizeof(FakeState); }

  void Forward(const Slots& slots) override { device_.Forward(slots); }

  const Matrix& logits() const override { return logits_; }

 private:
  FakeDevice& device_;
  const Window window_;
  ModelInfo info_;
  Matrix logits_;
};

}  // namespace

void FakeState::CommitTo(int64_t end, const Window& window) {
  while (committed < end) {
    const int64_t block_end = committed + window.commit;
    committed_hash = Mix(committed_hash, static_cast<uint64_t>(block_end));
    for (; committed < block_end; ++committed) {
      committed_hash = Mix(committed_hash, static_cast<uint64_t>(ring[committed % window.ring()]));
    }
  }
}

void FakeState::Feed(int32_t token, const Window& window) {
  ring[position % window.ring()] = token;
  newest = ++position;
  CommitTo(window.Committed(position), window);
}

bool FakeState::GoBackTo(int64_t earlier, const Window& window) {
  position = earlier;
  return 0 <= earlier && earlier <= newest && newest - earlier <= window.rollback;
}

uint64_t FakeState::Hash(const Window& window) const {
  FakeState folded = *this;
  folded.CommitTo(window.Block(position), window);
  uint64_t hash = folded.committed_hash;
  for (int64_t p = folded.committed; p < position; ++p) {
    hash = Mix(hash, static_cast<uint64_t>(ring[p % window.ring()]));
  }
  return hash;
}

int32_t FakeSample(uint64_t state_hash, const SamplingRow& row) {
  uint64_t hash = Mix(Mix(state_hash, row.params->seed), static_cast<uint64_t>(row.position));
  const int64_t remembered = std::min<int64_t>(row.position, row.history_capacity);
  for (int64_t p = row.position - remembered; p < row.position; ++p) {
    hash = Mix(hash, static_cast<uint64_t>(row.history[p % row.history_capacity]));
  }
  const auto banned = [&row](int32_t token) {
    return std::find(row.banned, row.banned + row.banned_count, token) !=
           row.banned + row.banned_count;
  };
  auto token = static_cast<int32_t>(hash % kFakeVocab);
  while (banned(token)) {
    token = (token + 1) % kFakeVocab;
  }
  return token;
}

void FakeSession::Learn(int32_t token) {
  if (!tokens.empty()) {
    state.Feed(tokens.back(), window);
  }
  history[tokens.size() % history.size()] = token;
  tokens.push_back(token);
}

std::vector<int32_t> FakeSession::Generate(int count, const SamplingParams& params) {
  std::vector<int32_t> generated;
  for (int i = 0; i < count; ++i) {
    FakeState after = state;
    after.Feed(tokens.back(), window);
    SamplingRow row;
    row.params = &params;
    row.position = static_cast<int64_t>(tokens.size());
    row.history = history.data();
    row.history_capacity = static_cast<int32_t>(history.size());
    generated.push_back(FakeSample(after.Hash(window) | 1, row));
    Learn(generated.back());
  }
  return generated;
}

FakeDevice::FakeDevice(Window window, int pipeline_depth)
    : window_(window), pipeline_depth_(pipeline_depth) {}

FakeDevice::~FakeDevice() {
  std::free(slots_);
}

void FakeDevice::Complain(const std::string& what) {
  MutexLock lock(mutex_);
  if (complaint_.empty()) {
    complaint_ = what;
  }
}

std::string FakeDevice::complaint() const {
  MutexLock lock(mutex_);
  return complaint_;
}

std::unique_ptr<Forwarder> FakeDevice::NewModel() {
  return std::make_unique<FakeModel>(*this, window_);
}

void* FakeDevice::Allocate(size_t bytes) {
  if (out_of_memory) {
    return nullptr;
  }
  slots_bytes_ = bytes;
  slots_ = static_cast<std::byte*>(std::calloc(1, bytes));
  return slots_;
}

void FakeDevice::Free(void* data) {
  if (data != slots_) {
    Complain("freed what was not allocated");
  }
  std::free(slots_);
  slots_ = nullptr;
}

FakeState FakeDevice::StateOf(int slot) const {
  FakeState state;
  std::memcpy(&state, slots_ + static_cast<size_t>(slot) * sizeof state, sizeof state);
  return state;
}

int FakeDevice::DirtySlots() const {
  int dirty = 0;
  for (size_t slot = 0; slot < slots_bytes_ / sizeof(FakeState); ++slot) {
    const std::byte* begin = slots_ + slot * sizeof(FakeState);
    const bool clean = std::all_of(begin, begin + sizeof(FakeState),
                                   [](std::byte b) { return b == std::byte{0}; });
    dirty += clean ? 0 : 1;
  }
  return dirty;
}

void FakeDevice::BeginStep(const StepInput& step) {
  if (launched_.size() > static_cast<size_t>(pipeline_depth_)) {
    Complain("more steps under way than the depth");
  }
  input_ = std::make_unique<ResolvedStep>(step, drawn_);
  const StepInput& input = input_->input();
  step_.rows.assign(input.rows, input.rows + input.row_count);
  step_.tokens.assign(input.tokens, input.tokens + input.token_count);
  step_.logit_tokens.assign(input.logit_tokens, input.logit_tokens + input.logit_count);
  step_.sampling.assign(input.sampling, input.sampling + input.logit_count);
  output_ = {};
}

void FakeDevice::Forward(const Slots& slots) {
  output_.memory_layers = 1;
  logits_.clear();
  std::vector<bool> named(slots_bytes_ / slots.slot_bytes);
  size_t next_logit = 0;
  int32_t next_token = 0;
  for (const Row& row : step_.rows) {
    auto& state = *reinterpret_cast<FakeState*>(slots.base +
                                                static_cast<size_t>(row.slot) * slots.slot_bytes);
    CheckFree(row.slot, "in a step");
    if (named[static_cast<size_t>(row.slot)]) {
      Complain(absl::StrCat("slot ", row.slot, " has two rows"));
    }
    named[static_cast<size_t>(row.slot)] = true;
    if ((row.position != state.position && !state.GoBackTo(row.position, window_)) ||
        row.tokens < 1 || row.first_token != next_token) {
      Complain(absl::StrCat("a row of ", row.tokens, " tokens at ", row.position,
                            " for a state with ", state.position));
    }
    const int64_t committed = state.committed;
    for (int32_t i = 0; i < row.tokens; ++i, ++next_token) {
      state.Feed(step_.tokens[static_cast<size_t>(next_token)], window_);
      if (next_logit < step_.logit_tokens.size() && step_.logit_tokens[next_logit] == next_token) {
        const bool bad = bad_logits && bad_logits(row);
        logits_.push_back(bad ? 0 : state.Hash(window_) | 1);
        ++next_logit;
      }
    }
    StateHealth health;
    health.committed = state.committed > committed;
    health.norm = 1;
    health.non_finite = health.committed && bad_state && bad_state(row) ? 3 : 0;
    output_.health.push_back(health);
  }
  if (next_logit != step_.logit_tokens.size()) {
    Complain("a logit of no token");
  }
}

void FakeDevice::Sample(const SampleArgs& args) {
  if (args.vocab != kFakeVocab) {
    Complain("wrong vocabulary");
  }
  for (size_t i = 0; i < logits_.size(); ++i) {
    SampledToken sampled;
    sampled.token = logits_[i] == 0 ? -1 : FakeSample(logits_[i], step_.sampling[i]);
    output_.sampled.push_back(sampled);
  }
}

Ticket FakeDevice::Launch() {
  if (on_launch) {
    on_launch(step_);
  }
  steps_.fetch_add(1);
  steps_ahead_.fetch_add(launched_.empty() ? 0 : 1);
  drawn_ = output_.sampled;
  launched_[++last_ticket_] = output_;
  return last_ticket_;
}

const StepOutput& FakeDevice::Collect(Ticket ticket) {
  const auto step = launched_.begin();
  if (step == launched_.end() || step->first != ticket) {
    Complain("steps collected out of order");
    return collected_;
  }
  collected_ = std::move(step->second);
  launched_.erase(step);
  return collected_;
}

void FakeDevice::CheckFree(int slot, const char* what) {
  for (const auto& [id, copy] : copies_) {
    if (copy.slot == slot) {
      Complain(absl::StrCat("slot ", slot, " is ", what, " while it is copied"));
    }
  }
}

void FakeDevice::CopySlot(const Slots& slots, int to, int from) {
  CheckFree(to, "written");
  CheckFree(from, "read");
  std::memcpy(slots.base + static_cast<size_t>(to) * slots.slot_bytes,
              slots.base + static_cast<size_t>(from) * slots.slot_bytes, slots.slot_bytes);
}

void FakeDevice::ClearSlot(const Slots& slots, int slot) {
  CheckFree(slot, "cleared");
  std::memset(slots.base + static_cast<size_t>(slot) * slots.slot_bytes, 0, slots.slot_bytes);
}

void* FakeDevice::AllocateHost(size_t bytes) {
  MutexLock lock(mutex_);
  size_t used = bytes;
  for (const auto& [block, size] : host_) {
    used += size;
  }
  if (used > host_bytes.load()) {
    return nullptr;
  }
  void* const block = std::calloc(1, bytes);
  host_[block] = bytes;
  return block;
}

void FakeDevice::FreeHost(void* data) {
  copies_.clear();
  MutexLock lock(mutex_);
  host_.erase(data);
  std::free(data);
}

size_t FakeDevice::host_blocks() const {
  MutexLock lock(mutex_);
  return host_.size();
}

int FakeDevice::DirtyHostBytes() const {
  MutexLock lock(mutex_);
  int64_t dirty = 0;
  for (const auto& [block, bytes] : host_) {
    const auto* const begin = static_cast<const std::byte*>(block);
    dirty += std::count_if(begin, begin + bytes, [](std::byte b) { return b != std::byte{0}; });
  }
  return static_cast<int>(dirty);
}

SlotCopy FakeDevice::Begin(const Copy& copy) {
  CheckFree(copy.slot, "copied");
  copies_.emplace(++last_copy_, copy);
  return last_copy_;
}

SlotCopy FakeDevice::SaveSlot(const Slots& slots, int slot, void* to) {
  return Begin({static_cast<std::byte*>(to),
                slots.base + static_cast<size_t>(slot) * slots.slot_bytes, slots.slot_bytes, slot});
}

SlotCopy FakeDevice::LoadSlot(const Slots& slots, int slot, const void* from) {
  return Begin({slots.base + static_cast<size_t>(slot) * slots.slot_bytes,
                static_cast<const std::byte*>(from), slots.slot_bytes, slot});
}

bool FakeDevice::CopyDone(SlotCopy copy) {
  const auto found = copies_.find(copy);
  if (found == copies_.end()) {
    Complain("a copy is asked for that is not under way");
    return true;
  }
  const int polls = copy_polls.load();
  if (failure.empty() && (polls < 0 || found->second.polls++ < polls)) {
    return false;
  }
  std::memcpy(found->second.to, found->second.from, found->second.bytes);
  copies_.erase(found);
  return true;
}

void FakeDevice::WipeHost(void* data, size_t bytes) {
  auto* const begin = static_cast<std::byte*>(data);
  for (const auto& [id, copy] : copies_) {
    if ((begin <= copy.from && copy.from < begin + bytes) ||
        (begin <= copy.to && copy.to < begin + bytes)) {
      Complain("host memory is wiped while it is copied");
    }
  }
  std::memset(data, 0, bytes);
}

}  // namespace evenflow
