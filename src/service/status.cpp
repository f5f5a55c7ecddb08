#include "service/status.h"

#include <fmt/format.h>

#include <boost/asio/ip/address.hpp>
#include <charconv>
#include <thread>

#include "net/tls.h"
#include "permllm/error.h"
#include "service/http_server.h"

namespace permllm {
namespace {

HttpLimits limits() {
  HttpLimits limits;
  limits.body_bytes = 0;
  limits.head_bytes = 8 << 10;
  limits.read = limits.write = std::chrono::seconds(2);
  limits.reading = limits.answering = 8;
  return limits;
}

}  // namespace

struct StatusServer::State {
  HttpServer server{limits()};
  int port = 0;
  std::jthread thread;
};

StatusServer::StatusServer(const std::string& address, std::function<std::string()> why_not_ready,
                           std::function<std::string()> metrics)
    : state_(new State) {
  check_address(address, "--status", Code::usage);
  const std::size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon);
  if (host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  boost::system::error_code error;
  const auto ip = boost::asio::ip::make_address(host, error);
  if (error || !ip.is_loopback()) {
    throw Error(
        Code::usage, "--status",
        fmt::format(
            "{} is no loopback address, like 127.0.0.1: the page has no key; put a proxy that asks for one before it",
            host));
  }
  std::uint16_t port = 0;
  std::from_chars(address.data() + colon + 1, address.data() + address.size(), port);  // check_address has read it

  HttpServer& server = state_->server;
  server.set_pre_routing_handler([](const httplib::Request& request, httplib::Response& response) {
    HttpServer::gone(request);  // it is none of those that are being read any more
    const auto fault = HttpServer::fault(request);
    if (!fault) return httplib::Server::HandlerResponse::Unhandled;
    response.status = fault->status;
    response.set_content(fault->why + "\n", "text/plain");
    return httplib::Server::HandlerResponse::Handled;
  });
  server.set_post_routing_handler(
      [](const httplib::Request&, httplib::Response& response) { response.set_header("Date", HttpServer::date()); });
  server.Get("/healthz", [](const httplib::Request&, httplib::Response& response) {
    response.set_content("alive\n", "text/plain");
  });
  server.Get("/readyz",
             [why_not_ready = std::move(why_not_ready)](const httplib::Request&, httplib::Response& response) {
               const std::string reason = why_not_ready();
               response.status = reason.empty() ? 200 : 503;
               response.set_content((reason.empty() ? "ready" : reason) + "\n", "text/plain");
             });
  server.Get("/metrics", [metrics = std::move(metrics)](const httplib::Request&, httplib::Response& response) {
    response.set_content(metrics(), "text/plain; version=0.0.4; charset=utf-8");
  });
  state_->port = server.bind(host, port, "--status");
  state_->thread = std::jthread([&server] { server.listen_after_bind(); });
  while (!server.is_running()) std::this_thread::yield();  // a stop before that would be lost
}

StatusServer::~StatusServer() { state_->server.end(); }

std::uint16_t StatusServer::port() const { return static_cast<std::uint16_t>(state_->port); }

}  // namespace permllm
