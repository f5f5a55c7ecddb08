// Files of a helper's store, records of a provider's models, and public weights as a provider packs them. The first byte of an input says which
// of the three, and whether the hash in a head is made to fit: changes would hardly pass it.
#include <algorithm>
#include <array>
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

// A helper's products with whatever came: the input again and again, behind the packing of each matrix.
void read_public(const Bytes& bytes) {
  static const Plan plan = tiny_plan(Profile::open);
  static Executor executor(1);
  const std::size_t matrices = packings_of(tiny_weights(), plan).size();
  if (bytes.size() <= matrices) return;
  const Packings packings(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(matrices));
  check_packings(packings, plan, "packings");
  LargeBytes all(masked_model_bytes(plan, packings));
  for (std::size_t i = 0; i < all.size(); ++i) all.data()[i] = bytes[matrices + i % (bytes.size() - matrices)];
  const IntWeights weights = view_public_model(plan, packings, all);
  for_each_matrix(weights, plan, [&](std::uint32_t, const LinearShape& s, const IntMatrix& w) {
    const Words x(2 * s.cols, 0x8000800080008000u);
    Words y(2 * s.rows);
    product(w, s.out.ring, x, y, executor);
    for (const Word word : y) PERMLLM_ASSERT(word <= s.out.ring.mask());
  });
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
  const Plan open = tiny_plan(Profile::open);
  const Packings packings = packings_of(tiny_weights(), open);
  StoredFile::begin(File(folder.path() / (k_id + ".part"), File::Mode::create),
                    {k_id, open, masked_model_bytes(open, packings), 1024, packings}, "owner");
  all.push_back(bytes_of(folder.path() / (k_id + ".part")));
  all.push_back(packings);
  for (std::uint8_t i = 0; i < 100; ++i) all.back().push_back(static_cast<std::uint8_t>(i % (k_most_shift + 1)));
  const std::array<std::uint8_t, 6> kinds{0, 1, 3, 4, 3, 2};  // which of the three, and 3 more with a hash that fits
  for (std::size_t i = 0; i < all.size(); ++i) all[i].insert(all[i].begin(), kinds[i]);
  return all;
}

}  // namespace permllm::test

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace permllm;
  if (size == 0) return 0;
  static const bool made = std::filesystem::create_directories(test::scratch().path() / "models") || true;
  const Bytes bytes(data + made, data + size);
  try {
    const bool fit = data[0] / 3 % 2 == 1;
    if (data[0] % 3 == 0) test::read_store(bytes, fit);
    if (data[0] % 3 == 1) test::read_record(bytes, fit);
    if (data[0] % 3 == 2) test::read_public(bytes);
  } catch (const Error&) {
  }
  return 0;
}
