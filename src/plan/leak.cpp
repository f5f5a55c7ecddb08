#include "plan/leak.h"

namespace permllm {
namespace {

constexpr unsigned k_paper = in_profile(Profile::paper), k_fast = in_profile(Profile::fast),
                   k_open = in_profile(Profile::open);
constexpr unsigned k_permuted = k_paper | k_fast, k_all = k_permuted | k_open;

constexpr std::optional<Disguise> k_no_row = std::nullopt;
constexpr Disguise k_order{.order = true}, k_order_sign{.order = true, .sign = true},
    k_order_level{.order = true, .level = true}, k_level{.level = true}, k_as_it_is{};

constexpr const char* k_qk_norm = "norms of q and k by head (Qwen 3, Gemma 3; OLMo 2: of all heads together)";
constexpr const char* k_post_norm = "norms behind attention and MLP (Gemma 2 and 3, GLM-4, OLMo 2)";
constexpr const char* k_no_post_norm = "no norms behind attention and MLP";
constexpr const char* k_score_cap = "capped scores (Gemma 2)";
constexpr const char* k_no_score_cap = "scores without a cap";
constexpr const char* k_logit_cap = "capped logits (Gemma 2)";
constexpr const char* k_no_logit_cap = "logits without a cap";

bool qk_norm(const Plan& p) { return p.config.qk_norm; }
bool post_norm(const Plan& p) { return p.config.post_norm; }
bool score_cap(const Plan& p) { return p.config.score_cap != 0; }
bool logit_cap(const Plan& p) { return p.config.logit_cap != 0; }
bool gate(const Plan& p) { return p.config.gated; }
bool fused(const Plan& p) { return p.fused; }
bool bfv(const Plan& p) { return p.bfv(); }
bool checked(const Plan& p) { return p.checked; }
template <bool (*holds)(const Plan&)>
bool no(const Plan& p) {
  return !holds(p);
}
template <bool (*a)(const Plan&), bool (*b)(const Plan&)>
bool both(const Plan& p) {
  return a(p) && b(p);
}

const Leak k_leaks[] = {
    // The user
    {Shown::embedding_row, Role::user, "embed", k_order, k_permuted, "", nullptr,
     "the embedding row of each token (where positions are learned, with the position's row added), exactly, its "
     "entries in a fresh order"},
    {Shown::residual_row, Role::user, "norm", k_order, k_permuted, "", nullptr,
     "the row before each norm of the residual, its entries in a fresh order"},
    {Shown::head_row, Role::user, "norm", k_order_sign, k_permuted, k_qk_norm, qk_norm,
     "q and k before their norm, the entries of each head in a fresh order and up to their signs"},
    {Shown::output_row, Role::user, "norm", k_order_sign, k_permuted, k_post_norm, post_norm,
     "the rows that attention and MLP put out, their entries in a fresh order and up to their signs"},
    {Shown::score, Role::user, "attention", k_order_level, k_paper, k_no_score_cap, no<score_cap>,
     "attention scores, the keys of each row in a fresh order, less a level of the row"},
    {Shown::score, Role::user, "attention", k_order, k_paper, k_score_cap, score_cap,
     "attention scores, the keys of each row in a fresh order"},
    {Shown::score, Role::user, "attention", k_level, k_fast, k_no_score_cap, no<score_cap>,
     "attention scores, the keys in order, less a level of each row"},
    {Shown::score, Role::user, "attention", k_as_it_is, k_fast, k_score_cap, score_cap,
     "attention scores, the keys in order"},
    {Shown::value, Role::user, "values", k_no_row, k_permuted, "", nullptr,
     "value vectors under masks that hide them up to a statistical distance"},
    {Shown::gate_up, Role::user, "mlp", k_order_sign, k_permuted, "a gate, norms not fused", both<gate, no<fused>>,
     "gate and up of each neuron as a pair, the neurons in a fresh order, up to the sign of up"},
    {Shown::gate_up, Role::user, "mlp", k_order, k_permuted, "no gate (GPT-2, ChatGLM-6B), norms not fused",
     both<no<gate>, no<fused>>, "what goes into each neuron, the neurons in a fresh order"},
    {Shown::raw_gate_up, Role::user, "mlp", k_order_sign, k_permuted, "a gate, fused norms", both<gate, fused>,
     "gate and up of each neuron as a pair, times the rms of the row, the neurons in a fresh order, up to the sign of "
     "up"},
    {Shown::raw_gate_up, Role::user, "mlp", k_order, k_permuted, "no gate, fused norms", both<no<gate>, fused>,
     "what goes into each neuron, times the rms of the row, the neurons in a fresh order"},
    {Shown::logit, Role::user, "sample", k_order_level, k_permuted, k_no_logit_cap, no<logit_cap>,
     "all logits in a fresh order, less a level of the pass"},
    {Shown::logit, Role::user, "sample", k_order, k_permuted, k_logit_cap, logit_cap, "all logits in a fresh order"},
    {Shown::token, Role::user, "sample", k_no_row, k_permuted, "retrieval linear", no<bfv>,
     "the id of the token at the chosen place"},
    {Shown::token, Role::user, "retrieve_bfv", k_no_row, k_permuted, "retrieval bfv", bfv,
     "the id of the token at the chosen place; of other ids nothing, by ring-LWE and up to 2^-47 a token in the worst "
     "case"},
    {Shown::residual_row, Role::user, "open", k_as_it_is, k_open, k_no_post_norm, no<post_norm>,
     "the row before each norm, in order"},
    {Shown::qkv, Role::user, "open", k_as_it_is, k_open, "", nullptr, "queries, keys and values, in order"},
    {Shown::output_row, Role::user, "open", k_as_it_is, k_open, k_post_norm, post_norm,
     "the rows that attention and MLP put out, in order"},
    {Shown::gate_up, Role::user, "open", k_as_it_is, k_open, "", nullptr, "what goes into each neuron, in order"},
    {Shown::logit, Role::user, "open", k_as_it_is, k_open, "", nullptr, "all logits, in order"},
    {Shown::small_vectors, Role::user, "", k_no_row, k_open, "", nullptr,
     "once, the embedding table and all small vectors of the model (biases, gains, rows of positions)"},
    {Shown::product_key, Role::user, "", k_no_row, k_open, "products checked", checked,
     "once, of each matrix one combination of its rows by a secret of its own, with which it checks every product; "
     "rows "
     "and products to their last bit"},

    // The provider
    {Shown::words, Role::provider, "roles", k_no_row, k_all, "", nullptr,
     "uniform words, lengths and timing: how many tokens prompt and answer have, nothing of what they are"},
    {Shown::ciphertexts, Role::provider, "retrieve_bfv", k_no_row, k_permuted, "retrieval bfv", bfv,
     "ciphertexts of the place of each chosen token, under a key of the user's"},

    // The helper
    {Shown::orders, Role::helper, "", k_no_row, k_all, "", nullptr,
     "how much material was asked for; it takes no part in an answer"},
    {Shown::masked_weights, Role::helper, "", k_no_row, k_permuted, "", nullptr,
     "the model's weights under a mask: uniform words"},
    {Shown::weights, Role::helper, "", k_no_row, k_open, "", nullptr, "the model's weights, which are public"},
};

}  // namespace

std::span<const Leak> all_leaks() { return k_leaks; }

std::vector<Leak> leaks_of(const Plan& plan, Role role) {
  std::vector<Leak> leaks;
  for (const Leak& leak : k_leaks) {
    if (leak.role == role && (leak.profiles & in_profile(plan.profile)) != 0 &&
        (leak.holds == nullptr || leak.holds(plan)))
      leaks.push_back(leak);
  }
  return leaks;
}

std::vector<std::string> seen_by(Role role, const Plan& plan) {
  std::vector<std::string> sentences;
  for (const Leak& leak : leaks_of(plan, role)) sentences.emplace_back(leak.sees);
  return sentences;
}

}  // namespace permllm
