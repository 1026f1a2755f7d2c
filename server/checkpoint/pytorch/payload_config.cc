#include "server/checkpoint/pytorch/payload_config.h"

#include <cstddef>
#include <limits>
#include <set>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "server/base/printable.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/tensor_bounds.h"

namespace sconce {
namespace {

constexpr size_t kMaxJsonDepth = 16;

// Takes the JSON parser's events. A value's place is told by the keys of the objects around it;
// lists leave no trace in it.
class ConfigEvents final : public nlohmann::json_sax<nlohmann::json> {
 public:
  absl::StatusOr<std::vector<Payload>> Finish(bool parsed) {
    if (!error_.ok()) return error_;
    if (!parsed) return Refused("expected JSON, got something that is none");
    if (!has_config_) return Refused("expected an object with the key 'config', got one without");
    return std::move(payloads_);
  }

  bool null() override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }

  bool boolean(bool value) override {
    if (IsAt({"is_param"})) payloads_.back().is_parameter = value;
    if (IsAt({"use_pickle"})) payloads_.back().use_pickle = value;
    return true;
  }

  bool string(string_t& value) override {
    if (IsAt({"path_name"})) payloads_.back().path_name = value;
    return true;
  }

  bool number_integer(number_integer_t value) override { return Number(value); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return Refuse(Refused("expected numbers within 63 bits, got ", value));
    }
    return Number(static_cast<int64_t>(value));
  }

  bool start_object(size_t) override {
    if (keys_.size() == kMaxJsonDepth) {
      return Refuse(Refused("expected JSON nested at most ", kMaxJsonDepth, " deep, got more"));
    }
    if (keys_.size() == 2 && keys_[0] == "config") {
      if (payloads_.size() == kMaxTensorCount) {
        return Refuse(Refused("expected at most ", kMaxTensorCount, " tensors, got more"));
      }
      if (!names_.insert(keys_[1]).second) {
        return Refuse(Refused("expected each name once, got it twice"));
      }
      payloads_.emplace_back();
      payloads_.back().name = keys_[1];
      fields_.clear();
    }
    if (IsAt({"tensor_meta"})) payloads_.back().is_tensor = true;
    if (keys_.size() == 1 && keys_[0] == "config") has_config_ = true;
    keys_.emplace_back();
    return true;
  }

  bool key(string_t& name) override {
    keys_.back() = name;
    // What is told twice would be told apart by no two readers.
    if ((keys_.size() == 3 || keys_.size() == 4) && keys_[0] == "config" && !payloads_.empty() &&
        !fields_.insert(absl::StrCat(keys_.size(), name)).second) {
      return Refuse(Refused("expected each key once, got '", Printable(name), "' twice"));
    }
    return true;
  }

  bool end_object() override {
    keys_.pop_back();
    return true;
  }

  bool start_array(size_t) override {
    if (++lists_ > kMaxJsonDepth) {
      return Refuse(Refused("expected JSON nested at most ", kMaxJsonDepth, " deep, got more"));
    }
    return true;
  }

  bool end_array() override {
    --lists_;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    return Refuse(Refused("expected valid JSON, got something else at its byte ", position));
  }

 private:
  // Whether the event is the value under these keys of a payload.
  bool IsAt(std::initializer_list<std::string_view> fields) const {
    if (keys_.size() != 2 + fields.size() || keys_[0] != "config") return false;
    size_t i = 2;
    for (const std::string_view field : fields) {
      if (keys_[i++] != field) return false;
    }
    return true;
  }

  bool Number(int64_t value) {
    if (payloads_.empty()) return true;
    Payload& payload = payloads_.back();
    if (IsAt({"tensor_meta", "dtype"})) payload.dtype = value;
    if (IsAt({"tensor_meta", "layout"})) payload.layout = value;
    if (IsAt({"tensor_meta", "storage_offset", "as_int"})) payload.storage_offset = value;
    if (IsAt({"tensor_meta", "sizes", "as_int"})) return Append(payload.sizes, value);
    if (IsAt({"tensor_meta", "strides", "as_int"})) return Append(payload.strides, value);
    return true;
  }

  bool Append(std::vector<int64_t>& numbers, int64_t value) {
    if (numbers.size() == kMaxTensorRank) {
      return Refuse(Refused("expected at most ", kMaxTensorRank, " dimensions, got more"));
    }
    numbers.push_back(value);
    return true;
  }

  bool Refuse(const absl::Status& error) {
    if (!error_.ok()) return false;
    error_ = keys_.size() > 1 ? InContext(absl::StrCat("tensor '", Printable(keys_[1]), "'"), error)
                              : error;
    return false;
  }

  std::vector<Payload> payloads_;
  absl::Status error_;
  std::vector<std::string> keys_;
  std::set<std::string> names_;
  std::set<std::string> fields_;
  size_t lists_ = 0;
  bool has_config_ = false;
};

}  // namespace

absl::StatusOr<std::vector<Payload>> ParsePayloadConfig(const std::string& json) {
  ConfigEvents events;
  const bool parsed = nlohmann::json::sax_parse(json, &events);
  return events.Finish(parsed);
}

}  // namespace sconce
