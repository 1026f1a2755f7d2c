// file_faults: a library that is loaded before all others (LD_PRELOAD) and lets a test break what
// the program asks of the system: files, folders, inotify, large pieces of memory, the clock.
//
// The environment variable SCONCE_FILE_FAULTS names a file of rules, which is read again at each
// call, so that a test changes it while the program runs. A rule is a line of seven words:
//
//   ID CALLS PATTERN ACTION ARGUMENT SKIP COUNT
//
// ID is a number below 1024 that no other rule has. CALLS are names of calls, with commas between
// them; PATTERN is for the path (fnmatch; of a call with a file descriptor the path that it leads
// to), and for "allocate" the least size. The first SKIP calls that match are let through, then
// COUNT of them (-1: all that follow) meet ACTION:
//
//   fail ERRNO     fails so
//   short BYTES    reads or writes no more than that
//   block 0        waits until the rule is gone
//   kill 0         the process is gone
//   shift SECONDS  of "clock": what CLOCK_REALTIME is ahead
//
// Each call that met an action adds a line "ID CALL PATH" to the file of rules with ".hits" at its
// end. Nothing here calls what it wraps by name, nor allocates.

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <new>

namespace {

// What is done here leaves errno as it was: readdir, for one, tells its end by that.
class KeptErrno {
 public:
  ~KeptErrno() { errno = error_; }

 private:
  const int error_ = errno;
};

constexpr int kRules = 1024;
constexpr size_t kSmallestAllocation = 64 << 10;

struct Rule {
  int id = 0;
  char calls[256];
  char pattern[512];
  char action[16];
  long argument = 0;
  long skip = 0;
  long count = -1;
};

std::atomic<long> g_matches[kRules];

const char* RulesPath() {
  static const char* const path = getenv("SCONCE_FILE_FAULTS");
  return path;
}

// Of the file of rules; 0 where there is none.
size_t ReadRules(char* text, size_t size) {
  if (RulesPath() == nullptr) return 0;
  const long fd = syscall(SYS_openat, AT_FDCWD, RulesPath(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  const long got = syscall(SYS_read, fd, text, size - 1);
  syscall(SYS_close, fd);
  text[std::max(got, 0L)] = '\0';
  return static_cast<size_t>(std::max(got, 0L));
}

bool Names(const char* calls, const char* call) {
  const size_t size = strlen(call);
  for (const char* at = calls; (at = strstr(at, call)) != nullptr; ++at) {
    const bool begins = at == calls || at[-1] == ',';
    if (begins && (at[size] == ',' || at[size] == '\0')) return true;
  }
  return false;
}

bool Matches(const Rule& rule, const char* call, const char* path, size_t bytes) {
  if (!Names(rule.calls, call)) return false;
  return path == nullptr ? bytes >= strtoul(rule.pattern, nullptr, 10)
                         : fnmatch(rule.pattern, path, 0) == 0;
}

// The next rule of `text`, which is moved behind it.
bool NextRule(char** text, Rule* rule) {
  while (**text != '\0') {
    char* const line = *text;
    char* const end = strchr(line, '\n');
    *text = end == nullptr ? line + strlen(line) : end + 1;
    if (end != nullptr) *end = '\0';
    if (sscanf(line, "%d %255s %511s %15s %ld %ld %ld", &rule->id, rule->calls, rule->pattern,
               rule->action, &rule->argument, &rule->skip, &rule->count) == 7 &&
        rule->id >= 0 && rule->id < kRules) {
      return true;
    }
  }
  return false;
}

void WriteHit(const Rule& rule, const char* call, const char* path) {
  char name[4096], line[1024];
  snprintf(name, sizeof name, "%s.hits", RulesPath());
  const int size =
      snprintf(line, sizeof line, "%d %s %s\n", rule.id, call, path == nullptr ? "-" : path);
  const long fd = syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_CREAT | O_APPEND, 0600);
  if (fd < 0) return;
  syscall(SYS_write, fd, line, std::min<size_t>(static_cast<size_t>(size), sizeof line - 1));
  syscall(SYS_close, fd);
}

bool IsThere(int id) {
  char text[16384];
  ReadRules(text, sizeof text);
  Rule rule;
  for (char* at = text; NextRule(&at, &rule);) {
    if (rule.id == id) return true;
  }
  return false;
}

// What a call meets: nothing, an error to fail with, or a length.
struct Verdict {
  int error = 0;
  size_t most = SIZE_MAX;
};

Verdict Judge(const char* call, const char* path, size_t bytes = 0) {
  const KeptErrno kept;
  char text[16384];
  if (ReadRules(text, sizeof text) == 0) return {};
  Rule rule;
  for (char* at = text; NextRule(&at, &rule);) {
    if (!Matches(rule, call, path, bytes)) continue;
    const long before = g_matches[rule.id]++;
    if (before < rule.skip || (rule.count >= 0 && before >= rule.skip + rule.count)) continue;
    WriteHit(rule, call, path);
    if (strcmp(rule.action, "fail") == 0) return {.error = static_cast<int>(rule.argument)};
    if (strcmp(rule.action, "short") == 0) return {.most = static_cast<size_t>(rule.argument)};
    if (strcmp(rule.action, "kill") == 0) kill(getpid(), SIGKILL);
    while (strcmp(rule.action, "block") == 0 && IsThere(rule.id)) {
      const struct timespec moment = {.tv_sec = 0, .tv_nsec = 2'000'000};
      nanosleep(&moment, nullptr);
    }
    return {};
  }
  return {};
}

Verdict JudgeDescriptor(const char* call, int fd) {
  if (RulesPath() == nullptr || fd < 0) return {};
  const KeptErrno kept;
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t size = readlink(link, path, sizeof path - 1);
  // Sockets and pipes have no path.
  if (size <= 0 || path[0] != '/') return {};
  path[size] = '\0';
  return Judge(call, path);
}

template <typename Function>
Function* Next(Function*, const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

// The function that is wrapped.
#define NEXT(name)                                                                \
  ([] {                                                                           \
    static auto* const next = Next(static_cast<decltype(&name)>(nullptr), #name); \
    return next;                                                                  \
  }())

template <typename Result>
Result Fail(int error) {
  errno = error;
  return static_cast<Result>(-1);
}

int ShiftSeconds() {
  const KeptErrno kept;
  char text[16384];
  if (ReadRules(text, sizeof text) == 0) return 0;
  Rule rule;
  for (char* at = text; NextRule(&at, &rule);) {
    if (Names(rule.calls, "clock")) return static_cast<int>(rule.argument);
  }
  return 0;
}

void* Allocate(size_t size) {
  if (size >= kSmallestAllocation && Judge("allocate", nullptr, size).error != 0) return nullptr;
  return malloc(size);
}

}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(more, mode_t) : 0;
  va_end(more);
  const int error = Judge("open", path).error;
  return error != 0 ? Fail<int>(error) : NEXT(open)(path, flags, mode);
}

int openat(int folder, const char* path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(more, mode_t) : 0;
  va_end(more);
  // How libstdc++ opens a folder to list it.
  const int error = Judge((flags & O_DIRECTORY) != 0 ? "opendir" : "open", path).error;
  return error != 0 ? Fail<int>(error) : NEXT(openat)(folder, path, flags, mode);
}

int stat(const char* path, struct stat* out) {
  const int error = Judge("stat", path).error;
  return error != 0 ? Fail<int>(error) : NEXT(stat)(path, out);
}

int fstat(int fd, struct stat* out) {
  const int error = JudgeDescriptor("fstat", fd).error;
  return error != 0 ? Fail<int>(error) : NEXT(fstat)(fd, out);
}

struct dirent* readdir(DIR* folder) {
  const int error = JudgeDescriptor("readdir", dirfd(folder)).error;
  if (error == 0) return NEXT(readdir)(folder);
  errno = error;
  return nullptr;
}

ssize_t read(int fd, void* buffer, size_t size) {
  const Verdict verdict = JudgeDescriptor("read", fd);
  if (verdict.error != 0) return Fail<ssize_t>(verdict.error);
  return NEXT(read)(fd, buffer, std::min(size, verdict.most));
}

ssize_t pread(int fd, void* buffer, size_t size, off_t offset) {
  const Verdict verdict = JudgeDescriptor("pread", fd);
  if (verdict.error != 0) return Fail<ssize_t>(verdict.error);
  return NEXT(pread)(fd, buffer, std::min(size, verdict.most), offset);
}

// Cut short, it fills the first part alone.
ssize_t preadv2(int fd, const struct iovec* parts, int count, off_t offset, int flags) {
  const Verdict verdict = JudgeDescriptor("preadv", fd);
  if (verdict.error != 0) return Fail<ssize_t>(verdict.error);
  if (verdict.most == SIZE_MAX || count == 0) return NEXT(preadv2)(fd, parts, count, offset, flags);
  struct iovec first = parts[0];
  first.iov_len = std::min(first.iov_len, verdict.most);
  return NEXT(preadv2)(fd, &first, 1, offset, flags);
}

ssize_t write(int fd, const void* buffer, size_t size) {
  const Verdict verdict = JudgeDescriptor("write", fd);
  if (verdict.error != 0) return Fail<ssize_t>(verdict.error);
  return NEXT(write)(fd, buffer, std::min(size, verdict.most));
}

int fsync(int fd) {
  const int error = JudgeDescriptor("fsync", fd).error;
  return error != 0 ? Fail<int>(error) : NEXT(fsync)(fd);
}

int rename(const char* from, const char* to) {
  const int error = Judge("rename", to).error;
  return error != 0 ? Fail<int>(error) : NEXT(rename)(from, to);
}

int inotify_init1(int flags) {
  const int error = Judge("inotify_init", "").error;
  return error != 0 ? Fail<int>(error) : NEXT(inotify_init1)(flags);
}

int inotify_add_watch(int fd, const char* path, uint32_t mask) {
  const int error = Judge("inotify_add_watch", path).error;
  return error != 0 ? Fail<int>(error) : NEXT(inotify_add_watch)(fd, path, mask);
}

int posix_memalign(void** out, size_t alignment, size_t size) {
  if (size >= kSmallestAllocation) {
    const int error = Judge("allocate", nullptr, size).error;
    if (error != 0) return error;
  }
  return NEXT(posix_memalign)(out, alignment, size);
}

void* mmap(void* at, size_t size, int protection, int flags, int fd, off_t offset) {
  if (fd < 0 && size >= kSmallestAllocation) {
    const int error = Judge("allocate", nullptr, size).error;
    if (error != 0) {
      errno = error;
      return MAP_FAILED;
    }
  }
  return NEXT(mmap)(at, size, protection, flags, fd, offset);
}

int clock_gettime(clockid_t clock, struct timespec* out) {
  const int result = NEXT(clock_gettime)(clock, out);
  if (result == 0 && clock == CLOCK_REALTIME) out->tv_sec += ShiftSeconds();
  return result;
}

int gettimeofday(struct timeval* __restrict out, void* __restrict zone) {
  const int result = NEXT(gettimeofday)(out, zone);
  if (result == 0) out->tv_sec += ShiftSeconds();
  return result;
}

}  // extern "C"

void* operator new(size_t size) {
  void* const memory = Allocate(std::max<size_t>(size, 1));
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void* operator new(size_t size, const std::nothrow_t&) noexcept {
  return Allocate(std::max<size_t>(size, 1));
}
void operator delete(void* memory) noexcept { free(memory); }
void operator delete(void* memory, size_t) noexcept { free(memory); }
