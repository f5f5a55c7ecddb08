// Every domain of every hash and stream of the project, in one place. Nothing else names a derivation.
#pragma once

#include <cstdint>

namespace permllm {

namespace domain {
inline constexpr const char* user_helper = "permllm/1 coins of user and helper";
inline constexpr const char* provider_helper = "permllm/1 coins of provider and helper";
inline constexpr const char* chain_seed = "permllm/1 digest of a chain's seed";
inline constexpr const char* model_commitment = "permllm/1 model commitment";
inline constexpr const char* plan = "permllm/1 plan";
inline constexpr const char* retrieval = "permllm/1 retrieval";
// V at the helper (src/helper/model_store.h), and what the provider keeps of it
inline constexpr const char* chunk = "permllm/1 chunk of a stored model";
inline constexpr const char* stored_model = "permllm/1 stored model";
inline constexpr const char* stored_head = "permllm/1 head of a stored model";
inline constexpr const char* weights = "permllm/1 integer weights";
inline constexpr const char* parked = "permllm/1 place of a session in a pool of helpers";
inline constexpr const char* model_record = "permllm/1 record of a model";
// The check of products: of what a user keeps (src/user/product_store.h), and the public part that it was first shown
inline constexpr const char* product_keys = "permllm/1 product keys";
inline constexpr const char* public_part = "permllm/1 public part";
// Homomorphic encryption (src/he)
inline constexpr const char* he_secret_key = "permllm/1 he secret key";
inline constexpr const char* he_key_error = "permllm/1 he error of a public key";
inline constexpr const char* he_common = "permllm/1 he public polynomial";
inline constexpr const char* he_index = "permllm/1 he index";
inline constexpr const char* he_query_seed = "permllm/1 he public seed of a query";
inline constexpr const char* he_query_error = "permllm/1 he errors of a query";
inline constexpr const char* he_zero = "permllm/1 he encryption of zero";
inline constexpr const char* he_flood = "permllm/1 he flood";
}  // namespace domain

// What a one-time stream is used for: the first byte of its address. The number is part of the wire version.
// Known to user and helper (U, H), or to provider and helper (P, H).
enum class Use : std::uint8_t {
  // linear (4.1)                                U, H
  linear_rho = 1,   // hides the two halves of W r - m from the provider
  linear_mask = 2,  // m: the user's share of W x
  // permuted_map (4.2)
  map_order = 3,   // pi                    P, H
  map_sign = 4,    // signs of the last group   P, H
  map_level = 5,   // level of a row        P, H
  map_shown = 6,   // s1                    U, H
  map_answer = 7,  // t                     U, H
  map_mask = 8,    // r: the user's share of f(y)   U, H
  // scores (4.4)
  score_rotated = 9,  // b of q, then k        U, H; m of their secret cut
  score_sent = 10,    // a of q, then k        P, H
  score_share = 11,   // rho                   U, H
  score_mask = 12,    // m: the user's share of the scores, re-masked   U, H
  // values (4.4)
  value_lift = 13,      // alpha                 P, H
  value_reshared = 14,  // c: re-sharing of v - alpha   U, H
  value_weights = 15,   // a: masks p0 on its way to the user   P, H
  value_share = 16,     // rho                   U, H
  value_mask = 17,      // r: the user's share of p.v once cut, m of its secret cut   U, H
  // embed (4.6)
  one_hot = 18,    // r of a prompt token's one-hot   U, H
  embed_row = 19,  // the mask that a slot's embedding row is moved to   U, H
  last_row = 20,   // the mask that a pass's last row is moved to   U, H
  // fast attention (4.10)
  value_answer = 21,  // t: masks the probabilities on their way to the provider   U, H
  // open (4.9)
  handed = 22,  // r: a value that the user hands to the provider   U, H
  // scores (4.4)
  score_unseen = 23,  // noise on the scores of keys that a query does not see, a word a row   P, H; used by P alone
  // secret_cut (4.12)
  cut_sent = 24,  // r: the user's part, not cut yet, on its way to the provider   U, H
  cut_coin = 25,  // delta: decides the rounding   P, H
  cut_mask = 26,  // m of v: the user's share once cut   U, H
  // turn (4.13)
  turn_place = 27,  // gamma: hides cos and sin of a slot's position   U, H
  turn_sent = 28,   // a of q, then k, before they turn                P, H
  turn_share = 29,  // rho                                             U, H
};
inline constexpr int k_uses = 30;

// Which box of a layer an address belongs to: the second byte.
enum class Site : std::uint8_t {
  qkv = 1,
  o = 2,
  up = 3,
  down = 4,  // linear, by layer
  attention_norm = 5,
  scores = 6,
  mlp_norm = 7,
  mlp = 8,  // maps, by layer
  embed_residual = 9,
  embed_norm = 10,  // the two answers to an embedding row, by slot
  prompt_embed = 11,
  prompt_one_hot = 12,  // by entry
  final_norm = 13,
  head = 14,
  logits = 15,
  next_embed = 16,  // by pass
  hand_row = 17,
  hand_attention = 18,
  hand_activation = 19,  // open: by slot, the latter two by layer
  head_norm = 20,
  post_attention = 21,
  post_mlp = 22,  // maps, by layer
  qk_gain = 23,
  attention_gain = 24,
  mlp_gain = 25,  // linear, by layer
  values = 26,
  mixed = 27,  // secret cuts of v and of p.v, by layer; that of q and k has the site of scores
};
inline constexpr int k_sites = 28;

}  // namespace permllm
