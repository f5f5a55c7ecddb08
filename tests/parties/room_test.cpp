// What sessions and material take of a provider: memory, places and disks. Nobody takes another's.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <malloc.h>

#include <list>
#include <thread>

#include "cli/local_parties.h"
#include "support/errors.h"
#include "support/small_disk.h"
#include "support/world.h"

namespace permllm::test {
namespace {

using namespace std::chrono_literals;

const std::vector<TokenId> k_prompt{5, 6, 7};

// Where a session outlives its connections.
Making lasting(Making making = {}) {
  making.grace = making.idle = k_long;
  return making;
}

// A session of a user, and answers in it.
struct Asking {
  Asking(MemoryWorld& w, const std::string& user, Ledger& ledger)
      : world(w), client(w.links(user), ledger, w.executor(), 20s) {}
  std::vector<TokenId> ask(std::size_t n, bool make = true) {
    if (make) test::make(client, k_prompt.size(), n);
    client.session().rewind(0);
    return test::ask(client, k_prompt, n);
  }
  MemoryWorld& world;
  UserClient client;
};
std::vector<TokenId> answer(MemoryWorld& world, const std::string& user, Ledger& ledger, std::size_t n,
                            bool make = true) {
  Asking asking(world, user, ledger);
  const auto ids = asking.ask(n, make);
  asking.client.end();
  return ids;
}

// --- Memory -----------------------------------------------------------------------------------------------------------

std::size_t allocated() {
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

// Whoever says that a chain is burnt makes nobody keep anything for what was not used.
TEST(BurntSlots, take_no_memory) {
  const OfferedModel model = tiny_model({.slots = 16384});
  const std::uint32_t last = static_cast<std::uint32_t>(model.plan.slots - 1);
  const Marks burnt{{last, 0, 0, 0}};
  Executor executor(1);
  auto [a, b] = memory_links();
  Channel channel(*a, 7, 5s);
  AesCoins coins(seed_of(1));
  Stock stock(model.plan.config.layers);
  const std::size_t before = allocated();
  const ProviderSession provider(model.plan, model.weights, channel, coins, stock, executor, 5s, nullptr, burnt);
  const UserSession user(model.plan, channel, coins, executor, nullptr, nullptr, burnt);
  EXPECT_LT(allocated() - before, std::size_t{1} << 16);
  EXPECT_EQ(user.slots(), last);
}

// A filling takes no more of the helper the longer it lasts.
TEST(Helper, keeps_nothing_of_what_it_dealt) {
  const OfferedModel model = tiny_model({.slots = 2048});
  const ReadableStream stream(seed_of(3));
  const auto v = masked_weights(model.weights, model.plan, stream);
  Executor executor(1);
  AesCoins coins(seed_of(1)), others(seed_of(2));
  Helper helper{coins, others, executor};
  const std::size_t before = allocated();
  for (std::uint32_t first = 0; first < model.plan.slots; first += 256) {
    auto [near, far] = memory_links();
    Channel channel(*near, 7, 5s);
    deal(helper, model.plan, v, {k_slot_kind, first, 16}, channel);
  }
  EXPECT_LT(allocated() - before, std::size_t{1} << 16);
}

class BurntChains : public testing::TestWithParam<Profile> {};
INSTANTIATE_TEST_SUITE_P(Profiles, BurntChains, testing::Values(Profile::paper, Profile::fast, Profile::open),
                         [](const auto& i) { return name_of(i.param); });

// Nor does anything else depend on it: behind many burnt slots, with material from before them and from a filling of its own, the answer is that of
// a fresh chain, also once a pass was given up and tokens were taken back.
TEST_P(BurntChains, answer_like_fresh_ones) {
  MemoryWorld world(lasting({.model = tiny_model({.profile = GetParam(), .slots = 256})}));
  Ledger memory;
  const auto expected = answer(world, "u", memory, 12);
  const TemporaryDirectory folder;
  MemoryWorld kept(
      lasting({.model = tiny_model({.profile = GetParam(), .slots = 256}), .state = folder.path() / "provider"}));
  Ledger ledger(folder.path() / "ledger.sqlite");
  {
    UserClient client(kept.links("u"), ledger, kept.executor(), 20s);
    client.fill(target_of(client.card().plan, {}, 160, 10), nullptr);
    client.end();
  }
  const ChainRecord record = ledger.all().at(0);
  ledger.move_burnt({}, record.chain, record.burnt, {{150, GetParam() == Profile::open ? 0u : 150u, 5, 0}});
  Asking asking(kept, "u", ledger);
  EXPECT_EQ(asking.client.chain(), record.chain);
  EXPECT_EQ(asking.client.session().slots(), 150u);
  EXPECT_EQ(asking.ask(12), expected);
  if (GetParam() != Profile::open) {
    asking.client.make_material(1, 1, 64);
    asking.client.wait_for_material(1, 1);
    asking.client.session().advance([](TokenId) { return false; }, greedy);  // given up
  }
  EXPECT_EQ(asking.ask(12), expected);
  asking.client.end();
}

// --- Places -----------------------------------------------------------------------------------------------------------

// A session of somebody who sends frames and no more.
struct Frames {
  Frames(MemoryWorld& world, const std::string& user, std::uint32_t burnt = 0)
      : link(world.to_provider(user)), online(*link, 0, 20s) {
    online.send(Hello{});
    card = online.receive(Card{});
    online.send(Agreement{card.plan.hash(), random_number(), false, false, {{burnt, 0, 0, 0}}});
    online.receive(Accepted{});
    online.set_session(card.session);
  }
  std::unique_ptr<Link> link;
  Channel online;
  Card card;
};

TEST(Places, a_fifth_user_is_served_while_four_hold_all) {
  MemoryWorld world(lasting());
  world.most_sessions = 8;
  std::list<Frames> held;
  for (int i = 0; i < 8; ++i) held.emplace_back(world, fmt::format("user {}", i / 2));
  Ledger ledger;
  EXPECT_EQ(answer(world, "frank", ledger, 3).size(), 3u);
  EXPECT_TRUE(world.notes.come("it was idle and was ended to make room for other users"));
  EXPECT_EQ(world.notes.count("it was idle and was ended"), 1u);
  // One of the eight, whichever came first to wait for its user; the others are there.
  const auto ended = [](Frames& frames) {
    return error_of([&] { frames.link->receive(Clock::now(), "anything", k_cut_bytes); }).find("closed") !=
           std::string::npos;
  };
  EXPECT_EQ(std::count_if(held.begin(), held.end(), ended), 1);
  for (Frames& frames : held) frames.link->close();
  EXPECT_TRUE(world.notes.come("session fails: the first pass: the peer closed the connection", 7))
      << world.notes.text();
}

// Whoever has as many as the others is told that there is no place, as before; so is everybody while passes are under way.
TEST(Places, one_who_has_as_many_is_refused) {
  MemoryWorld world(lasting());
  world.most_sessions = 2;
  Frames one(world, "one"), two(world, "two");
  EXPECT_NE(error_of([&] { Frames(world, "one"); }).find("as many conversations are open as may be (2, of all users)"),
            std::string::npos);
  EXPECT_EQ(world.notes.count("it was idle"), 0u);

  MemoryWorld busy(lasting());
  busy.most_sessions = 1;
  Ledger ledger;
  Asking asking(busy, "one", ledger);
  asking.client.make_material(k_prompt.size(), 3, 64);
  asking.client.wait_for_material(k_prompt.size(), 3);
  std::string error = "none";
  asking.client.session().prompt(k_prompt, greedy, [&](std::size_t layer) {
    if (layer == 0) error = error_of([&] { Frames(busy, "two"); });
  });
  EXPECT_NE(error.find("as many conversations are open as may be (1, of all users)"), std::string::npos) << error;
  asking.client.session().retrieve_last();
}

// The one that goes hears why when it asks again, and its chain goes on behind what was used.
TEST(Places, one_that_gave_its_place_hears_why_and_goes_on) {
  const TemporaryDirectory folder;
  MemoryWorld world(lasting({.state = folder.path() / "provider"}));
  world.most_sessions = 1;
  Ledger ledger(folder.path() / "ledger.sqlite"), other;
  std::vector<TokenId> first;
  Marks used;
  {
    Asking asking(world, "one", ledger);
    first = asking.ask(3);
    used = asking.client.session().marks();
    std::string reason = "none yet";  // the provider may not have come to the end of the last pass
    while (reason != "no error") {
      reason = reason_of([&] { EXPECT_EQ(answer(world, "two", other, 3), first); });
      ASSERT_TRUE(reason == "no error" || reason == "busy") << reason;
    }
    EXPECT_EQ(reason_of([&] { asking.ask(3, false); }), "session_ended");
  }
  const auto busy = [&] {  // its filling may be on its way out
    const Card card = read_card(world.links("one"), 20s);
    return std::any_of(card.chains.begin(), card.chains.end(), [](const ChainState& chain) { return chain.busy; });
  };
  for (const Clock::time_point end = Clock::now() + 10s; busy() && Clock::now() < end;) std::this_thread::yield();
  Asking again(world, "one", ledger);
  EXPECT_EQ(again.client.session().marks(), later_of(used, again.client.session().marks()));
  EXPECT_EQ(again.ask(3), first);
}

// Before its first pass a session has no grace and little patience, whatever --grace and --idle say.
TEST(Places, a_session_without_a_pass_ends_with_its_connection) {
  MemoryWorld world(lasting());
  { Frames gone(world, "u", 63); }
  EXPECT_TRUE(world.notes.come("session fails: the first pass: the peer closed the connection", 1, 5s));
  // One that made a pass has its grace.
  Ledger ledger;
  Asking asking(world, "u", ledger);
  asking.ask(3);
}

TEST(Places, a_session_without_a_pass_does_not_wait_for_long) {
  MemoryWorld world(lasting({.patience = 300ms}));
  Frames idle(world, "u", 63);
  EXPECT_TRUE(world.notes.come("session fails: the first pass: did not come in time", 1, 5s));
}

// Nor does one that goes on asking for what it has: that takes nothing of its material.
TEST(Places, what_uses_nothing_keeps_no_session) {
  MemoryWorld world({.patience = 1500ms});
  Ledger ledger;
  Asking asking(world, "u", ledger);
  asking.ask(3);
  std::string error = "no error";
  for (const Clock::time_point end = Clock::now() + 10s; error == "no error" && Clock::now() < end;) {
    std::this_thread::sleep_for(100ms);
    error = error_of([&] { asking.client.session().retrieve_last(); });
  }
  EXPECT_NE(error, "no error");
  EXPECT_TRUE(world.notes.come("session fails: the next pass: did not arrive before the deadline", 1, 5s))
      << world.notes.text();
}

// --- Disks ------------------------------------------------------------------------------------------------------------

constexpr std::uint64_t k_disk = 40 << 20;

TEST(FullDisk, takes_no_material_and_serves_what_is_made) {
  SmallDisk disk(k_disk);
  if (!disk.mounted()) GTEST_SKIP() << "no right to mount a disk";
  const TemporaryDirectory folder;
  Ledger ledger(folder.path() / "ledger.sqlite"), other(folder.path() / "other.sqlite");
  const std::filesystem::path reserve = disk.path() / "provider/stock/ledger.sqlite-reserve";
  const auto fill = [&](MemoryWorld& world, Ledger& of, const std::string& user, std::size_t slots) {
    UserClient client(world.links(user), of, world.executor(), 20s);
    client.fill(target_of(client.card().plan, client.session().marks(), slots, slots), nullptr);
    client.end();
  };
  MemoryWorld world(lasting({.model = tiny_model({.slots = 128}), .state = disk.path() / "provider"}));
  fill(world, ledger, "u", 60);
  EXPECT_EQ(std::filesystem::file_size(reserve), Database::k_reserve);
  EXPECT_EQ(world.provider().disk_trouble(), "");
  EXPECT_GT(world.provider().stock_bytes(), 0u);
  EXPECT_EQ(world.provider().disk_free(), disk.free());
  const auto expected = answer(world, "u", ledger, 3, false);

  // Little is left: no more material, of anybody, and everybody may know why.
  disk.fill(ProviderChains::k_disk_margin - (1 << 20));
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(reason_of([&] { fill(world, other, "v", 10); }), "disk_full");
  }
  EXPECT_NE(world.provider().disk_trouble().find("the disk of the offline material is full"), std::string::npos);
  EXPECT_EQ(world.notes.count("the disk of the offline material is full"), 1u);
  EXPECT_EQ(answer(world, "u", ledger, 3, false), expected);

  // Nothing is left at all: what is made answers, and is burnt on the disk.
  disk.fill();
  EXPECT_EQ(disk.free(), 0u);
  const auto burnt = [&] { return Ledger(disk.path() / "provider/stock/ledger.sqlite").all().at(0).burnt; };
  for (int i = 0; i < 8; ++i) {
    disk.fill();
    EXPECT_EQ(answer(world, "u", ledger, 3, false), expected);
  }
  EXPECT_EQ(burnt()[k_slot_kind], 10 * 5u);

  disk.clear();
  EXPECT_EQ(error_of([&] { fill(world, other, "v", 10); }), "no error");
  EXPECT_EQ(world.notes.count("the disk of the offline material has room again"), 1u);
  EXPECT_EQ(answer(world, "v", other, 3, false), expected);
  EXPECT_EQ(std::filesystem::file_size(reserve), Database::k_reserve);
}

// Without the reserve a ledger's disk that is full is named, with its bytes; nothing that was written is lost.
TEST(FullDisk, keeps_a_reserve_for_the_ledger) {
  SmallDisk disk(8 << 20);
  if (!disk.mounted()) GTEST_SKIP() << "no right to mount a disk";
  const std::filesystem::path path = disk.path() / "ledger.sqlite", reserve = path.string() + "-reserve";
  ChainRecord record;
  record.chain = 1;
  {
    Ledger ledger(path);
    ledger.add(record);
  }
  disk.fill();
  Ledger ledger(path);  // which makes files of its own
  for (std::uint32_t i = 1; i <= 2000; ++i) {
    if (i % 100 == 0) disk.fill();
    ledger.move_burnt({}, 1, {{i - 1, 0, i - 1, 0}}, {{i, 0, i, 0}});
  }
  EXPECT_EQ(ledger.find({}, 1)->burnt[k_slot_kind], 2000u);
  disk.fill();
  const auto full = caught([&] {
    for (std::uint64_t chain = 2; chain < 20000; ++chain) {
      record.chain = chain;
      ledger.add(record);
    }
  });
  ASSERT_TRUE(full);
  EXPECT_EQ(full->reason(), Reason::disk_full);
  const std::string error = full->what();
  EXPECT_NE(error.find("disk/ledger.sqlite: its disk is full, "), std::string::npos) << error;
  EXPECT_NE(error.find("bytes are free; make room"), std::string::npos) << error;
  EXPECT_EQ(std::filesystem::file_size(reserve), 0u);
  disk.clear();
  ledger.move_burnt({}, 1, {{2000, 0, 2000, 0}}, {{2001, 0, 2001, 0}});
  EXPECT_EQ(ledger.find({}, 1)->burnt[k_slot_kind], 2001u);
  EXPECT_EQ(ledger.used({}).tokens, 2001u);
  EXPECT_EQ(std::filesystem::file_size(reserve), Database::k_reserve);
}

}  // namespace
}  // namespace permllm::test
