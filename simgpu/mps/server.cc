#include "simgpu/mps/server.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include "simgpu/mps/packet.h"
#include "simgpu/state/mps.h"
#include "simgpu/state/schedule.h"
#include "simgpu/state/text.h"

namespace simgpu::mps {
namespace {

// CUDA's own numbers of what a client hears.
constexpr char kTerminated[] = "fault 810";  // CUDA_ERROR_MPS_CLIENT_TERMINATED

struct Client {
  int fd = -1;
  pid_t pid = 0;
  bool in_use = false;  // has a context
};

class Server {
 public:
  Server(int daemon, Settings settings) : daemon_(daemon), settings_(std::move(settings)) {}

  [[noreturn]] void Run() {
    for (;;) {
      std::vector<pollfd> waits;
      if (daemon_ >= 0) waits.push_back({daemon_, POLLIN, 0});
      const size_t first = waits.size();
      for (const Client& client : clients_) waits.push_back({client.fd, POLLIN, 0});
      if (waits.empty()) _exit(0);  // nobody to serve and nobody who could bring more
      if (poll(waits.data(), waits.size(), -1) < 0) {
        if (errno == EINTR) continue;
        _exit(1);
      }
      for (size_t i = waits.size(); i-- > first;) {
        if (waits[i].revents != 0) Hear(i - first);
      }
      if (first == 1 && waits[0].revents != 0) Obey();
    }
  }

 private:
  void Hear(size_t index) {
    Client& client = clients_[index];
    std::string text;
    if (!Receive(client.fd, &text)) {
      close(client.fd);
      clients_.erase(clients_.begin() + static_cast<std::ptrdiff_t>(index));
      // A fault is over when everybody who shared it is gone.
      if (clients_.empty()) faulted_ = false;
      return;
    }
    std::string_view words = text;
    const std::string_view verb = TakeWord(&words);
    if (verb == "card") {
      Send(client.fd, Enter(&client, std::string(words)));
    } else if (verb == "fault") {
      faulted_ = true;
      for (const Client& other : clients_) {
        if (other.fd != client.fd) Send(other.fd, text);
      }
    }
  }

  std::string Enter(Client* client, const std::string& uuid) {
    const auto at = std::find(settings_.devices.begin(), settings_.devices.end(), uuid);
    if (at == settings_.devices.end()) return "no device";
    if (faulted_) return "no fault";
    client->in_use = true;
    const auto limit = settings_.limits.find(static_cast<uint32_t>(at - settings_.devices.begin()));
    return "ok " + std::to_string(settings_.permille) + " " +
           std::to_string(limit == settings_.limits.end() ? 0 : limit->second);
  }

  void Obey() {
    std::string text;
    int fd = -1;
    pid_t pid = 0;
    if (!ReceiveWithDescriptor(daemon_, &text, &fd, &pid)) {
      close(daemon_);
      daemon_ = -1;
      return;
    }
    std::string_view words = text;
    const std::string_view verb = TakeWord(&words);
    if (verb == "client") {
      if (fd < 0) return;
      if (clients_.size() >= kMpsClientsMax) {
        Send(fd, "no full");
        close(fd);
      } else if (faulted_) {
        Send(fd, "no fault");
        close(fd);
      } else {
        Send(fd, "ok");
        clients_.push_back({fd, pid, false});
      }
      return;
    }
    Send(daemon_, Answer(verb, words));
    if ((verb == "end" && clients_.empty()) || verb == "force") _exit(0);
  }

  std::string Answer(std::string_view verb, std::string_view words) {
    uint64_t number = 0, bytes = 0;
    if (verb == "percentage" && ParseNumber(words, &number)) {
      settings_.permille = static_cast<uint32_t>(number);
    } else if (verb == "limit") {
      if (!ParseNumber(TakeWord(&words), &number) || !ParseNumber(words, &bytes)) return "no";
      settings_.limits[static_cast<uint32_t>(number)] = bytes;
    } else if (verb == "clients") {
      std::string all;
      for (const Client& client : clients_) all += std::to_string(client.pid) + "\n";
      return all.empty() ? "\n" : all;
    } else if (verb == "status") {
      return faulted_ ? "FAULT" : "ACTIVE";
    } else if (verb == "terminate" && ParseNumber(words, &number)) {
      for (const Client& client : clients_) {
        if (client.pid != static_cast<pid_t>(number)) continue;
        Send(client.fd, kTerminated);
        return "ok";
      }
      return "no such client";
    } else if (verb == "end") {
      return clients_.empty() ? "ok" : "busy";
    } else if (verb != "force") {
      return "no";
    }
    return "ok";
  }

  int daemon_;
  Settings settings_;
  std::vector<Client> clients_;
  bool faulted_ = false;
};

}  // namespace

void Serve(int daemon, Settings settings) {
  prctl(PR_SET_NAME, "nvidia-cuda-mps");  // as much of nvidia-cuda-mps-server as fits
  Server(daemon, std::move(settings)).Run();
}

}  // namespace simgpu::mps
