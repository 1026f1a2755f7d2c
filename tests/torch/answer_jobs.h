// What the programs have in common that answer questions of Python's tests: jobs come as JSON, a
// line each, and answers go the same way; tensors travel in files.
#ifndef SCONCE_TESTS_TORCH_ANSWER_JOBS_H_
#define SCONCE_TESTS_TORCH_ANSWER_JOBS_H_

#include <ATen/core/Tensor.h>

#include <chrono>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "server/weights/state_dict.h"

namespace sconce {

class Stopwatch {
 public:
  // Seconds since it was made or last asked.
  double Lap() {
    const auto now = std::chrono::steady_clock::now();
    return std::chrono::duration<double>(now - std::exchange(start_, now)).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// All tensors of a weights file.
absl::StatusOr<StateDict> ReadTensorFile(const std::string& path);

// The tensors' bytes, one after the other. Throws std::runtime_error.
void WriteTensorBytes(const std::vector<at::Tensor>& tensors, const std::string& path);

// "dtype" and "shape".
nlohmann::json DescribeTensor(const at::Tensor& tensor);

// Answers the lines of standard input until it ends; {"error": ...} where `answer` fails or throws.
// The command line says with how many threads. What main() returns.
int AnswerJobs(int argc, char** argv,
               const std::function<absl::StatusOr<nlohmann::json>(const nlohmann::json&)>& answer);

}  // namespace sconce

#endif  // SCONCE_TESTS_TORCH_ANSWER_JOBS_H_
