// Rectangles, boxes and arrays: pitched memory, three dimensions, arrays and their levels, and copies among them.
//! cards: T4
#include <vector>

#include "check.h"

__global__ void Number(unsigned char* base, size_t pitch, int width, int height, int depth) {
  const int x = blockIdx.x * blockDim.x + threadIdx.x, y = threadIdx.y, z = threadIdx.z;
  if (x < width && y < height && z < depth) base[(z * height + y) * pitch + x] = x + 3 * y + 5 * z;
}

int main() {
  // A box of odd size in pitched memory, numbered by a kernel, copied out whole and in part.
  const int width = 45, height = 6, depth = 4;
  const cudaExtent extent = make_cudaExtent(width, height, depth);
  cudaPitchedPtr box;
  MUST(cudaMalloc3D(&box, extent));
  EXPECT(box.pitch >= width && box.xsize == width && box.ysize == height);
  MUST(cudaMemset3D(box, 0xee, extent));
  Number<<<2, dim3(32, 6, 4)>>>(static_cast<unsigned char*>(box.ptr), box.pitch, width, height, depth);
  MUST(cudaGetLastError());
  std::vector<unsigned char> all(width * height * depth);
  cudaMemcpy3DParms copy = {};
  copy.srcPtr = box;
  copy.dstPtr = make_cudaPitchedPtr(all.data(), width, width, height);
  copy.extent = extent;
  copy.kind = cudaMemcpyDeviceToHost;
  MUST(cudaMemcpy3D(&copy));
  for (int z = 0; z < depth; ++z)
    for (int y = 0; y < height; ++y)
      for (int x = 0; x < width; ++x) EXPECT(all[(z * height + y) * width + x] == x + 3 * y + 5 * z);
  std::vector<unsigned char> part(10 * 3 * 2);
  copy.srcPos = make_cudaPos(7, 2, 1);
  copy.dstPtr = make_cudaPitchedPtr(part.data(), 10, 10, 3);
  copy.extent = make_cudaExtent(10, 3, 2);
  cudaStream_t stream;
  MUST(cudaStreamCreate(&stream));
  MUST(cudaMemcpy3DAsync(&copy, stream));
  MUST(cudaStreamSynchronize(stream));
  for (int z = 0; z < 2; ++z)
    for (int y = 0; y < 3; ++y)
      for (int x = 0; x < 10; ++x) EXPECT(part[(z * 3 + y) * 10 + x] == x + 7 + 3 * (y + 2) + 5 * (z + 1));
  // Setting a box inside the box leaves its surroundings.
  cudaPitchedPtr inside = box;
  MUST(cudaMemset3DAsync(inside, 0x77, make_cudaExtent(4, 2, depth), stream));
  MUST(cudaStreamSynchronize(stream));
  MUST(cudaMemcpy2D(all.data(), width, box.ptr, box.pitch, width, height * depth, cudaMemcpyDeviceToHost));
  for (int z = 0; z < depth; ++z) {
    EXPECT(all[z * height * width] == 0x77 && all[(z * height + 1) * width + 3] == 0x77);
    EXPECT(all[z * height * width + 4] == 4 + 5 * z && all[(z * height + 2) * width] == 6 + 5 * z);
  }
  EXPECT(cudaMemcpy2D(all.data(), 3, box.ptr, box.pitch, width, 1, cudaMemcpyDeviceToHost) ==
         cudaErrorInvalidPitchValue);
  EXPECT(cudaGetLastError() == cudaErrorInvalidPitchValue);

  // A plane array of pairs: in by rectangle, across to another, out again.
  const int columns = 20, rows = 9;
  std::vector<short2> pairs(columns * rows), out(columns * rows);
  for (int i = 0; i < columns * rows; ++i) pairs[i] = make_short2(static_cast<short>(i), static_cast<short>(-i));
  const cudaChannelFormatDesc channels = cudaCreateChannelDesc<short2>();
  cudaArray_t array, second;
  MUST(cudaMallocArray(&array, &channels, columns, rows));
  MUST(cudaMallocArray(&second, &channels, columns, rows));
  const size_t row_bytes = columns * sizeof(short2);
  MUST(cudaMemcpy2DToArray(array, 0, 0, pairs.data(), row_bytes, row_bytes, rows, cudaMemcpyHostToDevice));
  MUST(cudaMemcpy2DArrayToArray(second, 0, 0, array, 0, 0, row_bytes, rows));
  MUST(cudaMemcpy2DFromArray(out.data(), row_bytes, second, 0, 0, row_bytes, rows, cudaMemcpyDeviceToHost));
  for (int i = 0; i < columns * rows; ++i) EXPECT(out[i].x == i && out[i].y == -i);
  std::vector<short2> corner(3 * 2);
  MUST(cudaMemcpy2DFromArrayAsync(corner.data(), 3 * sizeof(short2), array, 17 * sizeof(short2), 7,
                                  3 * sizeof(short2), 2, cudaMemcpyDeviceToHost, stream));
  MUST(cudaStreamSynchronize(stream));
  for (int y = 0; y < 2; ++y)
    for (int x = 0; x < 3; ++x) EXPECT(corner[3 * y + x].x == (7 + y) * columns + 17 + x);
  cudaChannelFormatDesc asked;
  cudaExtent size;
  unsigned int flags = 99;
  MUST(cudaArrayGetInfo(&asked, &size, &flags, array));
  EXPECT(asked.x == 16 && asked.y == 16 && asked.z == 0 && asked.f == cudaChannelFormatKindSigned);
  EXPECT(size.width == columns && size.height == rows && size.depth == 0 && flags == 0);
  // Over the edge is refused.
  EXPECT(cudaMemcpy2DToArray(array, 4, 0, pairs.data(), row_bytes, row_bytes, rows, cudaMemcpyHostToDevice) ==
         cudaErrorInvalidValue);
  EXPECT(cudaGetLastError() == cudaErrorInvalidValue);

  // A box of floats; extents and positions count elements where an array takes part.
  const cudaChannelFormatDesc single = cudaCreateChannelDesc<float>();
  cudaArray_t cube;
  MUST(cudaMalloc3DArray(&cube, &single, make_cudaExtent(8, 5, 3)));
  std::vector<float> floats(8 * 5 * 3), back(8 * 5 * 3);
  for (size_t i = 0; i < floats.size(); ++i) floats[i] = 0.5f * i;
  cudaMemcpy3DParms in = {};
  in.srcPtr = make_cudaPitchedPtr(floats.data(), 8 * sizeof(float), 8, 5);
  in.dstArray = cube;
  in.extent = make_cudaExtent(8, 5, 3);
  in.kind = cudaMemcpyHostToDevice;
  MUST(cudaMemcpy3D(&in));
  cudaMemcpy3DParms back_again = {};
  back_again.srcArray = cube;
  back_again.srcPos = make_cudaPos(2, 1, 1);
  back_again.dstPtr = make_cudaPitchedPtr(back.data(), 8 * sizeof(float), 8, 5);
  back_again.extent = make_cudaExtent(3, 2, 2);
  back_again.kind = cudaMemcpyDeviceToHost;
  MUST(cudaMemcpy3D(&back_again));
  for (int z = 0; z < 2; ++z)
    for (int y = 0; y < 2; ++y)
      for (int x = 0; x < 3; ++x) {
        EXPECT(back[(z * 5 + y) * 8 + x] == floats[((z + 1) * 5 + y + 1) * 8 + x + 2]);
      }

  // Levels, each half the one before.
  cudaMipmappedArray_t levels;
  MUST(cudaMallocMipmappedArray(&levels, &single, make_cudaExtent(16, 8, 0), 4));
  for (unsigned int level = 0; level < 4; ++level) {
    cudaArray_t one;
    MUST(cudaGetMipmappedArrayLevel(&one, levels, level));
    MUST(cudaArrayGetInfo(nullptr, &size, nullptr, one));
    EXPECT(size.width == 16u >> level && size.height == 8u >> level);
    const std::vector<float> value(size.width * size.height, 1.0f + level);
    MUST(cudaMemcpy2DToArray(one, 0, 0, value.data(), size.width * 4, size.width * 4, size.height,
                             cudaMemcpyHostToDevice));
  }
  for (unsigned int level = 0; level < 4; ++level) {
    cudaArray_t one;
    float last = 0;
    MUST(cudaGetMipmappedArrayLevel(&one, levels, level));
    MUST(cudaMemcpy2DFromArray(&last, 4, one, ((16u >> level) - 1) * 4, (8u >> level) - 1, 4, 1,
                               cudaMemcpyDeviceToHost));
    EXPECT(last == 1.0f + level);
  }
  cudaArray_t none;
  EXPECT(cudaGetMipmappedArrayLevel(&none, levels, 4) == cudaErrorInvalidValue);
  EXPECT(cudaGetLastError() == cudaErrorInvalidValue);
  MUST(cudaFreeMipmappedArray(levels));
  MUST(cudaFreeArray(array));
  MUST(cudaFreeArray(second));
  MUST(cudaFreeArray(cube));
  MUST(cudaFree(box.ptr));
  std::printf("PASSED storage\n");
  return 0;
}
