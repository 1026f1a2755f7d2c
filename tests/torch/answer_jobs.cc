#include "tests/torch/answer_jobs.h"

#include <ATen/Parallel.h>

#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>
#include <stdexcept>

#include "server/checkpoint/checkpoint.h"

namespace sconce {

using nlohmann::json;

absl::StatusOr<StateDict> ReadTensorFile(const std::string& path) {
  const auto file = OpenCheckpoint(path);
  if (!file.ok()) return file.status();
  return ReadStateDict(**file);
}

void WriteTensorBytes(const std::vector<at::Tensor>& tensors, const std::string& path) {
  std::ofstream file(path, std::ios::binary);
  for (const at::Tensor& tensor : tensors) {
    const at::Tensor contiguous = tensor.contiguous();
    file.write(static_cast<const char*>(contiguous.const_data_ptr()),
               static_cast<std::streamsize>(contiguous.nbytes()));
  }
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

json DescribeTensor(const at::Tensor& tensor) {
  return {{"dtype", c10::toString(tensor.scalar_type())}, {"shape", tensor.sizes().vec()}};
}

int AnswerJobs(int argc, char** argv,
               const std::function<absl::StatusOr<json>(const json&)>& answer) {
  const int threads = argc == 2 ? std::atoi(argv[1]) : 0;
  if (threads < 1) {
    std::cerr << "usage: " << argv[0] << " THREADS\n";
    return 2;
  }
  at::set_num_threads(threads);
  const auto answer_or_error = [&](const std::string& line) -> json {
    try {
      absl::StatusOr<json> answered = answer(json::parse(line));
      if (answered.ok()) return *std::move(answered);
      return {{"error", answered.status().ToString()}};
    } catch (const std::exception& error) {
      return {{"error", error.what()}};
    }
  };
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << answer_or_error(line).dump() << std::endl;
  }
  return 0;
}

}  // namespace sconce
