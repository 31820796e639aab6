// MIG: how a card is divided, as all processes on the machine see it. Geometry and bookkeeping
// only: no CUDA program runs inside an instance.
//
// The book stands in the file `mig` of the state folder. As on a card, instances belong to nobody:
// they outlive the process that made them. Writers take turns by flock, which dies with its holder,
// and every change is a single word, so a writer may die at any instruction without leaving half of
// one behind. Readers take no lock.
//
// What instances there can be is data of the card's profile (MigProfile). An instance's number
// follows from where it lies, so that it is the same every time: 0 for all eight memory slices, 1
// and 2 for the halves, 3 to 6 for the quarters, 7 to 13 for single slices. Thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "simgpu/state/state.h"

namespace simgpu {

inline constexpr uint32_t kGpuInstanceIds = 14;
inline constexpr uint32_t kComputeInstanceIds = 7;
inline constexpr uint32_t kComputeSlices = 7;

struct GpuInstance {
  uint32_t id = 0;
  const MigProfile* profile = nullptr;
  uint32_t start = 0;  // first memory slice
};

// What compute instances a GPU instance of some profile can hold. A part of one has the SMs of so
// many of the model's smallest instances, the whole all it has.
struct ComputeProfile {
  uint32_t id = 0;  // NVML's NVML_COMPUTE_INSTANCE_PROFILE_* number, also what they are made by
  uint32_t slices = 0;
  uint32_t instances = 0;
  uint32_t sms = 0;
  uint32_t starts = 0;  // bit n: it may begin at compute slice n of the GPU instance
};
std::vector<ComputeProfile> ComputeProfiles(const Profile& model, const MigProfile& profile);

struct ComputeInstance {
  uint32_t id = 0;
  ComputeProfile profile;
  uint32_t start = 0;  // first compute slice within the GPU instance
};

class Mig {
 public:
  // `state` must outlive it; it never dies itself in the libraries.
  explicit Mig(const State* state) : state_(state) {}
  Mig(const Mig&) = delete;
  Mig& operator=(const Mig&) = delete;

  enum class Answer {
    kOk,
    kNotSupported,  // the model has no MIG
    kOff,           // MIG is not enabled on the card
    kInUse,         // processes or instances are in the way
    kNoRoom,
    kNotFound,
    kBadPlace,  // no placement of the profile begins there
    kNoBook,    // the file cannot be had
  };

  // The mode asked for becomes the mode when no process uses the card, where a real one wants a
  // reset. kInUse: it waits for that. Turning it off needs that no instance is left.
  Answer SetMode(uint32_t card, bool on);
  struct Mode {
    bool current = false;
    bool pending = false;
  };
  Mode GetMode(uint32_t card);

  // `start`: where it shall lie, or kAnywhere.
  static constexpr uint32_t kAnywhere = 0xffffffff;
  Answer CreateGpuInstance(uint32_t card, uint32_t profile_id, uint32_t start, uint32_t* id);
  Answer DestroyGpuInstance(uint32_t card, uint32_t id);
  std::vector<GpuInstance> GpuInstances(uint32_t card);
  bool FindGpuInstance(uint32_t card, uint32_t id, GpuInstance* instance);
  // How many more of the profile fit now.
  uint32_t Remaining(uint32_t card, const MigProfile& profile);

  Answer CreateComputeInstance(uint32_t card, uint32_t gpu_instance, uint32_t profile_id,
                               uint32_t start, uint32_t* id);
  Answer DestroyComputeInstance(uint32_t card, uint32_t gpu_instance, uint32_t id);
  std::vector<ComputeInstance> ComputeInstances(uint32_t card, uint32_t gpu_instance);
  bool FindComputeInstance(uint32_t card, uint32_t gpu_instance, uint32_t id,
                           ComputeInstance* instance);
  uint32_t Remaining(uint32_t card, uint32_t gpu_instance, const ComputeProfile& profile);

  // The profile of that number; null when the card has none.
  const MigProfile* FindProfile(uint32_t card, uint32_t profile_id) const;

  // The instance as a device: "MIG-xxxxxxxx-...", and "MIG 1g.5gb" or "MIG 1c.3g.20gb".
  std::string Uuid(uint32_t card, uint32_t gpu_instance, uint32_t compute_instance) const;
  static std::string Name(const GpuInstance& gpu_instance, const ComputeInstance& instance);

  struct Book;  // the mapped file, private to mig.cc

 private:
  class Turn;  // holds the file's lock
  Book* Open();
  // With the turn held: makes the pending mode the mode if nothing is in the way.
  void Settle(Book* book, uint32_t card);

  const State* const state_;
};

}  // namespace simgpu
