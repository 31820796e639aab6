// The language on the device: recursion, function pointers, virtual functions, templates, local arrays, switch,
// structures by value, 64-bit and unaligned arithmetic, constants and symbols, dynamic shared memory.
//! cards: T4
#include <vector>

#include "check.h"

__device__ __noinline__ int Ackermann(int m, int n) {
  if (m == 0) return n + 1;
  if (n == 0) return Ackermann(m - 1, 1);
  return Ackermann(m - 1, Ackermann(m, n - 1));
}
__device__ __noinline__ unsigned long long Fibonacci(int n) {
  return n < 2 ? n : Fibonacci(n - 1) + Fibonacci(n - 2);
}

struct Shape {
  __device__ virtual ~Shape() {}
  __device__ virtual float Area() const = 0;
};
struct Square : Shape {
  float side;
  __device__ explicit Square(float s) : side(s) {}
  __device__ float Area() const override { return side * side; }
};
struct Circle : Shape {
  float radius;
  __device__ explicit Circle(float r) : radius(r) {}
  __device__ float Area() const override { return 3.0f * radius * radius; }
};

typedef int (*Operation)(int, int);
__device__ int Plus(int a, int b) { return a + b; }
__device__ int Minus(int a, int b) { return a - b; }
__device__ int Times(int a, int b) { return a * b; }
__device__ Operation operations[3] = {Plus, Minus, Times};

struct Big {
  double numbers[8];
  char text[13];
  short tail;
};
__constant__ Big settings;
__device__ Big kept;
template <typename T, int kCount>
__device__ T Power(T x) {
  if constexpr (kCount == 0) {
    return T(1);
  } else {
    return x * Power<T, kCount - 1>(x);
  }
}

__device__ int Classify(int x) {
  switch (x) {
    case 0: return 100;
    case 1: return 7;
    case 2: return -3;
    case 5: return 55;
    case 6: return 66;
    case 7: return 77;
    case 40: return 4;
    default: return x;
  }
}

struct Answers {
  int ackermann, dispatched[3], classified[9], sorted[8];
  unsigned long long fibonacci, product, quotient, remainder;
  float areas[2];
  double power, constant;
  long long negative;
  int text, shared;
};

__global__ void Everything(Answers* out, Big given, int n, unsigned long long a, unsigned long long b, long long c) {
  extern __shared__ double scratch[];
  Answers o;
  o.ackermann = Ackermann(2, n);
  o.fibonacci = Fibonacci(15);
  for (int i = 0; i < 3; ++i) o.dispatched[i] = operations[(i + n) % 3](20, 6);
  for (int i = 0; i < 9; ++i) o.classified[i] = Classify(i == 8 ? 40 : i);
  Square square(3.0f);
  Circle circle(2.0f);
  const Shape* shapes[2] = {&square, &circle};
  for (int i = 0; i < 2; ++i) o.areas[i] = shapes[(i + n) % 2]->Area();
  int local[8];
  for (int i = 0; i < 8; ++i) local[i] = (i * 5 + n) % 8;
  for (int i = 0; i < 8; ++i)
    for (int j = 0; j + 1 < 8 - i; ++j)
      if (local[j] > local[j + 1]) {
        const int swap = local[j];
        local[j] = local[j + 1];
        local[j + 1] = swap;
      }
  for (int i = 0; i < 8; ++i) o.sorted[i] = local[i];
  o.product = a * b;
  o.quotient = a / b;
  o.remainder = a % b;
  o.negative = c / 7 * 1000 + c % 7;
  o.power = Power<double, 5>(1.5);
  o.constant = settings.numbers[n] + given.numbers[n];
  o.text = given.text[n] * 1000 + settings.text[n];
  scratch[threadIdx.x] = threadIdx.x;
  __syncthreads();
  double sum = 0;
  for (int i = 0; i < blockDim.x; ++i) sum += scratch[i];
  o.shared = static_cast<int>(sum);
  if (threadIdx.x == 0) {
    *out = o;
    kept = given;
    kept.tail = static_cast<short>(kept.tail + 1);
  }
}

int main() {
  Big given = {};
  for (int i = 0; i < 8; ++i) given.numbers[i] = i + 0.25;
  for (int i = 0; i < 13; ++i) given.text[i] = static_cast<char>('a' + i);
  given.tail = 77;
  Big constants = given;
  for (double& number : constants.numbers) number *= 100;
  MUST(cudaMemcpyToSymbol(settings, &constants, sizeof constants));
  // Part of a symbol, by offset.
  const char star = '*';
  MUST(cudaMemcpyToSymbol(settings, &star, 1, offsetof(Big, text) + 3));
  MUST(cudaDeviceSetLimit(cudaLimitStackSize, 16 * 1024));
  size_t stack = 0;
  MUST(cudaDeviceGetLimit(&stack, cudaLimitStackSize));
  EXPECT(stack >= 16 * 1024);
  Answers* out;
  MUST(cudaMalloc(&out, sizeof *out));
  const unsigned long long a = 0xfedcba9876543210ull, b = 1'000'003;
  const long long c = -123'456'789'012'345;
  Everything<<<1, 64, 64 * sizeof(double)>>>(out, given, 3, a, b, c);
  MUST(cudaGetLastError());
  Answers o;
  MUST(cudaMemcpy(&o, out, sizeof o, cudaMemcpyDeviceToHost));
  EXPECT(o.ackermann == 9 && o.fibonacci == 610);
  EXPECT(o.dispatched[0] == 26 && o.dispatched[1] == 14 && o.dispatched[2] == 120);
  const int classes[9] = {100, 7, -3, 3, 4, 55, 66, 77, 4};
  for (int i = 0; i < 9; ++i) EXPECT(o.classified[i] == classes[i]);
  EXPECT(o.areas[0] == 12.0f && o.areas[1] == 9.0f);
  for (int i = 0; i < 8; ++i) EXPECT(o.sorted[i] == i);
  EXPECT(o.product == a * b && o.quotient == a / b && o.remainder == a % b);
  EXPECT(o.negative == c / 7 * 1000 + c % 7);
  EXPECT(o.power == 7.59375 && o.constant == 325 + 3.25 && o.text == 'd' * 1000 + '*');
  EXPECT(o.shared == 64 * 63 / 2);
  Big back = {};
  MUST(cudaMemcpyFromSymbol(&back, kept, sizeof back));
  EXPECT(back.tail == 78 && back.numbers[7] == 7.25 && back.text[12] == 'm');
  void* address = nullptr;
  size_t size = 0;
  MUST(cudaGetSymbolAddress(&address, kept));
  MUST(cudaGetSymbolSize(&size, kept));
  EXPECT(size == sizeof(Big));
  double number = 0;
  MUST(cudaMemcpy(&number, static_cast<double*>(address) + 2, sizeof number, cudaMemcpyDeviceToHost));
  EXPECT(number == 2.25);
  int host_only = 0;
  EXPECT(cudaGetSymbolSize(&size, host_only) == cudaErrorInvalidSymbol);
  EXPECT(cudaGetLastError() == cudaErrorInvalidSymbol);
  std::printf("PASSED language\n");
  return 0;
}
