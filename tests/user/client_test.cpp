// The public API against a provider and a helper of their own processes. Like any program that uses it, this one includes nothing else of the project.
#include <gtest/gtest.h>
#include <permllm/client.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <fstream>
#include <future>
#include <regex>
#include <thread>

#include "base/temporary_directory.h"

namespace {

using permllm::Answer;

std::string run(const std::string& arguments) {
  FILE* output = popen(("exec " PERMLLM_BINARY " " + arguments + " 2>&1").c_str(), "r");
  std::string text;
  for (std::array<char, 256> line; std::fgets(line.data(), static_cast<int>(line.size()), output) != nullptr;)
    text += line.data();
  EXPECT_EQ(pclose(output), 0) << text;
  return text;
}

// A party in a process of its own, ready to be dialled.
class Service {
 public:
  explicit Service(const std::string& arguments)
      : output_(popen(("echo $$; exec " PERMLLM_BINARY " " + arguments).c_str(), "r")) {
    std::array<char, 4096> line;
    if (std::fgets(line.data(), static_cast<int>(line.size()), output_) != nullptr) pid_ = std::stoi(line.data());
    while (std::fgets(line.data(), static_cast<int>(line.size()), output_) != nullptr) {
      const std::string event = line.data();
      std::smatch port;
      if (event.find("\"ready\"") == std::string::npos ||
          !std::regex_search(event, port, std::regex("\"port\":(\\d+)")))
        continue;
      address_ = "127.0.0.1:" + port[1].str();
      break;
    }
    EXPECT_FALSE(address_.empty());
    drain_ = std::jthread([this] {
      for (std::array<char, 4096> rest; std::fgets(rest.data(), static_cast<int>(rest.size()), output_) != nullptr;) {
      }
    });
  }
  ~Service() {
    if (pid_ > 0) kill(pid_, SIGTERM);
    drain_.join();
    pclose(output_);
  }
  const std::string& address() const { return address_; }

 private:
  FILE* output_;
  pid_t pid_ = -1;
  std::string address_;
  std::jthread drain_;
};

class PublicApi : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    temporary = std::make_unique<permllm::TemporaryDirectory>();
    folder = temporary->path();
    for (const char* role : {"helper", "provider"})
      run(std::string("keygen --role ") + role + " --out " + (folder / role).string());
    std::filesystem::copy(folder / "provider" / "certificate.pem", folder / "helper" / "peers" / "provider.pem");
    std::filesystem::copy(folder / "helper" / "certificate.pem", folder / "provider" / "peers" / "helper.pem");
    helper =
        std::make_unique<Service>("helper --events --listen 127.0.0.1:0 --identity " + (folder / "helper").string());
    provider =
        std::make_unique<Service>("provider --events --listen 127.0.0.1:0 --context 64 --identity " +
                                  (folder / "provider").string() + " --state " + (folder / "state").string() +
                                  " --helper " + helper->address() + " --model " PERMLLM_TINY_MODELS "/llama.gguf");
  }
  static void TearDownTestSuite() {
    provider.reset();
    helper.reset();
    temporary.reset();
  }
  static std::filesystem::path invite(const std::string& name, int tokens) {
    const auto path = folder / (name + ".invite");
    run("invite " + name + " --identity " + (folder / "provider").string() + " --provider-address " +
        provider->address() + " --helper-address " + helper->address() + " --tokens " + std::to_string(tokens) +
        " --out " + path.string());
    return path;
  }
  static std::size_t helpers_key_in(const std::filesystem::path& path, const std::string& key) {
    std::ifstream in(path);
    return std::string(std::istreambuf_iterator<char>(in), {}).find(key);
  }

  static inline std::unique_ptr<permllm::TemporaryDirectory> temporary;
  static inline std::filesystem::path folder;
  static inline std::unique_ptr<Service> helper, provider;
};

template <class F>
permllm::Error error_of(F f) {
  try {
    f();
  } catch (const permllm::Error& error) {
    return error;
  }
  ADD_FAILURE() << "nothing was thrown";
  return {permllm::Code::usage, "", ""};
}

TEST_F(PublicApi, answers_a_question_and_says_what_it_cost) {
  const auto path = invite("alice", 100);
  const permllm::Client client(path);
  EXPECT_EQ(client.model().architecture, "llama");
  EXPECT_EQ(client.model().profile, "paper");
  EXPECT_EQ(client.model().context, 64u);
  EXPECT_EQ(client.provider().address, provider->address());
  EXPECT_NE(helpers_key_in(path, client.helper().key), std::string::npos);
  EXPECT_EQ(client.views().provider,
            std::vector<std::string>{
                "uniform words, lengths and timing: how many tokens prompt and answer have, nothing of what they are"});
  EXPECT_EQ(client.tokens_left(), 100u);

  permllm::Conversation conversation = client.conversation();
  permllm::AnswerOptions options;
  options.max_tokens = 2;  // two turns fit the tiny model's context
  std::string streamed;
  const Answer first = conversation.ask("Is it so?", options, [&](std::string_view piece) { streamed += piece; });
  EXPECT_EQ(streamed, first.text);
  EXPECT_FALSE(first.text.empty());
  ASSERT_GT(first.cost.answer_tokens, 1u);
  EXPECT_EQ(first.cost.tokens_left, 100 - first.cost.answer_tokens);
  EXPECT_GE(first.cost.round_trips, first.cost.answer_tokens * client.model().layers);
  for (const Answer::Bytes& bytes :
       {first.cost.set_up, first.cost.online, first.cost.offline_provider, first.cost.offline_helper}) {
    EXPECT_GT(bytes.sent, 0u);
  }
  EXPECT_GT(first.cost.set_up.received, 0u);
  EXPECT_GT(first.cost.online.received, 0u);
  EXPECT_GT(first.cost.seconds, first.cost.offline_seconds + first.cost.first_token_seconds);

  // A second question has the first in its prompt; another conversation, or one that was reset, does not.
  const Answer second = conversation.ask("Y", options);
  EXPECT_GT(second.cost.prompt_tokens, first.cost.prompt_tokens);
  conversation.reset();
  const Answer again = conversation.ask("Is it so?", options);
  EXPECT_EQ(again.text, first.text);
  EXPECT_EQ(again.cost.prompt_tokens, first.cost.prompt_tokens);
  EXPECT_EQ(client.conversation().ask("Is it so?", options).text, first.text);
}

TEST_F(PublicApi, ids_answer_as_their_messages_do) {
  const permllm::Client client(invite("grace", 100));
  const std::vector<permllm::Message> messages{{"user", "Is it so?"}};
  const std::vector<std::uint32_t> ids = client.tokenize(messages);
  const permllm::AnswerOptions options{.max_tokens = 2};
  permllm::Conversation by_text = client.conversation(), by_ids = client.conversation();
  EXPECT_EQ(by_ids.room(ids), 0u);
  const Answer answer = by_text.answer(messages, options);
  EXPECT_EQ(by_ids.answer(ids, options).tokens, answer.tokens);
  EXPECT_EQ(answer.cost.prompt_tokens, ids.size());
  EXPECT_EQ(by_ids.in_common(ids), ids.size() - 1);
  EXPECT_EQ(by_ids.in_common(messages), ids.size() - 1);
  EXPECT_GT(by_ids.room(ids), 0u);
  EXPECT_EQ(by_ids.room(ids), by_text.room(messages));
  EXPECT_EQ(error_of([&] { by_ids.answer(std::vector<std::uint32_t>{1, 1000000}); }).field(), "ids");
  EXPECT_EQ(error_of([&] { by_ids.answer(std::vector<std::uint32_t>{}); }).field(), "text");
  EXPECT_EQ(by_ids.in_common(ids), ids.size() - 1) << "what was refused has ended the session";
}

TEST_F(PublicApi, progress_comes_in_order_in_the_thread_that_asks_and_ends_with_the_answer) {
  using Progress = permllm::AnswerProgress;
  const permllm::Client client(invite("heidi", 1000));
  std::vector<Progress> told;
  const auto note = [&, asks = std::this_thread::get_id()](const Progress& progress) {
    EXPECT_EQ(std::this_thread::get_id(), asks) << static_cast<int>(progress.stage);
    told.push_back(progress);
  };
  // The last of a stage says that all is there, and fractions never fall.
  const auto stages = [&] {
    std::vector<Progress::Stage> order;
    for (std::size_t i = 0; i < told.size(); ++i) {
      if (i == 0 || told[i].stage != told[i - 1].stage) order.push_back(told[i].stage);
      const bool last = i + 1 == told.size() || told[i + 1].stage != told[i].stage;
      const bool counted = told[i].stage == Progress::Stage::material || told[i].stage == Progress::Stage::prompt;
      if (!counted) continue;
      EXPECT_EQ(last ? told[i].fraction : 1, 1);
      EXPECT_GE(last ? 1 : told[i + 1].fraction, told[i].fraction);
      EXPECT_GE(last ? told[i].seconds : told[i + 1].seconds, told[i].seconds);
    }
    return order;
  };
  permllm::ConversationOptions options;
  options.ahead = 1;  // the rest is made while the answer comes, and what follows it
  options.next_prompt = 1;
  options.on_progress = note;
  permllm::Conversation conversation = client.conversation(options);
  const Answer answer = conversation.ask("Is it so?", {.max_tokens = 20});
  EXPECT_EQ(stages(), (std::vector{Progress::Stage::connecting, Progress::Stage::material, Progress::Stage::prompt,
                                   Progress::Stage::answer}));
  EXPECT_EQ(
      std::count_if(told.begin(), told.end(), [](const Progress& p) { return p.stage == Progress::Stage::answer; }),
      static_cast<std::ptrdiff_t>(answer.cost.answer_tokens));
  const std::size_t at_the_end = told.size();
  // An answer may have a listener of its own.
  std::size_t own = 0;
  const auto ids = client.tokenize(std::vector<permllm::Message>{{"user", "Y"}}, options);
  conversation.answer(ids, {.max_tokens = 1}, nullptr, [&](const Progress&) { ++own; });
  EXPECT_GT(own, 0u);
  conversation.reset();
  EXPECT_EQ(told.size(), at_the_end);
  // Material for nobody's question, in as many orders as it takes.
  told.clear();
  client.fill(1, 60, 20, note);
  EXPECT_EQ(stages(), std::vector{Progress::Stage::material});
}

TEST_F(PublicApi, a_further_question_finds_its_material_made) {
  const permllm::Client client(invite("eve", 100));
  for (const std::size_t next : {0, 19}) {
    permllm::ConversationOptions options;
    options.next_prompt = next;
    permllm::Conversation conversation = client.conversation(options);
    conversation.ask("Is it so?", {.max_tokens = 2});
    const auto ready = [&] {  // beyond what is burnt ahead
      const auto chains = client.stock();
      return std::any_of(chains.begin(), chains.end(),
                         [](const permllm::Client::Chain& chain) { return chain.busy && chain.prompt_tokens > 0; });
    };
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(next > 0 ? 30 : 1);
    while (!ready() && std::chrono::steady_clock::now() < end)
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_EQ(ready(), next > 0);
    const Answer second = conversation.ask("Y", {.max_tokens = 1});
    EXPECT_LT(second.cost.fed_tokens, second.cost.prompt_tokens);
  }
}

TEST_F(PublicApi, passes_alone_serve_no_question) {
  const permllm::Client client(invite("frank", 100));
  permllm::Conversation conversation = client.conversation();
  conversation.ask("Is it so?", {.max_tokens = 40}, [&](std::string_view) { conversation.cancel(); });
  std::vector<permllm::Client::Chain> left;  // the material of the answer that was cut short is made all the same
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (left.empty() && std::chrono::steady_clock::now() < end) {
    for (const permllm::Client::Chain& chain : client.stock()) {
      if (chain.busy && chain.answer_tokens > 0) left.push_back(chain);
    }
  }
  ASSERT_EQ(left.size(), 1u);
  EXPECT_EQ(left[0].prompt_tokens, 0u);
  EXPECT_EQ(left[0].tokens, 0u);
  EXPECT_EQ(client.ready_tokens(), 0u);
}

TEST_F(PublicApi, options_choose_and_end_an_answer) {
  const permllm::Client client(invite("bob", 1000));
  permllm::AnswerOptions options;
  options.max_tokens = 12;
  const Answer greedy = client.conversation().ask("Is it so?", options);
  // A raw prompt has no marks of turns around it, and goes on where it ended.
  permllm::Conversation raw = client.conversation({.chat_format = "none"});
  const Answer text = raw.ask("Is it so?", options);
  EXPECT_LT(text.cost.prompt_tokens, greedy.cost.prompt_tokens);
  EXPECT_GE(raw.ask(" And", options).cost.prompt_tokens, text.cost.prompt_tokens + 1);

  // Of the two best tokens each, whose order does not hang on the last bits.
  options.max_tokens = 8;
  options.temperature = 2;
  options.top_k = 2;
  options.seed = 1;
  const std::string one = client.conversation().ask("Is it so?", options).text;
  EXPECT_EQ(client.conversation().ask("Is it so?", options).text, one);
  options.seed = 2;
  EXPECT_NE(client.conversation().ask("Is it so?", options).text, one);
  options = {};
  options.max_tokens = 12;

  ASSERT_GT(greedy.text.size(), 4u);
  std::size_t from = greedy.text.size() / 2;
  while (from < greedy.text.size() && (greedy.text[from] & 0xC0) == 0x80) ++from;
  const std::string stop = greedy.text.substr(from);
  options.stop = {"nowhere to be found", stop};
  std::string streamed;
  permllm::Conversation conversation = client.conversation();
  const Answer stopped = conversation.ask("Is it so?", options, [&](std::string_view piece) { streamed += piece; });
  EXPECT_EQ(stopped.end, Answer::End::stop);
  EXPECT_EQ(stopped.text, greedy.text.substr(0, greedy.text.find(stop)));
  EXPECT_EQ(streamed, stopped.text);
  options = {};
  options.top_p = 2;
  EXPECT_EQ(error_of([&] { client.conversation().ask("Is it so?", options); }).code(), permllm::Code::usage);
  EXPECT_EQ(error_of([&] { client.conversation({.chat_format = "no such"}); }).code(), permllm::Code::usage);
  EXPECT_EQ(error_of([&] { client.conversation({.draft = 4}); }).field(), "draft");
  EXPECT_EQ(error_of([&] { client.conversation({.draft = permllm::k_draft_chosen}); }).field(), "draft");
  permllm::ClientOptions drafting;
  drafting.draft_model = "any.gguf";
  EXPECT_EQ(error_of([&] { permllm::Client(invite("drafter", 1000), drafting); }).code(), permllm::Code::file);
  EXPECT_EQ(error_of([&] { client.conversation().ask(std::string(4000, '!')); }).code(), permllm::Code::usage);
}

TEST_F(PublicApi, an_answer_can_be_cancelled_from_inside_and_from_another_thread) {
  const permllm::Client client(invite("carol", 1000));
  permllm::Conversation conversation = client.conversation();
  permllm::AnswerOptions options;
  options.max_tokens = 100;
  std::size_t pieces = 0;
  const Answer inside = conversation.ask("Is it so?", options, [&](std::string_view) {
    if (++pieces == 3) conversation.cancel();
  });
  EXPECT_EQ(inside.end, Answer::End::cancelled);
  EXPECT_FALSE(inside.text.empty());
  EXPECT_LT(inside.cost.answer_tokens, 20u);

  conversation.reset();
  std::atomic<bool> begun = false;
  const std::jthread canceller([&](const std::stop_token& given_up) {
    while (!begun && !given_up.stop_requested()) std::this_thread::yield();
    conversation.cancel();
  });
  const Answer outside = conversation.ask("And now?", options, [&](std::string_view) { begun = true; });
  EXPECT_EQ(outside.end, Answer::End::cancelled);
  conversation.reset();

  // What a callback throws comes out, and the conversation goes on.
  EXPECT_THROW(conversation.ask("And now?", options, [](std::string_view) { throw std::out_of_range("enough"); }),
               std::out_of_range);
  options.max_tokens = 2;
  EXPECT_EQ(conversation.ask("Once more", options).cost.answer_tokens, 2u);
}

TEST_F(PublicApi, conversations_run_side_by_side_within_one_allowance) {
  const permllm::Client client(invite("dave", 20));
  permllm::AnswerOptions options;
  options.max_tokens = 6;
  const std::string want = client.conversation().ask("Is it so?", options).text;
  std::vector<std::future<Answer>> answers;
  for (int i = 0; i < 2; ++i)
    answers.push_back(std::async(std::launch::async, [&] { return client.conversation().ask("Is it so?", options); }));
  for (auto& answer : answers) EXPECT_EQ(answer.get().text, want);
  options.max_tokens = 100;
  while (client.tokens_left() > 0) client.conversation().ask("Is it so?", options);
  EXPECT_EQ(error_of([&] { client.conversation().ask("Is it so?"); }).reason(), permllm::Reason::allowance_used_up);
}

// A conversation whose idle session gave its place to another user's begins another with its next question, and says nothing of it.
TEST_F(PublicApi, a_conversation_goes_on_when_its_idle_session_was_taken) {
  const Service small("provider --events --listen 127.0.0.1:0 --context 64 --max-sessions 1 --identity " +
                      (folder / "provider").string() + " --helper " + helper->address() +
                      " --model " PERMLLM_TINY_MODELS "/llama.gguf");
  const auto client_of = [&](const std::string& name) {
    const auto path = folder / (name + ".invite");
    run("invite " + name + " --identity " + (folder / "provider").string() + " --provider-address " + small.address() +
        " --helper-address " + helper->address() + " --tokens 100 --out " + path.string());
    permllm::ClientOptions options;
    options.state = folder / (name + "-state");
    return permllm::Client(path, options);
  };
  const permllm::Client one = client_of("taken"), two = client_of("taking");
  permllm::AnswerOptions options;
  options.max_tokens = 2;
  permllm::Conversation first = one.conversation(), second = two.conversation();
  const Answer alone = first.answer({{"user", "Is it so?"}}, options);
  for (int i = 0; i < 2; ++i) {  // each takes the other's place
    EXPECT_EQ(second.answer({{"user", "Is it so?"}}, options).text, alone.text);
    EXPECT_EQ(first.answer({{"user", "Is it so?"}}, options).text, alone.text);
  }
}

// What is left of the first conversation's chain has no room for all of a second one's answer, and another chain cannot be filled.
TEST_F(PublicApi, an_answer_that_a_used_chain_cuts_short_ends_for_want_of_material) {
  auto away =
      std::make_unique<Service>("helper --events --listen 127.0.0.1:0 --identity " + (folder / "helper").string());
  const Service own("provider --events --listen 127.0.0.1:0 --context 64 --identity " + (folder / "provider").string() +
                    " --state " + (folder / "cut-state").string() + " --helper " + away->address() +
                    " --model " PERMLLM_TINY_MODELS "/llama.gguf");
  const auto path = folder / "cut.invite";
  run("invite cut --identity " + (folder / "provider").string() + " --provider-address " + own.address() +
      " --helper-address " + away->address() + " --tokens 100 --out " + path.string());
  const permllm::Client client(path, {.patience = std::chrono::seconds(20)});
  client.fill(0, 64, 60);
  permllm::ConversationOptions options;
  options.chat_format = "none";
  const std::vector<std::uint32_t> question{5, 6, 7};
  EXPECT_EQ(client.conversation(options).answer(question, {.max_tokens = 30}).end, Answer::End::length);
  away = nullptr;
  const Answer answer = client.conversation(options).answer(question, {.max_tokens = 40});
  EXPECT_GE(answer.tokens.size(), 10u);
  EXPECT_LT(answer.tokens.size(), 40u);
  EXPECT_EQ(answer.end, Answer::End::stock);
}

TEST_F(PublicApi, an_invite_that_is_no_good_is_refused_by_name) {
  EXPECT_EQ(error_of([] { permllm::Client(folder / "none.invite"); }).code(), permllm::Code::file);
  const auto path = invite("erin", 10);
  std::ifstream in(path);
  const std::string text(std::istreambuf_iterator<char>(in), {});
  const auto with = [&](const std::string& from, const std::string& to) {
    const auto other = folder / "other.invite";
    std::ofstream(other) << std::regex_replace(text, std::regex(from), to);
    chmod(other.c_str(), 0600);
    return error_of([&] { permllm::Client(other, {.patience = std::chrono::seconds(5)}); });
  };
  EXPECT_EQ(with("version = 1", "version = 99").code(), permllm::Code::unsupported);
  EXPECT_TRUE(with("tokens = 10", "tokens = 0").field().ends_with("tokens"));
  EXPECT_EQ(with("key = \"sha256:....", "key = \"sha256:0000").code(), permllm::Code::mismatch);
  run("invite --revoke erin --identity " + (folder / "provider").string());
  EXPECT_NE(std::string(error_of([&] { permllm::Client{path}; }).what()).find("revoked"), std::string::npos);
}

TEST(Version, of_library_and_headers_are_one) {
  EXPECT_STREQ(permllm::version(), PERMLLM_VERSION);
  const auto dotted = std::to_string(PERMLLM_VERSION_MAJOR) + "." + std::to_string(PERMLLM_VERSION_MINOR) + "." +
                      std::to_string(PERMLLM_VERSION_PATCH);
  EXPECT_TRUE(PERMLLM_VERSION == dotted || PERMLLM_VERSION == dotted + "-dev") << PERMLLM_VERSION;
}

}  // namespace
