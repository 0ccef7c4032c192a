#include "accept.h"
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Parameters do not count, on neither side. */
static bool is_type(const char *text, const char *type)
{
    const size_t length = strcspn(type, ";");
    return strncasecmp(text, type, length) == 0 && strchr(" \t;,", text[length]);
}

bool accept_body(enum media *media, const char *content_type, struct err *e)
{
    const char *type = content_type ? content_type : "";
    if (is_type(type, "application/json"))
        *media = MEDIA_json;
    else if (is_type(type, "application/msgpack"))
        *media = MEDIA_msgpack;
    else
        return err_set(e, ERR_media,
                       "Content-Type is \"%.60s\": send application/json or application/msgpack",
                       type);
    return true;
}

static const char *skip_blank(const char *text)
{
    return text + strspn(text, " \t,");
}

/* The weight of one range of the list, 1 if it has none. */
static double weight_of(const char *range, size_t length)
{
    for (const char *at = range; (at = memchr(at, ';', length - (size_t)(at - range)));) {
        at = at + 1 + strspn(at + 1, " \t");
        if ((*at == 'q' || *at == 'Q') && at[1] == '=')
            return strtod(at + 2, NULL);
    }
    return 1;
}

static bool covers(const char *range, enum reply_media media)
{
    const char *type = reply_media_type[media];
    if (is_type(range, type) || is_type(range, "*/*"))
        return true;
    const size_t slash = strcspn(type, "/") + 1;
    return strncasecmp(range, type, slash) == 0 && range[slash] == '*';
}

static bool is_exact(const char *range, enum reply_media media)
{
    return is_type(range, reply_media_type[media]);
}

/* JSON first: it is what a range such as application/star means. */
static const enum reply_media order[] = {REPLY_json, REPLY_msgpack, REPLY_ndjson, REPLY_text};

/* The best media of a range, or REPLY_MEDIA_COUNT; `refused` has a bit for each of weight 0. */
static enum reply_media media_of(const char *range, unsigned refused)
{
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        if (covers(range, order[i]) && (is_exact(range, order[i]) || !(refused >> order[i] & 1)))
            return order[i];
    }
    return REPLY_MEDIA_COUNT;
}

static unsigned find_refused(const char *accept)
{
    unsigned refused = 0;
    for (const char *at = skip_blank(accept); *at; at = skip_blank(at + strcspn(at, ","))) {
        for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
            if (is_exact(at, order[i]) && weight_of(at, strcspn(at, ",")) <= 0)
                refused |= 1u << order[i];
        }
    }
    return refused;
}

bool accept_reply(enum reply_media *media, const char *accept, struct err *e)
{
    *media = REPLY_json;
    if (!accept || !*skip_blank(accept))
        return true;
    const unsigned refused = find_refused(accept);
    double best = 0;
    for (const char *at = skip_blank(accept); *at; at = skip_blank(at + strcspn(at, ","))) {
        const enum reply_media found = media_of(at, refused);
        const double weight = weight_of(at, strcspn(at, ","));
        if (found == REPLY_MEDIA_COUNT || !(weight > best))
            continue;
        *media = found;
        best = weight;
    }
    if (best > 0)
        return true;
    return err_set(e, ERR_accept,
                   "Accept is \"%.60s\", and a reply can be application/json, "
                   "application/msgpack, application/x-ndjson or text/plain",
                   accept);
}
