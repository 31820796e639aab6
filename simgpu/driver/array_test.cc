// Arrays and mipmapped arrays: what they take, what is told about them, what is refused.
#include <string.h>

#include "abi/cuda_memory.h"
#include "simgpu/driver/test_support.h"

namespace simgpu {
namespace {

CUDA_ARRAY3D_DESCRIPTOR Describe(size_t width, size_t height, size_t depth,
                                 unsigned int format = CU_AD_FORMAT_FLOAT,
                                 unsigned int channels = 1, unsigned int flags = 0) {
  return {width, height, depth, static_cast<CUarray_format>(format), channels, flags};
}

TEST_F(DriverTest, ArraysTakeRoundedTilesOfTheCard) {
  WithContext([](CUcontext) {
    const size_t before = UsedMiB();
    CUarray array = nullptr;
    // 1000 * 4 bytes are rounded to 4032 (63 * 64), 1001 rows to 1008: 3.88 MiB, so two granules.
    CUDA_ARRAY_DESCRIPTOR plain = {1000, 1001, CU_AD_FORMAT_FLOAT, 1};
    ASSERT_EQ(cuArrayCreate_v2(&array, &plain), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), before + 4);
    CUDA_ARRAY_DESCRIPTOR told = {};
    ASSERT_EQ(cuArrayGetDescriptor_v2(&told, array), CUDA_SUCCESS);
    EXPECT_EQ(memcmp(&told, &plain, sizeof told), 0);
    ASSERT_EQ(cuArrayDestroy(array), CUDA_SUCCESS);
    EXPECT_EQ(cuArrayDestroy(array), CUDA_ERROR_INVALID_HANDLE);
    EXPECT_EQ(UsedMiB(), before);
    // A row of bytes: 512 of a shared granule; a volume that is rounded beyond one granule.
    ASSERT_EQ(cuArrayCreate_v2(&array, &plain), CUDA_SUCCESS);
    CUarray volume = nullptr;
    CUDA_ARRAY3D_DESCRIPTOR wanted = Describe(64, 57, 256, CU_AD_FORMAT_HALF, 2);
    ASSERT_EQ(cuArray3DCreate_v2(&volume, &wanted), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), before + 4 + 4);  // 256 * 64 rows * 256 bytes are 4 MiB
    CUDA_ARRAY3D_DESCRIPTOR got = {};
    ASSERT_EQ(cuArray3DGetDescriptor_v2(&got, volume), CUDA_SUCCESS);
    EXPECT_EQ(got.Depth, 256u);
    EXPECT_EQ(got.NumChannels, 2u);
    ASSERT_EQ(cuArrayDestroy(volume), CUDA_SUCCESS);
    ASSERT_EQ(cuArrayDestroy(array), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), before);
  });
}

TEST_F(DriverTest, ArraysThatCannotBeAreRefused) {
  WithContext([](CUcontext) {
    CUarray array = nullptr;
    auto create = [&](CUDA_ARRAY3D_DESCRIPTOR wanted) {
      return cuArray3DCreate_v2(&array, &wanted);
    };
    EXPECT_EQ(create(Describe(0, 1, 0)), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(create(Describe(1, 0, 1)), CUDA_ERROR_INVALID_VALUE);  // a volume has rows
    EXPECT_EQ(create(Describe(1, 1, 0, CU_AD_FORMAT_FLOAT, 3)), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(create(Describe(1, 1, 0, 7)), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(create(Describe(131'073, 0, 0)), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(create(Describe(16'385, 1, 1)), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(create(Describe(8, 8, 2049, CU_AD_FORMAT_FLOAT, 1, CUDA_ARRAY3D_LAYERED)),
              CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(create(Describe(8, 4, 6, CU_AD_FORMAT_FLOAT, 1, CUDA_ARRAY3D_CUBEMAP)),
              CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(create(Describe(8, 8, 5, CU_AD_FORMAT_FLOAT, 1, CUDA_ARRAY3D_CUBEMAP)),
              CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(create(Describe(8, 8, 0, CU_AD_FORMAT_FLOAT, 1, CUDA_ARRAY3D_SPARSE)),
              CUDA_ERROR_NOT_SUPPORTED);
    EXPECT_EQ(create(Describe(8, 8, 0, CU_AD_FORMAT_FLOAT, 1, 0x4000)), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(create(Describe(8, 8, 0, 0x91, 4)), CUDA_ERROR_NOT_SUPPORTED);  // block compressed
    EXPECT_EQ(create(Describe(16'384, 16'384, 16'384, CU_AD_FORMAT_FLOAT, 4)),
              CUDA_ERROR_OUT_OF_MEMORY);
    EXPECT_EQ(cuArray3DCreate_v2(&array, nullptr), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuArrayDestroy(nullptr), CUDA_ERROR_INVALID_HANDLE);
    // Layers and cubes that can be.
    for (unsigned int flags : {unsigned{CUDA_ARRAY3D_LAYERED}, unsigned{CUDA_ARRAY3D_CUBEMAP},
                               CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP}) {
      ASSERT_EQ(create(Describe(8, 8, 6, CU_AD_FORMAT_UNSIGNED_INT8, 4, flags)), CUDA_SUCCESS);
      EXPECT_EQ(cuArrayDestroy(array), CUDA_SUCCESS);
    }
    // What is only for arrays that cannot be made is invalid for those that can.
    ASSERT_EQ(create(Describe(8, 8, 0)), CUDA_SUCCESS);
    CUDA_ARRAY_MEMORY_REQUIREMENTS needs = {};
    CUDA_ARRAY_SPARSE_PROPERTIES sparse = {};
    CUarray plane = nullptr;
    EXPECT_EQ(cuArrayGetMemoryRequirements(&needs, array, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuArrayGetMemoryRequirements(&needs, array, 7), CUDA_ERROR_INVALID_DEVICE);
    EXPECT_EQ(cuArrayGetSparseProperties(&sparse, array), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuArrayGetPlane(&plane, array, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuArrayDestroy(array), CUDA_SUCCESS);
  });
}

TEST_F(DriverTest, PlanesOfAnArrayAreArraysOfTheirOwn) {
  WithContext([](CUcontext) {
    CUarray array = nullptr, luma = nullptr, chroma = nullptr;
    CUDA_ARRAY3D_DESCRIPTOR wanted = Describe(64, 32, 0, CU_AD_FORMAT_NV12, 3);
    ASSERT_EQ(cuArray3DCreate_v2(&array, &wanted), CUDA_SUCCESS);
    ASSERT_EQ(cuArrayGetPlane(&luma, array, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuArrayGetPlane(&chroma, array, 1), CUDA_SUCCESS);
    EXPECT_EQ(cuArrayGetPlane(&chroma, array, 2), CUDA_ERROR_INVALID_VALUE);
    CUDA_ARRAY_DESCRIPTOR told = {};
    ASSERT_EQ(cuArrayGetDescriptor_v2(&told, chroma), CUDA_SUCCESS);
    EXPECT_EQ(told.Width, 32u);
    EXPECT_EQ(told.Height, 16u);
    EXPECT_EQ(told.NumChannels, 2u);
    EXPECT_EQ(cuArrayDestroy(luma), CUDA_ERROR_INVALID_VALUE);  // the array's, not ours
    ASSERT_EQ(cuArrayDestroy(array), CUDA_SUCCESS);
    EXPECT_EQ(cuArrayGetDescriptor_v2(&told, luma), CUDA_ERROR_INVALID_HANDLE);
  });
}

// What is written into each level, row and slice comes back from there and from nowhere else.
TEST_F(DriverTest, LevelsOfAMipmapAreArraysOfHalfTheSize) {
  WithContext([](CUcontext) {
    const size_t before = UsedMiB();
    CUmipmappedArray mipmap = nullptr;
    CUDA_ARRAY3D_DESCRIPTOR wanted = Describe(20, 10, 5, CU_AD_FORMAT_UNSIGNED_INT32);
    ASSERT_EQ(cuMipmappedArrayCreate(&mipmap, &wanted, 99), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), before + 2);
    const size_t extents[5][3] = {{20, 10, 5}, {10, 5, 2}, {5, 2, 1}, {2, 1, 1}, {1, 1, 1}};
    CUarray level = nullptr;
    EXPECT_EQ(cuMipmappedArrayGetLevel(&level, mipmap, 5), CUDA_ERROR_INVALID_VALUE);
    for (int pass = 0; pass < 2; ++pass) {
      for (unsigned int i = 0; i < 5; ++i) {
        ASSERT_EQ(cuMipmappedArrayGetLevel(&level, mipmap, i), CUDA_SUCCESS);
        CUDA_ARRAY3D_DESCRIPTOR told = {};
        ASSERT_EQ(cuArray3DGetDescriptor_v2(&told, level), CUDA_SUCCESS);
        ASSERT_EQ(told.Width, extents[i][0]);
        ASSERT_EQ(told.Height, extents[i][1]);
        ASSERT_EQ(told.Depth, extents[i][2]);
        const size_t count = extents[i][0] * extents[i][1] * extents[i][2];
        std::vector<unsigned int> bytes(count), back(count);
        for (size_t k = 0; k < count; ++k) bytes[k] = static_cast<unsigned int>(1000 * i + k);
        CUDA_MEMCPY3D copy = {};
        copy.WidthInBytes = extents[i][0] * 4;
        copy.Height = extents[i][1];
        copy.Depth = extents[i][2];
        if (pass == 0) {
          copy.srcMemoryType = CU_MEMORYTYPE_HOST;
          copy.srcHost = bytes.data();
          copy.srcPitch = copy.WidthInBytes;
          copy.srcHeight = copy.Height;
          copy.dstMemoryType = CU_MEMORYTYPE_ARRAY;
          copy.dstArray = level;
        } else {
          copy.srcMemoryType = CU_MEMORYTYPE_ARRAY;
          copy.srcArray = level;
          copy.dstMemoryType = CU_MEMORYTYPE_HOST;
          copy.dstHost = back.data();
          copy.dstPitch = copy.WidthInBytes;
          copy.dstHeight = copy.Height;
        }
        ASSERT_EQ(cuMemcpy3D_v2(&copy), CUDA_SUCCESS);
        if (pass == 1) {
          EXPECT_EQ(back, bytes) << "level " << i;
        }
      }
    }
    EXPECT_EQ(cuArrayDestroy(level), CUDA_ERROR_INVALID_VALUE);
    ASSERT_EQ(cuMipmappedArrayDestroy(mipmap), CUDA_SUCCESS);
    EXPECT_EQ(cuMipmappedArrayDestroy(mipmap), CUDA_ERROR_INVALID_HANDLE);
    EXPECT_EQ(UsedMiB(), before);
  });
}

TEST_F(DriverTest, ArraysGoWithTheirContext) {
  WithContext([](CUcontext) {
    const size_t before = UsedMiB();
    CUcontext context = nullptr;
    ASSERT_EQ(cuCtxCreate_v2(&context, 0, 0), CUDA_SUCCESS);
    CUarray array = nullptr;
    CUmipmappedArray mipmap = nullptr;
    CUDA_ARRAY3D_DESCRIPTOR wanted = Describe(1024, 1024, 0);
    ASSERT_EQ(cuArray3DCreate_v2(&array, &wanted), CUDA_SUCCESS);
    ASSERT_EQ(cuMipmappedArrayCreate(&mipmap, &wanted, 3), CUDA_SUCCESS);
    ASSERT_EQ(cuCtxDestroy_v2(context), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), before);
    EXPECT_EQ(cuArrayDestroy(array), CUDA_ERROR_INVALID_HANDLE);
    EXPECT_EQ(cuMipmappedArrayDestroy(mipmap), CUDA_ERROR_INVALID_HANDLE);
  });
}

}  // namespace
}  // namespace simgpu
