// One conversation, and what it cost: the report of `demo`, `bench` and `chat`.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <vector>

#include "app/links.h"
#include "engine/draft.h"

namespace permllm {

class MeasuredConversation {
 public:
  // links: makes the user's links, metered by what it is given. quiet: no progress on standard error. Errors: those of UserClient.
  using Links = std::function<UserLinks(UserTraffic&)>;
  MeasuredConversation(const Links& links, const LinkShape& shape, Clock::duration patience, bool quiet, Executor& executor);

  const Plan& plan() const { return client_.card().plan; }
  const Vocabulary& vocabulary() const { return client_.card().vocabulary; }

  struct Request {
    std::vector<TokenId> ids;
    std::size_t max_tokens = 1;
    std::size_t ahead = 256;  // slots of material to make ahead of need
    std::size_t draft = 0;    // drafted tokens a pass; profile open only
    UserSession::Choose choose;
    std::function<bool(TokenId)> on_token;  // false: no more
    std::function<void()> on_ready = nullptr;  // material for the request is there
  };
  // Errors: usage when the request does not fit the chain, or drafts the profile.
  void run(const Request& request);

  // Ends the session. The report of `--json`, one object.
  nlohmann::json report();
  const UserTraffic& traffic() const { return traffic_; }

 private:
  struct Moment {
    Clock::time_point time;
    Traffic online;
    double waited = 0, cpu = 0;
  };
  Moment now() const;

  LinkShape shape_;
  bool quiet_;
  UserTraffic traffic_;
  UserClient client_;
  Request request_;
  std::vector<TokenId> output_;
  Moment begin_, first_, last_;
  // Passes after the prompt's that were completed, the tokens that they kept, and what their links carried.
  std::size_t passes_ = 0, kept_ = 0;
  Traffic passes_begin_, passes_end_;
};

}  // namespace permllm
