// Shared libraries whose list of needed libraries is rewritten: the input is the library.

#include <elf.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include "server/program/elf_needed.h"
#include "tests/fuzz/custom_mutator.h"
#include "tests/fuzz/exercise.h"
#include "tests/fuzz/mutators.h"

namespace sconce {
namespace {

constexpr char kName[] = "libtorch.so";
constexpr char kInstead[] = "libtorch_cpu.so";

absl::Status Replace(std::string& library) {
  return ReplaceNeeded({reinterpret_cast<std::byte*>(library.data()), library.size()}, kName,
                       kInstead);
}

// Nothing but one entry of the list is written, and the library goes on wanting what it has to.
void CheckReplaced(const std::string& before, std::string& after) {
  const auto differs = [&](size_t at) { return before[at] != after[at]; };
  size_t first = 0, end = before.size();
  while (first < end && !differs(first)) ++first;
  while (end > first && !differs(end - 1)) --end;
  Require(end - first <= sizeof(Elf64_Dyn), "one entry is written");
  Require(Replace(after).ok(), "what was rewritten can be rewritten");
}

// The fields are numbers of 2, 4 or 8 bytes, of which most are places in the file.
void MutateFields(std::string& bytes, Random& random) {
  for (size_t changes = 1 + random.Below(3); changes > 0; --changes) {
    const size_t size = size_t{1} << (1 + random.Below(3));
    if (bytes.size() < size) return MutateBytes(bytes);
    const size_t at = random.Below(bytes.size() / size) * size;
    int64_t value =
        random.OneIn(2) ? static_cast<int64_t>(random.Below(bytes.size() + 16)) : random.Integer();
    if (random.OneIn(3)) {
      int64_t old = 0;
      std::memcpy(&old, bytes.data() + at, size);
      value = static_cast<int64_t>(static_cast<uint64_t>(old) + random.Below(64) - 32);
    }
    std::memcpy(bytes.data() + at, &value, size);
  }
}

}  // namespace

void Mutate(std::string& input, Random& random) {
  random.OneIn(4) ? MutateBytes(input) : MutateFields(input, random);
}

}  // namespace sconce

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string before(reinterpret_cast<const char*>(data), size);
  sconce::WithinMeans(size, [&] {
    std::string after = before;
    const absl::Status replaced = sconce::Replace(after);
    if (replaced.ok()) {
      sconce::CheckReplaced(before, after);
    } else {
      sconce::RequireGoodError(replaced);
      sconce::Require(after == before, "a library that is refused is as it was");
    }
  });
  return 0;
}
