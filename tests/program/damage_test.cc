// Whatever is changed in a program's file, opening it ends in a network or in a message about the
// file, soon and without taking more memory than the file gives reason for.
//
// What the fuzz targets do for files that are read without LibTorch (tests/fuzz), with their
// mutators: a fixed number of changes from a fixed seed. --gtest_shuffle --gtest_repeat=N goes on
// with others.
#include <ATen/Parallel.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/base/printable.h"
#include "server/program/open_program.h"
#include "tests/fuzz/mutators.h"
#include "tests/program/program_fixtures.h"

namespace sconce {
namespace {

constexpr size_t kChanges = 2000;  // of each file
constexpr double kMostSeconds = 5;
constexpr rlim_t kMostMemory = rlim_t{2} << 30;  // more than before the test
constexpr int64_t kMostElements = 1 << 16;

Random& Bytes() {
  static auto* const random = new Random(1);
  return *random;
}

}  // namespace
}  // namespace sconce

// libFuzzer's, in a build without it: a few bytes are changed, put in or taken out.
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size) {
  std::vector<uint8_t> bytes(data, data + size);
  sconce::Random& random = sconce::Bytes();
  for (size_t changes = 1 + random.Below(3); changes > 0; --changes) {
    const auto at = bytes.begin() + static_cast<ptrdiff_t>(random.Below(bytes.size() + 1));
    const auto byte = static_cast<uint8_t>(random.Integer());
    if (at == bytes.end() || random.OneIn(3)) {
      bytes.insert(at, byte);
    } else if (random.OneIn(2)) {
      bytes.erase(at);
    } else {
      *at = random.OneIn(2) ? byte : static_cast<uint8_t>(*at ^ (1u << random.Below(8)));
    }
  }
  bytes.resize(std::min(bytes.size(), max_size));
  std::copy(bytes.begin(), bytes.end(), data);
  return bytes.size();
}

namespace sconce {
namespace {

const char kFixtures[] = "SCONCE_PROGRAM_FIXTURES";

double ProcessorSeconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

// Memory that a damaged file asks for and is not given is an error like any other.
class MemoryLimit {
 public:
  MemoryLimit() {
    getrlimit(RLIMIT_AS, &before_);
    std::ifstream statm("/proc/self/statm");
    rlim_t pages = 0;
    statm >> pages;
    const rlim_t now = pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE));
    const rlimit limit = {std::min(now + kMostMemory, before_.rlim_max), before_.rlim_max};
    setrlimit(RLIMIT_AS, &limit);
  }
  ~MemoryLimit() { setrlimit(RLIMIT_AS, &before_); }

 private:
  rlimit before_ = {};
};

models::Signature Declared() {
  return {.inputs = {{"x", c10::ScalarType::Float, {4}}},
          .outputs = {{"y", c10::ScalarType::Float, {4}}}};
}

// With weights of ones and an input of zeros, where that is little work. What it throws says what
// does not fit, which is all that is asked of it.
void RunOnce(const models::Architecture& program) {
  const auto net = program.Create({});
  if (!net.ok()) return;
  const c10::InferenceMode inference_mode;
  const std::vector<models::NamedTensor> state = (*net)->State();
  try {
    for (size_t i = 0; i < state.size(); ++i) {
      if (state[i].tensor.numel() > kMostElements) return;
      (*net)->Assign(i, at::ones(state[i].tensor.sizes(), state[i].tensor.scalar_type()));
    }
    std::vector<at::Tensor> inputs;
    for (const models::TensorSpec& spec : (*net)->signature().inputs) {
      std::vector<int64_t> shape = spec.dims;
      if ((*net)->signature().rows.batched) shape.insert(shape.begin(), 2);
      int64_t elements = 1;
      for (int64_t& size : shape) {
        if (size < 0) size = 2;
        if (size > kMostElements || (elements *= size) > kMostElements) return;
      }
      inputs.push_back(at::zeros(shape, spec.dtype));
    }
    (*net)->Eval(c10::kCPU);
    (*net)->Forward(inputs);
  } catch (const std::exception&) {
  }
}

class Damage : public testing::TestWithParam<std::string> {
 protected:
  ~Damage() override { std::filesystem::remove(path_); }

  // What is wrong with how the bytes were taken; empty: nothing.
  std::string Take(const std::string& bytes) {
    std::ofstream(path_, std::ios::binary) << bytes;
    const auto kind = ProbeProgram(path_);
    if (!kind.ok()) return std::string(kind.status().message());
    const auto program = OpenProgram(path_, *kind, {.declared = Declared()});
    if (program.ok()) {
      ++opened_;
      RunOnce(**program);
      return "";
    }
    const std::string message(program.status().message());
    const bool is_of_the_file =
        absl::IsInvalidArgument(program.status()) || absl::IsDataLoss(program.status()) ||
        absl::IsFailedPrecondition(program.status()) || absl::IsUnimplemented(program.status());
    if (!is_of_the_file) return program.status().ToString();
    if (message.size() < path_.size() + 3 || message.size() > 16384) return message;
    return "";
  }

  size_t opened() const { return opened_; }

 private:
  const std::string path_ = testing::TempDir() + "/damaged_" + std::to_string(getpid());
  size_t opened_ = 0;
};

TEST_P(Damage, IsNoCrash) {
  std::ifstream source(FixtureIn(kFixtures, GetParam()), std::ios::binary);
  const std::string whole((std::istreambuf_iterator<char>(source)), {});
  ASSERT_EQ(Take(whole), "");
  ASSERT_EQ(opened(), 1u);
  // Threads that could not be started would end the process.
  at::set_num_threads(1);
  const MemoryLimit limit;
  const auto seed = 1 + static_cast<unsigned>(testing::UnitTest::GetInstance()->random_seed());
  Random random(seed);
  Bytes() = Random(seed);
  for (size_t i = 0; i < kChanges; ++i) {
    std::string damaged = whole;
    for (size_t changes = 1 + random.Below(3); changes > 0; --changes) MutateFile(damaged, random);
    const double began = ProcessorSeconds();
    const std::string wrong = Take(damaged);
    const double took = ProcessorSeconds() - began;
    if (wrong.empty() && took < kMostSeconds) continue;
    const std::string kept = testing::TempDir() + "/finding_" + std::to_string(i) + GetParam();
    std::ofstream(kept, std::ios::binary) << damaged;
    ADD_FAILURE() << "change " << i << ", " << took << " s: " << wrong << "\nkept as " << kept;
  }
  // Some changes are harmless, and most are not.
  EXPECT_GT(opened(), kChanges / 100);
  EXPECT_LT(opened(), kChanges);
}

INSTANTIATE_TEST_SUITE_P(Files, Damage,
                         testing::Values("first.pt2", "first.onnx", "first.scripted.pt",
                                         "first.traced.pt"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '.', '_');
                           return name;
                         });

}  // namespace
}  // namespace sconce
