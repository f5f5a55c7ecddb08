// Keys, queries and replies of encrypted retrieval, for a table of one block: each is read, and what was read is used.
//
// They are long, inputs are short. The first byte of an input says which of the three it is, the second whether the last byte is
// repeated up to the length of such an object.
#include <algorithm>

#include "fuzz/target.h"
#include "he/answer.h"
#include "permllm/error.h"

namespace permllm::test {
namespace {

const he::Parameters k_parameters = he::parameters_of(300);
constexpr std::size_t k_heads[] = {8, 48, 8};  // bytes before the words

template <class Object>
Object read(std::span<const std::uint8_t> bytes, Object object) {
  Reader reader("Object", bytes);
  object.visit(reader);
  reader.finish();
  return object;
}

void use(int kind, std::span<const std::uint8_t> bytes) {
  if (kind == 0) he::PreparedKey(read(bytes, he::PublicKey{}), "");
  if (kind == 1) he::PreparedQuery(read(bytes, he::Query{k_parameters, {}, {}}));
  if (kind == 2) he::decrypt(he::SecretKey(Seed{}), k_parameters, read(bytes, he::Reply{}));
}

template <class Object>
Bytes head_of(int kind, Object object) {
  Writer writer;
  object.visit(writer);
  Bytes bytes = writer.take();
  bytes.resize(k_heads[kind] + 100);
  bytes.insert(bytes.begin(), {static_cast<std::uint8_t>(kind), 1});
  return bytes;
}

}  // namespace

std::vector<std::vector<std::uint8_t>> seeds() {
  const he::SecretKey secret{Seed{}};
  const he::PublicKey key = he::public_key(secret, "", Seed{});
  const he::Query query = he::encrypt(secret, k_parameters, 7, Seed{});
  return {head_of(0, key), head_of(1, query), head_of(2, he::Reply{Words(he::k_degree + 1)})};
}

}  // namespace permllm::test

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace permllm;
  if (size < 3) return 0;
  const int kind = data[0] % 3;
  std::vector<std::uint8_t> bytes(data + 2, data + size);
  const std::size_t sizes[] = {he::key_bytes(), he::query_bytes(test::k_parameters), he::reply_bytes()};
  if (data[1] % 2 == 1 && bytes.size() < sizes[kind]) bytes.resize(sizes[kind], bytes.back());
  try {
    test::use(kind, bytes);
  } catch (const Error&) {
  }
  return 0;
}
