#include "engine/scheduler.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <tuple>

namespace evenflow {
namespace {

int64_t AgedPriority(int priority, SteadyTime since, SteadyTime now) {
  return priority + std::chrono::duration_cast<std::chrono::seconds>(now - since).count();
}

// What a step has left to give.
struct Budget {
  int tokens;
  int rows;
  int slots;
};

struct Offer {
  int task;
  int64_t position;  // with what it was given so far
  int round = 0;     // blocks given
  int segment = -1;  // index of its segment
};

struct ClientOffers {
  SteadyTime served;
  int turn = -1;              // of this plan, the later the larger
  std::vector<Offer> offers;  // the one to serve first, first
};

class InputRounds {
 public:
  InputRounds(const SchedulerLimits& limits, absl::Span<const Task> tasks, SteadyTime now)
      : block_(limits.block), tasks_(tasks), now_(now) {
    for (int i = 0; i < static_cast<int>(tasks.size()); ++i) {
      const Task& task = At(i);
      if (!task.decoding && task.position < task.end) {
        ClientOffers& client = clients_[task.client];
        client.served = task.client_served;
        client.offers.push_back({i, task.position});
      }
    }
    for (auto& [id, client] : clients_) {
      std::stable_sort(client.offers.begin(), client.offers.end(),
                       [this](const Offer& a, const Offer& b) { return Rank(a) < Rank(b); });
    }
  }

  void Fill(Budget budget, std::vector<Segment>* segments) {
    for (int round = 0;; ++round) {
      bool gave = false;
      while (GiveOne(round, &budget, segments)) {
        gave = true;
      }
      if (!gave) {
        return;
      }
    }
  }

 private:
  const Task& At(int index) const { return tasks_[static_cast<size_t>(index)]; }

  std::tuple<int64_t, SteadyTime> Rank(const Offer& offer) const {
    const Task& task = At(offer.task);
    return {-AgedPriority(task.priority, task.arrived, now_), task.arrived};
  }

  int NextCut(const Offer& offer) const {
    const int64_t cut = (offer.position / block_ + 1) * block_;
    return static_cast<int>(std::min(cut, At(offer.task).end) - offer.position);
  }

  bool Fits(const Offer& offer, const Budget& budget) const {
    const bool fresh = offer.segment < 0;
    return offer.position < At(offer.task).end && NextCut(offer) <= budget.tokens &&
           !(fresh && (budget.rows == 0 || (At(offer.task).needs_slot && budget.slots == 0)));
  }

  bool GiveOne(int round, Budget* budget, std::vector<Segment>* segments) {
    ClientOffers* best = nullptr;
    Offer* chosen = nullptr;
    std::tuple<int64_t, SteadyTime, int, SteadyTime> best_rank;
    for (auto& [id, client] : clients_) {
      const auto offer =
          std::find_if(client.offers.begin(), client.offers.end(),
                       [&](const Offer& o) { return o.round == round && Fits(o, *budget); });
      if (offer == client.offers.end()) {
        continue;
      }
      const Task& task = At(offer->task);
      const SteadyTime since = std::max(task.arrived, client.served);
      const std::tuple rank{-AgedPriority(task.priority, since, now_), client.served, client.turn,
                            task.arrived};
      if (best == nullptr || rank < best_rank) {
        best = &client;
        chosen = &*offer;
        best_rank = rank;
      }
    }
    if (best == nullptr) {
      return false;
    }
    best->served = now_;
    best->turn = turn_++;
    Give(chosen, budget, segments);
    return true;
  }

  void Give(Offer* offer, Budget* budget, std::vector<Segment>* segments) {
    if (offer->segment < 0) {
      offer->segment = static_cast<int>(segments->size());
      segments->push_back({offer->task, 0});
      --budget->rows;
      budget->slots -= At(offer->task).needs_slot ? 1 : 0;
    }
    const int tokens = NextCut(*offer);
    (*segments)[static_cast<size_t>(offer->segment)].tokens += tokens;
    offer->position += tokens;
    ++offer->round;
    budget->tokens -= tokens;
  }

  const int64_t block_;
  const absl::Span<const Task> tasks_;
  const SteadyTime now_;
  std::map<int64_t, ClientOffers> clients_;
  int turn_ = 0;
};

}  // namespace

int BlockTokens(const Window& window) {
  return (64 + window.commit - 1) / window.commit * window.commit;
}

std::vector<Segment> Schedule(const SchedulerLimits& limits, absl::Span<const Task> tasks,
                              int free_slots, SteadyTime now) {
  std::vector<int> streams;
  bool input = false;
  for (int i = 0; i < static_cast<int>(tasks.size()); ++i) {
    const Task& task = tasks[static_cast<size_t>(i)];
    if (task.decoding) {
      streams.push_back(i);
    } else {
      input = input || !task.needs_slot || free_slots > 0;
    }
  }
  const int room = input ? std::min(limits.max_rows - 1, limits.step_tokens - limits.block)
                         : std::min(limits.max_rows, limits.step_tokens);
  if (static_cast<int>(streams.size()) > room) {
    std::stable_sort(streams.begin(), streams.end(), [&](int a, int b) {
      return tasks[static_cast<size_t>(a)].last_step < tasks[static_cast<size_t>(b)].last_step;
    });
    streams.resize(static_cast<size_t>(room));
  }
  std::vector<Segment> segments;
  segments.reserve(tasks.size());
  for (const int stream : streams) {
    segments.push_back({stream, 1});
  }
  if (input) {
    const int given = static_cast<int>(segments.size());
    InputRounds(limits, tasks, now)
        .Fill({limits.step_tokens - given, limits.max_rows - given, free_slots}, &segments);
  }
  return segments;
}

std::vector<Segment> SpreadFolds(const Window& window, absl::Span<const Task> tasks,
                                 absl::Span<const Segment> segments) {
  constexpr size_t kLast = 24;
  const auto folds = [&](const Segment& segment) {
    const Task& task = tasks[static_cast<size_t>(segment.task)];
    return task.decoding && window.Stored(task.position - 1) < window.Base(task.position);
  };
  std::vector<Segment> ordered(segments.begin(), segments.end());
  const auto others = std::stable_partition(ordered.begin(), ordered.end(), folds);
  const std::vector<Segment> folding(ordered.begin(), others), rest(others, ordered.end());
  const size_t count = folding.size();
  const size_t part = std::max(count, ordered.size() - std::min(ordered.size(), kLast));
  auto other = rest.begin();
  size_t placed = 0;
  for (size_t i = 0; i < ordered.size(); ++i) {
    const bool fold = placed < count && i == placed * part / count;
    ordered[i] = fold ? folding[placed++] : *other++;
  }
  return ordered;
}

}  // namespace evenflow
