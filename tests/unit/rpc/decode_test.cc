#include "server/rpc/decode.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/stubs/logging.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "server/rpc/contents.h"
#include "tests/unit/rpc/wire_pieces.h"

namespace sconce {
namespace {

inference::ModelInferRequest RawRequest() {
  inference::ModelInferRequest request;
  request.set_model_name("affine");
  request.set_model_version("7");
  request.set_id("id-1");
  (*request.mutable_parameters())["timeout"].set_int64_param(1000);
  for (const char* name : {"a", "b"}) {
    auto* input = request.add_inputs();
    input->set_name(name);
    input->set_datatype("FP32");
    input->add_shape(300);
    input->add_shape(2);
    (*input->mutable_parameters())["note"].set_string_param("x");
  }
  request.add_outputs()->set_name("y");
  request.add_raw_input_contents("first tensor");
  request.add_raw_input_contents("");
  return request;
}

inference::ModelInferRequest TypedRequest() {
  inference::ModelInferRequest request = RawRequest();
  request.clear_raw_input_contents();
  for (float value : {1.5f, -2.0f}) {
    request.mutable_inputs(0)->mutable_contents()->add_fp32_contents(value);
  }
  for (int value : {1, -1, 300}) {
    request.mutable_inputs(1)->mutable_contents()->add_int_contents(value);
  }
  return request;
}

std::string Header(const DecodedInfer& decoded) {
  std::string header;
  google::protobuf::io::StringOutputStream stream(&header);
  google::protobuf::io::CodedOutputStream coded(&stream);
  coded.SetSerializationDeterministic(true);  // maps have no order of their own
  EXPECT_TRUE(decoded.header.SerializeToCodedStream(&coded));
  coded.Trim();
  return header;
}

void ExpectSame(const DecodedInfer& a, const DecodedInfer& b) {
  EXPECT_EQ(Header(a), Header(b));
  ASSERT_EQ(a.raw.size(), b.raw.size());
  for (size_t i = 0; i < a.raw.size(); ++i) EXPECT_EQ(Joined(a.raw[i]), Joined(b.raw[i]));
  ASSERT_EQ(a.contents.size(), b.contents.size());
  for (size_t i = 0; i < a.contents.size(); ++i) {
    ASSERT_EQ(a.contents[i].has_value(), b.contents[i].has_value());
    if (a.contents[i]) {
      EXPECT_EQ(Joined(*a.contents[i]), Joined(*b.contents[i]));
    }
  }
}

TEST(DecodeTest, TensorDataStaysWhereItLies) {
  const std::string message = RawRequest().SerializeAsString();
  const WirePieces wire(message);
  const auto decoded = DecodeInfer(wire.pieces());
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->header.model_name(), "affine");
  EXPECT_EQ(decoded->header.id(), "id-1");
  ASSERT_EQ(decoded->header.inputs_size(), 2);
  EXPECT_EQ(decoded->header.inputs(0).shape(0), 300);
  EXPECT_EQ(decoded->header.outputs(0).name(), "y");
  ASSERT_EQ(decoded->raw.size(), 2u);
  ASSERT_EQ(decoded->raw[0].pieces.size(), 1u);
  const auto& piece = decoded->raw[0].pieces[0];
  EXPECT_EQ(Joined(decoded->raw[0]), "first tensor");
  EXPECT_GE(piece.data(), wire.pieces()[0].data());
  EXPECT_LE(piece.data() + piece.size(), wire.pieces()[0].data() + wire.pieces()[0].size());
  EXPECT_TRUE(decoded->raw[1].pieces.empty());
  EXPECT_FALSE(decoded->contents[0].has_value());
}

TEST(DecodeTest, EveryCutIntoTwoAndThreeSlicesDecodesTheSame) {
  for (const auto& request : {RawRequest(), TypedRequest()}) {
    const std::string message = request.SerializeAsString();
    const WirePieces whole(message);
    const auto expected = DecodeInfer(whole.pieces());
    ASSERT_TRUE(expected.ok()) << expected.status();
    for (size_t first = 0; first <= message.size(); ++first) {
      for (size_t second = first; second <= message.size(); ++second) {
        const WirePieces wire(message, {first, second});
        const auto decoded = DecodeInfer(wire.pieces());
        ASSERT_TRUE(decoded.ok()) << first << " " << second << " " << decoded.status();
        ExpectSame(*decoded, *expected);
        for (const size_t i : {0, 1}) {
          if (!expected->contents[i]) continue;
          const DType dtype = i == 0 ? DType::kFloat32 : DType::kInt32;
          const int64_t count = i == 0 ? 2 : 3;
          EXPECT_EQ(*DecodeContents(*decoded->contents[i], dtype, count, "x"),
                    *DecodeContents(*expected->contents[i], dtype, count, "x"));
        }
      }
    }
  }
}

TEST(DecodeTest, EveryTruncationIsAnErrorOrAShorterMessage) {
  const std::string message = RawRequest().SerializeAsString();
  int errors = 0;
  for (size_t size = 0; size < message.size(); ++size) {
    const WirePieces wire(std::string_view(message).substr(0, size));
    const auto decoded = DecodeInfer(wire.pieces());
    if (!decoded.ok()) {
      EXPECT_EQ(decoded.status().code(), absl::StatusCode::kInvalidArgument);
      ++errors;
      continue;
    }
    // Cut between two fields: then protobuf takes it too.
    inference::ModelInferRequest parsed;
    EXPECT_TRUE(parsed.ParseFromString(message.substr(0, size)));
    EXPECT_LT(decoded->raw.size(), 2u);
  }
  EXPECT_GT(errors, 50);
}

TEST(DecodeTest, EveryChangedByteDecodesOrFailsAndNothingElse) {
  const google::protobuf::LogSilencer silencer;
  for (const auto& request : {RawRequest(), TypedRequest()}) {
    const std::string message = request.SerializeAsString();
    for (size_t at = 0; at < message.size(); ++at) {
      for (const int change : {0x01, 0x02, 0x04, 0x7f, 0x80, 0xff}) {
        std::string changed = message;
        changed[at] = static_cast<char>(changed[at] ^ change);
        const WirePieces wire(changed, {changed.size() / 3});
        const auto decoded = DecodeInfer(wire.pieces());
        if (!decoded.ok()) continue;
        EXPECT_EQ(static_cast<size_t>(decoded->header.inputs_size()), decoded->contents.size());
        for (const auto& contents : decoded->contents) {
          if (!contents) continue;
          for (const DType dtype : {DType::kFloat32, DType::kInt32, DType::kFloat64}) {
            (void)DecodeContents(*contents, dtype, 3, "x");
          }
        }
      }
    }
  }
}

TEST(DecodeTest, LengthsBeyondTheMessageAreRefused) {
  for (const uint32_t field : {1u, 5u, 6u, 7u, 99u}) {
    for (const uint64_t length : {uint64_t{5}, uint64_t{1} << 31, uint64_t{1} << 63,
                                  std::numeric_limits<uint64_t>::max()}) {
      std::string message;
      AppendTag({field, WireType::kBytes}, &message);
      AppendVarint(length, &message);
      message += "abcd";
      const WirePieces wire(message);
      EXPECT_EQ(DecodeInfer(wire.pieces()).status().code(), absl::StatusCode::kInvalidArgument);
    }
  }
}

TEST(DecodeTest, GroupsFieldZeroAndLongVarintsAreRefused) {
  for (const std::string& message :
       {std::string("\x0b"), std::string("\x0c"), std::string("\x02\x00", 2),
        std::string("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"),
        std::string("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")}) {
    const WirePieces wire(message);
    EXPECT_FALSE(DecodeInfer(wire.pieces()).ok());
  }
}

TEST(DecodeTest, UnknownFieldsAreSkipped) {
  std::string message = RawRequest().SerializeAsString();
  AppendTag({500, WireType::kFixed64}, &message);
  message += "12345678";
  AppendTag({501, WireType::kBytes}, &message);
  AppendVarint(3, &message);
  message += "abc";
  const WirePieces wire(message);
  const auto decoded = DecodeInfer(wire.pieces());
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->header.model_name(), "affine");
}

TEST(DecodeTest, NumbersOfTensorsAndSizeOfTheHeaderAreBounded) {
  inference::ModelInferRequest request;
  for (size_t i = 0; i <= kMaxTensors; ++i) request.add_raw_input_contents();
  EXPECT_FALSE(DecodeInfer(WirePieces(request.SerializeAsString()).pieces()).ok());
  request.clear_raw_input_contents();
  for (size_t i = 0; i <= kMaxTensors; ++i) request.add_inputs();
  EXPECT_FALSE(DecodeInfer(WirePieces(request.SerializeAsString()).pieces()).ok());
  request.clear_inputs();
  for (size_t i = 0; i <= kMaxTensors; ++i) request.add_outputs();
  EXPECT_FALSE(DecodeInfer(WirePieces(request.SerializeAsString()).pieces()).ok());
  request.clear_outputs();
  request.set_id(std::string(kMaxHeaderBytes, 'x'));
  EXPECT_FALSE(DecodeInfer(WirePieces(request.SerializeAsString()).pieces()).ok());
  request.clear_id();
  request.add_inputs()->set_name(std::string(kMaxHeaderBytes + 1, 'x'));
  EXPECT_FALSE(DecodeInfer(WirePieces(request.SerializeAsString()).pieces()).ok());
}

TEST(DecodeTest, NamesThatAreNotUtf8AreRefused) {
  const google::protobuf::LogSilencer silencer;
  std::string message = RawRequest().SerializeAsString();
  message[message.find("affine")] = '\xff';
  EXPECT_FALSE(DecodeInfer(WirePieces(message).pieces()).ok());
}

TEST(DecodeTest, AnInputThatComesInTwoPartsKeepsBothContents) {
  inference::InferTensorContents first, second;
  first.add_fp32_contents(1);
  second.add_fp32_contents(2);
  std::string input;
  for (const auto* part : {&first, &second}) {
    AppendTag({5, WireType::kBytes}, &input);
    AppendVarint(part->ByteSizeLong(), &input);
    input += part->SerializeAsString();
  }
  std::string message;
  AppendTag({5, WireType::kBytes}, &message);
  AppendVarint(input.size(), &message);
  message += input;
  const WirePieces wire(message);
  const auto decoded = DecodeInfer(wire.pieces());
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  const auto bytes = DecodeContents(*decoded->contents[0], DType::kFloat32, 2, "x");
  ASSERT_TRUE(bytes.ok()) << bytes.status();
}

}  // namespace
}  // namespace sconce
