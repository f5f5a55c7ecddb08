// What an owner sees and changes of its users' invites, while the services run.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "service/identity.h"
#include "support/gguf_writer.h"
#include "support/processes.h"

namespace permllm::test {
namespace {

using Json = nlohmann::json;

TEST(Invites, tell_what_was_used_and_grow_while_the_provider_runs) {
  const Scratch scratch;
  make_keys(scratch.path());
  const std::string provider = (scratch / "provider").string(), state = (scratch / "state").string();
  const std::string model = (scratch / "tiny.gguf").string();
  write_text(model, llama_of_letters());
  Process helping({"helper", "--identity", (scratch / "helper").string(), "--events"}, PERMLLM_BINARY);
  const std::string helper_address = address_of(helping);
  Process providing({"provider", "--identity", provider, "--helper", helper_address, "--model", model, "--context",
                     "64", "--state", state, "--events"},
                    PERMLLM_BINARY);
  const std::string invite = (scratch / "alice.invite").string();
  permllm({"invite", "alice", "--identity", provider, "--provider-address", address_of(providing), "--helper-address",
           helper_address, "--tokens", "6", "--rows", "8", "--out", invite});
  const auto listed = [&] {
    return events(permllm({"invite", "--list", "--json", "--identity", provider, "--state", state}).out).at(0);
  };
  const auto change = [&](const std::vector<std::string>& how) {
    std::vector<std::string> arguments{"invite", "alice", "--identity", provider};
    arguments.insert(arguments.end(), how.begin(), how.end());
    return run(arguments);
  };
  const auto ask = [&] {
    return run({"chat", "--invite", invite, "--max-tokens", "4", "--state", (scratch / "user").string(), "--json"},
               "echo 'a b c' | ");
  };
  const Json fresh = listed();
  EXPECT_EQ(fresh.at("tokens_used"), 0);
  EXPECT_EQ(fresh.at("rows_left"), 8);
  EXPECT_EQ(fresh.at("last_seen"), nullptr);

  // Three rows of the prompt, and one of each token of the answer but the last.
  ASSERT_EQ(ask().status, 0);
  const Json used = listed();
  EXPECT_EQ(used.at("tokens_used"), 4) << used;
  EXPECT_EQ(used.at("tokens_left"), 2);
  EXPECT_EQ(used.at("rows_used"), 6);
  EXPECT_EQ(used.at("rows_left"), 2);
  EXPECT_GT(used.at("last_seen"), 1'700'000'000);
  const Result refused = ask();
  EXPECT_EQ(refused.status, 2) << refused.error;
  EXPECT_NE(refused.error.find("the allowance of the invite is used up"), std::string::npos) << refused.error;
  EXPECT_NE(refused.error.find("ask the provider for more"), std::string::npos) << refused.error;

  // No new key, no restart.
  const std::string before = load_record(record_path(provider, "alice")).last_day;
  EXPECT_EQ(change({"--add-tokens", "100", "--add-rows", "100", "--extend", "10"}).status, 0);
  EXPECT_EQ(ask().status, 0);
  EXPECT_EQ(listed().at("tokens"), 106);
  EXPECT_EQ(listed().at("rows"), 108);
  EXPECT_EQ(listed().at("last_day"), day_after(before, 10));
  EXPECT_EQ(change({"--monthly"}).status, 0);
  EXPECT_EQ(listed().at("monthly"), true);
  EXPECT_EQ(change({"--no-monthly"}).status, 0);

  const std::string csv = permllm({"invite", "--csv", "--identity", provider, "--state", state}).out;
  const std::string key = load_record(record_path(provider, "alice")).key;
  EXPECT_TRUE(csv.starts_with("month,name,key,tokens,rows\n")) << csv;
  EXPECT_NE(csv.find(",alice," + key + ",8,12\n"), std::string::npos) << csv;
  const std::string table = permllm({"invite", "--list", "--identity", provider, "--state", state}).out;
  EXPECT_NE(table.find("8 of 106"), std::string::npos) << table;
  EXPECT_NE(table.find("12 of 108"), std::string::npos) << table;
  EXPECT_NE(table.find("rows at which an honest user"), std::string::npos) << table;
}

TEST(Invites, nothing_is_written_before_all_is_checked) {
  const Scratch scratch;
  make_keys(scratch.path());
  const std::string provider = (scratch / "provider").string();
  const auto invite = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments{
        "invite",           "alice",         "--identity", provider, "--provider-address", "localhost:7002",
        "--helper-address", "localhost:7001"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments);
  };
  const std::string out = (scratch / "i").string();
  const auto refused = [&](const std::vector<std::string>& more, const std::string& why) {
    const Result result = invite(more);
    EXPECT_NE(result.status, 0) << why;
    EXPECT_NE(result.error.find(why), std::string::npos) << result.error;
    EXPECT_TRUE(record_paths(provider).empty()) << why;
    EXPECT_FALSE(std::filesystem::exists(out)) << why;
  };
  refused({"--tokens", "-5", "--out", out}, "--tokens");
  refused({"--tokens", "0", "--out", out}, "--tokens");
  refused({"--tokens", "5", "--rows", "-1", "--out", out}, "--rows");
  refused({"--tokens", "5", "--days", "-1", "--out", out}, "--days");
  refused({"--tokens", "99999999999999999999", "--out", out}, "--tokens");
  refused({"--tokens", "5", "--out", (scratch / "no" / "such").string()}, "cannot be written");
  refused({"--add-tokens", "5"}, "there is no invite of this name");

  ASSERT_EQ(invite({"--tokens", "5", "--out", out}).status, 0);
  const auto path = record_path(provider, "alice");
  const std::string record = read_text(path);
  const auto unchanged = [&](const std::vector<std::string>& more, const std::string& why) {
    const Result result = run(more);
    EXPECT_EQ(result.status, 2) << result.error;
    EXPECT_NE(result.error.find(why), std::string::npos) << result.error;
    EXPECT_EQ(read_text(path), record) << why;
  };
  unchanged({"invite", "alice", "--identity", provider, "--add-tokens", "-5"}, "--add-tokens");
  unchanged({"invite", "alice", "--identity", provider, "--add-rows", "5"},
            "--add-rows: the invite has no limit of rows");
  unchanged({"invite", "alice", "--identity", provider, "--add-tokens", "1000000000000000"},
            "--add-tokens: with what there is");
  unchanged({"invite", "alice", "--identity", provider, "--tokens", "7", "--extend", "5"},
            "--extend: changes an invite");

  // A damaged record is told beside the others, and can be set aside.
  write_text(record_path(provider, "bob"), "nonsense");
  const Result listed = run({"invite", "--list", "--identity", provider});
  EXPECT_EQ(listed.status, 2);
  EXPECT_NE(listed.out.find("alice"), std::string::npos) << listed.out;
  EXPECT_NE(listed.error.find("bob.toml"), std::string::npos) << listed.error;
  permllm({"invite", "--revoke", "bob", "--identity", provider});
  EXPECT_EQ(run({"invite", "--list", "--identity", provider}).status, 0);
}

// A service that runs as its own user reads what root's commands wrote.
TEST(Invites, what_root_writes_belongs_to_the_folders_owner) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  constexpr uid_t k_owner = 12345;
  const Scratch scratch;
  make_keys(scratch.path());
  const std::filesystem::path provider = scratch / "provider", fresh = scratch / "fresh";
  const auto owner_of = [](const std::filesystem::path& path) {
    struct stat status {};
    EXPECT_EQ(stat(path.c_str(), &status), 0) << path;
    return status.st_uid;
  };
  for (const auto& path : {provider, provider / "users", provider / "peers", provider / "key.pem"})
    ASSERT_EQ(chown(path.c_str(), k_owner, k_owner), 0) << path;
  permllm({"invite", "alice", "--identity", provider.string(), "--provider-address", "localhost:7002",
           "--helper-address", "localhost:7001", "--tokens", "5", "--out", (scratch / "i").string()});
  EXPECT_EQ(owner_of(record_path(provider, "alice")), k_owner);
  permllm({"invite", "alice", "--identity", provider.string(), "--add-tokens", "5"});
  EXPECT_EQ(owner_of(record_path(provider, "alice")), k_owner);
  permllm({"keygen", "--renew", "--out", provider.string()});
  EXPECT_EQ(owner_of(provider / "certificate.pem"), k_owner);
  EXPECT_EQ(owner_of(scratch / "i"), 0u);  // its folder is root's
  std::filesystem::create_directory(fresh);
  ASSERT_EQ(chmod(fresh.c_str(), 0700), 0);
  ASSERT_EQ(chown(fresh.c_str(), k_owner, k_owner), 0);
  permllm({"keygen", "--role", "provider", "--out", fresh.string()});
  for (const char* made : {"key.pem", "certificate.pem", "peers", "users"})
    EXPECT_EQ(owner_of(fresh / made), k_owner) << made;

  // What was copied by hand is told, with the cause.
  const auto doctor = [&] {
    std::vector<Json> found;
    for (const Json& one : events(run({"doctor", "provider", "--identity", provider.string(), "--json"}).out)) {
      if (one.value("check", "") == "owner") found.push_back(one);
    }
    return found;
  };
  EXPECT_TRUE(doctor().empty()) << doctor()[0];
  ASSERT_EQ(chown(record_path(provider, "alice").c_str(), 0, 0), 0);
  ASSERT_EQ(doctor().size(), 1u);
  EXPECT_NE(doctor()[0].at("text").get<std::string>().find("alice.toml belongs to root, its folder to 12345"),
            std::string::npos)
      << doctor()[0];
  EXPECT_NE(doctor()[0].at("remedy").get<std::string>().find("chown --reference="), std::string::npos);
}

}  // namespace
}  // namespace permllm::test
