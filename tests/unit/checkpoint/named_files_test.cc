// Checkpoints that name other files: the names are untrusted (case 42 of what a reader must refuse;
// CVE-2022-25882 and CVE-2024-27318, in which ONNX models read files elsewhere on the machine).

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/protobuf_builders.h"
#include "tests/unit/checkpoint/refusal.h"

namespace sconce {
namespace {

using namespace std::string_literals;

std::string OneTensor(std::string_view name) {
  return SafetensorsFile(
      R"({")" + std::string(name) + R"(":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})",
      FloatStorage());
}

// A folder "in" for the checkpoint, with links that lead out of it to what must not be read.
struct Folders {
  TempDir folder;
  Folders() {
    folder.Write("out/secret", OneTensor("w"));
    folder.Write("in/part", OneTensor("w"));
    folder.Write("in/deeper/part", OneTensor("w"));
    folder.Link("../out/secret", "in/link");
    folder.Link("../out", "in/folder_link");
    folder.Link("part", "in/link_inside");
    folder.Link("loop", "in/loop");
  }
  absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& name,
                                                   std::string_view bytes) const {
    folder.Write("in/" + name, bytes);
    return OpenCheckpoint(folder.Path("in/" + name));
  }
};

void ExpectError(const absl::Status& status, std::initializer_list<std::string_view> words) {
  ASSERT_FALSE(status.ok());
  const std::string message(status.message());
  for (const std::string_view word : words) {
    EXPECT_NE(message.find(word), std::string::npos) << "'" << word << "' in: " << message;
  }
}

std::string Index(std::string_view file, std::string_view tensor = "w") {
  return R"({"weight_map":{")" + std::string(tensor) + R"(":")" + std::string(file) + R"("}})";
}

TEST(ShardIndexTest, ShardsOutsideTheFolderAreRefused) {
  const Folders folders;
  EXPECT_TRUE(folders.Open("a.json", Index("part")).ok());
  EXPECT_TRUE(folders.Open("a.json", Index("link_inside")).ok());
  for (const char* name :
       {"../out/secret", "/etc/passwd", "deeper/../../out/secret", "deeper/part", "..", "",
        "folder_link/secret", "./part", R"(..\\out\\secret)", R"(part\u0000)"}) {
    SCOPED_TRACE(name);
    ExpectError(folders.Open("a.json", Index(name)).status(),
                {folders.folder.Path("in/a.json"), "expected a"});
  }
  ExpectError(folders.Open("a.json", Index("link")).status(),
              {folders.folder.Path("in/link"), "expected a file that stays in its folder",
               folders.folder.Path("out/secret")});
  ExpectError(folders.Open("a.json", Index("loop")).status(), {folders.folder.Path("in/loop")});
  ExpectError(folders.Open("a.json", Index("deeper")).status(), {"deeper", "file"});
}

TEST(ShardIndexTest, MissingShardsAndTensorsAreNamed) {
  const Folders folders;
  ExpectError(folders.Open("a.json", Index("gone")).status(), {folders.folder.Path("in/gone")});
  ExpectError(folders.Open("a.json", Index("part", "v")).status(), {"'v'", "part"});
}

TEST(ShardIndexTest, AnIndexIsVerifiedToo) {
  const TempDir folder;
  folder.Write("m/model-1.safetensors", OneTensor("w"));
  folder.Write("m/model.safetensors.index.json", Index("model-1.safetensors"));
  for (const char* path : {"m/model.safetensors.index.json", "m"}) {
    SCOPED_TRACE(path);
    folder.Remove("m/model.safetensors.index.json.sha256");
    ExpectVerified(folder, path, "m/model.safetensors.index.json", {"m/model-1.safetensors"});
  }
}

TEST(ShardIndexTest, IndexesThatAreNoneAreRefused) {
  const Folders folders;
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"{", "valid JSON"},
      {"{}", "weight_map"},
      {R"({"weight_map":[]})", "weight_map"},
      {R"({"weight_map":{}})", "empty"},
      {R"({"weight_map":{"w":1}})", "'w'"},
      {R"({"weight_map":{"w":{}}})", "'w'"},
      {R"({"weight_map":{"w":"part","w":"part"}})", "'w' twice"},
      {R"({"weight_map":{"w":"part"},"weight_map":{"w":"part"}})", "'weight_map' twice"},
      {R"({"x":)" + std::string(100'000, '['), "nested"},
  };
  for (const auto& [bytes, words] : cases) {
    SCOPED_TRACE(bytes.substr(0, 80));
    ExpectError(folders.Open("a.json", bytes).status(), {folders.folder.Path("in/a.json"), words});
  }
}

std::string ModelWith(std::string_view location, std::string_view offset = "0",
                      std::string_view length = "16") {
  return protobuf::OnnxModel(protobuf::Bytes(
      5, protobuf::OnnxTensor("w", 4, protobuf::OnnxExternal(location, offset, length))));
}

TEST(OnnxTest, AModelWithAllDataOutsideIsVerifiedToo) {
  const TempDir folder;
  folder.Write("m.data", FloatStorage());
  folder.Write("m.onnx", ModelWith("m.data"));
  ExpectVerified(folder, "m.onnx", "m.onnx", {"m.data"});
}

TEST(KnownAttacksTest, CVE202225882OnnxDataOutsideTheFolderIsRefused) {
  const Folders folders;
  EXPECT_TRUE(folders.Open("a.onnx", ModelWith("part")).ok());
  EXPECT_TRUE(folders.Open("a.onnx", ModelWith("deeper/part")).ok());
  for (const std::string& name : {"../out/secret"s, "/etc/passwd"s, "deeper/../../out/secret"s,
                                  ".."s, ""s, "..\\out"s, "part\0"s}) {
    SCOPED_TRACE(name);
    ExpectError(folders.Open("a.onnx", ModelWith(name)).status(),
                {folders.folder.Path("in/a.onnx"), "tensor 'w'", "external data", "expected a"});
  }
}

TEST(KnownAttacksTest, CVE202427318OnnxLinksOutOfTheFolderAreRefused) {
  const Folders folders;
  for (const char* name : {"link", "folder_link/secret"}) {
    SCOPED_TRACE(name);
    ExpectError(folders.Open("a.onnx", ModelWith(name)).status(),
                {"tensor 'w'", "external data", "expected a file that stays in its folder"});
  }
}

TEST(OnnxHostileTest, ExternalDataOutsideItsFileIsRefused) {
  const Folders folders;
  const auto size = std::filesystem::file_size(folders.folder.Path("in/part"));
  ExpectError(folders.Open("a.onnx", ModelWith("part", std::to_string(size - 15))).status(),
              {"tensor 'w'", "expected external data inside", std::to_string(size)});
  for (const char* bad : {"-1", "9223372036854775807", "18446744073709551616", "1e3", "x", ""}) {
    SCOPED_TRACE(bad);
    ExpectError(folders.Open("a.onnx", ModelWith("part", bad)).status(), {"expected"});
    ExpectError(folders.Open("a.onnx", ModelWith("part", "0", bad)).status(), {"expected"});
  }
  ExpectError(folders.Open("a.onnx", ModelWith("part", "0", "15")).status(),
              {"tensor 'w'", "expected 16 bytes for its shape and type, got 15"});
}

}  // namespace
}  // namespace sconce
