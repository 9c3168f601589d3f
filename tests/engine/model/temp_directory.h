// A directory that goes with the test. One owner, one thread.
#ifndef EVENFLOW_TESTS_ENGINE_MODEL_TEMP_DIRECTORY_H_
#define EVENFLOW_TESTS_ENGINE_MODEL_TEMP_DIRECTORY_H_

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

namespace evenflow {

class TempDirectory {
 public:
  TempDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "evenflow_test_XXXXXX").string();
    path_ = mkdtemp(name.data());
  }

  TempDirectory(const TempDirectory&) = delete;
  TempDirectory& operator=(const TempDirectory&) = delete;

  ~TempDirectory() { std::filesystem::remove_all(path_); }

  const std::string& path() const { return path_; }

  std::string File(const std::string& name) const { return path_ + "/" + name; }

  void Write(const std::string& name, const std::string& data) const {
    std::ofstream(File(name), std::ios::binary) << data;
  }

  std::string Read(const std::string& name) const {
    std::ostringstream data;
    data << std::ifstream(File(name), std::ios::binary).rdbuf();
    return data.str();
  }

 private:
  std::string path_;
};

}  // namespace evenflow

#endif  // EVENFLOW_TESTS_ENGINE_MODEL_TEMP_DIRECTORY_H_
