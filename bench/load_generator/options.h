// The command line of sconce_load.

#ifndef SCONCE_BENCH_LOAD_GENERATOR_OPTIONS_H_
#define SCONCE_BENCH_LOAD_GENERATOR_OPTIONS_H_

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace sconce::bench {

struct Options {
  std::string address = "127.0.0.1:8001";
  std::string model;

  // What is empty here is asked of the server.
  std::string input;
  std::string datatype;
  std::vector<int64_t> shape;  // of one row
  int64_t rows = 1;

  // One of the two; each entry is a run of its own.
  std::vector<int> concurrency;
  std::vector<double> rate;
  bool poisson = true;

  std::chrono::duration<double> warmup{1};
  std::chrono::duration<double> duration{10};
  std::chrono::duration<double> timeout{10};  // of one request; 0: none
  int connections = 1;
  std::optional<int> pin;
  std::optional<pid_t> server_pid;
  std::string record;  // file for a record of every request; empty: none
  bool json = false;
};

// Nullopt where there is nothing more to do: --help, or a mistake that has been printed.
std::optional<Options> ParseOptions(int argc, char** argv, int* exit_status);

}  // namespace sconce::bench

#endif  // SCONCE_BENCH_LOAD_GENERATOR_OPTIONS_H_
