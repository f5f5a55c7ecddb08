// The helper's store and the provider's record: what a cut, a damaged file or a full disk leaves behind, and peers that do what
// they should not.
#include "helper/model_store.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <fstream>
#include <set>
#include <thread>

#include "cli/memory.h"
#include "support/errors.h"
#include "support/small_model.h"
#include "support/world.h"

namespace permllm::test {
namespace {

constexpr std::uint32_t k_chunk = 4096;

OfferedModel tiny_offer(std::uint8_t number = 1, Profile profile = Profile::paper) {
  const ModelFile file(Gguf::parse(tiny_llama().finish()));
  Executor executor(1);
  OfferedModel model;
  model.vocabulary = Vocabulary::read(*file.gguf());
  model.weights = load_int_weights(file, executor);
  model.plan = Plan::make(model.weights, tiny_ranges(), 16, profile);
  model.model_id = hex(hash(domain::model_commitment, std::span(&number, 1)));
  model.mask_seed = seed_of(number);
  model.chunk = k_chunk;
  return model;
}

std::uint32_t chunks_of(const OfferedModel& model) { return model_offer(model).chunks(); }

bool is(const Frame& frame, Tag tag) { return frame.tag == static_cast<std::uint16_t>(tag); }

// Counts the chunks that its owner sends, and is cut once its owner knows that `cut` of them were taken.
class Counted : public PassingLink {
 public:
  Counted(std::unique_ptr<Link> link, std::size_t& count, std::size_t cut)
      : PassingLink(std::move(link)), count_(count), cut_(cut) {}
  void send(Frame frame) override {
    const bool chunk = is(frame, Tag::model_chunk);
    if (chunk && cut_ == 0) close();
    PassingLink::send(std::move(frame));
    if (chunk) ++count_;
  }
  Frame receive(Clock::time_point deadline, const char* awaited, std::size_t most) override {
    if (taken_ == cut_) {
      close();
      throw Error(Code::closed, awaited, "the connection was cut");
    }
    Frame frame = PassingLink::receive(deadline, awaited, most);
    if (is(frame, Tag::model_taken)) ++taken_;
    return frame;
  }

 private:
  std::size_t& count_;
  std::size_t cut_, taken_ = 0;
};

constexpr std::size_t k_never = 1 << 20;

// A provider at a helper. `cuts`: where its connections to register are cut, one after the other; then it can connect no more.
class TestProvider {
 public:
  TestProvider(LoneHelper& helper, OfferedModel model, std::vector<std::size_t> cuts = {k_never})
      : helper_(helper),
        cuts_(std::move(cuts)),
        service_(
            std::move(model), executor_, k_long, [this] { return dial(); }, [](const std::string&) {}) {}
  void register_model() {
    service_.register_model([this](double fraction) { progress_.push_back(fraction); });
    registered_ = true;
  }
  std::size_t sent() const { return sent_; }
  const std::vector<double>& progress() const { return progress_; }
  std::vector<TokenId> answer() {
    const auto to_provider = [this]() -> std::unique_ptr<Link> {
      auto [near, far] = memory_links();
      threads_.begin([this, link = std::move(far)]() mutable { service_.serve(std::move(link), user_named("alice")); });
      return std::move(near);
    };
    return test::answer({to_provider, to_provider, [this] { return helper_.dial(user_named("alice")); }}, executor_,
                        {5, 6, 7}, 4);
  }

 private:
  std::unique_ptr<Link> dial() {
    if (registered_) return helper_.dial(k_provider);
    if (dialled_ == cuts_.size()) throw Error(Code::closed, "link", "the network is down");
    return std::make_unique<Counted>(helper_.dial(k_provider), sent_, cuts_[dialled_++]);
  }
  LoneHelper& helper_;
  Executor executor_{1};
  std::vector<std::size_t> cuts_;
  std::size_t sent_ = 0, dialled_ = 0;
  bool registered_ = false;
  std::vector<double> progress_;
  ProviderService service_;
  Threads threads_;
};

OfferedModel recorded(OfferedModel model, const std::filesystem::path& state) {
  Executor executor(2);
  keep_record(model, state, executor);
  return model;
}

const std::vector<TokenId>& expected_answer() {
  static const std::vector<TokenId> ids = [] {
    LoneHelper helper;
    TestProvider provider(helper, tiny_offer());
    provider.register_model();
    return provider.answer();
  }();
  return ids;
}

std::filesystem::path file_of(const std::filesystem::path& folder, const char* extension) {
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == extension) return entry.path();
  }
  return {};
}

void flip(const std::filesystem::path& path, std::uint64_t at) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekg(static_cast<std::streamoff>(at));
  const auto byte = static_cast<char>(file.get() ^ 1);
  file.seekp(static_cast<std::streamoff>(at));
  file.put(byte);
}

// ---- V as bytes --------------------------------------------------------------------------------------------------------

// The bytes of all of it, after a look that those of any cut are the same: cuts of words too.
Bytes whole_of(const OfferedModel& model) {
  const MaskedModel v(model.weights, model.plan, model.mask_seed);
  Bytes whole(model_offer(model).bytes), cut(whole.size());
  v.fill(0, whole);
  for (std::size_t at = 0; at < cut.size(); at += 64 * 17)
    v.fill(at, std::span(cut).subspan(at, std::min<std::size_t>(64 * 17, cut.size() - at)));
  EXPECT_EQ(whole, cut);
  return whole;
}

template <class Matrix>
std::vector<const Matrix*> matrices_of(const Weights<Matrix>& weights, const Plan& plan) {
  std::vector<const Matrix*> matrices;
  for_each_matrix(weights, plan, [&](std::uint32_t, const LinearShape&, const Matrix& m) { matrices.push_back(&m); });
  return matrices;
}

// Words of 1 to 8 bytes, as many as each matrix's ring has, are those that W and U give one by one.
TEST(MaskedModel, is_the_words_that_w_and_u_give_in_as_many_bytes_as_their_rings_have) {
  std::set<std::size_t> widths;
  for (const int head : {8, 17, 33, 41, 50, 64}) {
    for (const int residual : {40, 48, 53, 61}) {
      OfferedModel model = tiny_offer();
      model.plan.head = Ring{head};
      model.plan.residual = Ring{residual};
      const Bytes whole = whole_of(model);
      const auto view = view_masked_model(model.plan, whole);
      const auto expected = masked_weights(model.weights, model.plan, ReadableStream(model.mask_seed));
      const auto viewed = matrices_of(view, model.plan), wanted = matrices_of(expected, model.plan);
      std::uint64_t words = 0;
      for (std::size_t i = 0; i < viewed.size(); ++i) {
        EXPECT_TRUE(std::ranges::equal(viewed[i]->bytes(), wanted[i]->bytes())) << i << " " << head << " " << residual;
        const std::size_t width = static_cast<std::size_t>((viewed[i]->ring().bits + 7) / 8);
        EXPECT_EQ(viewed[i]->bytes().size(), viewed[i]->rows() * viewed[i]->cols() * width);
        words += viewed[i]->bytes().size();
        widths.insert(width);
      }
      EXPECT_GE(whole.size(), words);
      EXPECT_LT(whole.size(), words + 64 * viewed.size());  // nothing else, but that each begins at a multiple of 64
    }
  }
  EXPECT_EQ(widths, (std::set<std::size_t>{1, 2, 3, 4, 5, 6, 7, 8}));
}

// Codes of four bits, of the shape and the fraction bits of a matrix.
IntMatrix coded(const IntMatrix& like, Executor& executor) {
  const std::size_t rows = like.rows(), cols = like.cols();
  const CodeForm form{4, 16, true};
  const auto codes_at = [&](std::size_t r, CodedRow& out) {
    for (std::size_t c = 0; c < cols; ++c) out.codes[c] = static_cast<std::uint8_t>((r * 5 + c * 3) % 16);
    std::fill(out.scale.begin(), out.scale.end(), std::ldexp(1.0f + static_cast<float>(r % 3), -like.frac() + 6));
    std::fill(out.least.begin(), out.least.end(), std::ldexp(-500.0f, -like.frac()));
  };
  const float most = std::ldexp(2400.0f, -like.frac());
  WeightStatistics statistics{std::vector<float>(rows, most), std::vector<float>(cols, most),
                              std::vector<double>(rows, 1e9), std::vector<double>(cols, 1e9)};
  return IntMatrix::from_codes(rows, cols, form, codes_at, {}, statistics, executor).value();
}

// Integers of 8 bits, of 12 bits and made of codes in one model, shifted by column and by row.
OfferedModel open_offer(std::uint8_t number = 1) {
  OfferedModel model = tiny_offer(number, Profile::open);
  Executor executor(1);
  IntMatrix& o = model.weights.layers[0].o;
  o = IntMatrix::random(o.rows(), o.cols(), o.frac(), 5, executor, 8);
  IntMatrix& down = model.weights.layers[1].down;
  static const IntMatrix packed = IntMatrix::random(down.rows(), down.cols(), down.frac(), 6, executor);
  std::vector<std::uint8_t> shifts(down.cols()), row_shifts(down.rows());
  shifts[3] = 2;
  row_shifts[4] = 1;
  down = IntMatrix(down.rows(), down.cols(), 12, shifts, row_shifts, packed.packed());
  model.weights.layers[0].down = coded(model.weights.layers[0].down, executor);
  return model;
}

TEST(MaskedModel, of_public_weights_is_what_the_provider_packed) {
  const OfferedModel model = open_offer();
  const Bytes whole = whole_of(model);
  const Packings packings = packings_of(model.weights, model.plan);
  EXPECT_EQ(std::ranges::count(packings, 8), 1);
  EXPECT_EQ(std::ranges::count(packings, 128 + 64 + 4), 1);
  LargeBytes aligned(whole.size());  // as a mapped file is
  std::ranges::copy(whole, aligned.data());
  const auto view = view_public_model(model.plan, packings, aligned);
  const auto viewed = matrices_of(view, model.plan), wanted = matrices_of(model.weights, model.plan);
  Executor executor(1);
  std::uint64_t packed = 0;
  for (std::size_t i = 0; i < viewed.size(); ++i) {
    const IntMatrix &a = *viewed[i], &b = *wanted[i];
    EXPECT_EQ(a.packing(), b.packing());
    for (std::size_t r = 0; r < b.rows(); ++r) {
      for (std::size_t c = 0; c < b.cols(); ++c) ASSERT_EQ(a.at(r, c), b.at(r, c)) << i << " " << r << " " << c;
    }
    const Words x(b.cols(), 0x123456789abcdef);
    Words y(b.rows()), z(b.rows());
    product(a, Ring{48}, x, y, executor);
    product(b, Ring{48}, x, z, executor);
    EXPECT_EQ(y, z);
    packed += b.packed().size() + b.rows() + b.cols();
  }
  EXPECT_LT(whole.size(), packed + 128 * viewed.size());
}

// `inspect` and `plan` say what it takes, but for shifts and gaps.
TEST(MaskedModel, takes_the_bytes_that_are_told_beforehand) {
  for (const Profile profile : {Profile::paper, Profile::fast, Profile::open}) {
    const OfferedModel model = tiny_offer(1, profile);
    const ModelOffer offer = model_offer(model);
    std::uint64_t beside = 0;
    for (const Segment& s : segments_of(model.plan, offer.packings)) beside += 128 + (s.packing ? s.rows + s.cols : 0);
    const std::size_t told = memory_of(model.weights, model.plan).helper;
    EXPECT_LE(told, offer.bytes) << name_of(profile);
    EXPECT_LE(offer.bytes, told + beside) << name_of(profile);
  }
}

// ---- Cuts and starts ---------------------------------------------------------------------------------------------------

std::size_t held_in(const std::filesystem::path& path) {
  const StoredFile stored = StoredFile::open(path, File::Mode::read);
  std::size_t held = 0;
  for (std::uint32_t i = 0; i < stored.hashes.size(); ++i) held += stored.holds(i) ? 1 : 0;
  return held;
}

// At every chunk: the helper's process and the provider's end there, both start again, and only what is missing is sent.
TEST(ModelStore, a_cut_at_any_chunk_costs_only_the_chunks_that_are_missing) {
  const std::uint32_t chunks = chunks_of(tiny_offer());
  ASSERT_GT(chunks, ModelTaken::k_window);
  for (std::uint32_t cut = 1; cut <= chunks + 1; ++cut) {
    TemporaryFolder folder;
    std::size_t held = chunks;
    {
      LoneHelper helper(folder.path() / "store");
      TestProvider provider(helper, recorded(tiny_offer(1), folder.path() / "state"), {cut});
      if (cut <= chunks) {
        EXPECT_NE(error_of([&] { provider.register_model(); }), "no error");
      } else {
        provider.register_model();
      }
    }
    if (cut < chunks) {  // at the last the helper may have the end as well
      EXPECT_EQ(file_of(folder.path() / "store", ".model"), "")
          << "a model that is not complete has the name of one that is";
      held = held_in(file_of(folder.path() / "store", ".part"));
      EXPECT_GE(held, cut);
      EXPECT_LE(held, cut + ModelTaken::k_window);
    }
    LoneHelper helper(folder.path() / "store");
    TestProvider provider(helper,
                          recorded(tiny_offer(2), folder.path() / "state"));  // another id and seed, but for the record
    provider.register_model();
    EXPECT_EQ(provider.sent(), chunks - held) << cut;
    EXPECT_EQ(provider.progress().size(), chunks - held);
    EXPECT_TRUE(held == chunks || provider.progress().back() == 1.0);
    EXPECT_EQ(file_of(folder.path() / "store", ".part"), "");
    EXPECT_TRUE((cut % 8 != 0 && cut != chunks) || provider.answer() == expected_answer());
  }
}

TEST(ModelStore, a_lost_connection_is_taken_up_again_within_one_start) {
  TemporaryFolder folder;
  LoneHelper helper(folder.path());
  TestProvider provider(helper, tiny_offer(), {3, 2, k_never});
  provider.register_model();
  EXPECT_LE(provider.sent(), chunks_of(tiny_offer()) + 2 * ModelTaken::k_window);  // what was under way may come again
  EXPECT_EQ(provider.answer(), expected_answer());
  TestProvider idle(helper, tiny_offer(5), {2, 0, k_never});  // nothing came across the second: no third
  EXPECT_NE(error_of([&] { idle.register_model(); }), "no error");
}

// A helper that ended in the middle of a write: chunks that the table names count only if their bytes are there.
TEST(ModelStore, a_table_ahead_of_its_chunks_is_not_believed) {
  TemporaryFolder folder;
  {
    LoneHelper helper(folder.path());
    TestProvider provider(helper, tiny_offer(), {5});
    EXPECT_NE(error_of([&] { provider.register_model(); }), "no error");
  }
  const auto path = file_of(folder.path(), ".part");
  ASSERT_GE(held_in(path), 5u);
  const StoredFile stored = StoredFile::open(path, File::Mode::write);
  std::filesystem::resize_file(path, stored.v_at + 2 * k_chunk + 100);
  Executor executor(1);
  ModelStore store(folder.path(), executor, [](const std::string&) {});
  const auto arrival = store.begin(stored.offer, stored.owner);
  std::ptrdiff_t held = 0;
  for (auto hashes = arrival->next_held(); !hashes.empty(); hashes = arrival->next_held()) {
    held += std::ranges::count_if(hashes, [](const Digest& hash) { return hash != Digest{}; });
  }
  EXPECT_EQ(held, 2);
}

TEST(ModelStore, models_side_by_side_and_one_removed) {
  TemporaryFolder folder;
  {
    LoneHelper helper(folder.path());
    TestProvider one(helper, tiny_offer(1)), two(helper, tiny_offer(2, Profile::fast));
    one.register_model();
    two.register_model();
    EXPECT_EQ(one.answer(), expected_answer());
    EXPECT_EQ(two.answer().size(), 4u);
  }
  LoneHelper helper(folder.path());
  TestProvider one(helper, tiny_offer(1));
  one.register_model();
  const auto entries = list_store(folder.path());
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_TRUE(entries[0].complete && entries[1].complete);
  EXPECT_EQ(entries[0].name, "llama tiny");
  EXPECT_NE(entries[0].id, entries[1].id);
  std::filesystem::remove(folder.path() / (tiny_offer(1).model_id + ".model"));
  EXPECT_NE(error_of([&] { one.answer(); }).find("the helper does not hold model"), std::string::npos);
}

TEST(ModelStore, in_memory_nothing_outlasts_the_service) {
  for (int start = 0; start < 2; ++start) {
    LoneHelper helper;
    TestProvider provider(helper, tiny_offer());
    provider.register_model();
    EXPECT_EQ(provider.sent(), chunks_of(tiny_offer()));
    EXPECT_EQ(provider.answer(), expected_answer());
  }
}

// ---- Seeds -------------------------------------------------------------------------------------------------------------

// One integer, one step of a column or of a row, or one field of the plan more: another U.
TEST(ModelRecord, another_model_has_another_seed_and_the_same_has_the_same) {
  TemporaryFolder folder;
  std::vector<OfferedModel> models;
  for (int i = 0; i < 6; ++i) models.push_back(tiny_offer());
  std::uint8_t number = 10;
  for (OfferedModel& model : models) {  // as drawn at each start
    model.mask_seed = seed_of(++number);
    model.model_id = std::string(63, 'a') + std::to_string(number % 10);
  }
  const auto changed = [](const IntMatrix& w, std::vector<std::uint8_t> shifts, std::int32_t more) {
    Executor executor(1);
    std::vector<std::int32_t> row(w.cols());
    return IntMatrix::from_rows(
        w.rows(), w.cols(),
        [&](std::size_t r, std::span<float> out) {
          w.row(r, row);
          if (r == 3) row[5] += row[5] > 0 ? -more : more;
          for (std::size_t c = 0; c < out.size(); ++c)
            out[c] = std::ldexp(static_cast<float>(row[c]), (shifts.empty() ? 0 : shifts[c]) - w.frac());
        },
        {w.frac(), shifts}, executor, w.bits());
  };
  IntMatrix& o = models[2].weights.layers[0].o;
  o = changed(o, {}, 1);
  IntMatrix& shifted = models[3].weights.layers[1].o;
  std::vector<std::uint8_t> shifts(shifted.cols());
  shifts[2] = 1;  // the same small integers, of which those of a column count twice
  shifted = changed(shifted, shifts, 0);
  models[4].plan.slots = 15;
  const IntMatrix& old = models[0].weights.layers[1].o;
  std::vector<std::uint8_t> row_shifts(old.rows());
  row_shifts[2] = 1;
  models[5].weights.layers[1].o = IntMatrix(old.rows(), old.cols(), old.bits(), old.shifts(), row_shifts, old.packed());
  for (OfferedModel& model : models) model = recorded(std::move(model), folder.path());
  EXPECT_EQ(models[1].model_id, models[0].model_id);
  EXPECT_TRUE(std::ranges::equal(models[1].mask_seed.bytes(), models[0].mask_seed.bytes()));
  for (std::size_t i = 0; i < models.size(); ++i) {
    for (std::size_t j = std::max<std::size_t>(i + 1, 2); j < models.size(); ++j) {
      EXPECT_NE(models[i].model_id, models[j].model_id) << i << " " << j;
      EXPECT_FALSE(std::ranges::equal(models[i].mask_seed.bytes(), models[j].mask_seed.bytes())) << i << " " << j;
    }
  }
}

// As a release left it whose V had another layout: no seed of it is used again, and it stays as it is.
TEST(ModelRecord, one_of_another_layout_is_left_alone) {
  TemporaryFolder folder;
  Executor executor(1);
  const OfferedModel model = tiny_offer(1);
  const auto name = [&](std::uint32_t layout) {
    Writer bound;
    Digest weights = weights_digest(model.weights, model.plan, executor, layout);
    visit(bound, weights);
    bound.number("chunk", model.chunk);
    return hash(domain::model_record, bound.take());
  };
  const auto record_of = [&](std::uint32_t layout) {
    return ModelRecord(folder.path(), name(layout), chunks_of(model), std::string(64, 'c'), seed_of(9));
  };
  record_of(k_layout - 1).set_sent(0, Digest{1});
  const OfferedModel fresh = recorded(tiny_offer(1), folder.path());
  EXPECT_EQ(fresh.model_id, model.model_id);
  EXPECT_TRUE(std::ranges::equal(fresh.mask_seed.bytes(), model.mask_seed.bytes()));
  EXPECT_EQ(record_of(k_layout).model_id(), model.model_id);
  EXPECT_EQ(record_of(k_layout).sent()[0], Digest{});
  EXPECT_EQ(record_of(k_layout - 1).model_id(), std::string(64, 'c'));
  EXPECT_EQ(record_of(k_layout - 1).sent()[0], Digest{1});
}

TEST(ModelRecord, is_its_owners_alone_and_a_flipped_byte_is_named) {
  TemporaryFolder folder;
  recorded(tiny_offer(1), folder.path());
  const std::filesystem::path path = std::filesystem::directory_iterator(folder.path() / "models")->path();
  struct stat status {};
  ASSERT_EQ(stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  const auto size = std::filesystem::file_size(path);
  for (std::uint64_t at = 0; at < size; ++at) {
    flip(path, at);
    const std::string error = error_of([&] { recorded(tiny_offer(1), folder.path()); });
    EXPECT_TRUE(error.starts_with(path.string())) << error;
    EXPECT_NE(error.find("registered afresh"), std::string::npos);
    flip(path, at);
  }
  std::filesystem::resize_file(path, size - 1);
  EXPECT_NE(error_of([&] { recorded(tiny_offer(1), folder.path()); }), "no error");
  std::filesystem::remove(path);
  recorded(tiny_offer(1), folder.path());
  std::filesystem::permissions(path, std::filesystem::perms::group_read, std::filesystem::perm_options::add);
  EXPECT_NE(error_of([&] { recorded(tiny_offer(1), folder.path()); }).find("expected mode 0600"), std::string::npos);
}

// ---- Damage ------------------------------------------------------------------------------------------------------------

// As above, of public weights: flipped in each of their parts.
TEST(ModelStore, a_flipped_byte_of_public_weights_is_found_and_fetched_again) {
  TemporaryFolder folder;
  const auto store = folder.path() / "store", state = folder.path() / "state";
  const OfferedModel model = recorded(open_offer(), state);
  std::vector<TokenId> answer;
  {
    LoneHelper helper(store);
    TestProvider provider(helper, recorded(open_offer(), state));
    provider.register_model();
    answer = provider.answer();
    ASSERT_EQ(answer.size(), 4u);
  }
  const auto path = file_of(store, ".model");
  const StoredFile stored = StoredFile::open(path, File::Mode::read);
  EXPECT_EQ(stored.offer.packings, packings_of(model.weights, model.plan));
  for (const Segment& segment : segments_of(model.plan, stored.offer.packings)) {
    for (const std::uint64_t at :
         {std::uint64_t{0}, std::uint64_t{segment.cols}, segment.packed_at(), segment.bytes() - 1}) {
      flip(path, stored.v_at + segment.offset + at);
      LoneHelper helper(store);
      EXPECT_NE(helper.notes.text().find("is damaged: 1 of"), std::string::npos) << helper.notes.text();
      TestProvider provider(helper, recorded(open_offer(2), state));
      provider.register_model();
      EXPECT_EQ(provider.sent(), 1u);
    }
  }
  LoneHelper helper(store);
  TestProvider provider(helper, recorded(open_offer(), state));
  provider.register_model();
  EXPECT_EQ(provider.answer(), answer);
}

// A byte of the head, of the table, of each chunk: found at the start, named, and only what is damaged comes again.
TEST(ModelStore, a_flipped_byte_anywhere_is_found_and_fetched_again) {
  TemporaryFolder folder;
  const OfferedModel model = recorded(tiny_offer(1), folder.path() / "state");
  const auto store = folder.path() / "store";
  {
    LoneHelper helper(store);
    TestProvider(helper, recorded(tiny_offer(2), folder.path() / "state")).register_model();
  }
  const auto path = file_of(store, ".model");
  const StoredFile stored = StoredFile::open(path, File::Mode::read);
  const std::uint32_t chunks = chunks_of(model);
  std::uint32_t length = 0;
  ASSERT_TRUE(stored.file.read(12, {reinterpret_cast<std::uint8_t*>(&length), 4}));
  std::map<std::uint64_t, std::size_t> places;  // offset -> chunks that come again
  for (std::uint64_t at = 0; at < 16 + length + 32; at += at < 16 ? 1 : 29) places[at] = chunks;
  for (std::uint32_t i = 0; i < 32; i += 31) places[stored.table_at + i] = 0;  // the digest
  for (std::uint32_t i = 0; i < chunks; ++i) {
    places[stored.table_at + 32 * (i + 1) + i % 32] = 1;
    places[stored.v_at + std::uint64_t{i} * k_chunk + 7 * i] = 1;
  }
  places[stored.size() - 1] = 1;
  for (const auto& [at, again] : places) {
    flip(path, at);
    LoneHelper helper(store);
    EXPECT_NE(helper.notes.text().find(path.filename().string()), std::string::npos) << at;
    EXPECT_NE(helper.notes.text().find(again == chunks ? "is not used" : "is damaged"), std::string::npos)
        << at << " " << helper.notes.text();
    auto link = helper.dial(user_named("alice"));
    Channel user(*link, 0, k_long);
    user.send(PairHello{1, "", model.model_id, model.plan.hash(), 1, false, Seed{}});
    EXPECT_NE(error_of([&] { user.receive(PairAccepted{}); }).find("does not hold model"), std::string::npos) << at;
    TestProvider provider(helper, recorded(tiny_offer(2), folder.path() / "state"));
    provider.register_model();
    EXPECT_EQ(provider.sent(), again) << at;
  }
  std::filesystem::resize_file(path, stored.size() - k_chunk);
  {
    LoneHelper helper(store);
    TestProvider provider(helper, recorded(tiny_offer(2), folder.path() / "state"));
    provider.register_model();
    EXPECT_LE(provider.sent(), 2u);
    EXPECT_EQ(provider.answer(), expected_answer());
  }
  std::filesystem::resize_file(path, stored.size() + 1);
  LoneHelper helper(store);
  EXPECT_NE(helper.notes.text().find("its digest or size"), std::string::npos) << helper.notes.text();
}

// A model that an earlier release stored is told and left; it comes afresh, in its place.
TEST(ModelStore, a_model_of_another_version_is_told_and_comes_afresh) {
  TemporaryFolder folder;
  const auto store = folder.path() / "store";
  {
    LoneHelper helper(store);
    TestProvider(helper, tiny_offer()).register_model();
  }
  const auto path = file_of(store, ".model");
  {
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(8);
    file.put(2);
  }
  LoneHelper helper(store);
  EXPECT_NE(helper.notes.text().find("is not used: "), std::string::npos) << helper.notes.text();
  EXPECT_NE(helper.notes.text().find("version: 2, expected 3"), std::string::npos) << helper.notes.text();
  TestProvider provider(helper, tiny_offer());
  provider.register_model();
  EXPECT_EQ(provider.sent(), chunks_of(tiny_offer()));
  EXPECT_EQ(provider.answer(), expected_answer());
}

TEST(ModelStore, a_store_of_another_version_or_in_use_is_refused) {
  TemporaryFolder folder;
  Executor executor(1);
  const auto open = [&] { ModelStore(folder.path(), executor, [](const std::string&) {}); };
  {
    LoneHelper helper(folder.path());
    EXPECT_NE(error_of(open).find("another helper runs on this store"), std::string::npos);
  }
  EXPECT_EQ(error_of(open), "no error");
  for (std::uint64_t at = 0; at < 16; ++at) {
    flip(folder.path() / "store", at);
    EXPECT_NE(error_of(open).find("expected \"permllm store 1\""), std::string::npos);
    flip(folder.path() / "store", at);
  }
  folder.write("store", bytes_of("permllm store 2\n"));
  EXPECT_NE(error_of(open).find("another version"), std::string::npos);
  folder.write("file", {1});
  EXPECT_NE(error_of([&] { ModelStore(folder.path() / "file", executor, [](const std::string&) {}); }), "no error");
}

// ---- A full disk -------------------------------------------------------------------------------------------------------

TEST(ModelStore, a_full_disk_is_named_and_nothing_that_came_before_is_lost) {
  TemporaryFolder folder;
  const std::uint32_t chunks = chunks_of(tiny_offer());
  LoneHelper helper(folder.path() / "store");
  TestProvider other(helper, tiny_offer(7));
  other.register_model();
  const StoredFile stored = StoredFile::open(file_of(folder.path() / "store", ".model"), File::Mode::read);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{stored.v_at + 4 * k_chunk + 1000, before.rlim_max};
  {
    TestProvider provider(helper, recorded(tiny_offer(1), folder.path() / "state"));
    setrlimit(RLIMIT_FSIZE, &small);
    const std::string error = error_of([&] { provider.register_model(); });
    setrlimit(RLIMIT_FSIZE, &before);
    EXPECT_NE(error.find(tiny_offer(1).model_id + ".part"), std::string::npos) << error;
    EXPECT_NE(error.find("bytes at"), std::string::npos) << error;
    EXPECT_NE(error.find("cannot be written"), std::string::npos) << error;
  }
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(other.answer(), expected_answer());
  TestProvider provider(helper, recorded(tiny_offer(1), folder.path() / "state"));
  provider.register_model();
  EXPECT_EQ(provider.sent(), chunks - 4);
  EXPECT_EQ(provider.answer(), expected_answer());
}

// ---- Hostile providers -------------------------------------------------------------------------------------------------

ModelChunk chunk_of(const OfferedModel& model, std::uint32_t number) {
  ModelChunk chunk{number, {}, Bytes(model_offer(model).chunk_bytes(number))};
  MaskedModel(model.weights, model.plan, model.mask_seed).fill(std::uint64_t{number} * model.chunk, chunk.bytes);
  chunk.hash = chunk_hash(chunk.bytes);
  return chunk;
}

// What a helper says to an offer and chunks.
std::string refusal_of(LoneHelper& helper, const ModelOffer& offer, const std::vector<ModelChunk>& chunks,
                       const ModelEnd& end = {}) {
  auto link = helper.dial(k_provider);
  Channel channel(*link, 0, k_long);
  return error_of([&] {
    channel.send(offer);
    const std::uint32_t all = offer.chunk == 0 ? 1 : offer.chunks();
    for (std::size_t told = 0; told < all;) told += channel.receive(ModelHeld{}).hashes.size();
    for (const ModelChunk& chunk : chunks) channel.send(chunk);
    channel.send(end);
    for (std::size_t i = 0; i < chunks.size(); ++i) channel.receive(ModelTaken{});
    channel.receive(ModelStored{});
  });
}

TEST(ModelStore, an_offer_that_does_not_fit_its_plan_is_named) {
  TemporaryFolder folder;
  LoneHelper helper(folder.path());
  const OfferedModel model = tiny_offer();
  const ModelOffer good = model_offer(model);
  const auto said = [&](const auto& change) {
    ModelOffer offer = good;
    change(offer);
    return refusal_of(helper, offer, {});
  };
  for (const std::string id : {"../../../../etc/passwd", "", "A"}) {
    EXPECT_EQ(said([&](ModelOffer& o) { o.model_id = id; }), "peer: ModelOffer.model_id: expected 64 hex digits");
  }
  EXPECT_EQ(said([](ModelOffer& o) { o.model_id[3] = '/'; }), "peer: ModelOffer.model_id: expected 64 hex digits");
  EXPECT_EQ(said([](ModelOffer& o) { ++o.bytes; }),
            fmt::format("peer: ModelOffer.bytes: {}, the plan says {}", good.bytes + 1, good.bytes));
  for (const std::uint32_t chunk : {0u, 64u, 4097u, ModelOffer::k_most_chunk + 64}) {
    EXPECT_EQ(said([&](ModelOffer& o) { o.chunk = chunk; }),
              fmt::format("peer: ModelOffer.chunk: {}, expected a multiple of 64 from 1024 to 4194304", chunk));
  }
  // A plan of terabytes: refused with both numbers, before anything is taken.
  const auto huge = [](ModelOffer& o) {
    o.plan.config.ff = 1 << 19;
    o.plan.config.width = 1 << 16;
    o.plan.config.vocab = 1 << 15;
    o.bytes = masked_model_bytes(o.plan);
    o.chunk = ModelOffer::k_most_chunk;
  };
  ModelOffer large = good;
  huge(large);
  const std::string error = said(huge);
  EXPECT_NE(error.find(fmt::format("ModelOffer.bytes: the model takes {} bytes of the helper's disk, ", large.bytes)),
            std::string::npos)
      << error;
  EXPECT_NE(error.find(" are free"), std::string::npos) << error;
  EXPECT_EQ(said([&](ModelOffer& o) { huge(o), o.chunk = 1024; }),
            fmt::format("peer: ModelOffer.chunk: 1024: {} bytes would be more than 1048576 chunks", large.bytes));
  EXPECT_EQ(file_of(folder.path(), ".part"), "");
  EXPECT_EQ(file_of(folder.path(), ".model"), "");
  TestProvider(helper, tiny_offer()).register_model();
  EXPECT_NE(said([](ModelOffer& o) { o.chunk *= 2; }).find("peer: ModelOffer: model "), std::string::npos);
  EXPECT_NE(said([](ModelOffer& o) { o.plan.slots = 15; }).find("peer: ModelOffer: model "), std::string::npos);
}

TEST(ModelStore, chunks_that_do_not_fit_the_offer_are_named_and_the_next_provider_is_served) {
  TemporaryFolder folder;
  LoneHelper helper(folder.path());
  const OfferedModel model = tiny_offer();
  const ModelOffer offer = model_offer(model);
  const std::uint32_t last = offer.chunks() - 1;
  std::vector<ModelChunk> all;
  for (std::uint32_t i = 0; i <= last; ++i) all.push_back(chunk_of(model, i));
  const auto changed = [&](std::uint32_t number, const auto& change) {
    ModelChunk chunk = all[number];
    change(chunk);
    return chunk;
  };
  EXPECT_EQ(refusal_of(helper, offer, {changed(0, [&](ModelChunk& c) { c.number = last + 1; })}),
            fmt::format("peer: ModelChunk.number: {}, expected at least 0 and less than {}", last + 1, last + 1));
  EXPECT_EQ(refusal_of(helper, offer, {all[2], all[2]}),
            fmt::format("peer: ModelChunk.number: 2, expected at least 3 and less than {}", last + 1));
  EXPECT_EQ(refusal_of(helper, offer, {all[3], all[1]}),
            fmt::format("peer: ModelChunk.number: 1, expected at least 4 and less than {}", last + 1));
  EXPECT_EQ(refusal_of(helper, offer, {changed(0, [](ModelChunk& c) { c.bytes.push_back(0); })}),
            "peer: ModelChunk.bytes: 4097 of them in chunk 0, expected 4096");
  EXPECT_EQ(refusal_of(helper, offer, {changed(last, [](ModelChunk& c) { c.bytes.pop_back(); })}),
            fmt::format("peer: ModelChunk.bytes: {} of them in chunk {}, expected {}", offer.chunk_bytes(last) - 1,
                        last, offer.chunk_bytes(last)));
  EXPECT_EQ(refusal_of(helper, offer, {changed(1, [](ModelChunk& c) { c.bytes[9] ^= 1; })}),
            "peer: ModelChunk.hash: is not that of the bytes of chunk 1");
  EXPECT_EQ(refusal_of(helper, offer, {changed(1, [](ModelChunk& c) { c.hash[9] ^= 1; })}),
            "peer: ModelChunk.hash: is not that of the bytes of chunk 1");
  EXPECT_EQ(refusal_of(helper, offer, {all[0]}).find("peer: ModelEnd: chunk 1 of"), 0u);  // 2 and 3 are there by now
  EXPECT_NE(refusal_of(helper, offer, all).find("peer: ModelEnd.digest: "), std::string::npos);
  EXPECT_EQ(file_of(folder.path(), ".model"), "");
  EXPECT_NE(helper.notes.text().find("of them in chunk"), std::string::npos);
  TestProvider provider(helper, tiny_offer());
  provider.register_model();
  EXPECT_EQ(provider.answer(), expected_answer());
  // What is complete cannot be changed.
  ModelChunk other = all[2];
  other.bytes[0] ^= 1;
  other.hash = chunk_hash(other.bytes);
  EXPECT_EQ(refusal_of(helper, offer, {other}),
            fmt::format("peer: ModelChunk.hash: chunk 2 of model {:.8} is here with another", offer.model_id));
  EXPECT_EQ(provider.answer(), expected_answer());
}

// Public weights come as their provider packed them: what no provider packs is refused, and the next one is served.
TEST(ModelStore, public_weights_that_no_provider_packs_are_named) {
  TemporaryFolder folder;
  LoneHelper helper(folder.path() / "store");
  const OfferedModel model = open_offer();
  const ModelOffer good = model_offer(model);
  const auto offered = [&](const auto& change) {
    ModelOffer offer = good;
    change(offer);
    return refusal_of(helper, offer, {});
  };
  const std::size_t matrices = good.packings.size();
  for (const int bits : {0, 7, 9, 16, 255}) {
    const std::string error = offered([&](ModelOffer& o) { o.packings[2] = static_cast<std::uint8_t>(bits); });
    EXPECT_TRUE(error.starts_with(fmt::format("peer: ModelOffer.packings: {} of matrix 2 of ", bits))) << error;
  }
  EXPECT_EQ(offered([](ModelOffer& o) { o.packings.pop_back(); }),
            fmt::format("peer: ModelOffer.packings: {} of them, expected {}", matrices - 1, matrices));
  EXPECT_EQ(offered([](ModelOffer& o) { o.packings.push_back(12); }),
            fmt::format("peer: ModelOffer.packings: {} of them, expected {}", matrices + 1, matrices));
  EXPECT_EQ(refusal_of(helper,
                       [&] {
                         ModelOffer o = model_offer(tiny_offer());
                         o.packings = {12};
                         return o;
                       }(),
                       {}),
            "peer: ModelOffer.packings: 1 of them, expected 0");
  EXPECT_NE(offered([](ModelOffer& o) { o.packings[2] = 8; }).find("peer: ModelOffer.bytes: "), std::string::npos);
  // Shifts of columns and rows, the least and the last; and packed bytes that are no weights of anybody.
  const std::vector<Segment> segments = segments_of(model.plan, good.packings);
  const Bytes whole = whole_of(model);
  const auto said = [&](std::uint64_t at, std::uint8_t byte) {
    Bytes bytes = whole;
    bytes[at] = byte;
    std::vector<ModelChunk> chunks;
    std::vector<Digest> hashes;
    for (std::uint32_t i = 0; i < good.chunks(); ++i) {
      const auto from = bytes.begin() + std::ptrdiff_t{i} * good.chunk;
      ModelChunk chunk{i, {}, Bytes(from, from + static_cast<std::ptrdiff_t>(good.chunk_bytes(i)))};
      hashes.push_back(chunk.hash = chunk_hash(chunk.bytes));
      chunks.push_back(std::move(chunk));
    }
    return refusal_of(helper, good, chunks, {model_digest(good, hashes)});
  };
  for (const Segment& segment : {segments[0], segments[3], segments.back()}) {
    for (const std::uint64_t at :
         {std::uint64_t{0}, segment.cols - 1, std::uint64_t{segment.cols}, segment.cols + segment.rows - 1}) {
      EXPECT_EQ(said(segment.offset + at, 7),
                fmt::format("peer: matrix {}: a row or column shifted by 7 bits, expected 6 at most", segment.id));
    }
    EXPECT_NE(said(segment.offset, 255).find("shifted by 255 bits"), std::string::npos);
  }
  EXPECT_EQ(file_of(folder.path() / "store", ".model"), "");
  TestProvider provider(helper, open_offer());
  provider.register_model();
  EXPECT_EQ(provider.answer().size(), 4u);
  // The same model in other bits is another.
  EXPECT_NE(offered([](ModelOffer& o) {
              o.packings[2] = 8;
              o.bytes = masked_model_bytes(o.plan, o.packings);
            }).find("peer: ModelOffer: model "),
            std::string::npos);
}

// A provider whose old connection has not ended yet is not kept waiting; the old one can write no more.
TEST(ModelStore, a_second_offer_takes_over_from_the_first) {
  TemporaryFolder folder;
  LoneHelper helper(folder.path());
  const OfferedModel model = tiny_offer();
  auto link = helper.dial(k_provider);
  Channel old(*link, 0, k_long);
  old.send(model_offer(model));
  for (std::size_t told = 0; told < chunks_of(model);) told += old.receive(ModelHeld{}).hashes.size();
  TestProvider provider(helper, tiny_offer());
  provider.register_model();
  old.send(chunk_of(model, 0));
  EXPECT_NE(error_of([&] { old.receive(ModelStored{}); }).find("the same model was offered over another connection"),
            std::string::npos);
  EXPECT_EQ(provider.answer(), expected_answer());
}

// What a provider does not believe.
TEST(ModelStore, a_helper_that_names_too_many_chunks_is_named) {
  auto [near, far] = memory_links();
  const std::uint32_t chunks = chunks_of(tiny_offer());
  Executor executor(1);
  ProviderService provider(
      tiny_offer(), executor, k_long, [&, link = &near] { return std::move(*link); }, [](const std::string&) {});
  const std::jthread helper([&, link = far.get()] {
    Channel channel(*link, 0, k_long);
    channel.receive_any("offer", k_max_payload);
    channel.send(ModelHeld{std::vector<Digest>(3)});
  });
  EXPECT_EQ(error_of([&] { provider.register_model(nullptr); }),
            fmt::format("ModelHeld.hashes: 3 of them, expected {}", std::min<std::size_t>(ModelHeld::k_step, chunks)));
}

}  // namespace
}  // namespace permllm::test
