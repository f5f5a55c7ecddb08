// Peers that do what they should not, over real TLS: strangers, slow ones, frames and messages that announce what never comes, sessions
// out of order or played again. Each is refused by name or at a deadline, in bounded memory, and the services serve on.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <fstream>

#include "cli/process.h"
#include "page/pass.h"
#include "service/identity.h"
#include "service/server.h"
#include "session/public_part.h"
#include "support/errors.h"
#include "support/hostile.h"
#include "support/links.h"
#include "support/program.h"
#include "support/raw_peers.h"

namespace permllm::test {
namespace {

using std::chrono_literals::operator""ms;
using std::chrono_literals::operator""s;

void expect_in(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << text;
}

TEST(Strangers, hold_up_nobody_and_are_let_go) {
  TlsWorld services(5s, 1500ms);
  const auto good = services.answer();
  const Bytes hello = client_hello();
  for (const Role role : {Role::provider, Role::helper}) {
    std::list<RawTcp> strangers;
    const auto begin = Clock::now();
    const std::string plain = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    EXPECT_TRUE(strangers.emplace_back(services.port(role))
                    .write({reinterpret_cast<const std::uint8_t*>(plain.data()), plain.size()}));
    EXPECT_TRUE(strangers.emplace_back(services.port(role))
                    .write(encoded({10, 0, 0, Bytes(9)})));  // the right frame, without TLS
    EXPECT_TRUE(strangers.emplace_back(services.port(role)).write(std::span(hello).first(hello.size() / 2)));
    EXPECT_TRUE(strangers.emplace_back(services.port(role)).write(hello));  // and no more
    strangers.emplace_back(services.port(role));                            // says nothing
    RawTcp& slow = strangers.emplace_back(services.port(role));
    std::jthread dripping([&] {
      for (const std::uint8_t byte : hello) {
        if (!slow.write({&byte, 1})) return;
        std::this_thread::sleep_for(20ms);
      }
    });
    EXPECT_EQ(services.answer(), good);
    for (RawTcp& stranger : strangers) EXPECT_TRUE(stranger.ended());
    EXPECT_LT(Clock::now() - begin, 12s);
  }
  EXPECT_EQ(services.answer(), good);
}

TEST(HostilePeers, a_frame_that_drips_ends_at_the_deadline) {
  TlsWorld services(1s);
  for (const Role role : {Role::provider, Role::helper}) {
    RawTls slow(services.parties().user, services.port(role));
    ASSERT_TRUE(slow.connected());
    const Bytes frame = encoded({10, 0, 0, Bytes(1000)});
    const auto begin = Clock::now();
    std::size_t sent = 0;
    while (sent < frame.size() && slow.write(std::span(frame).subspan(sent, 1)) && !slow.speaks(50)) ++sent;
    EXPECT_LT(sent, 200u);
    EXPECT_EQ(slow.refusal(), "");
    EXPECT_TRUE(services.notes.come(role == Role::provider
                                        ? "Hello: did not arrive before the deadline"
                                        : "the first message of a connection: did not arrive before the deadline"));
    EXPECT_LT(Clock::now() - begin, 10s);
  }
}

// Where a message says how much follows.
class Lengths {
 public:
  template <class Message>
  explicit Lengths(Message message) {
    message.visit(*this);
    bytes = writer_.take();
  }
  template <class T>
  void number(const char* field, const T& value) {
    writer_.number(field, value);
  }
  void real(const char* field, const double& value) { writer_.real(field, value); }
  void text(const char* field, const std::string& value, std::size_t limit) {
    mark(field), writer_.text(field, value, limit);
  }
  void raw(const char* field, const Bytes& value, std::size_t limit) { mark(field), writer_.raw(field, value, limit); }
  template <class T, class Each>
  void list(const char* field, std::vector<T>& values, std::size_t, Each each) {
    mark(field);
    number(field, static_cast<std::uint32_t>(values.size()));
    for (T& value : values) each(*this, value);
  }
  struct Place {
    std::string field;
    std::size_t at;
  };
  std::vector<Place> places;
  Bytes bytes;

  // Every length of the message set to each of these, one at a time, with the bytes as they are behind it.
  template <class Each>
  void spoil(Each each) const {
    for (const Place& place : places) {
      for (const std::uint32_t length : {0xffffffffu, 0x80000000u, 0x7fffffffu, 0x10000000u, 0x00400000u}) {
        Bytes spoilt = bytes;
        std::memcpy(spoilt.data() + place.at, &length, sizeof length);
        each(place.field, std::move(spoilt));
      }
    }
  }

 private:
  void mark(const char* field) { places.push_back({field, writer_.size()}); }
  Writer writer_;
};

template <class Message>
Frame frame_of(Message message, std::uint64_t session = 0, std::uint32_t step = 0) {
  Writer writer;
  message.visit(writer);
  return {static_cast<std::uint16_t>(Message::tag), session, step, writer.take()};
}

// Messages whose lists, texts and bytes are announced longer than anything that comes, up to 2^32 - 1 of each.
TEST(HostilePeers, announced_lengths_take_no_memory) {
  TlsWorld services(5s);
  const OfferedModel model = tiny_model(k_smallest);
  const auto good = services.answer();
  const PeakMemory memory;
  std::size_t tried = 0;
  const auto first_message = [&](Role who, Role to, const Lengths& message, Tag tag,
                                 const std::vector<Bytes>& before = {}) {
    message.spoil([&](const std::string& field, Bytes payload) {
      RawTls peer(who == Role::user ? services.parties().user : services.parties().provider, services.port(to));
      ASSERT_TRUE(peer.connected());
      for (const Bytes& bytes : before) peer.write(bytes);
      peer.write(
          encoded({static_cast<std::uint16_t>(tag), 0, static_cast<std::uint32_t>(before.size()), std::move(payload)}));
      const std::string text = peer.refusal(), last = field.substr(field.rfind('.') + 1);
      EXPECT_TRUE(text.find(last) != std::string::npos) << field << ": " << text;
      ++tried;
    });
  };
  const std::string hash(64, 'f');
  first_message(Role::user, Role::provider, Lengths(Agreement{hash}), Tag::agreement, {encoded(frame_of(Hello{}))});
  first_message(Role::user, Role::helper, Lengths(PairHello{1, "", hash, hash, 1, false, Seed{}}), Tag::pair_hello);
  first_message(Role::provider, Role::helper, Lengths(PairHello{1, "", hash, hash, 1, false, Seed{}}), Tag::pair_hello);
  first_message(Role::provider, Role::helper,
                Lengths(ModelOffer{hash, model.plan, masked_model_bytes(model.plan), 1024}), Tag::model_offer);
  first_message(
      Role::provider, Role::helper, Lengths(ModelChunk{0, Digest{}, Bytes(1024)}), Tag::model_chunk,
      {encoded(frame_of(ModelOffer{std::string(64, 'b'), model.plan, masked_model_bytes(model.plan), 1024}))});

  // To the other side: what a hostile provider or helper sends.
  const auto reads = [&](const char* name, const Lengths& message, auto expected) {
    message.spoil([&](const std::string& field, Bytes payload) {
      const std::string error = error_of([&] {
        Reader reader(name, payload);
        expected.visit(reader);
      });
      expect_in(error, field.substr(field.rfind('.') + 1));
      ++tried;
    });
  };
  reads("Card", Lengths(Card{1, hash, model.plan, model.vocabulary, Seed{}}), Card{});
  reads("EmbeddingRows", Lengths(EmbeddingRows{Bytes(10)}), EmbeddingRows{});
  reads("PublicVectors", Lengths(PublicVectors{{1, 2}}), PublicVectors{});
  reads("ModelHeld", Lengths(ModelHeld{{Digest{}, Digest{}}}), ModelHeld{});
  reads("PairAccepted", Lengths(PairAccepted{Seed{}}), PairAccepted{});
  reads("PackMaterial", Lengths(PackMaterial{1, 0, 0, 1, Bytes(10)}), PackMaterial{});
  reads("Refusal", Lengths(Refusal{1, 2, "where", "why"}), Refusal{});

  // Frames: a first one of more than 64 KiB is refused by its header.
  for (const Role role : {Role::provider, Role::helper}) {
    for (const std::uint32_t length :
         {0xffffffffu, 0x80000000u, std::uint32_t{k_first_payload + 1}, std::uint32_t{k_first_payload}}) {
      RawTls peer(services.parties().user, services.port(role));
      Bytes frame = encoded({10, 0, 0, Bytes(10)});
      std::memcpy(frame.data() + 20, &length, sizeof length);
      peer.write(frame);
      if (length <= k_first_payload) continue;  // and hangs up
      expect_in(peer.refusal(), "frame.length");
      ++tried;
    }
  }
  EXPECT_LT(memory.growth(), 64);
  EXPECT_EQ(services.answer(), good);
  fmt::print("{} announced lengths, {:.1f} MB at most\n", tried, memory.growth());
}

// Every message, known or not, as the first of a connection, empty and with bytes.
TEST(HostilePeers, a_first_message_that_is_none_is_refused) {
  TlsWorld services(5s);
  const auto good = services.answer();
  for (std::uint16_t tag = 0; tag <= 70; ++tag) {
    for (const std::size_t size : {0, 100}) {
      for (const auto& [who, to] :
           {std::pair{Role::user, Role::provider}, {Role::user, Role::helper}, {Role::provider, Role::helper}}) {
        RawTls peer(who == Role::user ? services.parties().user : services.parties().provider, services.port(to));
        ASSERT_TRUE(peer.connected());
        peer.write(encoded({tag, 0, 0, Bytes(size, 0x5a)}));
        EXPECT_NE(peer.refusal(), "") << "message " << tag << " of " << size << " bytes";
      }
    }
  }
  EXPECT_EQ(services.answer(), good);
}

TEST(HostilePeers, a_session_that_is_played_again_is_refused_at_its_first_frame) {
  TlsWorld services(1s);
  std::vector<Frame> online, offline, helper;
  const auto recorded = [&](Role to, std::vector<Frame>& frames) {
    return [&services, to, &frames] { return std::make_unique<Recording>(services.dial(Role::user, to), frames); };
  };
  const auto good = services.answer(
      {recorded(Role::provider, online), recorded(Role::provider, offline), recorded(Role::helper, helper)});
  // Sends the first frames, up to the one that is refused (what comes behind it could cost the refusal its way); returns what the peer says.
  const auto play = [&](Role to, const std::vector<Frame>& frames, std::size_t first) {
    RawTls peer(services.parties().user, services.port(to));
    for (std::size_t i = 0; i < first; ++i) peer.write(encoded(frames.at(i)));
    return peer.refusal();
  };
  expect_in(play(Role::provider, online, 3), "stock: no offline material was begun before the deadline");
  expect_in(play(Role::provider, offline, 1), "Hello.session: no such session");
  expect_in(play(Role::helper, helper, 1), "the provider did not open its side of the session");
  // Within a session of today: the same frames with its number.
  {
    Handshake now(services);
    for (std::size_t i = 2; i < online.size(); ++i)
      now.online->send_payload(static_cast<Tag>(online[i].tag), online[i].payload);
    EXPECT_NE(error_of([&] { now.online->receive(PartyReport{}); }), "no error");
  }
  {
    Handshake now(services);
    for (int times = 0; times < 2; ++times) {
      for (std::size_t i = 1; i + 1 < offline.size(); ++i)
        now.offline->send_payload(static_cast<Tag>(offline[i].tag), offline[i].payload);
    }
    now.offline->flush();
    now.online->send(PassBegin{PassBegin::prompt, 1});
    now.online->send_payload(Tag::prompt_one_hots, Bytes(now.card.plan.config.vocab * now.card.plan.embed.bytes()));
    expect_in(error_of([&] { now.online->receive(MapShown{}); }), "PackMaterial.first: 0, expected");
  }
  EXPECT_EQ(services.answer(), good);
}

TEST(HostilePeers, passes_out_of_turn_are_named) {
  TlsWorld services(5s);
  const auto good = services.answer();
  const auto online = [&](const auto&... messages) {
    Handshake session(services);
    (session.online->send(messages), ...);
    return error_of([&] { session.online->receive(PartyReport{}); });
  };
  expect_in(online(PassBegin{PassBegin::sampled, 1}), "PassBegin.kind: no token was sampled yet");
  expect_in(online(PassBegin{PassBegin::retrieve, 0}), "PassBegin.kind: no token was sampled yet");
  expect_in(online(PassBegin{0, 1}), "PassBegin.kind: 0, expected 1 to 3");
  expect_in(online(PassBegin{255, 1}), "PassBegin.kind: 255, expected 1 to 3");
  expect_in(online(PassBegin{PassBegin::prompt, 0}), "PassBegin.tokens: expected 1 or more");
  expect_in(online(PassBegin{PassBegin::prompt, 0xffffffff}), "PassBegin.tokens: more than the chain has left");
  expect_in(online(PassBegin{PassBegin::prompt, 1, 0, 0xffffffff}), "PassBegin.heads: expected 1");
  expect_in(online(PassCancel{}), "PassCancel: no pass is under way");
  expect_in(online(RetrievalIndex{}), "frame.tag: 64, expected PassBegin or SessionEnd");
  expect_in(online(PackOrder{1, 0, 1}), "frame.tag: 30, expected PassBegin or SessionEnd");
  expect_in(online(Refusal{200, 200, "", "\x1b[2J"}), "peer: \xef\xbf\xbd[2J");
  EXPECT_TRUE(services.notes.come("peer: \xef\xbf\xbd[2J"));

  // In a pass, whose material has to be there (in profile open the user deals none).
  TlsWorld open(5s, 5s, tiny_model({.profile = Profile::open, .layers = 1, .slots = 8}));
  const auto in_pass = [&](const auto&... messages) {
    Handshake session(open);
    session.online->receive(EmbeddingRows{});
    session.online->receive(PublicVectors{{}, values_of(session.card.plan)});
    for (const std::uint8_t kind : {k_slot_kind, k_pass_kind}) {
      session.helper->send(PackOrder{kind, 0, 1});
      session.helper->receive(PackDealt{});
    }
    (session.online->send(messages), ...);
    return error_of([&] { session.online->receive(PartyReport{}); });
  };
  expect_in(in_pass(PassBegin{PassBegin::rows, 1}, RetrievalIndex{}),
            "frame.tag: 64 (RetrievalIndex), expected Handed");
  expect_in(in_pass(PassBegin{PassBegin::rows, 1}, PassBegin{PassBegin::rows, 1}),
            "frame.tag: 40 (PassBegin), expected Handed");
  expect_in(in_pass(PassBegin{PassBegin::rows, 1}, PassCancel{}, PassCancel{}),
            "frame.tag: 54 (PassCancelled), expected PartyReport");

  // A context that is full: eight slots, of which the last pass is asked for once too often.
  std::size_t passes = 0;
  UserLinks links = services.links();
  links.online = [&] {
    return std::make_unique<Changing>(services.dial(Role::user, Role::provider), [&](Frame frame) {
      if (frame.tag != static_cast<std::uint16_t>(Tag::session_end)) return std::vector{std::move(frame)};
      ++passes;
      return std::vector{frame_of(PassBegin{PassBegin::sampled, 1}, frame.session, frame.step)};
    });
  };
  Ledger ledger;
  UserClient client(links, ledger, services.executor(), 20s);
  client.make_material(2, 7, 64);
  client.wait_for_material(2, 7);
  client.session().prompt(std::vector<TokenId>{5, 6}, greedy);
  for (int i = 0; i < 6; ++i) client.session().advance([](TokenId) { return true; }, greedy);
  expect_in(error_of([&] { client.end(); }), "PassBegin.tokens: more than the chain has left");
  EXPECT_EQ(passes, 1u);
  EXPECT_EQ(services.answer(), good);
}

TEST(HostilePeers, orders_and_material_out_of_turn_are_named) {
  TlsWorld services(5s);
  const auto good = services.answer();
  const auto helper = [&](const auto&... messages) {
    Handshake session(services);
    (session.helper->send(messages), ...);
    return error_of([&] {
      for (;;) session.helper->receive(PackDealt{});
    });
  };
  expect_in(helper(PackOrder{0, 0, 1}), "PackOrder.kind: 0, expected 1 to 3");
  expect_in(helper(PackOrder{255, 0, 1}), "PackOrder.kind: 255, expected 1 to 3");
  expect_in(helper(PackOrder{1, 0, 0}), "PackOrder.count: 0, expected 1 to");
  expect_in(helper(PackOrder{1, 0, 0xffffffff}), "PackOrder.count: 4294967295, expected 1 to");
  expect_in(helper(PackOrder{1, 0xffffffff, 1}), "PackOrder.first: 4294967295 and the 1 after it, a chain has 8 slots");
  expect_in(helper(PackOrder{3, 0, 9}), "a chain has 8 slots");
  expect_in(helper(PackOrder{2, 0, 1}, PackOrder{2, 0, 1}), "PackOrder.first: 0, expected 1");
  expect_in(helper(PackMaterial{1, 0, 0, 1, Bytes(10)}), "frame.tag: 31, expected PackOrder or PackEnd");
  expect_in(helper(PassBegin{}), "frame.tag: 40, expected PackOrder or PackEnd");
  expect_in(helper(PackEnd{}, PackOrder{1, 0, 1}), "frame.tag: 56 (PartyReport), expected PackDealt");

  const auto offline = [&](const auto&... messages) {
    Handshake session(services);
    (session.offline->send(messages), ...);
    session.offline->flush();
    session.online->send(PassBegin{PassBegin::prompt, 1});
    session.online->send_payload(Tag::prompt_one_hots,
                                 Bytes(session.card.plan.config.vocab * session.card.plan.embed.bytes()));
    return error_of([&] { session.online->receive(MapShown{}); });
  };
  expect_in(offline(PackOrder{1, 0, 1}), "frame.tag: 30, expected PackMaterial or PackEnd");
  expect_in(offline(PackMaterial{1, 9, 0, 1, Bytes(10)}), "PackMaterial.layer: 9, expected less than 1");
  expect_in(offline(PackMaterial{1, 0, 0, 1, Bytes(10)}), "PackMaterial.material: 10 bytes, the plan says");
  expect_in(offline(PackMaterial{4, 0, 0, 1, Bytes(10)}), "PackOrder.kind: 4, expected 1 to 3");
  expect_in(offline(PackMaterial{1, 0, 7, 2, Bytes(10)}), "a chain has 8 slots");
  EXPECT_EQ(services.answer(), good);
}

// A provider opens its side of sessions whose users never come: what the helper keeps for them it lets go.
TEST(HostilePeers, sessions_without_a_user_are_let_go_by_the_helper) {
  TlsWorld services(300ms);
  const OfferedModel model = tiny_model(k_smallest);
  const auto park = [&](std::uint64_t session) {
    auto link = services.dial(Role::provider, Role::helper);
    Channel channel(*link, 0, 20s);
    channel.send(PairHello{session, "", model.model_id, model.plan.hash(), 1, false, Seed{}});
    channel.receive(PairAccepted{});
    return link;
  };
  std::vector<std::unique_ptr<Link>> parked;
  for (std::uint64_t session = 1; session <= 20; ++session) parked.push_back(park(session));
  for (const auto& link : parked)
    expect_in(error_of([&] { link->receive(Clock::now() + 10s, "the end", k_max_payload); }),
              "the peer closed the connection");
}

// What a provider left behind would keep a helper from ending.
TEST(HostilePeers, sessions_without_a_provider_are_let_go_by_the_helper) {
  const auto files = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator{});
  };
  TlsWorld services(60s);
  const OfferedModel model = tiny_model(k_smallest);
  const auto before = files();
  for (std::uint64_t session = 1; session <= 20; ++session) {
    auto link = services.dial(Role::provider, Role::helper);
    Channel channel(*link, 0, 20s);
    channel.send(PairHello{session, "", model.model_id, model.plan.hash(), 1, false, Seed{}});
    channel.receive(PairAccepted{});
  }
  const Clock::time_point end = Clock::now() + 20s;
  while (files() > before && Clock::now() < end) std::this_thread::sleep_for(20ms);
  EXPECT_LE(files(), before);
}

// The helper has two models. The provider of one and its user would learn V of the other from material that is dealt for it.
TEST(HostilePeers, a_user_that_names_another_model_than_its_provider_is_refused) {
  TlsWorld services(5s);
  ProviderService other(
      tiny_model({.layers = 1, .slots = 8, .id = 'b'}), services.executor(), 5s,
      [&] { return services.dial(Role::provider, Role::helper); }, [](const std::string&) {});
  other.register_model(nullptr);
  Handshake session(services, false);
  auto link = services.dial(Role::user, Role::helper);
  Channel helper(*link, 0, 20s);
  const auto offline = services.dial(Role::user, Role::provider);
  Channel filling(*offline, 0, 20s);
  filling.send(Hello{Hello::offline, session.card.session});
  filling.flush();
  helper.send(PairHello{session.card.session, "", std::string(64, 'b'), session.card.plan.hash(), session.chain, false,
                        Seed{}});
  helper.receive(PairAccepted{});
  helper.set_session(session.card.session);
  expect_in(error_of([&] { helper.receive(PackDealt{}); }),
            "PairHello.model_id: model aaaaaaaa at the provider of this session, bbbbbbbb at the user");
}

// A session is its user's alone, even for one who knows its number.
TEST(HostilePeers, a_user_does_not_join_the_session_of_another) {
  TlsWorld services(5s);
  Handshake alice(services, false);
  Credentials bob = services.parties().of(Role::user);
  bob.identity = make_user(services.parties().provider, "bob", 7);
  const auto link = services.dial(bob, Role::provider);
  Channel offline(*link, 0, 20s);
  offline.send(Hello{Hello::offline, alice.card.session});
  expect_in(error_of([&] { offline.receive(Accepted{}); }), "Hello.session: no such session");
}

// One who writes its certificate in another way is no second user: the allowance is used, and the session can be joined.
TEST(HostilePeers, the_same_certificate_with_another_signature_has_the_same_account) {
  TlsWorld services(5s);
  services.limits.tokens = 2;
  services.answer();
  Credentials again = services.parties().of(Role::user);
  again.identity.certificate = with_other_signature(again.identity.certificate);
  const auto link = services.dial(again, Role::provider);
  Channel online(*link, 0, 20s);
  online.send(Hello{});
  EXPECT_EQ(online.receive(Card{}).tokens_left, 0u);
  Credentials bob = again;
  bob.identity = make_user(services.parties().provider, "bob", 7);
  const auto of_bob = services.dial(bob, Role::provider);
  Channel other(*of_bob, 0, 20s);
  other.send(Hello{});
  EXPECT_EQ(other.receive(Card{}).tokens_left, 2u);
}

// The number of a session is not enough to take its user's place at the helper, before the provider is there or after.
TEST(HostilePeers, a_user_does_not_take_the_material_of_another) {
  TlsWorld services(2s);
  Handshake alice(services, false);
  Credentials credentials = services.parties().of(Role::user);
  credentials.identity = make_user(services.parties().provider, "bob", 7);
  struct Side {
    std::unique_ptr<Link> link;
    std::unique_ptr<Channel> channel;
    Side(const TlsWorld& to, const Credentials& who, const PairHello& hello) {
      link = to.dial(who, Role::helper);
      channel = std::make_unique<Channel>(*link, 0, 20s);
      channel->send(hello);
      channel->receive(PairAccepted{});
      channel->set_session(hello.session);
    }
  };
  const PairHello hello{
      alice.card.session, "", alice.card.model_id, alice.card.plan.hash(), alice.chain, false, Seed{}};
  Side before(services, credentials, hello);
  const auto offline_link = services.dial(Role::user, Role::provider);
  Channel offline(*offline_link, 0, 20s);
  offline.send(Hello{Hello::offline, alice.card.session});
  offline.receive(Accepted{});  // the provider has opened its side
  Side after(services, credentials, hello);
  Side right(services, services.parties().of(Role::user), hello);
  right.channel->receive(Paired{});
  right.channel->send(PackOrder{k_entry_kind, 0, 1});
  right.channel->receive(PackDealt{});
  for (const Side* wrong : {&before, &after}) {
    expect_in(error_of([&] { wrong->channel->receive(Paired{}); }),
              "the provider did not open its side of the session for this user");
  }
  right.channel->send(PackOrder{k_entry_kind, 1, 1});
  right.channel->receive(PackDealt{});
}

// A user names nobody: its certificate does.
TEST(HostilePeers, a_user_that_names_a_user_is_refused) {
  TlsWorld services(2s);
  const OfferedModel model = tiny_model(k_smallest);
  const auto link = services.dial(Role::user, Role::helper);
  Channel channel(*link, 0, 20s);
  channel.send(
      PairHello{1, services.parties().user.certificate.pin(), model.model_id, model.plan.hash(), 1, false, Seed{}});
  expect_in(error_of([&] { channel.receive(PairAccepted{}); }), "PairHello.user: a user names none");
}

// A helper's process, with what it may open limited.
class HelperProcess {
 public:
  explicit HelperProcess(int descriptors = 0, const std::string& settings = "") {
    const auto helper = scratch_ / "helper", provider = scratch_ / "provider";
    create_identity(helper, Role::helper, "neutral", 7);
    provider_ = create_identity(provider, Role::provider, "acme", 7);
    write_text(helper / "peers" / "acme.pem", provider_.certificate.pem());
    user_ = make_user(provider_, "alice", 7);
    const std::string limit = descriptors == 0 ? "" : fmt::format("ulimit -n {}; ", descriptors);
    process_.emplace(
        std::vector<std::string>{"-c", fmt::format("{}exec {} helper --identity {} --patience 2 --events {}", limit,
                                                   PERMLLM_BINARY, helper.string(), settings)},
        "/bin/sh");
    port_ = process_->wait_for("ready").at("port").get<std::uint16_t>();
  }
  std::uint16_t port() const { return port_; }
  double status(const std::string& key) const { return status_of(std::to_string(process_->pid()), key); }
  const Identity& provider() const { return provider_; }
  const Identity& user() const { return user_; }
  // Whether it answers, with a refusal, a user who names a model that it has not.
  bool serves() const {
    RawTls peer(user_, port_);
    peer.write(encoded(frame_of(PairHello{1, "", std::string(64, 'b'), "x", 1, false, Seed{}})));
    return peer.refusal().find("does not hold model bbbbbbbb") != std::string::npos;
  }

 private:
  Scratch scratch_;
  Identity provider_, user_;
  std::optional<Process> process_;
  std::uint16_t port_ = 0;
};

// All of a user's connections announce a payload of 2^29 bytes where a first message is awaited, and send as much of it as is taken.
TEST(HostileProcess, long_first_frames_take_no_memory) {
  const HelperProcess helper;
  ASSERT_TRUE(helper.serves());
  const double before = helper.status("VmHWM:") / 1024;
  std::list<std::jthread> peers;
  for (std::size_t i = 0; i < Limits{}.per_user; ++i) {
    peers.emplace_back([&helper] {
      RawTls peer(helper.user(), helper.port());
      Bytes announced = encoded(frame_of(Hello{}));
      constexpr std::uint32_t k_length = 1 << 29;
      std::memcpy(announced.data() + 20, &k_length, sizeof k_length);
      peer.write(announced);
      const Bytes some(std::size_t{1} << 18);
      for (int sent = 0; sent < 32 && peer.write(some); ++sent) {
      }
    });
  }
  peers.clear();
  EXPECT_LT(helper.status("VmHWM:") / 1024 - before, 32);
  EXPECT_TRUE(helper.serves());
}

// What a peer says is told to whoever watches the service: bytes that are no text must not end it.
TEST(HostileProcess, texts_that_are_none_do_not_end_a_service) {
  const HelperProcess helper;
  ASSERT_TRUE(helper.serves());
  for (const std::string& text :
       {std::string("\xff\xfe\x80\xc3"), std::string("\0\x1b[2J\n", 6), std::string(64, '\xed')}) {
    for (const Frame& frame :
         {frame_of(Refusal{3, 2, text, text}), frame_of(PairHello{1, "", text, text, 1, false, Seed{}})}) {
      for (const Identity* identity : {&helper.user(), &helper.provider()}) {
        RawTls peer(*identity, helper.port());
        ASSERT_TRUE(peer.connected());
        peer.write(encoded(frame));
        peer.refusal();
      }
    }
  }
  EXPECT_TRUE(helper.serves());
}

// More connections than the system gives the process: it refuses some, and serves again when they are gone.
TEST(HostileProcess, a_flood_of_connections_does_not_end_a_service) {
  for (const int descriptors : {24, 25, 26, 27}) {  // whichever call it is that fails first
    const HelperProcess helper(descriptors);
    ASSERT_TRUE(helper.serves());
    {
      std::list<RawTcp> flood;
      for (int i = 0; i < 60; ++i) flood.emplace_back(helper.port());
      std::this_thread::sleep_for(500ms);
    }
    bool serves = false;
    for (int tries = 0; tries < 50 && !serves; ++tries) {
      std::this_thread::sleep_for(100ms);
      serves = helper.serves();
    }
    EXPECT_TRUE(serves) << descriptors << " descriptors";
  }
}

// A thousand connections that never finish their handshakes: with the limits of before, where most of them give way, and with limits that
// let them all stay. Who comes in between and beside them is served.
TEST(HostileProcess, a_thousand_connections_keep_nobody_out) {
  constexpr std::size_t k_flood = 1000;
#if defined(__SANITIZE_ADDRESS__)
  constexpr double k_memory = 10;  // the sanitizer's own
#else
  constexpr double k_memory = 1;
#endif
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  if (const rlimit more{std::max<rlim_t>(files.rlim_cur, 2 * k_flood + 200),
                        std::max<rlim_t>(files.rlim_max, 2 * k_flood + 200)};
      setrlimit(RLIMIT_NOFILE, &more) != 0) {
    GTEST_SKIP() << "at most " << files.rlim_max << " files may be open here";
  }
  const Bytes hello = client_hello();
  for (const bool all_stay : {false, true}) {
    const HelperProcess helper(
        0, std::string("--log-level error") +
               (all_stay ? fmt::format(" --max-connections {0} --max-handshakes {0}", 2 * k_flood) : ""));
    double slowest = 0;
    const auto serves = [&] {
      const auto begin = Clock::now();
      EXPECT_TRUE(helper.serves());
      slowest = std::max(slowest, std::chrono::duration<double>(Clock::now() - begin).count());
    };
    serves();
    const double before = helper.status("VmRSS:") / 1024;
    double threads = 0;
    {
      std::list<RawTcp> flood;
      slowest = 0;
      for (std::size_t i = 0; i < k_flood; ++i) {
        RawTcp& one = flood.emplace_back(helper.port());
        ASSERT_TRUE(one.connected()) << i;
        if (i % 2 == 0) one.write(std::span(hello).first(hello.size() / 2));
        if (i % 100 == 99) serves();
      }
      threads = helper.status("Threads:");
      for (int i = 0; i < 5; ++i) serves();
    }
    EXPECT_LT(threads, 40);  // none of those whose ClientHello is not there
    EXPECT_LT(slowest, 5);
    const double growth = helper.status("VmHWM:") / 1024 - before;
    EXPECT_LT(growth, 60 * k_memory);
    double kept = 0;
    const double most_kept = 60 * k_memory;
    for (int tries = 0; tries < 100; ++tries) {  // memory is given back when a connection ends, though not each time
      std::this_thread::sleep_for(100ms);
      serves();
      kept = helper.status("VmRSS:") / 1024 - before;
      if (helper.status("Threads:") < 30 && kept < most_kept) break;
    }
    EXPECT_LT(helper.status("Threads:"), 30);
    EXPECT_LT(kept, most_kept);
    fmt::print(
        "{} connections{}: {} threads, {:.1f} MB more at most and {:.1f} MB afterwards, {:.3f} s at most for whoever "
        "came beside them\n",
        k_flood, all_stay ? ", all of which stay" : "", threads, growth, kept, slowest);
  }
  setrlimit(RLIMIT_NOFILE, &files);
}

}  // namespace
}  // namespace permllm::test
