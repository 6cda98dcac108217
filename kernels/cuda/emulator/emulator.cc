// Scheduler of the emulator: blocks run one after the other; the threads of a block are fibers that switch
// when they wait at a barrier.

#include "emulator.h"

#include <csetjmp>
#include <deque>
#include <cstdio>
#include <string>
#include <ucontext.h>
#include <vector>

thread_local Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {
namespace {

constexpr unsigned WARP = 32;
// Stack of a fiber, in bytes.
constexpr std::size_t STACK = 64 << 10;
// Maximum shared memory of a block on the smallest supported GPU, with opt-in.
constexpr std::size_t MAX_SHARED = 99 << 10;

// Barrier of `members` threads; `arrived` counts the current round, `rounds` the completed ones.
struct Barrier {
    unsigned members = 0, arrived = 0, rounds = 0;
};

// Asynchronous copy of 16 bytes in flight; `from` is null for zeros.
struct Copy {
    void* to;
    const void* from;
};

struct Fiber {
    ucontext_t start;
    std::jmp_buf at;
    std::vector<unsigned char> stack;
    Dim3 thread;
    Barrier* waits_for = nullptr;
    unsigned round = 0;
    bool started = false, finished = false;
    // Groups of copies in flight, oldest first; the last group is not committed yet.
    std::deque<std::vector<Copy>> copies;
};

struct Block {
    const Kernel* kernel = nullptr;
    const void* params = nullptr;
    std::vector<Fiber> fibers;
    // One barrier per warp, and one for the whole block.
    std::vector<Barrier> warps;
    Barrier all;
    // Exchange slots of the lanes, SLOT bytes each.
    std::vector<std::uint64_t> slots;
    // Dynamic shared memory.
    std::vector<double> shared;
    // Index of the running fiber.
    unsigned current = 0;
    std::jmp_buf scheduler;
};

// Head of the linked list of kernels.
Kernel* first = nullptr;
thread_local Block block;

void wait_for(Barrier& barrier) {
    Fiber& fiber = block.fibers[block.current];
    fiber.waits_for = &barrier;
    fiber.round = barrier.rounds;
    if (++barrier.arrived == barrier.members) {
        barrier.arrived = 0;
        ++barrier.rounds;
    }
    // The last fiber to arrive yields as well, so that no fiber runs far ahead of its warp.
    if (_setjmp(fiber.at) == 0) _longjmp(block.scheduler, 1);
}

void run_fiber() {
    block.kernel->entry(block.params);
    block.fibers[block.current].finished = true;
    _longjmp(block.scheduler, 1);
}

bool can_run(const Fiber& fiber) {
    return !fiber.finished && (fiber.waits_for == nullptr || fiber.waits_for->rounds != fiber.round);
}

void resume(unsigned index) {
    Fiber& fiber = block.fibers[index];
    block.current = index;
    threadIdx = fiber.thread;
    if (_setjmp(block.scheduler) != 0) return;
    if (fiber.started) _longjmp(fiber.at, 1);
    fiber.started = true;
    setcontext(&fiber.start);
}

void finish(const Copy& copy) {
    if (copy.from == nullptr) {
        std::memset(copy.to, 0, 16);
    } else {
        std::memcpy(copy.to, copy.from, 16);
    }
}

unsigned random_number() {
    thread_local unsigned state = 1;
    state = state * 1664525 + 1013904223;
    return state >> 16;
}

// Runs the fibers of a warp until all have finished or wait for other warps. Returns false if none could run.
bool run_warp(unsigned warp) {
    const unsigned lanes = block.warps[warp].members;
    bool any = false;
    for (bool progress = true; progress;) {
        progress = false;
        const unsigned start = random_number(), step = random_number() % 2 ? 1 : lanes - 1;
        for (unsigned i = 0; i < lanes; ++i) {
            const unsigned index = warp * WARP + (start % lanes + i * step) % lanes;
            if (!can_run(block.fibers[index])) continue;
            resume(index);
            any = progress = true;
        }
    }
    return any;
}

// Runs a block. Returns true if every thread finished, false if the rest wait at barriers that cannot
// complete.
bool run_block() {
    for (Barrier& warp : block.warps) warp.arrived = 0;
    block.all.arrived = 0;
    for (Fiber& fiber : block.fibers) {
        fiber.waits_for = nullptr;
        fiber.started = fiber.finished = false;
        fiber.copies.assign(1, {});
        getcontext(&fiber.start);
        fiber.start.uc_stack.ss_sp = fiber.stack.data();
        fiber.start.uc_stack.ss_size = fiber.stack.size();
        fiber.start.uc_link = nullptr;
        makecontext(&fiber.start, run_fiber, 0);
    }
    // A warp runs as far as it can before another starts, in a pseudo-random order with a fixed seed. A
    // result that depends on a missing barrier then becomes wrong, reproducibly.
    const unsigned warps = static_cast<unsigned>(block.warps.size());
    for (unsigned idle = 0, at = random_number(); idle < warps; ++at) {
        if (run_warp(at % warps)) {
            idle = 0;
            at = random_number();
        } else {
            ++idle;
        }
    }
    for (const Fiber& fiber : block.fibers) {
        if (!fiber.finished) return false;
    }
    return true;
}

void prepare(const Kernel& kernel, const void* params, std::size_t shared) {
    const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
    block.kernel = &kernel;
    block.params = params;
    block.fibers.resize(threads);
    block.warps.assign((threads + WARP - 1) / WARP, Barrier{});
    block.all = Barrier{threads};
    block.slots.assign(block.warps.size() * WARP * (SLOT / sizeof(std::uint64_t)), 0);
    block.shared.resize(shared / sizeof(double) + 2);
    for (unsigned i = 0; i < threads; ++i) {
        Fiber& fiber = block.fibers[i];
        fiber.stack.resize(STACK);
        fiber.thread = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
        ++block.warps[i / WARP].members;
    }
}

std::string launch(const char* name, const Dim3& grid, std::size_t shared, const void* params, std::size_t size) {
    const Kernel* kernel = first;
    while (kernel != nullptr && std::strcmp(kernel->name, name) != 0) kernel = kernel->next;
    if (kernel == nullptr) return "no such kernel";
    if (size != kernel->params_size) {
        return "expected " + std::to_string(kernel->params_size) + " bytes of parameters, got " + std::to_string(size);
    }
    const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
    if (threads == 0 || threads > kernel->max_threads) {
        return "expected 1 to " + std::to_string(kernel->max_threads) + " threads per block, got " +
               std::to_string(threads);
    }
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535) return "invalid grid";
    if (shared > MAX_SHARED) return "too much shared memory: " + std::to_string(shared) + " bytes";
    prepare(*kernel, params, shared);
    gridDim = grid;
    for (unsigned i = 0; i < grid.x * grid.y * grid.z; ++i) {
        blockIdx = {i % grid.x, i / grid.x % grid.y, i / (grid.x * grid.y)};
        std::memset(block.shared.data(), 0xff, block.shared.size() * sizeof(double));
        if (!run_block()) return "threads of a block wait at different barriers";
    }
    return "";
}

}  // namespace

Kernel::Kernel(const char* name, Entry entry, std::size_t params_size, unsigned max_threads)
    : name(name), entry(entry), params_size(params_size), max_threads(max_threads), next(first) {
    first = this;
}

void wait_for_block() { wait_for(block.all); }
void wait_for_warp() { wait_for(block.warps[block.current / WARP]); }
unsigned lane() { return block.current % WARP; }
void* slot(unsigned lane) {
    return &block.slots[(block.current / WARP * WARP + lane) * (SLOT / sizeof(std::uint64_t))];
}

void begin_copy(void* to, const void* from) {
    // Either complete the copy immediately or defer it as long as possible.
    if (random_number() % 2 == 0) {
        finish({to, from});
    } else {
        block.fibers[block.current].copies.back().push_back({to, from});
    }
}
void end_copy_group() { block.fibers[block.current].copies.emplace_back(); }

void finish_copies(std::size_t in_flight) {
    auto& copies = block.fibers[block.current].copies;
    // The last group is not committed yet and does not count.
    for (; copies.size() > in_flight + 1; copies.pop_front()) {
        for (const Copy& copy : copies.front()) finish(copy);
    }
}

unsigned char* dynamic_shared() {
    // Aligned to 16 bytes, as on a GPU.
    const auto at = reinterpret_cast<std::uintptr_t>(block.shared.data());
    return reinterpret_cast<unsigned char*>((at + 15) / 16 * 16);
}

}  // namespace emulator

// Runs a kernel to its end. `grid` and `threads`: x, y, z. Writes an error to `message`, which is empty on
// success.
extern "C" void emulator_launch(const char* name, const unsigned* grid, const unsigned* threads, std::size_t shared,
                                const void* params, std::size_t params_size, char* message,
                                std::size_t message_size) {
    blockDim = {threads[0], threads[1], threads[2]};
    const Dim3 blocks = {grid[0], grid[1], grid[2]};
    const std::string error = emulator::launch(name, blocks, shared, params, params_size);
    std::snprintf(message, message_size, "%s", error.c_str());
}
