// Memory of a GPU that another process owns: this program, started anew, which takes commands on
// its standard input. CUDA lets no process open a handle of its own.
#include <cuda_runtime_api.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "absl/strings/escaping.h"
#include "tests/gpu/backend.h"

extern char** environ;

namespace sconce::gpu {
namespace {

constexpr std::string_view kOwnerFlag = "--own-device-memory";

std::string Hex(const void* bytes, size_t size) {
  return absl::BytesToHexString({static_cast<const char*>(bytes), size});
}

[[noreturn]] void Fail(const char* what, cudaError_t error) {
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::_Exit(1);
}

void Check(const char* what, cudaError_t error) {
  if (error != cudaSuccess) Fail(what, error);
}

// Prints the handle, then serves "write OFFSET HEX" and "read OFFSET BYTES" until its input ends.
int Own(int device, size_t size_bytes) {
  void* memory = nullptr;
  cudaIpcMemHandle_t handle;
  Check("cudaSetDevice", cudaSetDevice(device));
  Check("cudaMalloc", cudaMalloc(&memory, size_bytes));
  Check("cudaIpcGetMemHandle", cudaIpcGetMemHandle(&handle, memory));
  std::cout << Hex(&handle, sizeof handle) << std::endl;
  std::string command;
  int64_t offset = 0;
  while (std::cin >> command >> offset) {
    char* const at = static_cast<char*>(memory) + offset;
    if (command == "write") {
      std::string hex;
      std::cin >> hex;
      const std::string bytes = absl::HexStringToBytes(hex);
      Check("cudaMemcpy", cudaMemcpy(at, bytes.data(), bytes.size(), cudaMemcpyHostToDevice));
      Check("cudaDeviceSynchronize", cudaDeviceSynchronize());
      std::cout << "done" << std::endl;
    } else {
      size_t size = 0;
      std::cin >> size;
      std::string bytes(size, '\0');
      Check("cudaMemcpy", cudaMemcpy(bytes.data(), at, size, cudaMemcpyDeviceToHost));
      std::cout << Hex(bytes.data(), bytes.size()) << std::endl;
    }
  }
  cudaFree(memory);
  return 0;
}

class OwnedElsewhere final : public ForeignMemory {
 public:
  OwnedElsewhere(c10::Device device, int64_t size_bytes) {
    int to_child[2], from_child[2];
    if (pipe(to_child) != 0 || pipe(from_child) != 0) throw std::runtime_error("no pipes");
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, to_child[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, from_child[1], STDOUT_FILENO);
    // The child must not keep the end of its own input open.
    posix_spawn_file_actions_addclose(&actions, to_child[1]);
    posix_spawn_file_actions_addclose(&actions, from_child[0]);
    std::string words[] = {"gpu_test", std::string(kOwnerFlag), std::to_string(device.index()),
                           std::to_string(size_bytes)};
    char* arguments[] = {words[0].data(), words[1].data(), words[2].data(), words[3].data(),
                         nullptr};
    const int error = posix_spawn(&child_, "/proc/self/exe", &actions, nullptr, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(to_child[0]);
    close(from_child[1]);
    if (error != 0) throw std::runtime_error("the owner cannot be started");
    commands_ = fdopen(to_child[1], "w");
    answers_ = fdopen(from_child[0], "r");
    handle_ = absl::HexStringToBytes(Answer());
  }

  ~OwnedElsewhere() override {
    fclose(commands_);
    fclose(answers_);
    waitpid(child_, nullptr, 0);
  }

  const std::string& handle() const override { return handle_; }

  void Write(int64_t offset, const std::string& bytes) override {
    std::fprintf(commands_, "write %lld %s\n", static_cast<long long>(offset),
                 Hex(bytes.data(), bytes.size()).c_str());
    Answer();
  }

  std::string Read(int64_t offset, int64_t size_bytes) override {
    std::fprintf(commands_, "read %lld %lld\n", static_cast<long long>(offset),
                 static_cast<long long>(size_bytes));
    return absl::HexStringToBytes(Answer());
  }

 private:
  std::string Answer() {
    std::fflush(commands_);
    std::string line;
    for (int c = std::fgetc(answers_); c != EOF && c != '\n'; c = std::fgetc(answers_)) {
      line.push_back(static_cast<char>(c));
    }
    if (line.empty()) throw std::runtime_error("the owner of the memory has ended");
    return line;
  }

  pid_t child_ = -1;
  FILE* commands_ = nullptr;
  FILE* answers_ = nullptr;
  std::string handle_;
};

}  // namespace

std::unique_ptr<ForeignMemory> NewForeignMemory(c10::Device device, int64_t size_bytes) {
  return std::make_unique<OwnedElsewhere>(device, size_bytes);
}

std::optional<int> RunAsOwner(int argc, char** argv) {
  if (argc != 4 || argv[1] != kOwnerFlag) return std::nullopt;
  return Own(std::stoi(argv[2]), std::stoull(argv[3]));
}

}  // namespace sconce::gpu
