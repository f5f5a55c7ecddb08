#include "model/gguf.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>

#include "model/chat_format.h"
#include "model/load.h"
#include "model/tokenizer.h"
#include "support/gguf_writer.h"
#include "support/small_model.h"
#include "wire/link.h"

namespace permllm::test {
namespace {

// Everything that is done with a file before a session.
void use(std::vector<std::uint8_t> bytes) {
  Executor executor(1);
  const ModelFile file(Gguf::parse(std::move(bytes)));
  const Config config = read_config(file);
  const Tokenizer tokenizer(Vocabulary::read(*file.gguf()));
  ChatFormat::from_template(tokenizer.vocabulary().chat_template).encode(tokenizer, {{"user", "the"}});
  load_int_weights(file, executor);
}

std::string error_of(std::vector<std::uint8_t> bytes, Code code) {
  try {
    use(std::move(bytes));
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_EQ(error.exit_status(), 2);
    return error.what();
  }
  return "no error";
}

TEST(Gguf, reads_the_shape_of_the_test_model) {
  const Config c = read_config(Gguf::open(PERMLLM_TEST_MODEL));
  EXPECT_EQ(c.layers, 30u);
  EXPECT_EQ(c.width, 576u);
  EXPECT_EQ(c.heads, 9u);
  EXPECT_EQ(c.kv_heads, 3u);
  EXPECT_EQ(c.head_dim, 64u);
  EXPECT_EQ(c.ff, 1536u);
  EXPECT_EQ(c.vocab, 49152u);
  EXPECT_DOUBLE_EQ(c.rope[1], std::pow(100000.0, -1.0 / 32));
  EXPECT_TRUE(c.tied_head);
}

TEST(Gguf, a_tiny_model_is_taken) { EXPECT_NO_THROW(use(tiny_llama().finish())); }

TEST(Gguf, a_split_model_is_opened_whole_from_any_part) {
  const TemporaryFolder folder;
  const auto write = [&](const std::string& name, const std::vector<std::uint8_t>& bytes) {
    std::ofstream(folder.path() / name, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return folder.path() / name;
  };
  const auto error = [&](const std::filesystem::path& path) -> std::string {
    try {
      ModelFile::open(path);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Code::file);
      return std::string(e.what()).substr(path.parent_path().string().size() + 1);
    }
    return "no error";
  };
  const ModelFile whole = ModelFile::open(write("whole.gguf", tiny_llama().finish()));
  const auto files = [](std::size_t count, std::uint32_t layers = 2) {
    std::vector<std::vector<std::uint8_t>> all;
    for (GgufWriter& part : tiny_llama({.layers = layers}).split(count)) all.push_back(part.finish());
    return all;
  };
  const auto parts = files(3);
  const std::string names[] = {"m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"};
  for (std::size_t p = 0; p < 3; ++p) write(names[p], parts[p]);
  std::filesystem::create_symlink(names[1], folder.path() / "link.gguf");
  Executor executor(1);
  const FloatWeights want = load_float_weights(whole, executor);
  std::set<std::string> hashes;
  for (const std::string& name : {names[0], names[1], names[2], std::string("link.gguf")}) {
    const ModelFile file = ModelFile::open(folder.path() / name);
    EXPECT_EQ(file.tensors().size(), whole.tensors().size());
    const FloatWeights got = load_float_weights(file, executor);
    EXPECT_EQ(got.head.values, want.head.values);
    EXPECT_EQ(got.layers[1].down.values, want.layers[1].down.values);
    EXPECT_EQ(Vocabulary::read(*file.gguf()).tokens, Vocabulary::read(*whole.gguf()).tokens);
    hashes.insert(file.sha256());
  }
  EXPECT_EQ(hashes.size(), 1u);
  EXPECT_FALSE(hashes.contains(whole.sha256()));
  // The first part may hold no tensors, a part alone is a whole file.
  const auto one = files(1);
  EXPECT_EQ(ModelFile::open(write("one.gguf", one[0])).tensors().size(), whole.tensors().size());

  write(names[1], files(3, 3)[1]);
  EXPECT_EQ(error(folder.path() / names[0]).rfind(names[2] + ": tensor ", 0), 0u) << error(folder.path() / names[0]);
  write(names[1], files(2)[1]);
  EXPECT_EQ(error(folder.path() / names[0]), names[1] + ": says it is part 2 of 2, expected part 2 of 3");
  write(names[1], parts[2]);
  EXPECT_EQ(error(folder.path() / names[0]), names[1] + ": says it is part 3 of 3, expected part 2 of 3");
  write(names[1], {parts[1].begin(), parts[1].end() - 100});
  EXPECT_NE(error(folder.path() / names[0]).find("truncated"), std::string::npos);
  // Of another model that is cut alike: told where the part says of its model what the first does not.
  auto others = tiny_llama().split(3);
  others[1].text("general.name", "another");
  write(names[1], others[1].finish());
  EXPECT_EQ(error(folder.path() / names[2]),
            names[1] + ": general.name is not what the first part says: of another model?");
  std::filesystem::remove(folder.path() / names[1]);
  EXPECT_EQ(error(folder.path() / names[2]),
            names[2] + ": is part 3 of 3 of a split model, and part 2 is missing: " + names[1]);
  EXPECT_NE(error(write("renamed.gguf", parts[1])).find("does not end in -00002-of-00003.gguf"), std::string::npos);
}

TEST(Gguf, refusals_name_what_is_wrong) {
  EXPECT_NE(error_of(tiny_llama({.architecture = "mamba"}).finish(), Code::unsupported)
                .find("\"mamba\" is not supported; llama, qwen2, "),
            std::string::npos);
  EXPECT_NE(error_of(tiny_llama({.tokenizer = "t5"}).finish(), Code::unsupported).find("tokenizer.ggml.model"),
            std::string::npos);
  EXPECT_NE(error_of(tiny_llama({.pre = "deepseek-llm"}).finish(), Code::unsupported).find("\"deepseek-llm\""),
            std::string::npos);
  EXPECT_NE(error_of(tiny_llama({.chat_template = "USER:\n{% block x %}"}).finish(), Code::unsupported)
                .find("tokenizer.chat_template: line 2: the statement \"block\" is not supported"),
            std::string::npos);
  EXPECT_NE(error_of(tiny_llama({.tensor_type = 16}).finish(), Code::unsupported)
                .find("tensor blk.0.attn_q.weight: type IQ2_XXS"),
            std::string::npos);
  EXPECT_NE(error_of(tiny_llama({.kv_heads = 3}).finish(), Code::file).find("3 does not divide 4 heads"),
            std::string::npos);
  EXPECT_NE(error_of({'G', 'G', 'U', 'X', 0, 0, 0, 0}, Code::file).find("not a GGUF file"), std::string::npos);
  EXPECT_NE(error_of({}, Code::file).find("truncated"), std::string::npos);
}

// A small file with a value of every type and tensors of two; what `use` needs is not in it.
GgufWriter all_types() {
  GgufWriter w;
  w.scalar("a.u8", 0, std::uint8_t{200});
  w.scalar("a.i8", 1, std::int8_t{-3});
  w.scalar("a.u16", 2, std::uint16_t{60000});
  w.scalar("a.i16", 3, std::int16_t{300});
  w.number("a.u32", 4000000000u);
  w.scalar("a.i32", 5, std::int32_t{7});
  w.real("a.f32", 0.5f);
  w.boolean("a.bool", true);
  w.text("a.text", "words");
  w.scalar("a.u64", 10, std::uint64_t{1} << 40);
  w.scalar("a.i64", 11, std::int64_t{1} << 40);
  w.scalar("a.f64", 12, 0.1);
  w.texts("a.texts", {"one", "", "three"});
  w.numbers("a.numbers", {-1, 2});
  w.scalars("a.bytes", 0, std::vector<std::uint8_t>{1, 255});
  w.scalars("a.large", 10, std::vector<std::uint64_t>{1, ~std::uint64_t{0}});
  w.reals("a.reals", {0.5f, -1.0f});
  w.scalars("a.doubles", 12, std::vector<double>{0.1});
  w.scalars("a.flags", 7, std::vector<std::uint8_t>{0, 1});
  w.tensor("first", {32, 2}, 8, std::vector<std::uint8_t>(68, 1));
  w.tensor("second", {2, 3, 2, 2}, std::vector<float>(24, 1.0f));
  return w;
}

std::string field_at_fault(std::vector<std::uint8_t> bytes) {
  try {
    Gguf::parse(std::move(bytes));
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_status(), 2);
    return error.field();
  }
  return "no error";
}
std::string field_at_fault(GgufWriter writer) { return field_at_fault(writer.finish()); }

std::string field_at_fault(const std::function<void()>& access) {
  try {
    access();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::file);
    return error.field();
  }
  return "no error";
}

TEST(Gguf, typed_access_takes_any_width) {
  const Gguf file = Gguf::parse(all_types().finish());
  EXPECT_EQ(file.number("a.u8"), 200u);
  EXPECT_EQ(file.number("a.u16"), 60000u);
  EXPECT_EQ(file.number("a.i16"), 300u);
  EXPECT_EQ(file.number("a.u32"), 4000000000u);
  EXPECT_EQ(file.number("a.i32"), 7u);
  EXPECT_EQ(file.number("a.u64"), std::uint64_t{1} << 40);
  EXPECT_EQ(file.number("a.i64"), std::uint64_t{1} << 40);
  EXPECT_EQ(file.real("a.f32"), 0.5);
  EXPECT_EQ(file.real("a.f64"), 0.1);
  EXPECT_TRUE(file.boolean("a.bool"));
  EXPECT_EQ(file.string("a.text"), "words");
  EXPECT_EQ(file.strings("a.texts"), (std::vector<std::string>{"one", "", "three"}));
  EXPECT_EQ(file.numbers("a.numbers"), (std::vector<std::int64_t>{-1, 2}));
  EXPECT_EQ(file.numbers("a.bytes"), (std::vector<std::int64_t>{1, 255}));
  EXPECT_EQ(file.reals("a.reals"), (std::vector<double>{0.5, -1.0}));
  EXPECT_EQ(file.reals("a.doubles"), (std::vector<double>{0.1}));
  EXPECT_EQ(field_at_fault([&] { file.number("a.i8"); }), "a.i8");
  EXPECT_EQ(field_at_fault([&] { file.number("a.f32"); }), "a.f32");
  EXPECT_EQ(field_at_fault([&] { file.number("a.none"); }), "a.none");
  EXPECT_EQ(field_at_fault([&] { file.real("a.u32"); }), "a.u32");
  EXPECT_EQ(field_at_fault([&] { file.boolean("a.u8"); }), "a.u8");
  EXPECT_EQ(field_at_fault([&] { file.numbers("a.large"); }), "a.large");
  EXPECT_EQ(field_at_fault([&] { file.reals("a.numbers"); }), "a.numbers");
}

// Every count, length, type, extent and offset, set to all ones, to a number far too large, and cut off within.
TEST(Gguf, a_spoilt_field_is_named) {
  GgufWriter writer = all_types();
  const std::vector<std::uint8_t> whole = writer.finish();
  ASSERT_GT(writer.fields().size(), 70u);
  for (const GgufWriter::Field& field : writer.fields()) {
    auto bytes = whole;
    std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(field.at), field.bytes, std::uint8_t{0xff});
    EXPECT_EQ(field_at_fault(bytes), field.name);
    bytes = whole;
    bytes[field.at + field.bytes - 1] = 0x7f;
    EXPECT_EQ(field_at_fault(bytes), field.name);
    bytes.assign(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(field.at + field.bytes - 1));
    const std::string cut =
        field_at_fault(bytes);  // counts and lengths are held against what is left of the file first
    EXPECT_TRUE(cut == field.name || cut == field.name + ".length" || cut.ends_with("_count"))
        << cut << " for " << field.name;
  }
}

TEST(Gguf, contradictions_are_named) {
  const auto with = [](const std::function<void(GgufWriter&)>& change) {
    GgufWriter w;
    change(w);
    return field_at_fault(std::move(w));
  };
  const std::vector<float> values(64, 1.0f);
  EXPECT_EQ(with([](GgufWriter& w) { w.scalar("flag", 7, std::uint8_t{2}); }), "flag");
  EXPECT_EQ(with([](GgufWriter& w) { w.scalars("flags", 7, std::vector<std::uint8_t>{0, 1, 3}); }), "flags");
  EXPECT_EQ(with([](GgufWriter& w) { w.scalars("lists", 9, std::vector<std::uint64_t>{0, 0}); }), "lists.type");
  EXPECT_EQ(with([](GgufWriter& w) { w.number("twice", 1), w.number("twice", 2); }), "metadata[1].key");
  EXPECT_EQ(with([](GgufWriter& w) { w.number("line\nbreak", 1); }), "metadata[0].key");
  EXPECT_EQ(with([](GgufWriter& w) { w.number(std::string(257, 'k'), 1); }), "metadata[0].key");
  EXPECT_EQ(with([&](GgufWriter& w) { w.tensor("t", {64}, values), w.tensor("t", {64}, values); }), "tensor[1].name");
  EXPECT_EQ(with([&](GgufWriter& w) { w.tensor("\x1b[2J", {64}, values); }), "tensor[0].name");
  EXPECT_EQ(with([&](GgufWriter& w) { w.tensor("t", {}, values); }), "tensor t.dimensions");
  EXPECT_EQ(with([&](GgufWriter& w) { w.tensor("t", {2, 2, 2, 2, 4}, values); }), "tensor t.dimensions");
  EXPECT_EQ(with([&](GgufWriter& w) { w.tensor("t", {64, 0}, values); }), "tensor t.shape");
  EXPECT_EQ(with([&](GgufWriter& w) { w.tensor("t", {1u << 31, 1u << 31, 4}, values); }), "tensor t.shape");
  EXPECT_EQ(with([&](GgufWriter& w) { w.tensor("t", {std::uint64_t{1} << 40}, values); }), "tensor t.offset");
  EXPECT_EQ(with([&](GgufWriter& w) { w.tensor("t", {48}, 12, std::vector<std::uint8_t>(144)); }), "tensor t.shape");
  EXPECT_EQ(with([&](GgufWriter& w) { w.tensor("t", {72}, values); }), "tensor t.offset");  // 8 more than there are
  EXPECT_EQ(with([&](GgufWriter& w) { w.number("general.alignment", 0); }), "general.alignment");
  EXPECT_EQ(with([&](GgufWriter& w) { w.number("general.alignment", 12); }), "general.alignment");
  EXPECT_EQ(with([&](GgufWriter& w) { w.number("general.alignment", 1u << 17); }), "general.alignment");
  EXPECT_EQ(with([&](GgufWriter& w) { w.text("general.alignment", "32"); }), "general.alignment");
  const auto with_offset = [&](std::uint64_t offset, std::uint32_t type) {
    GgufWriter w;
    w.tensor("a", {64}, values);
    w.tensor("b", {16}, values, type);
    std::vector<std::uint8_t> bytes = w.finish();
    for (const GgufWriter::Field& field : w.fields()) {
      if (field.name == "tensor b.offset") std::memcpy(bytes.data() + field.at, &offset, field.bytes);
    }
    return field_at_fault(std::move(bytes));
  };
  EXPECT_EQ(with_offset(256, 0), "no error");
  EXPECT_EQ(with_offset(288, 0), "no error");
  EXPECT_EQ(with_offset(260, 0), "tensor b.offset");  // not aligned
  EXPECT_EQ(with_offset(224, 0), "tensor b.offset");  // overlaps a
  EXPECT_EQ(with_offset(std::uint64_t{1} << 20, 24),
            "tensor b.offset");  // past the end, of a type that is not supported
  EXPECT_EQ(with_offset(0, 0), "tensor b.offset");
}

TEST(Gguf, what_is_far_above_any_model_is_refused) {
  GgufWriter tensors;
  for (int i = 0; i <= 1 << 16; ++i) tensors.tensor("t" + std::to_string(i), {1}, 0, {0, 0, 0, 0});
  EXPECT_EQ(field_at_fault(std::move(tensors)), "tensor_count");
  GgufWriter values;
  for (int i = 0; i <= 1 << 16; ++i) values.boolean("v" + std::to_string(i), true);
  EXPECT_EQ(field_at_fault(std::move(values)), "metadata_count");
  GgufWriter lists;
  lists.scalars("a", 0, std::vector<std::uint8_t>(1 << 23));
  lists.scalars("b", 0, std::vector<std::uint8_t>((1 << 23) + 1));
  EXPECT_EQ(field_at_fault(std::move(lists)), "b.length");
}

// Every truncation, and every byte of header, metadata and tensor table set to several values: an Error or a model, never
// a crash, and no allocation beyond the file's size.
TEST(Gguf, a_spoilt_file_gives_an_error_or_a_model) {
  GgufWriter writer = tiny_llama({.layers = 1});
  const std::vector<std::uint8_t> whole = writer.finish();
  std::size_t errors = 0;
  const auto attempt = [&](std::vector<std::uint8_t> bytes) {
    try {
      const ModelFile file(Gguf::parse(std::move(bytes)));
      read_config(file);
      const Tokenizer tokenizer(Vocabulary::read(*file.gguf()));
      std::vector<float> row;
      for (const GgufTensor& tensor : file.tensors()) {
        row.resize(tensor.shape[0]);
        dequantize_row(tensor, 0, row);
      }
    } catch (const Error&) {
      ++errors;
    }
  };
  for (std::size_t length = 0; length < writer.info_end(); length += 3)
    attempt({whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length)});
  EXPECT_GT(errors, writer.info_end() / 4);
  for (std::size_t at = 0; at < writer.info_end(); ++at) {
    for (const int value : {0x00, 0x7f, 0xff}) {
      auto bytes = whole;
      bytes[at] = static_cast<std::uint8_t>(value);
      attempt(std::move(bytes));
    }
  }
}

}  // namespace
}  // namespace permllm::test
