/* HTTP/1.1 as the rest of the server sees it: whole requests in, a document or a stream of bytes
 * out. http.c is the only file that knows the library underneath.
 *
 * One thread a connection. What is ambiguous on the wire (two lengths, an unknown framing, a NUL in
 * the path, another site's page or name) is refused before anybody else sees it; deadlines are
 * absolute; a body takes memory as it arrives, never as it is announced.
 */
#pragma once
#include "../protocol/base.h"
#include "../protocol/limits.h"

enum {
    HTTP_ID_SIZE = 40 /* a request id of at most 36 characters */
};

struct http_request {
    const char *method, *path;
    const char *content_type, *accept; /* of the headers, or NULL */
    char id[HTTP_ID_SIZE];             /* the client's own if it is well-formed, else ours */
    uint64_t user; /* a number for who asks: of the name in X-Interpose-User, else of the address */
    const char *body;
    size_t body_size;
    struct arena *arena; /* lives until the reply's `done` has returned */
    int socket;          /* for http_client_left */
    int heartbeat_seconds; /* how long its reply may be silent */
};

struct http_reply {
    int status;
    const char *content_type;
    const char *allow; /* of the Allow header, or NULL */
    int retry_seconds; /* of the Retry-After header, or 0 */
    bool close;        /* the connection ends behind this reply */

    const char *body; /* a whole document in the request's arena, unless there is a `pull` */
    size_t body_size;

    /* A stream. `pull` waits until there are bytes, and returns how many it wrote into the buffer,
     * HTTP_END, or HTTP_CUT where not even an error frame can be sent. */
    ptrdiff_t (*pull)(void *stream, char *buffer, size_t max);
    void *stream;
    void (*done)(void *stream); /* of a document too, or NULL: called once, whatever became of the
                                   connection */
};

enum {
    HTTP_END = -1,
    HTTP_CUT = -2
};

struct http_service {
    void *context;

    /* What can be refused before the body is read: an unknown route, method or media type. */
    bool (*check)(void *context, const struct http_request *r, struct err *e);

    /* Answers a whole request. */
    void (*answer)(void *context, struct http_reply *reply, struct http_request *r);

    /* Answers a request that was refused, here or by `check`. */
    void (*refuse)(void *context, struct http_reply *reply, const struct http_request *r,
                   const struct err *e);
};

struct http_options {
    const char *host;                 /* the address to listen on */
    int port;                         /* 0: a free one */
    const char *allow_origin;         /* origins separated by commas, "*" or "" */
    int header_seconds, body_seconds; /* how long they may take to arrive, and */
    int reply_seconds;                /* 128 KiB of a reply to leave */
    int heartbeat_seconds;            /* for http_request */
    int64_t body_bytes_max;
    int connections;                  /* open at once, at most CONNECTIONS_MAX; fewer where the
                                         process may not have so many files open */
};

struct http;

/* Listens and serves from now on. `port` is the one it got. */
bool http_open(struct http **h, int *port, const struct http_options *o,
               const struct http_service *service, struct arena *a, struct err *e);

/* Each reply from now on closes its connection. */
void http_drain(struct http *h);

/* How many requests are being read or answered. */
int http_active(struct http *h);

/* Cuts what is still open, waits for its threads, and stops listening. */
void http_close(struct http *h);

/* The other side closed the connection, or its sending half: it waits for no more. */
bool http_client_left(const struct http_request *r);
