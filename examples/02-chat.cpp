// A conversation, a line a question. Ctrl-C ends an answer, Ctrl-D the program; an empty line begins another conversation.
//
//   02-chat alice.invite
#include <permllm/client.h>

#include <csignal>
#include <iostream>

namespace {
permllm::Conversation* answering = nullptr;  // a signal handler has no other way to it
}

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: 02-chat INVITE\n";
    return 2;
  }
  try {
    const permllm::Client client(argv[1]);
    // The invite comes from the provider; whoever does not trust it with the helper's key compares that with the helper's own word.
    std::cerr << client.model().name << ", profile " << client.model().profile
              << ", helper's key sha256:" << client.helper().key << "\n";
    permllm::Conversation conversation = client.conversation();
    permllm::AnswerOptions options;
    options.temperature = 0.7;
    options.top_p = 0.95;
    answering = &conversation;
    std::signal(SIGINT, [](int) { answering->cancel(); });
    for (std::string line; std::cerr << "> " && std::getline(std::cin, line);) {
      if (line.empty()) {
        conversation.reset();
        continue;
      }
      try {
        const auto answer =
            conversation.ask(line, options, [](std::string_view piece) { std::cout << piece << std::flush; });
        std::cout << (answer.end == permllm::Answer::End::cancelled ? " (stopped)\n" : "\n");
      } catch (const permllm::Error& error) {
        std::cerr << error.what() << "\n";  // the conversation is as it was before the question
      }
    }
  } catch (const permllm::Error& error) {
    std::cerr << error.what() << "\n";
    return error.exit_status();
  }
}
