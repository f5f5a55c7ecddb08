// What an answer cost, and what each party saw.
//
//   03-cost alice.invite "Why is the sky blue?"
#include <permllm/client.h>

#include <cstdio>

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: 03-cost INVITE QUESTION\n");
    return 2;
  }
  try {
    const permllm::Client client(argv[1]);
    const permllm::Answer answer = client.conversation().ask(argv[2]);
    std::printf("%s\n\n", answer.text.c_str());

    const permllm::Answer::Cost& cost = answer.cost;
    const auto row = [](const char* what, const permllm::Answer::Bytes& bytes) {
      std::printf("%-28s %9.3f MB sent, %9.3f MB received\n", what, 1e-6 * static_cast<double>(bytes.sent),
                  1e-6 * static_cast<double>(bytes.received));
    };
    std::printf("%zu tokens of the prompt, %zu of the answer, %llu left\n", cost.prompt_tokens, cost.answer_tokens,
                static_cast<unsigned long long>(cost.tokens_left));
    row("set-up", cost.set_up);
    row("offline, with the provider", cost.offline_provider);
    row("offline, with the helper", cost.offline_helper);
    row("online, with the provider", cost.online);
    std::printf("%llu round trips; offline %.2f s, first token %.2f s, each token after it %.3f s, in all %.2f s\n\n",
                static_cast<unsigned long long>(cost.round_trips), cost.offline_seconds, cost.first_token_seconds,
                cost.token_seconds, cost.seconds);

    std::printf("%s of %s, profile %s, context %zu\n", client.model().name.c_str(), client.provider().address.c_str(),
                client.model().profile.c_str(), client.model().context);
    const auto saw = [](const char* who, const std::vector<std::string>& what) {
      std::printf("\nthe %s saw\n", who);
      for (const std::string& one : what) std::printf("  %s\n", one.c_str());
    };
    saw("provider", client.views().provider);
    saw("helper", client.views().helper);
    saw("user", client.views().user);
  } catch (const permllm::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return error.exit_status();
  }
}
