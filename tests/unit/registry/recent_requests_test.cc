#include "server/registry/recent_requests.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace sconce {
namespace {

using std::chrono::milliseconds;

const TimePoint kNow = TimePoint(std::chrono::hours(1));

// A request of `size` bytes, the first of which is `mark`.
RecentRequest Request(int64_t version, int mark, int64_t size = 4) {
  RecentRequest request{.version = version, .weights_id = "id" + std::to_string(version)};
  request.inputs.push_back({DType::kUInt8, {size}, std::vector<std::byte>(size)});
  request.inputs[0].bytes[0] = static_cast<std::byte>(mark);
  return request;
}

std::vector<int> MarksOf(const RecentRequests& requests, int64_t version) {
  std::vector<int> marks;
  for (const auto& request : requests.Of(version, "id" + std::to_string(version))) {
    marks.push_back(std::to_integer<int>(request->inputs[0].bytes[0]));
  }
  return marks;
}

TEST(RecentRequestsTest, NoneAreKeptUntilTheyAreAskedFor) {
  RecentRequests requests;
  EXPECT_FALSE(requests.Wants(kNow));
  requests.Add(Request(1, 1));
  EXPECT_EQ(MarksOf(requests, 1), std::vector<int>{});
}

TEST(RecentRequestsTest, TheLastAreKeptTheNewestLast) {
  RecentRequests requests;
  requests.SetCapacity(3);
  for (int mark = 1; mark <= 5; ++mark) requests.Add(Request(1, mark));
  EXPECT_EQ(MarksOf(requests, 1), (std::vector<int>{3, 4, 5}));
  requests.SetCapacity(1);
  EXPECT_EQ(MarksOf(requests, 1), std::vector<int>{5});
  requests.SetCapacity(0);
  EXPECT_EQ(MarksOf(requests, 1), std::vector<int>{});
}

TEST(RecentRequestsTest, WhatAnotherVersionAnsweredIsDropped) {
  RecentRequests requests;
  requests.SetCapacity(10);
  requests.Add(Request(1, 1));
  requests.Add(Request(2, 2));
  EXPECT_EQ(MarksOf(requests, 1), std::vector<int>{});
  EXPECT_EQ(MarksOf(requests, 2), std::vector<int>{2});
  RecentRequest overwritten = Request(2, 3);
  overwritten.weights_id = "other weights of the same number";
  requests.Add(std::move(overwritten));
  EXPECT_EQ(MarksOf(requests, 2), std::vector<int>{});
}

TEST(RecentRequestsTest, OnceFullOneIsTakenNowAndThen) {
  RecentRequests requests;
  requests.SetCapacity(2);
  for (int mark = 0; mark < 2; ++mark) {
    EXPECT_TRUE(requests.Wants(kNow));
    requests.Add(Request(1, mark));
  }
  EXPECT_TRUE(requests.Wants(kNow));
  requests.Add(Request(1, 2));
  EXPECT_FALSE(requests.Wants(kNow + milliseconds(9)));
  EXPECT_TRUE(requests.Wants(kNow + milliseconds(10)));
  EXPECT_FALSE(requests.Wants(kNow + milliseconds(10)));
  requests.Add(Request(2, 1));
  EXPECT_TRUE(requests.Wants(kNow + milliseconds(10))) << "little is known of a new version";
}

TEST(RecentRequestsTest, WhatIsKeptIsBoundedInBytes) {
  RecentRequests requests;
  requests.SetCapacity(1000);
  requests.Add(Request(1, 1, RecentRequests::kMaxBytes + 1));
  EXPECT_EQ(MarksOf(requests, 1), std::vector<int>{});
  for (int mark = 1; mark <= 3; ++mark) {
    requests.Add(Request(1, mark, RecentRequests::kMaxBytes / 2));
  }
  EXPECT_EQ(MarksOf(requests, 1), (std::vector<int>{2, 3}));
}

TEST(RecentRequestsTest, IsWrittenAndReadByManyThreads) {
  RecentRequests requests;
  requests.SetCapacity(8);
  std::atomic<int64_t> taken{0};
  std::vector<std::thread> writers;
  for (int t = 0; t < 3; ++t) {
    writers.emplace_back([&, t] {
      for (int i = 0; i < 500; ++i) {
        if (!requests.Wants(kNow + milliseconds(i))) continue;
        requests.Add(Request(1 + i / 250, t));
        ++taken;
      }
    });
  }
  for (int i = 0; i < 200; ++i) EXPECT_LE(requests.Of(1, "id1").size(), 8u);
  for (std::thread& writer : writers) writer.join();
  EXPECT_LE(MarksOf(requests, 2).size(), 8u);
  EXPECT_GE(taken, 8);
}

}  // namespace
}  // namespace sconce
