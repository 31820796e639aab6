// Tenants, keys, money, catalogue and bill. The life of instances is in instances.cc and
// reconcile.cc.
#include "cloud/service.h"

#include <algorithm>

#include "cloud/rows.h"
#include "cloud/schema.h"
#include "cloud/views.h"
#include "commerce/rating.h"
#include "crypto/crypto.h"

namespace tessera::cloud {
namespace {

constexpr std::string_view kAdminKeySetting = "admin_key_hash";

bool IsLowerOrDigit(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }

// "a100-80.third": safe in a path, a file name and a shell.
Status CheckSkuName(const std::string& name) {
  const bool good = !name.empty() && name.size() <= 63 && IsLowerOrDigit(name.front()) &&
                    std::all_of(name.begin(), name.end(), [](char c) {
                      return IsLowerOrDigit(c) || c == '.' || c == '-' || c == '_';
                    });
  if (good) return {};
  return Error::Field("name",
                      "expected 1 to 63 characters of a-z, 0-9, '.', '-' and '_', beginning with a "
                      "letter or a digit");
}

Status CheckTenantName(const std::string& name) {
  const bool good = !name.empty() && name.size() <= 63 && name.front() != ' ' &&
                    name.back() != ' ' && std::all_of(name.begin(), name.end(), [](char c) {
                      return static_cast<unsigned char>(c) >= 0x20 && c != 0x7f;
                    });
  if (good) return {};
  return Error::Field("name", "expected 1 to 63 printable bytes without blanks at the ends");
}

Status CheckSku(const Sku& sku) {
  TRY_STATUS(CheckSkuName(sku.name));
  const auto wrong = [](const char* field, const std::string& expected) {
    return Error::Field(field, "expected " + expected);
  };
  if (sku.model.size() > 64) return wrong("model", "at most 64 bytes");
  if (sku.slices < 1 || sku.slices > 16) return wrong("slices", "1 to 16");
  if (sku.memory_bytes < kMiB || sku.memory_bytes > 1024 * kGiB)
    return wrong("memory", "1MiB to 1TiB");
  if (sku.compute.value < 1 || sku.compute.value > 1000) return wrong("compute", "0.1% to 100%");
  if (sku.cpu_millis > 1'000'000) return wrong("cpu_millis", "0 (no limit) to 1000000");
  if (sku.ram_bytes > 64 * 1024 * kGiB) return wrong("ram", "0 (no limit) to 64TiB");
  if (sku.price_per_hour < Money{0} || sku.price_per_hour > commerce::kPricePerHourMax) {
    return wrong("price_per_hour", "0.00 to " + FormatMoney(commerce::kPricePerHourMax));
  }
  return {};
}

bool SameOffer(const Sku& a, const Sku& b) {
  return a.model == b.model && a.slices == b.slices && a.memory_bytes == b.memory_bytes &&
         a.compute == b.compute && a.cpu_millis == b.cpu_millis && a.ram_bytes == b.ram_bytes &&
         a.price_per_hour == b.price_per_hour;
}

}  // namespace

Result<std::unique_ptr<Service>> Service::Open(store::Database& database, Execution& execution,
                                               const os::Clock& clock, ServiceOptions options) {
  if (options.hold_margin_micros < 0 || options.hold_margin_micros >= commerce::kHourMicros) {
    return Error::Field("hold_margin_micros", "expected 0 up to less than one hour");
  }
  if (options.spot_discount_permille > 1000) {
    return Error::Field("spot_discount_permille", "expected 0 to 1000");
  }
  if (options.heartbeat_micros < 0 || options.heartbeat_micros > 5'000'000) {
    return Error::Field("heartbeat_micros",
                        "expected at most 5 s, which the billing rule promises");
  }
  TRY_STATUS(database.Migrate(Migrations()));
  std::unique_ptr<Service> service(new Service(database, execution, clock, options));
  TRY(const auto known, database.Query("SELECT value FROM settings WHERE name = $1",
                                       {std::string(kAdminKeySetting)}));
  if (known.empty()) {
    TRY(service->new_admin_key_, service->ResetAdminKey());
  }
  return service;
}

std::string Service::TakeNewAdminKey() {
  const std::lock_guard lock(mutex_);
  return std::exchange(new_admin_key_, std::string());
}

Result<std::string> Service::ResetAdminKey() {
  const crypto::ApiKey made = crypto::NewApiKey();
  const std::int64_t now = clock_.WallMicros();
  TRY(auto transaction, database_.Begin());
  TRY(const auto changed,
      transaction->Execute("INSERT INTO settings (name, value) VALUES ($1, $2) "
                           "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                           {std::string(kAdminKeySetting), made.hash}));
  (void)changed;
  TRY_STATUS(Audit(*transaction, now, "system", "admin.key", "", "admin", "new admin key"));
  TRY_STATUS(transaction->Commit());
  return made.key;
}

Result<Caller> Service::Authenticate(const std::string& key) {
  const Error refused(Code::kUnauthenticated,
                      "expected a valid key as 'Authorization: Bearer KEY'");
  // Keys are random and only their hashes are compared, so the time a look-up takes tells nothing.
  const auto hash = crypto::ApiKeyHash(key);
  if (!hash) return refused;
  TRY(const auto admins, database_.Query("SELECT 1 FROM settings WHERE name = $1 AND value = $2",
                                         {std::string(kAdminKeySetting), *hash}));
  if (!admins.empty()) return Caller{.admin = true};
  TRY(const auto tenants, database_.Query("SELECT id FROM tenants WHERE key_hash = $1", {*hash}));
  if (tenants.empty()) return refused;
  return Caller{.tenant_id = tenants[0].Text(0)};
}

Result<NewTenant> Service::CreateTenant(const std::string& name, const Once* once) {
  TRY_STATUS(CheckTenantName(name));
  NewTenant made;
  const crypto::ApiKey key = crypto::NewApiKey();
  made.api_key = key.key;
  made.tenant.id = crypto::RandomId("t");
  made.tenant.name = name;
  made.tenant.created_micros = clock_.WallMicros();
  const std::string& id = made.tenant.id;
  TRY(auto transaction, database_.Begin());
  TRY(const auto taken,
      transaction->Query(
          "SELECT count(*), coalesce(sum(CASE WHEN name = $1 THEN 1 ELSE 0 END), 0) FROM tenants",
          {name}));
  if (taken[0].Int(1) != 0) {
    return Error(Code::kAlreadyExists, "a tenant of that name exists").Under("name");
  }
  if (taken[0].Int(0) >= static_cast<std::int64_t>(kTenantsMax)) {
    return Error(Code::kResourceExhausted,
                 "at most kTenantsMax (" + std::to_string(kTenantsMax) + ") tenants");
  }
  TRY(const auto added,
      transaction->Execute(
          "INSERT INTO tenants (id, name, key_hash, created_micros) VALUES ($1, $2, $3, $4)",
          {id, name, key.hash, made.tenant.created_micros}));
  (void)added;
  Books books(*transaction, made.tenant.created_micros);
  TRY_STATUS(books.OpenAccounts(id));
  TRY_STATUS(
      Audit(*transaction, made.tenant.created_micros, "admin", "tenant.create", id, id, name));
  // The key is shown once and stored nowhere, so a repeated request gets the tenant without it.
  TRY_STATUS(Remember(*transaction, once, made.tenant.created_micros, id, 201,
                      ToJson(made.tenant, Purse{})));
  TRY_STATUS(transaction->Commit());
  return made;
}

Result<std::string> Service::ResetTenantKey(const std::string& tenant_id) {
  const crypto::ApiKey made = crypto::NewApiKey();
  TRY(auto transaction, database_.Begin());
  TRY(const auto changed, transaction->Execute("UPDATE tenants SET key_hash = $2 WHERE id = $1",
                                               {tenant_id, made.hash}));
  if (changed != 1) return Error(Code::kNotFound, "no such tenant");
  TRY_STATUS(Audit(*transaction, clock_.WallMicros(), "admin", "tenant.key", tenant_id, tenant_id,
                   "new key in place of the old one"));
  TRY_STATUS(transaction->Commit());
  return made.key;
}

Result<std::vector<Tenant>> Service::Tenants() {
  TRY(const auto rows, database_.Query(std::string(kTenantColumns) + "ORDER BY seq", {}));
  std::vector<Tenant> tenants;
  for (const auto& row : rows) tenants.push_back(ToTenant(row));
  return tenants;
}

Result<Tenant> Service::GetTenant(const std::string& tenant_id) {
  return SelectTenant(database_, tenant_id);
}

Status Service::Deposit(const std::string& tenant_id, const std::string& id, Money amount,
                        const Once* once) {
  if (amount <= Money{0} || amount > kDepositMax) {
    return Error::Field("amount", "expected an amount above 0 up to " + FormatMoney(kDepositMax));
  }
  if (id.empty() || id.size() > 256)
    return Error::Field("id", "expected 1 to 256 bytes that name the payment");
  TRY(const Tenant tenant, GetTenant(tenant_id));
  const std::int64_t now = clock_.WallMicros();
  TRY(auto transaction, database_.Begin());
  Books books(*transaction, now);
  TRY(const bool booked, books.Deposit("deposit/" + tenant_id + "/" + id, tenant_id, amount));
  if (booked) {
    TRY_STATUS(Audit(*transaction, now, "admin", "tenant.deposit", tenant_id, tenant_id,
                     FormatMoney(amount)));
  }
  TRY(const Purse purse, books.Read(tenant_id));
  TRY_STATUS(Remember(*transaction, once, now, tenant_id, 201, ToJson(tenant, purse)));
  return transaction->Commit();
}

Result<commerce::Bill> Service::Bill(const std::string& tenant_id) {
  // One statement reads contracts, events and heartbeats as of one moment.
  TRY(const auto rows,
      database_.Query(
          "SELECT i.seq, 0 AS part, i.id, i.name, i.sku, i.sku_version, i.price_per_hour_micro, "
          "i.spot AS generation "
          "FROM instances i WHERE i.tenant_id = $1 "
          "UNION ALL SELECT i.seq, 1, i.id, e.state, '', 0, e.wall_micros, e.generation "
          "FROM instances i JOIN instance_events e ON e.instance_id = i.id WHERE i.tenant_id = $1 "
          "UNION ALL SELECT i.seq, 2, i.id, '', '', 0, h.seen_micros, h.generation "
          "FROM instances i JOIN heartbeats h ON h.instance_id = i.id WHERE i.tenant_id = $1 "
          "ORDER BY 1, 2, 8",
          {tenant_id}));
  std::vector<commerce::Contract> contracts;
  std::vector<commerce::StateEvent> events;
  std::vector<commerce::Heartbeat> heartbeats;
  for (const auto& row : rows) {
    const std::string& id = row.Text(2);
    const auto generation = static_cast<std::uint64_t>(row.Int(7));
    switch (row.Int(1)) {
      case 0:
        contracts.push_back({.instance_id = id,
                             .name = row.Text(3),
                             .sku = row.Text(4),
                             .sku_version = row.Int(5),
                             .price_per_hour = Money::FromStored(row.Int(6)),
                             .spot = row.Int(7) != 0});
        break;
      case 1: {
        TRY(const auto state, commerce::ParseState(row.Text(3), "instance_events.state"));
        events.push_back({id, generation, state, row.Int(6)});
        break;
      }
      default:
        heartbeats.push_back({id, generation, row.Int(6)});
    }
  }
  return commerce::MakeBill(contracts, events, heartbeats);
}

Result<Sku> Service::AddSku(Sku sku, const Once* once) {
  TRY_STATUS(CheckSku(sku));
  TRY(const std::int64_t price, sku.price_per_hour.ToStored());
  sku.created_micros = clock_.WallMicros();
  TRY(auto transaction, database_.Begin());
  TRY(const auto versions,
      SelectSkus(*transaction, "WHERE name = $1 ORDER BY version DESC LIMIT 1", {sku.name}));
  Price(&sku);
  if (!versions.empty() && SameOffer(versions[0], sku)) {
    sku = versions[0];
    Price(&sku);
  } else {
    sku.version = versions.empty() ? 1 : versions[0].version + 1;
    TRY(const auto count, transaction->Query("SELECT count(DISTINCT name) FROM skus", {}));
    if (versions.empty() && count[0].Int(0) >= static_cast<std::int64_t>(kSkusMax)) {
      return Error(Code::kResourceExhausted,
                   "at most kSkusMax (" + std::to_string(kSkusMax) + ") SKUs");
    }
    if (sku.version > kSkuVersionsMax) {
      return Error(
          Code::kResourceExhausted,
          "at most kSkuVersionsMax (" + std::to_string(kSkuVersionsMax) + ") versions of a SKU");
    }
    TRY(const auto added,
        transaction->Execute(
            "INSERT INTO skus (name, version, model, slices, memory_bytes, compute_permille, "
            "cpu_millis, ram_bytes, price_per_hour_micro, created_micros) "
            "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            {sku.name, sku.version, sku.model, std::int64_t{sku.slices},
             static_cast<std::int64_t>(sku.memory_bytes), std::int64_t{sku.compute.value},
             std::int64_t{sku.cpu_millis}, static_cast<std::int64_t>(sku.ram_bytes), price,
             sku.created_micros}));
    (void)added;
    TRY_STATUS(
        Audit(*transaction, sku.created_micros, "admin", "sku.add", "", sku.name,
              "version " + std::to_string(sku.version) + " at " + FormatMoney(sku.price_per_hour)));
  }
  TRY_STATUS(Remember(*transaction, once, clock_.WallMicros(), sku.name, 201, ToJson(sku)));
  TRY_STATUS(transaction->Commit());
  return sku;
}

Result<std::vector<Sku>> Service::Skus() {
  TRY(auto skus,
      SelectSkus(
          database_,
          "s WHERE version = (SELECT max(version) FROM skus m WHERE m.name = s.name) ORDER BY name",
          {}));
  for (auto& sku : skus) Price(&sku);
  return skus;
}

void Service::Price(Sku* sku) const {
  // Both were checked before they were kept.
  sku->spot_price_per_hour =
      *commerce::Discounted(sku->price_per_hour, options_.spot_discount_permille);
}

Status Service::Healthy() {
  TRY(const auto rows, database_.Query("SELECT 1", {}));
  (void)rows;
  return {};
}

Result<std::optional<Remembered>> Service::Recall(const Once& once) {
  TRY(const auto rows,
      database_.Query("SELECT digest, resource, status, body FROM idempotency "
                      "WHERE scope = $1 AND route = $2 AND key = $3 AND expires_micros > $4",
                      {once.scope, once.route, once.key, clock_.WallMicros()}));
  if (rows.empty()) return std::optional<Remembered>();
  Remembered remembered{.digest = rows[0].Text(0),
                        .resource = rows[0].Text(1),
                        .status = static_cast<int>(rows[0].Int(2))};
  if (!rows[0].IsNull(3)) remembered.body = rows[0].Text(3);
  return std::optional<Remembered>(std::move(remembered));
}

}  // namespace tessera::cloud
