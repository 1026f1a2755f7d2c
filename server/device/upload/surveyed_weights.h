// SurveyedWeights: the WeightsSurvey that SurveyWeights gives. Internal to the upload.

#ifndef SCONCE_SERVER_DEVICE_UPLOAD_SURVEYED_WEIGHTS_H_
#define SCONCE_SERVER_DEVICE_UPLOAD_SURVEYED_WEIGHTS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "server/device/upload/pooled_weights.h"
#include "server/device/upload/tensor_pool.h"

namespace sconce {

// Immutable.
class SurveyedWeights final : public WeightsSurvey {
 public:
  // `contents`: by tensor of the checkpoint; empty for those that no device wants.
  SurveyedWeights(std::string weights_id, std::vector<ChunkDigests> contents,
                  std::vector<int64_t> new_bytes)
      : weights_id_(std::move(weights_id)),
        contents_(std::move(contents)),
        new_bytes_(std::move(new_bytes)) {}

  const std::string& weights_id() const override { return weights_id_; }
  int64_t new_bytes(size_t target) const override { return new_bytes_[target]; }

  const ChunkDigests& ContentOf(size_t tensor) const { return contents_[tensor]; }

 private:
  const std::string weights_id_;
  const std::vector<ChunkDigests> contents_;
  const std::vector<int64_t> new_bytes_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_UPLOAD_SURVEYED_WEIGHTS_H_
