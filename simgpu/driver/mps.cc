#include "simgpu/driver/mps.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <string>
#include <vector>

#include "simgpu/driver/executor.h"
#include "simgpu/state/mps.h"
#include "simgpu/state/text.h"

namespace simgpu {
namespace {

constexpr int kAnswerSeconds = 10;  // a server that does not answer is none

std::atomic<int> g_connection{-1};
std::map<uint32_t, bool>* g_joined = nullptr;  // by card; the driver's mutex held

bool Send(int fd, const std::string& text) {
  return send(fd, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size());
}

void FailAll(unsigned int code) {
  Driver* driver = Get();
  if (driver == nullptr) return;
  std::vector<Context*> contexts;
  {
    std::lock_guard guard(driver->mutex);
    for (const Object* object : driver->live) {
      if (object->kind != Kind::kContext) continue;
      auto* context = static_cast<Context*>(const_cast<Object*>(object));
      if (g_joined->contains(driver->devices[context->device]->card)) contexts.push_back(context);
    }
  }
  // Contexts are never freed while a driver lives (see End).
  for (Context* context : contexts) Executor::Get().Fail(context, code);
}

// Listens for the server until it ends. One a process.
void* Listen(void*) {
  const int fd = g_connection.load();
  char text[kMpsMessageMax];
  for (;;) {
    const ssize_t got = recv(fd, text, sizeof text, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    std::string_view words(text, static_cast<size_t>(got));
    uint64_t code = 0;
    if (TakeWord(&words) == "fault" && ParseNumber(words, &code)) {
      FailAll(static_cast<unsigned int>(code));
    }
  }
  FailAll(CUDA_ERROR_MPS_RPC_FAILURE);
  return nullptr;
}

CUresult Refused(const std::string& reason) {
  Say("the simulated MPS server refused: " + reason);
  if (reason == "full") return CUDA_ERROR_MPS_MAX_CLIENTS_REACHED;
  if (reason == "device") return CUDA_ERROR_NO_DEVICE;
  return CUDA_ERROR_MPS_SERVER_NOT_READY;
}

// One question, one answer. Only before the listener is there.
std::string Ask(int fd, const std::string& question) {
  char text[kMpsMessageMax];
  ssize_t got = -1;
  if (Send(fd, question)) {
    do {
      got = recv(fd, text, sizeof text, 0);
    } while (got < 0 && errno == EINTR);
  }
  return got > 0 ? std::string(text, static_cast<size_t>(got)) : "no connection";
}

// The process's own wishes stand below what the server allows, never above.
CUresult Enter(Driver* driver, uint32_t card, const std::string& answer) {
  std::string_view words = answer;
  const std::string_view verdict = TakeWord(&words);
  if (verdict != "ok") return Refused(std::string(words.empty() ? "no answer" : words));
  uint64_t permille = 0, limit = 0;
  if (!ParseNumber(TakeWord(&words), &permille) || !ParseNumber(words, &limit)) {
    return CUDA_ERROR_MPS_RPC_FAILURE;
  }
  uint32_t own = 0;
  if (const char* text = getenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE");
      text != nullptr && ParseMpsPercentage(text, &own)) {
    permille = std::min<uint64_t>(permille, own);
  }
  std::map<uint32_t, uint64_t> limits;
  if (const char* text = getenv("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"); text != nullptr) {
    if (!ParseMpsLimits(text, &limits)) {
      Say("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT: expected DEVICE=SIZE with G or M, not \"" +
          std::string(text) + "\"");
    }
    for (const auto& [device, bytes] : limits) {
      if (device >= driver->devices.size() || driver->devices[device]->card != card) continue;
      limit = limit == 0 ? bytes : std::min(limit, bytes);
    }
  }
  if (limit != 0 && !driver->state->LimitOwn(card, limit)) return CUDA_ERROR_OUT_OF_MEMORY;
  const uint32_t covered =
      MpsCoverage(static_cast<uint32_t>(permille), driver->state->card(card).profile.sm_count);
  if (!driver->state->engine(card).SetPercentage(covered)) {
    driver->state->LimitOwn(card, 0);
    return CUDA_ERROR_MPS_MAX_CLIENTS_REACHED;
  }
  (*g_joined)[card] = true;
  return CUDA_SUCCESS;
}

}  // namespace

CUresult JoinMps(Driver* driver, uint32_t card) {
  if (g_joined == nullptr) g_joined = new std::map<uint32_t, bool>;
  if (g_joined->contains(card)) return CUDA_SUCCESS;
  const bool first = g_connection.load() < 0;
  // A connection has one listener, so further cards have connections of their own.
  const char* folder = getenv("CUDA_MPS_PIPE_DIRECTORY");
  const int fd = MpsConnect(folder != nullptr && *folder != 0 ? folder : kMpsPipeFolder);
  if (fd < 0) return CUDA_SUCCESS;
  const timeval patience = {kAnswerSeconds, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  CUresult result = CUDA_ERROR_MPS_CONNECTION_FAILED;
  const std::string hello = Ask(fd, kMpsHello);
  if (hello == "ok") {
    result = Enter(driver, card, Ask(fd, "card " + std::string(driver->state->card(card).uuid)));
  } else if (hello != "no connection") {
    result = Refused(hello.substr(std::min<size_t>(hello.size(), 3)));
  }
  if (result != CUDA_SUCCESS) {
    close(fd);
    return result;
  }
  const timeval forever = {};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &forever, sizeof forever);
  if (!first) return CUDA_SUCCESS;  // kept open: it says that we live
  g_connection.store(fd);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t listener;
  if (pthread_create(&listener, nullptr, Listen, nullptr) == 0) pthread_detach(listener);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return CUDA_SUCCESS;
}

void TellMpsFault(unsigned int code) {
  if (const int fd = g_connection.load(); fd >= 0) Send(fd, "fault " + std::to_string(code));
}

}  // namespace simgpu
