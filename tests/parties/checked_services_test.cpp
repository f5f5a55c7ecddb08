// The keys for the check of products (docs/protocol.md 4.14) among services: made by the helper, kept by the user, and what a wrong product brings about.
#include <gtest/gtest.h>

#include <fstream>

#include "base/temporary_directory.h"
#include "support/errors.h"
#include "support/links.h"
#include "support/program.h"
#include "support/world.h"

namespace permllm::test {
namespace {

OfferedModel checked_model(char id = 'a') {
  OfferedModel model = tiny_model({.profile = Profile::open, .id = id});
  model.plan.checked = true;
  model.plan.check();
  return model;
}

// A provider whose every so many-th shown row is another while `wrong`.
struct Cheating {
  std::atomic<bool> wrong = false;
  UserLinks links(MemoryWorld& world) {
    UserLinks links = world.links();
    links.online = [this, &world] {
      auto ends = memory_links();
      ends.second = std::make_unique<Changing>(std::move(ends.second), [this](Frame frame) {
        if (wrong && frame.tag == static_cast<std::uint16_t>(Tag::shown_rows)) frame.payload[0] ^= 1;
        return std::vector<Frame>{std::move(frame)};
      });
      return world.to_provider("alice", {}, std::move(ends));
    };
    return links;
  }
};

TEST(CheckedServices, keys_are_made_once_and_kept_and_a_wrong_product_ends_all_until_a_person_says_so) {
  const TemporaryDirectory folder;
  MemoryWorld world({.model = checked_model()});
  Cheating provider;
  ProductStore products(folder.path() / "products");
  Ledger ledger;
  std::size_t orders = 0;
  UserLinks links = provider.links(world);
  const auto to_helper = links.helper;
  links.helper = [&] {
    return std::make_unique<Changing>(to_helper(), [&](Frame frame) {
      orders += frame.tag == static_cast<std::uint16_t>(Tag::product_key_order) ? 1 : 0;
      return std::vector<Frame>{std::move(frame)};
    });
  };
  std::vector<TokenId> first;
  for (int session = 0; session < 3; ++session) {
    UserClient client(links, ledger, world.executor(), k_long, UserClient::any_chain, false, &products);
    const auto ids = make_and_ask(client, {5, 6, 7}, 4);
    if (session == 0) first = ids;
    EXPECT_EQ(ids, first);
    client.end();
    EXPECT_EQ(orders, 1u);
  }
  {
    UserClient client(links, ledger, world.executor(), k_long, UserClient::any_chain, false, &products);
    Ledger other_ledger;
    UserClient other(links, other_ledger, world.executor(), k_long, UserClient::any_chain, false, &products);
    make(client, 3, 4);
    make(other, 3, 4);
    provider.wrong = true;
    EXPECT_EQ(reason_of([&] { ask(client, {5, 6, 7}, 4); }), "wrong_product");
    provider.wrong = false;
    // A session that was open before asks no more, either.
    EXPECT_NE(error_of([&] { ask(other, {5, 6, 7}, 4); }).find("a product was wrong before"), std::string::npos);
  }
  {
    // Nor does one of another model: it may be the same under another name.
    MemoryWorld renamed({.model = checked_model('b')});
    Ledger other_ledger;
    EXPECT_EQ(reason_of([&] {
                UserClient(renamed.links(), other_ledger, world.executor(), k_long, UserClient::any_chain, false,
                           &products);
              }),
              "wrong_product");
  }
  // Of another process, too.
  ProductStore again(folder.path() / "products");
  for (ProductStore* store : {&products, &again}) {
    const auto refused = caught(
        [&] { UserClient client(links, ledger, world.executor(), k_long, UserClient::any_chain, false, store); });
    ASSERT_TRUE(refused);
    EXPECT_EQ(refused->reason(), Reason::wrong_product);
    for (const char* part : {"qkv", "remove "})
      EXPECT_NE(std::string(refused->what()).find(part), std::string::npos) << refused->what();
  }
  EXPECT_EQ(orders, 1u);
  std::size_t removed = 0;
  for (const auto& file : std::filesystem::directory_iterator(folder.path() / "products"))
    removed += std::filesystem::remove(file.path()) ? 1 : 0;
  EXPECT_EQ(removed, 1u);  // the keys went with the failure
  UserClient client(links, ledger, world.executor(), k_long, UserClient::any_chain, false, &products);
  EXPECT_EQ(make_and_ask(client, {5, 6, 7}, 4), first);
  EXPECT_EQ(orders, 2u);
}

// As on a full disk.
TEST(CheckedServices, a_wrong_product_is_told_and_ends_all_where_it_cannot_be_noted) {
  const TemporaryDirectory folder;
  MemoryWorld world({.model = checked_model()});
  Cheating provider;
  ProductStore products(folder.path() / "products");
  Ledger ledger;
  UserClient client(provider.links(world), ledger, world.executor(), k_long, UserClient::any_chain, false, &products);
  make(client, 3, 4);
  const auto name = ProductStore::Of{std::string(64, 'a'), checked_model().plan.hash()}.name();
  ASSERT_TRUE(std::filesystem::exists(folder.path() / "products" / (name + ".keys")));
  std::filesystem::remove_all(folder.path() / "products");
  std::ofstream(folder.path() / "products") << "a file in its folder's place";
  provider.wrong = true;
  const auto told = caught([&] { ask(client, {5, 6, 7}, 4); });
  ASSERT_TRUE(told);
  EXPECT_EQ(told->reason(), Reason::wrong_product) << told->what();
  EXPECT_NE(std::string(told->what()).find("and this could not be noted"), std::string::npos) << told->what();
  EXPECT_EQ(reason_of([&] { products.require_trust(); }), "wrong_product");
}

TEST(CheckedServices, damaged_keys_are_made_anew_and_another_public_part_is_refused) {
  const TemporaryDirectory folder;
  MemoryWorld world({.model = checked_model()});
  ProductStore products(folder.path());
  Ledger ledger;
  const ProductStore::Of of{std::string(64, 'a'), checked_model().plan.hash()};
  const auto session = [&] {
    UserClient client(world.links(), ledger, world.executor(), k_long, UserClient::any_chain, false, &products);
    const auto ids = make_and_ask(client, {5, 6, 7}, 3);
    client.end();
    return ids;
  };
  const auto ids = session();
  const auto file = folder.path() / (of.name() + ".keys");
  ASSERT_TRUE(std::filesystem::exists(file));
  const std::string whole = read_text(file);
  for (const std::size_t at : {std::size_t{0}, std::size_t{40}, whole.size() / 2, whole.size() - 1}) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 1);
    std::ofstream(file, std::ios::binary) << damaged;
    EXPECT_EQ(session(), ids) << at;
  }
  std::ofstream(file, std::ios::binary) << whole.substr(0, 100);
  EXPECT_EQ(session(), ids);
  const Plan plan = checked_model().plan;
  EXPECT_EQ(reason_of([&] { products.find(of, plan, Digest{}); }), "wrong_product");
  EXPECT_NE(error_of([&] { products.find(of, plan, Digest{}); }).find("embedding table"), std::string::npos);
}

TEST(CheckedServices, a_helper_makes_keys_once_a_filling_and_of_checked_plans_alone) {
  for (const bool checked : {true, false}) {
    OfferedModel model = checked_model();
    model.plan.checked = checked;
    MemoryWorld world({.model = std::move(model)});
    Ledger ledger;
    UserLinks links = world.links();
    const auto to_helper = links.helper;
    links.helper = [&] {
      return std::make_unique<Changing>(to_helper(), [](Frame frame) {
        std::vector<Frame> frames;
        if (frame.tag == static_cast<std::uint16_t>(Tag::pack_order)) {  // one more before it
          Writer writer;
          ProductKeyOrder order{seed_of(1)};
          order.visit(writer);
          Frame more = frame;
          more.tag = static_cast<std::uint16_t>(Tag::product_key_order);
          more.payload = writer.take();
          frames.push_back(std::move(more));
          ++frame.step;
        }
        frames.push_back(std::move(frame));
        return frames;
      });
    };
    UserClient client(links, ledger, world.executor(), k_long);
    const auto refused = caught([&] { make(client, 3, 2); });
    ASSERT_TRUE(refused);
    EXPECT_EQ(refused->code(), Code::malformed) << refused->what();
    EXPECT_TRUE(world.notes.come(checked ? "a second ProductKeyOrder" : "products are not checked"))
        << world.notes.text();
    // Others are served.
    EXPECT_EQ(world.answer(2).size(), 2u);
  }
}

}  // namespace
}  // namespace permllm::test
