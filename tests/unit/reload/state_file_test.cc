#include "server/reload/state_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/temp_dir.h"

namespace sconce {
namespace {

using testing::HasSubstr;

std::string Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::string> Names(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    names.push_back(entry.path().filename().string());
  }
  return names;
}

SavedState Example() {
  SavedModel tried;
  tried.last_number = int64_t{1} << 53;
  tried.last_weights_id = "0123456789abcdef0123456789abcdef";
  tried.refused = {{"aa", "expected \"a\"\n\xc3\xa9, got \x01", 9}, {"bb", "", 0}};
  SavedModel pinned;
  pinned.last_number = 3;
  pinned.pinned = true;
  SavedModel others;
  others.unloaded = true;
  others.loaded_on_command = true;
  return {{"tried", tried}, {"pinned", pinned}, {"others", others}, {"a\"b", {}}};
}

TEST(StateFileTest, WhatIsWrittenIsRead) {
  TempDir dir;
  const std::string path = dir.Path("state.json");
  for (const SavedState& state : {Example(), SavedState()}) {
    ASSERT_TRUE(WriteStateFile(path, state).ok());
    const auto read = ReadStateFile(path);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, state);
  }
  EXPECT_THAT(Names(dir.path()), testing::ElementsAre("state.json"));
}

TEST(StateFileTest, NoFileIsAnEmptyState) {
  TempDir dir;
  const auto read = ReadStateFile(dir.Path("state.json"));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE(read->empty());
}

TEST(StateFileTest, OnlyItsOwnerMayReadIt) {
  TempDir dir;
  const std::string path = dir.Path("state.json");
  dir.Write("state.json", "old");
  std::filesystem::permissions(path, std::filesystem::perms::all);
  const mode_t before = umask(0);
  ASSERT_TRUE(WriteStateFile(path, Example()).ok());
  umask(before);
  struct stat s;
  ASSERT_EQ(stat(path.c_str(), &s), 0);
  EXPECT_EQ(s.st_mode & 07777, 0600u);
}

TEST(StateFileTest, TextThatIsNoUtf8IsWrittenAllTheSame) {
  TempDir dir;
  SavedState state;
  state["m"].refused = {{"aa", "file \xff", 3}};
  ASSERT_TRUE(WriteStateFile(dir.Path("state.json"), state).ok());
  const auto read = ReadStateFile(dir.Path("state.json"));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->at("m").refused[0].reason, "file \xef\xbf\xbd");
}

TEST(StateFileTest, WhatIsCutOffAnywhereIsAnError) {
  TempDir dir;
  ASSERT_TRUE(WriteStateFile(dir.Path("whole.json"), Example()).ok());
  const std::string whole = Read(dir.Path("whole.json"));
  // Without the newline at its end it is still whole.
  for (size_t size = 0; size + 1 < whole.size(); ++size) {
    dir.Write("state.json", whole.substr(0, size));
    const auto read = ReadStateFile(dir.Path("state.json"));
    ASSERT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument) << size;
    EXPECT_THAT(std::string(read.status().message()), HasSubstr("state.json: "));
  }
}

TEST(StateFileTest, WhatTheServerCannotHaveWrittenIsAnError) {
  const auto with = [](const std::string& models) {
    return "{\"format\": 1, \"models\": {" + models + "}}";
  };
  std::string refusals;
  for (int i = 0; i < 17; ++i) refusals += (i == 0 ? "" : ",") + std::string("{\"source\": \"\"}");
  const std::vector<std::pair<std::string, std::string>> mistakes = {
      {"null", "expected an object"},
      {"[]", "expected an object"},
      {"{}", "format: expected 1"},
      {"{\"format\": 2, \"models\": {}}", "format: expected at most 1, got 2"},
      {"{\"format\": 0, \"models\": {}}", "format: expected 1"},
      {"{\"format\": \"1\", \"models\": {}}", "format: "},
      {"{\"format\": 1}", "models: expected an object, got none"},
      {"{\"format\": 1, \"models\": []}", "models: "},
      {"{\"format\": 1, \"models\": {}, \"x\": 1}", "no other members"},
      {with("\"m\": 1"), "m: expected an object"},
      {with("\"a\\u001bb\": 1"), "a\\x1bb: expected an object"},
      {with("\"m\": {\"last_number\": -1}"), "m: last_number: "},
      {with("\"m\": {\"last_number\": 1.5}"), "last_number"},
      {with("\"m\": {\"last_number\": 9007199254740993}"), "at most 9007199254740992"},
      {with("\"m\": {\"last_number\": 18446744073709551616}"), "last_number"},
      {with("\"m\": {\"last_weights_id\": 5}"), "m: last_weights_id: "},
      {with("\"m\": {\"pinned\": 1}"), "m: pinned: "},
      {with("\"m\": {\"pinnned\": true}"), "m: expected no other members"},
      {with("\"m\": {\"refused\": {}}"), "m: refused: "},
      {with("\"m\": {\"refused\": [" + refusals + "]}"), "refused: expected at most 16, got 17"},
      {with("\"m\": {\"refused\": [1]}"), "m: refused: expected an object"},
      {with("\"m\": {\"refused\": [{\"status_code\": 17}]}"), "status_code: expected at most 16"},
      {with("\"m\": {\"refused\": [{\"source\": null}]}"), "source: "},
      {with("\"m\": {}") + "{}", "parse error"},
      {with("\"m\": {\"last_weights_id\": \"\xff\"}"), "parse error"},
      {with("\"m\": [[[[[]]]]]"), "nested too deeply"},
      {std::string(2 << 20, '['), "parse error"},
      {std::string((16 << 20) + 1, ' '), "expected at most 16777216 bytes"},
  };
  TempDir dir;
  for (const auto& [text, what] : mistakes) {
    dir.Write("state.json", text);
    const auto read = ReadStateFile(dir.Path("state.json"));
    ASSERT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument) << text.substr(0, 200);
    EXPECT_THAT(std::string(read.status().message()), HasSubstr(what));
  }
}

TEST(StateFileTest, WhatCannotBeReadIsUnavailable) {
  TempDir dir;
  dir.MakeFolder("state.json");
  EXPECT_EQ(ReadStateFile(dir.Path("state.json")).status().code(), absl::StatusCode::kUnavailable);
}

// A limit on the size of files stands for a full disk: the write is short, the next one fails.
TEST(StateFileTest, FullDiskLeavesTheOldFileWhole) {
  TempDir dir;
  const std::string path = dir.Path("state.json");
  SavedState before;
  before["m"].last_number = 7;
  ASSERT_TRUE(WriteStateFile(path, before).ok());

  const auto handler = signal(SIGXFSZ, SIG_IGN);
  struct rlimit old;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  struct rlimit limit = old;
  limit.rlim_cur = 100;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  const absl::Status status = WriteStateFile(path, Example());
  setrlimit(RLIMIT_FSIZE, &old);
  signal(SIGXFSZ, handler);

  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("cannot write the file"));
  EXPECT_THAT(Names(dir.path()), testing::ElementsAre("state.json"));
  EXPECT_EQ(*ReadStateFile(path), before);
  EXPECT_TRUE(WriteStateFile(path, Example()).ok());
}

TEST(StateFileTest, FolderThatIsNotThereIsUnavailable) {
  TempDir dir;
  const absl::Status status = WriteStateFile(dir.Path("none/state.json"), Example());
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("none: cannot open the folder"));
}

TEST(StateFileTest, FileThatCannotBeReplacedLeavesNothingBehind) {
  TempDir dir;
  dir.Write("state.json/file", "");
  EXPECT_EQ(WriteStateFile(dir.Path("state.json"), Example()).code(),
            absl::StatusCode::kUnavailable);
  EXPECT_THAT(Names(dir.path()), testing::ElementsAre("state.json"));
}

TEST(StateFileTest, WhatACrashLeftIsWrittenOver) {
  TempDir dir;
  dir.Write("elsewhere", "untouched");
  dir.Link("elsewhere", "state.json.tmp");
  ASSERT_TRUE(WriteStateFile(dir.Path("state.json"), Example()).ok());
  EXPECT_EQ(Read(dir.Path("elsewhere")), "untouched");
  EXPECT_EQ(*ReadStateFile(dir.Path("state.json")), Example());
}

}  // namespace
}  // namespace sconce
