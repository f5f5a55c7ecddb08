#include "user/product_store.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/file.h"
#include "base/small_file.h"
#include "session/fields.h"

namespace permllm {
namespace {

constexpr std::uint32_t k_version = 1;
constexpr const char *k_keys = ".keys", *k_wrong = ".wrong";

struct Kept {
  std::uint32_t version = k_version;
  Digest public_part = {};
  Seed seed;
  std::vector<Word> words;  // of each matrix: the longest row, s W
  Digest hash = {};         // of all before it
  template <class Io>
  void visit_fields(Io& io) {
    io.number("version", version);
    permllm::visit(io, public_part);
    permllm::visit(io, seed);
    io.list("words", words, std::size_t{1} << 28, [](auto& out, Word& word) { out.number("word", word); });
  }
};

Digest hash_of(Kept& kept) {
  Writer writer;
  kept.visit_fields(writer);
  return hash(domain::product_keys, writer.take());
}

std::string bytes_of(Kept& kept) {
  Writer writer;
  kept.visit_fields(writer);
  visit(writer, kept.hash);
  const Bytes bytes = writer.take();
  return {bytes.begin(), bytes.end()};
}

// None: damaged, or another version's.
std::optional<Kept> kept_of(const std::string& text) {
  const Bytes bytes(text.begin(), text.end());
  Reader reader("product keys", bytes);
  Kept kept;
  try {
    kept.visit_fields(reader);
    visit(reader, kept.hash);
    reader.finish();
  } catch (const Error&) {
    return std::nullopt;
  }
  if (kept.version != k_version || kept.hash != hash_of(kept)) return std::nullopt;
  return kept;
}

}  // namespace

std::string ProductStore::Of::name() const {
  const std::string both = model_id + "/" + plan_hash;
  return hash_hex(domain::product_keys, std::span(reinterpret_cast<const std::uint8_t*>(both.data()), both.size()));
}

std::string ProductStore::read(const Of& of) const {
  const std::filesystem::path path = path_of(of, k_keys);
  if (!is_there(path)) return "";
  const File file(path, File::Mode::read);
  Bytes bytes(file.size());
  return file.read(0, bytes) ? std::string(bytes.begin(), bytes.end()) : "";
}

std::filesystem::path ProductStore::note() const {
  const std::span provider(reinterpret_cast<const std::uint8_t*>(provider_.data()), provider_.size());
  return folder_ / (hash_hex(domain::product_keys, provider) + k_wrong);
}

void ProductStore::check_trust() {
  const auto refuse = [](const std::string& why) { throw Error(Code::mismatch, Reason::wrong_product, "model", why); };
  if (!refused_.empty()) refuse(refused_);
  if (folder_.empty() || !is_there(note())) return;
  std::string why = read_small_file(note());
  why.resize(std::min(why.find('\n'), why.size()));
  refuse(fmt::format("a product was wrong before: {}; remove {} to go on with this provider, with a new secret", why,
                     note().string()));
}

void ProductStore::require_trust() {
  const Lock lock(mutex_);
  check_trust();
}

std::optional<ProductKeys> ProductStore::find(const Of& of, const Plan& plan, const Digest& public_part) {
  const Lock lock(mutex_);
  check_trust();
  const auto in_memory = kept_.find(of.name());
  const std::optional<Kept> kept = kept_of(!folder_.empty()           ? read(of)
                                           : in_memory == kept_.end() ? ""
                                                                      : in_memory->second);
  if (!kept || kept->words.size() * sizeof(Word) != product_key_bytes(plan)) return std::nullopt;
  if (kept->public_part != public_part) {
    throw Error(Code::mismatch, Reason::wrong_product, "model",
                "the provider's embedding table or its vectors are other than when this user first asked it under this "
                "model and plan");
  }
  auto next = kept->words.begin();
  return read_product_keys(plan, kept->seed, [&](ProductKeyWords expected) {
    const auto end = next + static_cast<std::ptrdiff_t>(expected.words.count);
    expected.words.words.assign(next, end);
    next = end;
    return expected;
  });
}

void ProductStore::keep(const Of& of, const Digest& public_part, const ProductKeys& keys) {
  Kept kept;
  kept.public_part = public_part;
  kept.seed = keys.seed;
  for (const ProductKey& key : keys.matrices) {
    kept.words.push_back(key.longest_row);
    kept.words.insert(kept.words.end(), key.combined.begin(), key.combined.end());
  }
  kept.hash = hash_of(kept);
  const Lock lock(mutex_);
  if (folder_.empty()) {
    kept_[of.name()] = bytes_of(kept);
  } else {
    make_private_folder(folder_);
    replace_file(path_of(of, k_keys), bytes_of(kept), 0600);
  }
}

void ProductStore::refuse(const Of& of, const std::string& why) {
  const Lock lock(mutex_);
  refused_ = why;
  kept_.erase(of.name());
  if (folder_.empty()) return;
  std::error_code none;  // it is of no more use, and it does not matter whether it stays
  std::filesystem::remove(path_of(of, k_keys), none);
  make_private_folder(folder_);
  replace_file(note(), why + "\n", 0600);
  File(note(), File::Mode::write).sync();
  sync_folder(folder_);
  refused_.clear();  // from here on the file says so, which a person may remove
}

}  // namespace permllm
