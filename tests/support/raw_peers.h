// Peers that speak TLS, or not even that, without this project's links.
#pragma once

#include <openssl/ssl.h>
#include <poll.h>

#include <array>
#include <csignal>
#include <string>

#include "net/certificates.h"
#include "support/tcp.h"
#include "wire/frame.h"
#include "wire/message.h"

namespace permllm::test {

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
