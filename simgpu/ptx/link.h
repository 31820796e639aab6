// Makes one PTX text of several, as a device linker does of relocatable objects.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace simgpu::ptx {

struct LinkInput {
  std::string name;  // For messages.
  std::string_view text;
};

// Symbols that are not visible stay their module's own, also where two modules use one name; of a
// weak symbol's definitions the first is kept. False: `why` names the symbol and the inputs, for a
// text that is no PTX, a symbol defined twice, or one that is used and nowhere defined (what the
// interpreter itself provides counts as defined).
bool Link(const std::vector<LinkInput>& inputs, std::string* merged, std::string* why);

}  // namespace simgpu::ptx
