// Every polynomial on the way from keys to entry, beside the integer reference of support.h.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "he/support.h"
#include "rand/domains.h"

namespace permllm::he {
namespace {

using namespace reference;

Seed derived(const Seed& seed, const char* domain) { return derive(seed, domain, ""); }

Small secret_of(const Seed& seed) { return Stream(derived(seed, domain::he_secret_key), 0).ternary(); }

Integer scale(const Parameters& p) { return (2 * q() + (Integer(1) << p.plain_bits)) / (Integer(2) << p.plain_bits); }

// The constant coefficient of c1 s plus c0, centred.
Integer phase_of(const Integer& c0, const Polynomial& c1, const Small& s) { return centred(c0 + product(c1, s)[0]); }

Integer sample_c0(const Sample& sample) { return joined(sample.c0[0], sample.c0[1]); }

TEST(Reference, secret_key) {
  const SecretKey secret(seed_of(1));
  const Small s = secret_of(seed_of(1));
  int counts[3]{};
  for (std::size_t i = 0; i < k_degree; ++i) {
    ASSERT_EQ(static_cast<std::int64_t>(secret.coefficients()[i]), s[i]);
    ++counts[s[i] + 1];
  }
  for (const int count : counts) EXPECT_NEAR(count, 4096 / 3.0, 6 * 30.2);
}

TEST(Reference, public_key) {
  const PublicKey key = public_key(SecretKey(seed_of(1)), "a session", seed_of(2));
  const Polynomial a = Stream(derive(Seed{}, domain::he_common, "a session"), 0).uniform();
  EXPECT_EQ(joined(common_polynomial("a session")), a);
  const Small e = Stream(derived(seed_of(2), domain::he_key_error), 0).errors();
  EXPECT_EQ(joined(key.b), sum(negative(product(a, secret_of(seed_of(1)))), e));
  EXPECT_NE(common_polynomial("another"), common_polynomial("a session"));
}

TEST(Reference, errors_have_the_deviation_stated_and_stay_in_their_bound) {
  Stream stream(derived(seed_of(9), domain::he_query_error), 0);
  double squares = 0, total = 0;
  for (int i = 0; i < 16; ++i) {
    for (const std::int64_t x : stream.errors()) {
      ASSERT_LE(std::abs(x), k_error_bits);
      total += static_cast<double>(x);
      squares += static_cast<double>(x * x);
    }
  }
  EXPECT_NEAR(squares / 65536, 10.5, 0.4);
  EXPECT_NEAR(total / 65536, 0, 0.08);
}

// Errors of a query's blocks.
std::vector<Small> query_errors(const Seed& seed, std::size_t blocks) {
  Stream stream(derived(seed, domain::he_query_error), 0);
  std::vector<Small> all(blocks);
  for (Small& errors : all) errors = stream.errors();
  return all;
}

void check_query(std::size_t vocabulary, std::size_t index) {
  const Parameters p = parameters_of(vocabulary);
  const Query query = encrypt(SecretKey(seed_of(1)), p, index, seed_of(3));
  const Words a = query_polynomials(query);
  const Seed public_seed = derived(seed_of(3), domain::he_query_seed);
  const auto errors = query_errors(seed_of(3), p.blocks);
  ASSERT_TRUE(std::ranges::equal(query.seed, public_seed.bytes()));
  for (std::size_t b = 0; b < p.blocks; ++b) {
    const Polynomial a_b = Stream(public_seed, static_cast<std::uint32_t>(b)).uniform();
    ASSERT_EQ(joined(a, b), a_b);
    Polynomial c0 = sum(negative(product(a_b, secret_of(seed_of(1)))), errors[b]);
    if (index / k_degree == b) {
      const std::size_t j = index % k_degree;  // X^-j X^j = 1, with X^N = -1
      Integer& place = c0[(k_degree - j) % k_degree];
      place = reduced(j == 0 ? Integer(place + scale(p)) : Integer(place - scale(p)));
    }
    ASSERT_EQ(joined(query.c0, b), c0) << "block " << b;
  }
}

TEST(Reference, query) {
  check_query(257, 0);
  check_query(257, 1);
  check_query(4097, 4095);
  check_query(4097, 4096);
  check_query(12000, 2 * 4096 + 77);
}

// Noise of a sample: its phase less D times the entry.
Integer noise_of_sample(const Sample& sample, const Small& s, const Parameters& p, std::uint32_t entry) {
  const Integer t = Integer(1) << p.plain_bits;
  const Integer value = Integer(entry) < t / 2 ? Integer(entry) : Integer(entry - t);
  return centred(phase_of(sample_c0(sample), joined(sample.c1), s) - scale(p) * value);
}

void check_answer(std::size_t vocabulary, std::uint64_t n) {
  const Parameters p = parameters_of(vocabulary);
  const auto table = random_table(p, n);
  const SecretKey secret(seed_of(n));
  const Small s = secret_of(seed_of(n));
  const PublicKey key = public_key(secret, "", seed_of(n + 1));
  const std::size_t index = random_index(p, seed_of(n + 2)), delta = std::mt19937_64(n)() % p.positions();
  ASSERT_EQ(
      Integer(index), Integer(p.positions()) * [&] {
        Stream stream(derived(seed_of(n + 2), domain::he_index), 0);
        const Integer low = stream.word();
        return Integer(low + (Integer(stream.word()) << 64));
      }() >> 128);
  const Query query = encrypt(secret, p, index, seed_of(n + 3));

  // T' by its definition.
  const std::int64_t t = std::int64_t{1} << p.plain_bits;
  std::vector<Small> rotated(p.blocks, Small(k_degree));
  for (std::size_t k = 0; k < p.positions(); ++k) {
    const std::size_t from = (k + p.positions() - delta) % p.positions();
    const std::int64_t entry = from < vocabulary ? table[from] : 0;
    rotated[k / k_degree][k % k_degree] = entry < t / 2 ? entry : entry - t;
  }
  const std::size_t wanted = (index + p.positions() - delta) % p.positions();
  const std::uint32_t entry = wanted < vocabulary ? table[wanted] : 0;

  Evaluated lib = product_sum(PreparedQuery(query), table, delta);
  Polynomial c0(k_degree), c1(k_degree);
  const Words a = query_polynomials(query);
  for (std::size_t b = 0; b < p.blocks; ++b) {
    c0 = sum(c0, product(joined(query.c0, b), rotated[b]));
    c1 = sum(c1, product(joined(a, b), rotated[b]));
  }
  ASSERT_EQ(coefficients_of(lib.c0), c0);
  ASSERT_EQ(coefficients_of(lib.c1), c1);
  EXPECT_LE(abs(noise_of_sample(extract(lib), s, p, entry)),
            Integer(product_noise(p.plain_bits, p.blocks) + scale_noise(p.plain_bits)));

  add_zero(lib, PreparedKey(key, ""), seed_of(n + 4));
  Stream zero(derived(seed_of(n + 4), domain::he_zero), 0);
  const Small u = zero.ternary(), e1 = zero.errors(), e2 = zero.errors();
  const Polynomial zero0 = sum(product(joined(key.b), u), e1),
                   zero1 = sum(product(joined(common_polynomial("")), u), e2);
  EXPECT_LE(abs(phase_of(zero0[0], zero1, s)), Integer(zero_noise()));
  c0 = sum(c0, zero0);
  c1 = sum(c1, zero1);
  ASSERT_EQ(coefficients_of(lib.c0), c0);
  ASSERT_EQ(coefficients_of(lib.c1), c1);

  Sample sample = extract(lib);
  ASSERT_EQ(sample_c0(sample), c0[0]);
  ASSERT_EQ(joined(sample.c1), c1);

  flood(sample, seed_of(n + 4));
  Stream drawn(derived(seed_of(n + 4), domain::he_flood), 0);
  Integer f = drawn.word();
  f += Integer(drawn.word() & ((Word{1} << 23) - 1)) << 64;
  f -= Integer(1) << 86;
  const Integer flooded = reduced(c0[0] + f);
  ASSERT_EQ(sample_c0(sample), flooded);
  EXPECT_LE(abs(noise_of_sample(sample, s, p, entry)), Integer(he::noise_of(p.plain_bits, p.blocks)));

  const Reply reply = switch_modulus(sample);
  const Integer whole = Integer(1) << 36;
  const auto switched = [&](const Integer& x) { return Integer((2 * whole * x + q()) / (2 * q()) % whole); };
  ASSERT_EQ(Integer(reply.words[0]), switched(flooded));
  for (std::size_t i = 0; i < k_degree; ++i) ASSERT_EQ(Integer(reply.words[1 + i]), switched(c1[i]));
  ASSERT_EQ(reply.words, answer(PreparedKey(key, ""), PreparedQuery(query), table, delta, seed_of(n + 4)).words);

  Integer phase = reply.words[0];
  for (std::size_t k = 0; k < k_degree; ++k) phase += Integer(reply.words[1 + k]) * (k == 0 ? s[0] : -s[k_degree - k]);
  phase = (phase % whole + whole) % whole;
  const Integer read = (2 * t * phase + whole) / (2 * whole) % t;
  EXPECT_EQ(read, Integer(entry));
  EXPECT_EQ(decrypt(secret, p, reply), entry);
}

TEST(Reference, answer_of_one_block) { check_answer(257, 100); }
TEST(Reference, answer_of_two_blocks) { check_answer(4097, 200); }
TEST(Reference, answer_of_twelve_blocks) { check_answer(49152, 300); }

// --- The worst case ---------------------------------------------------------------------------------------------------

void add_to(Sample& sample, const Integer& x) {
  const Integer total = reduced(sample_c0(sample) + x);
  for (std::size_t prime = 0; prime < 2; ++prime) sample.c0[prime] = static_cast<Word>(total % k_primes[prime]);
}

// Every error of every block 21, of the sign that hurts, and every entry -t / 2: the noise is the stated bound, and no more.
TEST(Reference, noise_bound_is_met_by_the_worst_query_and_table) {
  for (const std::size_t vocabulary : {512, 130528, 262144}) {
    const Parameters p = parameters_of(vocabulary);
    const SecretKey secret(seed_of(1));
    const Small s = secret_of(seed_of(1));
    const std::size_t index = p.positions() - 1;
    Query query = encrypt(secret, p, index, seed_of(2));
    const auto errors = query_errors(seed_of(2), p.blocks);
    for (std::size_t b = 0; b < p.blocks; ++b) {
      for (std::size_t i = 0; i < k_degree; ++i) {
        const std::int64_t change = (i == 0 ? -21 : 21) - errors[b][i];
        for (std::size_t prime = 0; prime < 2; ++prime) {
          Word& word = query.c0[b * k_residues + prime * k_degree + i];
          word = (word + k_primes[prime] + static_cast<Word>(change)) % k_primes[prime];
        }
      }
    }
    const auto half = static_cast<std::uint32_t>(1u << (p.plain_bits - 1));
    const std::vector<std::uint32_t> table(p.vocabulary, half);
    const std::size_t delta = 5, wanted = index - delta;
    const std::uint32_t entry = wanted < p.vocabulary ? half : 0;
    Evaluated sum = product_sum(PreparedQuery(query), table, delta);
    const Integer noise = noise_of_sample(extract(sum), s, p, entry);
    const Integer entries = p.vocabulary, all = p.positions();
    EXPECT_LE(abs(noise), Integer(product_noise(p.plain_bits, p.blocks) + scale_noise(p.plain_bits)));
    EXPECT_GE(abs(noise),
              Integer(product_noise(p.plain_bits, p.blocks)) * entries / all - Integer(scale_noise(p.plain_bits)));
    add_zero(sum, PreparedKey(public_key(secret, "", seed_of(3)), ""), seed_of(4));
    for (const int sign : {1, -1}) {
      Sample sample = extract(sum);
      add_to(sample, sign * (Integer(1) << 86));
      EXPECT_EQ(decrypt(secret, p, switch_modulus(sample)), entry);
    }
  }
}

// For every t: right with as much noise as the parameters allow, either way, and at their limit; wrong a little beyond q / (2 t).
TEST(Reference, answers_are_right_up_to_the_limit_of_noise) {
  const SecretKey secret(seed_of(1));
  const Small s = secret_of(seed_of(1));
  for (int bits = k_least_plain_bits; bits <= k_most_plain_bits; ++bits) {
    const Parameters p = parameters_of(std::size_t{1} << bits);
    ASSERT_EQ(p.plain_bits, bits);
    const auto table = random_table(p, 4);
    const PreparedQuery query(encrypt(secret, p, 3, seed_of(5)));
    Evaluated sum = product_sum(query, table, 1);
    add_zero(sum, PreparedKey(public_key(secret, "", seed_of(6)), ""), seed_of(7));
    const std::uint32_t entry = table[2];
    const Integer noise = noise_of_sample(extract(sum), s, p, entry);
    const Integer limit = noise_limit(bits), bound = he::noise_of(bits, p.blocks), step = q() / (Integer(2) << bits);
    ASSERT_LT(bound, limit);
    const auto read = [&](const Integer& wanted) {
      Sample sample = extract(sum);
      add_to(sample, wanted - noise);
      return decrypt(secret, p, switch_modulus(sample));
    };
    for (const int sign : {1, -1}) {
      EXPECT_EQ(read(sign * bound), entry);
      EXPECT_EQ(read(sign * limit), entry);
      EXPECT_NE(read(sign * (2 * step - limit)), entry);
    }
  }
}

// round(2^36 / q x) where the nearest number is least clear, and where it is 2^36.
TEST(Reference, switch_rounds_to_nearest_at_the_edges) {
  const Integer whole = Integer(1) << 36;
  std::vector<Integer> edges{0, 1, q() - 1, q() / 2, q() / 2 + 1, k_primes[0], k_primes[1]};
  for (const Integer& k : {Integer(0), Integer(1), Integer(12345678901), Integer(whole / 2), Integer(whole - 1)}) {
    const Integer middle = (2 * k + 1) * q() / (2 * whole);  // just below k + 1/2
    for (int i = -2; i <= 2; ++i) edges.push_back(reduced(middle + i));
  }
  Sample sample{{}, Words(k_residues)};
  for (std::size_t i = 0; i < edges.size(); ++i) {
    for (std::size_t prime = 0; prime < 2; ++prime)
      sample.c1[prime * k_degree + i] = static_cast<Word>(edges[i] % k_primes[prime]);
  }
  const Reply reply = switch_modulus(sample);
  for (std::size_t i = 0; i < edges.size(); ++i) {
    EXPECT_EQ(Integer(reply.words[1 + i]), (2 * whole * edges[i] + q()) / (2 * q()) % whole) << edges[i];
  }
}

// --- Another library ----------------------------------------------------------------------------------------------------

// One answer's polynomials, two blocks at the largest t, for scripts/check_he_with_seal.py: a name and words on each line.
std::string polynomials_of_an_answer() {
  const Parameters p{2 * k_degree, k_most_plain_bits, 2};
  const SecretKey secret(seed_of(1));
  const PublicKey key = public_key(secret, "", seed_of(2));
  const std::size_t index = k_degree + 5;
  const Query query = encrypt(secret, p, index, seed_of(3));
  std::mt19937_64 random(4);
  std::vector<std::uint32_t> table(p.vocabulary);
  for (auto& entry : table) entry = static_cast<std::uint32_t>(random() % k_most_vocabulary);
  Evaluated sum = product_sum(PreparedQuery(query), table, 0);

  std::ostringstream out;
  const auto line = [&](const char* name, const auto& words) {
    out << name;
    for (const auto word : words) out << ' ' << word;
    out << '\n';
  };
  const auto coefficients = [](Words values) {
    interpolate(values);
    return values;
  };
  line("primes", k_primes);
  line("plain_bits_and_index", std::vector<std::size_t>{static_cast<std::size_t>(p.plain_bits), index});
  line("secret", secret_of(seed_of(1)));
  line("key_b", key.b);
  line("key_a", common_polynomial(""));
  line("query_c0", query.c0);
  line("query_c1", query_polynomials(query));
  line("table", table);
  line("sum_c0", coefficients(sum.c0));
  line("sum_c1", coefficients(sum.c1));
  add_zero(sum, PreparedKey(key, ""), seed_of(5));
  line("answer_c0", coefficients(sum.c0));
  line("answer_c1", coefficients(sum.c1));
  return out.str();
}

// The digest is that of polynomials which SEAL found right. Set PERMLLM_HE_POLYNOMIALS to write them to that file.
TEST(Reference, polynomials_are_those_that_another_library_found_right) {
  const std::string text = polynomials_of_an_answer();
  if (const char* path = std::getenv("PERMLLM_HE_POLYNOMIALS")) std::ofstream(path) << text;
  EXPECT_EQ(hash_hex("test", {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()}),
            "3281234be2278fe73bc985bbabb8c11e0f942688e9c5835880771f138fa18751");
}

}  // namespace
}  // namespace permllm::he
