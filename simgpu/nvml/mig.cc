// MIG: the mode, what instances there can be, those there are, and the devices they make. All of it
// is geometry (state/mig.h); nothing ever runs in a MIG device.
#include <cstring>

#include "simgpu/nvml/core.h"

namespace simgpu::nvml {
namespace {

// Only their addresses count, as with MIG devices.
char gpu_marks[kCardsMax][kGpuInstanceIds];
char compute_marks[kCardsMax][kGpuInstanceIds][kComputeInstanceIds];

// The place of a handle in a table of marks; false when it is none of them.
template <typename Marks>
bool PlaceOf(const void* handle, const Marks& marks, std::uint32_t* place) {
  const auto address = reinterpret_cast<std::uintptr_t>(handle);
  const auto first = reinterpret_cast<std::uintptr_t>(&marks);
  if (address < first || address >= first + sizeof marks) return false;
  *place = static_cast<std::uint32_t>(address - first);
  return true;
}

nvmlGpuInstance_t HandleOfGpu(std::uint32_t card, std::uint32_t id) {
  return reinterpret_cast<nvmlGpuInstance_t>(&gpu_marks[card][id]);
}
nvmlComputeInstance_t HandleOfCompute(std::uint32_t card, std::uint32_t gpu, std::uint32_t id) {
  return reinterpret_cast<nvmlComputeInstance_t>(&compute_marks[card][gpu][id]);
}

struct GpuRef {
  State* state = nullptr;
  const Card* card = nullptr;
  GpuInstance instance;
  nvmlReturn_t code = NVML_SUCCESS;
};
GpuRef FindGpu(nvmlGpuInstance_t handle) {
  GpuRef ref;
  ref.state = Ready();
  std::uint32_t place = 0;
  if (ref.state == nullptr) {
    ref.code = NVML_ERROR_UNINITIALIZED;
  } else if (!PlaceOf(handle, gpu_marks, &place) ||
             place / kGpuInstanceIds >= ref.state->card_count() ||
             !Instances()->FindGpuInstance(place / kGpuInstanceIds, place % kGpuInstanceIds,
                                           &ref.instance)) {
    ref.code = NVML_ERROR_INVALID_ARGUMENT;
  } else {
    ref.card = &ref.state->card(place / kGpuInstanceIds);
  }
  return ref;
}

struct ComputeRef {
  GpuRef gpu;
  ComputeInstance instance;
};
ComputeRef FindCompute(nvmlComputeInstance_t handle) {
  ComputeRef ref;
  std::uint32_t place = 0;
  if (Ready() == nullptr) {
    ref.gpu.code = NVML_ERROR_UNINITIALIZED;
    return ref;
  }
  ref.gpu.code = NVML_ERROR_INVALID_ARGUMENT;
  if (!PlaceOf(handle, compute_marks, &place)) return ref;
  const std::uint32_t gpu = place / kComputeInstanceIds;
  ref.gpu = FindGpu(HandleOfGpu(gpu / kGpuInstanceIds, gpu % kGpuInstanceIds));
  if (ref.gpu.card != nullptr &&
      !Instances()->FindComputeInstance(ref.gpu.card->index, ref.gpu.instance.id,
                                        place % kComputeInstanceIds, &ref.instance)) {
    ref.gpu.card = nullptr;
    ref.gpu.code = NVML_ERROR_INVALID_ARGUMENT;
  }
  return ref;
}

#define NVML_GPU_INSTANCE(ref, handle) \
  const GpuRef ref = FindGpu(handle);  \
  if (ref.card == nullptr) return ref.code
#define NVML_COMPUTE_INSTANCE(ref, handle)    \
  const ComputeRef ref = FindCompute(handle); \
  if (ref.gpu.card == nullptr) return ref.gpu.code

nvmlReturn_t CodeOf(Mig::Answer answer) {
  switch (answer) {
    case Mig::Answer::kOk:
      return NVML_SUCCESS;
    case Mig::Answer::kNotSupported:
    case Mig::Answer::kOff:
      return NVML_ERROR_NOT_SUPPORTED;
    case Mig::Answer::kInUse:
      return NVML_ERROR_IN_USE;
    case Mig::Answer::kNoRoom:
      return NVML_ERROR_INSUFFICIENT_RESOURCES;
    case Mig::Answer::kNotFound:
    case Mig::Answer::kBadPlace:
      return NVML_ERROR_INVALID_ARGUMENT;
    default:
      return NVML_ERROR_UNKNOWN;
  }
}

// A profile of the card's model by NVML's kind number (the functions that list) or by its id.
nvmlReturn_t ProfileByKind(const CardRef& ref, unsigned kind, const MigProfile** profile) {
  if (kind >= NVML_GPU_INSTANCE_PROFILE_COUNT) return NVML_ERROR_INVALID_ARGUMENT;
  const Profile& model = ref.card->profile;
  for (std::uint32_t i = 0; i < model.mig_count; ++i) {
    if (model.mig[i].kind != kind) continue;
    *profile = &model.mig[i];
    return NVML_SUCCESS;
  }
  return NVML_ERROR_NOT_SUPPORTED;
}
nvmlReturn_t ProfileById(const CardRef& ref, unsigned id, const MigProfile** profile) {
  if (ref.card->profile.mig_count == 0) return NVML_ERROR_NOT_SUPPORTED;
  *profile = Instances()->FindProfile(ref.card->index, id);
  return *profile == nullptr ? NVML_ERROR_INVALID_ARGUMENT : NVML_SUCCESS;
}

void FillName(const std::string& text, char (&name)[NVML_DEVICE_NAME_V2_BUFFER_SIZE]) {
  std::memset(name, 0, sizeof name);
  std::memcpy(name, text.data(), std::min(text.size(), sizeof name - 1));
}

// What all layouts of a GPU instance profile share; MIG devices of these models have no P2P.
template <typename Info>
void FillProfile(const MigProfile& profile, Info* info) {
  info->id = profile.id;
  info->sliceCount = profile.compute_slices;
  info->instanceCount = profile.instances;
  info->multiprocessorCount = profile.sms;
  info->copyEngineCount = profile.copy_engines;
  info->decoderCount = profile.decoders;
  info->encoderCount = profile.encoders;
  info->jpegCount = profile.jpeg;
  info->ofaCount = profile.ofa;
  info->memorySizeMB = profile.memory_mib;
  if constexpr (requires { info->isP2pSupported; }) info->isP2pSupported = 0;
  if constexpr (requires { info->capabilities; }) info->capabilities = 0;
  if constexpr (requires { info->name; }) {
    FillName(std::string("MIG ") + profile.name, info->name);
  }
}

template <typename Info>
void FillComputeProfile(const MigProfile& gpu, const ComputeProfile& profile, Info* info) {
  info->id = profile.id;
  info->sliceCount = profile.slices;
  info->instanceCount = profile.instances;
  info->multiprocessorCount = profile.sms;
  info->sharedCopyEngineCount = gpu.copy_engines;
  info->sharedDecoderCount = gpu.decoders;
  info->sharedEncoderCount = gpu.encoders;
  info->sharedJpegCount = gpu.jpeg;
  info->sharedOfaCount = gpu.ofa;
  if constexpr (requires { info->capabilities; }) info->capabilities = 0;
  if constexpr (requires { info->name; }) {
    FillName(Mig::Name({0, &gpu, 0}, {0, profile, 0}), info->name);
  }
}

// The versioned layouts begin alike; the version says which it is.
nvmlReturn_t GiveProfileV(const MigProfile& profile, nvmlGpuInstanceProfileInfo_v2_t* info) {
  if (info->version == NvmlVersion<nvmlGpuInstanceProfileInfo_v2_t>(2)) {
    FillProfile(profile, info);
  } else if (info->version == NvmlVersion<nvmlGpuInstanceProfileInfo_v3_t>(3)) {
    FillProfile(profile, reinterpret_cast<nvmlGpuInstanceProfileInfo_v3_t*>(info));
  } else {
    return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  }
  return NVML_SUCCESS;
}

std::vector<std::uint32_t> Starts(std::uint32_t bits) {
  std::vector<std::uint32_t> starts;
  for (std::uint32_t start = 0; start < kMigSlots; ++start) {
    if ((bits >> start & 1) != 0) starts.push_back(start);
  }
  return starts;
}

nvmlReturn_t Placements(nvmlDevice_t device, unsigned profile_id,
                        nvmlGpuInstancePlacement_t* placements, unsigned* count) {
  NVML_CARD(ref, device);
  const MigProfile* profile = nullptr;
  if (const nvmlReturn_t bad = ProfileById(ref, profile_id, &profile)) return bad;
  return GiveList(
      Starts(profile->starts), count, placements, NVML_SUCCESS,
      [&](std::uint32_t start, nvmlGpuInstancePlacement_t* out) { *out = {start, profile->size}; });
}

nvmlReturn_t FindComputeProfile(const GpuRef& ref, unsigned id, ComputeProfile* profile) {
  for (const ComputeProfile& one : ComputeProfiles(ref.card->profile, *ref.instance.profile)) {
    if (one.id != id) continue;
    *profile = one;
    return NVML_SUCCESS;
  }
  return id < NVML_COMPUTE_INSTANCE_PROFILE_COUNT ? NVML_ERROR_NOT_SUPPORTED
                                                  : NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t CreateGpu(nvmlDevice_t device, unsigned profile_id, std::uint32_t start,
                       nvmlGpuInstance_t* instance) {
  NVML_CARD(ref, device);
  if (instance == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  std::uint32_t id = 0;
  const Mig::Answer answer =
      Instances()->CreateGpuInstance(ref.card->index, profile_id, start, &id);
  if (answer == Mig::Answer::kOk) *instance = HandleOfGpu(ref.card->index, id);
  return CodeOf(answer);
}

nvmlReturn_t CreateCompute(nvmlGpuInstance_t parent, unsigned profile_id, std::uint32_t start,
                           nvmlComputeInstance_t* instance) {
  NVML_GPU_INSTANCE(ref, parent);
  if (instance == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  std::uint32_t id = 0;
  const Mig::Answer answer =
      Instances()->CreateComputeInstance(ref.card->index, ref.instance.id, profile_id, start, &id);
  if (answer == Mig::Answer::kOk) *instance = HandleOfCompute(ref.card->index, ref.instance.id, id);
  return CodeOf(answer);
}

nvmlReturn_t ComputeInfo(nvmlComputeInstance_t instance, nvmlComputeInstanceInfo_t* info) {
  NVML_COMPUTE_INSTANCE(ref, instance);
  return Give(info, nvmlComputeInstanceInfo_t{
                        .device = HandleOf(*ref.gpu.card),
                        .gpuInstance = HandleOfGpu(ref.gpu.card->index, ref.gpu.instance.id),
                        .id = ref.instance.id,
                        .profileId = ref.instance.profile.id,
                        .placement = {ref.instance.start, ref.instance.profile.slices}});
}

// Attributes of a MIG device; a card itself has them too, as one undivided piece.
nvmlReturn_t Attributes(nvmlDevice_t device, nvmlDeviceAttributes_t* attributes) {
  const MigRef mig = FindMig(device);
  if (mig.card == nullptr) {
    NVML_CARD(ref, device);
    return NVML_ERROR_NOT_SUPPORTED;
  }
  const MigProfile& gpu = *mig.gpu_instance.profile;
  return Give(attributes,
              nvmlDeviceAttributes_t{.multiprocessorCount = mig.instance.profile.sms,
                                     .sharedCopyEngineCount = gpu.copy_engines,
                                     .sharedDecoderCount = gpu.decoders,
                                     .sharedEncoderCount = gpu.encoders,
                                     .sharedJpegCount = gpu.jpeg,
                                     .sharedOfaCount = gpu.ofa,
                                     .gpuInstanceSliceCount = gpu.compute_slices,
                                     .computeInstanceSliceCount = mig.instance.profile.slices,
                                     .memorySizeMB = gpu.memory_mib});
}

}  // namespace

NVML_CALL nvmlDeviceSetMigMode(nvmlDevice_t device, unsigned mode, nvmlReturn_t* activation) {
  NVML_CARD(ref, device);
  if (activation == nullptr || mode > NVML_DEVICE_MIG_ENABLE) return NVML_ERROR_INVALID_ARGUMENT;
  const Mig::Answer answer = Instances()->SetMode(ref.card->index, mode == NVML_DEVICE_MIG_ENABLE);
  *activation = CodeOf(answer);
  if (answer != Mig::Answer::kInUse) return CodeOf(answer);
  // Noted but not in force; unless instances forbid it, when nothing was noted.
  const bool noted = Instances()->GetMode(ref.card->index).pending == (mode != 0);
  return noted ? NVML_SUCCESS : NVML_ERROR_IN_USE;
}

NVML_CALL nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned* current, unsigned* pending) {
  NVML_CARD(ref, device);
  if (current == nullptr || pending == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (ref.card->profile.mig_count == 0) return NVML_ERROR_NOT_SUPPORTED;
  const Mig::Mode mode = Instances()->GetMode(ref.card->index);
  *current = mode.current ? NVML_DEVICE_MIG_ENABLE : NVML_DEVICE_MIG_DISABLE;
  *pending = mode.pending ? NVML_DEVICE_MIG_ENABLE : NVML_DEVICE_MIG_DISABLE;
  return NVML_SUCCESS;
}

NVML_CALL nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned* count) {
  NVML_CARD(ref, device);
  return Give(count, Instances()->GetMode(ref.card->index).current ? kComputeSlices : 0u);
}

NVML_CALL nvmlDeviceGetGpuInstanceProfileInfo(nvmlDevice_t device, unsigned kind,
                                              nvmlGpuInstanceProfileInfo_t* info) {
  NVML_CARD(ref, device);
  const MigProfile* profile = nullptr;
  if (const nvmlReturn_t bad = ProfileByKind(ref, kind, &profile)) return bad;
  if (info == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  FillProfile(*profile, info);
  return NVML_SUCCESS;
}
NVML_CALL nvmlDeviceGetGpuInstanceProfileInfoV(nvmlDevice_t device, unsigned kind,
                                               nvmlGpuInstanceProfileInfo_v2_t* info) {
  NVML_CARD(ref, device);
  const MigProfile* profile = nullptr;
  if (const nvmlReturn_t bad = ProfileByKind(ref, kind, &profile)) return bad;
  return info == nullptr ? NVML_ERROR_INVALID_ARGUMENT : GiveProfileV(*profile, info);
}
NVML_CALL nvmlDeviceGetGpuInstanceProfileInfoByIdV(nvmlDevice_t device, unsigned id,
                                                   nvmlGpuInstanceProfileInfo_v2_t* info) {
  NVML_CARD(ref, device);
  const MigProfile* profile = nullptr;
  if (const nvmlReturn_t bad = ProfileById(ref, id, &profile)) return bad;
  return info == nullptr ? NVML_ERROR_INVALID_ARGUMENT : GiveProfileV(*profile, info);
}

NVML_CALL nvmlDeviceGetGpuInstancePossiblePlacements(nvmlDevice_t device, unsigned profile_id,
                                                     nvmlGpuInstancePlacement_t* placements,
                                                     unsigned* count) {
  return Placements(device, profile_id, placements, count);
}
NVML_CALL nvmlDeviceGetGpuInstancePossiblePlacements_v2(nvmlDevice_t device, unsigned profile_id,
                                                        nvmlGpuInstancePlacement_t* placements,
                                                        unsigned* count) {
  return Placements(device, profile_id, placements, count);
}

NVML_CALL nvmlDeviceGetGpuInstanceRemainingCapacity(nvmlDevice_t device, unsigned profile_id,
                                                    unsigned* count) {
  NVML_CARD(ref, device);
  const MigProfile* profile = nullptr;
  if (const nvmlReturn_t bad = ProfileById(ref, profile_id, &profile)) return bad;
  if (!Instances()->GetMode(ref.card->index).current) return NVML_ERROR_NOT_SUPPORTED;
  return Give(count, Instances()->Remaining(ref.card->index, *profile));
}

NVML_CALL nvmlDeviceCreateGpuInstance(nvmlDevice_t device, unsigned profile_id,
                                      nvmlGpuInstance_t* instance) {
  return CreateGpu(device, profile_id, Mig::kAnywhere, instance);
}
NVML_CALL nvmlDeviceCreateGpuInstanceWithPlacement(nvmlDevice_t device, unsigned profile_id,
                                                   const nvmlGpuInstancePlacement_t* placement,
                                                   nvmlGpuInstance_t* instance) {
  NVML_CARD(ref, device);
  const MigProfile* profile = nullptr;
  if (const nvmlReturn_t bad = ProfileById(ref, profile_id, &profile)) return bad;
  if (placement == nullptr || placement->size != profile->size || placement->start >= kMigSlots) {
    return NVML_ERROR_INVALID_ARGUMENT;
  }
  return CreateGpu(device, profile_id, placement->start, instance);
}

NVML_CALL nvmlGpuInstanceDestroy(nvmlGpuInstance_t instance) {
  NVML_GPU_INSTANCE(ref, instance);
  return CodeOf(Instances()->DestroyGpuInstance(ref.card->index, ref.instance.id));
}

// The instances of one profile. The array must have room for all of that profile, so no size is
// asked for first.
NVML_CALL nvmlDeviceGetGpuInstances(nvmlDevice_t device, unsigned profile_id,
                                    nvmlGpuInstance_t* instances, unsigned* count) {
  NVML_CARD(ref, device);
  const MigProfile* profile = nullptr;
  if (const nvmlReturn_t bad = ProfileById(ref, profile_id, &profile)) return bad;
  if (!Instances()->GetMode(ref.card->index).current) return NVML_ERROR_NOT_SUPPORTED;
  if (instances == nullptr || count == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *count = 0;
  for (const GpuInstance& one : Instances()->GpuInstances(ref.card->index)) {
    if (one.profile == profile) instances[(*count)++] = HandleOfGpu(ref.card->index, one.id);
  }
  return NVML_SUCCESS;
}

NVML_CALL nvmlDeviceGetGpuInstanceById(nvmlDevice_t device, unsigned id,
                                       nvmlGpuInstance_t* instance) {
  NVML_CARD(ref, device);
  if (!Instances()->GetMode(ref.card->index).current) return NVML_ERROR_NOT_SUPPORTED;
  GpuInstance found;
  if (!Instances()->FindGpuInstance(ref.card->index, id, &found)) return NVML_ERROR_NOT_FOUND;
  return Give(instance, HandleOfGpu(ref.card->index, id));
}

NVML_CALL nvmlGpuInstanceGetInfo(nvmlGpuInstance_t instance, nvmlGpuInstanceInfo_t* info) {
  NVML_GPU_INSTANCE(ref, instance);
  return Give(info,
              nvmlGpuInstanceInfo_t{.device = HandleOf(*ref.card),
                                    .id = ref.instance.id,
                                    .profileId = ref.instance.profile->id,
                                    .placement = {ref.instance.start, ref.instance.profile->size}});
}

NVML_CALL nvmlGpuInstanceGetComputeInstanceProfileInfo(nvmlGpuInstance_t instance, unsigned kind,
                                                       unsigned engines,
                                                       nvmlComputeInstanceProfileInfo_t* info) {
  NVML_GPU_INSTANCE(ref, instance);
  ComputeProfile profile;
  if (engines != 0 || info == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (const nvmlReturn_t bad = FindComputeProfile(ref, kind, &profile)) return bad;
  FillComputeProfile(*ref.instance.profile, profile, info);
  return NVML_SUCCESS;
}
NVML_CALL nvmlGpuInstanceGetComputeInstanceProfileInfoV(nvmlGpuInstance_t instance, unsigned kind,
                                                        unsigned engines,
                                                        nvmlComputeInstanceProfileInfo_v2_t* info) {
  NVML_GPU_INSTANCE(ref, instance);
  ComputeProfile profile;
  if (engines != 0 || info == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (const nvmlReturn_t bad = FindComputeProfile(ref, kind, &profile)) return bad;
  if (info->version == NvmlVersion<nvmlComputeInstanceProfileInfo_v2_t>(2)) {
    FillComputeProfile(*ref.instance.profile, profile, info);
  } else if (info->version == NvmlVersion<nvmlComputeInstanceProfileInfo_v3_t>(3)) {
    FillComputeProfile(*ref.instance.profile, profile,
                       reinterpret_cast<nvmlComputeInstanceProfileInfo_v3_t*>(info));
  } else {
    return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  }
  return NVML_SUCCESS;
}

NVML_CALL nvmlGpuInstanceGetComputeInstanceRemainingCapacity(nvmlGpuInstance_t instance,
                                                             unsigned profile_id, unsigned* count) {
  NVML_GPU_INSTANCE(ref, instance);
  ComputeProfile profile;
  if (const nvmlReturn_t bad = FindComputeProfile(ref, profile_id, &profile)) return bad;
  return Give(count, Instances()->Remaining(ref.card->index, ref.instance.id, profile));
}

NVML_CALL nvmlGpuInstanceGetComputeInstancePossiblePlacements(
    nvmlGpuInstance_t instance, unsigned profile_id, nvmlComputeInstancePlacement_t* placements,
    unsigned* count) {
  NVML_GPU_INSTANCE(ref, instance);
  ComputeProfile profile;
  if (const nvmlReturn_t bad = FindComputeProfile(ref, profile_id, &profile)) return bad;
  return GiveList(Starts(profile.starts), count, placements, NVML_SUCCESS,
                  [&](std::uint32_t start, nvmlComputeInstancePlacement_t* out) {
                    *out = {start, profile.slices};
                  });
}

NVML_CALL nvmlGpuInstanceCreateComputeInstance(nvmlGpuInstance_t parent, unsigned profile_id,
                                               nvmlComputeInstance_t* instance) {
  return CreateCompute(parent, profile_id, Mig::kAnywhere, instance);
}
NVML_CALL nvmlGpuInstanceCreateComputeInstanceWithPlacement(
    nvmlGpuInstance_t parent, unsigned profile_id, const nvmlComputeInstancePlacement_t* placement,
    nvmlComputeInstance_t* instance) {
  NVML_GPU_INSTANCE(ref, parent);
  ComputeProfile profile;
  if (const nvmlReturn_t bad = FindComputeProfile(ref, profile_id, &profile)) return bad;
  if (placement == nullptr || placement->size != profile.slices || placement->start >= kMigSlots) {
    return NVML_ERROR_INVALID_ARGUMENT;
  }
  return CreateCompute(parent, profile_id, placement->start, instance);
}

NVML_CALL nvmlComputeInstanceDestroy(nvmlComputeInstance_t instance) {
  NVML_COMPUTE_INSTANCE(ref, instance);
  return CodeOf(Instances()->DestroyComputeInstance(ref.gpu.card->index, ref.gpu.instance.id,
                                                    ref.instance.id));
}

NVML_CALL nvmlGpuInstanceGetComputeInstances(nvmlGpuInstance_t parent, unsigned profile_id,
                                             nvmlComputeInstance_t* instances, unsigned* count) {
  NVML_GPU_INSTANCE(ref, parent);
  ComputeProfile profile;
  if (const nvmlReturn_t bad = FindComputeProfile(ref, profile_id, &profile)) return bad;
  if (instances == nullptr || count == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *count = 0;
  for (const ComputeInstance& one :
       Instances()->ComputeInstances(ref.card->index, ref.instance.id)) {
    if (one.profile.id != profile.id) continue;
    instances[(*count)++] = HandleOfCompute(ref.card->index, ref.instance.id, one.id);
  }
  return NVML_SUCCESS;
}

NVML_CALL nvmlGpuInstanceGetComputeInstanceById(nvmlGpuInstance_t parent, unsigned id,
                                                nvmlComputeInstance_t* instance) {
  NVML_GPU_INSTANCE(ref, parent);
  ComputeInstance found;
  if (!Instances()->FindComputeInstance(ref.card->index, ref.instance.id, id, &found)) {
    return NVML_ERROR_NOT_FOUND;
  }
  return Give(instance, HandleOfCompute(ref.card->index, ref.instance.id, id));
}

NVML_CALL nvmlComputeInstanceGetInfo(nvmlComputeInstance_t instance,
                                     nvmlComputeInstanceInfo_t* info) {
  return ComputeInfo(instance, info);
}
NVML_CALL nvmlComputeInstanceGetInfo_v2(nvmlComputeInstance_t instance,
                                        nvmlComputeInstanceInfo_t* info) {
  return ComputeInfo(instance, info);
}

NVML_CALL nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned* mig) {
  if (FindMig(device).card != nullptr) return Give(mig, 1u);
  NVML_CARD(ref, device);
  return Give(mig, 0u);
}

// A MIG device is a compute instance; they are counted over the card's GPU instances in the order
// of their numbers.
NVML_CALL nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned index,
                                              nvmlDevice_t* mig) {
  NVML_CARD(ref, device);
  if (mig == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (!Instances()->GetMode(ref.card->index).current) return NVML_ERROR_NOT_SUPPORTED;
  if (index >= kComputeSlices) return NVML_ERROR_INVALID_ARGUMENT;
  for (const GpuInstance& gpu : Instances()->GpuInstances(ref.card->index)) {
    for (const ComputeInstance& one : Instances()->ComputeInstances(ref.card->index, gpu.id)) {
      if (index-- != 0) continue;
      *mig = MigHandleOf(ref.card->index, gpu.id, one.id);
      return NVML_SUCCESS;
    }
  }
  return NVML_ERROR_NOT_FOUND;
}

NVML_CALL nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t device, nvmlDevice_t* parent) {
  const MigRef mig = FindMig(device);
  if (mig.card != nullptr) return Give(parent, HandleOf(*mig.card));
  NVML_CARD(ref, device);
  return NVML_ERROR_INVALID_ARGUMENT;
}

NVML_CALL nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, unsigned* id) {
  const MigRef mig = FindMig(device);
  if (mig.card != nullptr) return Give(id, static_cast<unsigned>(mig.gpu_instance.id));
  NVML_CARD(ref, device);
  return NVML_ERROR_NOT_SUPPORTED;
}
NVML_CALL nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, unsigned* id) {
  const MigRef mig = FindMig(device);
  if (mig.card != nullptr) return Give(id, static_cast<unsigned>(mig.instance.id));
  NVML_CARD(ref, device);
  return NVML_ERROR_NOT_SUPPORTED;
}

NVML_CALL nvmlDeviceGetAttributes(nvmlDevice_t device, nvmlDeviceAttributes_t* attributes) {
  return Attributes(device, attributes);
}
NVML_CALL nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t* attributes) {
  return Attributes(device, attributes);
}

}  // namespace simgpu::nvml
