// Reads one checkpoint over and over, in the ways it is told on standard input, into memory that
// was touched before. bench/scenarios/checkpoint.py drives it, so that two ways can be measured in
// turn.
//
//   open      opens the file again -> seconds, bytes asked for, bytes from the disk, heap
//   drop      drops the file from the page cache
//   read N    Checkpoint::ReadTensors with N threads
//   hash N    the same, with the content hash that names weights
//   crc N, sha256 N    the same, verified
//   each      Checkpoint::ReadInto, tensor by tensor
//   bare      preadv over the storages' ranges and nothing else
//   direct N  O_DIRECT over the whole file, N threads, 1 MiB at a time
//   ahead     read() over the whole file with the kernel's read-ahead
//   peak N    as read N -> bytes of memory beyond what was there before
//
// All others answer with: wall seconds, processor seconds, bytes.

#include <fcntl.h>
#include <malloc.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "server/base/content_hash.h"
#include "server/checkpoint/checkpoint.h"

namespace sconce {
namespace {

constexpr int64_t kDirectBytes = int64_t{1} << 20;

[[noreturn]] void Fail(const std::string& message) {
  std::cerr << "sconce_read_bench: " << message << "\n";
  std::exit(1);
}

void Require(const absl::Status& status) {
  if (!status.ok()) Fail(std::string(status.message()));
}

double ProcessorSeconds() {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const struct timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// A number after "<name>:" in a file of /proc/self.
int64_t ProcNumber(const std::string& file, const std::string& name) {
  std::ifstream in("/proc/self/" + file);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(name + ":")) return std::atoll(line.c_str() + name.size() + 1);
  }
  return 0;
}

std::unique_ptr<Checkpoint> Open(const std::string& path, const CheckpointOptions& options = {}) {
  auto checkpoint = OpenCheckpoint(path, options);
  Require(checkpoint.status());
  return *std::move(checkpoint);
}

class Bench {
 public:
  explicit Bench(std::string path) : path_(std::move(path)), checkpoint_(Open(path_)) {}

  // The answer to one line.
  std::string Do(const std::string& line) {
    std::istringstream words(line);
    std::string way;
    int threads = 1;
    words >> way >> threads;
    if (way == "open") return OpenAgain();
    if (way == "drop") return Drop();
    if (requests_.empty()) MakeRoom();
    if (way == "peak") return Peak(threads);
    const double wall = Now();
    const double processor = ProcessorSeconds();
    const int64_t bytes = Read(way, threads);
    std::ostringstream answer;
    answer.precision(9);
    answer << Now() - wall << ' ' << ProcessorSeconds() - processor << ' ' << bytes;
    return answer.str();
  }

 private:
  void MakeRoom() {
    int64_t size = 0;
    for (const TensorDescriptor& tensor : checkpoint_->tensors()) {
      size += (tensor.size_bytes() + 63) / 64 * 64;
    }
    void* const room = ::mmap(nullptr, static_cast<size_t>(std::max<int64_t>(size, 1)),
                              PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED) Fail("no memory for the tensors");
    auto* at = static_cast<std::byte*>(room);
    for (int64_t i = 0; i < size; i += 4096) at[i] = std::byte{1};
    for (const TensorDescriptor& tensor : checkpoint_->tensors()) {
      requests_.push_back({&tensor, {at, static_cast<size_t>(tensor.size_bytes())}});
      const StorageDescriptor& storage =
          checkpoint_->storages()[static_cast<size_t>(tensor.storage)];
      ranges_.emplace_back(storage.file_offset, requests_.back().destination.first(std::min(
                                                    requests_.back().destination.size(),
                                                    static_cast<size_t>(storage.size_bytes))));
      at += (tensor.size_bytes() + 63) / 64 * 64;
    }
    std::sort(ranges_.begin(), ranges_.end(),
              [](const auto& a, const auto& b) { return a.first < b.first; });
  }

  int64_t Read(const std::string& way, int threads) {
    if (way == "bare") return Bare();
    if (way == "direct") return Direct(threads);
    if (way == "ahead") return Ahead();
    int64_t bytes = 0;
    for (const TensorRequest& request : requests_) {
      bytes += static_cast<int64_t>(request.destination.size());
    }
    if (way == "each") {
      for (const TensorRequest& request : requests_) {
        Require(checkpoint_->ReadInto(*request.tensor, request.destination));
      }
      return bytes;
    }
    ReadOptions options;
    options.threads = threads;
    if (way == "read") {
      Require(checkpoint_->ReadTensors(requests_, options));
    } else if (way == "hash") {
      std::vector<ContentHasher> hashers(requests_.size());
      options.on_piece = [&](size_t request, absl::Span<const std::byte> piece) {
        hashers[request].Update(piece);
      };
      Require(checkpoint_->ReadTensors(requests_, options));
    } else if (way == "crc" || way == "sha256") {
      CheckpointOptions verify;
      verify.verify_crc = way == "crc";
      verify.verify_sha256 = way == "sha256";
      // What is verified once is not verified again.
      const std::unique_ptr<Checkpoint> checkpoint = Open(path_, verify);
      std::vector<TensorRequest> requests = requests_;
      for (size_t i = 0; i < requests.size(); ++i) requests[i].tensor = &checkpoint->tensors()[i];
      Require(checkpoint->ReadTensors(requests, options));
    } else {
      Fail("'" + way + "' is no way to read");
    }
    return bytes;
  }

  int64_t Bare() {
    const int fd = OpenFile(0);
    int64_t bytes = 0;
    for (const auto& [offset, range] : ranges_) {
      for (size_t done = 0; done < range.size();) {
        const struct iovec part { range.data() + done, range.size() - done };
        const ssize_t got = ::preadv(fd, &part, 1, offset + static_cast<int64_t>(done));
        if (got <= 0) Fail("cannot read");
        done += static_cast<size_t>(got);
      }
      bytes += static_cast<int64_t>(range.size());
    }
    ::close(fd);
    return bytes;
  }

  int64_t Direct(int threads) {
    const int fd = OpenFile(O_DIRECT);
    const int64_t size = checkpoint_->files().front().fingerprint.size_bytes;
    std::atomic<int64_t> next = 0;
    const auto work = [&] {
      void* const buffer = std::aligned_alloc(4096, kDirectBytes);
      while (true) {
        const int64_t offset = next.fetch_add(kDirectBytes);
        if (offset >= size) break;
        if (::pread(fd, buffer, kDirectBytes, offset) <= 0) Fail("cannot read with O_DIRECT");
      }
      std::free(buffer);
    };
    {
      std::vector<std::jthread> others;
      for (int i = 1; i < threads; ++i) others.emplace_back(work);
      work();
    }
    ::close(fd);
    return size;
  }

  int64_t Ahead() {
    const int fd = OpenFile(0);
    ::posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    std::vector<std::byte> buffer(kDirectBytes);
    int64_t bytes = 0;
    while (const ssize_t got = ::read(fd, buffer.data(), buffer.size())) {
      if (got < 0) Fail("cannot read");
      bytes += got;
    }
    ::close(fd);
    return bytes;
  }

  std::string Drop() {
    const int fd = OpenFile(0);
    ::fsync(fd);
    ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    ::close(fd);
    return "dropped";
  }

  std::string OpenAgain() {
    const int64_t asked = ProcNumber("io", "rchar");
    const int64_t disk = ProcNumber("io", "read_bytes");
    const auto heap = [] {
      const struct mallinfo2 info = ::mallinfo2();
      return static_cast<int64_t>(info.uordblks + info.hblkhd);
    };
    const int64_t heap_before = heap();
    const double wall = Now();
    const std::unique_ptr<Checkpoint> again = Open(path_);
    const double seconds = Now() - wall;
    const int64_t heap_after = heap();
    std::ostringstream answer;
    // What it takes to read /proc/self/io once is counted too, some hundred bytes.
    answer << seconds << ' ' << ProcNumber("io", "rchar") - asked << ' '
           << ProcNumber("io", "read_bytes") - disk << ' ' << heap_after - heap_before;
    return answer.str();
  }

  std::string Peak(int threads) {
    std::ofstream("/proc/self/clear_refs") << 5;  // the peak is from now on
    const int64_t before = ProcNumber("status", "VmRSS");
    Read("read", threads);
    return std::to_string((ProcNumber("status", "VmHWM") - before) * 1024);
  }

  int OpenFile(int flags) const {
    const int fd = ::open(checkpoint_->files().front().path.c_str(), O_RDONLY | O_CLOEXEC | flags);
    if (fd < 0) Fail("cannot open " + path_);
    return fd;
  }

  const std::string path_;
  const std::unique_ptr<Checkpoint> checkpoint_;
  std::vector<TensorRequest> requests_;
  std::vector<std::pair<int64_t, absl::Span<std::byte>>> ranges_;  // of storages, in file order
};

}  // namespace
}  // namespace sconce

int main(int argc, char** argv) {
  if (argc != 2) sconce::Fail("expected the path of a checkpoint in one file");
  sconce::Bench bench(argv[1]);
  for (std::string line; std::getline(std::cin, line);) std::cout << bench.Do(line) << std::endl;
}
