// The state all processes on one simulated machine share: the cards and who uses how much of them.
//
// A folder ($SIMGPU_STATE, default /dev/shm/simgpu) holds `state`, mapped by everybody, and
// `locks`. The first process makes the cards from $SIMGPU_CARDS ("A100-80,T4"; default one
// A100-80); later ones use what is there, unless nobody does any more and another version or an
// earlier boot of the machine made it: then it is made anew. Each process that uses a card has a
// slot, and holds a POSIX lock on that slot's byte of `locks`: the kernel drops the lock when the
// process dies, however it dies, so the use of a card is the sum over slots that are still locked,
// and a crash can corrupt no total. Whoever asks about the byte is told the owner's pid in the
// asker's own pid namespace; no /proc is needed.
//
// State is a reader, and a writer through Claim: one process may hold several State objects
// (libcuda and libnvidia-ml each have their copy of this code) as long as none of them ever closes
// its descriptors, because closing any descriptor of `locks` would drop the process's lock. They
// never do: a State is made once per library and leaked. Thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "simgpu/state/engine.h"
#include "simgpu/state/profile.h"
#include "simgpu/state/topology.h"

namespace simgpu {

inline constexpr uint32_t kSlotsMax = 1024;
inline constexpr uint32_t kCommandBytesMax = 64;

struct Card {
  Profile profile;
  uint32_t index;
  char uuid[48];  // "GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"
  unsigned char uuid_bytes[16];
  uint32_t pci_domain;
  uint32_t pci_bus;
  uint32_t pci_slot;
};

// What a process takes of one card. Bytes are whole granules.
struct Usage {
  uint64_t allocation_bytes = 0;
  uint64_t context_bytes = 0;
  uint64_t module_bytes = 0;
  uint32_t contexts = 0;

  uint64_t Total() const { return allocation_bytes + context_bytes + module_bytes; }
};

// A live process on a card, as the asker sees it.
struct ProcessUse {
  int pid = 0;  // in the asker's pid namespace; 0 when the process is not visible there
  uint32_t slot = 0;
  Usage usage;
  uint64_t busy_ns = 0;         // what the compute engine served the process since it began
  uint64_t busy_recent_ns = 0;  // of those, within the window asked for
  bool mps = false;             // a client of the MPS server
  char command[kCommandBytesMax] = {};
};

class State {
 public:
  // Opens or makes the state folder. Null with a sentence in `error`. The result is never deleted.
  static State* Open(std::string* error);

  uint32_t card_count() const;
  const Card& card(uint32_t index) const;
  // How the cards are joined; the same for all processes.
  const Topology& topology() const;
  const std::string& folder() const { return folder_; }

  // What the card does for whom, and when.
  Engine& engine(uint32_t card) const { return engines_[card]; }

  // The live processes with a context or memory on the card. `window_ns` bounds busy_recent_ns (at
  // most kWindowMaxNs, longer ones are cut to it).
  std::vector<ProcessUse> Processes(uint32_t card, uint64_t window_ns) const;
  // Bytes taken by all live processes.
  uint64_t UsedBytes(uint32_t card) const;
  // Share of the last `window_ns` in which the card was busy, 0..1000.
  uint32_t UtilisationPermille(uint32_t card, uint64_t window_ns) const;

  static constexpr uint64_t kWindowMaxNs = 1'750'000'000;

  // Writers: the process's own slot. They may fork; a child begins with no slot and no use.
  enum class Kind { kAllocation, kContext, kModule };
  enum class Answer { kOk, kOutOfMemory, kNoSlot };
  // Takes `bytes` (whole granules) of the card if all live processes together then still fit;
  // kContext counts one context too. kNoSlot: kSlotsMax processes already have one, kLockersMax
  // use the state, or the folder is gone.
  Answer Take(uint32_t card, Kind kind, uint64_t bytes);
  // Takes of this process beyond `bytes` of the card are refused; 0: none are. False: it has more.
  bool LimitOwn(uint32_t card, uint64_t bytes);
  // Gives back what Take took.
  void Give(uint32_t card, Kind kind, uint64_t bytes);
  // What this process takes by its own book.
  Usage Own(uint32_t card) const;

  struct Shared;   // the mapped file, private to this folder
  struct Process;  // this process's book and locks, private to this folder

 private:
  friend class Engine;
  State() = default;
  static Shared* Map(const std::string& path, bool* other_version, std::string* error);
  static bool Make(const std::string& path, const char* cards, std::string* error);

  std::string folder_;
  Shared* shared_ = nullptr;
  Process* process_ = nullptr;
  mutable std::vector<Engine> engines_;
  State* next_ = nullptr;  // all that were opened, so that leak checkers see them as kept
};

}  // namespace simgpu
