// Several conversations side by side, with one invite: each question is asked in a thread of its own.
//
//   04-many alice.invite "Why is the sky blue?" "What is 17 plus 25?" "Name three rivers."
#include <permllm/client.h>

#include <future>
#include <iostream>
#include <vector>

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: 04-many INVITE QUESTION...\n";
    return 2;
  }
  try {
    const permllm::Client client(argv[1]);
    permllm::AnswerOptions options;
    options.max_tokens = 64;
    std::vector<std::future<permllm::Answer>> answers;
    for (int i = 2; i < argc; ++i) {
      answers.push_back(std::async(std::launch::async, [&client, &options, question = std::string(argv[i])] {
        return client.conversation().ask(question, options);
      }));
    }
    for (std::size_t i = 0; i < answers.size(); ++i) {
      const permllm::Answer answer = answers[i].get();
      std::cout << "> " << argv[i + 2] << "\n"
                << answer.text << "\n(" << answer.cost.answer_tokens << " tokens, " << answer.cost.seconds << " s)\n\n";
    }
    std::cout << client.tokens_left() << " tokens left\n";
  } catch (const permllm::Error& error) {
    std::cerr << error.what() << "\n";
    return error.exit_status();
  }
}
