// Copies and fills: what they may touch, how their bytes move, and what they take of the card.
#include <string.h>

#include <algorithm>
#include <initializer_list>

#include "abi/cuda_copy.h"
#include "simgpu/driver/array.h"
#include "simgpu/driver/capture.h"
#include "simgpu/driver/executor.h"
#include "simgpu/state/faults.h"

namespace simgpu {
namespace {

// So many bytes of pageable memory are taken at once when a copy from it is queued; for more, the
// call returns when they were read.
constexpr uint64_t kStagedMax = 64 << 10;
constexpr unsigned int kBatchMax = 1 << 20;  // copies of one cuMemcpyBatchAsync

uint64_t Number(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }

// The first byte of a linear side, and how many from there to its last one. False: no such range.
bool Extent(const CopySide& side, const CopyAction& copy, uint64_t* first, uint64_t* bytes) {
  if ((copy.height > 1 || copy.depth > 1) && side.pitch < copy.width) return false;
  if (copy.depth > 1 && side.height < copy.height) return false;
  uint64_t slice = 0, offset = 0, row = 0, length = 0, rows = 0;
  return !__builtin_mul_overflow(side.pitch, side.height, &slice) &&
         !__builtin_mul_overflow(slice, side.z, &offset) &&
         !__builtin_mul_overflow(side.pitch, side.y, &row) &&
         !__builtin_add_overflow(offset, row, &offset) &&
         !__builtin_add_overflow(offset, side.x, &offset) &&
         !__builtin_add_overflow(side.base, offset, first) &&
         !__builtin_mul_overflow(slice, copy.depth - 1, &length) &&
         !__builtin_mul_overflow(side.pitch, copy.height - 1, &rows) &&
         !__builtin_add_overflow(length, rows, &length) &&
         !__builtin_add_overflow(length, copy.width, bytes) && *first + *bytes >= *first;
}

// Where one side's bytes are, as the host reaches them.
struct Bytes {
  uint8_t* first = nullptr;  // of (x, y, z)
  uint64_t pitch = 0;
  uint64_t slice = 0;
  int device = -1;        // -1: host memory
  bool pageable = false;  // host memory that the program did not page-lock
  bool later = false;     // a graph's memory that is not there now
};

// A host address is taken as it is unless only device memory can lie there; a device address must
// be inside one allocation. Mutex held. False: no such memory.
bool FindBytes(const Driver& driver, const CopySide& side, const CopyAction& copy, bool write,
               Bytes* bytes) {
  if (side.array != nullptr) {
    if (!driver.live.contains(side.array)) return false;
    const ArrayLayout& layout = side.array->layout;
    if (layout.host == nullptr || side.x + copy.width > layout.width_bytes ||
        side.y + copy.height > layout.height || side.z + copy.depth > layout.depth) {
      return false;
    }
    bytes->pitch = layout.pitch;
    bytes->slice = layout.pitch * layout.rows;
    bytes->first = layout.host + side.z * bytes->slice + side.y * layout.pitch + side.x;
    bytes->device = layout.device;
    return true;
  }
  uint64_t first = 0, length = 0;
  if (!Extent(side, copy, &first, &length)) return false;
  bytes->pitch = side.pitch;
  bytes->slice = side.pitch * side.height;
  if (const Allocation* found = FindAllocation(driver, first)) {
    bytes->device = found->device;
    bytes->first = ReachFor(driver, kAnyDevice, first, length, write);
    return bytes->first != nullptr;
  }
  if (FindHost(driver, first) != nullptr) {
    bytes->first = Reach(driver, first, length);
    if (bytes->first != nullptr) return true;
    if (side.type != CU_MEMORYTYPE_HOST) return false;
    // It runs over the end of what is page-locked, into ordinary memory.
  }
  if (uint8_t* found = ReachInGraph(driver, first, length, &bytes->device)) {
    bytes->first = found;
    bytes->later = true;
    return true;
  }
  if (side.type == CU_MEMORYTYPE_DEVICE || side.base == 0 || InAnyArena(driver, first)) {
    return false;
  }
  bytes->first = reinterpret_cast<uint8_t*>(first);
  bytes->pageable = true;
  return true;
}

// What a call has to wait for itself.
enum class Until { kPut, kComputed, kDone };

Until UntilOf(const Bytes& from, const Bytes& to, bool synchronous) {
  if (from.device < 0 && to.device < 0) return Until::kDone;
  if (from.device >= 0 && to.device >= 0) return Until::kPut;
  if (synchronous || to.pageable) return Until::kDone;
  return from.pageable ? Until::kComputed : Until::kPut;
}

CUresult PutCopy(CUstream stream, StreamForm form, const CopyAction& copy, Until until) {
  switch (until) {
    case Until::kDone:
      return PutAndWait(stream, form, copy);
    case Until::kComputed:
      return copy.width * copy.height * copy.depth <= kStagedMax
                 ? Put(stream, form, copy)
                 : PutAndCompute(stream, form, copy);
    default:
      return Put(stream, form, copy);
  }
}

// Checks a copy and does it, or puts it where `stream` says.
CUresult Submit(CopyAction copy, bool synchronous, CUstream stream, StreamForm form) {
  SIMGPU_CURRENT(driver, context);
  if (copy.width == 0 || copy.height == 0 || copy.depth == 0) {
    std::lock_guard guard(driver->mutex);
    Stream* found = nullptr;
    return FindStream(driver, context, stream, form, &found);
  }
  Until until = Until::kPut;
  {
    std::lock_guard guard(driver->mutex);
    if (synchronous) {
      if (CUresult bad = CheckUnsafeCall(driver)) return bad;
    }
    Bytes from, to;
    if (!FindBytes(*driver, copy.from, copy, false, &from) ||
        !FindBytes(*driver, copy.to, copy, true, &to)) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    until = UntilOf(from, to, synchronous);
  }
  return PutCopy(stream, form, copy, until);
}

CopySide Linear(CUmemorytype type, uint64_t base) { return {type, base}; }

CUresult CopyBytes(uint64_t to, CUmemorytype to_type, uint64_t from, CUmemorytype from_type,
                   size_t bytes, bool synchronous, CUstream stream, StreamForm form) {
  CopyAction copy;
  copy.from = Linear(from_type, from);
  copy.to = Linear(to_type, to);
  copy.from.pitch = copy.to.pitch = copy.width = bytes;
  copy.from.height = copy.to.height = 1;
  return Submit(copy, synchronous, stream, form);
}

// One side of a 3D copy, as the caller describes it.
CUresult SideOf(Driver* driver, CUmemorytype type, const void* host, CUdeviceptr device,
                CUarray array, size_t pitch, size_t height, size_t x, size_t y, size_t z,
                const CopyAction& copy, CopySide* side) {
  *side = {type, 0, nullptr, pitch, height, x, y, z};
  switch (type) {
    case CU_MEMORYTYPE_HOST:
      side->base = Number(host);
      break;
    case CU_MEMORYTYPE_DEVICE:
    case CU_MEMORYTYPE_UNIFIED:
      side->base = device;
      break;
    case CU_MEMORYTYPE_ARRAY:
      side->array = FindArray(*driver, array);
      if (side->array == nullptr) return CUDA_ERROR_INVALID_HANDLE;
      if (x % side->array->layout.element_bytes != 0 ||
          copy.width % side->array->layout.element_bytes != 0) {
        return CUDA_ERROR_INVALID_VALUE;
      }
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
  if (side->pitch == 0) side->pitch = x + copy.width;
  if (side->height == 0) side->height = y + copy.height;
  if (side->pitch < x + copy.width && (copy.height > 1 || copy.depth > 1)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (side->height < y + copy.height && copy.depth > 1) return CUDA_ERROR_INVALID_VALUE;
  return CUDA_SUCCESS;
}

CUDA_MEMCPY3D Widen(const CUDA_MEMCPY2D& copy) {
  CUDA_MEMCPY3D wide{};
  wide.srcXInBytes = copy.srcXInBytes;
  wide.srcY = copy.srcY;
  wide.srcMemoryType = copy.srcMemoryType;
  wide.srcHost = copy.srcHost;
  wide.srcDevice = copy.srcDevice;
  wide.srcArray = copy.srcArray;
  wide.srcPitch = copy.srcPitch;
  wide.dstXInBytes = copy.dstXInBytes;
  wide.dstY = copy.dstY;
  wide.dstMemoryType = copy.dstMemoryType;
  wide.dstHost = copy.dstHost;
  wide.dstDevice = copy.dstDevice;
  wide.dstArray = copy.dstArray;
  wide.dstPitch = copy.dstPitch;
  wide.WidthInBytes = copy.WidthInBytes;
  wide.Height = copy.Height;
  wide.Depth = 1;
  return wide;
}

CUresult Copy3D(const CUDA_MEMCPY3D* copy, bool synchronous, CUstream stream, StreamForm form) {
  SIMGPU_CURRENT(driver, context);
  if (copy == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CopyAction action;
  {
    std::lock_guard guard(driver->mutex);
    if (CUresult bad = MakeCopy(driver, *copy, &action)) return bad;
  }
  return Submit(action, synchronous, stream, form);
}

CUresult Copy2D(const CUDA_MEMCPY2D* copy, bool synchronous, CUstream stream, StreamForm form) {
  SIMGPU_CURRENT(driver, context);
  if (copy == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const CUDA_MEMCPY3D wide = Widen(*copy);
  return Copy3D(&wide, synchronous, stream, form);
}

// Both contexts of a copy between them have to be there; where the bytes lie the addresses say.
CUresult CheckContexts(CUcontext one, CUcontext other) {
  SIMGPU_CURRENT(driver, context);
  std::lock_guard guard(driver->mutex);
  return Live<Context>(*driver, one, Kind::kContext) != nullptr &&
                 Live<Context>(*driver, other, Kind::kContext) != nullptr
             ? CUDA_SUCCESS
             : CUDA_ERROR_INVALID_CONTEXT;
}

// A copy between contexts without a stream of the program's choice is in order with all work of
// both contexts and of the current one, before and after it; waiting for each gives that.
template <typename Copy>
CUresult BetweenContexts(std::initializer_list<CUcontext> handles, const Copy& copy) {
  SIMGPU_CURRENT(driver, current);
  for (const CUcontext handle : handles) {
    Context* context = nullptr;
    {
      std::lock_guard guard(driver->mutex);
      context = Live<Context>(*driver, handle, Kind::kContext);
    }
    if (context == nullptr) continue;
    if (CUresult bad = WaitContext(context)) return bad;
  }
  if (CUresult bad = copy()) return bad;
  return WaitContext(current);
}

CUresult CopyPeer(CUdeviceptr to, CUcontext to_context, CUdeviceptr from, CUcontext from_context,
                  size_t bytes, bool synchronous, CUstream stream, StreamForm form) {
  if (CUresult bad = CheckContexts(to_context, from_context)) return bad;
  const auto copy = [&] {
    return CopyBytes(to, CU_MEMORYTYPE_DEVICE, from, CU_MEMORYTYPE_DEVICE, bytes, synchronous,
                     stream, form);
  };
  return synchronous ? BetweenContexts({to_context, from_context}, copy) : copy();
}

CUresult Copy3DPeer(const CUDA_MEMCPY3D_PEER* copy, bool synchronous, CUstream stream,
                    StreamForm form) {
  SIMGPU_CURRENT(driver, context);
  if (copy == nullptr) return CUDA_ERROR_INVALID_VALUE;
  {
    std::lock_guard guard(driver->mutex);
    // The contexts of arrays are known, and host memory has none.
    for (auto [type, handle] : {std::pair{copy->srcMemoryType, copy->srcContext},
                                std::pair{copy->dstMemoryType, copy->dstContext}}) {
      if (type != CU_MEMORYTYPE_DEVICE && type != CU_MEMORYTYPE_UNIFIED) continue;
      if (Live<Context>(*driver, handle, Kind::kContext) == nullptr) {
        return CUDA_ERROR_INVALID_CONTEXT;
      }
    }
  }
  // The same but for the contexts, which stand where the other has reserved pointers.
  CUDA_MEMCPY3D plain;
  static_assert(sizeof plain == sizeof *copy);
  memcpy(&plain, copy, sizeof plain);
  plain.reserved0 = plain.reserved1 = nullptr;
  const auto put = [&] { return Copy3D(&plain, synchronous, stream, form); };
  return synchronous ? BetweenContexts({copy->srcContext, copy->dstContext}, put) : put();
}

CUresult CopyArray(CUarray to, size_t to_offset, CUmemorytype from_type, const void* from_host,
                   CUdeviceptr from_device, CUarray from_array, size_t from_offset, size_t bytes,
                   bool synchronous, CUstream stream, StreamForm form) {
  CUDA_MEMCPY3D copy{};
  copy.srcMemoryType = from_type;
  copy.srcHost = from_host;
  copy.srcDevice = from_device;
  copy.srcArray = from_array;
  copy.srcXInBytes = from_offset;
  copy.dstMemoryType = CU_MEMORYTYPE_ARRAY;
  copy.dstArray = to;
  copy.dstXInBytes = to_offset;
  copy.WidthInBytes = bytes;
  copy.Height = copy.Depth = 1;
  return Copy3D(&copy, synchronous, stream, form);
}

CUresult CopyFromArray(CUmemorytype to_type, void* to_host, CUdeviceptr to_device, CUarray from,
                       size_t from_offset, size_t bytes, bool synchronous, CUstream stream,
                       StreamForm form) {
  CUDA_MEMCPY3D copy{};
  copy.srcMemoryType = CU_MEMORYTYPE_ARRAY;
  copy.srcArray = from;
  copy.srcXInBytes = from_offset;
  copy.dstMemoryType = to_type;
  copy.dstHost = to_host;
  copy.dstDevice = to_device;
  copy.WidthInBytes = bytes;
  copy.Height = copy.Depth = 1;
  return Copy3D(&copy, synchronous, stream, form);
}

CUresult CopyBatch(CUdeviceptr* to, CUdeviceptr* from, size_t* sizes, size_t count,
                   CUmemcpyAttributes* attributes, size_t* attribute_of, size_t attribute_count,
                   size_t* failed, CUstream stream, StreamForm form) {
  SIMGPU_CURRENT(driver, context);
  if (failed != nullptr) *failed = SIZE_MAX;
  if (count == 0 || count > kBatchMax || to == nullptr || from == nullptr || sizes == nullptr ||
      attributes == nullptr || attribute_of == nullptr || attribute_count == 0 ||
      attribute_count > count || attribute_of[0] != 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  for (size_t i = 0; i < attribute_count; ++i) {
    if (attributes[i].srcAccessOrder < CU_MEMCPY_SRC_ACCESS_ORDER_STREAM ||
        attributes[i].srcAccessOrder > CU_MEMCPY_SRC_ACCESS_ORDER_ANY || attributes[i].flags > 1 ||
        (i > 0 && attribute_of[i] <= attribute_of[i - 1]) || attribute_of[i] >= count) {
      return CUDA_ERROR_INVALID_VALUE;
    }
  }
  std::vector<CopyAction> copies(count);
  std::vector<Until> until(count);
  {
    std::lock_guard guard(driver->mutex);
    Stream* found = nullptr;
    if (CUresult bad = FindStream(driver, context, stream, form, &found)) return bad;
    // As documented: batches do not go into the legacy default stream.
    if (found == found->context->legacy) return CUDA_ERROR_INVALID_VALUE;
    size_t which = 0;
    for (size_t i = 0; i < count; ++i) {
      while (which + 1 < attribute_count && attribute_of[which + 1] <= i) ++which;
      CopyAction& copy = copies[i];
      copy.from = Linear(CU_MEMORYTYPE_UNIFIED, from[i]);
      copy.to = Linear(CU_MEMORYTYPE_UNIFIED, to[i]);
      copy.from.pitch = copy.to.pitch = copy.width = sizes[i];
      copy.from.height = copy.to.height = 1;
      Bytes source, target;
      if (sizes[i] == 0 || !FindBytes(*driver, copy.from, copy, false, &source) ||
          !FindBytes(*driver, copy.to, copy, true, &target)) {
        if (failed != nullptr) *failed = i;
        return CUDA_ERROR_INVALID_VALUE;
      }
      until[i] = UntilOf(source, target, false);
      if (attributes[which].srcAccessOrder == CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL &&
          until[i] == Until::kPut) {
        until[i] = Until::kComputed;
      }
    }
  }
  for (size_t i = 0; i < count; ++i) {
    if (CUresult bad = PutCopy(stream, form, copies[i], until[i])) {
      if (failed != nullptr) *failed = i;
      return bad;
    }
  }
  return CUDA_SUCCESS;
}

// Checks a fill and puts it.
CUresult Fill(CUdeviceptr address, size_t pitch, uint32_t value, uint32_t element, size_t width,
              size_t height, bool synchronous, CUstream stream, StreamForm form) {
  SIMGPU_CURRENT(driver, context);
  FillAction fill{address, pitch, value, element, width, height};
  bool host = false;
  {
    std::lock_guard guard(driver->mutex);
    if (synchronous) {
      if (CUresult bad = CheckUnsafeCall(driver)) return bad;
    }
    Stream* found = nullptr;
    if (CUresult bad = FindStream(driver, context, stream, form, &found)) return bad;
    if (width == 0 || height == 0) return CUDA_SUCCESS;
    if (CUresult bad = CheckFill(driver, fill)) return bad;
    host = FindAllocation(*driver, address) == nullptr;
  }
  // Fills of page-locked memory can be seen by the program, so a synchronous one is waited for.
  return synchronous && host ? PutAndWait(stream, form, fill) : Put(stream, form, fill);
}

void FillBytes(uint8_t* line, uint32_t value, uint32_t element, uint64_t count) {
  if (element == 1) {
    memset(line, static_cast<int>(value & 0xff), count);
    return;
  }
  // Two, four, eight, ... at a time.
  memcpy(line, &value, element);
  uint64_t done = element;
  const uint64_t all = element * count;
  while (done < all) {
    const uint64_t next = std::min(done, all - done);
    memcpy(line + done, line, next);
    done += next;
  }
}

// The card of a device, and how much longer than usual its copies take.
uint32_t CardIndex(const Driver& driver, int device) {
  return driver.devices[static_cast<size_t>(device)]->card;
}
uint64_t Slowed(uint32_t card, uint64_t ns) {
  const double factor = Faults::Get().CopyFactor(card);
  return factor == 1 ? ns : static_cast<uint64_t>(static_cast<double>(ns) * factor);
}

}  // namespace

CUresult MakeCopy(Driver* driver, const CUDA_MEMCPY3D& copy, CopyAction* action) {
  action->width = copy.WidthInBytes;
  action->height = copy.Height;
  action->depth = copy.Depth;
  if (copy.srcLOD != 0 || copy.dstLOD != 0) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult bad = SideOf(driver, copy.srcMemoryType, copy.srcHost, copy.srcDevice, copy.srcArray,
                            copy.srcPitch, copy.srcHeight, copy.srcXInBytes, copy.srcY, copy.srcZ,
                            *action, &action->from)) {
    return bad;
  }
  if (CUresult bad = SideOf(driver, copy.dstMemoryType, copy.dstHost, copy.dstDevice, copy.dstArray,
                            copy.dstPitch, copy.dstHeight, copy.dstXInBytes, copy.dstY, copy.dstZ,
                            *action, &action->to)) {
    return bad;
  }
  if (action->width == 0 || action->height == 0 || action->depth == 0) return CUDA_SUCCESS;
  Bytes from, to;
  return FindBytes(*driver, action->from, *action, false, &from) &&
                 FindBytes(*driver, action->to, *action, true, &to)
             ? CUDA_SUCCESS
             : CUDA_ERROR_INVALID_VALUE;
}

CUresult CheckFill(Driver* driver, const FillAction& fill) {
  if (fill.element != 1 && fill.element != 2 && fill.element != 4) return CUDA_ERROR_INVALID_VALUE;
  if (fill.address % fill.element != 0 || fill.pitch % fill.element != 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  uint64_t row = 0, before_last = 0, bytes = 0;
  if (__builtin_mul_overflow(fill.width, fill.element, &row) ||
      __builtin_mul_overflow(fill.pitch, fill.height - 1, &before_last) ||
      __builtin_add_overflow(row, before_last, &bytes) || (fill.height > 1 && fill.pitch < row)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  int device = 0;
  return ReachFor(*driver, kAnyDevice, fill.address, bytes, true) != nullptr ||
                 ReachInGraph(*driver, fill.address, bytes, &device) != nullptr
             ? CUDA_SUCCESS
             : CUDA_ERROR_INVALID_VALUE;
}

void StageCopy(Driver* driver, CopyAction* copy, std::vector<uint8_t>* staged) {
  if (copy->width * copy->height * copy->depth > kStagedMax) return;
  Bytes from, to;
  if (!FindBytes(*driver, copy->from, *copy, false, &from) || !from.pageable ||
      !FindBytes(*driver, copy->to, *copy, true, &to) || to.device < 0) {
    return;
  }
  staged->resize(copy->width * copy->height * copy->depth);
  uint8_t* at = staged->data();
  for (uint64_t z = 0; z < copy->depth; ++z) {
    for (uint64_t y = 0; y < copy->height; ++y, at += copy->width) {
      memcpy(at, from.first + z * from.slice + y * from.pitch, copy->width);
    }
  }
  copy->from = {CU_MEMORYTYPE_HOST, Number(staged->data()), nullptr, copy->width, copy->height};
}

bool RunCopy(Command* command) {
  const auto& copy = std::get<CopyAction>(command->action);
  if (copy.width == 0 || copy.height == 0 || copy.depth == 0) return true;
  Driver* driver = Get();
  Bytes from, to;
  {
    std::lock_guard guard(driver->mutex);
    if (!FindBytes(*driver, copy.from, copy, false, &from) ||
        !FindBytes(*driver, copy.to, copy, true, &to) || from.later || to.later) {
      return false;
    }
  }
  for (uint64_t z = 0; z < copy.depth; ++z) {
    for (uint64_t y = 0; y < copy.height; ++y) {
      memmove(to.first + z * to.slice + y * to.pitch, from.first + z * from.slice + y * from.pitch,
              copy.width);
    }
  }
  const uint64_t bytes = copy.width * copy.height * copy.depth;
  if (from.device < 0 && to.device < 0) return true;
  command->card = CardIndex(*driver, from.device >= 0 ? from.device : to.device);
  const Profile& profile = driver->state->card(command->card).profile;
  if (from.device >= 0 && from.device == to.device) {
    // Every byte is read and written.
    command->cost = Command::Cost::kCompute;
    command->duration_ns = Slowed(command->card, DeviceCopyNs(profile, 2 * bytes));
    return true;
  }
  command->cost = Command::Cost::kCopy;
  command->lane = from.device >= 0 ? CopyLane::kFromDevice : CopyLane::kToDevice;
  command->duration_ns = HostCopyNs(profile, bytes);
  if (from.device >= 0 && to.device >= 0) {
    command->two_cards = true;
    command->other_card = CardIndex(*driver, to.device);
    const Profile& other = driver->state->card(command->other_card).profile;
    command->duration_ns = PeerCopyNs(profile, other, bytes);
  }
  command->duration_ns = Slowed(command->card, command->duration_ns);
  return true;
}

bool RunFill(Command* command) {
  const auto& fill = std::get<FillAction>(command->action);
  if (fill.width == 0 || fill.height == 0) return true;
  Driver* driver = Get();
  const uint64_t row = fill.width * fill.element;
  uint8_t* target = nullptr;
  int device = -1;
  {
    std::lock_guard guard(driver->mutex);
    target =
        ReachFor(*driver, kAnyDevice, fill.address, (fill.height - 1) * fill.pitch + row, true);
    if (const Allocation* found = FindAllocation(*driver, fill.address)) device = found->device;
  }
  if (target == nullptr) return false;
  for (uint64_t y = 0; y < fill.height; ++y) {
    FillBytes(target + y * fill.pitch, fill.value, fill.element, fill.width);
  }
  if (device >= 0) command->card = CardIndex(*driver, device);
  const Profile& profile = driver->state->card(command->card).profile;
  const uint64_t bytes = row * fill.height;
  if (device >= 0) {
    command->cost = Command::Cost::kCompute;
    command->duration_ns = DeviceCopyNs(profile, bytes);
  } else {
    command->cost = Command::Cost::kCopy;
    command->lane = CopyLane::kFromDevice;
    command->duration_ns = HostCopyNs(profile, bytes);
  }
  return true;
}

}  // namespace simgpu

namespace tessera::abi {
using namespace simgpu;  // NOLINT

extern "C" {

CUresult cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  return CopyBytes(to, CU_MEMORYTYPE_UNIFIED, from, CU_MEMORYTYPE_UNIFIED, bytes, true, nullptr,
                   StreamForm::kLegacy);
}
CUresult cuMemcpy_ptds(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  return CopyBytes(to, CU_MEMORYTYPE_UNIFIED, from, CU_MEMORYTYPE_UNIFIED, bytes, true, nullptr,
                   StreamForm::kPerThread);
}
CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return CopyBytes(to, CU_MEMORYTYPE_UNIFIED, from, CU_MEMORYTYPE_UNIFIED, bytes, false, stream,
                   StreamForm::kLegacy);
}
CUresult cuMemcpyAsync_ptsz(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return CopyBytes(to, CU_MEMORYTYPE_UNIFIED, from, CU_MEMORYTYPE_UNIFIED, bytes, false, stream,
                   StreamForm::kPerThread);
}

CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
  return CopyBytes(to, CU_MEMORYTYPE_DEVICE, Number(from), CU_MEMORYTYPE_HOST, bytes, true, nullptr,
                   StreamForm::kLegacy);
}
CUresult cuMemcpyHtoD_v2_ptds(CUdeviceptr to, const void* from, size_t bytes) {
  return CopyBytes(to, CU_MEMORYTYPE_DEVICE, Number(from), CU_MEMORYTYPE_HOST, bytes, true, nullptr,
                   StreamForm::kPerThread);
}
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
  return CopyBytes(to, CU_MEMORYTYPE_DEVICE, Number(from), CU_MEMORYTYPE_HOST, bytes, false, stream,
                   StreamForm::kLegacy);
}
CUresult cuMemcpyHtoDAsync_v2_ptsz(CUdeviceptr to, const void* from, size_t bytes,
                                   CUstream stream) {
  return CopyBytes(to, CU_MEMORYTYPE_DEVICE, Number(from), CU_MEMORYTYPE_HOST, bytes, false, stream,
                   StreamForm::kPerThread);
}

CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
  return CopyBytes(Number(to), CU_MEMORYTYPE_HOST, from, CU_MEMORYTYPE_DEVICE, bytes, true, nullptr,
                   StreamForm::kLegacy);
}
CUresult cuMemcpyDtoH_v2_ptds(void* to, CUdeviceptr from, size_t bytes) {
  return CopyBytes(Number(to), CU_MEMORYTYPE_HOST, from, CU_MEMORYTYPE_DEVICE, bytes, true, nullptr,
                   StreamForm::kPerThread);
}
CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return CopyBytes(Number(to), CU_MEMORYTYPE_HOST, from, CU_MEMORYTYPE_DEVICE, bytes, false, stream,
                   StreamForm::kLegacy);
}
CUresult cuMemcpyDtoHAsync_v2_ptsz(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return CopyBytes(Number(to), CU_MEMORYTYPE_HOST, from, CU_MEMORYTYPE_DEVICE, bytes, false, stream,
                   StreamForm::kPerThread);
}

CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  return CopyBytes(to, CU_MEMORYTYPE_DEVICE, from, CU_MEMORYTYPE_DEVICE, bytes, true, nullptr,
                   StreamForm::kLegacy);
}
CUresult cuMemcpyDtoD_v2_ptds(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  return CopyBytes(to, CU_MEMORYTYPE_DEVICE, from, CU_MEMORYTYPE_DEVICE, bytes, true, nullptr,
                   StreamForm::kPerThread);
}
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return CopyBytes(to, CU_MEMORYTYPE_DEVICE, from, CU_MEMORYTYPE_DEVICE, bytes, false, stream,
                   StreamForm::kLegacy);
}
CUresult cuMemcpyDtoDAsync_v2_ptsz(CUdeviceptr to, CUdeviceptr from, size_t bytes,
                                   CUstream stream) {
  return CopyBytes(to, CU_MEMORYTYPE_DEVICE, from, CU_MEMORYTYPE_DEVICE, bytes, false, stream,
                   StreamForm::kPerThread);
}

CUresult cuMemcpyPeer(CUdeviceptr to, CUcontext to_context, CUdeviceptr from,
                      CUcontext from_context, size_t bytes) {
  return CopyPeer(to, to_context, from, from_context, bytes, true, nullptr, StreamForm::kLegacy);
}
CUresult cuMemcpyPeer_ptds(CUdeviceptr to, CUcontext to_context, CUdeviceptr from,
                           CUcontext from_context, size_t bytes) {
  return CopyPeer(to, to_context, from, from_context, bytes, true, nullptr, StreamForm::kPerThread);
}
CUresult cuMemcpyPeerAsync(CUdeviceptr to, CUcontext to_context, CUdeviceptr from,
                           CUcontext from_context, size_t bytes, CUstream stream) {
  return CopyPeer(to, to_context, from, from_context, bytes, false, stream, StreamForm::kLegacy);
}
CUresult cuMemcpyPeerAsync_ptsz(CUdeviceptr to, CUcontext to_context, CUdeviceptr from,
                                CUcontext from_context, size_t bytes, CUstream stream) {
  return CopyPeer(to, to_context, from, from_context, bytes, false, stream, StreamForm::kPerThread);
}

CUresult cuMemcpy2D_v2(const CUDA_MEMCPY2D* copy) {
  return Copy2D(copy, true, nullptr, StreamForm::kLegacy);
}
CUresult cuMemcpy2D_v2_ptds(const CUDA_MEMCPY2D* copy) {
  return Copy2D(copy, true, nullptr, StreamForm::kPerThread);
}
CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D* copy, CUstream stream) {
  return Copy2D(copy, false, stream, StreamForm::kLegacy);
}
CUresult cuMemcpy2DAsync_v2_ptsz(const CUDA_MEMCPY2D* copy, CUstream stream) {
  return Copy2D(copy, false, stream, StreamForm::kPerThread);
}

CUresult cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D* copy) {
  return Copy2D(copy, true, nullptr, StreamForm::kLegacy);
}
CUresult cuMemcpy2DUnaligned_v2_ptds(const CUDA_MEMCPY2D* copy) {
  return Copy2D(copy, true, nullptr, StreamForm::kPerThread);
}

CUresult cuMemcpy3D_v2(const CUDA_MEMCPY3D* copy) {
  return Copy3D(copy, true, nullptr, StreamForm::kLegacy);
}
CUresult cuMemcpy3D_v2_ptds(const CUDA_MEMCPY3D* copy) {
  return Copy3D(copy, true, nullptr, StreamForm::kPerThread);
}
CUresult cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D* copy, CUstream stream) {
  return Copy3D(copy, false, stream, StreamForm::kLegacy);
}
CUresult cuMemcpy3DAsync_v2_ptsz(const CUDA_MEMCPY3D* copy, CUstream stream) {
  return Copy3D(copy, false, stream, StreamForm::kPerThread);
}

CUresult cuMemcpy3DPeer(const CUDA_MEMCPY3D_PEER* copy) {
  return Copy3DPeer(copy, true, nullptr, StreamForm::kLegacy);
}
CUresult cuMemcpy3DPeer_ptds(const CUDA_MEMCPY3D_PEER* copy) {
  return Copy3DPeer(copy, true, nullptr, StreamForm::kPerThread);
}
CUresult cuMemcpy3DPeerAsync(const CUDA_MEMCPY3D_PEER* copy, CUstream stream) {
  return Copy3DPeer(copy, false, stream, StreamForm::kLegacy);
}
CUresult cuMemcpy3DPeerAsync_ptsz(const CUDA_MEMCPY3D_PEER* copy, CUstream stream) {
  return Copy3DPeer(copy, false, stream, StreamForm::kPerThread);
}

CUresult cuMemcpyHtoA_v2(CUarray to, size_t offset, const void* from, size_t bytes) {
  return CopyArray(to, offset, CU_MEMORYTYPE_HOST, from, 0, nullptr, 0, bytes, true, nullptr,
                   StreamForm::kLegacy);
}
CUresult cuMemcpyHtoA_v2_ptds(CUarray to, size_t offset, const void* from, size_t bytes) {
  return CopyArray(to, offset, CU_MEMORYTYPE_HOST, from, 0, nullptr, 0, bytes, true, nullptr,
                   StreamForm::kPerThread);
}
CUresult cuMemcpyHtoAAsync_v2(CUarray to, size_t offset, const void* from, size_t bytes,
                              CUstream stream) {
  return CopyArray(to, offset, CU_MEMORYTYPE_HOST, from, 0, nullptr, 0, bytes, false, stream,
                   StreamForm::kLegacy);
}
CUresult cuMemcpyHtoAAsync_v2_ptsz(CUarray to, size_t offset, const void* from, size_t bytes,
                                   CUstream stream) {
  return CopyArray(to, offset, CU_MEMORYTYPE_HOST, from, 0, nullptr, 0, bytes, false, stream,
                   StreamForm::kPerThread);
}

CUresult cuMemcpyAtoH_v2(void* to, CUarray from, size_t offset, size_t bytes) {
  return CopyFromArray(CU_MEMORYTYPE_HOST, to, 0, from, offset, bytes, true, nullptr,
                       StreamForm::kLegacy);
}
CUresult cuMemcpyAtoH_v2_ptds(void* to, CUarray from, size_t offset, size_t bytes) {
  return CopyFromArray(CU_MEMORYTYPE_HOST, to, 0, from, offset, bytes, true, nullptr,
                       StreamForm::kPerThread);
}
CUresult cuMemcpyAtoHAsync_v2(void* to, CUarray from, size_t offset, size_t bytes,
                              CUstream stream) {
  return CopyFromArray(CU_MEMORYTYPE_HOST, to, 0, from, offset, bytes, false, stream,
                       StreamForm::kLegacy);
}
CUresult cuMemcpyAtoHAsync_v2_ptsz(void* to, CUarray from, size_t offset, size_t bytes,
                                   CUstream stream) {
  return CopyFromArray(CU_MEMORYTYPE_HOST, to, 0, from, offset, bytes, false, stream,
                       StreamForm::kPerThread);
}

CUresult cuMemcpyDtoA_v2(CUarray to, size_t offset, CUdeviceptr from, size_t bytes) {
  return CopyArray(to, offset, CU_MEMORYTYPE_DEVICE, nullptr, from, nullptr, 0, bytes, true,
                   nullptr, StreamForm::kLegacy);
}
CUresult cuMemcpyDtoA_v2_ptds(CUarray to, size_t offset, CUdeviceptr from, size_t bytes) {
  return CopyArray(to, offset, CU_MEMORYTYPE_DEVICE, nullptr, from, nullptr, 0, bytes, true,
                   nullptr, StreamForm::kPerThread);
}

CUresult cuMemcpyAtoD_v2(CUdeviceptr to, CUarray from, size_t offset, size_t bytes) {
  return CopyFromArray(CU_MEMORYTYPE_DEVICE, nullptr, to, from, offset, bytes, true, nullptr,
                       StreamForm::kLegacy);
}
CUresult cuMemcpyAtoD_v2_ptds(CUdeviceptr to, CUarray from, size_t offset, size_t bytes) {
  return CopyFromArray(CU_MEMORYTYPE_DEVICE, nullptr, to, from, offset, bytes, true, nullptr,
                       StreamForm::kPerThread);
}

CUresult cuMemcpyAtoA_v2(CUarray to, size_t to_offset, CUarray from, size_t from_offset,
                         size_t bytes) {
  return CopyArray(to, to_offset, CU_MEMORYTYPE_ARRAY, nullptr, 0, from, from_offset, bytes, true,
                   nullptr, StreamForm::kLegacy);
}
CUresult cuMemcpyAtoA_v2_ptds(CUarray to, size_t to_offset, CUarray from, size_t from_offset,
                              size_t bytes) {
  return CopyArray(to, to_offset, CU_MEMORYTYPE_ARRAY, nullptr, 0, from, from_offset, bytes, true,
                   nullptr, StreamForm::kPerThread);
}

CUresult cuMemcpyBatchAsync(CUdeviceptr* to, CUdeviceptr* from, size_t* sizes, size_t count,
                            CUmemcpyAttributes* attributes, size_t* attribute_of,
                            size_t attribute_count, size_t* failed, CUstream stream) {
  return CopyBatch(to, from, sizes, count, attributes, attribute_of, attribute_count, failed,
                   stream, StreamForm::kLegacy);
}
CUresult cuMemcpyBatchAsync_ptsz(CUdeviceptr* to, CUdeviceptr* from, size_t* sizes, size_t count,
                                 CUmemcpyAttributes* attributes, size_t* attribute_of,
                                 size_t attribute_count, size_t* failed, CUstream stream) {
  return CopyBatch(to, from, sizes, count, attributes, attribute_of, attribute_count, failed,
                   stream, StreamForm::kPerThread);
}
CUresult cuMemcpyBatchAsync_v2(CUdeviceptr* to, CUdeviceptr* from, size_t* sizes, size_t count,
                               CUmemcpyAttributes* attributes, size_t* attribute_of,
                               size_t attribute_count, CUstream stream) {
  return CopyBatch(to, from, sizes, count, attributes, attribute_of, attribute_count, nullptr,
                   stream, StreamForm::kLegacy);
}
CUresult cuMemcpyBatchAsync_v2_ptsz(CUdeviceptr* to, CUdeviceptr* from, size_t* sizes, size_t count,
                                    CUmemcpyAttributes* attributes, size_t* attribute_of,
                                    size_t attribute_count, CUstream stream) {
  return CopyBatch(to, from, sizes, count, attributes, attribute_of, attribute_count, nullptr,
                   stream, StreamForm::kPerThread);
}

// The forms of a fill whose elements have that many bits.
#define SIMGPU_FILLS(BITS, TYPE)                                                                 \
  CUresult cuMemsetD##BITS##_v2(CUdeviceptr address, TYPE value, size_t count) {                 \
    return Fill(address, 0, value, BITS / 8, count, 1, true, nullptr, StreamForm::kLegacy);      \
  }                                                                                              \
  CUresult cuMemsetD##BITS##_v2_ptds(CUdeviceptr address, TYPE value, size_t count) {            \
    return Fill(address, 0, value, BITS / 8, count, 1, true, nullptr, StreamForm::kPerThread);   \
  }                                                                                              \
  CUresult cuMemsetD##BITS##Async(CUdeviceptr address, TYPE value, size_t count,                 \
                                  CUstream stream) {                                             \
    return Fill(address, 0, value, BITS / 8, count, 1, false, stream, StreamForm::kLegacy);      \
  }                                                                                              \
  CUresult cuMemsetD##BITS##Async_ptsz(CUdeviceptr address, TYPE value, size_t count,            \
                                       CUstream stream) {                                        \
    return Fill(address, 0, value, BITS / 8, count, 1, false, stream, StreamForm::kPerThread);   \
  }                                                                                              \
  CUresult cuMemsetD2D##BITS##_v2(CUdeviceptr address, size_t pitch, TYPE value, size_t width,   \
                                  size_t height) {                                               \
    return Fill(address, pitch, value, BITS / 8, width, height, true, nullptr,                   \
                StreamForm::kLegacy);                                                            \
  }                                                                                              \
  CUresult cuMemsetD2D##BITS##_v2_ptds(CUdeviceptr address, size_t pitch, TYPE value,            \
                                       size_t width, size_t height) {                            \
    return Fill(address, pitch, value, BITS / 8, width, height, true, nullptr,                   \
                StreamForm::kPerThread);                                                         \
  }                                                                                              \
  CUresult cuMemsetD2D##BITS##Async(CUdeviceptr address, size_t pitch, TYPE value, size_t width, \
                                    size_t height, CUstream stream) {                            \
    return Fill(address, pitch, value, BITS / 8, width, height, false, stream,                   \
                StreamForm::kLegacy);                                                            \
  }                                                                                              \
  CUresult cuMemsetD2D##BITS##Async_ptsz(CUdeviceptr address, size_t pitch, TYPE value,          \
                                         size_t width, size_t height, CUstream stream) {         \
    return Fill(address, pitch, value, BITS / 8, width, height, false, stream,                   \
                StreamForm::kPerThread);                                                         \
  }

SIMGPU_FILLS(8, unsigned char)
SIMGPU_FILLS(16, unsigned short)
SIMGPU_FILLS(32, unsigned int)
#undef SIMGPU_FILLS

}  // extern "C"
}  // namespace tessera::abi
