#include "os/net.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "os/clock.h"
#include "os/library.h"
#include "os/scratch.h"

namespace tessera::os {
namespace {

class NetTest : public testing::Test {
 protected:
  static std::span<const std::byte> Bytes(const std::string& text) {
    return std::as_bytes(std::span(text.data(), text.size()));
  }

  const ScratchFolder folder_;
  const std::string path_ = folder_ / "s";
};

TEST_F(NetTest, DatagramsKeepTheirBordersAndCarryDescriptors) {
  auto listener = ListenUnix(path_, SocketKind::kSeqPacket, 0600);
  ASSERT_TRUE(listener);
  auto client = ConnectUnix(path_, SocketKind::kSeqPacket);
  ASSERT_TRUE(client);
  auto server = Accept(listener->get());
  ASSERT_TRUE(server);

  const auto peer = PeerOf(server->get());
  ASSERT_TRUE(peer);
  EXPECT_EQ(peer->pid, getpid());
  EXPECT_EQ(peer->uid, getuid());

  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const Fd reader(ends[0]);
  const Fd writer(ends[1]);
  const int fds[] = {ends[1]};
  ASSERT_TRUE(SendWithFds(client->get(), Bytes("first"), fds));
  ASSERT_TRUE(SendWithFds(client->get(), Bytes("second"), {}));

  auto first = ReceiveWithFds(server->get(), 64);
  ASSERT_TRUE(first);
  EXPECT_EQ(first->bytes.size(), 5u);
  ASSERT_EQ(first->fds.size(), 1u);
  EXPECT_NE(fcntl(first->fds[0].get(), F_GETFD) & FD_CLOEXEC, 0);
  ASSERT_EQ(write(first->fds[0].get(), "x", 1), 1);
  char got = 0;
  ASSERT_EQ(read(reader.get(), &got, 1), 1);
  EXPECT_EQ(got, 'x');

  auto second = ReceiveWithFds(server->get(), 3);
  ASSERT_TRUE(second);
  EXPECT_TRUE(second->truncated);
  client->Close();
  auto end = ReceiveWithFds(server->get(), 64);
  ASSERT_TRUE(end);
  EXPECT_TRUE(end->bytes.empty());
}

TEST_F(NetTest, AStaleSocketIsReplacedALiveOneIsNot) {
  {
    auto first = ListenUnix(path_, SocketKind::kSeqPacket, 0600);
    ASSERT_TRUE(first);
    for (const auto kind : {SocketKind::kSeqPacket, SocketKind::kStream}) {
      const auto second = ListenUnix(path_, kind, 0600);
      ASSERT_FALSE(second);
      EXPECT_EQ(second.error().code(), Code::kAlreadyExists);
    }
  }
  ASSERT_EQ(access(path_.c_str(), F_OK), 0);  // Stale now.
  auto again = ListenUnix(path_, SocketKind::kSeqPacket, 0666);
  ASSERT_TRUE(again) << again.error().ToString();
  struct stat info{};
  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0666u);
  EXPECT_TRUE(ConnectUnix(path_, SocketKind::kSeqPacket));
}

TEST_F(NetTest, AFileThatIsNoSocketIsNeverReplaced) {
  const Fd file(open(path_.c_str(), O_CREAT | O_WRONLY, 0600));
  EXPECT_EQ(ListenUnix(path_, SocketKind::kStream, 0600).error().code(), Code::kAlreadyExists);
  EXPECT_EQ(access(path_.c_str(), F_OK), 0);
}

TEST_F(NetTest, PathsHaveTheKernelsBound) {
  const std::string fits = folder_ / std::string(107 - folder_.path().size() - 1, 'a');
  ASSERT_EQ(fits.size(), 107u);
  EXPECT_TRUE(ListenUnix(fits, SocketKind::kStream, 0600));
  unlink(fits.c_str());
  for (const auto& result : {ListenUnix(fits + "a", SocketKind::kStream, 0600).error(),
                             ConnectUnix(fits + "a", SocketKind::kStream).error()}) {
    EXPECT_EQ(result.code(), Code::kInvalidArgument);
    EXPECT_NE(result.message().find("107"), std::string::npos);
  }
}

TEST_F(NetTest, NobodyThereIsAnErrorThatNamesThePath) {
  const auto none = ConnectUnix(path_, SocketKind::kStream);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code(), Code::kNotFound);
  EXPECT_NE(none.error().message().find(path_), std::string::npos);
}

TEST_F(NetTest, SendingToAClosedPeerIsAnErrorNotASignal) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  const Fd near(ends[0]);
  close(ends[1]);
  EXPECT_EQ(SendWithFds(near.get(), Bytes("x"), {}).error().code(), Code::kUnavailable);
  const int five[] = {0, 0, 0, 0, 0};
  EXPECT_EQ(SendWithFds(near.get(), Bytes("x"), five).error().code(), Code::kInvalidArgument);
}

TEST(Library, FindsSymbolsAndNamesWhatIsMissing) {
  auto library = Library::Open("libc.so.6");
  ASSERT_TRUE(library);
  auto* const length = library->Function<std::size_t(const char*)>("strlen");
  ASSERT_NE(length, nullptr);
  EXPECT_EQ(length("four"), 4u);
  EXPECT_EQ(library->Find("no_such_symbol_here"), nullptr);
  const auto none = Library::Open("libnone-such.so.9");
  ASSERT_FALSE(none);
  EXPECT_NE(none.error().message().find("libnone-such.so.9"), std::string::npos);
}

TEST(Clock, RealMovesForwardAndFakeMovesByHand) {
  const auto before = RealClock().MonotonicNanos();
  RealClock().SleepNanos(1'000'000);
  EXPECT_GE(RealClock().MonotonicNanos() - before, 1'000'000);
  FakeClock fake(5);
  fake.SleepNanos(7'000);
  fake.AdvanceMicros(3);
  EXPECT_EQ(fake.WallMicros(), 15);
}

}  // namespace
}  // namespace tessera::os
