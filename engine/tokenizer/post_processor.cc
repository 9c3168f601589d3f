#include "engine/tokenizer/post_processor.h"

#include <string>
#include <utility>

#include "engine/tokenizer/fields.h"

#include "absl/strings/str_cat.h"

namespace evenflow {
namespace {

class Loader {
 public:
  explicit Loader(int32_t vocab_size) : vocab_size_(vocab_size) {}

  absl::Status LoadStep(const nlohmann::json& json) {
    Fields fields(json, "post_processor");
    const std::string type = fields.Type();
    if (!fields.status().ok()) {
      return fields.status();
    }
    absl::Status status = LoadByType(type, &fields);
    return fields.status().ok() ? status : fields.status();
  }

  Surroundings Finish() && { return std::move(around_); }

 private:
  absl::Status LoadByType(const std::string& type, Fields* fields) {
    if (type == "ByteLevel") {
      return absl::OkStatus();  // changes offsets only
    }
    if (type == "TemplateProcessing") {
      return LoadTemplate(fields);
    }
    if (type == "RobertaProcessing" || type == "BertProcessing") {
      return LoadPair(fields);
    }
    if (type == "Sequence") {
      for (const nlohmann::json& step : fields->RequiredArray("processors")) {
        if (absl::Status status = LoadStep(step); !status.ok()) {
          return status;
        }
      }
      return absl::OkStatus();
    }
    return fields->Unsupported(
        type, "TemplateProcessing, RobertaProcessing, BertProcessing, ByteLevel, Sequence");
  }

  // "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}, ...]
  absl::Status LoadTemplate(Fields* fields) {
    const nlohmann::json& tokens = fields->RequiredObject("special_tokens");
    Surroundings own;
    int texts = 0;
    for (const nlohmann::json& piece : fields->RequiredArray("single")) {
      Fields item(piece, fields->where() + " single");
      if (item.Find("Sequence") != nullptr) {
        Fields sequence(item.RequiredObject("Sequence"), item.where());
        if (const std::string id = sequence.RequiredString("id"); id != "A") {
          return sequence.Unsupported(id, "A");
        }
        ++texts;
        continue;
      }
      Fields special(item.RequiredObject("SpecialToken"), item.where());
      const std::string name = special.RequiredString("id");
      for (const Fields* read : {&item, &special}) {
        if (!read->status().ok()) {
          return read->status();
        }
      }
      absl::Status status =
          AppendTemplateToken(tokens, name, texts == 0 ? &own.prefix : &own.suffix);
      if (!status.ok()) {
        return status;
      }
    }
    if (fields->status().ok() && texts != 1) {
      return fields->Fail(
          absl::StrCat("\"single\" has the text (Sequence A) ", texts, " times; once is expected"));
    }
    Wrap(std::move(own));
    return fields->status();
  }

  absl::Status AppendTemplateToken(const nlohmann::json& tokens, const std::string& name,
                                   std::vector<int32_t>* ids) {
    Fields fields(tokens, "post_processor TemplateProcessing special_tokens");
    Fields token(fields.RequiredObject(name.c_str()), fields.where() + " " + name.substr(0, 200));
    const nlohmann::json& listed = token.RequiredArray("ids");
    for (const Fields* read : {&fields, &token}) {
      if (!read->status().ok()) {
        return read->status();
      }
    }
    for (const nlohmann::json& id : listed) {
      if (absl::Status status = AppendId(id, &token, ids); !status.ok()) {
        return status;
      }
    }
    return absl::OkStatus();
  }

  // "cls": ["<s>", 0], "sep": ["</s>", 2]
  absl::Status LoadPair(Fields* fields) {
    Surroundings own;
    for (const auto& [key, ids] : {std::pair("cls", &own.prefix), std::pair("sep", &own.suffix)}) {
      const nlohmann::json& pair = fields->RequiredArray(key);
      if (pair.size() != 2) {
        return fields->Fail(absl::StrCat("\"", key, "\" must be [token, id]"));
      }
      if (absl::Status status = AppendId(pair[1], fields, ids); !status.ok()) {
        return status;
      }
    }
    Wrap(std::move(own));
    return absl::OkStatus();
  }

  absl::Status AppendId(const nlohmann::json& id, Fields* fields, std::vector<int32_t>* ids) const {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= vocab_size_) {
      return fields->Fail(
          absl::StrCat("has a token id that is not an integer from 0 to ", vocab_size_ - 1));
    }
    ids->push_back(id.get<int32_t>());
    return absl::OkStatus();
  }

  // Later processors put their tokens around what the earlier ones gave.
  void Wrap(Surroundings outer) {
    around_.prefix.insert(around_.prefix.begin(), outer.prefix.begin(), outer.prefix.end());
    around_.suffix.insert(around_.suffix.end(), outer.suffix.begin(), outer.suffix.end());
  }

  const int32_t vocab_size_;
  Surroundings around_;
};

}  // namespace

absl::StatusOr<Surroundings> LoadPostProcessor(const nlohmann::json& json, int32_t vocab_size) {
  Loader loader(vocab_size);
  if (!json.is_null()) {
    if (absl::Status status = loader.LoadStep(json); !status.ok()) {
      return status;
    }
  }
  return std::move(loader).Finish();
}

}  // namespace evenflow
