#include "engine/utf8.h"

namespace evenflow {
namespace {

// Number of bytes that a lead byte announces; 0 for a byte that cannot lead.
size_t LengthOfLead(uint8_t lead) {
  if (lead < 0x80) {
    return 1;
  }
  if (lead < 0xC2 || lead > 0xF4) {
    return 0;
  }
  return lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

// The second byte's range depends on the lead: it is what excludes overlong forms and surrogates.
bool IsSecondByte(uint8_t lead, uint8_t second) {
  const uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  return second >= low && second <= high;
}

}  // namespace

Utf8Scan ScanUtf8(std::string_view bytes) {
  const auto lead = static_cast<uint8_t>(bytes[0]);
  const size_t length = LengthOfLead(lead);
  if (length == 0) {
    return {Utf8Scan::Kind::kInvalid, 1, 0};
  }
  char32_t code_point = length == 1 ? lead : lead & (0x7FU >> length);
  for (size_t i = 1; i < length; ++i) {
    if (i == bytes.size()) {
      return {Utf8Scan::Kind::kIncomplete, i, 0};
    }
    const auto byte = static_cast<uint8_t>(bytes[i]);
    if (i == 1 ? !IsSecondByte(lead, byte) : (byte & 0xC0) != 0x80) {
      return {Utf8Scan::Kind::kInvalid, i, 0};
    }
    code_point = code_point << 6 | (byte & 0x3FU);
  }
  return {Utf8Scan::Kind::kValid, length, code_point};
}

size_t ValidUtf8Prefix(std::string_view bytes) {
  size_t at = 0;
  while (at < bytes.size()) {
    const Utf8Scan scan = ScanUtf8(bytes.substr(at));
    if (scan.kind != Utf8Scan::Kind::kValid) {
      break;
    }
    at += scan.length;
  }
  return at;
}

std::string ReplaceInvalidUtf8(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  while (!bytes.empty()) {
    const Utf8Scan scan = ScanUtf8(bytes);
    out +=
        scan.kind == Utf8Scan::Kind::kValid ? bytes.substr(0, scan.length) : kReplacementCharacter;
    bytes.remove_prefix(scan.length);
  }
  return out;
}

void AppendUtf8(char32_t code_point, std::string* out) {
  const auto put = [out](char32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | code_point >> 6);
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | code_point >> 12);
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | code_point >> 18);
    put(0x80 | (code_point >> 12 & 0x3F));
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

}  // namespace evenflow
