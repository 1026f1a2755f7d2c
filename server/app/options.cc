#include "server/app/options.h"

#include <CLI/CLI.hpp>
#include <cmath>
#include <filesystem>
#include <iostream>

#include "server/app/version.h"
#include "server/base/address.h"
#include "server/base/printable.h"
#include "server/rpc/grpc_server.h"

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

constexpr size_t kHelpColumn = 38;

CLI::App* AddCommand(CLI::App& app, const std::string& name, const std::string& help) {
  CLI::App* command = app.add_subcommand(name, help);
  command->get_formatter()->column_width(kHelpColumn);
  return command;
}

CLI::App* AddServe(CLI::App& app, ServeOptions& options) {
  CLI::App* serve = AddCommand(app, "serve", "Serve the models of a repository.");
  serve->footer(
      "A repository holds one folder per model, the folder's name being the model's:\n"
      "  models/resnet50/model.pth          a checkpoint: .pth .pt .bin .ckpt .safetensors\n"
      "  models/resnet50/program.pt2        optional: what is computed with it, where that is no\n"
      "                                     known architecture: .pt2 .pt .onnx, plugin.so\n"
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
  AddSeconds(
      serve, "--poll-interval", &options.poll_interval, 0.05, 3600,
      "How often the repository is looked at where the file system does not tell of changes.");
  AddSeconds(serve, "--settle-time", &options.settle_time, 0, 3600,
             "How long a file must have been unchanged before it is read.");
  AddSeconds(
      serve, "--reload-jitter", &options.reload_jitter, 0, 3600,
      "At most how much longer, by chance, each new file is left alone, so that a fleet does "
      "not reload in one instant.");
  serve
      ->add_option_function<std::string>(
          "--control",
          [&options](const std::string& mode) {
            options.control = mode == "command" ? ControlMode::kCommand
                              : mode == "fixed" ? ControlMode::kFixed
                                                : ControlMode::kFollow;
          },
          "follow (serve what the folders hold), command (serve what RepositoryModelLoad asks for) "
          "or fixed (serve what is there at the start).")
      ->type_name("MODE")
      ->default_str("follow")
      ->check(CLI::IsMember({"follow", "command", "fixed"}).description(""));
  serve
      ->add_option("--state-file", options.state_file,
                   "Where version numbers, pins and refused files are kept across restarts; "
                   "nowhere unless given.")
      ->type_name("FILE");
  AddSeconds(serve, "--shutdown-grace", &options.shutdown_grace, 0, 3600,
             "How long requests in flight may take to end after SIGTERM.");
  serve->add_flag("--exit-on-device-fault", options.exit_on_device_fault,
                  "End with status 3 once a model has lost every device it is on.");
  serve->add_flag("--gpu-direct-storage", options.gpu_direct_storage,
                  "Let a GPU read weights from their file by itself where libcufile and the file "
                  "system can; not with --verify. Never tried on a GPU yet.");
  serve->add_flag("--allow-native-code", options.allow_native_code,
                  "Run machine code that a model's folder brings: plugins and AOTInductor "
                  "packages. It can do all that the server can.");
  serve
      ->add_option_function<std::string>(
          "--verify",
          [&options](const std::string& checks) {
            options.checkpoint.verify_crc = checks == "crc" || checks == "all";
            options.checkpoint.verify_sha256 = checks == "sha256" || checks == "all";
          },
          "What weights are compared with while they are read: none, crc (the checksums in "
          "torch.save's zip), sha256 (the manifest FILE.sha256 beside each file) or all.")
      ->type_name("CHECKS")
      ->default_str("none")
      ->check(CLI::IsMember({"none", "crc", "sha256", "all"}).description(""));
  serve
      ->add_option("--max-metadata-bytes", options.checkpoint.max_metadata_bytes,
                   "The most bytes of structure (directory, pickle, header) read from one file.")
      ->type_name("N")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40).description(""));
  serve
      ->add_option("--inline-weights-max-bytes", options.inline_weights_max_bytes,
                   "The most bytes of weights that a client's RepositoryModelLoad may bring; 0 "
                   "allows none.")
      ->type_name("N")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, GrpcServer::kMostInlineBytes).description(""));
  serve->add_option("--log-format", options.log_format, "human or json (one object per line).")
      ->type_name("FORMAT")
      ->capture_default_str()
      ->check(CLI::IsMember({"human", "json"}).description(""));
  serve->add_option("--log-level", options.log_level, "debug, info, warning or error.")
      ->type_name("LEVEL")
      ->capture_default_str()
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}).description(""));
  return serve;
}

constexpr char kPathHelp[] = "A checkpoint: a file or a folder, in any format.";

CLI::App* AddInspect(CLI::App& app, tools::InspectOptions& options) {
  CLI::App* inspect = AddCommand(app, "inspect", "Show what a checkpoint is and what is in it.");
  inspect->add_option("PATH", options.path, kPathHelp)->type_name("")->required();
  inspect->add_flag("--json", options.json, "One JSON object instead of text.");
  inspect->add_flag("--stats", options.stats,
                    "Read every tensor: min, max, mean, standard deviation, zeros, NaN and Inf.");
  return inspect;
}

CLI::App* AddSummary(CLI::App& app, tools::SummaryOptions& options) {
  CLI::App* summary = AddCommand(
      app, "summary", "Show a model layer by layer: output shapes, parameters, multiply-adds.");
  summary->add_option("PATH", options.path, kPathHelp)->type_name("")->required();
  summary
      ->add_option("--input-size", options.input_sizes,
                   "The size of an input without the batch, such as 3,224,224; once for each input "
                   "whose size is not to be the model's own.")
      ->type_name("DIMS")
      ->allow_extra_args(false);
  summary->add_option("--batch", options.batch, "How many rows the inputs have.")
      ->type_name("N")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20).description(""));
  summary->add_flag("--json", options.json, "One JSON object instead of text.");
  summary->add_flag("--importance", options.importance,
                    "Read the weights and rank layers and channels by their magnitude.");
  summary
      ->add_option("--samples", options.samples,
                   "With --importance: inputs by name, in any format of weights; ranks by mean "
                   "absolute output as well.")
      ->type_name("FILE");
  summary->add_flag("--allow-native-code", options.allow_native_code,
                    "Run machine code that the model brings: plugin.so and AOTInductor packages.");
  return summary;
}

CLI::App* AddCheck(CLI::App& app, tools::CheckOptions& options) {
  CLI::App* check = AddCommand(
      app, "check", "Say whether a checkpoint would load, and all that is wrong with it.");
  check->add_option("PATH", options.path, kPathHelp)->type_name("")->required();
  check
      ->add_option("--model", options.model,
                   "The architecture it is to be, such as resnet50 or 'mlp(activation=gelu)'; "
                   "detected unless given.")
      ->type_name("NAME");
  return check;
}

CLI::App* AddDiff(CLI::App& app, tools::DiffOptions& options) {
  CLI::App* diff = AddCommand(app, "diff", "Compare the weights of two checkpoints.");
  diff->add_option("OLD", options.old_path, kPathHelp)->type_name("")->required();
  diff->add_option("NEW", options.new_path, kPathHelp)->type_name("")->required();
  diff->add_flag("--json", options.json, "One JSON object instead of text.");
  return diff;
}

CLI::App* AddConvert(CLI::App& app, tools::ConvertOptions& options) {
  CLI::App* convert = AddCommand(app, "convert", "Write a checkpoint's weights as .safetensors.");
  convert->add_option("IN", options.input, kPathHelp)->type_name("")->required();
  convert->add_option("OUT", options.output, "The file to write; ends in .safetensors.")
      ->type_name("")
      ->required();
  convert
      ->add_option("--dtype", options.dtype,
                   "Cast floating-point tensors, to float16 for example; bytes are kept unless "
                   "given.")
      ->type_name("DTYPE");
  convert
      ->add_option("--prefix", options.prefix,
                   "Begin names with TO that begin with FROM: module.= strips, =model. adds.")
      ->type_name("FROM=TO");
  convert->add_flag("--dense", options.dense,
                    "Write quantised and sparse tensors as plain numbers, which are refused else.");
  convert
      ->add_option("--max-dense-bytes", options.max_dense_bytes,
                   "The most that --dense makes of one tensor.")
      ->type_name("BYTES")
      ->capture_default_str()
      ->check(CLI::PositiveNumber.description(""));
  return convert;
}

CLI::App* AddMerge(CLI::App& app, tools::MergeOptions& options) {
  CLI::App* merge = AddCommand(app, "merge", "Blend the weights of several trained models.");
  merge->add_option("INPUTS", options.inputs, "The checkpoints to blend, of one architecture.")
      ->type_name("")
      ->required();
  merge->add_option("-o,--output", options.output, "The file to write; ends in .safetensors.")
      ->type_name("OUT")
      ->required();
  merge
      ->add_option("--weights", options.weights,
                   "A number for each input, in their order: 0.3,0.7; 1 each unless given.")
      ->type_name("W,W")
      ->allow_extra_args(false)
      ->delimiter(',');
  merge
      ->add_option("--base", options.base,
                   "Add each input's difference from this checkpoint, times its number, to it; "
                   "without it the inputs are averaged.")
      ->type_name("PATH");
  return merge;
}

CLI::App* AddArchitectures(CLI::App& app, tools::ArchitecturesOptions& options) {
  CLI::App* architectures =
      AddCommand(app, "architectures", "List the networks the server knows and their parameters.");
  architectures->add_option("NAME", options.name, "One of them alone.")->type_name("");
  architectures->add_flag("--json", options.json, "JSON instead of text.");
  return architectures;
}

CLI::App* AddDevices(CLI::App& app, tools::DevicesOptions& options) {
  CLI::App* devices = AddCommand(
      app, "devices", "List what there is to serve on, and say why CUDA is missing if it is.");
  devices->add_flag("--json", options.json, "One JSON object instead of text.");
  return devices;
}

// One of the things that `sconce ctl` does, to a model that has to be named or may be.
CLI::App* AddCtlCommand(CLI::App& ctl, tools::CtlOptions& options,
                        tools::CtlOptions::Command command, const std::string& name,
                        const std::string& help) {
  CLI::App* added = AddCommand(ctl, name, help);
  added->fallthrough();  // --server and --timeout may follow the command
  added->callback([&options, command] { options.command = command; });
  CLI::Option* model =
      added->add_option("MODEL", options.model, "A model's name, which is its folder's.")
          ->type_name("");
  if (command != tools::CtlOptions::Command::kStatus) model->required();
  return added;
}

CLI::App* AddCtl(CLI::App& app, tools::CtlOptions& options) {
  using Command = tools::CtlOptions::Command;
  CLI::App* ctl =
      AddCommand(app, "ctl", "Say what a running server serves, and tell it what to serve.");
  ctl->require_subcommand(1);
  ctl->add_option("--server", options.server, "Where the server listens for gRPC.")
      ->type_name("HOST:PORT")
      ->capture_default_str()
      ->check(kAddress);
  AddSeconds(ctl, "--timeout", &options.timeout, 0.1, 86400, "How long to wait for the server.");

  AddCtlCommand(*ctl, options, Command::kStatus, "status",
                "Show what answers, and the last versions of each model.")
      ->add_flag("--json", options.json, "One JSON object instead of text.");
  CLI::App* versioned[] = {
      AddCtlCommand(*ctl, options, Command::kRollback, "rollback",
                    "Let a retained version answer again: the one before, unless one is named."),
      AddCtlCommand(*ctl, options, Command::kPromote, "promote",
                    "Let the version answer that is held, or a canary."),
  };
  for (CLI::App* command : versioned) {
    command->add_option("VERSION", options.version, "The version's number.")
        ->type_name("")
        ->check(CLI::Range(int64_t{1}, kMaxVersionNumber).description(""));
  }
  AddCtlCommand(*ctl, options, Command::kReload, "reload",
                "Load what the model's folder holds, even if it is unchanged.");
  AddCtlCommand(*ctl, options, Command::kPin, "pin", "Stop following the model's folder.");
  AddCtlCommand(*ctl, options, Command::kUnpin, "unpin", "Follow the model's folder again.");
  CLI::App* load = AddCtlCommand(*ctl, options, Command::kLoad, "load",
                                 "Load a model from its folder, or from what is given here.");
  load->add_option("--config", options.config,
                   "The model's configuration as JSON, or a file with it, in place of the folder's "
                   "config.pbtxt.")
      ->type_name("CONFIG");
  load->add_option("--weights", options.weights,
                   "A weights file to send, if the server's --inline-weights-max-bytes allows it.")
      ->type_name("FILE")
      ->check(CLI::ExistingFile.description(""));
  AddCtlCommand(*ctl, options, Command::kUnload, "unload",
                "Take a model out of service until it is loaded.");
  return ctl;
}

}  // namespace

std::optional<Command> ParseCommandLine(int argc, char** argv, int* exit_status) {
  ServeOptions serve_options;
  tools::InspectOptions inspect_options;
  tools::CheckOptions check_options;
  tools::DiffOptions diff_options;
  tools::ConvertOptions convert_options;
  tools::MergeOptions merge_options;
  tools::DevicesOptions devices_options;
  tools::CtlOptions ctl_options;
  tools::SummaryOptions summary_options;
  tools::ArchitecturesOptions architectures_options;
  CLI::App app(
      "Sconce serves PyTorch weights over gRPC and swaps them when their files change. It also "
      "steers\na server that runs, and shows, checks, compares, converts and merges weights.",
      "sconce");
  app.set_version_flag("--version", std::string("sconce ") + kVersion);
  app.require_subcommand(1);
  app.get_formatter()->column_width(kHelpColumn);
  const CLI::App* serve = AddServe(app, serve_options);
  const CLI::App* inspect = AddInspect(app, inspect_options);
  const CLI::App* summary = AddSummary(app, summary_options);
  const CLI::App* check = AddCheck(app, check_options);
  const CLI::App* diff = AddDiff(app, diff_options);
  const CLI::App* convert = AddConvert(app, convert_options);
  const CLI::App* merge = AddMerge(app, merge_options);
  const CLI::App* ctl = AddCtl(app, ctl_options);
  const CLI::App* architectures = AddArchitectures(app, architectures_options);
  AddDevices(app, devices_options);

  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {  // --help, --version
    *exit_status = app.exit(e);
    return std::nullopt;
  } catch (const CLI::ParseError& e) {
    const auto chosen = app.get_subcommands();
    std::cerr << "sconce: " << e.what() << "\nTry 'sconce "
              << (chosen.empty() ? "" : chosen[0]->get_name() + " ") << "--help'.\n";
    *exit_status = 2;
    return std::nullopt;
  }
  if (*serve) return serve_options;
  if (*inspect) return tools::ToolOptions(inspect_options);
  if (*summary) return tools::ToolOptions(summary_options);
  if (*check) return tools::ToolOptions(check_options);
  if (*diff) return tools::ToolOptions(diff_options);
  if (*convert) return tools::ToolOptions(convert_options);
  if (*merge) return tools::ToolOptions(merge_options);
  if (*ctl) return tools::ToolOptions(ctl_options);
  if (*architectures) return tools::ToolOptions(architectures_options);
  return tools::ToolOptions(devices_options);
}

}  // namespace sconce
