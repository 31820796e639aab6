// What a parameter of the manifest is, worked out from its C++ type and its spelling. Compile time
// only.
#pragma once

#include <cstdint>
#include <string_view>
#include <type_traits>

#include "simgpu/front/front.h"

namespace simgpu::front {

// A class needs no size here, and most are not even defined.
template <typename T>
constexpr uint8_t SizeOf() {
  if constexpr (std::is_arithmetic_v<T> || std::is_enum_v<T> || std::is_pointer_v<T>) {
    return sizeof(T);  // NOLINT(bugprone-sizeof-expression): a handle's own size is meant
  }
  return 0;
}

template <typename T>
struct Innermost {
  using Type = std::remove_cv_t<T>;
};
template <typename T>
struct Innermost<T*> : Innermost<T> {};

// `text` tells a handle, which is spelled without a star, from a pointer, and an address from a
// number.
template <typename T>
constexpr Parameter Describe(const char* type, const char* name) {
  const std::string_view text = type;
  Parameter result{type, name, Base::kVoid, 0, 0, text.starts_with("const ")};
  for (char c : text) result.stars += c == '*';
  const std::string_view spelled = result.is_const ? text.substr(6) : text;
  if (spelled.starts_with("CUdeviceptr")) {
    result.base = Base::kAddress;
    result.size = spelled.starts_with("CUdeviceptr_v1") ? 4 : 8;
    return result;
  }
  for (std::string_view handle : {"CUmemGenericAllocationHandle", "CUtexObject", "CUsurfObject",
                                  "CUgraphConditionalHandle"}) {
    if (!spelled.starts_with(handle)) continue;
    result.base = Base::kHandle;
    result.size = 8;
    return result;
  }
  // Stars that the text shows are peeled off; what a handle's name hides is not.
  using One = std::remove_cv_t<std::remove_pointer_t<T>>;
  using Two = std::remove_cv_t<std::remove_pointer_t<One>>;
  auto classify = [&]<typename U>(std::type_identity<U>) {
    result.size = SizeOf<U>();
    if constexpr (std::is_same_v<U, char>) {
      result.base = Base::kChar;
    } else if constexpr (std::is_floating_point_v<U>) {
      result.base = Base::kFloat;
    } else if constexpr (std::is_enum_v<U> || std::is_unsigned_v<U>) {
      result.base = Base::kUnsigned;
    } else if constexpr (std::is_integral_v<U>) {
      result.base = Base::kSigned;
    } else if constexpr (std::is_void_v<U>) {
      result.base = Base::kVoid;
    } else if constexpr (std::is_pointer_v<U>) {
      result.base = std::is_function_v<std::remove_pointer_t<U>> ? Base::kFunction : Base::kHandle;
    } else {
      result.base = Base::kStruct;
    }
  };
  if (result.stars == 0) classify(std::type_identity<std::remove_cv_t<T>>());
  if (result.stars == 1) classify(std::type_identity<One>());
  if (result.stars == 2) classify(std::type_identity<Two>());
  return result;
}

}  // namespace simgpu::front
