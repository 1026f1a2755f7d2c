// What every caller of the reader relies on, checked on one input. A broken promise ends the
// process with a message, as a crash would.
#ifndef SCONCE_TESTS_FUZZ_EXERCISE_H_
#define SCONCE_TESTS_FUZZ_EXERCISE_H_

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace sconce {

// Ends the process unless `holds`.
void Require(bool holds, std::string_view promise, std::string_view detail = "");

// An error is of the input, says something, and is fit to print.
void RequireGoodError(const absl::Status& error);

// Runs `work` on an input of as many bytes, and requires that memory and time stay in proportion.
void WithinMeans(size_t input_bytes, const std::function<void()>& work);

// Opens what is at `path`, checks all that the listing promises, and reads the tensors. Every file
// of it must lie in `folder`. `shrink`, where given, cuts the files short while the checkpoint is
// open, after which reads must fail or be right.
void ExerciseCheckpoint(const std::string& path, const std::string& folder, size_t input_bytes,
                        bool verify_crc, const std::function<void()>& shrink = nullptr);

}  // namespace sconce

#endif  // SCONCE_TESTS_FUZZ_EXERCISE_H_
