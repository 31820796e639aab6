// Memory and events shared between processes by the 64-byte handles of cuIpc*.
//
// A handle names a unix socket in the folder "ipc" of the shared state. A thread of the exporting
// process, made with the first handle, serves it: who asks for a handle's object gets the memory
// file it lies in. So a handle works wherever the state's folder is seen, in any container, and
// only while its process lives; what was opened stays mapped after that. Sockets of dead processes
// are removed by the next process that exports something.
//
// An importer is not charged for memory. The connection it got the memory by stays open, and when
// the exporter is gone the importer's next memory call takes the charge over (AdoptImports).
//
// An interprocess event is a page of two counters that all who have the event share: records begun
// and records done. Recording puts a write of the second behind the stream's work, waiting waits
// for it, both as stream memory operations do.
#pragma once

#include <atomic>

#include "simgpu/driver/driver.h"
#include "simgpu/driver/work.h"

namespace simgpu {

inline constexpr size_t kIpcConnectionsMax = 1024;  // openings that one exporter serves at a time
// In HostRange::flags: the page of a shared event, which a program may not free or unregister.
inline constexpr unsigned int kHostOfEvent = 1u << 31;

struct SharedEvent {
  std::atomic<uint64_t> begun{0};
  std::atomic<uint64_t> done{0};

  bool Done() const { return done.load() >= begun.load(); }
};

// For cuEventCreate with CU_EVENT_INTERPROCESS: gives the event its page. Mutex held.
CUresult ShareEvent(Driver* driver, Event* event);
// What recording an interprocess event puts into the stream after the record itself, and what
// waiting for one puts instead of the wait; a stream that captures takes neither. Mutex held.
WordAction RecordShared(Event* event);
WordAction WaitShared(const Event& event);
CUresult RefuseCapture(Driver* driver, Context* context, CUstream stream, StreamForm form);
// Until the records that were begun before the call are done. Mutex free.
CUresult SynchroniseShared(Context* context, const SharedEvent& event);

// Mutex held.
void AdoptImports(Driver* driver);

}  // namespace simgpu
