// The files that tests/fixtures/write_fixtures.py has written, and what tests do with them.
#ifndef SCONCE_TESTS_TORCH_FIXTURES_H_
#define SCONCE_TESTS_TORCH_FIXTURES_H_

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "models/catalog.h"
#include "models/net.h"
#include "nlohmann/json.hpp"
#include "server/weights/state_dict.h"

namespace sconce {

// The path of a fixture; SCONCE_TEST_FIXTURES names their folder.
std::string FixturePath(const std::string& name);

nlohmann::json ReadJson(const std::string& name);

// These fail the test, with the status's message, where they cannot do what they say.
std::unique_ptr<Checkpoint> OpenFixture(const std::string& name);
StateDict ReadFixture(const std::string& name);

// The tensor of that name; fails the test and is undefined where there is none.
at::Tensor TensorNamed(const StateDict& state, const std::string& name);

// A loaded network, and what was detected; `net` is null after a failure.
struct Loaded {
  models::Detection detection;
  std::unique_ptr<models::Net> net;
  StateDict state;
};
Loaded LoadFixture(const std::string& name, const models::Configured& configured = {});

}  // namespace sconce

#endif  // SCONCE_TESTS_TORCH_FIXTURES_H_
