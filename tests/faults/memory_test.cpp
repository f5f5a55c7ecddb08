// What one user can make a service hold: all connections that a user has by default are fed the worst at once, in each state that an
// invite reaches, and nothing is read. Both services and the attackers are this process.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/heap.h"
#include "page/pack.h"
#include "page/pass.h"
#include "service/server.h"
#include "session/greeting.h"
#include "session/registration.h"
#include "support/errors.h"
#include "support/hostile.h"
#include "support/raw_peers.h"

namespace permllm::test {
namespace {

using std::chrono_literals::operator""s;
constexpr double k_most = 32;  // MB
const std::size_t k_connections = Limits{}.per_user;

class Memory : public ::testing::Test {
 protected:
  Memory() { prepare_heap(); }
  void TearDown() override { raw_.clear(); }  // the services wait for nobody then
  static OfferedModel model(TinyModel how = {.layers = 1, .slots = 64}) {
    OfferedModel model = tiny_model(how);
    model.vocabulary.chat_template = std::string(k_template_limit, 'x');  // a card of a megabyte
    return model;
  }

  TlsWorld& services(TinyModel how = {.layers = 1, .slots = 64}) {
    services_.emplace(5s, 5s, model(how));
    services_->answer();
    return *services_;
  }
  RawTls& connect(Role to, Role who = Role::user) {
    RawTls& peer = raw_.emplace_back(who == Role::user ? services_->parties().user : services_->parties().provider,
                                     services_->port(to));
    EXPECT_TRUE(peer.connected());
    peer.give_up_after(500);
    return peer;
  }
  // A frame of which the last byte never comes, as far as its peer takes it.
  static void feed(RawTls& peer, Frame frame, std::size_t length) {
    Bytes head = encoded(frame);
    const auto told = static_cast<std::uint32_t>(length);
    std::memcpy(head.data() + 20, &told, sizeof told);
    static const Bytes some(std::size_t{64} << 10, 1);
    if (!peer.write(head)) return;
    for (std::size_t left = length - frame.payload.size() - 1; left > 0;) {
      const std::size_t step = std::min(left, some.size());
      if (!peer.write(std::span(some).first(step))) return;
      left -= step;
    }
  }
  // Each attack in a thread of its own; growth of the process until the last has done all that it can.
  double growth(const std::vector<std::function<void()>>& attacks) {
    trim_heap();
    const PeakMemory memory;
    {
      std::list<std::jthread> threads;
      for (const auto& attack : attacks) threads.emplace_back(attack);
    }
    const double grown = memory.growth();
    fmt::print("{} connections at once: {:.1f} MB\n", attacks.size(), grown);
    return grown;
  }
  std::list<RawTls> raw_;
  std::optional<TlsWorld> services_;
};

Frame first(Tag tag, Bytes payload = {}, std::uint32_t step = 0, std::uint64_t session = 0) {
  return {static_cast<std::uint16_t>(tag), session, step, std::move(payload)};
}
template <class Message>
Bytes written(Message message) {
  Writer writer;
  message.visit(writer);
  return writer.take();
}

TEST_F(Memory, first_frames) {
  services();
  std::vector<std::function<void()>> attacks;
  for (const Role to : {Role::provider, Role::helper}) {
    for (const std::size_t length : {k_first_payload, std::size_t{8} << 20}) {
      for (std::size_t i = 0; i < k_connections; ++i)
        attacks.push_back([&peer = connect(to), length] { feed(peer, first(Tag::hello), length); });
    }
  }
  EXPECT_LT(growth(attacks), k_most);
}

TEST_F(Memory, cards_that_nobody_reads_and_agreements_that_are_long) {
  services();
  std::vector<std::function<void()>> attacks;
  for (std::size_t i = 0; i < k_connections; ++i) {
    attacks.push_back([&peer = connect(Role::provider)] {
      peer.write(encoded(first(Tag::hello, written(Hello{}))));
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      feed(peer, first(Tag::agreement, {}, 1), std::size_t{8} << 20);
    });
  }
  EXPECT_LT(growth(attacks), k_most);
}

TEST_F(Memory, pings_and_answers_to_them) {
  services();
  for (const Role to : {Role::provider, Role::helper}) {
    std::vector<std::function<void()>> attacks;
    for (std::size_t i = 0; i < k_connections; ++i) {
      attacks.push_back([&peer = connect(to), i] {
        peer.write(encoded(first(Tag::probe, written(Probe{}))));
        if (i % 2 == 0) return feed(peer, first(Tag::ping, {}, 1), k_most_ping_bytes + 8);
        for (std::uint32_t step = 1; step < 4; ++step)
          peer.write(encoded(first(Tag::ping, written(Ping{k_most_ping_bytes, {}}), step)));
        std::this_thread::sleep_for(std::chrono::milliseconds(500));
      });
    }
    EXPECT_LT(growth(attacks), k_most);
  }
}

// Half of the connections are the sessions that the others bring material to.
TEST_F(Memory, material) {
  TlsWorld& both = services();
  std::list<Handshake> sessions;
  std::vector<std::function<void()>> attacks;
  const std::size_t most = most_material(model().plan);
  for (std::size_t i = 0; i < k_connections / 2; ++i) {
    Handshake& session = sessions.emplace_back(both, false);
    RawTls& offline = connect(Role::provider);
    offline.write(encoded(first(Tag::hello, written(Hello{Hello::offline, session.card.session}))));
    session.pair(both);
    attacks.push_back([&, most] { feed(offline, first(Tag::pack_material, {}, 1, session.card.session), most); });
  }
  EXPECT_LT(growth(attacks), k_most);
}

TEST_F(Memory, orders_and_passes) {
  for (const Profile profile : {Profile::paper, Profile::open}) {
    TlsWorld& both = services({.profile = profile, .layers = 1, .slots = 64});
    std::list<Handshake> sessions;
    std::vector<std::function<void()>> attacks;
    for (std::size_t i = 0; i < k_connections / 2; ++i) {
      Handshake& session = sessions.emplace_back(both);
      attacks.push_back([&session] {
        for (Channel* channel : {session.online.get(), session.helper.get()}) {
          try {
            if (channel == session.online.get())
              channel->send(PassBegin{session.card.plan.open() ? PassBegin::rows : PassBegin::prompt, 64});
            for (int frames = 0; frames < 8; ++frames) {
              channel->send_payload(Tag::prompt_one_hots, Bytes(k_small_payload * 8, 1));
              channel->flush();
            }
          } catch (const Error&) {
          }
        }
      });
    }
    const double own = 2.0 * k_connections / 2 * 8 * k_small_payload / 1e6;
    EXPECT_LT(growth(attacks), k_most + own);
    for (Handshake& session : sessions) session.online_link->close();
    sessions.clear();
    services_.reset();
  }
}

// A provider's peers at the helper: no user, but bounded as well.
TEST_F(Memory, chunks_of_a_model) {
  services();
  const OfferedModel offered = model();
  const ModelOffer offer{std::string(64, 'f'), offered.plan, masked_model_bytes(offered.plan),
                         ModelOffer::k_most_chunk};
  std::vector<std::function<void()>> attacks;
  for (std::size_t i = 0; i < k_connections; ++i) {
    attacks.push_back([&peer = connect(Role::helper, Role::provider), offer] {
      peer.write(encoded(first(Tag::model_offer, written(offer))));
      feed(peer, first(Tag::model_chunk, {}, 1), ModelOffer::k_most_chunk);
    });
  }
  EXPECT_LT(growth(attacks), k_most);
}

}  // namespace
}  // namespace permllm::test
