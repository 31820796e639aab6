#include "simgpu/driver/ipc.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "abi/cuda_memory.h"
#include "simgpu/driver/memory.h"

namespace simgpu {
namespace {

constexpr uint64_t kMagic = 0x53696d4970633031;
constexpr uint32_t kMemory = 1, kEventPage = 2;
constexpr int kAnswerSeconds = 5;  // after which an exporter that does not answer counts as gone
constexpr size_t kStaleLooksMax = 4096;  // sockets looked at for being stale, a time
constexpr uint64_t kPageBytes = 4096;

// What the 64 bytes hold. It goes over the socket as the question, too.
struct Handle {
  uint64_t magic = kMagic;
  uint32_t kind = 0;
  uint32_t card = 0;
  uint64_t socket[2] = {};  // whose name is made of it
  uint64_t id = 0;          // of the allocation or event, in its process
  uint64_t bytes = 0;
};
static_assert(sizeof(Handle) <= sizeof(CUipcMemHandle) &&
              sizeof(Handle) <= sizeof(CUipcEventHandle));

struct Answer {
  uint32_t found = 0;
  uint32_t card = 0;
  uint64_t offset = 0;  // of the object in the file that comes along
  uint64_t bytes = 0;
};

std::string NameOf(const uint64_t socket[2]) {
  char name[40];
  snprintf(name, sizeof name, "%016lx%016lx.sock", socket[0], socket[1]);
  return name;
}

// The folder of the sockets, opened; -1 when there is none and `make` is off or fails.
int OpenFolder(const State& state, bool make) {
  const std::string folder = state.folder() + "/ipc";
  if (make && mkdir(folder.c_str(), 0777) == 0) {
    // Programs of any user share the cards; the umask must not narrow that.
    chmod(folder.c_str(), 0777);
  }
  return open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

// A state folder's path may be longer than a socket's address can be; through its descriptor the
// name is short.
sockaddr_un AddressOf(int folder, const std::string& name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s", folder, name.c_str());
  return address;
}

int Connect(int folder, const std::string& name) {
  const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  const timeval patience{.tv_sec = kAnswerSeconds, .tv_usec = 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  const sockaddr_un address = AddressOf(folder, name);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return fd;
  const int error = errno;
  close(fd);
  errno = error;
  return -1;
}

// A socket gets its name when it listens: between bind and listen it looks like a stale one.
constexpr char kUnfinished[] = ".new";
constexpr time_t kUnfinishedSeconds = 60;  // after which its maker is gone

bool Unfinished(int folder, const std::string& name) {
  struct stat info{};
  return name.ends_with(kUnfinished) && fstatat(folder, name.c_str(), &info, 0) == 0 &&
         time(nullptr) - info.st_mtime > kUnfinishedSeconds;
}

// Removes sockets nobody listens at.
void RemoveStale(int folder) {
  const int copy = fcntl(folder, F_DUPFD_CLOEXEC, 0);
  DIR* entries = copy >= 0 ? fdopendir(copy) : nullptr;
  if (entries == nullptr) return;
  size_t looks = 0;
  while (const dirent* entry = readdir(entries)) {
    const std::string name = entry->d_name;
    if (!name.ends_with(".sock") && !Unfinished(folder, name)) continue;
    if (++looks > kStaleLooksMax) break;
    const int fd = Connect(folder, name);
    if (fd >= 0) {
      close(fd);
    } else if (errno == ECONNREFUSED) {
      unlinkat(folder, name.c_str(), 0);
    }
  }
  closedir(entries);
}

// The memory file of what a handle names, -1 when it is gone. The caller closes it.
int Find(const Handle& wanted, Answer* answer) {
  Driver* driver = Get();
  if (driver == nullptr) return -1;
  std::lock_guard guard(driver->mutex);
  if (wanted.kind == kEventPage) {
    for (const Object* object : driver->live) {
      if (object->kind != Kind::kEvent) continue;
      const auto* event = static_cast<const Event*>(object);
      if (event->shared == nullptr || event->shared_id != wanted.id) continue;
      answer->bytes = kPageBytes;
      return fcntl(event->shared_fd, F_DUPFD_CLOEXEC, 0);
    }
    return -1;
  }
  for (const auto& [base, memory] : driver->allocations) {
    if (memory.id != wanted.id) continue;
    const Device* device = driver->devices[memory.device];
    answer->card = device->card;
    answer->offset = base - device->arena->base();
    answer->bytes = memory.size;
    return device->arena->Duplicate();
  }
  return -1;
}

void Reply(int connection, const Answer& answer, int fd) {
  iovec data{.iov_base = const_cast<Answer*>(&answer), .iov_len = sizeof answer};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
  }
  sendmsg(connection, &message, MSG_NOSIGNAL);
}

// This process's socket. Made once and leaked.
struct Server {
  uint64_t socket[2] = {};
  int listener = -1;
};
Server* g_server = nullptr;  // Driver::mutex

void* Serve(void* argument) {
  const auto* server = static_cast<const Server*>(argument);
  std::vector<pollfd> open = {{server->listener, POLLIN, 0}};
  bool said = false;
  while (poll(open.data(), open.size(), -1) >= 0 || errno == EINTR) {
    for (size_t i = open.size(); i-- > 1;) {
      if (open[i].revents == 0) continue;
      Handle wanted;
      const ssize_t got = recv(open[i].fd, &wanted, sizeof wanted, MSG_DONTWAIT);
      if (got == static_cast<ssize_t>(sizeof wanted) && wanted.magic == kMagic) {
        Answer answer;
        const int fd = Find(wanted, &answer);
        answer.found = fd >= 0 ? 1 : 0;
        Reply(open[i].fd, answer, fd);
        if (fd >= 0) close(fd);
        continue;
      }
      if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
      close(open[i].fd);
      open.erase(open.begin() + static_cast<ptrdiff_t>(i));
    }
    if (open[0].revents != 0) {
      const int made = accept4(server->listener, nullptr, nullptr, SOCK_CLOEXEC);
      if (made >= 0 && open.size() > kIpcConnectionsMax) {
        if (!said) {
          Say("more than kIpcConnectionsMax = " + std::to_string(kIpcConnectionsMax) +
              " openings of this process's IPC handles at a time");
        }
        said = true;
        close(made);
      } else if (made >= 0) {
        open.push_back({made, POLLIN, 0});
      } else if (errno != EINTR && errno != ECONNABORTED && errno != EAGAIN) {
        // The program closed our socket or has no descriptor left: nothing more can be served.
        return nullptr;
      }
    }
  }
  return nullptr;
}

// The process's socket and its thread, made at the first need. Mutex held.
Server* EnsureServer(Driver* driver) {
  if (g_server != nullptr) return g_server;
  auto server = std::make_unique<Server>();
  if (getrandom(server->socket, sizeof server->socket, 0) !=
      static_cast<ssize_t>(sizeof server->socket)) {
    return nullptr;
  }
  const int folder = OpenFolder(*driver->state, true);
  if (folder < 0) return nullptr;
  RemoveStale(folder);
  server->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  const std::string name = NameOf(server->socket);
  const std::string unfinished = name + kUnfinished;
  const sockaddr_un address = AddressOf(folder, unfinished);
  bool ok =
      server->listener >= 0 &&
      bind(server->listener, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 &&
      fchmodat(folder, unfinished.c_str(), 0666, 0) == 0 && listen(server->listener, 64) == 0 &&
      renameat(folder, unfinished.c_str(), folder, name.c_str()) == 0;
  if (ok) {
    // Signals are the program's threads' business.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread{};
    ok = pthread_create(&thread, nullptr, Serve, server.get()) == 0;
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (ok) pthread_detach(thread);
  }
  if (!ok) {
    Say("IPC: no socket in " + driver->state->folder() + "/ipc: " + strerror(errno));
    unlinkat(folder, unfinished.c_str(), 0);
    unlinkat(folder, name.c_str(), 0);
    if (server->listener >= 0) close(server->listener);
  }
  close(folder);
  if (!ok) return nullptr;
  g_server = server.release();
  return g_server;
}

// Asks the exporter. The connection (to keep) or -1; the file in `fd`.
int Ask(const Driver& driver, const Handle& handle, Answer* answer, int* fd) {
  const int folder = OpenFolder(*driver.state, false);
  if (folder < 0) return -1;
  const int connection = Connect(folder, NameOf(handle.socket));
  close(folder);
  if (connection < 0) return -1;
  iovec data{.iov_base = answer, .iov_len = sizeof *answer};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  *fd = -1;
  if (send(connection, &handle, sizeof handle, MSG_NOSIGNAL) ==
          static_cast<ssize_t>(sizeof handle) &&
      recvmsg(connection, &message, MSG_CMSG_CLOEXEC) == static_cast<ssize_t>(sizeof *answer)) {
    const cmsghdr* header = CMSG_FIRSTHDR(&message);
    if (header != nullptr && header->cmsg_type == SCM_RIGHTS) {
      memcpy(fd, CMSG_DATA(header), sizeof *fd);
    }
  }
  if (answer->found != 0 && *fd >= 0) return connection;
  if (*fd >= 0) close(*fd);
  close(connection);
  return -1;
}

uint64_t FileOf(int fd) {
  struct stat file{};
  return fstat(fd, &file) == 0 ? file.st_ino : 0;
}

bool SameImport(const AddressRange& range, const Handle& handle) {
  return range.import_of[0] == handle.socket[0] && range.import_of[1] == handle.socket[1] &&
         range.import_of[2] == handle.id;
}

// What this context has opened under that handle already, once more. 0: nothing. Mutex held.
uint64_t OpenAgain(Driver* driver, const Context* context, const Handle& handle) {
  for (auto& [base, range] : driver->ranges) {
    if (range.references == 0 || !SameImport(range, handle)) continue;
    auto at = driver->allocations.lower_bound(base);
    if (at == driver->allocations.end() || at->second.context != context) continue;
    ++range.references;
    return at->first;
  }
  return 0;
}

CUresult OpenMemory(CUdeviceptr* address, const CUipcMemHandle& given, unsigned int flags) {
  SIMGPU_CURRENT(driver, context);
  if (address == nullptr || flags != CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  Handle handle;
  memcpy(static_cast<void*>(&handle), &given, sizeof handle);
  if (handle.magic != kMagic || handle.kind != kMemory) return CUDA_ERROR_INVALID_HANDLE;
  int device = -1;
  {
    std::lock_guard guard(driver->mutex);
    if (g_server != nullptr && g_server->socket[0] == handle.socket[0] &&
        g_server->socket[1] == handle.socket[1]) {
      return CUDA_ERROR_INVALID_CONTEXT;  // its own memory
    }
    for (size_t i = 0; i < driver->devices.size(); ++i) {
      if (driver->devices[i]->card == handle.card) device = static_cast<int>(i);
    }
    if (device < 0) return CUDA_ERROR_INVALID_DEVICE;
    if (device != context->device && !PeerCapable(*driver, context->device, device)) {
      return CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
    }
    if (const uint64_t open = OpenAgain(driver, context, handle); open != 0) {
      *address = open;
      return CUDA_SUCCESS;
    }
  }
  Answer answer;
  int fd = -1;
  const int connection = Ask(*driver, handle, &answer, &fd);
  if (connection < 0 || answer.card != handle.card || answer.bytes == 0) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  const uint64_t first = answer.offset / kGranule * kGranule;
  const uint64_t bytes = RoundUp(answer.offset + answer.bytes, kGranule) - first;
  void* host = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd,
                    static_cast<off_t>(first));
  close(fd);
  std::lock_guard guard(driver->mutex);
  uint64_t base = host != MAP_FAILED ? OpenAgain(driver, context, handle) : 0;
  if (base == 0 && host != MAP_FAILED) {
    if (const uint64_t range_base = ReserveAddresses(driver, bytes, kGranule, 0)) {
      madvise(host, bytes, MADV_DONTDUMP);
      AddressRange& range = driver->ranges[range_base];
      range.host = static_cast<uint8_t*>(host);
      range.socket = connection;
      range.socket_file = FileOf(connection);
      range.references = 1;
      range.card = handle.card;
      range.import_of[0] = handle.socket[0];
      range.import_of[1] = handle.socket[1];
      range.import_of[2] = handle.id;
      Allocation made;
      made.base = range_base + (answer.offset - first);
      made.size = answer.bytes;
      made.capacity = RoundUp(answer.bytes, kSmallUnit);
      made.memory_kind = MemoryKind::kImported;
      made.context = context;
      made.device = device;
      made.id = driver->next_id++;
      made.host = range.host + (answer.offset - first);
      made.access[context->device] = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
      driver->allocations.emplace(made.base, made);
      *address = made.base;
      return CUDA_SUCCESS;
    }
  }
  // Another thread was faster, or there was no room.
  if (host != MAP_FAILED) munmap(host, bytes);
  close(connection);
  if (base == 0) return CUDA_ERROR_MAP_FAILED;
  *address = base;
  return CUDA_SUCCESS;
}

// Puts the shared page into the event. Mutex held; takes over `fd`, also on failure.
CUresult MapEvent(Driver* driver, Event* event, int fd) {
  void* page = mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (page == MAP_FAILED) {
    close(fd);
    return CUDA_ERROR_MAP_FAILED;
  }
  event->shared = static_cast<SharedEvent*>(page);
  event->shared_fd = fd;
  event->shared_file = FileOf(fd);
  event->shared_id = driver->next_id++;
  // Words that streams write and wait for lie in page-locked memory; the page goes with the
  // context, because work in streams may outlive the event.
  const auto base = reinterpret_cast<uint64_t>(page);
  driver->hosts[base] = {base, kPageBytes, kPageBytes, kHostOfEvent, event->context};
  return CUDA_SUCCESS;
}

}  // namespace

Event::~Event() {
  if (shared != nullptr && FileOf(shared_fd) == shared_file) close(shared_fd);
}

CUresult ShareEvent(Driver* driver, Event* event) {
  const int fd = memfd_create("simgpu-event", MFD_CLOEXEC);
  if (fd < 0) return CUDA_ERROR_OUT_OF_MEMORY;
  if (ftruncate(fd, kPageBytes) != 0) {
    close(fd);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  return MapEvent(driver, event, fd);
}

WordAction RecordShared(Event* event) {
  return {reinterpret_cast<uint64_t>(&event->shared->done), event->shared->begun.fetch_add(1) + 1,
          8, true, 0};
}

WordAction WaitShared(const Event& event) {
  // Flags 0: until the word is at least the value.
  return {reinterpret_cast<uint64_t>(&event.shared->done), event.shared->begun.load(), 8, false, 0};
}

CUresult RefuseCapture(Driver* driver, Context* context, CUstream handle, StreamForm form) {
  Stream* stream = nullptr;
  if (CUresult bad = FindStream(driver, context, handle, form, &stream)) return bad;
  return stream->capture != nullptr ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_SUCCESS;
}

CUresult SynchroniseShared(Context* context, const SharedEvent& event) {
  const uint64_t begun = event.begun.load();
  useconds_t pause = 50;
  while (event.done.load() < begun) {
    if (const unsigned int error = context->sticky.load()) return static_cast<CUresult>(error);
    usleep(pause);
    pause = std::min<useconds_t>(2 * pause, 2000);
  }
  return CUDA_SUCCESS;
}

void AdoptImports(Driver* driver) {
  for (auto& [base, range] : driver->ranges) {
    if (range.references == 0 || range.charged != 0 || range.socket < 0) continue;
    if (FileOf(range.socket) != range.socket_file) continue;
    char byte = 0;
    if (recv(range.socket, &byte, 1, MSG_DONTWAIT | MSG_PEEK) != 0) continue;
    if (driver->state->Take(range.card, State::Kind::kAllocation, range.bytes) ==
        State::Answer::kOk) {
      range.charged = range.bytes;
    }
  }
}

}  // namespace simgpu

namespace tessera::abi {
using namespace simgpu;  // NOLINT

extern "C" {

CUresult cuIpcGetMemHandle(CUipcMemHandle* handle, CUdeviceptr address) {
  SIMGPU_CURRENT(driver, context);
  if (handle == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  auto at = driver->allocations.find(address);
  if (at == driver->allocations.end() || at->second.freeing ||
      (at->second.memory_kind != MemoryKind::kLarge &&
       at->second.memory_kind != MemoryKind::kSmall)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const Server* server = EnsureServer(driver);
  if (server == nullptr) return CUDA_ERROR_MAP_FAILED;
  Handle made;
  made.kind = kMemory;
  made.card = driver->devices[at->second.device]->card;
  made.socket[0] = server->socket[0];
  made.socket[1] = server->socket[1];
  made.id = at->second.id;
  made.bytes = at->second.size;
  memset(handle, 0, sizeof *handle);
  memcpy(handle, &made, sizeof made);
  return CUDA_SUCCESS;
}

CUresult cuIpcOpenMemHandle_v2(CUdeviceptr* address, CUipcMemHandle handle, unsigned int flags) {
  return OpenMemory(address, handle, flags);
}

CUresult cuIpcCloseMemHandle(CUdeviceptr address) {
  SIMGPU_CURRENT(driver, context);
  auto find = [&]() -> AddressRange* {
    auto at = driver->allocations.find(address);
    if (at == driver->allocations.end() || at->second.memory_kind != MemoryKind::kImported ||
        at->second.pool != nullptr) {
      return nullptr;
    }
    return &driver->ranges.at(address / kGranule * kGranule);
  };
  {
    std::lock_guard guard(driver->mutex);
    AddressRange* range = find();
    if (range == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (range->references > 1) {
      --range->references;
      return CUDA_SUCCESS;
    }
  }
  const CUresult waited = WaitBeforeFree(driver, context, -1);
  std::lock_guard guard(driver->mutex);
  AddressRange* range = find();
  if (range == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (--range->references > 0) return waited;
  driver->allocations.erase(address);
  FreeAddresses(driver, address / kGranule * kGranule);
  return waited;
}

CUresult cuIpcGetEventHandle(CUipcEventHandle* handle, CUevent event_handle) {
  SIMGPU_CURRENT(driver, context);
  if (handle == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  const Event* event = Live<Event>(*driver, event_handle, Kind::kEvent);
  if (event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (event->shared == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const Server* server = EnsureServer(driver);
  if (server == nullptr) return CUDA_ERROR_MAP_FAILED;
  Handle made;
  made.kind = kEventPage;
  made.card = driver->devices[event->context->device]->card;
  made.socket[0] = server->socket[0];
  made.socket[1] = server->socket[1];
  made.id = event->shared_id;
  memset(handle, 0, sizeof *handle);
  memcpy(handle, &made, sizeof made);
  return CUDA_SUCCESS;
}

CUresult cuIpcOpenEventHandle(CUevent* event_handle, CUipcEventHandle given) {
  SIMGPU_CURRENT(driver, context);
  if (event_handle == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Handle handle;
  memcpy(static_cast<void*>(&handle), &given, sizeof handle);
  if (handle.magic != kMagic || handle.kind != kEventPage) return CUDA_ERROR_INVALID_HANDLE;
  {
    std::lock_guard guard(driver->mutex);
    if (g_server != nullptr && g_server->socket[0] == handle.socket[0] &&
        g_server->socket[1] == handle.socket[1]) {
      return CUDA_ERROR_INVALID_CONTEXT;
    }
  }
  Answer answer;
  int fd = -1;
  const int connection = Ask(*driver, handle, &answer, &fd);
  if (connection < 0) return CUDA_ERROR_INVALID_HANDLE;
  close(connection);
  std::lock_guard guard(driver->mutex);
  auto event = std::make_unique<Event>();
  event->context = context;
  event->flags = CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING;
  if (CUresult bad = MapEvent(driver, event.get(), fd)) return bad;
  driver->live.insert(event.get());
  *event_handle = reinterpret_cast<CUevent>(event.release());
  return CUDA_SUCCESS;
}

}  // extern "C"

SIMGPU_ALIAS(cuIpcOpenMemHandle_v2, cuIpcOpenMemHandle);

}  // namespace tessera::abi
