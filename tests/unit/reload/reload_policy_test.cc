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
    Observe(&state_, refused_, &observation, clock_.Now());
    return *this;
  }
  Script& SeeNothing() {
    Observe(&state_, refused_, nullptr, clock_.Now());
    return *this;
  }
  Script& Pass(Duration d) {
    clock_.Advance(d);
    wall_ += std::chrono::duration_cast<WallTime::duration>(d);
    return *this;
  }
  Script& Loaded() {
    RecordLoaded(&state_, &refused_, state_.seen->source);
    return *this;
  }
  Script& Failed(const absl::Status& status) {
    RecordFailure(&state_, &refused_, kTimes, state_.seen->source, status, clock_.Now());
    return *this;
  }
  Script& PassWithoutTheWall(Duration d) {
    clock_.Advance(d);
    return *this;
  }
  Script& Held() {
    RecordCandidate(&state_, &refused_, state_.seen->source);
    return *this;
  }
  Script& Jittered(Duration jitter) {
    state_.jitter = jitter;
    return *this;
  }
  Script& OtherThanPinned() {
    RecordOtherThanPinned(&state_, state_.seen->source, Bad(), clock_.Now());
    return *this;
  }
  Script& Unpinned() {
    RecordUnpinned(&state_);
    return *this;
  }
  Script& Reported() {
    RecordReport(&state_, Decision().report);
    return *this;
  }
  Script& NotFollowed() {
    following_ = false;
    state_.live.reset();
    return *this;
  }
  Script& Forced() {
    state_.forced = true;
    return *this;
  }
  // A folder that has been seen and settled.
  Script& Settled(const ModelObservation& observation) {
    return See(observation).Pass(kTimes.settle).See(observation);
  }

  sconce::Decision Decision() const {
    return Decide(state_, refused_, kTimes, following_, clock_.Now(), wall_);
  }
  TimePoint Now() const { return clock_.Now(); }

 private:
  ReloadState state_;
  Refusals refused_;
  bool following_ = true;
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
      {"StandingClockDelaysNoLongerThanTheSettleTime",
       [](Script& s) { s.See(Holding(1, Duration::zero())).PassWithoutTheWall(2 * kTimes.settle); },
       ReloadAction::kLoad,
       {},
       {}},
      {"FileThatCameBackAfterARefusalIsNotTriedAgain",
       [](Script& s) {
         s.Settled(Holding(1)).Failed(Bad()).Settled(Holding(2)).Loaded().Settled(Holding(3));
         s.Loaded().Settled(Holding(1)).Reported().Pass(hours(1));
       },
       ReloadAction::kNothing,
       {},
       {}},
      {"HeldFileIsLeftAlone",
       [](Script& s) { s.Settled(Holding(1)).Loaded().Settled(Holding(2)).Held().Pass(hours(1)); },
       ReloadAction::kNothing,
       {},
       {}},
      {"NewerFileEndsTheHeldOne",
       [](Script& s) {
         s.Settled(Holding(1)).Loaded().Settled(Holding(2)).Held().Settled(Holding(3));
       },
       ReloadAction::kDropCandidate,
       {},
       {}},
      {"ReturnToTheLiveFileEndsTheHeldOne",
       [](Script& s) {
         s.Settled(Holding(1)).Loaded().Settled(Holding(2)).Held().Settled(Holding(1));
       },
       ReloadAction::kDropCandidate,
       {},
       {}},
      {"JitterComesOnTop",
       [](Script& s) { s.See(Holding(1)).Jittered(seconds(5)).Pass(milliseconds(300)); },
       ReloadAction::kNothing,
       seconds(5),
       {}},
      {"OperatorDoesNotWaitForJitter",
       [](Script& s) { s.See(Holding(1)).Jittered(seconds(5)).Forced().Pass(milliseconds(300)); },
       ReloadAction::kLoad,
       {},
       {}},
      {"OtherWeightsThanPinnedAreNotTriedAgain",
       [](Script& s) { s.Settled(Holding(1)).OtherThanPinned().Pass(hours(1)); },
       ReloadAction::kNothing,
       {},
       {}},
      {"OtherWeightsThanPinnedAreLoadedWithoutThePin",
       [](Script& s) { s.Settled(Holding(1)).OtherThanPinned().Unpinned(); },
       ReloadAction::kLoad,
       {},
       {}},
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
      {"FolderThatIsNotFollowedIsLeftAlone",
       [](Script& s) { s.Settled(Holding(1)).Loaded().NotFollowed().Settled(Holding(2)); },
       ReloadAction::kNothing,
       {},
       {}},
      {"FolderThatIsNotFollowedIsRemoved",
       [](Script& s) {
         s.Settled(Holding(1)).NotFollowed().SeeNothing().Pass(milliseconds(300)).SeeNothing();
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
      {"ForcedLoadTakesWhatIsNotFollowed",
       [](Script& s) { s.Settled(Holding(1)).Loaded().NotFollowed().Forced(); },
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
  Refusals refused;
  FakeClock clock;
  const ModelObservation first = Holding(1), second = Holding(2), third = Holding(3);
  Observe(&state, refused, &first, clock.Now());
  RecordLoaded(&state, &refused, first.source);
  clock.Advance(hours(1));
  const TimePoint began = clock.Now();
  Observe(&state, refused, &second, clock.Now());
  clock.Advance(seconds(1));
  Observe(&state, refused, &third, clock.Now());
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
