/* GPT-2's byte-level BPE: text to token ids and back, with the ids that HF's tokenizers gives.
 *
 * Nothing changes after loading, so any thread may call these.
 */
#pragma once
#include "base.h"

enum {
    BPE_TOKENS_MAX = 1 << 18,   /* GPT-2 has 50,257, the largest of its kind about 200,000 */
    BPE_MERGES_MAX = 1 << 18,   /* about one a token */
    BPE_ADDED_MAX = 256,        /* <|endoftext|> and a user's own; each is looked for in turn */
    BPE_TOKEN_BYTES_MAX = 1024, /* as the files spell it; GPT-2's longest has 256 */
};

struct bpe;

/* Loads a model folder's tokenizer.json, or its vocab.json and merges.txt where there is none.
 * What would give other ids than HF's is refused: the error names the file, the field or the line,
 * and the numbers. */
bool bpe_load(struct bpe **out, const char *folder, struct err *e);

/* The same from the contents of these files. */
bool bpe_parse_json(struct bpe **out, const char *tokenizer, size_t size, struct err *e);
bool bpe_parse_pair(struct bpe **out, const char *vocab, size_t vocab_size, const char *merges,
                    size_t merges_size, struct err *e);

void bpe_free(struct bpe *b);

/* How many tokens there are: ids are 0 to bpe_size - 1. A model with fewer rows is another's. */
int bpe_size(const struct bpe *b);

/* The text came in a body, and must be UTF-8. Added tokens such as <|endoftext|> are recognised in
 * it, as in HF. More than ids_max tokens are refused. Takes n log n steps, and up to 32 bytes of
 * memory for each of the longest word, until it returns. */
bool bpe_encode(int32_t **ids, int *n_ids, const struct bpe *b, const char *text, size_t size,
                int ids_max, struct arena *a, struct err *e);

/* The bytes of these tokens and a final NUL. They are UTF-8 only if the ids came from text: a token
 * may end within a character. */
bool bpe_decode(char **text, size_t *size, const struct bpe *b, const int32_t *ids, int n_ids,
                struct arena *a, struct err *e);

/* The bytes of one token, not NUL-terminated. A model may have more ids than its tokenizer has
 * tokens: the rest have none. */
const char *bpe_token(size_t *size, const struct bpe *b, int id);
