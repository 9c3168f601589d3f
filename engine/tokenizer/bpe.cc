#include "engine/tokenizer/bpe.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "engine/tokenizer/fields.h"
#include "engine/utf8.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace evenflow {
namespace {

using Symbol = Bpe::Scratch::Symbol;
using Candidate = Bpe::Scratch::Candidate;

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// For the standard heap algorithms, whose top is the largest.
bool ComesLater(const Candidate& a, const Candidate& b) {
  return a.order > b.order;
}

void Append(int32_t id, std::vector<Symbol>* symbols) {
  const auto index = static_cast<int32_t>(symbols->size());
  if (index > 0) {
    symbols->back().next = index;
  }
  symbols->push_back({id, index - 1, -1});
}

// Options whose meaning would change the tokens and that no checkpoint in scope uses.
absl::Status CheckUnsupported(Fields* fields) {
  const nlohmann::json* dropout = fields->Find("dropout");
  if (dropout != nullptr && (!dropout->is_number() || dropout->get<double>() != 0)) {
    return fields->Fail("\"dropout\" is not supported; null or 0 is expected");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!fields->String(key, "").empty()) {
      return fields->Fail(absl::StrCat("\"", key, "\" is not supported; null or \"\" is expected"));
    }
  }
  return fields->status();
}

}  // namespace

absl::StatusOr<Bpe> Bpe::Load(const nlohmann::json& model) {
  Fields fields(model, "model");
  const std::string type = fields.String("type", "BPE");
  if (type != "BPE") {
    return fields.Unsupported(type, "BPE");
  }
  if (absl::Status status = CheckUnsupported(&fields); !status.ok()) {
    return status;
  }
  Bpe bpe;
  bpe.unknown_ = fields.String("unk_token", "");
  bpe.fuse_unknown_ = fields.Bool("fuse_unk", false);
  bpe.byte_fallback_ = fields.Bool("byte_fallback", false);
  bpe.ignore_merges_ = fields.Bool("ignore_merges", false);
  const nlohmann::json& vocab = fields.RequiredObject("vocab");
  const nlohmann::json& merges = fields.RequiredArray("merges");
  if (!fields.status().ok()) {
    return fields.status();
  }
  if (absl::Status status = bpe.LoadVocabulary(vocab); !status.ok()) {
    return status;
  }
  if (absl::Status status = bpe.LoadMerges(merges); !status.ok()) {
    return status;
  }
  bpe.unknown_id_ = bpe.vocabulary_.Find(bpe.unknown_);
  for (size_t byte = 0; byte < 256; ++byte) {
    bpe.byte_ids_[byte] = bpe.vocabulary_.Find(absl::StrFormat("<0x%02X>", byte));
  }
  return bpe;
}

absl::Status Bpe::LoadVocabulary(const nlohmann::json& vocab) {
  for (auto entry = vocab.begin(); entry != vocab.end(); ++entry) {
    if (!entry->is_number_integer()) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer.json: model: the id of token \"", entry.key().substr(0, 200),
                       "\" is a ", entry->type_name(), "; an integer is expected"));
    }
    if (absl::Status status = vocabulary_.Add(entry.key(), entry->get<int64_t>()); !status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer.json: model: ", status.message()));
    }
  }
  return absl::OkStatus();
}

absl::Status Bpe::LoadMerges(const nlohmann::json& merges) {
  merges_.reserve(merges.size());
  uint32_t rank = 0;
  for (const nlohmann::json& merge : merges) {
    std::string_view left;
    std::string_view right;
    if (merge.is_string()) {
      const std::string_view both = *merge.get_ptr<const std::string*>();
      if (both.substr(0, 8) == "#version") {
        continue;
      }
      const size_t space = both.find(' ');
      if (space != both.npos && both.find(' ', space + 1) == both.npos) {
        left = both.substr(0, space);
        right = both.substr(space + 1);
      }
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      left = *merge[0].get_ptr<const std::string*>();
      right = *merge[1].get_ptr<const std::string*>();
    }
    if (left.empty() || right.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer.json: model: merge ", rank,
                       R"( is neither "left right" nor ["left", "right"])"));
    }
    if (absl::Status status = AddMerge(left, right, rank++); !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

absl::Status Bpe::AddMerge(std::string_view left, std::string_view right, uint32_t rank) {
  const std::string merged = absl::StrCat(std::string(left), std::string(right));
  const auto left_id = vocabulary_.Find(left);
  const auto right_id = vocabulary_.Find(right);
  const auto merged_id = vocabulary_.Find(merged);
  if (!left_id || !right_id || !merged_id) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.json: model: merge ", rank,
                                                   " needs the token \"",
                                                   (!left_id    ? std::string(left)
                                                    : !right_id ? std::string(right)
                                                                : merged)
                                                       .substr(0, 200),
                                                   "\", which the vocabulary lacks"));
  }
  merges_[PairKey(*left_id, *right_id)] = {rank, *merged_id};  // of duplicates the last counts
  return absl::OkStatus();
}

absl::Status Bpe::Encode(std::string_view word, Scratch* scratch, std::vector<int32_t>* ids) const {
  if (ignore_merges_) {
    if (const auto whole = vocabulary_.Find(word)) {
      ids->push_back(*whole);
      return absl::OkStatus();
    }
  }
  scratch->symbols.clear();
  if (absl::Status status = Split(word, &scratch->symbols); !status.ok()) {
    return status;
  }
  MergeAll(scratch);
  for (const Symbol& symbol : scratch->symbols) {
    if (symbol.id >= 0) {
      ids->push_back(symbol.id);
    }
  }
  return absl::OkStatus();
}

bool Bpe::AddBytes(std::string_view character, std::vector<Symbol>* symbols) const {
  const auto id_of = [this](char byte) { return byte_ids_[static_cast<uint8_t>(byte)]; };
  if (!std::all_of(character.begin(), character.end(), id_of)) {
    return false;
  }
  for (const char byte : character) {
    Append(*id_of(byte), symbols);
  }
  return true;
}

// One symbol a character. As in Hugging Face's, a pending unknown token waits for the next known
// character, also behind byte tokens; characters without any token vanish.
absl::Status Bpe::Split(std::string_view word, std::vector<Symbol>* symbols) const {
  bool unknown_waits = false;
  for (size_t at = 0, length = 0; at < word.size(); at += length) {
    length = Utf8Length(word, at);
    const std::string_view character = word.substr(at, length);
    if (const auto id = vocabulary_.Find(character)) {
      if (unknown_waits) {
        Append(*unknown_id_, symbols);
        unknown_waits = false;
      }
      Append(*id, symbols);
      continue;
    }
    if ((byte_fallback_ && AddBytes(character, symbols)) || unknown_.empty()) {
      continue;
    }
    if (!unknown_id_) {
      return absl::InvalidArgumentError(
          absl::StrCat("the text has the character \"", std::string(character),
                       "\", which the tokenizer lacks, and its unk_token \"",
                       unknown_.substr(0, 200), "\" is not in its vocabulary"));
    }
    if (unknown_waits && !fuse_unknown_) {
      Append(*unknown_id_, symbols);
    }
    unknown_waits = true;
  }
  if (unknown_waits) {
    Append(*unknown_id_, symbols);
  }
  return absl::OkStatus();
}

const Bpe::Merge* Bpe::FindMerge(int32_t left, int32_t right) const {
  const auto found = merges_.find(PairKey(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

// Adds the merge of the symbol at `left` with its right neighbour, if there is one.
void Bpe::Propose(int32_t left, Scratch* scratch) const {
  const Symbol& symbol = scratch->symbols[static_cast<size_t>(left)];
  if (symbol.next < 0) {
    return;
  }
  const int32_t right_id = scratch->symbols[static_cast<size_t>(symbol.next)].id;
  if (const Merge* merge = FindMerge(symbol.id, right_id)) {
    const uint64_t order = uint64_t{merge->rank} << 32 | static_cast<uint32_t>(left);
    scratch->heap.push_back({order, merge->merged_id});
  }
}

// Invariant: the heap holds every possible merge, and stale ones, which are dropped when they
// surface. Each merge removes a symbol and adds two candidates, hence O(n log n).
void Bpe::MergeAll(Scratch* scratch) const {
  std::vector<Symbol>& symbols = scratch->symbols;
  std::vector<Candidate>& heap = scratch->heap;
  heap.clear();
  for (size_t i = 0; i + 1 < symbols.size(); ++i) {
    Propose(static_cast<int32_t>(i), scratch);
  }
  std::make_heap(heap.begin(), heap.end(), ComesLater);
  const auto propose = [&](int32_t left) {
    const size_t before = heap.size();
    Propose(left, scratch);
    if (heap.size() > before) {
      std::push_heap(heap.begin(), heap.end(), ComesLater);
    }
  };
  while (!heap.empty()) {
    ++scratch->steps;
    std::pop_heap(heap.begin(), heap.end(), ComesLater);
    const Candidate top = heap.back();
    heap.pop_back();
    const auto left = static_cast<int32_t>(top.order & 0xFFFFFFFFU);
    Symbol& symbol = symbols[static_cast<size_t>(left)];
    if (symbol.id < 0 || symbol.next < 0) {
      continue;
    }
    Symbol& right = symbols[static_cast<size_t>(symbol.next)];
    const Merge* merge = FindMerge(symbol.id, right.id);
    if (merge == nullptr || merge->merged_id != top.merged_id) {
      continue;
    }
    symbol.id = top.merged_id;
    symbol.next = right.next;
    right.id = -1;
    if (symbol.next >= 0) {
      symbols[static_cast<size_t>(symbol.next)].previous = left;
    }
    if (symbol.previous >= 0) {
      propose(symbol.previous);
    }
    propose(left);
  }
}

}  // namespace evenflow
