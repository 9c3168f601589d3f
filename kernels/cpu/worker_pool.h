// A fixed set of threads that run one parallel loop at a time for the engine thread, which takes
// part itself. Workers spin for a moment between loops and park when there is nothing to do.
#ifndef EVENFLOW_KERNELS_CPU_WORKER_POOL_H_
#define EVENFLOW_KERNELS_CPU_WORKER_POOL_H_

#include <memory>

namespace evenflow {

class WorkerPool {
 public:
  // `threads` in all, the caller's included; 0: one for each physical core this process may use.
  explicit WorkerPool(int threads);
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  int threads() const;

  // Calls run(i) once for each i in [0, tasks), on any thread, and returns when all are done. Which
  // thread runs a task must not change its result. REQUIRES: one caller at a time; `run` does not
  // call For.
  template <class Run>
  void For(int tasks, const Run& run) {
    Loop(
        tasks, [](const void* context, int i) { (*static_cast<const Run*>(context))(i); }, &run);
  }

 private:
  struct Impl;

  void Loop(int tasks, void (*run)(const void* context, int task), const void* context);

  std::unique_ptr<Impl> impl_;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CPU_WORKER_POOL_H_
