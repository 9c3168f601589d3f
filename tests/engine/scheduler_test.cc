// The scheduler against a naive simulator that follows its description word by word, and its
// promises under random load: the budget, legal cuts, nobody starves.
#include "engine/scheduler.h"

#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace evenflow {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

int64_t Seconds(SteadyTime from, SteadyTime to) {
  return std::chrono::duration_cast<seconds>(to - from).count();
}

// Slow and literal.
std::vector<Segment> NaiveSchedule(const SchedulerLimits& limits, const std::vector<Task>& tasks,
                                   int free_slots, SteadyTime now) {
  std::vector<int> given(tasks.size(), 0);
  std::vector<int> order;
  int tokens = limits.step_tokens;
  int rows = limits.max_rows;
  bool input = false;
  for (const Task& task : tasks) {
    input = input || (!task.decoding && (!task.needs_slot || free_slots > 0));
  }
  const int room = input ? std::min(rows - 1, tokens - limits.block) : std::min(rows, tokens);
  for (int n = 0; n < room; ++n) {  // one stream at a time: the one that waited for most steps
    int best = -1;
    for (int i = 0; i < static_cast<int>(tasks.size()); ++i) {
      const auto& task = tasks[static_cast<size_t>(i)];
      if (task.decoding && given[static_cast<size_t>(i)] == 0 &&
          (best < 0 || task.last_step < tasks[static_cast<size_t>(best)].last_step)) {
        best = i;
      }
    }
    if (best >= 0) {
      given[static_cast<size_t>(best)] = 1;
      order.push_back(best);
      --tokens;
      --rows;
    }
  }
  std::map<int64_t, std::pair<SteadyTime, int>> served;  // client: when, which turn
  for (const Task& task : tasks) {
    served.try_emplace(task.client, task.client_served, -1);
  }
  std::vector<int> rounds(tasks.size(), 0);
  int turn = 0;
  for (int round = 0; round < 10000; ++round) {
    while (true) {
      int best = -1;
      const auto cut = [&](int i) {
        const Task& task = tasks[static_cast<size_t>(i)];
        int64_t position = task.position + given[static_cast<size_t>(i)];
        int n = 0;
        do {
          ++n;
          ++position;
        } while (position < task.end && position % limits.block != 0);
        return n;
      };
      const auto fits = [&](int i) {
        const Task& task = tasks[static_cast<size_t>(i)];
        const bool fresh = given[static_cast<size_t>(i)] == 0;
        return !task.decoding && task.position + given[static_cast<size_t>(i)] < task.end &&
               rounds[static_cast<size_t>(i)] == round && cut(i) <= tokens &&
               !(fresh && rows == 0) && !(fresh && task.needs_slot && free_slots == 0);
      };
      // Is a better than b, of the same client?
      const auto within = [&](int a, int b) {
        const Task& x = tasks[static_cast<size_t>(a)];
        const Task& y = tasks[static_cast<size_t>(b)];
        const int64_t px = x.priority + Seconds(x.arrived, now);
        const int64_t py = y.priority + Seconds(y.arrived, now);
        return px != py ? px > py : x.arrived < y.arrived;
      };
      const auto across = [&](int a, int b) {
        const Task& x = tasks[static_cast<size_t>(a)];
        const Task& y = tasks[static_cast<size_t>(b)];
        const auto& sx = served[x.client];
        const auto& sy = served[y.client];
        const int64_t px = x.priority + Seconds(std::max(x.arrived, sx.first), now);
        const int64_t py = y.priority + Seconds(std::max(y.arrived, sy.first), now);
        if (px != py) {
          return px > py;
        }
        if (sx != sy) {
          return sx < sy;
        }
        return x.arrived < y.arrived;
      };
      std::map<int64_t, int> heads;
      for (int i = 0; i < static_cast<int>(tasks.size()); ++i) {
        if (fits(i)) {
          auto [head, is_new] = heads.try_emplace(tasks[static_cast<size_t>(i)].client, i);
          if (!is_new && within(i, head->second)) {
            head->second = i;
          }
        }
      }
      for (const auto& [client, head] : heads) {
        if (best < 0 || across(head, best)) {
          best = head;
        }
      }
      if (best < 0) {
        break;
      }
      const Task& task = tasks[static_cast<size_t>(best)];
      if (given[static_cast<size_t>(best)] == 0) {
        order.push_back(best);
        --rows;
        free_slots -= task.needs_slot ? 1 : 0;
      }
      const int n = cut(best);
      given[static_cast<size_t>(best)] += n;
      tokens -= n;
      ++rounds[static_cast<size_t>(best)];
      served[task.client] = {now, turn++};
    }
    if (std::find(rounds.begin(), rounds.end(), round + 1) == rounds.end()) {
      break;
    }
  }
  std::vector<Segment> segments;
  for (const int i : order) {
    segments.push_back({i, given[static_cast<size_t>(i)]});
  }
  return segments;
}

// A small server: requests come, read, stream and go.
class Simulation {
 public:
  struct Request {
    Task task;
    int64_t decode_left = 0;
    int64_t steps_without = 0;  // while it could have gone on
  };

  explicit Simulation(unsigned seed) : random_(seed) {
    limits_.block = 64;
    limits_.step_tokens = 65 + static_cast<int>(random_() % 300);
    limits_.max_rows = 2 + static_cast<int>(random_() % 20);
    slots_ = 1 + static_cast<int>(random_() % 24);
  }

  void Arrive() {
    Request request;
    request.task.end = 1 + static_cast<int64_t>(random_() % (random_() % 8 == 0 ? 2000 : 150));
    request.task.needs_slot = random_() % 4 != 0;
    if (!request.task.needs_slot) {
      request.task.position = static_cast<int64_t>(random_() % 100);
      request.task.end += request.task.position;
      --slots_;
    }
    request.task.priority = static_cast<int>(random_() % 7) - 3;
    request.task.arrived = now_ - milliseconds(random_() % 50);
    request.task.client = static_cast<int64_t>(random_() % 5);
    request.decode_left = static_cast<int64_t>(random_() % 40);
    requests_.push_back(request);
  }

  // Makes a step and checks it.
  void Step() {
    ++step_;
    now_ += milliseconds(random_() % 400);
    std::vector<Task> tasks;
    for (Request& request : requests_) {
      request.task.client_served = served_.count(request.task.client) != 0
                                       ? served_[request.task.client]
                                       : SteadyTime::min();
      tasks.push_back(request.task);
    }
    const auto segments = Schedule(limits_, tasks, std::max(slots_, 0), now_);
    Compare(segments, NaiveSchedule(limits_, tasks, std::max(slots_, 0), now_));
    CheckPromises(segments);
    Apply(segments);
  }

  size_t size() const { return requests_.size(); }

  int slots() const { return slots_; }

 private:
  static void Compare(const std::vector<Segment>& got, const std::vector<Segment>& naive) {
    // Streams that all fit come in any order.
    const auto sorted = [](std::vector<Segment> segments) {
      std::sort(segments.begin(), segments.end(),
                [](const Segment& a, const Segment& b) { return a.task < b.task; });
      return segments;
    };
    const auto a = sorted(got);
    const auto b = sorted(naive);
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) {
      ASSERT_EQ(a[i].task, b[i].task);
      ASSERT_EQ(a[i].tokens, b[i].tokens);
    }
  }

  void CheckPromises(const std::vector<Segment>& segments) const {
    int tokens = 0;
    int new_slots = 0;
    std::vector<bool> seen(requests_.size());
    for (const Segment& segment : segments) {
      const Task& task = requests_[static_cast<size_t>(segment.task)].task;
      ASSERT_FALSE(seen[static_cast<size_t>(segment.task)]) << "two segments of one task";
      seen[static_cast<size_t>(segment.task)] = true;
      tokens += segment.tokens;
      new_slots += task.needs_slot ? 1 : 0;
      ASSERT_GE(segment.tokens, 1);
      if (task.decoding) {
        ASSERT_EQ(segment.tokens, 1);
      } else {
        const int64_t cut = task.position + segment.tokens;
        ASSERT_LE(cut, task.end);
        ASSERT_TRUE(cut == task.end || cut % limits_.block == 0) << "an illegal cut at " << cut;
      }
    }
    ASSERT_LE(tokens, limits_.step_tokens);
    ASSERT_LE(static_cast<int>(segments.size()), limits_.max_rows);
    ASSERT_LE(new_slots, std::max(slots_, 0));
  }

  void Apply(const std::vector<Segment>& segments) {
    std::vector<bool> fed(requests_.size());
    for (const Segment& segment : segments) {
      Request& request = requests_[static_cast<size_t>(segment.task)];
      fed[static_cast<size_t>(segment.task)] = true;
      request.task.position += segment.tokens;
      request.task.last_step = step_;
      if (request.task.decoding) {
        --request.decode_left;
      } else {
        served_[request.task.client] = now_;
        slots_ -= request.task.needs_slot ? 1 : 0;
        request.task.needs_slot = false;
        request.task.decoding = request.task.position == request.task.end;
      }
    }
    for (size_t i = 0; i < requests_.size(); ++i) {
      Request& request = requests_[i];
      if (fed[i]) {
        request.steps_without = 0;
      } else if (request.task.decoding) {
        // Streams take turns: everyone is served before anyone is served twice.
        ASSERT_LE(++request.steps_without, static_cast<int64_t>(requests_.size()));
      }
    }
    for (size_t i = requests_.size(); i-- > 0;) {
      if (requests_[i].task.decoding && requests_[i].decode_left <= 0) {
        requests_.erase(requests_.begin() + static_cast<std::ptrdiff_t>(i));
        ++slots_;
      }
    }
  }

  std::mt19937 random_;
  SchedulerLimits limits_;
  int slots_ = 0;
  SteadyTime now_ = SteadyTime{} + seconds(1000);
  uint64_t step_ = 0;
  std::vector<Request> requests_;
  std::map<int64_t, SteadyTime> served_;
};

TEST(Schedule, AgreesWithANaiveSimulatorAndEverybodyEnds) {
  for (unsigned seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed * 977);
    Simulation simulation(seed);
    for (int step = 0; step < 150; ++step) {
      for (auto n = random() % 3; n > 0 && simulation.size() < 40; --n) {
        if (simulation.slots() > 0) {
          simulation.Arrive();
        }
      }
      simulation.Step();
      ASSERT_FALSE(::testing::Test::HasFatalFailure());
    }
    for (int step = 0; simulation.size() > 0; ++step) {
      ASSERT_LT(step, 20000) << simulation.size() << " requests starve";
      simulation.Step();
      ASSERT_FALSE(::testing::Test::HasFatalFailure());
    }
  }
}

Task Stream() {
  Task task;
  task.decoding = true;
  return task;
}

Task Prompt(int64_t tokens, int64_t client = 0) {
  Task task;
  task.end = tokens;
  task.client = client;
  return task;
}

TEST(Schedule, ALongPromptDoesNotStallStreams) {
  SchedulerLimits limits;
  std::vector<Task> tasks(100, Stream());
  tasks.push_back(Prompt(1 << 20));
  const auto segments = Schedule(limits, tasks, 0, SteadyTime{});
  ASSERT_EQ(segments.size(), 101u);
  EXPECT_EQ(segments.back().task, 100);
  EXPECT_EQ(segments.back().tokens, 128) << "whole blocks of what 100 streams leave of 256";
}

TEST(Schedule, ManyStreamsDoNotStallAPrompt) {
  SchedulerLimits limits;
  std::vector<Task> tasks(300, Stream());
  tasks.push_back(Prompt(1000));
  const auto segments = Schedule(limits, tasks, 0, SteadyTime{});
  ASSERT_EQ(segments.size(), 193u);
  EXPECT_EQ(segments.back().tokens, 64);
}

TEST(Schedule, ALowPriorityIsServedAtLast) {
  // One client's requests of priority 100 keep coming; another's of priority -100 waits.
  SchedulerLimits limits;
  limits.step_tokens = 65;
  SteadyTime now{};
  SteadyTime served = SteadyTime::min();
  Task low = Prompt(64, 1);
  low.priority = -100;
  int waited_seconds = 0;
  for (;; ++waited_seconds) {
    Task high = Prompt(64, 2);
    high.priority = 100;
    high.arrived = now;
    high.client_served = served;
    const auto segments = Schedule(limits, {low, high}, 0, now);
    ASSERT_EQ(segments.size(), 1u);
    if (segments[0].task == 0) {
      break;
    }
    served = now;
    now += seconds(1);
    ASSERT_LT(waited_seconds, 1000);
  }
  EXPECT_NEAR(waited_seconds, 200, 2) << "one point of priority a second";
}

TEST(Schedule, ClientsTakeTurns) {
  // A flood of one client does not hold up the single request of another.
  SchedulerLimits limits;
  std::vector<Task> tasks(50, Prompt(64, 1));
  for (Task& task : tasks) {
    task.client_served = SteadyTime{} + milliseconds(1);
    task.arrived = SteadyTime{};
  }
  tasks.push_back(Prompt(64, 2));
  tasks.back().arrived = SteadyTime{} + milliseconds(500);
  const auto segments = Schedule(limits, tasks, 0, SteadyTime{} + milliseconds(600));
  ASSERT_EQ(segments.size(), 4u);
  EXPECT_EQ(segments[0].task, 50);
}

TEST(BlockTokens, IsAMultipleOfTheWindow) {
  EXPECT_EQ(BlockTokens({1, 2}), 64);
  EXPECT_EQ(BlockTokens({7, 2}), 70);
  EXPECT_EQ(BlockTokens({16, 2}), 64);
  EXPECT_EQ(BlockTokens({100, 2}), 100);
}

}  // namespace
}  // namespace evenflow
