// The provider: owns the weights, registers V = W - U at the helper, and serves conversations.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "engine/clear_side.h"
#include "engine/deal.h"
#include "engine/handshake.h"
#include "engine/provider_session.h"

namespace permllm {

// What a provider offers: made once from a file.
struct OfferedModel {
  IntWeights weights;
  Plan plan;
  Vocabulary vocabulary;
  std::string model_id;  // SHA-256 of a fresh salt and the file's hash
  Seed mask_seed;        // expands U; fresh for every version, known to provider and users, never to the helper
};

// U as matrices for product(), by the numbers of for_each_matrix.
Weights<StreamedMatrix> expansion_of(const ReadableStream& stream, const Plan& plan);
// U of one gain, by its number of for_each_gain.
Words gain_mask(const ReadableStream& stream, std::uint32_t id, const LinearShape& shape);

class ProviderService {
 public:
  using Dial = std::function<std::unique_ptr<Link>()>;
  using OnEvent = std::function<void(const std::string&)>;

  ProviderService(OfferedModel model, Executor& executor, Clock::duration patience, Dial dial_helper, OnEvent on_event);
  // Sends V to the helper. progress: fraction done.
  void register_model(const std::function<void(double)>& progress);
  // Serves one connection of a user to its end, in the caller's thread. Never throws for what a peer does.
  void serve(std::unique_ptr<Link> link);

 private:
  struct Session {
    explicit Session(bool user_deals) : stock(user_deals) {}
    Stock stock;
  };
  void converse(Channel& user);
  void send_embedding(Channel& user);
  void take_material(Channel& from, Stock::Source source, Stock& stock);
  void serve_offline(Channel& user, std::uint64_t session);

  OfferedModel model_;
  std::string plan_hash_;
  Executor& executor_;
  Clock::duration patience_;
  Dial dial_helper_;
  OnEvent on_event_;
  std::mutex mutex_;
  std::map<std::uint64_t, std::shared_ptr<Session>> sessions_;
};

}  // namespace permllm
