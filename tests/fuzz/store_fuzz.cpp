// Files of a helper's store and records of a provider's models. The first byte of an input says which of the two, and whether the hash
// in its head is made to fit: changes would hardly pass it.
#include <algorithm>
#include <cstring>

#include "fuzz/scratch.h"
#include "fuzz/target.h"
#include "helper/model_store.h"
#include "provider/model_record.h"
#include "support/tiny_plan.h"

namespace permllm::test {
namespace {

const std::string k_id(64, 'a');
constexpr std::size_t k_before_offer = 16,
                      k_record_hashed = 23 + 64 + 32;  // helper/model_store.cpp, provider/model_record.cpp

const ScratchFolder& scratch() {
  static const ScratchFolder folder;
  return folder;
}

void put_hash(Bytes& bytes, const char* domain, std::size_t hashed) {
  if (bytes.size() < hashed + sizeof(Digest)) return;
  const Digest digest = hash(domain, std::span(bytes).first(hashed));
  std::copy(digest.begin(), digest.end(), bytes.begin() + static_cast<std::ptrdiff_t>(hashed));
}

void read_store(Bytes bytes, bool fit) {
  std::uint32_t length = 0;
  if (bytes.size() >= k_before_offer) std::memcpy(&length, &bytes[12], 4);
  if (fit) put_hash(bytes, domain::stored_head, k_before_offer + std::size_t{length});
  const StoredFile stored = StoredFile::open(scratch().file(k_id + ".part", bytes), File::Mode::read);
  PERMLLM_ASSERT(stored.offer.model_id == k_id && stored.missing() <= stored.offer.bytes);
  if (stored.offer.chunk > 1 << 16) return;
  for (std::uint32_t i = 0; i < std::min<std::size_t>(4, stored.hashes.size()); ++i) stored.holds(i);
}

void read_record(Bytes bytes, bool fit) {
  if (fit) put_hash(bytes, domain::model_record, k_record_hashed);
  const Digest digest{};
  scratch().file("models/" + hex(digest), bytes);
  const ModelRecord record(scratch().path(), digest, 3, k_id, Seed{});
  PERMLLM_ASSERT(record.sent().size() == 3 && record.model_id().size() == 64);
}

}  // namespace

std::vector<std::vector<std::uint8_t>> seeds() {
  std::filesystem::create_directory(scratch().path() / "models");
  const auto bytes_of = [](const std::filesystem::path& path) {
    const File file(path, File::Mode::read);
    Bytes bytes(std::min<std::uint64_t>(file.size(), 2000));
    file.read(0, bytes);
    return bytes;
  };
  const ScratchFolder folder;
  StoredFile::begin(File(folder.path() / (k_id + ".part"), File::Mode::create),
                    {k_id, tiny_plan(), masked_model_bytes(tiny_plan()), 1024}, "owner");
  ModelRecord record(folder.path(), Digest{}, 3, k_id, Seed{});
  record.set_sent(1, Digest{7});
  std::vector<Bytes> all{bytes_of(folder.path() / (k_id + ".part")),
                         bytes_of(folder.path() / "models" / hex(Digest{}))};
  for (std::size_t i = 0; i < 2; ++i) all.push_back(all[i]);
  for (std::size_t i = 0; i < 4; ++i) all[i].insert(all[i].begin(), static_cast<std::uint8_t>(i));
  return all;
}

}  // namespace permllm::test

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace permllm;
  if (size == 0) return 0;
  static const bool made = std::filesystem::create_directories(test::scratch().path() / "models") || true;
  const Bytes bytes(data + made, data + size);
  try {
    data[0] % 2 == 0 ? test::read_store(bytes, data[0] / 2 % 2 == 1) : test::read_record(bytes, data[0] / 2 % 2 == 1);
  } catch (const Error&) {
  }
  return 0;
}
