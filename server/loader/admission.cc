#include "server/loader/admission.h"

namespace sconce {

AdmissionAction DecideAdmission(const AdmissionView& view) {
  const bool over = view.can_write_over && view.swap != SwapMode::kBeside;
  if (over && view.swap == SwapMode::kInPlace) {
    // What is changed is known by a survey alone.
    return view.surveyed ? AdmissionAction::kWriteOver : AdmissionAction::kSurvey;
  }
  if (view.fits) return AdmissionAction::kLoadBeside;
  if (view.may_release) return AdmissionAction::kRelease;
  if (!view.surveyed && (view.may_share || over)) return AdmissionAction::kSurvey;
  if (over) return AdmissionAction::kWriteOver;
  return view.fits_partly ? AdmissionAction::kLoadBeside : AdmissionAction::kRefuse;
}

}  // namespace sconce
