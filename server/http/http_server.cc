#include "server/http/http_server.h"

#include <httplib.h>

#include <atomic>
#include <chrono>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/thread.h"

namespace sconce {
namespace {

// Of a connection on which nothing comes.
constexpr std::chrono::seconds kIdleTimeout{1};
constexpr std::chrono::seconds kReadTimeout{2};
constexpr std::chrono::seconds kWriteTimeout{5};
constexpr size_t kMaxPayloadBytes = 64 << 10;  // no request here has a body
constexpr char kJson[] = "application/json";
constexpr char kPrometheusText[] = "text/plain; version=0.0.4";

void AnswerError(int code, const std::string& message, httplib::Response* response) {
  // Names of models and files come from the disk: what is not UTF-8 in them is replaced.
  const nlohmann::json body = {{"error", message}};
  response->status = code;
  response->set_content(body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), kJson);
}

std::string WhyNotReady(const Registry& registry) {
  // Says more than that a model lost its devices: it stays so, whatever becomes of the model.
  if (std::string fault = registry.device_fault(); !fault.empty()) return fault;
  std::string why;
  for (const std::shared_ptr<Model>& model : registry.Models()) {
    if (model->Pin() != nullptr) continue;
    const Model::Progress progress = model->progress();
    absl::StrAppend(&why, why.empty() ? "" : "; ", "model '", model->name(), "': ",
                    !progress.last_error.empty() ? progress.last_error
                    : progress.loading           ? "is being loaded"
                                                 : "is not loaded");
  }
  return why.empty() ? "the server is starting or ending" : why;
}

}  // namespace

class HttpServer::Running {
 public:
  Running(const Options& options, const Parts& parts) : parts_(parts) {
    server_.new_task_queue = [threads = options.threads] {
      return new httplib::ThreadPool(static_cast<size_t>(threads));
    };
    // Without SO_REUSEPORT, with which a second server would share the port in silence.
    server_.set_socket_options([](socket_t socket) {
      const int yes = 1;
      setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    });
    server_.set_keep_alive_max_count(1);
    server_.set_keep_alive_timeout(kIdleTimeout.count());
    server_.set_read_timeout(kReadTimeout);
    server_.set_write_timeout(kWriteTimeout);
    server_.set_payload_max_length(kMaxPayloadBytes);
    server_.set_tcp_nodelay(true);
    AddRoutes();
  }

  ~Running() {
    server_.stop();
    thread_.Join();
  }

  // The port, or -1.
  int Start(const Address& address) {
    int port = address.port;
    if (port == 0) {
      port = server_.bind_to_any_port(address.host);
    } else if (!server_.bind_to_port(address.host, port)) {
      port = -1;
    }
    if (port < 0) return -1;
    thread_ = Thread("http", ThreadPriority::kNormal, [this] {
      server_.listen_after_bind();
      ended_ = true;
    });
    // Until it runs, stop() is not heard.
    while (!server_.is_running() && !ended_) std::this_thread::yield();
    return port;
  }

 private:
  void AddRoutes() {
    server_.Get("/v2/health/live", [](const httplib::Request&, httplib::Response& response) {
      response.set_content(R"({"live":true})", kJson);
    });
    server_.Get("/v2/health/ready", [this](const httplib::Request&, httplib::Response& response) {
      if (parts_.registry->Ready()) {
        response.set_content(R"({"ready":true})", kJson);
      } else {
        AnswerError(503, WhyNotReady(*parts_.registry), &response);
      }
    });
    server_.Get("/metrics", [this](const httplib::Request&, httplib::Response& response) {
      if (parts_.refresh_metrics) parts_.refresh_metrics();
      response.set_content(parts_.metrics->Serialize(), kPrometheusText);
    });
    server_.set_error_handler([](const httplib::Request& request, httplib::Response& response) {
      if (!response.body.empty()) return;
      AnswerError(response.status,
                  response.status == 404
                      ? absl::StrCat("there is no ", request.method, " ", request.path)
                      : absl::StrCat("the request was refused with status ", response.status),
                  &response);
    });
  }

  const Parts parts_;
  httplib::Server server_;
  std::atomic<bool> ended_{false};
  Thread thread_;
};

HttpServer::HttpServer(Options options, Parts parts)
    : options_(std::move(options)), parts_(std::move(parts)) {}

HttpServer::~HttpServer() { Stop(); }

absl::StatusOr<Address> HttpServer::Start() {
  MutexLock lock(&mutex_);
  if (ended_ || running_ != nullptr) {
    return absl::FailedPreconditionError("the HTTP server was started or stopped before");
  }
  absl::Status free = CheckCanListen(options_.address);
  if (!free.ok()) return free;
  auto running = std::make_unique<Running>(options_, parts_);
  const int port = running->Start(options_.address);
  if (port < 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", options_.address.ToString(), ": it was taken just now"));
  }
  running_ = std::move(running);
  return Address{options_.address.host, static_cast<uint16_t>(port)};
}

void HttpServer::Stop() {
  MutexLock lock(&mutex_);
  ended_ = true;
  running_.reset();
}

}  // namespace sconce
