#include "server/reload/state_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "nlohmann/json.hpp"
#include "server/base/file.h"
#include "server/base/printable.h"
#include "server/registry/model_config.h"

namespace sconce {
namespace {

using Json = nlohmann::json;

constexpr int kFormat = 1;
constexpr int64_t kMaxBytes = int64_t{16} << 20;
// The file's own: {"models": {NAME: {"refused": [{...
constexpr int kMaxDepth = 5;
// absl::StatusCode::kUnauthenticated.
constexpr int kLastStatusCode = 16;

// One JSON object, whose members are asked for one by one; those that nobody asked for are errors.
class Members {
 public:
  Members(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object_.is_object()) Fail("expected an object");
  }

  const Json* Get(const char* name, Json::value_t type) {
    if (!status_.ok()) return nullptr;
    const auto member = object_.find(name);
    if (member == object_.end()) return nullptr;
    ++used_;
    if (member->type() == type) return &*member;
    Fail(absl::StrCat(name, ": expected another type, got ", member->type_name()));
    return nullptr;
  }

  void Read(const char* name, bool* out) {
    if (const Json* value = Get(name, Json::value_t::boolean)) *out = value->get<bool>();
  }
  void Read(const char* name, std::string* out) {
    if (const Json* value = Get(name, Json::value_t::string)) *out = value->get<std::string>();
  }
  void Read(const char* name, int64_t max, int64_t* out) {
    const Json* value = Get(name, Json::value_t::number_unsigned);
    if (value == nullptr) return;
    const auto number = value->get<uint64_t>();
    if (number > static_cast<uint64_t>(max)) {
      Fail(absl::StrCat(name, ": expected at most ", max, ", got ", number));
    } else {
      *out = static_cast<int64_t>(number);
    }
  }

  void Fail(const std::string& what) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(where_, what));
  }

  // Of all that was read.
  absl::Status Finish() {
    if (status_.ok() && used_ != object_.size()) Fail("expected no other members than are known");
    return status_;
  }

 private:
  const Json& object_;
  const std::string where_;
  size_t used_ = 0;
  absl::Status status_;
};

absl::StatusOr<SavedModel> ReadModel(const Json& json, const std::string& where) {
  SavedModel model;
  Members members(json, where);
  members.Read("last_number", kMaxVersionNumber, &model.last_number);
  members.Read("last_weights_id", &model.last_weights_id);
  members.Read("pinned", &model.pinned);
  members.Read("unloaded", &model.unloaded);
  members.Read("loaded_on_command", &model.loaded_on_command);
  const Json* refused = members.Get("refused", Json::value_t::array);
  if (refused != nullptr && refused->size() > SavedModel::kMostRefusals) {
    members.Fail(absl::StrCat("refused: expected at most ", SavedModel::kMostRefusals, ", got ",
                              refused->size()));
  } else if (refused != nullptr) {
    for (const Json& element : *refused) {
      SavedModel::Refusal& refusal = model.refused.emplace_back();
      Members inner(element, absl::StrCat(where, "refused: "));
      int64_t code = 0;
      inner.Read("source", &refusal.source);
      inner.Read("reason", &refusal.reason);
      inner.Read("status_code", kLastStatusCode, &code);
      refusal.status_code = static_cast<int>(code);
      if (absl::Status status = inner.Finish(); !status.ok()) return status;
    }
  }
  if (absl::Status status = members.Finish(); !status.ok()) return status;
  return model;
}

absl::StatusOr<SavedState> Parse(const std::string& text, const std::string& where) {
  // Before anything is kept that is deeper than what is written here.
  bool too_deep = false;
  Json json;
  try {
    json = Json::parse(text, [&too_deep](int depth, Json::parse_event_t, const Json&) {
      too_deep = too_deep || depth > kMaxDepth;
      return !too_deep;
    });
  } catch (const Json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(where, Printable(error.what())));
  }
  if (too_deep) return absl::InvalidArgumentError(absl::StrCat(where, "is nested too deeply"));

  SavedState state;
  Members members(json, where);
  int64_t format = 0;
  members.Read("format", kFormat, &format);
  const Json* models = members.Get("models", Json::value_t::object);
  if (format != kFormat) members.Fail(absl::StrCat("format: expected ", kFormat));
  if (models == nullptr) members.Fail("models: expected an object, got none");
  if (absl::Status status = members.Finish(); !status.ok()) return status;
  for (const auto& [name, value] : models->items()) {
    absl::StatusOr<SavedModel> model = ReadModel(value, absl::StrCat(where, Printable(name), ": "));
    if (!model.ok()) return model.status();
    state.emplace(name, *std::move(model));
  }
  return state;
}

std::string Format(const SavedState& state) {
  Json models = Json::object();
  for (const auto& [name, model] : state) {
    Json refused = Json::array();
    for (const SavedModel::Refusal& refusal : model.refused) {
      refused.push_back({{"source", refusal.source},
                         {"reason", refusal.reason},
                         {"status_code", refusal.status_code}});
    }
    models[name] = {{"last_number", static_cast<uint64_t>(model.last_number)},
                    {"last_weights_id", model.last_weights_id},
                    {"pinned", model.pinned},
                    {"unloaded", model.unloaded},
                    {"loaded_on_command", model.loaded_on_command},
                    {"refused", std::move(refused)}};
  }
  const Json json = {{"format", static_cast<uint64_t>(kFormat)}, {"models", std::move(models)}};
  return absl::StrCat(json.dump(1, ' ', false, Json::error_handler_t::replace), "\n");
}

// A file descriptor, closed in the end.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int get() const { return fd_; }
  // What close() says: some file systems tell only then that a write failed.
  bool Close() { return ::close(std::exchange(fd_, -1)) == 0; }

 private:
  int fd_;
};

bool WriteAll(int fd, const std::string& text) {
  for (size_t done = 0; done < text.size();) {
    const ssize_t written = ::write(fd, text.data() + done, text.size() - done);
    if (written < 0 && errno != EINTR) return false;
    if (written > 0) done += static_cast<size_t>(written);
  }
  return true;
}

}  // namespace

absl::StatusOr<SavedState> ReadStateFile(const std::string& path) {
  const auto unavailable = [](const absl::Status& status) {
    return absl::UnavailableError(status.message());
  };
  absl::StatusOr<File> file = File::Open(path);
  if (absl::IsNotFound(file.status())) return SavedState();
  if (!file.ok()) return unavailable(file.status());
  const std::string where = absl::StrCat(Printable(path), ": ");
  if (file->size_bytes() > kMaxBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, "expected at most ", kMaxBytes, " bytes, got ", file->size_bytes()));
  }
  std::string text(static_cast<size_t>(file->size_bytes()), '\0');
  const absl::Status status =
      file->ReadAt(0, absl::MakeSpan(reinterpret_cast<std::byte*>(text.data()), text.size()));
  if (!status.ok()) return unavailable(status);
  return Parse(text, where);
}

absl::Status WriteStateFile(const std::string& path, const SavedState& state) {
  const std::string text = Format(state);
  const std::filesystem::path parent = std::filesystem::path(path).parent_path();
  const std::string folder = parent.empty() ? std::string(".") : parent.string();
  const std::string beside = absl::StrCat(path, ".tmp");

  const auto failed = [&beside](const std::string& at, const char* action) {
    const int error = errno;
    ::unlink(beside.c_str());
    return absl::UnavailableError(ErrnoStatus(error, at, action).message());
  };
  // What a write that a crash ended left behind; a link is not followed.
  ::unlink(beside.c_str());
  const Descriptor opened_folder(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (opened_folder.get() < 0) return failed(folder, "open the folder");
  Descriptor file(::open(beside.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (file.get() < 0) return failed(beside, "create the file");
  if (!WriteAll(file.get(), text)) return failed(beside, "write the file");
  if (::fsync(file.get()) != 0) return failed(beside, "bring the file to the disk");
  if (!file.Close()) return failed(beside, "write the file");
  if (::rename(beside.c_str(), path.c_str()) != 0) return failed(path, "replace the file");
  // EINVAL: a file system whose folders need none of this.
  if (::fsync(opened_folder.get()) != 0 && errno != EINVAL) {
    return failed(folder, "bring the folder to the disk");
  }
  return absl::OkStatus();
}

}  // namespace sconce
