#include "server/checkpoint/folder/shard_index.h"

#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "server/base/printable.h"
#include "server/checkpoint/containers.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/tensor_bounds.h"

namespace sconce {
namespace {

// Of what may stand beside the map.
constexpr int kMaxIndexDepth = 32;

// Takes the JSON parser's events. Each method returns false, with error_ set, where the event does
// not fit the grammar.
class IndexEvents final : public nlohmann::json_sax<nlohmann::json> {
 public:
  absl::StatusOr<ShardIndex> Finish(bool parsed) {
    if (!error_.ok()) return error_;
    if (!parsed) return Refused("expected JSON, got something that is none");
    if (!has_map_) {
      return Refused(
          "expected a checkpoint's index with a weight_map, got a JSON object without one");
    }
    if (index_.shards.empty())
      return Refused("expected a weight_map with tensors, got an empty one");
    return std::move(index_);
  }

  bool null() override { return Scalar("null"); }
  bool boolean(bool value) override { return Scalar(value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override { return Scalar(absl::StrCat(value)); }
  bool number_unsigned(number_unsigned_t value) override { return Scalar(absl::StrCat(value)); }
  bool number_float(number_float_t, const string_t& text) override {
    return Scalar(Printable(text, 40));
  }
  bool binary(binary_t&) override { return Scalar("bytes"); }

  bool string(string_t& value) override {
    if (!in_map_) return Scalar(Printable(value));
    const auto [shard, is_new] = index_.shards.try_emplace(value);
    if (is_new && index_.shards.size() > kMaxShards) {
      return Refuse(Refused("expected at most ", kMaxShards, " shards, got more"));
    }
    shard->second.insert(key_);
    return true;
  }

  bool start_object(size_t) override {
    if (in_map_) return Scalar("an object");
    ++depth_;
    if (depth_ == 2 && top_key_ == "weight_map") {
      in_map_ = has_map_ = true;
    }
    return CheckDepth();
  }

  bool start_array(size_t) override {
    if (in_map_ || depth_ == 0 || (depth_ == 1 && top_key_ == "weight_map")) {
      return Scalar("an array");
    }
    ++depth_;
    return CheckDepth();
  }

  bool key(string_t& name) override {
    if (depth_ == 1) {
      if (!top_keys_.insert(name).second) return RefuseTwice(name);
      top_key_ = name;
    } else if (in_map_) {
      if (!tensors_.insert(name).second) return RefuseTwice(name);
      if (tensors_.size() > kMaxTensorCount) {
        return Refuse(Refused("expected at most ", kMaxTensorCount, " tensors, got more"));
      }
    }
    key_ = name;
    return true;
  }

  bool end_object() override {
    --depth_;
    in_map_ = false;
    return true;
  }

  bool end_array() override {
    --depth_;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    return Refuse(Refused("expected valid JSON, got something else at its byte ", position));
  }

 private:
  // A value that is no object and, in the map, no string.
  bool Scalar(const std::string& text) {
    if (depth_ == 0) return Refuse(Refused("expected an object, got ", text));
    if (in_map_) {
      return Refuse(Refused("expected the file that holds tensor '", Printable(key_),
                            "' as a string, got ", text));
    }
    if (depth_ == 1 && top_key_ == "weight_map") {
      return Refuse(Refused("expected an object as weight_map, got ", text));
    }
    if (depth_ == 2 && top_key_ == "metadata" && index_.metadata.size() < kMaxMetadataEntries) {
      index_.metadata.push_back({Printable(key_), text});
    }
    return true;
  }

  bool CheckDepth() {
    if (depth_ <= kMaxIndexDepth) return true;
    return Refuse(Refused("expected JSON nested at most ", kMaxIndexDepth, " deep, got more"));
  }

  bool RefuseTwice(const std::string& name) {
    return Refuse(Refused("expected each key once, got '", Printable(name), "' twice"));
  }

  bool Refuse(const absl::Status& error) {
    if (error_.ok()) error_ = error;
    return false;
  }

  ShardIndex index_;
  absl::Status error_;
  int depth_ = 0;
  bool in_map_ = false;
  bool has_map_ = false;
  std::string top_key_;
  std::string key_;
  std::set<std::string> top_keys_;
  std::set<std::string> tensors_;
};

}  // namespace

absl::StatusOr<ShardIndex> ParseShardIndex(const std::string& json) {
  IndexEvents events;
  const bool parsed = nlohmann::json::sax_parse(json, &events);
  return events.Finish(parsed);
}

}  // namespace sconce
