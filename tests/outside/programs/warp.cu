// What the lanes of a warp tell each other: shuffles, votes, matches, reductions, and cooperative groups over them.
//! cards: A100-80
//! options: -gencode arch=compute_80,code=compute_80
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>

#include <vector>

#include "check.h"

namespace cg = cooperative_groups;
constexpr unsigned int kAll = 0xffffffffu;

struct Lane {
  int from_3, up, down, butterfly, in_eights, wide_high;
  double real;
  unsigned int ballot, any, all, match, match_all, active, odd_active;
  unsigned int sum, low, high, bits_and, bits_or, bits_xor;
  int signed_low;
  int tile_sum, tile_rank, block_sum, scan;
};

__global__ void Talk(Lane* out) {
  const int lane = threadIdx.x % 32;
  Lane o;
  o.from_3 = __shfl_sync(kAll, lane * 10, 3);
  o.up = __shfl_up_sync(kAll, lane, 2);
  o.down = __shfl_down_sync(kAll, lane, 5);
  o.butterfly = __shfl_xor_sync(kAll, lane, 9);
  o.in_eights = __shfl_sync(kAll, lane, 1, 8);
  const long long wide = (static_cast<long long>(lane) << 40) + lane;
  o.wide_high = static_cast<int>(__shfl_sync(kAll, wide, 31 - lane) >> 40);
  o.real = __shfl_down_sync(kAll, lane * 0.5, 1);
  o.ballot = __ballot_sync(kAll, lane % 3 == 0);
  o.any = __any_sync(kAll, lane == 17);
  o.all = __all_sync(kAll, lane < 31);
  o.match = __match_any_sync(kAll, lane / 5);
  int agree = -1;
  o.match_all = __match_all_sync(kAll, 42, &agree);
  o.match_all ^= agree ? 0u : kAll;
  o.active = __activemask();
  o.odd_active = 0;
  if (lane % 2 == 1) o.odd_active = __ballot_sync(0xaaaaaaaau, true);
  __syncwarp();
  o.sum = __reduce_add_sync(kAll, static_cast<unsigned int>(lane));
  o.low = __reduce_min_sync(kAll, static_cast<unsigned int>(lane + 7));
  o.high = __reduce_max_sync(kAll, static_cast<unsigned int>(lane + 7));
  o.bits_and = __reduce_and_sync(kAll, 0xf0u | lane);
  o.bits_or = __reduce_or_sync(kAll, 1u << lane);
  o.bits_xor = __reduce_xor_sync(kAll, static_cast<unsigned int>(lane * lane));
  o.signed_low = __reduce_min_sync(kAll, 5 - lane);

  const cg::thread_block block = cg::this_thread_block();
  const cg::thread_block_tile<16> tile = cg::tiled_partition<16>(block);
  o.tile_sum = cg::reduce(tile, static_cast<int>(threadIdx.x), cg::plus<int>());
  o.tile_rank = static_cast<int>(tile.thread_rank());
  __shared__ int sum;
  if (block.thread_rank() == 0) sum = 0;
  block.sync();
  if (tile.thread_rank() == 0) atomicAdd(&sum, o.tile_sum);
  block.sync();
  o.block_sum = sum;
  int scan = lane;
  for (int step = 1; step < 32; step *= 2) {
    const int before = __shfl_up_sync(kAll, scan, step);
    if (lane >= step) scan += before;
  }
  o.scan = scan;
  out[threadIdx.x] = o;
}

int main() {
  const int threads = 64;
  Lane* out;
  MUST(cudaMalloc(&out, threads * sizeof(Lane)));
  Talk<<<1, threads>>>(out);
  MUST(cudaGetLastError());
  std::vector<Lane> lanes(threads);
  MUST(cudaMemcpy(lanes.data(), out, threads * sizeof(Lane), cudaMemcpyDeviceToHost));
  unsigned int squares = 0, thirds = 0;
  for (int lane = 0; lane < 32; ++lane) {
    squares ^= static_cast<unsigned int>(lane * lane);
    if (lane % 3 == 0) thirds |= 1u << lane;
  }
  for (int thread = 0; thread < threads; ++thread) {
    const Lane& o = lanes[thread];
    const int lane = thread % 32;
    EXPECT(o.from_3 == 30);
    EXPECT(o.up == (lane < 2 ? lane : lane - 2));
    EXPECT(o.down == (lane > 26 ? lane : lane + 5));
    EXPECT(o.butterfly == (lane ^ 9));
    EXPECT(o.in_eights == lane / 8 * 8 + 1);
    EXPECT(o.wide_high == 31 - lane);
    EXPECT(o.real == (lane == 31 ? 15.5 : (lane + 1) * 0.5));
    EXPECT(o.ballot == thirds && o.any == 1 && o.all == 0);
    unsigned int match = 0;
    for (int other = 0; other < 32; ++other) match |= (other / 5 == lane / 5 ? 1u : 0u) << other;
    EXPECT(o.match == match && o.match_all == kAll && o.active == kAll);
    EXPECT(o.odd_active == (lane % 2 == 1 ? 0xaaaaaaaau : 0u));
    EXPECT(o.sum == 31 * 32 / 2 && o.low == 7 && o.high == 38);
    EXPECT(o.bits_and == 0xf0u && o.bits_or == kAll && o.bits_xor == squares && o.signed_low == -26);
    const int first = thread / 16 * 16;
    EXPECT(o.tile_sum == 16 * first + 15 * 16 / 2 && o.tile_rank == thread % 16);
    EXPECT(o.block_sum == threads * (threads - 1) / 2);
    EXPECT(o.scan == lane * (lane + 1) / 2);
  }
  std::printf("PASSED warp\n");
  return 0;
}
