/* Device and shared memory, and what each word of them went through. The compiler calls
 * __tsan_read4 and its kin before every load and store of a kernel: the end of this file. */
#include "inside.h"
#include <assert.h>
#include <map>
#include <stdio.h>
#include <sys/mman.h>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, size)   ((void)(p), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(p, size) ((void)(p), (void)(size))
#endif

extern "C" char __executable_start[], end[];

namespace emulate {
enum : size_t {
    PAGE = 4096,
    GAP = 64, /* bytes between variables, where nobody has business */
    DEVICE_SIZE = (size_t)4 << 30,
    WINDOW_SIZE = 256 << 10,
};

/* Bits of up to `n` bytes of a word from byte `first` on. */
static uint8_t bytes_from(size_t first, size_t n)
{
    return (uint8_t)((n < 4 - first ? (1u << n) - 1 : 15u) << first & 15u);
}

/* A range of addresses with a cell for each word. Pages that nobody touches cost nothing. */
struct range {
    char *base;
    size_t size;
    struct cell *cells;

    explicit range(size_t size_) : size(size_)
    {
        base = static_cast<char *>(map(size));
        cells = static_cast<struct cell *>(map(size / 4 * sizeof(struct cell)));
    }
    static void *map(size_t size)
    {
        void *p = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        assert(p != MAP_FAILED);
        return p;
    }
    bool holds(const void *p) const
    {
        return (uintptr_t)p - (uintptr_t)base < size;
    }
    struct cell *cell_of(const void *p) const
    {
        return cells + (static_cast<const char *>(p) - base) / 4;
    }
    /* New memory: its bytes exist, look like NaN, and nobody has written them. */
    void open(char *p, size_t bytes)
    {
        ASAN_UNPOISON_MEMORY_REGION(p, bytes);
        memset(p, 0xff, bytes);
        for (size_t i = 0; i < bytes; i += 4) {
            struct cell *c = cell_of(p + i);
            *c = {};
            c->exist = bytes_from(0, bytes - i);
        }
    }
    /* No byte of it exists. */
    void close(char *p, size_t bytes)
    {
        memset(static_cast<void *>(cell_of(p)), 0, (bytes + 3) / 4 * sizeof(struct cell));
        ASAN_POISON_MEMORY_REGION(p, bytes);
    }
};

static struct range device(DEVICE_SIZE);
static struct range shared((size_t)WINDOWS_MAX *WINDOW_SIZE);

/* Device memory: allocations by address. Addresses are used again only after all others were. */
static std::map<char *, size_t> live, freed;
static char *next_allocation;

static size_t pages(size_t size)
{
    return (size + PAGE - 1) / PAGE * PAGE;
}

/* Room behind the last allocation, with a page before and behind that belongs to nobody. */
static char *find_room(size_t size)
{
    for (int turn = 0; turn < 2; turn++) {
        char *p = next_allocation && turn == 0 ? next_allocation : device.base + PAGE;
        while (size <= device.size && p + pages(size) + PAGE <= device.base + device.size) {
            auto after = live.lower_bound(p);
            if (after == live.end() || after->first >= p + pages(size) + PAGE)
                return p;
            p = after->first + pages(after->second) + PAGE;
        }
    }
    return nullptr;
}

void *device_alloc(size_t size)
{
    char *p = find_room(size);
    if (!p)
        return nullptr;
    next_allocation = p + pages(size) + PAGE;
    freed.erase(freed.lower_bound(p), freed.lower_bound(next_allocation));
    live[p] = size;
    device.open(p, size);
    ASAN_POISON_MEMORY_REGION(p + size, (size_t)(next_allocation - (p + size)));
    return p;
}

void device_free(void *start)
{
    char *p = static_cast<char *>(start);
    auto found = live.find(p);
    if (found == live.end())
        report(freed.count(p) ? "double free of device memory"
                              : "free of something that is no device memory");
    const size_t size = found->second;
    live.erase(found);
    freed[p] = size;
    device.close(p, size);
    madvise(p, pages(size), MADV_DONTNEED);
}

/* "24 bytes past an allocation of 16" for a report. */
static const char *describe_device(const void *at)
{
    static char text[128];
    char *p = static_cast<char *>(const_cast<void *>(at));
    for (const auto *all : {&live, &freed}) {
        auto after = all->upper_bound(p);
        if (after == all->begin())
            continue;
        --after;
        const size_t offset = (size_t)(p - after->first);
        if (offset >= pages(after->second) + PAGE)
            continue;
        snprintf(text, sizeof text, "byte %zu of %s of %zu bytes", offset,
                 all == &live ? "an allocation" : "a freed allocation", after->second);
        return text;
    }
    return "an address in no allocation";
}

void device_check(const void *start, size_t size, const char *what)
{
    const char *p = static_cast<const char *>(start), *stop = p + size;
    for (; p < stop; p += 4 - (uintptr_t)p % 4) {
        if (!device.holds(p))
            report("%s: %p is no device memory", what, start);
        if (bytes_from((uintptr_t)p % 4, (size_t)(stop - p)) & ~device.cell_of(p)->exist)
            report("%s out of bounds: %s", what, describe_device(p));
    }
}

void device_written(void *start, size_t size)
{
    const uint32_t number = launch_number();
    char *p = static_cast<char *>(start), *stop = p + size;
    for (; p < stop; p += 4 - (uintptr_t)p % 4) {
        struct cell *c = device.cell_of(p);
        c->known |= bytes_from((uintptr_t)p % 4, (size_t)(stop - p));
        c->written = {};
        c->written.block = number; /* before any launch that is still to come */
    }
}

/* Shared memory: variables appear in a block's window when the first thread comes to them. */
struct variable {
    const void *key;
    const char *name;
    char *start;
    size_t size;
};
static struct window {
    std::vector<variable> variables;
    size_t used, static_size;
} windows[WINDOWS_MAX];

static char *window_add(struct window *w, int i, const void *key, const char *name, size_t size)
{
    char *p = shared.base + (size_t)i * WINDOW_SIZE + w->used;
    shared.open(p, size);
    w->variables.push_back({key, name, p, size});
    w->used += (size + GAP + GAP - 1) / GAP * GAP;
    return p;
}

void shared_begin(int window, size_t dynamic_size)
{
    struct window *w = &windows[window];
    shared.close(shared.base + (size_t)window * WINDOW_SIZE, w->used ? w->used : WINDOW_SIZE);
    w->variables.clear();
    w->used = GAP;
    w->static_size = 0;
    window_add(w, window, nullptr, "dynamic shared memory", dynamic_size);
}

void *shared_dynamic(void)
{
    return windows[running->block->window].variables[0].start;
}

void *shared_variable(const void *key, const char *name, size_t size, size_t align)
{
    assert(align <= GAP);
    struct window *w = &windows[running->block->window];
    for (const variable &v : w->variables)
        if (v.key == key)
            return v.start;
    w->static_size += size;
    const size_t all = w->static_size + running->block->launch->shared;
    if (w->static_size > SHARED_STATIC_MAX || all > running->block->launch->shared_max)
        report("too much shared memory: %zu bytes with %s", w->static_size, name);
    return window_add(w, running->block->window, key, name, size);
}

static const char *describe_shared(const void *at)
{
    static char text[128];
    const char *p = static_cast<const char *>(at);
    const size_t window = (size_t)(p - shared.base) / WINDOW_SIZE;
    const variable *before = nullptr;
    for (const variable &v : windows[window].variables)
        if (v.start <= p)
            before = &v;
    if (!before || window != (size_t)running->block->window)
        return "shared memory that is not the block's";
    snprintf(text, sizeof text, "byte %zd of %s of %zu bytes", p - before->start, before->name,
             before->size);
    return text;
}

/* Accesses. */
enum class kind { read, write, atomic };

static const char *describe(const void *p)
{
    return shared.holds(p) ? describe_shared(p) : describe_device(p);
}

/* Neither a barrier nor a meeting of the warp orders `a` before what the thread does now. */
static bool unordered(const struct access *a, const struct thread *t)
{
    if (a->block == 0 || a->block < first_block_of_launch)
        return false;
    if (a->block != t->block->number)
        return true;
    if (a->epoch != t->block->epoch)
        return false;
    if (a->others == 2)
        return true;
    if (a->thread == t->index && a->others == 0)
        return false;
    return a->thread / 32 != t->index / 32 || a->clock >= t->clock;
}

static struct access access_now(const struct thread *t, uint8_t bytes, kind k)
{
    return {t->block->number, t->block->epoch, t->clock, (uint16_t)t->index, bytes,
            k == kind::atomic, 0};
}

static void must_not_race(const struct access *a, uint8_t bytes, const char *did, const char *does,
                          const void *p)
{
    if (a->bytes & bytes && unordered(a, running))
        report("race on %s memory: it %s %s, which thread %d of %s %s, and nothing orders them",
               shared.holds(p) ? "shared" : "device", does, describe(p), a->thread,
               a->block == running->block->number ? "this block" : "another block", did);
}

static void note_read(struct cell *c, uint8_t bytes)
{
    const struct access *a = &c->read;
    struct access now = access_now(running, bytes, kind::read);
    if (unordered(a, running)) {
        const bool warp = a->others < 2 && a->block == now.block
                          && a->thread / 32 == now.thread / 32;
        now.others = warp ? 1 : 2;
        now.clock = now.clock > a->clock ? now.clock : a->clock;
        now.bytes |= a->bytes;
    }
    c->read = now;
}

/* Others may still be writing there, or reading what it writes over. */
static void must_have_awaited(const struct cell *c, const char *p, kind k)
{
    const struct block_run *b = running->block;
    if (!b->launch->early || running->awaited || c->written.block == b->number
        || (k == kind::read && c->written.block < first_block_unseen))
        return;
    report("missing wait: it %s %s and has not awaited the kernels before",
           k == kind::read ? "reads" : "writes", describe(p));
}

static void touch_word(struct cell *c, const char *p, uint8_t bytes, kind k)
{
    if (bytes & ~c->exist)
        report("out of bounds: it %s %s", k == kind::read ? "reads" : "writes", describe(p));
    if (c->in_flight)
        report("missing wait: it touches %s before its copy arrived", describe(p));
    if (k != kind::write && bytes & ~c->known)
        report("uninitialised memory: it reads %s, which nobody wrote", describe(p));
    if (device.holds(p))
        must_have_awaited(c, p, k);
    if (k == kind::read) {
        must_not_race(&c->written, bytes, "wrote", "reads", p);
        note_read(c, bytes);
        return;
    }
    if (k != kind::atomic || !c->written.atomic)
        must_not_race(&c->written, bytes, "wrote", "writes", p);
    must_not_race(&c->read, bytes, "read", "writes", p);
    c->written = access_now(running, bytes, k);
    c->known |= bytes;
}

static void touch(const void *start, size_t size, kind k)
{
    if (!running)
        return;
    const char *p = static_cast<const char *>(start), *stop = p + size;
    const struct range *r = shared.holds(p) ? &shared : device.holds(p) ? &device : nullptr;
    if (r) {
        for (; p < stop; p += 4 - (uintptr_t)p % 4)
            touch_word(r->cell_of(p), p, bytes_from((uintptr_t)p % 4, (size_t)(stop - p)), k);
        return;
    }
    const bool constant = (p >= __executable_start && p < end) || arguments_hold(p);
    if (!fiber_holds(p) && !(constant && k == kind::read))
        report("memory of the host: it %s %p", k == kind::read ? "reads" : "writes", start);
}

uint64_t atomic_load(const void *p, size_t size)
{
    touch(p, size, kind::atomic);
    uint64_t bits = 0;
    memcpy(&bits, p, size);
    return bits;
}

void atomic_store(void *p, uint64_t bits, size_t size)
{
    memcpy(p, &bits, size);
}

/* copy_async. */
struct copy {
    char *to;
    const char *from;
    size_t size;
    int group;
    bool traced;
};
struct copies {
    std::vector<copy> pending;
    int group; /* that is being filled */
};

void copy_async(void *to, const void *from, size_t size, bool traced)
{
    if (size != 4 && size != 8 && size != 16)
        report("copy_async of %zu bytes: it can be 4, 8 or 16", size);
    if (!shared.holds(to) || (uintptr_t)to % size || (uintptr_t)from % size)
        report("copy_async of %zu bytes to %s: both sides are aligned to the size, and it goes to "
               "shared memory", size, describe(to));
    if (traced)
        touch(to, size, kind::write);
    const char *source = static_cast<const char *>(from);
    for (size_t i = 0; traced && device.holds(source) && i < size; i += 4)
        must_have_awaited(device.cell_of(source + i), source + i, kind::read);
    for (size_t i = 0; i < size; i += 4)
        shared.cell_of(static_cast<char *>(to) + i)->in_flight = traced;
    if (!running->copies)
        running->copies = new copies{};
    running->copies->pending.push_back({static_cast<char *>(to), static_cast<const char *>(from),
                                        size, running->copies->group, traced});
}

void copy_async_commit(void)
{
    if (!running->copies)
        running->copies = new copies{};
    running->copies->group++;
}

static void arrive(const struct copy &c)
{
    if (c.traced)
        touch(c.from, c.size, kind::read);
    memcpy(c.to, c.from, c.size);
    for (size_t i = 0; i < c.size; i += 4) {
        struct cell *cell = shared.cell_of(c.to + i);
        cell->in_flight = false;
        cell->written = access_now(running, 15, kind::write);
    }
}

void copy_async_wait(int groups_left)
{
    struct copies *all = running->copies;
    if (!all)
        return;
    auto next = all->pending.begin();
    for (; next != all->pending.end() && next->group < all->group - groups_left; ++next)
        arrive(*next);
    all->pending.erase(all->pending.begin(), next);
}

void copies_end(struct thread *t)
{
    if (t->copies && !t->copies->pending.empty())
        report("missing wait: it ends before its copies arrived");
    delete t->copies;
    t->copies = nullptr;
}
}

int emulate_live_allocations(void)
{
    return (int)emulate::live.size();
}

/* What the compiler calls. Not traced itself: this file is compiled without the instrumentation. */
#define HOOKS(size)                                                                               \
    extern "C" void __tsan_read##size(void *p);                                                   \
    extern "C" void __tsan_write##size(void *p);                                                  \
    extern "C" void __tsan_unaligned_read##size(void *p);                                         \
    extern "C" void __tsan_unaligned_write##size(void *p);                                        \
    void __tsan_read##size(void *p)                                                               \
    {                                                                                             \
        emulate::touch(p, size, emulate::kind::read);                                             \
    }                                                                                             \
    void __tsan_write##size(void *p)                                                              \
    {                                                                                             \
        emulate::touch(p, size, emulate::kind::write);                                            \
    }                                                                                             \
    void __tsan_unaligned_read##size(void *p)                                                     \
    {                                                                                             \
        emulate::touch(p, size, emulate::kind::read);                                             \
    }                                                                                             \
    void __tsan_unaligned_write##size(void *p)                                                    \
    {                                                                                             \
        emulate::touch(p, size, emulate::kind::write);                                            \
    }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

extern "C" void __tsan_read_range(void *p, size_t size);
extern "C" void __tsan_write_range(void *p, size_t size);
extern "C" void __tsan_init(void);
extern "C" void __tsan_func_entry(void *caller);
extern "C" void __tsan_func_exit(void);

void __tsan_read_range(void *p, size_t size)
{
    emulate::touch(p, size, emulate::kind::read);
}

void __tsan_write_range(void *p, size_t size)
{
    emulate::touch(p, size, emulate::kind::write);
}

void __tsan_init(void)
{
}

void __tsan_func_entry(void *)
{
}

void __tsan_func_exit(void)
{
}
