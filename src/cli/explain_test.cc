#include <gtest/gtest.h>

#include "cli/commands.h"

namespace tessera::cli {
namespace {

// Word for word what a person sees; the JSON is the API's, as its own test has it.
TEST(Explain, ShowsRulesQueueQuotaAndScores) {
  EXPECT_EQ(ExplanationText(R"({
      "instance": "i-3", "waiting_for": "queue: 2 earlier request(s) wait for the same nodes",
      "queue": {"position": 3, "waiting": 4, "rule": "queue", "priority": 500,
                "ahead": ["i-1"], "others_ahead": 1},
      "spot": true,
      "quota": {"held": {"card_millis": 333, "memory_bytes": 27917287424},
                "borrowed": {"card_millis": 0, "memory_bytes": 1073741824},
                "nominal": {"card_millis": 4000, "memory_bytes": 343597383680},
                "borrowing_limit": {"card_millis": 1000, "memory_bytes": null},
                "lending_limit": {"card_millis": null, "memory_bytes": null}},
      "filtered": [
        {"rule": "model", "nodes": 12, "example_node": "a-1", "message": "model: asked H200"},
        {"rule": "memory", "nodes": 1, "example_node": "b-1", "message": "memory: 2 GiB short"}],
      "best": [
        {"node": "c-1", "cards": ["GPU-0", "GPU-1"], "score": "-0.250000",
         "parts": [{"name": "left", "score": "-0.150000"}, {"name": "age", "score": "-0.1"}]},
        {"node": "c-2", "cards": ["GPU-7"], "score": "-0.750000", "parts": []}]})"),
            "i-3 waits: queue: 2 earlier request(s) wait for the same nodes\n"
            "spot: it may be stopped for others at any time\n"
            "queue: place 3 of 4, priority 500, held by rule 'queue'\n"
            "  ahead, yours: i-1\n"
            "  ahead, of others: 1\n"
            "\n"
            "QUOTA                COMPUTE    MEMORY\n"
            "held             0.333 cards    26 GiB\n"
            "borrowed         0.000 cards     1 GiB\n"
            "nominal          4.000 cards   320 GiB\n"
            "borrowing_limit  1.000 cards  no limit\n"
            "lending_limit       no limit  no limit\n"
            "\n"
            "FILTERED BY  NODES  FOR EXAMPLE  WHY\n"
            "model           12  a-1          model: asked H200\n"
            "memory           1  b-1          memory: 2 GiB short\n"
            "\n"
            "BEST NODES      SCORE  PARTS                    CARDS\n"
            "c-1         -0.250000  left -0.150000 age -0.1  GPU-0 GPU-1\n"
            "c-2         -0.750000                           GPU-7\n");
}

TEST(Explain, OneThatIsPlacedAndAFleetThatIsFull) {
  EXPECT_EQ(ExplanationText(R"({"instance": "i-1", "waiting_for": "", "queue": null,
                                "quota": null, "filtered": [], "best": []})"),
            "i-1 is placed\n\nno node takes it now\n");
}

}  // namespace
}  // namespace tessera::cli
