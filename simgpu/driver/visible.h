// CUDA_VISIBLE_DEVICES: which cards a program sees, in which order. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace simgpu {

// `text` is the variable (null: unset, all cards in order). Entries are separated by commas and are
// all indices or all UUIDs ("GPU-..." or a beginning of one that fits exactly one card), as the
// first one is. The list ends before the first entry that names no card, repeats one, or is of the
// other sort.
std::vector<uint32_t> VisibleCards(const char* text, const std::vector<std::string>& uuids);

}  // namespace simgpu
