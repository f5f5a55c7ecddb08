#include "app/chat.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <iostream>

#include "app/measure.h"
#include "app/options.h"
#include "app/process.h"
#include "app/process_limits.h"
#include "app/settings.h"
#include "app/user_state.h"

namespace permllm {
namespace {

struct ChatOptions {
  std::string invite, state;
  PromptOptions prompt;
  std::size_t ahead = 256, draft = 0;
  double patience_seconds = 120, grace_seconds = std::chrono::duration<double>(k_default_grace).count();
};

volatile sig_atomic_t interrupted = 0;  // a signal handler has no other place to write to

// While it lives, the first Ctrl-C ends the answer; a second, as any outside of it, the program.
class Interruptible {
 public:
  Interruptible() {
    interrupted = 0;
    struct sigaction action {};
    action.sa_handler = [](int) { interrupted = 1; };
    action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
    sigaction(SIGINT, &action, &before_);
  }
  ~Interruptible() { sigaction(SIGINT, &before_, nullptr); }

 private:
  struct sigaction before_ {};
};

// A link that gives up once the person has interrupted, while there is no answer yet that could be ended in order.
volatile sig_atomic_t answering = 0;

class Stoppable : public Link {
 public:
  explicit Stoppable(std::unique_ptr<Link> link) : link_(std::move(link)) { stop_if_interrupted(); }
  void send(Frame frame) override {
    if (!is_of_link(frame.tag) && answering == 0) stop_if_interrupted();
    link_->send(std::move(frame));
  }
  void flush() override { link_->flush(); }
  Frame receive(Clock::time_point deadline, const char* awaited) override { return link_->receive(deadline, awaited); }
  void close() override { link_->close(); }

 private:
  // Not as closed: what the person ended is not resumed.
  static void stop_if_interrupted() {
    if (interrupted != 0) throw Error(Code::usage, "answer", "stopped");
  }
  std::unique_ptr<Link> link_;
};

class Chat {
 public:
  Chat(ChatOptions options, Invite invite)
      : options_(std::move(options)), invite_(std::move(invite)), ledger_(user_ledger(options_.state)), sampler_(options_.prompt.sampling) {}

  void run() {
    tell(fmt::format("provider at {}, key sha256:{}\nhelper at {}, key sha256:{}\n", invite_.provider_address, invite_.provider_pin,
                     invite_.helper_address, invite_.helper_pin));
    if (person()) tell("A line is a question; /stats tells what the last answer took, /new begins another conversation, Ctrl-D ends.\n");
    for (std::string line; read_line(line);) {
      if (line.empty()) continue;
      if (line == "/stats") {
        fmt::print("{}\n", report_.is_null() ? "there is no answer yet" : statistics());
      } else if (line == "/new") {
        messages_.clear();
        leave();
      } else {
        try {
          ask(line);
        } catch (const Error& error) {
          // A person may go on; a program is told and decides.
          if (!person()) throw;
          tell(fmt::format("permllm: {}\n", error.what()));
        }
      }
      std::fflush(stdout);
    }
    leave();
  }

 private:
  bool json() const { return options_.prompt.json; }
  static bool person() { return isatty(STDIN_FILENO) != 0; }
  void tell(const std::string& text) const {
    if (!json()) std::fputs(text.c_str(), stderr);
  }
  bool read_line(std::string& line) const {
    if (person()) tell("> ");
    return static_cast<bool>(std::getline(std::cin, line));
  }

  // One turn: its prompt is the whole conversation, of which the session holds what it was fed before.
  void ask(const std::string& question) {
    const Interruptible interruptible;
    std::vector<ChatMessage> messages = messages_;
    messages.push_back({"user", question});
    std::string answer;
    partial_.clear();
    const bool went_on = conversation_ != nullptr;
    try {
      answer = converse(messages);
    } catch (const Error& error) {
      conversation_ = nullptr;  // what its last pass left is not known
      if (interrupted == 0) {
        // A session that the provider ended while nobody asked is begun again.
        if (!went_on || !partial_.empty() || (error.code() != Code::closed && error.code() != Code::timeout)) throw;
        answer = converse(messages);
      }
    }
    answering = 0;
    if (interrupted != 0) {
      tell("\n(stopped)\n");
      answer = partial_;
    }
    // A question that got no answer at all is forgotten.
    if (answer.empty() && interrupted != 0) return;
    messages.push_back({"assistant", answer});
    messages_ = std::move(messages);
  }

  // Ends the session in order, where it still stands.
  void leave() {
    try {
      if (conversation_) conversation_->end();
    } catch (const Error&) {  // the answers are there
    }
    conversation_ = nullptr;
  }

  void begin(std::size_t room = 1) {
    const auto patience = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options_.patience_seconds));
    const auto links = [&](UserTraffic& traffic) {
      const auto stoppable = [](std::function<std::unique_ptr<Link>()> dial) {
        return [dial = std::move(dial)]() -> std::unique_ptr<Link> { return std::make_unique<Stoppable>(dial()); };
      };
      const UserLinks all = links_of(invite_, {}, patience, traffic);
      return UserLinks{stoppable(all.online), stoppable(all.offline), stoppable(all.helper),
                       std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options_.grace_seconds))};
    };
    leave();
    conversation_ = std::make_unique<MeasuredConversation>(links, LinkShape{}, patience, json(), executor_, ledger_, room);
    tokens_left_ = conversation_->card().tokens_left;
  }

  std::string converse(const std::vector<ChatMessage>& messages) {
    answering = 0;
    if (!conversation_) begin();
    const Tokenizer tokenizer(conversation_->vocabulary());
    MeasuredConversation::Request request;
    request.ids = chat_format(options_.prompt, conversation_->vocabulary()).encode(tokenizer, messages, options_.prompt.think);
    request.max_tokens = most_tokens(conversation_->plan(), request.ids.size());
    request.ahead = options_.ahead;
    request.draft = options_.draft;
    request.choose = [&](std::span<const std::int64_t> logits) { return sampler_.choose(logits, frac::logit); };
    TokenPrinter printer(tokenizer, json());
    request.on_token = [&](TokenId id) {
      answering = 1;
      if (interrupted != 0) return false;
      printer.token(id);
      partial_ = printer.text();
      if (tokens_left_ > 0) --tokens_left_;
      return !tokenizer.is_end(id);
    };
    if (!conversation_->fits(request)) begin(conversation_->slots_afresh(request));  // another chain
    conversation_->run(request);
    printer.finish();
    report_ = conversation_->report();
    report_["text"] = printer.text();
    report_["tokens_left"] = tokens_left_;
    if (json()) print_event(report_);
    return printer.text();
  }

  // How long an answer may be: as asked, as the model has room, as the invite allows.
  std::size_t most_tokens(const Plan& plan, std::size_t prompt) const {
    plan.check_prompt(prompt);
    const std::size_t rows = plan.prompt_rows(prompt);
    if (tokens_left_ == 0) throw Error(Code::usage, "tokens", fmt::format("all {} of the invite are used; ask the provider for another", invite_.tokens));
    if (rows >= plan.slots) {
      throw Error(Code::usage, "conversation", fmt::format("{} tokens do not fit the context of {}; /new begins another", prompt, plan.slots));
    }
    const std::size_t room = 1 + (plan.slots - rows) / (options_.draft + 1);
    return std::min<std::uint64_t>({options_.prompt.max_tokens, room, tokens_left_});
  }

  std::string statistics() const {
    const auto mb = [](const nlohmann::json& bytes) { return bytes.get<double>() / 1e6; };
    const auto& seconds = report_.at("seconds");
    const auto& online = report_.at("online_per_token");
    return fmt::format("tokens: prompt {}, answer {}, left of the invite {}\nprofile {}; offline material {:.2f} s, first token {:.2f} s, a token {:.3f} s\n"
                       "a token, online: {:.3f} MB to the user, {:.3f} MB to the provider, {:.0f} round trips",
                       report_.at("prompt_tokens").get<int>(), report_.at("output_ids").size(), tokens_left_,
                       report_.at("profile").get<std::string>(), seconds.at("offline").get<double>(), seconds.at("prefill").get<double>(),
                       seconds.at("decode_per_token").get<double>(), mb(online.at("provider_to_user_bytes")), mb(online.at("user_to_provider_bytes")),
                       online.at("round_trips").get<double>());
  }

  ChatOptions options_;
  Invite invite_;
  Ledger ledger_;
  Sampler sampler_;
  Executor executor_;
  std::unique_ptr<MeasuredConversation> conversation_;
  std::vector<ChatMessage> messages_;
  std::uint64_t tokens_left_ = 0;  // of the allowance, as the provider counts
  std::string partial_;     // what was printed of the answer under way
  nlohmann::json report_;   // of the last answer
};

void run(ChatOptions options) {
  check_answer_options(options.prompt);
  Invite invite = load_invite(options.invite);
  Chat(std::move(options), std::move(invite)).run();
}

}  // namespace

void add_chat(CLI::App& parent) {
  const auto options = std::make_shared<ChatOptions>();
  options->prompt.max_tokens = 256;
  CLI::App* command = parent.add_subcommand("chat", "the user: asks a provider that sent an invite, a line a question");
  command->add_option("--invite", options->invite, "the file that the provider sent")->required();
  add_user_state(*command, options->state);
  add_answer_options(*command, options->prompt);
  command->add_option("--ahead", options->ahead, "slots of offline material to make ahead of need")->capture_default_str();
  command->add_option("--draft", options->draft, "tokens to guess from the text so far and verify in one pass (profile open); 0: none")
      ->capture_default_str()->check(CLI::Range(0, 63));
  command->add_option("--patience", options->patience_seconds, "seconds to wait for a peer before giving up")
      ->capture_default_str()->check(CLI::PositiveNumber);
  command->add_option("--grace", options->grace_seconds, "seconds to try again when the connection to the provider was lost in an answer; 0: it ends")
      ->capture_default_str()->check(CLI::Range(0.0, 3600.0));
  command->callback([options] {
    keep_to_itself();
    run(*options);
  });
  add_settings(*command);
}

}  // namespace permllm
