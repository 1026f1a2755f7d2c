// Words that the parts of the reloader share. Pure functions.

#ifndef SCONCE_SERVER_RELOAD_RELOADER_TEXT_H_
#define SCONCE_SERVER_RELOAD_RELOADER_TEXT_H_

#include <chrono>
#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/base/printable.h"
#include "server/reload/repository_scan.h"

namespace sconce {

inline std::string Text(const absl::Status& status) { return std::string(status.message()); }

inline std::string FileNameOf(const ModelSource& source) {
  if (!source.weights.has_value()) return "the weights";
  return Printable(std::filesystem::path(source.weights->path).filename().string());
}

inline absl::Status NoSuchModel(const std::string& name) {
  return absl::NotFoundError(absl::StrCat("the repository has no model '", Printable(name), "'"));
}

inline absl::Status ShuttingDown() { return absl::UnavailableError("the server is shutting down"); }

inline std::chrono::system_clock::time_point WallNow() { return std::chrono::system_clock::now(); }

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_RELOADER_TEXT_H_
