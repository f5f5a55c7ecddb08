// The head of a request, as RFC 9112 has it, made into one that the HTTP library reads: it takes less than clients may send, and more than a server
// may let pass.
#pragma once

#include <string>
#include <string_view>

namespace permllm {

struct HttpHead {
  std::string text;      // to be read in the place of the one that came; of a faulty one, a request for nothing
  int fault = 0;         // the status with which it is refused; 0: none
  std::string why = {};  // of a fault: a clause, of fixed words
  bool chunked = false;  // whether the body comes in chunks
};

// head: up to and with the empty line. Of what a server may ignore (RFC 9110, 7.8 and 14.2) nothing is left: Upgrade, Range. A target in absolute form
// becomes its path, its authority the Host (9112, 3.2.2). A request without a length has no body (9112, 6.3). Refused are: whatever leaves open where a
// request ends or whom it is for (two lengths, a length beside chunks, no Host or several, lines that go on, blanks before a colon), a method that nobody knows (501),
// another version (505).
HttpHead http_head(std::string_view head);

// Passes a body in chunks on, without the fields behind the last of them: a server may ignore those, and the library cannot read them.
class ChunkTrailer {
 public:
  // What is left of the next bytes.
  std::string pass(std::string_view bytes);
  bool ended() const { return state_ == State::end; }

 private:
  enum class State { size, data, trailer, end };
  State state_ = State::size;
  std::string line_;      // of a size or a trailer, so far
  std::size_t left_ = 0;  // of a chunk, with its line end
};

}  // namespace permllm
