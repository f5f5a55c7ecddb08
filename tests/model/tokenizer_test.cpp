#include "model/tokenizer.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <functional>
#include <random>

#include "permllm/error.h"
#include "support/gguf_writer.h"
#include "support/model.h"
#include "support/small_model.h"

namespace permllm::test {
namespace {

const Tokenizer& tokenizer() {
  static const Tokenizer shared(Vocabulary::read(Gguf::open(PERMLLM_TEST_MODEL)));
  return shared;
}

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2) bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

TEST(Tokenizer, agrees_with_hugging_face_on_nasty_strings) {
  const auto golden = read_json("tokenizer_golden.json");
  for (const auto& c : golden.at("cases")) {
    const std::string text = from_hex(c.at("hex"));
    EXPECT_EQ(tokenizer().encode(text, false), c.at("plain").get<std::vector<TokenId>>()) << c.at("hex");
    EXPECT_EQ(tokenizer().encode(text, true), c.at("special").get<std::vector<TokenId>>()) << c.at("hex");
  }
}

TEST(Tokenizer, text_survives_the_round_trip_byte_for_byte) {
  const auto golden = read_json("tokenizer_golden.json");
  for (const auto& c : golden.at("cases")) {
    const std::string text = from_hex(c.at("hex"));
    EXPECT_EQ(tokenizer().decode(tokenizer().encode(text, false)), text) << c.at("hex");
  }
}

TEST(Tokenizer, bytes_that_are_no_text_do_not_disturb) {
  std::mt19937 random(2);
  for (int i = 0; i < 300; ++i) {
    std::string bytes;
    for (auto n = random() % 40; n > 0; --n) bytes += static_cast<char>(random());
    const std::string back = tokenizer().decode(tokenizer().encode(bytes, false));
    // This vocabulary lacks tokens for bytes that UTF-8 never has; all others come back.
    std::string expressible;
    for (const char c : bytes) {
      if (!tokenizer().encode(std::string(1, c), false).empty()) expressible += c;
    }
    EXPECT_EQ(back, expressible);
  }
}

TEST(Tokenizer, a_long_run_takes_no_longer_than_its_length) {
  const auto begin = std::chrono::steady_clock::now();
  for (const char c : {'x', ' ', '7', '!'}) tokenizer().encode(std::string(1 << 20, c), false);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(60));  // quadratic work would take hours
}

// --- other kinds of vocabulary, small ones trained for this test (scripts/golden_tokenizer.py) ---

const nlohmann::json& families() {
  static const nlohmann::json shared = read_json("tokenizer_families.json");
  return shared;
}

std::vector<std::string> corpus() {
  std::vector<std::string> texts;
  for (const auto& hex : families().at("corpus")) texts.push_back(from_hex(hex));
  return texts;
}

std::vector<std::uint8_t> file_bytes(const std::string& name) {
  const std::string bytes = from_hex(families().at("files").at(name).at("file"));
  return {bytes.begin(), bytes.end()};
}

Vocabulary byte_level(const std::string& pre) {
  const auto& data = families().at("byte_level");
  Vocabulary v;
  v.model = "gpt2";
  v.pre = pre;
  v.tokens = data.at("tokens");
  v.types = data.at("types").get<std::vector<std::uint32_t>>();
  v.merges = data.at("merges");
  v.eos = static_cast<TokenId>(v.tokens.size());
  v.tokens.push_back("<|endoftext|>");
  v.types.push_back(k_control);
  return v;
}

Vocabulary table(
    const std::string& name, const std::function<void(GgufWriter&)>& add = [](GgufWriter&) {}) {
  const auto& data = families().at("tables").at(name);
  GgufWriter w;
  w.text("tokenizer.ggml.model", "llama");
  w.texts("tokenizer.ggml.tokens", data.at("tokens"));
  w.reals("tokenizer.ggml.scores", data.at("scores"));
  w.numbers("tokenizer.ggml.token_type", data.at("types"));
  w.number("tokenizer.ggml.bos_token_id", 1);
  w.number("tokenizer.ggml.eos_token_id", 2);
  if (!data.at("add_space_prefix").get<bool>()) w.boolean("tokenizer.ggml.add_space_prefix", false);
  add(w);
  return Vocabulary::read(Gguf::parse(w.finish()));
}

void expect_golden(const Tokenizer& tokenizer, const nlohmann::json& cases, const std::string& name,
                   TokenId shift = 0) {
  const std::vector<std::string> texts = corpus();
  ASSERT_EQ(cases.size(), texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    auto want = cases[i].get<std::vector<TokenId>>();
    for (TokenId& id : want) id += shift;
    EXPECT_EQ(tokenizer.encode(texts[i], false), want) << name << ": " << texts[i];
  }
}

TEST(Tokenizer, every_split_pattern_agrees_with_hugging_face) {
  const auto& cases = families().at("byte_level").at("cases");
  EXPECT_EQ(cases.size(), 7u);
  for (const auto& [pre, ids] : cases.items()) expect_golden(Tokenizer(byte_level(pre)), ids, pre);
  for (const auto& [other, same_as] : {std::pair("llama3", "llama-bpe"), std::pair("chatglm-bpe", "glm4"),
                                       std::pair("dbrx", "glm4"), std::pair("phi-2", "gpt-2")}) {
    expect_golden(Tokenizer(byte_level(other)), cases.at(same_as), other);
  }
}

TEST(Tokenizer, vocabularies_of_sentencepiece_agree_with_sentencepiece) {
  for (const auto& [name, data] : families().at("tables").items())
    expect_golden(Tokenizer(table(name)), data.at("cases"), name);
}

TEST(Tokenizer, files_of_sentencepiece_agree_with_sentencepiece) {
  for (const auto& [name, data] : families().at("files").items()) {
    expect_golden(Tokenizer(Vocabulary::read_sentencepiece(file_bytes(name))), data.at("cases"), name);
  }
}

TEST(Tokenizer, chatglm_s_tokens_may_stand_behind_image_tokens) {
  const Tokenizer tokenizer(Vocabulary::read_sentencepiece(file_bytes("chatglm"), 1000));
  expect_golden(tokenizer, families().at("files").at("chatglm").at("cases"), "chatglm", 1000);
  const std::string text = "a\n\tb    c";
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text, false)), text);
  EXPECT_TRUE(tokenizer.is_end(*tokenizer.control("<eop>")));
  EXPECT_EQ(tokenizer.bytes(5), "<image_5>");
  EXPECT_EQ(tokenizer.bytes(130527), "");  // the weights have more rows than the vocabulary has tokens
}

TEST(Tokenizer, chatglm_s_folder_says_how_many_ids_are_of_images) {
  const std::filesystem::path folder = std::filesystem::path(::testing::TempDir()) / "chatglm-vocabulary";
  std::filesystem::create_directories(folder);
  const auto write = [&](const char* name, const std::string& bytes) {
    std::ofstream(folder / name, std::ios::binary) << bytes;
  };
  const auto bytes = file_bytes("chatglm");
  const TokenId sop = *Vocabulary::read_sentencepiece(bytes).bos;
  write("model.safetensors", std::string("\x02\0\0\0\0\0\0\0", 8) + "{}");
  const auto error = [&] {
    try {
      read_vocabulary(ModelFile::open(folder));
      return std::string("none");
    } catch (const Error& e) {
      return e.field();
    }
  };
  const auto config = [&](TokenId bos) {
    auto settings = nlohmann::json(small_chatglm_6b().settings);
    settings.update({{"bos_token_id", bos}, {"vocab_size", 150528}});
    write("config.json", settings.dump());
  };
  config(sop + 1000);
  EXPECT_EQ(error(), "ice_text.model");
  write("ice_text.model", {bytes.begin(), bytes.end()});
  const Vocabulary v = read_vocabulary(ModelFile::open(folder));
  EXPECT_EQ(v.bos, sop + 1000);
  EXPECT_EQ(v.tokens[1000], "<unk>");
  config(3);
  EXPECT_EQ(error(), "config.json: bos_token_id");
  const auto other = file_bytes("bpe, normalised");
  write("ice_text.model", {other.begin(), other.end()});
  EXPECT_EQ(error(), "ice_text.model");
  std::filesystem::remove_all(folder);
}

std::string random_text(std::mt19937& random) {
  std::string text;
  for (auto n = random() % 30; n > 0; --n) {
    const unsigned range[] = {0x80, 0x800, 0x3000, 0xd800, 0x110000};
    unsigned code = static_cast<unsigned>(random()) % range[random() % 5];
    if ((code >= 0xd800 && code < 0xe000) || code == 0x2581) code = ' ';  // U+2581 means a blank to sentencepiece
    if (code < 0x80)
      text += static_cast<char>(code);
    else if (code < 0x800)
      text += {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
    else if (code < 0x10000)
      text += {static_cast<char>(0xe0 | code >> 12), static_cast<char>(0x80 | (code >> 6 & 63)),
               static_cast<char>(0x80 | (code & 63))};
    else
      text += {static_cast<char>(0xf0 | code >> 18), static_cast<char>(0x80 | (code >> 12 & 63)),
               static_cast<char>(0x80 | (code >> 6 & 63)), static_cast<char>(0x80 | (code & 63))};
  }
  return text;
}

TEST(Tokenizer, random_text_survives_the_round_trip_in_every_kind) {
  std::vector<Tokenizer> tokenizers;
  for (const char* pre : {"llama-bpe", "qwen2", "tekken", "gpt-4o"}) tokenizers.emplace_back(byte_level(pre));
  for (const char* name : {"llama", "gemma", "unused"}) tokenizers.emplace_back(table(name));
  tokenizers.emplace_back(Vocabulary::read_sentencepiece(file_bytes("unigram, bytes")));
  std::mt19937 random(3);
  for (int i = 0; i < 500; ++i) {
    const std::string text = random_text(random);
    std::string bytes;  // no UTF-8 at all
    for (auto n = random() % 20; n > 0; --n) bytes += static_cast<char>(random());
    for (const Tokenizer& t : tokenizers) {
      const auto ids = t.encode(text, false);
      ASSERT_EQ(t.decode(ids), text) << t.vocabulary().model << " " << t.vocabulary().pre;
      ASSERT_EQ(t.decode(t.encode(bytes, false)), bytes);
      // Token by token, as an answer comes.
      std::string streamed;
      for (const TokenId id : ids)
        streamed += streamed.empty() && id == ids[0] ? t.decode({&id, 1}) : std::string(t.bytes(id));
      if (!ids.empty() && !t.decode({ids.data(), 1}).empty()) {
        ASSERT_EQ(streamed, text);
      }
    }
  }
}

TEST(Tokenizer, a_long_run_in_pieces_takes_no_longer_than_its_length) {
  const Tokenizer bpe(table("llama")), unigram(Vocabulary::read_sentencepiece(file_bytes("unigram, normalised"))),
      tekken(byte_level("tekken"));
  const auto begin = std::chrono::steady_clock::now();
  for (const char c : {'x', ' ', 'e', '<', 'E'}) {
    for (const Tokenizer* t : {&bpe, &unigram, &tekken}) t->encode(std::string(1 << 18, c), true);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(30));  // quadratic work would take hours
}

TEST(Tokenizer, a_vocabulary_of_gemma_s_size_is_ready_in_no_time) {
  Vocabulary v;
  v.model = "llama";
  for (int i = 0; i < 262144; ++i) {
    v.tokens.push_back("\xe2\x96\x81piece" + std::to_string(i));
    v.types.push_back(i < 6000 ? k_control : k_normal);
    v.scores.push_back(static_cast<float>(-i));
  }
  const auto begin = std::chrono::steady_clock::now();
  const Tokenizer tokenizer(std::move(v));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));  // 0.2 s on an idle machine
}

TEST(Tokenizer, bos_and_ends_follow_the_file_and_the_family) {
  GgufWriter w;
  w.text("tokenizer.ggml.model", "gpt2");
  w.text("tokenizer.ggml.pre", "llama-bpe");
  w.texts("tokenizer.ggml.tokens",
          {"a", "<|begin_of_text|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>", "[other]", "<|im_end|>", "aa"});
  w.numbers("tokenizer.ggml.token_type", {1, 3, 1, 3, 3, 3, 4, 1});
  w.texts("tokenizer.ggml.merges", {"a a"});
  w.number("tokenizer.ggml.bos_token_id", 1);
  w.number("tokenizer.ggml.eos_token_id", 3);
  w.number("tokenizer.ggml.eot_token_id", 5);
  const Tokenizer tokenizer(Vocabulary::read(Gguf::parse(w.finish())));
  EXPECT_TRUE(tokenizer.vocabulary().add_bos);
  std::vector<bool> ends;
  for (TokenId id = 0; id < 8; ++id) ends.push_back(tokenizer.is_end(id));
  EXPECT_EQ(ends, (std::vector<bool>{false, false, true, true, true, true, true, false}));
  // Marks and ends are control tokens whatever type the file gives them: nobody can write them.
  EXPECT_EQ(tokenizer.encode("a<|eot_id|>a<|im_end|>", false), (std::vector<TokenId>{0, 0}));
  EXPECT_EQ(tokenizer.encode("a<|eot_id|>a<|im_end|>", true), (std::vector<TokenId>{0, 2, 0, 6}));
  EXPECT_TRUE(table("llama").add_bos);
  EXPECT_FALSE(byte_level("qwen2").add_bos);
}

// eos, bos, eot and eom are control tokens whatever type the file gives them: nobody can write them, and a template's own text has them.
TEST(Tokenizer, what_the_file_calls_a_mark_is_one) {
  for (const int type : {k_normal, k_unknown, k_user_defined, k_unused}) {
    GgufWriter w;
    w.text("tokenizer.ggml.model", "gpt2");
    w.text("tokenizer.ggml.pre", "qwen2");
    w.texts("tokenizer.ggml.tokens", {"a", "[B]", "[E]", "[T]", "[M]", "aa"});
    w.numbers("tokenizer.ggml.token_type", {1, type, type, type, type, 1});
    w.texts("tokenizer.ggml.merges", {"a a"});
    for (const auto& [name, id] : {std::pair("bos", 1), std::pair("eos", 2), std::pair("eot", 3), std::pair("eom", 4)})
      w.number(std::string("tokenizer.ggml.") + name + "_token_id", static_cast<std::uint64_t>(id));
    const Tokenizer tokenizer(Vocabulary::read(Gguf::parse(w.finish())));
    EXPECT_EQ(tokenizer.encode("aa[B]a[E]a[T]a[M]aa", false), (std::vector<TokenId>{5, 0, 0, 0, 5})) << type;
    EXPECT_EQ(tokenizer.encode("aa[B]a[E]a[T]a[M]aa", true), (std::vector<TokenId>{5, 1, 0, 2, 0, 3, 0, 4, 5})) << type;
    EXPECT_EQ(tokenizer.decode(std::vector<TokenId>{5, 1, 2, 3, 4}), "aa") << type;
  }
  for (const std::uint32_t type : {k_normal, k_user_defined}) {
    Vocabulary v = table("llama");
    v.types[1] = v.types[2] = type;
    const Tokenizer tokenizer(v);
    for (const TokenId id : tokenizer.encode("<s>x</s>", false)) EXPECT_GT(id, 2u) << type;
    EXPECT_EQ(tokenizer.control("</s>"), 2u);
  }
}

TEST(Tokenizer, a_normalisation_that_may_be_meant_or_not_is_refused) {
  try {
    table("llama", [](GgufWriter& w) { w.numbers("tokenizer.ggml.precompiled_charsmap", {1, 2}); });
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::unsupported);
    EXPECT_EQ(error.field(), "tokenizer.ggml.precompiled_charsmap");
  }
}

// Gemma 3 has a tag of HTML of this name, and its own begin of a text.
TEST(Tokenizer, what_begins_texts_elsewhere_is_text_where_the_file_names_another) {
  Vocabulary v = table("llama");
  ASSERT_EQ(v.tokens[1], "<s>");
  v.tokens[1] = "<bos>";
  const auto tag = static_cast<TokenId>(v.tokens.size());
  v.tokens.push_back("<s>");
  v.types.push_back(k_user_defined);
  v.scores.push_back(0);
  const auto has_tag = [&](const Vocabulary& vocabulary) {
    const auto ids = Tokenizer(vocabulary).encode("x<s>y", false);
    return std::find(ids.begin(), ids.end(), tag) != ids.end();
  };
  EXPECT_TRUE(has_tag(v));
  v.bos.reset();
  v.add_bos = false;
  EXPECT_FALSE(has_tag(v));
}

// Official files have both.
TEST(Tokenizer, of_tokens_of_one_text_the_first_is_found_and_an_empty_one_never) {
  for (const Vocabulary& good : {byte_level("qwen2"), table("llama"), table("gemma")}) {
    const std::string text = " the cat\n\n12 \xe2\x82\xac";
    const auto want = Tokenizer(good).encode(text, false);
    Vocabulary v = good;
    const auto add = [&](const std::string& token, std::uint32_t type) {
      v.tokens.push_back(token);
      v.types.push_back(type);
      if (!good.scores.empty()) v.scores.push_back(0);
    };
    for (int i = 0; i < 2; ++i) add("", k_normal);
    for (std::size_t id = 0; id < good.tokens.size(); ++id) add(good.tokens[id], good.types[id]);
    const Tokenizer tokenizer(v);
    EXPECT_EQ(tokenizer.encode(text, false), want);
    EXPECT_EQ(tokenizer.decode(want), text);
    const TokenId empty = static_cast<TokenId>(good.tokens.size()), again = empty + 2 + want.back();
    EXPECT_EQ(tokenizer.bytes(empty), "");
    EXPECT_EQ(tokenizer.bytes(again), tokenizer.bytes(want.back()));
    EXPECT_EQ(tokenizer.control(v.tokens[v.eos]), v.eos);
  }
  // Of marks the one that the file names.
  Vocabulary v = byte_level("qwen2");
  v.tokens.push_back("<|endoftext|>");
  v.types.push_back(k_control);
  for (const TokenId eos : {v.eos, v.eos + 1}) {
    v.eos = eos;
    EXPECT_EQ(Tokenizer(v).control("<|endoftext|>"), eos);
  }
}

// Without a name of how it splits text a byte-level vocabulary would put out other tokens than the model was trained on, without merges bytes.
TEST(Tokenizer, how_text_is_split_is_known_or_asked_for) {
  const auto read = [](const std::string& architecture, const char* pre, const std::string& option,
                       bool merges = true) {
    GgufWriter w;
    w.text("general.architecture", architecture);
    w.text("tokenizer.ggml.model", "gpt2");
    if (pre != nullptr) w.text("tokenizer.ggml.pre", pre);
    w.texts("tokenizer.ggml.tokens", {"a", "<eos>", "aa"});
    w.numbers("tokenizer.ggml.token_type", {1, 3, 1});
    if (merges) w.texts("tokenizer.ggml.merges", {"a a"});
    w.number("tokenizer.ggml.eos_token_id", 1);
    try {
      return Vocabulary::read(Gguf::parse(w.finish()), option).pre;
    } catch (const Error& error) {
      return std::string(error.what());
    }
  };
  for (const char* pre : {static_cast<const char*>(nullptr), "default", ""}) {
    EXPECT_EQ(read("gpt2", pre, ""), "gpt-2");
    EXPECT_EQ(read("llama", pre, "llama-bpe"), "llama-bpe");
    const std::string refused = read("llama", pre, "");
    EXPECT_EQ(refused.rfind("tokenizer.ggml.pre: is ", 0), 0u) << refused;
    EXPECT_NE(refused.find("--pre-tokenizer: gpt-2, "), std::string::npos) << refused;
  }
  EXPECT_EQ(read("llama", "qwen99", "qwen2"), "qwen2");
  EXPECT_EQ(read("llama", "qwen2", ""), "qwen2");
  EXPECT_EQ(read("llama", "qwen2", "", false).rfind("tokenizer.ggml.merges: there are none", 0), 0u);
  for (const std::string& name : pre_tokenizers()) Tokenizer{byte_level(name)};
}

// Each table spoilt in one way, and the key that the refusal names.
TEST(Tokenizer, tables_that_do_not_fit_are_refused_by_name) {
  const auto refused = [](const Vocabulary& good, const std::string& field,
                          const std::function<void(Vocabulary&)>& spoil) {
    Vocabulary v = good;
    spoil(v);
    try {
      const Tokenizer tokenizer(std::move(v));
      ADD_FAILURE() << field << " was taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.field(), field) << error.what();
    }
  };
  for (const Vocabulary& good : {byte_level("qwen2"), table("llama")}) {
    refused(good, "tokenizer.ggml.model", [](Vocabulary& v) { v.model = "bert"; });
    refused(good, "tokenizer.ggml.tokens", [](Vocabulary& v) { v.tokens.clear(), v.types.clear(); });
    refused(good, "tokenizer.ggml.token_type", [](Vocabulary& v) { v.types.pop_back(); });
    refused(good, "tokenizer.ggml.token_type", [](Vocabulary& v) { v.types[40] = 0; });
    refused(good, "tokenizer.ggml.token_type", [](Vocabulary& v) { v.types[40] = 7; });
    refused(good, "tokenizer.ggml.eos_token_id", [](Vocabulary& v) { v.eos = 1u << 20; });
    refused(good, "tokenizer.ggml.bos_token_id", [](Vocabulary& v) { v.bos = 1u << 20; });
    refused(good, "tokenizer.ggml.eot_token_id", [](Vocabulary& v) { v.ends = {1u << 20}; });
  }
  refused(byte_level("qwen2"), "tokenizer.ggml.pre", [](Vocabulary& v) { v.pre = "qwen99"; });
  // Texts could not have the character any more.
  refused(byte_level("qwen2"), "tokenizer.ggml.eos_token_id", [](Vocabulary& v) { v.eos = 0; });
  refused(byte_level("qwen2"), "tokenizer.ggml.bos_token_id", [](Vocabulary& v) { v.bos = 11; });
  refused(byte_level("qwen2"), "tokenizer.ggml.merges", [](Vocabulary& v) { v.merges[3] = "ab"; });
  refused(byte_level("qwen2"), "tokenizer.ggml.merges", [](Vocabulary& v) { v.merges[3] = "never heard"; });
  refused(byte_level("qwen2"), "tokenizer.ggml.merges", [](Vocabulary& v) { v.merges[3] = ""; });
  refused(table("llama"), "tokenizer.ggml.scores", [](Vocabulary& v) { v.scores.pop_back(); });
  refused(table("llama"), "tokenizer.ggml.scores", [](Vocabulary& v) { v.scores[5] = NAN; });
  refused(table("llama"), "tokenizer.ggml.token_type", [](Vocabulary& v) { v.types[10] = 1; });  // one byte less
  refused(table("llama"), "tokenizer.ggml.tokens", [](Vocabulary& v) { v.tokens[10] = "<0xag>"; });
  refused(table("llama"), "normalizer_spec.precompiled_charsmap", [](Vocabulary& v) { v.charsmap = "short"; });
}

TEST(Tokenizer, a_spoilt_file_of_sentencepiece_gives_an_error_or_a_tokenizer) {
  const std::vector<std::uint8_t> whole = file_bytes("bpe, normalised");
  std::size_t errors = 0;
  const auto attempt = [&](const std::vector<std::uint8_t>& bytes) {
    try {
      const Tokenizer tokenizer(Vocabulary::read_sentencepiece(bytes));
      tokenizer.decode(tokenizer.encode("The \xef\xac\x81rst, a\xcc\x81 \xef\xbc\x8c\xe3\x80\x80x", false));
    } catch (const Error&) {
      ++errors;
    }
  };
  for (std::size_t length = 0; length < whole.size(); length += 5)
    attempt({whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length)});
  EXPECT_GT(errors, whole.size() / 10);
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (const int value : {0x00, 0x7f, 0xff}) {
      auto bytes = whole;
      bytes[at] = static_cast<std::uint8_t>(value);
      attempt(bytes);
    }
  }
}

TEST(Utf8Stream, gives_whole_characters_only) {
  const std::string text = "aé東👍z";
  for (std::size_t cut_at = 0; cut_at <= text.size(); ++cut_at) {
    Utf8Stream stream;
    const std::string first = stream.push(text.substr(0, cut_at));
    EXPECT_EQ(valid_utf8(first), first);
    const std::string second = stream.push(text.substr(cut_at));
    EXPECT_EQ(first + second + stream.finish(), text);
  }
  Utf8Stream stream;
  EXPECT_EQ(stream.push("\xf0\x9f"), "");
  EXPECT_EQ(stream.finish(), "\xef\xbf\xbd\xef\xbf\xbd");
}

}  // namespace
}  // namespace permllm::test
