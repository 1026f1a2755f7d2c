// Tar archives as lists of members with their headers' checksums, sizes and padding put right.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "tests/fuzz/mutators.h"
#include "tests/support/checkpoint_builders.h"

namespace sconce {
namespace {

constexpr size_t kBlock = 512;
constexpr size_t kSizeField = 124, kSizeBytes = 12;
constexpr size_t kChecksumField = 148, kChecksumBytes = 8;
constexpr size_t kTypeField = 156;
constexpr size_t kLinkField = 157;

struct Member {
  std::string header;
  std::string data;
};

uint64_t Octal(std::string_view digits) {
  uint64_t value = 0;
  for (const char c : digits) {
    if (c < '0' || c > '7') break;
    value = value * 8 + static_cast<uint64_t>(c - '0');
  }
  return value;
}

std::vector<Member> DecodeTar(std::string_view bytes) {
  std::vector<Member> members;
  while (bytes.size() >= kBlock && bytes[0] != '\0') {
    Member member;
    member.header = bytes.substr(0, kBlock);
    const uint64_t size = Octal(bytes.substr(kSizeField, kSizeBytes - 1));
    bytes.remove_prefix(kBlock);
    if (size > bytes.size()) break;
    member.data = bytes.substr(0, size);
    bytes.remove_prefix(std::min<size_t>((size + kBlock - 1) / kBlock * kBlock, bytes.size()));
    members.push_back(member);
  }
  return members;
}

void SetOctal(std::string& header, size_t field, size_t digits, uint64_t value) {
  char text[32];
  std::snprintf(text, sizeof text, "%0*llo", static_cast<int>(digits),
                static_cast<unsigned long long>(value));
  header.replace(field, digits, std::string_view(text).substr(0, digits));
}

std::string Encode(std::vector<Member> members, bool sizes_are_true) {
  std::string bytes;
  for (Member& member : members) {
    if (sizes_are_true) SetOctal(member.header, kSizeField, kSizeBytes - 1, member.data.size());
    member.header.replace(kChecksumField, kChecksumBytes, kChecksumBytes, ' ');
    uint64_t sum = 0;
    for (const char c : member.header) sum += static_cast<uint8_t>(c);
    SetOctal(member.header, kChecksumField, 6, sum);
    member.header[kChecksumField + 6] = '\0';
    bytes += member.header + member.data;
    bytes.append((kBlock - bytes.size() % kBlock) % kBlock, '\0');
  }
  return bytes + std::string(2 * kBlock, '\0');
}

}  // namespace

void MutateTar(std::string& bytes, Random& random) {
  std::vector<Member> members;
  if (!random.OneIn(12)) members = DecodeTar(bytes);
  if (members.empty()) return MutateBytes(bytes);
  const size_t chosen = random.Below(members.size());
  Member& member = members[chosen];
  bool sizes_are_true = true;
  switch (random.Below(10)) {
    case 0:
      member.header[kTypeField] = "01235xgLKV\0"[random.Below(11)];
      break;
    case 1:
      member.header.replace(kLinkField, 8, "../../x\0", 8);
      break;
    case 2: {
      constexpr std::string_view kNames[] = {"storages",   "tensors",   "pickle",
                                             "./storages", "../pickle", "/tensors"};
      std::string name(random.Pick(kNames));
      name.resize(16, '\0');
      member.header.replace(0, name.size(), name);
      break;
    }
    case 3:
      SetOctal(member.header, kSizeField, kSizeBytes - 1, static_cast<uint64_t>(random.Integer()));
      sizes_are_true = false;
      break;
    case 4:
      members.push_back(Member(random.Pick(members)));
      break;
    case 5:
      members.erase(members.begin() + static_cast<ptrdiff_t>(chosen));
      break;
    case 6: {
      // The binary numbers between the pickles.
      if (member.data.size() < 8) break;
      const size_t at = random.Below(member.data.size() - 7);
      member.data.replace(at, 8, LittleEndian(random.Integer()));
      break;
    }
    default:
      MutatePicklesIn(member.data, random);
      break;
  }
  bytes = Encode(members, sizes_are_true);
}

}  // namespace sconce
