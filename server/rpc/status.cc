#include "server/rpc/status.h"

#include <cstddef>

#include "server/base/printable.h"
#include "server/base/utf8.h"

namespace sconce {
namespace {

constexpr size_t kMaxMessageBytes = 2000;

}  // namespace

std::string MessageForWire(std::string_view message) {
  if (!IsUtf8(message)) return Printable(message, kMaxMessageBytes);
  if (message.size() <= kMaxMessageBytes) return std::string(message);
  size_t cut = kMaxMessageBytes;
  while (cut > 0 && (static_cast<unsigned char>(message[cut]) & 0xC0) == 0x80) --cut;
  return std::string(message.substr(0, cut)) + "...";
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  // The two enumerations have the same values.
  static_assert(static_cast<int>(grpc::UNAUTHENTICATED) ==
                static_cast<int>(absl::StatusCode::kUnauthenticated));
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()),
                      MessageForWire(std::string(status.message())));
}

}  // namespace sconce
