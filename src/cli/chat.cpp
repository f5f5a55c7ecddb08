#include "cli/chat.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <signal.h>

#include <fstream>
#include <memory>
#include <optional>

#include "base/file.h"
#include "base/reason.h"
#include "base/small_file.h"
#include "base/text.h"
#include "cli/lines.h"
#include "cli/progress.h"
#include "cli/prompt_options.h"
#include "cli/shared_options.h"
#include "cli/text_editor.h"
#include "permllm/client.h"
#include "service/print_event.h"
#include "service/process_limits.h"
#include "service/sandbox.h"
#include "service/settings.h"
#include "user/user_state.h"
#include "wire/plain.h"

namespace permllm {
namespace {

struct ChatOptions {
  std::string invite, state, history, saves;
  PromptOptions prompt;
  ConversationOptions conversation;
  PatienceOptions patience;
  DraftOptions draft;
};

Conversation* answering = nullptr;  // a signal handler has no other place to look

// While it lives, the first Ctrl-C ends the answer; a second the program.
class Interruptible {
 public:
  explicit Interruptible(Conversation& conversation) {
    answering = &conversation;
    struct sigaction action {};
    action.sa_handler = [](int) { answering->cancel(); };
    action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
    sigaction(SIGINT, &action, &before_);
  }
  ~Interruptible() { sigaction(SIGINT, &before_, nullptr); }

 private:
  struct sigaction before_ {};
};

// What is shown while an answer is awaited.
class Waiting {
 public:
  Waiting(bool json, double grace_seconds)
      : json_(json),
        grace_seconds_(grace_seconds),
        making_("Offline material for this answer", json),
        reading_("Reading your question", json) {}

  void begin() {
    stage_ = Stage::connecting;
    lost_ = false;
  }
  void show(const AnswerProgress& progress) {
    if (progress.stage == Stage::reconnecting) {
      if (!std::exchange(lost_, true)) tell_of_loss();
      return;
    }
    if (progress.stage != stage_) end();
    stage_ = progress.stage;
    if (progress.stage == Stage::restarted) return tell_of_restart();
    if (progress.stage == Stage::material) return making_.show(progress.fraction, progress.seconds);
    lost_ = false;
    if (progress.stage == Stage::prompt && progress.seconds > 1) reading_.show(progress.fraction, progress.seconds);
    if (progress.stage == Stage::answer && json_) print_event({{"event", "token"}, {"id", progress.token}});
  }
  // Nothing is awaited any more.
  void end() {
    making_.close();
    reading_.close();
  }

 private:
  using Stage = AnswerProgress::Stage;
  void tell_of_loss() {
    if (json_) return print_event({{"event", "reconnecting"}, {"seconds", grace_seconds_}});
    end();
    std::fputs(fmt::format("{}(the connection to the provider was lost; trying again for up to {:g} s)\n",
                           stage_ == Stage::answer ? "\n" : "", grace_seconds_)
                   .c_str(),
               stderr);
  }
  void tell_of_restart() const {
    if (json_) return print_event({{"event", "restarted"}});
    std::fputs("\n(the provider was restarted, going on)\n", stderr);
  }
  const bool json_;
  const double grace_seconds_;
  ProgressBar making_, reading_;
  Stage stage_ = Stage::connecting;
  bool lost_ = false;
};

constexpr const char* k_help =
    "A line is a question; so is what you paste. Several lines: Alt-Enter between them, or \"\"\" before and behind.\n"
    "Ctrl-C ends an answer, Ctrl-D the program.\n"
    "  /edit       writes a question with your editor ($EDITOR); a text behind it is what it begins with\n"
    "  /cost       what the last answer took: tokens, seconds, bytes, round trips\n"
    "  /privacy    what each party sees\n"
    "  /save NAME  writes the conversation as Markdown, for your eyes alone, into the folder of --saves\n"
    "  /reset      begins another conversation\n"
    "  /help       this\n";

class Chat {
 public:
  explicit Chat(ChatOptions options)
      : options_(std::move(options)),
        lines_(options_.history),
        editor_(Lines::person() ? std::make_unique<TextEditor>() : nullptr),
        saves_(folder_of_saves()),
        sandbox_(enter_sandbox(needed())),
        client_(options_.invite, options_.patience.client(options_.state, options_.draft.model)),
        waiting_(json(), options_.patience.grace),
        conversation_(begin()) {}

  void run() {
    if (Lines::person()) {
      tell(
          fmt::format("{}, profile {}, context {}; {} tokens of answers left\nprovider at {}, key sha256:{}\nhelper at "
                      "{}, key sha256:{}\nsandbox: {}\n{}",
                      client_.model().name, client_.model().profile, client_.model().context, client_.tokens_left(),
                      client_.provider().address, client_.provider().key, client_.helper().address,
                      client_.helper().key, sandbox_.text(), k_help));
    }
    while (const std::optional<std::string> line = lines_.next()) {
      try {
        if (!line->empty()) line->front() == '/' ? command(*line) : ask(*line);
      } catch (const Error& error) {
        waiting_.end();
        if (std::exchange(within_line_, false)) fmt::print("\n");
        std::fflush(stdout);
        // A person may go on; a program is told and decides.
        if (!Lines::person()) throw;
        tell(fmt::format("permllm: {}\n", for_terminal(for_person(error))));
      }
      std::fflush(stdout);
    }
    conversation_.reset();
  }

 private:
  bool json() const { return options_.prompt.json; }
  void tell(const std::string& text) const {
    if (!json()) std::fputs(text.c_str(), stderr);
  }
  std::filesystem::path folder_of_saves() const {
    if (!options_.saves.empty()) {
      if (type_of(options_.saves) != std::filesystem::file_type::directory)
        throw Error(Code::usage, "--saves", fmt::format("{} is no folder", options_.saves));
      return std::filesystem::canonical(options_.saves);
    }
    return std::filesystem::canonical(user_folder(options_.state)) / "saved";
  }
  // What is opened from now on. The history is written at the end, into a file that is there.
  Sandbox needed() const {
    Sandbox sandbox{{options_.invite}, {user_folder(options_.state), saves_}};
    if (!options_.draft.model.empty()) sandbox.read.push_back(options_.draft.model);
    if (options_.history.empty() || !Lines::person()) return sandbox;
    const std::ofstream history(options_.history, std::ios::app);
    sandbox.write.push_back(options_.history);
    return sandbox;
  }
  // The name may be a path within the folder.
  std::filesystem::path place_of(const std::string& name) const {
    const std::filesystem::path place = (saves_ / name).lexically_normal();
    const std::filesystem::path within = place.lexically_relative(saves_);
    if (within.empty() || *within.begin() == ".." || *within.begin() == ".") {
      throw Error(
          Code::usage, "/save",
          fmt::format("writes into {} alone; name another folder with --saves when chat begins", saves_.string()));
    }
    return place;
  }
  Conversation begin() {
    ConversationOptions options = options_.conversation;
    options.chat_format = options_.prompt.chat_format;
    options.think = options_.prompt.think;
    options.on_progress = [this](const AnswerProgress& progress) { waiting_.show(progress); };
    return client_.conversation(options);
  }

  void ask(const std::string& question) {
    const AnswerOptions how = answer_options(options_.prompt);
    waiting_.begin();
    const Interruptible interruptible(conversation_);
    TerminalText shown;
    last_ = conversation_.ask(question, how, [&](std::string_view piece) {
      if (json()) {
        print_event({{"event", "text"}, {"text", piece}});
      } else {
        fmt::print("{}", shown.push(piece));
        std::fflush(stdout);
        within_line_ = true;
      }
    });
    waiting_.end();
    const bool cancelled = last_->end == Answer::End::cancelled;
    if (!cancelled || !last_->text.empty())
      said_ += fmt::format("## Question\n\n{}\n\n## Answer\n\n{}\n\n", question, last_->text);
    if (json()) return print_event(report());
    fmt::print("{}\n", shown.finish());
    within_line_ = false;
    if (last_->out_of_range > 0) {
      tell(fmt::format("({} inner numbers of the model left the range that it is served for: {})\n",
                       last_->out_of_range, not_to_be_trusted(last_->trusted_tokens)));
    }
    if (cancelled) tell("(stopped)\n");
    if (last_->end == Answer::End::stock) tell("(ended: no offline material is left, and none can be made now)\n");
    if (last_->end == Answer::End::length) {
      tell(last_->cost.tokens_left == 0 ? fmt::format("(ended: {})\n", facts_of(Reason::allowance_used_up).cause)
           : last_->cost.answer_tokens < how.max_tokens
               ? "(ended: the model's context is full; /reset begins anew)\n"
               : fmt::format("(ended at its limit of {} tokens; --max-tokens sets another)\n", how.max_tokens));
    }
    if (!Lines::person()) return;
    const Answer::Cost& cost = last_->cost;
    tell(fmt::format("[{} tokens, {:.1f} a second; material for {} more is ready{}; {} left of the invite]\n",
                     cost.answer_tokens, cost.token_seconds > 0 ? 1 / cost.token_seconds : 0, client_.ready_tokens(),
                     cancelled ? "" : " and more is made", cost.tokens_left));
  }

  void command(const std::string& line) {
    const std::string name = line.substr(0, line.find(' ')),
                      rest = line.size() > name.size() ? line.substr(name.size() + 1) : "";
    if (name == "/help") {
      fmt::print("{}", k_help);
    } else if (name == "/cost") {
      fmt::print("{}", last_ ? cost() : "there is no answer yet\n");
    } else if (name == "/privacy") {
      const auto& [provider, helper, user] = client_.views();
      fmt::print("the provider sees\n  {}\nthe helper sees\n  {}\nyou see\n  {}\n", fmt::join(provider, "\n  "),
                 fmt::join(helper, "\n  "), fmt::join(user, "\n  "));
      if (client_.model().profile != "open")
        fmt::print("You do not see the model's weights: what you see is a barrier to copying them, not a guarantee.\n");
      fmt::print("It holds as long as provider and helper do not work together.\n");
    } else if (name == "/edit") {
      if (!editor_) throw Error(Code::usage, name, "needs a terminal");
      if (const std::string question = editor_->edit(rest); !question.empty()) {
        fmt::print("{}\n", TerminalText().push(question));
        ask(question);
      }
    } else if (name == "/reset") {
      conversation_.reset();
      said_.clear();
      tell("(a new conversation)\n");
    } else if (name == "/save") {
      if (rest.empty()) throw Error(Code::usage, "/save", "expected a file's name behind it");
      if (said_.empty()) throw Error(Code::usage, "/save", "there is no answer to save yet");
      const std::filesystem::path place = place_of(rest);
      if (options_.saves.empty()) make_private_folder(saves_);
      write_new_file(place, said_, 0600);
      tell(fmt::format("(saved in {})\n", place.string()));
    } else {
      throw Error(Code::usage, name, "is no command; /help lists them");
    }
  }

  nlohmann::json report() const {
    const Answer::Cost& cost = last_->cost;
    const auto bytes = [](const Answer::Bytes& b) {
      return nlohmann::json{{"sent", b.sent}, {"received", b.received}};
    };
    constexpr const char* ends[] = {"model", "length", "stock", "stop", "cancelled"};
    return {{"event", "done"},
            {"text", last_->text},
            {"output_ids", last_->tokens},
            {"out_of_range", last_->out_of_range},
            {"trusted_tokens", last_->trusted_tokens},
            {"end", ends[static_cast<int>(last_->end)]},
            {"profile", client_.model().profile},
            {"prompt_tokens", cost.prompt_tokens},
            {"prompt_tokens_fed", cost.fed_tokens},
            {"seconds",
             {{"offline", cost.offline_seconds},
              {"prefill", cost.first_token_seconds},
              {"decode_per_token", cost.token_seconds},
              {"all", cost.seconds}}},
            {"bytes",
             {{"set_up", bytes(cost.set_up)},
              {"online", bytes(cost.online)},
              {"offline_provider", bytes(cost.offline_provider)},
              {"offline_helper", bytes(cost.offline_helper)}}},
            {"round_trips", cost.round_trips},
            {"drafts",
             {{"passes", cost.passes},
              {"tokens", cost.drafted_tokens},
              {"rejected", cost.rejected_tokens},
              {"rejected_offline_bytes", cost.rejected_bytes}}},
            {"tokens_left", cost.tokens_left},
            {"tokens_ready", client_.ready_tokens()}};
  }

  std::string cost() const {
    const Answer::Cost& cost = last_->cost;
    const auto row = [](const char* what, const Answer::Bytes& b) {
      return fmt::format("{:<28}{:>9.3f} MB sent, {:>9.3f} MB received\n", what, 1e-6 * static_cast<double>(b.sent),
                         1e-6 * static_cast<double>(b.received));
    };
    return fmt::format("tokens: prompt {}, of which {} were fed now; answer {}; left of the invite {}\n",
                       cost.prompt_tokens, cost.fed_tokens, cost.answer_tokens, cost.tokens_left) +
           fmt::format(
               "offline material {:.2f} s, first token {:.2f} s, a token {:.3f} s; profile {}, {} round trips\n",
               cost.offline_seconds, cost.first_token_seconds, cost.token_seconds, client_.model().profile,
               cost.round_trips) +
           (cost.drafted_tokens == 0
                ? ""
                : fmt::format("drafts: {} tokens in {} passes, {} rejected, which took {:.3f} MB of the material\n",
                              cost.drafted_tokens, cost.passes, cost.rejected_tokens,
                              1e-6 * static_cast<double>(cost.rejected_bytes))) +
           row("set-up", cost.set_up) + row("online, with the provider", cost.online) +
           row("offline, with the provider", cost.offline_provider) +
           row("offline, with the helper", cost.offline_helper);
  }

  ChatOptions options_;
  Lines lines_;
  std::unique_ptr<TextEditor> editor_;  // of a person
  std::filesystem::path saves_;
  SandboxSupport sandbox_;  // ahead of the client, which starts threads
  Client client_;
  Waiting waiting_;
  Conversation conversation_;
  std::optional<Answer> last_;
  std::string said_;          // the conversation, for /save: a file, which has the text as it is
  bool within_line_ = false;  // of an answer
};

}  // namespace

void add_chat(CLI::App& parent) {
  const auto options = std::make_shared<ChatOptions>();
  options->prompt.max_tokens = 256;
  CLI::App* command = parent.add_subcommand("chat", "the user: asks a provider that sent an invite, a line a question");
  command->add_option("--invite", options->invite, "the file that the provider sent")->required();
  add_user_state(*command, options->state);
  add_answer_options(*command, options->prompt);
  command->add_option("--system", options->conversation.system, "the system message")
      ->default_str("as the model's template has it");
  command->add_option("--ahead", options->conversation.ahead, "tokens to make offline material for ahead of need")
      ->capture_default_str();
  add_draft(*command, options->draft);
  command->add_option("--history", options->history,
                      "file that keeps what you typed, for the arrow keys; without it nothing is kept");
  command->add_option("--saves", options->saves, "folder that /save writes into, one that is there")
      ->default_str("saved in that of --state");
  add_patience(*command, options->patience);
  command->callback([options] {
    keep_to_itself();
    check_answer_options(options->prompt);
    options->conversation.draft = options->draft.tokens();
    if (!options->history.empty() && is_there(options->history) &&
        type_of(options->history) != std::filesystem::file_type::regular) {
      throw Error(Code::usage, "--history", fmt::format("{} is no file", options->history));
    }
    if (Lines::person()) options->conversation.next_prompt = k_next_prompt;
    Chat(*options).run();
  });
  add_settings(*command);
}

}  // namespace permllm
