#include "provider/model_record.h"

#include <fmt/format.h>
#include <openssl/crypto.h>

#include <algorithm>
#include <cstring>

#include "permllm/error.h"
#include "rand/domains.h"

namespace permllm {
namespace {

// The head: this text, id, seed, and their hash. Hashes of chunks follow.
constexpr std::string_view k_magic = "permllm model record 1\n";
constexpr std::size_t k_id = 64, k_hashed = k_magic.size() + k_id + Seed::k_bytes, k_head = k_hashed + sizeof(Digest);

// Secret bytes, zeroed when dropped.
struct Head {
  std::uint8_t bytes[k_head];
  ~Head() { OPENSSL_cleanse(bytes, sizeof bytes); }
};

File opened(const std::filesystem::path& path, const std::string& id, const Seed& seed) {
  if (is_there(path)) return {path, File::Mode::write};
  PERMLLM_ASSERT(id.size() == k_id);
  Head head;
  std::memcpy(head.bytes, k_magic.data(), k_magic.size());
  std::memcpy(head.bytes + k_magic.size(), id.data(), k_id);
  std::memcpy(head.bytes + k_magic.size() + k_id, seed.bytes().data(), Seed::k_bytes);
  const Digest digest = hash(domain::model_record, std::span(head.bytes).first(k_hashed));
  std::memcpy(head.bytes + k_hashed, digest.data(), digest.size());
  const std::filesystem::path fresh = path.string() + ".new";
  File file(fresh, File::Mode::create);
  file.resize(0);
  file.write(0, head.bytes);
  file.sync();
  rename_file(fresh, path);
  return file;
}

// Errors: file, naming what is wrong with it and the remedy.
void read_head(const File& file, const std::filesystem::path& path, Head& head) {
  const auto refuse = [&](const std::string& why) { throw Error(Code::file, path.string(), why); };
  const auto others = std::filesystem::status(path).permissions() &
                      (std::filesystem::perms::group_all | std::filesystem::perms::others_all);
  if (others != std::filesystem::perms::none) {
    refuse(
        "others may read or write it, and it holds a secret: expected mode 0600 (remove it, and the model is "
        "registered afresh)");
  }
  if (!file.read(0, head.bytes) || std::memcmp(head.bytes, k_magic.data(), k_magic.size()) != 0) {
    refuse("is no record of a model of this version (remove it, and the model is registered afresh)");
  }
  const Digest digest = hash(domain::model_record, std::span(head.bytes).first(k_hashed));
  if (std::memcmp(head.bytes + k_hashed, digest.data(), digest.size()) != 0) {
    refuse("is damaged, its hash is another (remove it, and the model is registered afresh)");
  }
}

std::string id_of(const Head& head) { return {reinterpret_cast<const char*>(head.bytes) + k_magic.size(), k_id}; }

std::filesystem::path place_of(const std::filesystem::path& state, const Digest& digest) {
  const std::filesystem::path folder = state / "models";
  make_private_folder(state);
  make_private_folder(folder);
  return folder / hex(digest);
}

}  // namespace

ModelRecord::ModelRecord(const std::filesystem::path& state, const Digest& digest, std::uint32_t chunks,
                         const std::string& fresh_id, const Seed& fresh_seed)
    : file_(opened(place_of(state, digest), fresh_id, fresh_seed)), sent_(chunks) {
  read(place_of(state, digest));
}

void ModelRecord::read(const std::filesystem::path& path) {
  Head head;
  read_head(file_, path, head);
  model_id_ = id_of(head);
  mask_seed_ = Seed(std::span<const std::uint8_t, Seed::k_bytes>(head.bytes + k_magic.size() + k_id, Seed::k_bytes));
  for (std::size_t i = 0; i < sent_.size(); ++i) {
    if (!file_.read(k_head + i * sizeof(Digest), sent_[i])) sent_[i] = {};
  }
}

void ModelRecord::set_sent(std::uint32_t chunk, const Digest& hash) {
  sent_[chunk] = hash;
  file_.write(k_head + std::uint64_t{chunk} * sizeof hash, hash);
}

std::vector<RecordEntry> list_records(const std::filesystem::path& state) {
  std::vector<std::pair<std::filesystem::file_time_type, RecordEntry>> dated;
  std::error_code failed;
  for (const auto& file : std::filesystem::directory_iterator(state / "models", failed)) {
    if (file.path().extension() == ".new") continue;  // a start that was cut
    RecordEntry entry{file.path(), {}, {}};
    try {
      Head head;
      read_head(File(file.path(), File::Mode::read), file.path(), head);
      entry.model_id = id_of(head);
    } catch (const Error& error) {
      entry.trouble = error.what();
    }
    std::error_code none;
    dated.emplace_back(file.last_write_time(none), std::move(entry));
  }
  if (failed && failed != std::errc::no_such_file_or_directory) {
    throw Error(Code::file, (state / "models").string(), fmt::format("cannot be read: {}", failed.message()));
  }
  std::sort(dated.begin(), dated.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  std::vector<RecordEntry> entries;
  entries.reserve(dated.size());
  for (auto& [time, entry] : dated) entries.push_back(std::move(entry));
  return entries;
}

}  // namespace permllm
