// What the tests of programs have in common: files that Python has written, and networks that are
// given weights from files. Failures fail the test that calls.
#ifndef SCONCE_TESTS_PROGRAM_PROGRAM_FIXTURES_H_
#define SCONCE_TESTS_PROGRAM_PROGRAM_FIXTURES_H_

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>

#include "models/architecture.h"
#include "models/net.h"
#include "nlohmann/json.hpp"
#include "server/weights/state_dict.h"

namespace sconce {

// The path of a file in the folder that the environment variable names.
std::string FixtureIn(const char* variable, const std::string& name);

nlohmann::json ReadJsonFile(const std::string& path);

// The signature in NAME.json.
models::Signature DeclaredIn(const char* variable, const std::string& name);

StateDict ReadTensors(const std::string& path);
at::Tensor TensorOf(const StateDict& state, const std::string& name);

// A network with the weights in the file, loaded strictly, ready to run on the CPU; null after a
// failure.
std::unique_ptr<models::Net> WithWeights(const models::Architecture& architecture,
                                         const std::string& weights_path);

// Runs the network on the "input.NAME" of `io`: the largest difference of its outputs from the
// "output.NAME" of `expected`, 0 where all bits are equal; infinite where dtype or shape differ.
double Difference(const models::Net& net, const StateDict& io, const StateDict& expected);

}  // namespace sconce

#endif  // SCONCE_TESTS_PROGRAM_PROGRAM_FIXTURES_H_
