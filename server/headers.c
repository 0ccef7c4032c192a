#include "headers.h"
#include "../protocol/limits.h"
#include <stdlib.h>
#include <string.h>
#include <strings.h>

const char *const header_name[HEADER_COUNT] = {
    [HEADER_host] = "Host",
    [HEADER_length] = "Content-Length",
    [HEADER_framing] = "Transfer-Encoding",
    [HEADER_type] = "Content-Type",
    [HEADER_coding] = "Content-Encoding",
    [HEADER_authorization] = "Authorization",
    [HEADER_origin] = "Origin",
    [HEADER_wanted] = "Access-Control-Request-Headers",
    [HEADER_accept] = "Accept",
    [HEADER_expect] = "Expect",
    [HEADER_id] = "X-Request-Id",
    [HEADER_user] = "X-Interpose-User",
};

/* RFC 9110's tchar. */
#define TOKEN_BYTES \
    "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

bool headers_are_plain(const char *name, const char *value)
{
    return *name && !name[strspn(name, TOKEN_BYTES)] && !strpbrk(value, "\r\n");
}

static const char *value_of(const struct headers *h, enum header which)
{
    return h->value[which] ? h->value[which] : "";
}

/* Several Accept headers are one list by the standard; of the others, each would be read another
 * way by somebody. */
static bool check_counts(const struct headers *h, struct err *e)
{
    for (int i = 0; i < HEADER_COUNT; i++) {
        if (h->count[i] > 1 && i != HEADER_accept)
            return err_set(e, ERR_header, "%d %s headers, at most one is clear", h->count[i],
                           header_name[i]);
    }
    if (h->count[HEADER_length] && h->count[HEADER_framing])
        return err_set(e, ERR_header, "both Content-Length and Transfer-Encoding are given");
    return true;
}

static bool check_uri(const struct headers *h, struct err *e)
{
    if (strcmp(h->version, "HTTP/1.1") != 0 && strcmp(h->version, "HTTP/1.0") != 0)
        return err_set(e, ERR_header, "the request line must end in HTTP/1.1");
    if (h->uri_is_cut || strstr(h->uri, "%00"))
        return err_set(e, ERR_header, "the path holds a NUL byte, or more than one space ends it");
    return true;
}

static bool check_lines(const struct headers *h, struct err *e)
{
    if (h->is_broken)
        return err_set(e, ERR_header,
                       "each header must be one line that ends in CR LF, its name a token, its "
                       "value without CR, LF and NUL");
    return true;
}

int64_t headers_length(const struct headers *h)
{
    return h->count[HEADER_length] ? strtoll(value_of(h, HEADER_length), NULL, 10) : -1;
}

static bool check_length(const struct headers *h, int64_t bytes_max, struct err *e)
{
    const char *text = value_of(h, HEADER_length);
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || text[digits])
        return err_set(e, ERR_header, "Content-Length must be a plain decimal number");
    if (digits > 18 || headers_length(h) > bytes_max)
        return err_set(e, ERR_limit, "the body has %.20s bytes, at most %lld are read (--body-mb)",
                       text, (long long)bytes_max);
    return true;
}

static bool check_size(const struct headers *h, struct err *e)
{
    const size_t bytes = strlen(h->uri) + h->bytes;
    if (bytes > HEADER_BYTES_MAX)
        return err_set(e, ERR_limit, "the path and the headers have %zu bytes, at most %d are read",
                       bytes, HEADER_BYTES_MAX);
    return true;
}

bool headers_check_framing(const struct headers *h, const struct headers_policy *p, struct err *e)
{
    if (!check_size(h, e) || !check_uri(h, e) || !check_lines(h, e) || !check_counts(h, e))
        return false;
    if (h->count[HEADER_framing] && strcasecmp(value_of(h, HEADER_framing), "chunked") != 0)
        return err_set(e, ERR_encoding, "of Transfer-Encoding only \"chunked\" is known here");
    if (h->count[HEADER_length])
        return check_length(h, p->body_bytes_max, e);
    if (strcmp(h->method, "POST") == 0 && !h->count[HEADER_framing])
        return err_set(e, ERR_length, "a POST needs Content-Length or Transfer-Encoding: chunked");
    return true;
}

static bool names_host(const char *host, size_t length, const char *name)
{
    return strlen(name) == length && strncasecmp(host, name, length) == 0;
}

static bool host_is_ours(const char *host, const char *listening)
{
    if (strcmp(listening, "0.0.0.0") == 0 || strcmp(listening, "::") == 0)
        return true;
    const char *bracket = *host == '[' ? strchr(host, ']') : NULL;
    const char *port = bracket ? bracket + 1 : host + strcspn(host, ":");
    size_t length = (size_t)(port - host);
    if (*port && (*port != ':' || port[1 + strspn(port + 1, "0123456789")]))
        return false;
    if (names_host(host, length, "127.0.0.1") || names_host(host, length, "localhost") ||
        names_host(host, length, "[::1]") || names_host(host, length, listening))
        return true;
    return bracket && names_host(host + 1, length - 2, listening);
}

static bool check_host(const struct headers *h, const struct headers_policy *p, struct err *e)
{
    if (!h->count[HEADER_host]) {
        if (strcmp(h->version, "HTTP/1.0") == 0)
            return true;
        return err_set(e, ERR_header, "HTTP/1.1 needs a Host header");
    }
    if (!host_is_ours(value_of(h, HEADER_host), p->host))
        return err_set(e, ERR_misdirected,
                       "Host is \"%.100s\", and this server is %.100s: call it "
                       "by that name, or start it with --host 0.0.0.0",
                       value_of(h, HEADER_host), p->host);
    return true;
}

bool headers_origin_is_listed(const struct headers *h, const struct headers_policy *p)
{
    if (!h->count[HEADER_origin])
        return false;
    const char *origin = value_of(h, HEADER_origin), *at = p->allow_origin;
    if (strcmp(at, "*") == 0)
        return true;
    while (*at) {
        size_t length = strcspn(at, ",");
        if (length == strlen(origin) && strncasecmp(at, origin, length) == 0)
            return true;
        at += length + strspn(at + length, ", ");
    }
    return false;
}

const char *headers_for_pages(const struct headers *h)
{
    const char *wanted = value_of(h, HEADER_wanted);
    const size_t length = strspn(wanted, ", " TOKEN_BYTES);
    if (*wanted && length <= WANTED_BYTES_MAX && !wanted[length])
        return wanted;
    return "Content-Type, X-Request-Id, X-Interpose-User";
}

/* A page that this server itself sent: its origin is "http://" and the Host that was checked. */
static bool origin_is_ours(const struct headers *h)
{
    const char *origin = value_of(h, HEADER_origin);
    return strncmp(origin, "http://", 7) == 0 &&
           strcasecmp(origin + 7, value_of(h, HEADER_host)) == 0;
}

bool headers_check_sender(const struct headers *h, const struct headers_policy *p, struct err *e)
{
    if (!check_host(h, p, e))
        return false;
    if (h->count[HEADER_origin] && !origin_is_ours(h) && !headers_origin_is_listed(h, p))
        return err_set(e, ERR_origin,
                       "a page of \"%.100s\" may not call this server: start it "
                       "with --allow-origin if it should",
                       value_of(h, HEADER_origin));
    if (h->count[HEADER_coding] && strcasecmp(value_of(h, HEADER_coding), "identity") != 0)
        return err_set(e, ERR_media,
                       "the body is compressed (Content-Encoding: %.40s): send it as it is",
                       value_of(h, HEADER_coding));
    return true;
}
