#include "cloud/schema.h"

namespace tessera::cloud {
namespace {

// What is a fact of the past (SKU versions, events, transfers, entries, audit) can be added, never
// changed.
constexpr std::string_view kFirst = R"sql(
CREATE TABLE settings (
  name TEXT PRIMARY KEY,
  value TEXT NOT NULL
);

CREATE TABLE tenants (
  seq INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  name TEXT NOT NULL UNIQUE,
  key_hash TEXT NOT NULL UNIQUE,
  created_micros INTEGER NOT NULL
);

CREATE TABLE skus (
  name TEXT NOT NULL,
  version INTEGER NOT NULL CHECK (version >= 1),
  model TEXT NOT NULL,
  slices INTEGER NOT NULL CHECK (slices >= 1),
  memory_bytes INTEGER NOT NULL CHECK (memory_bytes > 0),
  compute_permille INTEGER NOT NULL CHECK (compute_permille BETWEEN 1 AND 1000),
  cpu_millis INTEGER NOT NULL CHECK (cpu_millis >= 0),
  ram_bytes INTEGER NOT NULL CHECK (ram_bytes >= 0),
  price_per_hour_micro INTEGER NOT NULL CHECK (price_per_hour_micro BETWEEN 0 AND 2000000000),
  created_micros INTEGER NOT NULL,
  PRIMARY KEY (name, version)
);

CREATE TABLE instances (
  seq INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  tenant_id TEXT NOT NULL REFERENCES tenants (id),
  name TEXT NOT NULL,
  sku TEXT NOT NULL,
  sku_version INTEGER NOT NULL,
  price_per_hour_micro INTEGER NOT NULL,
  command TEXT NOT NULL,
  environment TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN
    ('queued', 'starting', 'running', 'stopping', 'stopped', 'ended', 'failed', 'released')),
  wanted TEXT NOT NULL CHECK (wanted IN ('run', 'stop', 'release')),
  reason TEXT NOT NULL,
  waiting_for TEXT NOT NULL,
  node TEXT NOT NULL,
  cards TEXT NOT NULL,
  generation INTEGER NOT NULL CHECK (generation >= 1),
  exit_code INTEGER,
  created_micros INTEGER NOT NULL,
  run_started_micros INTEGER,
  run_ended_micros INTEGER,
  earlier_micros INTEGER NOT NULL CHECK (earlier_micros >= 0),
  hours_settled INTEGER NOT NULL CHECK (hours_settled >= 0),
  FOREIGN KEY (sku, sku_version) REFERENCES skus (name, version)
);
CREATE UNIQUE INDEX instances_name ON instances (tenant_id, name) WHERE state <> 'released';
CREATE INDEX instances_tenant ON instances (tenant_id, seq);
CREATE INDEX instances_state ON instances (state);

CREATE TABLE instance_events (
  seq INTEGER PRIMARY KEY,
  instance_id TEXT NOT NULL REFERENCES instances (id),
  generation INTEGER NOT NULL,
  state TEXT NOT NULL,
  wall_micros INTEGER NOT NULL,
  recorded_micros INTEGER NOT NULL,
  reason TEXT NOT NULL,
  UNIQUE (instance_id, generation, state)
);

CREATE TABLE heartbeats (
  instance_id TEXT NOT NULL REFERENCES instances (id),
  generation INTEGER NOT NULL,
  seen_micros INTEGER NOT NULL,
  PRIMARY KEY (instance_id, generation)
);

CREATE TABLE accounts (
  id TEXT PRIMARY KEY,
  tenant_id TEXT REFERENCES tenants (id),
  kind TEXT NOT NULL CHECK (kind IN ('bank', 'cash', 'held', 'owed', 'revenue')),
  balance_micro INTEGER NOT NULL DEFAULT 0 CHECK (typeof(balance_micro) = 'integer'),
  CHECK (CASE WHEN kind IN ('bank', 'owed') THEN balance_micro <= 0 ELSE balance_micro >= 0 END)
);
INSERT INTO accounts (id, kind) VALUES ('bank', 'bank'), ('revenue', 'revenue');

CREATE TABLE transfers (
  seq INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  kind TEXT NOT NULL CHECK (kind IN ('deposit', 'hold', 'capture', 'void', 'charge', 'owe', 'repay')),
  hold_id TEXT,
  reason TEXT NOT NULL,
  wall_micros INTEGER NOT NULL
);

CREATE TABLE entries (
  transfer_id TEXT NOT NULL REFERENCES transfers (id),
  account_id TEXT NOT NULL REFERENCES accounts (id),
  amount_micro INTEGER NOT NULL CHECK (amount_micro <> 0),
  PRIMARY KEY (transfer_id, account_id)
);
CREATE INDEX entries_account ON entries (account_id);

CREATE TABLE holds (
  id TEXT PRIMARY KEY,
  tenant_id TEXT NOT NULL REFERENCES tenants (id),
  instance_id TEXT NOT NULL REFERENCES instances (id),
  generation INTEGER NOT NULL,
  hour INTEGER NOT NULL,
  amount_micro INTEGER NOT NULL CHECK (amount_micro > 0),
  captured_micro INTEGER NOT NULL DEFAULT 0 CHECK (captured_micro >= 0),
  returned_micro INTEGER NOT NULL DEFAULT 0 CHECK (returned_micro >= 0),
  state TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'closed')),
  CHECK (captured_micro + returned_micro <= amount_micro),
  CHECK ((state = 'closed') = (captured_micro + returned_micro = amount_micro))
);
CREATE INDEX holds_instance ON holds (instance_id, generation, hour);

CREATE TABLE idempotency (
  scope TEXT NOT NULL,
  route TEXT NOT NULL,
  key TEXT NOT NULL,
  digest TEXT NOT NULL,
  resource TEXT NOT NULL,
  status INTEGER NOT NULL,
  body TEXT,
  expires_micros INTEGER NOT NULL,
  PRIMARY KEY (scope, route, key)
);
CREATE INDEX idempotency_expires ON idempotency (expires_micros);

CREATE TABLE audit (
  seq INTEGER PRIMARY KEY,
  wall_micros INTEGER NOT NULL,
  actor TEXT NOT NULL,
  action TEXT NOT NULL,
  tenant_id TEXT,
  resource TEXT NOT NULL,
  detail TEXT NOT NULL
);

CREATE TRIGGER skus_no_update BEFORE UPDATE ON skus
  BEGIN SELECT RAISE(ABORT, 'a SKU version never changes'); END;
CREATE TRIGGER skus_no_delete BEFORE DELETE ON skus
  BEGIN SELECT RAISE(ABORT, 'a SKU version never changes'); END;
CREATE TRIGGER instance_events_no_update BEFORE UPDATE ON instance_events
  BEGIN SELECT RAISE(ABORT, 'an event never changes'); END;
CREATE TRIGGER instance_events_no_delete BEFORE DELETE ON instance_events
  BEGIN SELECT RAISE(ABORT, 'an event never changes'); END;
CREATE TRIGGER transfers_no_update BEFORE UPDATE ON transfers
  BEGIN SELECT RAISE(ABORT, 'a transfer never changes'); END;
CREATE TRIGGER transfers_no_delete BEFORE DELETE ON transfers
  BEGIN SELECT RAISE(ABORT, 'a transfer never changes'); END;
CREATE TRIGGER entries_no_update BEFORE UPDATE ON entries
  BEGIN SELECT RAISE(ABORT, 'a ledger line never changes'); END;
CREATE TRIGGER entries_no_delete BEFORE DELETE ON entries
  BEGIN SELECT RAISE(ABORT, 'a ledger line never changes'); END;
CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit
  BEGIN SELECT RAISE(ABORT, 'an audit record never changes'); END;
CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit
  BEGIN SELECT RAISE(ABORT, 'an audit record never changes'); END;
)sql";

constexpr std::string_view kReservationsAndGangs = R"sql(
CREATE TABLE reservations (
  seq INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  tenant_id TEXT NOT NULL REFERENCES tenants (id),
  sku TEXT NOT NULL,
  sku_version INTEGER NOT NULL,
  units INTEGER NOT NULL CHECK (units >= 1),
  open INTEGER NOT NULL CHECK (open IN (0, 1)),
  lend INTEGER NOT NULL CHECK (lend IN (0, 1)),
  created_micros INTEGER NOT NULL,
  start_micros INTEGER NOT NULL,
  end_micros INTEGER NOT NULL CHECK (end_micros = 0 OR end_micros > start_micros),
  FOREIGN KEY (sku, sku_version) REFERENCES skus (name, version)
);
ALTER TABLE instances ADD COLUMN gang TEXT NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN gang_size INTEGER NOT NULL DEFAULT 0;
ALTER TABLE instances ADD COLUMN gang_node_min INTEGER NOT NULL DEFAULT 1;
ALTER TABLE instances ADD COLUMN gang_one_rack INTEGER NOT NULL DEFAULT 0;
ALTER TABLE instances ADD COLUMN reservation TEXT NOT NULL DEFAULT '';
CREATE INDEX instances_gang ON instances (gang) WHERE gang <> '';
)sql";

// How the slices of an instance are held on their cards.
constexpr std::string_view kIsolation = R"sql(
ALTER TABLE instances ADD COLUMN isolation TEXT NOT NULL DEFAULT 'shim'
  CHECK (isolation IN ('shim', 'spatial', 'whole'));
)sql";

// Who goes next: what a tenant may ask for, what an order asked for, and the operator's rules (the
// last row holds).
constexpr std::string_view kQueue = R"sql(
ALTER TABLE tenants ADD COLUMN priority_max INTEGER NOT NULL DEFAULT 0
  CHECK (priority_max BETWEEN -1000000000 AND 1000000000);

ALTER TABLE instances ADD COLUMN priority INTEGER NOT NULL DEFAULT 0
  CHECK (priority BETWEEN -1000000000 AND 1000000000);
ALTER TABLE instances ADD COLUMN spot INTEGER NOT NULL DEFAULT 0 CHECK (spot IN (0, 1));
ALTER TABLE instances ADD COLUMN discount_permille INTEGER NOT NULL DEFAULT 0
  CHECK (discount_permille BETWEEN 0 AND 1000 * spot);
ALTER TABLE instances ADD COLUMN requeue INTEGER NOT NULL DEFAULT 0
  CHECK (requeue BETWEEN 0 AND spot);

CREATE TABLE queue_policies (
  version INTEGER PRIMARY KEY,
  policy TEXT NOT NULL,
  wall_micros INTEGER NOT NULL
);

CREATE TRIGGER instances_contract_no_update
  BEFORE UPDATE OF tenant_id, sku, sku_version, price_per_hour_micro, priority, spot, discount_permille,
    requeue ON instances
  BEGIN SELECT RAISE(ABORT, 'what was agreed at rental never changes'); END;
CREATE TRIGGER queue_policies_no_update BEFORE UPDATE ON queue_policies
  BEGIN SELECT RAISE(ABORT, 'a version of the rules never changes'); END;
CREATE TRIGGER queue_policies_no_delete BEFORE DELETE ON queue_policies
  BEGIN SELECT RAISE(ABORT, 'a version of the rules never changes'); END;
)sql";

}  // namespace

const std::vector<store::Migration>& Migrations() {
  static const std::vector<store::Migration> migrations = {
      {1, "first", kFirst},
      {2, "reservations and gangs", kReservationsAndGangs},
      {3, "queue", kQueue},
      {4, "isolation", kIsolation}};
  return migrations;
}

}  // namespace tessera::cloud
