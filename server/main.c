/* interposed: reads its options, loads one model, serves it until a signal, and leaves cleanly. */
#include "../kernels/accuracy.h"
#include "device.h"
#include "memory.h"
#include "metrics.h"
#include "options.h"
#include "routes.h"
#include "worker.h"
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifndef INTERPOSE_VERSION
#define INTERPOSE_VERSION "0.1.0"
#endif

/* How often the main thread looks whether the engine is over; signals wake it at once. */
#define LOOK_SECONDS 0.1

/* How long replies may at least take to leave once the engine is done with them. */
#define FLUSH_SECONDS 5

enum {
    EXIT_start = 1,
    EXIT_options = 2,
    EXIT_device = 70
};

struct server {
    struct arena arena;
    struct options options;
    const char *folder, *model_name;
    struct model_shape shape;
    struct bpe *bpe;
    const struct backend *be;
    int device_number;
    struct device *device;
    double product_error;
    struct gpt2 *model;
    struct batch *batch;
    struct queue *queue;
    struct worker *worker;
    struct service service;
    struct http *http;
    int port;
};

/* Start. */

static bool is_folder(const char *path)
{
    struct stat s;
    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

/* The demo model of a source tree or of an installation, beside the program. */
static const char *find_demo(struct arena *a)
{
    static const char *const beside[] = {"../models/demo", "../../models/demo",
                                         "../share/interpose/models/demo"};
    if (is_folder("models/demo"))
        return "models/demo";
    char program[4096];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length < 0)
        return NULL;
    program[length] = '\0';
    *strrchr(program, '/') = '\0';
    for (size_t i = 0; i < sizeof beside / sizeof *beside; i++) {
        const char *path = arena_format(a, "%s/%s", program, beside[i]);
        if (is_folder(path))
            return path;
    }
    return NULL;
}

/* "demo" of "models/demo/", "gpt2-xl" of "openai-community/gpt2-xl". */
static const char *base_name(const char *path, struct arena *a)
{
    size_t end = strlen(path), start;
    while (end > 1 && path[end - 1] == '/')
        end--;
    for (start = end; start > 0 && path[start - 1] != '/'; start--)
        continue;
    return arena_copy_text(a, path + start, end - start);
}

static bool has_file(const char *folder, const char *name)
{
    struct arena a = {0};
    const bool is_there = access(arena_format(&a, "%s/%s", folder, name), F_OK) == 0;
    arena_free(&a);
    return is_there;
}

/* A model may come without one, as random ones do: then prompts are token ids. */
static bool load_tokenizer(struct server *s, struct err *e)
{
    if (!has_file(s->folder, "tokenizer.json") && !has_file(s->folder, "vocab.json")) {
        log_line("start", "%s has no tokenizer: prompts must be token ids", s->folder);
        return true;
    }
    if (!bpe_load(&s->bpe, s->folder, e))
        return false;
    if (bpe_size(s->bpe) > s->shape.vocab)
        return err_set(e, ERR_file,
                       "%s: the tokenizer has %d tokens and the model %d: they belong "
                       "to different models",
                       s->folder, bpe_size(s->bpe), s->shape.vocab);
    if (s->shape.n_eos == 0)
        log_line("start", "%s: eos_token_id is no token of the model: none ends a generation",
                 s->folder);
    return true;
}

static bool find_model(struct server *s, struct err *e)
{
    const struct options *o = &s->options;
    const char *asked = *o->model ? o->model : find_demo(&s->arena);
    if (!asked)
        return err_set(e, ERR_file,
                       "there is no models/demo here: say --model FOLDER, or the name "
                       "of a model in the local Hugging Face cache");
    char *folder;
    if (!model_find(&folder, asked, &s->arena, e))
        return false;
    s->folder = folder;
    s->model_name = *o->model_name ? o->model_name : base_name(asked, &s->arena);
    return gpt2_config(&s->shape, s->folder, e) && load_tokenizer(s, e);
}

/* A small machine runs the demo too. */
static int64_t slab_mb_of(const struct options *o)
{
    enum { USUAL_MB = 1024 };
    const int64_t half = memory_limit() >> 21;
    return o->slab_mb ? o->slab_mb : half < USUAL_MB ? half : USUAL_MB;
}

/* Both are filled in time, the cache by prompts that are kept. A GPU's memory says so itself. */
static bool check_memory(const struct server *s, struct err *e)
{
    const struct options *o = &s->options;
    const int64_t cache_mb = gpt2_cache_bytes(&s->shape, o->cache_tokens) >> 20;
    const int64_t slab_mb = slab_mb_of(o), limit_mb = memory_limit() >> 20;
    return s->be != &backend_cpu || slab_mb + cache_mb <= limit_mb ||
           err_set(e, ERR_value,
                   "--slab-mb %lld and --cache-tokens %lld (%lld MB of keys and values) take %lld "
                   "MB together, and this process may have %lld: lower them",
                   (long long)slab_mb, (long long)o->cache_tokens, (long long)cache_mb,
                   (long long)(slab_mb + cache_mb), (long long)limit_mb);
}

static bool load_model(struct server *s, struct err *e)
{
    const struct options *o = &s->options;
    const struct device_options device = {
        .threads = (int)o->threads,
        .isa = o->isa,
        .weights = o->weights,
        .rows_max = (int)o->rows,
        .width_max = s->shape.inner > s->shape.width ? s->shape.inner : s->shape.width,
        .context_max = s->shape.context,
        .heads_max = s->shape.n_heads,
        .number = s->device_number,
        .precision = o->precision};
    const struct gpt2_options model = {.rows_max = (int)o->rows,
                                       .logits_max =
                                           (int)(o->logits_rows ? o->logits_rows : o->rows),
                                       .shared_rows = (int)o->pass_rows,
                                       .cache_tokens = (int)o->cache_tokens};
    const struct batch_options batch = {.slab_bytes = (size_t)slab_mb_of(o) << 20,
                                        .jobs_max = (int)o->queue + RUNNING_MAX,
                                        .shares_prefixes = strcmp(o->prefix_cache, "on") == 0};
    return device_open(&s->device, &s->be, o->device, &device, e) && check_memory(s, e) &&
           product_error(&s->product_error, s->be, s->device, s->shape.width, e) &&
           gpt2_load(&s->model, s->be, s->device, s->folder, &model, e) &&
           batch_open(&s->batch, s->model, &batch, &s->arena, e);
}

/* What every reply says of its numbers: protocol/README.md. */
static const char *numerics_of(const struct options *o, struct arena *a)
{
    if (strcmp(o->weights, "f32") == 0)
        return o->precision;
    return arena_format(a, "%s on %s weights", o->precision, o->weights);
}

static bool start_serving(struct server *s, struct err *e)
{
    const struct options *o = &s->options;
    s->queue = queue_new((int)o->queue, &s->arena);
    s->service = (struct service){.bpe = s->bpe,
                                  .queue = s->queue,
                                  .facts = {.name = s->model_name,
                                            .device = s->be->describe(s->device),
                                            .numerics = numerics_of(o, &s->arena),
                                            .product_error = s->product_error,
                                            .rows_max = s->model->rows_max[LANE_large],
                                            .cache_tokens = s->model->n_pages * PAGE_TOKENS,
                                            .body_bytes_max = o->body_mb << 20,
                                            .shape = &s->shape},
                                  .capacity = batch_capacity(s->batch)};
    const struct http_options http = {o->host, (int)o->port, o->allow_origin,
                                      (int)o->header_seconds, (int)o->body_seconds,
                                      (int)o->reply_seconds, (int)o->heartbeat_seconds,
                                      o->body_mb << 20, (int)o->connections};
    const struct http_service routes = routes_of(&s->service);
    held_open(memory_limit(), RESULT_BYTES_MAX + BODY_COPIES * http.body_bytes_max);
    return http_open(&s->http, &s->port, &http, &routes, &s->arena, e) &&
           worker_start(&s->worker, s->batch, s->queue, &s->arena, e);
}

/* What is said whatever the log leaves out. */
static void say(const struct options *o, const char *event, const char *text)
{
    if (strcmp(o->log_format, "json") == 0)
        log_line(event, "%s", text);
    else
        fprintf(stderr, "interposed: %s\n", text);
}

static void say_ready(struct server *s)
{
    metric_set(METRIC_start_time, (int64_t)time(NULL));
    const bool is_v6 = strchr(s->options.host, ':') != NULL;
    say(&s->options, "ready",
        arena_format(&s->arena, "%s (%d blocks, width %d) on http://%s%s%s:%d, %s", s->model_name,
                     s->shape.n_blocks, s->shape.width, is_v6 ? "[" : "", s->options.host,
                     is_v6 ? "]" : "", s->port, s->service.facts.device));
}

/* Who starts us with a standard file closed must not find a client's connection in its place, with
 * our log in the middle of its replies. */
static void fill_standard_files(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

/* Stop. */

/* All threads leave these to the main thread, which waits for them. Who starts us may have said
 * that one is ignored: nohup a terminal's end, a shell's & its ^C. */
static sigset_t block_signals(void)
{
    static const int stops[] = {SIGTERM, SIGINT, SIGHUP};
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
        struct sigaction as_is;
        if (sigaction(stops[i], NULL, &as_is) == 0 && as_is.sa_handler != SIG_IGN)
            sigaddset(&set, stops[i]);
    }
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a log that may not grow any more ends nothing */
    return set;
}

/* The signal that came within that time, or 0. */
static int wait_signal(const sigset_t *set, double seconds)
{
    const struct timespec wait = {.tv_sec = (time_t)seconds,
                                  .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
    int signal_number = sigtimedwait(set, NULL, &wait);
    return signal_number > 0 ? signal_number : 0;
}

static void wait_until_asked(const struct server *s, const sigset_t *set)
{
    while (!worker_is_over(s->worker)) {
        if (wait_signal(set, LOOK_SECONDS))
            return;
    }
}

static void leave_if_asked_again(const sigset_t *set)
{
    int again = wait_signal(set, LOOK_SECONDS);
    if (!again)
        return;
    log_line("stop", "asked again: leaving at once");
    _exit(128 + again);
}

/* Running requests go on, up to a bound; then they fail with a frame that says why. */
static void drain(struct server *s, const sigset_t *set)
{
    struct err why = {0};
    err_set(&why, ERR_draining, "the server is stopping and takes no new requests");
    queue_close(s->queue, &why);
    http_drain(s->http);
    log_line("stop", "finishing %d requests", http_active(s->http));
    const double until = seconds_now() + (double)s->options.drain_seconds;
    while (!worker_is_over(s->worker) && seconds_now() < until)
        leave_if_asked_again(set);
    worker_abort(s->worker);
    const double least = seconds_now() + FLUSH_SECONDS, flushed = least > until ? least : until;
    while (!worker_is_over(s->worker) || (http_active(s->http) > 0 && seconds_now() < flushed))
        leave_if_asked_again(set);
}

/* Gives back what was opened, however far the start came. */
static void release(struct server *s)
{
    if (s->worker)
        worker_join(s->worker);
    if (s->http)
        http_close(s->http);
    if (s->queue)
        queue_free(s->queue);
    if (s->batch)
        batch_close(s->batch);
    if (s->model)
        gpt2_free(s->model);
    if (s->device)
        s->be->close(s->device);
    if (s->bpe)
        bpe_free(s->bpe);
    arena_free(&s->arena);
}

static int fail(const struct options *o, const struct err *e, int status)
{
    say(o, "fatal", e->text);
    return status;
}

static int print(const char *text)
{
    fputs(text, stdout);
    return fflush(stdout) == 0 ? 0 : EXIT_start;
}

static enum log_format log_format_of(const char *name)
{
    return strcmp(name, "json") == 0 ? LOG_json : strcmp(name, "quiet") == 0 ? LOG_quiet : LOG_text;
}

int main(int argc, char **argv)
{
    static struct server server;
    struct server *s = &server;
    struct err e = {0};
    enum options_wish wish;
    fill_standard_files();
    const bool is_understood = options_read(&s->options, &wish, argc, argv, &e);
    log_open(log_format_of(s->options.log_format));
    if (!is_understood)
        return fail(&s->options, &e, EXIT_options);
    if (wish == WISH_help)
        return print(options_help(&s->arena));
    if (wish == WISH_version)
        return print("interposed " INTERPOSE_VERSION "\n");
    const char *unknown = options_unknown_variables(&s->arena);
    if (unknown)
        log_line("start", "not heeded, for no option is called so: %s", unknown);
    const sigset_t set = block_signals();
    if (!device_choose(&s->be, &s->device_number, s->options.device, &e))
        return fail(&s->options, &e, EXIT_options);
    if (!find_model(s, &e) || !load_model(s, &e) || !start_serving(s, &e)) {
        release(s);
        return fail(&s->options, &e, EXIT_start);
    }
    say_ready(s);
    wait_until_asked(s, &set);
    drain(s, &set);
    const bool failed = worker_has_failed(s->worker);
    release(s);
    log_line("stop", failed ? "the device failed" : "done");
    return failed ? EXIT_device : 0;
}
