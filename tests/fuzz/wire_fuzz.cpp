// Everything that comes over the wire: the frame's header, every message, the plan and the vocabulary. What is read and written again
// gives the same bytes.
//
// The first byte of an input says which it is. The second is, of a message with words of the plan's ring, their bits; their
// number is what the input holds. Keys, queries and replies of encrypted retrieval are he_fuzz's.
#include <algorithm>

#include "fuzz/target.h"
#include "helper/pool.h"
#include "page/pack.h"
#include "page/pass.h"
#include "provider/stock.h"
#include "session/greeting.h"
#include "session/masked_model.h"
#include "session/pairing.h"
#include "session/product_keys.h"
#include "session/public_part.h"
#include "session/registration.h"
#include "session/report.h"
#include "support/tiny_plan.h"
#include "wire/frame.h"

namespace permllm::test {
namespace {

using Input = std::span<const std::uint8_t>;

template <class Object>
Object parsed(Input bytes, Object object) {
  Reader reader("Object", bytes);
  object.visit(reader);
  reader.finish();
  return object;
}
template <class Object>
Bytes written(Object object) {
  Writer writer;
  object.visit(writer);
  return writer.take();
}
template <class Message>
void read(Input bytes) {
  PERMLLM_ASSERT(std::ranges::equal(written(parsed(bytes, Message{})), bytes));
}
// Words of a ring that is no whole number of bytes have bits that do not count.
template <class Message, auto member, class W = Word>
void read_words(Input bytes) {
  if (bytes.empty()) return;
  const Ring ring{1 + bytes[0] % (static_cast<int>(8 * sizeof(W)))};
  bytes = bytes.subspan(1);
  Message expected;
  expected.*member = expect<W>(ring, bytes.size() / ring.bytes());
  const Bytes once = written(parsed(bytes, expected));
  PERMLLM_ASSERT(written(parsed(once, expected)) == once);
  if (ring.bits % 8 == 0) PERMLLM_ASSERT(std::ranges::equal(once, bytes));
}

struct WholePlan {
  Plan plan;
  template <class Io>
  void visit(Io& io) {
    permllm::visit(io, plan);
  }
};
struct WholeVocabulary {
  Vocabulary vocabulary;
  template <class Io>
  void visit(Io& io) {
    permllm::visit(io, vocabulary);
  }
};

void read_header(Input bytes) {
  if (bytes.size() != k_frame_header_bytes) return;
  const FrameHeader header = decode_header(bytes.first<k_frame_header_bytes>());
  if (header.length > 4096) return;
  std::array<std::uint8_t, k_frame_header_bytes> again;
  encode_header({header.tag, header.session, header.step, Bytes(header.length)}, again);
  PERMLLM_ASSERT(std::ranges::equal(again, bytes));
}

// What follows from a plan, which the parties compute before anything else.
void read_plan(Input bytes) {
  read<WholePlan>(bytes);
  const Plan plan = parsed(bytes, WholePlan{}).plan;
  if (plan.config.layers <= 2) {
    for (const Part::Kind kind : {Part::Kind::entry, Part::Kind::slot, Part::Kind::pass}) {
      if (!plan.open() || kind != Part::Kind::entry) deal_batch(plan, kind);
    }
    if (!plan.open()) masked_model_bytes(plan);
  }
}

void read_material(Input bytes) {
  static const Plan plan = tiny_plan();
  read<PackMaterial>(bytes);
  for (const Stock::Source source : {Stock::Source::helper, Stock::Source::user}) {
    Stock stock(plan.config.layers);
    put_in_stock(stock, source, plan, parsed(bytes, PackMaterial{}));
  }
}

void read_order(Input bytes) {
  static const Plan plan = tiny_plan();
  read<PackOrder>(bytes);
  check_order(plan, parsed(bytes, PackOrder{}));
}

constexpr void (*k_readers[])(Input) = {read_header,
                                        read_plan,
                                        read<WholeVocabulary>,
                                        read_material,
                                        read_order,
                                        read<Refusal>,
                                        read<Hello>,
                                        read<Card>,
                                        read<Agreement>,
                                        read<Accepted>,
                                        read<PairHello>,
                                        read<PairAccepted>,
                                        read<Paired>,
                                        read<Forwarded>,
                                        read<ModelOffer>,
                                        read<ModelStored>,
                                        read<ModelHeld>,
                                        read<ModelChunk>,
                                        read<ModelEnd>,
                                        read<ModelTaken>,
                                        read<PackDealt>,
                                        read<PackEnd>,
                                        read<ProductKeyOrder>,
                                        read<PassBegin>,
                                        read<PassCancel>,
                                        read<PassCancelled>,
                                        read<SessionEnd>,
                                        read<PartyReport>,
                                        read<EmbeddingRows>,
                                        read<PublicVectors>,
                                        read<RetrievalIndex>,
                                        read_words<PromptOneHots, &PromptOneHots::e0>,
                                        read_words<Remask, &Remask::d>,
                                        read_words<TokenDigits, &TokenDigits::d>,
                                        read_words<MapShown, &MapShown::a>,
                                        read_words<MapAnswer<Word>, &MapAnswer<Word>::b>,
                                        read_words<MapAnswer<Wide>, &MapAnswer<Wide>::b, Wide>,
                                        read_words<RotatedRemask, &RotatedRemask::d>,
                                        read_words<MaskedQueryKey, &MaskedQueryKey::e>,
                                        read_words<LiftedValues, &LiftedValues::v>,
                                        read_words<MaskedScores, &MaskedScores::d>,
                                        read_words<ShownScores, &ShownScores::a>,
                                        read_words<ResharedValues<Word>, &ResharedValues<Word>::f>,
                                        read_words<ResharedValues<Wide>, &ResharedValues<Wide>::f, Wide>,
                                        read_words<MaskedWeights<Word>, &MaskedWeights<Word>::e>,
                                        read_words<MaskedWeights<Wide>, &MaskedWeights<Wide>::e, Wide>,
                                        read_words<MaskedMix<Word>, &MaskedMix<Word>::d>,
                                        read_words<MaskedMix<Wide>, &MaskedMix<Wide>::d, Wide>,
                                        read_words<Probabilities<Word>, &Probabilities<Word>::w>,
                                        read_words<Probabilities<Wide>, &Probabilities<Wide>::w, Wide>,
                                        read_words<Handed, &Handed::d>,
                                        read_words<ShownRows, &ShownRows::y>,
                                        read_words<ProductKeyWords, &ProductKeyWords::words>};

Vocabulary vocabulary() {
  Vocabulary v;
  v.model = "gpt2";
  v.pre = "smollm";
  v.tokens = {"a", "b", "ab"};
  v.types = {1, 1, 3};
  v.scores = {-1, -2.5f, 0};
  v.merges = {"a b"};
  v.bos = 1;
  v.ends = {0};
  v.add_bos = true;
  v.charsmap = "map";
  v.chat_template = "chatml";
  return v;
}

}  // namespace

std::vector<std::vector<std::uint8_t>> seeds() {
  std::vector<Bytes> bodies;
  const auto add = [&](auto object) { bodies.push_back(written(std::move(object))); };
  Bytes header(k_frame_header_bytes);
  encode_header({40, 7, 3, Bytes(10)}, std::span<std::uint8_t, k_frame_header_bytes>(header));
  bodies.push_back(header);
  add(WholePlan{tiny_plan()});
  add(WholeVocabulary{vocabulary()});
  add(PackMaterial{3, 0, 0, 1, Bytes(100, 7)});
  add(PackOrder{1, 0, 2});
  add(Refusal{3, 2, "where", "why"});
  add(Hello{Hello::offline, 42});
  add(Card{
      42, std::string(64, 'a'), tiny_plan(), vocabulary(), Seed{}, 100, {{9, {{1, 2, 3, 4}}, {{1, 1, 1, 1}}, true}}});
  add(Agreement{std::string(64, 'a'), 7, true, false, {{1, 2, 3, 4}}});
  add(Accepted{});
  add(PairHello{42, std::string(64, 'c'), std::string(64, 'a'), std::string(64, 'b'), 7, true, Seed{}});
  add(Paired{Digest{5}});
  add(PairAccepted{Seed{}});
  add(Forwarded{std::string(64, 'c'), std::string(64, 'd'),
                PairHello{42, "", std::string(64, 'a'), std::string(64, 'b'), 7, false, Seed{}}, Seed{}});
  add(ModelOffer{std::string(64, 'a'), tiny_plan(), masked_model_bytes(tiny_plan()), 1024});
  add(ModelOffer{std::string(64, 'a'), tiny_plan(Profile::open), 1 << 16, 1024, {12, 8, 12}});
  add(ModelStored{});
  add(ModelHeld{{Digest{}, Digest{1, 2}}});
  add(ModelChunk{1, Digest{3}, Bytes(10, 7)});
  add(ModelEnd{Digest{4}});
  add(ModelTaken{7});
  add(PackDealt{});
  add(PackEnd{});
  add(ProductKeyOrder{});
  add(PassBegin{PassBegin::prompt, 5, 2, 1});
  add(PassCancel{});
  add(PassCancelled{});
  add(SessionEnd{});
  add(PartyReport{1.5, 2, 3, 4, 5, 0.1, 0.2, 0.3});
  add(EmbeddingRows{Bytes(12, 1)});
  add(PublicVectors{{1, 2.5f}});
  add(RetrievalIndex{5});
  std::vector<Bytes> seeds;
  for (std::size_t i = 0; i < std::size(k_readers); ++i) {
    const auto kind = static_cast<std::uint8_t>(i);
    Bytes seed = i < bodies.size()
                     ? bodies[i]
                     : Bytes{static_cast<std::uint8_t>(i % 2 == 0 ? 42 : 47), 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    seed.insert(seed.begin(), kind);
    seeds.push_back(std::move(seed));
  }
  // The plan of each profile, and one that is fused.
  for (const Plan& plan : {tiny_plan(Profile::open), tiny_plan(Profile::fast), tiny_plan(Profile::paper, true)}) {
    Bytes seed = written(WholePlan{plan});
    seed.insert(seed.begin(), 1);
    seeds.push_back(std::move(seed));
  }
  return seeds;
}

}  // namespace permllm::test

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace permllm;
  if (size == 0) return 0;
  try {
    test::k_readers[data[0] % std::size(test::k_readers)]({data + 1, size - 1});
  } catch (const Error&) {
  }
  return 0;
}
