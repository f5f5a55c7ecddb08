#include "he/wire.h"

#include <gtest/gtest.h>

#include <functional>

#include "he/support.h"
#include "permllm/error.h"

namespace permllm::he {
namespace {

// Keys, query and reply of one small table.
struct Objects {
  Parameters p = parameters_of(300);
  SecretKey secret{seed_of(1)};
  PublicKey key = public_key(secret, "", seed_of(2));
  Query query = encrypt(secret, p, 5, seed_of(3));
  Reply reply = answer(PreparedKey(key, ""), PreparedQuery(query), random_table(p, 4), 2, seed_of(5));
};

template <class Object>
Bytes written(Object object) {
  Writer writer;
  object.visit(writer);
  return writer.take();
}
template <class Object>
Object read(const char* name, const Bytes& bytes, Object object) {
  Reader reader(name, bytes);
  object.visit(reader);
  reader.finish();
  return object;
}

// `object` states what is expected; `change` spoils its bytes.
template <class Object>
void refused(const char* name, const Object& object, const Object& expected, const std::string& field,
             const std::function<void(Bytes&)>& change) {
  Bytes bytes = written(object);
  change(bytes);
  try {
    read(name, bytes, expected);
    ADD_FAILURE() << "a spoilt " << field << " was read";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::malformed);
    EXPECT_EQ(error.field(), field) << error.what();
  }
}

auto byte_set(std::size_t at, int value) {
  return [=](Bytes& bytes) { bytes.at(at) = static_cast<std::uint8_t>(value); };
}
auto cut_to(std::size_t size) {
  return [=](Bytes& bytes) { bytes.resize(size); };
}
// Sets word i of so many bits, behind `begin` bytes.
auto word_set(std::size_t begin, std::size_t i, std::size_t bits, Word value) {
  return [=](Bytes& bytes) {
    for (std::size_t bit = 0; bit < bits; ++bit) {
      const std::size_t at = i * bits + bit;
      auto& byte = bytes.at(begin + at / 8);
      byte = static_cast<std::uint8_t>((byte & ~(1u << at % 8)) | (value >> bit & 1) << at % 8);
    }
  };
}

TEST(Wire, objects_come_back_and_take_the_bytes_stated) {
  const Objects o;
  EXPECT_EQ(written(o.key).size(), key_bytes());
  EXPECT_EQ(read("PublicKey", written(o.key), PublicKey{}).b, o.key.b);
  EXPECT_EQ(written(o.query).size(), query_bytes(o.p));
  const Query query = read("Query", written(o.query), Query{o.p, {}, {}});
  EXPECT_EQ(query.seed, o.query.seed);
  EXPECT_EQ(query.c0, o.query.c0);
  EXPECT_EQ(written(o.reply).size(), reply_bytes());
  EXPECT_EQ(read("Reply", written(o.reply), Reply{}).words, o.reply.words);
  // What the design allows: a reply of 18.4 KB, a query of 1.9 MB for 32 blocks.
  EXPECT_LE(reply_bytes(), 18500u);
  EXPECT_LE(query_bytes(parameters_of(131072)), 1900000u);
}

TEST(Wire, packed_words_are_bits_one_behind_the_other) {
  for (const int bits : {36, 53}) {
    std::mt19937_64 random(7);
    Words words(1001);
    for (Word& word : words) word = random() & Ring{bits}.mask();
    Writer writer;
    packed_words(writer, "x", words, words.size(), bits);
    const Bytes bytes = writer.take();
    ASSERT_EQ(bytes.size(), packed_bytes(words.size(), bits));
    const auto n = static_cast<std::size_t>(bits);
    for (std::size_t at = 0; at < 8 * (bytes.size() - 4); ++at) {
      ASSERT_EQ(bytes[4 + at / 8] >> at % 8 & 1u, at < words.size() * n ? words[at / n] >> at % n & 1 : 0);
    }
    Words back;
    Reader reader("X", bytes);
    packed_words(reader, "x", back, words.size(), bits);
    EXPECT_EQ(back, words);
  }
}

TEST(Wire, every_spoilt_field_of_a_key_is_named) {
  const Objects o;
  const auto check = [&](const char* field, const auto& change) {
    refused("PublicKey", o.key, PublicKey{}, std::string("PublicKey") + field, change);
  };
  check(".version", byte_set(0, 2));
  check(".version", byte_set(1, 1));
  check(".parameters", byte_set(2, 0));
  check(".parameters", byte_set(3, 1));
  check(".b", byte_set(4, 0xff));  // its length: one more, one less, all there is
  check(".b", byte_set(7, 0xff));
  check(".b", [](Bytes& bytes) { --bytes.at(4); });
  check(".b", cut_to(8));
  for (std::size_t prime = 0; prime < 2; ++prime) {
    for (const std::size_t i : {prime * k_degree, prime * k_degree + k_degree - 1}) {
      check(".b", word_set(8, i, 53, k_primes[prime]));
      check(".b", word_set(8, i, 53, (Word{1} << 53) - 1));
    }
  }
  check(".b", [](Bytes& bytes) { bytes.pop_back(); });
  check("", [](Bytes& bytes) { bytes.push_back(0); });
  for (std::size_t size = 0; size < 8; ++size)
    check(size < 2 ? ".version" : size < 4 ? ".parameters" : ".b", cut_to(size));
}

TEST(Wire, every_spoilt_field_of_a_query_is_named) {
  const Objects o;
  const auto check = [&](const char* field, const auto& change) {
    refused("Query", o.query, Query{o.p, {}, {}}, std::string("Query") + field, change);
  };
  check(".version", byte_set(0, 0));
  check(".parameters", byte_set(2, 2));
  check(".plain_bits", byte_set(4, 10));
  check(".blocks", byte_set(6, 2));
  check(".blocks", byte_set(7, 0xff));
  check(".seed", byte_set(8, 31));
  check(".seed", byte_set(8, 33));
  check(".seed", byte_set(11, 0xff));
  check(".c0", byte_set(8 + 36, 1));
  check(".c0", byte_set(8 + 39, 0xff));
  for (std::size_t prime = 0; prime < 2; ++prime) check(".c0", word_set(48, prime * k_degree + 9, 53, k_primes[prime]));
  check(".c0", [](Bytes& bytes) { bytes.pop_back(); });
  check("", [](Bytes& bytes) { bytes.push_back(0); });
  for (std::size_t size = 0; size < 48; ++size) {
    const char* field = size < 2    ? ".version"
                        : size < 4  ? ".parameters"
                        : size < 6  ? ".plain_bits"
                        : size < 8  ? ".blocks"
                        : size < 44 ? ".seed"
                                    : ".c0";
    check(field, cut_to(size));
  }
  // Whole, but of another vocabulary: of more blocks, of as many with another t.
  const auto of = [](std::size_t vocabulary) { return Query{parameters_of(vocabulary), {}, {}}; };
  refused("Query", o.query, of(5000), "Query.plain_bits", [](Bytes&) {});
  refused("Query", o.query, of(600), "Query.plain_bits", [](Bytes&) {});
  refused("Query", encrypt(o.secret, parameters_of(4097), 1, seed_of(6)), of(8193), "Query.plain_bits", [](Bytes&) {});
  refused("Query", encrypt(o.secret, parameters_of(8193), 1, seed_of(6)), of(16000), "Query.blocks", [](Bytes&) {});
}

TEST(Wire, every_spoilt_field_of_a_reply_is_named) {
  const Objects o;
  const auto check = [&](const char* field, const auto& change) {
    refused("Reply", o.reply, Reply{}, std::string("Reply") + field, change);
  };
  check(".version", byte_set(0, 0xff));
  check(".parameters", byte_set(2, 0));
  check(".words", byte_set(4, 0));
  check(".words", byte_set(7, 0x80));
  // The last word ends in the middle of a byte.
  const std::size_t last = reply_bytes() - 1;
  for (int bit = 4; bit < 8; ++bit) {
    check(".words", [=](Bytes& bytes) { bytes.at(last) = static_cast<std::uint8_t>(bytes.at(last) | 1 << bit); });
  }
  check(".words", [](Bytes& bytes) { bytes.pop_back(); });
  check("", [](Bytes& bytes) { bytes.push_back(0); });
}

TEST(Wire, an_entry_beyond_the_vocabulary_is_refused) {
  const Objects o;
  Reply reply{Words(k_degree + 1)};
  reply.words[0] = Word{300} << (k_reply_bits - o.p.plain_bits);
  try {
    decrypt(o.secret, o.p, reply);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::malformed);
    EXPECT_EQ(error.field(), "Reply.words");
  }
  reply.words[0] = Word{299} << (k_reply_bits - o.p.plain_bits);
  EXPECT_EQ(decrypt(o.secret, o.p, reply), 299u);
}

TEST(Wire, vocabularies_beyond_the_parameters_are_refused) {
  for (const std::size_t vocabulary : {std::size_t{0}, k_most_vocabulary + 1, ~std::size_t{0}}) {
    try {
      parameters_of(vocabulary);
      ADD_FAILURE() << vocabulary;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::unsupported);
      EXPECT_EQ(error.field(), "vocabulary");
    }
  }
  EXPECT_EQ(parameters_of(1), (Parameters{1, 9, 1}));
  EXPECT_EQ(parameters_of(512), (Parameters{512, 9, 1}));
  EXPECT_EQ(parameters_of(513), (Parameters{513, 10, 1}));
  EXPECT_EQ(parameters_of(130528), (Parameters{130528, 17, 32}));
  EXPECT_EQ(parameters_of(151936), (Parameters{151936, 18, 38}));
  EXPECT_EQ(parameters_of(262144), (Parameters{262144, 18, 64}));
}

}  // namespace
}  // namespace permllm::he
