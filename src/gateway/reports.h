// What the gateway says of itself: who sees what, what is going on, and counts.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gateway/canaries.h"

namespace permllm {

// GET /v1/privacy.
gateway::Json privacy_of(const Client& client, const std::string& model_id);
// An event of GET /v1/activity, without the time that has passed.
gateway::Json activity_of(const Client& client, const AnswerDesk& desk, const Canaries& canaries,
                          std::size_t stock_target);

// GET /metrics: Prometheus' text. No label names a key, a model's user or a peer.
class GatewayMetrics {
 public:
  GatewayMetrics();
  ~GatewayMetrics();
  void count(const std::string& route, int status);
  // Seconds since its request: when an answer has a conversation, and when its first token is there.
  void count_begin(double seconds);
  void count_first_token(double seconds);
  struct Source {
    const Client& client;
    const AnswerDesk& desk;
    const Canaries& canaries;
  };
  std::string text(const std::vector<Source>& of);  // sums over all

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace permllm
