/* What a request's first lines may say. Everything on which two servers in a row could disagree is
 * refused, and so are other sites' pages and names that only look like ours. */
#pragma once
#include "../protocol/base.h"

enum header { /* the headers that matter here, each at most once */
    HEADER_host,
    HEADER_length,
    HEADER_framing,
    HEADER_type,
    HEADER_coding,
    HEADER_authorization,
    HEADER_origin,
    HEADER_wanted,
    HEADER_accept,
    HEADER_expect,
    HEADER_id,
    HEADER_user,
    HEADER_COUNT
};

extern const char *const header_name[HEADER_COUNT]; /* "Host", "Content-Length", ... */

struct headers {
    const char *version, *method, *uri; /* the URI as it came, escapes and all */
    bool uri_is_cut;                    /* it holds a NUL byte */
    bool is_broken;                     /* one is not plain, or its line does not end in CRLF */
    size_t bytes;                       /* of all headers, also of those that do not matter */
    int count[HEADER_COUNT];
    const char *value[HEADER_COUNT]; /* the first one's, or NULL */
};

struct headers_policy {
    const char *host;         /* that the server listens on */
    const char *allow_origin; /* origins separated by commas, "*" or "" */
    int64_t body_bytes_max;
};

/* The name is a token, and the value holds no line break: the same to whoever reads them. */
bool headers_are_plain(const char *name, const char *value);

/* Where does the request end? Refusals here leave that open, so that nothing behind the headers may
 * be read: header, encoding, length, limit. */
bool headers_check_framing(const struct headers *h, const struct headers_policy *p, struct err *e);

/* The Content-Length that was found right, or -1. */
int64_t headers_length(const struct headers *h);

/* Is it meant for us, from where we allow, and in a form that we read? */
bool headers_check_sender(const struct headers *h, const struct headers_policy *p, struct err *e);

/* It comes from a page of a site that --allow-origin names, which needs the CORS headers. */
bool headers_origin_is_listed(const struct headers *h, const struct headers_policy *p);

/* Which headers such a page may send, as a list: what it asks to send, if that is a list of names
 * that is not too long, for clients put names of their own beside ours. */
const char *headers_for_pages(const struct headers *h);
