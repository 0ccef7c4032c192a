#include "http.h"
#include "headers.h"
#include "metrics.h"
#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    SPARE_CONNECTIONS = 32,  /* above those that may be open: room in which to say 503 */
    OTHER_FILES = 64,        /* that the process has open beside its connections: CUDA has dozens */
    STACK_BYTES = 256 << 10, /* of a connection's thread; decoding nests DEPTH_MAX deep at most */
    BACKLOG = 1024,
    BODY_FIRST_BYTES = 16 << 10,    /* most requests fit; then it doubles, in a map of its own */
    STREAM_BLOCK_BYTES = 128 << 10, /* of a reply at once: half of it costs a reader a sixth
                                       more time, and more saves nothing */
    CONNECTION_BYTES = 128 << 10,   /* libmicrohttpd's own: headers, and then such a block. It has
                                       them from its first request to its end, however idle */
    CRLF_BYTES = 2,
    WATCH_MS = 250,
    CROWDED_IDLE_SECONDS = 1, /* how long an idle connection is kept while places are few */
};

enum phase {
    PHASE_idle,
    PHASE_headers,
    PHASE_body,
    PHASE_reply
};

struct connection { /* guarded by the lock of struct http */
    bool open;
    int socket;
    enum phase phase;
    double since, deadline;    /* seconds_now; a deadline of 0 never comes */
    struct exchange *exchange; /* its own thread's: the request that is under way, or NULL */
};

struct http {
    struct headers_policy policy;
    int header_seconds, body_seconds, reply_seconds, heartbeat_seconds, connections_max;
    struct http_service service;
    struct MHD_Daemon *daemon;
    uint32_t boot; /* tells this process's request ids from another's */
    atomic_uint_least64_t n_requests;
    atomic_int n_active;
    atomic_int_least64_t body_bytes; /* that all bodies hold now, of */
    int64_t bodies_bytes_max;
    atomic_bool draining, stopping;
    atomic_int_least64_t said_in; /* the last second in which the library said something */
    pthread_t watchdog;

    pthread_mutex_t lock; /* guards everything below */
    int n_open;
    struct connection connections[CONNECTIONS_MAX + SPARE_CONNECTIONS];
};

/* One request and its reply, in its own arena: from the request line to the reply's last byte. */
struct exchange {
    struct http *http;
    struct connection *connection;
    struct arena arena;
    struct http_request request;
    struct http_reply reply;
    struct headers headers;
    struct err err;       /* why it is refused */
    bool begun;           /* its headers have come */
    const char *read_end; /* where what is read of its head ends, in the library's memory */
    char *body;                      /* move_body, or NULL */
    size_t body_capacity, body_most; /* of it, and what it may become */
    size_t body_total;               /* what has come, also what was dropped */
    double started_at;
};

/* Connections and their deadlines. */

static void enter_phase(struct http *h, struct connection *c, enum phase phase, double seconds)
{
    pthread_mutex_lock(&h->lock);
    c->phase = phase;
    c->since = seconds_now();
    c->deadline = seconds > 0 ? c->since + seconds : 0;
    pthread_mutex_unlock(&h->lock);
}

static struct connection *connection_opened(struct http *h, int socket)
{
    pthread_mutex_lock(&h->lock);
    struct connection *c = h->connections;
    while (c->open)
        c++;
    assert(c < h->connections + CONNECTIONS_MAX + SPARE_CONNECTIONS);
    const double now = seconds_now();
    *c = (struct connection){true, socket, PHASE_idle, now, now + h->header_seconds, NULL};
    h->n_open++;
    metric_set(METRIC_connections, h->n_open);
    pthread_mutex_unlock(&h->lock);
    return c;
}

/* Comes before the library closes the socket, so that the watchdog never cuts a stranger's. */
static void connection_closed(struct http *h, struct connection *c)
{
    pthread_mutex_lock(&h->lock);
    c->open = false;
    h->n_open--;
    metric_set(METRIC_connections, h->n_open);
    pthread_mutex_unlock(&h->lock);
}

static bool is_crowded(struct http *h, int n_max)
{
    pthread_mutex_lock(&h->lock);
    bool crowded = h->n_open > n_max;
    pthread_mutex_unlock(&h->lock);
    return crowded;
}

/* The library answers only before a body or behind it. In the middle of one nothing else is being
 * written to the socket, so that a last word may be, before the connection is cut. */
static void send_last_word(int socket, enum err_code code, const char *message)
{
    char body[256], text[512];
    metric_add_error(code);
    int size = snprintf(body, sizeof body, "{\"error\": {\"code\": \"%s\", \"message\": \"%s\"}}\n",
                        err_info[code].name, message);
    int length = snprintf(text, sizeof text,
                          "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\n"
                          "Content-Length: %d\r\nConnection: close\r\n\r\n%s",
                          err_info[code].http, err_info[code].name, size, body);
    if (send(socket, text, (size_t)length, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        return; /* the client is gone already */
}

static void cut_if_late(struct http *h, struct connection *c, double now)
{
    bool late = c->deadline > 0 && now > c->deadline;
    bool in_the_way = h->n_open > h->connections_max / 4 * 3 && c->phase == PHASE_idle &&
                      now > c->since + CROWDED_IDLE_SECONDS;
    if (!c->open || (!late && !in_the_way))
        return;
    if (c->phase == PHASE_body)
        send_last_word(c->socket, ERR_timeout, "the body took too long to arrive");
    shutdown(c->socket, SHUT_RDWR);
    c->deadline = 0;
    c->phase = PHASE_reply;
}

static void *watch(void *context)
{
    struct http *h = context;
    while (!atomic_load(&h->stopping)) {
        nanosleep(&(struct timespec){.tv_nsec = WATCH_MS * 1000000L}, NULL);
        const double now = seconds_now();
        pthread_mutex_lock(&h->lock);
        for (int i = 0; i < CONNECTIONS_MAX + SPARE_CONNECTIONS; i++)
            cut_if_late(h, &h->connections[i], now);
        pthread_mutex_unlock(&h->lock);
    }
    return NULL;
}

bool http_client_left(const struct http_request *r)
{
    struct pollfd p = {.fd = r->socket, .events = POLLRDHUP};
    return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

/* Replies. */

static ssize_t on_pull(void *context, uint64_t position, char *buffer, size_t max)
{
    (void)position;
    struct exchange *x = context;
    enter_phase(x->http, x->connection, PHASE_reply, 0); /* the last block has left */
    ptrdiff_t n = x->reply.pull(x->reply.stream, buffer, max);
    enter_phase(x->http, x->connection, PHASE_reply, x->http->reply_seconds);
    return n == HTTP_END   ? MHD_CONTENT_READER_END_OF_STREAM
           : n == HTTP_CUT ? MHD_CONTENT_READER_END_WITH_ERROR
                           : (ssize_t)n;
}

static void add_header(struct MHD_Response *response, const char *name, const char *value)
{
    if (value && MHD_add_response_header(response, name, value) == MHD_NO)
        log_line("http", "the header %s could not be set", name);
}

static void add_headers(struct exchange *x, struct MHD_Response *response)
{
    const struct http_reply *reply = &x->reply;
    add_header(response, "X-Request-Id", x->request.id);
    add_header(response, "Content-Type", reply->content_type);
    add_header(response, "Allow", reply->allow);
    add_header(response, "Cache-Control", "no-store");
    add_header(response, "X-Content-Type-Options", "nosniff");
    if (reply->retry_seconds)
        add_header(response, "Retry-After", arena_format(&x->arena, "%d", reply->retry_seconds));
    if (reply->close || atomic_load(&x->http->draining))
        add_header(response, "Connection", "close");
    if (headers_origin_is_listed(&x->headers, &x->http->policy)) {
        add_header(response, "Access-Control-Allow-Origin", x->headers.value[HEADER_origin]);
        add_header(response, "Access-Control-Expose-Headers", "X-Request-Id, Retry-After, Allow");
        add_header(response, "Access-Control-Allow-Methods", "GET, HEAD, POST");
        add_header(response, "Access-Control-Allow-Headers", headers_for_pages(&x->headers));
        add_header(response, "Vary", "Origin, Access-Control-Request-Headers");
    }
}

static enum MHD_Result send_reply(struct exchange *x, struct MHD_Connection *connection)
{
    const struct http_reply *reply = &x->reply;
    const size_t n_blocks = reply->pull ? 0 : 1 + reply->body_size / STREAM_BLOCK_BYTES;
    enter_phase(x->http, x->connection, PHASE_reply, (double)n_blocks * x->http->reply_seconds);
    struct MHD_Response *response =
        reply->pull ? MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK_BYTES,
                                                        on_pull, x, NULL)
                    : MHD_create_response_from_buffer(reply->body_size, (void *)reply->body,
                                                      MHD_RESPMEM_PERSISTENT);
    if (!response)
        return MHD_NO;
    add_headers(x, response);
    enum MHD_Result queued = MHD_queue_response(connection, (unsigned)reply->status, response);
    MHD_destroy_response(response);
    return queued;
}

static enum MHD_Result send_refusal(struct exchange *x, struct MHD_Connection *connection)
{
    const bool close = x->reply.close;
    x->http->service.refuse(x->http->service.context, &x->reply, &x->request, &x->err);
    x->reply.close |= close;
    return send_reply(x, connection);
}

/* Requests. */

static void set_id(struct exchange *x)
{
    const char *sent = x->headers.value[HEADER_id];
    const char *alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t length = sent ? strlen(sent) : 0;
    if (length >= 1 && length <= 36 && strspn(sent, alphabet) == length)
        memcpy(x->request.id, sent, length + 1);
    else
        snprintf(x->request.id, sizeof x->request.id, "%08x-%llu", x->http->boot,
                 (unsigned long long)atomic_fetch_add(&x->http->n_requests, 1));
}

/* FNV-1a. */
static uint64_t hash_bytes(const void *bytes, size_t size)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ ((const unsigned char *)bytes)[i]) * UINT64_C(0x100000001b3);
    return hash;
}

static uint64_t hash_peer(int socket)
{
    struct sockaddr_storage peer = {0};
    socklen_t size = sizeof peer;
    if (getpeername(socket, (struct sockaddr *)&peer, &size) != 0)
        return 0;
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)&peer;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&peer;
    return peer.ss_family == AF_INET6 ? hash_bytes(&v6->sin6_addr, sizeof v6->sin6_addr)
                                      : hash_bytes(&v4->sin_addr, sizeof v4->sin_addr);
}

/* The library ends lines and texts where it likes, in the memory into which it read them: what it
 * shows must lie there without gaps, since in a gap somebody else could read more. */
static enum MHD_Result on_header(void *context, enum MHD_ValueKind kind, const char *name,
                                 const char *value)
{
    (void)kind;
    struct exchange *x = context;
    struct headers *h = &x->headers;
    h->is_broken |= name != x->read_end + CRLF_BYTES || !headers_are_plain(name, value);
    x->read_end = value + strlen(value);
    h->bytes += strlen(name) + strlen(value);
    for (int i = 0; i < HEADER_COUNT; i++) {
        if (strcasecmp(name, header_name[i]) == 0 && h->count[i]++ == 0)
            h->value[i] = value;
    }
    return MHD_YES;
}

static void read_headers(struct exchange *x, struct MHD_Connection *connection, const char *path,
                         const char *method, const char *version)
{
    struct headers *h = &x->headers;
    h->version = version;
    h->method = method;
    /* Between the URI and the version lies one byte. What lies between more came behind a NUL. */
    h->uri_is_cut = version != x->read_end + 1;
    x->read_end = version + strlen(version);
    MHD_get_connection_values(connection, MHD_HEADER_KIND, on_header, x);
    const size_t size =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE)->header_size;
    h->is_broken |= method + size != x->read_end + 2 * CRLF_BYTES;
    struct http_request *r = &x->request;
    r->method = arena_copy_text(&x->arena, method, strnlen(method, 16));
    r->path = arena_copy_text(&x->arena, path, strlen(path));
    r->content_type = h->value[HEADER_type];
    r->accept = h->value[HEADER_accept];
    r->arena = &x->arena;
    r->socket = x->connection->socket;
    r->heartbeat_seconds = x->http->heartbeat_seconds;
    const char *user = h->value[HEADER_user];
    r->user = user ? hash_bytes(user, strlen(user)) : hash_peer(r->socket);
    set_id(x);
}

/* Returns whether the refusal, if there is one, must go out before the body is read. */
static bool check_headers(struct exchange *x)
{
    struct http *h = x->http;
    if (!headers_check_framing(&x->headers, &h->policy, &x->err))
        return true;
    const int64_t length = headers_length(&x->headers);
    x->body_most = (size_t)(length >= 0 ? length : h->policy.body_bytes_max);
    if (is_crowded(h, h->connections_max))
        return !err_set(&x->err, ERR_busy, "more than %d connections are open",
                        h->connections_max);
    if (!headers_check_sender(&x->headers, &h->policy, &x->err) ||
        !h->service.check(h->service.context, &x->request, &x->err))
        return x->headers.count[HEADER_expect] > 0;
    return false;
}

static bool is_preflight(const struct exchange *x)
{
    return strcmp(x->request.method, "OPTIONS") == 0 &&
           headers_origin_is_listed(&x->headers, &x->http->policy);
}

static enum MHD_Result begin(struct exchange *x, struct MHD_Connection *connection,
                             const char *path, const char *method, const char *version)
{
    x->begun = true;
    atomic_fetch_add(&x->http->n_active, 1);
    read_headers(x, connection, path, method, version);
    bool at_once = check_headers(x);
    if (!is_preflight(x) && x->err.code != ERR_none)
        x->reply.close = true;
    if (at_once)
        return send_refusal(x, connection);
    enter_phase(x->http, x->connection, PHASE_body, x->http->body_seconds);
    return MHD_YES;
}

/* A small body is its request's arena's: a map of its own takes three calls of the system. A larger
 * one is the same memory at another place. */
static char *move_body(struct exchange *x, size_t larger)
{
    if (larger <= BODY_FIRST_BYTES)
        return arena_alloc(&x->arena, larger);
    if (x->body_capacity > BODY_FIRST_BYTES)
        return memory_remap(x->body, x->body_capacity, larger);
    char *body = memory_map(larger);
    if (body && x->body)
        memcpy(body, x->body, x->request.body_size);
    return body;
}

/* Doubles, up to what was announced. */
static bool grow_body(struct exchange *x, size_t size)
{
    if (size <= x->body_capacity)
        return true;
    size_t larger = x->body_capacity ? x->body_capacity : BODY_FIRST_BYTES;
    while (larger < size)
        larger *= 2;
    if (larger > x->body_most)
        larger = x->body_most;
    const int64_t more = (int64_t)(larger - x->body_capacity), most = x->http->bodies_bytes_max;
    const int64_t held = atomic_fetch_add(&x->http->body_bytes, more);
    char *body = held + more > most ? NULL : move_body(x, larger);
    if (!body) {
        atomic_fetch_sub(&x->http->body_bytes, more);
        return err_set(&x->err, ERR_busy,
                       "bodies of requests take %lld of %lld bytes, and this one has more than %zu",
                       (long long)held, (long long)most, x->request.body_size);
    }
    x->body = body;
    x->body_capacity = larger;
    return true;
}

/* A refused body is read on and dropped, so that the client gets to read the refusal; within
 * bounds. */
static enum MHD_Result take_body(struct exchange *x, const char *bytes, size_t size)
{
    const size_t bytes_max = (size_t)x->http->policy.body_bytes_max;
    x->body_total += size;
    if (x->body_total > bytes_max)
        err_set(&x->err, ERR_limit, "the body has more than %zu bytes (--body-mb)", bytes_max);
    if (x->err.code == ERR_none && grow_body(x, x->request.body_size + size)) {
        memcpy(x->body + x->request.body_size, bytes, size);
        x->request.body_size += size;
        return MHD_YES;
    }
    x->reply.close = true;
    if (x->body_total <= 2 * bytes_max)
        return MHD_YES;
    send_last_word(x->connection->socket, ERR_limit, "the body is too large");
    return MHD_NO;
}

static enum MHD_Result answer(struct exchange *x, struct MHD_Connection *connection)
{
    struct http *h = x->http;
    if (is_preflight(x)) {
        x->reply = (struct http_reply){.status = 204, .body = ""};
        return send_reply(x, connection);
    }
    if (x->err.code != ERR_none)
        return send_refusal(x, connection);
    enter_phase(h, x->connection, PHASE_reply, 0);
    x->request.body = x->body ? x->body : "";
    h->service.answer(h->service.context, &x->reply, &x->request);
    return send_reply(x, connection);
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection,
                                  const char *path, const char *method, const char *version,
                                  const char *bytes, size_t *n_bytes, void **slot)
{
    (void)context;
    struct exchange *x = *slot;
    if (!x->begun)
        return begin(x, connection, path, method, version);
    if (*n_bytes == 0)
        return answer(x, connection);
    const size_t size = *n_bytes;
    *n_bytes = 0;
    return take_body(x, bytes, size);
}

static void log_request(const struct exchange *x)
{
    const struct http_request *r = &x->request;
    if (x->reply.status >= 400 || strcmp(r->method, "POST") == 0)
        log_line("request", "%s %s %.200s %d, %zu bytes in %.1f ms%s%s", r->id, r->method, r->path,
                 x->reply.status, r->body_size, (seconds_now() - x->started_at) * 1e3,
                 x->err.code ? ": " : "", x->err.code ? x->err.text : "");
}

/* The end of a request, whatever became of it. */
static void exchange_close(struct http *h, struct connection *c)
{
    struct exchange *x = c->exchange;
    c->exchange = NULL;
    if (!x)
        return;
    if (x->reply.done)
        x->reply.done(x->reply.stream);
    if (x->begun) {
        log_request(x);
        atomic_fetch_sub(&h->n_active, 1);
    }
    if (x->body_capacity > BODY_FIRST_BYTES)
        memory_unmap(x->body, x->body_capacity);
    atomic_fetch_sub(&h->body_bytes, (int64_t)x->body_capacity);
    struct arena arena = x->arena;
    arena_free(&arena);
}

/* The library forgets to say that some requests are over (one with 3,000 arguments, say), so that
 * the next one and the end of the connection close what is left, too. */
static void *on_uri(void *context, const char *uri, struct MHD_Connection *connection)
{
    struct http *h = context;
    struct connection *c =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
    exchange_close(h, c);
    struct arena arena = {0};
    struct exchange *x = ARENA_NEW(&arena, struct exchange);
    x->http = h;
    x->connection = c;
    x->started_at = seconds_now();
    x->headers.uri = arena_copy_text(&arena, uri, strlen(uri));
    x->read_end = uri + strlen(uri);
    x->arena = arena;
    c->exchange = x;
    enter_phase(h, c, PHASE_headers, h->header_seconds);
    return x;
}

static void on_completed(void *context, struct MHD_Connection *connection, void **slot,
                         enum MHD_RequestTerminationCode code)
{
    (void)slot, (void)code;
    struct connection *c =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
    exchange_close(context, c);
    enter_phase(context, c, PHASE_idle, IDLE_SECONDS_MAX);
}

static void on_connection(void *context, struct MHD_Connection *connection, void **slot,
                          enum MHD_ConnectionNotificationCode code)
{
    if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
        exchange_close(context, *slot);
        connection_closed(context, *slot);
        return;
    }
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    *slot = connection_opened(context, info->connect_fd);
}

/* Start and stop. */

/* The library may have the same to say ten thousand times a second: once is enough. */
static void on_log(void *context, const char *format, va_list args)
{
    struct http *h = context;
    const int64_t second = (int64_t)seconds_now();
    if (atomic_exchange(&h->said_in, second) == second)
        return;
    char text[512];
    vsnprintf(text, sizeof text, format, args);
    text[strcspn(text, "\n")] = '\0';
    log_line("http", "%s", text);
}

static void on_panic(void *context, const char *file, unsigned line, const char *reason)
{
    (void)context;
    log_line("fatal", "libmicrohttpd gave up at %s:%u: %s", file, line, reason ? reason : "");
    _exit(70);
}

static bool listen_on(int *fd, const struct addrinfo *address, const struct http_options *o,
                      struct err *e)
{
    *fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*fd < 0)
        return err_set(e, ERR_device, "no socket: %s", strerror(errno));
    const int on = 1;
    setsockopt(*fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(*fd, address->ai_addr, address->ai_addrlen) != 0 || listen(*fd, BACKLOG) != 0) {
        err_set(e, ERR_value, "cannot listen on %s port %d: %s", o->host, o->port, strerror(errno));
        close(*fd);
        return false;
    }
    return true;
}

static bool open_socket(int *fd, int *port, const struct http_options *o, struct err *e)
{
    char service[8];
    snprintf(service, sizeof service, "%d", o->port);
    const struct addrinfo wish = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    int failed = getaddrinfo(o->host, service, &wish, &found);
    if (failed)
        return err_set(e, ERR_value, "--host %.100s is no address of this machine: %s", o->host,
                       gai_strerror(failed));
    bool listening = listen_on(fd, found, o, e);
    freeaddrinfo(found);
    if (!listening)
        return false;
    struct sockaddr_storage bound = {0};
    socklen_t size = sizeof bound;
    char text[8] = "0";
    if (getsockname(*fd, (struct sockaddr *)&bound, &size) == 0)
        getnameinfo((struct sockaddr *)&bound, size, NULL, 0, text, sizeof text, NI_NUMERICSERV);
    *port = 0;
    for (const char *c = text; *c; c++)
        *port = *port * 10 + (*c - '0');
    return true;
}

/* A connection takes a file, and systems give a process 1,024 where it does not ask for more. Where
 * it gets no more than that, fewer connections may be open: the library would try to take the next
 * one, in vain and without end. */
static bool allow_connections(struct http *h, int asked, struct err *e)
{
    struct rlimit files;
    const rlim_t wanted = (rlim_t)(asked + SPARE_CONNECTIONS + OTHER_FILES);
    if (getrlimit(RLIMIT_NOFILE, &files) != 0)
        return err_set(e, ERR_device, "the limit of open files: %s", strerror(errno));
    if (files.rlim_cur < wanted) {
        files.rlim_cur = files.rlim_max < wanted ? files.rlim_max : wanted;
        if (setrlimit(RLIMIT_NOFILE, &files) != 0)
            getrlimit(RLIMIT_NOFILE, &files);
    }
    const int n_files = files.rlim_cur < wanted ? (int)files.rlim_cur : (int)wanted;
    h->connections_max = n_files - SPARE_CONNECTIONS - OTHER_FILES;
    if (h->connections_max < 1)
        return err_set(e, ERR_value,
                       "this process may have %d files open (ulimit -n), and needs %d beside those "
                       "of its connections",
                       n_files, SPARE_CONNECTIONS + OTHER_FILES);
    if (h->connections_max < asked)
        log_line("start", "%d connections may be open at once, not %d: ulimit -n is %d",
                 h->connections_max, asked, n_files);
    return true;
}

bool http_open(struct http **out, int *port, const struct http_options *o,
               const struct http_service *service, struct arena *a, struct err *e)
{
    struct http *h = ARENA_NEW(a, struct http);
    h->policy = (struct headers_policy){o->host, o->allow_origin, o->body_bytes_max};
    h->bodies_bytes_max = (int64_t)BODIES_MB << 20;
    if (h->bodies_bytes_max < 2 * o->body_bytes_max)
        h->bodies_bytes_max = 2 * o->body_bytes_max;
    h->header_seconds = o->header_seconds;
    h->body_seconds = o->body_seconds;
    h->reply_seconds = o->reply_seconds;
    h->heartbeat_seconds = o->heartbeat_seconds;
    h->service = *service;
    pthread_mutex_init(&h->lock, NULL);
    if (getrandom(&h->boot, sizeof h->boot, 0) != sizeof h->boot)
        h->boot = (uint32_t)getpid();
    int fd = -1;
    if (!allow_connections(h, o->connections, e) || !open_socket(&fd, port, o, e))
        return false;
    MHD_set_panic_func(on_panic, NULL);
    h->daemon = MHD_start_daemon(
        MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL |
            MHD_USE_ERROR_LOG,
        0, NULL, NULL, on_request, h, MHD_OPTION_EXTERNAL_LOGGER, on_log, h,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_NOTIFY_CONNECTION, on_connection, h,
        MHD_OPTION_URI_LOG_CALLBACK, on_uri, h, MHD_OPTION_NOTIFY_COMPLETED, on_completed, h,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)(h->connections_max + SPARE_CONNECTIONS),
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_BYTES, MHD_OPTION_THREAD_STACK_SIZE,
        (size_t)STACK_BYTES, MHD_OPTION_END);
    if (!h->daemon) {
        close(fd);
        return err_set(e, ERR_device, "libmicrohttpd could not start its threads");
    }
    if (pthread_create(&h->watchdog, NULL, watch, h) != 0) {
        MHD_stop_daemon(h->daemon);
        return err_set(e, ERR_device, "the watchdog's thread could not be started");
    }
    *out = h;
    return true;
}

void http_drain(struct http *h)
{
    atomic_store(&h->draining, true);
}

int http_active(struct http *h)
{
    return atomic_load(&h->n_active);
}

void http_close(struct http *h)
{
    MHD_stop_daemon(h->daemon);
    atomic_store(&h->stopping, true);
    pthread_join(h->watchdog, NULL);
    pthread_mutex_destroy(&h->lock);
}
