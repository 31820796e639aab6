// Thrust: reduce, sort, scan, transform and what builds on them.
//! cards: T4
//! options: -std=c++17
#include <thrust/copy.h>
#include <thrust/device_vector.h>
#include <thrust/functional.h>
#include <thrust/reduce.h>
#include <thrust/scan.h>
#include <thrust/sequence.h>
#include <thrust/sort.h>
#include <thrust/transform.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "check.h"

struct Square {
  __host__ __device__ int operator()(int x) const { return x * x; }
};

int main() {
  const int n = 20'011;
  std::vector<int> in(n), out(n);
  unsigned int state = 12345;
  for (int& x : in) {
    state = state * 1664525u + 1013904223u;
    x = static_cast<int>(state >> 8) % 50'000 - 20'000;
  }
  thrust::device_vector<int> numbers(in.begin(), in.end());
  EXPECT(thrust::reduce(numbers.begin(), numbers.end(), 0LL) == std::accumulate(in.begin(), in.end(), 0LL));
  EXPECT(thrust::reduce(numbers.begin(), numbers.end(), -100'000, thrust::maximum<int>()) ==
         *std::max_element(in.begin(), in.end()));

  thrust::device_vector<int> sums(n);
  thrust::inclusive_scan(numbers.begin(), numbers.end(), sums.begin());
  std::vector<int> expected(n);
  std::partial_sum(in.begin(), in.end(), expected.begin());
  thrust::copy(sums.begin(), sums.end(), out.begin());
  EXPECT(out == expected);

  thrust::device_vector<int> squares(n);
  thrust::transform(numbers.begin(), numbers.end(), squares.begin(), Square());
  thrust::copy(squares.begin(), squares.end(), out.begin());
  for (int i = 0; i < n; ++i) EXPECT(out[i] == in[i] * in[i]);

  thrust::sort(numbers.begin(), numbers.end());
  thrust::copy(numbers.begin(), numbers.end(), out.begin());
  expected = in;
  std::sort(expected.begin(), expected.end());
  EXPECT(out == expected);

  // Pairs, by a comparison of our own: merge sort instead of radix sort.
  thrust::device_vector<float> keys(1000);
  thrust::device_vector<int> values(1000);
  std::vector<float> host_keys(1000);
  for (int i = 0; i < 1000; ++i) host_keys[i] = static_cast<float>(i * 7919 % 1000) * 0.5f;
  keys.assign(host_keys.begin(), host_keys.end());
  thrust::sequence(values.begin(), values.end());
  thrust::sort_by_key(keys.begin(), keys.end(), values.begin(), thrust::greater<float>());
  std::vector<int> order(1000);
  thrust::copy(values.begin(), values.end(), order.begin());
  for (int i = 0; i < 1000; ++i) EXPECT(host_keys[order[i]] == (999 - i) * 0.5f);
  std::printf("PASSED algorithms\n");
  return 0;
}
