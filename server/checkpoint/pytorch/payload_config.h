// ParsePayloadConfig: the list of the weights or constants in an exported program's archive, in
// JSON:
//
//   {"config": {name: {"path_name": string, "is_param": bool, "use_pickle": bool,
//                      "tensor_meta": null | {"dtype": number, "layout": number,
//                                             "sizes": [{"as_int": number}...],
//                                             "strides": [{"as_int": number}...],
//                                             "storage_offset": {"as_int": number}, ...}}}}
//
// A pure function.
#ifndef SCONCE_SERVER_CHECKPOINT_PYTORCH_PAYLOAD_CONFIG_H_
#define SCONCE_SERVER_CHECKPOINT_PYTORCH_PAYLOAD_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace sconce {

struct Payload {
  std::string name;
  std::string path_name;  // untrusted, as all of it
  bool is_parameter = false;
  bool use_pickle = false;
  bool is_tensor = false;
  int64_t dtype = 0;   // torch.export's number for it
  int64_t layout = 0;  // likewise
  std::vector<int64_t> sizes;
  std::vector<int64_t> strides;
  int64_t storage_offset = 0;
};

// In the order of the text.
absl::StatusOr<std::vector<Payload>> ParsePayloadConfig(const std::string& json);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_PYTORCH_PAYLOAD_CONFIG_H_
