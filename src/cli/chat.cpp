#include "cli/chat.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <signal.h>

#include <charconv>
#include <fstream>
#include <memory>
#include <optional>

#include "base/file.h"
#include "base/reason.h"
#include "base/text.h"
#include "cli/chat_commands.h"
#include "cli/chat_report.h"
#include "cli/colours.h"
#include "cli/lines.h"
#include "cli/progress.h"
#include "cli/prompt_options.h"
#include "cli/saved_chats.h"
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
  std::string invite, state, history, saves, passphrase_file, color = "auto";
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

class Chat {
 public:
  explicit Chat(ChatOptions options)
      : options_(std::move(options)),
        lines_(options_.history),
        editor_(Lines::person() ? std::make_unique<TextEditor>() : nullptr),
        on_screen_(json() ? "never" : options_.color, STDOUT_FILENO),
        beside_(json() ? "never" : options_.color, STDERR_FILENO),
        saved_(options_.saves, options_.state, options_.passphrase_file),
        sandbox_(enter_sandbox(needed())),
        client_(options_.invite, options_.patience.client(options_.state, options_.draft)),
        waiting_(json(), options_.patience.grace),
        conversation_(begin()),
        system_(options_.conversation.system) {}

  void run() {
    if (Lines::person()) {
      tell(beside_.strong(fmt::format("{}, profile {}, context {}; {} tokens of answers left\n", client_.model().name,
                                      client_.model().profile, client_.model().context, client_.tokens_left())));
      tell(fmt::format("provider at {}, key sha256:{}\nhelper at {}, key sha256:{}\nsandbox: {}\n{}",
                       client_.provider().address, client_.provider().key, client_.helper().address,
                       client_.helper().key, sandbox_.text(), k_chat_keys));
      note("/help lists the commands\n");
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
        tell(beside_.bad("permllm: ") + for_terminal(for_person(error)) + "\n");
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
  // Of the program itself, beside the answers.
  void note(const std::string& text) const { tell(beside_.faint(text)); }
  // What is opened from now on. The history is written at the end, into a file that is there.
  Sandbox needed() const {
    Sandbox sandbox{{options_.invite}, {user_folder(options_.state), saved_.folder()}};
    for (const std::filesystem::path& file : options_.draft.files()) sandbox.read.push_back(file);
    if (options_.history.empty() || !Lines::person()) return sandbox;
    const std::ofstream history(options_.history, std::ios::app);
    sandbox.write.push_back(options_.history);
    return sandbox;
  }
  Conversation begin() {
    ConversationOptions options = options_.conversation;
    options.chat_format = options_.prompt.chat_format;
    options.think = options_.prompt.think;
    options.on_progress = [this](const AnswerProgress& progress) { waiting_.show(progress); };
    return client_.conversation(options);
  }

  bool raw() const {
    return options_.prompt.chat_format == "none" ||
           (options_.prompt.chat_format.empty() && client_.chat_template().empty());
  }
  void ask(const std::string& question) {
    std::vector<Message> messages = messages_;
    messages.push_back({"user", question});
    answer(std::move(messages));
  }
  // The last of the messages is the question. Where nothing comes of it the conversation is as before.
  void answer(std::vector<Message> messages) {
    const AnswerOptions how = answer_options(options_.prompt);
    std::vector<Message> told = messages;
    if (!system_.empty()) told.insert(told.begin(), {"system", system_});
    waiting_.begin();
    const Interruptible interruptible(conversation_);
    TerminalText shown;
    last_ = conversation_.answer(told, how, [&](std::string_view piece) {
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
    if (!cancelled || !last_->text.empty()) {
      messages.push_back({"assistant", last_->text});
      messages_ = std::move(messages);
    }
    if (json()) return print_event(report_of(*last_, client_));
    fmt::print("{}\n", shown.finish());
    within_line_ = false;
    std::fflush(stdout);
    tell_of_end(how);
  }
  void tell_of_end(const AnswerOptions& how) const {
    const bool cancelled = last_->end == Answer::End::cancelled;
    if (last_->out_of_range > 0) {
      tell(beside_.bad(fmt::format("({} inner numbers of the model left the range that it is served for: {})\n",
                                   last_->out_of_range, not_to_be_trusted(last_->trusted_tokens))));
    }
    if (cancelled) note("(stopped)\n");
    if (last_->end == Answer::End::stock) note("(ended: no offline material is left, and none can be made now)\n");
    if (last_->end == Answer::End::length) {
      note(last_->cost.tokens_left == 0 ? fmt::format("(ended: {})\n", facts_of(Reason::allowance_used_up).cause)
           : last_->cost.answer_tokens < how.max_tokens
               ? "(ended: the model's context is full; /reset begins anew)\n"
               : fmt::format("(ended at its limit of {} tokens; --max-tokens sets another)\n", how.max_tokens));
    }
    if (!Lines::person()) return;
    const Answer::Cost& cost = last_->cost;
    note(fmt::format("[{} tokens, {:.1f} a second; material for {} more is ready{}; {} left of the invite]\n",
                     cost.answer_tokens, cost.token_seconds > 0 ? 1 / cost.token_seconds : 0, client_.ready_tokens(),
                     cancelled ? "" : " and more is made", cost.tokens_left));
  }

  void command(const std::string& line) {
    const std::string name = line.substr(0, line.find(' ')),
                      rest = line.size() > name.size() ? line.substr(name.size() + 1) : "";
    if (name == "/help") {
      fmt::print("{}{}", k_chat_keys, chat_commands(on_screen_));
    } else if (name == "/cost") {
      fmt::print("{}", last_ ? cost_of(*last_, client_) : "there is no answer yet\n");
    } else if (name == "/privacy") {
      show_privacy();
    } else if (name == "/edit") {
      if (!editor_) throw Error(Code::usage, name, "needs a terminal");
      if (const std::string question = editor_->edit(rest); !question.empty()) {
        fmt::print("{}\n", TerminalText().push(question));
        ask(question);
      }
    } else if (name == "/regenerate") {
      if (messages_.empty()) throw Error(Code::usage, name, "there is no answer yet");
      if (options_.prompt.sampling.temperature == 0)
        note("(at temperature 0 it will be much the same; /temperature sets another)\n");
      answer({messages_.begin(), messages_.end() - 1});
    } else if (name == "/system") {
      set_system(rest);
    } else if (name == "/temperature") {
      set_temperature(rest);
    } else if (name == "/reset") {
      conversation_.reset();
      messages_.clear();
      note("(a new conversation)\n");
    } else if (name == "/save") {
      if (rest.empty()) throw Error(Code::usage, name, "expected a file's name behind it");
      if (messages_.empty()) throw Error(Code::usage, name, "there is no answer to save yet");
      note(saved_.save(rest, {system_, messages_}, ask_passphrase));
    } else if (name == "/load") {
      load(rest);
    } else {
      throw Error(Code::usage, name, "is no command; /help lists them");
    }
  }

  void show_privacy() const {
    const auto& [provider, helper, user] = client_.views();
    fmt::print("the provider sees\n  {}\nthe helper sees\n  {}\nyou see\n  {}\n", fmt::join(provider, "\n  "),
               fmt::join(helper, "\n  "), fmt::join(user, "\n  "));
    if (client_.model().profile != "open")
      fmt::print("You do not see the model's weights: what you see is a barrier to copying them, not a guarantee.\n");
    fmt::print("It holds as long as provider and helper do not work together.\n");
  }

  void set_system(const std::string& text) {
    if (raw()) throw Error(Code::usage, "/system", "needs a chat format other than none");
    if (!text.empty()) system_ = text == "-" ? "" : text;
    note(system_.empty() ? "the system message is as the model's template has it\n"
                         : shown(system_, "the system message: "));
  }
  void set_temperature(const std::string& text) {
    SamplingOptions sampling = options_.prompt.sampling;
    if (!text.empty()) {
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), sampling.temperature);
      if (error != std::errc() || end != text.data() + text.size() || !(sampling.temperature >= 0) ||
          sampling.temperature > 2)
        throw Error(Code::usage, "/temperature", "expected a number from 0 to 2");
      options_.prompt.sampling = sampling;
    }
    note(fmt::format("temperature {:g}\n", sampling.temperature));
  }

  void load(const std::string& name) {
    if (name.empty()) {
      const std::vector<std::string> names = saved_.names();
      tell(fmt::format("{}\n", names.empty() ? fmt::format("there are none in {}", saved_.folder().string())
                                             : for_terminal(fmt::format("{}", fmt::join(names, "  ")))));
      return;
    }
    SavedConversation loaded = saved_.load(name, ask_passphrase);
    if (!loaded.system.empty() && raw())
      throw Error(Code::usage, "/load", "has a system message, for which the model has no place");
    conversation_.reset();
    system_ = std::move(loaded.system);
    messages_ = std::move(loaded.messages);
    const Message &question = messages_[messages_.size() - 2], &last = messages_.back();
    if (!json()) fmt::print("{}", shown(question.content, "> ") + shown(last.content, ""));
    note(fmt::format(
        "({} question{} and answer{} loaded, of which the last is above; the model reads them with your next)\n",
        messages_.size() / 2, messages_.size() == 2 ? "" : "s", messages_.size() == 2 ? "" : "s"));
  }
  // What others may have written, with a line end.
  static std::string shown(const std::string& text, const char* before) {
    TerminalText safe;
    std::string all = before + safe.push(text);
    all += safe.finish();
    return all + "\n";
  }
  static std::optional<std::string> ask_passphrase(bool again) {
    if (!Lines::person()) return again ? std::optional<std::string>("") : std::nullopt;
    const auto first = Lines::secret(again ? "Passphrase (nothing: not encrypted): " : "Passphrase: ");
    if (!first) throw Error(Code::usage, "passphrase", "was not given");
    if (again && !first->empty() && Lines::secret("The same again: ") != first)
      throw Error(Code::usage, "passphrase", "the two are not the same; nothing was saved");
    return first;
  }

  ChatOptions options_;
  Lines lines_;
  std::unique_ptr<TextEditor> editor_;  // of a person
  const Colours on_screen_, beside_;    // of the answers' stream, and of what is told beside them
  SavedChats saved_;
  SandboxSupport sandbox_;  // ahead of the client, which starts threads
  Client client_;
  Waiting waiting_;
  Conversation conversation_;
  std::optional<Answer> last_;
  std::string system_;             // the system message; empty: as the model's template has it
  std::vector<Message> messages_;  // questions, each with its answer
  bool within_line_ = false;       // of an answer
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
  command->add_option("--passphrase-file", options->passphrase_file,
                      "file whose text is the passphrase of what /save and /load write and read, in place of asking");
  add_color(*command, options->color);
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
