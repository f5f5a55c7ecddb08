#include "gateway/keeper.h"

#include <algorithm>
#include <condition_variable>
#include <numeric>

#include "base/clock.h"
#include "base/mutex.h"
#include "base/reason.h"

namespace permllm {
namespace {

constexpr std::size_t k_step = 64;                  // tokens a filling: soon over when somebody asks
constexpr auto k_pause = std::chrono::seconds(10);  // after a fault
constexpr std::int64_t k_news = 300'000;            // milliseconds for which what was heard counts

std::int64_t now() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now().time_since_epoch()).count();
}

}  // namespace

StockKeeper::StockKeeper(const Backend& backend, std::size_t tokens, std::function<bool()> idle, Log& log)
    : backend_(backend),
      tokens_(tokens),
      idle_(std::move(idle)),
      log_(log),
      heard_(now()),
      thread_([this](const std::stop_token& stop) { run(stop); }) {}

StockKeeper::~StockKeeper() = default;

void StockKeeper::heard() {
  heard_ = now();
  lost_ = false;
}
void StockKeeper::lost() { lost_ = true; }

StockKeeper::Provider StockKeeper::provider() const {
  if (lost_) return Provider::unreachable;
  return now() - heard_ < k_news ? Provider::reachable : Provider::unknown;
}

// Of the conversations that are not begun, the first that has less than its part gets a step more.
bool StockKeeper::fill_some() {
  std::vector<std::size_t> ready;
  for (const Client::Chain& chain : backend_.stock()) {
    if (chain.used == 0 && !chain.busy) ready.push_back(std::min(chain.tokens, 2 * chain.answer_tokens));
  }
  heard();
  std::sort(ready.rbegin(), ready.rend());
  const std::size_t sum = std::accumulate(ready.begin(), ready.end(), std::size_t{0});
  for (std::size_t i = 0, left = tokens_; left > 0; ++i) {
    const std::size_t part = std::min(left, backend_.model().context), there = i < ready.size() ? ready[i] : 0;
    if (there < part) {
      if (before_ == std::pair(i, there)) {
        log_.write(Log::Level::warn, "stock",
                   "what was made is not kept: the provider needs a --state folder; no more is made ahead");
        lasts_ = false;
        return false;
      }
      if (before_ && sum < sum_before_) {  // or some was used, which wakes the keeper anyhow
        log_.write(Log::Level::warn, "stock",
                   "what was made took the place of what was there: the provider keeps no more for this user; no more "
                   "is made ahead until some is used");
        before_.reset();
        return false;
      }
      before_ = {i, there};
      sum_before_ = sum;
      const std::size_t target = std::min(part, there + k_step);
      filling_ = true;
      backend_.fill(i, target, (target + 1) / 2);
      return true;
    }
    left -= part;
  }
  before_.reset();
  return false;
}

void StockKeeper::run(const std::stop_token& stop) {
  Mutex mutex;
  std::condition_variable_any stopped;
  Clock::time_point not_before{};
  for (bool more = false;;) {
    {
      Lock lock(mutex);
      if (!more) stopped.wait_for(lock, stop, std::chrono::milliseconds(500), [&] { return stop.stop_requested(); });
    }
    if (stop.stop_requested()) return;
    more = false;
    if (Clock::now() < not_before || !idle_()) continue;
    try {
      if (lost_) {
        backend_.stock();
        heard();
      } else if (tokens_ > 0 && lasts_ && used_.exchange(false)) {
        more = fill_some();
        if (more) used_ = true;
      }
    } catch (const Error& error) {
      log_.write(Log::Level::warn, "stock", error.what(),
                 {{"code", name_of(error.code())}, {"reason", name_of(error.reason())}});
      if (reason_for_user(error) == Reason::provider_unreachable) lost();
      not_before = Clock::now() + k_pause;
      used_ = true;
    } catch (const std::exception&) {  // what it says is not told: it may hold anything
      log_.write(Log::Level::warn, "stock", "no material was made: this program made a mistake");
      not_before = Clock::now() + k_pause;
    }
    filling_ = more;
  }
}

}  // namespace permllm
