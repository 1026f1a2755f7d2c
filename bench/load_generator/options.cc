#include "bench/load_generator/options.h"

#include <CLI/CLI.hpp>

namespace sconce::bench {
namespace {

void AddSeconds(CLI::App* app, const std::string& name, std::chrono::duration<double>* value,
                const std::string& help) {
  app->add_option_function<double>(
         name, [value](double seconds) { *value = std::chrono::duration<double>(seconds); }, help)
      ->type_name("SECONDS")
      ->default_str(CLI::detail::to_string(value->count()))
      ->check(CLI::Range(0.0, 86400.0).description(""));
}

}  // namespace

std::optional<Options> ParseOptions(int argc, char** argv, int* exit_status) {
  Options options;
  std::string arrivals = "poisson";
  CLI::App app(
      "Sends inference requests over gRPC and prints a table of what came back, one line a run.\n"
      "Closed loop (--concurrency): so many requests are always in flight; shows capacity.\n"
      "Open loop (--rate): requests start at times set beforehand, whatever the server does;\n"
      "their latency counts from that time. Shows latency under a given load. SIGINT and\n"
      "SIGTERM end such runs early.",
      "sconce_load");
  app.get_formatter()->column_width(34);

  app.add_option("--address", options.address, "The server's gRPC address.")
      ->type_name("HOST:PORT")
      ->capture_default_str();
  app.add_option("--model", options.model, "The model to ask.")->type_name("NAME")->required();
  app.add_option("--input", options.input, "Its input, if not as its metadata says.")
      ->type_name("NAME");
  app.add_option("--datatype", options.datatype, "FP32, INT64, ..., likewise.")->type_name("TYPE");
  app.add_option("--shape", options.shape, "Of one row, likewise: 3,224,224.")
      ->type_name("D,D,...")
      ->delimiter(',')
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 32).description(""));
  app.add_option("--rows", options.rows, "Rows in each request.")
      ->type_name("N")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20).description(""));

  auto* closed = app.add_option("--concurrency", options.concurrency,
                                "Requests in flight; a list makes several runs.")
                     ->type_name("N,N,...")
                     ->delimiter(',')
                     ->check(CLI::Range(1, 100000).description(""));
  auto* open = app.add_option("--rate", options.rate, "Requests per second; a list likewise.")
                   ->type_name("R,R,...")
                   ->delimiter(',')
                   ->check(CLI::Range(0.001, 1e7).description(""))
                   ->excludes(closed);
  app.add_option("--arrivals", arrivals, "With --rate: poisson (at random) or constant.")
      ->type_name("KIND")
      ->capture_default_str()
      ->check(CLI::IsMember({"poisson", "constant"}).description(""))
      ->needs(open);

  AddSeconds(&app, "--warmup", &options.warmup, "Sent before the measurement begins.");
  AddSeconds(&app, "--duration", &options.duration, "Measured, for each run.");
  AddSeconds(&app, "--timeout", &options.timeout, "Deadline of each request; 0 means none.");
  app.add_option("--connections", options.connections, "Connections to spread requests over.")
      ->type_name("N")
      ->capture_default_str()
      ->check(CLI::Range(1, 10000).description(""));
  app.add_option("--pin", options.pin, "Run on this processor only.")->type_name("CPU");
  app.add_option("--server-pid", options.server_pid,
                 "Also show the processor time this process takes per request.")
      ->type_name("PID");
  app.add_option("--record", options.record,
                 "Also write a record of each request measured, as request_record.h says.")
      ->type_name("FILE");
  app.add_flag("--json", options.json, "One JSON object a run instead of the table.");

  try {
    app.parse(argc, argv);
    if (options.concurrency.empty() && options.rate.empty()) {
      throw CLI::RequiredError("One of --concurrency and --rate");
    }
  } catch (const CLI::Success& e) {  // --help
    *exit_status = app.exit(e);
    return std::nullopt;
  } catch (const CLI::ParseError& e) {
    std::cerr << "sconce_load: " << e.what() << "\nTry 'sconce_load --help'.\n";
    *exit_status = 2;
    return std::nullopt;
  }
  options.poisson = arrivals == "poisson";
  return options;
}

}  // namespace sconce::bench
