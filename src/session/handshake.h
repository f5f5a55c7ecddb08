// Who says what before offline material flows (docs/wire.md 3): cards, agreements, seeds, and the model at the helper.
#pragma once

#include <algorithm>
#include <bit>

#include "model/tokenizer.h"
#include "model/weights.h"
#include "plan/marks.h"
#include "plan/plan_io.h"
#include "plan/shapes.h"
#include "rand/seed.h"

namespace permllm {

template <class Io>
void visit(Io& io, Seed& seed) {
  Bytes bytes(seed.bytes().begin(), seed.bytes().end());
  io.raw("seed", bytes, Seed::k_bytes);
  if constexpr (std::is_same_v<Io, Reader>) {
    if (bytes.size() != Seed::k_bytes) io.refuse("seed", "expected 32 bytes");
    seed = Seed(std::span<const std::uint8_t, Seed::k_bytes>(bytes.data(), Seed::k_bytes));
  }
}

template <class Io>
void visit(Io& io, Digest& digest) {
  Bytes bytes(digest.begin(), digest.end());
  io.raw("digest", bytes, digest.size());
  if constexpr (std::is_same_v<Io, Reader>) {
    if (bytes.size() != digest.size()) io.refuse("digest", "expected 32 bytes");
    std::copy(bytes.begin(), bytes.end(), digest.begin());
  }
}

template <class Io>
void visit(Io& io, Vocabulary& v) {
  const auto text = [](auto& out, std::string& token) { out.text("vocabulary.token", token, k_token_limit); };
  const auto flag = [&](const char* field, bool& value) { visit_flag(io, field, value); };
  io.text("vocabulary.model", v.model, k_pre_limit);
  io.text("vocabulary.pre", v.pre, k_pre_limit);
  io.list("vocabulary.tokens", v.tokens, k_most_tokens, text);
  io.list("vocabulary.types", v.types, k_most_tokens, [](auto& out, std::uint32_t& type) { out.number("type", type); });
  io.list("vocabulary.scores", v.scores, k_most_tokens, [](auto& out, float& score) {
    auto bits = std::bit_cast<std::uint32_t>(score);
    out.number("score", bits);
    score = std::bit_cast<float>(bits);
  });
  io.list("vocabulary.merges", v.merges, k_most_tokens, text);
  bool has_bos = v.bos.has_value();
  flag("vocabulary.has_bos", has_bos);
  TokenId bos = v.bos.value_or(0);
  io.number("vocabulary.bos", bos);
  if constexpr (std::is_same_v<Io, Reader>) {
    if (!has_bos && bos != 0) io.refuse("vocabulary.bos", "expected 0 where there is none");
  }
  v.bos = has_bos ? std::optional(bos) : std::nullopt;
  io.number("vocabulary.eos", v.eos);
  io.list("vocabulary.ends", v.ends, 16, [](auto& out, TokenId& id) { out.number("end", id); });
  flag("vocabulary.add_bos", v.add_bos);
  flag("vocabulary.add_space_prefix", v.add_space_prefix);
  flag("vocabulary.remove_extra_whitespaces", v.remove_extra_whitespaces);
  io.text("vocabulary.charsmap", v.charsmap, k_charsmap_limit);
  io.text("vocabulary.chat_template", v.chat_template, k_template_limit);
}

// user -> provider, first on each of its two links
struct Hello {
  static constexpr Tag tag = Tag::hello;
  enum Purpose : std::uint8_t { online = 1, offline = 2 };
  std::uint8_t purpose = online;
  std::uint64_t session = 0;  // of the session that an offline link joins; 0 online
  template <class Io>
  void visit(Io& io) {
    io.number("purpose", purpose);
    io.number("session", session);
  }
};

// What a provider has of a chain of its user's.
struct ChainState {
  std::uint64_t chain = 0;
  Marks made, burnt;
  bool busy = false;  // another session uses it
  template <class Io>
  void visit(Io& io) {
    io.number("chain", chain);
    made.visit(io);
    burnt.visit(io);
    visit_flag(io, "busy", busy);
  }
};

struct Card;
// Every size and id of a card against the others. The plan is checked by itself, the vocabulary's texts by the tokenizer that is made of them. A vocabulary
// may be empty: then a conversation is of ids alone. Errors: malformed, naming the field and what was expected.
void check(const Card& card);

// provider -> user: what the user needs to take part, all of it public but U's seed
struct Card {
  static constexpr Tag tag = Tag::card;
  std::uint64_t session = 0;
  std::string model_id;  // salted commitment to the weights
  Plan plan;
  Vocabulary vocabulary;
  Seed model_mask;  // expands U
  std::uint64_t tokens_left = 0;        // of the user's allowance
  std::vector<ChainState> chains = {};  // of this user and this model
  static constexpr std::size_t k_most_chains = 1000;
  static constexpr std::size_t k_most = std::size_t{64} << 20;  // a vocabulary of 262,144 tokens and twice as many merges has 14 MB
  template <class Io>
  void visit(Io& io) {
    io.number("session", session);
    io.text("model_id", model_id, 64);
    permllm::visit(io, plan);
    permllm::visit(io, vocabulary);
    permllm::visit(io, model_mask);
    io.number("tokens_left", tokens_left);
    io.list("chains", chains, k_most_chains, [](auto& out, ChainState& chain) { chain.visit(out); });
    if constexpr (std::is_same_v<Io, Reader>) check(*this);
  }
};

// provider -> user, after Accepted, in profile open: the embedding table, 16-bit integers of some tokens in order.
struct EmbeddingRows {
  static constexpr Tag tag = Tag::embedding_rows;
  static constexpr std::size_t k_limit = std::size_t{2} << 20;  // 8 rows of the widest model
  Bytes rows;
  template <class Io>
  void visit(Io& io) {
    io.raw("rows", rows, k_limit);
  }
};

// provider -> user, after the embedding table: biases, gains and positions, in the order of for_each_vector.
struct PublicVectors {
  static constexpr Tag tag = Tag::public_vectors;
  std::vector<float> values;
  std::size_t limit = std::size_t{1} << 26;  // of them: a receiver states the plan's number
  template <class Io>
  void visit(Io& io) {
    const auto bits = [](auto& out, float& value) {
      auto word = std::bit_cast<std::uint32_t>(value);
      out.number("value", word);
      value = std::bit_cast<float>(word);
    };
    io.list("values", values, limit, bits);
  }
};

// user -> provider: what the user computed from the card, and the chain of the session: one of the card's, or a new one of a number that
// the user drew
struct Agreement {
  static constexpr Tag tag = Tag::agreement;
  std::string plan_hash;
  std::uint64_t chain = 0;
  bool keep = false;    // the chain outlives the session, as far as the provider keeps chains
  bool paired = false;  // the user has the seed of this chain that it agreed on with the helper
  Marks burnt = {};     // by the user's ledger
  template <class Io>
  void visit(Io& io) {
    io.text("plan_hash", plan_hash, 64);
    io.number("chain", chain);
    visit_flag(io, "keep", keep);
    visit_flag(io, "paired", paired);
    burnt.visit(io);
  }
};

// provider -> user: the session, or a filling of its chain, begins.
struct Accepted {
  static constexpr Tag tag = Tag::accepted;
  bool paired = false;  // both have their seeds with the helper and go on with them; else they agree new ones, and nothing is made yet
  Marks made = {}, burnt = {};  // burnt: by the later of both ledgers
  template <class Io>
  void visit(Io& io) {
    visit_flag(io, "paired", paired);
    made.visit(io);
    burnt.visit(io);
  }
};
// The user's: marks beyond the chain are malformed.
Accepted receive_accepted(Channel& provider, const Plan& plan);

// user or provider -> helper: which session, chain and model, and this side's half of their common seed; of a chain that has one, the
// seed itself: the helper keeps none
struct PairHello {
  static constexpr Tag tag = Tag::pair_hello;
  std::uint64_t session = 0;
  std::string user;  // of the provider: the key of the session's user (Peer::key); of the user: empty, its connection says who it is
  std::string model_id, plan_hash;
  std::uint64_t chain = 0;
  bool whole = false;  // seed is the common seed, not a half
  Seed seed;
  template <class Io>
  void visit(Io& io) {
    io.number("session", session);
    io.text("user", user, 64);
    io.text("model_id", model_id, 64);
    io.text("plan_hash", plan_hash, 64);
    io.number("chain", chain);
    visit_flag(io, "whole", whole);
    permllm::visit(io, seed);
  }
};

// helper -> user and provider, once both are there: a digest of the seed that it has with the other. In all fillings of a chain it is the
// same: two chains of one seed at one side and different ones at the other would tell of masks.
struct Paired {
  static constexpr Tag tag = Tag::paired;
  Digest other{};
  template <class Io>
  void visit(Io& io) {
    permllm::visit(io, other);
  }
};
Digest seed_digest(const Seed& seed, std::uint64_t chain);

struct PairAccepted {  // helper -> user or provider: the helper's half; of no use where the seed was whole
  static constexpr Tag tag = Tag::pair_accepted;
  Seed half;
  template <class Io>
  void visit(Io& io) {
    permllm::visit(io, half);
  }
};

// provider -> helper: a model is about to come, as V = W - U (session/masked_model.h), cut into chunks.
struct ModelOffer {
  static constexpr Tag tag = Tag::model_offer;
  static constexpr std::uint32_t k_least_chunk = 1 << 10, k_most_chunk = 1 << 22, k_most_chunks = 1 << 20;
  static constexpr std::size_t k_most = std::size_t{1} << 20;  // a plan of 1,000 layers has a tenth of it
  std::string model_id;
  Plan plan;
  std::uint64_t bytes = 0;  // of V: what the plan says
  std::uint32_t chunk = 0;  // bytes of each chunk but the last: a multiple of 64
  std::uint32_t chunks() const { return static_cast<std::uint32_t>((bytes + chunk - 1) / chunk); }
  // Of chunk `number`, below chunks().
  std::size_t chunk_bytes(std::uint32_t number) const { return std::min<std::uint64_t>(chunk, bytes - std::uint64_t{number} * chunk); }
  template <class Io>
  void visit(Io& io) {
    io.text("model_id", model_id, 64);
    permllm::visit(io, plan);
    io.number("bytes", bytes);
    io.number("chunk", chunk);
  }
};

// helper -> provider: what it has of some chunks, in order, from the first on until all have been named: their hashes, zeros
// where it has none.
struct ModelHeld {
  static constexpr Tag tag = Tag::model_held;
  static constexpr std::size_t k_step = 64;
  std::vector<Digest> hashes;
  template <class Io>
  void visit(Io& io) {
    io.list("hashes", hashes, k_step, [](auto& out, Digest& digest) { permllm::visit(out, digest); });
  }
};

struct ModelChunk {  // provider -> helper, in order of their numbers
  static constexpr Tag tag = Tag::model_chunk;
  std::uint32_t number = 0;
  Digest hash{};
  Bytes bytes;
  template <class Io>
  void visit(Io& io) {
    io.number("number", number);
    permllm::visit(io, hash);
    io.raw("bytes", bytes, ModelOffer::k_most_chunk);
  }
};

// helper -> provider, for each chunk: so a refusal is found before more than k_window chunks have been sent in vain.
struct ModelTaken {
  static constexpr Tag tag = Tag::model_taken;
  static constexpr std::size_t k_window = 16;
  std::uint32_t number = 0;
  template <class Io>
  void visit(Io& io) {
    io.number("number", number);
  }
};

struct ModelEnd {  // provider -> helper: all has been taken
  static constexpr Tag tag = Tag::model_end;
  Digest digest{};
  template <class Io>
  void visit(Io& io) {
    permllm::visit(io, digest);
  }
};

struct ModelStored {  // helper -> provider
  static constexpr Tag tag = Tag::model_stored;
  template <class Io>
  void visit(Io&) {}
};

Digest chunk_hash(std::span<const std::uint8_t> bytes);
// Of a whole model: binds id, plan, sizes and the hashes of all chunks.
Digest model_digest(const ModelOffer& offer, std::span<const Digest> hashes);

// A party's report at the end of a session: what it spent. Nothing of the content.
struct PartyReport {
  static constexpr Tag tag = Tag::party_report;
  double cpu_seconds = 0;
  std::uint64_t memory_bytes = 0;  // the process's greatest resident size
  // Of the provider, over passes that followed a sampled token: their number, the offline material that they used, by
  // origin, how long they took, how much of that it waited for the user, and its processor time.
  std::uint64_t passes = 0, bytes_of_user = 0, bytes_of_helper = 0;
  double pass_seconds = 0, pass_waited = 0, pass_cpu = 0;
  template <class Io>
  void visit(Io& io) {
    io.real("cpu_seconds", cpu_seconds);
    io.number("memory_bytes", memory_bytes);
    io.number("passes", passes);
    io.number("bytes_of_user", bytes_of_user);
    io.number("bytes_of_helper", bytes_of_helper);
    io.real("pass_seconds", pass_seconds);
    io.real("pass_waited", pass_waited);
    io.real("pass_cpu", pass_cpu);
  }
};
PartyReport report_of_this_process();

struct SessionEnd {  // user -> provider: answered by a PartyReport
  static constexpr Tag tag = Tag::session_end;
  template <class Io>
  void visit(Io&) {}
};

// The seed of two parties: from their halves, bound to session, chain, model and plan; or the one that the hello has whole.
Seed common_seed(const Seed& helper, const char* domain, const PairHello& hello);

// Matrices of the model in the order of their numbers on the wire, which is also U's order: qkv, o, up, down of each layer,
// then embed (not with public weights, which send it to the user as it is), head. each(id, shape, matrix).
// w: Weights of any matrix, const or not.
template <class AnyWeights, class Each>
void for_each_matrix(AnyWeights& w, const Plan& plan, Each each) {
  std::uint32_t id = 0;
  for (std::size_t l = 0; l < plan.config.stored_layers(); ++l) {
    each(id++, qkv_shape(plan, l), w.layers[l].qkv);
    each(id++, o_shape(plan, l), w.layers[l].o);
    each(id++, up_shape(plan, l), w.layers[l].up);
    each(id++, down_shape(plan, l), w.layers[l].down);
  }
  if (!plan.open()) each(id++, embed_linear_shape(plan, Site::next_embed), w.embed);
  each(id++, head_shape(plan), w.head);
}

// Gains, whose numbers follow those of the matrices: of q and k, of attention, of the MLP. Not with public weights, where they
// are the user's. Words of 8 bytes; a diagonal matrix as one of a single column.
template <class AnyWeights, class Each>
void for_each_gain(AnyWeights& w, const Plan& plan, Each each) {
  auto id = static_cast<std::uint32_t>(4 * plan.config.stored_layers() + 2);
  for (std::size_t l = 0; !plan.open() && l < plan.config.stored_layers(); ++l) {
    if (plan.config.qk_norm) each(id++, qk_gain_shape(plan, l), w.layers[l].qk_gain);
    if (plan.gained()) each(id++, attention_gain_shape(plan, l), w.layers[l].attention_gain);
    if (plan.gained()) each(id++, mlp_gain_shape(plan, l), w.layers[l].mlp_gain);
  }
}

// What the user of profile open gets beside the embedding table: each(vector, size), each(gain, size, fraction bits).
template <class AnyWeights, class Each>
void for_each_vector(AnyWeights& w, const Plan& plan, Each each) {
  const Config& c = plan.config;
  const auto some = [&](auto& vector, bool has, std::size_t size) {
    if (has) each(vector, size);
  };
  for (std::size_t l = 0; l < c.stored_layers(); ++l) {
    auto& layer = w.layers[l];
    const LayerFractions& frac = plan.layers[l];
    some(layer.qkv_bias, c.qkv_bias, c.qkv_rows());
    some(layer.up_bias, c.up_bias, c.up_rows());
    if (c.qk_norm) each(layer.qk_gain, c.qk_rows(), frac.qk_gain);
    if (plan.gained()) each(layer.attention_gain, c.width, frac.attention_gain);
    if (plan.gained()) each(layer.mlp_gain, c.width, frac.mlp_gain);
    some(layer.attention_shift, c.normed_residual, c.width);
    some(layer.mlp_shift, c.normed_residual, c.width);
  }
  some(w.head_bias, c.head_bias, c.vocab);
  some(w.positions, c.positions == Positions::learned, plan.slots * c.width);
}
PublicVectors vectors_of(const IntWeights& weights, const Plan& plan);
std::size_t values_of(const Plan& plan);  // how many they are
// Errors: malformed when their number is not the plan's.
Weights<NoMatrix> weights_of(const PublicVectors& vectors, const Plan& plan);

}  // namespace permllm
