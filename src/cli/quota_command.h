// Commands about who goes next: quotas, the rules of the queue, the priority a tenant may ask for.
// As those of commands.h.
#pragma once

#include <optional>
#include <string>

#include "cli/commands.h"

namespace tessera::cli {

// The caller's own quota: what is held, borrowed and allowed.
int Quota(const Context& context);

// For the operator (admin key).
// The rules of the queue, and all quotas with what is held and borrowed under each.
int Queue(const Context& context);

struct QueueOptions {
  std::optional<bool> fair_share;
  std::optional<bool> preemption;
  std::string reclaim;  // never, lower_priority or any; empty: as it is
};
int SetQueue(const Context& context, const QueueOptions& options);

// What is empty stays as it is, or for a new quota as the API's default. Cards are like "2.5",
// memory is like "320GiB", both may be "none": no limit.
struct QuotaOptions {
  std::string name;  // a tenant's id or name, or a group's
  std::optional<std::string> parent;
  std::string cards;
  std::string memory;
  std::string borrow_cards;
  std::string borrow_memory;
  std::string lend_cards;
  std::string lend_memory;
  std::string weight;
};
int SetQuota(const Context& context, const QuotaOptions& options);
int RemoveQuota(const Context& context, const std::string& name);
int SetPriorityMax(const Context& context, const std::string& tenant, const std::string& priority);

}  // namespace tessera::cli
