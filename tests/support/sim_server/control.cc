#include "tests/support/sim_server/control.h"

#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "tests/support/simdevice/accelerator.h"
#include "tests/support/simdevice/simdevice.h"
#include "tests/support/simdevice/streams.h"

namespace sconce::simdevice {
namespace {

using nlohmann::json;

// The words after the command, as what they should be.
class Words {
 public:
  explicit Words(std::istringstream* line) : line_(line) {}

  std::string Text() {
    std::string word;
    if (!(*line_ >> word)) throw std::invalid_argument("expected another word");
    return word;
  }
  int64_t Number() {
    const std::string word = Text();
    size_t used = 0;
    const int64_t number = std::stoll(word, &used);
    if (used != word.size()) throw std::invalid_argument("expected a number, got '" + word + "'");
    return number;
  }
  c10::Device Device() {
    const int64_t index = Number();
    if (index < 0 || index >= DeviceCount()) throw std::invalid_argument("there is no such device");
    return simdevice::Device(static_cast<int>(index));
  }
  std::string Bytes() { return absl::HexStringToBytes(Text()); }

 private:
  std::istringstream* const line_;
};

json Statistics() {
  json devices = json::array();
  for (int i = 0; i < DeviceCount(); ++i) {
    const auto statistics = StatisticsOf(Device(i));
    devices.push_back({{"live_bytes", statistics.live_bytes},
                       {"peak_bytes", statistics.peak_bytes},
                       {"allocations", statistics.allocations},
                       {"kernels", statistics.kernels},
                       {"copies", statistics.copies},
                       {"emptied_caches", statistics.emptied_caches},
                       {"graph_replays", GraphReplays(Device(i))},
                       {"host_waiting", IsHostWaiting(Device(i))}});
  }
  return {{"devices", devices},
          {"pinned_bytes", PinnedBytes()},
          {"pinned_allocations", PinnedAllocations()}};
}

// Each takes its words from left to right.
const std::map<std::string, json (*)(Words)>& Commands() {
  static const auto& commands = *new std::map<std::string, json (*)(Words)>{
      {"hold",
       [](Words words) {
         Hold(words.Device());
         return json::object();
       }},
      {"release",
       [](Words words) {
         Release(words.Device());
         return json::object();
       }},
      {"limit",
       [](Words words) {
         const c10::Device device = words.Device();
         LimitMemory(device, words.Number());
         return json::object();
       }},
      {"fail-allocation",
       [](Words words) {
         const c10::Device device = words.Device();
         FailAllocation(device, words.Number());
         return json::object();
       }},
      {"fail-pinned",
       [](Words words) {
         FailPinnedAllocation(words.Number());
         return json::object();
       }},
      {"fail-kernel",
       [](Words words) {
         const c10::Device device = words.Device();
         FailKernel(device, words.Number());
         return json::object();
       }},
      {"statistics", [](Words) { return Statistics(); }},
      {"reset",
       [](Words) {
         Reset();
         return json::object();
       }},
      {"share",
       [](Words words) {
         const c10::Device device = words.Device();
         return json{{"handle", absl::BytesToHexString(Share(device, words.Number()))}};
       }},
      {"unshare",
       [](Words words) {
         Unshare(words.Bytes());
         return json::object();
       }},
      {"write",
       [](Words words) {
         const std::string handle = words.Bytes();
         const int64_t offset = words.Number();
         WriteShared(handle, offset, words.Bytes());
         return json::object();
       }},
      {"read",
       [](Words words) {
         const std::string handle = words.Bytes();
         const int64_t offset = words.Number();
         return json{{"bytes", absl::BytesToHexString(ReadShared(handle, offset, words.Number()))}};
       }},
  };
  return commands;
}

json Answer(const std::string& text) {
  std::istringstream line(text);
  std::string name;
  line >> name;
  const auto command = Commands().find(name);
  if (command == Commands().end()) return {{"error", "there is no command '" + name + "'"}};
  try {
    return command->second(Words(&line));
  } catch (const std::exception& e) {
    const std::string what = e.what();
    return {{"error", what.substr(0, what.find('\n'))}};
  }
}

void AnswerConnection(int connection) {
  std::string line;
  char bytes[1 << 16];
  while (line.find('\n') == std::string::npos) {
    const ssize_t received = recv(connection, bytes, sizeof bytes, 0);
    if (received <= 0) break;
    line.append(bytes, static_cast<size_t>(received));
  }
  const std::string answer = Answer(line).dump() + "\n";
  for (size_t sent = 0; sent < answer.size();) {
    const ssize_t now = send(connection, answer.data() + sent, answer.size() - sent, MSG_NOSIGNAL);
    if (now <= 0) break;
    sent += static_cast<size_t>(now);
  }
  close(connection);
}

void CheckCall(bool good, const std::string& path) {
  if (!good) throw std::runtime_error(path + ": " + std::strerror(errno));
}

}  // namespace

void ServeControl(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) throw std::runtime_error(path + ": too long a path");
  path.copy(address.sun_path, path.size());
  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CheckCall(listener >= 0, path);
  CheckCall(bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0, path);
  CheckCall(listen(listener, 16) == 0, path);

  // The server takes its signals on a thread of its own; this one must not get them.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread([listener] {
    for (;;) {
      const int connection = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
      if (connection >= 0) AnswerConnection(connection);
    }
  }).detach();
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

}  // namespace sconce::simdevice
