// The doctor at services with mistakes made on purpose: each is told on the right line, with what to do.
#include "cli/doctor.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <list>
#include <thread>

#include "cli/invite.h"
#include "helper/model_store.h"
#include "net/memory_link.h"
#include "net/tls.h"
#include "provider/model_record.h"
#include "service/identity.h"
#include "service/sandbox.h"
#include "support/program.h"
#include "support/tiny_plan.h"
#include "user/invite.h"
#include "wire/frame.h"

namespace permllm::test {
namespace {

using std::chrono_literals::operator""s;
using State = Finding::State;

std::string id_of(char c) { return std::string(64, c); }

// Answers probes, and asks of an account, as a service does, in the background.
class Service {
 public:
  Service(TlsListener::Source credentials, ProbeFacts facts, WallClock clock = system_time)
      : listener_(std::move(credentials), "127.0.0.1:0"), thread_([this, facts, clock](const std::stop_token& stop) {
          std::list<std::jthread> connections;
          while (!stop.stop_requested()) {
            try {
              connections.emplace_back([=, link = listener_.accept(Clock::now() + std::chrono::milliseconds(20))] {
                try {
                  link->handshake(Clock::now() + 5s);
                  const Frame first = link->receive(Clock::now() + 5s, "the first message", k_max_payload);
                  if (first.tag == static_cast<std::uint16_t>(Tag::hello)) {
                    Channel(*link, 0, 5s)
                        .send(Card{1,
                                   facts.models.at(0).id,
                                   facts.models[0].plan,
                                   {},
                                   {},
                                   600,
                                   {{1, {{{9, 9, 9, 9}}}, {{{2, 2, 2, 2}}}}}});
                    link->flush();
                    link->receive(Clock::now() + 5s, "the end", k_max_payload);
                  }
                  serve_probe(
                      *link, first, [&](const auto& ids) { return asked(facts, ids); },
                      *std::make_shared<Room>(k_answer_room), clock);
                } catch (const Error&) {
                }
              });
            } catch (const Error&) {
            }
          }
        }) {}
  std::string address() const { return "127.0.0.1:" + std::to_string(listener_.port()); }

 private:
  // A helper names what it is asked for.
  static ProbeFacts asked(ProbeFacts facts, const std::vector<std::string>& ids) {
    if (!facts.helper)
      std::erase_if(facts.models,
                    [&](const ProbedModel& model) { return std::find(ids.begin(), ids.end(), model.id) == ids.end(); });
    return facts;
  }
  TlsListener listener_;
  std::jthread thread_;
};

struct Findings {
  std::vector<Finding> all;
  OnFinding tell = [this](const Finding& finding) { all.push_back(finding); };

  std::string text() const {
    std::string text;
    for (const Finding& f : all)
      text += std::string(name_of(f.state)) + " " + f.link + " " + f.check + ": " + f.text + " / " + f.remedy + "\n";
    return text;
  }
  std::size_t count(State state) const {
    return static_cast<std::size_t>(
        std::count_if(all.begin(), all.end(), [&](const Finding& f) { return f.state == state; }));
  }
  const Finding* find(const std::string& link, const std::string& check) const {
    const auto found =
        std::find_if(all.begin(), all.end(), [&](const Finding& f) { return f.link == link && f.check == check; });
    return found == all.end() ? nullptr : &*found;
  }
  void expect(State state, const std::string& link, const std::string& check, const std::string& said,
              const std::string& remedy) const {
    const Finding* f = find(link, check);
    ASSERT_NE(f, nullptr) << link << " " << check << "\n" << text();
    EXPECT_EQ(name_of(f->state), std::string(name_of(state))) << text();
    EXPECT_NE(f->text.find(said), std::string::npos) << f->text;
    EXPECT_NE(f->remedy.find(remedy), std::string::npos) << f->remedy;
  }
};

// A provider and a helper in order, whose parts a test replaces.
struct World {
  Scratch scratch;
  std::filesystem::path provider = scratch / "provider", helper = scratch / "helper";
  ProbedModel model{id_of('a'), tiny_plan()};
  ProbeFacts provider_facts{{model}, HelperState{"", 3, 0.002, 0.5}}, helper_facts{{model}};
  WallClock provider_clock = system_time;
  std::optional<Credentials> provider_shows;

  World() {
    create_identity(provider, Role::provider, "acme", 365);
    create_identity(helper, Role::helper, "neutral", 365);
    std::filesystem::copy(helper / "certificate.pem", provider / "peers/helper.pem");
    std::filesystem::copy(provider / "certificate.pem", helper / "peers/acme.pem");
  }
  Invite invite(const std::string& provider_address, const std::string& helper_address, int days = 30) const {
    return make_invite(provider, "alice", load_identity(helper, Role::helper).certificate, provider_address,
                       helper_address, 1000, days);
  }
  Findings examine(const std::function<void(Invite&)>& change = [](Invite&) {}) {
    const Service p([this] { return provider_shows ? *provider_shows : load_credentials(provider, Role::provider); },
                    provider_facts, provider_clock);
    const Service h([this] { return load_credentials(helper, Role::helper); }, helper_facts);
    Invite made = invite(p.address(), h.address());
    change(made);
    save_invite(made, scratch / "invite");
    Findings findings;
    examine_user(scratch / "invite", findings.tell);
    return findings;
  }
};

TEST(Doctor, finds_nothing_wrong_where_nothing_is) {
  World world;
  const Findings found = world.examine();
  EXPECT_EQ(found.count(State::ok), found.all.size()) << found.text();
  for (const char* link : {"user-provider", "user-helper"}) {
    for (const char* check : {"name", "port", "TLS", "certificate", "own key", "version", "clock", "speed", "model"})
      EXPECT_NE(found.find(link, check), nullptr) << link << check;
  }
  EXPECT_GT(found.find("user-helper", "speed")->facts.at("to_peer_bits_per_second"), 1e6);
  EXPECT_LT(found.find("user-helper", "speed")->facts.at("round_trip_seconds"), 0.5);
  found.expect(State::ok, "provider-helper", "link", "3 s ago: round trip 2.00 ms", "");
  found.expect(State::ok, "user-provider", "estimate", "s a token", "");
  EXPECT_GT(found.find("user-provider", "estimate")->facts.at("token_seconds"), 0);
  found.expect(State::ok, "here", "sandbox", "of chat and serve: " + sandbox_support().text(), "");
  found.expect(State::ok, "here", "allowance", "1000 tokens", "");
  found.expect(State::ok, "user-provider", "allowance", "600 tokens of answers are left", "");
  found.expect(State::ok, "user-provider", "stock", "7 slots of offline material in 1 chain", "");
}

TEST(Doctor, a_port_where_nobody_listens_or_a_name_that_is_none) {
  std::string closed;
  World world;
  {
    closed = Service([&] { return load_credentials(world.provider, Role::provider); }, {}).address();
  }
  const Findings down = world.examine([&](Invite& invite) { invite.provider_address = closed; });
  down.expect(State::wrong, "user-provider", "port", "refused: nobody listens at " + closed,
              "start the provider there, or correct the port");
  down.expect(State::ok, "user-helper", "speed", "round trip", "");
  EXPECT_EQ(down.count(State::wrong), 1u);
  revoke_invite(world.provider, "alice");
  std::filesystem::remove(world.scratch / "invite");
  const Findings nameless = world.examine([](Invite& invite) { invite.helper_address = "a..b:7001"; });
  nameless.expect(State::wrong, "user-helper", "name", "a..b:7001", "correct the address");
}

// A port on which something else than TlsListener answers.
struct PlainPort {
  int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in at{};
  PlainPort() {
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    EXPECT_EQ(bind(socket, reinterpret_cast<sockaddr*>(&at), size), 0);
    EXPECT_EQ(listen(socket, 4), 0);
    EXPECT_EQ(getsockname(socket, reinterpret_cast<sockaddr*>(&at), &size), 0);
  }
  ~PlainPort() { close(socket); }
  std::string address() const { return "127.0.0.1:" + std::to_string(ntohs(at.sin_port)); }
};

TEST(Doctor, another_program_on_the_port) {
  const PlainPort port;
  const std::jthread talker([&] {
    const int connection = accept(port.socket, nullptr, nullptr);
    EXPECT_GT(write(connection, "220 mail ready\r\n", 16), 0);
    close(connection);
  });
  World world;
  const Findings found = world.examine([&](Invite& invite) { invite.provider_address = port.address(); });
  found.expect(State::wrong, "user-provider", "TLS", "", "another program than the provider");
}

TEST(Doctor, a_key_that_is_another_is_told_with_both_fingerprints) {
  World world;
  world.provider_shows = load_credentials(world.provider, Role::provider);
  const std::string right = world.provider_shows->identity.certificate.pin();
  world.provider_shows->identity = make_identity(Role::provider, "acme", 365);
  const Findings found = world.examine();
  found.expect(State::wrong, "user-provider", "certificate",
               "provider \"acme\" has key sha256:" + world.provider_shows->identity.certificate.pin() +
                   ", expected sha256:" + right,
               "ask the provider for a new invite; else somebody else answers there");
}

TEST(Doctor, a_party_that_is_another) {
  World world;
  const Findings found =
      world.examine([](Invite& invite) { std::swap(invite.provider_address, invite.helper_address); });
  found.expect(State::wrong, "user-provider", "certificate",
               "a helper answers, named \"neutral\", expected the provider", "correct the address");
}

TEST(Doctor, certificates_that_end_or_have_ended) {
  World world;
  write_text(world.provider / "certificate.pem",
             renewed(load_identity(world.provider, Role::provider), 12).certificate.pem());
  const Findings soon = world.examine();
  soon.expect(State::warning, "user-provider", "certificate",
              "provider \"acme\", key sha256:", "days it ends: the provider runs permllm keygen --renew");
  EXPECT_EQ(soon.count(State::wrong), 0u) << soon.text();
  write_text(world.provider / "certificate.pem",
             renewed(load_identity(world.provider, Role::provider), -1).certificate.pem());
  revoke_invite(world.provider, "alice");
  std::filesystem::remove(world.scratch / "invite");
  const Findings ended = world.examine();
  ended.expect(State::wrong, "user-provider", "certificate", "that of the provider expired on", "keygen --renew");
  EXPECT_EQ(ended.count(State::wrong), 1u) << ended.text();
}

TEST(Doctor, an_invite_that_is_revoked_expired_or_unreadable) {
  World world;
  const Findings revoked = world.examine([&](Invite&) { revoke_invite(world.provider, "alice"); });
  revoked.expect(State::wrong, "user-provider", "own key", "its invite is revoked, replaced or unknown",
                 "ask the provider for a new invite");
  revoked.expect(State::ok, "user-helper", "own key", "accepted", "");

  const auto path = world.scratch / "other";
  const auto said = [&](const std::string& text, const std::string& remedy) {
    Findings found;
    examine_user(path, found.tell);
    ASSERT_EQ(found.all.size(), 1u);
    found.expect(State::wrong, "here", "invite", text, remedy);
  };
  said("there is no such file", "ask the provider");
  save_invite(world.invite("localhost:1", "localhost:2", 3), path);
  ASSERT_EQ(chmod(path.c_str(), 0644), 0);
  said("run chmod 600", "ask the provider");
  write_text(path, "nonsense");
  ASSERT_EQ(chmod(path.c_str(), 0600), 0);
  said("is not TOML", "ask the provider for a new invite");
  std::filesystem::remove(path);
  save_invite(
      [&] {
        revoke_invite(world.provider, "alice");
        return world.invite("localhost:1", "localhost:2", 3);
      }(),
      path);
  Findings soon;
  examine_user(path, soon.tell);
  soon.expect(State::warning, "here", "invite", "user \"alice\"",
              "days it ends: ask the provider to extend the invite");
  revoke_invite(world.provider, "alice");
  std::filesystem::remove(world.scratch / "invite");
  // Past its day the provider says whether it holds: it may have extended it.
  const Findings over = world.examine([&](Invite& invite) {
    invite.identity = make_user(load_identity(world.provider, Role::provider), "alice", -1);
    UserRecord record = load_record(record_path(world.provider, "alice"));
    record.key = invite.identity.certificate.pin();
    record.last_day = today();
    save_record(world.provider, record);
  });
  over.expect(State::warning, "here", "invite", "was to end on", "see what the provider says");
  EXPECT_EQ(over.count(State::wrong), 0u) << over.text();
}

TEST(Doctor, clocks_that_differ) {
  World world;
  world.provider_clock = [] { return system_time() + 45'000; };
  world.provider_facts.helper->clock_ahead = -61;
  const Findings found = world.examine();
  found.expect(State::warning, "user-provider", "clock", "the provider's clock is 45 s ahead of this one's", "NTP");
  found.expect(State::warning, "provider-helper", "clock", "the helper's clock is 61 s behind the provider's", "NTP");
  found.expect(State::ok, "user-helper", "clock", "s apart", "");
}

TEST(Doctor, a_model_that_the_helper_lacks_or_has_otherwise) {
  World world;
  world.helper_facts.models.clear();
  world.provider_facts.helper->trouble =
      "the helper does not hold model aaaaaaaa; restart the provider, which registers its model when it starts";
  const Findings lacks = world.examine();
  lacks.expect(State::wrong, "user-helper", "model", "the helper does not hold", "the provider restarts its service");
  lacks.expect(State::wrong, "provider-helper", "link",
               "3 s ago: the helper does not hold model aaaaaaaa; restart the provider", "tell the provider");
  ProbedModel other = world.model;
  other.plan.profile = Profile::fast;
  world.helper_facts.models = {other};
  revoke_invite(world.provider, "alice");
  std::filesystem::remove(world.scratch / "invite");
  const Findings differs = world.examine();
  differs.expect(State::wrong, "user-helper", "model",
                 "plan " + other.plan.hash().substr(0, 8) + " at the helper, " + world.model.plan.hash().substr(0, 8) +
                     " at the provider",
                 "restarts");
}

// A provider of another release: all that it says has another wire version.
TEST(Doctor, a_wire_version_that_is_another_is_told_with_both_numbers) {
  World world;
  const Credentials credentials = load_credentials(world.provider, Role::provider);
  const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_server_method()), SSL_CTX_free);
  SSL_CTX_use_certificate(context.get(), credentials.identity.certificate.get());
  SSL_CTX_use_PrivateKey(context.get(), credentials.identity.key.get());
  const PlainPort port;
  const std::jthread server([&] {
    const int connection = accept(port.socket, nullptr, nullptr);
    const std::unique_ptr<SSL, decltype(&SSL_free)> tls(SSL_new(context.get()), SSL_free);
    SSL_set_fd(tls.get(), connection);
    EXPECT_EQ(SSL_accept(tls.get()), 1);
    std::array<std::uint8_t, k_frame_header_bytes> header;
    EXPECT_GT(SSL_read(tls.get(), header.data(), header.size()), 0);
    encode_header({1, 0, 0, {}}, header);
    header[4] = 99;
    EXPECT_GT(SSL_write(tls.get(), header.data(), header.size()), 0);
    SSL_read(tls.get(), header.data(), header.size());
    close(connection);
  });
  const Findings found = world.examine([&](Invite& invite) { invite.provider_address = port.address(); });
  found.expect(State::wrong, "user-provider", "version",
               "the peer has wire version 99, this side " + std::to_string(k_wire_version),
               "bring both to the same release");
}

TEST(Doctor, looks_at_a_helpers_own_machine) {
  World world;
  const auto store = world.scratch / "store";
  const auto examined = [&](const std::string& folder) {
    Findings found;
    examine_helper({world.helper.string(), "127.0.0.1:0", folder}, found.tell);
    return found;
  };
  examined("").expect(State::warning, "here", "store", "no --store", "outlast");
  examined(store.string()).expect(State::warning, "here", "store", "is not there yet", "start permllm helper");
  Executor executor(1);
  const auto model = [&] {
    const std::uint64_t bytes = masked_model_bytes(world.model.plan);
    const ModelOffer offer{world.model.id, world.model.plan, bytes, 1 << 10};
    const MaskedModel v(tiny_weights(), offer.plan, Seed{});
    std::vector<Digest> hashes;
    ModelStore kept(store, executor, [](const std::string&) {});
    const auto arrival = kept.begin(offer, {});
    while (!arrival->next_held().empty()) {
    }
    for (std::uint32_t i = 0; i < offer.chunks(); ++i) {
      ModelChunk chunk{i, {}, Bytes(offer.chunk_bytes(i))};
      v.fill(std::uint64_t{i} * offer.chunk, chunk.bytes);
      hashes.push_back(chunk.hash = chunk_hash(chunk.bytes));
      arrival->put(chunk);
      if (i == 2) examined(store.string()).expect(State::warning, "here", "model", "in part", "restart the provider");
    }
    arrival->finish({model_digest(offer, hashes)});
    return store / (offer.model_id + ".model");
  }();
  const Findings good = examined(store.string());
  EXPECT_EQ(good.count(State::ok), good.all.size()) << good.text();
  good.expect(State::ok, "here", "model", "complete", "");
  std::fstream(model, std::ios::in | std::ios::out).seekp(-5000, std::ios::end).put('x').put('y');
  examined(store.string()).expect(State::wrong, "here", "model", "chunks are damaged", "restart the helper");
  std::filesystem::remove(world.helper / "peers/acme.pem");
  examined(store.string())
      .expect(State::wrong, "here", "peers", "holds no provider's certificate", "copy the provider's certificate.pem");
  ASSERT_EQ(chmod((world.helper / "key.pem").c_str(), 0644), 0);
  examined(store.string()).expect(State::wrong, "here", "identity", "run chmod 600", "restore the file");
}

TEST(Doctor, looks_at_a_providers_own_machine_and_its_link) {
  World world;
  world.helper_facts.models = {{id_of('c'), world.model.plan}};
  const Service helper([&] { return load_credentials(world.helper, Role::helper); }, world.helper_facts);
  const auto state = world.scratch / "state";
  const auto examined = [&](const std::string& listen = "127.0.0.1:0") {
    Findings found;
    examine_provider({world.provider.string(), listen, helper.address(), "", state.string()}, found.tell);
    return found;
  };
  const Findings fresh = examined();
  fresh.expect(State::warning, "here", "state", "has no record of a model", "start permllm provider");
  fresh.expect(State::ok, "provider-helper", "speed", "", "");
  { ModelRecord(state, Digest{}, 4, id_of('c'), Seed{}); }
  const Findings good = examined();
  EXPECT_EQ(good.count(State::ok), good.all.size()) << good.text();
  good.expect(State::ok, "provider-helper", "model", "the helper holds", "");
  // Its own port, free and taken.
  std::uint16_t port = 0;
  {
    const TlsListener taken([&] { return load_credentials(world.provider, Role::provider); }, "127.0.0.1:0");
    port = taken.port();
    examined("127.0.0.1:" + std::to_string(port)).expect(State::ok, "here", "listen", "is taken", "");
  }
  examined("127.0.0.1:" + std::to_string(port))
      .expect(State::warning, "here", "listen", "nobody listens", "start permllm provider");
  examined("192.0.2.1:7").expect(State::wrong, "here", "listen", "192.0.2.1:7", "choose an address of this machine");
  // The record of a model that the helper does not hold; one that others may read; one that is damaged.
  std::filesystem::remove_all(state);
  { ModelRecord(state, Digest{}, 4, id_of('d'), Seed{}); }
  examined().expect(State::wrong, "provider-helper", "model", "the helper does not hold dddddddd",
                    "restart permllm provider");
  const auto record = std::filesystem::directory_iterator(state / "models")->path();
  ASSERT_EQ(chmod(record.c_str(), 0644), 0);
  examined().expect(State::wrong, "here", "state", "others may read", "");
  ASSERT_EQ(chmod(record.c_str(), 0600), 0);
  write_text(record, "nonsense");
  examined().expect(State::wrong, "here", "state", "no record of a model", "");
  write_text(world.provider / "users/bob.toml", "nonsense");
  examined().expect(State::wrong, "here", "users", "bob.toml", "new invite");
  // A helper that does not know this provider.
  std::filesystem::remove(world.helper / "peers/acme.pem");
  examined().expect(State::wrong, "provider-helper", "own key", "does not trust its key or issuer", "peers");
}

// One connection: what it costs the service is bounded.
std::string refusal_of(const std::function<void(Channel&)>& ask) {
  auto [near, far] = memory_links();
  const std::jthread server([link = far.get()] {
    serve_probe(
        *link, link->receive(Clock::now() + 5s, "x", k_max_payload), [](const auto&) { return ProbeFacts{}; },
        *std::make_shared<Room>(k_answer_room));
  });
  Channel peer(*near, 0, 5s);
  std::string said = "none";
  try {
    ask(peer);
  } catch (const Error& error) {
    said = error.what();
  }
  near->close();
  return said;
}

TEST(Probe, a_connection_has_so_many_pings_and_bytes) {
  EXPECT_EQ(
      refusal_of([](Channel& peer) { measure_bandwidth(peer, (probe(peer, {}), measure_delay(peer)).round_trip); }),
      "none");
  const std::string bounds =
      "peer: Ping: a connection has 64 of them, 2097152 bytes each, 8388608 bytes in all and 15 seconds";
  std::size_t answered = 0;
  EXPECT_EQ(refusal_of([&](Channel& peer) {
              probe(peer, {});
              for (;; ++answered) {
                peer.send(Ping{});
                peer.receive(Pong{});
              }
            }),
            bounds);
  EXPECT_EQ(answered, k_most_pings);
  const auto asking = [](std::uint32_t bytes) {
    return [=](Channel& peer) {
      probe(peer, {});
      for (;;) {
        peer.send(Ping{bytes, {}});
        peer.receive(Pong{});
      }
    };
  };
  EXPECT_EQ(refusal_of(asking(k_most_ping_bytes)), bounds);
  EXPECT_EQ(refusal_of(asking(k_most_ping_bytes + 1)), bounds);
  EXPECT_EQ(refusal_of(asking(0xffffffff)), bounds);
  EXPECT_NE(refusal_of([](Channel& peer) {
              peer.send_payload(Tag::probe, Bytes(3));
              peer.receive(Probed{});
            }).find("Probe.model_ids"),
            std::string::npos);
  EXPECT_NE(refusal_of([](Channel& peer) {
              probe(peer, {});
              peer.send_payload(Tag::ping, Bytes{0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff});
              peer.receive(Pong{});
            }).find("Ping.bytes"),
            std::string::npos);
}

TEST(Probe, a_provider_looks_at_its_helper_once_for_many_who_ask) {
  std::size_t dials = 0;
  std::list<std::jthread> threads;
  std::list<std::unique_ptr<Link>> links;
  const ProbedModel model{id_of('a'), tiny_plan()};
  ProbeFacts facts{{model}};
  const auto dial = [&]() -> std::unique_ptr<Link> {
    ++dials;
    auto [near, far] = memory_links();
    threads.emplace_back([&, link = links.emplace_back(std::move(far)).get()] {
      serve_probe(
          *link, link->receive(Clock::now() + 5s, "x", k_max_payload), [&](const auto&) { return facts; },
          *std::make_shared<Room>(k_answer_room), [] { return system_time() - 40'000; });
    });
    return std::move(near);
  };
  HelperWatch watch(dial, model);
  for (int i = 0; i < 5; ++i) {
    const HelperState state = watch.look();
    EXPECT_EQ(state.trouble, "");
    EXPECT_NEAR(state.clock_ahead, -40, 1);
  }
  EXPECT_EQ(dials, 1u);
  threads.clear();
  facts.models.clear();
  EXPECT_NE(HelperWatch(dial, model).look().trouble.find("does not hold model aaaaaaaa; the provider sends it again"),
            std::string::npos);
  threads.clear();
  EXPECT_EQ(
      HelperWatch(
          []() -> std::unique_ptr<Link> { throw Error(Code::closed, "the helper at h:1", "nobody listens there"); },
          model)
          .look()
          .trouble,
      "the helper at h:1: nobody listens there");
}

}  // namespace
}  // namespace permllm::test
