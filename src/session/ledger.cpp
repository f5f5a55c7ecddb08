#include "session/ledger.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>

#include "base/file.h"

namespace permllm {
namespace {

constexpr std::uint64_t k_version = 3;
constexpr const char* k_columns =
    "chain, peer, model_id, plan_hash, paired, seed, own, other, made1, made2, made3, made4, burnt1, burnt2, burnt3, "
    "burnt4, length1, length2, mask";
// The row as it was.
constexpr const char* k_as_it_was =
    "peer = ? AND chain = ? AND paired = ? AND seed = ? AND made1 = ? AND made2 = ? AND made3 = ? AND made4 = ? AND "
    "burnt1 = ? AND burnt2 = ? AND burnt3 = ? AND burnt4 = ?";

std::uint64_t version_of(Database& database) {
  auto version = database.query("PRAGMA user_version");
  version.step();
  return version.number(0);
}

Seed seed_of(const std::vector<std::uint8_t>& bytes) {
  if (bytes.size() != Seed::k_bytes) throw Error(Code::file, "ledger", "a seed has not 32 bytes: the file is damaged");
  return Seed(std::span<const std::uint8_t, Seed::k_bytes>(bytes.data(), Seed::k_bytes));
}

ChainRecord record_of(const Database::Query& q) {
  ChainRecord record{
      q.number(0), q.text(1), q.text(2), q.text(3), q.number(4) != 0, seed_of(q.bytes(5)), seed_of(q.bytes(6)),
      {},          {},        {},        {}};
  const auto other = q.bytes(7);
  if (other.size() != record.other.size())
    throw Error(Code::file, "ledger", "a digest has not 32 bytes: the file is damaged");
  std::copy(other.begin(), other.end(), record.other.begin());
  const auto mark = [&](int column) {
    if (q.number(column) > UINT32_MAX)
      throw Error(Code::file, "ledger", "a mark is beyond all pieces: the file is damaged");
    return static_cast<std::uint32_t>(q.number(column));
  };
  for (int i = 0; i < 4; ++i) {
    record.made.first[static_cast<std::size_t>(i)] = mark(8 + i);
    record.burnt.first[static_cast<std::size_t>(i)] = mark(12 + i);
  }
  record.lengths = {q.number(16), q.number(17)};
  const auto mask = q.bytes(18);
  if (mask.size() == record.mask.size())
    std::copy(mask.begin(), mask.end(), record.mask.begin());  // of an earlier version's rows it is not known
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
void bind_as_it_was(Database::Query& q, const ChainRecord& record) {
  q.bind(record.peer).bind(record.chain).bind(std::uint64_t{record.paired}).bind(record.seed.bytes());
  bind(q, record.made);
  bind(q, record.burnt);
}

Error taken_by_another() {
  return {Code::mismatch, "ledger",
          "another program has used or removed this chain of offline material since it was taken up here; ask again: "
          "another chain is taken"};
}

}  // namespace

std::string month_of(std::chrono::system_clock::time_point time) {
  return fmt::format("{:%Y-%m}", fmt::gmtime(std::chrono::system_clock::to_time_t(time)));
}

Usage Account::ever() const {
  Usage sum;
  for (const auto& [month, usage] : months) sum.tokens += usage.tokens, sum.rows += usage.rows;
  return sum;
}

Usage Account::in(const std::string& month) const {
  const auto found = months.find(month);
  return found == months.end() ? Usage{} : found->second;
}

std::map<std::string, Account> read_accounts(const std::filesystem::path& path) {
  Database database(path, Database::Mode::read);
  const std::uint64_t version = version_of(database);
  if (version != k_version)
    throw Error(Code::file, path.string(),
                fmt::format("is of version {}, this program reads {}: start the provider of the same release", version,
                            k_version));
  std::map<std::string, Account> accounts;
  for (auto q = database.query("SELECT peer, month, tokens, rows, counted FROM usage"); q.step();) {
    Account& account = accounts[q.text(0)];
    account.months[q.text(1)] = {q.number(2), q.number(3)};
    account.last_seen = std::max(account.last_seen, q.number(4));
  }
  for (auto q = database.query("SELECT peer, max(used), sum(max(0, made1 - burnt1)) FROM chains GROUP BY peer");
       q.step();) {
    Account& account = accounts[q.text(0)];
    account.last_seen = std::max(account.last_seen, q.number(1));
    account.ready_slots = q.number(2);
  }
  return accounts;
}

Ledger::Ledger(const std::filesystem::path& path, Now now)
    : durable_(!path.empty()), now_(std::move(now)), locks_(path), database_(path) {
  if (durable_) locks_ += ".lock";
  database_.transaction([&]() REQUIRES(mutex_) {
    const std::uint64_t number = version_of(database_);
    if (number > k_version)
      throw Error(Code::unsupported, path.filename().string(),
                  fmt::format("is of version {}, this program knows {}", number, k_version));
    if (number < 1) {
      database_.run(
          "CREATE TABLE chains (chain INTEGER NOT NULL, peer TEXT NOT NULL, model_id TEXT NOT NULL, plan_hash TEXT NOT "
          "NULL, paired INTEGER NOT NULL,"
          " seed BLOB NOT NULL, own BLOB NOT NULL, other BLOB NOT NULL, made1 INTEGER, made2 INTEGER, made3 INTEGER, "
          "made4 INTEGER,"
          " burnt1 INTEGER, burnt2 INTEGER, burnt3 INTEGER, burnt4 INTEGER, length1 INTEGER, length2 INTEGER,"
          " used INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (peer, chain)) WITHOUT ROWID;"
          "CREATE TABLE peers (peer TEXT PRIMARY KEY, tokens INTEGER NOT NULL) WITHOUT ROWID;");
    }
    if (number < 2) database_.run("ALTER TABLE chains ADD COLUMN mask BLOB NOT NULL DEFAULT x'';");
    // Rows were not counted before: what is known of them are the slots of chains that are left, and that each token had one.
    if (number < 3)
      database_.run(
          "CREATE TABLE usage (peer TEXT NOT NULL, month TEXT NOT NULL, tokens INTEGER NOT NULL, rows INTEGER NOT "
          "NULL, "
          "counted INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (peer, month)) WITHOUT ROWID;"
          "INSERT INTO usage SELECT peer, '', tokens, max(tokens, (SELECT coalesce(sum(burnt1), 0) FROM chains WHERE "
          "chains.peer = peers.peer)), 0 FROM peers;"
          "DROP TABLE peers; PRAGMA user_version = 3;");
  });
}

std::vector<ChainRecord> Ledger::chains(const std::string& peer, const std::string& model_id) {
  const Lock lock(mutex_);
  auto q = database_.query(
      fmt::format("SELECT {} FROM chains WHERE peer = ? AND model_id = ? ORDER BY used DESC", k_columns).c_str());
  return records_of(q.bind(peer).bind(model_id));
}

std::vector<ChainRecord> Ledger::all() {
  const Lock lock(mutex_);
  auto q = database_.query(fmt::format("SELECT {} FROM chains ORDER BY used DESC", k_columns).c_str());
  return records_of(q);
}

std::optional<ChainRecord> Ledger::find(const std::string& peer, std::uint64_t chain) {
  const Lock lock(mutex_);
  auto q = database_.query(fmt::format("SELECT {} FROM chains WHERE peer = ? AND chain = ?", k_columns).c_str());
  q.bind(peer).bind(chain);
  return q.step() ? std::optional(record_of(q)) : std::nullopt;
}

void Ledger::change_one(const std::function<std::int64_t()>& body) {
  const Lock lock(mutex_);
  database_.transaction([&] {
    if (body() != 1) throw taken_by_another();
  });
}

void Ledger::add(const ChainRecord& record) {
  change_one([&]() REQUIRES(mutex_) {
    auto q = database_.query(fmt::format("INSERT OR IGNORE INTO chains ({}, used) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, "
                                         "?, ?, ?, ?, ?, ?, ?, ?, ?, ?, unixepoch())",
                                         k_columns)
                                 .c_str());
    q.bind(record.chain)
        .bind(record.peer)
        .bind(record.model_id)
        .bind(record.plan_hash)
        .bind(std::uint64_t{record.paired});
    q.bind(record.seed.bytes()).bind(record.own.bytes()).bind(record.other);
    bind(q, record.made);
    bind(q, record.burnt);
    return q.bind(record.lengths[0]).bind(record.lengths[1]).bind(record.mask).change();
  });
}

void Ledger::change(const ChainRecord& from, const ChainRecord& to) {
  change_one([&]() REQUIRES(mutex_) {
    auto q = database_.query(
        fmt::format("UPDATE chains SET paired = ?, seed = ?, own = ?, other = ?, made1 = ?, made2 = ?, made3 = ?, "
                    "made4 = ?, burnt1 = ?, burnt2 = ?,"
                    " burnt3 = ?, burnt4 = ?, length1 = ?, length2 = ?, mask = ?, used = unixepoch() WHERE {}",
                    k_as_it_was)
            .c_str());
    q.bind(std::uint64_t{to.paired}).bind(to.seed.bytes()).bind(to.own.bytes()).bind(to.other);
    bind(q, to.made);
    bind(q, to.burnt);
    q.bind(to.lengths[0]).bind(to.lengths[1]).bind(to.mask);
    bind_as_it_was(q, from);
    return q.change();
  });
}

bool Ledger::drop(const ChainRecord& record) {
  const Lock lock(mutex_);
  bool dropped = false;
  database_.transaction([&]() REQUIRES(mutex_) {
    auto q = database_.query(fmt::format("DELETE FROM chains WHERE {}", k_as_it_was).c_str());
    bind_as_it_was(q, record);
    dropped = q.change() == 1;
  });
  return dropped;
}

void Ledger::set_made(const std::string& peer, std::uint64_t chain, const Marks& from, const Marks& to,
                      const HalfLengths& lengths) {
  change_one([&]() REQUIRES(mutex_) {
    auto q = database_.query(
        "UPDATE chains SET made1 = ?, made2 = ?, made3 = ?, made4 = ?, length1 = ?, length2 = ?, used = unixepoch() "
        "WHERE peer = ? AND chain = ?"
        " AND made1 = ? AND made2 = ? AND made3 = ? AND made4 = ?");
    bind(q, to);
    q.bind(lengths[0]).bind(lengths[1]).bind(peer).bind(chain);
    bind(q, from);
    return q.change();
  });
}

void Ledger::move_burnt(const std::string& peer, std::uint64_t chain, const Marks& from, const Marks& to,
                        const std::optional<CountedIn>& months) {
  change_one([&]() REQUIRES(mutex_) {
    auto q = database_.query(
        "UPDATE chains SET burnt1 = ?, burnt2 = ?, burnt3 = ?, burnt4 = ?, used = unixepoch() WHERE peer = ? AND chain "
        "= ?"
        " AND burnt1 = ? AND burnt2 = ? AND burnt3 = ? AND burnt4 = ?");
    bind(q, to);
    q.bind(peer).bind(chain);
    bind(q, from);
    const std::int64_t moved = q.change();
    const auto more = [&](std::uint8_t kind) { return std::int64_t{to[kind]} - from[kind]; };
    const CountedIn in = months.value_or(CountedIn{month(), month()});
    count(peer, in.tokens, more(k_pass_kind), 0);
    count(peer, in.rows, 0, more(k_slot_kind));
    return moved;
  });
}

void Ledger::count(const std::string& peer, const std::string& month, std::int64_t tokens, std::int64_t rows) {
  if (tokens < 0 || rows < 0) {
    database_
        .query("UPDATE usage SET tokens = max(0, tokens - ?), rows = max(0, rows - ?) WHERE peer = ? AND month = ?")
        .bind(static_cast<std::uint64_t>(-tokens))
        .bind(static_cast<std::uint64_t>(-rows))
        .bind(peer)
        .bind(month)
        .step();
  } else if (tokens > 0 || rows > 0) {
    database_
        .query(
            "INSERT INTO usage VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (peer, month) DO UPDATE SET tokens = tokens + "
            "?3, "
            "rows = rows + ?4, counted = ?5")
        .bind(peer)
        .bind(month)
        .bind(static_cast<std::uint64_t>(tokens))
        .bind(static_cast<std::uint64_t>(rows))
        .bind(static_cast<std::uint64_t>(std::chrono::system_clock::to_time_t(now_())))
        .step();
  }
}

Usage Ledger::used(const std::string& peer) {
  const Lock lock(mutex_);
  auto q = database_.query("SELECT coalesce(sum(tokens), 0), coalesce(sum(rows), 0) FROM usage WHERE peer = ?");
  q.bind(peer).step();
  return {q.number(0), q.number(1)};
}

Usage Ledger::used(const std::string& peer, const std::string& month) {
  const Lock lock(mutex_);
  auto q = database_.query("SELECT tokens, rows FROM usage WHERE peer = ? AND month = ?");
  return q.bind(peer).bind(month).step() ? Usage{q.number(0), q.number(1)} : Usage{};
}

Ledger::Hold Ledger::hold(std::uint64_t chain) {
  if (durable_) {
    const auto file = std::make_shared<File>(locks_, File::Mode::create);
    return file->lock_byte(chain >> 1) ? file : nullptr;
  }
  const Lock lock(mutex_);
  if (!held_.insert(chain).second) return nullptr;
  return Hold(this, [this, chain](const void*) {
    const Lock again(mutex_);
    held_.erase(chain);
  });
}

bool Ledger::held(std::uint64_t chain) {
  if (durable_) return File(locks_, File::Mode::create).byte_is_locked(chain >> 1);
  const Lock lock(mutex_);
  return held_.contains(chain);
}

void Burning::reach(const Marks& to) {
  if (lost_)
    throw Error(Code::mismatch, "ledger", "this session could not write what it burns, and makes no more; ask again");
  if (!within(to, burnt_)) {
    const Marks ahead = later_of(burnt_, each_of(burnt_, to, [](std::uint32_t now, std::uint32_t next) {
                                   return next > now ? next + k_stretch - 1 : now;
                                 }));
    const std::string now = ledger_.month();
    if (ahead[k_pass_kind] > burnt_[k_pass_kind]) counted_.tokens = now;
    if (ahead[k_slot_kind] > burnt_[k_slot_kind]) counted_.rows = now;
    lost_ = true;
    ledger_.move_burnt(peer_, chain_, burnt_, ahead, counted_);
    lost_ = false;
    burnt_ = ahead;
  }
  used_ = later_of(used_, to);
}

Burning::~Burning() {
  if (lost_ || used_ == burnt_) return;
  try {
    ledger_.move_burnt(peer_, chain_, burnt_, used_, counted_);
  } catch (const std::exception&) {
    // The stretch stays burnt: another has moved the mark since, or the disk does not take it.
  }
}

}  // namespace permllm
