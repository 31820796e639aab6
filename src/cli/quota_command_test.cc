// The commands against the real REST API over a fake scheduling plane, word for word.
#include "cli/quota_command.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "cloud/rest_harness.h"
#include "http/server.h"

namespace tessera::cli {
namespace {

class QuotaCommandTest : public testing::Test {
 protected:
  void SetUp() override {
    server_ = *http::Server::Start({}, cloud_.router);
    acme_ = cloud_.AddTenant("acme", "50.00");
    cloud_.AddSku();
  }
  // What a command printed, after "CODE: " when it failed.
  template <typename Body>
  std::string Run(const std::string& key, Body body) {
    char* text = nullptr;
    std::size_t size = 0;
    std::FILE* stream = open_memstream(&text, &size);
    Context context;
    context.endpoint = "http://127.0.0.1:" + std::to_string(server_->port());
    context.key = key;
    context.out = context.err = stream;
    const int code = body(context);
    std::fclose(stream);
    const std::string printed(text, size);
    std::free(text);
    return (code == 0 ? "" : std::to_string(code) + ": ") + printed;
  }
  std::string Set(const QuotaOptions& options) {
    return Run(cloud_.admin, [&](const Context& context) { return SetQuota(context, options); });
  }

  cloud::RestHarness cloud_{3};
  std::unique_ptr<http::Server> server_;
  cloud::RestHarness::TenantKey acme_;
};

TEST_F(QuotaCommandTest, TheOperatorSetsQuotasAndBothSeeThem) {
  EXPECT_EQ(Run(acme_.key, Quota), "priority_max: 0\nno quota limits you\n");
  EXPECT_EQ(Run(cloud_.admin, Queue),
            "rules: version 0\nfair_share: false\npreemption: true\nreclaim: lower_priority\n");
  EXPECT_NE(Set({.name = "lab"}).find("rules: version 1\n"), std::string::npos);
  const std::string set = Set({.name = "acme",
                               .parent = "lab",
                               .cards = "0.5",
                               .memory = "40GiB",
                               .borrow_cards = "1.25",
                               .lend_memory = "1GiB",
                               .weight = "3"});
  const std::string blank(acme_.id.size() - 5, ' ');
  const std::string table = "QUOTA" + blank + "  TENANT  PARENT  WEIGHT              NOMINAL";
  EXPECT_NE(set.find(table), std::string::npos) << set;
  for (int i = 0; i < 2; ++i) {
    cloud_.Post(acme_.key, "/v1/instances", R"({"sku":"third","command":["x"]})");
  }
  EXPECT_EQ(Run(acme_.key, Quota),
            "priority_max: 0\n"
            "QUOTA                COMPUTE    MEMORY\n"
            "held             0.666 cards    52 GiB\n"
            "borrowed         0.166 cards    12 GiB\n"
            "nominal          0.500 cards    40 GiB\n"
            "borrowing_limit  1.250 cards  no limit\n"
            "lending_limit       no limit     1 GiB\n");
  // What is not given stays.
  Set({.name = acme_.id, .memory = "none", .weight = "4"});
  const placement::Quota quota = cloud_.execution.Policy().quotas[1];
  EXPECT_EQ(quota.name, acme_.id);
  EXPECT_EQ(quota.nominal, (placement::SliceAmount{500, placement::kUnlimited}));
  EXPECT_EQ(quota.borrowing_limit, (placement::SliceAmount{1250, placement::kUnlimited}));
  EXPECT_EQ(quota.lending_limit, (placement::SliceAmount{placement::kUnlimited, kGiB}));
  EXPECT_EQ(quota.weight, 4u);
  EXPECT_EQ(quota.parent, "lab");
  Run(cloud_.admin, [](const Context& context) { return RemoveQuota(context, "acme"); });
  EXPECT_EQ(cloud_.execution.Policy().quotas.size(), 1u);
}

TEST_F(QuotaCommandTest, TheRulesAndThePriorityOfATenant) {
  EXPECT_EQ(Run(cloud_.admin,
                [](const Context& context) {
                  return SetQueue(context, {.fair_share = true, .reclaim = "any"});
                }),
            "rules: version 1\nfair_share: true\npreemption: true\nreclaim: any\n");
  EXPECT_EQ(Run(cloud_.admin,
                [](const Context& context) { return SetQueue(context, {.preemption = false}); }),
            "rules: version 2\nfair_share: true\npreemption: false\nreclaim: any\n");
  EXPECT_EQ(Run(cloud_.admin,
                [&](const Context& context) { return SetPriorityMax(context, acme_.id, "500"); }),
            acme_.id + " priority_max 500\n");
  EXPECT_EQ(Run(acme_.key, Quota), "priority_max: 500\nno quota limits you\n");
  ASSERT_TRUE(cloud_.service->UseQueueFile(placement::QueuePolicy(), "/etc/up.yaml"));
  EXPECT_EQ(Run(cloud_.admin, Queue),
            "rules: of /etc/up.yaml\nfair_share: false\npreemption: true\n"
            "reclaim: lower_priority\n");
}

TEST_F(QuotaCommandTest, WhatCannotBeMeantIsRefusedAndNothingChanges) {
  const std::string before = cloud_.Fingerprint();
  for (const std::string cards : {"-1", "1.2345", "x", "1.", ".5", "9999999"}) {
    EXPECT_EQ(Set({.name = "lab", .cards = cards}).find("2: tessera: cards: expected cards like"),
              0u)
        << cards;
  }
  EXPECT_EQ(Set({.name = "lab", .memory = "4GB"}).find("2: tessera: memory: "), 0u);
  EXPECT_EQ(Set({.name = "lab", .weight = "0"}).find("2: tessera: weight: "), 0u);
  EXPECT_EQ(Set({.name = "t-nobody"}).find("2: tessera: policy.quotas[0].name: "), 0u);
  EXPECT_EQ(Set({.name = "lab", .parent = "none"}).find("2: tessera: policy.quotas[0].parent: "),
            0u);
  const auto remove = [](const Context& context) { return RemoveQuota(context, "lab"); };
  EXPECT_EQ(Run(cloud_.admin, remove), "3: tessera: no quota of that name\n");
  EXPECT_EQ(Run(acme_.key, Queue).find("4: "), 0u);
  EXPECT_EQ(Run(acme_.key, remove).find("4: "), 0u);
  const auto raise = [&](const Context& context) {
    return SetPriorityMax(context, acme_.id, "500");
  };
  EXPECT_EQ(Run(acme_.key, raise).find("4: "), 0u);
  EXPECT_EQ(cloud_.Fingerprint(), before);
}

}  // namespace
}  // namespace tessera::cli
