#include "options.h"
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum option_kind {
    OPTION_text,
    OPTION_number,
    OPTION_choice
};

static const struct option {
    const char *field;
    enum option_kind kind;
    size_t offset; /* in struct options */
    const char *initial;
    int64_t number, low, high; /* of a number */
    const char *takes;         /* for --help; of a choice, the choices */
    const char *help;
} rows[] = {
#define TEXT(field, initial, takes, help) \
    {#field, OPTION_text, offsetof(struct options, field), initial, 0, 0, 0, takes, help},
#define NUMBER(field, initial, low, high, takes, help) \
    {#field, OPTION_number, offsetof(struct options, field), "", initial, low, high, takes, help},
#define CHOICE(field, initial, choices, help) \
    {#field, OPTION_choice, offsetof(struct options, field), initial, 0, 0, 0, choices, help},
#include "options.def"
#undef TEXT
#undef NUMBER
#undef CHOICE
};

enum {
    N_ROWS = sizeof rows / sizeof rows[0],
    NAME_SIZE = 64
};

/* "--model-name" for the field model_name. */
static const char *flag_of(char *buffer, const struct option *r)
{
    snprintf(buffer, NAME_SIZE, "--%s", r->field);
    for (char *c = buffer; *c; c++)
        *c = *c == '_' ? '-' : *c;
    return buffer;
}

/* "INTERPOSED_MODEL_NAME": INTERPOSE_HOST is the client's, and another thing. */
static const char *variable_of(char *buffer, const struct option *r)
{
    snprintf(buffer, NAME_SIZE, "INTERPOSED_%s", r->field);
    for (char *c = buffer; *c; c++)
        *c = (char)toupper((unsigned char)*c);
    return buffer;
}

static bool is_choice(const char *value, const char *choices)
{
    size_t length = strcspn(value, "|");
    if (length == 0 || value[length])
        return false;
    for (const char *c = choices; c; c = strchr(c, '|') ? strchr(c, '|') + 1 : NULL) {
        if (strncmp(c, value, length) == 0 && (c[length] == '|' || c[length] == '\0'))
            return true;
    }
    return false;
}

/* `said` is how the operator wrote it: the flag or the variable. */
static bool set_number(int64_t *out, const struct option *r, const char *said, const char *value,
                       struct err *e)
{
    char *end;
    errno = 0;
    long long number = strtoll(value, &end, 10);
    if (end == value || *end || errno || number < r->low || number > r->high)
        return err_set(e, ERR_value,
                       "%s is \"%.40s\", and must be a whole number from %lld to %lld", said, value,
                       (long long)r->low, (long long)r->high);
    *out = number;
    return true;
}

static bool set_value(struct options *o, const struct option *r, const char *said,
                      const char *value, struct err *e)
{
    void *field = (char *)o + r->offset;
    if (r->kind == OPTION_number)
        return set_number(field, r, said, value, e);
    if (r->kind == OPTION_choice && !is_choice(value, r->takes))
        return err_set(e, ERR_value, "%s is \"%.40s\", and must be one of %s", said, value,
                       r->takes);
    *(const char **)field = value;
    return true;
}

static void set_initial(struct options *o)
{
    for (int i = 0; i < N_ROWS; i++) {
        void *field = (char *)o + rows[i].offset;
        if (rows[i].kind == OPTION_number)
            *(int64_t *)field = rows[i].number;
        else
            *(const char **)field = rows[i].initial;
    }
}

/* Kubernetes and Docker tell every container of a service that is called "interposed" in
 * INTERPOSED_PORT, as tcp://10.0.0.1:8000: a place to connect to, and not meant for us. */
static bool is_set(const char *value)
{
    static const char *const services[] = {"tcp://", "udp://", "sctp://"};
    for (size_t i = 0; value && i < sizeof services / sizeof *services; i++) {
        if (strncmp(value, services[i], strlen(services[i])) == 0)
            return false;
    }
    return value && *value;
}

/* Theirs as well: INTERPOSED_SERVICE_HOST, INTERPOSED_PORT_8000_TCP_ADDR, INTERPOSED_ENV_PATH. */
static bool is_of_service(const char *name)
{
    const char *port = strstr(name, "_PORT_");
    return strstr(name, "_SERVICE_") || strstr(name, "_ENV_") ||
           (port && isdigit((unsigned char)port[strlen("_PORT_")]));
}

static bool read_environment(struct options *o, struct err *e)
{
    for (int i = 0; i < N_ROWS; i++) {
        char variable[NAME_SIZE];
        const char *value = getenv(variable_of(variable, &rows[i]));
        if (is_set(value) && !set_value(o, &rows[i], variable, value, e))
            return false;
    }
    return true;
}

/* The spelling of the row that is nearest to `name`, and how far it is. */
static int find_nearest(char *nearest, const char *name,
                        const char *(*spell)(char *, const struct option *))
{
    int best = INT_MAX;
    for (int i = 0; i < N_ROWS; i++) {
        char candidate[NAME_SIZE];
        spell(candidate, &rows[i]);
        int distance = text_distance(name, strlen(name), candidate, strlen(candidate));
        if (distance < best) {
            best = distance;
            memcpy(nearest, candidate, sizeof candidate);
        }
    }
    return best;
}

static bool refuse_unknown(const char *flag, struct err *e)
{
    char nearest[NAME_SIZE];
    const int distance = find_nearest(nearest, flag, flag_of);
    const bool is_help = text_distance(flag, strlen(flag), "--help", 6) <= distance;
    return err_set(e, ERR_unknown,
                   "there is no option %.60s; the nearest is %s, and --help lists all", flag,
                   is_help ? "--help" : nearest);
}

static const struct option *find_flag(const char *argument, size_t length)
{
    for (int i = 0; i < N_ROWS; i++) {
        char flag[NAME_SIZE];
        flag_of(flag, &rows[i]);
        if (strlen(flag) == length && memcmp(flag, argument, length) == 0)
            return &rows[i];
    }
    return NULL;
}

/* One option, as "--port 8000" or "--port=8000"; `*i` moves to its last argument. */
static bool read_flag(struct options *o, int *i, int argc, char **argv, struct err *e)
{
    char *argument = argv[*i];
    size_t length = strcspn(argument, "=");
    const struct option *r = find_flag(argument, length);
    if (!r)
        return refuse_unknown(argument, e);
    char flag[NAME_SIZE];
    flag_of(flag, r);
    if (argument[length] == '=')
        return set_value(o, r, flag, argument + length + 1, e);
    if (*i + 1 == argc)
        return err_set(e, ERR_value, "%s needs a value: %s", flag, r->takes);
    return set_value(o, r, flag, argv[++*i], e);
}

bool options_read(struct options *o, enum options_wish *wish, int argc, char **argv, struct err *e)
{
    *wish = WISH_serve;
    set_initial(o);
    if (!read_environment(o, e))
        return false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            *wish = WISH_help;
        else if (strcmp(argv[i], "--version") == 0)
            *wish = WISH_version;
        else if (!read_flag(o, &i, argc, argv, e))
            return false;
    }
    return true;
}

const char *options_unknown_variables(struct arena *a)
{
    const char *text = NULL;
    for (char **entry = environ; *entry; entry++) {
        const size_t length = strcspn(*entry, "=");
        const char *name = arena_copy_text(a, *entry, length);
        char nearest[NAME_SIZE];
        if (strncmp(name, "INTERPOSED_", strlen("INTERPOSED_")) != 0 || is_of_service(name) ||
            !is_set(getenv(name)) || find_nearest(nearest, name, variable_of) == 0)
            continue;
        text = arena_format(a, "%s%s%.60s (the nearest is %s)", text ? text : "", text ? ", " : "",
                            name, nearest);
    }
    return text;
}

static const char *help_row(const struct option *r, struct arena *a)
{
    char flag[NAME_SIZE], variable[NAME_SIZE];
    const char *head = arena_format(a, "  %s %s", flag_of(flag, r), r->takes);
    const char *text =
        arena_format(a, "%s\n      %s\n      (%s", head, r->help, variable_of(variable, r));
    if (r->kind == OPTION_number)
        return arena_format(a, "%s, %lld to %lld, default %lld)\n", text, (long long)r->low,
                            (long long)r->high, (long long)r->number);
    return arena_format(a, "%s%s%s)\n", text, *r->initial ? ", default " : "", r->initial);
}

const char *options_help(struct arena *a)
{
    const char *text = "usage: interposed [--option value]...\n\n"
                       "Serves interpretability experiments on GPT-2 over HTTP: POST /v1/run.\n\n";
    for (int i = 0; i < N_ROWS; i++)
        text = arena_format(a, "%s%s", text, help_row(&rows[i], a));
    return arena_format(a,
                        "%s  --help, --version\n\n"
                        "Each option can be set in the environment by the name in brackets; the "
                        "command line wins.\nAn INTERPOSED_PORT that begins with tcp:// is where "
                        "Kubernetes or Docker say that a\nservice is, and not heeded.\n",
                        text);
}
