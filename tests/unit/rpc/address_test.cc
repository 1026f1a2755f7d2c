#include "server/base/address.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

namespace sconce {
namespace {

TEST(AddressTest, TakesNamesNumbersAndBracketedIpv6) {
  EXPECT_EQ(*ParseAddress("localhost:8001"), (Address{"localhost", 8001}));
  EXPECT_EQ(*ParseAddress("0.0.0.0:0"), (Address{"0.0.0.0", 0}));
  EXPECT_EQ(*ParseAddress("[::1]:65535"), (Address{"::1", 65535}));
}

TEST(AddressTest, WritesWhatItReads) {
  for (const char* text : {"localhost:8001", "0.0.0.0:0", "[::1]:65535"}) {
    EXPECT_EQ(ParseAddress(text)->ToString(), text);
  }
}

TEST(AddressTest, RefusesWithTheTextAndAnExample) {
  for (const char* text : {"", "8001", "host", ":8001", "host:", "host:x", "host:-1", "host:+1",
                           "host: 1", "host:65536", "host:123456", "::1:80", "[::1:80", "::1]:80",
                           "[host]:80", "[]:80", "a b:80", "host/x:80", "a\nb:80"}) {
    const auto address = ParseAddress(text);
    ASSERT_FALSE(address.ok()) << text;
    EXPECT_EQ(address.status().code(), absl::StatusCode::kInvalidArgument);
    const std::string message(address.status().message());
    EXPECT_NE(message.find("expected HOST:PORT"), message.npos) << message;
    EXPECT_EQ(message.find('\n'), message.npos) << message;
  }
}

TEST(AddressTest, SaysWhyNothingCanListen) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in here{};
  here.sin_family = AF_INET;
  here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof here;
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&here), size), 0);
  ASSERT_EQ(listen(fd, 1), 0);
  ASSERT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&here), &size), 0);
  const Address taken{"127.0.0.1", ntohs(here.sin_port)};
  EXPECT_EQ(CheckCanListen(taken).message(),
            "cannot listen on " + taken.ToString() + ": Address already in use");
  close(fd);
  EXPECT_TRUE(CheckCanListen(taken).ok());
  EXPECT_TRUE(CheckCanListen({"localhost", 0}).ok());
  EXPECT_FALSE(CheckCanListen({"no-such-host.invalid", 0}).ok());
}

}  // namespace
}  // namespace sconce
