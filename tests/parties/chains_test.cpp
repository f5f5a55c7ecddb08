// Chains that outlive their sessions and processes: what is made stays, what is burnt stays burnt.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "base/temporary_directory.h"
#include "support/errors.h"
#include "support/world.h"

namespace permllm::test {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

const std::vector<TokenId> k_prompt{5, 6, 7};

struct Variety {
  Profile profile = Profile::paper;
  Retrieval retrieval = Retrieval::linear;
  std::uint8_t mask = 'a';  // of U's seed
};
OfferedModel model_of(const Variety& variety) {
  OfferedModel model = tiny_model({variety.profile, variety.retrieval});
  model.mask_seed = seed_of(variety.mask);
  return model;
}

// The processes of provider and helper, on a folder of the provider's. When it goes, they are gone.
class Machines : public MemoryWorld {
 public:
  explicit Machines(const fs::path& provider_state, const Variety& variety = {})
      : MemoryWorld({.model = model_of(variety), .patience = 5s, .state = provider_state}) {}
  ~Machines() override {
    kill();
    threads_.join();
  }
};

// Two folders: the provider's and the user's.
struct Places {
  TemporaryDirectory folder;
  fs::path provider = folder.path() / "provider", user = folder.path() / "user";
  Places() { fs::create_directories(user); }
  fs::path ledger() const { return user / "ledger.sqlite"; }
};
void copy_folder(const fs::path& from, const fs::path& to) {
  fs::remove_all(to);
  fs::create_directories(to);
  if (fs::exists(from)) fs::copy(from, to, fs::copy_options::recursive);
}

// Bytes of the disk that the packs below a provider's folder have.
std::uint64_t disk_of(const fs::path& provider) {
  std::uint64_t sum = 0;
  for (const auto& entry : fs::directory_iterator(provider / "stock")) {
    struct stat status {};
    const bool pack = entry.path().extension() == ".helper" || entry.path().extension() == ".user";
    if (pack && stat(entry.path().c_str(), &status) == 0) sum += static_cast<std::uint64_t>(status.st_blocks) * 512;
  }
  return sum;
}

std::vector<TokenId> answer(Machines& machines, Ledger& ledger, std::size_t n, Marks* begin = nullptr,
                            Marks* used = nullptr) {
  UserClient client(machines.links(), ledger, machines.executor(), 5s);
  if (begin != nullptr) *begin = client.session().marks();
  const auto ids = make_and_ask(client, k_prompt, n);
  if (used != nullptr) *used = client.session().marks();
  client.end();
  return ids;
}
void fill(Machines& machines, Ledger& ledger, std::size_t slots) {
  UserClient client(machines.links(), ledger, machines.executor(), 5s);
  client.fill(target_of(client.card().plan, client.session().marks(), slots / 2, slots - slots / 2), nullptr);
  client.end();
}

class Chains : public testing::TestWithParam<Variety> {};
INSTANTIATE_TEST_SUITE_P(Varieties, Chains,
                         testing::Values(Variety{}, Variety{Profile::fast}, Variety{Profile::open},
                                         Variety{Profile::paper, Retrieval::bfv}),
                         [](const auto& i) {
                           return std::string(name_of(i.param.profile)) + "_" + name_of(i.param.retrieval);
                         });

// Packs made in one session answer in the next, and the one after, of other processes, while the helper is away.
TEST_P(Chains, what_is_made_answers_later_without_the_helper) {
  Places places;
  std::vector<TokenId> expected;
  {
    Machines machines(places.provider, GetParam());
    Ledger memory;
    expected = answer(machines, memory, 5);
    Ledger ledger(places.ledger());
    fill(machines, ledger, 40);
  }
  for (int i = 0; i < 2; ++i) {
    Machines machines(places.provider, GetParam());
    Ledger ledger(places.ledger());
    machines.helper_works = false;
    Marks begin;
    EXPECT_EQ(answer(machines, ledger, 5, &begin), expected);
    EXPECT_EQ(begin[k_slot_kind], i * 7u);  // three of the prompt, four of the answer; the stretch ahead is given back
  }
}

// More is wanted than was made: with the helper the chain grows; without it the error says how much there is.
TEST(Chain, grows_where_it_ended) {
  Places places;
  Machines machines(places.provider);
  Ledger ledger(places.ledger());
  fill(machines, ledger, 10);
  const auto first = answer(machines, ledger, 6);
  EXPECT_EQ(answer(machines, ledger, 6), first);
  machines.helper_works = false;
  const std::string error = error_of([&] { answer(machines, ledger, 6); });
  EXPECT_NE(error.find("no more offline material can be made: helper: no connection"), std::string::npos) << error;
  machines.helper_works = true;
  EXPECT_EQ(answer(machines, ledger, 6), first);
}

// The cache serves the next turn; a turn that is edited keeps what is before it.
TEST_P(Chains, turns_go_on_and_are_taken_back) {
  Places places;
  Machines machines(places.provider, GetParam());
  const auto whole = [&](const std::vector<TokenId>& prompt) {
    Ledger memory;
    UserClient client(machines.links(), memory, machines.executor(), 5s);
    client.fill(target_of(client.card().plan, {}, prompt.size(), 4), nullptr);
    return ask(client, prompt, 4);
  };
  Ledger ledger;
  UserClient client(machines.links(), ledger, machines.executor(), 5s);
  client.fill(target_of(client.card().plan, {}, 24, 20), nullptr);
  const auto first = ask(client, k_prompt, 4);
  EXPECT_EQ(first, whole(k_prompt));
  // The next turn: what was said, and two tokens more. Of the answer the last token was not fed.
  std::vector<TokenId> talk = k_prompt;
  talk.insert(talk.end(), first.begin(), first.end());
  talk.insert(talk.end(), {9, 4});
  ASSERT_EQ(client.session().length(), 6u);
  EXPECT_EQ(ask(client, {talk.begin() + 6, talk.end()}, 4), whole(talk));
  // The second question was another one.
  client.session().rewind(6);
  EXPECT_EQ(client.session().length(), 6u);
  talk.back() = 11;
  EXPECT_EQ(ask(client, {talk.begin() + 6, talk.end()}, 4), whole(talk));
  // Everything was.
  client.session().rewind(0);
  EXPECT_EQ(ask(client, k_prompt, 4), first);
}

// A link that makes a copy of all folders before its k-th frame, as a power cut would leave them.
class Copying : public PassingLink {
 public:
  Copying(std::unique_ptr<Link> link, std::size_t& count, std::size_t at, std::function<void()> make)
      : PassingLink(std::move(link)), count_(count), at_(at), make_(std::move(make)) {}
  void send(Frame frame) override {
    flush();
    if (count_++ == at_) make_();
    PassingLink::send(std::move(frame));
  }

 private:
  std::size_t& count_;
  std::size_t at_;
  std::function<void()> make_;
};

// At each frame of a short session both die, or one of them while the other goes on to the end; at last one of them finds itself with a copy of
// its folder from before. What was used is not used again, and there is an answer.
TEST(Chain, nothing_is_used_twice_whatever_dies_when) {
  std::size_t frames = 0;
  std::vector<TokenId> expected;
  const auto begins_behind = [&](const fs::path& provider, const fs::path& user, const Marks& used, std::size_t at) {
    Places again;
    copy_folder(provider, again.provider);
    copy_folder(user, again.user);
    Machines machines(again.provider);
    Ledger ledger(again.ledger());
    Marks begin;
    EXPECT_EQ(answer(machines, ledger, 2, &begin), expected) << "frame " << at;
    EXPECT_TRUE(within(used, begin)) << "frame " << at << ": " << begin[k_slot_kind] << " slots, used were "
                                     << used[k_slot_kind];
  };
  for (std::size_t at = 0; at == 0 || at < frames; ++at) {
    Places places, now, before;
    Machines machines(places.provider);
    Ledger ledger(places.ledger());
    fill(machines, ledger, 24);
    if (at == 0) {
      Ledger memory;
      expected = answer(machines, memory, 2);
      copy_folder(places.provider, before.provider);
      copy_folder(places.user, before.user);
    }
    Marks used_now, used;  // when the copy was made, and at the end
    std::size_t count = 0;
    UserClient* asking = nullptr;
    UserLinks links = machines.links();
    links.online = [&, dial = links.online] {
      return std::make_unique<Copying>(dial(), count, at, [&] {
        copy_folder(places.provider, now.provider);
        copy_folder(places.user, now.user);
        if (asking != nullptr) used_now = asking->session().marks();
      });
    };
    {
      UserClient client(links, ledger, machines.executor(), 5s);
      asking = &client;
      ask(client, k_prompt, 2);
      used = client.session().marks();
      client.end();
    }
    frames = count;
    begins_behind(now.provider, now.user, used_now, at);
    begins_behind(now.provider, places.user, used, at);
    begins_behind(places.provider, now.user, used, at);
    if (at > 0) continue;
    begins_behind(before.provider, places.user, used, at);
    begins_behind(places.provider, before.user, used, at);
  }
  EXPECT_GT(frames, 30u);
}

// The same while packs are made: what was not complete is made again, word for word.
TEST(Chain, a_filling_that_dies_goes_on_where_it_was_complete) {
  std::size_t frames = 0;
  std::vector<TokenId> expected;
  for (std::size_t at = 0; at == 0 || at < frames; ++at) {
    Places places, now;
    Machines machines(places.provider);
    if (expected.empty()) {
      Ledger memory;
      expected = answer(machines, memory, 5);
    }
    std::size_t count = 0;
    UserLinks links = machines.links();
    links.offline = [&, dial = links.offline] {
      return std::make_unique<Copying>(dial(), count, at, [&] {
        copy_folder(places.provider, now.provider);
        copy_folder(places.user, now.user);
      });
    };
    {
      Ledger ledger(places.ledger());
      UserClient client(links, ledger, machines.executor(), 5s);
      for (std::size_t n = 4; n <= 12; n += 4) client.fill(target_of(client.card().plan, {}, n, n), nullptr);
      client.end();
    }
    frames = count;
    Machines others(now.provider);
    Ledger ledger(now.ledger());
    EXPECT_EQ(answer(others, ledger, 5), expected) << at;
    EXPECT_EQ(answer(others, ledger, 5), expected) << at;
  }
  EXPECT_GT(frames, 10u);
}

// A user whose seeds are gone begins anew; the provider's packs of that chain are of no use.
TEST(Chain, lost_seeds_cost_the_packs_and_nothing_else) {
  Places places;
  Machines machines(places.provider);
  Ledger memory;
  const auto expected = answer(machines, memory, 5);
  {
    Ledger ledger(places.ledger());
    fill(machines, ledger, 20);
  }
  {
    Ledger fresh;
    EXPECT_EQ(answer(machines, fresh, 5), expected);
  }
  fs::remove_all(places.provider / "stock");
  Machines others(places.folder.path() / "other");
  Ledger ledger(places.ledger());
  EXPECT_EQ(answer(others, ledger, 5), expected);
}

TEST(Chain, another_seed_at_the_other_side_is_refused) {
  Places places;
  Ledger ledger(places.ledger());
  {
    Machines machines(places.provider);
    fill(machines, ledger, 10);
  }
  {  // as if two providers had one chain
    Ledger provider(places.provider / "stock" / "ledger.sqlite");
    const ChainRecord before = provider.all().at(0);
    ChainRecord record = before;
    record.seed = seed_of(9);
    provider.change(before, record);
  }
  Machines machines(places.provider);
  const std::string error = error_of([&] { answer(machines, ledger, 30); });
  EXPECT_NE(error.find("the provider's seed of this chain is another than when it was begun"), std::string::npos)
      << error;
}

TEST(Chain, damaged_packs_are_named_and_passed_over) {
  Places places;
  std::vector<TokenId> expected;
  {
    Machines machines(places.provider);
    Ledger memory, ledger(places.ledger());
    expected = answer(machines, memory, 5);
    fill(machines, ledger, 20);
  }
  for (const auto& entry : fs::directory_iterator(places.provider / "stock")) {
    if (entry.path().extension() != ".helper") continue;
    // In the first slots' pieces, behind the entries.
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(fs::file_size(entry.path()) / 3));
    file.put('x');
    file.put('y');
  }
  Machines machines(places.provider);
  Ledger ledger(places.ledger());
  std::size_t errors = 0;
  std::vector<TokenId> got;
  for (int i = 0; i < 20 && got.empty(); ++i) {
    try {
      got = answer(machines, ledger, 5);
    } catch (const Error& error) {
      ++errors;
      EXPECT_NE(std::string(error.what()).find("are damaged"), std::string::npos) << error.what();
    }
  }
  EXPECT_EQ(got, expected);
  EXPECT_LE(errors, 1u);
}

// Pieces of wire version 6 have no words of secret cuts: files of packs have had version 2 since.
TEST(Chain, packs_of_an_older_release_are_not_used) {
  Places places;
  {
    Machines machines(places.provider);
    Ledger ledger(places.ledger());
    fill(machines, ledger, 20);
  }
  for (const auto& entry : fs::directory_iterator(places.provider / "stock")) {
    if (entry.path().extension() != ".helper") continue;
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(8);  // behind the magic number
    file.put(1);
  }
  Machines machines(places.provider);
  Ledger ledger(places.ledger());
  UserClient client(machines.links(), ledger, machines.executor(), 5s);
  EXPECT_TRUE(client.card().chains.empty());
  client.end();
}

TEST(Chain, a_full_disk_ends_the_filling_and_nothing_else) {
  Places places;
  Machines machines(places.provider);
  Ledger ledger(places.ledger()), memory;
  const auto expected = answer(machines, memory, 5);
  fill(machines, ledger, 16);
  signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  rlimit small{0, old.rlim_max};
  for (const auto& entry : fs::directory_iterator(places.provider / "stock")) {
    if (!entry.path().string().ends_with("-reserve"))
      small.rlim_cur = std::max<rlim_t>(small.rlim_cur, entry.file_size() + 1000);
  }
  setrlimit(RLIMIT_FSIZE, &small);
  const std::string error = error_of([&] { fill(machines, ledger, 60); });
  setrlimit(RLIMIT_FSIZE, &old);
  EXPECT_NE(error.find("cannot be written"), std::string::npos) << error;
  EXPECT_EQ(answer(machines, ledger, 5), expected);
}

TEST(Chain, the_allowance_is_kept_by_the_provider) {
  Places places;
  Machines machines(places.provider);
  const auto ask_for = [&](Ledger& ledger, std::size_t n, const std::string& user) {
    UserLimits limits;
    limits.tokens = 7;
    UserClient client(machines.links(user, limits), ledger, machines.executor(), 5s);
    client.fill(target_of(client.card().plan, client.session().marks(), 3, n), nullptr);
    ask(client, k_prompt, n);
    client.end();
  };
  Ledger ledger(places.ledger()), other;
  EXPECT_EQ(error_of([&] { ask_for(ledger, 4, "one"); }), "no error");
  EXPECT_EQ(error_of([&] { ask_for(other, 3, "one"); }), "no error");
  const auto refused = caught([&] { ask_for(ledger, 1, "one"); });
  ASSERT_TRUE(refused);
  EXPECT_TRUE(!refused->by_peer() || refused->reason() == Reason::allowance_used_up) << refused->what();
  // The user may find the link closed while it still sends; the provider knows why.
  EXPECT_TRUE(machines.notes.come("the allowance of the invite is used up")) << machines.notes.text();
  EXPECT_EQ(error_of([&] { ask_for(other, 7, "two"); }), "no error");
}

Account account_of(const Places& places, const std::string& user) {
  return read_accounts(places.provider / "stock" / "ledger.sqlite")[user];
}

// Of a prompt, an answer, what is taken back and what is given up: the provider has computed them.
TEST_P(Chains, a_row_that_was_computed_is_counted_before_its_answer_leaves) {
  Places places;
  Machines machines(places.provider, GetParam());
  Ledger ledger(places.ledger());
  UserClient client(machines.links("one"), ledger, machines.executor(), 5s);
  make(client, 8, 8);
  client.session().prompt(k_prompt, greedy);
  EXPECT_GE(account_of(places, "one").ever().rows, 3u);
  for (int i = 0; i < 2; ++i) client.session().advance([](TokenId) { return true; }, greedy);
  client.session().rewind(2);
  client.session().prompt(std::vector<TokenId>{8, 9}, greedy);
  EXPECT_GE(account_of(places, "one").ever().rows, 7u);
  if (GetParam().profile != Profile::open) client.session().advance([](TokenId) { return false; }, greedy);
  const std::uint64_t rows = GetParam().profile == Profile::open ? 7 : 8;
  EXPECT_EQ(client.session().marks()[k_slot_kind], rows);
  client.end();
  EXPECT_EQ(account_of(places, "one").ever().rows, rows);
  EXPECT_EQ(account_of(places, "two"), Account{});
}

// A draft that nobody sees is as many rows as one that holds.
TEST(Chain, rows_of_drafts_are_counted) {
  Places places;
  Machines machines(places.provider, {Profile::open});
  Ledger ledger(places.ledger());
  UserClient client(machines.links("one"), ledger, machines.executor(), 5s);
  make(client, 8, 16);
  client.session().prompt(k_prompt, greedy);
  client.session().advance(
      std::vector<TokenId>{1, 1, 1}, [](TokenId) { return true; }, greedy);
  client.end();
  EXPECT_EQ(account_of(places, "one").ever(), (Usage{1 + 4, 3 + 4}));
}

TEST(Chain, rows_are_refused_beyond_the_invites_by_every_program_and_after_a_restart) {
  Places places;
  UserLimits limits;
  limits.rows = 10;
  Ledger ledger(places.ledger()), other;
  const auto ask_for = [&](Machines& machines, Ledger& of, std::size_t n, const std::string& user) {
    UserClient client(machines.links(user, limits), of, machines.executor(), 5s);
    client.fill(target_of(client.card().plan, client.session().marks(), 3, n), nullptr);
    ask(client, k_prompt, n);
    client.end();
  };
  {
    Machines machines(places.provider);
    EXPECT_EQ(error_of([&] { ask_for(machines, ledger, 4, "one"); }), "no error");  // 3 of the prompt, 3 of the answer
    EXPECT_EQ(error_of([&] { ask_for(machines, other, 2, "one"); }), "no error");
  }
  Machines machines(places.provider);
  for (Ledger* of : {&ledger, &other}) {
    const auto refused = caught([&] { ask_for(machines, *of, 1, "one"); });
    ASSERT_TRUE(refused);
    EXPECT_TRUE(!refused->by_peer() || refused->reason() == Reason::allowance_used_up) << refused->what();
  }
  EXPECT_TRUE(
      machines.notes.come("allowance: the allowance of the invite is used up: fewer rows are left than this takes", 2))
      << machines.notes.text();
  EXPECT_EQ(account_of(places, "one").ever().rows, 10u);
  EXPECT_EQ(error_of([&] { ask_for(machines, other, 8, "two"); }), "no error");
  // What its programs are told is how many tokens there can be.
  Ledger third;
  EXPECT_EQ(UserClient(machines.links("one", limits), third, machines.executor(), 5s).card().tokens_left, 0u);
  limits.rows = 14;
  EXPECT_EQ(UserClient(machines.links("one", limits), third, machines.executor(), 5s).card().tokens_left, 4u);
}

TEST(Chain, a_session_goes_by_what_the_allowance_is_by_now) {
  Places places;
  Machines machines(places.provider);
  Ledger ledger;
  UserLimits limits;
  limits.rows = limits.tokens = 1;
  Allowance now = limits;
  limits.allowance_now = [&] { return now; };
  UserClient client(machines.links("one", limits), ledger, machines.executor(), 5s);
  make(client, 3, 4);
  now = {10, 10};
  EXPECT_EQ(ask(client, k_prompt, 4).size(), 4u);
}

TEST(Chain, a_monthly_allowance_begins_again_with_the_month) {
  Places places;
  Machines machines(places.provider);
  UserLimits limits;
  limits.tokens = 4;
  limits.monthly = true;
  const auto ask_for = [&](std::size_t n) {
    Ledger ledger;
    UserClient client(machines.links("one", limits), ledger, machines.executor(), 5s);
    client.fill(target_of(client.card().plan, client.session().marks(), 3, n), nullptr);
    ask(client, k_prompt, n);
    client.end();
  };
  EXPECT_EQ(error_of([&] { ask_for(4); }), "no error");
  EXPECT_NE(error_of([&] { ask_for(1); }), "no error");
  EXPECT_TRUE(machines.notes.come("used up until the next month (UTC) begins: no tokens")) << machines.notes.text();
  Database(places.provider / "stock" / "ledger.sqlite").run("UPDATE usage SET month = '2001-01'");
  EXPECT_EQ(error_of([&] { ask_for(4); }), "no error");
  const Account account = account_of(places, "one");
  EXPECT_EQ(account.in("2001-01").tokens, 4u);
  EXPECT_EQ(account.ever().tokens, 8u);
}

// Bytes of files without a name below a folder, that this process has open.
std::size_t unnamed_below(const fs::path& folder) {
  std::size_t sum = 0;
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    const std::string target = fs::read_symlink(entry.path(), gone).string();
    struct stat status {};
    if (target.starts_with(folder.string()) && target.ends_with(" (deleted)") &&
        stat(entry.path().c_str(), &status) == 0)
      sum += static_cast<std::size_t>(status.st_size);
  }
  return sum;
}

// Else a user could have as much of the provider's memory as it may have of its disk.
TEST(Chain, what_a_user_does_not_keep_takes_the_disk_as_well) {
  Places places;
  Machines machines(places.provider);
  Ledger ledger;  // in memory
  UserClient client(machines.links(), ledger, machines.executor(), 5s);
  client.make_material(k_prompt.size(), 4, 64);
  client.wait_for_material(k_prompt.size(), 4);
  EXPECT_EQ(ask(client, k_prompt, 4).size(), 4u);
  EXPECT_GT(unnamed_below(places.provider), 10'000u);
  EXPECT_EQ(disk_of(places.provider), 0u);
  client.end();
}

TEST(Chain, a_user_has_so_many_sessions_and_so_much_stock) {
  Places places;
  Machines machines(places.provider);
  UserLimits limits;
  limits.sessions = 2;
  Ledger a, b, c;
  UserClient one(machines.links("u", limits), a, machines.executor(), 5s),
      two(machines.links("u", limits), b, machines.executor(), 5s);
  EXPECT_EQ(reason_of([&] { UserClient(machines.links("u", limits), c, machines.executor(), 5s); }), "busy");
  EXPECT_EQ(error_of([&] { UserClient(machines.links("v", limits), c, machines.executor(), 5s); }), "no error");
}

TEST(Chain, all_users_together_have_so_many_sessions) {
  Machines machines({});
  machines.most_sessions = 2;
  Ledger a, b, c;
  UserClient one(machines.links("u"), a, machines.executor(), 5s);
  {
    const UserClient two(machines.links("v"), b, machines.executor(), 5s);
    EXPECT_NE(error_of([&] {
                UserClient(machines.links("u"), c, machines.executor(), 5s);
              }).find("as many conversations are open as may be (2, of all users)"),
              std::string::npos);
    one.fill(target_of(one.card().plan, {}, k_prompt.size(), 4), nullptr);  // an open one is no newcomer
    EXPECT_EQ(ask(one, k_prompt, 4).size(), 4u);
  }
  std::string error = "none yet";
  for (int i = 0; i < 100 && error != "no error"; ++i, std::this_thread::sleep_for(20ms)) {
    error = error_of([&] { UserClient(machines.links("u"), c, machines.executor(), 5s); });
  }
  EXPECT_EQ(error, "no error");
}

// What is used gives its room back: while a session lasts, at its end, and at a start where there was no end.
TEST_P(Chains, what_is_used_gives_its_room_back) {
  Places places, cut;
  std::uint64_t full = 0, part = 0, rest = 0;
  std::vector<TokenId> expected;
  {
    Machines machines(places.provider, GetParam());
    Ledger memory, ledger(places.ledger());
    expected = answer(machines, memory, 5);
    UserClient client(machines.links(), ledger, machines.executor(), 5s);
    client.fill(target_of(client.card().plan, {}, 15, 46), nullptr);
    full = disk_of(places.provider);
    copy_folder(places.provider, cut.provider);
    ask(client, k_prompt, 21);
    client.session().rewind(0);
    ask(client, k_prompt, 2);
    part = disk_of(places.provider);
    client.session().rewind(0);
    ask(client, k_prompt, 11);
    client.end();
    rest = disk_of(places.provider);
  }
  EXPECT_LT(part, full - full / 6);  // 16 of 60 slots at least, those with few keys
  EXPECT_LT(rest, full - full / 3);  // 40
  {
    Machines machines(places.provider, GetParam());
    machines.helper_works = false;
    Ledger ledger(places.ledger());
    Marks begin;
    EXPECT_EQ(answer(machines, ledger, 5, &begin), expected);
    EXPECT_EQ(begin[k_slot_kind], 40u);
    // The provider dies in a session with a copy of the files from before: its ledger has the marks alone.
    Ledger late(cut.provider / "stock" / "ledger.sqlite");
    const ChainRecord record = late.all().at(0);
    late.move_burnt(record.peer, record.chain, record.burnt, begin);
  }
  EXPECT_GE(
      disk_of(cut.provider) + 2 * 4096,
      full);  // nothing went: a copy has at most a block less for each file, which the file system takes for its map
  const Machines again(cut.provider, GetParam());
  EXPECT_LT(disk_of(cut.provider), full - full / 3);
}

TEST(Chain, a_filling_stops_at_the_limit_and_what_is_made_answers) {
  Places places;
  Machines machines(places.provider);
  UserLimits limits;
  Ledger ledger(places.ledger()), other(places.folder.path() / "other.sqlite"), memory;
  const auto expected = answer(machines, memory, 5);
  const auto fill_to = [&](Ledger& of, std::size_t slots) {
    UserClient client(machines.links("w", limits), of, machines.executor(), 5s);
    for (std::size_t n = 8; n <= slots; n += 8) client.fill(target_of(client.card().plan, {}, n, n), nullptr);
    client.end();
  };
  fill_to(ledger, 8);
  const std::uint64_t first = disk_of(places.provider);
  limits.stock = 2 * first;
  // Of two that are filled at once.
  std::optional<Error> one, two;
  {
    const std::jthread thread([&] { one = caught([&] { fill_to(ledger, 32); }); });
    two = caught([&] { fill_to(other, 32); });
  }
  ASSERT_TRUE(one || two);
  for (const auto& error : {one, two}) {
    if (!error) continue;
    EXPECT_EQ(error->reason(), Reason::stock_full) << error->what();
    EXPECT_NE(error->message().find(fmt::format("the limit is {}", limits.stock)), std::string::npos) << error->what();
  }
  EXPECT_LE(disk_of(places.provider),
            limits.stock + limits.stock / 4);  // and heads of records, and what blocks have over
  EXPECT_GT(disk_of(places.provider), first);
  const auto busy = [&] {  // the refused sessions end by themselves
    const Card card = read_card(machines.links("w"), 5s);
    return std::any_of(card.chains.begin(), card.chains.end(), [](const ChainState& chain) { return chain.busy; });
  };
  for (int i = 0; i < 100 && busy(); ++i) std::this_thread::sleep_for(20ms);
  machines.helper_works = false;
  // Where one was refused and over, the other may have taken its place.
  const Card card = read_card(machines.links("w"), 5s);
  const bool first_stays = std::any_of(card.chains.begin(), card.chains.end(), [&](const ChainState& chain) {
    return ledger.find({}, chain.chain).has_value();
  });
  UserClient client(machines.links("w", limits), first_stays ? ledger : other, machines.executor(), 5s);
  EXPECT_EQ(ask(client, k_prompt, 5), expected);
}

// A user who has lost its folder is not kept out by what is left of it, which nobody can use.
TEST(Chain, questions_go_on_where_the_folder_was_lost) {
  Places places;
  Machines machines(places.provider);
  UserLimits limits;
  Ledger lost(places.ledger()), memory;
  const auto expected = answer(machines, memory, 5);
  fill(machines, lost, 60);
  limits.stock = disk_of(places.provider);
  for (int i = 0; i < 2; ++i) {
    Ledger anew(places.folder.path() / fmt::format("anew{}.sqlite", i));
    UserClient client(machines.links("alice", limits), anew, machines.executor(), 5s);
    EXPECT_EQ(make_and_ask(client, k_prompt, 5), expected);
    client.end();
  }
}

// A user who asks and asks is never shut out by what was used.
TEST(Chain, questions_go_on_under_a_limit) {
  Places places;
  Machines machines(places.provider);
  UserLimits limits;
  Ledger ledger(places.ledger()), another(places.folder.path() / "another.sqlite"), memory;
  const auto expected = answer(machines, memory, 5);
  fill(machines, another, 60);
  limits.stock = disk_of(places.provider) / 2;
  // The one used last, while a question has room in it.
  const auto with_room = [](const Plan&, std::span<const ChainChoice> chains) -> const ChainChoice* {
    const auto found =
        std::find_if(chains.begin(), chains.end(), [](const ChainChoice& c) { return c.burnt[k_slot_kind] <= 64 - 7; });
    return found == chains.end() ? nullptr : &*found;
  };
  for (int i = 0; i < 25; ++i) {
    UserClient client(machines.links("w", limits), ledger, machines.executor(), 5s, with_room);
    client.fill(target_of(client.card().plan, client.session().marks(), k_prompt.size(), 5), nullptr);
    EXPECT_EQ(ask(client, k_prompt, 5), expected) << i;
    client.end();
  }
}

// Where leftovers take the room, they give way, the one with the least material first, and while that is enough no fresh one; one in use never does.
TEST(Chain, leftovers_give_way_at_the_limit) {
  Places places;
  Machines machines(places.provider);
  UserLimits limits;
  Ledger ledger(places.ledger());
  const auto new_chain = [](const Plan&, std::span<const ChainChoice>) -> const ChainChoice* { return nullptr; };
  const auto begin = [&](std::size_t slots, bool use) {
    UserClient client(machines.links("w", limits), ledger, machines.executor(), 5s, new_chain);
    client.fill(target_of(client.card().plan, {}, k_prompt.size(), slots), nullptr);
    if (use) ask(client, k_prompt, 4);
    client.end();
  };
  begin(20, true);
  begin(30, true);
  begin(10, false);
  limits.stock = disk_of(places.provider);
  begin(14, false);
  UserClient client(machines.links("w", limits), ledger, machines.executor(), 5s);
  std::multiset<std::uint32_t> ready;
  for (const ChainState& chain : client.card().chains) ready.insert(between(chain.burnt, chain.made)[k_slot_kind]);
  EXPECT_EQ(ready, (std::multiset<std::uint32_t>{12, 16, 26}));
}

// Chains that are used in part do not heap up: eight stay, those with the most material.
TEST(Chain, leftovers_do_not_heap_up) {
  Places places;
  Machines machines(places.provider);
  Ledger ledger(places.ledger());
  const auto new_chain = [](const Plan&, std::span<const ChainChoice>) -> const ChainChoice* { return nullptr; };
  for (std::size_t i = 0; i < 12; ++i) {
    UserClient client(machines.links(), ledger, machines.executor(), 5s, new_chain);
    client.fill(target_of(client.card().plan, {}, 3, 8 + i % 6), nullptr);
    if (i != 2) ask(client, k_prompt, 4);  // that one stays fresh
    client.end();
  }
  UserClient client(machines.links(), ledger, machines.executor(), 5s);  // hears what is left
  std::multiset<std::uint32_t> ready;
  for (const ChainState& chain : client.card().chains) ready.insert(between(chain.burnt, chain.made)[k_slot_kind]);
  // 3 of the prompt and 3 of the answer are used of 10 + i % 6; two went when the last session began, whose own chain came to the eight.
  EXPECT_EQ(ready, (std::multiset<std::uint32_t>{5, 5, 6, 7, 7, 8, 8, 9, 9, 12}));
  EXPECT_EQ(std::count_if(fs::directory_iterator(places.provider / "stock"), fs::directory_iterator(),
                          [](const auto& entry) { return entry.path().extension() == ".helper"; }),
            10);
}

// Calls what it is told behind the n-th frame that comes, before its owner has it; it may change the frame.
class Meanwhile : public PassingLink {
 public:
  Meanwhile(std::unique_ptr<Link> link, int n, std::function<void(Frame&)> call)
      : PassingLink(std::move(link)), left_(n), call_(std::move(call)) {}
  Frame receive(Clock::time_point deadline, const char* awaited, std::size_t most) override {
    Frame frame = PassingLink::receive(deadline, awaited, most);
    if (--left_ == 0) call_(frame);
    return frame;
  }

 private:
  int left_;
  std::function<void(Frame&)> call_;
};
UserLinks meanwhile(UserLinks links, int n, std::function<void(Frame&)> call) {
  links.online = [dial = links.online, n, once = std::move(call)]() mutable {
    return std::make_unique<Meanwhile>(dial(), n, std::exchange(once, [](Frame&) {}));
  };
  return links;
}

// Two providers on copies of one folder are as one that says a chain is idle when it is in use, and has forgotten what was burnt.
struct Liar {
  Places places, copy;
  std::optional<Machines> one, other;
  explicit Liar(std::size_t slots = 40) {
    {
      Machines machines(places.provider);
      Ledger ledger(places.ledger());
      fill(machines, ledger, slots);
    }
    copy_folder(places.provider, copy.provider);
    one.emplace(places.provider);
    other.emplace(copy.provider);
  }
};

TEST(Chain, a_provider_that_calls_a_chain_idle_gets_no_second_session_on_it) {
  Liar liar;
  Ledger ledger(liar.places.ledger()), another(liar.places.ledger());
  UserClient one(liar.one->links(), ledger, liar.one->executor(), 5s);
  ask(one, k_prompt, 4);
  UserClient two(liar.other->links(), another, liar.other->executor(), 5s),
      three(liar.other->links(), ledger, liar.other->executor(), 5s);
  EXPECT_NE(two.chain(), one.chain());
  EXPECT_NE(three.chain(), one.chain());
  EXPECT_NE(three.chain(), two.chain());
}

// The same where the file system keeps no locks: the first goes on to the end of its stretch, the second begins behind that, and whoever comes to the disk
// second makes nothing more.
TEST(Chain, where_no_locks_hold_a_provider_that_lies_gets_no_piece_twice) {
  Liar liar;
  Ledger ledger(liar.places.ledger());
  std::optional<UserClient> one(std::in_place, liar.one->links(), ledger, liar.one->executor(), 5s);
  ask(*one, k_prompt, 4);
  const Marks used = one->session().marks(), burnt = ledger.find({}, one->chain())->burnt;
  fs::remove(liar.places.ledger() += ".lock");
  {
    UserClient two(liar.other->links(), ledger, liar.other->executor(), 5s);
    ASSERT_EQ(two.chain(), one->chain());
    EXPECT_EQ(two.session().marks(), burnt);
    two.fill(target_of(two.card().plan, two.session().marks(), k_prompt.size(), 4), nullptr);
    ask(two, k_prompt, 4);
    one->session().rewind(0);
    const std::string error = error_of([&] {
      for (int i = 0; i < 4; ++i) ask(*one, k_prompt, 4), one->session().rewind(0);
    });
    EXPECT_NE(error.find("another program has used or removed this chain"), std::string::npos) << error;
    EXPECT_TRUE(within(one->session().marks(), burnt));
    EXPECT_TRUE(within(used, one->session().marks()));
    two.end();
    const Marks end = two.session().marks();
    one.reset();  // gives nothing back
    EXPECT_TRUE(within(end, ledger.find({}, two.chain())->burnt));
  }
}

TEST(Chain, a_provider_that_has_lost_its_seed_gets_none_of_the_old_coins) {
  Places places;
  Ledger ledger(places.ledger());
  ChainRecord before;
  {
    Machines machines(places.provider, {Profile::paper, Retrieval::bfv});
    fill(machines, ledger, 10);
    answer(machines, ledger, 4);
    before = ledger.all().at(0);
  }
  {
    Ledger provider(places.provider / "stock" / "ledger.sqlite");
    ChainRecord record = provider.all().at(0);
    record.paired = false;
    provider.change(provider.all().at(0), record);
  }
  Machines machines(places.provider, {Profile::paper, Retrieval::bfv});
  UserClient client(machines.links(), ledger, machines.executor(), 5s);
  ASSERT_EQ(client.chain(), before.chain);
  const ChainRecord after = *ledger.find({}, before.chain);
  EXPECT_FALSE(std::ranges::equal(after.seed.bytes(), before.seed.bytes()));
  EXPECT_FALSE(std::ranges::equal(after.own.bytes(), before.own.bytes()));
  EXPECT_TRUE(within(before.burnt, after.burnt));
}

// c1 = U r + rho - m under two U would tell r (docs/protocol.md 4.1): a provider that says "nothing is made" and has another U gets no halves of a chain that
// was dealt under the first.
TEST(Chain, another_mask_of_the_model_is_dealt_another_chain) {
  Places places;
  Ledger ledger(places.ledger());
  {
    Machines machines(places.provider);
    fill(machines, ledger, 10);
  }
  const std::uint64_t first = ledger.all().at(0).chain;
  {
    Machines machines(places.provider, {.mask = 'b'});
    UserClient client(machines.links(), ledger, machines.executor(), 5s);
    EXPECT_NE(client.chain(), first);
  }
  Machines machines(places.provider);
  UserClient client(machines.links(), ledger, machines.executor(), 5s);
  EXPECT_EQ(client.chain(), first);
}

TEST(Chain, a_mark_beyond_the_plan_is_refused) {
  Places places;
  Machines machines(places.provider);
  Ledger ledger(places.ledger());
  const UserLinks links = meanwhile(machines.links(), 2, [](Frame& frame) {
    Accepted accepted = message_of<Accepted>(frame);
    accepted.burnt[k_slot_kind] = 4'000'000'000;
    Writer writer;
    accepted.visit(writer);
    frame.payload = writer.take();
  });
  const std::string error = error_of([&] { UserClient(links, ledger, machines.executor(), 5s); });
  EXPECT_NE(error.find("Accepted.burnt"), std::string::npos) << error;
}

// While the card is on its way another program begins a chain, of which the card cannot know.
TEST(Chain, a_chain_that_is_younger_than_the_connection_is_not_dropped) {
  Places places;
  Machines machines(places.provider);
  Ledger ledger(places.ledger()), another(places.ledger());
  std::optional<UserClient> one;
  const auto begin = [&](Frame&) {
    one.emplace(machines.links(), ledger, machines.executor(), 5s);
    one->fill(target_of(one->card().plan, {}, 3, 40), nullptr);
    ask(*one, k_prompt, 4);
    one->end();
    one.reset();  // nor is it held
  };
  UserClient two(meanwhile(machines.links(), 1, begin), another, machines.executor(), 5s);
  const auto chains = ledger.all();
  ASSERT_EQ(chains.size(), 2u);
  EXPECT_EQ(
      std::count_if(chains.begin(), chains.end(), [&](const ChainRecord& r) { return r.burnt[k_slot_kind] == 6; }), 1);
}

// Nor one that is in use, whatever the provider says.
TEST(Chain, a_chain_in_use_is_not_dropped_where_the_provider_denies_it) {
  Places places, empty;
  Machines machines(places.provider), others(empty.provider);
  Ledger ledger(places.ledger());
  fill(machines, ledger, 40);
  UserClient one(machines.links(), ledger, machines.executor(), 5s);
  ask(one, k_prompt, 4);
  { UserClient two(others.links(), ledger, others.executor(), 5s); }
  ASSERT_TRUE(ledger.find({}, one.chain()));
  one.session().rewind(0);
  EXPECT_EQ(ask(one, k_prompt, 14).size(), 14u);  // beyond its stretch
}

// During a handshake's round trip another program uses the chain, where no locks hold: what it burnt is not overwritten, and the next try sees it.
TEST(Chain, an_agreement_sees_what_was_burnt_during_its_round_trip) {
  Liar liar;
  Ledger ledger(liar.places.ledger());
  const std::uint64_t chain = ledger.all().at(0).chain;
  const auto use = [&](Frame&) {
    const ChainRecord row = *ledger.find({}, chain);
    ledger.move_burnt({}, chain, row.burnt, later_of(row.burnt, Marks{{9, 9, 9, 0}}));
  };
  UserClient two(meanwhile(liar.other->links(), 2, use), ledger, liar.other->executor(), 5s);
  EXPECT_TRUE(within(Marks{{9, 9, 9, 0}}, ledger.find({}, chain)->burnt));
  if (two.chain() == chain) {  // else the provider had not ended the first try yet, and it took another
    EXPECT_EQ(two.session().marks()[k_slot_kind], 9u);
  }
}

TEST(Chain, two_sessions_take_two_chains) {
  Places places;
  Machines machines(places.provider);
  Ledger ledger(places.ledger());
  fill(machines, ledger, 10);
  UserClient one(machines.links(), ledger, machines.executor(), 5s),
      two(machines.links(), ledger, machines.executor(), 5s);
  one.fill(target_of(one.card().plan, {}, 3, 4), nullptr);
  two.fill(target_of(two.card().plan, {}, 3, 4), nullptr);
  EXPECT_EQ(ask(one, k_prompt, 4), ask(two, k_prompt, 4));
  EXPECT_EQ(ledger.all().size(), 2u);
}

}  // namespace
}  // namespace permllm::test
