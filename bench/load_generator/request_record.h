// RecordFile: what became of each request of a run, one fixed-size record after the other, so that
// whoever knows what happened meanwhile can say which requests it touched. bench/scenarios/swap.py
// reads it.
//
// Used by one thread at a time.

#ifndef SCONCE_BENCH_LOAD_GENERATOR_REQUEST_RECORD_H_
#define SCONCE_BENCH_LOAD_GENERATOR_REQUEST_RECORD_H_

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/open_inference.pb.h"

namespace sconce::bench {

// Times are those of the machine's monotonic clock. Bytes are in the machine's order.
struct RequestRecord {
  int64_t intended_ns = 0;
  int64_t started_ns = 0;
  int64_t done_ns = 0;
  // Of good answers; zero in others.
  int64_t version = 0;
  uint64_t weights_id = 0;  // its first 16 digits
  uint64_t value = 0;       // the bits of the first element of the first output
  uint8_t status = 0;       // gRPC's number
  // Whether all elements of all outputs are `value`: where a network's outputs are one number that
  // tells the weights apart, an answer that mixes two versions is not uniform.
  uint8_t uniform = 0;
  uint8_t unused[6] = {};
};
static_assert(sizeof(RequestRecord) == 56);

// What a good answer says; the times and the status are left open.
RequestRecord RecordOf(const inference::ModelInferResponse& answer);

class RecordFile {
 public:
  static absl::StatusOr<std::unique_ptr<RecordFile>> Create(const std::string& path);
  ~RecordFile();

  void Write(const RequestRecord& record);
  // Says whether everything was written. REQUIRES: called once, last.
  absl::Status Close();

 private:
  RecordFile(std::string path, std::FILE* file);

  const std::string path_;
  std::FILE* file_;
  std::vector<char> buffer_;  // of file_
};

}  // namespace sconce::bench

#endif  // SCONCE_BENCH_LOAD_GENERATOR_REQUEST_RECORD_H_
