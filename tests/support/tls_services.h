// Provider and helper as services behind TLS, in one process, as the commands serve them; and peers that speak TLS, or not even that,
// without this project's links.
#pragma once

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <list>
#include <mutex>
#include <thread>

#include "helper/service.h"
#include "net/tls.h"
#include "provider/service.h"
#include "support/parties.h"
#include "support/rig.h"
#include "support/tiny_model.h"
#include "user/user_client.h"
#include "wire/frame.h"

namespace permllm::test {

constexpr TinyModel k_smallest{.layers = 1, .slots = 8};

class TlsServices {
 public:
  explicit TlsServices(Clock::duration patience, Clock::duration handshake_patience = std::chrono::seconds(5),
                       OfferedModel model = tiny_model(k_smallest))
      : patience_(patience),
        handshake_patience_(handshake_patience),
        helper_(executor_, patience, [this](const std::string& text) { note(text); }),
        provider_(
            std::move(model), executor_, patience, [this] { return dial(Role::provider, Role::helper); },
            [this](const std::string& text) { note(text); }) {
    accept(helper_listener_, helper_rooms_,
           [this](std::unique_ptr<Link> link, const Peer& peer) { helper_.serve(std::move(link), peer); });
    accept(provider_listener_, provider_rooms_,
           [this](std::unique_ptr<Link> link, const Peer& peer) { provider_.serve(std::move(link), peer, limits); });
    provider_.register_model(nullptr);
  }
  ~TlsServices() {
    stopping_ = true;
    accepting_.clear();
    serving_.clear();
  }

  const Parties& parties() const { return parties_; }
  std::uint16_t port(Role role) const {
    return role == Role::helper ? helper_listener_.port() : provider_listener_.port();
  }
  std::unique_ptr<Link> dial(Role who, Role to) {
    return tls_connect(parties_.of(who), "127.0.0.1:" + std::to_string(port(to)), to,
                       Clock::now() + std::chrono::seconds(20));
  }
  UserLinks links() {
    return {[this] { return dial(Role::user, Role::provider); }, [this] { return dial(Role::user, Role::provider); },
            [this] { return dial(Role::user, Role::helper); }};
  }
  std::vector<TokenId> answer() { return answer(links()); }
  std::vector<TokenId> answer(const UserLinks& links) {
    Ledger ledger;
    UserClient client(links, ledger, executor_, std::chrono::seconds(20));
    client.make_material(2, 2, 64);
    client.wait_for_material(2, 2);
    client.session().prompt(std::vector<TokenId>{5, 6}, greedy);
    std::vector<TokenId> ids{client.session().advance([](TokenId) { return true; }, greedy)};
    ids.push_back(client.session().retrieve_last());
    client.end();
    return ids;
  }
  UserLimits limits;  // of every user
  Executor& executor() { return executor_; }
  // What the services said, in their threads' order.
  std::string notes() {
    const std::lock_guard lock(mutex_);
    return notes_;
  }
  // Waits for it.
  bool said(const std::string& text, Clock::duration patience = std::chrono::seconds(20)) {
    for (const Clock::time_point end = Clock::now() + patience; Clock::now() < end;
         std::this_thread::sleep_for(std::chrono::milliseconds(5))) {
      if (notes().find(text) != std::string::npos) return true;
    }
    return false;
  }

 private:
  template <class Serve>
  void accept(TlsListener& listener, RoomByPeer& rooms, Serve serve) {
    accepting_.emplace_back([this, &listener, &rooms, serve] {
      while (!stopping_) {
        try {
          std::shared_ptr<TlsLink> link = listener.accept(Clock::now() + std::chrono::milliseconds(50));
          const std::lock_guard lock(mutex_);
          serving_.emplace_back([this, &rooms, link, serve]() mutable {
            try {
              const Peer peer = link->handshake(Clock::now() + handshake_patience_);
              link->share(rooms.of(peer.key));
              serve(std::make_unique<Shared>(std::move(link)), peer);
            } catch (const Error& error) {
              note(std::string("refused: ") + error.what());
            }
          });
        } catch (const Error&) {
        }
      }
    });
  }
  struct Shared : Link {  // a thread's function has to be copyable
    explicit Shared(std::shared_ptr<Link> l) : link(std::move(l)) {}
    void send(Frame frame) override { link->send(std::move(frame)); }
    void flush() override { link->flush(); }
    Frame receive(Clock::time_point deadline, const char* awaited, std::size_t most) override {
      return link->receive(deadline, awaited, most);
    }
    void close() override { link->close(); }
    std::shared_ptr<Link> link;
  };
  void note(const std::string& text) {
    const std::lock_guard lock(mutex_);
    notes_ += text + "\n";
  }

  Clock::duration patience_, handshake_patience_;
  Parties parties_;
  Executor executor_{1};
  std::mutex mutex_;
  std::string notes_;
  HelperService helper_;
  ProviderService provider_;
  RoomByPeer helper_rooms_{HelperService::room()}, provider_rooms_{provider_.room()};
  TlsListener helper_listener_{[this] { return parties_.of(Role::helper); }, "127.0.0.1:0", handshake_patience_},
      provider_listener_{[this] { return parties_.of(Role::provider); }, "127.0.0.1:0", handshake_patience_};
  std::atomic<bool> stopping_ = false;
  std::list<std::jthread> serving_, accepting_;
};

// A TCP connection.
class RawTcp {
 public:
  explicit RawTcp(std::uint16_t port) : socket_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const timeval patience{30, 0};
    const int at_once = 1;
    setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &at_once, sizeof at_once);
    setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    connected_ = connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  ~RawTcp() { ::close(socket_); }
  RawTcp(const RawTcp&) = delete;
  RawTcp& operator=(const RawTcp&) = delete;

  bool connected() const { return connected_; }
  int descriptor() const { return socket_; }
  // False once the peer has gone.
  bool write(std::span<const std::uint8_t> bytes) {
    return ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
  }
  // Whether the peer ends the connection, whatever it says before.
  bool ended() {
    std::uint8_t bytes[4096];
    ssize_t got = 0;
    while ((got = recv(socket_, bytes, sizeof bytes, 0)) > 0) {
    }
    return got == 0 || errno == ECONNRESET;
  }

 private:
  int socket_;
  bool connected_ = false;
};

// The first bytes of a TLS client.
inline Bytes client_hello() {
  SSL_CTX* context = SSL_CTX_new(TLS_client_method());
  SSL* ssl = SSL_new(context);
  BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
  SSL_set_bio(ssl, in, out);
  SSL_connect(ssl);
  char* data = nullptr;
  const long size = BIO_get_mem_data(out, &data);
  Bytes bytes(data, data + size);
  SSL_free(ssl);
  SSL_CTX_free(context);
  return bytes;
}

// A TLS connection with the certificate of a party, that sends what bytes it likes.
class RawTls {
 public:
  RawTls(const Identity& identity, std::uint16_t port) : tcp_(port), context_(SSL_CTX_new(TLS_client_method())) {
    std::signal(SIGPIPE, SIG_IGN);  // a peer that has gone is an error of the write
    SSL_CTX_use_certificate(context_, identity.certificate.get());
    SSL_CTX_use_PrivateKey(context_, identity.key.get());
    ssl_ = SSL_new(context_);
    SSL_set_fd(ssl_, tcp_.descriptor());
    connected_ = SSL_connect(ssl_) == 1;
  }
  ~RawTls() {
    SSL_free(ssl_);
    SSL_CTX_free(context_);
  }
  RawTls(const RawTls&) = delete;
  RawTls& operator=(const RawTls&) = delete;

  bool connected() const { return connected_; }
  bool write(std::span<const std::uint8_t> bytes) {
    return SSL_write(ssl_, bytes.data(), static_cast<int>(bytes.size())) == static_cast<int>(bytes.size());
  }
  // A peer that reads no more is given up after so long.
  void give_up_after(int milliseconds) {
    const timeval patience{milliseconds / 1000, 1000 * (milliseconds % 1000)};
    setsockopt(tcp_.descriptor(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  }
  // Whether the peer says something, or goes, within that time.
  bool speaks(int milliseconds) {
    pollfd wait{tcp_.descriptor(), POLLIN, 0};
    return SSL_pending(ssl_) > 0 || poll(&wait, 1, milliseconds) > 0;
  }
  // The text of the refusal that the peer sends at last; none if it ends the connection without a word.
  std::string refusal() {
    for (;;) {
      std::array<std::uint8_t, k_frame_header_bytes> bytes;
      if (!read_exactly(bytes)) return "";
      const FrameHeader header = decode_header(bytes);
      Bytes payload(header.length);
      if (!read_exactly(payload)) return "";
      if (header.tag != static_cast<std::uint16_t>(Tag::refusal)) continue;
      return std::string(refusal_of({header.tag, header.session, header.step, std::move(payload)}).what())
          .substr(6);  // behind "peer: "
    }
  }

 private:
  bool read_exactly(std::span<std::uint8_t> to) {
    while (!to.empty()) {
      const int got = SSL_read(ssl_, to.data(), static_cast<int>(to.size()));
      if (got <= 0) return false;
      to = to.subspan(static_cast<std::size_t>(got));
    }
    return true;
  }
  RawTcp tcp_;
  SSL_CTX* context_;
  SSL* ssl_ = nullptr;
  bool connected_ = false;
};

inline Bytes encoded(const Frame& frame) {
  Bytes bytes(k_frame_header_bytes);
  encode_header(frame, std::span<std::uint8_t, k_frame_header_bytes>(bytes.data(), k_frame_header_bytes));
  bytes.insert(bytes.end(), frame.payload.begin(), frame.payload.end());
  return bytes;
}

}  // namespace permllm::test
