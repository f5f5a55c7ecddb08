#include "helper/model_store.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>

#include "session/registration.h"

namespace permllm {
namespace {

constexpr std::uint64_t k_magic = 0x6c65646f6d4d4c50;  // "PLMmodel"
constexpr std::uint32_t k_version = 3;
constexpr std::uint64_t k_page = 4096;
constexpr std::size_t k_before_offer = 16;      // magic, version, length
constexpr std::uint32_t k_most_head = 1 << 20;  // of an offer: a plan of 1,000 layers has a fifth of it
constexpr const char* k_model = ".model";
constexpr const char* k_part = ".part";
constexpr const char* k_marker = "permllm store 1\n";
// A model that another helper of the pool receives is waited for; a connection that was lost there is soon found to be.
constexpr Clock::duration k_part_patience = std::chrono::seconds(20), k_part_rest = std::chrono::milliseconds(50);

std::uint64_t whole_pages(std::uint64_t bytes) { return (bytes + k_page - 1) / k_page * k_page; }

Bytes written(ModelOffer offer, const std::string& owner) {
  Writer writer;
  offer.visit(writer);
  writer.text("owner", owner, 64);
  return writer.take();
}

// Ids are names of files: nothing but digits.
bool is_id(const std::string& id) {
  return id.size() == 64 &&
         std::all_of(id.begin(), id.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool is_none(const Digest& hash) { return hash == Digest{}; }

std::string megabytes(std::uint64_t bytes) { return fmt::format("{:.1f} MB", 1e-6 * static_cast<double>(bytes)); }

void check_offer(const ModelOffer& offer) {
  const auto refuse = [](const char* field, const std::string& why) {
    throw Error(Code::malformed, std::string("ModelOffer.") + field, why);
  };
  if (!is_id(offer.model_id)) refuse("model_id", "expected 64 hex digits");
  check_packings(offer.packings, offer.plan, "ModelOffer.packings");
  const std::uint64_t expected = masked_model_bytes(offer.plan, offer.packings);
  if (offer.bytes != expected) refuse("bytes", fmt::format("{}, the plan says {}", offer.bytes, expected));
  if (offer.chunk < ModelOffer::k_least_chunk || offer.chunk > ModelOffer::k_most_chunk || offer.chunk % 64 != 0) {
    refuse("chunk", fmt::format("{}, expected a multiple of 64 from {} to {}", offer.chunk, ModelOffer::k_least_chunk,
                                ModelOffer::k_most_chunk));
  }
  if (offer.bytes / offer.chunk >= ModelOffer::k_most_chunks) {
    refuse("chunk", fmt::format("{}: {} bytes would be more than {} chunks", offer.chunk, offer.bytes,
                                ModelOffer::k_most_chunks));
  }
}

// A file without a chunk.
StoredFile placed(File file, ModelOffer offer, const std::string& owner) {
  const std::uint64_t table_at = whole_pages(k_before_offer + written(offer, owner).size() + sizeof(Digest));
  const std::uint64_t v_at = whole_pages(table_at + sizeof(Digest) * (std::uint64_t{offer.chunks()} + 1));
  std::vector<Digest> hashes(offer.chunks());
  return {std::move(file), std::move(offer), owner, table_at, v_at, std::move(hashes)};
}

// Errors: malformed, where W is none that a provider packs.
std::shared_ptr<const StoredModel> mapped(StoredFile stored) {
  MappedFile bytes(stored.file);
  const std::span<const std::uint8_t> v = bytes.bytes().subspan(stored.v_at, stored.offer.bytes);
  const ModelOffer& offer = stored.offer;
  auto views = offer.plan.open() ? HeldWeights(view_public_model(offer.plan, offer.packings, v))
                                 : HeldWeights(view_masked_model(offer.plan, v));
  return std::make_shared<StoredModel>(StoredModel{std::move(stored), std::move(bytes), std::move(views)});
}

}  // namespace

// ---- A file ------------------------------------------------------------------------------------------------------------

std::uint64_t StoredFile::missing() const {
  std::uint64_t bytes = 0;
  for (std::uint32_t i = 0; i < hashes.size(); ++i) bytes += is_none(hashes[i]) ? offer.chunk_bytes(i) : 0;
  return bytes;
}

bool StoredFile::holds(std::uint32_t number) const {
  if (is_none(hashes[number])) return false;
  const std::size_t size = offer.chunk_bytes(number);
  const auto bytes = std::make_unique_for_overwrite<std::uint8_t[]>(size);
  const std::span<std::uint8_t> chunk(bytes.get(), size);
  return file.read(v_at + std::uint64_t{number} * offer.chunk, chunk) && chunk_hash(chunk) == hashes[number];
}

std::vector<std::uint32_t> StoredFile::damaged(Executor& executor) const {
  std::vector<std::uint8_t> held(hashes.size());
  executor.parallel(held.size(), [&](std::size_t i) { held[i] = holds(static_cast<std::uint32_t>(i)) ? 1 : 0; });
  std::vector<std::uint32_t> numbers;
  for (std::uint32_t i = 0; i < held.size(); ++i) {
    if (held[i] == 0) numbers.push_back(i);
  }
  return numbers;
}

bool StoredFile::whole() const { return file.size() == size() && digest == model_digest(offer, hashes); }

StoredFile StoredFile::begin(File file, const ModelOffer& offer, const std::string& owner) {
  Writer head;
  head.number("magic", k_magic);
  head.number("version", k_version);
  const Bytes payload = written(offer, owner);
  head.number("length", static_cast<std::uint32_t>(payload.size()));
  Bytes bytes = head.take();
  bytes.insert(bytes.end(), payload.begin(), payload.end());
  const Digest hash_of_head = hash(domain::stored_head, bytes);
  bytes.insert(bytes.end(), hash_of_head.begin(), hash_of_head.end());
  file.resize(0);
  file.write(0, bytes);
  return placed(std::move(file), offer, owner);
}

StoredFile StoredFile::open(const std::filesystem::path& path, File::Mode mode) {
  return read(File(path, mode), path.stem());
}

StoredFile StoredFile::read(File file, const std::string& id) {
  const auto refuse = [&](const std::string& why) { throw Error(Code::file, file.name(), why); };
  Bytes head(k_before_offer);
  std::uint64_t magic = 0;
  std::uint32_t version = 0, length = 0;
  if (!file.read(0, head)) refuse(fmt::format("{} bytes, expected a head", file.size()));
  std::memcpy(&magic, &head[0], 8);
  std::memcpy(&version, &head[8], 4);
  std::memcpy(&length, &head[12], 4);
  if (magic != k_magic) refuse("magic: this is no file of a helper's store");
  if (version != k_version) refuse(fmt::format("version: {}, expected {}", version, k_version));
  if (length > k_most_head) refuse(fmt::format("length: {} bytes of head, expected at most {}", length, k_most_head));
  head.resize(k_before_offer + length);
  Digest hash_of_head;
  if (!file.read(0, head) || !file.read(head.size(), hash_of_head))
    refuse(fmt::format("{} bytes, it ends within its head", file.size()));
  if (hash(domain::stored_head, head) != hash_of_head) refuse("head: it is damaged, its hash is another");
  ModelOffer offer;
  std::string owner;
  Reader reader("head", std::span(head).subspan(k_before_offer));
  try {
    offer.visit(reader);
    reader.text("owner", owner, 64);
    reader.finish();
    check_offer(offer);
  } catch (const Error& error) {
    refuse(error.what());
  }
  if (offer.model_id != id) refuse(fmt::format("model_id: {:.8}, expected that of the file's name", offer.model_id));
  StoredFile stored = placed(std::move(file), std::move(offer), owner);
  // A table that ends early, or names what is not there, is found when chunks are checked.
  Bytes table(sizeof(Digest) * (stored.hashes.size() + 1));
  if (stored.file.read(stored.table_at, table)) {
    std::memcpy(stored.digest.data(), table.data(), sizeof(Digest));
    std::memcpy(stored.hashes.data(), table.data() + sizeof(Digest), table.size() - sizeof(Digest));
  }
  return stored;
}

void StoredModel::touch() const { futimens(stored.file.descriptor(), nullptr); }

// ---- The folder --------------------------------------------------------------------------------------------------------

ModelStore::ModelStore(std::filesystem::path folder, Executor& executor,
                       std::function<void(const std::string&)> on_event, bool shared)
    : folder_(std::move(folder)), executor_(executor), on_event_(std::move(on_event)), shared_(shared) {
  if (folder_.empty()) return;
  std::error_code failed;
  make_private_folder(folder_);
  lock_.emplace(folder_ / "store", File::Mode::create);
  if (shared_ ? !lock_->lock_shared() : !lock_->lock()) {
    throw Error(
        Code::file, folder_.string(),
        shared_ ? "a helper runs on this store that is in no pool (--pool)" : "another helper runs on this store");
  }
  const std::string_view marker(k_marker);
  if (lock_->size() == 0) {
    lock_->write(0, {reinterpret_cast<const std::uint8_t*>(marker.data()), marker.size()});
    lock_->sync();
    sync_folder(folder_);
  }
  std::string found(std::min<std::uint64_t>(lock_->size(), 80), ' ');
  lock_->read(0, {reinterpret_cast<std::uint8_t*>(found.data()), found.size()});
  if (found != marker) {
    throw Error(Code::file, (folder_ / "store").string(),
                fmt::format("another version: expected \"{}\"", marker.substr(0, marker.size() - 1)));
  }
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder_, failed)) paths.push_back(entry.path());
  if (failed) throw Error(Code::file, folder_.string(), fmt::format("cannot be read: {}", failed.message()));
  std::sort(paths.begin(), paths.end());
  for (const std::filesystem::path& path : paths) {
    if (path.extension() == k_model) check(path);
  }
}

// A damaged model becomes one that lacks chunks. One whose head is damaged is left alone: a new offer takes its place.
void ModelStore::check(const std::filesystem::path& path) {
  const Clock::time_point begin = Clock::now();
  try {
    StoredFile stored = StoredFile::open(path, File::Mode::write);
    const std::vector<std::uint32_t> damaged = stored.damaged(executor_);
    const std::string id = stored.offer.model_id;
    if (damaged.empty() && stored.whole()) {
      on_event_(
          fmt::format("model {:.8}: {} checked in {:.1f} s", id, megabytes(stored.offer.bytes), seconds_since(begin)));
      const Lock lock(mutex_);
      models_[id] = mapped(std::move(stored));
      return;
    }
    if (!stored.file.lock())
      throw Error(Code::file, path.string(), "is damaged, and another helper of the pool has it");
    if (stored.file.size() > stored.size()) stored.file.resize(stored.size());
    rename_file(path, path_of(id, k_part));
    on_event_(!damaged.empty()
                  ? fmt::format("{} is damaged: {} of {} chunks, the first of them {}; it is not used until its "
                                "provider has sent them again",
                                path.string(), damaged.size(), stored.hashes.size(), damaged[0])
                  : fmt::format("{} is damaged: its digest or size; it is not used until its provider has confirmed it",
                                path.string()));
  } catch (const Error& error) {
    on_event_(fmt::format("{} is not used: {}", path.string(), error.what()));
  }
}

std::uint64_t ModelStore::room() const {
  struct statvfs status {};
  if (statvfs(folder_.c_str(), &status) != 0)
    throw Error(Code::resource, "store", "the helper cannot tell how much of its disk is free");
  return std::uint64_t{status.f_bavail} * status.f_frsize;
}

std::shared_ptr<const StoredModel> ModelStore::find(const std::string& id) {
  const Lock lock(mutex_);
  const auto found = models_.find(id);
  if (folder_.empty()) return found == models_.end() ? nullptr : found->second;
  const std::filesystem::path path = path_of(id, k_model);
  if (found != models_.end()) {
    if (found->second->stored.file.is_at(path)) return found->second;
    models_.erase(found);
  }
  // Another helper of the pool has checked each chunk as it came.
  std::error_code ignored;
  if (!shared_ || !is_id(id) || !std::filesystem::exists(path, ignored)) return nullptr;
  try {
    StoredFile stored = StoredFile::open(path, File::Mode::write);
    if (!stored.whole()) return nullptr;
    on_event_(fmt::format("model {:.8}: stored by another helper of the pool", id));
    return models_[id] = mapped(std::move(stored));
  } catch (const Error& error) {
    on_event_(fmt::format("{} is not used: {}", path.string(), error.what()));
    return nullptr;
  }
}

// ---- A model on its way in ---------------------------------------------------------------------------------------------

struct ModelStore::Arrival::Part {
  Mutex mutex;
  std::optional<StoredFile> stored GUARDED_BY(mutex);
  std::uint64_t turn GUARDED_BY(mutex) = 0;  // of the offer that may write
  void check(std::uint64_t of_arrival) const REQUIRES(mutex) {
    if (of_arrival != turn)
      throw Error(Code::closed, "ModelOffer.model_id", "the same model was offered over another connection");
  }
};

std::unique_ptr<ModelStore::Arrival> ModelStore::begin(const ModelOffer& offer, const std::string& owner) {
  check_offer(offer);
  const auto check_same = [&](const StoredFile& stored) {
    const ModelOffer& here = stored.offer;
    if (stored.owner != owner) {
      throw Error(Code::mismatch, "ModelOffer.model_id",
                  fmt::format("model {:.8} was registered by a provider of another key; remove it at the helper first",
                              offer.model_id));
    }
    if (here.plan.hash() != offer.plan.hash() || here.chunk != offer.chunk || here.bytes != offer.bytes ||
        here.packings != offer.packings) {
      throw Error(Code::mismatch, "ModelOffer",
                  fmt::format("model {:.8} is here with plan {:.8}, {} bytes in chunks of {}, offered with plan {:.8}, "
                              "{} bytes in chunks of {}",
                              offer.model_id, here.plan.hash(), here.bytes, here.chunk, offer.plan.hash(), offer.bytes,
                              offer.chunk));
    }
  };
  auto arrival = std::unique_ptr<Arrival>(new Arrival(*this, offer));
  {
    const Lock lock(mutex_);
    auto& part = parts_[offer.model_id];
    if (!part) part = std::make_shared<Arrival::Part>();
    arrival->part_ = part;
  }
  Arrival::Part& part = *arrival->part_;
  const Lock lock(part.mutex);
  arrival->turn_ = ++part.turn;
  part.stored.reset();
  if (const auto complete = find(offer.model_id)) {
    check_same(complete->stored);
    on_event_(fmt::format("model {:.8}: offered again, all of it is here", offer.model_id));
    arrival->complete_ = complete;
    return arrival;
  }
  if (folder_.empty()) {
    part.stored = StoredFile::begin(File::in_memory(offer.model_id), offer, owner);
    return arrival;
  }
  std::optional<File> fresh;
  if (const auto complete = lock_part(offer.model_id, part.stored, fresh)) {
    check_same(complete->stored);
    arrival->complete_ = complete;
    return arrival;
  }
  if (part.stored) check_same(*part.stored);
  const std::uint64_t needed = part.stored ? part.stored->missing() : offer.bytes, free = room();
  on_event_(fmt::format("model {:.8}: {}, takes {} more of {} that are free", offer.model_id, megabytes(offer.bytes),
                        megabytes(needed), megabytes(free)));
  if (needed > free) {
    if (fresh) std::filesystem::remove(path_of(offer.model_id, k_part));
    throw Error(Code::resource, Reason::disk_full, "ModelOffer.bytes",
                fmt::format("the model takes {} bytes of the helper's disk, {} are free", needed, free));
  }
  if (!part.stored) {
    part.stored = StoredFile::begin(std::move(*fresh), offer, owner);
    sync_folder(folder_);
  }
  return arrival;
}

std::shared_ptr<const StoredModel> ModelStore::lock_part(const std::string& id, std::optional<StoredFile>& part,
                                                         std::optional<File>& fresh) {
  const std::filesystem::path path = path_of(id, k_part);
  for (const Clock::time_point until = Clock::now() + k_part_patience;; std::this_thread::sleep_for(k_part_rest)) {
    if (auto complete = find(id)) return complete;
    File file(path, File::Mode::create);
    if (!file.lock()) {
      if (Clock::now() < until) continue;
      throw Error(Code::resource, Reason::busy, "ModelOffer.model_id",
                  "another helper of the pool receives this model");
    }
    if (!file.is_at(path)) continue;  // completed meanwhile
    if (file.size() == 0) {
      fresh.emplace(std::move(file));
      return nullptr;
    }
    try {
      part = StoredFile::read(std::move(file), id);
      return nullptr;
    } catch (const Error& error) {
      on_event_(fmt::format("{} begins anew: {}", path.string(), error.what()));
    }
    std::filesystem::remove(path);
  }
}

ModelStore::Arrival::~Arrival() {
  if (writing_.valid()) writing_.wait();
  const Lock lock(part_->mutex);
  if (part_->turn == turn_) part_->stored.reset();
}

std::vector<Digest> ModelStore::Arrival::next_held() {
  const auto next = [&](const std::vector<Digest>& all) {
    const auto count = static_cast<std::uint32_t>(std::min<std::size_t>(ModelHeld::k_step, all.size() - named_));
    const auto first = all.begin() + named_;
    named_ += count;
    return std::vector<Digest>(first, first + count);
  };
  if (complete_) return next(complete_->stored.hashes);
  const Lock lock(part_->mutex);
  part_->check(turn_);
  StoredFile& stored = *part_->stored;
  const std::uint32_t first = named_;
  store_.executor_.parallel(std::min<std::size_t>(ModelHeld::k_step, stored.hashes.size() - first), [&](std::size_t i) {
    const auto number = first + static_cast<std::uint32_t>(i);
    if (!stored.holds(number)) stored.hashes[number] = {};
  });
  return next(stored.hashes);
}

void ModelStore::Arrival::put(ModelChunk chunk) {
  const ModelOffer& offer = offer_;
  const auto refuse = [](const char* field, const std::string& why) {
    throw Error(Code::malformed, std::string("ModelChunk.") + field, why);
  };
  if (chunk.number < next_ || chunk.number >= offer.chunks()) {
    refuse("number", fmt::format("{}, expected at least {} and less than {}", chunk.number, next_, offer.chunks()));
  }
  if (chunk.bytes.size() != offer.chunk_bytes(chunk.number)) {
    refuse("bytes", fmt::format("{} of them in chunk {}, expected {}", chunk.bytes.size(), chunk.number,
                                offer.chunk_bytes(chunk.number)));
  }
  if (chunk_hash(chunk.bytes) != chunk.hash)
    refuse("hash", fmt::format("is not that of the bytes of chunk {}", chunk.number));
  next_ = chunk.number + 1;
  if (complete_) {
    if (complete_->stored.hashes[chunk.number] == chunk.hash) return;
    throw Error(Code::mismatch, "ModelChunk.hash",
                fmt::format("chunk {} of model {:.8} is here with another", chunk.number, offer.model_id));
  }
  await_written();
  {
    const Lock lock(part_->mutex);
    part_->check(turn_);  // refused with this chunk, not with the next
  }
  writing_ = std::async(std::launch::async, [this, chunk = std::move(chunk)] { write(chunk); });
}

void ModelStore::Arrival::await_written() {
  if (writing_.valid()) writing_.get();
}

void ModelStore::Arrival::write(const ModelChunk& chunk) {
  const Lock lock(part_->mutex);
  part_->check(turn_);
  StoredFile& stored = *part_->stored;
  const std::uint64_t at = stored.v_at + std::uint64_t{chunk.number} * offer_.chunk;
  stored.file.write(at, chunk.bytes);
  stored.file.start_sync(at, chunk.bytes.size());
  stored.file.write(stored.table_at + sizeof(Digest) * (std::uint64_t{chunk.number} + 1), chunk.hash);
  stored.hashes[chunk.number] = chunk.hash;
}

void ModelStore::Arrival::finish(const ModelEnd& end) {
  await_written();
  const Lock lock(part_->mutex);
  part_->check(turn_);
  const StoredFile& stored = complete_ ? complete_->stored : *part_->stored;
  const auto missing = std::find_if(stored.hashes.begin(), stored.hashes.end(), is_none) - stored.hashes.begin();
  if (missing != std::ssize(stored.hashes)) {
    throw Error(Code::malformed, "ModelEnd", fmt::format("chunk {} of {} is missing", missing, stored.hashes.size()));
  }
  const Digest digest = model_digest(stored.offer, stored.hashes);
  if (digest != end.digest) {
    throw Error(Code::mismatch, "ModelEnd.digest",
                fmt::format("{:.8} here, {:.8} at the peer", hex(digest), hex(end.digest)));
  }
  if (complete_) return;
  const std::string id = stored.offer.model_id;
  stored.file.write(stored.table_at, digest);
  stored.file.resize(stored.size());
  part_->stored->digest = digest;
  auto model = mapped(std::move(*part_->stored));
  part_->stored.reset();
  if (!store_.folder_.empty()) {
    model->stored.file.sync();
    rename_file(store_.path_of(id, k_part), store_.path_of(id, k_model));
  }
  const Lock both(store_.mutex_);
  store_.models_[id] = std::move(model);
  store_.on_event_(fmt::format("model {:.8} stored", id));
}

std::vector<StoreEntry> list_store(const std::filesystem::path& folder) {
  std::vector<StoreEntry> entries;
  std::error_code failed;
  for (const auto& file : std::filesystem::directory_iterator(folder, failed)) {
    const std::filesystem::path& path = file.path();
    struct stat status {};
    if ((path.extension() != k_model && path.extension() != k_part) || stat(path.c_str(), &status) != 0) continue;
    StoreEntry entry{path,
                     path.stem(),
                     {},
                     path.extension() == k_model,
                     static_cast<std::uint64_t>(status.st_blocks) * 512,
                     status.st_mtime};
    try {
      const StoredFile stored = StoredFile::open(path, File::Mode::read);
      entry.name = fmt::format("{} {}", stored.offer.plan.config.architecture, stored.offer.plan.config.name);
    } catch (const Error& error) {
      entry.name = fmt::format("damaged: {}", error.what());
    }
    entries.push_back(std::move(entry));
  }
  if (failed) throw Error(Code::file, folder.string(), fmt::format("cannot be read: {}", failed.message()));
  std::sort(entries.begin(), entries.end(), [](const StoreEntry& a, const StoreEntry& b) { return a.used > b.used; });
  return entries;
}

}  // namespace permllm
