#include "server/app/options.h"

#include <CLI/CLI.hpp>
#include <cmath>
#include <filesystem>
#include <iostream>

#include "server/app/version.h"
#include "server/base/address.h"
#include "server/base/printable.h"

namespace sconce {
namespace {

const CLI::Validator kAddress(
    [](std::string& text) {
      const auto address = ParseAddress(text);
      return address.ok() ? std::string() : std::string(address.status().message());
    },
    "", "address");

const CLI::Validator kRepository(
    [](std::string& path) -> std::string {
      std::error_code error;
      if (std::filesystem::is_directory(path, error)) return {};
      return "'" + Printable(path) + "' is not a folder" +
             (error ? " (" + error.message() + ")" : "") +
             "; expected one that holds a folder per model, such as " + Printable(path) +
             "/resnet50/model.pth";
    },
    "", "repository");

// Binds an option in seconds to milliseconds.
CLI::Option* AddSeconds(CLI::App* app, const std::string& name, std::chrono::milliseconds* value,
                        double least, double most, const std::string& help) {
  char shown[32];
  std::snprintf(shown, sizeof shown, "%g", static_cast<double>(value->count()) / 1000);
  return app
      ->add_option_function<double>(
          name,
          [value](double seconds) {
            *value = std::chrono::milliseconds(std::llround(seconds * 1000));
          },
          help)
      ->type_name("SECONDS")
      ->default_str(shown)
      ->check(CLI::Range(least, most).description(""));
}

}  // namespace

std::optional<ServeOptions> ParseCommandLine(int argc, char** argv, int* exit_status) {
  ServeOptions options;
  CLI::App app("Sconce serves PyTorch weights over gRPC and swaps them when their files change.",
               "sconce");
  app.set_version_flag("--version", std::string("sconce ") + kVersion);
  app.require_subcommand(1);
  app.get_formatter()->column_width(38);

  CLI::App* serve = app.add_subcommand("serve", "Serve the models of a repository.");
  serve->get_formatter()->column_width(38);
  serve->footer(
      "A repository holds one folder per model, the folder's name being the model's:\n"
      "  models/resnet50/model.pth          a checkpoint: .pth .pt .bin .ckpt .safetensors\n"
      "  models/resnet50/config.pbtxt       optional settings\n\n"
      "Example: sconce serve --model-repository models --device cpu");
  serve
      ->add_option("--model-repository", options.model_repository,
                   "Folder with one folder per model; watched for changes.")
      ->type_name("DIR")
      ->required()
      ->check(kRepository);
  serve
      ->add_option("--grpc-address", options.grpc_address,
                   "Where gRPC listens; port 0 takes a free one and logs it.")
      ->type_name("HOST:PORT")
      ->capture_default_str()
      ->check(kAddress);
  serve
      ->add_option("--http-address", options.http_address,
                   "Where health and metrics are served over HTTP; port 0 as above.")
      ->type_name("HOST:PORT")
      ->capture_default_str()
      ->check(kAddress);
  serve
      ->add_option("--device", options.device,
                   "auto (the GPUs there are, else the CPU), cpu, cuda, or a list: cuda:0,cuda:1.")
      ->type_name("DEVICE")
      ->capture_default_str();
  serve
      ->add_option("--threads", options.threads,
                   "Threads that compute one batch on the CPU; 0 means one per core.")
      ->type_name("N")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024).description(""));
  AddSeconds(serve, "--poll-interval", &options.poll_interval, 0.05, 3600,
             "How often the repository is looked at where the file system does not tell of changes.");
  AddSeconds(serve, "--settle-time", &options.settle_time, 0, 3600,
             "How long a file must have been unchanged before it is read.");
  AddSeconds(serve, "--shutdown-grace", &options.shutdown_grace, 0, 3600,
             "How long requests in flight may take to end after SIGTERM.");
  serve->add_option("--log-format", options.log_format, "human or json (one object per line).")
      ->type_name("FORMAT")
      ->capture_default_str()
      ->check(CLI::IsMember({"human", "json"}).description(""));
  serve->add_option("--log-level", options.log_level, "debug, info, warning or error.")
      ->type_name("LEVEL")
      ->capture_default_str()
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}).description(""));

  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {  // --help, --version
    *exit_status = app.exit(e);
    return std::nullopt;
  } catch (const CLI::ParseError& e) {
    std::cerr << "sconce: " << e.what() << "\nTry 'sconce serve --help'.\n";
    *exit_status = 2;
    return std::nullopt;
  }
  return options;
}

}  // namespace sconce
