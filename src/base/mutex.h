// A mutex that says what it guards: clang checks it (-Wthread-safety; "Thread Safety Analysis" in its documentation), GCC reads past it.
// condition_variable waits with a Lock. A lambda does not know of the lock around it: one that reads what is guarded says REQUIRES, too.
#pragma once

#include <mutex>

#ifdef __clang__
#define PERMLLM_THREAD_SAFETY(attribute) __attribute__((attribute))
#else
#define PERMLLM_THREAD_SAFETY(attribute)
#endif
#define GUARDED_BY(mutex) PERMLLM_THREAD_SAFETY(guarded_by(mutex))         // a member: is used with the lock
#define REQUIRES(mutex) PERMLLM_THREAD_SAFETY(requires_capability(mutex))  // a function: is called with the lock
#define ACQUIRE(...) PERMLLM_THREAD_SAFETY(acquire_capability(__VA_ARGS__))
#define RELEASE() PERMLLM_THREAD_SAFETY(release_capability())

namespace permllm {

class PERMLLM_THREAD_SAFETY(capability("mutex")) Mutex : public std::mutex {
 public:
  void lock() ACQUIRE() { std::mutex::lock(); }
  void unlock() RELEASE() { std::mutex::unlock(); }
};

class PERMLLM_THREAD_SAFETY(scoped_lockable) Lock : public std::unique_lock<std::mutex> {
 public:
  explicit Lock(Mutex& mutex) ACQUIRE(mutex) : unique_lock(mutex) {}
  ~Lock() RELEASE() {}
  void lock() ACQUIRE() { unique_lock::lock(); }
  void unlock() RELEASE() { unique_lock::unlock(); }
};

}  // namespace permllm
