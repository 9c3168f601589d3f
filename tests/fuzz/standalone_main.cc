// Runs a fuzz target without libFuzzer: every file of the corpus folders given, then a fixed number
// of seeded mutations of them. The same run every time.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

constexpr int kMutations = 20000;

using Bytes = std::vector<uint8_t>;

std::vector<Bytes> ReadCorpus(int count, char** folders) {
  std::vector<std::filesystem::path> paths;
  for (int i = 1; i < count; ++i) {
    for (const auto& entry : std::filesystem::directory_iterator(folders[i])) {
      paths.push_back(entry.path());
    }
  }
  std::sort(paths.begin(), paths.end());
  std::vector<Bytes> corpus;
  for (const auto& path : paths) {
    std::ifstream file(path, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return corpus;
}

// One change: a byte, a cut, a repeated stretch, or a stretch of another input.
void Mutate(const std::vector<Bytes>& corpus, std::mt19937_64* random, Bytes* bytes) {
  const auto below = [random](size_t limit) { return static_cast<size_t>((*random)() % limit); };
  if (bytes->empty()) {
    bytes->push_back(static_cast<uint8_t>(below(256)));
    return;
  }
  const size_t at = below(bytes->size());
  const auto position = bytes->begin() + static_cast<std::ptrdiff_t>(at);
  const size_t length = std::min<size_t>(1 + below(32), bytes->size() - at);
  switch (below(4)) {
    case 0:
      (*bytes)[at] = static_cast<uint8_t>(below(256));
      break;
    case 1:
      bytes->erase(position, position + static_cast<std::ptrdiff_t>(length));
      break;
    case 2: {
      const Bytes copy(position, position + static_cast<std::ptrdiff_t>(length));
      bytes->insert(position, copy.begin(), copy.end());
      break;
    }
    default: {
      const Bytes& other = corpus[below(corpus.size())];
      if (!other.empty()) {
        const size_t from = below(other.size());
        const size_t taken = std::min(length, other.size() - from);
        const auto begin = other.begin() + static_cast<std::ptrdiff_t>(from);
        bytes->insert(position, begin, begin + static_cast<std::ptrdiff_t>(taken));
      }
    }
  }
}

}  // namespace

int main(int count, char** folders) {
  const std::vector<Bytes> corpus = ReadCorpus(count, folders);
  if (corpus.empty()) {
    std::fprintf(stderr, "usage: %s CORPUS_FOLDER...; the folders given hold no file\n",
                 folders[0]);
    return 1;
  }
  for (const Bytes& bytes : corpus) {
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
  std::mt19937_64 random(1);
  for (int i = 0; i < kMutations; ++i) {
    Bytes bytes = corpus[random() % corpus.size()];
    for (uint64_t changes = 1 + random() % 4; changes > 0; --changes) {
      Mutate(corpus, &random, &bytes);
    }
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
  std::printf("%zu inputs and %d mutations\n", corpus.size(), kMutations);
  return 0;
}
