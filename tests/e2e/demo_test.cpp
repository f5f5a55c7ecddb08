// The program as a person runs it: three processes, TLS links, exit statuses, errors.
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "plan/leak.h"
#include "support/gguf_writer.h"
#include "support/model.h"
#include "support/program.h"
#include "support/tiny_plan.h"

namespace permllm::test {
namespace {

std::string joined(const std::vector<TokenId>& ids) {
  std::string text;
  for (const TokenId id : ids) text += (text.empty() ? "" : ",") + std::to_string(id);
  return text;
}

// What both engines answer, against float32: equal up to the first step whose gap is below `gap`.
void expect_answer(const std::vector<TokenId>& got, const GreedyCase& c, double gap) {
  for (std::size_t i = 0; i < c.float_ids.size(); ++i) {
    if (c.gaps[i] < gap) return;
    ASSERT_LT(i, got.size());
    ASSERT_EQ(got[i], c.float_ids[i]) << "step " << i;
  }
  EXPECT_EQ(got.size(), c.float_ids.size());
}

// The paper's architecture, out of its folder with a tokenizer of its kind: text in, text out.
TEST(Demo, answers_for_a_folder_of_chatglm_6b) {
  const std::string folder = std::string(PERMLLM_TINY_MODELS) + "/chatglm-6b";
  const std::vector<std::string> request{"--prompt", "Is it so?", "--max-tokens", "8", "--json"};
  const auto with = [&](std::vector<std::string> arguments, const std::vector<std::string>& more) {
    arguments.insert(arguments.end(), request.begin(), request.end());
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments);
  };
  const Result clear = with({"generate", folder}, {});
  ASSERT_EQ(clear.status, 0) << clear.error;
  const auto want = events(clear.out).back();
  EXPECT_EQ(want.at("prompt_tokens"), 12);  // nine characters, the blank before them, and two marks
  for (const char* profile : {"paper", "fast", "open"}) {
    const Result r = with({"demo", folder}, {"--profile", profile, "--context", "60", "--prompt-slots", "20"});
    ASSERT_EQ(r.status, 0) << r.error;
    const auto done = events(r.out).back();
    EXPECT_EQ(done.at("output_ids"), want.at("output_ids")) << profile;
    EXPECT_EQ(done.at("text"), want.at("text")) << profile;
  }
  const Result longer = with({"demo", folder}, {"--context", "60", "--prompt-slots", "10"});
  EXPECT_EQ(longer.status, 2);
  EXPECT_NE(longer.error.find("--prompt: 12 tokens, the model takes 2 to 11; shorten the question"), std::string::npos)
      << longer.error;
}

// Products that are checked: the same answer, keys that are as many bytes as declared, and another profile has none of it.
TEST(Demo, checks_products_in_profile_open) {
  const std::vector<std::string> request{"demo",     PERMLLM_TEST_MODEL, "--prompt", "Is it so?", "--max-tokens",
                                         "8",        "--context",        "64",       "--json",    "--checked",
                                         "--profile"};
  auto with = [&](const char* profile) {
    std::vector<std::string> arguments = request;
    arguments.emplace_back(profile);
    return run(arguments);
  };
  const Result checked = with("open"), refused = with("paper");
  ASSERT_EQ(checked.status, 0) << checked.error;
  const auto done = events(checked.out).back();
  EXPECT_EQ(done.at("checked"), true);
  EXPECT_EQ(done.at("out_of_range"), 0);
  EXPECT_EQ(done.at("output_ids").size(), 8u);
  EXPECT_GT(done.at("product_key_bytes").at("measured"), 500'000);
  EXPECT_EQ(done.at("product_key_bytes").at("measured"), done.at("product_key_bytes").at("declared"));
  EXPECT_GT(done.at("seconds").at("checks_per_token"), 0);
  EXPECT_EQ(refused.status, 2);
  EXPECT_NE(refused.error.find("--checked: is for profile open"), std::string::npos) << refused.error;
}

// The other cases: parties_private_answer_test.
TEST(Demo, answers_privately_as_float32_does) {
  for (const std::size_t index : {0u, 4u}) {
    const GreedyCase c = greedy_cases()[index];
    const Result r = run({"demo", PERMLLM_TEST_MODEL, "--prompt-ids", joined(c.prompt_ids), "--max-tokens", "48",
                          "--json", "--fused", "off"});
    ASSERT_EQ(r.status, 0) << r.error;
    const auto all = events(r.out);
    const auto& done = all.back();
    EXPECT_EQ(done.at("event"), "done");
    const auto ids = done.at("output_ids").get<std::vector<TokenId>>();
    expect_answer(ids, c, 0.15);
    EXPECT_EQ(all.size(), ids.size() + 1);
    EXPECT_EQ(done.at("prompt_tokens"), c.prompt_ids.size());
    EXPECT_EQ(done.at("profile"), "paper");
    EXPECT_EQ(done.at("online_per_token").at("round_trips"), 6 * 30 + 2);
    std::string text;
    for (const auto& e : all) text += e.at("event") == "token" ? e.at("text").get<std::string>() : "";
    EXPECT_EQ(text, done.at("text"));
  }
}

TEST(Demo, over_a_shaped_link_takes_its_round_trips) {
  const Result r = run({"demo", PERMLLM_TEST_MODEL, "--prompt", "What is 17 plus 25?", "--max-tokens", "4", "--rtt",
                        "4ms", "--bandwidth", "1gbit", "--json"});
  ASSERT_EQ(r.status, 0) << r.error;
  const auto done = events(r.out).back();
  EXPECT_TRUE(done.at("fused"));  // by default, because the model's ranges allow it
  EXPECT_EQ(done.at("declared_per_pass").at("round_trips"), 5 * 30 + 2);
  EXPECT_GE(done.at("seconds").at("decode_per_token").get<double>(), 152 * 0.004);
  EXPECT_EQ(done.at("text"), "17 + ");
}

TEST(Demo, answers_alike_in_every_profile) {
  const GreedyCase c = greedy_cases()[4];
  using Way = std::tuple<const char*, const char*, const char*, int>;
  for (const auto& [profile, fused, retrieval, rounds] :
       {Way{"paper", "on", "bfv", 152}, Way{"fast", "off", "linear", 122}, Way{"fast", "on", "linear", 92},
        Way{"open", "", "linear", 61}}) {
    std::vector<std::string> arguments{
        "demo",   PERMLLM_TEST_MODEL, "--prompt-ids", joined(c.prompt_ids), "--max-tokens", "12",
        "--json", "--profile",        profile,        "--retrieval",        retrieval};
    if (*fused != 0) arguments.insert(arguments.end(), {"--fused", fused});
    const Result r = run(arguments);
    ASSERT_EQ(r.status, 0) << r.error;
    const auto done = events(r.out).back();
    EXPECT_EQ(done.at("profile"), profile);
    EXPECT_EQ(done.at("online_per_token").at("round_trips"), rounds);
    const auto ids = done.at("output_ids").get<std::vector<TokenId>>();
    for (std::size_t i = 0; i < ids.size() && c.gaps[i] >= 0.15; ++i)
      EXPECT_EQ(ids[i], c.float_ids[i]) << profile << " step " << i;
    // What was measured is what was declared.
    EXPECT_EQ(done.at("declared_per_pass").at("round_trips"), rounds);
    for (const char* way : {"user_to_provider_bytes", "provider_to_user_bytes"}) {
      EXPECT_DOUBLE_EQ(done.at("online_per_token").at(way).get<double>(),
                       done.at("declared_per_pass").at(way).get<double>())
          << way;
    }
  }
}

TEST(Demo, drafts_say_the_same_in_fewer_passes) {
  const auto answer = [](const std::vector<std::string>& more) {
    std::vector<std::string> arguments{
        "demo",         PERMLLM_TEST_MODEL,
        "--prompt",     "Repeat after me, three times: one two three four five six seven eight.",
        "--max-tokens", "40",
        "--json",       "--profile",
        "open"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Result r = run(arguments);
    EXPECT_EQ(r.status, 0) << r.error;
    return events(r.out).back();
  };
  const auto plain = answer({}), drafted = answer({"--draft", "4"});
  EXPECT_EQ(plain.at("output_ids"), drafted.at("output_ids"));
  EXPECT_LT(drafted.at("passes").get<int>(), plain.at("passes").get<int>() * 3 / 4);
  // By a model: itself, so that nearly every guess holds.
  const auto by_model = answer({"--draft", "4", "--draft-model", PERMLLM_TEST_MODEL});
  EXPECT_EQ(by_model.at("output_ids"), plain.at("output_ids"));
  EXPECT_LE(by_model.at("passes").get<int>(), plain.at("passes").get<int>() / 3);
  const auto& drafts = by_model.at("drafts");
  EXPECT_GE(drafts.at("tokens").get<int>(), 4 * by_model.at("passes").get<int>());
  EXPECT_EQ(drafts.at("tokens").get<int>() - drafts.at("kept").get<int>(), drafts.at("rejected").get<int>());
  // Each rejected row took the material of a row: that of a pass without drafts.
  const double row = plain.at("declared_per_pass").at("offline_helper_to_provider_bytes");
  const auto& useless = drafted.at("drafts");
  EXPECT_GT(useless.at("rejected").get<int>(), 0);
  EXPECT_NEAR(useless.at("rejected_offline_bytes").get<double>(), row * useless.at("rejected").get<double>(),
              0.01 * row);
}

TEST(Bench, measures_a_shape_and_sweeps) {
  const std::vector<std::string> small{"bench", "smollm2-135m", "--layers", "2",     "--context",
                                       "8",     "--tokens",     "2",        "--json"};
  for (const char* profile : {"paper", "fast", "open"}) {
    auto arguments = small;
    arguments.insert(arguments.end(), {"--profile", profile});
    const Result r = run(arguments);
    ASSERT_EQ(r.status, 0) << r.error;
    const auto done = nlohmann::json::parse(r.out);
    EXPECT_EQ(done.at("layers"), 2);
    EXPECT_EQ(done.at("prompt_tokens"), 6);
    EXPECT_EQ(done.at("online_per_token").at("round_trips"), done.at("declared_per_pass").at("round_trips"));
    for (const char* party : {"provider", "user"})
      EXPECT_GT(done.at("by_party").at(party).at("cpu_seconds_per_token").get<double>(), 0);
  }
  // Drafts of which all are kept, or none, over a line that has two bandwidths.
  for (const int acceptance : {0, 1}) {
    const Result r =
        run({"bench", "smollm2-135m", "--layers", "2", "--context", "40", "--tokens", "6", "--json", "--profile",
             "open", "--network", "home", "--rtt", "1ms", "--draft", "2", "--acceptance", std::to_string(acceptance)});
    ASSERT_EQ(r.status, 0) << r.error;
    const auto done = nlohmann::json::parse(r.out);
    EXPECT_EQ(done.at("bandwidth"), "100mbit/40mbit");
    EXPECT_EQ(done.at("rtt"), "1ms");
    EXPECT_EQ(done.at("all").at("tokens_a_pass"), acceptance == 1 ? 3 : 1);
    EXPECT_EQ(done.at("drafts").at("kept"), acceptance == 1 ? 4 : 0);
  }
  const Scratch folder;
  const auto place = folder / "sweep";
  auto arguments = small;
  arguments.insert(arguments.end(), {"--out", place.string(), "--sweep", "rtt=0,2", "profile=fast,open"});
  const Result r = run(arguments);
  ASSERT_EQ(r.status, 0) << r.error;
  std::ifstream csv(place.string() + ".csv");
  std::size_t lines = 0;
  for (std::string line; std::getline(csv, line);) ++lines;
  EXPECT_EQ(lines, 1 + 2 * 2u);
  for (const char* end : {".csv", ".svg", "-bytes.svg"})
    EXPECT_GT(std::filesystem::file_size(place.string() + end), 100u);
}

TEST(Demo, leaves_nothing_behind_and_takes_away_what_one_that_was_killed_left) {
  const Scratch folder;
  std::filesystem::create_directory(folder / "tmp");
  const auto left = [&] { return std::distance(std::filesystem::directory_iterator(folder / "tmp"), {}); };
  const std::string place = "TMPDIR='" + (folder / "tmp").string() + "' ", model = PERMLLM_TINY_MODELS "/llama.gguf";
  {
    FILE* output = popen(("echo $$; " + place + "exec " PERMLLM_BINARY " demo '" + model +
                          "' --context 60 --prompt 'Is it so?' --max-tokens 30 --json 2>&1")
                             .c_str(),
                         "r");
    char line[256];
    ASSERT_NE(fgets(line, sizeof line, output), nullptr);
    const pid_t pid = std::stoi(line);
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (left() == 0 && std::chrono::steady_clock::now() < end)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    kill(pid, SIGKILL);
    pclose(output);
  }
  EXPECT_EQ(left(), 1);
  const Result r =
      run({"demo", model, "--context", "60", "--prompt", "Is it so?", "--max-tokens", "2", "--json"}, place);
  EXPECT_EQ(r.status, 0) << r.error;
  EXPECT_EQ(left(), 0);
}

TEST(Demo, a_sampled_answer_is_decided_by_its_seed) {
  const auto answer = [](const char* command, const char* seed) {
    const Result r = run({command, PERMLLM_TEST_MODEL, "--prompt", "Name an animal.", "--max-tokens", "6",
                          "--temperature", "1.5", "--top-k", "200", "--seed", seed, "--json"});
    EXPECT_EQ(r.status, 0) << r.error;
    return events(r.out).back().at("output_ids").get<std::vector<TokenId>>();
  };
  const auto first = answer("demo", "1");
  EXPECT_EQ(first.at(0), answer("generate", "1").at(0));  // later ones may meet a near tie that a cut decides
  EXPECT_NE(first, answer("generate", "3"));
}

TEST(Generate, agrees_with_float32) {
  for (const std::size_t index : {1u, 4u}) {
    const GreedyCase c = greedy_cases()[index];
    const Result r =
        run({"generate", PERMLLM_TEST_MODEL, "--prompt-ids", joined(c.prompt_ids), "--max-tokens", "48", "--json"});
    ASSERT_EQ(r.status, 0) << r.error;
    expect_answer(events(r.out).back().at("output_ids").get<std::vector<TokenId>>(), c, 0.01);
  }
}

TEST(Inspect, tells_shapes_and_costs) {
  const Result r = run({"inspect", PERMLLM_TEST_MODEL, "--json"});
  ASSERT_EQ(r.status, 0) << r.error;
  const auto m = nlohmann::json::parse(r.out);
  EXPECT_EQ(m.at("layers"), 30);
  EXPECT_EQ(m.at("decode").at(0).at("round_trips"), 152);
  EXPECT_EQ(m.at("round_trips_a_layer"), 5);
  EXPECT_EQ(run({"inspect", PERMLLM_TEST_MODEL}).status, 0);
}

// Of the plan at hand, what the table says.
TEST(Inspect, tells_who_sees_what) {
  for (const Variant& variant :
       {Variant{Profile::paper, true}, Variant{Profile::fast, true, Retrieval::bfv}, Variant{Profile::open, false}}) {
    const std::vector<std::string> flags{"--profile", name_of(variant.profile), "--retrieval",
                                         name_of(variant.retrieval)};
    std::vector<std::string> text{"inspect", PERMLLM_TINY_MODELS "/llama.gguf", "--context", "64"};
    text.insert(text.end(), flags.begin(), flags.end());
    std::vector<std::string> json = text;
    json.push_back("--json");
    const Result of_text = run(text), of_json = run(json);
    ASSERT_EQ(of_json.status, 0) << of_json.error;
    const auto sees = nlohmann::json::parse(of_json.out).at("sees");
    Plan plan = tiny_plan(variant.profile, variant.fused);
    plan.retrieval = variant.retrieval;
    for (const Role role : {Role::provider, Role::helper, Role::user}) {
      EXPECT_EQ(sees.at(name_of(role)), seen_by(role, plan)) << variant;
      for (const std::string& what : seen_by(role, plan))
        EXPECT_NE(of_text.out.find(what + "\n"), std::string::npos) << what;
    }
  }
}

// Before anything is spent: what `inspect` says of one token, for whole requests and users at once.
TEST(Plan, adds_up_what_users_will_take) {
  const auto plan = [](const std::vector<std::string>& more) {
    std::vector<std::string> arguments{"plan", PERMLLM_TEST_MODEL, "--json", "--prompt", "40", "--rtt",
                                       "20ms", "--bandwidth",      "0"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Result r = run(arguments);
    EXPECT_EQ(r.status, 0) << r.error;
    return nlohmann::json::parse(r.out);
  };
  const auto one = plan({"--answer", "1"}), two = plan({"--answer", "2"}),
             users = plan({"--answer", "2", "--users", "5"});
  const auto inspected = nlohmann::json::parse(run({"inspect", PERMLLM_TEST_MODEL, "--json"}).out);
  const auto& prefill = inspected.at("prefill").at("cost");
  EXPECT_EQ(one.at("request").at("provider_to_user_bytes"), prefill.at("provider_to_user_bytes"));
  EXPECT_EQ(one.at("request").at("offline_helper_to_provider_bytes"), prefill.at("offline_helper_to_provider_bytes"));
  EXPECT_EQ(two.at("request").at("round_trips"), 152 * 2);
  EXPECT_DOUBLE_EQ(two.at("seconds").at("latency"), 152 * 2 * 0.02);
  EXPECT_EQ(two.at("seconds").at("transfer"), 0);
  EXPECT_GT(two.at("seconds").at("token").get<double>(), 152 * 0.02);
  const auto beside_weights = [](const nlohmann::json& p) {
    return p.at("memory_bytes").at("provider").get<std::uint64_t>() -
           p.at("memory_bytes").at("provider_weights").get<std::uint64_t>();
  };
  EXPECT_EQ(beside_weights(users), 5 * beside_weights(two));
  // 1.9375 tokens a pass; each row takes the material of a row, whether it is kept or not.
  const std::vector<std::string> open{"--profile", "open", "--answer"};
  const auto in_open = [&](std::vector<std::string> more) {
    more.insert(more.begin(), open.begin(), open.end());
    return plan(more).at("request");
  };
  const auto drafted = in_open({"32", "--draft", "4", "--acceptance", "0.5"}), plain = in_open({"81"});
  EXPECT_EQ(drafted.at("passes"), 16);
  EXPECT_EQ(drafted.at("rejected_tokens"), 16 * 5 - 31);
  EXPECT_EQ(drafted.at("stock_bytes"), plain.at("stock_bytes"));
  EXPECT_EQ(plain.at("rejected_offline_bytes"), 0);
  EXPECT_NEAR(drafted.at("rejected_offline_bytes").get<double>(), plain.at("stock_bytes").get<double>() * 49 / 120,
              0.05 * plain.at("stock_bytes").get<double>());
}

// A person's mistakes: one sentence on standard error, status 2, nothing of the prompt in it.
void expect_mistake(const std::vector<std::string>& arguments, const std::string& text) {
  const Result r = run(arguments);
  EXPECT_EQ(r.status, 2) << r.error;
  EXPECT_NE(r.error.find(text), std::string::npos) << r.error;
  EXPECT_EQ(r.error.find("xyzzy"), std::string::npos) << "the prompt is quoted: " << r.error;
  // One sentence, the last thing said; progress may stand before it.
  EXPECT_EQ(r.error.find("permllm: "), r.error.rfind("permllm: ")) << r.error;
  EXPECT_EQ(r.error.find('\n', r.error.find("permllm: ")), r.error.size() - 1) << r.error;
}

TEST(Mistakes, are_told_in_one_sentence) {
  const std::string model = PERMLLM_TEST_MODEL;
  for (const char* command : {"demo", "generate"}) {
    expect_mistake({command, model, "--prompt", ""}, "is empty");
    expect_mistake({command, model, "--prompt", "xyzzy", "--temperature", "-1"}, "--temperature: -1, expected");
    expect_mistake({command, model, "--prompt-ids", "1,2,50000"},
                   "the id at place 3 is outside the vocabulary of 49152 tokens");
    expect_mistake({command, model, "--prompt-ids", "1,,2"}, "place 2 is not a number");
    expect_mistake({command, model, "--prompt", "xyzzy", "--chat-format", "alpaca"},
                   "--chat-format: \"alpaca\" is unknown; known are none, chatml");
    expect_mistake({command, model, "--prompt", "xyzzy", "--think"},
                   "--think: the chat format template has no thinking");
    expect_mistake({command, "/nonexistent.gguf", "--prompt", "xyzzy"}, "there is no such file");
  }
  std::string long_prompt;
  for (int i = 0; i < 1200; ++i) long_prompt += "xyzzy ";
  expect_mistake({"demo", model, "--prompt", long_prompt}, "do not fit the context of 1024");
  expect_mistake({"demo", model, "--prompt", "xyzzy", "--rtt", "fast"},
                 "--rtt: \"fast\" is not understood; write it like 10ms");
  expect_mistake({"demo", model, "--prompt", "xyzzy", "--profile", "secret"},
                 "--profile: \"secret\", expected paper, fast or open");
  expect_mistake(
      {"demo", model, "--prompt", "xyzzy", "--profile", "fast", "--draft", "4", "--hidden-positions", "off"},
      "--draft: needs profile open, or positions that are hidden from the provider, which this one does not do "
      "(--hidden-positions): in profile fast it rotates");
  expect_mistake({"demo", model, "--prompt", "xyzzy", "--draft-model", model, "--retrieval", "bfv"},
                 "--draft-model: needs profile open, or positions that are hidden from the provider");
  expect_mistake({"demo", model, "--prompt", "xyzzy", "--hidden-positions", "sometimes"},
                 "--hidden-positions: \"sometimes\", expected off, auto or always");
  expect_mistake({"demo", model, "--prompt", "xyzzy", "--profile", "open", "--draft", "64"},
                 "--draft: \"64\", expected 0 to 63, or auto");
  expect_mistake({"bench", "smollm2-135m", "--profile", "open", "--acceptance", "0.5"},
                 "--acceptance: goes with --draft");
  expect_mistake({"bench", "smollm2-135m", "--profile", "open", "--draft", "2", "--draft-model", model},
                 "--draft-model: needs a file");
  expect_mistake({"demo", model, "--prompt", "xyzzy", "--profile", "open", "--fused", "on"},
                 "--fused: on, but profile open applies every norm after its matrix");
  expect_mistake({"demo", model, "--prompt", "xyzzy", "--profile", "open", "--retrieval", "bfv"},
                 "--retrieval: bfv, but in profile open there is nothing to retrieve");
  expect_mistake({"demo", model, "--prompt", "xyzzy", "--retrieval", "pir"},
                 "--retrieval: \"pir\", expected linear or bfv");
  expect_mistake({"bench", "gpt-7", "--synthetic"},
                 "is no shape that is known: chatglm-6b, llama-7b, llama-70b, smollm2-135m");
  expect_mistake({"bench", "smollm2-135m", "--width", "100"}, "--width: 100, expected a multiple of 192");
  expect_mistake({"bench", "smollm2-135m", "--sweep", "speed=1"}, "is no dimension; write it like rtt=0,1,10");
  expect_mistake({"plan", model, "--context", "64", "--prompt", "40", "--answer", "40"},
                 "--context: 64 is too short for a prompt of 40 tokens and an answer of 40");
  expect_mistake({"bench", "smollm2-135m", "--context", "4", "--tokens", "4"}, "--context: 4 is too short");
  expect_mistake({"demo", model, "--prompt", "xyzzy", "--context", "100000"},
                 "--context: 100000, the model takes 1 to 8192");
}

// A token whose residual grows where no calibration sees it.
TEST(Demo, tells_of_numbers_that_leave_the_range_which_a_model_is_served_for) {
  const Scratch folder;
  const std::string path = (folder / "growing.gguf").string();
  const auto bytes = tiny_llama({.growth = 1000}).finish();
  write_text(path, {bytes.begin(), bytes.end()});
  for (const char* profile : {"paper", "open"}) {
    const auto ask = [&](const char* prompt, std::vector<std::string> more) {
      std::vector<std::string> all{"demo",      path, "--chat-format", "none", "--prompt",  prompt,
                                   "--context", "48", "--max-tokens",  "3",    "--profile", profile};
      all.insert(all.end(), more.begin(), more.end());
      return permllm(all).out;
    };
    const auto right = events(ask("a b", {"--json"})).back(), wrong = events(ask("a~b", {"--json"})).back();
    EXPECT_EQ(right.at("out_of_range"), 0) << profile;
    EXPECT_EQ(right.at("trusted_tokens"), right.at("output_ids").size()) << profile;
    EXPECT_GT(wrong.at("out_of_range"), 0) << profile;
    EXPECT_EQ(wrong.at("trusted_tokens"), 0) << profile;
    EXPECT_EQ(wrong.at("output_ids").size(), 3u) << profile;
    EXPECT_NE(ask("a~b", {}).find(": the answer is not to be trusted"), std::string::npos) << profile;
  }
}

TEST(Mistakes, files_that_are_no_supported_model_are_named) {
  const Scratch folder;
  const std::string path = (folder / "bad.gguf").string();
  const auto write = [&](const std::vector<std::uint8_t>& bytes) {
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  };
  write({'n', 'o', 'n', 'e', 0, 0});
  expect_mistake({"demo", path, "--prompt", "xyzzy"}, "not a GGUF file");
  write(tiny_llama({.architecture = "mamba"}).finish());
  expect_mistake({"demo", path, "--prompt", "xyzzy"}, "\"mamba\" is not supported");
  auto cut_short = tiny_llama().finish();
  cut_short.resize(cut_short.size() - 100);
  write(cut_short);
  expect_mistake({"generate", path, "--prompt", "xyzzy"}, "truncated");
  write(tiny_llama({.pre = "default"}).finish());
  expect_mistake({"demo", path, "--prompt", "xyzzy"}, "--pre-tokenizer: gpt-2");
  EXPECT_EQ(run({"demo", path, "--prompt", "xyzzy", "--max-tokens", "1", "--context", "64", "--pre-tokenizer", "qwen2"})
                .status,
            0);
  // What is no file is told of, and nothing waits for a pipe's other end.
  const std::string pipe = (folder / "pipe.gguf").string(), loop = (folder / "loop.gguf").string();
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  std::filesystem::create_symlink("loop.gguf", loop);
  const std::string looping = (folder / "folder").string();
  std::filesystem::create_directory(looping);
  std::filesystem::create_symlink("config.json", looping + "/config.json");
  for (const char* command : {"demo", "generate"}) {
    expect_mistake({command, pipe, "--prompt", "xyzzy"}, "pipe.gguf: is a pipe, expected a file");
    expect_mistake({command, loop, "--prompt", "xyzzy"},
                   "loop.gguf: cannot be looked at: Too many levels of symbolic links");
    expect_mistake({command, looping, "--prompt", "xyzzy"}, "config.json: cannot be looked at: Too many levels");
  }
  expect_mistake({"inspect", "/dev/null"}, "is a device or a socket, expected a file");
  expect_mistake({"provider", "--identity", loop, "--model", path, "--helper", "localhost:1"},
                 "loop.gguf: cannot be looked at");
}

}  // namespace
}  // namespace permllm::test
