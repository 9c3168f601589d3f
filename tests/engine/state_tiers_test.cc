// Sessions that are more than there are slots: idle ones move to host memory and come back bit for
// bit, whatever happens to them on the way.
#include <atomic>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/engine_fixture.h"
#include "tests/engine/stop_checker.h"

namespace evenflow {
namespace {

constexpr auto kSlotBytes = static_cast<int64_t>(sizeof(FakeState));

class StateTiersTest : public EngineTest {
 protected:
  StateTiersTest() { device_.copy_polls = 3; }

  ~StateTiersTest() override {
    engine_.reset();
    EXPECT_EQ(device_.host_blocks(), 0u);
  }

  // An engine with so many slots on the device and in host memory.
  void Start(int slots, int host_slots) {
    options_.max_sessions = slots;
    options_.host_memory_bytes = host_slots * kSlotBytes;
    observer_.on_host_memory_refused = [this](int left) { refused_to_ = left; };
    EngineTest::Start();
  }

  void Await(const std::function<bool(const EngineGauges&)>& what) {
    for (int i = 0; !what(engine_->Gauges()); ++i) {
      ASSERT_LT(i, 10'000) << "it does not come to that";
      std::this_thread::sleep_for(milliseconds(1));
    }
  }

  // Runs a request on a session that it makes if need be, and says what the session would say
  // alone.
  void Turn(int session, EngineRequest request) {
    const std::string id = "s" + std::to_string(session);
    if (alone_.size() <= static_cast<size_t>(session)) {
      alone_.resize(static_cast<size_t>(session) + 1, FakeSession(window_));
    }
    if (alone_[static_cast<size_t>(session)].tokens.empty()) {
      ASSERT_TRUE(engine_->CreateSession(id, std::nullopt).ok());
    }
    auto lease = engine_->Attach(id);
    ASSERT_TRUE(lease.ok()) << lease.status();
    auto outbox = engine_->Submit(*lease, request);
    ASSERT_TRUE(outbox.ok()) << outbox.status();
    Reader reader(*outbox);
    Expect(session, request, reader);
  }

  // On one slot of the device: session 1 has it, 0 has made room.
  void StartWithOneOnHost() {
    Start(1, 4);
    Turn(0, Ask(Prompt(50), 3));
    Turn(1, Ask(Prompt(60), 3));
  }

  void Expect(int session, const EngineRequest& request, Reader& reader) {
    EXPECT_TRUE(reader.ReadAll().status.ok()) << reader.finish->status;
    FakeSession& alone = alone_[static_cast<size_t>(session)];
    for (const int32_t token : request.prompt) {
      alone.Learn(token);
    }
    EXPECT_EQ(reader.tokens, alone.Generate(static_cast<int>(request.max_tokens), request.sampling))
        << session;
  }

  // After all sessions were deleted: nothing is left of them anywhere.
  void ExpectNothingLeft() {
    Await([](const EngineGauges& g) { return g.slots_used == 0 && g.host_slots_used == 0; });
    EXPECT_EQ(device_.DirtySlots(), 0);
    EXPECT_EQ(device_.DirtyHostBytes(), 0);
  }

  absl::StatusOr<SessionInfo> Info(int session) {
    return engine_->GetSession("s" + std::to_string(session));
  }

  absl::Status Delete(int session) { return engine_->DeleteSession("s" + std::to_string(session)); }

  std::vector<FakeSession> alone_;
  std::atomic<int> refused_to_{-1};
};

INSTANTIATE_TEST_SUITE_P(PipelineDepth, StateTiersTest, ::testing::Values(0, 1));

// With a step under way also where copies are done at once.
TEST_P(StateTiersTest, ManySessionsOnFewSlotsSayWhatEachSaysAlone) {
  constexpr int kSessions = 12;
  device_.copy_polls = GetParam() == 0 ? 3 : 0;
  Start(3, kSessions - 3 + 1);
  for (int round = 0; round < 5; ++round) {
    for (int session = 0; session < kSessions; ++session) {
      Turn(session, Ask(Prompt(1 + 31 * session % 150, round), 1 + session % 7,
                        static_cast<uint64_t>(session)));
    }
    for (int session = 0; session < kSessions; ++session) {
      Turn(session, Ask({}, 3, static_cast<uint64_t>(round)));
    }
  }
  const EngineGauges gauges = engine_->Gauges();
  EXPECT_EQ(gauges.slots_used, 3);
  EXPECT_EQ(gauges.slots_total, 3);
  EXPECT_EQ(gauges.host_slots_used, kSessions - 3);
  EXPECT_EQ(gauges.host_slots_total, kSessions - 3 + 1);
  EXPECT_EQ(gauges.moved_out - gauges.moved_in, kSessions - 3);
  EXPECT_EQ(gauges.moved_in, 9 * kSessions) << "the least recently used is the next one";
  for (int session = 0; session < kSessions; ++session) {
    EXPECT_EQ(Info(session)->on_host, session < kSessions - 3);
    EXPECT_EQ(Info(session)->state_bytes, kSlotBytes);
    EXPECT_TRUE(Delete(session).ok());
  }
  ExpectNothingLeft();
}

TEST_P(StateTiersTest, AllAtOnce) {
  constexpr int kSessions = 20;
  options_.max_rows = 4;
  Start(4, kSessions);
  alone_.resize(kSessions, FakeSession(window_));
  for (int session = 0; session < kSessions; ++session) {
    ASSERT_TRUE(engine_->CreateSession("s" + std::to_string(session), std::nullopt).ok());
  }
  for (int round = 0; round < 4; ++round) {
    std::vector<SessionLease> leases;
    std::vector<EngineRequest> requests;
    std::vector<std::unique_ptr<Reader>> readers;
    for (int session = 0; session < kSessions; ++session) {
      leases.push_back(*engine_->Attach("s" + std::to_string(session)));
      requests.push_back(Ask(Prompt(1 + 17 * session % 90, round), 20, 5));
      readers.push_back(std::make_unique<Reader>(*engine_->Submit(leases.back(), requests.back())));
    }
    for (int session = 0; session < kSessions; ++session) {
      Expect(session, requests[static_cast<size_t>(session)],
             *readers[static_cast<size_t>(session)]);
    }
  }
  EXPECT_GE(engine_->Gauges().moved_in, 3 * (kSessions - 4));
}

TEST_P(StateTiersTest, AStreamThatRunsIsNotMoved) {
  Start(2, 8);
  alone_.resize(1, FakeSession(window_));
  auto lease = engine_->Attach("");
  const EngineRequest request = Ask(Prompt(10), 100'000);
  Reader reader(*engine_->Submit(*lease, request));
  reader.ReadTokens(1);
  for (int session = 1; session < 6; ++session) {
    Turn(session, Ask(Prompt(20, session), 5));
  }
  EXPECT_FALSE(reader.finish);
  reader.outbox().Cancel(absl::CancelledError("enough"));
  reader.ReadAll();
  for (const int32_t token : Prompt(10)) {
    alone_[0].Learn(token);
  }
  EXPECT_EQ(reader.tokens, alone_[0].Generate(static_cast<int>(reader.tokens.size()), {}));
}

TEST_P(StateTiersTest, AStreamBetweenItsTurnsIsMoved) {
  Start(1, 3);
  alone_.resize(1, FakeSession(window_));
  auto lease = engine_->Attach("");  // of no session that anybody sees
  for (int round = 0; round < 3; ++round) {
    const EngineRequest request = Ask(Prompt(70, round), 9);
    Reader reader(*engine_->Submit(lease.value(), request));
    Expect(0, request, reader);
    Turn(1, Ask(Prompt(3), 4));
  }
  EXPECT_EQ(engine_->Gauges().host_slots_used, 1);
  lease = SessionLease();
  EXPECT_TRUE(Delete(1).ok());
  ExpectNothingLeft();
}

TEST_P(StateTiersTest, WithoutAPlaceRequestsWaitOrAreRefused) {
  options_.max_queue = 1;
  Start(2, 3);  // places for four, as one slot is kept to change places
  for (int session = 0; session < 4; ++session) {
    Turn(session, Ask(Prompt(5, session), 3));
  }
  auto lease = engine_->Attach("");
  Reader waiting(*engine_->Submit(*lease, Ask(Prompt(5), 3)));
  auto other = engine_->Attach("");
  EXPECT_EQ(engine_->Submit(*other, Ask(Prompt(5), 3)).status().code(),
            absl::StatusCode::kResourceExhausted);
  for (int session = 3; session >= 0; --session) {  // those that have one go on
    Turn(session, Ask({}, 3));
  }
  EXPECT_EQ(engine_->Gauges().waiting, 1);
  EXPECT_TRUE(Delete(2).ok());
  EXPECT_TRUE(waiting.ReadAll().status.ok());
}

TEST_P(StateTiersTest, MoreRequestsThanTheQueueAreRefused) {
  options_.max_queue = 2;
  Start(2, 20);
  HoldSteps();
  std::vector<SessionLease> leases;
  std::vector<std::unique_ptr<Reader>> readers;
  for (int i = 0; i < 4; ++i) {
    leases.push_back(*engine_->Attach(""));
    readers.push_back(std::make_unique<Reader>(*engine_->Submit(leases.back(), Ask(Prompt(5), 3))));
  }
  auto lease = engine_->Attach("");
  EXPECT_EQ(engine_->Submit(*lease, Ask(Prompt(5), 3)).status().code(),
            absl::StatusCode::kResourceExhausted);
  Go();
  for (const auto& reader : readers) {
    EXPECT_TRUE(reader->ReadAll().status.ok());
  }
  EXPECT_TRUE(engine_->Submit(*lease, Ask(Prompt(5), 3)).ok());
}

TEST_P(StateTiersTest, RefusedHostMemoryLeavesFewerPlaces) {
  device_.host_bytes = 0;
  options_.max_queue = 3;
  Start(2, 10);
  Turn(0, Ask(Prompt(5), 3));
  Turn(1, Ask(Prompt(5, 1), 3));
  EXPECT_EQ(refused_to_, -1) << "it is asked for when it is wanted";
  auto lease = engine_->Attach("");
  Reader waiting(*engine_->Submit(*lease, Ask(Prompt(5), 3)));
  Await([](const EngineGauges& g) { return g.host_slots_total == 0; });
  while (refused_to_ != 0) {
  }
  EXPECT_EQ(engine_->Gauges().waiting, 1);
  Turn(0, Ask({}, 3));
  EXPECT_TRUE(Delete(1).ok());
  EXPECT_TRUE(waiting.ReadAll().status.ok());
}

TEST_P(StateTiersTest, ExpiredInHostMemory) {
  options_.idle_timeout = std::chrono::seconds(1);
  StartWithOneOnHost();
  ExpectNothingLeft();
  EXPECT_EQ(Info(0).status().code(), absl::StatusCode::kNotFound);
}

TEST_P(StateTiersTest, DeletedOnItsWayOut) {
  Start(1, 4);
  Turn(0, Ask(Prompt(50), 3));
  device_.copy_polls = -1;
  auto lease = engine_->Attach("");
  Reader waiting(*engine_->Submit(*lease, Ask(Prompt(5), 3)));
  Await([](const EngineGauges& g) { return g.moved_out == 1; });
  EXPECT_TRUE(Delete(0).ok());
  std::this_thread::sleep_for(milliseconds(2));
  EXPECT_FALSE(waiting.finish);
  device_.ReleaseCopies();
  EXPECT_TRUE(waiting.ReadAll().status.ok());
  lease = SessionLease();
  ExpectNothingLeft();
}

TEST_P(StateTiersTest, CancelledWhileItsStateComesBack) {
  StartWithOneOnHost();
  device_.copy_polls = -1;
  {
    auto lease = engine_->Attach("s0");
    Reader reader(*engine_->Submit(*lease, Ask({}, 3)));
    Await([](const EngineGauges& g) { return g.moved_out == 2; });
    std::this_thread::sleep_for(milliseconds(1));
    reader.outbox().Cancel(absl::CancelledError("left"));
    EXPECT_EQ(reader.ReadAll().status.code(), absl::StatusCode::kCancelled);
  }
  device_.ReleaseCopies();
  Turn(1, Ask({}, 4));
  Turn(0, Ask({}, 4));
  // The same, but the session is deleted before its copy ends.
  Turn(1, Ask({}, 4));
  device_.copy_polls = -1;
  {
    auto lease = engine_->Attach("s0");
    Reader reader(*engine_->Submit(*lease, Ask({}, 3)));
    std::this_thread::sleep_for(milliseconds(2));
    reader.outbox().Cancel(absl::CancelledError("left"));
    reader.ReadAll();
  }
  EXPECT_TRUE(Delete(0).ok());
  device_.ReleaseCopies();
  Turn(1, Ask({}, 4));
  EXPECT_TRUE(Delete(1).ok());
  ExpectNothingLeft();
}

TEST_P(StateTiersTest, StepsGoOnBesideCopies) {
  Start(2, 4);
  auto lease = engine_->Attach("");
  Reader stream(*engine_->Submit(*lease, Ask(Prompt(5), INT64_MAX)));
  Turn(0, Ask(Prompt(50), 3));
  device_.copy_polls = -1;
  auto other = engine_->Attach("");
  Reader waiting(*engine_->Submit(*other, Ask(Prompt(5), 3)));
  Await([](const EngineGauges& g) { return g.moved_out == 1; });
  stream.Take();
  stream.ReadTokens(stream.tokens.size() + 200);
  EXPECT_FALSE(waiting.finish);
  device_.ReleaseCopies();
  EXPECT_TRUE(waiting.ReadAll().status.ok());
}

TEST_P(StateTiersTest, StopStringsAndGoingBack) {
  Start(2, 6);
  std::mt19937 random(3);
  for (int round = 0; round < 20; ++round) {
    const int session = round % 5;
    const EngineRequest ask = Ask(Prompt(1 + static_cast<int>(random() % 90), round), 100, 4);
    if (alone_.size() <= static_cast<size_t>(session)) {
      Turn(session, Ask(Prompt(3), 1));
    }
    FakeSession& alone = alone_[static_cast<size_t>(session)];
    for (const int32_t token : ask.prompt) {
      alone.Learn(token);
    }
    const std::vector<int32_t> says = FakeSession(alone).Generate(100, ask.sampling);
    const auto begin = static_cast<std::ptrdiff_t>(random() % 90);
    StopChecker checker({{says.begin() + begin, says.begin() + begin + 5}}, {});
    auto lease = engine_->Attach("s" + std::to_string(session));
    EngineRequest stopping = ask;
    stopping.has_stop_strings = true;
    Reader reader(*engine_->Submit(*lease, stopping));
    while (!reader.finish) {
      checker.Check(reader.tokens, reader.outbox());
      reader.ReadTokens(reader.tokens.size() + 1);
    }
    EXPECT_EQ(reader.finish->reason, FinishReason::kStopString);
    alone.Generate(static_cast<int>(*checker.kept()), ask.sampling);
  }
  for (int session = 0; session < 5; ++session) {
    Turn(session, Ask({}, 10));
  }
}

TEST_P(StateTiersTest, AQuarantinedSessionMakesRoomToo) {
  device_.bad_logits = [](const Row& row) { return row.position + row.tokens == 77; };
  Start(1, 3);
  ASSERT_TRUE(engine_->CreateSession("bad", std::nullopt).ok());
  {
    auto lease = engine_->Attach("bad");
    Reader reader(*engine_->Submit(*lease, Ask(Prompt(77), 3)));
    EXPECT_EQ(reader.ReadAll().status.code(), absl::StatusCode::kInternal);
  }
  Turn(0, Ask(Prompt(50), 3));
  EXPECT_TRUE(engine_->GetSession("bad")->on_host);
  EXPECT_EQ(engine_->Attach("bad").status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(engine_->DeleteSession("bad").ok());
  EXPECT_TRUE(Delete(0).ok());
  ExpectNothingLeft();
}

TEST_P(StateTiersTest, ALostDeviceEndsThoseWhoWaitForTheirState) {
  std::atomic<bool> lose{false};
  device_.on_launch = [&](const FakeDevice::Step&) {
    if (lose) {
      device_.failure = "it is gone";
    }
  };
  Start(2, 6);
  for (int session = 0; session < 5; ++session) {
    Turn(session, Ask(Prompt(5, session), 3));
  }
  auto lease = engine_->Attach("");
  Reader running(*engine_->Submit(*lease, Ask(Prompt(5), INT64_MAX)));
  running.ReadTokens(1);
  device_.copy_polls = -1;
  auto back = engine_->Attach("s0");
  Reader coming(*engine_->Submit(*back, Ask({}, 3)));
  std::this_thread::sleep_for(milliseconds(1));
  lose = true;
  EXPECT_EQ(running.ReadAll().status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(coming.ReadAll().status.code(), absl::StatusCode::kInternal);
}

TEST_P(StateTiersTest, DrainsWhileStatesMove) {
  StartWithOneOnHost();
  device_.copy_polls = -1;
  auto lease = engine_->Attach("s0");
  Reader reader(*engine_->Submit(*lease, Ask({}, 3)));
  Await([](const EngineGauges& g) { return g.moved_out == 2; });
  engine_->Drain(std::chrono::steady_clock::now() + milliseconds(5));
  EXPECT_EQ(reader.ReadAll().status.code(), absl::StatusCode::kUnavailable);
  engine_.reset();  // with a copy under way
}

}  // namespace
}  // namespace evenflow
