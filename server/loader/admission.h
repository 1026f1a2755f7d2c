// Admission: where the weights of a new version go, before memory is taken for them: beside those
// that answer, over them, or nowhere. What costs nothing is tried first. A pure function, free of
// torch.

#ifndef SCONCE_SERVER_LOADER_ADMISSION_H_
#define SCONCE_SERVER_LOADER_ADMISSION_H_

#include "server/registry/model_config.h"

namespace sconce {

// What is known of a load.
struct AdmissionView {
  SwapMode swap = SwapMode::kBeside;
  // Whether there are weights that these could be written over.
  bool can_write_over = false;
  // Whether the version fits beside what is there, by what is known so far: on every device that it
  // is wanted on, or at least on some, so that it can be served.
  bool fits = false;
  bool fits_partly = false;
  // Whether a retained version may be left to let go of.
  bool may_release = false;
  // Whether weights are in memory that this version may have in common with others.
  bool may_share = false;
  // Whether the files have been read to find out what is new in them.
  bool surveyed = false;
};

enum class AdmissionAction {
  kLoadBeside,
  kRelease,  // let go of a retained version and look again
  kSurvey,   // read the files to find out what is new, and look again
  kWriteOver,
  kRefuse,
};

AdmissionAction DecideAdmission(const AdmissionView& view);

}  // namespace sconce

#endif  // SCONCE_SERVER_LOADER_ADMISSION_H_
