#include "engine/ledger.h"

#include <fmt/format.h>

#include <algorithm>

namespace permllm {
namespace {

constexpr const char* k_columns =
    "chain, peer, model_id, plan_hash, paired, seed, own, other, made1, made2, made3, made4, burnt1, burnt2, burnt3, burnt4, length1, length2";

Seed seed_of(const std::vector<std::uint8_t>& bytes) {
  if (bytes.size() != Seed::k_bytes) throw Error(Code::file, "ledger", "a seed has not 32 bytes: the file is damaged");
  return Seed(std::span<const std::uint8_t, Seed::k_bytes>(bytes.data(), Seed::k_bytes));
}

ChainRecord record_of(const Database::Query& q) {
  ChainRecord record{q.number(0), q.text(1), q.text(2), q.text(3), q.number(4) != 0, seed_of(q.bytes(5)), seed_of(q.bytes(6)), {}, {}, {}};
  const auto other = q.bytes(7);
  if (other.size() != record.other.size()) throw Error(Code::file, "ledger", "a digest has not 32 bytes: the file is damaged");
  std::copy(other.begin(), other.end(), record.other.begin());
  for (int i = 0; i < 4; ++i) {
    record.made.first[static_cast<std::size_t>(i)] = static_cast<std::uint32_t>(q.number(8 + i));
    record.burnt.first[static_cast<std::size_t>(i)] = static_cast<std::uint32_t>(q.number(12 + i));
  }
  record.lengths = {q.number(16), q.number(17)};
  return record;
}

std::vector<ChainRecord> records_of(Database::Query& q) {
  std::vector<ChainRecord> records;
  while (q.step()) records.push_back(record_of(q));
  return records;
}

void bind(Database::Query& q, const Marks& marks) {
  for (const std::uint32_t number : marks.first) q.bind(number);
}

}  // namespace

Ledger::Ledger(const std::filesystem::path& path) : durable_(!path.empty()), database_(path) {
  database_.transaction([&] {
    auto version = database_.query("PRAGMA user_version");
    version.step();
    const std::uint64_t number = version.number(0);
    if (number > 1) throw Error(Code::unsupported, path.filename().string(), fmt::format("is of version {}, this program knows 1", number));
    if (number == 1) return;
    database_.run(
        "CREATE TABLE chains (chain INTEGER NOT NULL, peer TEXT NOT NULL, model_id TEXT NOT NULL, plan_hash TEXT NOT NULL, paired INTEGER NOT NULL,"
        " seed BLOB NOT NULL, own BLOB NOT NULL, other BLOB NOT NULL, made1 INTEGER, made2 INTEGER, made3 INTEGER, made4 INTEGER,"
        " burnt1 INTEGER, burnt2 INTEGER, burnt3 INTEGER, burnt4 INTEGER, length1 INTEGER, length2 INTEGER,"
        " used INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (peer, chain)) WITHOUT ROWID;"
        "CREATE TABLE peers (peer TEXT PRIMARY KEY, tokens INTEGER NOT NULL) WITHOUT ROWID;"
        "PRAGMA user_version = 1;");
  });
}

std::vector<ChainRecord> Ledger::chains(const std::string& peer, const std::string& model_id) {
  const std::lock_guard lock(mutex_);
  auto q = database_.query(fmt::format("SELECT {} FROM chains WHERE peer = ? AND model_id = ? ORDER BY used DESC", k_columns).c_str());
  return records_of(q.bind(peer).bind(model_id));
}

std::vector<ChainRecord> Ledger::all() {
  const std::lock_guard lock(mutex_);
  auto q = database_.query(fmt::format("SELECT {} FROM chains ORDER BY used DESC", k_columns).c_str());
  return records_of(q);
}

std::optional<ChainRecord> Ledger::find(const std::string& peer, std::uint64_t chain) {
  const std::lock_guard lock(mutex_);
  auto q = database_.query(fmt::format("SELECT {} FROM chains WHERE peer = ? AND chain = ?", k_columns).c_str());
  q.bind(peer).bind(chain);
  return q.step() ? std::optional(record_of(q)) : std::nullopt;
}

void Ledger::put(const ChainRecord& record) {
  const std::lock_guard lock(mutex_);
  auto q = database_.query(fmt::format("INSERT OR REPLACE INTO chains ({}, used) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, unixepoch())", k_columns).c_str());
  q.bind(record.chain).bind(record.peer).bind(record.model_id).bind(record.plan_hash).bind(std::uint64_t{record.paired});
  q.bind(record.seed.bytes()).bind(record.own.bytes()).bind(record.other);
  bind(q, record.made);
  bind(q, record.burnt);
  q.bind(record.lengths[0]).bind(record.lengths[1]).step();
}

void Ledger::drop(const std::string& peer, std::uint64_t chain) {
  const std::lock_guard lock(mutex_);
  database_.query("DELETE FROM chains WHERE peer = ? AND chain = ?").bind(peer).bind(chain).step();
}

void Ledger::set_made(const std::string& peer, std::uint64_t chain, const Marks& made, const Stock::Lengths& lengths) {
  const std::lock_guard lock(mutex_);
  auto q = database_.query("UPDATE chains SET made1 = ?, made2 = ?, made3 = ?, made4 = ?, length1 = ?, length2 = ? WHERE peer = ? AND chain = ?");
  bind(q, made);
  q.bind(lengths[0]).bind(lengths[1]).bind(peer).bind(chain).step();
}

void Ledger::set_burnt(const std::string& peer, std::uint64_t chain, const Marks& burnt, std::int64_t tokens) {
  const std::lock_guard lock(mutex_);
  database_.transaction([&] {
    auto q = database_.query("UPDATE chains SET burnt1 = ?, burnt2 = ?, burnt3 = ?, burnt4 = ?, used = unixepoch() WHERE peer = ? AND chain = ?");
    bind(q, burnt);
    q.bind(peer).bind(chain).step();
    if (tokens == 0) return;
    database_.query("INSERT INTO peers VALUES (?1, max(0, ?2)) ON CONFLICT (peer) DO UPDATE SET tokens = max(0, tokens + ?2)")
        .bind(peer).bind(static_cast<std::uint64_t>(tokens)).step();
  });
}

std::uint64_t Ledger::tokens(const std::string& peer) {
  const std::lock_guard lock(mutex_);
  auto q = database_.query("SELECT tokens FROM peers WHERE peer = ?");
  q.bind(peer);
  return q.step() ? q.number(0) : 0;
}

void Burning::reach(const Marks& to) {
  if (!within(to, burnt_)) {
    const Marks ahead = later_of(burnt_, each_of(burnt_, to, [](std::uint32_t now, std::uint32_t next) { return next > now ? next + k_stretch - 1 : now; }));
    ledger_.set_burnt(peer_, chain_, ahead, std::int64_t{ahead[k_pass_kind]} - burnt_[k_pass_kind]);
    burnt_ = ahead;
  }
  used_ = later_of(used_, to);
}

Burning::~Burning() {
  if (used_ == burnt_) return;
  try {
    ledger_.set_burnt(peer_, chain_, used_, std::int64_t{used_[k_pass_kind]} - burnt_[k_pass_kind]);
  } catch (const std::exception&) {
    // The stretch stays burnt.
  }
}

}  // namespace permllm
