// What a user with a valid invite, and a provider, may say to the services: frames in any order over any number of connections. A frame begins as
// one of an honest session, so that what is behind a handshake is reached too; then it is changed as the input says.
//
// An input is a run of operations: a byte's value modulo 6 says which.
//   0, which       a connection of that kind (Kind) begins; a service hears it out, then whoever waited goes on
//   1              the connection ends
//   2, which       the next frame: that template of the connection's kind, with the session and the step that are due
//   3 to 5, which  the same with 1 to 3 changes of three bytes each: how, where (which field, most of the time), what
// One thread is enough: a service that waits for its peer takes the next operation.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <thread>

#include "fuzz/target.h"
#include "helper/service.h"
#include "net/memory_link.h"
#include "support/links.h"
#include "support/rig.h"
#include "support/tiny_model.h"
#include "user/user_client.h"

// Memory that was given back is not kept from the system, where all of the process's is looked at.
extern "C" const char* __asan_default_options();
extern "C" const char* __asan_default_options() { return "quarantine_size_mb=1:allocator_release_to_os_interval_ms=0"; }

namespace permllm::test {
namespace {

enum Kind : std::uint8_t { online, offline, user_helper, provider_helper };
constexpr std::size_t k_kinds = 4;
constexpr std::size_t k_slots = 1 << 16;  // so that memory for each of them is memory that is seen
constexpr std::uint32_t k_last_order =
    64;  // pieces of later slots are large by the plan; what they cost is no surprise
constexpr std::size_t k_most_memory = 16u << 20;  // resident, beyond what there was; the material of an order is 4 MB
constexpr std::uint64_t k_edges[] = {0, 1, 2, k_slots - 1, k_slots, 0x7fffffff, 0xffffffff, ~std::uint64_t{0}};
constexpr std::uint8_t k_last_slot = 3, k_highest = 7;  // of these
constexpr std::size_t k_most_depth = 5;                 // of connections
constexpr auto k_patience = std::chrono::milliseconds(30);

// Where the fields of a message begin in its payload, and how wide they are; of texts and lists, their lengths.
class Fields {
 public:
  struct Field {
    std::size_t place, width;
  };
  std::vector<Field> all;

  template <std::unsigned_integral T>
  void number(const char*, const T&) {
    add(sizeof(T), 0);
  }
  void real(const char*, const double&) { add(8, 0); }
  void text(const char*, const std::string& value, std::size_t) { add(4, value.size()); }
  void raw(const char*, const Bytes& value, std::size_t) { add(4, value.size()); }
  template <class T, class Each>
  void list(const char*, std::vector<T>& values, std::size_t, Each each) {
    add(4, 0);
    for (T& value : values) each(*this, value);
  }

 private:
  void add(std::size_t width, std::size_t behind) {
    all.push_back({size_, width});
    size_ += width + behind;
  }
  std::size_t size_ = 0;
};
template <class... Messages>
std::vector<Fields::Field> fields_of(const Frame& frame) {
  Fields fields;
  const auto look = [&]<class Message>(Message) {
    if (frame.tag == static_cast<std::uint16_t>(Message::tag)) message_of<Message>(frame).visit(fields);
  };
  (look(Messages{}), ...);
  if (fields.all.empty()) fields.all.push_back({0, std::min<std::size_t>(8, frame.payload.size())});
  return fields.all;
}

// Bytes of memory that are there, and the most that were since the last call.
std::pair<std::size_t, std::size_t> resident() {
  std::ifstream in("/proc/self/status");
  std::size_t now = 0, most = 0;
  for (std::string field; in >> field;) {
    if (field == "VmRSS:") in >> now;
    if (field == "VmHWM:") in >> most;
  }
  PERMLLM_ASSERT(now > 0 && most > 0 && (std::ofstream("/proc/self/clear_refs") << 5 << std::flush));
  return {now << 10, most << 10};
}

// Both services, the model at the helper.
struct Services {
  explicit Services(Clock::duration patience)
      : helper(executor, patience, [](const Event&) {}),
        provider(
            tiny_model({.layers = 1, .slots = k_slots}), executor, patience, [this] { return dial_helper(); },
            [](const Event&) {}) {}
  Executor executor{1};
  std::function<std::unique_ptr<Link>()> dial_helper;
  HelperService helper;
  ProviderService provider;
};

Peer peer(Kind kind) {
  return kind == provider_helper ? Peer{Role::provider, "acme", "p1", "p"} : Peer{Role::user, "alice", "a1", "p"};
}
void serve(Services& services, std::unique_ptr<Link> link, Kind kind) {
  kind == online || kind == offline ? services.provider.serve(std::move(link), peer(kind))
                                    : services.helper.serve(std::move(link), peer(kind));
}

class World {
 public:
  World() : services_(k_patience) {
    Services honest(std::chrono::seconds(20));
    record(honest, true);
    for (std::size_t kind = 0; kind < k_kinds; ++kind) {
      for (const Frame& frame : templates_[kind]) {
        fields_[kind].push_back(fields_of<Hello, Agreement, PairHello, PackOrder, PackMaterial, PassBegin, ModelOffer,
                                          ModelChunk, ModelEnd>(frame));
      }
    }
    record(services_, false);
    services_.dial_helper = [this] { return std::make_unique<ToHelper>(*this); };
  }

  void run(std::span<const std::uint8_t> input) {
    input_ = input;
    session_ = 0;
    script_ = std::this_thread::get_id();
    const std::size_t before = resident().first;
    while (const auto operation = next()) {
      if (*operation % 6 == 0) begin();  // frames without a connection are nobody's
    }
    const std::size_t most = resident().second;
    if (most < before + k_most_memory) return;
    std::fprintf(stderr, "%zu bytes of memory were taken\n", most - before);
    std::abort();
  }
  std::size_t templates(Kind kind) const { return templates_[kind].size(); }

 private:
  // A peer's end whose frames the input makes.
  class Scripted : public Link {
   public:
    Scripted(World& world, Kind kind) : world_(world), kind_(kind) {}
    void send(Frame frame) override {
      if (closed_) throw Error(Code::closed, "link", "the peer closed the connection");
      const auto is = [&](Tag tag) { return frame.tag == static_cast<std::uint16_t>(tag); };
      if (is(Tag::card)) std::memcpy(&world_.session_, frame.payload.data(), sizeof world_.session_);
      if (is(Tag::accepted) || is(Tag::pair_accepted)) joined_ = true;
    }
    void flush() override {}
    Frame receive(Clock::time_point, const char* awaited, std::size_t most) override {
      while (!closed_) {
        const auto operation = world_.next();
        if (!operation || *operation % 6 == 1) break;
        if (*operation % 6 == 0) {
          world_.begin();
          continue;
        }
        std::optional<Frame> frame = world_.frame(kind_, *operation % 6 - 2u);
        if (!frame) continue;
        frame->session += joined_ ? world_.session_ : 0;
        frame->step += step_++;
        check_length(frame->tag, frame->payload.size(), most, awaited);
        return std::move(*frame);
      }
      closed_ = true;
      throw Error(Code::closed, awaited, "the peer closed the connection");
    }
    void close() override { closed_ = true; }

   private:
    World& world_;
    Kind kind_;
    std::uint32_t step_ = 0;
    bool joined_ = false, closed_ = false;
  };
  // The provider's link to the helper, who hears what it says when it waits for an answer.
  class ToHelper : public Link {
   public:
    explicit ToHelper(World& world) : world_(world) { std::tie(near_, far_) = memory_links(); }
    void send(Frame frame) override { near_->send(std::move(frame)); }
    void flush() override {}
    Frame receive(Clock::time_point deadline, const char* awaited, std::size_t most) override {
      if (far_) serve(world_.services_, std::move(far_), provider_helper);
      if (std::this_thread::get_id() != world_.script_) return near_->receive(deadline, awaited, most);
      for (;;) {  // the helper answers when the user has said something, too
        try {
          return near_->receive(Clock::now(), awaited, most);
        } catch (const Error& error) {
          if (error.code() != Code::timeout) throw;
        }
        const auto operation = world_.next();
        if (!operation || *operation % 6 != 0) throw Error(Code::closed, awaited, "nobody speaks to the helper");
        world_.begin();
      }
    }
    void close() override { near_->close(); }

   private:
    World& world_;
    std::unique_ptr<Link> near_, far_;
  };

  std::optional<std::uint8_t> next() {
    if (input_.empty()) return std::nullopt;
    const std::uint8_t byte = input_[0];
    input_ = input_.subspan(1);
    return byte;
  }
  void begin() {
    const auto kind = static_cast<Kind>(next().value_or(0) % k_kinds);
    if (depth_ == k_most_depth) return;
    ++depth_;
    serve(services_, std::make_unique<Scripted>(*this, kind), kind);
    --depth_;
  }
  // Session and step are what is added to those that are due.
  std::optional<Frame> frame(Kind kind, std::size_t changes) {
    const std::size_t which = next().value_or(0) % templates_[kind].size();
    Frame frame = templates_[kind][which];
    const auto at = [&](std::size_t offset) {
      if (session_ != 0 && frame.payload.size() >= offset + sizeof session_)
        std::memcpy(frame.payload.data() + offset, &session_, sizeof session_);
    };
    if (frame.tag == static_cast<std::uint16_t>(Tag::hello) && kind == offline) at(1);
    if (frame.tag == static_cast<std::uint16_t>(Tag::pair_hello)) at(0);
    frame.session = frame.step = 0;
    for (; changes > 0; --changes) change(frame, fields_[kind][which]);
    if (frame.tag == static_cast<std::uint16_t>(Tag::pack_order) && frame.payload.size() >= 9) {
      std::uint32_t first = 0;
      std::memcpy(&first, frame.payload.data() + 1, sizeof first);
      if (first > k_last_order) return std::nullopt;
    }
    return frame;
  }
  void change(Frame& frame, const std::vector<Fields::Field>& fields) {
    const std::uint8_t how = next().value_or(0), where = next().value_or(0), what = next().value_or(0);
    Bytes& bytes = frame.payload;
    const Fields::Field field = fields[where % fields.size()];
    const std::size_t place = bytes.empty() ? 0 : bytes.size() * where / 256;
    switch (how % 8) {
      case 0:
      case 1:
      case 2:
        if (field.width > 0 && field.place + field.width <= bytes.size())
          std::memcpy(bytes.data() + field.place, &k_edges[what % std::size(k_edges)], field.width);
        break;
      case 3:
        if (!bytes.empty()) bytes[place] = what;
        break;
      case 4:
        bytes.resize(place);
        break;
      case 5:
        bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(place), what, 0);
        break;
      case 6:
        frame.tag = what;
        break;
      default:
        if (where % 2 == 0)
          frame.step += what;
        else
          frame.session += what;
    }
  }

  // The model goes to the helper; if `session`, a session follows. The frames of both are the templates.
  void record(Services& services, bool session) {
    std::list<std::jthread> threads;
    std::mutex mutex;  // both services begin connections
    std::vector<Frame> unused;
    const auto connect = [&](Kind kind) -> std::unique_ptr<Link> {
      const std::lock_guard lock(mutex);
      auto [near, far] = memory_links();
      threads.emplace_back(
          [&services, kind, link = std::move(far)]() mutable { serve(services, std::move(link), kind); });
      return std::make_unique<Recording>(std::move(near), session ? templates_[kind] : unused);
    };
    services.dial_helper = [&] { return connect(provider_helper); };
    services.provider.register_model(nullptr);
    if (!session) return;
    Ledger ledger;
    const UserLinks links{[&] { return connect(online); }, [&] { return connect(offline); },
                          [&] { return connect(user_helper); }};
    UserClient client(links, ledger, services.executor, std::chrono::seconds(20));
    client.make_material(2, 2, 64);
    client.wait_for_material(2, 2);
    client.session().prompt(std::vector<TokenId>{5, 6}, greedy);
    client.session().advance([](TokenId) { return true; }, greedy);
    client.session().retrieve_last();
    client.end();
  }

  Services services_;
  std::vector<Frame> templates_[k_kinds];
  std::vector<std::vector<Fields::Field>> fields_[k_kinds];  // of those
  std::thread::id script_;
  std::span<const std::uint8_t> input_;
  std::uint64_t session_ = 0;  // the last one that the provider named
  std::size_t depth_ = 0;
};

World& world() {
  static World world;
  return world;
}

}  // namespace

// What is asked for and never touched takes nothing: it is World that looks at what is there.
std::size_t memory_for(std::size_t) { return std::size_t{1} << 30; }

std::vector<std::vector<std::uint8_t>> seeds() {
  const auto frames = [](Bytes& to, std::size_t first, std::size_t end) {
    for (std::size_t i = first; i < end; ++i) to.insert(to.end(), {2, static_cast<std::uint8_t>(i)});
  };
  const auto all = [](Kind kind) { return world().templates(kind); };
  // An honest session: a filling when the provider waits for the first pass, with the user's connection to the helper when it waits for the helper.
  const auto session = [&](const Bytes& agreement, std::size_t passes_end) {
    Bytes bytes{0, online, 2, 0};
    for (const std::uint8_t byte : agreement) bytes.push_back(byte);
    for (const std::uint8_t byte : {std::uint8_t{0}, std::uint8_t{offline}, std::uint8_t{2}, std::uint8_t{0},
                                    std::uint8_t{0}, std::uint8_t{user_helper}})
      bytes.push_back(byte);
    frames(bytes, 0, all(user_helper));  // the last frame of each is its orderly end
    frames(bytes, 1, all(offline));
    frames(bytes, 2, passes_end);
    bytes.push_back(1);
    return bytes;
  };
  Bytes registration{0, provider_helper};
  frames(registration, 0, all(provider_helper));
  Bytes pairing{0, provider_helper, 2, static_cast<std::uint8_t>(all(provider_helper) - 1), 0, user_helper, 2, 0, 2, 1,
                1};
  std::vector<Bytes> seeds{session({2, 1}, all(online)), registration, pairing};
  // Up to the first pass, with each field of Agreement at the end of its range.
  for (std::uint8_t field = 0; field < 8; ++field) {
    for (const std::uint8_t edge : {k_last_slot, k_highest}) seeds.push_back(session({3, 1, 0, field, edge}, 4));
  }
  return seeds;
}

}  // namespace permllm::test

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  permllm::test::world().run({data, size});
  return 0;
}
