// An HTTP server for programs of this machine that are not all friends: cpp-httplib with deadlines for whole requests, bounds on what a
// connection may send, and one request a connection, so that slow or silent ones hold nothing for long.
#pragma once

#include <httplib.h>

#include <chrono>
#include <condition_variable>
#include <list>
#include <optional>
#include <string>

#include "base/mutex.h"

namespace permllm {

struct HttpLimits {
  std::size_t body_bytes = 1 << 20, head_bytes = 64 << 10;
  std::chrono::milliseconds read{10'000};   // from the connection to the last byte of the request
  std::chrono::milliseconds write{10'000};  // for a peer to take a piece of an answer
  std::size_t reading = 32;                 // connections whose request is not complete; beyond them the oldest goes
  std::size_t answering = 64;               // requests that are being answered; beyond them they wait in the system
};

class HttpServer : public httplib::Server {
 public:
  explicit HttpServer(const HttpLimits& limits);
  // Of a request whose body has been read: whether its peer has closed the connection, or only its sending side. To be asked once at the
  // beginning of each handler, too: from then on the connection is none of those that are being read.
  static bool gone(const httplib::Request& request);
  // What is wrong with the head of a request (service/http_head.h); whoever routes looks before anything else.
  struct Fault {
    int status;
    std::string why;
  };
  static std::optional<Fault> fault(const httplib::Request& request);
  // "Sun, 06 Nov 1994 08:49:37 GMT", of now: for the Date of each answer.
  static std::string date();
  // Takes an address for itself alone; port 0: the system chooses. Returns the port. listen_after_bind() comes next. Errors: resource, naming `field` and
  // the address, where nobody can listen there.
  int bind(const std::string& host, int port, const std::string& field);
  // Ends the connections whose requests are not complete, and listen_after_bind().
  void end();

 private:
  class Connection;
  bool process_and_close_socket(socket_t socket) override;

  const HttpLimits limits_;
  Mutex mutex_;
  std::list<Connection*> reading_ GUARDED_BY(mutex_);  // the oldest first
};

}  // namespace permllm
