// A program as the user of the service: it holds an invite and asks the provider that sent it.
//
//   permllm::Client client("alice.invite");
//   permllm::Conversation conversation = client.conversation();
//   conversation.ask("Why is the sky blue?", {}, [](std::string_view piece) { std::cout << piece << std::flush; });
//
// Faults are permllm::Error. Texts are UTF-8.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "permllm/error.h"
#include "permllm/version.h"

namespace permllm {

struct ClientOptions {
  // Where it is kept which offline material there is and which is used, with the seeds of its masks; empty: permllm in the user's folder for
  // state (XDG base directories).
  std::filesystem::path state = {};
  std::chrono::milliseconds patience{120'000};  // how long to wait for a peer before giving up
  std::chrono::milliseconds grace{
      60'000};           // how long to try again when the connection was lost in an answer; 0: the answer ends
  unsigned threads = 0;  // for this user's share of the arithmetic; 0: one for each core
  // Whether conversations may draft (ConversationOptions::draft). In paper and fast their sessions then hide positions from the provider, for a round
  // trip a layer more, and have offline material of their own: what other clients made serves them not, nor what they made other clients.
  bool drafts = false;
  // A GGUF file of a small model with the provider's vocabulary, which makes the drafts of all conversations on this machine, in the clear: then they
  // may draft. Empty: drafts are made from the text so far.
  std::filesystem::path draft_model = {};
};

struct Message {
  std::string role;  // system, user, assistant, or tool where the model's template knows of tools
  std::string content;
  // Where the template knows of tools: of an assistant its calls, JSON as OpenAI's interface has it but the arguments an object; of a tool which call it
  // answers, and its name.
  std::string tool_calls = {}, tool_call_id = {}, name = {};
};

// What an answer has to be. Its members are called in the thread that asks.
class AnswerForm {
 public:
  virtual ~AnswerForm() = default;
  virtual bool may_follow(std::string_view bytes) const = 0;  // what was added so far
  virtual void add(std::string_view bytes) = 0;
  virtual bool may_end() const = 0;  // what was added is whole
  virtual bool is_over() const = 0;  // nothing may follow: the answer ends, as at a stop text
};

// What an answer waits for.
struct AnswerProgress {
  enum class Stage {
    connecting,
    material,  // offline material is made: `fraction` of it is there after `seconds`, the rest in about `seconds_left`
    prompt,    // the model reads: `fraction` of its layers have, after `seconds`
    answer,    // a token has come
    reconnecting,  // the connection to the provider was lost in an answer, and is tried again
    restarted,  // the provider was restarted in an answer: a new session reads question and answer so far, and the answer goes on
  };
  Stage stage = Stage::connecting;
  double fraction = 0, seconds = 0, seconds_left = 0;
  std::uint32_t token = 0;  // the one that has come
};
// Called in the thread that asks or fills, while it does; returns soon. In the order of the stages: connecting, material, prompt, answer, from the
// beginning where a session had to be begun again.
using OnProgress = std::function<void(const AnswerProgress&)>;

// Of ConversationOptions::draft: chosen once a conversation, by what its first passes took: none, 2 or 4.
inline constexpr std::size_t k_draft_chosen = SIZE_MAX;
// Of ConversationOptions::draft: the most that a pass verifies beside the token before them.
inline constexpr std::size_t k_most_draft = 63;

struct ConversationOptions {
  std::string system = {};  // the system message; empty: as the model's template has it
  std::string chat_format =
      {};  // empty: by the model's template; "none": raw text, which the model continues; or a format's name (docs/models.md)
  bool think = false;  // let a model that can think before it answers
  std::string tools =
      {};  // JSON, as OpenAI's interface has it: functions that the template tells the model of; empty: none
  std::string begins = {};  // how the answer begins, which the model goes on from
  // In profile open, and where ClientOptions has drafts: tokens to guess and verify in one pass, at most k_most_draft, or k_draft_chosen.
  std::size_t draft = 0;
  std::size_t ahead =
      64;  // tokens for which material is made ahead of need, while an answer comes; more costs less, and the first come later
  std::size_t next_prompt =
      0;  // tokens of a further question for which material is made once an answer has come, and for the beginning of its answer
  OnProgress on_progress = nullptr;
};

// How one answer is chosen: greedily, unless a temperature is given.
struct AnswerOptions {
  std::size_t max_tokens = 256;   // ends sooner where the model's context or the invite's allowance does
  std::size_t enough_tokens = 0;  // a session that has room for so many is not begun again for more; 0: max_tokens
  double temperature = 0;         // 0 is greedy
  std::size_t top_k = 0;          // choose among the k best tokens; 0: all
  double top_p = 1;               // among the best tokens that hold this share
  double min_p = 0;               // leave out tokens less likely than this part of the best
  std::optional<std::uint64_t> seed = {};  // of the choice; drawn afresh without it
  std::vector<std::string> stop = {};      // the answer ends before the first of these texts
  // In place of ConversationOptions::draft, from this answer on; another than before begins the session again.
  std::optional<std::size_t> draft = {};
  // A text that was begun (ConversationOptions::begins) goes on: a blank that the answer begins with is a part of it.
  bool goes_on = false;
  bool log_probabilities = false;  // Answer::log_probabilities is wanted
  // Only where logits have names (Client::Model::named_logits).
  std::size_t top_logprobs = 0;  // of each token of Answer::log_probabilities, so many of the likeliest
  std::vector<std::pair<std::uint32_t, double>> logit_bias = {};  // added to a token's logit
  double presence_penalty = 0,
         frequency_penalty = 0;  // taken from a token's logit: once if the answer has it; each time
  // Divides a logit above 0, and multiplies one below, of a token that question or answer has. Only in profile open, where logits have a level.
  double repetition_penalty = 1;
  bool hidden_state = false;  // Answer::hidden_state is wanted. Only in profile open, where the user sees it
  // Null, or what it has to be. Where logits have names a token that may not follow is not chosen; elsewhere it only ends the answer where it is over.
  std::shared_ptr<AnswerForm> form = {};
};

struct Answer {
  enum class End {
    model,      // the model ended it
    length,     // max_tokens, the context or the allowance
    stock,      // no further offline material is there, and none can be made now
    stop,       // one of AnswerOptions::stop
    cancelled,  // Conversation::cancel()
  };
  struct Bytes {
    std::uint64_t sent = 0, received = 0;  // by this user: payload, without headers of frames and TLS
  };
  struct Cost {
    std::size_t prompt_tokens = 0;  // of the whole conversation
    std::size_t fed_tokens = 0;     // of these, fed to the model for this answer: what it was fed before it still holds
    std::size_t answer_tokens = 0;  // chosen by the model, the one that ends an answer included
    Bytes set_up;            // with the provider: handshakes, the model's public card; not where a session goes on
    Bytes online;            // with the provider, while it answered
    Bytes offline_provider;  // material, since the answer before
    Bytes offline_helper;
    std::uint64_t round_trips = 0;  // online
    // Of passes behind the question's: how many; the tokens that were drafted for them, and not kept; the offline material that these took.
    std::size_t passes = 0, drafted_tokens = 0, rejected_tokens = 0;
    std::uint64_t rejected_bytes = 0;
    double offline_seconds = 0;      // from the question to the first message online
    double first_token_seconds = 0;  // from then to the first token
    double token_seconds = 0;        // a token after the first
    double seconds = 0;              // all of it
    std::uint64_t tokens_left = 0;   // Client::tokens_left() after the answer
  };

  std::string text;
  std::vector<std::uint32_t> tokens;  // chosen by the model, the one that ends an answer included
  // Of each of them, where they are wanted: its bytes, and the natural logarithm of the probability that the model gave it, whatever moved the choice.
  struct Chance {
    std::string bytes;
    double log_probability = 0;
    std::vector<Chance> likeliest = {};  // AnswerOptions::top_logprobs of them, the likeliest first
  };
  std::vector<Chance> log_probabilities;
  // Of the question's last token, where it is wanted: what the model's head is given of it, the residual normed but without the last norm's gain, which is
  // part of the head.
  std::vector<float> hidden_state;
  // Inner numbers of the model, for the conversation so far, that left the range which it is served for: as a rule none. The first `trusted_tokens`
  // of the answer came before them; what comes behind is not to be trusted.
  std::uint64_t out_of_range = 0;
  std::size_t trusted_tokens = 0;
  End end = End::model;
  std::string stop = {};  // End::stop: the text at which it ended; empty where its form did
  Cost cost;
};

class Conversation;

// One invite in use. Its members may be called from several threads, and conversations of one client run side by side.
class Client {
 public:
  // Reads the invite, connects to provider and helper, whose keys must be the invite's, and hears which model there is.
  // Errors: file (missing, damaged, open to others, expired; naming the file's key), unsupported (an invite of another release),
  // closed, timeout, mismatch (another key, another wire version, an invite that was revoked), malformed.
  explicit Client(const std::filesystem::path& invite, const ClientOptions& options = {});
  ~Client();
  Client(Client&&) noexcept;
  Client& operator=(Client&&) noexcept;

  struct Party {
    std::string address;  // host:port
    std::string
        key;  // SHA-256 of its public key, 64 hex digits: compare the helper's with what the helper itself publishes
  };
  const Party& provider() const;
  const Party& helper() const;

  struct Model {
    std::string name, architecture;  // as the provider says, on one line that a terminal may show
    std::string id;                  // 64 hex digits: the provider's commitment to its weights
    std::string profile;             // paper, fast or open (docs/guide.md)
    std::string retrieval;           // linear or bfv
    std::size_t context = 0;         // most tokens of a conversation
    std::size_t layers = 0;
    bool drafts = false;  // whether ConversationOptions::draft may be used: profile open, or ClientOptions::drafts
    bool named_logits = false;  // whether this user sees which token each logit is of: profile open
  };
  const Model& model() const;
  // Whether an answer can be chosen so. Errors: usage (an option out of its range), unsupported (one that the model's profile does not have), naming it.
  static void check(const Model& model, const AnswerOptions& options);

  // Of the model's file, in Jinja; empty: it has none.
  const std::string& chat_template() const;

  // What each party gets to see of a conversation, a sentence each. SECURITY.md has what they rest on.
  struct Views {
    std::vector<std::string> provider, helper, user;
  };
  const Views& views() const;

  // Of the invite's allowance of answer tokens, as the provider counts them.
  std::uint64_t tokens_left() const;

  // Tokens of the model's vocabulary: of a text, and of a conversation with the marks that its chat format adds. Errors: as Conversation::answer.
  std::vector<std::uint32_t> tokenize(std::string_view text) const;
  std::vector<std::uint32_t> tokenize(const std::vector<Message>& messages,
                                      const ConversationOptions& options = {}) const;
  // The text of tokens, those of marks as their own. Ids beyond the vocabulary are nothing.
  std::string detokenize(std::span<const std::uint32_t> ids) const;

  // Offline material: made with the helper ahead of need, used once. A conversation takes a chain of it, one of a client with the same
  // ClientOptions::drafts, where that matters.
  struct Chain {
    std::uint64_t number = 0;
    std::size_t tokens = 0;                            // of a question and its answer, for which material is ready
    std::size_t prompt_tokens = 0, answer_tokens = 0;  // at most so many of these
    std::size_t used = 0, room = 0;  // tokens that it has served, and that it may serve yet; with what is not made yet
    bool busy = false;               // a conversation has it
  };
  // Asks the provider. Errors: those of a peer.
  std::vector<Chain> stock() const;
  // As far as this client knows without asking: tokens of a question and its answer for which material is ready, in the chain that has most. An
  // answer takes one chain, so what several have does not add up.
  std::size_t ready_tokens() const;
  // Makes material for nobody's question, until the i-th of the chains that no conversation has used serves so many tokens, of which
  // `answer_tokens` are of answers. Returns the seconds that it took. Errors: those of a peer; resource, where the provider keeps no more.
  double fill(std::size_t i, std::size_t tokens, std::size_t answer_tokens,
              const OnProgress& on_progress = nullptr) const;

  // What this client's links carried so far, in all its conversations: payload bytes.
  struct Traffic {
    Answer::Bytes online, offline_provider, offline_helper;
    std::uint64_t round_trips = 0;  // online
  };
  Traffic traffic() const;

  // Begins a conversation, which may outlive the client. Errors: usage, for a chat format that is none, or a draft where the model takes none.
  Conversation conversation(const ConversationOptions& options = {}) const;

 private:
  friend class Conversation;
  struct State;
  std::shared_ptr<State> state_;
};

// Questions and answers, each with those before it as its context. One thread asks at a time; cancel() may come from any.
class Conversation {
 public:
  ~Conversation();
  Conversation(Conversation&&) noexcept;
  Conversation& operator=(Conversation&&) noexcept;

  using OnText = std::function<void(std::string_view piece)>;
  // Waits for the answer. on_text gets it piece by piece, in whole characters, in the caller's thread; what it throws ends the answer and
  // is thrown here. The text is as the model said it, escapes that a terminal would obey included. After an error the conversation is as before
  // the question. Errors: usage (an option out of its range, a conversation that does not fit the context, an allowance used up), and those of a
  // peer as in Client.
  Answer ask(const std::string& text, const AnswerOptions& options = {}, const OnText& on_text = nullptr);
  // The same where the caller keeps the conversation: all of it, the question last. Chat format none: the contents, one behind the other. What
  // the session was fed before is not fed again. The conversation's own questions and answers, and its system message, play no part.
  Answer answer(const std::vector<Message>& messages, const AnswerOptions& options = {},
                const OnText& on_text = nullptr);
  // The same with the ids of the messages, as Client::tokenize has them for this conversation's options: who needs them several times makes them once.
  // on_progress: of this answer, in place of the conversation's. Errors: usage (field ids), too, for one that is none of the vocabulary's.
  Answer answer(std::span<const std::uint32_t> ids, const AnswerOptions& options = {}, const OnText& on_text = nullptr,
                const OnProgress& on_progress = nullptr);
  // How many tokens of these messages the session was fed already.
  std::size_t in_common(const std::vector<Message>& messages) const;
  std::size_t in_common(std::span<const std::uint32_t> ids) const;
  // How long an answer to these the session has room for behind what it was fed, in tokens. Where more are asked for, it is begun again and
  // fed all of the messages. 0: there is no session, or no room.
  std::size_t room(const std::vector<Message>& messages) const;
  std::size_t room(std::span<const std::uint32_t> ids) const;
  // Ends the answer under way, soon; ask() returns what there is of it. Without one, nothing. A question that got no text is forgotten. For
  // signal handlers, too.
  void cancel() noexcept;
  // Forgets all questions and answers, and ends the session in order.
  void reset();

 private:
  friend class Client;
  struct State;
  explicit Conversation(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace permllm
