#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "cli/offer_options.h"
#include "support/small_model.h"
#include "support/tiny_models.h"

namespace permllm::test {
namespace {

std::string error_of(const TemporaryFolder& folder, bool ids_only = false) {
  try {
    read_vocabulary(ModelFile::open(folder.path()), ids_only);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::file);
    return error.what();
  }
  return "no error";
}

// A sentencepiece model: a ModelProto of pieces, each with a text, a score and a type.
FileBytes sentencepiece_model(const std::vector<std::pair<std::string, char>>& pieces) {
  std::string model;
  for (const auto& [text, type] : pieces) {
    std::string piece =
        "\x0a" + std::string(1, static_cast<char>(text.size())) + text + std::string("\x15\0\0\0\0\x18", 6) + type;
    model += "\x0a" + std::string(1, static_cast<char>(piece.size())) + piece;
  }
  return bytes_of(model);
}

TEST(ReadVocabulary, a_folder_without_its_tokenizer_is_refused_but_for_ids) {
  SmallModel model = small_chatglm_6b();
  model.settings["eos_token_id"] = 4;
  const TemporaryFolder folder;
  folder.write(model);
  EXPECT_NE(error_of(folder).find("ice_text.model: is missing"), std::string::npos);
  const Tokenizer tokenizer(read_vocabulary(ModelFile::open(folder.path()), true));
  const std::vector<TokenId> ids{3, 1};
  EXPECT_EQ(tokenizer.decode(ids), "<3><1>");
  EXPECT_TRUE(tokenizer.is_end(4));
  EXPECT_FALSE(tokenizer.is_end(3));
  EXPECT_TRUE(tokenizer.encode("text", false).empty());
  for (const nlohmann::json& bad : std::vector<nlohmann::json>{nullptr, Small::vocab, -1, "4"}) {
    model.settings["eos_token_id"] = bad;
    folder.write(model);
    EXPECT_EQ(error_of(folder, true).rfind("config.json: eos_token_id: ", 0), 0u) << bad;
  }
}

// The first release of ChatGLM-6B has ids of images before those of its tokenizer: config.json says where <sop> is.
TEST(ReadVocabulary, the_tokenizer_of_a_folder_may_stand_behind_images) {
  SmallModel model = small_chatglm_6b();
  const TemporaryFolder folder;
  folder.write("ice_text.model", sentencepiece_model({{"<unk>", 2}, {"[gMASK]", 3}, {"<sop>", 3}, {"<eop>", 3}}));
  for (const std::size_t images : {0, 2}) {
    model.settings["vocab_size"] = 4 + images;
    model.settings["bos_token_id"] = 2 + images;
    folder.write(model);
    const Vocabulary vocabulary = read_vocabulary(ModelFile::open(folder.path()));
    EXPECT_EQ(vocabulary.bos, 2 + images);
    EXPECT_EQ(vocabulary.eos, 3 + images);
    EXPECT_EQ(vocabulary.tokens.size(), 4 + images);
    EXPECT_EQ(vocabulary.chat_template, "chatglm-6b");
  }
  model.settings.erase("bos_token_id");
  folder.write(model);
  EXPECT_EQ(error_of(folder).rfind("config.json: bos_token_id: ", 0), 0u);
}

// A table may have more rows than there are tokens, as padded ones do, and not fewer: the id of a token without a row leads beyond it.
TEST(ReadVocabulary, each_token_has_a_row_of_the_embedding_table) {
  const auto read = [](std::uint64_t rows) -> std::string {
    try {
      read_vocabulary(Gguf::parse(tiny_llama({.rows = rows}).finish()));
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::file);
      return error.what();
    }
    return "no error";
  };
  EXPECT_EQ(read(260), "no error");
  EXPECT_EQ(read(320), "no error");
  EXPECT_EQ(read(259), "tokenizer.ggml.tokens: 260 tokens, the embedding table has 259 rows: each token needs one");
  SmallModel model = small_chatglm_6b();
  model.settings["bos_token_id"] = 2;
  const TemporaryFolder folder;
  folder.write("ice_text.model",
               sentencepiece_model({{"<unk>", 2}, {"[gMASK]", 3}, {"<sop>", 3}, {"<eop>", 3}, {"a", 1}, {"b", 1}}));
  folder.write(model);
  EXPECT_EQ(error_of(folder), "ice_text.model: 6 tokens, the embedding table has 5 rows: each token needs one");
}

TEST(ReadVocabulary, a_name_of_how_text_is_split_goes_with_byte_level_vocabularies_alone) {
  const auto read = [](const TinyOptions& options, const std::string& pre_tokenizer) -> std::string {
    try {
      return read_vocabulary(Gguf::parse(tiny_llama(options).finish()), false, pre_tokenizer).pre;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::usage);
      return error.field();
    }
  };
  EXPECT_EQ(read({.pre = "default"}, "tekken"), "tekken");
  EXPECT_EQ(read({.pieces = {"<unk>", "<s>", "</s>", "a"}}, "tekken"), "pre_tokenizer");
}

// Longrope's frequencies are those of the conversations that are offered; users see no others.
TEST(OfferModel, frequencies_are_chosen_by_the_context) {
  const std::string path = tiny_model("phi4-mini").path;
  Executor executor(1);
  const auto frequency = [&](std::size_t context) {
    const OfferedModel model = offer_model(path, {.context = context, .fused = false}, executor);
    EXPECT_TRUE(model.plan.config.rope_short.empty());
    return model.plan.config.rope[4];
  };
  const double own = std::pow(10000.0, -8.0 / 12);
  EXPECT_DOUBLE_EQ(frequency(32), own / 2);
  EXPECT_DOUBLE_EQ(frequency(33), own / 12);
}

// A small file can state heads of millions of rows in all: more columns than the kernels' sums hold.
TEST(ReadConfig, heads_of_more_rows_than_a_matrix_may_have_are_refused) {
  SmallModel model = small_gguf("llama");
  model.settings["attention.head_count"] = 1024;
  model.settings["attention.key_length"] = 4096;
  try {
    read_config(model.gguf());
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::unsupported);
    EXPECT_STREQ(error.what(), "llama.attention.head_count: 1024 heads of 4096, at most 131072 in all are supported");
  }
}

// v needs room in its ring to be lifted: where it is large, finer steps of rows give way, and then the model is refused.
TEST(OfferModel, finer_steps_give_way_where_the_rings_lack_room_and_are_told) {
  SmallModel model = small_chatglm_6b();
  model.settings["eos_token_id"] = 4;
  for (std::size_t l = 0; l < Small::layers; ++l) {
    const std::string p = "transformer.layers." + std::to_string(l) + ".";
    auto& gain = model.tensors[p + "input_layernorm.weight"].values;
    std::fill(gain.begin(), gain.end(), 1.0f);
    auto& qkv =
        model.tensors[p + "attention.query_key_value.weight"].values;  // rows without a mean, the first far larger
    for (std::size_t i = 0; i < qkv.size(); ++i) qkv[i] = (i % 2 == 0 ? 1.0f : -1.0f) * (i < Small::width ? 64 : 1);
  }
  Executor executor(2);
  std::vector<std::string> given_up;
  const auto bits_with = [&](float v) {
    for (std::size_t l = 0; l < Small::layers; ++l) {
      auto& bias = model.tensors["transformer.layers." + std::to_string(l) + ".attention.query_key_value.bias"].values;
      for (std::size_t h = 0; h < Small::heads; ++h)
        std::fill_n(bias.begin() + static_cast<std::ptrdiff_t>((3 * h + 2) * Small::head_dim), Small::head_dim, v);
    }
    const TemporaryFolder folder;
    folder.write(model);
    OfferOptions options;
    options.context = Small::context;
    options.ids_only = true;
    const OfferedModel offered = offer_model(folder.path(), options, executor);
    EXPECT_GE(offered.plan.lift_slack_bits(), k_least_lift_slack);
    EXPECT_EQ(offered.plan.layers[0].qkv, offered.weights.layers[0].qkv.frac());
    given_up = offered.given_up;
    return offered.plan.layers[0].qkv;
  };
  const int finest = bits_with(1);
  EXPECT_TRUE(given_up.empty());
  EXPECT_LT(bits_with(5000), finest);
  EXPECT_EQ(given_up.at(0).find(fmt::format("layer 0: {} bit", finest - bits_with(5000))), 0u) << given_up.at(0);
  try {
    bits_with(1e6);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("blk.0.attn_v"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace permllm::test
