// What lies in a folder of weights, be it a model's or a numbered one in it: which file is meant,
// and what belongs to it. Pure functions of the file system, callable from any thread.

#ifndef SCONCE_SERVER_RELOAD_MODEL_FOLDER_H_
#define SCONCE_SERVER_RELOAD_MODEL_FOLDER_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/registry/model_config.h"
#include "server/reload/model_source.h"

namespace sconce {

inline constexpr char kGoldenFolder[] = "golden";

// Whether a folder of that name is a model's: letters, digits, '.', '_' and '-', not hidden.
bool IsModelName(absl::string_view name);
// What programs hide: dot files, and what is not there before it is renamed.
bool IsHidden(absl::string_view name);

// Whether the name ends like that of a weights file.
bool HasWeightsExtension(absl::string_view name);

// Names of the entries, sorted. A listing that breaks off is an error and not a short listing.
absl::StatusOr<std::vector<std::string>> ListFolder(const std::string& folder);

// Some of the names, for a message.
std::string NameSome(const std::vector<std::string>& names);

// Whether a file of that name is a model's program rather than its weights.
bool IsProgramName(const std::string& name, const ModelConfig& config);

// Adds the program in `folder`, whose entries are `entries`, to `source`: the file that the
// configuration names, or the one that has a program's name. Left alone where there is none.
absl::Status ObserveProgram(const std::vector<std::string>& entries, const std::string& folder,
                            const ModelConfig& config, ModelSource* source);

// Adds the weights in `folder`, whose entries are `entries`, to `source`, and what a Hugging Face
// folder says of them. A program that `source` has is its own weights where there are no others.
// NOT_FOUND: there are none yet.
absl::Status ObserveWeights(const std::vector<std::string>& entries, const std::string& folder,
                            const ModelConfig& config, ModelSource* source);

// Adds what lies in `folder`/golden, if that is there.
absl::Status ObserveGolden(const std::string& folder, ModelSource* source);

// The numbered ones among the entries of a model's folder.
struct NumberedFolders {
  std::map<int64_t, std::string> names;
  // Entries that look like one and are none, with the reason.
  std::map<std::string, std::string> ignored = {};
};
NumberedFolders FindNumberedFolders(const std::vector<std::string>& entries,
                                    const std::string& folder);

// Names of files in a model's folder that look like its weights: an error beside numbered folders.
std::vector<std::string> FindWeightsFiles(const std::vector<std::string>& entries,
                                          const std::string& folder, const ModelConfig& config);

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_MODEL_FOLDER_H_
