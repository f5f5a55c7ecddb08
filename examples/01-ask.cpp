// A question, and its answer as it comes.
//
//   01-ask alice.invite "Why is the sky blue?"
//
// docs/operations.md says how a provider makes an invite, docs/install.md how this program is built by itself.
#include <permllm/client.h>

#include <iostream>

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: 01-ask INVITE QUESTION\n";
    return 2;
  }
  try {
    const permllm::Client client(argv[1]);
    permllm::Conversation conversation = client.conversation();
    conversation.ask(argv[2], {}, [](std::string_view piece) { std::cout << piece << std::flush; });
    std::cout << "\n";
  } catch (const permllm::Error& error) {
    std::cerr << error.what() << "\n";
    return error.exit_status();
  }
}
