// Why a request goes where it goes: what each rule filtered and how the best nodes scored. Plain
// values, for people and for tests; answered by Engine::Explain.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace tessera::placement {

inline constexpr std::size_t kExplainedCandidatesMax = 5;

struct Explanation {
  // The nodes that one rule took out. A node counts under the first rule that it fails.
  struct Filtered {
    std::string rule;  // "avoid", "model", "cards", "memory", "compute", "cpu", "ram", ...
    std::uint32_t nodes = 0;
    std::string example_node;  // the first by name
    std::string message;       // of that node: what was asked and what it has
  };
  std::vector<Filtered> filtered;  // in the order in which the rules are asked; one a rule
  // A node that fits, the cards it would give, its score (the highest wins) and the named parts
  // that add up to it.
  struct Candidate {
    std::string node;
    std::vector<std::string> cards;  // uuids
    double score = 0;
    std::vector<std::pair<std::string, double>> parts;
  };
  std::vector<Candidate> best;  // best first, at most kExplainedCandidatesMax
};

}  // namespace tessera::placement
