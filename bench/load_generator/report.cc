#include "bench/load_generator/report.h"

#include <array>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "server/base/printable.h"

namespace sconce::bench {
namespace {

struct Quantile {
  const char* name;
  double of;
};
constexpr std::array<Quantile, 4> kQuantiles = {
    {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99.9", 0.999}}};

double Millis(Duration duration) { return ToSeconds(duration) * 1e3; }

int64_t Failed(const LoadResult& result) {
  int64_t failed = 0;
  for (const auto& [code, failures] : result.failures) failed += failures.count;
  return failed;
}

double PerSecond(const LoadResult& result) {
  const double seconds = ToSeconds(result.measured);
  return seconds > 0 ? static_cast<double>(result.answered) / seconds : 0;
}

// Microseconds of the server per answer; 0 where it is not known.
double ServerMicros(const LoadResult& result) {
  if (result.server_cpu <= Duration::zero() || result.answered == 0) return 0;
  return ToSeconds(result.server_cpu) * 1e6 / static_cast<double>(result.answered);
}

std::string CodeName(grpc::StatusCode code) {
  return absl::StatusCodeToString(static_cast<absl::StatusCode>(code));
}

}  // namespace

void PrintTableHead() {
  std::printf("%-16s %9s %7s %9s %9s | %-44s | %-19s | %s\n", "", "", "", "", "", "latency, ms",
              "started late, ms", "server");
  std::printf("%-16s %9s %7s %9s %9s |%8s %8s %8s %8s %9s |%9s %10s |%11s %11s\n", "load",
              "requests", "failed", "req/s", "rows/s", kQuantiles[0].name, kQuantiles[1].name,
              kQuantiles[2].name, kQuantiles[3].name, "max", "p99", "max", "us/request",
              "req/s/core");
}

void PrintTableLine(const std::string& load, int64_t rows, const LoadResult& result) {
  const double per_second = PerSecond(result);
  std::printf("%-16s %9lld %7lld %9.1f %9.1f |", load.c_str(),
              static_cast<long long>(result.latency.count() + Failed(result)),
              static_cast<long long>(Failed(result)), per_second,
              per_second * static_cast<double>(rows));
  for (const Quantile& quantile : kQuantiles) {
    std::printf("%8.3f ", Millis(result.latency.Quantile(quantile.of)));
  }
  std::printf("%9.3f |", Millis(result.latency.max()));
  if (result.lateness.count() > 0) {
    std::printf("%9.3f %10.3f |", Millis(result.lateness.Quantile(0.99)),
                Millis(result.lateness.max()));
  } else {
    std::printf("%9s %10s |", "-", "-");
  }
  if (const double micros = ServerMicros(result); micros > 0) {
    std::printf("%11.1f %11.0f\n", micros, 1e6 / micros);
  } else {
    std::printf("%11s %11s\n", "-", "-");
  }
  std::fflush(stdout);
}

void PrintRemarks(const std::string& load, const LoadResult& result) {
  for (const auto& [by, answers] : result.served_by) {
    std::printf("%s: %lld answered by version %s, weights %s\n", load.c_str(),
                static_cast<long long>(answers),
                by.first.empty() ? "?" : Printable(by.first).c_str(),
                by.second.empty() ? "?" : Printable(by.second).c_str());
  }
  for (const auto& [code, failures] : result.failures) {
    std::printf("%s: %lld failed with %s, the first: %s\n", load.c_str(),
                static_cast<long long>(failures.count), CodeName(code).c_str(),
                Printable(failures.first_message).c_str());
  }
}

void PrintJson(const std::string& load, int64_t rows, const LoadResult& result) {
  nlohmann::ordered_json out;
  out["load"] = load;
  out["seconds"] = ToSeconds(result.measured);
  out["requests"] = result.latency.count() + Failed(result);
  out["failed"] = Failed(result);
  out["requests_per_s"] = PerSecond(result);
  out["rows_per_s"] = PerSecond(result) * static_cast<double>(rows);
  for (const Quantile& quantile : kQuantiles) {
    out["latency_ms"][quantile.name] = Millis(result.latency.Quantile(quantile.of));
  }
  out["latency_ms"]["max"] = Millis(result.latency.max());
  if (result.lateness.count() > 0) {
    out["late_ms"] = {{"p99", Millis(result.lateness.Quantile(0.99))},
                      {"max", Millis(result.lateness.max())}};
  }
  if (const double micros = ServerMicros(result); micros > 0) {
    out["server_us_per_request"] = micros;
  }
  out["failures"] = nlohmann::json::object();
  for (const auto& [code, failures] : result.failures) {
    out["failures"][CodeName(code)] = {{"count", failures.count},
                                       {"first_message", Printable(failures.first_message)}};
  }
  out["served_by"] = nlohmann::json::array();
  for (const auto& [by, answers] : result.served_by) {
    out["served_by"].push_back(
        {{"version", by.first}, {"weights_id", by.second}, {"answers", answers}});
  }
  std::cout << out.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace) << std::endl;
}

}  // namespace sconce::bench
