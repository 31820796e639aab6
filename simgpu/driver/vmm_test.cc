// Physical memory, addresses and mappings: what counts when, who may touch what, what is refused.
#include <fcntl.h>

#include <map>
#include <random>
#include <vector>

#include "simgpu/driver/memory_test_support.h"

namespace simgpu {
namespace {

constexpr size_t kGranuleBytes = 2 * kMiBytes;

CUmemAllocationProp OnDevice(int device,
                             CUmemAllocationHandleType handles = CU_MEM_HANDLE_TYPE_NONE) {
  CUmemAllocationProp prop = {};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.requestedHandleTypes = handles;
  prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, device};
  return prop;
}

CUmemAccessDesc Access(int device, unsigned int flags) {
  return {{CU_MEM_LOCATION_TYPE_DEVICE, device}, flags};
}

TEST_F(DriverTest, PhysicalMemoryCountsFromCreationToItsLastUse) {
  WithContext([](CUcontext) {
    const size_t before = UsedMiB();
    size_t granularity = 0;
    CUmemAllocationProp prop = OnDevice(0);
    ASSERT_EQ(cuMemGetAllocationGranularity(&granularity, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM),
              CUDA_SUCCESS);
    EXPECT_EQ(granularity, kGranuleBytes);
    CUdeviceptr base = 0;
    ASSERT_EQ(cuMemAddressReserve(&base, 64 * kMiBytes, 0, 0, 0), CUDA_SUCCESS);
    EXPECT_EQ(base % kGranuleBytes, 0u);
    EXPECT_EQ(UsedMiB(), before);  // addresses cost nothing
    for (auto handles : {CU_MEM_HANDLE_TYPE_NONE, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR}) {
      prop = OnDevice(0, handles);
      CUmemGenericAllocationHandle handle = 0, again = 0;
      ASSERT_EQ(cuMemCreate(&handle, 3 * kGranuleBytes, &prop, 0), CUDA_SUCCESS);
      EXPECT_EQ(UsedMiB(), before + 6);
      // Mapped twice, it counts once; both views show the same bytes.
      ASSERT_EQ(cuMemMap(base, 3 * kGranuleBytes, 0, handle, 0), CUDA_SUCCESS);
      ASSERT_EQ(cuMemMap(base + 16 * kMiBytes, 3 * kGranuleBytes, 0, handle, 0), CUDA_SUCCESS);
      EXPECT_EQ(UsedMiB(), before + 6);
      const CUmemAccessDesc all = Access(0, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
      ASSERT_EQ(cuMemSetAccess(base, 3 * kGranuleBytes, &all, 1), CUDA_SUCCESS);
      ASSERT_EQ(cuMemSetAccess(base + 16 * kMiBytes, 3 * kGranuleBytes, &all, 1), CUDA_SUCCESS);
      ASSERT_EQ(StoreByKernel(base + kGranuleBytes, 4711), CUDA_SUCCESS);
      unsigned int value = 0;
      ASSERT_EQ(cuMemcpyDtoH_v2(&value, base + 16 * kMiBytes + kGranuleBytes, 4), CUDA_SUCCESS);
      EXPECT_EQ(value, 4711u);
      ASSERT_EQ(cuMemRetainAllocationHandle(&again, reinterpret_cast<void*>(base + 17 * kMiBytes)),
                CUDA_SUCCESS);
      EXPECT_EQ(again, handle);
      CUmemAllocationProp told = {};
      ASSERT_EQ(cuMemGetAllocationPropertiesFromHandle(&told, again), CUDA_SUCCESS);
      EXPECT_EQ(told.requestedHandleTypes, handles);
      EXPECT_EQ(told.location.id, 0);
      ASSERT_EQ(cuMemRelease(handle), CUDA_SUCCESS);
      ASSERT_EQ(cuMemRelease(again), CUDA_SUCCESS);
      EXPECT_EQ(cuMemRelease(again), CUDA_ERROR_INVALID_VALUE);
      EXPECT_EQ(UsedMiB(), before + 6);
      ASSERT_EQ(cuMemUnmap(base, 3 * kGranuleBytes), CUDA_SUCCESS);
      EXPECT_EQ(UsedMiB(), before + 6);
      ASSERT_EQ(cuMemUnmap(base + 16 * kMiBytes, 3 * kGranuleBytes), CUDA_SUCCESS);
      EXPECT_EQ(UsedMiB(), before);
    }
    EXPECT_EQ(cuMemAddressFree(base, 32 * kMiBytes), CUDA_ERROR_INVALID_VALUE);
    ASSERT_EQ(cuMemAddressFree(base, 64 * kMiBytes), CUDA_SUCCESS);
    EXPECT_EQ(cuMemAddressFree(base, 64 * kMiBytes), CUDA_ERROR_INVALID_VALUE);
  });
}

TEST_F(DriverTest, MappedMemoryIsNobodysUntilAccessIsSet) {
  for (bool by_kernel : {false, true}) {
    WithContext([by_kernel](CUcontext) {
      CUdeviceptr base = 0;
      CUmemGenericAllocationHandle handle = 0;
      const CUmemAllocationProp prop = OnDevice(0);
      ASSERT_EQ(cuMemAddressReserve(&base, 2 * kGranuleBytes, 0, 0, 0), CUDA_SUCCESS);
      ASSERT_EQ(cuMemCreate(&handle, kGranuleBytes, &prop, 0), CUDA_SUCCESS);
      unsigned int value = 5;
      EXPECT_EQ(cuMemcpyHtoD_v2(base, &value, 4), CUDA_ERROR_INVALID_VALUE);  // reserved only
      ASSERT_EQ(cuMemMap(base, kGranuleBytes, 0, handle, 0), CUDA_SUCCESS);
      const CUmemLocation here = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
      unsigned long long flags = 9;
      ASSERT_EQ(cuMemGetAccess(&flags, &here, base), CUDA_SUCCESS);
      EXPECT_EQ(flags, 0u);
      EXPECT_EQ(cuMemcpyHtoD_v2(base, &value, 4), CUDA_ERROR_INVALID_VALUE);
      EXPECT_EQ(cuMemsetD8_v2(base, 1, 4), CUDA_ERROR_INVALID_VALUE);
      if (by_kernel) {
        EXPECT_EQ(StoreByKernel(base, 1), CUDA_ERROR_ILLEGAL_ADDRESS);
        return;
      }
      CUmemAccessDesc access = Access(0, CU_MEM_ACCESS_FLAGS_PROT_READ);
      ASSERT_EQ(cuMemSetAccess(base, kGranuleBytes, &access, 1), CUDA_SUCCESS);
      EXPECT_EQ(cuMemcpyDtoH_v2(&value, base, 4), CUDA_SUCCESS);
      EXPECT_EQ(value, 0u);
      EXPECT_EQ(cuMemcpyHtoD_v2(base, &value, 4), CUDA_ERROR_INVALID_VALUE);
      access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
      ASSERT_EQ(cuMemSetAccess(base, kGranuleBytes, &access, 1), CUDA_SUCCESS);
      EXPECT_EQ(cuMemcpyHtoD_v2(base, &value, 4), CUDA_SUCCESS);
      EXPECT_EQ(StoreByKernel(base, 1), CUDA_SUCCESS);
      access.flags = CU_MEM_ACCESS_FLAGS_PROT_READ;
      ASSERT_EQ(cuMemSetAccess(base, kGranuleBytes, &access, 1), CUDA_SUCCESS);
      EXPECT_EQ(StoreByKernel(base, 1), CUDA_ERROR_ILLEGAL_ADDRESS);
    });
  }
}

// What a growing tensor does: neighbours in addresses are one range for copies, whatever they are
// made of.
TEST_F(DriverTest, CopiesRunOverMappingsSideBySide) {
  WithContext([](CUcontext) {
    CUdeviceptr base = 0;
    ASSERT_EQ(cuMemAddressReserve(&base, 8 * kGranuleBytes, 0, 0, 0), CUDA_SUCCESS);
    const CUmemAccessDesc access = Access(0, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    for (int i = 0; i < 4; ++i) {
      CUmemGenericAllocationHandle handle = 0;
      const CUmemAllocationProp prop = OnDevice(
          0, i % 2 == 0 ? CU_MEM_HANDLE_TYPE_NONE : CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
      ASSERT_EQ(cuMemCreate(&handle, kGranuleBytes, &prop, 0), CUDA_SUCCESS);
      ASSERT_EQ(cuMemMap(base + i * kGranuleBytes, kGranuleBytes, 0, handle, 0), CUDA_SUCCESS);
      ASSERT_EQ(cuMemRelease(handle), CUDA_SUCCESS);
    }
    ASSERT_EQ(cuMemSetAccess(base, 4 * kGranuleBytes, &access, 1), CUDA_SUCCESS);
    std::vector<unsigned char> out(4 * kGranuleBytes), back(4 * kGranuleBytes);
    std::mt19937 random(7);
    for (unsigned char& byte : out) byte = static_cast<unsigned char>(random());
    ASSERT_EQ(cuMemcpyHtoD_v2(base, out.data(), out.size()), CUDA_SUCCESS);
    ASSERT_EQ(cuMemcpyDtoH_v2(back.data(), base, back.size()), CUDA_SUCCESS);
    EXPECT_EQ(out, back);
    EXPECT_EQ(cuMemcpyDtoH_v2(back.data(), base + 1, back.size()), CUDA_ERROR_INVALID_VALUE);
    // The mapping, and the whole reservation.
    CUdeviceptr start = 0, range = 0;
    size_t bytes = 0, mapping = 0;
    ASSERT_EQ(cuMemGetAddressRange_v2(&start, &bytes, base + kGranuleBytes + 5), CUDA_SUCCESS);
    EXPECT_EQ(start, base + kGranuleBytes);
    EXPECT_EQ(bytes, kGranuleBytes);
    ASSERT_EQ(cuPointerGetAttribute(&range, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR,
                                    base + 3 * kGranuleBytes),
              CUDA_SUCCESS);
    EXPECT_EQ(range, base);
    ASSERT_EQ(cuPointerGetAttribute(&bytes, CU_POINTER_ATTRIBUTE_RANGE_SIZE, base), CUDA_SUCCESS);
    EXPECT_EQ(bytes, 8 * kGranuleBytes);
    ASSERT_EQ(cuPointerGetAttribute(&mapping, CU_POINTER_ATTRIBUTE_MAPPING_SIZE, base),
              CUDA_SUCCESS);
    EXPECT_EQ(mapping, kGranuleBytes);
    unsigned int mapped = 9;
    ASSERT_EQ(cuPointerGetAttribute(&mapped, CU_POINTER_ATTRIBUTE_MAPPED, base + 5 * kGranuleBytes),
              CUDA_SUCCESS);
    EXPECT_EQ(mapped, 0u);
    unsigned long long types = 9;
    ASSERT_EQ(cuPointerGetAttribute(&types, CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES,
                                    base + kGranuleBytes),
              CUDA_SUCCESS);
    EXPECT_EQ(types, unsigned{CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR});
    // Several mappings can be unmapped at once, parts of one cannot.
    EXPECT_EQ(cuMemUnmap(base, kGranuleBytes / 2), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemUnmap(base, 5 * kGranuleBytes), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemAddressFree(base, 8 * kGranuleBytes), CUDA_ERROR_INVALID_VALUE);
    ASSERT_EQ(cuMemUnmap(base, 4 * kGranuleBytes), CUDA_SUCCESS);
    ASSERT_EQ(cuMemAddressFree(base, 8 * kGranuleBytes), CUDA_SUCCESS);
  });
}

TEST_F(DriverTest, WhatCannotBeMadeOrMappedIsRefused) {
  WithContext([](CUcontext) {
    const size_t before = UsedMiB();
    CUmemGenericAllocationHandle handle = 0;
    CUmemAllocationProp prop = OnDevice(0);
    EXPECT_EQ(cuMemCreate(&handle, kMiBytes, &prop, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemCreate(&handle, 0, &prop, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemCreate(&handle, kGranuleBytes, &prop, 1), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemCreate(&handle, kGranuleBytes, nullptr, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemCreate(&handle, size_t{1} << 40, &prop, 0), CUDA_ERROR_OUT_OF_MEMORY);
    EXPECT_EQ(cuMemCreate(&handle, 15360 * kMiBytes, &prop, 0), CUDA_ERROR_OUT_OF_MEMORY);
    prop = OnDevice(9);
    EXPECT_EQ(cuMemCreate(&handle, kGranuleBytes, &prop, 0), CUDA_ERROR_INVALID_DEVICE);
    prop = OnDevice(0, CU_MEM_HANDLE_TYPE_FABRIC);
    EXPECT_EQ(cuMemCreate(&handle, kGranuleBytes, &prop, 0), CUDA_ERROR_NOT_SUPPORTED);
    prop = OnDevice(0);
    prop.location.type = CU_MEM_LOCATION_TYPE_HOST;
    EXPECT_EQ(cuMemCreate(&handle, kGranuleBytes, &prop, 0), CUDA_ERROR_NOT_SUPPORTED);
    prop = OnDevice(0);
    prop.type = CU_MEM_ALLOCATION_TYPE_INVALID;
    EXPECT_EQ(cuMemCreate(&handle, kGranuleBytes, &prop, 0), CUDA_ERROR_INVALID_VALUE);
    prop = OnDevice(0);
    CUdeviceptr base = 0;
    EXPECT_EQ(cuMemAddressReserve(&base, 100, 0, 0, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemAddressReserve(&base, kGranuleBytes, 3, 0, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemAddressReserve(&base, kGranuleBytes, 0, 0, 1), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemAddressReserve(&base, size_t{1} << 50, 0, 0, 0), CUDA_ERROR_OUT_OF_MEMORY);
    ASSERT_EQ(cuMemAddressReserve(&base, 4 * kGranuleBytes, 64 * kMiBytes, 0, 0), CUDA_SUCCESS);
    EXPECT_EQ(base % (64 * kMiBytes), 0u);
    // A hint that is free is taken.
    CUdeviceptr wish = base + 1024 * kMiBytes, got = 0;
    ASSERT_EQ(cuMemAddressReserve(&got, kGranuleBytes, 0, wish, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuMemAddressFree(got, kGranuleBytes), CUDA_SUCCESS);
    ASSERT_EQ(cuMemCreate(&handle, 2 * kGranuleBytes, &prop, 0), CUDA_SUCCESS);
    EXPECT_EQ(cuMemMap(base + 1, kGranuleBytes, 0, handle, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemMap(base, kGranuleBytes, kGranuleBytes, handle, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemMap(base, 3 * kGranuleBytes, 0, handle, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemMap(base + 3 * kGranuleBytes, 2 * kGranuleBytes, 0, handle, 0),
              CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemMap(base, kGranuleBytes, 0, 12345, 0), CUDA_ERROR_INVALID_VALUE);
    ASSERT_EQ(cuMemMap(base, 2 * kGranuleBytes, 0, handle, 0), CUDA_SUCCESS);
    EXPECT_EQ(cuMemMap(base + kGranuleBytes, kGranuleBytes, 0, handle, 0),
              CUDA_ERROR_INVALID_VALUE);  // is mapped
    CUmemAccessDesc access = Access(0, 2);
    EXPECT_EQ(cuMemSetAccess(base, 2 * kGranuleBytes, &access, 1), CUDA_ERROR_INVALID_VALUE);
    access = Access(5, 3);
    EXPECT_EQ(cuMemSetAccess(base, 2 * kGranuleBytes, &access, 1), CUDA_ERROR_INVALID_DEVICE);
    access = Access(1, 3);  // no link between a T4 and an A100
    EXPECT_EQ(cuMemSetAccess(base, 2 * kGranuleBytes, &access, 1), CUDA_ERROR_INVALID_DEVICE);
    access = Access(0, 3);
    EXPECT_EQ(cuMemSetAccess(base, 4 * kGranuleBytes, &access, 1), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemSetAccess(base, kGranuleBytes, &access, 1), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemFree_v2(base), CUDA_ERROR_INVALID_VALUE);
    int fd = -1;
    EXPECT_EQ(
        cuMemExportToShareableHandle(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
        CUDA_ERROR_INVALID_VALUE);  // was not asked for
    EXPECT_EQ(cuMemExportToShareableHandle(&fd, handle, CU_MEM_HANDLE_TYPE_FABRIC, 0),
              CUDA_ERROR_NOT_SUPPORTED);
    CUmemGenericAllocationHandle other = 0;
    const int null = open("/dev/null", O_RDWR);
    for (int bad : {-1, null}) {
      EXPECT_EQ(cuMemImportFromShareableHandle(&other,
                                               reinterpret_cast<void*>(static_cast<intptr_t>(bad)),
                                               CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
                CUDA_ERROR_INVALID_VALUE);
    }
    close(null);
    ASSERT_EQ(cuMemRelease(handle), CUDA_SUCCESS);
    ASSERT_EQ(cuMemUnmap(base, 2 * kGranuleBytes), CUDA_SUCCESS);
    ASSERT_EQ(cuMemAddressFree(base, 4 * kGranuleBytes), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), before);
  });
}

CUmemGenericAllocationHandle Import(int fd) {
  CUmemGenericAllocationHandle handle = 0;
  EXPECT_EQ(
      cuMemImportFromShareableHandle(&handle, reinterpret_cast<void*>(static_cast<intptr_t>(fd)),
                                     CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
      CUDA_SUCCESS);
  return handle;
}

CUdeviceptr MapAll(CUmemGenericAllocationHandle handle, size_t bytes) {
  CUdeviceptr base = 0;
  const CUmemAccessDesc access = Access(0, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
  EXPECT_EQ(cuMemAddressReserve(&base, bytes, 0, 0, 0), CUDA_SUCCESS);
  EXPECT_EQ(cuMemMap(base, bytes, 0, handle, 0), CUDA_SUCCESS);
  EXPECT_EQ(cuMemSetAccess(base, bytes, &access, 1), CUDA_SUCCESS);
  return base;
}

// The importer sees the exporter's bytes and is not charged; when the exporter is gone the importer
// is.
TEST_F(TwoProcessTest, ImportedMemoryCountsOnceAndOutlivesItsMaker) {
  Converse(
      [](Line line) {
        const CUmemAllocationProp prop = OnDevice(0, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
        CUmemGenericAllocationHandle handle = 0;
        ASSERT_EQ(cuMemCreate(&handle, 50 * kGranuleBytes, &prop, 0), CUDA_SUCCESS);
        CUdeviceptr base = MapAll(handle, 50 * kGranuleBytes);
        ASSERT_EQ(StoreByKernel(base + 99 * kMiBytes, 77), CUDA_SUCCESS);
        int fd = -1;
        ASSERT_EQ(
            cuMemExportToShareableHandle(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
            CUDA_SUCCESS);
        // Imported where it was made, it is the same handle once more.
        EXPECT_EQ(Import(fd), handle);
        EXPECT_EQ(cuMemRelease(handle), CUDA_SUCCESS);
        line.SayFd(fd);
        close(fd);
        EXPECT_EQ(line.Hear<int>(), 1);
        unsigned int value = 0;
        EXPECT_EQ(cuMemcpyDtoH_v2(&value, base, 4), CUDA_SUCCESS);
        EXPECT_EQ(value, 88u);
      },
      [](Line line) {
        const int fd = line.HearFd();
        const size_t both = UsedMiB();
        EXPECT_EQ(both, 2 * 106u + 100u);
        CUmemGenericAllocationHandle handle = Import(fd);
        close(fd);
        CUdeviceptr base = MapAll(handle, 50 * kGranuleBytes);
        unsigned int value = 0;
        EXPECT_EQ(cuMemcpyDtoH_v2(&value, base + 99 * kMiBytes, 4), CUDA_SUCCESS);
        EXPECT_EQ(value, 77u);
        EXPECT_EQ(StoreByKernel(base, 88), CUDA_SUCCESS);
        EXPECT_EQ(UsedMiB(), both);
        line.Say(1);
        // The exporter ends; its use goes, and the next question finds the charge here.
        for (int i = 0; i < 2000 && UsedMiB() != 106u + 100u; ++i) usleep(5000);
        EXPECT_EQ(UsedMiB(), 106u + 100u);
        EXPECT_EQ(cuMemcpyDtoH_v2(&value, base + 99 * kMiBytes, 4), CUDA_SUCCESS);
        EXPECT_EQ(value, 77u);
        EXPECT_EQ(cuMemUnmap(base, 50 * kGranuleBytes), CUDA_SUCCESS);
        EXPECT_EQ(UsedMiB(), 106u + 100u);
        EXPECT_EQ(cuMemRelease(handle), CUDA_SUCCESS);
        EXPECT_EQ(UsedMiB(), 106u);
      });
}

// Random creating, mapping, unmapping and releasing against a model that only counts.
TEST_F(DriverTest, RandomMappingsLeaveTheAccountRight) {
  for (unsigned seed = 1; seed <= 3; ++seed) {
    WithContext([seed](CUcontext) {
      struct Memory {
        size_t granules;
        int handles;
        int mappings;
      };
      std::mt19937_64 random(seed);
      const size_t before = UsedMiB();
      constexpr size_t kSlots = 64;
      CUdeviceptr base = 0;
      ASSERT_EQ(cuMemAddressReserve(&base, kSlots * 4 * kGranuleBytes, 0, 0, 0), CUDA_SUCCESS);
      std::map<CUmemGenericAllocationHandle, Memory> memories;
      std::map<size_t, CUmemGenericAllocationHandle> mapped;  // slot -> of what
      auto settle = [&](CUmemGenericAllocationHandle handle) {
        if (memories[handle].handles == 0 && memories[handle].mappings == 0) memories.erase(handle);
      };
      for (int step = 0; step < 600; ++step) {
        auto any = memories.begin();
        if (!memories.empty()) std::advance(any, random() % memories.size());
        switch (random() % 4) {
          case 0: {
            const size_t granules = 1 + random() % 4;
            const CUmemAllocationProp prop =
                OnDevice(0, random() % 2 == 0 ? CU_MEM_HANDLE_TYPE_NONE
                                              : CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
            CUmemGenericAllocationHandle handle = 0;
            ASSERT_EQ(cuMemCreate(&handle, granules * kGranuleBytes, &prop, 0), CUDA_SUCCESS);
            memories[handle] = {granules, 1, 0};
            break;
          }
          case 1: {
            const size_t slot = random() % kSlots;
            if (any == memories.end() || mapped.contains(slot) || any->second.handles == 0) break;
            ASSERT_EQ(cuMemMap(base + slot * 4 * kGranuleBytes,
                               any->second.granules * kGranuleBytes, 0, any->first, 0),
                      CUDA_SUCCESS);
            ++any->second.mappings;
            mapped[slot] = any->first;
            break;
          }
          case 2: {
            if (mapped.empty()) break;
            auto slot = mapped.begin();
            std::advance(slot, random() % mapped.size());
            const CUmemGenericAllocationHandle handle = slot->second;
            ASSERT_EQ(cuMemUnmap(base + slot->first * 4 * kGranuleBytes,
                                 memories[handle].granules * kGranuleBytes),
                      CUDA_SUCCESS);
            --memories[handle].mappings;
            mapped.erase(slot);
            settle(handle);
            break;
          }
          default: {
            if (any == memories.end() || any->second.handles == 0) break;
            const CUmemGenericAllocationHandle handle = any->first;
            ASSERT_EQ(cuMemRelease(handle), CUDA_SUCCESS);
            --any->second.handles;
            settle(handle);
          }
        }
        size_t expected = before;
        for (const auto& [handle, memory] : memories) expected += 2 * memory.granules;
        ASSERT_EQ(UsedMiB(), expected) << "step " << step << " of seed " << seed;
      }
      for (const auto& [slot, handle] : mapped) {
        ASSERT_EQ(
            cuMemUnmap(base + slot * 4 * kGranuleBytes, memories[handle].granules * kGranuleBytes),
            CUDA_SUCCESS);
      }
      for (const auto& [handle, memory] : memories) {
        for (int i = 0; i < memory.handles; ++i) ASSERT_EQ(cuMemRelease(handle), CUDA_SUCCESS);
      }
      EXPECT_EQ(UsedMiB(), before);
      ASSERT_EQ(cuMemAddressFree(base, kSlots * 4 * kGranuleBytes), CUDA_SUCCESS);
    });
  }
}

TEST_F(DriverTest, AMulticastObjectHoldsWhatIsBoundToItAndTakesNothing) {
  setenv("SIMGPU_CARDS", "NVL-A100-4", 1);
  WithContext([](CUcontext) {
    constexpr size_t kBytes = 4 * kGranuleBytes;
    CUmulticastObjectProp team = {};
    team.numDevices = 2;
    team.size = kBytes;
    size_t granularity = 0;
    ASSERT_EQ(cuMulticastGetGranularity(&granularity, &team, CU_MULTICAST_GRANULARITY_RECOMMENDED),
              CUDA_SUCCESS);
    EXPECT_EQ(granularity, kGranuleBytes);
    CUmemAllocationProp here = OnDevice(0), there = OnDevice(1);
    CUmemGenericAllocationHandle multicast = 0, mine = 0, theirs = 0;
    ASSERT_EQ(cuMemCreate(&mine, kBytes, &here, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuMemCreate(&theirs, kBytes, &there, 0), CUDA_SUCCESS);
    const size_t with_memory = UsedMiB();
    ASSERT_EQ(cuMulticastCreate(&multicast, &team), CUDA_SUCCESS);
    CUdeviceptr base = 0;
    ASSERT_EQ(cuMemAddressReserve(&base, 2 * kBytes, 0, 0, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuMulticastAddDevice(multicast, 0), CUDA_SUCCESS);
    EXPECT_EQ(cuMulticastAddDevice(multicast, 0), CUDA_ERROR_INVALID_VALUE);
    // A card's driver would wait for the second device.
    EXPECT_EQ(cuMulticastBindMem(multicast, 0, mine, 0, kBytes, 0), CUDA_ERROR_NOT_READY);
    EXPECT_EQ(cuMemMap(base, kBytes, 0, multicast, 0), CUDA_ERROR_NOT_READY);
    ASSERT_EQ(cuMulticastAddDevice(multicast, 1), CUDA_SUCCESS);
    EXPECT_EQ(cuMulticastAddDevice(multicast, 2), CUDA_ERROR_INVALID_VALUE);  // two there are
    ASSERT_EQ(cuMulticastBindMem(multicast, 0, mine, 0, kBytes, 0), CUDA_SUCCESS);
    EXPECT_EQ(cuMulticastBindMem(multicast, kGranuleBytes, mine, 0, kGranuleBytes, 0),
              CUDA_ERROR_INVALID_VALUE);  // this device has something there
    EXPECT_EQ(cuMulticastBindMem(multicast, 0, theirs, kGranuleBytes, kBytes, 0),
              CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMulticastBindMem(multicast, 4096, theirs, 0, kGranuleBytes, 0),
              CUDA_ERROR_INVALID_VALUE);
    ASSERT_EQ(cuMemMap(base + kBytes, kBytes, 0, theirs, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuMulticastBindAddr(multicast, 0, base + kBytes, kBytes, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuMemMap(base, kBytes, 0, multicast, 0), CUDA_SUCCESS);
    const CUmemAccessDesc access = Access(0, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    ASSERT_EQ(cuMemSetAccess(base, kBytes, &access, 1), CUDA_SUCCESS);
    EXPECT_EQ(cuMemsetD8_v2(base, 1, 4),
              CUDA_ERROR_INVALID_VALUE);  // nothing loads or stores there
    EXPECT_EQ(UsedMiB(), with_memory);
    // The handle gone, the object holds the memory until it is unbound.
    ASSERT_EQ(cuMemRelease(mine), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), with_memory);
    EXPECT_EQ(cuMulticastUnbind(multicast, 0, kGranuleBytes, kBytes), CUDA_ERROR_INVALID_VALUE);
    ASSERT_EQ(cuMulticastUnbind(multicast, 0, 0, kBytes), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), with_memory - (kBytes >> 20));
    // Or until the object is gone with its last mapping.
    ASSERT_EQ(cuMemCreate(&mine, kBytes, &here, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuMulticastBindMem(multicast, 0, mine, 0, kBytes, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuMemRelease(mine), CUDA_SUCCESS);
    ASSERT_EQ(cuMemRelease(multicast), CUDA_SUCCESS);
    EXPECT_EQ(cuMemRelease(multicast), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(UsedMiB(), with_memory);
    ASSERT_EQ(cuMemUnmap(base, kBytes), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), with_memory - (kBytes >> 20));
    team.handleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    EXPECT_EQ(cuMulticastCreate(&multicast, &team), CUDA_ERROR_NOT_SUPPORTED);
    team.handleTypes = 0;
    team.numDevices = 5;
    EXPECT_EQ(cuMulticastCreate(&multicast, &team), CUDA_ERROR_INVALID_VALUE);
  });
}

}  // namespace
}  // namespace simgpu
