// Requests of different sizes, with and without all inputs, in one batch: what the network is given
// and what each is answered with.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/batching/ragged_rows.h"
#include "server/batching/request_check.h"
#include "server/registry/signature_rules.h"
#include "tests/unit/batching/batcher_fixture.h"

namespace sconce {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

using Floats = std::vector<float>;
using Shape = std::vector<int64_t>;

Floats FloatsOf(const HostTensor& tensor) {
  Floats values(tensor.bytes.size() / sizeof(float));
  std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  return values;
}

TEST(RaggedRowsTest, WhatIsLaidIntoALargerPlaceIsCutOutOfItAgain) {
  const std::string text = "abcdefghijkl";  // [2, 3, 2]
  const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
  // Pieces that break off anywhere.
  const std::vector<absl::Span<const std::byte>> pieces = {
      {bytes, 1}, {bytes + 1, 4}, {bytes + 5, 0}, {bytes + 5, 7}};
  std::string place(2 * 4 * 3, '.');
  LayInto(pieces, {2, 3, 2}, {2, 4, 3}, 1, reinterpret_cast<std::byte*>(place.data()));
  EXPECT_EQ(place, "ab.cd.ef....gh.ij.kl....");
  std::string again(text.size(), ' ');
  CutOut(reinterpret_cast<const std::byte*>(place.data()), {2, 4, 3}, {2, 3, 2}, 1,
         reinterpret_cast<std::byte*>(again.data()));
  EXPECT_EQ(again, text);
}

// Of versions whose first input x is padded with -1, and whose second may be left out.
class RaggedTest : public BatcherTest {
 protected:
  // What a replica was given.
  struct Launch {
    std::vector<Shape> shapes;
    std::vector<Floats> values;
  };

  std::unique_ptr<ModelVersion> PaddedVersion(int64_t number,
                                              FakeReplica::Behaviour behaviour = {}) {
    behaviour.on_launch = [this](const BatchInput& batch) {
      Launch& launch = launches_.emplace_back();
      for (const HostTensor& input : batch.inputs) {
        launch.shapes.push_back(input.shape);
        launch.values.push_back(FloatsOf(input));
      }
    };
    auto version = MakeFakeVersion("m", number, std::move(behaviour), {-1});
    version->signature.inputs.push_back({"mask", DType::kFloat32, {-1}});
    version->signature.inputs[0].rules.padding = -1;
    version->signature.inputs[1].rules = {.absent = 1, .padding = 0};
    version->signature.outputs[0].rules.padding = 0;
    EXPECT_TRUE(CheckRules(version->signature).ok()) << CheckRules(version->signature);
    return version;
  }

  // Rows of `size` values each, all of them `value`.
  InferRequest Ragged(int64_t rows, int64_t size, float value, bool with_mask = false) {
    auto wire = std::make_shared<Floats>(rows * size, value);
    InferRequest request;
    const absl::Span<const std::byte> bytes(reinterpret_cast<std::byte*>(wire->data()),
                                            wire->size() * sizeof(float));
    request.declared = {{"x", "FP32", {rows, size}}};
    request.bytes = {{{bytes}}};
    if (with_mask) {
      request.declared.push_back({"mask", "FP32", {rows, size}});
      request.bytes.push_back({{bytes}});
    }
    request.wire = wire;
    request.checked_against = registry_.Find("m")->Pin();
    auto checked = CheckInputs("m", request.checked_against->signature,
                               request.checked_against->max_batch_rows(), request.declared);
    EXPECT_TRUE(checked.ok()) << checked.status();
    request.checked = *std::move(checked);
    request.arrival = clock_->Now();
    return request;
  }

  // Submits all of them while a request of two values is under way, so that they wait together.
  std::vector<Answer> Together(std::vector<InferRequest> requests, Gate* gate) {
    gate->Close();
    auto first = Submit(Ragged(1, 2, 0));
    gate->AwaitHeld();
    std::vector<std::future<Answer>> futures;
    for (InferRequest& request : requests) futures.push_back(Submit(std::move(request)));
    gate->Open();
    EXPECT_TRUE(first.get().ok());
    std::vector<Answer> answers;
    for (auto& future : futures) answers.push_back(future.get());
    launches_.erase(launches_.begin());
    return answers;
  }

  std::vector<Launch> launches_;
};

template <typename... Requests>
std::vector<InferRequest> List(Requests... requests) {
  std::vector<InferRequest> list;
  (list.push_back(std::move(requests)), ...);
  return list;
}

TEST_F(RaggedTest, ShorterRequestsAreFilledUpAndTheirAnswersCutBack) {
  Gate gate;
  Publish(PaddedVersion(1, {.scale = 10, .on_run = [&](int64_t) {
                              gate.Pass();
                              return absl::OkStatus();
                            }}));
  const auto answers =
      Together(List(Ragged(1, 2, 5), Ragged(2, 3, 7, true), Ragged(1, 3, 4)), &gate);
  ASSERT_EQ(launches_.size(), 1u);
  EXPECT_THAT(launches_[0].shapes, ElementsAre(Shape{4, 3}, Shape{4, 3}));
  EXPECT_EQ(launches_[0].values[0], (Floats{5, 5, -1, 7, 7, 7, 7, 7, 7, 4, 4, 4}));
  EXPECT_EQ(launches_[0].values[1], (Floats{1, 1, 0, 7, 7, 7, 7, 7, 7, 1, 1, 1}));
  ASSERT_TRUE(answers[0].ok()) << answers[0].status();
  EXPECT_EQ(answers[0]->outputs[0].shape, (Shape{1, 2}));
  EXPECT_EQ(Values(*answers[0]), (Floats{50, 50}));
  EXPECT_EQ(answers[1]->outputs[0].shape, (Shape{2, 3}));
  EXPECT_EQ(Values(*answers[1]), Floats(6, 70));
  EXPECT_EQ(Values(*answers[2]), Floats(3, 40));
}

TEST_F(RaggedTest, AnInputThatIsLeftOutIsThereWhenTheNetworkRuns) {
  Publish(PaddedVersion(1));
  const Answer answer = Submit(Ragged(1, 3, 2)).get();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(launches_.at(0).values[1], (Floats{1, 1, 1}));
}

TEST_F(RaggedTest, LengthsThatAreTooFarApartGoIntoBatchesOfTheirOwn) {
  Gate gate;
  Publish(PaddedVersion(1, {.on_run = [&](int64_t) {
                          gate.Pass();
                          return absl::OkStatus();
                        }}));
  const auto answers = Together(List(Ragged(1, 8, 1), Ragged(1, 512, 2), Ragged(1, 8, 3)), &gate);
  for (const Answer& answer : answers) EXPECT_TRUE(answer.ok()) << answer.status();
  ASSERT_EQ(launches_.size(), 2u);
  EXPECT_EQ(launches_[0].shapes[0], (Shape{2, 8}));
  EXPECT_EQ(launches_[1].shapes[0], (Shape{1, 512}));
}

TEST_F(RaggedTest, HalvesOfABatchThatFailedAreAsLargeAsTheirOwnLargest) {
  Gate gate;
  Publish(PaddedVersion(1, {.on_run = [&](int64_t rows) {
                          gate.Pass();
                          return rows > 1 ? absl::ResourceExhaustedError("too much")
                                          : absl::OkStatus();
                        }}));
  const auto answers = Together(List(Ragged(1, 3, 1), Ragged(1, 4, 2)), &gate);
  ASSERT_EQ(launches_.size(), 3u);
  EXPECT_EQ(launches_[0].shapes[0], (Shape{2, 4}));
  EXPECT_EQ(launches_[1].shapes[0], (Shape{1, 3}));
  EXPECT_EQ(launches_[2].shapes[0], (Shape{1, 4}));
  EXPECT_EQ(Values(*answers[0]), Floats(3, 1));
  EXPECT_EQ(Values(*answers[1]), Floats(4, 2));
}

TEST_F(RaggedTest, WhatLiesOnADeviceIsNotFilledUp) {
  Gate gate;
  Publish(PaddedVersion(1, {.on_run = [&](int64_t) {
                          gate.Pass();
                          return absl::OkStatus();
                        }}));
  InferRequest on_device = Ragged(1, 3, 0);
  on_device.bytes[0] = {{}, DeviceBytes{"sim:0", std::make_shared<int>(), 12}};
  InferRequest wants_target = Ragged(1, 3, 0);
  wants_target.output_targets = {{"y", {"sim:0", std::make_shared<int>(), 12}}};
  const auto answers =
      Together(List(Ragged(1, 4, 1), std::move(on_device), std::move(wants_target)), &gate);
  for (const Answer& answer : answers) EXPECT_TRUE(answer.ok()) << answer.status();
  ASSERT_EQ(launches_.size(), 2u);
  EXPECT_EQ(launches_[0].shapes[0], (Shape{1, 4}));
  EXPECT_EQ(launches_[1].shapes[0], (Shape{2, 3}));
}

TEST_F(RaggedTest, AnOutputThatHasNotTheSizeOfTheBatchFailsIt) {
  auto version = PaddedVersion(1);
  version->signature.outputs[0].dims = {2};
  version->signature.outputs[0].rules = {};
  Publish(std::move(version));
  const Answer answer = Submit(Ragged(1, 3, 0)).get();
  EXPECT_THAT(std::string(answer.status().message()), HasSubstr("expected FP32[-1,2]"));
}

TEST_F(RaggedTest, ANetworkOfAFixedNumberOfRowsGetsThatMany) {
  auto version = PaddedVersion(1, {.scale = 2});
  version->signature.rows.rows = {.minimum = 3, .maximum = 4};
  Publish(std::move(version));
  EXPECT_EQ(registry_.Find("m")->Pin()->max_batch_rows(), 4);
  const Answer answer = Submit(Ragged(2, 2, 5, true)).get();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(launches_.at(0).shapes[0], (Shape{3, 2}));
  EXPECT_EQ(launches_[0].values[0], (Floats{5, 5, 5, 5, 0, 0}));
  EXPECT_EQ(launches_[0].values[1], (Floats{5, 5, 5, 5, 1, 1}));
  EXPECT_EQ(answer->outputs[0].shape, (Shape{2, 2}));
  EXPECT_EQ(Values(*answer), Floats(4, 10));
}

TEST_F(RaggedTest, WithoutABatchDimensionEachRequestGoesAlone) {
  Gate gate;
  auto version = PaddedVersion(1, {.scale = 2, .on_run = [&](int64_t) {
                                     gate.Pass();
                                     return absl::OkStatus();
                                   }});
  version->signature.inputs.pop_back();
  version->signature.inputs[0] = {"x", DType::kFloat32, {-1, 2}};
  version->signature.outputs[0] = {"y", DType::kFloat32, {-1, 2}};
  version->signature.rows.batched = false;
  Publish(std::move(version));
  const auto answers = Together(List(Ragged(3, 2, 1), Ragged(3, 2, 2)), &gate);
  ASSERT_EQ(launches_.size(), 2u);
  EXPECT_EQ(launches_[0].shapes[0], (Shape{3, 2}));
  EXPECT_EQ(answers[0]->outputs[0].shape, (Shape{3, 2}));
  EXPECT_EQ(Values(*answers[0]), Floats(6, 2));
  EXPECT_EQ(Values(*answers[1]), Floats(6, 4));
  EXPECT_EQ(answers[1]->version->signature.rows.batched, false);
}

TEST_F(RaggedTest, AVersionThatPadsOtherwiseDoesNotAnswerWhatWasChosenForTheOneBefore) {
  Gate gate;
  Publish(PaddedVersion(1, {.on_run = [&](int64_t) {
                          gate.Pass();
                          return absl::OkStatus();
                        }}));
  InferRequest request = Ragged(1, 3, 0);
  SetShape(request.checked_against->signature, &request);
  auto stricter = PaddedVersion(2);
  for (auto& spec : stricter->signature.inputs) spec.rules.sizes = {{.minimum = 1, .maximum = 2}};
  EXPECT_TRUE(absl::IsInvalidArgument(CheckAgainst(*stricter, &request)));
  auto unpadded = PaddedVersion(3);
  for (auto& spec : unpadded->signature.inputs) spec.rules.padding.reset();
  EXPECT_TRUE(absl::IsUnavailable(CheckAgainst(*unpadded, &request)));
}

}  // namespace
}  // namespace sconce
