// consumer BROKEN-INVITE VERSION: 0 when the library is of this version and refuses the invite as it should.
#include <permllm/client.h>

#include <iostream>

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  if (permllm::version() != std::string(argv[2]) || std::string(PERMLLM_VERSION) != argv[2]) {
    std::cerr << "version " << permllm::version() << ", headers " << PERMLLM_VERSION << ", expected " << argv[2]
              << "\n";
    return 1;
  }
  try {
    const permllm::Client client(argv[1]);
    std::cerr << "the broken invite was taken\n";
  } catch (const permllm::Error& error) {
    std::cout << permllm::name_of(error.code()) << ": " << error.what() << "\n";
    return error.code() == permllm::Code::file && error.field().ends_with("provider.key") ? 0 : 1;
  }
  return 1;
}
