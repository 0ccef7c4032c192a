/* Three parts: loading, cutting a text into words, and merging a word's bytes into tokens. */
#include "bpe.h"

#include <jansson.h>
#include <string.h>
#include <unistd.h>

#include "limits.h"
#include "unicode.h"

struct span {
    const char *text;
    size_t size;
};

/* Two neighbours and what they become. Its index in bpe.merges is its rank: the lowest goes first.
 */
struct merge {
    int32_t left;
    int32_t right;
    int32_t into;
};

/* Tokens that are looked for in the text itself, before it is cut into words. */
struct added {
    int n;
    int32_t ids[BPE_ADDED_MAX]; /* the longest first */
    bool starts[256];           /* the bytes that any of them starts with */
};

struct bpe {
    struct arena arena;
    int n_tokens;
    int n_merges;
    size_t token_size_max;
    struct span *tokens;  /* by id */
    struct merge *merges; /* by rank */
    int32_t *slots;       /* hash table: from a pair to its rank, or NONE */
    int slots_mask;
    int32_t byte_ids[256];   /* the token that is this byte alone */
    struct added added;      /* looked for first */
    struct added normalized; /* looked for in the text between those */
};

enum {
    NONE = INT32_MAX, /* the rank of a pair that does not merge */
};

/* ---- Characters ---- */

/* The first character of a text, and how many bytes it has; -1 if it is not UTF-8. */
static int32_t character(size_t *used, const char *text, size_t size)
{
    const unsigned char *t = (const unsigned char *)text;
    *used = t[0] < 0x80 ? 1 : t[0] < 0xE0 ? 2 : t[0] < 0xF0 ? 3 : 4;
    if (t[0] < 0x80)
        return t[0];
    if (t[0] < 0xC2 || t[0] > 0xF4 || *used > size)
        return -1;
    int32_t c = t[0] & (0x7F >> *used);
    for (size_t i = 1; i < *used; i++) {
        if ((t[i] & 0xC0) != 0x80)
            return -1;
        c = c << 6 | (t[i] & 0x3F);
    }
    const int32_t least = *used == 4 ? 0x10000 : *used == 3 ? 0x800 : 0x80;
    return c < least || c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF) ? -1 : c;
}

static enum unicode_kind kind_of_ascii(int32_t c)
{
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
        return UC_letter;
    if (c >= '0' && c <= '9')
        return UC_number;
    return c == ' ' || (c >= '\t' && c <= '\r') ? UC_space : UC_other;
}

static enum unicode_kind kind_of(int32_t c)
{
    if (c < 0x80)
        return kind_of_ascii(c);
    const int n = sizeof unicode_ranges / sizeof *unicode_ranges;
    int low = 0; /* the ranges before it end before c */
    for (int high = n; low < high;) {
        const int middle = (low + high) / 2;
        if (unicode_ranges[middle].last < c)
            low = middle + 1;
        else
            high = middle;
    }
    return low < n && unicode_ranges[low].first <= c ? unicode_ranges[low].kind : UC_other;
}

/* GPT-2's files spell each byte as a printable character: as itself, or as one from U+0100 on. This
 * is the byte that a character spells, or -1. */
static int spelled_byte(int32_t c)
{
    if (c >= 0x100 && c <= 0x120)
        return c - 0x100;
    if (c >= 0x121 && c <= 0x142)
        return c - 0x121 + 0x7F;
    if (c == 0x143)
        return 0xAD;
    const bool itself = (c > 0x20 && c < 0x7F) || (c > 0xA0 && c <= 0xFF && c != 0xAD);
    return itself ? c : -1;
}

/* ---- Loading ---- */

/* What the steps of loading share. */
struct loader {
    struct bpe *bpe;
    json_t *vocab; /* from a token's spelling to its id */
    const char *vocab_file;
    const char *merge; /* how errors name a merge: "merges.txt, line" */
};

/* The slot that holds this pair, or where it would be put. */
static int32_t *slot_of(const struct bpe *b, int32_t left, int32_t right)
{
    const uint64_t mixed = ((uint64_t)left << 32 | (uint64_t)right) * 0x9E3779B97F4A7C15u;
    int i = (int)(mixed >> 40) & b->slots_mask;
    for (; b->slots[i] != NONE; i = (i + 1) & b->slots_mask) {
        const struct merge *m = &b->merges[b->slots[i]];
        if (m->left == left && m->right == right)
            break;
    }
    return &b->slots[i];
}

/* Writes the bytes that a spelling stands for, and returns how many. One that has any other
 * character stands for itself, as in HF's decoder. */
static size_t unspell(char *bytes, struct span spelling)
{
    size_t n = 0;
    for (size_t i = 0, used; i < spelling.size; i += used) {
        const int byte = spelled_byte(character(&used, spelling.text + i, spelling.size - i));
        if (byte < 0) {
            memcpy(bytes, spelling.text, spelling.size);
            return spelling.size;
        }
        bytes[n++] = (char)byte;
    }
    return n;
}

static void set_token(struct bpe *b, int id, const char *text, size_t size)
{
    b->tokens[id] = (struct span){text, size};
    if (size > b->token_size_max)
        b->token_size_max = size;
}

/* The id of this spelling, or -1. */
static int find_token(const struct loader *l, struct span spelling)
{
    const json_t *id = json_object_getn(l->vocab, spelling.text, spelling.size);
    return id ? (int)json_integer_value(id) : -1;
}

static bool check_token(const struct loader *l, const json_t *id, size_t size, struct err *e)
{
    const int n = l->bpe->n_tokens;
    if (!json_is_integer(id))
        return err_set(e, ERR_file, "%s: a token's id is not an integer", l->vocab_file);
    const json_int_t value = json_integer_value(id);
    if (value < 0 || value >= n)
        return err_set(e, ERR_file, "%s: a token has id %lld, but %d tokens need ids 0 to %d",
                       l->vocab_file, (long long)value, n, n - 1);
    if (l->bpe->tokens[value].text)
        return err_set(e, ERR_file, "%s: two tokens have id %d", l->vocab_file, (int)value);
    if (size == 0 || size > BPE_TOKEN_BYTES_MAX)
        return err_set(e, ERR_file, "%s: token %d has %zu bytes, not 1 to %d", l->vocab_file,
                       (int)value, size, BPE_TOKEN_BYTES_MAX);
    return true;
}

static bool find_bytes(const struct loader *l, struct err *e)
{
    for (int32_t c = 0; c <= 0x143; c++) {
        const int byte = spelled_byte(c);
        if (byte < 0)
            continue;
        const char utf8[] = {(char)(0xC0 | c >> 6), (char)(0x80 | (c & 0x3F))};
        const char ascii = (char)c;
        const int id = find_token(l, c < 0x80 ? (struct span){&ascii, 1} : (struct span){utf8, 2});
        if (id < 0)
            return err_set(e, ERR_file, "%s: no token is the byte 0x%02X alone", l->vocab_file,
                           byte);
        l->bpe->byte_ids[byte] = id;
    }
    return true;
}

static size_t spellings_size(json_t *vocab)
{
    size_t sum = 0;
    for (void *i = json_object_iter(vocab); i; i = json_object_iter_next(vocab, i))
        sum += json_object_iter_key_len(i);
    return sum;
}

static bool load_tokens(const struct loader *l, struct err *e)
{
    struct bpe *b = l->bpe;
    const size_t n = json_object_size(l->vocab);
    if (n > BPE_TOKENS_MAX)
        return err_set(e, ERR_file, "%s: %zu tokens, at most %d are supported", l->vocab_file, n,
                       BPE_TOKENS_MAX);
    b->n_tokens = (int)n;
    b->tokens = ARENA_ARRAY(&b->arena, struct span, n + BPE_ADDED_MAX);

    char *bytes = arena_alloc(&b->arena, spellings_size(l->vocab));
    for (void *i = json_object_iter(l->vocab); i; i = json_object_iter_next(l->vocab, i)) {
        const struct span spelling = {json_object_iter_key(i), json_object_iter_key_len(i)};
        const json_t *id = json_object_iter_value(i);
        if (!check_token(l, id, spelling.size, e))
            return false;
        const size_t size = unspell(bytes, spelling);
        set_token(b, (int)json_integer_value(id), bytes, size);
        bytes += size;
    }
    return find_bytes(l, e);
}

static void make_room_for_merges(struct bpe *b, size_t n)
{
    int slots = 16;
    while ((size_t)slots < 2 * n)
        slots *= 2;
    b->merges = ARENA_ARRAY(&b->arena, struct merge, n);
    b->slots = ARENA_ARRAY(&b->arena, int32_t, slots);
    b->slots_mask = slots - 1;
    for (int i = 0; i < slots; i++)
        b->slots[i] = NONE;
}

/* Adds the merge of the next rank; `number` is its line or its index in the file. */
static bool load_merge(const struct loader *l, int number, struct span left, struct span right,
                       struct err *e)
{
    const int left_id = find_token(l, left);
    const int right_id = find_token(l, right);
    if (left_id < 0 || right_id < 0)
        return err_set(e, ERR_file, "%s %d: the %s part is not a token of the vocabulary", l->merge,
                       number, left_id < 0 ? "first" : "second");

    char both[2 * BPE_TOKEN_BYTES_MAX];
    memcpy(both, left.text, left.size);
    memcpy(both + left.size, right.text, right.size);
    const int into = find_token(l, (struct span){both, left.size + right.size});
    if (into < 0)
        return err_set(e, ERR_file, "%s %d: the two together are not a token of the vocabulary",
                       l->merge, number);

    struct bpe *b = l->bpe;
    int32_t *slot = slot_of(b, left_id, right_id);
    if (*slot != NONE)
        return err_set(e, ERR_file, "%s %d: this pair is already the merge of rank %d", l->merge,
                       number, (int)*slot);
    *slot = b->n_merges;
    b->merges[b->n_merges++] = (struct merge){left_id, right_id, into};
    return true;
}

/* Older files write a merge as "a b", newer ones as ["a", "b"]. */
static bool split_merge(struct span *left, struct span *right, struct span line)
{
    const char *space = memchr(line.text, ' ', line.size);
    if (!space)
        return false;
    *left = (struct span){line.text, (size_t)(space - line.text)};
    *right = (struct span){space + 1, line.size - left->size - 1};
    return !memchr(right->text, ' ', right->size);
}

static struct span span_of(const json_t *string)
{
    return (struct span){json_string_value(string), json_string_length(string)};
}

static bool read_merge(struct span *left, struct span *right, const json_t *merge)
{
    if (json_is_string(merge))
        return split_merge(left, right, span_of(merge));
    const json_t *first = json_array_get(merge, 0), *second = json_array_get(merge, 1);
    if (json_array_size(merge) != 2 || !json_is_string(first) || !json_is_string(second))
        return false;
    *left = span_of(first);
    *right = span_of(second);
    return true;
}

static bool check_merges(const struct loader *l, size_t n, struct err *e)
{
    if (n > BPE_MERGES_MAX)
        return err_set(e, ERR_file, "%s %zu: at most %d merges are supported", l->merge, n,
                       BPE_MERGES_MAX);
    return true;
}

static bool load_merges_json(const struct loader *l, const json_t *merges, struct err *e)
{
    if (!json_is_array(merges))
        return err_set(e, ERR_file, "tokenizer.json: model.merges must be an array");
    const size_t n = json_array_size(merges);
    if (!check_merges(l, n, e))
        return false;
    make_room_for_merges(l->bpe, n);
    for (int i = 0; i < (int)n; i++) {
        struct span left, right;
        if (!read_merge(&left, &right, json_array_get(merges, (size_t)i)))
            return err_set(e, ERR_file, "%s %d: not a pair of tokens", l->merge, i);
        if (!load_merge(l, i, left, right, e))
            return false;
    }
    return true;
}

/* Cuts off the first line, without its "\n" or "\r\n". */
static struct span next_line(struct span *rest)
{
    const char *end = memchr(rest->text, '\n', rest->size);
    struct span line = {rest->text, end ? (size_t)(end - rest->text) : rest->size};
    const size_t used = line.size + (end ? 1 : 0);
    rest->text += used;
    rest->size -= used;
    if (line.size > 0 && line.text[line.size - 1] == '\r')
        line.size--;
    return line;
}

static size_t count_lines(struct span text)
{
    size_t n = 0;
    for (; text.size > 0; n++)
        next_line(&text);
    return n;
}

static bool load_merges_text(const struct loader *l, struct span text, struct err *e)
{
    const size_t n = count_lines(text);
    if (!check_merges(l, n, e))
        return false;
    make_room_for_merges(l->bpe, n);
    for (int number = 1; text.size > 0; number++) {
        const struct span line = next_line(&text);
        if (line.size >= 8 && !memcmp(line.text, "#version", 8))
            continue;
        struct span left, right;
        if (!split_merge(&left, &right, line))
            return err_set(e, ERR_file, "%s %d: not two tokens with one space between", l->merge,
                           number);
        if (!load_merge(l, number, left, right, e))
            return false;
    }
    return true;
}

/* Keeps the longest first: where several match, HF takes the longest. */
static void insert_added(struct bpe *b, struct added *s, int id)
{
    int i = s->n++;
    for (; i > 0 && b->tokens[s->ids[i - 1]].size < b->tokens[id].size; i--)
        s->ids[i] = s->ids[i - 1];
    s->ids[i] = id;
    s->starts[(unsigned char)b->tokens[id].text[0]] = true;
}

/* Null, false, empty or not there. */
static bool is_off(const json_t *v)
{
    return !v || json_is_null(v) || json_is_false(v) ||
           (json_is_string(v) && json_string_length(v) == 0);
}

static bool is_same(struct span x, struct span y)
{
    return x.size == y.size && !memcmp(x.text, y.text, x.size);
}

static bool check_added(const struct loader *l, int i, const json_t *token, struct err *e)
{
    static const char *const unsupported[] = {"lstrip", "rstrip", "single_word"};
    for (size_t k = 0; k < sizeof unsupported / sizeof *unsupported; k++)
        if (!is_off(json_object_get(token, unsupported[k])))
            return err_set(e, ERR_file, "tokenizer.json, added_tokens %d: %s must be false", i,
                           unsupported[k]);

    const json_t *content = json_object_get(token, "content");
    const size_t size = json_string_length(content);
    if (size == 0 || size > BPE_TOKEN_BYTES_MAX)
        return err_set(e, ERR_file,
                       "tokenizer.json, added_tokens %d: content must be a string of 1 to %d bytes",
                       i, BPE_TOKEN_BYTES_MAX);
    const int known = find_token(l, span_of(content));
    const json_t *id = json_object_get(token, "id");
    const int expected = known < 0 ? l->bpe->n_tokens : known;
    if (!json_is_integer(id) || json_integer_value(id) != expected)
        return err_set(e, ERR_file, "tokenizer.json, added_tokens %d: id must be %d", i, expected);
    if (known >= 0 && !is_same(l->bpe->tokens[known], span_of(content)))
        return err_set(
            e, ERR_file,
            "tokenizer.json, added_tokens %d: content is how the vocabulary spells other "
            "bytes",
            i);
    return true;
}

static bool load_added(const struct loader *l, int i, const json_t *token, struct err *e)
{
    if (!check_added(l, i, token, e))
        return false;
    struct bpe *b = l->bpe;
    struct added *s =
        json_is_true(json_object_get(token, "normalized")) ? &b->normalized : &b->added;
    const struct span content = span_of(json_object_get(token, "content"));
    const int id = (int)json_integer_value(json_object_get(token, "id"));
    for (int k = 0; k < s->n; k++)
        if (s->ids[k] == id)
            return err_set(e, ERR_file, "tokenizer.json, added_tokens %d: id %d is there twice", i,
                           id);
    if (id == b->n_tokens)
        set_token(b, b->n_tokens++, arena_copy_text(&b->arena, content.text, content.size),
                  content.size);
    insert_added(b, s, id);
    return true;
}

static bool load_added_tokens(const struct loader *l, const json_t *tokens, struct err *e)
{
    const size_t n = json_array_size(tokens);
    if (!is_off(tokens) && !json_is_array(tokens))
        return err_set(e, ERR_file, "tokenizer.json: added_tokens must be an array");
    if (n > BPE_ADDED_MAX)
        return err_set(e, ERR_file, "tokenizer.json: %zu added_tokens, at most %d are supported", n,
                       BPE_ADDED_MAX);
    for (int i = 0; i < (int)n; i++)
        if (!load_added(l, i, json_array_get(tokens, (size_t)i), e))
            return false;
    return true;
}

/* What would change ids in a way that this file does not know, and so must be off. */
static bool check_settings(const json_t *root, const json_t *model, struct err *e)
{
    static const char *const in_root[] = {"normalizer", "truncation", "padding"};
    static const char *const in_model[] = {"dropout", "continuing_subword_prefix",
                                           "end_of_word_suffix", "ignore_merges"};
    for (size_t i = 0; i < sizeof in_root / sizeof *in_root; i++)
        if (!is_off(json_object_get(root, in_root[i])))
            return err_set(e, ERR_file, "tokenizer.json: %s must be null", in_root[i]);
    for (size_t i = 0; i < sizeof in_model / sizeof *in_model; i++)
        if (!is_off(json_object_get(model, in_model[i])))
            return err_set(e, ERR_file, "tokenizer.json: model.%s must be off", in_model[i]);
    return true;
}

static bool is_type(const json_t *object, const char *type)
{
    const char *found = json_string_value(json_object_get(object, "type"));
    return found && !strcmp(found, type);
}

/* HF writes a template that is the text alone for a tokenizer that adds nothing. */
static bool adds_nothing(const json_t *post_processor)
{
    if (is_off(post_processor) || is_type(post_processor, "ByteLevel"))
        return true;
    const json_t *single = json_object_get(post_processor, "single");
    return is_type(post_processor, "TemplateProcessing") && json_array_size(single) == 1 &&
           json_object_get(json_array_get(single, 0), "Sequence");
}

static bool check_parts(const json_t *root, const json_t *model, struct err *e)
{
    if (!json_is_object(json_object_get(model, "vocab")))
        return err_set(e, ERR_file, "tokenizer.json: model.vocab must be an object");
    if (json_object_get(model, "type") && !is_type(model, "BPE"))
        return err_set(e, ERR_file, "tokenizer.json: model.type must be BPE");
    const json_t *splitter = json_object_get(root, "pre_tokenizer");
    const json_t *use_regex = json_object_get(splitter, "use_regex");
    if (!is_type(splitter, "ByteLevel"))
        return err_set(e, ERR_file, "tokenizer.json: pre_tokenizer.type must be ByteLevel");
    if (!json_is_false(json_object_get(splitter, "add_prefix_space")))
        return err_set(e, ERR_file, "tokenizer.json: pre_tokenizer.add_prefix_space must be false");
    if (use_regex && !json_is_true(use_regex))
        return err_set(e, ERR_file, "tokenizer.json: pre_tokenizer.use_regex must be true");
    if (!adds_nothing(json_object_get(root, "post_processor")))
        return err_set(e, ERR_file, "tokenizer.json: post_processor must not add tokens");
    return true;
}

/* jansson's parser recurses, so the depth is bounded before it runs. */
static bool check_depth(const char *file, struct span json, struct err *e)
{
    int depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < json.size; i++) {
        const char c = json.text[i];
        if (quoted && c == '\\')
            i++;
        else if (c == '"')
            quoted = !quoted;
        else if (!quoted && (c == '[' || c == '{') && ++depth > DEPTH_MAX)
            return err_set(e, ERR_file, "%s: more than %d brackets inside each other at byte %zu",
                           file, DEPTH_MAX, i);
        else if (!quoted && (c == ']' || c == '}'))
            depth--;
    }
    return true;
}

/* NULL where the file is malformed. */
static json_t *parse_object(const char *file, struct span json, struct err *e)
{
    if (!check_depth(file, json, e))
        return NULL;
    json_error_t at;
    json_t *root = json_loadb(json.text, json.size, JSON_REJECT_DUPLICATES, &at);
    if (!root) {
        const char *near = strstr(at.text, " near ");
        err_set(e, ERR_file, "%s, line %d, column %d: %.*s", file, at.line, at.column,
                (int)(near ? (size_t)(near - at.text) : strlen(at.text)), at.text);
    } else if (!json_is_object(root)) {
        err_set(e, ERR_file, "%s: not a JSON object", file);
        json_decref(root);
        root = NULL;
    }
    return root;
}

static struct bpe *new_bpe(void)
{
    struct arena arena = {0};
    struct bpe *b = ARENA_NEW(&arena, struct bpe);
    b->arena = arena;
    return b;
}

static bool load_json(struct bpe *b, const json_t *root, struct err *e)
{
    const json_t *model = json_object_get(root, "model");
    const struct loader l = {
        .bpe = b,
        .vocab = json_object_get(model, "vocab"),
        .vocab_file = "tokenizer.json",
        .merge = "tokenizer.json, model.merges",
    };
    return check_settings(root, model, e) && check_parts(root, model, e) && load_tokens(&l, e) &&
           load_merges_json(&l, json_object_get(model, "merges"), e) &&
           load_added_tokens(&l, json_object_get(root, "added_tokens"), e);
}

static bool load_pair(struct bpe *b, json_t *vocab, struct span merges, struct err *e)
{
    const struct loader l = {
        .bpe = b, .vocab = vocab, .vocab_file = "vocab.json", .merge = "merges.txt, line"};
    if (!load_tokens(&l, e) || !load_merges_text(&l, merges, e))
        return false;
    /* These files do not say which tokens are added; GPT-2's class in transformers knows one. */
    const int end = find_token(&l, (struct span){"<|endoftext|>", 13});
    if (end >= 0)
        insert_added(b, &b->added, end);
    return true;
}

static bool hand_over(struct bpe **out, struct bpe *b, bool ok)
{
    *out = ok ? b : NULL;
    if (!ok)
        bpe_free(b);
    return ok;
}

bool bpe_parse_json(struct bpe **out, const char *tokenizer, size_t size, struct err *e)
{
    struct bpe *b = new_bpe();
    json_t *root = parse_object("tokenizer.json", (struct span){tokenizer, size}, e);
    const bool ok = root && load_json(b, root, e);
    json_decref(root);
    return hand_over(out, b, ok);
}

bool bpe_parse_pair(struct bpe **out, const char *vocab, size_t vocab_size, const char *merges,
                    size_t merges_size, struct err *e)
{
    struct bpe *b = new_bpe();
    json_t *root = parse_object("vocab.json", (struct span){vocab, vocab_size}, e);
    const bool ok = root && load_pair(b, root, (struct span){merges, merges_size}, e);
    json_decref(root);
    return hand_over(out, b, ok);
}

static bool read_part(struct span *out, const char *folder, const char *name, struct arena *a,
                      struct err *e)
{
    char *bytes;
    const char *path = arena_format(a, "%s/%s", folder, name);
    if (!read_file(&bytes, &out->size, path, TOKENIZER_BYTES_MAX, a, e))
        return false;
    out->text = bytes;
    return true;
}

static bool has(const char *folder, const char *name, struct arena *a)
{
    return access(arena_format(a, "%s/%s", folder, name), F_OK) == 0;
}

static bool load_folder(struct bpe **out, const char *folder, struct arena *a, struct err *e)
{
    struct span tokenizer, vocab, merges;
    if (has(folder, "tokenizer.json", a))
        return read_part(&tokenizer, folder, "tokenizer.json", a, e) &&
               bpe_parse_json(out, tokenizer.text, tokenizer.size, e);
    if (has(folder, "added_tokens.json", a))
        return err_set(e, ERR_file,
                       "added_tokens.json is supported only as part of a tokenizer.json");
    return read_part(&vocab, folder, "vocab.json", a, e) &&
           read_part(&merges, folder, "merges.txt", a, e) &&
           bpe_parse_pair(out, vocab.text, vocab.size, merges.text, merges.size, e);
}

bool bpe_load(struct bpe **out, const char *folder, struct err *e)
{
    struct arena files = {0};
    *out = NULL;
    const bool ok = load_folder(out, folder, &files, e);
    arena_free(&files);
    return ok;
}

void bpe_free(struct bpe *b)
{
    if (!b)
        return;
    struct arena arena = b->arena;
    arena_free(&arena);
}

int bpe_size(const struct bpe *b)
{
    return b->n_tokens;
}

/* ---- Cutting a text into words ---- */

/* How many bytes at the start of a text are of this kind. */
static size_t run_of(enum unicode_kind kind, struct span text)
{
    size_t n = 0;
    for (size_t used; n < text.size; n += used)
        if (kind_of(character(&used, text.text + n, text.size - n)) != kind)
            break;
    return n;
}

/* "'s", "'t", "'re", "'ve", "'m", "'ll" or "'d" at the start of a text: its bytes, or 0. */
static size_t contraction(struct span text)
{
    static const char *const all[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const size_t n = strlen(all[i]);
        if (n <= text.size && !memcmp(text.text, all[i], n))
            return n;
    }
    return 0;
}

/* Spaces before a word, except the last one, which belongs to the word or stands alone. */
static size_t spaces(struct span text)
{
    const size_t n = run_of(UC_space, text);
    if (n == text.size)
        return n;
    size_t last = n - 1;
    while ((text.text[last] & 0xC0) == 0x80)
        last--;
    return last > 0 ? last : n;
}

/* The size of the first word as GPT-2's regular expression finds it:
 * 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static size_t word(struct span text)
{
    const size_t short_form = contraction(text);
    if (short_form > 0)
        return short_form;
    const size_t space = text.text[0] == ' ' && text.size > 1 ? 1 : 0;
    const struct span body = {text.text + space, text.size - space};
    size_t used;
    const enum unicode_kind kind = kind_of(character(&used, body.text, body.size));
    return kind == UC_space ? spaces(text) : space + run_of(kind, body);
}

/* ---- Merging a word's bytes into tokens ---- */

/* A part of a word, in a list in the order of the text. A part that was merged into the one before
 * it has rank NONE and is never looked at again. */
struct part {
    int32_t id;
    int32_t before; /* -1 at the start */
    int32_t after;  /* -1 at the end */
    int32_t rank;   /* of the merge with the part after it, or NONE */
};

/* Room for one word. */
struct bench {
    struct arena arena;
    int capacity;
    struct part *parts;
    int n_heap;
    int64_t *heap; /* rank << 32 | index of the part; may name merges that are no longer there */
};

struct output {
    int32_t *ids;
    int n;
    int n_max;
};

static bool emit(struct output *o, int32_t id)
{
    if (o->n == o->n_max)
        return false;
    o->ids[o->n++] = id;
    return true;
}

/* A merge takes one entry from the heap and adds at most two, so that 2 a byte are enough. The
 * words of a text are no longer than the text, and so are the benches that were too short. */
static void reserve(struct bench *w, int n)
{
    if (n <= w->capacity)
        return;
    w->capacity = n < 64 ? 64 : n;
    w->parts = ARENA_ARRAY(&w->arena, struct part, w->capacity);
    w->heap = ARENA_ARRAY(&w->arena, int64_t, 2 * (size_t)w->capacity);
}

static void heap_push(struct bench *w, int64_t entry)
{
    assert(w->n_heap < 2 * w->capacity);
    int i = w->n_heap++;
    for (; i > 0 && w->heap[(i - 1) / 2] > entry; i = (i - 1) / 2)
        w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = entry;
}

static int64_t heap_pop(struct bench *w)
{
    const int64_t top = w->heap[0];
    const int64_t moved = w->heap[--w->n_heap];
    int i = 0;
    for (int child = 1; child < w->n_heap; child = 2 * i + 1) {
        if (child + 1 < w->n_heap && w->heap[child + 1] < w->heap[child])
            child++;
        if (w->heap[child] >= moved)
            break;
        w->heap[i] = w->heap[child];
        i = child;
    }
    w->heap[i] = moved;
    return top;
}

/* Looks up the merge of a part with the one after it. */
static void rate(const struct bpe *b, struct bench *w, int i)
{
    struct part *p = &w->parts[i];
    p->rank = p->after < 0 ? NONE : *slot_of(b, p->id, w->parts[p->after].id);
    if (p->rank != NONE)
        heap_push(w, (int64_t)p->rank << 32 | i);
}

static void join(const struct bpe *b, struct bench *w, int i)
{
    struct part *p = &w->parts[i];
    struct part *gone = &w->parts[p->after];
    p->id = b->merges[p->rank].into;
    p->after = gone->after;
    gone->rank = NONE;
    if (p->after >= 0)
        w->parts[p->after].before = i;
    rate(b, w, i);
    if (p->before >= 0)
        rate(b, w, p->before);
}

/* The merge of the lowest rank first, and of equal ones the leftmost. */
static bool encode_word(struct output *o, const struct bpe *b, struct bench *w, struct span text)
{
    const int n = (int)text.size;
    reserve(w, n);
    for (int i = 0; i < n; i++)
        w->parts[i] = (struct part){.id = b->byte_ids[(unsigned char)text.text[i]],
                                    .before = i - 1,
                                    .after = i + 1 < n ? i + 1 : -1};
    for (int i = 0; i < n; i++)
        rate(b, w, i);
    while (w->n_heap > 0) {
        const int64_t next = heap_pop(w);
        const int i = (int)(next & INT32_MAX);
        if (w->parts[i].rank == next >> 32)
            join(b, w, i);
    }
    for (int i = 0; i >= 0; i = w->parts[i].after)
        if (!emit(o, w->parts[i].id))
            return false;
    return true;
}

/* ---- Encoding and decoding ---- */

/* The added token at the start of a text, or -1. */
static int added_here(const struct bpe *b, const struct added *s, struct span text)
{
    if (!s->starts[(unsigned char)text.text[0]])
        return -1;
    for (int i = 0; i < s->n; i++) {
        const struct span token = b->tokens[s->ids[i]];
        if (token.size <= text.size && !memcmp(token.text, text.text, token.size))
            return s->ids[i];
    }
    return -1;
}

/* Cuts off an added token, and returns its id, or the text before the next one, and returns -1. */
static int cut(struct span *piece, const struct bpe *b, const struct added *s, struct span *rest)
{
    const int id = added_here(b, s, *rest);
    size_t size = id < 0 ? 1 : b->tokens[id].size;
    if (id < 0)
        while (size < rest->size &&
               added_here(b, s, (struct span){rest->text + size, rest->size - size}) < 0)
            size++;
    *piece = (struct span){rest->text, size};
    *rest = (struct span){rest->text + size, rest->size - size};
    return id;
}

static bool encode_words(struct output *o, const struct bpe *b, struct bench *w, struct span text)
{
    while (text.size > 0) {
        const size_t size = word(text);
        if (!encode_word(o, b, w, (struct span){text.text, size}))
            return false;
        text = (struct span){text.text + size, text.size - size};
    }
    return true;
}

static bool encode_normalized(struct output *o, const struct bpe *b, struct bench *w,
                              struct span text)
{
    while (text.size > 0) {
        struct span piece;
        const int id = cut(&piece, b, &b->normalized, &text);
        if (!(id < 0 ? encode_words(o, b, w, piece) : emit(o, id)))
            return false;
    }
    return true;
}

static bool encode_text(struct output *o, const struct bpe *b, struct bench *w, struct span text)
{
    while (text.size > 0) {
        struct span piece;
        const int id = cut(&piece, b, &b->added, &text);
        if (!(id < 0 ? encode_normalized(o, b, w, piece) : emit(o, id)))
            return false;
    }
    return true;
}

static bool check_utf8(struct span text, struct err *e)
{
    for (size_t i = 0, used; i < text.size; i += used)
        if (character(&used, text.text + i, text.size - i) < 0)
            return err_set(e, ERR_syntax, "the text is not UTF-8 at byte %zu of %zu", i, text.size);
    return true;
}

bool bpe_encode(int32_t **ids, int *n_ids, const struct bpe *b, const char *text, size_t size,
                int ids_max, struct arena *a, struct err *e)
{
    assert(ids_max >= 0);
    assert(size <= BODY_BYTES_MAX);
    if (size > (size_t)ids_max * b->token_size_max)
        return err_set(e, ERR_limit, "a text of %zu bytes is more than %d tokens", size, ids_max);
    if (!check_utf8((struct span){text, size}, e))
        return false;

    const size_t room = size < (size_t)ids_max ? size : (size_t)ids_max;
    struct output o = {ARENA_ARRAY(a, int32_t, room), 0, ids_max};
    struct bench w = {0};
    const bool ok = encode_text(&o, b, &w, (struct span){text, size});
    arena_free(&w.arena);
    if (!ok)
        return err_set(e, ERR_limit, "a text of %zu bytes is more than %d tokens", size, ids_max);
    *ids = o.ids;
    *n_ids = o.n;
    return true;
}

bool bpe_decode(char **text, size_t *size, const struct bpe *b, const int32_t *ids, int n_ids,
                struct arena *a, struct err *e)
{
    size_t sum = 0;
    for (int i = 0; i < n_ids; i++) {
        if (ids[i] < 0 || ids[i] >= b->n_tokens)
            return err_set(e, ERR_index, "ids[%d] is %d: this model has tokens 0 to %d", i,
                           (int)ids[i], b->n_tokens - 1);
        sum += b->tokens[ids[i]].size;
    }
    char *end = arena_alloc(a, sum + 1);
    *text = end;
    *size = sum;
    for (int i = 0; i < n_ids; i++) {
        memcpy(end, b->tokens[ids[i]].text, b->tokens[ids[i]].size);
        end += b->tokens[ids[i]].size;
    }
    return true;
}

const char *bpe_token(size_t *size, const struct bpe *b, int id)
{
    assert(id >= 0);
    *size = id < b->n_tokens ? b->tokens[id].size : 0;
    return id < b->n_tokens ? b->tokens[id].text : "";
}
