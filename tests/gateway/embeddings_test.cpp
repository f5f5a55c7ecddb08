// Requests for vectors and their answers as data.
#include "gateway/embeddings.h"

#include <gtest/gtest.h>

namespace permllm::gateway {
namespace {

std::string refused(const char* path, const std::string& body) {
  try {
    Embeddings(path, body);
  } catch (const Error& error) {
    return error.field() + (error.code() == Code::unsupported ? " unsupported" : "");
  }
  return "accepted";
}
constexpr const char *k_openai = "/v1/embeddings", *k_ollama = "/api/embed", *k_one = "/api/embeddings";

TEST(Embeddings, texts_are_asked_for_one_by_one) {
  const Embeddings asked(k_openai, R"({"model":"m","input":["a","b"],"encoding_format":"float","user":"u"})");
  EXPECT_EQ(asked.model(), "m");
  const auto requests = asked.requests();
  ASSERT_EQ(requests.size(), 2u);
  EXPECT_EQ(requests[1].messages.at(0).content, "b");
  EXPECT_TRUE(requests[1].answer.hidden_state && !requests[1].chat && requests[1].max_tokens == 1u);
  EXPECT_EQ(Embeddings(k_ollama, R"({"input":"a","truncate":true,"keep_alive":"5m"})").requests().size(), 1u);
  EXPECT_EQ(Embeddings(k_one, R"({"model":"m","prompt":"a"})").requests().size(), 1u);
}

TEST(Embeddings, what_is_not_honoured_is_refused_by_name) {
  EXPECT_EQ(refused(k_openai, "{}"), "input");
  EXPECT_EQ(refused(k_openai, R"({"input":[]})"), "input");
  EXPECT_EQ(refused(k_openai, R"({"input":["a",""]})"), "input");
  EXPECT_EQ(refused(k_openai, R"({"input":[1,2]})"), "input unsupported");
  EXPECT_EQ(refused(k_openai, R"({"input":[[1,2]]})"), "input unsupported");
  EXPECT_EQ(refused(k_openai, R"({"input":"a","dimensions":5})"), "dimensions unsupported");
  EXPECT_EQ(refused(k_openai, R"({"input":"a","encoding_format":"int8"})"), "encoding_format");
  EXPECT_EQ(refused(k_openai, R"({"input":"a","truncate":true})"), "truncate");
  EXPECT_EQ(refused(k_one, R"({"input":"a"})"), "input");
}

TEST(Embeddings, a_vector_has_length_1_and_the_shape_of_its_interface) {
  Made made;
  made.choices.push_back({"", "", {}, Answer::End::length, "", {}, {3, 0, -4}});
  made.costs.cost.prompt_tokens = 5;
  const auto told = [&](const char* path, const char* body, std::size_t texts = 1) {
    return Embeddings(path, body).answer("m", std::vector<Made>(texts, made));
  };
  const Json all = told(k_openai, R"({"input":["a","b"]})", 2);
  EXPECT_EQ(all["data"][1]["index"], 1);
  EXPECT_NEAR(all["data"][1]["embedding"][0].get<double>(), 0.6, 1e-6);
  EXPECT_NEAR(all["data"][1]["embedding"][2].get<double>(), -0.8, 1e-6);
  EXPECT_EQ(all["usage"]["total_tokens"], 10);
  // 0.6, 0 and -0.8 as floats of four bytes.
  EXPECT_EQ(told(k_openai, R"({"input":"a","encoding_format":"base64"})")["data"][0]["embedding"], "mpkZPwAAAADNzEy/");
  EXPECT_EQ(told(k_ollama, R"({"input":"a"})")["embeddings"][0].size(), 3u);
  EXPECT_EQ(told(k_one, R"({"prompt":"a"})")["embedding"].size(), 3u);
}

}  // namespace
}  // namespace permllm::gateway
