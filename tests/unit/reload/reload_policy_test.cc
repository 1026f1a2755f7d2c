#include "server/reload/reload_policy.h"

#include <gtest/gtest.h>

#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "tests/support/fake_clock.h"

namespace sconce {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;
using WallTime = std::chrono::system_clock::time_point;

constexpr ReloadTimes kTimes;
const WallTime kWall{hours(400'000)};

absl::Status Bad() { return absl::InvalidArgumentError("bad"); }
absl::Status Busy() { return absl::UnavailableError("busy"); }
absl::Status NoFile() { return absl::NotFoundError("no weights file yet"); }

// A folder whose weights file was modified an hour ago, unless said otherwise.
ModelObservation Holding(uint64_t inode, Duration age = hours(1)) {
  ModelObservation seen;
  seen.source.weights =
      SourceFile{.path = "/r/m/model.pth",
                 .resolved_path = "/r/m/model.pth",
                 .fingerprint = {.device = 1,
                                 .inode = inode,
                                 .size_bytes = 10,
                                 .mtime_ns = ToNanos((kWall - age).time_since_epoch()).count(),
                                 .ctime_ns = 0}};
  seen.config = std::make_shared<ModelConfig>();
  return seen;
}

ModelObservation Troubled(absl::Status status) {
  ModelObservation seen;
  seen.status = std::move(status);
  return seen;
}

// One model, its state and the time.
class Script {
 public:
  Script& See(const ModelObservation& observation) {
    Observe(&state_, &observation, clock_.Now());
    return *this;
  }
  Script& SeeNothing() {
    Observe(&state_, nullptr, clock_.Now());
    return *this;
  }
  Script& Pass(Duration d) {
    clock_.Advance(d);
    wall_ += std::chrono::duration_cast<WallTime::duration>(d);
    return *this;
  }
  Script& Loaded() {
    RecordLoaded(&state_, state_.seen->source);
    return *this;
  }
  Script& Failed(const absl::Status& status) {
    RecordFailure(&state_, kTimes, state_.seen->source, status, clock_.Now());
    return *this;
  }
  Script& Reported() {
    RecordReport(&state_, Decision().report);
    return *this;
  }
  Script& Unloaded() {
    state_.unloaded = true;
    state_.live.reset();
    return *this;
  }
  Script& Forced() {
    state_.unloaded = false;
    state_.forced = true;
    return *this;
  }
  // A folder that has been seen and settled.
  Script& Settled(const ModelObservation& observation) {
    return See(observation).Pass(kTimes.settle).See(observation);
  }

  sconce::Decision Decision() const { return Decide(state_, kTimes, clock_.Now(), wall_); }
  TimePoint Now() const { return clock_.Now(); }

 private:
  ReloadState state_;
  FakeClock clock_;
  WallTime wall_ = kWall;
};

// Written as a table: what happened, and what is to be done.
struct Case {
  std::string name;
  std::function<void(Script&)> story;
  ReloadAction action;
  std::optional<Duration> look_again_in;
  absl::Status report;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

const std::vector<Case>& Cases() {
  static const auto* const cases = new std::vector<Case>{
      {"NothingSeenYet", [](Script&) {}, ReloadAction::kNothing, {}, {}},
      {"NewFileSettlesFirst",
       [](Script& s) { s.See(Holding(1)); },
       ReloadAction::kNothing,
       milliseconds(300),
       {}},
      {"SettlesOnlyOnce",
       [](Script& s) { s.See(Holding(1)).Pass(milliseconds(100)); },
       ReloadAction::kNothing,
       milliseconds(200),
       {}},
      {"SettledFileIsLoaded",
       [](Script& s) { s.Settled(Holding(1)); },
       ReloadAction::kLoad,
       {},
       {}},
      {"ChangeSettlesAnew",
       [](Script& s) { s.See(Holding(1)).Pass(milliseconds(299)).See(Holding(2)); },
       ReloadAction::kNothing,
       milliseconds(300),
       {}},
      {"YoungFileWaitsForItsModificationTime",
       [](Script& s) { s.See(Holding(1, -milliseconds(200))).Pass(milliseconds(300)); },
       ReloadAction::kNothing,
       milliseconds(200),
       {}},
      {"ModificationTimeInTheFutureIsNotWaitedFor",
       [](Script& s) { s.Settled(Holding(1, -hours(5))); },
       ReloadAction::kLoad,
       {},
       {}},
      {"LiveFileIsLeftAlone",
       [](Script& s) { s.Settled(Holding(1)).Loaded().Pass(hours(9)); },
       ReloadAction::kNothing,
       {},
       {}},
      {"ChangeOfALiveFileIsLoaded",
       [](Script& s) { s.Settled(Holding(1)).Loaded().Settled(Holding(2)); },
       ReloadAction::kLoad,
       {},
       {}},
      {"PermanentFailureIsNotTriedAgain",
       [](Script& s) { s.Settled(Holding(1)).Failed(Bad()).Pass(hours(9)).See(Holding(1)); },
       ReloadAction::kNothing,
       {},
       {}},
      {"PermanentFailureIsTriedAgainWhenTheFileChanges",
       [](Script& s) { s.Settled(Holding(1)).Failed(Bad()).Settled(Holding(2)); },
       ReloadAction::kLoad,
       {},
       {}},
      {"PermanentFailureIsTriedAgainWhenTheConfigChanges",
       [](Script& s) {
         s.Settled(Holding(1)).Failed(Bad());
         ModelObservation seen = Holding(1);
         seen.source.config = seen.source.weights;
         s.Settled(seen);
       },
       ReloadAction::kLoad,
       {},
       {}},
      {"SuccessSettlesAnEarlierFailure",
       [](Script& s) { s.Settled(Holding(1)).Failed(Bad()).Settled(Holding(2)).Loaded(); },
       ReloadAction::kNothing,
       {},
       {}},
      {"TransientFailureWaits",
       [](Script& s) { s.Settled(Holding(1)).Failed(Busy()); },
       ReloadAction::kNothing,
       milliseconds(500),
       {}},
      {"TransientFailureIsTriedAgain",
       [](Script& s) { s.Settled(Holding(1)).Failed(Busy()).Pass(milliseconds(500)); },
       ReloadAction::kLoad,
       {},
       {}},
      {"BackOffDoubles",
       [](Script& s) { s.Settled(Holding(1)).Failed(Busy()).Failed(Busy()).Failed(Busy()); },
       ReloadAction::kNothing,
       seconds(2),
       {}},
      {"BackOffEndsAtAMinuteAndNeverGivesUp",
       [](Script& s) {
         s.Settled(Holding(1));
         for (int i = 0; i < 5000; ++i) s.Failed(Busy());
       },
       ReloadAction::kNothing,
       seconds(60),
       {}},
      {"BackOffBeginsAnewWithAnotherFile",
       [](Script& s) {
         s.Settled(Holding(1));
         for (int i = 0; i < 10; ++i) s.Failed(Busy());
         s.Settled(Holding(2)).Failed(Busy());
       },
       ReloadAction::kNothing,
       milliseconds(500),
       {}},
      {"ChangedWhileReadIsTriedAgain",
       [](Script& s) {
         s.Settled(Holding(1)).Failed(absl::AbortedError("changed")).Pass(milliseconds(500));
       },
       ReloadAction::kLoad,
       {},
       {}},
      {"TroubleIsNotReportedBeforeItSettles",
       [](Script& s) { s.See(Troubled(NoFile())); },
       ReloadAction::kNothing,
       milliseconds(300),
       {}},
      {"TroubleIsReported",
       [](Script& s) { s.Settled(Troubled(NoFile())); },
       ReloadAction::kReport,
       {},
       NoFile()},
      {"TroubleIsReportedOnce",
       [](Script& s) { s.Settled(Troubled(NoFile())).Reported().Pass(hours(1)); },
       ReloadAction::kNothing,
       {},
       {}},
      {"TroubleLeavesTheLiveVersion",
       [](Script& s) { s.Settled(Holding(1)).Loaded().Settled(Troubled(Bad())); },
       ReloadAction::kReport,
       {},
       Bad()},
      {"ReturnToTheLiveFileTakesTheComplaintBack",
       [](Script& s) {
         s.Settled(Holding(1)).Loaded().Settled(Troubled(Bad())).Reported().Settled(Holding(1));
       },
       ReloadAction::kReport,
       {},
       absl::OkStatus()},
      {"ReturnToTheLiveFileAfterAFailureTakesItBack",
       [](Script& s) {
         s.Settled(Holding(1)).Loaded().Settled(Holding(2)).Failed(Bad()).Settled(Holding(1));
       },
       ReloadAction::kReport,
       {},
       absl::OkStatus()},
      {"ReturnToTheFailedFileRepeatsTheComplaintAndNotTheAttempt",
       [](Script& s) {
         s.Settled(Holding(1)).Loaded().Settled(Holding(2)).Failed(Bad());
         s.Settled(Holding(1)).Reported().Settled(Holding(2));
       },
       ReloadAction::kReport,
       {},
       Bad()},
      {"MissingFolderIsGivenAMoment",
       [](Script& s) { s.Settled(Holding(1)).Loaded().SeeNothing(); },
       ReloadAction::kNothing,
       milliseconds(300),
       {}},
      {"FolderThatIsBackStays",
       [](Script& s) {
         s.Settled(Holding(1)).Loaded().SeeNothing().Pass(hours(1)).See(Holding(1));
       },
       ReloadAction::kNothing,
       {},
       {}},
      {"MissingFolderIsRemoved",
       [](Script& s) {
         s.Settled(Holding(1)).Loaded().SeeNothing().Pass(milliseconds(300)).SeeNothing();
       },
       ReloadAction::kRemove,
       {},
       {}},
      {"UnloadedModelIsLeftAlone",
       [](Script& s) { s.Settled(Holding(1)).Loaded().Unloaded().Settled(Holding(2)); },
       ReloadAction::kNothing,
       {},
       {}},
      {"UnloadedModelIsRemovedWithItsFolder",
       [](Script& s) {
         s.Settled(Holding(1)).Unloaded().SeeNothing().Pass(milliseconds(300)).SeeNothing();
       },
       ReloadAction::kRemove,
       {},
       {}},
      {"ForcedLoadTakesTheUnchangedFile",
       [](Script& s) { s.Settled(Holding(1)).Loaded().Forced(); },
       ReloadAction::kLoad,
       {},
       {}},
      {"ForcedLoadTakesTheFileThatFailed",
       [](Script& s) { s.Settled(Holding(1)).Failed(Bad()).Forced(); },
       ReloadAction::kLoad,
       {},
       {}},
      {"ForcedLoadBringsAnUnloadedModelBack",
       [](Script& s) { s.Settled(Holding(1)).Loaded().Unloaded().Forced(); },
       ReloadAction::kLoad,
       {},
       {}},
      {"ForcedLoadOfANewFileTakesOneMoreLook",
       [](Script& s) { s.See(Holding(1, Duration::zero())).Forced(); },
       ReloadAction::kNothing,
       milliseconds(20),
       {}},
      {"ForcedLoadDoesNotWaitForTheModificationTime",
       [](Script& s) { s.See(Holding(1, Duration::zero())).Forced().Pass(milliseconds(20)); },
       ReloadAction::kLoad,
       {},
       {}},
      {"ForcedLoadHearsOfTroubleThatIsKnown",
       [](Script& s) { s.Settled(Troubled(NoFile())).Reported().Forced(); },
       ReloadAction::kReport,
       {},
       NoFile()},
  };
  return *cases;
}

class ReloadPolicyTest : public testing::TestWithParam<Case> {};

TEST_P(ReloadPolicyTest, Decides) {
  Script script;
  GetParam().story(script);
  const Decision decision = script.Decision();
  EXPECT_EQ(decision.action, GetParam().action);
  EXPECT_EQ(decision.report, GetParam().report);
  ASSERT_EQ(decision.look_again.has_value(), GetParam().look_again_in.has_value());
  if (decision.look_again.has_value()) {
    EXPECT_EQ(*decision.look_again - script.Now(), *GetParam().look_again_in);
  }
}

INSTANTIATE_TEST_SUITE_P(Table, ReloadPolicyTest, testing::ValuesIn(Cases()),
                         [](const auto& info) { return info.param.name; });

TEST(ReloadStateTest, ChangeBeganWhenTheFolderFirstDifferedFromWhatWasDealtWith) {
  ReloadState state;
  FakeClock clock;
  const ModelObservation first = Holding(1), second = Holding(2), third = Holding(3);
  Observe(&state, &first, clock.Now());
  RecordLoaded(&state, first.source);
  clock.Advance(hours(1));
  const TimePoint began = clock.Now();
  Observe(&state, &second, clock.Now());
  clock.Advance(seconds(1));
  Observe(&state, &third, clock.Now());
  EXPECT_EQ(state.changed_since, began);
  EXPECT_EQ(state.unchanged_since, clock.Now());
}

TEST(ReloadStateTest, OnlyWhatMayPassIsTransient) {
  EXPECT_TRUE(IsTransient(absl::UnavailableError("")));
  EXPECT_TRUE(IsTransient(absl::ResourceExhaustedError("")));
  EXPECT_TRUE(IsTransient(absl::AbortedError("")));
  EXPECT_FALSE(IsTransient(absl::InvalidArgumentError("")));
  EXPECT_FALSE(IsTransient(absl::DataLossError("")));
  EXPECT_FALSE(IsTransient(absl::FailedPreconditionError("")));
}

}  // namespace
}  // namespace sconce
