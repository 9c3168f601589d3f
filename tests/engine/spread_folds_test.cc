// In which order a device begins the rows of a step.
#include <algorithm>
#include <vector>

#include "engine/scheduler.h"

#include "gtest/gtest.h"

namespace evenflow {
namespace {

Task Stream() {
  Task task;
  task.decoding = true;
  return task;
}

Task Prompt(int64_t tokens) {
  Task task;
  task.end = tokens;
  return task;
}

TEST(SpreadFolds, FoldsLieEvenlyButNotAtTheEnd) {
  const Window window;  // a token at the two first positions of a block folds the block before
  for (const int rows : {1, 2, 16, 31, 64, 256}) {
    std::vector<Task> tasks(static_cast<size_t>(rows), Stream());
    std::vector<Segment> segments;
    for (int i = 0; i < rows; ++i) {
      tasks[static_cast<size_t>(i)].position = 160 + i * 7 % 16;
      segments.push_back({i, 1});
    }
    tasks.push_back(Prompt(100));  // whose position is none of a stream
    segments.push_back({rows, 100});
    const auto folds = [&](const Segment& segment) {
      return segment.task < rows && tasks[static_cast<size_t>(segment.task)].position < 162;
    };
    const auto ordered = SpreadFolds(window, tasks, segments);
    ASSERT_EQ(ordered.size(), segments.size());
    std::vector<int> folding, others, places;
    for (size_t i = 0; i < ordered.size(); ++i) {
      (folds(ordered[i]) ? folding : others).push_back(ordered[i].task);
      if (folds(ordered[i])) {
        places.push_back(static_cast<int>(i));
      }
    }
    EXPECT_TRUE(std::is_sorted(folding.begin(), folding.end()));
    EXPECT_TRUE(std::is_sorted(others.begin(), others.end()));
    EXPECT_EQ(others.back(), rows) << "the prompt";
    EXPECT_EQ(folding.size() + others.size(), segments.size());
    const int count = static_cast<int>(places.size());
    const int part = std::max(count, rows + 1 - 24);
    for (int i = 0; i < count; ++i) {
      EXPECT_EQ(places[static_cast<size_t>(i)], i * part / count) << rows;
    }
  }
}

TEST(SpreadFolds, OnlyWhatIsNotStoredYet) {
  Window window;
  window.commit = 1;  // each token folds the one before
  window.rollback = 0;
  std::vector<Task> tasks(2, Stream());
  tasks[1].position = 5;
  const auto ordered = SpreadFolds(window, tasks, {{0, 1}, {1, 1}});
  EXPECT_EQ(ordered[0].task, 1) << "the other has nothing to fold";
}

}  // namespace
}  // namespace evenflow
