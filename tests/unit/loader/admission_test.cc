#include "server/loader/admission.h"

#include <gtest/gtest.h>

namespace sconce {
namespace {

using Action = AdmissionAction;

AdmissionView View(SwapMode swap) {
  AdmissionView view;
  view.swap = swap;
  view.can_write_over = true;
  return view;
}

TEST(AdmissionTest, WhatFitsIsLoadedBesideAtOnce) {
  for (const SwapMode swap : {SwapMode::kBeside, SwapMode::kInPlaceIfNeeded}) {
    AdmissionView view = View(swap);
    view.fits = view.fits_partly = true;
    view.may_release = view.may_share = true;
    EXPECT_EQ(DecideAdmission(view), Action::kLoadBeside);
  }
}

TEST(AdmissionTest, RetainedVersionsGoBeforeFilesAreRead) {
  for (const SwapMode swap : {SwapMode::kBeside, SwapMode::kInPlaceIfNeeded}) {
    for (const bool fits_partly : {false, true}) {
      AdmissionView view = View(swap);
      view.fits_partly = fits_partly;
      view.may_release = view.may_share = true;
      EXPECT_EQ(DecideAdmission(view), Action::kRelease);
      view.may_release = false;
      EXPECT_EQ(DecideAdmission(view), Action::kSurvey);
    }
  }
}

TEST(AdmissionTest, WithNothingToShareThereIsNothingToSurvey) {
  AdmissionView view = View(SwapMode::kBeside);
  EXPECT_EQ(DecideAdmission(view), Action::kRefuse);
  view.fits_partly = true;
  EXPECT_EQ(DecideAdmission(view), Action::kLoadBeside);
}

TEST(AdmissionTest, AfterTheSurveyWhatDoesNotFitIsWrittenOverWhereThatIsAllowed) {
  AdmissionView view = View(SwapMode::kInPlaceIfNeeded);
  view.surveyed = view.may_share = true;
  EXPECT_EQ(DecideAdmission(view), Action::kWriteOver);
  view.fits_partly = true;
  EXPECT_EQ(DecideAdmission(view), Action::kWriteOver);
  view.can_write_over = false;
  EXPECT_EQ(DecideAdmission(view), Action::kLoadBeside);
  view.fits_partly = false;
  EXPECT_EQ(DecideAdmission(view), Action::kRefuse);
  view.can_write_over = true;
  view.swap = SwapMode::kBeside;
  EXPECT_EQ(DecideAdmission(view), Action::kRefuse);
}

TEST(AdmissionTest, AlwaysInPlaceMeansSoWhereThereIsRoomBeside) {
  AdmissionView view = View(SwapMode::kInPlace);
  view.fits = view.fits_partly = true;
  view.may_release = true;
  EXPECT_EQ(DecideAdmission(view), Action::kSurvey);
  view.surveyed = true;
  EXPECT_EQ(DecideAdmission(view), Action::kWriteOver);
  // The first version, or another network.
  view.can_write_over = false;
  EXPECT_EQ(DecideAdmission(view), Action::kLoadBeside);
}

TEST(AdmissionTest, EveryPathEnds) {
  for (int bits = 0; bits < 3 * 64; ++bits) {
    AdmissionView view;
    view.swap = static_cast<SwapMode>(bits / 64);
    view.can_write_over = (bits & 1) != 0;
    view.fits = (bits & 2) != 0;
    view.fits_partly = view.fits || (bits & 4) != 0;
    view.may_release = (bits & 8) != 0;
    view.may_share = (bits & 16) != 0;
    view.surveyed = (bits & 32) != 0;
    for (int step = 0;; ++step) {
      ASSERT_LT(step, 3) << bits;
      const Action action = DecideAdmission(view);
      if (action == Action::kRelease) {
        ASSERT_TRUE(view.may_release);
        view.may_release = false;
      } else if (action == Action::kSurvey) {
        ASSERT_FALSE(view.surveyed);
        view.surveyed = true;
      } else {
        if (action == Action::kWriteOver) {
          EXPECT_TRUE(view.can_write_over && view.surveyed && view.swap != SwapMode::kBeside);
        }
        if (action == Action::kLoadBeside) {
          EXPECT_TRUE(view.fits_partly);
        }
        break;
      }
    }
  }
}

}  // namespace
}  // namespace sconce
