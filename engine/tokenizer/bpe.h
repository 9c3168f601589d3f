// Byte-pair encoding of one word, after Sennrich et al. 2016, with Hugging Face's handling of
// unknown characters. Owned by Tokenizer. Immutable; thread-safe.
#ifndef EVENFLOW_ENGINE_TOKENIZER_BPE_H_
#define EVENFLOW_ENGINE_TOKENIZER_BPE_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/vocabulary.h"

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace evenflow {

class Bpe {
 public:
  // Working memory of Encode, reused from word to word. `steps` counts candidate merges taken from
  // the heap, over all words.
  struct Scratch {
    struct Symbol {
      int32_t id;  // -1 once merged into its left neighbour
      int32_t previous;
      int32_t next;  // -1 at the ends
    };

    struct Candidate {
      uint64_t order;  // rank of the merge << 32 | index of its left symbol: lowest first
      int32_t merged_id;
    };

    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
    uint64_t steps = 0;
  };

  // Reads the "model" object; INVALID_ARGUMENT names what is missing, wrong or not supported.
  static absl::StatusOr<Bpe> Load(const nlohmann::json& model);

  // Appends the ids of `word`. O(n log n) in its length. REQUIRES: valid UTF-8 below 2^31 bytes.
  // INVALID_ARGUMENT when an unknown character needs an unknown token that the vocabulary lacks.
  absl::Status Encode(std::string_view word, Scratch* scratch, std::vector<int32_t>* ids) const;

  const Vocabulary& vocabulary() const { return vocabulary_; }

 private:
  struct Merge {
    uint32_t rank;
    int32_t merged_id;
  };

  absl::Status LoadVocabulary(const nlohmann::json& vocab);
  absl::Status LoadMerges(const nlohmann::json& merges);
  absl::Status AddMerge(std::string_view left, std::string_view right, uint32_t rank);
  absl::Status Split(std::string_view word, std::vector<Scratch::Symbol>* symbols) const;
  bool AddBytes(std::string_view character, std::vector<Scratch::Symbol>* symbols) const;
  void MergeAll(Scratch* scratch) const;
  void Propose(int32_t left, Scratch* scratch) const;
  const Merge* FindMerge(int32_t left, int32_t right) const;

  Vocabulary vocabulary_;
  absl::flat_hash_map<uint64_t, Merge> merges_;       // key: left id << 32 | right id
  std::array<std::optional<int32_t>, 256> byte_ids_;  // of <0x00> to <0xFF>
  std::string unknown_;                               // "" when there is none
  std::optional<int32_t> unknown_id_;
  bool fuse_unknown_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
};

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_TOKENIZER_BPE_H_
