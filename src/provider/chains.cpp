#include "provider/chains.h"

#include <fmt/format.h>

#include <algorithm>

#include "session/pairing.h"

namespace permllm {
namespace {

std::filesystem::path prepared(const std::filesystem::path& folder) {
  if (folder.empty()) return {};
  make_private_folder(folder);
  return folder / "ledger.sqlite";
}

File locked(const std::filesystem::path& folder) {
  File file(folder / "lock", File::Mode::create);
  if (!file.lock()) throw Error(Code::file, folder.string(), "another provider runs on it");
  return file;
}

}  // namespace

ProviderChains::ProviderChains(const std::filesystem::path& folder, std::string model_id, std::span<const Plan> plans,
                               std::function<void(const std::string&)> on_event)
    : folder_(folder),
      model_id_(std::move(model_id)),
      plan_(plans.front()),
      on_event_(std::move(on_event)),
      ledger_(prepared(folder)) {
  for (const Plan& plan : plans) plans_[plan.hash()] = &plan;
  if (folder_.empty()) return;
  lock_.emplace(locked(folder_));
  for (const ChainRecord& record : ledger_.all()) {
    if (record.model_id != model_id_) continue;
    try {
      if (find_plan(record.plan_hash) == nullptr)
        throw Error(Code::file, name_of_chain(record), "its plan is none that is served now");
      Stock stock(plan_.config.layers, !plan_.open());
      stock.keep_in(folder_, name_of_chain(record), record.chain, record.plan_hash, record.lengths);
      if (!within(record.made, stock.made())) throw Error(Code::file, name_of_chain(record), "packs are missing");
      if (!used_up(record)) {
        stock.drop_behind(record.made);
        stock.free(record.burnt);
        idle_[{record.peer, record.chain}] = room_of(stock);
        continue;
      }
    } catch (const Error& error) {
      on_event_(fmt::format("a chain of offline material is lost: {}", error.what()));
    }
    forget(record);
  }
}

const Plan* ProviderChains::find_plan(const std::string& hash) const {
  const auto found = plans_.find(hash);
  return found == plans_.end() ? nullptr : found->second;
}

std::string ProviderChains::name_of_chain(const ChainRecord& record) const {
  return fmt::format("{:.16}-{:016x}", record.peer.empty() ? "user" : record.peer, record.chain);
}

void ProviderChains::remove_files(const ChainRecord& record) const {
  std::error_code ignored;
  for (const char* half : {".helper", ".user"}) {
    if (!folder_.empty()) std::filesystem::remove(folder_ / (name_of_chain(record) + half), ignored);
  }
}

void ProviderChains::forget(const ChainRecord& record) {
  remove_files(record);  // ahead of the row: the next start finds a row without files, but not files without a row
  ledger_.drop(record);  // a row that was changed meanwhile stays, and is dropped at the next start
  idle_.erase({record.peer, record.chain});
}

bool ProviderChains::used_up(const ChainRecord& record) const {
  // A model that takes one prompt a chain needs a fresh one.
  return record.burnt[k_slot_kind] >= plan_.slots || (plan_.prompt_slots != 0 && record.burnt[k_slot_kind] > 0);
}

ProviderChains::Spare ProviderChains::spare(const std::string& peer) {
  Spare spare;
  for (ChainRecord& record : ledger_.chains(peer, model_id_)) {
    if (open_.contains({peer, record.chain})) continue;
    (record.burnt == Marks{} ? spare.fresh : spare.leftovers).push_back(std::move(record));
  }
  const auto ready = [](const ChainRecord& record) { return between(record.burnt, record.made)[k_slot_kind]; };
  std::sort(spare.leftovers.begin(), spare.leftovers.end(),
            [&](const ChainRecord& a, const ChainRecord& b) { return ready(a) < ready(b); });
  std::reverse(spare.fresh.begin(), spare.fresh.end());
  return spare;
}

void ProviderChains::drop_spare(const std::string& peer) {
  Spare spare = this->spare(peer);
  const auto drop = [&](std::vector<ChainRecord>& of, std::size_t most) REQUIRES(mutex_) {
    const std::size_t gone = of.size() - std::min(of.size(), most);
    for (std::size_t i = 0; i < gone; ++i) forget(of[i]);
    of.erase(of.begin(), of.begin() + static_cast<std::ptrdiff_t>(gone));
  };
  drop(spare.leftovers, k_most_leftovers);
  const auto in_sessions = static_cast<std::size_t>(
      std::count_if(open_.begin(), open_.end(), [&](const auto& chain) { return chain.first.first == peer; }));
  const std::size_t others = 1 + spare.leftovers.size() + in_sessions;
  drop(spare.fresh, k_most_chains - std::min(k_most_chains, others));
}

std::uint64_t ProviderChains::room_of(const Stock& stock) const {
  return std::max<std::uint64_t>(stock.bytes(), folder_.empty() ? 0 : 2 * k_block);  // a file for each half
}

std::uint64_t ProviderChains::bytes_of(const std::string& peer) const {
  std::uint64_t sum = 0;
  for (auto i = open_.lower_bound({peer, 0}); i != open_.end() && i->first.first == peer; ++i)
    sum += room_of(i->second->stock_);
  for (auto i = idle_.lower_bound({peer, 0}); i != idle_.end() && i->first.first == peer; ++i) sum += i->second;
  return sum;
}

std::uint64_t ProviderChains::bytes(const std::string& peer) {
  const Lock lock(mutex_);
  return bytes_of(peer);
}

std::uint64_t ProviderChains::bytes() {
  const Lock lock(mutex_);
  std::uint64_t sum = 0;
  for (const auto& [key, chain] : open_) sum += room_of(chain->stock_);
  for (const auto& [key, bytes] : idle_) sum += bytes;
  return sum;
}

bool ProviderChains::disk_has(std::uint64_t bytes, std::uint64_t freed) const {
  for (const auto& [peer, coming] : coming_) bytes += coming;
  const auto free = free_space();
  return !free || *free + freed >= bytes + k_disk_margin;
}

void ProviderChains::refuse_for_disk(std::uint64_t bytes) {
  disk_trouble();
  throw Error(Code::resource, Reason::disk_full, "stock",
              fmt::format("the provider's disk is full: {} bytes are free, {} more are wanted beside {} that stay "
                          "free; what is made can be used, "
                          "and the provider has to make room for more",
                          *free_space(), bytes, k_disk_margin));
}

std::string ProviderChains::disk_trouble() {
  const auto free = free_space();
  const bool full = free && *free < k_disk_margin;
  const std::string trouble =
      full ? fmt::format("the disk of the offline material is full ({} bytes are free, {} stay free): no more is taken",
                         *free, k_disk_margin)
           : "";
  if (disk_full_.exchange(full) != full)
    on_event_(full ? trouble : fmt::format("the disk of the offline material has room again, {} bytes", *free));
  return trouble;
}

void ProviderChains::need_room(const std::string& peer, std::uint64_t bytes, const UserLimits& limits) {
  const auto coming = coming_.find(peer);
  const std::uint64_t more = bytes + (coming == coming_.end() ? 0 : coming->second);
  const auto fits = [&](std::uint64_t freed) REQUIRES(mutex_) {
    return bytes_of(peer) - freed + more <= limits.stock && disk_has(bytes, freed);
  };
  if (disk_full_) disk_trouble();  // there may be room again
  if (fits(0)) return;
  const Spare spare = this->spare(peer);
  std::uint64_t all = 0;
  for (const auto* chains : {&spare.leftovers, &spare.fresh}) {
    for (const ChainRecord& record : *chains) {
      const auto bytes_of_it = idle_.find({peer, record.chain});
      if (bytes_of_it != idle_.end()) all += bytes_of_it->second;
    }
  }
  if (fits(all)) {  // else they would go for nothing
    for (const auto* chains : {&spare.leftovers, &spare.fresh}) {
      for (const ChainRecord& record : *chains) {
        forget(record);
        if (fits(0)) return;
      }
    }
  }
  if (!disk_has(bytes)) refuse_for_disk(bytes);
  throw Error(
      Code::resource, Reason::stock_full, "stock",
      fmt::format("{} bytes of the user's packs are on the provider's disk, {} more are wanted, the limit is {}",
                  bytes_of(peer), bytes, limits.stock));
}

void ProviderChains::drop_unless(const std::function<bool(const std::string& peer)>& keep) {
  const Lock lock(mutex_);
  for (const ChainRecord& record : ledger_.all()) {
    if (!keep(record.peer) && !open_.contains({record.peer, record.chain})) forget(record);
  }
}

std::vector<ChainState> ProviderChains::of(const std::string& peer) {
  std::vector<ChainState> states;
  const Lock lock(mutex_);
  for (const ChainRecord& record : ledger_.chains(peer, model_id_)) {
    states.push_back({record.chain, record.made, record.burnt, open_.contains({peer, record.chain})});
    if (states.size() == Card::k_most_chains) break;
  }
  return states;
}

std::shared_ptr<ProviderChains::Chain> ProviderChains::open(const std::string& peer, const Agreement& agreement) {
  const std::uint64_t number = agreement.chain;
  const Plan* const plan = find_plan(agreement.plan_hash);
  if (plan == nullptr) {
    throw Error(Code::mismatch, Reason::model_changed, "Agreement.plan_hash",
                fmt::format("plan {:.8} here, {:.8} at the user", plans_.begin()->first, agreement.plan_hash));
  }
  const Lock lock(mutex_);
  if (open_.contains({peer, number})) throw Error(Code::mismatch, "Agreement.chain", "another session uses it");
  const std::optional<ChainRecord> before = ledger_.find(peer, number);
  if (before && before->model_id != model_id_) throw Error(Code::mismatch, "Agreement.chain", "it is of another model");
  if (before && before->plan_hash != agreement.plan_hash) {
    throw Error(Code::mismatch, "Agreement.chain",
                "it is of another plan: what was made for sessions that hide positions serves no others");
  }
  std::optional<ChainRecord> record = before;
  if (!record) {
    UserLimits any;
    any.stock = UINT64_MAX;
    need_room(peer, 0, any);  // of the disk: for a new chain material comes first
    drop_spare(peer);
    record = ChainRecord{};
    record->chain = number;
    record->peer = peer;
    record->model_id = model_id_;
    record->plan_hash = agreement.plan_hash;
  }
  record->burnt = later_of(record->burnt, agreement.burnt);
  const auto slots = static_cast<std::uint32_t>(plan_.slots);
  if (!within(record->burnt, Marks{{slots, slots, slots, slots}}))
    throw Error(Code::mismatch, "Agreement.burnt", "the chain has no room left; begin another");
  if (!record->paired || !agreement.paired) {  // one of the two has lost its seed, or there was none yet
    record->paired = false;
    record->made = {};
    record->lengths = {};
  }
  before ? ledger_.change(*before, *record) : ledger_.add(*record);
  const auto chain = std::shared_ptr<Chain>(new Chain(*this, *record, *plan));
  chain->keep_ = agreement.keep && !folder_.empty();
  if (!folder_
           .empty()) {  // what a user does not keep takes no memory either: files without a name last as long as the session
    chain->stock_.keep_in(folder_, name_of_chain(*record), number, record->plan_hash, record->lengths);
    chain->stock_.drop_behind(record->made);
    chain->free(record->burnt);
    if (!chain->keep_) remove_files(*record);
  }
  idle_.erase({peer, number});
  open_[{peer, number}] = chain.get();
  chain->open_ = true;
  return chain;
}

ProviderChains::Chain::Chain(ProviderChains& chains, ChainRecord record, const Plan& plan)
    : chains_(chains),
      peer_(record.peer),
      plan_hash_(record.plan_hash),
      number_(record.chain),
      plan_(plan),
      stock_(plan.config.layers, !plan.open()),
      record_(std::move(record)) {}

ProviderChains::Chain::~Chain() {
  if (!open_) return;
  std::optional<ChainRecord> record;
  try {
    record = chains_.ledger_.find(peer_, number_);
    if (record) free(record->burnt);
  } catch (const std::exception&) {
    // It stays in the ledger until the next start.
  }
  const Lock lock(chains_.mutex_);
  chains_.open_.erase({peer_, number_});
  if (!record) return;
  chains_.idle_[{peer_, number_}] = chains_.room_of(stock_);
  try {
    // One that is used up, or of which nothing was made, is of no use to anybody.
    if (!keep_ || chains_.used_up(*record) || record->made == Marks{}) chains_.forget(*record);
  } catch (const std::exception&) {
    // It stays there until the next start, as above.
  }
}

Accepted ProviderChains::Chain::state() const {
  const Lock lock(mutex_);
  return {record_.paired, record_.made, record_.burnt};
}

std::optional<Seed> ProviderChains::Chain::standing() const {
  const Lock lock(mutex_);
  return record_.paired ? std::optional(record_.seed) : std::nullopt;
}

Seed ProviderChains::Chain::seed(Clock::time_point deadline) {
  Lock lock(mutex_);
  if (!changed_.wait_until(lock, deadline, [&]() REQUIRES(mutex_) { return record_.paired; })) {
    throw Error(Code::timeout, Reason::out_of_stock, "stock", "no offline material was begun before the deadline");
  }
  return record_.seed;
}

std::unique_ptr<Burning> ProviderChains::Chain::burning() {
  return std::make_unique<Burning>(chains_.ledger_, peer_, number_, state().burnt);
}

void ProviderChains::Chain::free(const Marks& used) {
  stock_.free(used);
  freed_ = used;
}

ProviderChains::Chain::Room::Room(Chain& chain, std::uint64_t bytes, const UserLimits& limits)
    : chain_(chain), bytes_(bytes) {
  const Lock lock(chain_.chains_.mutex_);
  chain_.chains_.need_room(chain_.peer_, bytes_, limits);
  chain_.chains_.coming_[chain_.peer_] += bytes_;
}

ProviderChains::Chain::Room::~Room() {
  auto& coming = chain_.chains_.coming_;
  const Lock lock(chain_.chains_.mutex_);
  const auto of_peer = coming.find(chain_.peer_);
  if ((of_peer->second -= bytes_) == 0) coming.erase(of_peer);
}

void ProviderChains::Chain::begin_filling(const UserLimits& limits, Clock::time_point deadline) {
  Room(*this, 1, limits);  // NOLINT(bugprone-unused-raii): only whether there is any
  Lock lock(mutex_);
  if (!changed_.wait_until(lock, deadline, [&]() REQUIRES(mutex_) { return !filling_; }))
    throw Error(Code::mismatch, "Hello.session", "another filling of this chain is under way");
  filling_ = true;
  record_.paired ? stock_.begin_filling(record_.made) : stock_.clear();
}

void ProviderChains::Chain::paired(const Seed& seed, const Digest& other) {
  {
    const Lock lock(mutex_);
    if (record_.paired && other != record_.other) {
      throw Error(Code::mismatch, "Paired.other",
                  "the user's seed of this chain is another than when it was begun; begin another chain");
    }
    if (record_.paired) return;
    ChainRecord now = record_;
    now.seed = seed;
    now.other = other;
    now.paired = true;
    chains_.ledger_.change(record_, now);
    record_ = now;
  }
  changed_.notify_all();
}

void ProviderChains::Chain::commit() {
  const Lock one(commit_);
  const Marks now = stock_.made(), before = state().made;
  if (now == before) return;
  const HalfLengths lengths = stock_.sync();
  chains_.ledger_.set_made(peer_, number_, before, now, lengths);
  const Lock lock(mutex_);
  record_.made = now;
  record_.lengths = lengths;
}

void ProviderChains::Chain::end_filling() {
  {
    const Lock lock(mutex_);
    stock_.drop_behind(record_.made);
    filling_ = false;
    filled_at_ = Clock::now();
  }
  changed_.notify_all();
}

std::optional<Clock::time_point> ProviderChains::Chain::filled_at() const {
  const Lock lock(mutex_);
  return filling_ ? std::optional(Clock::now()) : filled_at_;
}

}  // namespace permllm
