// Which sessions go ahead in a step, and by how many tokens. A pure function without threads or
// clocks of its own; called by the engine thread.
#ifndef EVENFLOW_ENGINE_SCHEDULER_H_
#define EVENFLOW_ENGINE_SCHEDULER_H_

#include <cstdint>
#include <vector>

#include "engine/outbox.h"
#include "kernels/memory.h"

#include "absl/types/span.h"

namespace evenflow {

struct SchedulerLimits {
  int step_tokens = 256;  // > block, so that a prompt can always go on
  int max_rows = 256;     // >= 2
  int block = 64;         // B: input is cut at absolute multiples of it only, or at its end
};

// B: the smallest multiple of the commit length C that is at least 64.
int BlockTokens(const Window& window);

// A request that could go ahead now.
struct Task {
  bool decoding = false;  // feeds its newest token, alone; otherwise input [position, end)
  int64_t position = 0;   // tokens in its state
  int64_t end = 0;
  bool needs_slot = false;
  int priority = 0;  // higher first
  SteadyTime arrived;
  uint64_t last_step = 0;                        // the number of the last step that had it; 0: none
  int64_t client = 0;                            // whose request it is
  SteadyTime client_served = SteadyTime::min();  // when input of that client was last fed
};

struct Segment {
  int task = 0;
  int tokens = 0;
};

// Streams come first, one token each; where not all fit, those that waited for most steps. Room for
// one block of input is kept whenever there is input, so neither can starve the other. Input is
// given out a block at a time, in rounds that serve every task once. A round goes from client to
// client: the highest priority first, raised by one for each second since the client was served
// (or its request arrived), then the client served least recently. Within a client: priority,
// raised by one for each second of waiting, then age. A task that needs a slot gets a segment only
// while there are free ones. Every task has at most one segment.
std::vector<Segment> Schedule(const SchedulerLimits& limits, absl::Span<const Task> tasks,
                              int free_slots, SteadyTime now);

// The segments in the order in which a device should begin them. A stream whose next token folds a
// block into its state takes longer: such ones lie evenly among the others, but not among the last
// 24, where nothing would be left to run beside them (kernels/cuda/README.md).
std::vector<Segment> SpreadFolds(const Window& window, absl::Span<const Task> tasks,
                                 absl::Span<const Segment> segments);

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_SCHEDULER_H_
