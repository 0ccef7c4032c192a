/* What the operator chose, read once at start from the command line and the environment. */
#pragma once
#include "../protocol/base.h"
#include "../protocol/limits.h"

struct options {
#define TEXT(field, initial, takes, help) const char *field;
#define NUMBER(field, initial, low, high, takes, help) int64_t field;
#define CHOICE(field, initial, choices, help) const char *field;
#include "options.def"
#undef TEXT
#undef NUMBER
#undef CHOICE
};

enum options_wish {
    WISH_serve,
    WISH_help,
    WISH_version
};

/* Texts are borrowed from argv and the environment. A refusal says the option, the value and what
 * would be right. */
bool options_read(struct options *o, enum options_wish *wish, int argc, char **argv, struct err *e);

/* What --help prints. */
const char *options_help(struct arena *a);

/* Variables that are called INTERPOSED_... and are no option, each with the nearest that is: a text
 * for the log, or NULL. */
const char *options_unknown_variables(struct arena *a);
