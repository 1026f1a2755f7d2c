#include "server/tools/ctl_text.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "server/base/printable.h"
#include "server/tools/text.h"

namespace sconce::tools {
namespace {

using admin::v1::AnsweringVersion;
using admin::v1::ModelStatus;
using admin::v1::PreparedDeviation;
using admin::v1::Version;

constexpr size_t kColumnGap = 2;
constexpr size_t kMaxErrorBytes = 2000;
constexpr char kNothing[] = "-";

// "5s", "3m", "2h", "4d": how long ago, by this machine's clock.
std::string AgeText(const google::protobuf::Timestamp& since,
                    std::chrono::system_clock::time_point now) {
  const int64_t seconds = std::max<int64_t>(
      0, std::chrono::duration_cast<std::chrono::seconds>(now.time_since_epoch()).count() -
             since.seconds());
  if (seconds < 60) return absl::StrCat(seconds, "s");
  if (seconds < 3600) return absl::StrCat(seconds / 60, "m");
  if (seconds < 86400) return absl::StrCat(seconds / 3600, "h");
  return absl::StrCat(seconds / 86400, "d");
}

// What a server says may have several lines, such as PyTorch's words about names and shapes.
std::string PrintableLines(const std::string& text, size_t indent) {
  std::vector<std::string> lines;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const absl::string_view words = absl::StripLeadingAsciiWhitespace(line);
    lines.push_back(absl::StrCat(std::string(lines.empty() ? 0 : indent, ' '),
                                 std::string(2 * (line.size() - words.size()), ' '),
                                 Printable({words.data(), words.size()}, kMaxErrorBytes)));
  }
  return absl::StrJoin(lines, "\n");
}

Style StyleOf(const std::string& state) {
  if (state == "published") return Style::kGood;
  if (state == "rejected") return Style::kBad;
  if (state == "retained" || state == "retired") return Style::kDim;
  return Style::kWarning;  // it is on its way, or waits for somebody
}

struct Row {
  std::vector<std::string> cells;
  std::string state;
  std::string error;
};

Row RowOf(const Version& version, std::chrono::system_clock::time_point now) {
  const std::string& path = version.weights_path();
  const bool is_known = !version.weights_id().empty();
  return {{version.number() == 0 ? kNothing : absl::StrCat(version.number()), version.state(),
           AgeText(version.since(), now), is_known ? Printable(version.weights_id()) : kNothing,
           version.weights_bytes() == 0 ? kNothing : BytesText(version.weights_bytes()),
           is_known ? BytesText(version.shared_bytes()) : kNothing,
           path.empty() ? kNothing : Printable(path.substr(path.find_last_of('/') + 1))},
          version.state(),
          version.error()};
}

// "on cuda:0 prepared: outputs differ by at most 0.0021, 0.8% of the largest".
std::string PreparedText(const PreparedDeviation& prepared) {
  const std::string head = absl::StrCat("on ", Printable(prepared.device()), " prepared: ");
  if (!prepared.not_measured().empty()) {
    return absl::StrCat(head, "not compared, ", Printable(prepared.not_measured(), kMaxErrorBytes));
  }
  return absl::StrCat(head, "outputs differ by at most ", NumberText(prepared.absolute()), ", ",
                      NumberText(prepared.relative()), " of the largest");
}

std::string TableText(const ModelStatus& model, std::chrono::system_clock::time_point now,
                      const Console& console) {
  if (model.versions().empty()) return "";
  const std::vector<std::string> head = {"version", "state",  "since", "weights id",
                                         "size",    "shared", "file"};
  std::vector<Row> rows;
  std::vector<std::vector<std::string>> prepared;  // by row
  std::vector<size_t> widths;
  for (const std::string& cell : head) widths.push_back(DisplayWidth(cell));
  for (auto version = model.versions().rbegin(); version != model.versions().rend(); ++version) {
    rows.push_back(RowOf(*version, now));
    prepared.emplace_back();
    for (const PreparedDeviation& deviation : version->prepared()) {
      prepared.back().push_back(PreparedText(deviation));
    }
    for (size_t i = 0; i < head.size(); ++i) {
      widths[i] = std::max(widths[i], DisplayWidth(rows.back().cells[i]));
    }
  }
  const auto line = [&](const std::vector<std::string>& cells) {
    std::string text = "  ";
    for (size_t i = 0; i + 1 < cells.size(); ++i)
      text += PadRight(cells[i], widths[i] + kColumnGap);
    return absl::StrCat(text, cells.back());
  };
  std::string text = absl::StrCat(console.Paint(Style::kDim, line(head)), "\n");
  const size_t indent = 2 + widths[0] + kColumnGap;
  for (size_t i = 0; i < rows.size(); ++i) {
    const Row& row = rows[i];
    absl::StrAppend(&text, console.Paint(StyleOf(row.state), line(row.cells)), "\n");
    for (const std::string& remark : prepared[i]) {
      absl::StrAppend(&text, std::string(indent, ' '), remark, "\n");
    }
    if (row.error.empty()) continue;
    absl::StrAppend(&text, std::string(indent, ' '), PrintableLines(row.error, indent), "\n");
  }
  return text;
}

bool IsSaidByAVersion(const std::string& error, const ModelStatus& model) {
  return std::any_of(model.versions().begin(), model.versions().end(),
                     [&](const Version& version) { return version.error() == error; });
}

std::string ModelText(const ModelStatus& model, std::chrono::system_clock::time_point now,
                      const Console& console) {
  std::string text = absl::StrCat(console.Paint(Style::kBold, Printable(model.name())), ": ",
                                  StandingText(model), "\n", TableText(model, now, console));
  if (!model.last_error().empty() && !IsSaidByAVersion(model.last_error(), model)) {
    absl::StrAppend(&text, "  ",
                    console.Paint(Style::kBad, absl::StrCat("last error: ",
                                                            PrintableLines(model.last_error(), 2))),
                    "\n");
  }
  return text;
}

const char* RoleName(AnsweringVersion::Role role) {
  switch (role) {
    case AnsweringVersion::ROLE_LIVE:
      return "live";
    case AnsweringVersion::ROLE_CANARY:
      return "canary";
    case AnsweringVersion::ROLE_BY_NUMBER:
      return "by_number";
    default:
      return "unknown";
  }
}

// Null where there is nothing to say.
nlohmann::json OrNull(const std::string& text) {
  return text.empty() ? nlohmann::json(nullptr) : nlohmann::json(text);
}

std::string TimeText(const google::protobuf::Timestamp& time) {
  return absl::FormatTime("%Y-%m-%d%ET%H:%M:%E3SZ",
                          absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos()),
                          absl::UTCTimeZone());
}

nlohmann::json ToJson(const AnsweringVersion& version) {
  nlohmann::json json = {
      {"number", version.number()},         {"role", RoleName(version.role())},
      {"weights_id", version.weights_id()}, {"architecture", version.architecture()},
      {"share", version.share()},           {"trial", nullptr}};
  if (version.has_trial()) {
    json["trial"] = {{"requests", version.trial().requests()},
                     {"failed", version.trial().failed()},
                     {"non_finite_batches", version.trial().non_finite_batches()}};
  }
  return json;
}

nlohmann::json ToJson(const PreparedDeviation& prepared) {
  const bool measured = prepared.not_measured().empty();
  return {{"device", prepared.device()},
          {"absolute", measured ? nlohmann::json(prepared.absolute()) : nlohmann::json(nullptr)},
          {"relative", measured ? nlohmann::json(prepared.relative()) : nlohmann::json(nullptr)},
          {"not_measured", OrNull(prepared.not_measured())}};
}

nlohmann::json ToJson(const Version& version) {
  nlohmann::json prepared = nlohmann::json::array();
  for (const PreparedDeviation& deviation : version.prepared()) {
    prepared.push_back(ToJson(deviation));
  }
  return {{"number", version.number()},
          {"state", version.state()},
          {"since", TimeText(version.since())},
          {"weights_path", version.weights_path()},
          {"weights_id", OrNull(version.weights_id())},
          {"weights_bytes", version.weights_bytes()},
          {"shared_bytes", version.shared_bytes()},
          {"prepared", std::move(prepared)},
          {"error", OrNull(version.error())}};
}

nlohmann::json ToJson(const ModelStatus& model) {
  nlohmann::json json = {{"name", model.name()},
                         {"pinned", model.pinned()},
                         {"unloaded", model.unloaded()},
                         {"inline_weights", model.inline_weights()},
                         {"answering", nlohmann::json::array()},
                         {"versions", nlohmann::json::array()},
                         {"last_error", OrNull(model.last_error())},
                         {"settings", nullptr}};
  for (const AnsweringVersion& version : model.answering()) {
    json["answering"].push_back(ToJson(version));
  }
  for (const Version& version : model.versions()) json["versions"].push_back(ToJson(version));
  if (model.has_settings()) {
    json["settings"] = {{"swap_mode", model.settings().swap_mode()},
                        {"promotion", model.settings().promotion()},
                        {"retain_versions", model.settings().retain_versions()},
                        {"canary_share", model.settings().canary_share()}};
  }
  return json;
}

}  // namespace

std::string StandingText(const ModelStatus& model) {
  std::vector<std::string> parts;
  std::vector<std::string> by_number;
  for (const AnsweringVersion& version : model.answering()) {
    if (version.role() == AnsweringVersion::ROLE_BY_NUMBER) {
      by_number.push_back(absl::StrCat(version.number()));
    } else if (version.role() == AnsweringVersion::ROLE_CANARY) {
      parts.push_back(absl::StrCat("version ", version.number(), " as a canary ",
                                   PercentText(version.share()), " of the batches"));
      if (version.has_trial()) {
        absl::StrAppend(&parts.back(), " (", PluralText(version.trial().requests(), "request"),
                        ", ", CountText(version.trial().failed()), " failed)");
      }
    } else {
      parts.push_back(absl::StrCat("version ", version.number(), " answers"));
    }
  }
  if (!by_number.empty()) {
    parts.push_back(absl::StrCat("version", by_number.size() == 1 ? " " : "s ",
                                 absl::StrJoin(by_number, ", "), " by number"));
  }
  std::string text = parts.empty() ? "out of service" : absl::StrJoin(parts, ", ");
  if (model.unloaded()) absl::StrAppend(&text, "; unloaded");
  if (model.pinned()) absl::StrAppend(&text, "; pinned");
  if (model.inline_weights()) absl::StrAppend(&text, "; loaded from what a client sent");
  for (const Version& version : model.versions()) {
    if (version.state() != "held") continue;
    absl::StrAppend(&text, "; version ", version.number(), " is held until it is promoted");
  }
  return text;
}

std::string StatusText(const admin::v1::StatusResponse& status,
                       std::chrono::system_clock::time_point now, const Console& console) {
  std::string text;
  for (const ModelStatus& model : status.models()) {
    if (!text.empty()) text += "\n";
    text += ModelText(model, now, console);
  }
  if (!text.empty()) return text;
  return status.control() == "command"
             ? "no models: the server loads them on command (sconce ctl load MODEL)\n"
             : "no models: the server's repository holds none\n";
}

std::string StatusJson(const admin::v1::StatusResponse& status) {
  nlohmann::json json = {{"control", status.control()}, {"models", nlohmann::json::array()}};
  for (const ModelStatus& model : status.models()) json["models"].push_back(ToJson(model));
  return absl::StrCat(json.dump(2, ' ', true, nlohmann::json::error_handler_t::replace), "\n");
}

std::string FailureText(const std::string& server, const grpc::Status& status, bool connected) {
  const std::string said = PrintableLines(status.error_message(), 0);
  if (!connected) {
    return absl::StrCat("no server answers at ", Printable(server), ": ", said,
                        "; --server names where it listens for gRPC");
  }
  switch (status.error_code()) {
    case grpc::DEADLINE_EXCEEDED:
      return absl::StrCat(Printable(server),
                          " did not answer in time and may still be at it: see `sconce ctl "
                          "status`; --timeout waits longer");
    case grpc::UNIMPLEMENTED:
      return absl::StrCat(Printable(server), " cannot do that: ", said,
                          "; is it Sconce, and of this version?");
    default:
      return said;
  }
}

}  // namespace sconce::tools
