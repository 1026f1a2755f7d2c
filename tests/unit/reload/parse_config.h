// What the tests of config.pbtxt ask of its text.
#ifndef SCONCE_TESTS_UNIT_RELOAD_PARSE_CONFIG_H_
#define SCONCE_TESTS_UNIT_RELOAD_PARSE_CONFIG_H_

#include <gtest/gtest.h>

#include <string>

#include "server/reload/config_file.h"

namespace sconce {

inline ModelConfig Parse(const std::string& text) {
  const absl::StatusOr<ModelConfig> config = ParseModelConfig(text, "m");
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *config : ModelConfig();
}

inline std::string ErrorOf(const std::string& text) {
  const absl::StatusOr<ModelConfig> config = ParseModelConfig(text, "m");
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << text;
  return std::string(config.status().message());
}

}  // namespace sconce

#endif  // SCONCE_TESTS_UNIT_RELOAD_PARSE_CONFIG_H_
