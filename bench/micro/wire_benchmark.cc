// What taking a ModelInfer request off the wire and putting an answer on it costs, beside what the
// generated protobuf classes take for the same bytes.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/open_inference.pb.h"
#include "server/rpc/decode.h"
#include "server/rpc/encode.h"
#include "server/rpc/prepare.h"

namespace sconce {
namespace {

// Small feature vectors, a 224x224 image as bytes and as floats.
constexpr int64_t kTensorBytes[] = {64, 150'528, 602'112};
// What a slice of a message holds where gRPC cuts it.
constexpr size_t kSliceBytes = 8192;

inference::ModelInferRequest RequestMessage(int64_t tensor_bytes) {
  inference::ModelInferRequest message;
  message.set_model_name("resnet18");
  message.set_id("1234");
  auto* input = message.add_inputs();
  input->set_name("input");
  input->set_datatype("FP32");
  input->add_shape(1);
  input->add_shape(tensor_bytes / static_cast<int64_t>(sizeof(float)));
  message.add_raw_input_contents(std::string(tensor_bytes, 'x'));
  return message;
}

// In slices of `slice_bytes`; 0: in one.
std::vector<Piece> Cut(const std::string& wire, size_t slice_bytes) {
  const Piece whole(reinterpret_cast<const std::byte*>(wire.data()), wire.size());
  std::vector<Piece> pieces;
  if (slice_bytes == 0) slice_bytes = wire.size();
  for (size_t at = 0; at < wire.size(); at += slice_bytes) {
    pieces.push_back(whole.subspan(at, slice_bytes));
  }
  return pieces;
}

std::shared_ptr<const ModelVersion> VersionOf(int64_t tensor_bytes) {
  auto version = std::make_shared<ModelVersion>();
  version->model = "resnet18";
  version->number = 1;
  version->weights_id = std::string(32, 'a');
  const int64_t columns = tensor_bytes / static_cast<int64_t>(sizeof(float));
  version->signature.inputs = {{"input", DType::kFloat32, {columns}}};
  version->signature.outputs = {{"output", DType::kFloat32, {columns}}};
  return version;
}

// From the message's slices to a request that the batching takes; the tensor is not copied.
void DecodeAndPrepare(benchmark::State& state) {
  const int64_t tensor_bytes = state.range(0);
  const auto slice_bytes = static_cast<size_t>(state.range(1));
  const std::string wire = RequestMessage(tensor_bytes).SerializeAsString();
  const std::vector<Piece> pieces = Cut(wire, slice_bytes);
  const auto version = VersionOf(tensor_bytes);
  const SharedMemoryRegions regions(nullptr);
  const TimePoint now = Clock::Real()->Now();
  for (auto _ : state) {
    auto decoded = DecodeInfer(pieces);
    auto prepared =
        PrepareInfer(*std::move(decoded), nullptr, version, regions, now, TimePoint::max());
    if (!prepared.ok()) state.SkipWithError(std::string(prepared.status().message()).c_str());
    benchmark::DoNotOptimize(prepared);
  }
  state.SetLabel(absl::StrCat("slices: ", pieces.size()));
}

void ProtobufDecode(benchmark::State& state) {
  const std::string wire = RequestMessage(state.range(0)).SerializeAsString();
  for (auto _ : state) {
    inference::ModelInferRequest message;
    benchmark::DoNotOptimize(message.ParseFromString(wire));
  }
}

void Encode(benchmark::State& state) {
  const int64_t tensor_bytes = state.range(0);
  const auto memory = std::make_shared<std::vector<std::byte>>(tensor_bytes);
  const InferResponse response{VersionOf(tensor_bytes),
                               {{DType::kFloat32,
                                 {1, tensor_bytes / static_cast<int64_t>(sizeof(float))},
                                 absl::MakeSpan(*memory),
                                 memory}}};
  const AnswerFormat format{.id = "1234", .outputs = {}, .raw = true, .mark_final = false};
  for (auto _ : state) {
    auto answer = EncodeInfer(response, format);
    if (!answer.ok()) state.SkipWithError(std::string(answer.status().message()).c_str());
    benchmark::DoNotOptimize(answer);
  }
}

void ProtobufEncode(benchmark::State& state) {
  const std::string tensor(state.range(0), 'x');
  for (auto _ : state) {
    inference::ModelInferResponse message;
    message.set_model_name("resnet18");
    message.set_model_version("1");
    message.set_id("1234");
    (*message.mutable_parameters())["weights_id"].set_string_param(std::string(32, 'a'));
    auto* output = message.add_outputs();
    output->set_name("output");
    output->set_datatype("FP32");
    output->add_shape(1);
    output->add_shape(state.range(0) / static_cast<int64_t>(sizeof(float)));
    message.add_raw_output_contents(tensor);
    benchmark::DoNotOptimize(message.SerializeAsString());
  }
}

void Sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgName("bytes");
  for (const int64_t bytes : kTensorBytes) benchmark->Arg(bytes);
}

void SizesAndSlices(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"bytes", "slice"});
  for (const int64_t bytes : kTensorBytes) {
    benchmark->Args({bytes, 0});
    if (bytes > static_cast<int64_t>(kSliceBytes)) {
      benchmark->Args({bytes, static_cast<int64_t>(kSliceBytes)});
    }
  }
  // The header cut as well.
  benchmark->Args({64, 16});
}

BENCHMARK(DecodeAndPrepare)->Apply(SizesAndSlices);
BENCHMARK(ProtobufDecode)->Apply(Sizes);
BENCHMARK(Encode)->Apply(Sizes);
BENCHMARK(ProtobufEncode)->Apply(Sizes);

}  // namespace
}  // namespace sconce
