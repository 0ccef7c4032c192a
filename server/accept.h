/* Media types: what a body is, and what a client wants to read. */
#pragma once
#include "../protocol/decode.h"
#include "../protocol/encode.h"

/* From Content-Type, whose parameters do not matter. */
bool accept_body(enum media *media, const char *content_type, struct err *e);

/* From Accept: the kind that the client likes most, of equals the one that it names first. JSON
 * where it does not mind. */
bool accept_reply(enum reply_media *media, const char *accept, struct err *e);
